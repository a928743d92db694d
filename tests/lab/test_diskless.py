"""What real DRBD 8.4 does when it meets a peer without a disk: the two inferences behind the arbiter's rule R4.

No VM and no arbiter here: a handler of the drill's own answers DRBD, and /proc/drbd is what is printed.
"""

import itertools
import re

import pytest

from tests.lab.vm import FENCE_PEER

pytestmark = [pytest.mark.drill, pytest.mark.timeout(600)]


NUMBERS = itertools.count(1)


@pytest.fixture
def vm(lab):
    """A drill's own, as it leaves its disks apart. Primary on v01 and in sync; the VM is never started."""
    return lab.add_vm(f"bare{next(NUMBERS):02}", on=("v01", "v02"), fenced=True)


def handler_says(host, status):
    """DRBD's fence-peer handler on this host ends so; every other one lets it go on."""
    host.write(FENCE_PEER, f'#!/bin/sh\n[ -n "$1" ] || exit {status}\n')
    host.run(["chmod", "755", FENCE_PEER])


@pytest.fixture
def pair(lab, vm):
    """Both in sync, and connected again after."""
    first, second = (lab.host(name) for name in vm.hosts)
    for host in (first, second):
        handler_says(host, 1)
    yield first, second
    lab.plug(second.name, "replication")
    for host in (first, second):
        host.run(["rm", "-f", FENCE_PEER])


def proc(lab, host, vm, when):
    """What DRBD says of the resource, printed; the three states, and whether its I/O is frozen."""
    text = host.run(["cat", "/proc/drbd"]).text
    line = next(it for it in text.splitlines() if it.strip().startswith(f"{vm.resources[0].minor}:"))
    lab.progress(f"{when}, {host.name}: {line.strip()}")
    frozen = re.search(r" [A-C] (\S)", line)
    assert frozen is not None, line
    return host.drbd_state(vm.resources[0]), frozen[1] == "s"


def test_a_frozen_primary_meets_a_peer_without_a_disk(lab, vm, pair):
    """Does the connection thaw it, although nobody granted it anything?"""
    primary, peer = pair
    lab.unplug(peer.name, "replication")
    primary.wait_for_drbd(vm.resources[0], connection="WFConnection")
    assert proc(lab, primary, vm, "cut")[1], "frozen"
    peer.run(["drbdadm", "detach", vm.name])
    peer.wait_for_drbd(vm.resources[0], disks="Diskless/DUnknown")
    lab.plug(peer.name, "replication")
    primary.wait_for_drbd(vm.resources[0], connection="Connected")
    state, frozen = proc(lab, primary, vm, "met a diskless peer")
    proc(lab, peer, vm, "met")
    peer.run(["drbdadm", "attach", vm.name])
    for host in pair:
        host.wait_for_drbd(vm.resources[0], connection="Connected", disks="UpToDate/UpToDate")
    assert state[2] == "UpToDate/Diskless"
    assert not frozen, "R4's first inference: a diskless peer counts as a reconnect"


def test_a_stale_disk_meets_a_peer_without_a_disk(lab, vm, pair):
    """The newer disk is gone, and its host connected: does the old one become UpToDate?"""
    newer, stale = pair
    handler_says(newer, 4)
    lab.unplug(stale.name, "replication")
    newer.wait_for_drbd(vm.resources[0], connection="WFConnection", disks="UpToDate/Outdated")
    # What the other lacks from now on.
    newer.run(["dd", "if=/dev/urandom", f"of={vm.resources[0].device}", "bs=4096", "count=8", "oflag=direct"])
    newer.run(["drbdadm", "secondary", vm.name])
    newer.run(["drbdadm", "detach", vm.name])
    stale.run(["drbdadm", "detach", vm.name])
    stale.run(["drbdadm", "attach", vm.name])
    attached, _ = proc(lab, stale, vm, "attached again, alone")
    lab.plug(stale.name, "replication")
    stale.wait_for_drbd(vm.resources[0], connection="Connected")
    met, _ = proc(lab, stale, vm, "met a diskless peer")
    proc(lab, newer, vm, "met")
    promoted = stale.run(["drbdadm", "primary", vm.name], check=False, timeout_seconds=90)
    lab.progress(f"drbdadm primary on {stale.name}: {promoted.returncode} {promoted.stderr.decode().strip()}")
    proc(lab, stale, vm, "after drbdadm primary")
    assert attached[2] == "Consistent/DUnknown"
    assert met[2] == "UpToDate/Diskless", "R4's second inference: a stale disk turns UpToDate"
    assert promoted.returncode == 0
