"""Drills of the arbiter under real DRBD: who may write when the replication link is cut.

Each ends with what the guest printed: nothing lost, on neither disk.
"""

import time

import pytest

from tests.lab.moves import Moment, longest_silence
from tests.lab.site import Site
from tests.lab.vm import FENCE_PEER
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def vm(lab):
    vm = lab.add_vm("arb01", on=("v01", "v02"), fenced=True)
    lab.start_vms([vm])
    yield vm
    lab.end_vm(vm)


@pytest.fixture(scope="module")
def running_site(lab, vm):
    with Site(lab, [vm]) as site:
        yield site


@pytest.fixture
def site(lab, vm, running_site):
    """Both replicas admitted, before and after; the VM writes, and nothing is lost."""
    wait_until(lambda: is_admitted_on_both(running_site, vm), "both replicas to be admitted", 180, 1)
    yield running_site
    for host in vm.hosts:
        lab.host(host).wait_for_drbd(
            vm.resources[0], connection="Connected", disks="UpToDate/UpToDate", timeout_seconds=120
        )
    lab.witness.wait_for_record(vm, after=time.monotonic())
    lab.assert_nothing_lost(vm)


def is_admitted_on_both(site, vm):
    said = site.resource(vm.resources[0].name)
    return said and said["holder"] == vm.hosts[0] and said["admitted"] == [*vm.hosts] and not said["granted"]


def test_a_primary_that_loses_its_peer_is_granted_and_goes_on(lab, vm, site):
    begun = Moment.now()
    lab.witness.wait_for_record(vm, after=begun.monotonic)
    lab.unplug("v02", "replication")
    try:
        wait_until(lambda: site.resource("arb01")["granted"], "the grant", 60, 0.2)
        assert site.resource("arb01")["admitted"] == ["v01"]
        moment = time.monotonic()
        lab.witness.wait_for_record(vm, after=moment + 1)
        lab.progress(f"the guest stood still for {longest_silence(lab, vm, begun):.2f} s")
        refused = lab.host("v02").run(["drbdadm", "primary", "arb01"], check=False, timeout_seconds=90)
        assert refused.returncode == 11, refused.stderr
        assert lab.host("v02").drbd_state(vm.resources[0])[1].startswith("Secondary")
    finally:
        lab.plug("v02", "replication")
    wait_until(lambda: is_admitted_on_both(site, vm), "the peer to be admitted again", 120, 0.5)
    kinds = [
        event.sentence
        for event in site.events()
        if event.kind in {"arbitrated", "authority"} and "arb01" in event.sentence
    ]
    assert any("fence-peer of arb01 on v01: grant" in sentence for sentence in kinds), kinds
    assert any("before-resync-source of arb01 on v01: allow" in sentence for sentence in kinds), kinds


def test_without_the_actuator_a_primary_that_loses_its_peer_stays_frozen_until_it_is_back(lab, vm, site):
    site.stop("actuator", kill=True)
    lab.unplug("v02", "replication")
    try:
        lab.host("v01").wait_for_drbd(vm.resources[0], connection="WFConnection")
        lab.witness.wait_for_silence(vm, seconds=8)
        frozen = time.monotonic()
        site.start("actuator")
        lab.witness.wait_for_record(vm, after=frozen, timeout_seconds=90)
        lab.progress(f"records again {time.monotonic() - frozen:.1f} s after the actuator was started")
        assert site.resource("arb01")["granted"]
    finally:
        lab.plug("v02", "replication")
    wait_until(lambda: is_admitted_on_both(site, vm), "the peer to be admitted again", 120, 0.5)


def test_a_secondary_without_disk_and_peer_does_not_meet_it_before_a_person_has_mended_the_disk(
    lab, vm, site
):
    """DRBD would take the meeting for a reconnect (R4; test_diskless.py shows what comes of that)."""
    machine = lab.host("v02")
    lab.unplug("v02", "replication")
    try:
        wait_until(lambda: site.resource("arb01")["granted"], "the grant", 60, 0.2)
        machine.run(["drbdadm", "detach", "arb01"])
        machine.wait_for_drbd(vm.resources[0], connection="Unconfigured")  # StandAlone and Diskless
    finally:
        lab.plug("v02", "replication")
    # A person who has mended it, as docs/hosts.md says.
    machine.run(["drbdadm", "down", "arb01"])
    machine.run([FENCE_PEER, "up"], timeout_seconds=120)
    wait_until(lambda: is_admitted_on_both(site, vm), "the peer to be admitted again", 120, 0.5)
