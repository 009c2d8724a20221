"""`-` for stdin and stdout: the one job there is."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kbnet.inference.jobs import Job

PIPE = "-"
# More than any encoded picture of so many pixels: 16-bit samples of four channels, stored without compression.
_BYTES_PER_PIXEL, _BYTES_OF_METADATA = 8, 64 << 20
_PIECE = 1 << 20


def plan_pipe(source: str, output: str | None, format: str | None) -> "Job":
    """The one job that has a pipe at one end or both; stdin is read only once the model is there."""
    from kbnet.errors import InvalidInputError
    from kbnet.inference.jobs import Job, plan_jobs

    if source == PIPE:
        # any name will do for the input: that of the output is what is checked
        path = plan_jobs(["stdin"], output, format=format)[0].output if output is not None else None
        return Job(b"", path)
    if Path(source).is_dir():
        raise InvalidInputError(f"expected one picture to write to stdout, got the folder {source}; add -o FOLDER")
    jobs = plan_jobs([source], format=format, suffix="-")
    if len(jobs) > 1:
        raise InvalidInputError(f"expected one picture to write to stdout, got {len(jobs)} that match {source}")
    return Job(jobs[0].input, None)


def read_stdin(max_pixels: int) -> bytes:
    """The bytes of a picture on stdin, up to what one of so many pixels can have."""
    from kbnet.errors import ImageTooLargeError

    limit = max_pixels * _BYTES_PER_PIXEL + _BYTES_OF_METADATA
    pieces, size = [], 0
    # piece by piece: one read of the whole limit would set aside as much at once
    while piece := sys.stdin.buffer.read(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise ImageTooLargeError(f"stdin: over {limit} bytes, too many for a picture of --max-pixels {max_pixels}")
    return b"".join(pieces)
