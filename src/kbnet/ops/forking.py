"""Fork handlers that keep torch's OpenMP runtime from deadlocking in a forked child.

A forked child has a single thread. torch's OpenMP runtime doesn't notice, and its next parallel loop waits forever for
the missing threads. If threads may have run before the fork, the handlers therefore set torch to one thread in the
child, as torch's own data loaders do; the compiled kernels follow torch's setting. To use all cores in a child, start
it with "spawn", or fork before the first use.

Importing the module registers the handlers; `kbnet.ops` does so.
"""

import os
import threading
from pathlib import Path

import torch

_TASKS = Path("/proc/self/task")


def _others() -> int:
    """Count the threads that Python didn't start. Libraries start them at their first parallel loop."""
    try:
        return len(list(_TASKS.iterdir())) - threading.active_count()
    except OSError:
        return -1


class _State:
    at_import = _others()
    used = False  # kbnet has computed something
    started = False  # as the parent found just before the fork


def note_use() -> None:
    """Record that parallel loops have run or are about to run."""
    _State.used = True


def _before() -> None:
    _State.started = _State.used or _others() != _State.at_import or _State.at_import < 0


def _after_in_child() -> None:
    if _State.started:
        torch.set_num_threads(1)
    _State.at_import, _State.used = _others(), False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_after_in_child)
