"""Tells a lack of memory from other errors of a training run."""

import errno
import re

import torch

# PyTorch reports these as a plain RuntimeError. The system's OOM killer sends SIGKILL to loader workers, and a full
# /dev/shm, through which they pass batches, sends SIGBUS.
_MESSAGES = re.compile(
    r"(can't|cannot) allocate memory|not enough memory|out of (shared )?memory|_ALLOC_FAILED"
    r"|DataLoader worker .* killed by signal: (Killed|Bus error)",
    re.IGNORECASE,
)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch, of a loader worker or of the system means that there isn't enough memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _MESSAGES.search(str(error)) is not None
