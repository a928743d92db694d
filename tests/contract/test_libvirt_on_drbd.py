"""What Xen does and QEMU does not, and both on a Secondary: on the simulator's model, and on whole hosts with real DRBD."""

import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest

from actuator.adapters.libvirt_hypervisor import LibvirtHypervisor, strict_uri
from actuator.adapters.ssh import SshAccess
from tests.contract.test_libvirt import VM, Model, Side
from tests.lab.lab import Lab
from tests.lab.network import address
from tests.lab.test_daemons import LIBVIRTD
from tests.netns import Netns

HOST, PEER = "v01", "v02"
LATE = 120.0
"""Emulated hosts are slow."""


class Real(Side):
    """A host of the lab, and a guest that writes to a device of DRBD."""

    def __init__(self, lab):
        self.lab, self.host, self.vm = lab, lab.host(HOST), lab.vms[VM]
        self.host.define(self.vm)
        access = SshAccess(address(HOST), lab.keys.client, lab.keys.known_hosts)
        uri = f"{self.vm.flavour}+ssh://{address(HOST)}/system"
        self.port = LibvirtHypervisor({HOST: strict_uri(uri, access)}, {HOST: access.logins})

    def call(self, method, *arguments, **more):
        return getattr(self.port, method)(HOST, *arguments, **more, timeout_seconds=LATE)

    def wait(self, seconds):
        threading.Event().wait(seconds)

    def comes_to(self, state):
        deadline = time.monotonic() + LATE
        while (seen := self.seen()) != state and time.monotonic() < deadline:
            self.wait(0.3)
        return seen == state or seen

    def started(self):
        number = super().started()
        self.lab.witness.wait_for_record(self.vm, after=time.monotonic(), timeout_seconds=LATE)
        return number

    def kill_guest(self):
        self.host.crash_guest(self.vm)

    def destroy_by_hand(self):
        self.host.destroy_guest(self.vm)

    def keeps_what_has_crashed(self):
        self.host.define(replace(self.vm, on_crash="preserve"))

    def disk_is_closed(self):
        self.host.demote(self.vm.resources[0])

    def disk_is_open(self):
        self.host.run(["drbdadm", "primary", self.vm.resources[0].name])

    def libvirtd_dies(self):
        self.host.run(["systemctl", "stop", *LIBVIRTD], timeout_seconds=LATE)

    def libvirtd_starts(self):
        self.host.run(["systemctl", "start", *LIBVIRTD], timeout_seconds=LATE)

    def close(self):
        self.port.close()
        self.lab.end_vm(self.vm)
        self.host.demote(self.vm.resources[0])
        self.disk_is_open()


@contextmanager
def hosts(flavour):
    """Two hosts with a VM between them; whoever asks is on their network."""
    with Lab(hosts=2, flavour=flavour, name=f"on-{flavour}") as lab, Netns(lab.network.namespace).entered():
        lab.add_vm(VM, on=(HOST, PEER))
        yield lab


@pytest.fixture(scope="module")
def xen_hosts():
    with hosts("xen") as lab:
        yield lab


real = pytest.param("real", marks=[pytest.mark.lab, pytest.mark.timeout(900)])


@pytest.fixture(params=["model", real])
def xen(request, tmp_path):
    model = request.param == "model"
    it = Model(tmp_path, xen=True) if model else Real(request.getfixturevalue("xen_hosts"))
    yield it
    it.close()


@pytest.fixture(params=["model", real])
def qemu(request, tmp_path):
    with nullcontext() if request.param == "model" else hosts("plain") as lab:
        it = Real(lab) if lab else Model(tmp_path)
        yield it
        it.close()


def test_qemu_does_not_start_on_a_secondary(qemu):
    qemu.disk_is_closed()
    assert qemu.start() == "refused 1"
    assert qemu.comes_to("shutoff failed") is True
    assert qemu.id() is None


def test_xen_starts_on_a_secondary_and_the_guest_has_no_disk(xen):
    xen.disk_is_closed()
    assert xen.start() == "done"
    assert xen.comes_to("running booted") is True
    assert xen.has_disk() is False
    xen.disk_is_open()
    assert xen.has_disk() is False
    xen.destroy_by_hand()
    assert xen.started() > 0
    assert xen.has_disk() is True


def test_what_xen_runs_is_not_started_again_nor_destroyed_by_the_port(xen):
    number = xen.started()
    assert xen.start() == "refused 55"
    assert xen.outcome("destroy", VM, number) == "refused None"
    assert xen.seen() == "running booted"
    xen.destroy_by_hand()
    assert xen.comes_to("shutoff destroyed") is True
    assert xen.outcome("destroy", VM, number) == "done"


def test_a_xen_guest_that_panicked_has_crashed(xen):
    xen.started()
    xen.kill_guest()
    assert xen.comes_to("shutoff crashed") is True
    assert xen.id() is None


def test_what_is_left_of_a_xen_guest_that_panicked_is_destroyed_by_the_port(xen):
    xen.keeps_what_has_crashed()
    number = xen.started()
    xen.kill_guest()
    assert xen.comes_to("shutoff crashed") is True
    assert xen.id() == number
    assert xen.start() == "refused 55"
    assert xen.outcome("destroy", VM, number) == "done"
    assert xen.comes_to("shutoff destroyed") is True
    assert xen.id() is None


def test_a_xen_guest_runs_on_without_its_libvirtd(xen):
    number = xen.started()
    xen.libvirtd_dies()
    assert xen.seen() == "no answer"
    xen.libvirtd_starts()
    assert xen.comes_to("running unknown") is True
    assert xen.id() == number
