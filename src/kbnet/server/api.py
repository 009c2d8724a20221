"""The HTTP API's routes: /v1/restore, /v1/results, /v1/models, /v1/progress, /healthz, /metrics."""

from difflib import get_close_matches
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.requests import ClientDisconnect

from kbnet import __version__
from kbnet.imaging import FORMATS as _ALL
from kbnet.imaging.photo import writes_heic
from kbnet.inference.look import Look
from kbnet.models.catalogue import PRESET_CHOICES
from kbnet.server.admission import ending
from kbnet.server.desk import Desk, Wish, answer, answer_kept
from kbnet.server.metrics import CONTENT_TYPE
from kbnet.server.receiving import FIELD, drain
from kbnet.server.replies import Refused, failure_of
from kbnet.server.schemas import Health, Model, Models, Progress

FORMATS = tuple(name for name in _ALL if name != "heic" or writes_heic())
_ALIASES = {"jpg": "jpeg", "tif": "tiff"}
_PRESETS = list(PRESET_CHOICES)
_FORMATS = [*FORMATS, *_ALIASES]
TOKEN = r"^[A-Za-z0-9_-]{8,64}$"
_ELSEWHERE = {"model": "task", "output": "format", "quality": "format", "colour_strength": "color_strength"}
"""Parameters that people know by other names, and the one to use here."""

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
_NOTES = {
    "description": "JSON list of one-line notes, for example about what couldn't be kept",
    "schema": {"type": "string"},
}
_ERRORS = {
    400: "Not an image, a damaged image, or an unknown or invalid parameter",
    401: "The API key is missing or wrong",
    403: "The request comes from another site's page, or its host name isn't allowed",
    404: "Unknown request or result",
    408: "The request body arrived too slowly",
    413: "More bytes or pixels than the server allows",
    415: "Unsupported image format or content type",
    429: "Too many images are waiting; Retry-After says when to retry",
    500: "Internal error",
    503: "Time limit exceeded, not enough memory, or the server is shutting down",
}
_TOLD: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": _ERROR} for status, text in _ERRORS.items()
}


def _told(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _TOLD[status] for status in (400, 401, 403, 500, *statuses)}


Strength = Annotated[
    float, Query(ge=0, le=1, allow_inf_nan=False, description="0 = original, 1 = fully restored; other values blend")
]
ColorStrength = Annotated[
    float | None,
    Query(ge=0, le=1, allow_inf_nan=False, description="the strength for colour only; defaults to `strength`"),
]
Detail = Annotated[
    float,
    Query(
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="how much of the fine detail that was removed comes back, 0 = none, 1 = all",
    ),
]
Format = Annotated[
    str | None,
    Query(description="format of the result; by default, the input's", json_schema_extra={"enum": _FORMATS}),
]
Token = Annotated[str, Path(pattern=TOKEN)]


def routes(desk: Desk) -> APIRouter:
    """Return the routes of the API."""
    router = APIRouter(dependencies=[Depends(_known_parameters)])
    _restoring(router, desk)
    _results(router, desk)
    _telling(router, desk)
    return router


def _restoring(router: APIRouter, desk: Desk) -> None:
    @router.post(
        "/v1/restore",
        summary="Restore one image",
        response_class=Response,
        responses={
            200: {
                "description": "The restored image, in the input's format and bit depth unless `format` specifies "
                "another format",
                "content": _PICTURE,
                "headers": {
                    "Kbnet-Notes": _NOTES,
                    "Kbnet-Seconds": {
                        "description": "processing time in seconds, without waiting",
                        "schema": {"type": "number"},
                    },
                    "Kbnet-Change": {
                        "description": "mean absolute difference from the input, 0 to 1; hardly visible "
                        "below half an 8-bit level, 0.002",
                        "schema": {"type": "number"},
                    },
                    "Kbnet-Result": {
                        "description": "with `keep`: token of the result for /v1/results/TOKEN",
                        "schema": {"type": "string"},
                    },
                },
            },
            **_told(408, 413, 415, 429, 503),
        },
        openapi_extra={"requestBody": _BODY},
    )
    async def restore(request: Request, wish: Annotated[Wish, Depends(_wish(desk))]) -> Response:
        try:
            return await answer(desk, request, wish)
        except ClientDisconnect:
            return Response(status_code=499)  # only for the log: the client has disconnected
        except Exception as error:
            reply = failure_of(error)
            if reply.status_code == 500:
                raise
            # during shutdown, replies must be sent before connections are closed, so don't wait for slow clients
            await drain(request, seconds=0.1 if desk.admission.closing else 1.0)
            return reply

    @router.get(
        "/v1/progress/{token}",
        summary="Progress of the request with this `progress` token",
        responses=_told(404),
    )
    async def progress(token: Token) -> Progress:
        return desk.progress(token)


def _results(router: APIRouter, desk: Desk) -> None:
    @router.get(
        "/v1/results/{token}",
        summary="Get a kept result with another look or in another format",
        response_class=Response,
        responses={
            200: {
                "description": "The blend of the input and the restored image, with the input's metadata",
                "content": _PICTURE,
                "headers": {"Kbnet-Notes": _NOTES},
            },
            **_told(404, 415, 429, 503),
        },
    )
    async def result(
        token: Token,
        strength: Strength = 1.0,
        color_strength: ColorStrength = None,
        detail: Detail = 0.0,
        format: Format = None,
    ) -> Response:
        return await answer_kept(desk, token, Look(strength, color_strength, detail), _format(format))

    @router.delete(
        "/v1/results/{token}",
        summary="Delete a kept result",
        status_code=204,
        response_class=Response,
        responses={204: {"description": "The result is deleted"}, **_told(404)},
    )
    async def forget(token: Token) -> Response:
        if not desk.kept.drop(token):
            raise Refused(404, "no result with this token; it may have expired")
        return Response(status_code=204)


def _telling(router: APIRouter, desk: Desk) -> None:
    @router.get("/v1/models", summary="Tasks, models, and formats", responses=_told())
    async def models() -> Models:
        tasks = sorted({entry.task for entry in desk.models}, key=lambda task: desk.names.index(task))
        return Models(
            tasks=tasks,
            formats=list(FORMATS),
            models=[
                Model(**{name: getattr(entry, name) for name in Model.model_fields})  # the same names on both
                for entry in desk.models
            ],
        )

    @router.get("/healthz", summary="Whether the server accepts images", responses={s: _TOLD[s] for s in (400, 503)})
    async def healthz() -> Health:
        if desk.admission.closing:
            raise ending()
        return Health(status="ok", version=__version__)

    @router.get(
        "/metrics",
        summary="Prometheus metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **_told()},
    )
    async def metrics() -> Response:
        return Response(desk.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def _wish(desk: Desk) -> Any:
    def read(
        task: Annotated[
            str, Query(description="task or model name", json_schema_extra={"enum": desk.names})
        ] = desk.usual,
        preset: Annotated[
            str,
            Query(
                description="best selects the task's larger model, if it has one",
                json_schema_extra={"enum": _PRESETS},
            ),
        ] = "fast",
        strength: Strength = 1.0,
        color_strength: ColorStrength = None,
        detail: Detail = 0.0,
        format: Format = None,
        progress: Annotated[
            str | None, Query(pattern=TOKEN, description="token of your choice for /v1/progress/TOKEN")
        ] = None,
        keep: Annotated[
            bool,
            Query(
                description="keep the result for a limited time, for /v1/results/TOKEN; requires strength 1, detail 0"
            ),
        ] = False,
    ) -> Wish:
        chosen = desk.chosen(task, preset)
        if chosen is None:
            raise Refused(400, f"expected a task or model, one of {', '.join(desk.names)}; got {task[:60]!r}")
        if preset not in _PRESETS:
            raise Refused(400, f"expected the preset fast or best, got {preset[:20]!r}")
        look = Look(strength, color_strength, detail)
        if keep and look != Look():
            raise Refused(400, "keep requires strength 1 and detail 0; set them when you get the result")
        return Wish(chosen, look, _format(format), progress, keep)

    return read


def _format(given: str | None) -> str | None:
    if given is not None and given not in _FORMATS:
        raise Refused(400, f"expected a format, one of {', '.join(_FORMATS)}; got {given[:20]!r}")
    return given


def _known_parameters(request: Request) -> None:
    """Refuse query parameters that the route doesn't have, and repeated ones."""
    described = request.app.openapi()["paths"][request.scope["route"].path][request.method.lower()]
    known = [one["name"] for one in described.get("parameters", ()) if one["in"] == "query"]
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        shown = repr(name[:40])
        if name not in known:
            near = _ELSEWHERE.get(name) or next(iter(get_close_matches(name, known, 1)), "")
            hint = f"did you mean {near}?" if near in known else f"this route has: {', '.join(known) or 'none'}"
            raise Refused(400, f"unknown query parameter {shown}; {hint}")
        if given.count(name) > 1:
            raise Refused(400, f"the query parameter {shown} is repeated; pass it once")
