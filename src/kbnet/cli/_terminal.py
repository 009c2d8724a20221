"""Printing for all commands: data and tables go to stdout, messages to stderr."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

# Width of piped tables: wide enough for any row here.
_PIPE_WIDTH = 200


def one_line(text: str) -> str:
    """Text as one line of printable characters: file names can contain line breaks, escape codes or invalid bytes."""
    shown = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def complain(message: str) -> None:
    """Print an error on stderr, in one line."""
    typer.echo(f"kbnet: error: {one_line(message)}", err=True)


def print_json(value: object) -> None:
    """Print one line of JSON on stdout and flush it, so that programs can read along."""
    typer.echo(json.dumps(value))
    sys.stdout.flush()


def table_console() -> "Console":
    """A console on stdout that doesn't wrap rows in a pipe, unless COLUMNS sets a width."""
    from rich.console import Console

    return Console(width=_columns(_PIPE_WIDTH))


def print_columns(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a plain table on stdout, or a block of lines per row if it is wider than the terminal.

    Cells are never truncated. Columns named in `right` are right-aligned.
    """
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) <= _columns(80):
        for row in (headings, *rows):
            cells = zip(headings, row, widths, strict=True)
            padded = [cell.rjust(width) if name in right else cell.ljust(width) for name, cell, width in cells]
            typer.echo("  ".join(padded).rstrip())
        return
    for number, row in enumerate(rows):
        if number:
            typer.echo("")
        print_block(dict(zip(headings, row, strict=True)))


def print_block(values: Mapping[str, str]) -> None:
    """Print names and values on stdout, one per line; long values wrap between words."""
    indent = max(map(len, values)) + 2
    for name, value in values.items():
        space = max(_columns(80) - indent, 20)
        lines = textwrap.wrap(value, space, break_long_words=False, break_on_hyphens=False) or [""]
        typer.echo(name.ljust(indent) + lines[0])
        for line in lines[1:]:
            typer.echo(" " * indent + line)


def _columns(piped: int) -> int:
    """The width to print in: COLUMNS, the terminal's width, or `piped`, in this order."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else piped


def message_console() -> "Console":
    """A console on stderr, for progress and messages."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_facts(facts: Mapping[str, Any], console: "Console") -> None:
    """Print names and values in two columns; nested values become "name value" pairs."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), Text(one_line(_shown(value))))
    console.print(table)


def _shown(value: object, *, nested: bool = False) -> str:
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{name} {_shown(inner, nested=True)}" for name, inner in value.items()) or "none"
        return f"({pairs})" if nested and value else pairs
    if isinstance(value, (list, tuple)):
        return (" " if nested else ", ").join(_shown(inner) for inner in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return "none" if value is None else str(value)
