"""What panels get from Prometheus, at one moment and over time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests

from tests.grafana.boards import RATE_INTERVAL, Panel, Target, filled

TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Series:
    """Labels and samples, each a wall clock and a value; NaN is none."""

    labels: Mapping[str, str]
    samples: Sequence[tuple[float, float]]

    @property
    def last(self) -> float:
        return self.samples[-1][1]


@dataclass(frozen=True)
class Prometheus:
    """A server, and what stands for the dashboards' variables."""

    url: str
    variables: Mapping[str, Mapping[str, str]]
    """By dashboard."""

    def over_time(self, panel: Panel, target: Target, begin: float, end: float, step: float) -> list[Series]:
        """What a query gives over a time; an instant one as it would be at each moment of it."""
        return self.seen(self._filled(panel, target, end - begin), begin, end, step)

    def seen(self, query: str, begin: float, end: float, step: float) -> list[Series]:
        """What any query gives over a time."""
        result = self._get("query_range", query=query, start=begin, end=end, step=step)
        return _series((it["metric"], it["values"]) for it in result)

    def at(self, panel: Panel, target: Target, begin: float, end: float) -> list[Series]:
        """What an instant query gives at the end of what is shown."""
        result = self._get("query", query=self._filled(panel, target, end - begin), time=end)
        return _series((it["metric"], [it["value"]]) for it in result)

    def labels_of(self, name: str) -> set[str]:
        """Every label that series of this name ever had."""
        series = self._get("series", **{"match[]": name})
        return {label for each in series for label in each} - {"__name__"}

    def names(self) -> set[str]:
        """Of all series that it has."""
        return set(self._get("label/__name__/values"))

    def label_values(self, series: str, label: str, begin: float, end: float) -> set[str]:
        """What Grafana's `label_values` gives."""
        found = self._get("series", **{"match[]": series}, start=begin, end=end)
        return {it[label] for it in found if label in it}

    def ask(self, query: str, end: float) -> list[Series]:
        """What any query gives at a moment."""
        return _series((it["metric"], [it["value"]]) for it in self._get("query", query=query, time=end))

    def _filled(self, panel: Panel, target: Target, seconds: float) -> str:
        more = {"__range": f"{math.ceil(seconds)}s", "__rate_interval": RATE_INTERVAL}
        return filled(target.expression, self.variables[panel.board] | more)

    def _get(self, path: str, **parameters: Any) -> Any:
        answer = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=TIMEOUT_SECONDS)
        said = answer.json()
        assert said["status"] == "success", f"{said} to {parameters}"
        return said["data"]["result"] if path.startswith("query") else said["data"]


def _series(found: Any) -> list[Series]:
    read = (
        Series(labels, [(at, float(value)) for at, value in samples if value != "NaN"])
        for labels, samples in found
    )
    return [it for it in read if it.samples]


def merged(panel: Panel, answers: Mapping[str, Sequence[Series]]) -> list[dict[str, Any]]:
    """A table's rows, as Grafana's transformations make them: by the columns' titles.

    Its `merge` joins the rows of all queries that gave something by the labels that all of these have.
    """
    several = len(panel.targets) > 1
    frames = {ref: series for ref, series in answers.items() if series}
    labels = {ref: {label for it in series for label in it.labels} for ref, series in frames.items()}
    common = set.intersection(*labels.values()) if labels else set()
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for ref, series in frames.items():
        for it in series:
            key = common if several else set(it.labels)
            row = rows.setdefault(tuple(it.labels.get(label, "") for label in sorted(key)), {})
            row |= dict(it.labels) | {f"Value #{ref}" if several else "Value": it.last}
    return [{title: row.get(field) for field, title in panel.columns.items()} for row in rows.values()]
