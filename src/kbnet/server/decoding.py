"""Reads the photos of requests, those with complex decoders only on request and in a child process."""

import io

from kbnet.imaging import ImageInfo, Photo, probe, read_photo
from kbnet.imaging.isolated import Isolation
from kbnet.imaging.sniff import is_heic, is_raw
from kbnet.server.limits import Limits
from kbnet.server.replies import Refused

SECONDS = 60.0
"""Longest time for decoding one file in a child process."""


def open_photo(data: bytes, max_pixels: int) -> Photo:
    """Decode an image that `check_kind` accepted. Raises the errors of `read_photo`."""
    return read_photo(data, max_pixels=max_pixels, isolation=Isolation(SECONDS, max_pixels))


def read_header(data: bytes, max_pixels: int) -> ImageInfo:
    """Read the header of an image that `check_kind` accepted. Raises the errors of `probe`."""
    return probe(data, isolation=Isolation(SECONDS, max_pixels))


def check_kind(data: bytes, limits: Limits) -> None:
    """Refuse formats that this server doesn't accept.

    Raises:
        Refused: 415.
    """
    start = data[:4096]
    if not limits.raw and is_raw(io.BytesIO(data)):
        raise Refused(
            415, "this server doesn't accept camera raw files; develop the photo, or start the server with --raw"
        )
    if is_heic(start) and not limits.heic:
        raise Refused(
            415, "this server doesn't accept HEIC; convert the photo to JPEG, or start the server with --heic"
        )
