"""The committed dashboards, as Grafana reads them: their panels, and what these ask of Prometheus."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "grafana"
NAMES = ("fleet", "host", "vm", "drbd", "actions")
RATE_INTERVAL = "60s"
"""What Grafana makes of `$__rate_interval` with the data source's `timeInterval` of 15 s: four times that."""

_VARIABLE = re.compile(r"\$([A-Za-z_]\w*)|\$\{(\w+)(?::\w+)?\}")
_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True)
class Target:
    """One query of a panel."""

    ref: str
    expression: str
    legend: str
    instant: bool

    @property
    def legend_labels(self) -> list[str]:
        """The labels that the series' names need."""
        return _LABEL.findall(self.legend)


@dataclass(frozen=True)
class Panel:
    """One panel that shows data."""

    board: str
    raw: Mapping[str, Any]

    @property
    def title(self) -> str:
        return self.raw["title"]

    @property
    def type(self) -> str:
        return self.raw["type"]

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The field options of all that it shows."""
        return self.raw["fieldConfig"]["defaults"]

    @property
    def overrides(self) -> Mapping[str, Mapping[str, Any]]:
        """Those of single columns of a table: by the column's title, then by option."""
        return {
            it["matcher"]["options"]: {option["id"]: option["value"] for option in it["properties"]}
            for it in self.raw["fieldConfig"]["overrides"]
        }

    @property
    def targets(self) -> list[Target]:
        return [
            Target(it["refId"], it["expr"], it["legendFormat"], it.get("instant", False))
            for it in self.raw["targets"]
        ]

    @property
    def columns(self) -> dict[str, str]:
        """Of a table: from the field to the column's title, in their order."""
        (organize,) = (it["options"] for it in self.raw["transformations"] if it["id"] == "organize")
        order = organize["indexByName"]
        return dict(sorted(organize["renameByName"].items(), key=lambda it: order[it[0]]))

    def __str__(self) -> str:
        return f"{self.board}: {self.title}"


def board(name: str) -> dict[str, Any]:
    """A dashboard's file."""
    return json.loads((FOLDER / "json" / f"{name}.json").read_text(encoding="utf-8"))


def panels(name: str) -> Iterator[Panel]:
    """Its panels but for headlines."""
    for raw in board(name)["panels"]:
        if raw["type"] != "row":
            yield Panel(name, raw)


def all_panels() -> list[Panel]:
    return [panel for name in NAMES for panel in panels(name)]


def filled(text: str, variables: Mapping[str, str]) -> str:
    """Put values for Grafana's variables: what is not among them is an error."""
    return _VARIABLE.sub(lambda found: variables[found[1] or found[2]], text)


def labelled(legend: str, labels: Mapping[str, str]) -> str:
    """The name of a series."""
    return _LABEL.sub(lambda found: labels.get(found[1], ""), legend)


def possible_colours(options: Mapping[str, Any]) -> set[str]:
    """The colours that a field with these options can have."""
    texts = {it["color"] for mapping in options.get("mappings", ()) for it in mapping["options"].values()}
    return texts | {step["color"] for step in options.get("thresholds", {}).get("steps", ())}
