"""A VM that is up but dead: what an alert alone can say, and what may be done on its word."""

from dataclasses import replace

import pytest

from actuator.model import EscalationKind, PlanStatus
from tests.actuator.world import IN_ORDER, Machine, World, alert, settings

SETTLE_SECONDS = 120


@pytest.fixture
def start(folders, clock, machines):

    def begin(world, **more):
        path = folders() / "journal"
        machine = Machine(world, path, clock, config=settings(path, **more))
        machine.journal.commit(authorities=[IN_ORDER])
        world.journal = machine.journal
        machines.append(machine)
        return machine

    return begin


def dead(clock, **more):
    fired = alert(clock.wall(), **more)
    return replace(fired, labels=fired.labels | {"alertname": "ServiceDead", "if_running": "true"})


def fire(world, machine, clock):
    """Alertmanager delivers it, and shows it from then on."""
    fired = dead(clock)
    world.alertmanager = [fired]
    machine.receive(fired)
    return fired


def ended(world):
    return world.calls.count("shut_down")


def test_it_is_started_again_once_and_given_time(start, clock):
    world = World()
    machine = start(world)
    machine.run(3)
    fire(world, machine, clock)
    machine.run(SETTLE_SECONDS - 10)
    assert (ended(world), world.starts) == (1, 1)
    assert world.violations == []
    assert world.running == ["v01"]
    assert machine.record.plan.status is PlanStatus.SUCCEEDED
    assert "dead by the word of ServiceDead" in machine.record.plan.plan.reason
    second = dead(clock, fingerprint="f9")
    world.alertmanager.append(second)
    machine.receive(second)
    machine.run(5)
    assert (ended(world), world.starts) == (1, 1), "another alert does not shorten it"
    world.alertmanager = []
    machine.run(3 * SETTLE_SECONDS)
    assert (ended(world), world.starts) == (1, 1)
    assert machine.record.escalation is None


def test_one_that_stays_dead_moves_in_the_end(start, clock):
    world = World()
    machine = start(world)
    machine.run(3)
    fire(world, machine, clock)
    machine.run(4 * SETTLE_SECONDS)
    assert world.running == ["v02"]
    assert world.violations == []
    # Three attempts here, and then one start there.
    assert (ended(world), world.starts) == (4, 4)
    assert machine.record.host == "v02"
    assert "v01" in machine.record.suspects


def test_where_it_cannot_go_the_warning_stands_while_the_alert_does(start, clock):
    world = World()
    machine = start(world, domains={"voms01": {"host": "v01", "hosts": ["v01"]}})
    machine.run(3)
    fire(world, machine, clock)
    machine.run(5 * SETTLE_SECONDS)
    assert world.starts == 3
    assert machine.record.escalation.kind is EscalationKind.GAVE_UP
    assert "nor can it move" in machine.record.escalation.sentence
    refused = machine.kinds.count("refused")
    machine.run(60)
    assert machine.kinds.count("refused") == refused
    assert machine.record.escalation is not None
    world.alertmanager = []
    machine.run(20)
    assert machine.record.escalation is None
    assert world.running == ["v01"]


def test_an_alert_that_fires_no_more_ends_nothing(start, clock):
    """Its resolution was lost, or the delivery came late."""
    world = World()
    machine = start(world)
    machine.run(3)
    machine.receive(dead(clock))
    machine.run(60)
    assert world.running == ["v01"]
    assert (ended(world), world.starts) == (0, 0)


def test_nothing_is_ended_while_nobody_can_say_whether_it_fires(start, clock):
    world = World()
    machine = start(world)
    machine.run(3)
    world.alertmanager = world.prometheus = None
    machine.receive(dead(clock))
    machine.run(60)
    assert ended(world) == 0
    assert "postponed" in machine.kinds


def test_a_crash_while_it_is_given_time_is_seen_to_at_once(start, clock):
    world = World()
    machine = start(world)
    machine.run(3)
    fire(world, machine, clock)
    machine.run(20)
    assert world.starts == 1
    world.crash()
    machine.receive(alert(clock.wall(), fingerprint="f2"))
    assert world.starts == 2
    assert ended(world) == 1


@pytest.mark.parametrize(
    ("more", "labels"),
    [({"mode": "observe"}, {}), ({"mode": "approve"}, {}), ({}, {"if_running": "no"})],
)
def test_it_is_left_alone_where_that_is_said(start, clock, more, labels):
    world = World()
    machine = start(world, **more)
    machine.run(3)
    fired = dead(clock)
    fired = replace(fired, labels=fired.labels | labels)
    world.alertmanager = [fired]
    machine.receive(fired)
    machine.run(60)
    assert ended(world) == 0
    assert world.running == ["v01"]


def test_one_whose_disk_is_not_safe_is_not_ended(start, clock):
    world = World(connected=False)
    machine = start(world)
    machine.run(3)
    world.silent.add("v02")
    fire(world, machine, clock)
    machine.run(60)
    assert ended(world) == 0
    assert machine.record.escalation is not None
