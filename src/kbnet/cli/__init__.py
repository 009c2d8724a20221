"""The command line: one file per command. Each imports what it needs when it runs, so that --help is fast.

Exit codes: 0 success, 1 something failed, 2 wrong usage, 130 interrupted (Ctrl-C), 143 terminated.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from kbnet.cli import benchmark, convert, download, evaluate, export, info, inspect, models, restore, serve, train
from kbnet.cli._help import Command, Group
from kbnet.cli._signals import Stopped, stop_signals
from kbnet.cli._streams import close_quietly, culprit, prepare_streams
from kbnet.cli._terminal import complain, one_line
from kbnet.errors import InvalidInputError, KBNetError, RecipeError, UnknownModelError
from kbnet.suggesting import did_you_mean

__all__ = ["app", "main"]

# The parser's base error class. Newer typer releases vendor click instead of depending on it.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
_CHOICE = re.compile(r"'(?P<word>[^']*)' is not one of (?P<known>'.+')")

# Terminals, shells and job runners often send a signal twice in a row; the second one must not cut cleanup short.
_SAME_REQUEST = 1.0  # seconds

app = typer.Typer(
    name="kbnet",
    cls=Group,
    help="Restore photos on your own computer: remove noise, rain or blur with KBNet (Kernel Basis Network).",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich keeps the line breaks of docstrings and truncates long text
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _function in (
    ("restore", restore.restore),
    ("models", models.models),
    ("info", info.info),
    ("benchmark", benchmark.benchmark),
    ("serve", serve.serve),
    ("evaluate", evaluate.evaluate),
    ("train", train.train),
    ("export", export.export),
    ("convert", convert.convert),
    ("download", download.download),
):
    app.command(_name, cls=Command)(_function)
app.add_typer(inspect.app, name="inspect")


def _version(asked: bool) -> None:
    if asked:
        from kbnet import __version__

        typer.echo(f"kbnet {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


class _Notes(logging.Handler):
    """Prints the library's warnings, such as a renamed model, on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(f"kbnet: note: {one_line(record.getMessage())}", err=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, print its errors as one line each, and return the exit code."""
    prepare_streams()
    notes = _Notes(logging.WARNING)
    logging.getLogger("kbnet").addHandler(notes)
    received: list[int] = []
    last = -_SAME_REQUEST

    def stop(number: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > _SAME_REQUEST:
            last = now
            received.append(number)
            raise Stopped(number)

    try:
        with stop_signals(stop):
            code = _run(arguments, received)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # stderr's reader is gone too
        close_quietly()
        code = 1
    finally:
        logging.getLogger("kbnet").removeHandler(notes)
    return 128 + received[0] if received else code


def _run(arguments: Sequence[str] | None, received: list[int]) -> int:
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        # commands read received signals from their context's obj
        code = app(given or ["--help"], prog_name="kbnet", standalone_mode=False, obj=received)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except _UsageError as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "kbnet")
        text = _in_our_words(error).rstrip(".")
        complain(f"{text}{' See' if text.endswith('?') else '; see'} '{command} --help'")
        return 2
    except BrokenPipeError:
        # stdout's reader is gone (`kbnet models | head`). Nothing to report, but the interpreter flushes again at exit.
        close_quietly()
        return 1
    except KBNetError as error:
        complain(str(error))
        return 2 if isinstance(error, (InvalidInputError, UnknownModelError, RecipeError)) else 1
    except OSError as error:
        place = error.filename or culprit(error)
        close_quietly()
        complain(f"{place}: {error.strerror or error}" if place else str(error.strerror or error))
        return 1
    except MemoryError:
        complain("not enough memory; close other programs or use a smaller --tile")
        return 1
    except Exception as error:
        if os.environ.get("KBNET_DEBUG"):
            raise
        complain(
            f"{type(error).__name__}: {error}. This is a bug in kbnet; report it with the output of the same "
            "command with KBNET_DEBUG=1 set"
        )
        return 1


def _in_our_words(error: Any) -> str:
    """The parser's message in kbnet's style, with the nearest name for a misspelling."""
    text = str(getattr(error, "format_message", error.__str__)())
    possible = getattr(error, "possibilities", None)
    if possible:
        option = getattr(error, "option_name", "")
        return f"No such option: {option}; did you mean {' or '.join(sorted(possible))}?"
    if choice := _CHOICE.search(text):
        known = re.findall(r"'([^']*)'", choice["known"])
        start = text[: choice.start()].removesuffix("Value error, ")
        return f"{start}expected one of {', '.join(known)}, got {choice['word']!r}{did_you_mean(choice['word'], known)}"
    return text.replace(". Did you mean", "; did you mean")
