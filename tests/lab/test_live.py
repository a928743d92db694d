"""Drills of live migration: a QEMU guest that writes, on real DRBD that asks the arbiter, there and back.

libvirtd listens on the replication network for its peers, without authentication: a lab's hosts only.

Under emulation within emulation a guest's memory may arrive broken: of the first three moves that came to their end one
ended with a general protection fault in the guest's timers, right after it. vmheal then restarts the VM, and this drill
fails.
"""

import time

import pytest

from tests.lab.lab import Lab, in_parallel
from tests.lab.moves import Moment, home, is_in_order, other, wait_writes_on
from tests.lab.network import address
from tests.lab.site import Site
from tests.lab.waiting import wait_until

# A QEMU guest inside an emulated host needs two minutes to its first record.
BOOT_SECONDS = 400
PEERS = "/etc/systemd/system/libvirtd-tcp.socket.d/lab.conf"

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1800)]


class LiveSite(Site):
    """A site whose hosts reach each other's libvirtd on the replication network."""

    def actuator_settings(self):
        settings = super().actuator_settings()
        for host, section in settings["hosts"].items():
            peer = address(host, "replication")
            section["migrate_libvirt_uri"] = f"qemu+tcp://{peer}/system"
            section["migrate_address"] = peer
        return settings


@pytest.fixture(scope="module")
def pair(progress):
    with Lab(hosts=2, flavour="plain", name="live", progress=progress) as lab:
        in_parallel(listen_for_peers, lab.hosts.values())
        yield lab


def listen_for_peers(host):
    """Have systemd open libvirtd's TCP socket, and libvirtd take whoever comes over it."""
    host.write("/etc/libvirt/libvirtd.conf", 'auth_tcp = "none"\n')
    host.run(["systemctl", "stop", "libvirtd.service"], timeout_seconds=120)
    host.run(["systemctl", "start", "libvirtd-tcp.socket"], timeout_seconds=120)
    host.run(["systemctl", "start", "libvirtd.service"], timeout_seconds=120)


@pytest.fixture(scope="module")
def vm(pair):
    vm = pair.add_vm("live01", on=("v01", "v02"), flavour="qemu", fenced=True)
    pair.start_vms([vm], timeout_seconds=BOOT_SECONDS)
    return vm


@pytest.fixture(scope="module")
def site(pair, vm):
    settings = {"move": {"live_timeout_seconds": 300}, "restart": {"backoff_seconds": 0}}
    with LiveSite(pair, [vm], settings) as site:
        wait_until(lambda: is_in_order(site, vm), "both replicas to be current", 240, 1)
        site.wait_watching()
        yield site


def wait_finished(site, began):
    """The event of the plan's end."""
    return wait_until(
        lambda: next((event for event in site.events(began.wall) if event.kind == "finished"), None),
        "the plan to end",
        180,
        0.5,
    )


def test_there_and_back_under_write_load(pair, vm, site):
    boots = [boot.boot for boot in pair.witness.boots(vm)]
    for _ in range(2):
        began, target = Moment.now(), other(vm, home(site, vm))
        site.order("migrate", vm.name, "--to", target)
        wait_writes_on(pair, site, vm, target, began, timeout_seconds=400)
        wait_until(lambda: is_in_order(site, vm), "both replicas to be current", 120, 1)
        told = wait_finished(site, began)
        pair.progress(f"live to {target}: {told.sentence} after {told.detail['seconds']} s")
        assert "succeeded" in told.sentence
        assert site.resource(vm.resources[0].name)["holder"] == target
        for host in vm.hosts:
            shown = pair.host(host).run(["drbdsetup", "show", vm.resources[0].name]).text
            assert "allow-two-primaries" not in shown
    assert len({boot.boot for boot in pair.witness.boots(vm)}) == len(set(boots))
    pair.assert_nothing_lost(vm)


def test_cancelled_in_the_middle_it_stays_where_it_was(pair, vm, site):
    source = home(site, vm)
    began = Moment.now()
    site.order("migrate", vm.name, "--to", other(vm, source))

    def cancelled():
        done = pair.host(source).run(["virsh", "--connect", vm.uri, "domjobabort", vm.name], check=False)
        return done.returncode == 0

    wait_until(cancelled, "a job to cancel", 120, 0.1)
    told = wait_finished(site, began)
    assert "failed" in told.sentence
    assert home(site, vm) == source
    pair.witness.wait_for_record(vm, after=time.monotonic())
    for host in vm.hosts:
        assert (
            "allow-two-primaries" not in pair.host(host).run(["drbdsetup", "show", vm.resources[0].name]).text
        )
    there = pair.host(other(vm, source))
    there.wait_for_drbd(vm.resources[0], connection="Connected", roles="Secondary/Primary")
    pair.assert_nothing_lost(vm)
