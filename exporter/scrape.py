"""One scrape: the selected collectors, each in its own thread, none waited for beyond the deadline."""

import threading
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from exporter.collector import Collector, CollectorError

log = structlog.get_logger()


@dataclass
class _Run:
    """One run of a collector; written by its thread until `done`, read by the scrapes afterwards."""

    deadline: float
    started: float = field(default_factory=time.monotonic)
    done: threading.Event = field(default_factory=threading.Event)
    seconds: float = 0.0
    metrics: Sequence[Metric] = ()
    error: str | None = None


class _Runner:
    """Runs one collector in a thread of its own, never twice at the same time."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self._lock = threading.Lock()
        self._current: _Run | None = None
        self._queue: SimpleQueue[_Run] = SimpleQueue()  # holds one run at most: `start` sees to it
        self._thread: threading.Thread | None = None
        self._last_error: str | None = None

    def start(self, deadline: float) -> _Run:
        """Return the run to wait for: a new one, or the one in flight, which a second scrape shares."""
        with self._lock:
            if self._current is None:
                self._current = _Run(deadline)
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._loop, name=f"collector-{self.collector.name}", daemon=True
                    )
                    self._thread.start()
                self._queue.put(self._current)
            return self._current

    def _loop(self) -> None:
        while True:
            run = self._queue.get()
            try:
                run.metrics = list(self.collector.collect(run.deadline))
            except CollectorError as error:
                run.error = str(error)
            except Exception as error:  # one collector's bug must not take the page down
                log.exception("collector failed unexpectedly", collector=self.collector.name)
                run.error = f"{type(error).__name__}: {error}"
            run.seconds = time.monotonic() - run.started
            with self._lock:
                self._current = None
            run.done.set()

    def finish(self, run: _Run, deadline: float) -> tuple[bool, float, Iterable[Metric]]:
        """Wait for the run and return success, seconds and metrics.

        A run past its own deadline is stuck: it is not waited for again.
        """
        now = time.monotonic()
        if run.done.wait(max(0.0, deadline - now) if now < run.deadline else 0.0):
            error, seconds = run.error, run.seconds
        else:
            seconds = time.monotonic() - run.started
            error = "it hangs: no answer before the deadline"
        self._say(error, seconds)
        return error is None, seconds, self.collector.down() if error else run.metrics

    def _say(self, error: str | None, seconds: float) -> None:
        """Log a failure when it begins, changes and ends, not at each scrape."""
        with self._lock:
            changed, self._last_error = error != self._last_error, error
        if changed and error:
            log.error(
                "collector failed", collector=self.collector.name, error=error, seconds=round(seconds, 3)
            )
        elif changed:
            log.info("collector works again", collector=self.collector.name)


class UnknownCollectorError(Exception):
    """`collect[]` names a collector that does not exist or is switched off; the message says which exist."""


class Scraper:
    """Answers scrapes from a fixed set of collectors."""

    def __init__(self, collectors: Iterable[Collector]) -> None:
        """Start nothing yet: a collector's thread begins with its first run."""
        self._runners = {collector.name: _Runner(collector) for collector in collectors}

    @property
    def names(self) -> tuple[str, ...]:
        """The collectors' names, in the order of the page."""
        return tuple(self._runners)

    def select(self, names: Collection[str]) -> tuple[str, ...]:
        """Return the collectors that `collect[]` asked for, all when it named none.

        Raises:
            UnknownCollectorError: one of them is not there.
        """
        for name in names:
            if name not in self._runners:
                raise UnknownCollectorError(
                    f"no collector {name!r} runs here; there are: {', '.join(self._runners)}"
                )
        return tuple(name for name in self._runners if not names or name in names)

    def scrape(self, names: Iterable[str], deadline: float) -> list[Metric]:
        """Run the collectors and return the page's metrics, at the deadline at the latest.

        Args:
            names: what `select` returned.
            deadline: in seconds of `time.monotonic()`.
        """
        success = GaugeMetricFamily(
            "vmheal_exporter_collector_success",
            "Whether the collector answered without an error and in time: 1 or 0.",
            labels=["collector"],
        )
        duration = GaugeMetricFamily(
            "vmheal_exporter_collector_duration_seconds",
            "How long the collector ran; for one that hangs, how long it has been running.",
            labels=["collector"],
        )
        page: list[Metric] = []
        runs = [(name, self._runners[name].start(deadline)) for name in names]
        for name, run in runs:
            ok, seconds, metrics = self._runners[name].finish(run, deadline)
            success.add_metric([name], float(ok))
            duration.add_metric([name], seconds)
            page.extend(metrics)
        return [*page, success, duration]

    def close(self, seconds: float) -> None:
        """Close all collectors, at the same time, and wait no longer than `seconds` for them."""
        threads = [
            threading.Thread(target=runner.collector.close, daemon=True) for runner in self._runners.values()
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + seconds
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
