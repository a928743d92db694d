"""A fixed number of threads for calls that may hang: what hangs costs a thread, and is not asked again."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

# When no job of a round has ended for this time, another thread helps.
STALL_SECONDS = 0.1

Tool = TypeVar("Tool")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Answers(Generic[Answer]):
    """What came back in time, by key."""

    answered: Mapping[str, Answer]
    failed: Mapping[str, Exception]
    hanging: frozenset[str]  # asked, now or earlier, and not back
    not_asked: frozenset[str]  # no thread was free for them before the deadline


class _Round(Generic[Tool, Answer]):
    """The jobs of one call of `Workers.run`, taken by threads one by one until it is closed."""

    def __init__(self, jobs: Mapping[str, Callable[[Tool], Answer]]) -> None:
        self._keys = frozenset(jobs)
        self._waiting = deque(jobs.items())
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._answered: dict[str, Answer] = {}
        self._failed: dict[str, Exception] = {}

    def take(self) -> tuple[str, Callable[[Tool], Answer]] | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def put(self, key: str, answer: Answer) -> None:
        with self._lock:
            self._answered[key] = answer
            self._check()

    def fail(self, key: str, error: Exception) -> None:
        with self._lock:
            self._failed[key] = error
            self._check()

    def _check(self) -> None:
        if self.done == len(self._keys):
            self._finished.set()

    @property
    def done(self) -> int:
        return len(self._answered) + len(self._failed)

    def wait(self, seconds: float) -> bool:
        return self._finished.wait(max(0.0, seconds))

    def close(self) -> Answers[Answer]:
        with self._lock:
            not_asked = frozenset(key for key, _job in self._waiting)
            self._waiting.clear()
            answered, failed = dict(self._answered), dict(self._failed)
        hanging = self._keys - not_asked - answered.keys() - failed.keys()
        return Answers(answered, failed, hanging, not_asked)


class Workers(Generic[Tool, Answer]):
    """Runs jobs in threads that each have a tool of their own, and that end with the process."""

    def __init__(self, name: str, tool: Callable[[], Tool], *, usual: int, most: int) -> None:
        """Start nothing yet.

        Args:
            name: of the threads.
            tool: makes what each job is called with, once for each thread.
            usual: how many threads work at a round.
            most: how many there may be, with those that hang.
        """
        self._name = name
        self._tool = tool
        self._usual = usual
        self._most = most
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._queue: SimpleQueue[_Round[Tool, Answer]] = SimpleQueue()
        self._threads = 0

    def run(self, jobs: Mapping[str, Callable[[Tool], Answer]], deadline: float) -> Answers[Answer]:
        """Run the jobs and return at the deadline at the latest; for one caller at a time.

        A job whose key is still running from an earlier call counts as hanging at once.

        Args:
            jobs: by a key that tells what is asked.
            deadline: in seconds of `time.monotonic()`.
        """
        with self._lock:
            busy = frozenset(self._running)
        hanging = busy & jobs.keys()
        asked = {key: job for key, job in jobs.items() if key not in hanging}
        if not asked or len(busy) >= self._most:
            return Answers({}, {}, hanging, frozenset(asked))
        jobs_round = _Round(asked)
        helpers = min(self._usual, len(asked), self._most - len(busy))
        for _ in range(helpers):
            self._send(jobs_round, len(busy) + helpers)
        done = 0
        while not jobs_round.wait(min(STALL_SECONDS, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                break
            if jobs_round.done == done and len(busy) + helpers < self._most:
                helpers += 1
                self._send(jobs_round, len(busy) + helpers)
            done = jobs_round.done
        answers = jobs_round.close()
        return Answers(answers.answered, answers.failed, answers.hanging | hanging, answers.not_asked)

    def _send(self, jobs_round: _Round[Tool, Answer], threads: int) -> None:
        """Let one more thread work at the round; `threads` is how many must exist for that."""
        if self._threads < threads:
            self._threads += 1
            threading.Thread(target=self._loop, name=f"{self._name}-{self._threads}", daemon=True).start()
        self._queue.put(jobs_round)

    def _loop(self) -> None:
        tool = self._tool()
        while True:
            jobs_round = self._queue.get()
            while (taken := jobs_round.take()) is not None:
                key, job = taken
                with self._lock:
                    self._running.add(key)
                try:
                    answer = job(tool)
                except Exception as error:  # noqa: BLE001  it is the caller's, and must cost no thread
                    with self._lock:
                        self._running.discard(key)
                    jobs_round.fail(key, error)
                else:
                    with self._lock:
                        self._running.discard(key)
                    jobs_round.put(key, answer)
