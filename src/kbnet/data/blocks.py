"""Reads blocks of SIDD (Abdelhamed et al., CVPR 2018) from the MATLAB files that its authors publish for testing."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError, MissingExtraError

_MAX_BYTES = 4 << 30  # the published files unpack to 250 MB


def read_blocks(folder: Path, variable: str) -> NDArray[np.uint8]:
    """Read the blocks of one file as uint8 [scenes,blocks,H,W,3]; the published files have 40 x 32 of 256 x 256 pixels.

    Args:
        folder: folder that contains VARIABLE.mat, at any depth.
        variable: name of the file and of the array in it, such as "ValidationNoisyBlocksSrgb".

    Raises:
        InvalidInputError: the file is missing, damaged, or has no such array.
        MissingExtraError: scipy is not installed.
    """
    try:
        from scipy.io import loadmat, whosmat
    except ModuleNotFoundError:
        raise MissingExtraError("scipy", "eval") from None
    files = sorted(folder.rglob(f"{variable}.mat")) if folder.is_dir() else []
    if not files:
        raise InvalidInputError(f"expected {variable}.mat in the folder {folder}, found none; use another --data")
    try:
        shapes = {name: (shape, kind) for name, shape, kind in whosmat(str(files[0]))}
        shape, kind = shapes.get(variable, ((), "nothing"))
        if len(shape) != 5 or shape[-1] != 3 or kind != "uint8" or not 0 < np.prod(shape, dtype=np.int64) <= _MAX_BYTES:
            raise InvalidInputError(
                f"{files[0]}: expected the uint8 array {variable} [scenes,blocks,H,W,3], "
                f"got {kind} {list(shape) if shape else 'of that name'}"
            )
        blocks: NDArray[np.uint8] = loadmat(str(files[0]), variable_names=[variable])[variable]
    except InvalidInputError:
        raise
    except NotImplementedError:
        raise InvalidInputError(f"{files[0]} is a MATLAB 7.3 file, which is not supported; save it with -v7") from None
    except Exception as error:  # scipy's reader raises all kinds of exceptions for damaged files
        raise InvalidInputError(f"{files[0]} is not a readable MATLAB file: {error}") from None
    return blocks
