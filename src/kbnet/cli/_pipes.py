"""`-` for stdin and stdout: planning and reading the single job."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kbnet.inference.jobs import Job

PIPE = "-"
# An upper bound for encoded images: four 16-bit channels without compression, plus metadata.
_BYTES_PER_PIXEL, _BYTES_OF_METADATA = 8, 64 << 20
_PIECE = 1 << 20


def plan_pipe(source: str, output: str | None, format: str | None) -> "Job":
    """The job whose input, output or both are pipes; stdin is read later, after the model is loaded."""
    from kbnet.errors import InvalidInputError
    from kbnet.inference.jobs import Job, plan_jobs

    if source == PIPE:
        # the input name doesn't matter: plan_jobs checks the output's
        path = plan_jobs(["stdin"], output, format=format)[0].output if output is not None else None
        return Job(b"", path)
    if Path(source).is_dir():
        raise InvalidInputError(f"expected one photo to write to stdout, got the folder {source}; add -o FOLDER")
    jobs = plan_jobs([source], format=format, suffix="-")
    if len(jobs) > 1:
        raise InvalidInputError(
            f"expected one photo to write to stdout, got {len(jobs)} that match {source}; add -o FOLDER"
        )
    return Job(jobs[0].input, None)


def read_stdin(max_pixels: int) -> bytes:
    """Read an encoded image from stdin, up to the size that `max_pixels` allows."""
    from kbnet.errors import ImageTooLargeError

    limit = max_pixels * _BYTES_PER_PIXEL + _BYTES_OF_METADATA
    pieces, size = [], 0
    # in pieces: a single read of the limit would allocate all of it at once
    while piece := sys.stdin.buffer.read(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise ImageTooLargeError(
                f"stdin: more than {limit} bytes, too many for an image of --max-pixels {max_pixels}"
            )
    return b"".join(pieces)
