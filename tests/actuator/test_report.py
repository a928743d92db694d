"""What the actuator says of itself on /metrics."""

import threading
import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from actuator.model import (
    Authority,
    DomainRecord,
    Escalation,
    EscalationKind,
    Event,
    HostRecord,
    Order,
    Plan,
    PlanRecord,
    PlanStatus,
)
from actuator.ports import Conflict, JournalError
from actuator.protected import Protected
from actuator.report import Report, WatchedJournal
from actuator.serve import Actuator
from tests.actuator.world import Clock, Machine, World, alert, settings


@pytest.fixture
def watched(folders):
    """A machine whose journal is watched, with its report."""
    path = folders() / "journal"
    config = settings(path)
    report = Report(config)
    machine = Machine(World(), path, Clock(), config=config)
    machine.journal = WatchedJournal(machine.journal, report)
    report.show(Protected(config, machine.journal))
    yield machine, report
    machine.close()


def test_events_become_metrics_once_they_are_durable(watched):
    machine, report = watched
    value = report.registry.get_sample_value
    finished = {"verb": "restart", "outcome": "succeeded", "seconds": 2.0}
    events = [
        Event(1.0, "refused", "no", "voms01", "v01", detail={"guard": "is_down"}),
        Event(1.0, "observed", "so", "voms01", "v01", detail={"seconds": 0.2}),
        Event(
            1.0, "outcome", "done", "voms01", "v01", "p", {"step": "start", "outcome": "done", "seconds": 1.0}
        ),
        Event(1.0, "finished", "done", "voms01", "v01", "p", finished),
    ]
    plans = {"verb": "restart", "outcome": "succeeded"}
    started = {"step": "start", "outcome": "done"}
    for name, labels in (
        ("vmheal_plans_total", plans),
        ("vmheal_plan_duration_seconds_count", plans),
        ("vmheal_step_duration_seconds_count", started),
        ("vmheal_step_duration_seconds_count", started | {"outcome": "failed"}),
        ("vmheal_events_total", {"kind": "refused"}),
    ):
        assert value(name, labels) == 0, "there before the first one, so that it is an increase"
    machine.journal.commit(events=events)
    assert value("vmheal_refusals_total", {"guard": "is_down"}) == 1
    assert value("vmheal_events_total", {"kind": "refused"}) == 1
    assert value("vmheal_observation_duration_seconds_sum") == pytest.approx(0.2)
    assert value("vmheal_step_duration_seconds_count", {"step": "start", "outcome": "done"}) == 1
    assert value("vmheal_plans_total", plans) == 1
    assert value("vmheal_journal_write_duration_seconds_count") == 1
    with pytest.raises(Conflict):
        machine.journal.commit(record=DomainRecord("voms01", 9, "v01"), events=events)
    assert value("vmheal_refusals_total", {"guard": "is_down"}) == 1, "it was not durable"


def test_a_write_that_fails_is_counted_and_one_that_another_came_before_is_not(watched, monkeypatch):
    machine, report = watched

    def fails(**_):
        raise JournalError("the disk is full")

    with pytest.raises(Conflict):
        machine.journal.commit(record=DomainRecord("voms01", 9, "v01"))
    assert report.registry.get_sample_value("vmheal_journal_errors_total") == 0
    monkeypatch.setattr(machine._file, "commit", fails)
    with pytest.raises(JournalError):
        machine.journal.commit(record=DomainRecord("voms01", 1, "v01"))
    assert report.registry.get_sample_value("vmheal_journal_errors_total") == 1


def test_pauses_drains_and_plans_that_stand(watched):
    machine, report = watched
    value = report.registry.get_sample_value
    paused, voms01 = "vmheal_paused_until_timestamp_seconds", {"domain": "voms01", "host": ""}
    assert value(paused, voms01) is None
    plan = Plan("migrate", "voms01", "v02", "it is moved", ())
    record = DomainRecord("voms01", 1, "v01", paused=Order("ann", 1.0, until_at=900.0))
    machine.journal.commit(
        record=replace(record, plan=PlanRecord("p1", plan, PlanStatus.OPEN, 5.0, ())),
        hosts=[
            HostRecord("", 1, paused=Order("ann", 1.0)),
            HostRecord("v02", 1, drained=Order("ann", 1.0)),
        ],
    )
    assert value(paused, voms01) == 900.0
    assert value(paused, {"domain": "", "host": ""}) == float("inf")
    assert value("vmheal_host_order", {"host": "v02", "order": "drained"}) == 1
    assert not value("vmheal_host_order", {"host": "v01", "order": "drained"})
    begun = {"domain": "voms01", "host": "v02", "verb": "migrate"}
    assert value("vmheal_plan_begun_timestamp_seconds", begun) == 5.0
    ended = PlanRecord("p1", plan, PlanStatus.SUCCEEDED, 5.0, ())
    machine.journal.commit(record=replace(record, version=2, paused=None, plan=ended))
    assert value("vmheal_plan_begun_timestamp_seconds", begun) is None
    assert value(paused, voms01) is None


def test_a_proof_that_is_none_is_shown():
    for drbd_only in (False, True):
        report = Report(settings("/nonexistent/journal", failover={"drbd_only": drbd_only}))
        assert report.registry.get_sample_value("vmheal_failover_drbd_only") == drbd_only


def test_faults_count_from_0_in_each_loop(tmp_path):
    """`increase()` would miss the first one else."""
    path = tmp_path / "journal"
    config = settings(path)
    report = Report(config)
    machine = Machine(World(), path, Clock(), config=config)
    actuator = Actuator(machine.ports, config, report, threading.Event())
    for thread in actuator._threads:
        assert report.registry.get_sample_value("vmheal_faults_total", {"where": thread.name}) == 0
    machine.close()


def test_an_event_is_reported_whatever_its_detail_is_called(watched):
    machine, _ = watched
    detail = {"host": "v02", "domain": "x", "plan": "p", "said": "s", "event": "e", "level": "l", "more": 1}
    with capture_logs() as lines:
        machine.journal.commit(events=[Event(1.0, "ordered", "so", "voms01", "v01", detail=detail)])
    (line,) = lines
    assert (line["event"], line["domain"], line["host"], line["said"]) == ("ordered", "voms01", "v01", "so")
    assert line["more"] == 1


def test_the_line_counts_itself(folders):
    path = folders() / "journal"
    config = settings(path)
    report = Report(config)
    world = World()
    machine = Machine(
        world, path, Clock(), config=config, watch=lambda journal: WatchedJournal(journal, report)
    )
    world.crash()
    machine.receive(alert())
    machine.close()
    value = report.registry.get_sample_value
    assert value("vmheal_plans_total", {"verb": "restart", "outcome": "succeeded"}) == 1
    assert value("vmheal_step_duration_seconds_count", {"step": "start", "outcome": "done"}) == 1
    assert value("vmheal_step_duration_seconds_count", {"step": "confirm", "outcome": "done"}) == 1
    assert value("vmheal_observation_duration_seconds_count") == 1


def test_where_domains_should_run_and_what_warnings_stand(watched):
    machine, report = watched
    value = report.registry.get_sample_value
    assert value("vmheal_domain_expected", {"domain": "voms01", "host": "v01"}) == 1
    assert value("vmheal_domain_expected", {"domain": "voms01", "host": "v02"}) == 0
    warning = Escalation(EscalationKind.REFUSED, "v02", "is_down", "it is paused", 1.0)
    machine.journal.commit(record=DomainRecord("voms01", 1, "v02", escalation=warning))
    machine.journal.commit(record=DomainRecord("stranger", 1, "v01"))
    labels = {"domain": "voms01", "host": "v02", "alertname": "VMHealRefused", "guard": "is_down"}
    assert value("vmheal_escalation", labels) == 1
    assert value("vmheal_domain_expected", {"domain": "voms01", "host": "v01"}) == 0
    assert value("vmheal_domain_expected", {"domain": "voms01", "host": "v02"}) == 1
    assert value("vmheal_domain_expected", {"domain": "stranger", "host": "v01"}) is None
    assert value("vmheal_plans_open") == 0
    assert value("vmheal_journal_up") == 1


def test_plans_of_a_domain_are_shown(watched):
    machine, report = watched
    value = report.registry.get_sample_value
    plan = Plan("failover", "voms01", "v02", "so", (), source="v01")
    begun = PlanRecord("p", plan, PlanStatus.OPEN, 100.0, ())
    labels = {"domain": "voms01", "host": "v02", "source": "v01", "verb": "failover"}
    machine.journal.commit(record=DomainRecord("voms01", 1, "v01", plan=begun))
    assert value("vmheal_domain_plan_open", labels) == 1
    done = replace(begun, status=PlanStatus.SUCCEEDED, finished_at=112.5)
    machine.journal.commit(record=DomainRecord("voms01", 2, "v02", plan=done))
    assert value("vmheal_domain_plan_open", labels) is None
    ended = labels | {"outcome": "succeeded"}
    assert value("vmheal_domain_plan_duration_seconds", ended) == 12.5
    assert value("vmheal_domain_plan_finished_timestamp_seconds", ended) == 112.5


def test_what_was_ordered_of_hosts_is_shown(watched):
    machine, report = watched
    now = time.time()
    over = Order("a", now - 20, until_at=now - 10)
    machine.journal.commit(
        hosts=[
            HostRecord("", 1, paused=Order("a", now)),
            HostRecord("v01", 1, failed_at=now, paused=over),
            HostRecord("v02", 1, drained=Order("a", now), down=Order("a", now)),
        ]
    )
    shown = {
        (sample.labels["host"], sample.labels["order"])
        for family in report.registry.collect()
        for sample in family.samples
        if sample.name == "vmheal_host_order" and sample.value
    }
    assert shown == {("all", "paused"), ("v01", "failed"), ("v02", "drained"), ("v02", "down")}
    assert report.registry.get_sample_value("vmheal_host_order", {"host": "v01", "order": "paused"}) == 0


def test_who_may_be_primary_and_whose_data_are_current_is_shown(watched):
    machine, report = watched
    authority = Authority("voms01", ("v01", "v02"), 1, "v02", frozenset({"v02"}))
    machine.journal.commit(authorities=[authority])
    value = report.registry.get_sample_value
    for host, may in (("v01", 0), ("v02", 1)):
        assert value("vmheal_authority", {"resource": "voms01", "host": host}) == may
        assert value("vmheal_replica_admitted", {"resource": "voms01", "host": host}) == may


def test_a_journal_that_cannot_be_read_is_said_and_nothing_is_invented(watched, monkeypatch):
    machine, report = watched

    def fail():
        raise JournalError("gone")

    monkeypatch.setattr(machine._file, "records", fail)
    value = report.registry.get_sample_value
    assert value("vmheal_journal_up") == 0
    assert value("vmheal_domain_expected", {"domain": "voms01", "host": "v01"}) is None


def test_the_mode_is_shown():
    report = Report(settings("/nonexistent/journal", mode="observe"))
    assert report.registry.get_sample_value("vmheal_mode", {"mode": "observe"}) == 1
    assert report.registry.get_sample_value("vmheal_mode", {"mode": "enforce"}) == 0


def test_who_answered_reconcile_is_shown(watched):
    machine, report = watched
    for silent in ({"v01"}, set()):
        machine.world.silent = silent
        machine.reconciler.turn()
        report.reconciled(machine.reconciler.last_at, machine.reconciler.answered)
        up = {
            sample.labels["source"]: sample.value
            for family in report.registry.collect()
            for sample in family.samples
            if sample.name == "vmheal_source_up"
        }
        libvirt = {source: value for source, value in up.items() if source.startswith("libvirt")}
        assert libvirt == {"libvirt on v01": float(not silent), "libvirt on v02": 1.0}
        assert up.keys() - libvirt.keys() == {"Alertmanager", "Prometheus"}
        assert report.registry.get_sample_value("vmheal_reconcile_timestamp_seconds") == (
            machine.reconciler.last_at
        )


def test_what_the_actuator_says_links_to_the_sites_runbooks(tmp_path):
    path = tmp_path / "journal"
    world, config = World(), settings(path, runbooks_url="https://example.org/runbooks/")
    machine = Machine(world, path, Clock(), config=config)
    warning = Escalation(EscalationKind.GAVE_UP, "v01", "attempts_left", "three failed", 1.0)
    machine.journal.commit(record=DomainRecord("voms01", 1, "v01", escalation=warning))
    Actuator(machine.ports, config, Report(config), threading.Event()).reconciler.turn()
    links = [it.annotations["runbook_url"] for it in world.sent]
    assert links == ["https://example.org/runbooks/VMHealGaveUp.md"]
    machine.close()
