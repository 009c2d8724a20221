"""The HTTP API: POST /v1/restore, GET /v1/models, /v1/progress, /healthz, /metrics."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from kbnet import __version__
from kbnet.imaging import FORMATS, probe
from kbnet.models import CatalogueEntry
from kbnet.server.metrics import CONTENT_TYPE, Metrics
from kbnet.server.receiving import FIELD, drain, receive
from kbnet.server.replies import Refused, failure_of
from kbnet.server.worker import Pending, Restoration, Restored, Worker, overdue

_ALIASES = {"jpg": "jpeg", "tif": "tiff"}
TOKEN = r"^[A-Za-z0-9_-]{8,64}$"
_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}
_PICTURE: dict[str, Any] = {f"image/{name}": {"schema": {"type": "string", "format": "binary"}} for name in FORMATS}
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {FIELD: {"type": "string", "format": "binary"}},
                "required": [FIELD],
                "additionalProperties": False,
            }
        },
    },
}


class Failure(BaseModel):
    """Why a request was not served, in one line: what was expected, what came, what to do."""

    error: str


class Model(BaseModel):
    """Weights that this server has."""

    name: str
    task: str
    default: bool = Field(description="whether the task's name means this model")
    summary: str
    license: str
    parameters: int
    metrics: dict[str, float] = Field(description="measured figures, dB unless the name says otherwise")


class Models(BaseModel):
    """What can be asked for."""

    tasks: list[str]
    models: list[Model]


class Progress(BaseModel):
    """How far a request is."""

    state: str = Field(description="receiving, waiting or restoring")
    ahead: int = Field(description="pictures that come before this one")
    done: int = Field(description="tiles done")
    total: int = Field(description="tiles in all, 0 until the network begins")


class Health(BaseModel):
    """The server answers."""

    status: str
    version: str


@dataclass
class Desk:
    """What the routes work with."""

    worker: Worker
    metrics: Metrics
    models: Sequence[CatalogueEntry]
    moves: dict[str, Pending | None] = field(default_factory=dict)  # by the sender's token, while a request lasts

    @property
    def names(self) -> list[str]:
        """Tasks and their variants, then models, that may be asked for."""
        aliases = [entry.alias for entry in self.models if entry.alias != entry.name]
        return [*aliases, *(entry.name for entry in self.models)]

    @property
    def usual(self) -> str:
        """What is meant where nothing is asked for."""
        return "denoise" if "denoise" in self.names else self.names[0]


def routes(desk: Desk) -> APIRouter:
    """The API's routes, around one worker."""
    router = APIRouter()
    errors = {
        400: "Not a picture, damaged, or an argument out of range",
        401: "The API key is missing or wrong",
        403: "Asked by another site's page, or under a name that is not the server's",
        413: "More bytes or pixels than the server's limits",
        415: "A kind of picture, or of body, that is not handled",
        429: "Too many pictures are waiting; Retry-After says when to try again",
        500: "A mistake in the server",
        503: "The time limit ran out, memory is short, or the server is shutting down",
    }
    told: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": _ERROR} for status, text in errors.items()
    }

    def told_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
        return {status: told[status] for status in (401, 403, 500, *statuses)}

    @router.post(
        "/v1/restore",
        summary="Restore one picture",
        response_class=Response,
        responses={
            200: {
                "description": "The restored picture, whole, in the format and depth of the one sent unless `format` "
                "asks for another",
                "content": _PICTURE,
                "headers": {
                    "Kbnet-Notes": {
                        "description": "JSON list: one line for each thing that reading or writing changed",
                        "schema": {"type": "string"},
                    },
                    "Kbnet-Seconds": {"description": "of work, without the wait", "schema": {"type": "number"}},
                },
            },
            **told,
        },
        openapi_extra={"requestBody": _BODY},
    )
    async def restore(request: Request, wish: Annotated[_Wish, Depends(_wish(desk))]) -> Response:
        try:
            return await _answer(desk, request, wish)
        except ClientDisconnect:
            return Response(status_code=499)  # to nobody: for the log
        except Exception as error:
            reply = failure_of(error)
            if reply.status_code == 500:
                raise
            await drain(request)
            return reply

    @router.get("/v1/models", summary="What can be asked for", responses=told_of())
    async def models() -> Models:
        tasks = sorted({entry.task for entry in desk.models}, key=lambda task: desk.names.index(task))
        return Models(
            tasks=tasks,
            models=[
                Model(**{name: getattr(entry, name) for name in Model.model_fields})  # the same names on both
                for entry in desk.models
            ],
        )

    @router.get(
        "/v1/progress/{token}",
        summary="How far the request is that named this token as `progress`",
        responses={404: {"description": "No such request is on its way", "content": _ERROR}, **told_of(400)},
    )
    async def progress(token: Annotated[str, Path(pattern=TOKEN)]) -> Progress:
        if token not in desk.moves:
            raise Refused(404, "no request with this token is on its way; it may be done")
        pending = desk.moves[token]
        if pending is None:
            return Progress(state="receiving", ahead=0, done=0, total=0)
        ahead = desk.worker.ahead(pending)
        state = "restoring" if pending.future.running() or pending.future.done() else "waiting"
        return Progress(state=state, ahead=ahead, done=pending.done, total=pending.total)

    @router.get("/healthz", summary="Whether the server answers", responses={503: told[503]})
    async def healthz() -> Health:
        if desk.worker.closing:
            raise Refused(503, "the server is shutting down; try again in a while", retry_after=10)
        return Health(status="ok", version=__version__)

    @router.get(
        "/metrics",
        summary="Counts for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **told_of()},
    )
    async def metrics() -> Response:
        return Response(desk.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return router


@dataclass(frozen=True)
class _Wish:
    task: str
    strength: float
    format: str | None
    token: str | None


def _wish(desk: Desk) -> Any:
    formats = [*FORMATS, *_ALIASES]

    def read(
        task: Annotated[
            str, Query(description="what to remove, or a model's name", json_schema_extra={"enum": desk.names})
        ] = desk.usual,
        strength: Annotated[
            float, Query(ge=0, le=1, allow_inf_nan=False, description="1 restored, 0 as sent, between a blend")
        ] = 1.0,
        format: Annotated[
            str | None,
            Query(
                description="of the result, by default that of the picture sent", json_schema_extra={"enum": formats}
            ),
        ] = None,
        progress: Annotated[
            str | None, Query(pattern=TOKEN, description="a token of your choice, for /v1/progress/TOKEN")
        ] = None,
    ) -> _Wish:
        if task not in desk.names:
            raise Refused(400, f"expected a task or model among {', '.join(desk.names)}; got {task[:60]!r}")
        if format is not None and format not in formats:
            raise Refused(400, f"expected a format among {', '.join(formats)}; got {format[:20]!r}")
        return _Wish(task, strength, format, progress)

    return read


async def _answer(desk: Desk, request: Request, wish: _Wish) -> Response:
    limits = desk.worker.limits
    deadline = time.monotonic() + limits.seconds
    if wish.token is not None and wish.token in desk.moves:
        raise Refused(400, "a request with this progress token is on its way; choose another token")
    with desk.worker.admit() as place:
        try:
            async with asyncio.timeout(limits.seconds):
                if wish.token is not None:
                    desk.moves[wish.token] = None
                data = await receive(request, place)
                await asyncio.to_thread(_check_size, data, limits.pixels)
                pending = desk.worker.submit(Restoration(data, wish.task, wish.strength, wish.format), deadline)
                del data
                if wish.token is not None:
                    desk.moves[wish.token] = pending
                restored = await _finish(desk.worker, pending, request)
        except TimeoutError:
            raise overdue() from None
        finally:
            if wish.token is not None:
                desk.moves.pop(wish.token, None)
    desk.metrics.restored(wish.task, restored.seconds, restored.width * restored.height)
    headers = {
        "Cache-Control": "no-store",
        "Kbnet-Notes": json.dumps(restored.notes),
        "Kbnet-Seconds": f"{restored.seconds:.3f}",
    }
    return Response(restored.data, media_type=f"image/{restored.format}", headers=headers)


def _check_size(data: bytes, most: int) -> None:
    """Refuse by the header alone what would fill the memory once decoded; raises what `probe` does, too."""
    info = probe(data)
    if info.width * info.height > most:
        raise Refused(
            413,
            f"expected at most {most / 1e6:g} megapixels, got {info.width} x {info.height}; send a smaller picture",
        )


async def _finish(worker: Worker, pending: Pending, request: Request) -> Restored:
    """Wait for the result, or until the sender has gone or is out of time; then nobody works on it any more."""
    result = asyncio.wrap_future(pending.future)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((result, gone), return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ClientDisconnect
        return result.result()
    finally:
        worker.abandon(pending)
        gone.cancel()
        if not result.done():
            result.cancel()
        elif not result.cancelled():
            result.exception()  # seen, or asyncio would complain of it


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
