"""A VM whose work is seen, and its move from one libvirtd to another."""

import json
from typing import Any

import libvirt

from tests.boot_sectors import COUNTER, restless
from tests.lab.waiting import wait_until
from tests.line.line import HOSTS, SOON, Line

MOVED = ["allow_two", "promote", "migrate", "demote", "forbid_two", "confirm"]
"""The steps of a live move."""


def put_to_work(line: Line, vm: str) -> None:
    """Have it count from now on, where it is at first."""
    line.disks[vm].write_bytes(restless())
    with line.domain(vm, "v01") as domain:
        domain.reset()
    wait_works(line, vm, "v01")


def count(line: Line, vm: str, host: str) -> int:
    """How far the guest has counted; from its start on."""
    with line.domain(vm, host) as domain:
        return int.from_bytes(domain.memoryPeek(COUNTER, 4, libvirt.VIR_MEMORY_PHYSICAL), "little")


def wait_works(line: Line, vm: str, host: str) -> None:
    seen = count(line, vm, host)
    wait_until(lambda: count(line, vm, host) > seen, "its work", SOON)


def active(line: Line, vm: str) -> dict[str, int]:
    """The id of all that there is of the VM, by host."""
    found = {}
    for host in HOSTS:
        with line.domain(vm, host) as domain:
            if domain.isActive():
                found[host] = domain.ID()
    return found


def wait_finished(line: Line, vm: str, since: float) -> dict[str, Any]:
    """The end of the plan."""

    def finished() -> list[dict[str, Any]]:
        return [event for event in line.events(since, vm) if event["kind"] == "finished"]

    return wait_until(finished, "the end of the plan", SOON)[0]


def outcomes(line: Line, vm: str, since: float) -> list[tuple[str, str]]:
    """Each step with its outcome, as the journal tells it."""
    told = [event["detail"] for event in line.events(since, vm) if event["kind"] == "outcome"]
    return [(it["step"], it["outcome"]) for it in told]


def assert_is_on(line: Line, vm: str, host: str) -> None:
    """One copy, and it works; its disk is Primary there alone, for libvirt, DRBD, and vmheal."""
    assert set(active(line, vm)) == {host}
    wait_works(line, vm, host)
    assert line.pair.primaries(vm) == {host}
    assert not line.pair.two_allowed(vm)
    status = json.loads(line.command("status", "--json"))
    (domain,) = (it for it in status["domains"] if it["domain"] == vm)
    (resource,) = (it for it in status["resources"] if it["resource"] == vm)
    assert domain["host"] == host
    assert (resource["holder"], resource["admitted"]) == (host, [*HOSTS])


def sends(domain: libvirt.virDomain) -> bool:
    """Its memory is on the way. Before that libvirtd may be connecting, and a cut then keeps it for two minutes."""
    kind, _, _, _, processed, *_ = domain.jobInfo()
    return bool(kind == libvirt.VIR_DOMAIN_JOB_UNBOUNDED and processed > 0)


def assert_moved(line: Line, vm: str, since: float, target: str) -> None:
    assert wait_finished(line, vm, since)["sentence"] == f"plan succeeded: {vm} runs on {target}"
    assert outcomes(line, vm, since) == [(step, "done") for step in MOVED]
    assert_is_on(line, vm, target)
