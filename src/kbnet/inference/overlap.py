"""Threads that run tasks in order, and a memory budget that they share."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")


class Closed(Exception):  # not an error: no one waits for the work that it ends
    """The run has ended."""


class Stage:
    """A thread that runs tasks in the order they are submitted. Python does not wait for it at exit."""

    def __init__(self, name: str) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def submit(self, function: Callable[..., _T], *arguments: Any) -> Future[_T]:
        """Call the function in the thread, after all earlier tasks."""
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
        """Wait for the running task, at most `timeout` seconds; drop tasks that have not started."""
        self._closed = True
        self._tasks.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _work(self) -> None:
        while task := self._tasks.get():
            if self._closed:
                return
            task()
            del task  # releases the images that it refers to


class Budget:
    """An amount that threads share: a thread that wants more than is left waits until others give some back.

    A request for more than the whole amount gets all of it.
    """

    def __init__(self, amount: int) -> None:
        self._amount = self._left = amount
        self._closed = False
        self._changed = threading.Condition()

    def book(self, amount: int) -> int:
        """Take the amount, or all of it if it is less; return what was taken.

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
        """Return an amount that was booked."""
        with self._changed:
            self._left += amount
            self._changed.notify_all()

    def close(self) -> None:
        """End the waiting of all threads with `Closed`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
