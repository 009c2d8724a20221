"""Comparable times and peak memory: all calls alternate in one process, and the best run counts."""

import ctypes
import gc
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from torch import Tensor


def best(
    calls: Mapping[str, Callable[[], object]],
    repeats: int = 5,
    seconds: float = 20.0,
    *,
    between: Collection[str] = (),
    warm_up: bool = True,
) -> dict[str, float]:
    """Shortest time of each call in seconds. The calls alternate, so that slow phases affect all of them.

    After a warm-up round, there are at least two rounds, up to `repeats` rounds or `seconds` in total. The calls
    named in `between` run after each of the others, so that short calls get enough repetitions.
    """
    others = [name for name in calls if name not in between]
    turns = [name for other in others for name in (other, *between)] or list(between)
    if warm_up:
        for call in calls.values():
            call()
    found = dict.fromkeys(calls, float("inf"))
    started = time.perf_counter()
    for round_ in range(repeats):
        for name in turns:
            start = time.perf_counter()
            calls[name]()
            found[name] = min(found[name], time.perf_counter() - start)
        if round_ >= 1 and time.perf_counter() - started > seconds:
            break
    return found


def peak_bytes(call: Callable[[], object]) -> int | None:
    """How much the process's resident size grows during the call, in bytes; None if unknown."""
    status = Path("/proc/self/status")
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _kilobytes(status, "VmRSS")
        result = call()
        peak = _kilobytes(status, "VmHWM")
        del result
    except (OSError, AttributeError):
        return None
    return max(peak - before, 0) * 1024


def _kilobytes(status: Path, name: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1])


def agree(what: str, ours: Tensor, theirs: Tensor, tolerance: float) -> float:
    """Largest difference relative to the largest value; exits if too large, because times would be meaningless."""
    difference = float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())
    if not difference <= tolerance:
        raise SystemExit(f"{what}: results differ by {difference:.2g} of the largest value, allowed {tolerance:.2g}")
    return difference
