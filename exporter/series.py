"""Describing series in tables: a name, what it means, and how to get the value from a thing."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from exporter.exposition import StateSet

T = TypeVar("T")
Value = float | None
Labelled = Iterable[tuple[dict[str, str], T]]


@dataclass(frozen=True)
class Figure(Generic[T]):
    """A series with one number for each T; None leaves it out."""

    name: str
    about: str
    value: Callable[[T], Value]
    type: str = "gauge"

    def family(self, things: Labelled[T]) -> Metric:
        """Return the series of all these."""
        family = Metric(self.name.removesuffix("_total"), self.about, self.type)
        family.samples = [
            Sample(self.name, labels, value)
            for labels, thing in things
            if (value := self.value(thing)) is not None
        ]
        return family


@dataclass(frozen=True)
class States(Generic[T]):
    """A StateSet for each T.

    Attributes:
        value: one state, or a tuple of those that hold at once; None leaves the T out. What is not one of
            `words`, because nobody knows it, leaves all of them at 0.
    """

    name: str
    about: str
    words: type[StrEnum]
    value: Callable[[T], object]

    def family(self, things: Labelled[T]) -> Metric:
        """Return the series of all these."""
        family = StateSet(self.name, self.about, self.words)
        for labels, thing in things:
            value = self.value(thing)
            if value is not None:
                words = value if isinstance(value, tuple) else (value,)
                family.add(labels, frozenset(word for word in words if isinstance(word, StrEnum)))
        return family


def info(name: str, about: str, things: Iterable[dict[str, str]]) -> Metric:
    """Return a metric `NAME_info` whose labels say it all; its value is 1."""
    family = Metric(name, about, "info")
    family.samples = [Sample(f"{name}_info", labels, 1) for labels in things]
    return family


def gauge(name: str, about: str, things: Iterable[tuple[dict[str, str], Value]]) -> Metric:
    """Return a gauge; where the value is None there is no series."""
    return Figure[Value](name, about, lambda value: value).family(things)
