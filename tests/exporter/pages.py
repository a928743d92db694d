"""Reading metrics in tests."""

import time
from collections.abc import Iterable

from prometheus_client.metrics_core import Metric

SECONDS = 20.0

Page = dict[tuple[str, frozenset[tuple[str, str]]], float]


def collect(collector, seconds: float = SECONDS):
    """Run a collector and return its series."""
    return series(collector.collect(time.monotonic() + seconds))


def series(metrics: Iterable[Metric]) -> Page:
    """Return every sample's value by name and labels; twice the same is an error."""
    found: Page = {}
    for metric in metrics:
        for sample in metric.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, key
            found[key] = sample.value
    return found


def value(page, name: str, /, **labels: str) -> float | None:
    """Return the one value whose labels include these; None when there is none."""
    found = [
        number
        for (other, have), number in page.items()
        if other == name and labels.items() <= dict(have).items()
    ]
    assert len(found) <= 1, (name, labels, found)
    return found[0] if found else None


def ones(page, name: str, label: str, /, **labels: str) -> set[str]:
    """Return the label's values in those series that are 1."""
    return {
        dict(have)[label]
        for (other, have), number in page.items()
        if other == name and number == 1 and labels.items() <= dict(have).items()
    }
