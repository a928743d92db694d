"""A new site, from hosts that have nothing of vmheal to one that survives a host's end, by docs/first-steps.md alone.

The commands are the document's own, read from it and typed by a shell on the monitoring machine. One line of it is one
command on one machine: there is no loop and no `&&` among them. Only the addresses are those of the lab, and `make deb`,
which needs compilers and PyPI, is run on the bare machine.
"""

import re
import shutil
import subprocess

import pytest
import requests

from tests.lab.image import REPO
from tests.lab.lab import Lab, in_parallel
from tests.lab.monitor import Monitor
from tests.lab.moves import Moment, failover_of, is_in_order, wait_writes_on
from tests.lab.network import MONITOR, address, hosts_file
from tests.lab.site import Site
from tests.lab.vm import VOLUME_GROUP
from tests.lab.waiting import LabError, stage, wait_until

DOCUMENT = REPO / "docs" / "first-steps.md"
AT_MOST = 20
COMMAND_SECONDS = 600
READY_SECONDS = 600
DOCUMENTED_MONITOR = "10.10.0.9"


def commands():
    """Every line of the document's code blocks, continued ones as one."""
    lines = re.findall(r"(?m)^    (.+)$", DOCUMENT.read_text().replace("\\\n", ""))
    return [" ".join(line.split()).replace(DOCUMENTED_MONITOR, address(MONITOR)) for line in lines]


class NamedAsInside(requests.adapters.HTTPAdapter):
    """The actuator's certificate has its address on the hosts' network, not that by which it is reached here."""

    def init_poolmanager(self, *arguments, **more):
        super().init_poolmanager(*arguments, assert_hostname=address(MONITOR), **more)


class InstalledSite(Site):
    """One that is already there: it is asked by TLS, and its journal on the monitoring machine."""

    def __init__(self, lab, vms, monitor):
        super().__init__(lab, vms)
        self._monitor = monitor
        self._http.mount("https://", NamedAsInside())

    def trust(self):
        """Believe the certificate that `init` has made."""
        (self.lab.folder / "ca.pem").write_text(self._monitor.run("cat /etc/vmheal/ca.pem").stdout)
        self._http.verify = str(self.lab.folder / "ca.pem")

    def url(self, name, path=""):
        url = super().url(name, path)
        return url.replace("http://", "https://") if name == "actuator" else url

    def ask(self, *words):
        done = self._monitor.run(" ".join(["vmheal-actuator", *words]))
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def bare(progress):
    """Two hosts with a VM, DRBD that asks nobody, and nothing of vmheal."""
    with Lab(hosts=2, flavour="xen", name="newsite", progress=progress) as lab:
        vm = lab.add_vm("voms01")
        in_parallel(make_bare, lab.hosts.values())
        lab.start_vms([vm], timeout_seconds=300)
        yield lab, vm


def make_bare(host):
    """What the lab's image has more, or less, than a host with Debian's packages."""
    host.run(["rm", "-rf", "/opt/vmheal"])
    host.run(["systemctl", "unmask", "--quiet", "drbd.service"], timeout_seconds=120)


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """What `make deb` writes."""
    folder = tmp_path_factory.mktemp("checkout") / "dist"
    folder.mkdir()
    # As a person types it, but for the environment, in which this runs already.
    done = subprocess.run(
        ["make", "--silent", "--assume-old=dev", "deb"],
        cwd=REPO,
        check=True,
        capture_output=True,
        text=True,
        timeout=900,
    )
    for line in done.stdout.splitlines():
        shutil.copy(REPO / line, folder)
    return folder


@pytest.fixture(scope="module")
def monitor(bare, dist):
    lab, _ = bare
    with Monitor(lab, {dist: "/root/vmheal/dist"}) as monitor:
        keys = lab.keys
        monitor.write("/etc/hosts", hosts_file(lab.network.hosts))
        monitor.write("/root/.ssh/id_ed25519", keys.client.read_text(), "0600")
        monitor.write("/root/.ssh/known_hosts", keys.known_hosts.read_text())
        yield monitor


def type_all(lab, monitor):
    for number, line in enumerate(commands(), 1):
        if line == "make deb":
            continue
        with stage(lab.progress, f"{number:2d} {line}"):
            if line.startswith("vmheal-actuator check"):
                # "type it again until all is ready"
                wait_until(lambda line=line: typed(monitor, line).returncode == 0, line, READY_SECONDS, 10)
            else:
                done = typed(monitor, line)
                assert done.returncode == 0, f"{line}: {done.stdout[-1500:]}\n{done.stderr[-1500:]}"
            if line.startswith("vmheal-actuator"):
                print(typed_output[-1])


typed_output = [""]


def typed(monitor, line):
    done = monitor.run(line, folder="/root/vmheal", timeout_seconds=COMMAND_SECONDS)
    typed_output[:] = [done.stdout + done.stderr]
    return done


def test_there_are_no_more_than_twenty_and_each_line_is_one():
    assert 15 < len(commands()) <= AT_MOST
    assert not [line for line in commands() if re.search(r"[;|`]|&&|\$\(|\b(for|while|xargs|sh -c)\b", line)]


@pytest.mark.drill
@pytest.mark.timeout(3600)
def test_from_bare_hosts_to_a_host_that_is_lost_and_comes_back(bare, monitor):
    lab, vm = bare
    site = InstalledSite(lab, [vm], monitor)
    lost, alive = vm.hosts
    try:
        type_all(lab, monitor)
    except (AssertionError, LabError):
        for unit in ("vmheal-actuator", "prometheus", "prometheus-alertmanager"):
            print(monitor.run(f"journalctl -u {unit} -n 40 --no-pager -o cat").stdout)
        print(typed_output[-1])
        raise
    site.trust()
    assert "mode: enforce" in monitor.run("cat /etc/vmheal/actuator.yml").stdout
    site.wait_watching()
    wait_until(lambda: is_in_order(site, vm), "both replicas to be current", 300, 1)
    line = "vmheal-actuator check --live"  # begins with three logins on each host, which takes an emulated one's time
    wait_until(
        lambda: typed(monitor, line).returncode == 0, f"{line}, when it is enforced", READY_SECONDS, 10
    )
    [check] = typed_output
    assert "mode enforce, 1 protected domains" in check
    assert "1 of 1 VMs are ready for all that vmheal may do" in check
    lab.progress(check)

    lab.witness.wait_for_record(vm)
    fault = Moment.now()
    lab.host(lost).kill()
    wait_writes_on(lab, site, vm, alive, fault)
    lab.progress(f"seconds from the kill: {failover_of(site, [vm], fault)}")
    lab.assert_nothing_lost(vm, alive)

    # Back, its DRBD comes up by the unit that was enabled.
    machine = lab.host(lost)
    machine.boot()
    machine.run(["vgchange", "--quiet", "--quiet", "--activate", "y", VOLUME_GROUP], timeout_seconds=120)
    wait_until(lambda: is_in_order(site, vm), f"{lost} to be resynced and admitted", 400, 1)
    assert vm.name not in machine.virsh(vm.uri, "list", "--name").split()
    lab.assert_nothing_lost(vm)
