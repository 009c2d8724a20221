"""Submission files for SIDD's benchmark server: all restored blocks in one file."""

import base64
import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet import files
from kbnet.errors import InvalidInputError, MissingExtraError


def write_submission(
    path: Path,
    blocks: Mapping[tuple[int, int], NDArray[np.uint8]],
    *,
    seconds_per_megapixel: float,
    method: str,
    overwrite: bool = False,
) -> None:
    """Write restored blocks as a submission file. The suffix of `path` selects the format.

    `.csv` is for the current server (a Kaggle competition): the columns ID, counted from 0 scene by scene, and BLOCK,
    the bytes of [H,W,3] uint8 in base64. `.mat` is the format of the benchmark's own code, for the previous server: a
    cell array DenoisedBlocksSrgb [scenes,blocks], TimeMPSrgb in seconds per megapixel, and OptionalData.

    Args:
        path: SubmitSrgb.csv or SubmitSrgb.mat.
        blocks: restored blocks by (scene, block), counted from 0; none may be missing.
        seconds_per_megapixel: time of the restoration.
        method: name of the model.
        overwrite: whether to replace an existing file.

    Raises:
        OutputExistsError: the file exists, and `overwrite` is False.
        InvalidInputError: the suffix is wrong, or a block is missing or isn't [H,W,3] uint8.
        MissingExtraError: a .mat file needs scipy, which isn't installed.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".mat"):
        raise InvalidInputError(f"expected a submission file ending in .csv or .mat, got {path.name}")
    scenes, count = (1 + max((key[axis] for key in blocks), default=-1) for axis in (0, 1))
    order = [(scene, block) for scene in range(scenes) for block in range(count)]
    if missing := [key for key in order if key not in blocks]:
        raise InvalidInputError(f"{len(missing)} of {len(order)} blocks are missing, the first is {missing[0]}")
    if not order:
        raise InvalidInputError("expected restored blocks, got none")
    for key in order:
        if blocks[key].dtype != np.uint8 or blocks[key].ndim != 3:
            raise InvalidInputError(f"expected uint8 blocks [H,W,3], got {blocks[key].dtype} {blocks[key].shape}")
    if suffix == ".csv":
        files.write(_csv(blocks[key] for key in order), path, overwrite=overwrite)
    else:
        cells = np.empty((scenes, count), dtype=object)
        for key in order:
            cells[key] = blocks[key]
        files.write(_mat(cells, seconds_per_megapixel, method), path, overwrite=overwrite)


def _csv(blocks: Iterator[NDArray[np.uint8]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["ID", "BLOCK"])
    for number, block in enumerate(blocks):
        writer.writerow([number, base64.b64encode(np.ascontiguousarray(block).tobytes()).decode()])
    return text.getvalue().encode()


def _mat(cells: NDArray[Any], seconds: float, method: str) -> bytes:
    try:
        from scipy.io import savemat
    except ModuleNotFoundError:
        raise MissingExtraError("scipy", "eval") from None
    optional = {"MethodName": method, "Authors": "", "PaperTitle": "", "Venue": ""}
    content = {"DenoisedBlocksSrgb": cells, "TimeMPSrgb": float(seconds), "OptionalData": optional}
    buffer = io.BytesIO()
    savemat(buffer, content, do_compression=True)
    return buffer.getvalue()
