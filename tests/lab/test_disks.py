"""Drills of disks that fail, or are old: moved where the data are, and never started on what may lack a write."""

import time

import pytest

from tests.lab.moves import (
    Moment,
    acted,
    bring_back,
    home,
    is_in_order,
    other,
    wait_refused,
    wait_writes_on,
    write_for,
)
from tests.lab.vm import FENCE_PEER
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1500)]

SETTINGS = {"restart": {"backoff_seconds": 0}, "move": {"cold": True}}
RESYNC_SECONDS = 300


def wait_in_order(site, vm):
    wait_until(lambda: is_in_order(site, vm), f"{vm.name}'s replicas to be current", RESYNC_SECONDS, 0.5)


def quiet(site, vm, since, seconds):
    """For some seconds nothing is called for the VM."""
    wait_until(lambda: time.monotonic() > since.monotonic + seconds, f"{seconds} s", seconds + 30, 0.5)
    assert acted(site, vm, since) == []


def test_the_disk_fails_under_a_running_vm(lab, vm, site):
    """DRBD goes on over the network; the VM moves to the host that has the data, cold on Xen."""
    lost = home(site, vm)
    alive = other(vm, lost)
    machine, fault = lab.host(lost), Moment.now()
    before = generation(lab, vm, alive)
    machine.break_disk(vm.resources[0])
    try:
        # What vmheal tells it by when the host is lost before anybody has seen that (source_freezes).
        wait_until(
            lambda: generation(lab, vm, alive) != before, "the peer to begin a new generation", 30, 0.1
        )
        assert lab.host(alive).drbd_state(vm.resources[0])[1].startswith("Secondary")
        wait_writes_on(lab, site, vm, alive, fault)
        lab.assert_nothing_lost(vm, alive)
        # A person who mends it, as docs/hosts.md says.
        machine.mend_disk(vm.resources[0])
        machine.run([FENCE_PEER, "attach", vm.name])
        machine.run(["drbdadm", "attach", vm.name])
    except BaseException:
        lab.progress(machine.run(["cat", "/proc/drbd"]).text)
        raise
    wait_in_order(site, vm)


def generation(lab, vm, host):
    """The current generation identifier of the VM's data there."""
    (line,) = lab.host(host).run(["drbdadm", "get-gi", vm.name]).text.splitlines()
    return line.partition(":")[0]


def test_h1_the_secondary_lost_its_disk_before_the_host_died(lab, vm, site):
    """Attached again it says UpToDate, and lacks what was written meanwhile (hole H1): it is not promoted."""
    dead = home(site, vm)
    stale = other(vm, dead)
    machine = lab.host(stale)
    machine.run(["drbdadm", "detach", vm.name])
    write_for(lab, vm, 3)
    fault = Moment.now()
    lab.host(dead).kill()
    try:
        machine.wait_for_drbd(vm.resources[0], connection="Unconfigured")  # R4: disconnected
        attached = machine.run(["drbdadm", "attach", vm.name], check=False, timeout_seconds=90)
        machine.run(["drbdadm", "connect", vm.name])
        lab.progress(
            f"attach by hand: {attached.returncode}; {' '.join(machine.drbd_state(vm.resources[0]))}"
        )
        wait_refused(site, vm, f"{vm.name}", fault)
        quiet(site, vm, fault, 40)
        assert machine.drbd_state(vm.resources[0])[1].startswith("Secondary")
    finally:
        bring_back(lab, dead)
    wait_writes_on(lab, site, vm, dead, fault)
    wait_in_order(site, vm)


def test_h2_the_link_is_cut_at_the_end_of_a_resync(lab, vm, site):
    """Cut as soon as it says UpToDate, the replica is either admitted and has everything, or refused."""
    dead = home(site, vm)
    behind = other(vm, dead)
    machine = lab.host(behind)
    lab.unplug(behind, "replication")
    try:
        wait_until(lambda: site.resource(vm.name)["granted"], "the grant", 60, 0.2)
        write_for(lab, vm, 5)
    finally:
        lab.plug(behind, "replication")
    machine.wait_for_drbd(
        vm.resources[0], connection="Connected", disks="UpToDate/UpToDate", timeout_seconds=120
    )
    fault = Moment.now()
    lab.unplug(behind, "replication")
    lab.host(dead).kill()
    try:
        admitted = site.resource(vm.name)["admitted"]
        lab.progress(f"admitted at the cut: {admitted}")
        if behind in admitted:
            wait_writes_on(lab, site, vm, behind, fault)
            lab.assert_nothing_lost(vm, behind)
        else:
            wait_refused(site, vm, f"the replica of {vm.name} on {behind} is excluded", fault)
            quiet(site, vm, fault, 30)
    finally:
        lab.plug(behind, "replication")
        bring_back(lab, dead)
    wait_until(lambda: site.resource(vm.name)["holder"] == home(site, vm), "one host to have both", 120, 1)
    wait_in_order(site, vm)


def test_both_hosts_are_switched_off_and_only_the_stale_one_comes_up(lab, vm, site):
    """It stays Secondary, its VM off, until the host with the data is back."""
    holder = home(site, vm)
    stale = other(vm, holder)
    lab.unplug(stale, "replication")
    try:
        wait_until(lambda: site.resource(vm.name)["granted"], "the grant", 60, 0.2)
        write_for(lab, vm, 2)
        fault = Moment.now()
        for host in (stale, holder):
            lab.host(host).kill()
    finally:
        lab.plug(stale, "replication")
    bring_back(lab, stale)
    came_back = Moment.now()
    wait_refused(site, vm, f"the replica of {vm.name} on {stale} is excluded", fault, 180)
    quiet(site, vm, came_back, 30)
    state = lab.host(stale).drbd_state(vm.resources[0])
    lab.progress(f"{stale} alone: {' '.join(state)}")
    assert not state[1].startswith("Primary")
    assert vm.name not in lab.host(stale).virsh(vm.uri, "list", "--name").split()
    bring_back(lab, holder)
    wait_writes_on(lab, site, vm, holder, fault)
    wait_in_order(site, vm)
