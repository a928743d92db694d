"""Our text is what prometheus_client's is, only sooner."""

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    StateSetMetricFamily,
    UnknownMetricFamily,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from exporter.exposition import StateSet, render

AWKWARD = 'a "quoted\\" line\nand ünicode {x="y"}'


class Page:
    def __init__(self, metrics):
        self.metrics = metrics

    def collect(self):
        return self.metrics


def parsed(page: bytes) -> dict:
    return {
        (family.name, family.type, family.documentation): {
            (sample.name, *sorted(sample.labels.items())): repr(float(sample.value))
            for sample in family.samples
        }
        for family in text_string_to_metric_families(page.decode())
    }


def test_every_type_reads_as_prometheus_client_writes_it():
    states = StateSet("door", "The \\ door\nof the house.", ["open", "shut"])
    states.add({"room": AWKWARD}, frozenset({"open"}))
    states.add({"room": "attic"}, frozenset())
    gauge = GaugeMetricFamily("g", "Numbers.", labels=["l"])
    for value in (0, 1, True, -7, 2**63, 0.1, 1e300, float("nan"), float("inf"), float("-inf")):
        gauge.add_metric([f"{AWKWARD}{value!r}"], value)
    metrics = [
        states,
        gauge,
        GaugeMetricFamily("bare", "No label.", value=1),
        GaugeMetricFamily("empty", "No series."),
        CounterMetricFamily("c", "Counts.", value=3),
        InfoMetricFamily("i", "Says.", value={"version": AWKWARD}),
        UnknownMetricFamily("u", "Unknown.", value=4),
        StateSetMetricFamily("s", "Theirs.", value={"on": True, "off": False}),
        HistogramMetricFamily("h", "Buckets.", buckets=[("1", 2), ("+Inf", 3)], sum_value=4),
    ]
    assert parsed(render(metrics)) == parsed(generate_latest(Page(metrics)))
    assert 'door{room="attic",door="open"} 0\n' in render(metrics).decode()


def test_a_state_that_changes_is_rendered_anew():
    def page(state: str) -> bytes:
        states = StateSet("door", "The door.", ["open", "shut"])
        states.add({"room": "attic"}, frozenset({state}))
        return render([states])

    assert b'door="open"} 1' in page("open")
    assert b'door="open"} 0' in page("shut")
    assert b'door="open"} 1' in page("open")
