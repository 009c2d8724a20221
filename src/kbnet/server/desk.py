"""From a request to its reply: the body in, a place in the queue, the restored picture out."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from kbnet.imaging import probe
from kbnet.inference.change import unchanged_note
from kbnet.models import CatalogueEntry
from kbnet.models.catalogue import FORMER_NAMES
from kbnet.server.admission import Admission, ending
from kbnet.server.kept import Kept, KeptResult
from kbnet.server.metrics import Metrics
from kbnet.server.receiving import receive
from kbnet.server.replies import Refused
from kbnet.server.restoration import Pending, Restoration, Restored, overdue
from kbnet.server.schemas import Progress
from kbnet.server.worker import Worker


@dataclass(frozen=True)
class Wish:
    """The arguments of a request to restore."""

    task: str  # or a variant's, or a model's name
    strength: float
    format: str | None
    token: str | None
    keep: bool


@dataclass
class Desk:
    """What the routes work with."""

    worker: Worker
    admission: Admission
    kept: Kept
    metrics: Metrics
    models: Sequence[CatalogueEntry]
    moves: dict[str, Pending | None] = field(default_factory=dict)  # by the sender's token, while a request lasts
    encoding: asyncio.Lock = field(default_factory=asyncio.Lock)  # of kept results: one at a time bounds the memory
    encoders: int = 0

    @property
    def names(self) -> list[str]:
        """Tasks and their variants, then models, that may be asked for."""
        aliases = [entry.alias for entry in self.models if entry.alias != entry.name]
        return [*aliases, *(entry.name for entry in self.models)]

    @property
    def usual(self) -> str:
        """What is meant where nothing is asked for."""
        return "denoise" if "denoise" in self.names else self.names[0]

    def model(self, name: str) -> CatalogueEntry | None:
        """The model that a task's, a variant's or its own name means, former ones too; None if it is not offered."""
        known = FORMER_NAMES.get(name, name)
        return next((entry for entry in self.models if known in (entry.alias, entry.name)), None)

    def chosen(self, name: str, preset: str) -> str | None:
        """The name by which the weights are loaded: of the task's larger ones for "best", where there are some."""
        model = self.model(name)
        if model is None:
            return None
        if preset == "best" and model.default and name != model.name:
            larger = (entry for entry in self.models if entry.task == model.task and entry.variant == "hq")
            return next(larger, model).alias
        return name if name == model.name else model.alias

    def progress(self, token: str) -> Progress:
        """The progress of the request with that token; raises Refused if there is none."""
        if token not in self.moves:
            raise Refused(404, "no request with this token is in progress; it may be finished")
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
    """Restore the picture in the request's body.

    Raises:
        Refused, ImageError, InvalidInputError: it is not served.
        ClientDisconnect: the sender has gone.
    """
    limits = desk.worker.limits
    deadline = time.monotonic() + limits.seconds
    if wish.token is not None and wish.token in desk.moves:
        raise Refused(400, "a request with this progress token is in progress; choose another token")
    with desk.admission.body() as body:
        try:
            async with asyncio.timeout(limits.seconds):
                if wish.token is not None:
                    desk.moves[wish.token] = None
                async with body.arriving():
                    data = await receive(request, body)
                await asyncio.to_thread(_check_size, data, limits.pixels)
                with desk.admission.place():
                    name = str(request.state.id)
                    what = Restoration(data, wish.task, wish.strength, wish.format, wish.keep, name)
                    pending = desk.worker.submit(what, deadline)
                    if wish.token is not None:
                        desk.moves[wish.token] = pending
                    restored = await _finish(desk, pending, request)
        except TimeoutError:
            raise overdue() from None
        finally:
            if wish.token is not None:
                desk.moves.pop(wish.token, None)
    model = desk.model(wish.task)
    assert model is not None  # or there would be no wish
    desk.metrics.restored(model.task, model.name, restored.seconds, restored.width * restored.height)
    unchanged = unchanged_note(restored.change, model.task) if wish.strength else None
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


async def answer_kept(desk: Desk, token: str, strength: float, format: str | None) -> Response:
    """A kept result at that strength and in that format.

    Raises:
        Refused: 404 if it is not kept, 429 if as many as may wait do so.
        UnsupportedImageError: the format cannot hold a picture of that size.
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
            data, chosen, notes = await asyncio.to_thread(result.encode, strength, format)
    finally:
        desk.encoders -= 1
    headers = {"Cache-Control": "no-store", "Kbnet-Notes": json.dumps(notes)}
    return Response(data, media_type=f"image/{chosen}", headers=headers)


def _check_size(data: bytes, most: int) -> None:
    """Refuse by the header alone what would fill the memory once decoded; raises what `probe` does, too."""
    info = probe(data)
    if info.width * info.height > most:
        raise Refused(
            413,
            f"expected at most {most / 1e6:g} megapixels, got {info.width} x {info.height}; send a smaller picture",
        )


async def _finish(desk: Desk, pending: Pending, request: Request) -> Restored:
    """Wait for the result, or until the sender has gone or is out of time; then nobody works on it any more."""
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
            result.exception()  # seen, or asyncio would complain of it


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
