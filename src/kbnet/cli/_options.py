"""Command options as a frozen dataclass: each field is an argument or an option."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

import typer

_Options = TypeVar("_Options")


def command_of(options: type[_Options], run: Callable[[typer.Context, _Options], None]) -> Callable[..., None]:
    """A function for `typer.Typer.command` with a parameter for each field of `options`; it calls `run` with them.

    Args:
        options: a frozen dataclass with fields annotated with typer.Argument or typer.Option.
        run: called with the context and the options; its docstring is the command's help.
    """
    hints = get_type_hints(options, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("ctx", keyword, annotation=typer.Context)]
    for field in fields(options):  # type: ignore[arg-type]  # a dataclass; the type system can't express that
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        parameters.append(inspect.Parameter(field.name, keyword, default=default, annotation=hints[field.name]))

    def command(ctx: typer.Context, **given: Any) -> None:
        run(ctx, options(**given))

    command.__doc__ = run.__doc__
    command.__name__ = run.__name__
    command.__annotations__ = {"ctx": typer.Context, **{field.name: hints[field.name] for field in fields(options)}}  # type: ignore[arg-type]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command
