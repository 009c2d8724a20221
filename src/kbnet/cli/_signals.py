"""Turns Ctrl-C and similar signals into exceptions, so that the stack unwinds and cleans up."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # SIGHUP means a closed terminal; Windows has none


class Stopped(KeyboardInterrupt):
    """A signal told the program to stop."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number

    @property
    def exit_code(self) -> int:
        """The exit code that shells expect after this signal."""
        return 128 + self.number

    @property
    def word(self) -> str:
        """How the program was stopped, in one word."""
        return "interrupted" if self.number == signal.SIGINT else "terminated"


@contextmanager
def stop_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Call `handle(number)` on a stop signal within the block; signals ignored by the parent process stay ignored.

    Does nothing outside the main thread, where Python doesn't allow handlers.
    """
    before: dict[int, Any] = {}

    def handler(number: int, frame: FrameType | None) -> None:
        handle(number)

    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
