"""`kbnet serve`: the web page and the HTTP API on this computer."""

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kbnet.cli._serve_options import KEY_VARIABLE, read_config, variable

log = logging.getLogger("kbnet.server")


def _option(name: str, help: str, *flags: str, **options: Any) -> Any:
    """An option that an environment variable can set too."""
    return typer.Option(*flags, help=help, envvar=variable(name), **options)


def serve(
    config: Annotated[
        Path | None,
        _option(
            "config",
            "TOML file with any of these options, such as max-waiting = 4. The command line and environment override "
            "it.",
            callback=read_config,
            is_eager=True,
        ),
    ] = None,
    host: Annotated[
        str, _option("host", "Address to listen on; 0.0.0.0 makes the server reachable from the network.")
    ] = "127.0.0.1",
    port: Annotated[int, _option("port", "Port to listen on; 0 selects a free port.", min=0, max=65535)] = 8000,
    device: Annotated[str, _option("device", "auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, _option("dtype", "auto, float32 or bfloat16.")] = "auto",
    max_bytes: Annotated[
        int, _option("max-bytes", "Largest request body, in bytes; larger ones get HTTP 413.", min=1)
    ] = 200_000_000,
    max_pixels: Annotated[
        int,
        _option(
            "max-pixels",
            "Largest image, in pixels; larger ones get HTTP 413. 0 derives it from the free memory.",
            min=0,
        ),
    ] = 0,
    max_waiting: Annotated[
        int, _option("max-waiting", "Maximum queue length; further requests get HTTP 429.", min=1)
    ] = 16,
    max_seconds: Annotated[
        float,
        _option("max-seconds", "Seconds that a request can take, including its wait; slower ones get HTTP 503.", min=1),
    ] = 600,
    keep_bytes: Annotated[
        int,
        _option("keep-bytes", "Memory for kept results, in bytes; 0 derives it from the free memory.", min=0),
    ] = 0,
    keep_seconds: Annotated[
        float, _option("keep-seconds", "Seconds to keep a result after its last use.", min=1)
    ] = 900,
    shutdown_seconds: Annotated[
        float, _option("shutdown-seconds", "Seconds for accepted requests to finish at shutdown.", min=1)
    ] = 7,
    api_key_file: Annotated[
        Path | None,
        _option("api-key-file", f"File with the key that requests must contain; or set {KEY_VARIABLE} to the key."),
    ] = None,
    heic: Annotated[
        bool,
        _option(
            "heic", "Accept HEIC photos too; each is decoded in a process with limits on memory and time.", "--heic"
        ),
    ] = False,
    raw: Annotated[
        bool,
        _option(
            "raw",
            "Also accept camera raw files; each is developed in a process with limits on memory and time. Needs the "
            "extra raw.",
            "--raw",
        ),
    ] = False,
    page: Annotated[bool, _option("page", "Serve the web page; --no-page serves only the API.")] = True,
    log_format: Annotated[
        Literal["text", "json"], _option("log-format", "Log as text, or as one JSON object per line.")
    ] = "text",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _option("log-level", "Lowest level to log.")
    ] = "info",
    quiet: Annotated[bool, _option("quiet", "The same as --log-level error.", "--quiet", "-q")] = False,
) -> None:
    """Serve a web page and an HTTP API that restore photos.

    By default, only this computer can reach the server; --host changes that. Photos are processed in memory and never
    saved. Ctrl-C stops accepting photos and gives accepted requests a few seconds to finish; a second Ctrl-C stops the
    server immediately. The page is at /, the API documentation at /docs.

    Each option is also an environment variable (KBNET_MAX_WAITING for --max-waiting) and a key in the --config file.
    """
    from kbnet.imaging.raw import develops_raw
    from kbnet.server import Limits, create_app, run
    from kbnet.server.guard import LOOPBACK_NAMES
    from kbnet.server.logs import show_messages
    from kbnet.server.running import listen, url_of

    if raw and not develops_raw():
        raise typer.BadParameter("needs an extra; run: pip install 'kbnet[raw]'", param_hint="'--raw'")
    key = _read_key(api_key_file)
    limits = Limits(
        bytes=max_bytes,
        pixels=max_pixels,
        waiting=max_waiting,
        seconds=max_seconds,
        kept_bytes=keep_bytes,
        kept_seconds=keep_seconds,
        shutdown_seconds=shutdown_seconds,
        heic=heic,
        raw=raw,
    )

    listening = listen(host, port)
    local = listening.getsockname()[0] in LOOPBACK_NAMES
    show_messages(format=log_format, level="error" if quiet else log_level)
    app = create_app(
        limits, device=device, dtype=dtype, page=page, api_key=key, hosts=LOOPBACK_NAMES if local else None
    )
    if not local and key is None:
        log.warning("anyone who can reach %s can use this server; set %s to require a key", host, KEY_VARIABLE)

    def ready() -> None:
        text = f"serving at {url_of(listening)}; press Ctrl-C to stop"
        if log_format == "json":
            log.info(text)
        elif not quiet:
            typer.echo(f"kbnet: {text}", err=True)

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
        raise InvalidInputError(f"{path}: the API key file can't be read: {why}") from None
