"""How many threads a computation uses."""

import os
import sys
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")


def default_threads() -> int:
    """Return the number of threads of a call that doesn't say: PyTorch's if it is loaded, else OMP_NUM_THREADS.

    Without either, it is the number of physical cores that this process may use: a core's second hardware thread adds
    nothing to matrix products.
    """
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        return int(torch.get_num_threads())
    wish = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if wish.isdecimal() and int(wish) > 0:
        return int(wish)
    return len({_siblings(core) for core in usable_cores()})


def limit_threads(count: int) -> None:
    """Set the number of threads of all later calls of this process and of the processes that it starts."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


def usable_cores() -> set[int]:
    """Return the logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _siblings(core: int) -> str:
    """Return a name of the physical core that a logical processor belongs to."""
    try:
        return (_TOPOLOGY / f"cpu{core}" / "topology" / "thread_siblings_list").read_text(encoding="ascii")
    except (OSError, ValueError):
        return str(core)
