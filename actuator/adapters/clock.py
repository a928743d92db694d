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
    ``max_threads`` a question waits for one, as long as its answer would be waited for. What is done in the
    background has ``max_spawned`` of its own: it asks questions, and must not wait for itself.
    """

    def __init__(self, max_threads: int = 512, max_spawned: int = 512) -> None:
        self._calls = threading.BoundedSemaphore(max_threads)
        self._spawned = threading.BoundedSemaphore(max_spawned)
        self._calls_busy = f"{max_threads} calls are under way already"
        self._spawned_busy = f"{max_spawned} things are under way already"

    def gather(
        self, calls: Mapping[K, Callable[[], T]], *, timeout_seconds: float
    ) -> dict[K, T | Unanswered]:
        """See ``ports.Tasks``."""
        deadline = time.monotonic() + timeout_seconds
        futures = {
            key: _begin(f"ask {key}", call, self._calls, max(0.0, deadline - time.monotonic()))
            for key, call in calls.items()
        }
        begun = [future for future in futures.values() if future is not None]
        wait_for(begun, timeout=max(0.0, deadline - time.monotonic()))
        results: dict[K, T | Unanswered] = {}
        for key, future in futures.items():
            if future is None:
                results[key] = Unanswered(self._calls_busy)
            elif not future.done():
                results[key] = Unanswered(f"no answer within {timeout_seconds:g} s")
            else:
                error = future.exception()
                results[key] = error if isinstance(error, Unanswered) else future.result()
        return results

    def spawn(self, name: str, call: Callable[[], None]) -> None:
        """See ``ports.Tasks``."""
        if _begin(name, call, self._spawned, 0.0) is None:
            raise Unanswered(self._spawned_busy)


def _begin(
    name: str, call: Callable[[], T], places: threading.Semaphore, timeout_seconds: float
) -> Future[T] | None:
    """Start a thread; None when none of the places was free in time."""
    if not places.acquire(timeout=timeout_seconds):
        return None
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  handed to whoever asked
            future.set_exception(error)
        finally:
            places.release()

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
