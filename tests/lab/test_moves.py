"""Drills of the verbs that move a VM, on whole hosts: real Xen guests, real DRBD that asks the arbiter.

Each ends with what the guests printed (nothing lost, no two guests at once), and with both replicas admitted.
"""

import time
from dataclasses import dataclass

import pytest

from tests.lab.recovery import start_calls
from tests.lab.site import Site
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1500)]

SETTINGS = {"restart": {"max_attempts": 2, "window_seconds": 600, "backoff_seconds": 0}}


@pytest.fixture(scope="module")
def vm(lab):
    vm = lab.add_vm("mov01", on=("v01", "v02"), fenced=True)
    lab.start_vms([vm])
    yield vm
    lab.end_vm(vm)


@pytest.fixture(scope="module")
def running_site(lab, vm):
    with Site(lab, [vm], SETTINGS) as site:
        yield site


@pytest.fixture
def site(lab, vm, running_site):
    """At rest before and after: watched, writing, both replicas admitted, nothing lost on either disk."""
    at_rest(lab, vm, running_site)
    yield running_site
    at_rest(lab, vm, running_site)
    lab.assert_nothing_lost(vm)


def at_rest(lab, vm, site):
    wait_until(lambda: is_admitted_on_both(site, vm), "both replicas to be admitted", 240, 1)
    site.wait_watching()
    lab.witness.wait_for_record(vm, after=time.monotonic())


def is_admitted_on_both(site, vm):
    said = site.resource(vm.resources[0].name)
    return said and said["admitted"] == [*vm.hosts] and not said["granted"]


def home(site, vm):
    domains = site.get("actuator", "api/v1/status")["domains"]
    return next(it["host"] for it in domains if it["domain"] == vm.name)


def other(vm, host):
    return next(it for it in vm.hosts if it != host)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds from the fault."""

    received: float
    promoted: float
    started: float
    recorded: float


def times(lab, site, vm, fault_wall, fault):
    events = [event for event in site.events(fault_wall) if event.domain in {vm.name, ""}]
    calls = {
        kind: [
            e.detail["called_at"] for e in events if e.detail.get("step") == kind and "called_at" in e.detail
        ]
        for kind in ("promote", "start")
    }
    record = next(line for line in lab.witness.lines(vm) if line.kind == "record" and line.at > fault + 3)
    received = min(event.at for event in events if event.kind == "received")
    return Times(
        *(round(at - fault_wall, 2) for at in (received, calls["promote"][0], calls["start"][0])),
        round(record.at - fault, 2),
    )


def wait_runs_on(lab, site, vm, host, since, timeout_seconds=240):
    wait_until(lambda: home(site, vm) == host, f"{vm.name} to belong to {host}", timeout_seconds, 0.5)
    source = lab.host(host).machine.guest_log(vm.port)

    def writes():
        return any(
            line.kind == "record" and line.at > since and line.host == host for line in lab.witness.lines(vm)
        )

    wait_until(writes, f"{vm.name} to write on {host} ({source.name})", timeout_seconds, 0.2)


def test_a_host_is_killed(lab, vm, site):
    dead = home(site, vm)
    alive = other(vm, dead)
    fault_wall, fault = time.time(), time.monotonic()
    lab.host(dead).kill()
    wait_runs_on(lab, site, vm, alive, fault)
    lab.progress(f"seconds from the kill: {times(lab, site, vm, fault_wall, fault)}")
    lab.assert_nothing_lost(vm, alive)
    events = [event for event in site.events(fault_wall) if event.domain == vm.name]
    assert len(start_calls(events)) == 1
    lab.host(dead).boot()
    lab.host(dead).drbd_up()


def test_a_vm_crashes_again_and_again(lab, vm, site):
    suspect = home(site, vm)
    since, began = time.time(), time.monotonic()
    for _ in range(3):
        lab.host(suspect).crash_guest(vm)
        crashed = time.monotonic()
        lab.witness.wait_for_record(vm, after=crashed + 5, timeout_seconds=240)
        if home(site, vm) != suspect:
            break
    wait_runs_on(lab, site, vm, other(vm, suspect), began)
    events = [event for event in site.events(since) if event.domain == vm.name]
    assert len(start_calls(events)) == 3, [event.sentence for event in events if event.kind == "outcome"]


def test_a_host_is_cut_off_from_everything_while_its_vm_writes(lab, vm, site):
    lost = home(site, vm)
    alive = other(vm, lost)
    fault_wall, fault = time.time(), time.monotonic()
    for cable in ("replication", "management"):
        lab.unplug(lost, cable)
    try:
        wait_runs_on(lab, site, vm, alive, fault)
        lab.progress(f"seconds from the cut: {times(lab, site, vm, fault_wall, fault)}")
        lab.assert_nothing_lost(vm, alive)
    finally:
        for cable in ("replication", "management"):
            lab.plug(lost, cable)
    healed = time.monotonic()
    wait_until(lambda: is_admitted_on_both(site, vm), f"{lost} to be resynced and admitted", 400, 1)
    lab.progress(f"admitted again {time.monotonic() - healed:.1f} s after the links were back")
    assert vm.name not in lab.host(lost).virsh(vm.uri, "list", "--name").split()


def test_a_host_is_frozen_and_wakes(lab, vm, site):
    lost = home(site, vm)
    alive = other(vm, lost)
    fault_wall, fault = time.time(), time.monotonic()
    lab.host(lost).freeze()
    try:
        wait_until(
            lambda: site.resource(vm.resources[0].name)["holder"] == alive, "the authority to move", 60, 0.2
        )
        wait_until(lambda: time.monotonic() > fault + 20, "20 s", 30, 0.5)
    finally:
        lab.host(lost).thaw()
    wait_runs_on(lab, site, vm, alive, fault)
    lab.progress(f"seconds from the freeze: {times(lab, site, vm, fault_wall, fault)}")
    wait_until(lambda: is_admitted_on_both(site, vm), f"{lost} to be resynced and admitted", 400, 1)
    assert vm.name not in lab.host(lost).virsh(vm.uri, "list", "--name").split()
