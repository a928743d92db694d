"""A VM that works is moved live between two real libvirtd at an operator's word, and what may go wrong on the way.

What is cut is the link between the libvirtd. DRBD, which is replayed, has one of its own and stays connected.
"""

import contextlib
import time
from collections.abc import Iterator

import pytest

from tests.lab.waiting import wait_until
from tests.line.line import HOSTS, SOON, Line
from tests.line.moving import (
    active,
    assert_is_on,
    assert_moved,
    count,
    outcomes,
    put_to_work,
    sends,
    wait_finished,
)

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(600)]

VM = "voms01"
TAKEN_BACK = ["allow_two", "promote", "migrate", "demote", "forbid_two"]
"""The steps of a live move up to the one that failed, and then what undoes them, the other way round."""


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with Line(tmp_path_factory.mktemp("line"), (VM,)) as line:
        put_to_work(line, VM)
        line.wait_looked()  # where memory is not known, nothing that runs is moved to
        yield line


def ends(line: Line) -> tuple[str, str]:
    """The host that it runs on, and the other."""
    (source,) = active(line, VM)
    return source, next(host for host in HOSTS if host != source)


@contextlib.contextmanager
def caught_moving(line: Line, source: str, target: str) -> Iterator[None]:
    """Have its move ordered, and in its middle without an end, until the end of the block."""
    with line.domain(VM, source) as domain:
        speed = domain.migrateGetMaxSpeed()
        domain.migrateSetMaxSpeed(1)
        line.command("migrate", VM, "--to", target)
        wait_until(lambda: sends(domain), "the move", SOON, 0.02)
        assert line.pair.primaries(VM) == {*HOSTS}
        assert line.pair.two_allowed(VM)
        try:
            yield
        finally:
            domain.migrateSetMaxSpeed(speed)


def assert_taken_back(line: Line, since: float) -> None:
    """The move failed, by libvirt's word and not for the time it took, and what was done for it is undone."""
    told = wait_finished(line, VM, since)["sentence"]
    assert told.startswith(f"plan failed: move {VM} live")
    assert "not done within" not in told
    steps = outcomes(line, VM, since)
    assert [step for step, _ in steps] == TAKEN_BACK
    assert [outcome for _, outcome in steps] == ["done", "done", "failed", "done", "done"]


def test_there_and_back(line: Line) -> None:
    source, target = ends(line)
    counted, began = count(line, VM, source), time.time()
    line.command("drain", source)
    assert_moved(line, VM, began, target)
    line.command("undrain", source)
    began = time.time()
    line.command("migrate", VM, "--to", source)
    assert_moved(line, VM, began, source)
    assert count(line, VM, source) >= counted, "it was started anew"


def test_cancelled_in_the_middle_it_stays_where_it_was(line: Line) -> None:
    source, target = ends(line)
    began, before = time.time(), active(line, VM)
    with caught_moving(line, source, target):
        with line.domain(VM, source) as domain:
            domain.abortJob()
        assert_taken_back(line, began)
    assert active(line, VM) == before
    assert_is_on(line, VM, source)


def test_the_link_is_cut_in_the_middle_and_it_stays_where_it_was(line: Line) -> None:
    source, target = ends(line)
    began, before, counted = time.time(), active(line, VM), count(line, VM, source)
    with caught_moving(line, source, target):
        line.link.cut()
        try:
            assert_taken_back(line, began)
            line.wait_looked()
            assert active(line, VM) == before
            assert count(line, VM, source) >= counted, "it was started anew"
            assert_is_on(line, VM, source)
            assert [event["kind"] for event in line.events(began, VM)].count("decided") == 1
        finally:
            line.link.mend()
    began = time.time()
    line.command("migrate", VM, "--to", target)
    assert_moved(line, VM, began, target)
    assert count(line, VM, target) >= counted, "it was started anew"
    wait_until(lambda: line.alerts(VM) == {}, "the end of all warnings", SOON)
