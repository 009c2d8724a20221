"""Write docs/reference/command-line.md and the help screens in tests/cli/screens: python tools/command_line.py

Both are generated from the commands; a test fails if they are out of date.
"""

import contextlib
import inspect
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from kbnet.cli import app, main
from kbnet.cli._help import help_rows, summary

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "command-line.md"
SCREENS = ROOT / "tests" / "cli" / "screens"

COMMANDS = {
    "kbnet-help.txt": (["--help"], None),
    "kbnet-restore-help.txt": (["restore", "--help"], None),
    "kbnet-models-head.txt": (["models"], 10),
}
"""Screens of 80 columns to keep: file name, arguments, number of lines (None for all)."""

HEAD = """\
# Command line

<!-- Written by tools/command_line.py from the commands. Do not edit. -->

`kbnet COMMAND --help` shows the same in the terminal. If you misspell a command, option, task, model or recipe field,
kbnet suggests the nearest name.

| exit code | meaning |
|---|---|
| 0 | success |
| 1 | something failed, for example one photo in a folder |
| 2 | wrong usage, for example conflicting options |
| 130, 143 | stopped by Ctrl-C or SIGTERM |

## Shell completion

`kbnet --install-completion` adds completion of commands and options to bash, zsh, fish or PowerShell. Open a new shell
afterwards. `kbnet --show-completion` prints the script, so that you can install it yourself.

## Environment variables

| variable | effect |
|---|---|
| `OMP_NUM_THREADS` | number of threads; by default the physical cores |
| `COLUMNS` | width of tables and help, also in pipes |
| `KBNET_INSTRUCTION_SET` | force an instruction set: `amx`, `avx512bf16`, `avx512`, `avx2` or `portable` |
| `KBNET_THREAD_SOURCE=own` | compiled kernels use their own threads instead of PyTorch's |
| `KBNET_FUSED=off` | run networks layer by layer, for comparison |
| `KBNET_POISON_MEMORY=1` | memory of the compiled kernels starts as NaN, for tests |
| `KBNET_API_KEY` | the key that requests to `kbnet serve` must contain |
| `KBNET_DEBUG=1` | show the traceback of an internal error |
"""


def page() -> str:
    """The page of the documentation."""
    root: Any = typer.main.get_command(app)
    found = list(_commands(root, "kbnet", None))
    rows = [f"| [`{name}`](#{name.replace(' ', '-')}) | {_escaped(summary(command))} |\n" for name, command, _ in found]
    table = "\n## Commands\n\n| command | what it does |\n|---|---|\n" + "".join(rows)
    return HEAD + table + "".join(_section(name, command, context) for name, command, context in found)


def screens() -> dict[str, str]:
    """What the commands in COMMANDS print at 80 columns, by file."""
    found = {}
    for name, (arguments, lines) in COMMANDS.items():
        printed = _printed(arguments)
        found[name] = "".join(printed.splitlines(keepends=True)[:lines])
    return found


def _commands(group: Any, path: str, parent: Any) -> Iterator[tuple[str, Any, Any]]:
    context = group.context_class(group, info_name=path.rpartition(" ")[2], parent=parent, **group.context_settings)
    for name, command in group.commands.items():
        inner = f"{path} {name}"
        if hasattr(command, "commands"):
            yield from _commands(command, inner, context)
        else:
            yield inner, command, command.context_class(command, info_name=name, parent=context)


def _section(name: str, command: Any, context: Any) -> str:
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    usage = " ".join(command.collect_usage_pieces(context))
    text = [f"\n## {name}\n", *(" ".join(paragraph.split()) + "\n" for paragraph in paragraphs)]
    text.append(f"```text\n{name} {usage}\n```\n")
    for title, rows in help_rows(command, context).items():
        text.append(f"**{title}**\n")
        text.append("\n".join(f"- `{option}`: {_escaped(words)}" for option, words in rows) + "\n")
    return "\n".join(text)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[").replace("]", r"\]").replace("<", r"\<")


def _printed(arguments: list[str]) -> str:
    out = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        with contextlib.redirect_stdout(out):
            code = main(arguments)
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    assert code == 0, arguments
    return out.getvalue()


def write() -> None:
    """Write all files."""
    PAGE.write_text(page(), encoding="utf-8")
    SCREENS.mkdir(exist_ok=True)
    for name, text in screens().items():
        (SCREENS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
    sys.exit(0)
