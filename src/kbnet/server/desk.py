"""Handles a request from its body to its reply: receive, queue, restore, answer."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from kbnet.imaging import Pixels
from kbnet.inference.change import unchanged_note
from kbnet.inference.guard import outbreak_note
from kbnet.inference.look import Look
from kbnet.models import CatalogueEntry
from kbnet.models.catalogue import FORMER_NAMES
from kbnet.server.admission import Admission, ending
from kbnet.server.decoding import check_kind, read_header
from kbnet.server.kept import Kept, KeptResult
from kbnet.server.limits import Limits
from kbnet.server.metrics import Metrics
from kbnet.server.receiving import receive
from kbnet.server.replies import Refused
from kbnet.server.restoration import Pending, Restoration, Restored, overdue
from kbnet.server.schemas import Progress
from kbnet.server.worker import Worker


@dataclass(frozen=True)
class Wish:
    """The parameters of a restoration request."""

    task: str  # name of a task, a variant or a model
    look: Look
    format: str | None
    token: str | None
    keep: bool


@dataclass
class Desk:
    """The state that the routes share."""

    worker: Worker
    admission: Admission
    kept: Kept
    metrics: Metrics
    models: Sequence[CatalogueEntry]
    moves: dict[str, Pending | None] = field(default_factory=dict)  # requests in progress, by the client's token
    encoding: asyncio.Lock = field(default_factory=asyncio.Lock)  # encodes one kept result at a time to bound memory
    encoders: int = 0

    @property
    def names(self) -> list[str]:
        """Accepted names: tasks and their variants, then models."""
        aliases = [entry.alias for entry in self.models if entry.alias != entry.name]
        return [*aliases, *(entry.name for entry in self.models)]

    @property
    def usual(self) -> str:
        """The default task."""
        return "denoise" if "denoise" in self.names else self.names[0]

    def model(self, name: str) -> CatalogueEntry | None:
        """Return the model for a task, variant, model or former name; None if it isn't offered."""
        known = FORMER_NAMES.get(name, name)
        return next((entry for entry in self.models if known in (entry.alias, entry.name)), None)

    def chosen(self, name: str, preset: str) -> str | None:
        """Return the name of the weights to load: the task's larger ones for "best", if any; None if not offered."""
        model = self.model(name)
        if model is None:
            return None
        if preset == "best" and model.default and name != model.name:
            larger = (entry for entry in self.models if entry.task == model.task and entry.variant == "hq")
            return next(larger, model).alias
        return name if name == model.name else model.alias

    def progress(self, token: str) -> Progress:
        """Return the progress of the request with this token. Raises Refused (404) if there is none."""
        if token not in self.moves:
            raise Refused(404, "no request with this token is in progress; it may have finished")
        pending = self.moves[token]
        if pending is None:
            return Progress(state="receiving", ahead=0, done=0, total=0, seconds=0, left=None)
        seconds, left = self.worker.left(pending)
        return Progress(
            state="restoring" if pending.future.running() or pending.future.done() else "waiting",
            ahead=self.worker.ahead(pending),
            done=pending.done,
            total=pending.total,
            seconds=round(seconds, 3),
            left=None if left is None else round(left, 3),
        )


async def answer(desk: Desk, request: Request, wish: Wish) -> Response:
    """Restore the image in the request body.

    Raises:
        Refused, ImageError, InvalidInputError: the request is refused.
        ClientDisconnect: the client has disconnected.
    """
    limits = desk.worker.limits
    deadline = time.monotonic() + limits.seconds
    model = desk.model(wish.task)
    assert model is not None  # checked when the parameters were read
    if wish.token is not None and wish.token in desk.moves:
        raise Refused(400, "another request with this progress token is in progress; choose another token")
    with desk.admission.body() as body:
        try:
            async with asyncio.timeout(limits.seconds):
                if wish.token is not None:
                    desk.moves[wish.token] = None
                async with body.arriving():
                    data = await receive(request, body)
                with desk.admission.place():
                    size = await asyncio.to_thread(_check_size, data, limits)
                    name = str(request.state.id)
                    examine = partial(_outbreak_note, task=model.task)
                    what = Restoration(data, wish.task, wish.look, wish.format, wish.keep, name, examine, size)
                    pending = desk.worker.submit(what, deadline)
                    if wish.token is not None:
                        desk.moves[wish.token] = pending
                    restored = await _finish(desk, pending, request)
        except TimeoutError:
            raise overdue() from None
        finally:
            if wish.token is not None:
                desk.moves.pop(wish.token, None)
    desk.metrics.restored(model.task, model.name, restored.seconds, restored.width * restored.height)
    unchanged = unchanged_note(restored.change, model.task) if not wish.look.is_input else None
    notes = (*([unchanged] if unchanged else []), *restored.notes)
    headers = {
        "Cache-Control": "no-store",
        "Kbnet-Notes": json.dumps(notes),
        "Kbnet-Seconds": f"{restored.seconds:.3f}",
        "Kbnet-Change": f"{restored.change:.6f}",
    }
    if restored.pixels is not None and (token := desk.kept.put(KeptResult(data, restored.pixels))):
        headers["Kbnet-Result"] = token
    return Response(restored.data, media_type=f"image/{restored.format}", headers=headers)


async def answer_kept(desk: Desk, token: str, look: Look, format: str | None) -> Response:
    """Encode a kept result with a look and in a format.

    Raises:
        Refused: 404 if there is no such result, 429 if too many requests are waiting.
        UnsupportedImageError: the format can't store an image of this size.
    """
    if desk.admission.closing:
        raise ending()
    if desk.encoders > desk.worker.limits.waiting:
        raise desk.admission.busy()
    desk.encoders += 1
    try:
        async with desk.encoding:
            result = desk.kept.get(token)
            if result is None:
                raise Refused(404, "no result with this token; it may have expired")
            data, chosen, notes = await asyncio.to_thread(result.encode, look, format)
    finally:
        desk.encoders -= 1
    headers = {"Cache-Control": "no-store", "Kbnet-Notes": json.dumps(notes)}
    return Response(data, media_type=f"image/{chosen}", headers=headers)


def _outbreak_note(before: Pixels, after: Pixels, task: str) -> str | None:
    """Return a note if the weights don't suit the image, without the command line's remedy: `serve` has no --guard."""
    note = outbreak_note(before, after, task)
    return None if note is None else note.partition("; --guard")[0]


def _check_size(data: bytes, limits: Limits) -> tuple[int, int]:
    """Refuse too large images by their header, before decoding them, and return height and width.

    Also raises the errors of `probe`.
    """
    check_kind(data, limits)
    most, info = limits.pixels, read_header(data, limits.pixels)
    if info.width * info.height > most:
        raise Refused(
            413,
            f"expected at most {most / 1e6:g} megapixels, got {info.width} x {info.height}; send a smaller image",
        )
    return info.height, info.width


async def _finish(desk: Desk, pending: Pending, request: Request) -> Restored:
    """Wait for the result. If the client disconnects or the server shuts down first, abandon the restoration."""
    result = asyncio.wrap_future(pending.future)
    gone = asyncio.ensure_future(_disconnected(request))
    over = asyncio.ensure_future(desk.admission.over())
    try:
        await asyncio.wait((result, gone, over), return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        raise ClientDisconnect if gone.done() else ending()
    finally:
        desk.worker.abandon(pending)
        gone.cancel()
        over.cancel()
        if not result.done():
            result.cancel()
        elif not result.cancelled():
            result.exception()  # retrieve it, or asyncio logs a warning


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
