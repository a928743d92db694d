"""Deadlines for calls that have none of their own."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class DeadlineThreads:
    """Runs calls in threads that are left behind when they do not come back in time; never more than `limit`.

    A thread that was left behind ends when its call does. It does not keep the program from ending.
    """

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._free = threading.BoundedSemaphore(limit)

    def run(self, call: Callable[[], T], timeout_seconds: float) -> T:
        """Return what the call returns, or raise what it raises.

        Raises:
            TimeoutError: it is not back in time (it goes on, and its result is dropped), or it was not even
                begun, because all threads wait for calls that do not come back.
        """
        deadline = time.monotonic() + timeout_seconds
        if not self._free.acquire(timeout=max(0.0, timeout_seconds)):
            raise TimeoutError(f"{self._name}: {self._limit} earlier calls have not come back")
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001  it is raised in the caller
                _leave_frames(error)
                future.set_exception(error)
            finally:
                self._free.release()

        threading.Thread(target=run, name=self._name, daemon=True).start()
        try:
            return future.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            if future.done():
                raise
            raise TimeoutError(f"{self._name}: no answer within {timeout_seconds:g} s") from None


def _leave_frames(error: BaseException) -> None:
    """Let go of the frames in which it was raised, and of what they hold.

    They would wait for the garbage collector, which runs in any thread. With the last object of a libvirt
    connection libvirt says goodbye, and waits for the answer of a host that may be dead.
    """
    left: BaseException | None = error
    while left is not None:
        left.__traceback__ = None
        left = left.__cause__ or left.__context__
