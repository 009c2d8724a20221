"""Options of `kbnet serve` from environment variables and a TOML file."""

import os
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

import typer

from kbnet.cli._terminal import one_line
from kbnet.errors import InvalidInputError

KEY_VARIABLE = "KBNET_API_KEY"
_KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
}
"""For each option type: the TOML types it accepts, and their name in messages. All other options are strings."""


def variable(option: str) -> str:
    """The environment variable of an option, such as KBNET_MAX_WAITING for "max-waiting"."""
    return f"KBNET_{option.upper().replace('-', '_')}"


def read_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Apply a TOML file to the options that neither the command line nor the environment sets.

    Raises:
        InvalidInputError: the file can't be read, or a key or value isn't valid for this command.
    """
    if os.environ.get("KBNET_PORT", "").startswith("tcp://"):
        # Kubernetes sets this variable in every container if a service is named kbnet. It isn't meant for this command.
        del os.environ["KBNET_PORT"]
    if path is None:
        return None
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise InvalidInputError(f"{path}: not a valid TOML file: {one_line(why)}") from None
    options = {str(option.name).replace("_", "-"): option for option in ctx.command.params if option.name != "config"}
    ctx.default_map = {}
    for key, value in given.items():
        name = key.replace("_", "-")
        if name not in options:
            near = get_close_matches(name, options, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(options)}"
            raise InvalidInputError(f"{path}: unknown key {key!r}; {hint}")
        _check(path, key, value, options[name], ctx)
        ctx.default_map[str(options[name].name)] = value
    return path


def _check(path: Path, key: str, value: Any, option: Any, ctx: typer.Context) -> None:
    from kbnet.cli.serve import serve

    kinds, called = _KINDS.get(get_type_hints(serve)[option.name], ((str,), "a string"))
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise InvalidInputError(f"{path}: expected {key} to be {called}, got {value!r}")
    try:
        option.process_value(ctx, value)
    except Exception as error:  # the parser's error; its class differs between releases
        why = str(getattr(error, "message", error)).rstrip(".")
        raise InvalidInputError(f"{path}: {key}: {one_line(why)}") from None
