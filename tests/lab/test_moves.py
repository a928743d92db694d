"""Drills of the verbs that move a VM, on whole hosts: real Xen guests, real DRBD that asks the arbiter.

Each ends with what the guests printed (nothing lost, no two guests at once), and with both replicas admitted.
"""

import time

import pytest

from tests.lab.moves import (
    Moment,
    bring_back,
    failover_of,
    home,
    is_in_order,
    other,
    wait_writes_on,
)
from tests.lab.recovery import start_calls
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1500)]

SETTINGS = {"restart": {"max_attempts": 2, "window_seconds": 600, "backoff_seconds": 0}}


@pytest.mark.core
def test_a_host_is_killed(lab, vm, site):
    dead = home(site, vm)
    alive = other(vm, dead)
    fault = Moment.now()
    lab.host(dead).kill()
    wait_writes_on(lab, site, vm, alive, fault)
    lab.progress(f"seconds from the kill: {failover_of(site, [vm], fault)}")
    lab.assert_nothing_lost(vm, alive)
    events = [event for event in site.events(fault.wall) if event.domain == vm.name]
    assert len(start_calls(events)) == 1
    bring_back(lab, dead)


def test_a_vm_crashes_again_and_again(lab, vm, site):
    suspect = home(site, vm)
    began = Moment.now()
    for _ in range(3):
        lab.host(suspect).crash_guest(vm)
        crashed = time.monotonic()
        lab.witness.wait_for_record(vm, after=crashed + 5, timeout_seconds=240)
        if home(site, vm) != suspect:
            break
    wait_writes_on(lab, site, vm, other(vm, suspect), began)
    events = [event for event in site.events(began.wall) if event.domain == vm.name]
    assert len(start_calls(events)) == 3, [event.sentence for event in events if event.kind == "outcome"]


@pytest.mark.core
def test_a_host_is_cut_off_from_everything_while_its_vm_writes(lab, vm, site):
    lost = home(site, vm)
    alive = other(vm, lost)
    fault = Moment.now()
    for cable in ("replication", "management"):
        lab.unplug(lost, cable)
    try:
        wait_writes_on(lab, site, vm, alive, fault)
        lab.progress(f"seconds from the cut: {failover_of(site, [vm], fault)}")
        lab.assert_nothing_lost(vm, alive)
    finally:
        for cable in ("replication", "management"):
            lab.plug(lost, cable)
    healed = time.monotonic()
    wait_until(lambda: is_in_order(site, vm), f"{lost} to be resynced and admitted", 400, 1)
    lab.progress(f"admitted again {time.monotonic() - healed:.1f} s after the links were back")
    assert vm.name not in lab.host(lost).virsh(vm.uri, "list", "--name").split()
    ended, started = ended_at(lab, lost, fault), failover_of(site, [vm], fault).first_start
    lab.progress(
        f"{lost} had ended the VM {ended:.1f} s after the cut, {alive} started it after {started:.1f} s"
    )
    assert ended < started


def ended_at(lab, host, fault):
    """When an isolated host had ended its VM, in seconds after the fault; its clock is not ours."""
    before = time.time()
    theirs = float(lab.host(host).run(["date", "+%s.%N"]).text)
    skew = theirs - (before + time.time()) / 2
    argv = [
        "journalctl",
        "-q",
        "-o",
        "short-unix",
        "-t",
        "vmheal-fence-peer",
        "--since",
        f"@{int(fault.wall + skew)}",
    ]
    lines = lab.host(host).run(argv, timeout_seconds=120).text.splitlines()
    first = next(line for line in lines if "ended, after" in line)
    return float(first.split()[0]) - skew - fault.wall


def test_a_host_is_frozen_and_wakes(lab, vm, site):
    lost = home(site, vm)
    alive = other(vm, lost)
    fault = Moment.now()
    lab.host(lost).freeze()
    try:
        wait_until(
            lambda: site.resource(vm.resources[0].name)["holder"] == alive, "the authority to move", 60, 0.2
        )
        wait_until(lambda: time.monotonic() > fault.monotonic + 20, "20 s", 30, 0.5)
    finally:
        lab.host(lost).thaw()
    wait_writes_on(lab, site, vm, alive, fault)
    lab.progress(f"seconds from the freeze: {failover_of(site, [vm], fault)}")
    wait_until(lambda: is_in_order(site, vm), f"{lost} to be resynced and admitted", 400, 1)
    assert vm.name not in lab.host(lost).virsh(vm.uri, "list", "--name").split()
