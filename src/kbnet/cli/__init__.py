"""The command line: one file a command, each importing what it needs when it runs, so that --help is quick.

Exit codes: 0 all went well, 1 something failed, 2 the command line asks for what cannot be, 130 interrupted (Ctrl-C),
143 terminated.
"""

import os
import sys
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from kbnet.cli import convert, download, evaluate, export, info, inspect, models, restore, serve, train
from kbnet.cli._signals import Stopped, stop_signals
from kbnet.cli._terminal import complain
from kbnet.errors import InvalidInputError, KBNetError, RecipeError, UnknownModelError

__all__ = ["app", "main"]

# The parser's own errors, whichever release: newer ones carry a copy of click instead of depending on it.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

# Terminals, shells and job runners often send a signal twice at once, and the second would cut the tidying short.
_SAME_REQUEST = 1.0  # seconds

app = typer.Typer(
    name="kbnet",
    help="Restores photographs (noise, rain, blur) with KBNet, the Kernel Basis Network.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its boxes keep the line breaks of docstrings
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("restore")(restore.restore)
app.command("models")(models.models)
app.command("info")(info.info)
app.command("convert")(convert.convert)
app.command("download")(download.download)
app.command("export")(export.export)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("serve")(serve.serve)
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, print its errors as one line each, and return the exit code."""
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
    return 128 + received[0] if received else code


def _run(arguments: Sequence[str] | None, received: list[int]) -> int:
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        # a command may ask its context's obj for signals received
        code = app(given or ["--help"], prog_name="kbnet", standalone_mode=False, obj=received)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except _UsageError as error:
        text = str(getattr(error, "format_message", error.__str__)())
        command = getattr(getattr(error, "ctx", None), "command_path", "kbnet")
        complain(f"{text.rstrip('.')}; see '{command} --help'")
        return 2
    except BrokenPipeError:
        # The reader of our output has gone (`kbnet models | head`): nothing to say, but the interpreter flushes again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KBNetError as error:
        complain(str(error))
        return 2 if isinstance(error, (InvalidInputError, UnknownModelError, RecipeError)) else 1
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
        return 1
    except MemoryError:
        complain("not enough memory; close other programs, or give a smaller --tile")
        return 1
    except Exception as error:
        if os.environ.get("KBNET_DEBUG"):
            raise
        complain(
            f"{type(error).__name__}: {error}. This is a mistake in kbnet; please report it with what the same command "
            "prints after KBNET_DEBUG=1 was set in the environment"
        )
        return 1
