"""A VM that works is moved live between two real libvirtd at an operator's word, and what may go wrong on the way.

What is cut is the link between the libvirtd. DRBD, which is replayed, has one of its own and stays connected.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import libvirt
import pytest

from tests.boot_sectors import COUNTER, restless
from tests.lab.waiting import wait_until
from tests.line.line import HOSTS, SOON, Line

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(600)]

VM = "voms01"
MOVED = ["allow_two", "promote", "migrate", "demote", "forbid_two", "confirm"]
TAKEN_BACK = ["allow_two", "promote", "migrate", "demote", "forbid_two"]
"""The same steps up to the move that failed, and then what undoes them, the other way round."""


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with Line(tmp_path_factory.mktemp("line"), (VM,)) as line:
        line.disks[VM].write_bytes(restless())
        with line.domain(VM, "v01") as domain:
            domain.reset()
        wait_works(line, "v01")
        line.wait_looked()  # where memory is not known, nothing that runs is moved to
        yield line


def count(line: Line, host: str) -> int:
    """How far the guest has counted; from its start on."""
    with line.domain(VM, host) as domain:
        return int.from_bytes(domain.memoryPeek(COUNTER, 4, libvirt.VIR_MEMORY_PHYSICAL), "little")


def wait_works(line: Line, host: str) -> None:
    seen = count(line, host)
    wait_until(lambda: count(line, host) > seen, "its work", SOON)


def active(line: Line) -> dict[str, int]:
    """The id of all that there is of the VM, by host."""
    found = {}
    for host in HOSTS:
        with line.domain(VM, host) as domain:
            if domain.isActive():
                found[host] = domain.ID()
    return found


def ends(line: Line) -> tuple[str, str]:
    """The host that it runs on, and the other."""
    (source,) = active(line)
    return source, next(host for host in HOSTS if host != source)


def wait_finished(line: Line, since: float) -> dict[str, Any]:
    """The end of the plan."""

    def finished() -> list[dict[str, Any]]:
        return [event for event in line.events(since, VM) if event["kind"] == "finished"]

    return wait_until(finished, "the end of the plan", SOON)[0]


def outcomes(line: Line, since: float) -> list[tuple[str, str]]:
    """Each step with its outcome, as the journal tells it."""
    told = [event["detail"] for event in line.events(since, VM) if event["kind"] == "outcome"]
    return [(it["step"], it["outcome"]) for it in told]


def assert_is_on(line: Line, host: str) -> None:
    """One copy, and it works; its disk is Primary there alone, for libvirt, DRBD, and vmheal."""
    assert set(active(line)) == {host}
    wait_works(line, host)
    assert line.pair.primaries(VM) == {host}
    assert not line.pair.two_allowed(VM)
    status = json.loads(line.command("status", "--json"))
    (domain,), (resource,) = status["domains"], status["resources"]
    assert domain["host"] == host
    assert (resource["holder"], resource["admitted"]) == (host, [*HOSTS])


def sends(domain: libvirt.virDomain) -> bool:
    """Its memory is on the way. Before that libvirtd may be connecting, and a cut then keeps it for two minutes."""
    kind, _, _, _, processed, *_ = domain.jobInfo()
    return bool(kind == libvirt.VIR_DOMAIN_JOB_UNBOUNDED and processed > 0)


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
    told = wait_finished(line, since)["sentence"]
    assert told.startswith(f"plan failed: move {VM} live")
    assert "not done within" not in told
    steps = outcomes(line, since)
    assert [step for step, _ in steps] == TAKEN_BACK
    assert [outcome for _, outcome in steps] == ["done", "done", "failed", "done", "done"]


def assert_moved(line: Line, since: float, target: str) -> None:
    assert wait_finished(line, since)["sentence"] == f"plan succeeded: {VM} runs on {target}"
    assert outcomes(line, since) == [(step, "done") for step in MOVED]
    assert_is_on(line, target)


def test_there_and_back(line: Line) -> None:
    source, target = ends(line)
    counted, began = count(line, source), time.time()
    line.command("drain", source)
    assert_moved(line, began, target)
    line.command("undrain", source)
    began = time.time()
    line.command("migrate", VM, "--to", source)
    assert_moved(line, began, source)
    assert count(line, source) >= counted, "it was started anew"


def test_cancelled_in_the_middle_it_stays_where_it_was(line: Line) -> None:
    source, target = ends(line)
    began, before = time.time(), active(line)
    with caught_moving(line, source, target):
        with line.domain(VM, source) as domain:
            domain.abortJob()
        assert_taken_back(line, began)
    assert active(line) == before
    assert_is_on(line, source)


def test_the_link_is_cut_in_the_middle_and_it_stays_where_it_was(line: Line) -> None:
    source, target = ends(line)
    began, before, counted = time.time(), active(line), count(line, source)
    with caught_moving(line, source, target):
        line.link.cut()
        try:
            assert_taken_back(line, began)
            line.wait_looked()
            assert active(line) == before
            assert count(line, source) >= counted, "it was started anew"
            assert_is_on(line, source)
            assert [event["kind"] for event in line.events(began, VM)].count("decided") == 1
        finally:
            line.link.mend()
    began = time.time()
    line.command("migrate", VM, "--to", target)
    assert_moved(line, began, target)
    assert count(line, target) >= counted, "it was started anew"
    wait_until(lambda: line.alerts(VM) == {}, "the end of all warnings", SOON)
