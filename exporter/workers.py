"""A fixed number of threads for calls that may hang: what hangs costs a thread, and is not asked again."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

Answer = TypeVar("Answer")
Job = Callable[[], Answer]


@dataclass(frozen=True)
class Answers(Generic[Answer]):
    """What came back in time, by key."""

    answered: Mapping[str, Answer]
    failed: Mapping[str, Exception]
    hanging: frozenset[str]  # asked, now or earlier, and not back
    not_asked: frozenset[str]  # no thread was free for them before the deadline


class _Round(Generic[Answer]):
    """The jobs of one call of `Workers.run`, taken by threads one by one until it is closed."""

    def __init__(self, jobs: Mapping[str, Job[Answer]]) -> None:
        self._lock = threading.Lock()
        self._waiting = deque(jobs.items())
        self._open = len(jobs)
        self._finished = threading.Event()
        self.answered: dict[str, Answer] = {}
        self.failed: dict[str, Exception] = {}

    def take(self) -> tuple[str, Job[Answer]] | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def put(self, key: str, answer: Answer | None, error: Exception | None) -> None:
        with self._lock:
            if error is not None:
                self.failed[key] = error
            else:
                self.answered[key] = answer  # type: ignore[assignment]  # None only together with an error
            self._open -= 1
            if not self._open:
                self._finished.set()

    def wait(self, deadline: float, asked: frozenset[str]) -> Answers[Answer]:
        self._finished.wait(max(0.0, deadline - time.monotonic()))
        with self._lock:
            not_asked = frozenset(key for key, _job in self._waiting)
            self._waiting.clear()
            answered, failed = dict(self.answered), dict(self.failed)
        return Answers(answered, failed, asked - not_asked - answered.keys() - failed.keys(), not_asked)


class Workers(Generic[Answer]):
    """Runs jobs in `count` threads, which start with the first job and end with the process."""

    def __init__(self, count: int, name: str) -> None:
        """Start nothing yet."""
        self._count = count
        self._name = name
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._queue: SimpleQueue[_Round[Answer]] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def run(self, jobs: Mapping[str, Job[Answer]], deadline: float) -> Answers[Answer]:
        """Run the jobs and return at the deadline at the latest; one caller at a time.

        A job whose key is still running from an earlier call counts as hanging at once.

        Args:
            jobs: by a key that tells what is asked.
            deadline: in seconds of `time.monotonic()`.
        """
        with self._lock:
            running = frozenset(self._running)
        hanging = running & jobs.keys()
        asked = {key: job for key, job in jobs.items() if key not in hanging}
        if not asked or len(running) >= self._count:
            return Answers({}, {}, hanging, frozenset(asked))
        while len(self._threads) < self._count:
            thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()
        jobs_round = _Round(asked)
        for _ in range(min(len(asked), self._count)):
            self._queue.put(jobs_round)
        answers = jobs_round.wait(deadline, frozenset(asked))
        return Answers(answers.answered, answers.failed, answers.hanging | hanging, answers.not_asked)

    def _loop(self) -> None:
        while True:
            jobs_round = self._queue.get()
            while (taken := jobs_round.take()) is not None:
                key, job = taken
                with self._lock:
                    self._running.add(key)
                answer, error = None, None
                try:
                    answer = job()
                except Exception as raised:  # noqa: BLE001  it is the caller's, and must cost no thread
                    error = raised
                with self._lock:
                    self._running.discard(key)
                jobs_round.put(key, answer, error)
