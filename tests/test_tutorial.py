"""The tutorial shows what its own commands print and the pictures that they write.

After a change of messages or weights, make its output and pictures again and look at the difference:
`python -m pytest tests/test_tutorial.py --update-docs`
"""

import contextlib
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from docs_pages import DOCS, ROOT, blocks, run_command
from kbnet.engine import native
from kbnet.imaging import read_photo
from kbnet.metrics import psnr
from kbnet.ops import available_backends

PAGE = DOCS / "tutorial.md"
OUTPUT = '```text title="Output"\n'
# what differs from run to run: times
VARIES = re.compile(r"\b\d+(?:\.\d+)?(?= s\b| per second\b)")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the tutorial: a copy of the examples, and a few pictures of a holiday."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    if native.refuses_here() is None:  # bfloat16 changes some values by 1, and JPEG makes more of that
        exact = next(name for name in native.instruction_sets() if name not in native.bfloat16_instruction_sets())
        monkeypatch.setenv("KBNET_INSTRUCTION_SET", exact)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "holiday" / "beach").mkdir(parents=True)
    for name in ("cat.jpg", "beach/sand.jpg"):
        shutil.copy(ROOT / "examples" / "noisy.jpg", tmp_path / "holiday" / name)
    (tmp_path / "holiday" / "notes.txt").write_text("Bring a tripod.\n")
    return tmp_path


def printed(entry: str) -> str:
    """What a command of a console block prints."""
    command = entry.partition("\n")[0]
    if command.startswith("cp "):
        *sources, target = command.split()[1:]
        for source in sources:
            shutil.copy(source, target)
        return ""
    return run_command(command, f"tutorial.md: {command}")


def remade(text: str) -> str:
    """The page with what its blocks print now in the place of what it shows."""
    names: dict[str, object] = {}
    for block in blocks("tutorial.md"):
        if block.language not in ("console", "python"):
            continue  # an output, which the block before it has replaced
        old = f"```{block.language}{' ' + block.options if block.options else ''}\n{block.code}```\n"
        assert text.count(old) == 1, f"tutorial.md, line {block.line}: the same block twice"
        if block.language == "console":
            new = "```console\n"
            for entry in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]:
                said = "\n".join(line.rstrip() for line in printed(entry).splitlines())
                new += f"$ {entry.partition(chr(10))[0]}\n{said}".rstrip("\n") + "\n"
            text = text.replace(old, new + "```\n")
        elif block.language == "python":
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec(compile("\n" * block.line + block.code, "tutorial.md", "exec"), names)
            after = text[text.index(old) + len(old) :]
            shown = re.match(r"\n" + re.escape(OUTPUT) + r".*?^```\n", after, re.MULTILINE | re.DOTALL)
            tail = after[shown.end() :] if shown else after
            output = f"\n{OUTPUT}{said.getvalue()}```\n" if said.getvalue() else ""
            text = text[: text.index(old)] + old + output + tail
    return text


@pytest.mark.skipif("native" not in available_backends(), reason="without compiled kernels kbnet prints a line more")
def test_the_tutorial_shows_what_a_run_of_it_prints_and_writes(folder: Path, request: pytest.FixtureRequest) -> None:
    shown = PAGE.read_text(encoding="utf-8")
    made = remade(shown)
    pictures = re.findall(r"!\[.+\]\((tutorial/[^)]+)\)", shown)
    assert len(pictures) >= 3
    if request.config.getoption("--update-docs"):
        PAGE.write_text(made, encoding="utf-8")
        (DOCS / "tutorial").mkdir(exist_ok=True)
        for name in pictures:
            shutil.copy(folder / Path(name).name, DOCS / name)
    hint = "the tutorial is out of date: python -m pytest tests/test_tutorial.py --update-docs"
    assert VARIES.sub("T", PAGE.read_text(encoding="utf-8")) == VARIES.sub("T", made), hint
    for name in pictures:
        kept, new = read_photo(DOCS / name).pixels, read_photo(folder / Path(name).name).pixels
        # another processor rounds differently; other weights do much more than that
        assert np.array_equal(kept, new) or psnr(kept, new) > 45, f"{name}: {hint}"
    assert {path.name for path in (DOCS / "tutorial").iterdir()} == {Path(name).name for name in pictures}
