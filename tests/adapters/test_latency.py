"""How long the questions take that lie between an alert and the start call; nothing is asserted of the times."""

import contextlib
import statistics
import time
from dataclasses import replace

import libvirt
import pytest

from actuator.adapters.drbd_storage import DrbdStorage
from actuator.adapters.libvirt_hypervisor import LibvirtHypervisor, strict_uri
from actuator.adapters.ssh import SshAccess, SshHost
from tests.adapters.test_drbd_storage import CONFIGURATION, CONNECTED, install
from tests.host_command import forced
from tests.libvirtd import Libvirtd
from tests.sshd import sshd

CALLS = 200


def milliseconds(call):
    call()
    times = []
    for _ in range(CALLS):
        begun = time.perf_counter()
        call()
        times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


@pytest.mark.bench
def test_a_program_by_a_shell_and_by_vmheal_host(tmp_path, capsys):
    """One after the other, again and again: what disturbs one, disturbs the other."""
    programs = tmp_path / "bin"
    programs.mkdir()
    install(programs, "drbdadm", "echo Secondary/Primary\n")
    environment = {"HOME": str(tmp_path), "PATH": f"{programs}:/usr/bin:/bin"}
    allowed = forced(tmp_path, "resource vm1", f"path {programs}:/usr/bin:/bin")
    folders = {"shell": "", "vmheal-host": allowed}
    times = {name: [] for name in folders}
    with contextlib.ExitStack() as opened:
        hosts = {}
        for name, options in folders.items():
            folder = tmp_path / name
            folder.mkdir()
            server = opened.enter_context(sshd(folder, environment=environment, key_options=options))
            access = SshAccess(server.address, server.user_key, server.known_hosts, server.port, server.user)
            command = "vmheal-host" if options else None
            ssh = opened.enter_context(contextlib.closing(SshHost("v01", replace(access, command=command))))
            assert ssh.run(["drbdadm", "get-gi", "vm1"], 10).stdout == "Secondary/Primary\n"
            hosts[name] = ssh
        for _ in range(CALLS):
            for name, ssh in hosts.items():
                begun = time.perf_counter()
                ssh.run(["drbdadm", "get-gi", "vm1"], 10)
                times[name].append((time.perf_counter() - begun) * 1000)
    with capsys.disabled():
        print(f"\na program of one line, {CALLS} calls each   median ms   p99 ms")
        for name, took in times.items():
            p99 = statistics.quantiles(took, n=100)[98]
            print(f"{name:<36} {statistics.median(took):>12.2f} {p99:>8.2f}")


@pytest.mark.bench
def test_questions_over_warm_connections(tmp_path, capsys):
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "state").write_text(CONNECTED)
    (tmp_path / "dump").write_text(CONFIGURATION)
    install(programs, "drbdsetup", f"exec cat {tmp_path}/state\n")
    install(programs, "drbdadm", f"exec cat {tmp_path}/dump\n")
    environment = {"HOME": str(tmp_path), "PATH": f"{programs}:/usr/bin:/bin"}
    with Libvirtd() as libvirtd:
        enter = ["nsenter", f"--target={libvirtd.pid}", "--mount", "--"]
        with sshd(tmp_path, environment=environment, enter=enter) as server:
            access = SshAccess(server.address, server.user_key, server.known_hosts, server.port, server.user)
            handle = libvirt.open(libvirtd.uri)
            handle.defineXML(libvirtd.guest("voms01"))
            handle.close()
            ssh = SshHost("v01", access)
            storage = DrbdStorage({"v01": access})
            hypervisor = LibvirtHypervisor({"v01": strict_uri("qemu+ssh://127.0.0.1/system", access)})
            calls = {
                "ssh: true": lambda: ssh.run(["true"], 10),
                "DRBD status": lambda: storage.status("v01", timeout_seconds=10),
                "libvirt look": lambda: hypervisor.look("v01", "voms01", timeout_seconds=10),
                "libvirt states": lambda: hypervisor.states("v01", timeout_seconds=10),
            }
            results = {name: milliseconds(call) for name, call in calls.items()}
            for closing in (ssh, storage, hypervisor):
                closing.close()
    with capsys.disabled():
        print(f"\nloopback, {CALLS} calls each       median ms   p99 ms")
        for name, (median, p99) in results.items():
            print(f"{name:<28} {median:>12.2f} {p99:>8.2f}")
