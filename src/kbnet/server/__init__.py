"""A web page and an HTTP API for Restorers: `create_app` builds the application, `run` serves it.

    request --guard--> receiving (bytes, limited as they arrive) --worker (one thread, one queue)--> reply
                                                                  |
                                                          decode, restore, encode

Images are processed in memory and never written to disk. They are discarded after the reply, except for results that
the client asks to keep for a limited time. Requires the extra `serve`.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["Limits", "create_app", "run"]

if TYPE_CHECKING:
    from kbnet.server.app import create_app
    from kbnet.server.limits import Limits
    from kbnet.server.running import run

_HOMES = {"Limits": "limits", "create_app": "app", "run": "running"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kbnet.server' has no attribute {name!r}")
    from importlib import import_module

    from kbnet.errors import MissingExtraError

    try:
        return getattr(import_module(f"kbnet.server.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kbnet"):
            raise
        raise MissingExtraError(str(error.name), "serve") from None
