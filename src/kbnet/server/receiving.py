"""Receives the bytes of one image from a request body, counting them as they arrive. Nothing is written to disk.

The file name in a multipart form is never used, so a path in it can do no harm.
"""

import asyncio
from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from kbnet.server.admission import Body
from kbnet.server.replies import Refused

FIELD = "image"
# Content types that curl --data-binary sends by default; the format is detected from the bytes.
_RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded")
_MOST_OTHERS = 3
_HOW = "send the file as the body with a Content-Type such as image/png, or in the field 'image' of a multipart form"


async def receive(request: Request, body: Body) -> bytes:
    """Receive the image in a request body, sent raw or in the multipart field `image`.

    All bytes are counted with `body`, which refuses those over the limits before they are stored.

    Raises:
        Refused: 413, 415 or 429; 400 for an invalid form, or a form with other fields.
        ClientDisconnect: the client has disconnected.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "expected a body without Content-Encoding; send the image file uncompressed")
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdecimal():
        body.expect(int(announced))
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    name = kind.decode("latin-1").lower()
    if name == "multipart/form-data":
        return await _form(request.stream(), options.get(b"boundary", b""), body)
    if name.startswith("image/") or name in _RAW:
        return await _raw(request.stream(), body)
    raise Refused(415, f"expected an image, got Content-Type {name[:60]}; {_HOW}")


async def drain(request: Request, limit: int = 1 << 20, seconds: float = 1.0) -> None:
    """Discard up to `limit` bytes for up to `seconds` after a refusal, so that the client gets to read the reply."""
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                limit -= len(piece)
                if limit < 0:
                    return
    except (ClientDisconnect, RuntimeError, TimeoutError):  # disconnected, already read to the end, or too slow
        return


async def _raw(pieces: AsyncIterator[bytes], body: Body) -> bytes:
    data = bytearray()
    async for piece in pieces:
        body.book(len(piece))
        data += piece
    if not data:
        raise Refused(400, f"expected an image, got an empty body; {_HOW}")
    return bytes(data)


class _Part:
    """Callbacks of the form parser: keeps the data of the wanted part."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.found = 0
        self.others: list[str] = []
        self.ended = False
        self._header = bytearray()
        self._value = bytearray()
        self._wanted = False
        self._disposition = b""

    def begin(self) -> None:
        self._disposition, self._wanted = b"", False

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        self._wanted = name == FIELD
        if self._wanted:
            self.found += 1
        else:
            self.others.append(name[:40])
        if self.found > 1 or len(self.others) >= _MOST_OTHERS:
            raise self.refusal()  # early, so that a form with a million parts costs no more than one with a few

    def refusal(self) -> Refused:
        """Return the error for a form that doesn't consist of exactly the one field."""
        got = ", ".join(repr(name) for name in [FIELD] * self.found + self.others) or "none"
        return Refused(400, f"expected a form with only the field 'image', got {got}; put options into the query")

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted and self.found == 1:
            self.data += data[start:end]

    def end(self) -> None:
        self.ended = True


async def _form(pieces: AsyncIterator[bytes], boundary: bytes, body: Body) -> bytes:
    part = _Part()
    if not boundary:
        raise Refused(400, "expected a boundary in the multipart Content-Type, got none; let your HTTP client set it")
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": part.begin,
                "on_part_data": part.part_data,
                "on_header_field": part.header_field,
                "on_header_value": part.header_value,
                "on_header_end": part.header_end,
                "on_headers_finished": part.headers_finished,
                "on_end": part.end,
            },
        )
        async for piece in pieces:
            body.book(len(piece))
            parser.write(piece)
        parser.finalize()
    except FormParserError:
        raise Refused(400, "the multipart form is malformed; let your HTTP client build it") from None
    if not part.ended:
        raise Refused(400, "the multipart form is truncated; send it again")
    if part.found != 1 or part.others:
        raise part.refusal()
    if not part.data:
        raise Refused(400, "the field 'image' is empty; put the image file into it")
    return bytes(part.data)
