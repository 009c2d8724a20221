"""Blocks of SIDD (Abdelhamed et al., CVPR 2018) in the MATLAB files that its authors publish for testing."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError, MissingExtraError

_MAX_BYTES = 4 << 30  # the published files unpack to 250 MB


def read_blocks(folder: Path, variable: str) -> NDArray[np.uint8]:
    """The blocks of one file, [scenes,blocks,H,W,3] uint8; as published 40 x 32 of 256 x 256 pixels.

    Args:
        folder: where VARIABLE.mat lies, at any depth.
        variable: its name and that of the array in it, such as "ValidationNoisyBlocksSrgb".

    Raises:
        InvalidInputError: no such file, or none with such an array.
        MissingExtraError: scipy is not installed.
    """
    try:
        from scipy.io import loadmat, whosmat
    except ModuleNotFoundError:
        raise MissingExtraError("scipy", "eval") from None
    files = sorted(folder.rglob(f"{variable}.mat")) if folder.is_dir() else []
    if not files:
        raise InvalidInputError(f"expected {variable}.mat in the folder {folder}, found none; give another --data")
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
        raise InvalidInputError(f"{files[0]} is a MATLAB 7.3 file; save it with -v7 to have it read") from None
    except Exception as error:  # scipy's reader raises whatever the damage leads to
        raise InvalidInputError(f"{files[0]} is not a MATLAB file that can be read: {error}") from None
    return blocks
