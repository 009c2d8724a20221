"""Ctrl-C and its relatives, turned into exceptions that unwind and tidy up."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # the last is a closed terminal, which Windows does not have


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that this signal ended."""
        return 128 + self.number

    @property
    def word(self) -> str:
        """How it came to its end."""
        return "interrupted" if self.number == signal.SIGINT else "terminated"


@contextmanager
def stop_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Call `handle(number)` on a signal to end, within the block; those that the parent process had ignored stay so.

    Does nothing outside the main thread, where Python takes no handlers.
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
