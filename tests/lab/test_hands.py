"""Drills of what people do by hand in the middle: noticed, never two writers, and never undone behind their back."""

import time

import pytest

from tests.lab.moves import (
    Moment,
    acted,
    boots_of,
    bring_back,
    home,
    other,
    wait_refused,
    wait_writes_on,
    write_for,
)
from tests.lab.recovery import start_calls
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1500)]

SETTINGS = {"restart": {"backoff_seconds": 0}}
HOLDER = "lab-holder"
# Has the device open until it is ended; says so first.
_HOLDS = "import sys, time; it = open(sys.argv[1], 'rb'); print('open', flush=True); time.sleep(600)"


def quiet(site, vm, since, seconds):
    """Nothing is called for the VM for some seconds, while reconcile looks again and again."""
    wait_until(lambda: time.monotonic() > since.monotonic + seconds, f"{seconds} s", seconds + 30, 0.5)
    site.wait_looked()
    assert acted(site, vm, since) == []


def test_a_domain_is_started_on_the_other_host_too(lab, vm, site):
    """Its disk there is Secondary: a second copy finds no disk, and vmheal says that there are two."""
    host, boots, fault = home(site, vm), boots_of(lab, vm), Moment.now()
    there = lab.host(other(vm, host))
    started = there.run(["virsh", "--connect", vm.uri, "start", vm.name], check=False, timeout_seconds=180)
    said = started.stderr.decode().strip()
    lab.progress(f"virsh start beside it: {started.returncode} {said}")
    runs_twice = vm.name in there.virsh(vm.uri, "list", "--name").split()
    try:
        if runs_twice:
            wait_refused(site, vm, "end one of them at once", fault)
        write_for(lab, vm, 10, on=host)
    finally:
        if runs_twice:
            there.destroy_guest(vm)
    assert boots_of(lab, vm) == boots
    assert acted(site, vm, fault) == []
    assert there.drbd_state(vm.resources[0])[1].startswith("Secondary")


def test_a_primary_in_use_is_demoted_by_hand(lab, vm, site):
    """DRBD itself refuses: the VM has the device open."""
    host, boots, fault = home(site, vm), boots_of(lab, vm), Moment.now()
    done = lab.host(host).run(["drbdadm", "secondary", vm.name], check=False, timeout_seconds=90)
    assert done.returncode != 0
    write_for(lab, vm, 5)
    assert boots_of(lab, vm) == boots
    assert acted(site, vm, fault) == []


def test_the_peer_is_made_primary_by_hand_while_the_vm_is_down(lab, vm, site):
    """A person's Primary is left alone, and the VM is not started beside it, until it is given up."""
    host = home(site, vm)
    there = lab.host(other(vm, host))
    site.order("pause", vm.name, "--reason", "a drill")
    lab.host(host).destroy_guest(vm)
    lab.host(host).demote(vm.resources[0])
    there.run(["drbdadm", "primary", vm.name])
    fault = Moment.now()
    try:
        site.order("resume", vm.name)
        wait_refused(site, vm, f"{vm.name} is Primary on {there.name}", fault)
        quiet(site, vm, fault, 15)
    finally:
        there.run(["drbdadm", "secondary", vm.name])
    wait_writes_on(lab, site, vm, host, fault)


def test_a_device_that_somebody_holds_open_is_not_taken_from_him(lab, vm, site):
    """DRBD refuses to demote it: the move is undone, the VM runs where it was, and a person is told."""
    host = home(site, vm)
    machine = lab.host(host)
    machine.run(["systemd-run", "--quiet", "--unit", HOLDER, "python3", "-c", _HOLDS, vm.resources[0].device])
    boots, fault = boots_of(lab, vm), Moment.now()
    try:
        machine.destroy_guest(vm)
        site.order("migrate", vm.name, "--to", other(vm, host))
        wait_until(lambda: set(boots_of(lab, vm)) - set(boots), "a new boot of it", 240, 0.5)
        wait_writes_on(lab, site, vm, host, Moment.now())
    finally:
        machine.run(["systemctl", "stop", HOLDER], check=False)
    events = [event for event in site.events(fault.wall) if event.domain == vm.name]
    refused = [
        event.sentence for event in events if "demote" in event.sentence and "failed" in event.sentence
    ]
    lab.progress(f"said: {refused or [event.sentence for event in events]}")
    assert len(set(boots_of(lab, vm)) - set(boots)) == 1
    assert machine.drbd_state(vm.resources[0])[1] == "Primary/Secondary"


def test_a_start_by_hand_during_a_failover_is_not_doubled(lab, vm, site):
    """The person is faster than vmheal, on the right host: one VM, whoever started it."""
    dead = home(site, vm)
    alive = lab.host(other(vm, dead))
    boots, fault = boots_of(lab, vm), Moment.now()
    machine = lab.host(dead)
    machine.freeze()
    try:
        wait_until(lambda: site.resource(vm.name)["holder"] == alive.name, "the authority to move", 60, 0.2)
        wait_until(
            lambda: alive.drbd_state(vm.resources[0])[1].startswith("Primary"), "the promotion", 60, 0.2
        )
    finally:
        machine.kill()
    started = alive.run(["virsh", "--connect", vm.uri, "start", vm.name], check=False, timeout_seconds=180)
    lab.progress(f"virsh start by hand: {started.returncode} {started.stderr.decode().strip()}")
    wait_writes_on(lab, site, vm, alive.name, fault)
    lab.assert_nothing_lost(vm, alive.name)
    assert len(set(boots_of(lab, vm)) - set(boots)) == 1
    events = [event for event in site.events(fault.wall) if event.domain == vm.name]
    lab.progress(f"vmheal's own start calls: {len(start_calls(events))}")
    bring_back(lab, dead)
