"""Programs of a site's own that alerts ask for, over the real journal."""

import contextlib
from collections import deque
from dataclasses import replace

import pytest

from actuator.model import Failed, Indeterminate
from tests.actuator.world import EPOCH, Clock, Killed, Machine, World, alert, settings

PROGRAMS = {"programs": {"mail": {"argv": ["/bin/true"], "timeout_seconds": 7}}}


def asks(program="mail", *, starts_at=EPOCH, fingerprint="r1"):
    it = alert(starts_at, action="run", fingerprint=fingerprint)
    return replace(it, labels=it.labels | {"program": program})


@pytest.fixture
def machine(tmp_path):
    machine = Machine(
        World(), tmp_path / "journal", Clock(), config=settings(tmp_path / "journal", **PROGRAMS)
    )
    yield machine
    machine.close()


def test_it_is_run_and_its_outcome_is_kept(machine):
    machine.receive(asks())
    assert machine.world.ran == [("mail", "r1", 7.0)]
    assert [(it.kind, it.sentence) for it in machine.timeline[1:]] == [
        ("intent", "run the program mail"),
        ("outcome", "the program mail: done: 3 mails sent"),
    ]


@pytest.mark.parametrize("outcome", [Failed("exit status 3: no"), Indeterminate("not ended in time")])
def test_how_it_failed_is_kept(machine, outcome):
    machine.world.answers = {"run": deque([(outcome, True)])}
    machine.receive(asks())
    assert machine.timeline[-1].sentence == f"the program mail: {outcome.kind}: {outcome.reason}"


def test_once_for_each_time_that_the_alert_begins(machine):
    for _ in range(3):
        machine.receive(asks())
    assert len(machine.world.ran) == 1
    machine.receive(asks(starts_at=EPOCH + 60))
    assert len(machine.world.ran) == 2


def test_never_twice_also_when_the_actuator_was_killed(tmp_path):
    world = World()
    config = settings(tmp_path / "journal", **PROGRAMS)
    for number in range(1, 7):
        journal, clock = tmp_path / f"journal{number}", Clock()
        world.ran.clear()
        machine = Machine(world, journal, clock, config=config, kill_at=number)
        with contextlib.suppress(Killed):
            machine.receive(asks())
        machine.close()
        machine = Machine(world, journal, clock, config=config)
        machine.receive(asks())
        assert len(world.ran) <= 1
        machine.close()


def test_what_the_configuration_does_not_name_is_not_run(machine):
    machine.receive(asks("rm"))
    machine.receive(asks("", fingerprint="r2"))
    assert machine.world.ran == []
    assert [it.kind for it in machine.timeline].count("refused") == 2
    assert "asks to run rm, which is not in programs" in machine.timeline[1].sentence


def test_outside_of_mode_enforce_it_is_only_said(tmp_path):
    config = settings(tmp_path / "journal", **PROGRAMS, mode="observe")
    machine = Machine(World(), tmp_path / "journal", Clock(), config=config)
    machine.receive(asks())
    assert machine.world.ran == []
    assert machine.timeline[-1].sentence == "in mode enforce vmheal would run the program mail"
    machine.close()
