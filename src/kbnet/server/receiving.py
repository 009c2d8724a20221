"""A request's body into the bytes of one picture, counted as they come; nothing goes to disk.

The file name of a multipart part is never looked at, so that no path in it can lead anywhere.
"""

import asyncio
from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from kbnet.server.admission import Body
from kbnet.server.replies import Refused

FIELD = "image"
# What curl says with --data-binary and nothing else; the bytes tell what they are.
_RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded")
_MOST_OTHERS = 3
_HOW = "send its bytes as the body with Content-Type image/png or the like, or a multipart form with the field 'image'"


async def receive(request: Request, body: Body) -> bytes:
    """The picture in the request's body, raw or in the multipart field `image`.

    Every byte is booked with `body`, which refuses those over the limits before they are stored.

    Raises:
        Refused: 413, 415 or 429; 400 for a body that is no form, or a form without just that field.
        ClientDisconnect: the sender has gone.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "expected a body without Content-Encoding; send the picture as it is")
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdecimal():
        body.expect(int(announced))
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    name = kind.decode("latin-1").lower()
    if name == "multipart/form-data":
        return await _form(request.stream(), options.get(b"boundary", b""), body)
    if name.startswith("image/") or name in _RAW:
        return await _raw(request.stream(), body)
    raise Refused(415, f"expected a picture, got Content-Type {name[:60]}; {_HOW}")


async def drain(request: Request, limit: int = 1 << 20, seconds: float = 1.0) -> None:
    """Read on after a refusal, up to `limit` bytes and so long, so that a sender still at work can read the reply."""
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                limit -= len(piece)
                if limit < 0:
                    return
    except (ClientDisconnect, RuntimeError, TimeoutError):  # gone, read to its end before, or too slow
        return


async def _raw(pieces: AsyncIterator[bytes], body: Body) -> bytes:
    data = bytearray()
    async for piece in pieces:
        body.book(len(piece))
        data += piece
    if not data:
        raise Refused(400, f"expected a picture, got an empty body; {_HOW}")
    return bytes(data)


class _Part:
    """The parser's callbacks: keeps the data of the one part that is wanted."""

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
            raise self.refusal()  # at once: a million parts are refused as soon as the first few

    def refusal(self) -> Refused:
        """That the form does not have just the one field."""
        got = ", ".join(repr(name) for name in [FIELD] * self.found + self.others) or "none"
        return Refused(400, f"expected a form with the one field 'image', got {got}; options go into the query")

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted and self.found == 1:
            self.data += data[start:end]

    def end(self) -> None:
        self.ended = True


async def _form(pieces: AsyncIterator[bytes], boundary: bytes, body: Body) -> bytes:
    part = _Part()
    if not boundary:
        raise Refused(400, "expected a boundary in the multipart Content-Type, got none; let your client set it")
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
        raise Refused(400, "expected a multipart form, got something else; let your client build it") from None
    if not part.ended:
        raise Refused(400, "the multipart form is cut short; send it again")
    if part.found != 1 or part.others:
        raise part.refusal()
    if not part.data:
        raise Refused(400, "the field 'image' is empty; put the picture's file into it")
    return bytes(part.data)
