"""`kbnet serve`: the web page and the HTTP API on this machine."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kbnet.cli._terminal import complain, one_line

if TYPE_CHECKING:
    from kbnet.server.worker import Restore

KEY_VARIABLE = "KBNET_API_KEY"


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets every machine of the network in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    max_bytes: Annotated[
        int | None, typer.Option(min=1, help="Larger files are refused.", show_default="200000000")
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Larger pictures are refused.", show_default="100000000")
    ] = None,
    max_waiting: Annotated[
        int | None, typer.Option(min=1, help="Pictures that may wait; more are asked to come back.", show_default="16")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(min=1, help="For one picture, its wait included.", show_default="600")
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help=f"File with the key that requests must carry; {KEY_VARIABLE} in the environment does too."),
    ] = None,
    page: Annotated[bool, typer.Option(help="The web page; without it there is the API alone.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Serve a web page and an HTTP API that restore pictures, on this machine.

    Nobody else can reach it unless --host says so. Pictures stay in memory and are forgotten with the reply; nothing is
    fetched from other sites. Ctrl-C stops accepting pictures and finishes those at hand; a second one ends at once.
    """
    from functools import cache

    from kbnet.inference import Restorer
    from kbnet.models import find
    from kbnet.server import Limits, create_app, run
    from kbnet.server.guard import LOOPBACK_NAMES
    from kbnet.server.running import listen, url_of

    key = _read_key(api_key_file)
    given = {"bytes": max_bytes, "pixels": max_pixels, "waiting": max_waiting, "seconds": max_seconds}
    limits = Limits(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]

    @cache
    def load(name: str) -> "Restore":
        return Restorer.from_pretrained(name, device=device, dtype=dtype)

    def provide(name: str) -> "Restore":
        entry = find(name)
        return load(entry.name if entry else name)

    listening = listen(host, port)
    local = listening.getsockname()[0] in LOOPBACK_NAMES
    _show_messages(quiet=quiet)
    app = create_app(limits, provide=provide, page=page, api_key=key, hosts=LOOPBACK_NAMES if local else None)
    if not local and key is None:
        complain(f"warning: everyone who can reach {host} can use this server; set {KEY_VARIABLE} to ask for a key")

    def ready() -> None:
        if not quiet:
            typer.echo(f"kbnet: serving at {url_of(listening)}; Ctrl-C ends it", err=True)

    run(app, listening, ready=ready)


def _read_key(path: Path | None) -> str | None:
    import os

    from kbnet.errors import InvalidInputError

    if path is None:
        return os.environ.get(KEY_VARIABLE)
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = (getattr(error, "strerror", None) or "not text").lower()
        raise InvalidInputError(f"expected a file with the API key, {path} cannot be read: {why}") from None


class _Lines(logging.Handler):
    """Log records as lines on stderr, with the time of day."""

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{self.formatter.formatTime(record, '%H:%M:%S')} " if self.formatter else ""
        typer.echo(f"kbnet: {text}{one_line(record.getMessage())}", err=True)
        if record.exc_info:
            typer.echo(logging.Formatter().formatException(record.exc_info), err=True)


def _show_messages(*, quiet: bool) -> None:
    handler = _Lines()
    handler.setFormatter(logging.Formatter())
    for name, level in (("kbnet.server", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.WARNING if quiet else level)
        logger.propagate = False
