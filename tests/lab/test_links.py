"""Drills of cables: what is lost is a way to a host, or a replica, and not a host; real Xen guests, real DRBD."""

import time

import pytest

from tests.lab.moves import (
    Moment,
    acted,
    boots_of,
    bring_back,
    home,
    is_in_order,
    longest_silence,
    other,
    wait_refused,
    wait_writes_on,
    write_for,
)
from tests.lab.network import MONITOR
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1500)]

SETTINGS = {"restart": {"backoff_seconds": 0}}
RESYNC_SECONDS = 240


def names(site):
    return {alert["labels"]["alertname"] for alert in site.alerts()}


def cut_off_and_granted(lab, site, vm, stale):
    """Cut a replica off; its Primary goes on alone, and writes what that replica lacks."""
    lab.unplug(stale, "replication")
    wait_until(lambda: site.resource(vm.name)["granted"], "the grant", 60, 0.2)
    write_for(lab, vm, 1)
    assert site.resource(vm.name)["admitted"] == [other(vm, stale)]


def wait_in_order(site, vm):
    wait_until(lambda: is_in_order(site, vm), f"{vm.name}'s replicas to be current", RESYNC_SECONDS, 0.5)


def test_only_the_management_network_of_a_host_is_cut(lab, vm, site):
    """One plane: the host lives, its VM writes on, and a person is told that it cannot be watched."""
    host, boots, fault = home(site, vm), boots_of(lab, vm), Moment.now()
    lab.unplug(host, "management")
    try:
        site.wait_alert("HostUnreachable")
        write_for(lab, vm, 20)
        assert "HostFailure" not in names(site)
    finally:
        lab.plug(host, "management")
    quiet = longest_silence(lab, vm, fault)
    lab.progress(f"the longest time without a record: {quiet:.2f} s")
    assert quiet < 3
    assert acted(site, vm, fault) == []
    assert boots_of(lab, vm) == boots


def test_everything_is_dark_at_once(lab, vm, site):
    """Prometheus's own network is cut: it is we who see nothing."""
    boots, fault = boots_of(lab, vm), Moment.now()
    lab.unplug(MONITOR, "management")
    try:
        site.wait_alert("VMHealStorm")
        # The worst that monitoring could say then; a plan that it asks for must not be made either.
        assert "HostFailure" not in names(site)
        write_for(lab, vm, 15)
    finally:
        lab.plug(MONITOR, "management")
    site.wait_watching()
    site.wait_looked()
    assert longest_silence(lab, vm, fault) < 3
    assert acted(site, vm, fault) == []
    assert boots_of(lab, vm) == boots


def test_the_host_of_a_primary_that_was_granted_alone_is_killed(lab, vm, site):
    """What is left is stale: nothing is promoted, nothing started, and a person is told."""
    holder = home(site, vm)
    stale = other(vm, holder)
    cut_off_and_granted(lab, site, vm, stale)
    fault = Moment.now()
    try:
        lab.host(holder).kill()
        wait_refused(site, vm, f"the replica of {vm.name} on {stale} is excluded", fault)
        refused = lab.host(stale).run(["drbdadm", "primary", vm.name], check=False, timeout_seconds=90)
        assert refused.returncode != 0, "a hand-typed promotion of a stale replica"
        wait_until(lambda: time.monotonic() > fault.monotonic + 40, "40 s", 60, 0.5)
        assert acted(site, vm, fault) == []
        assert lab.host(stale).drbd_state(vm.resources[0])[1].startswith("Secondary")
        assert vm.name not in lab.host(stale).virsh(vm.uri, "list", "--name").split()
    finally:
        lab.plug(stale, "replication")
        bring_back(lab, holder)
    wait_writes_on(lab, site, vm, holder, fault)
    wait_in_order(site, vm)


def test_the_link_is_back_before_the_host_is_killed(lab, vm, site):
    """Resynced and admitted again, the replica that was stale is the one that saves the VM."""
    holder = home(site, vm)
    stale = other(vm, holder)
    try:
        cut_off_and_granted(lab, site, vm, stale)
    finally:
        lab.plug(stale, "replication")
    wait_in_order(site, vm)
    fault = Moment.now()
    lab.host(holder).kill()
    wait_writes_on(lab, site, vm, stale, fault)
    lab.assert_nothing_lost(vm, stale)
    bring_back(lab, holder)
