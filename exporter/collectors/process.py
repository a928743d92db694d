"""Collector `process`: the exporter itself: its version, CPU time, memory and open files."""

import platform
from collections.abc import Iterable

from prometheus_client import ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import CollectorRegistry

from exporter import __version__


class Process:
    """The exporter's own process."""

    name = "process"

    def __init__(self) -> None:
        """Start nothing."""
        self._process = ProcessCollector(registry=CollectorRegistry())

    def collect(self, deadline: float) -> Iterable[Metric]:  # noqa: ARG002  nothing here waits
        """Read /proc/self."""
        build = GaugeMetricFamily(
            "vmheal_exporter_build_info", "The exporter's version: always 1.", labels=["version", "python"]
        )
        build.add_metric([__version__, platform.python_version()], 1.0)
        return [build, *self._process.collect()]

    def down(self) -> Iterable[Metric]:
        """Say nothing."""
        return ()

    def close(self) -> None:
        """Nothing to give back."""
