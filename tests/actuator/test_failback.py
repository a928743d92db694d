"""A domain that runs elsewhere goes back to its own host, or not, as the site wants it."""

from dataclasses import replace

import pytest

from actuator.core.decide import decide
from actuator.core.failback import Failback, goes_back
from actuator.model import DomainState, Nothing, PlanStatus
from exporter.drbd import DiskState, Role
from tests.actuator.world import IN_ORDER, Guest, Machine, World, alert, settings

AWAY = replace(IN_ORDER, holder="v02")
AFTER_SECONDS = 60


@pytest.mark.parametrize("idle", [True, False])
@pytest.mark.parametrize("well_seconds", [0, 59, 60, 1e9])
@pytest.mark.parametrize("policy", Failback)
def test_when_it_is_time(policy, well_seconds, idle):
    expected = well_seconds >= 60 and policy in (
        {Failback.PREFERRED} | ({Failback.WHEN_IDLE} if idle else set())
    )
    assert goes_back(policy, well_seconds=well_seconds, after_seconds=60, idle=idle) == expected


@pytest.fixture
def start(folders, clock, machines):
    """The domain runs on v02; its own host is v01, and works."""

    def begin(policy, *, cold=True, xen=True):
        world = World(xen=xen)
        world.guests = {"v01": Guest(), "v02": Guest(DomainState.RUNNING, 7)}
        world.replicas["v01", "voms01"].role = Role.SECONDARY
        world.replicas["v02", "voms01"].role = Role.PRIMARY
        path = folders() / "journal"
        uri = "xen+ssh://v01/system" if xen else "qemu:///system"
        host = {"address": "localhost", "libvirt_uri": uri}
        config = settings(
            path,
            hosts={"v01": host, "v02": host},
            move={"failback": policy, "failback_seconds": AFTER_SECONDS, "cold": cold},
        )
        machine = Machine(world, path, clock, config=config)
        record = machine.record
        moved = replace(record, version=record.version + 1, host="v02")
        machine.journal.commit(record=moved, authorities=[AWAY])
        world.journal = machine.journal
        machines.append(machine)
        return world, machine

    return begin


@pytest.mark.parametrize("policy", ["when_idle", "preferred"])
@pytest.mark.parametrize("xen", [True, False])
def test_it_goes_back_once_its_host_has_been_well_for_long_enough(start, policy, xen):
    world, machine = start(policy, xen=xen)
    machine.run(AFTER_SECONDS - 5, keeps=True)
    assert world.running == ["v02"]
    machine.run(3 * AFTER_SECONDS, keeps=True)
    assert (world.running, world.violations) == (["v01"], [])
    assert machine.record.host == "v01"
    assert machine.record.plan.status is PlanStatus.SUCCEEDED
    assert machine.record.plan.plan.reason.startswith("v01 is well again")
    assert ("migrate" in world.calls) is not xen
    number = machine.record.plan.id
    machine.run(3 * AFTER_SECONDS, keeps=True)
    assert machine.record.plan.id == number


def test_never_is_never(start):
    world, machine = start("never")
    machine.run(5 * AFTER_SECONDS, keeps=True)
    assert world.running == ["v02"]
    assert machine.record.plan is None


def test_where_it_cannot_be_done_easily_nothing_is_done_and_nobody_is_warned(start):
    world, machine = start("preferred", cold=False)
    machine.run(5 * AFTER_SECONDS, keeps=True)
    assert world.running == ["v02"]
    assert machine.record.plan is None
    assert machine.record.escalation is None


def test_not_to_a_disk_that_is_not_current(start):
    world, machine = start("preferred")
    world.replicas["v01", "voms01"].disk = DiskState.INCONSISTENT
    machine.run(5 * AFTER_SECONDS, keeps=True)
    assert world.running == ["v02"]
    assert machine.record.escalation is None
    said = decide(machine.worker.question(machine.record))
    assert isinstance(said, Nothing)
    assert "does not go back to v01 now: voms01/0 on v01 is Inconsistent" in said.sentence


def test_when_idle_waits_for_the_last_alert(start, clock):
    world, machine = start("when_idle")
    world.alertmanager = [alert(clock.wall(), action="evacuate", fingerprint="x", domain="")]
    world.alertmanager = [replace(it, labels=it.labels | {"host": "v09"}) for it in world.alertmanager]
    machine.run(3 * AFTER_SECONDS, keeps=True)
    assert world.running == ["v02"]
    world.alertmanager = []
    machine.run(2 * AFTER_SECONDS, keeps=True)
    assert world.running == ["v01"]


def test_the_time_begins_anew_when_its_host_was_silent(start):
    world, machine = start("preferred")
    machine.run(AFTER_SECONDS - 10, keeps=True)
    world.silent.add("v01")
    machine.run(10, keeps=True)
    world.silent.clear()
    machine.run(AFTER_SECONDS - 10, keeps=True)
    assert world.running == ["v02"]
    machine.run(2 * AFTER_SECONDS, keeps=True)
    assert world.running == ["v01"]
