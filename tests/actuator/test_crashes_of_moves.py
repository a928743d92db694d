"""The actuator is killed at every write of its journal and at every call of a port, while it moves a VM.

However it went, in the end exactly one VM runs, with its disks, never two at once, and no window is left open.
"""

import contextlib
from dataclasses import replace

import pytest

from actuator.model import Notification
from exporter.drbd import Role
from tests.actuator.test_moves import HOST
from tests.actuator.world import EPOCH, IN_ORDER, Clock, Killed, Machine, World, alert, host_alert, settings

ORDER = Notification(
    "o1",
    EPOCH,
    True,
    {"alertname": "order", "action": "migrate", "domain": "voms01", "by": "ann"},
    "operator",
)
TWO = ("voms01", "data")


def dead(world):
    world.power_cut("v01")


def crashed(world):
    world.crash(preserved=True)


SCENARIOS = {
    "failover": (("voms01",), True, dead, host_alert()),
    "failover, two disks": (TWO, True, dead, host_alert()),
    "cold, two disks": (TWO, True, crashed, alert(action="migrate")),
    "live, two disks": (TWO, False, lambda world: None, ORDER),
}


def make(name):
    resources, xen, happen, notification = SCENARIOS[name]
    return World(resources=resources, xen=xen), happen, notification


def begin(world, folder, clock, **mortality):
    path = folder / "journal"
    config = settings(path, hosts={"v01": HOST, "v02": HOST})
    machine = Machine(world, path, clock, config=config, **mortality)
    if not machine.journal.authorities():
        names = world.resources
        machine._file.commit(authorities=[replace(IN_ORDER, resource=name) for name in names])
    world.journal = machine._file
    return machine


def run(name, folder, *, kill_call=None, kill_after=False, kill_write=None):
    world, happen, notification = make(name)
    clock = Clock()
    machine = begin(world, folder, clock, kill_at=kill_write, kill_after=kill_after)
    machine.journal.receive([notification], at=clock.wall()) if kill_write is None else None
    happen(world)
    world.calls.clear()
    world.kill_at, world.kill_after = kill_call, kill_after
    with contextlib.suppress(Killed):
        machine.receive(notification)
        machine.run(60, keeps=True)
    calls, writes = len(world.calls), machine.journal.writes
    machine.close()
    world.kill_at = None
    machine = begin(world, folder, clock)
    with contextlib.suppress(Killed):
        machine.run(10, keeps=True)
        # What was not accepted comes again.
        machine.receive(notification)
        machine.run(200, keeps=True)
    assert world.violations == []
    assert len(world.running) == 1, machine.timeline[-5:]
    where = world.running[0]
    assert world.guests[where].has_disks
    assert machine.record.open_plan is None
    assert machine.record.host == where
    assert world.two_primaries == set()
    other = "v01" if where == "v02" else "v02"
    assert all(world.replicas[other, name].role is Role.SECONDARY for name in world.resources)
    assert all(machine.journal.authority(name).holder == where for name in world.resources)
    machine.close()
    return calls, writes


@pytest.fixture(scope="module")
def lengths(folders):
    return {name: run(name, folders()) for name in SCENARIOS}


@pytest.mark.parametrize("kill_after", [False, True])
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_every_write(folders, lengths, name, kill_after):
    _, writes = lengths[name]
    assert writes >= 6
    for number in range(1, min(writes, 40) + 1):
        run(name, folders(), kill_write=number, kill_after=kill_after)


@pytest.mark.parametrize("kill_after", [False, True])
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_every_call(folders, lengths, name, kill_after):
    calls, _ = lengths[name]
    assert calls >= 6
    for number in range(1, min(calls, 60) + 1):
        run(name, folders(), kill_call=number, kill_after=kill_after)
