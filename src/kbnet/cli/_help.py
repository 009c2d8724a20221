"""The --help screens: options in named groups, untruncated summaries, up to 80 columns wide."""

import re
from typing import Any

import typer.core

# The parser's placeholders, in all supported releases, and the ones to show instead.
_VALUES = (
    (re.compile(r"<(?:int|integer)(?: range)?>", re.IGNORECASE), "N"),
    (re.compile(r"<float(?: range)?>", re.IGNORECASE), "X"),
    (re.compile(r"<(?:str|text)>", re.IGNORECASE), "TEXT"),
    (re.compile(r"<path>", re.IGNORECASE), "PATH"),
    (re.compile(r" ?<list\[[^\]]*\]>"), ""),
    (re.compile(r"[<\[]([\w.|-]+\|[\w.|-]+)[>\]]"), r"\1"),
)
_HINT = re.compile(r"\s*\[((?:env var: |default: |required|x[<>]|[\d.-]+<).*)\]$")
_VARIABLE = re.compile(r"env var: ([^;]*)(?:; |$)")
_RANGE = re.compile(r"([\d.-]+)<=x<=([\d.-]+)")


def help_rows(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """The arguments and options of a command as (name, help), by group title, in order of appearance."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            title = getattr(parameter, "rich_help_panel", None) or usual
            name = re.sub(r" <[^>]*>$| [A-Z]+$", "", record[0]) if usual == "Arguments" else _name(record[0])
            groups.setdefault(title, []).append((name, _text(record[1])))
    if "Options" in groups and next(iter(groups)) != "Options":
        # --help is declared last but belongs to the common options
        order = [title for title in ("Arguments", "Options") if title in groups]
        groups = {title: groups[title] for title in (*order, *(t for t in groups if t not in order))}
    return groups


class Command(typer.core.TyperCommand):
    """A command with grouped help."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The usage line, with INPUT... where newer parsers write {INPUT}..."""
        return [re.sub(r"\{(\S+)\}", r"\1", piece) for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one section per group."""
        _write(help_rows(self, ctx), formatter)


class Group(typer.core.TyperGroup):
    """A group of commands with untruncated summaries."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the group's own options, then its commands."""
        _write(help_rows(self, ctx), formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each command with its summary."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(command)) for name, command in found if command is not None])


def summary(command: Any) -> str:
    """The first sentence of a command's help, untruncated."""
    text: str = command.get_short_help_str(limit=10_000)
    return text.rstrip(".")


def _write(groups: dict[str, list[tuple[str, str]]], formatter: Any) -> None:
    for title, rows in groups.items():
        with formatter.section(title):
            formatter.write_dl(rows)


def _name(text: str) -> str:
    for pattern, replacement in _VALUES:
        text = pattern.sub(replacement, text)
    return text.strip()


def _text(text: str) -> str:
    found = _HINT.search(text)
    if found is None:
        return text
    hints = []
    variable = _VARIABLE.match(found[1])
    rest = found[1][variable.end() :] if variable else found[1]
    if default := re.match(r"default: (?:\((.*)\)(?=;|$)|([^;]*))(?:; )?", rest):
        hints.append(f"default: {default[1] or _number(default[2])}")
        rest = rest[default.end() :]
    for hint in rest.split("; "):
        if between := _RANGE.fullmatch(hint):
            hints.append(f"{_number(between[1])} to {_number(between[2])}")
        elif hint == "required":
            hints.append(hint)
    if variable:
        hints.append(f"env: {variable[1]}")
    tail = f" [{'; '.join(hints)}]" if hints else ""
    return text[: found.start()] + tail


def _number(text: str) -> str:
    return text.removesuffix(".0")
