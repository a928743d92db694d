"""Hosts without Xen: containers and QEMU guests on real DRBD; and what only QEMU does, a pause for an I/O error."""

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.lab.lab import Lab
from tests.lab.site import EXPORTER_PORT, Site
from tests.lab.waiting import LabError, wait_until

# A QEMU guest inside an emulated host needs two minutes to its first record.
BOOT_SECONDS = 400

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def plain(progress):
    with Lab(hosts=3, flavour="plain", name="plain", progress=progress) as lab:
        yield lab


@pytest.fixture(scope="module")
def guest(plain):
    """A QEMU guest, on its way to its first record."""
    vm = plain.add_vm("kvm01", on=("v01", "v02"), flavour="qemu")
    plain.start_vm(vm)
    return vm


def test_a_container_writes_and_is_seen_on_its_resource(plain, guest):
    container = plain.add_vm("ct01", on=("v03", "v02"), flavour="lxc")
    plain.start_vm(container)
    plain.witness.wait_for_record(container)
    host = plain.host("v03")
    host.install_exporter()
    wait_until(lambda: container.name in resources_seen(plain, host.name), "the exporter to find it", 60, 1)
    assert resources_seen(plain, host.name) == {container.name: (container.resources[0].name, "/dev/drbd1")}
    before = [boot.boot for boot in plain.witness.boots(container)]
    host.kill_guest(container)
    host.wait_for_domain(container, "shut off")
    plain.start_vm(container)
    wait_until(
        lambda: (
            plain.witness.boots(container)[-1].boot not in before
            and plain.witness.boots(container)[-1].records
        ),
        "the container to write again",
        60,
    )
    plain.assert_nothing_lost(container)
    plain.end_vm(container)


def test_a_vm_paused_for_an_io_error_is_said_and_not_restarted(plain, guest):
    """Both copies of its disk fail: DRBD passes the error on, and QEMU, told to, stops the guest."""
    plain.witness.wait_for_record(guest, timeout_seconds=BOOT_SECONDS)
    first, second = (plain.host(name) for name in guest.hosts)
    with Site(plain, vms=[guest]) as site:
        site.wait_watching()
        since = time.time()
        boots = len(plain.witness.boots(guest))
        for host in (second, first):
            host.break_disk(guest.resources[0])
        first.wait_for_domain(guest, "paused (I/O error)")
        site.wait_alert("VMPaused")
        site.wait_looked()
        assert [event.sentence for event in site.events(since) if event.kind == "intent"] == []
        assert len(plain.witness.boots(guest)) == boots
        assert first.domain_state(guest).startswith("paused")
    plain.witness.assert_nothing_lost(guest)


def resources_seen(lab, host):
    """Which DRBD resource each domain's disk lies on, and the disk, as the host's exporter says."""
    argv = [
        "busybox",
        "wget",
        "-q",
        "-O",
        "-",
        f"http://{host}:{EXPORTER_PORT}/metrics?collect[]=drbd&collect[]=libvirt",
    ]
    try:
        page = lab.network.run(argv)
    except LabError:
        return {}
    samples = next(
        family.samples
        for family in text_string_to_metric_families(page)
        if family.name == "libvirt_domain_drbd_resource"
    )
    return {
        sample.labels["domain"]: (sample.labels["resource"], sample.labels["target_device"])
        for sample in samples
    }
