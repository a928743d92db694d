"""The actuator is killed at every write of its journal and at every call of a port, and started again.

However it went, in the end exactly one VM runs with its disks, and it was never started while one ran.
"""

import contextlib
from collections import deque

import pytest

from actuator.model import Failed, Indeterminate
from exporter.drbd import Role
from tests.actuator.world import Clock, Killed, Machine, World, alert, assert_ended_well

SCENARIOS = {
    "qemu": {},
    "xen preserves": {"preserved": True},
    "to be promoted": {"secondary": True},
    "two disks, preserved, to be promoted": {
        "preserved": True,
        "secondary": True,
        "resources": ("voms01", "data"),
    },
    "the first start fails": {"secondary": True, "answers": {"start": [(Failed("no memory"), False)]}},
    "a start without an answer": {"answers": {"start": [(Indeterminate("lost"), True)]}},
    "a start without answer or effect": {"answers": {"start": [(Indeterminate("lost"), False)]}},
    "the second promotion fails": {
        "secondary": True,
        "resources": ("voms01", "data"),
        "answers": {"promote": [(None, True), (Failed("no", -2), False)]},
    },
}


def make(scenario) -> World:
    world = World(resources=scenario.get("resources", ("voms01",)))
    world.answers = {name: deque(said) for name, said in scenario.get("answers", {}).items()}
    world.crash(preserved=scenario.get("preserved", False))
    if scenario.get("secondary"):
        for name in world.resources:
            world.replicas["v01", name].role = Role.SECONDARY
    return world


def run(world, folder, *, kill_twice=False, **mortality) -> None:
    """Deliver the alert to an actuator that dies, and let the next one finish."""
    clock = Clock()
    machine = Machine(world, folder / "journal", clock, **mortality)
    with contextlib.suppress(Killed):
        machine.receive(alert())
        machine.run(20)
    machine.close()
    if kill_twice:
        machine = Machine(world, folder / "journal", clock, kill_at=1, kill_after=True)
        with contextlib.suppress(Killed):
            machine.run(20)
        machine.close()
    machine = Machine(world, folder / "journal", clock)
    machine.run(80)
    machine.close()


def ended(world, folder):
    check = Machine(world, folder / "journal", Clock())
    try:
        assert_ended_well(world, check)
        assert world.started == 1
        assert world.starts <= 3, "killed before it, failed, and done"
    finally:
        check.close()


@pytest.fixture(scope="module")
def lengths(folders):
    """How many writes and calls each scenario has when nobody is killed."""
    counted = {}
    for name, scenario in SCENARIOS.items():
        folder = folders()
        world = make(scenario)
        machine = Machine(world, folder / "journal", Clock())
        machine.receive(alert())
        machine.run(60)
        writes = machine.journal.writes
        calls = (
            max(
                index
                for index, call in enumerate(world.calls)
                if call not in {"states", "firing", "capacity"}
            )
            + 1
        )
        assert_ended_well(world, machine)
        machine.close()
        counted[name] = (writes, calls)
    return counted


@pytest.mark.parametrize("kill_twice", [False, True])
@pytest.mark.parametrize("kill_after", [False, True])
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_every_write(folders, lengths, name, kill_after, kill_twice):
    writes, _ = lengths[name]
    assert writes >= 4
    for number in range(1, writes + 1):
        folder = folders()
        world = make(SCENARIOS[name])
        run(world, folder, kill_at=number, kill_after=kill_after, kill_twice=kill_twice)
        ended(world, folder)


@pytest.mark.parametrize("kill_after", [False, True])
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_every_call(folders, lengths, name, kill_after):
    _, calls = lengths[name]
    assert calls >= 6
    for number in range(1, calls + 1):
        folder = folders()
        world = make(SCENARIOS[name])
        world.kill_at, world.kill_after = number, kill_after
        run(world, folder)
        ended(world, folder)
