"""What a forked child of this process must change to be able to compute at all.

The child of a fork has one thread. torch's OpenMP runtime does not notice, and waits for ever for the others at its
next parallel loop. If threads may have been started before the fork, torch is therefore told to compute on one thread
in the child, as its own data loaders do in theirs; the compiled kernels go by torch's number. A child that wants all
cores has to be started anew ("spawn"), or forked before the first use.

Imported for its effect: the handlers are registered once, by `kbnet.ops`.
"""

import os
import threading
from pathlib import Path

import torch

_TASKS = Path("/proc/self/task")


def _others() -> int:
    """Threads of this process that Python has not started; libraries start them at their first parallel loop."""
    try:
        return len(list(_TASKS.iterdir())) - threading.active_count()
    except OSError:
        return -1


class _State:
    at_import = _others()
    used = False  # kbnet has computed something
    started = False  # what the parent found before the fork


def note_use() -> None:
    """Say that parallel loops have run, or are about to."""
    _State.used = True


def _before() -> None:
    _State.started = _State.used or _others() != _State.at_import or _State.at_import < 0


def _after_in_child() -> None:
    if _State.started:
        torch.set_num_threads(1)
    _State.at_import, _State.used = _others(), False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_after_in_child)
