"""Every code block of the documentation site runs: a page from top to bottom, in a folder that holds what it names."""

import contextlib
import io
import logging
import pkgutil
import re
import runpy
import shutil
import subprocess
import tokenize
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import kbnet
from docs_pages import DOCS, ROOT, blocks, check_output, run_command
from kbnet.cli import app
from kbnet.imaging import Photo, write_photo

PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
SITE = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]

# these start Ray, train, or compare graphs
SLOW = {f"how-to/{name}.md" for name in ("cluster", "evaluate", "export", "fine-tune")}


def smooth(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    """A picture of soft waves, which a denoiser should restore well."""
    y, x = np.mgrid[:height, :width] + seed
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)], axis=2)
    return np.rint(waves * 100 + 128).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the pictures that the pages name: noisy.png, holiday, photos, pairs."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)

    def put(name: str, pixels: np.ndarray) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_photo(Photo(pixels), tmp_path / name)

    def noisy(pixels: np.ndarray) -> np.ndarray:
        return np.rint(np.clip(pixels + rng.normal(0, 25, pixels.shape), 0, 255)).astype(np.uint8)

    # tests/test_tutorial.py runs the tutorial, in a folder of its own
    for name in ("noisy.png", "noisy.jpg", "rainy.jpg", "blurry.jpg", "holiday/a.jpg", "holiday/beach/b.png"):
        put(name, noisy(smooth(0)))
    for number in range(3):
        put(f"photos/{'abc'[number]}.png", smooth(number))
        put(f"pairs/target/{number}.png", smooth(number))
        put(f"pairs/input/{number}.png", noisy(smooth(number)))
    logger = logging.getLogger("kbnet")
    before = (logger.handlers, logger.level, logger.propagate)
    yield tmp_path
    logger.handlers, logger.level, logger.propagate = before


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub of this machine in place of the real one, where huggingface_hub is installed."""
    if find_spec("huggingface_hub") is None:
        yield
        return
    from huggingface_hub import constants

    monkeypatch.syspath_prepend(ROOT / "tests")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
    with import_module("local_server").serving({}) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield


@pytest.mark.timeout(900)  # one page starts Ray twice
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else [])
        for page in PAGES
        if blocks(page) and page != "tutorial.md"
    ],
)
def test_every_block_of_a_page_runs(page: str, folder: Path, hub: None) -> None:
    names: dict[str, object] = {}
    for block in blocks(page):
        where = f"{page}, line {block.line}"
        if block.language == "python":
            padding = "\n" * block.line  # so that a traceback names the page's line
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(padding + block.code, page, "exec"), names)
        elif block.language == "console":
            commands = re.split(r"^\$ ", block.code, flags=re.MULTILINE)
            assert commands[0] == "", f"{where}: a console block begins with a command"
            for entry in commands[1:]:
                command, _, shown = entry.partition("\n")
                said = run_command(command, f"{where}: {command}")
                if shown:
                    check_output(shown, said, f"{where}: {command}")
        elif block.language == "c":
            check_c(block.code, where)
        elif block.language == "toml":
            tomllib.loads(block.code)
            if title := re.fullmatch(r'title="(.+)"', block.options):
                (folder / title[1]).write_text(block.code, encoding="utf-8")
        else:
            assert block.language == "text", f"{where}: blocks are python, console, toml, c or text"


def test_a_wrong_output_and_a_failing_command_are_noticed(folder: Path) -> None:
    check_output("a ... c\n...\nlast\n", "a b c\nx\ny\nlast\n", "here")
    with pytest.raises(AssertionError):
        check_output("a ... c\n", "a b d\n", "here")
    with pytest.raises(AssertionError):
        run_command("kbnet restore missing.png -o x.png", "here")
    with pytest.raises(AssertionError):
        run_command("curl example.org", "here")


def test_the_site_leads_to_every_page_and_fetches_nothing() -> None:
    def targets(entries: list) -> Iterator[str]:
        for entry in entries:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else targets(value)

    assert sorted(targets(SITE["nav"])) == PAGES
    assert SITE["theme"]["font"] is False
    assert "analytics" not in SITE.get("extra", {})


def test_the_site_is_of_this_version_and_follows_the_systems_light_and_dark() -> None:
    assert SITE["copyright"].startswith(f"kbnet {kbnet.__version__} ")
    schemes = {palette.get("scheme") for palette in SITE["theme"]["palette"]}
    assert schemes == {None, "default", "slate"}
    assert all("prefers-color-scheme" in palette["media"] for palette in SITE["theme"]["palette"])


def test_every_line_that_the_build_should_not_print_fails_it() -> None:
    complaints = runpy.run_path(str(ROOT / "tools" / "docs.py"))["complaints"]
    usual = "\x1b[1mBuild started\x1b[0m\nNo issues found\nBuild finished in 6.87s\n"
    assert complaints(usual) == []
    warning = "griffe: src/kbnet/metrics/psnr.py:44: No type or annotation for parameter 'image, reference'"
    assert complaints(f"Build started\n{warning}\n{usual}") == [warning]


def test_descriptions_of_several_parameters_are_given_to_each() -> None:
    pytest.importorskip("griffe")
    split = runpy.run_path(str(ROOT / ".ci" / "docstring_rules.py"))["shared_descriptions"]
    lines = ["Args:", "    image, reference: of one shape,", "        [H,W].", "    peak: the largest, or so."]
    assert split(lines) == [
        "Args:",
        "    image: of one shape,",
        "        [H,W].",
        "    reference: of one shape,",
        "        [H,W].",
        "    peak: the largest, or so.",
    ]


# literal translations that engineers don't write
NEVER = re.compile(
    r"\b(of yours|goes on|go on with|as it was|tells of|what is there|shall|at hand|told apart|is taken for|taken anew|"
    r"written anew|whoever|would have it|in its own words|(seconds?|pixels|images|patches) an? (hour|megapixel|second)|"
    r"for one another)\b",
    re.IGNORECASE,
)
# "photo" is what people restore, "image" is a file or an array
OTHER_NAMES = re.compile(r"\b(pictures?|photographs?)\b", re.IGNORECASE)
IN_PROSE = re.compile(
    r"""(?<!["'`_.(\[{-])\b(pictures?|photographs?)\b(?!["'`\]_(=:-])""", re.IGNORECASE
)  # not a name in code
TEXTS = [
    *PAGES,
    *(
        f"../{name}.md"
        for name in ("README", "CONTRIBUTING", "CHANGELOG", "ARCHITECTURE", "SECURITY", "examples/README")
    ),
    "../src/kbnet/server/static/index.html",
]


def check_c(code: str, where: str) -> None:
    """Compile the body of a function that has pixels, where there is a compiler."""
    if shutil.which("cc") is None:
        return
    program = (
        "#include <kbnet.h>\n#include <stdio.h>\nvoid f(unsigned char *pixels, int width, int height) {\n"
        + code
        + "}\n"
    )
    command = [
        "cc",
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-I",
        ROOT / "csrc" / "include",
        "-fsyntax-only",
        "-x",
        "c",
        "-",
    ]
    child = subprocess.run(command, input=program, capture_output=True, text=True, check=False)
    assert (child.returncode, child.stderr) == (0, ""), where


@pytest.mark.parametrize("page", TEXTS)
def test_the_english_is_not_a_literal_translation(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if NEVER.search(line)] == []


@pytest.mark.parametrize("page", TEXTS)
def test_a_photo_is_called_photo_or_image(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", (DOCS / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)|<!--.*?-->", "", text)  # without code, link targets and comments
    assert [line for line in prose.splitlines() if OTHER_NAMES.search(line)] == []


def test_messages_and_docstrings_use_the_words_of_the_pages() -> None:
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
            if token.type in (tokenize.STRING, tokenize.COMMENT) and " " in token.string:
                lines = [line for line in token.string.splitlines() if NEVER.search(line) or IN_PROSE.search(line)]
                found += [f"{path.relative_to(ROOT)}:{token.start[0]}: {line.strip()}" for line in lines]
    assert found == []


def test_links_and_pictures_lead_to_files() -> None:
    broken = []
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        targets = (t for t in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) if "://" not in t)
        broken += [f"{page}: {target}" for target in targets if not ((DOCS / page).parent / target).exists()]
    assert broken == []


def test_every_command_and_every_option_of_the_environment_has_its_line() -> None:
    text = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    commands = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    assert {name for name in commands if f"`kbnet {name}" not in text} == set()
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    sources += "".join(path.read_text(encoding="utf-8") for path in (ROOT / "csrc").glob("*.*") if path.is_file())
    variables = set(re.findall(r"""["'](KBNET_[A-Z_]+)["']""", sources))
    assert variables
    assert {name for name in variables if not re.search(rf"`{name}|env: {name}", text)} == set()


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("reference/")])
def test_the_reference_names_what_exists(page: str) -> None:
    # modules by name: a function of a room may have the name of the module that it comes from
    modules = {
        module.name: import_module(module.name)
        for module in pkgutil.walk_packages(kbnet.__path__, "kbnet.")
        if not module.name.endswith(("__main__", "_native"))
    }
    text = (DOCS / page).read_text(encoding="utf-8")
    for name, options in re.findall(r"^::: (\S+)\n((?:    .*\n)*)", text, re.MULTILINE):
        found = modules.get(name)
        if found is None:
            module, _, last = name.rpartition(".")
            found = getattr(modules[module], last)
        if members := re.search(r"members: \[(.+)\]", options):
            assert [m for m in members[1].split(", ") if not hasattr(found, m)] == [], name
