"""What an operator installs, on whole hosts under their own systemd: the units, init, the Debian packages."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from actuator.config import load
from tests.lab.host import Host
from tests.lab.image import REPO
from tests.lab.lab import Lab
from tests.lab.network import MONITOR, address
from tests.lab.site import EXPORTER_PORT, Site, actuator_program
from tests.lab.vm import Vm
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]

EXPORTER, ACTUATOR = "vmheal-exporter.service", "vmheal-actuator.service"
PACKAGES = ("vmheal-common", "vmheal-exporter", "vmheal-actuator")
CONFIG = """\
mode: observe
journal: {path: /var/lib/vmheal/journal.sqlite3}
webhook: {token_file: /etc/vmheal/webhook.token}
alertmanager: {url: "http://127.0.0.1:9093"}
prometheus: {url: "http://127.0.0.1:9090"}
ssh: {key_file: /etc/vmheal/key, known_hosts_file: /etc/vmheal/known_hosts}
hosts:
  v01: {address: v01, libvirt_uri: "xen+ssh://root@v01/system"}
"""


@pytest.fixture(scope="module")
def vm(lab: Lab) -> Iterator[Vm]:
    vm = lab.add_vm("install01", on=("v01", "v02"), fenced=True)
    lab.start_vms([vm])
    yield vm
    lab.end_vm(vm)


@pytest.fixture(scope="module")
def site(lab: Lab, vm: Vm) -> Iterator[Site]:
    with Site(lab, [vm]) as site:
        site.wait_watching()
        yield site


def shown(host: Host, unit: str, name: str) -> str:
    return host.run(["systemctl", "show", "--value", "-p", name, unit]).text.strip()


def page(lab: Lab, host: str) -> str:
    """The exporter's, all of it."""
    with lab.network.connect(host, EXPORTER_PORT, 30) as connection:
        connection.settimeout(30)
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def hangs_and_comes_back(host: Host, unit: str) -> None:
    """A program that hangs is ended by systemd's watchdog, and started again."""
    before, process = shown(host, unit, "NRestarts"), shown(host, unit, "MainPID")
    host.run(["kill", "-STOP", process])
    wait_until(lambda: shown(host, unit, "NRestarts") != before, f"{unit} to be started again", 150, 1)
    wait_until(lambda: shown(host, unit, "ActiveState") == "active", f"{unit} to be ready", 60, 0.5)
    assert shown(host, unit, "MainPID") != process
    assert "watchdog" in host.run(["journalctl", "-u", unit, "-n", "50", "--no-pager"]).text.lower()


def test_the_exporter_sees_all_from_inside_of_its_unit(lab: Lab, vm: Vm, site: Site) -> None:
    for host in lab.hosts.values():
        assert shown(host, EXPORTER, "NRestarts") == "0"
        said = page(lab, host.name)
        success = [it for it in said.splitlines() if it.startswith("vmheal_exporter_collector_success{")]
        assert len(success) == 6
        assert all(it.endswith((" 1.0", " 1")) for it in success), success
        (resource,) = vm.resources
        assert f'name="{resource.name}"' in said
        assert f'domain="{vm.name}"' in said
        assert "vmheal_lvm_logical_volume_size_bytes{" in said
        log = host.run(["journalctl", "-u", EXPORTER, "--no-pager", "-o", "cat"]).text
        assert "serving" in log
        assert not [it for it in log.splitlines() if "denied" in it.lower() or "not permitted" in it.lower()]
    hangs_and_comes_back(lab.host("v02"), EXPORTER)


def test_init_writes_what_can_be_used(lab: Lab, vm: Vm, site: Site, tmp_path: Path) -> None:
    keys, out = lab.keys, tmp_path / "site"
    argv = [*actuator_program(), "init", *lab.hosts, "--out", str(out), "--actuator", address(MONITOR)]
    argv += ["--key", str(keys.client), "--known-hosts", str(keys.known_hosts)]
    boots = {
        host.name: host.run(["cat", "/proc/sys/kernel/random/boot_id"]).text for host in lab.hosts.values()
    }
    program = lab.popen(argv, log="init", cwd=REPO)
    assert program.wait(timeout=120) == 0, (lab.logs / "init.log").read_text()[-3000:]
    settings = load(out / "actuator.yml")
    assert set(settings.hosts) == set(lab.hosts)
    assert settings.domains[vm.name].host == "v01"
    assert settings.domains[vm.name].hosts == ("v01", "v02")
    assert all(it.libvirt_uri.startswith("xen+ssh://") for it in settings.hosts.values())
    assert (out / "hosts/v02/etc/vmheal/fence-peer.token").read_text() == (
        out / "arbiter-v02.token"
    ).read_text()
    said = (lab.logs / "init.log").read_text()
    assert "asks nobody" not in said, "its DRBD asks the arbiter"
    assert {
        h.name: h.run(["cat", "/proc/sys/kernel/random/boot_id"]).text for h in lab.hosts.values()
    } == boots


def test_the_packages_run_under_systemd_and_are_purged(lab: Lab, site: Site, tmp_path: Path) -> None:
    """On v02, whose exporter of the lab's own makes room for it."""
    subprocess.run([sys.executable, ".ci/deb", tmp_path], cwd=REPO, check=True, timeout=900)
    host = lab.host("v02")
    host.run(["systemctl", "disable", "--now", EXPORTER], timeout_seconds=120)
    host.run(["rm", "-r", f"/etc/systemd/system/{EXPORTER}"])
    host.run(["mv", "/opt/vmheal", "/opt/vmheal.lab"])
    try:
        for package in PACKAGES:
            (built,) = tmp_path.glob(f"{package}_*.deb")
            host.run(["tee", f"/tmp/{package}.deb"], stdin=built.read_bytes(), timeout_seconds=300)
        host.run(["dpkg", "--install", *(f"/tmp/{it}.deb" for it in PACKAGES)], timeout_seconds=900)
        wait_until(lambda: shown(host, EXPORTER, "ActiveState") == "active", "the exporter", 60, 1)
        assert shown(host, EXPORTER, "FragmentPath") == f"/lib/systemd/system/{EXPORTER}"
        assert "vmheal_exporter_collector_success" in page(lab, "v02")

        assert shown(host, ACTUATOR, "ActiveState") == "inactive", "without a configuration"
        for name, text in {
            "actuator.yml": CONFIG,
            "webhook.token": "a-token",
            "key": "",
            "known_hosts": "",
        }.items():
            host.write(f"/etc/vmheal/{name}", text)
        host.run(
            [
                "sh",
                "-c",
                "ssh-keygen -q -t ed25519 -N '' -f /etc/vmheal/k && mv /etc/vmheal/k /etc/vmheal/key",
            ]
        )
        host.run(["sh", "-c", "chown root:vmheal /etc/vmheal/* && chmod 0640 /etc/vmheal/*"])
        host.run(["systemctl", "start", ACTUATOR], timeout_seconds=120)
        assert shown(host, ACTUATOR, "StatusText") == "mode observe, 0 protected VMs"
        host.write("/etc/vmheal/actuator.yml", CONFIG.replace("observe", "approve"))
        host.run(["systemctl", "reload", ACTUATOR], timeout_seconds=120)
        wait_until(lambda: "approve" in shown(host, ACTUATOR, "StatusText"), "the reload", 60, 0.5)
        hangs_and_comes_back(host, ACTUATOR)
        host.run(["dpkg", "--purge", *reversed(PACKAGES)], timeout_seconds=300)
        assert host.run(["ls", "/opt/vmheal"], check=False).returncode != 0
        assert host.run(["ls", "/var/lib/vmheal"], check=False).returncode != 0
    finally:
        host.run(["dpkg", "--purge", *reversed(PACKAGES)], timeout_seconds=300, check=False)
        host.run(["rm", "-rf", "/opt/vmheal"])
        host.run(["mv", "/opt/vmheal.lab", "/opt/vmheal"])
        host.install_exporter()
