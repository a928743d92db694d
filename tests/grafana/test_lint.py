"""The rules of Grafana's dashboard-linter, on the committed files."""

import pytest
from grafana_foundation_sdk.models import units

from tests.grafana.boards import NAMES, RATE_INTERVAL, all_panels, board, filled, possible_colours
from tests.grafana.promql import Selector, parse, selectors

panels = pytest.mark.parametrize("panel", all_panels(), ids=str)
each_board = pytest.mark.parametrize("name", NAMES)

ANY = {
    "host": "v01", "domain": "d", "name": "n", "resource": "n", "__range": "1h", "__rate_interval": RATE_INTERVAL
}  # fmt: skip
"""Some value for each variable."""
OF_THE_ACTUATOR = {
    "vmheal_mode", "vmheal_build_info", "vmheal_reconcile_timestamp_seconds", "vmheal_plans_total",
    "vmheal_events_total", "vmheal_plan_duration_seconds_sum", "vmheal_plan_duration_seconds_count",
    "vmheal_step_duration_seconds_sum", "vmheal_step_duration_seconds_count", "vmheal_refusals_total",
    "vmheal_source_up", "vmheal_observation_duration_seconds_bucket",
    "vmheal_journal_write_duration_seconds_bucket", "vmheal_notifications_received_total", "vmheal_journal_up",
    "vmheal_journal_errors_total", "vmheal_faults_total",
}  # fmt: skip
"""Series of the one actuator, which are of no host; tests/grafana/test_panels.py sees that they are not."""
FIRST_COUNTS = {"vmheal_faults_total", "vmheal_refusals_total"}
"""Counters whose series begin with the first one, which `increase` does not see."""
KEYS = {"host", "conn_name", "domain", "name", "resource"}


INSTEAD = (
    "a series is chosen by host, domain or a resource's name, and comes from one job only, but for `up`: see"
    " test_template_instance_rule and test_target_required_matchers"
)
RULES = {
    "template-datasource-rule": "test_template_datasource_rule",
    "template-job-rule": INSTEAD,
    "template-instance-rule": INSTEAD,
    "template-label-promql-rule": "test_template_label_promql_rule",
    "template-on-time-change-reload-rule": "test_template_instance_rule",
    "panel-datasource-rule": "test_panel_datasource_rule",
    "panel-title-description-rule": "test_panel_title_description_rule",
    "panel-units-rule": "test_panel_units_rule",
    "panel-no-targets-rule": "test_panel_no_targets_rule",
    "target-logql-rule": "there is no Loki",
    "target-logql-auto-rule": "there is no Loki",
    "target-promql-rule": "test_target_promql_rule",
    "target-rate-interval-rule": "test_target_rate_interval_rule",
    "target-job-rule": INSTEAD,
    "target-instance-rule": INSTEAD,
    "target-counter-agg-rule": "test_target_counter_agg_rule",
    "uneditable-dashboard": "test_template_uneditable_rule",
}
"""Those that github.com/grafana/dashboard-linter, docs/index.md, lists (at b9474179a67c): the test, or why there is none."""


def test_each_rule_has_its_test():
    for test in RULES.values():
        assert test in globals() or " " in test, test


@each_board
def test_template_datasource_rule(name):
    (source,) = (it for it in board(name)["templating"]["list"] if it["type"] == "datasource")
    assert (source["name"], source["label"], source["query"]) == ("datasource", "Data source", "prometheus")


@each_board
def test_template_instance_rule(name):
    """A variable for what chooses the series, which asks anew when the time changes; several: all are `.+`."""
    found = [it for it in board(name)["templating"]["list"] if it["type"] == "query"]
    assert found
    for it in found:
        assert it["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert it["label"]
        assert it["refresh"] == 2, "template-on-time-change-reload-rule"
        if it["multi"]:
            assert (it["includeAll"], it["allValue"]) == (True, ".+")


@each_board
def test_template_label_promql_rule(name):
    for it in board(name)["templating"]["list"]:
        if it["type"] == "query":
            series, _, label = it["query"].removeprefix("label_values(").removesuffix(")").rpartition(", ")
            assert selectors(parse(filled(series, ANY)))
            assert label.isidentifier()


@each_board
def test_template_uneditable_rule(name):
    assert board(name)["editable"] is False


@panels
def test_panel_datasource_rule(panel):
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert panel.raw["datasource"] == chosen
    assert all(target["datasource"] == chosen for target in panel.raw["targets"])


@each_board
def test_annotations_use_the_chosen_data_source(name):
    found = board(name)["annotations"]["list"]
    assert len(found) >= 2
    for it in found:
        assert it["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert parse(filled(it["expr"], ANY))


@panels
def test_panel_title_description_rule(panel):
    assert panel.title
    assert panel.raw["description"].endswith(".")


def test_titles_are_unique_within_a_board():
    for name in NAMES:
        titles = [panel.title for panel in all_panels() if panel.board == name]
        assert sorted(titles) == sorted(set(titles))


@panels
def test_panel_units_rule(panel):
    known = {
        value for key, value in vars(units).items() if not key.startswith("_") and isinstance(value, str)
    }
    assert panel.defaults["unit"] in known
    for override in panel.overrides.values():
        assert override.get("unit", "none") in known


@panels
def test_colours_are_of_the_palette(panel):
    """Grafana has a shade of each for either theme; a colour of one's own would be right in one of them only."""
    known = {"green", "orange", "red", "blue", "purple", "text", "transparent"}
    for options in (panel.defaults, *panel.overrides.values()):
        assert possible_colours(options) <= known


@panels
def test_panel_no_targets_rule(panel):
    assert panel.targets


@panels
def test_target_promql_rule(panel):
    for target in panel.targets:
        assert parse(filled(target.expression, ANY))


@panels
def test_target_rate_interval_rule(panel):
    """A rate over what the screen can show; or what is rare, over all that is shown."""
    for target in panel.targets:
        for it in selectors(
            parse(filled(target.expression, ANY | {"__rate_interval": "77s", "__range": "78s"}))
        ):
            if it.function in {"rate", "irate", "increase"}:
                assert it.range_seconds in ({77.0} if panel.type == "timeseries" else {77.0, 78.0})


@panels
def test_target_counter_agg_rule(panel):
    """A counter is never shown as it is, but for one whose first sample would be lost."""
    for target in panel.targets:
        for it in selectors(parse(filled(target.expression, ANY))):
            if it.name.endswith("_total") and it.name not in FIRST_COUNTS:
                assert it.function in {"rate", "irate", "increase"}, it


@panels
def test_target_required_matchers(panel):
    def is_chosen(it: Selector) -> bool:
        if it.name == "up":
            assert it.matchers["job"] == "vmheal-state"
        if panel.board == "drbd" and it.name == "ALERTS":
            return "name" in it.matchers
        return bool(KEYS & it.matchers.keys()) or it.name in OF_THE_ACTUATOR

    for target in panel.targets:
        for it in selectors(parse(filled(target.expression, ANY))):
            assert is_chosen(it), it


@panels
def test_legends_name_their_series(panel):
    """As many series as there may be, so many names."""
    for target in panel.targets:
        if panel.type in {"timeseries", "state-timeline"}:
            assert target.legend != "__auto", target.expression
