"""Builds the application from the API, the page and the guard. Importing this module has no side effects."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from kbnet import __version__
from kbnet.errors import InvalidInputError
from kbnet.imaging import Photo, probe, write_photo
from kbnet.models import CatalogueEntry, list_models
from kbnet.server.admission import Admission
from kbnet.server.api import routes
from kbnet.server.desk import Desk
from kbnet.server.documentation import add_documentation
from kbnet.server.guard import Guard
from kbnet.server.kept import Kept
from kbnet.server.limits import Limits
from kbnet.server.metrics import Metrics
from kbnet.server.page import add_page
from kbnet.server.providing import restorers
from kbnet.server.replies import Refused, failure, failure_of
from kbnet.server.restoration import Restoration, Restore
from kbnet.server.schemas import Failure
from kbnet.server.worker import Worker

_SWEEP = 15.0  # seconds between checks for expired results
_LAST_TILE = 1.0  # seconds that shutdown waits for the current tile
_TINY, _SAMPLE = (write_photo(Photo(np.zeros((side, side, 3), np.uint8)), None) or b"" for side in (8, 192))
"""Warm-up images: the first loads the network, the second measures how long an image takes."""


def create_app(
    limits: Limits | None = None,
    *,
    provide: Callable[[str], Restore] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    models: Sequence[CatalogueEntry] | None = None,
    page: bool = True,
    api_key: str | None = None,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """Create an ASGI application with a web page and an HTTP API for the given models.

    Args:
        limits: resource limits; None for the defaults.
        provide: returns the Restorer for a task or model name; called in the worker thread. By default, each Restorer
            is loaded once with `Restorer.from_pretrained`, at its first use.
        device, dtype: as for `Restorer`; ignored if `provide` is given.
        models: models to offer; by default all models in the package.
        page: whether to serve the web page at "/".
        api_key: secret that requests must contain; None to accept all requests.
        hosts: host names under which the server answers, None for any; see `Guard`.

    Raises:
        InvalidInputError: no models, or an empty key.
    """
    limits = limits or Limits()
    offered = list_models() if models is None else list(models)
    if not offered:
        raise InvalidInputError("expected at least one model to serve, got none")
    if api_key is not None and not api_key.strip():
        raise InvalidInputError("expected a non-empty API key, got an empty one")
    worker = Worker(provide or restorers(device, dtype), limits)
    kept = Kept(limits.kept_bytes, limits.kept_seconds)
    admission = Admission(limits, worker.wait)
    metrics = Metrics(
        {
            "kbnet_waiting": ("Images waiting in the queue", worker.depth),
            "kbnet_admitted": ("Requests admitted and not yet answered", lambda: admission.admitted),
            "kbnet_arriving": ("Requests whose body is being received", lambda: len(admission.arriving)),
            "kbnet_body_bytes": ("Bytes of request bodies in memory", lambda: admission.bytes),
            "kbnet_kept_results": ("Results kept for another strength or format", lambda: len(kept)),
            "kbnet_kept_bytes": ("Bytes of kept results in memory", lambda: kept.nbytes),
        }
    )
    worker.worked = metrics.worked
    desk = Desk(worker, admission, kept, metrics, offered)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Loads the default model and triggers torch's lazy initialization, so that no client waits for these seconds.
        own = [_TINY, _SAMPLE] if provide is None else [_TINY]
        deadline = time.monotonic() + limits.seconds
        sizes = [(info.height, info.width) for info in map(probe, own)]
        pairs = zip(own, sizes, strict=True)
        warm_ups = [worker.submit(Restoration(data, desk.usual, size=size), deadline) for data, size in pairs]
        sweeper = asyncio.create_task(_sweep(kept))
        yield
        sweeper.cancel()
        admission.close(0)
        for warm_up in warm_ups:
            worker.abandon(warm_up)
        kept.clear()
        worker.close(_LAST_TILE)

    app = FastAPI(
        title="kbnet",
        version=__version__,
        summary="Restores photos with KBNet.",
        docs_url=None,  # these pages load files from another site
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.desk = desk
    app.include_router(routes(desk))
    _answer_errors(app)
    _describe(app, locked=api_key is not None)
    add_documentation(app)
    if page:
        add_page(app)
    app.add_middleware(Guard, metrics=metrics, hosts=hosts, api_key=api_key)
    return app


async def _sweep(kept: Kept) -> None:
    while True:
        await asyncio.sleep(_SWEEP)
        kept.expire()


def _answer_errors(app: FastAPI) -> None:
    """Reply to every error, including the framework's, with one line in JSON."""

    async def refused(request: Request, error: Exception) -> Response:
        return failure_of(error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where, why = first["loc"][-1], first["msg"].removeprefix("Input ").removeprefix("String ")
        return failure(400, f"the parameter {where} {why}, got {str(first.get('input'))[:60]!r}")

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        texts = {
            404: "not found; see /docs for the API",
            405: f"{request.method} is not allowed here; see /docs for the API",
        }
        return failure(error.status_code, texts.get(error.status_code, str(error.detail)), error.headers)

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _describe(app: FastAPI, *, locked: bool) -> None:
    """Adapt the OpenAPI schema to the actual replies: invalid parameters get 400 here, not the framework's 422."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        schema = original()
        for methods in schema["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)
        schemas = schema["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Failure"] = Failure.model_json_schema()
        if locked:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"key": []}]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to change the schema
