"""Real time, and real threads."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import TypeVar

from actuator.ports import Unanswered

K = TypeVar("K")
T = TypeVar("T")


class SystemClock:
    """``ports.Clock`` of this machine.

    Args:
        stopping: set when the actuator is told to stop; it ends every pause.
    """

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping

    def wall(self) -> float:
        """See ``ports.Clock``."""
        return time.time()

    def monotonic(self) -> float:
        """See ``ports.Clock``."""
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        """See ``ports.Clock``."""
        self._stopping.wait(seconds)


class ThreadTasks:
    """``ports.Tasks`` with one daemon thread for each call.

    A call that hangs past every deadline costs one thread, not a place in a pool that others need; beyond
    ``max_threads`` nothing more is asked.
    """

    def __init__(self, max_threads: int = 512) -> None:
        self._busy = f"{max_threads} calls are under way already"
        self._free = threading.BoundedSemaphore(max_threads)

    def gather(
        self, calls: Mapping[K, Callable[[], T]], *, timeout_seconds: float
    ) -> dict[K, T | Unanswered]:
        """See ``ports.Tasks``."""
        futures = {key: self._begin(f"ask {key}", call) for key, call in calls.items()}
        wait_for([future for future in futures.values() if future is not None], timeout=timeout_seconds)
        results: dict[K, T | Unanswered] = {}
        for key, future in futures.items():
            if future is None:
                results[key] = Unanswered(self._busy)
            elif not future.done():
                results[key] = Unanswered(f"no answer within {timeout_seconds:g} s")
            else:
                error = future.exception()
                results[key] = error if isinstance(error, Unanswered) else future.result()
        return results

    def spawn(self, name: str, call: Callable[[], None]) -> None:
        """See ``ports.Tasks``."""
        begun = self._begin(name, call)
        if begun is None:
            raise Unanswered(self._busy)

    def _begin(self, name: str, call: Callable[[], T]) -> Future[T] | None:
        """Start a thread; None when there are too many."""
        if not self._free.acquire(blocking=False):
            return None
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001  handed to whoever asked
                future.set_exception(error)
            finally:
                self._free.release()

        threading.Thread(target=run, name=name, daemon=True).start()
        return future
