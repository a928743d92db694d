"""A site of two hosts on one machine, real from the QEMU process to the actuator.

In a network namespace of its own: for each host a libvirtd with QEMU guests, the exporter, and an sshd; beside
them Prometheus and Alertmanager with the files of rules/, and the actuator. The second libvirtd has a network
namespace of its own, and a link to the first, over which VMs are moved live. DRBD alone is not there: programs
`drbdsetup` and `drbdadm` in the PATH of each sshd replay what real ones said of a connected pair, and change its
roles; a VM's disk is one device for both hosts. What rests on DRBD's doings is shown in tests/lab.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import libvirt
import requests
import yaml
from click.testing import CliRunner

from actuator.__main__ import main as actuator
from tests.alertmanager import ALONE, Cluster, alertmanager
from tests.exporter.drbd_samples import command, drbd84
from tests.exporter.fake_drbd import FakeDrbd
from tests.exporter.fake_pair import FakePair
from tests.host_command import forced
from tests.lab.waiting import wait_until
from tests.libvirtd import Libvirtd
from tests.loop_device import loop_device
from tests.netns import LINKED, Link, Netns, network_namespace
from tests.program import Program
from tests.prometheus import leave_out, prometheus
from tests.sshd import Sshd, sshd
from tests.watching import wait_looked, wait_watched

RULES = Path(__file__).parents[2] / "rules"
PROGRAMS = Path(sys.executable).parent
HOSTS = {"v01": "127.0.0.1", "v02": "127.0.0.2"}
SSH_PORT = 2222
ALERTMANAGER_PORTS = (9093, 9193)
PROMETHEUS_PORTS = (9090, 9190)
PAIR = (Cluster("127.0.0.1:9094", ("127.0.0.1:9095",)), Cluster("127.0.0.1:9095", ("127.0.0.1:9094",)))
"""Two Alertmanagers that know each other."""
SOON = 120.0
"""Seconds that nothing here takes on a machine that is busy with other things too."""

# /dev with DRBD's links in it, for libvirtd and its guests alone.
_DEVICES = 'mount -t overlay drbd -o "lowerdir=$1:/dev" /dev'


class Line:
    """Everything runs from entering to leaving. Each domain runs on v01 and is defined on v02 too."""

    def __init__(self, folder: Path, domains: tuple[str, ...], *, paired: bool = False) -> None:
        """Start nothing yet.

        Args:
            folder: for all that is configured and logged.
            domains: the names of the VMs.
            paired: two Alertmanagers in a cluster, and two Prometheus that each tell both. What lasts is said
                again every few seconds.
        """
        self.folder = folder
        self.domains = domains
        self._clusters = PAIR if paired else (ALONE,)
        self.token = "a-token-of-this-test"
        self.disks: dict[str, Path] = {}
        self.libvirtds: dict[str, Libvirtd] = {}
        self.sshds: dict[str, Sshd] = {}
        self.exporters: dict[str, Program] = {}
        self._started = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as started:
            self.netns = started.enter_context(network_namespace(HOSTS))
            # Both listen on the same TCP ports.
            far = started.enter_context(network_namespace({}))
            self.link = Link((self.netns, far))
            self.link.lay()
            self.drbd = self._make_drbd({host: self.folder / host / "drbd" for host in HOSTS})
            for domain in self.domains:
                self.disks[domain] = started.enter_context(loop_device(self.folder / f"{domain}.raw"))
            for host, netns in zip(HOSTS, self.link.ends, strict=True):
                self._start_host(host, netns, started)
            self._start_more(started)
            self._start_monitoring(started)
            self._write_configuration()
            self.actuator = started.enter_context(self._actuator(PROGRAMS / "vmheal-actuator"))
            self.wait_ready()
            self.wait_watched(*self.domains)
            self._started = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

    # ---- DRBD --------------------------------------------------------------------------------------------

    def drbd_calls(self) -> set[str]:
        """What has been asked of DRBD over SSH, on any host."""
        return {call for drbd in self.drbd.values() for call in drbd.calls()}

    def _make_drbd(self, folders: dict[str, Path]) -> dict[str, FakeDrbd]:
        """The hosts' DRBD, with the VMs Primary on v01."""
        self.pair = FakePair(folders, self.folder / "drbd", self.domains)
        for domain in self.domains:
            self.pair.be_primary("v01", domain)
        return self.pair.of

    # ---- the VMs -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def libvirt(self, host: str = "v01") -> Iterator[Any]:
        """A connection of the test's own."""
        handle = libvirt.open(self.libvirtds[host].uri)
        try:
            yield handle
        finally:
            handle.close()

    @contextlib.contextmanager
    def domain(self, name: str, host: str) -> Iterator[Any]:
        """A domain on a host, by a connection of the test's own."""
        with self.libvirt(host) as handle:
            yield handle.lookupByName(name)

    def state(self, domain: str) -> tuple[int, int]:
        """State and reason on v01, as libvirt's numbers."""
        with self.libvirt() as handle:
            state, reason = handle.lookupByName(domain).state()
        return state, reason

    def runs(self, domain: str) -> bool:
        return self.state(domain)[0] == libvirt.VIR_DOMAIN_RUNNING

    def pid(self, domain: str) -> int:
        """Its QEMU process."""
        return self.libvirtds["v01"].qemu_pid(domain)

    def kill(self, domain: str) -> float:
        """Kill its QEMU process, as `kill -9` does; the wall clock just before."""
        at = time.time()
        os.kill(self.pid(domain), 9)
        return at

    def starts(self, domain: str) -> int:
        """How often a QEMU process was started for it on v01, in libvirt's own log of it."""
        log = self.libvirtds["v01"].base / "log" / "qemu" / f"{domain}.log"
        return log.read_text(errors="replace").count(": starting up libvirt version")

    # ---- what watches over them --------------------------------------------------------------------------

    def wait_ready(self, actuator: Program | None = None) -> None:
        """Wait until the actuator is ready, the line's own or another one."""
        (actuator or self.actuator).wait_ready("http://127.0.0.1:10811/-/ready")

    def mortal_actuator(self, write: int) -> Program:
        """An actuator that is killed right after so many journal writes of a restart; not started yet."""
        return self._actuator(sys.executable, "-m", "tests.mortal_actuator", str(write))

    def _actuator(self, *program: str | Path) -> Program:
        argv = [*program, "serve", "--config", self._configuration]
        return Program(argv, self.folder / "actuator.log", netns=self.netns)

    def wait_watched(self, *domains: str) -> None:
        """Wait until Prometheus sees these run where they are expected."""
        wait_watched(self.query, domains, SOON)

    def query(self, query: str) -> list[dict[str, str]]:
        """The labels of what Prometheus finds."""
        result = self._get(f"{self.prometheus.url}/api/v1/query", query=query)["data"]["result"]
        return [series["metric"] for series in result]

    def alerts(self, domain: str) -> dict[str, dict[str, Any]]:
        """What Alertmanager knows of a domain, by the alert's name."""
        return {
            it["labels"]["alertname"]: it for it in self.all_alerts() if it["labels"].get("domain") == domain
        }

    def all_alerts(self) -> list[dict[str, Any]]:
        """What Alertmanager knows."""
        found: list[dict[str, Any]] = self._get(f"{self.alertmanager.url}/api/v2/alerts")
        return found

    def status(self) -> dict[str, Any]:
        """What the actuator says of itself."""
        said: dict[str, Any] = self._get("http://127.0.0.1:10811/api/v1/status")
        return said

    def resolve(self, alert: Mapping[str, Any]) -> None:
        """Tell all Alertmanagers that an alert is over, as a Prometheus does that does not see it."""
        ends = datetime.now(UTC).isoformat()
        body = [{"labels": alert["labels"], "startsAt": alert["startsAt"], "endsAt": ends}]
        with self.netns.entered(), requests.Session() as session:
            session.trust_env = False
            for server in self.alertmanagers:
                session.post(f"{server.url}/api/v2/alerts", json=body, timeout=10).raise_for_status()

    def deliver(self, alert: Mapping[str, Any]) -> int:
        """Post an alert of Alertmanager's API to the actuator once more, as its webhook; the status."""
        body = {
            "version": "4",
            "groupKey": "{}",
            "status": "firing",
            "receiver": "vmheal",
            "truncatedAlerts": 0,
            "alerts": [
                {"status": "firing", "labels": alert["labels"], "startsAt": alert["startsAt"]}
                | {"endsAt": "0001-01-01T00:00:00Z", "fingerprint": alert["fingerprint"]}
            ],
        }
        with self.netns.entered(), requests.Session() as session:
            session.trust_env = False
            headers = {"Authorization": f"Bearer {self.token}"}
            url = "http://127.0.0.1:10811/alerts"
            return session.post(url, json=body, headers=headers, timeout=10).status_code

    def wait_looked(self) -> None:
        """Wait until reconcile has asked everybody once more, from now on."""
        wait_looked(self.query, SOON)

    def events(self, since: float, *domains: str) -> list[dict[str, Any]]:
        """The timeline of these domains from then on, as the actuator's own command tells it."""
        events = [json.loads(line) for line in self.journal()]
        return [event for event in events if event["at"] >= since and event["domain"] in domains]

    def has_finished(self, since: float, domain: str) -> bool:
        """Whether a plan of the domain has come to its end since then."""
        return any(event["kind"] == "finished" for event in self.events(since, domain))

    def journal(self) -> list[str]:
        """All that the actuator wrote down, each event as JSON."""
        return self.command("journal", "--json", "--lines", "1000000").splitlines()

    def wait_members(self, number: int) -> None:
        """Wait until each Alertmanager is ready and sees so many in its cluster, itself included."""
        for server in self.alertmanagers:
            server.program.wait_ready(f"{server.url}/-/ready")
            status = f"{server.url}/api/v2/status"
            wait_until(
                lambda it=status: len(self._get(it)["cluster"]["peers"]) == number,
                f"{server.url} to see {number} in its cluster",
                SOON,
            )

    def command(self, *words: str) -> str:
        """What one of the actuator's commands prints: `command("migrate", "voms01", "--to", "v02")`."""
        argv = [*words, "--config", str(self._configuration)]
        with self.netns.entered():
            done = CliRunner().invoke(actuator, argv, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    def _get(self, url: str, **parameters: str) -> Any:
        with self.netns.entered(), requests.Session() as session:
            session.trust_env = False
            answer = session.get(url, params=parameters, timeout=10)
        answer.raise_for_status()
        return answer.json()

    # ---- starting ----------------------------------------------------------------------------------------

    def _start_host(self, host: str, netns: Netns, started: contextlib.ExitStack) -> None:
        folder = self.folder / host
        self.drbd[host].prints("dump-xml", _dump_xml(self.domains))
        get_gi = command(drbd84(f"14-connected-primary-secondary.{host}"), "drbdadm get-gi")
        self.drbd[host].prints("get-gi", get_gi)
        for key in ("host_key", "host_key.pub", "user_key", "user_key.pub"):
            if host != "v01":
                shutil.copy(self.folder / "v01" / key, folder / key)
        allowed = forced(folder, "resource *", f"path {folder / 'drbd' / 'bin'}:/usr/bin:/bin")
        with self.netns.entered():
            server = sshd(folder, address=HOSTS[host], port=SSH_PORT, key_options=allowed)
            self.sshds[host] = started.enter_context(server)
        libvirtd = self.libvirtds[host] = started.enter_context(Libvirtd(host, netns.name))
        links = libvirtd.base / "dev" / "drbd" / "by-res"
        for domain in self.domains:
            (links / domain).mkdir(parents=True)
            (links / domain / "0").symlink_to(self.disks[domain])
        enter = ["nsenter", "-t", str(libvirtd.pid), "-m", "sh", "-c", _DEVICES, "sh"]
        subprocess.run([*enter, str(libvirtd.base / "dev")], check=True, timeout=20)
        with self.libvirt(host) as handle:
            for domain in self.domains:
                defined = handle.defineXML(self._guest(libvirtd, domain, f"/dev/drbd/by-res/{domain}/0"))
                if host == "v01":
                    defined.create()
        flags = [f"--web.listen-address={HOSTS[host]}:10810", f"--libvirt.uri={libvirtd.uri}"]
        argv = [*self._exporter_program(host), *flags]
        exporter = Program(argv, folder / "exporter.log", netns=self.netns)
        self.exporters[host] = started.enter_context(exporter)
        exporter.wait_ready(f"http://{HOSTS[host]}:10810/-/healthy")

    def _exporter_program(self, host: str) -> list[str | Path]:
        return [PROGRAMS / "vmheal-exporter"]

    def _guest(self, libvirtd: Libvirtd, domain: str, device: str) -> str:
        """The VM's definition."""
        return libvirtd.guest(domain, memory_mib=32, device=device)

    def _start_more(self, started: contextlib.ExitStack) -> None:
        """Start what this site has besides; Prometheus comes after it."""

    def _start_monitoring(self, started: contextlib.ExitStack) -> None:
        self.alertmanagers = []
        self.prometheuses = []
        for number, cluster in enumerate(self._clusters):
            folder = self._copy_rules(number)
            server = alertmanager(
                folder / "alertmanager.yml",
                folder,
                port=ALERTMANAGER_PORTS[number],
                netns=self.netns,
                cluster=cluster,
            )
            self.alertmanagers.append(started.enter_context(server))
            server = prometheus(
                folder / "prometheus.yml", folder, port=PROMETHEUS_PORTS[number], netns=self.netns
            )
            self.prometheuses.append(started.enter_context(server))
        self.alertmanager, self.prometheus = self.alertmanagers[0], self.prometheuses[0]

    def _copy_rules(self, number: int) -> Path:
        """Make the folder of a Prometheus and its Alertmanager, with the files of rules/."""
        folder = self.folder / f"monitoring{number + 1}"
        folder.mkdir()
        for name in ("prometheus.yml", "vmheal.yml", "alertmanager.yml"):
            shutil.copy(RULES / name, folder / name)
        configuration = folder / "prometheus.yml"
        document = yaml.safe_load(configuration.read_text())
        targets = [f"localhost:{port}" for port in ALERTMANAGER_PORTS[: len(self._clusters)]]
        document["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = targets
        configuration.write_text(yaml.safe_dump(document))
        if len(self._clusters) > 1:
            routes = folder / "alertmanager.yml"
            routes.write_text(routes.read_text().replace("repeat_interval: 1m", "repeat_interval: 5s"))
        # The tests end one VM again and again, and it is to be restarted each time.
        leave_out(folder / "vmheal.yml", "VMPersistentFailure")
        (folder / "webhook.token").write_text(self.token)
        return folder

    @property
    def _configuration(self) -> Path:
        return self.folder / "actuator.yml"

    def _write_configuration(self) -> None:
        operators = self.folder / "operator.token"
        operators.write_text(f"{self.token}-for-operators")
        known_hosts = self.folder / "known_hosts"
        known_hosts.write_text("".join((self.folder / host / "known_hosts").read_text() for host in HOSTS))
        settings = {
            "mode": "enforce",
            "journal": {"path": str(self.folder / "journal.sqlite3")},
            "webhook": {"token_file": str(self.folder / "monitoring1" / "webhook.token")},
            "alertmanager": {"url": [it.url for it in self.alertmanagers]},
            "prometheus": {"url": [it.url for it in self.prometheuses]},
            "ssh": {
                "user": "root",
                "key_file": str(self.folder / "v01" / "user_key"),
                "known_hosts_file": str(known_hosts),
                "port": SSH_PORT,
            },
            "operator": {"token_file": str(operators)},
            "hosts": {
                host: {
                    "address": address,
                    "libvirt_uri": self.libvirtds[host].uri,
                    "migrate_libvirt_uri": f"qemu+tcp://{linked}/system",
                    "migrate_address": linked,
                }
                for (host, address), linked in zip(HOSTS.items(), LINKED, strict=True)
            },
            # Tests let the same VM fail again and again; the limits are tested elsewhere.
            "restart": {"max_attempts": 100, "backoff_seconds": 0},
            # What is told here comes by alerts, also when Prometheus is slow for once.
            "reconcile": {"grace_seconds": 60},
            "domains": {domain: {"host": "v01", "hosts": list(HOSTS)} for domain in self.domains},
        }
        self._configuration.write_text(yaml.safe_dump(self._adapted(settings)))

    def _adapted(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The actuator's configuration as this site has it."""
        return settings


def _dump_xml(resources: tuple[str, ...]) -> str:
    host = '<host name="{}"><address family="ipv4" port="{}">{}</address></host>'
    said = [
        f'<resource name="{resource}">'
        + "".join(host.format(name, 7789 + minor, address) for name, address in HOSTS.items())
        + "</resource>"
        for minor, resource in enumerate(resources)
    ]
    return f'<config file="/etc/drbd.conf">{"".join(said)}</config>\n'
