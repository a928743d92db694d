"""docs/metrics.md, from the code: the actuator's registry, and the names that the exporter's tests hold."""

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry

from actuator.config import Settings
from actuator.receive import Counters
from actuator.reload import Reloader
from actuator.report import Report
from actuator.web import WebServer
from exporter.web_config import WebConfigFile

REPO = Path(__file__).parents[2]
CONTRACTS = ("names.txt", "names-drbd.txt")

_HEAD = """\
# Metrics

Those of the exporter on each hypervisor and of the actuator. Labels of Prometheus's own (`host`, `job`,
`instance`) come on top of the exporter's. What to know about them: [exporter](exporter.md); what is made of
them: [rules/](../rules/), [dashboards](dashboards.md).

This page is written from the code by `make reference`.
"""


def page() -> str:
    """Return the page."""
    lines = [_HEAD, "## The actuator", "", "`http://ACTUATOR:10811/metrics`", "", *_table(_actuators())]
    lines += [
        "",
        "## The exporter",
        "",
        "`http://HOST:10810/metrics`; what is marked `*` is there only where the guest,",
    ]
    lines += ["the driver or the moment gives it.", "", *_table(_exporters())]
    return "\n".join(lines) + "\n"


def _table(rows: Iterable[tuple[str, str, str, str]]) -> list[str]:
    head = ["| metric | labels | type | |", "|---|---|---|---|"]
    return head + [
        f"| `{name}` | {labels} | {kind} | {about} |" for name, labels, kind, about in sorted(rows)
    ]


def _actuators() -> Iterator[tuple[str, str, str, str]]:
    registry = _registry()
    labels: dict[str, tuple[str, ...]] = {}
    for collector, known_as in registry._collector_to_names.items():  # noqa: SLF001  it tells nowhere else
        labels |= dict.fromkeys(known_as, getattr(collector, "_labelnames", ()))
    for metric in registry.collect():
        own: Any = metric
        names = getattr(own, "_labelnames", None) or labels.get(metric.name, ())
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        yield name, ", ".join(f"`{it}`" for it in names), metric.type, metric.documentation


def _registry() -> CollectorRegistry:
    """The actuator's, with nothing in the journal and nobody asked."""
    settings = Settings.model_validate(
        {
            "journal": {"path": "/nowhere"},
            "webhook": {"token_file": "/nowhere"},
            "alertmanager": {"url": "http://nowhere"},
            "prometheus": {"url": "http://nowhere"},
            "ssh": {"key_file": "/nowhere", "known_hosts_file": "/nowhere"},
            "hosts": {"v01": {"address": "v01", "libvirt_uri": "test:///default"}},
        }
    )
    report = Report(settings)
    nothing: Any = SimpleNamespace(records=tuple, host_records=tuple, authorities=tuple, hosts=lambda _: ())
    report.show(nothing)
    report.show_readiness(tuple)
    Counters(report.registry)
    Reloader(lambda: settings, lambda _: None, report.registry)
    server = WebServer(
        lambda *_: [],
        "127.0.0.1:0",
        wants_body=lambda *_: False,
        refused=lambda *_: None,
        max_body_bytes=1024,
        request_timeout_seconds=1.0,
        registry=report.registry,
        config=WebConfigFile(None),
    )
    server.start()
    server.stop()
    return report.registry


def _exporters() -> Iterator[tuple[str, str, str, str]]:
    abouts = dict(_abouts())
    for file in CONTRACTS:
        for line in (REPO / "tests" / "exporter" / file).read_text(encoding="utf-8").splitlines():
            found = re.fullmatch(r"(sometimes )?([a-z0-9_]+)(?:\{(.*)\})? ([a-z]+)", line)
            if found is None:
                continue
            sometimes, name, labels, kind = found.groups()
            shown = ", ".join(f"`{it}`" for it in (labels or "").split(",") if it)
            yield name, shown + (" *" if sometimes else ""), kind, _about(name, abouts)


def _about(name: str, abouts: dict[str, str]) -> str:
    """What is said of the metric, or of the longest end of its name: tables leave the beginning out."""
    bare = re.sub(r"_(total|info)$", "", name)
    parts = bare.split("_")
    ends = [name, *("_".join(parts[at:]) for at in range(len(parts)))]
    own = "Of the exporter's own process." if name.startswith("process_") else ""
    return next((abouts[end] for end in ends if end in abouts), own)


def _abouts() -> Iterator[tuple[str, str]]:
    """Names, or ends of names, that stand before a sentence in a call."""
    for path in sorted((REPO / "exporter").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            words = node.args if isinstance(node, ast.Call) else getattr(node, "elts", ())
            for name, about in pairwise(words):
                match name, about:
                    case ast.Constant(value=str(it)), ast.Constant(value=str(said)) if said.endswith("."):
                        yield re.sub(r"_(total|info)$", "", it), " ".join(said.split())
