"""What the panels show of one play (tests/grafana/play.py), on a real Prometheus and in a real browser."""

from collections.abc import Iterator, Mapping, Sequence

import pytest

from tests.grafana import chromium
from tests.grafana.asking import Series
from tests.grafana.boards import NAMES, RATE_INTERVAL, Panel, all_panels, board, filled, possible_colours
from tests.grafana.pictures import FAILING, VARIABLES, Played, height, page
from tests.grafana.preview import THEMES, WIDTH, column_options, shown
from tests.grafana.promql import parse
from tests.grafana.published import INOVEX, LINBIT, NOT_THERE, RATES_OF_SUMS
from tests.grafana.test_lint import OF_THE_ACTUATOR

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(900)]

panels = pytest.mark.parametrize("panel", all_panels(), ids=str)
tables = pytest.mark.parametrize("panel", [it for it in all_panels() if it.type == "table"], ids=str)

BAD = {"red", "orange"}
RECORDED = {
    ("fleet: Last look around", ""): "the actuator would have to be stuck for half a minute",
    ("actions: Writes that failed", ""): "no disk fails here",
    ("actions: Unforeseen failures", ""): "there is none",
    ("actions: Journal", ""): "no disk fails here",
    ("drbd: Hosts", "protocol"): "of protocols A and B there is no capture of 8.4",
    ("drbd: Hosts", "fencing"): "the site's hosts are all fenced",
    ("vm: Memory", "C"): "a guest without a system has no balloon driver that would tell",
}
"""Which panel's column shows its faults, or which query gives something, on recorded pages alone, and why not in the play."""


def over_time(of: Played, panel: Panel) -> dict[str, list[Series]]:
    """What each query gives during the whole play, each second."""
    return {target.ref: of.asked.over_time(panel, target, of.begin, of.end, 1.0) for target in panel.targets}


@panels
def test_each_query_gives_the_series_that_its_legend_needs(played, recorded, panel):
    found = over_time(played, panel)
    for target in panel.targets:
        series = found[target.ref]
        if (str(panel), target.ref) in RECORDED:
            assert not series, "it can be seen now"
            series = over_time(recorded, panel)[target.ref]
        assert series, target.expression
        have = set.union(*(set(it.labels) for it in series))
        assert set(target.legend_labels) <= have
        if panel.type == "table":
            fields = {field for field in panel.columns if not field.startswith("Value")}
            assert fields & have or not fields, target.expression


@tables
def test_each_column_of_a_table_is_filled(played, panel):
    found = over_time(played, panel)
    have = {label for series in found.values() for it in series for label in it.labels}
    values = {"Value"} if len(found) == 1 else {f"Value #{ref}" for ref, series in found.items() if series}
    assert set(panel.columns) <= have | values


def colours(
    of: Played, panel: Panel
) -> Iterator[tuple[str, Mapping[str, object], Sequence[tuple[float, str]]]]:
    """Each field of a panel that has colours: its name, its options, and which it showed when."""
    found = over_time(of, panel)
    if panel.type in {"stat", "state-timeline"}:
        yield (
            "",
            panel.defaults,
            [
                (at, shown(value, panel.defaults, at)[1])
                for series in found.values()
                for it in series
                for at, value in it.samples
            ],
        )
    if panel.type == "table":
        for field, title in panel.columns.items():
            options = column_options(panel, title)
            refs = [field.removeprefix("Value #")] if field.startswith("Value #") else list(found)
            yield (
                title,
                options,
                [
                    (at, shown(value if field.startswith("Value") else it.labels[field], options, at)[1])
                    for ref in refs
                    for it in found[ref]
                    for at, value in it.samples
                    if field.startswith("Value") or field in it.labels
                ],
            )


@panels
def test_what_shows_faults_shows_one_and_not_always(played, panel):
    for field, options, seen in colours(played, panel):
        can = possible_colours(options)
        if not can & BAD:
            continue
        bad = {at for at, colour in seen if colour in BAD}
        if (str(panel), field) in RECORDED:
            assert not bad, f"{field} can be seen now"
            continue
        assert bad, f"{field}: nothing is wrong in the whole play"
        assert len(bad) < int(played.end - played.begin), f"{field}: something is wrong in the whole play"


@pytest.mark.parametrize(("name", "field"), sorted(RECORDED.keys() - {("vm: Memory", "C")}))
def test_what_the_play_cannot_show_is_shown_all_the_same(recorded, name, field):
    (panel,) = (it for it in all_panels() if str(it) == name)
    seen = next(seen for title, _, seen in colours(recorded, panel) if title == field)
    bad = {at for at, colour in seen if colour in BAD}
    good = {at for at, colour in seen if colour not in BAD}
    assert bad
    assert min(good) < min(bad) <= max(good | bad)


@pytest.mark.parametrize("scene", ["a_vm_stands_still", "end"])
def test_at_rest_nothing_is_not_protected(played, scene):
    (panel,) = (it for it in all_panels() if str(it) == "fleet: Not protected, and why")
    assert played.asked.at(panel, panel.targets[0], played.begin, played.times[scene] - 1) == []


def test_the_reasons_are_told_apart(played):
    (panel,) = (it for it in all_panels() if str(it) == "fleet: Not protected, and why")
    found = over_time(played, panel)["A"]
    told = {(it.labels["domain"], it.labels["why"], it.labels.get("more", "")) for it in found}
    assert {
        (FAILING, "does not run where it should", ""),
        (FAILING, "no peer is UpToDate", FAILING),
        (FAILING, "its own disk is not UpToDate", FAILING),
        (FAILING, "its I/O is suspended", FAILING),
        (FAILING, "is Primary on two hosts", FAILING),
        (FAILING, "the arbiter has excluded its replica", FAILING),
    } <= told
    assert any(why == "vmheal has refused or failed" and more for _, why, more in told)
    assert not any(why.startswith(("no other host", "no DRBD")) for _, why, _ in told)


def test_a_failover_is_told(played):
    """Where the VMs ran, when they did not, and for how long vmheal worked."""
    lost, back = played.times["a_host_is_lost"], played.times["it_comes_back"]
    by_name = {str(it): it for it in all_panels()}
    ran = over_time(played, by_name["fleet: Where each VM runs"])["A"]
    where = {
        scene: {
            it.labels["host"]
            for it in ran
            for at, value in it.samples
            if value == 1 and it.labels["domain"] == FAILING and abs(at - moment) < 1
        }
        for scene, moment in (("before", played.begin + 1), ("after", back - 1))
    }
    assert where == {"before": {"v01"}, "after": {"v02"}}
    (down,) = (
        it
        for it in over_time(played, by_name["actions: VMs that were down"])["A"]
        if it.labels["domain"] == FAILING
    )
    assert any(lost < at < back for at, _ in down.samples)
    (panel,) = (it for it in all_panels() if str(it) == "actions: The last plan of each VM")
    took = played.asked.over_time(panel, panel.targets[1], lost, back, 1.0)
    (failover,) = (it for it in took if it.labels["verb"] == "failover" and it.labels["domain"] == FAILING)
    assert (failover.labels["source"], failover.labels["host"]) == ("v01", "v02")
    assert 0 < failover.last < back - lost


@pytest.mark.parametrize("name", sorted(OF_THE_ACTUATOR - {"vmheal_faults_total"}))
def test_series_of_the_actuator_are_of_no_host(played, name):
    labels = played.asked.labels_of(name)
    assert labels
    assert not labels & {"host", "domain", "resource", "name"}


@pytest.mark.parametrize("name", NAMES)
def test_variables_have_values(played, name):
    for it in board(name)["templating"]["list"]:
        if it["type"] == "query":
            said = filled(it["query"], VARIABLES[name])
            series, _, label = said.removeprefix("label_values(").removesuffix(")").rpartition(", ")
            values = played.asked.label_values(series, label, played.begin, played.end)
            assert values
            chosen = VARIABLES[name][it["name"]]
            assert chosen in values or chosen == ".+"


@pytest.mark.parametrize("name", NAMES)
def test_annotations_mark_alerts_and_plans(played, name):
    for it in board(name)["annotations"]["list"]:
        # On any host: a plan on one of them may have ended between two scrapes.
        query = f"last_over_time(({filled(it['expr'], VARIABLES[name] | {'host': '.+'})})[10m:1s])"
        found = played.asked.ask(query, played.end)
        assert found, query
        for text in (it["titleFormat"], it["textFormat"]):
            labels = {label.strip("{} ") for label in text.split() if label.startswith("{{")}
            assert labels <= set.union(*(set(each.labels) for each in found))


OTHERS = {"instance": ".+", "dom_id": FAILING, "__rate_interval": RATE_INTERVAL}


@pytest.mark.parametrize(("query", "labels"), (LINBIT | INOVEX).items())
def test_what_other_dashboards_ask_for_is_there(played, recorded, query, labels):
    """In the play, or on the recorded pages: only there is a DRBD that knows a quorum."""
    asked = filled(query, OTHERS)
    found = [it for of in (played, recorded) for it in of.asked.seen(asked, of.begin, of.end, 1.0)]
    if any(what in query for what in NOT_THERE):
        assert not found, "it can be seen now"
        return
    assert found
    assert all(labels <= it.labels.keys() for it in found)


def test_what_is_no_promql_is_no_fault_of_ours():
    with pytest.raises(ValueError, match="ranges only allowed for vector selectors"):
        parse(filled(RATES_OF_SUMS, OTHERS))


@pytest.mark.parametrize("theme", THEMES, ids=lambda it: it.name)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_drawn_and_nothing_is_cut_off(played, name, theme, tmp_path):
    drawn = page(played, name, theme, tmp_path)
    assert "No data" not in drawn.read_text()
    assert chromium.cut_off(drawn, WIDTH, height(name)) == []
    png = tmp_path / "it.png"
    chromium.picture(drawn, png, WIDTH, height(name))
    assert png.stat().st_size > 20_000, "it is empty"
