"""The lab itself: real hosts, real DRBD, real guests; every fault does what its name says."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.image import CACHE, REPO
from tests.lab.lab import Lab
from tests.lab.network import MONITOR, ip
from tests.lab.ssh import CommandError
from tests.lab.vm import Vm
from tests.lab.waiting import LabError, LabTimeoutError, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def vm(lab: Lab) -> Iterator[Vm]:
    """A VM with two disks; libvirt keeps what crashed of it."""
    vm = lab.add_vm("selftest", disks=2, on_crash="preserve")
    yield vm
    lab.end_vm(vm)


@pytest.fixture
def running(lab: Lab, vm: Vm) -> Vm:
    """The VM, running on v01."""
    first = lab.host("v01")
    before = time.monotonic()
    if not first.domain_state(vm).startswith("running"):
        lab.start_vm(vm)
    lab.witness.wait_for_record(vm, after=before, timeout_seconds=120)
    return vm


def test_records_flow_and_are_on_both_disks(lab: Lab, running: Vm):
    lab.assert_nothing_lost(running, "v01", "v02")
    assert lab.records_on_disk(running, "v02").records


def test_names_and_keys_hold_inside_the_namespace(lab: Lab):
    ssh = ["ssh", "-i", str(lab.keys.client), "-o", f"UserKnownHostsFile={lab.keys.known_hosts}"]
    ssh += ["-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "root@v02", "hostname"]
    assert lab.network.run(ssh).strip() == "v02"


def test_a_command_that_fails_or_hangs_says_so(lab: Lab):
    with pytest.raises(CommandError, match="v01: ls /nowhere: ended with 2"):
        lab.host("v01").run(["ls", "/nowhere"])
    with pytest.raises(LabTimeoutError, match="v01: sleep 60: not ended after 1 s"):
        lab.host("v01").run(["sleep", "60"], timeout_seconds=1)


def test_the_bare_machine_reaches_what_listens_in_the_lab(lab: Lab):
    server = lab.popen(["busybox", "nc", "-l", "-p", "8099", "-e", "echo", "hello"], log="hello")

    def answer() -> bytes:
        client = ["busybox", "nc", "-w", "5", lab.door, "8099"]
        return subprocess.run(
            client, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False
        ).stdout

    assert wait_until(answer, "an answer from the lab", 10) == b"hello\n"
    server.wait(timeout=10)


def test_a_guest_that_panics_is_seen_and_loses_nothing(lab: Lab, running: Vm):
    host = lab.host("v01")
    host.crash_guest(running)
    host.wait_for_domain(running, "shut off (crashed)")
    last = lab.witness.last_record(running)
    host.destroy_guest(running)  # kept, as its definition asks
    lab.start_vm(running)
    lab.witness.wait_for_record(running, above=last.number, timeout_seconds=120)
    lab.assert_nothing_lost(running)
    assert len(lab.witness.boots(running)) >= 2


def test_a_guest_that_is_killed_or_paused_is_seen(lab: Lab, running: Vm):
    host = lab.host("v01")
    host.pause_guest(running)
    host.wait_for_domain(running, "paused")
    lab.witness.wait_for_silence(running, seconds=2)
    paused = time.monotonic()
    host.resume_guest(running)
    lab.witness.wait_for_record(running, after=paused)
    host.kill_guest(running)
    host.wait_for_domain(running, "shut off")


def test_libvirtd_restarts_and_the_guest_runs_on(lab: Lab, running: Vm):
    host = lab.host("v01")
    boots = len(lab.witness.boots(running))
    host.restart_libvirtd()
    lab.witness.wait_for_record(running, after=time.monotonic())
    host.wait_for_domain(running, "running")
    assert len(lab.witness.boots(running)) == boots


def test_a_pulled_replication_cable_is_seen_by_both_sides(lab: Lab, running: Vm):
    resource = running.resources[0]
    lab.unplug("v02", "replication")
    try:
        for host in lab.hosts.values():
            host.wait_for_drbd(resource, connection="WFConnection")
        lab.network.connect("v02", 22, 10).close()
    finally:
        lab.plug("v02", "replication")
    for host in lab.hosts.values():
        host.wait_for_drbd(resource, connection="Connected", disks="UpToDate/UpToDate", timeout_seconds=60)


@pytest.mark.parametrize("unplugged", ["v02", MONITOR])
def test_a_pulled_management_cable_cuts_monitoring_only(lab: Lab, running: Vm, unplugged: str):
    lab.unplug(unplugged, "management")
    try:
        before = time.monotonic()
        assert not answers(lab, "v02")
        assert lab.host("v02").drbd_state(running.resources[0])[0] == "Connected"
        lab.witness.wait_for_record(running, after=before)
    finally:
        lab.plug(unplugged, "management")
    wait_until(lambda: answers(lab, "v02"), "the management network", 10)


def answers(lab: Lab, host: str) -> bool:
    """Whether a host is reached over the management network; without ARP's answer there is no route to it."""
    try:
        lab.network.connect(host, 22, 2).close()
    except OSError:
        return False
    return True


def test_a_broken_disk_detaches_and_the_guest_runs_on(lab: Lab, running: Vm):
    resource = running.resources[1]
    host = lab.host("v01")
    host.break_disk(resource)
    try:
        host.wait_for_drbd(resource, disks="Diskless/UpToDate")
        lab.witness.wait_for_record(running, after=time.monotonic())
    finally:
        host.mend_disk(resource)
    host.run(["drbdadm", "attach", resource.name])
    host.wait_for_drbd(resource, disks="UpToDate/UpToDate", timeout_seconds=60)
    lab.assert_nothing_lost(running)


def test_a_frozen_host_is_lost_to_its_peer_and_comes_back(lab: Lab, running: Vm):
    resource = running.resources[0]
    lab.host("v02").freeze()
    try:
        lab.host("v01").wait_for_drbd(resource, connection="WFConnection")
        with pytest.raises(LabTimeoutError):
            lab.host("v02").run(["true"], timeout_seconds=2)
    finally:
        lab.host("v02").thaw()
    lab.host("v01").wait_for_drbd(
        resource, connection="Connected", disks="UpToDate/UpToDate", timeout_seconds=60
    )
    assert lab.host("v02").run(["hostname"]).text == "v02"


def test_a_killed_host_boots_again_with_its_disks(lab: Lab, running: Vm):
    host = lab.host("v02")
    host.kill()
    assert not host.machine.running
    with pytest.raises(LabError):
        host.run(["true"], timeout_seconds=5)
    for resource in running.resources:
        lab.host("v01").wait_for_drbd(resource, connection="WFConnection")
    host.boot()
    assert host.drbd_state(running.resources[0])[0] == "Unconfigured"
    host.drbd_up()
    for resource in running.resources:
        host.wait_for_drbd(resource, connection="Connected", disks="UpToDate/UpToDate", timeout_seconds=90)
    assert running.name in host.virsh(running.uri, "list", "--all", "--name")
    lab.assert_nothing_lost(running)


def test_a_guest_moved_by_hand_goes_on_where_it_was(lab: Lab, running: Vm):
    move(lab, running, "v01", "v02")
    try:
        last = lab.witness.last_record(running)
        lab.start_vm(running, on="v02")
        lab.witness.wait_for_record(running, above=last.number, on="v02", timeout_seconds=120)
        lab.assert_nothing_lost(running, "v01", "v02")
    finally:
        move(lab, running, "v02", "v01")


def move(lab: Lab, vm: Vm, source: str, target: str) -> None:
    """End the guest, and make the target Primary instead of the source."""
    lab.host(source).destroy_guest(vm)
    for resource in vm.resources:
        lab.host(source).demote(resource)
        lab.host(target).run(["drbdadm", "primary", resource.name])


def test_a_lab_whose_owner_is_killed_leaves_nothing():
    program = "from tests.lab.lab import Lab\nLab(hosts=1, name='orphan').__enter__()"
    folder, namespace = CACHE / "run" / "orphan", Path("/run/netns/vmheal-orphan")

    def machines() -> list[Path]:
        inside = ip("netns", "pids", namespace.name).split() if namespace.exists() else []
        return [Path("/proc") / process for process in inside if "qemu" in command_name(process)]

    def boots() -> bool:
        console = CACHE / "logs" / "orphan" / "v01.console"
        return bool(machines()) and console.exists() and console.stat().st_size > 0

    owner = subprocess.Popen([sys.executable, "-c", program], cwd=REPO, stderr=subprocess.DEVNULL)
    try:
        wait_until(boots, "the host's first words", 120)
        found = machines()
    finally:
        owner.kill()
        owner.wait()
    wait_until(lambda: not namespace.exists() and not folder.exists(), "the janitor's work", 60)
    wait_until(lambda: not any(process.exists() for process in found), "its QEMU's end", 10)
    assert not Path("/sys/class/net/door-orphan").exists()


def command_name(process: str) -> str:
    try:
        return (Path("/proc") / process / "comm").read_text()
    except (FileNotFoundError, ProcessLookupError):  # gone since it was listed
        return ""
