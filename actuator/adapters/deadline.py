"""Deadlines for calls that have none of their own."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

LOST_POLL_SECONDS = 1.0
"""How often it is asked whether an answer is still to be expected."""


class DeadlineThreads:
    """Runs calls in threads that are left behind when they do not come back in time; never more than `limit`.

    A thread that was left behind ends when its call does. It does not keep the program from ending.
    """

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._free = threading.BoundedSemaphore(limit)

    def run(
        self, call: Callable[[], T], timeout_seconds: float, lost: Callable[[], bool] = lambda: False
    ) -> T:
        """Return what the call returns, or raise what it raises.

        Args:
            call: what is to be done.
            timeout_seconds: for it.
            lost: asked now and then; once true, the call is not waited for any more.

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
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                return future.result(min(left, LOST_POLL_SECONDS))
            except TimeoutError:
                if future.done():
                    raise
                if lost():
                    raise TimeoutError(f"{self._name}: lost before it answered") from None
                if left <= LOST_POLL_SECONDS:
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
