"""Threads that each do one thing after another, and how much may be decoded at a time."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")


class Closed(Exception):  # no error: nobody waits for what it ends
    """The run has ended meanwhile."""


class Stage:
    """A thread that does what it is given, in that order. Python does not wait for it at its end."""

    def __init__(self, name: str) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def submit(self, function: Callable[..., _T], *arguments: Any) -> Future[_T]:
        """Call it in the thread, after all else."""
        future: Future[_T] = Future()

        def task() -> None:
            try:
                result = function(*arguments)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._tasks.put(task)
        if self._thread.ident is None:
            self._thread.start()
        return future

    def close(self, timeout: float | None = None) -> None:
        """Wait for what has begun, for so many seconds at most; what has not is not done."""
        self._closed = True
        self._tasks.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _work(self) -> None:
        while task := self._tasks.get():
            if self._closed:
                return
            task()
            del task  # and with it the pictures that it holds


class Budget:
    """An amount that threads share: who wants more than is left waits until the others have given back.

    One that alone wants more than there is gets all of it.
    """

    def __init__(self, amount: int) -> None:
        self._amount = self._left = amount
        self._closed = False
        self._changed = threading.Condition()

    def book(self, amount: int) -> int:
        """Take the amount, or all; what was taken.

        Raises:
            Closed: the run has ended.
        """
        amount = min(amount, self._amount)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or amount <= self._left)
            if self._closed:
                raise Closed
            self._left -= amount
        return amount

    def give_back(self, amount: int) -> None:
        """Let others have it."""
        with self._changed:
            self._left += amount
            self._changed.notify_all()

    def close(self) -> None:
        """Wake whoever waits, to no avail."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
