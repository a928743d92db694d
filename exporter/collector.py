"""What a collector is: one source of metrics, read at scrape time, that may fail alone."""

from collections.abc import Iterable
from typing import Protocol

from prometheus_client.metrics_core import Metric


class CollectorError(Exception):
    """A collector could not read its source; the message is a sentence for the operator."""


class Collector(Protocol):
    """One source of metrics.

    The framework (`exporter.scrape`) runs `collect` in a thread of its own, never twice at the same time,
    and waits for it no longer than the deadline: a collector that hangs is reported as failed, at once
    in later scrapes too, until its thread has come back.
    """

    @property
    def name(self) -> str:
        """The name in `--collector.NAME` and `collect[]=NAME`."""

    def collect(self, deadline: float) -> Iterable[Metric]:
        """Read the source and return its metrics.

        Args:
            deadline: when the answer is worth nothing any more, in seconds of `time.monotonic()`. Every
                wait and every child process that can have an end gets one before it.

        Raises:
            CollectorError: the source could not be read.
        """

    def down(self) -> Iterable[Metric]:
        """Return what the page says instead when `collect` raised or hangs, like `libvirt_up 0`.

        Called in the scrape's thread: it reads nothing and never waits.
        """

    def close(self) -> None:
        """Give back connections and child processes; called once, when the exporter ends."""
