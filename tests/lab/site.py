"""The monitoring machine of a lab: Prometheus, Alertmanager and the actuator, with the files the repo ships."""

import json
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import requests
import yaml

from tests.lab.host import Host
from tests.lab.image import REPO
from tests.lab.lab import Lab, in_parallel
from tests.lab.network import MONITOR, address
from tests.lab.vm import LIBVIRT_URIS, Vm
from tests.lab.waiting import LabError, stage, wait_until
from tests.prometheus import RULE_FILES, leave_out
from tests.watching import wait_looked, wait_watched

RULES = REPO / "rules"
PORTS = {"prometheus": 9090, "alertmanager": 9093, "actuator": 10811}
EXPORTER_PORT = 10810


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the actuator's journal. Times are wall clock, Unix seconds."""

    at: float
    kind: str
    sentence: str
    domain: str
    host: str
    plan: int | None
    detail: Mapping[str, Any]


class Site:
    """What watches over a lab's VMs, as a context manager.

    with Lab() as lab:
        vm = lab.add_vm("voms01")
        with Site(lab, [vm]) as site:
            ...
    """

    def __init__(
        self,
        lab: Lab,
        vms: Sequence[Vm],
        settings: Mapping[str, Any] | None = None,
        *,
        crashes_again: bool = False,
    ) -> None:
        """Describe the site; nothing happens before it is entered.

        Args:
            lab: where.
            vms: the protected ones.
            settings: sections of the actuator's configuration, laid over the lab's own.
            crashes_again: one VM is crashed again and again, and shall be restarted each time.
        """
        self.lab = lab
        self.vms = tuple(vms)
        self.folder = lab.folder / "site"
        self._settings = dict(settings or {})
        self._crashes_again = crashes_again
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        self._http = requests.Session()
        self._http.trust_env = False
        self.token = secrets.token_hex(16)
        fenced = any(resource.fenced for vm in self.vms for resource in vm.resources)
        self._hook_tokens = {host: secrets.token_hex(16) for host in lab.hosts} if fenced else {}

    def __enter__(self) -> Self:
        self._write_files()
        with stage(self.lab.progress, "site: exporters on the hosts"):
            in_parallel(self._install, self.lab.hosts.values())
        with stage(self.lab.progress, "site: Prometheus, Alertmanager, actuator"):
            for name in PORTS:
                self.start(name)
            for name in PORTS:
                self.wait_ready(name)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._programs):
            self.stop(name)
        self._http.close()

    @property
    def config(self) -> Path:
        """The actuator's configuration."""
        return self.folder / "actuator.yml"

    def url(self, name: str, path: str = "") -> str:
        """Return where the bare machine reaches one of the programs."""
        return f"http://{self.lab.door}:{PORTS[name]}/{path}"

    def get(self, name: str, path: str, **parameters: str) -> Any:
        """Ask one of the programs' HTTP APIs for JSON."""
        answer = self._http.get(self.url(name, path), params=parameters, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def start(self, name: str, *arguments: str, wrapper: Sequence[str] = ()) -> None:
        """Start one of the programs; see `wait_ready`.

        Args:
            name: `prometheus`, `alertmanager` or `actuator`.
            arguments: more arguments for it.
            wrapper: for the actuator: an argv that runs it otherwise than by its own name.
        """
        argv = {
            "prometheus": [
                "prometheus",
                f"--config.file={self.folder}/prometheus.yml",
                f"--storage.tsdb.path={self.folder}/prometheus",
                f"--web.listen-address=:{PORTS['prometheus']}",
                "--log.level=warn",
            ],
            "alertmanager": [
                "prometheus-alertmanager",
                f"--config.file={self.folder}/alertmanager.yml",
                f"--storage.path={self.folder}/alertmanager",
                f"--web.listen-address=:{PORTS['alertmanager']}",
                "--cluster.listen-address=",
                "--log.level=warn",
            ],
            "actuator": [*(wrapper or actuator_program()), "serve", "--config", str(self.config)],
        }[name]
        self._programs[name] = self.lab.popen([*argv, *arguments], log=name, cwd=REPO)

    def wait_ready(self, name: str, timeout_seconds: float = 60) -> None:
        """Wait until a program says that it is ready.

        Raises:
            LabError: it ended, or was not ready in time.
        """

        def ready() -> bool:
            if self._programs[name].poll() is not None:
                raise LabError(f"{name} ended: {self.log(name)[-1500:]}")
            try:
                return self._http.get(self.url(name, "-/ready"), timeout=5).status_code == requests.codes.ok
            except requests.RequestException:
                return False

        wait_until(ready, f"{name} to be ready", timeout_seconds)

    def stop(self, name: str, *, kill: bool = False, timeout_seconds: float = 20) -> int:
        """End a program (SIGTERM, or SIGKILL) and return its exit status."""
        program = self._programs.pop(name)
        if kill:
            program.kill()
        else:
            program.terminate()
        try:
            return program.wait(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait(timeout=timeout_seconds)
            raise LabError(f"{name} did not end within {timeout_seconds:g} s of SIGTERM") from None

    def ended(self, name: str) -> bool:
        """Whether a program that was started has ended by itself."""
        return self._programs[name].poll() is not None

    def log(self, name: str) -> str:
        """Return what a program has logged so far."""
        return (self.lab.logs / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def events(self, since: float = 0.0) -> list[Event]:
        """Return the actuator's journal from a time on, as `vmheal-actuator journal --json` prints it."""
        return [event for event in self._journal() if event.at >= since]

    def _journal(self) -> Iterator[Event]:
        for line in self.ask("journal", "--json", "--lines", "1000000").splitlines():
            yield parse_event(line)

    def ask(self, *words: str) -> str:
        """Run `vmheal-actuator` with these words and return what it printed."""
        argv = [*actuator_program(), *words, "--config", str(self.config)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    def alerts(self) -> list[dict[str, Any]]:
        """Return what fires in Prometheus now, but for the Watchdog, which always does."""
        found = self.get("prometheus", "api/v1/alerts")["data"]["alerts"]
        firing = [alert for alert in found if alert["state"] == "firing"]
        return [alert for alert in firing if alert["labels"]["alertname"] != "Watchdog"]

    def query(self, query: str) -> list[dict[str, str]]:
        """Return the labels of what Prometheus finds."""
        result = self.get("prometheus", "api/v1/query", query=query)["data"]["result"]
        return [series["metric"] for series in result]

    def wait_watching(self, timeout_seconds: float = 300) -> None:
        """Wait until Prometheus sees every VM expected and running, on its host, and the actuator's ways to
        all hosts are open.
        """
        wait_watched(self.query, [vm.name for vm in self.vms], timeout_seconds)

    def wait_looked(self, timeout_seconds: float = 60) -> None:
        """Wait until the actuator's reconcile has asked all hosts once more, from now on."""
        wait_looked(self.query, timeout_seconds)

    def wait_alert(self, name: str, timeout_seconds: float = 90) -> None:
        """Wait until an alert of this name fires."""
        wait_until(
            lambda: any(alert["labels"]["alertname"] == name for alert in self.alerts()),
            f"{name} to fire",
            timeout_seconds,
        )

    def post(self, body: bytes, token: str | None = None) -> requests.Response:
        """Deliver a webhook body by hand."""
        headers = {"Authorization": f"Bearer {token or self.token}", "Content-Type": "application/json"}
        return self._http.post(self.url("actuator", "alerts"), data=body, headers=headers, timeout=10)

    def resource(self, name: str) -> dict[str, Any]:
        """What the arbiter says of a DRBD resource; nothing while it knows none."""
        found: list[dict[str, Any]] = self.get("actuator", "api/v1/status")["resources"]
        return next((it for it in found if it["resource"] == name), {})

    def order(self, *words: str) -> str:
        """Give an order as an operator types it: `order("migrate", "voms01", "--to", "v02")`; what was answered.

        Raises:
            LabError: it was refused.
        """
        argv = [*actuator_program(), *words, "--config", str(self.config), "--url", self.url("actuator")]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise LabError(f"vmheal-actuator {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def _install(self, host: Host) -> None:
        """Install what runs on a host, and wait until it serves: its start takes the processor from logins."""
        if token := self._hook_tokens.get(host.name):
            host.install_fence_peer(f"{address(MONITOR)}:{PORTS['actuator']}", token)
        host.install_exporter()

        def serves() -> bool:
            try:
                self.lab.network.connect(host.name, EXPORTER_PORT, 5).close()
            except OSError:
                return False
            return True

        wait_until(serves, f"the exporter on {host.name}", 120, 0.5)

    def _write_files(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("prometheus.yml", *RULE_FILES, "alertmanager.yml"):
            shutil.copy(RULES / name, self.folder / name)
        if self._crashes_again:
            leave_out(self.folder / "vmheal.yml", "VMPersistentFailure")
        (self.folder / "webhook.token").write_text(self.token)
        (self.folder / "operator.token").write_text(secrets.token_hex(16))
        for host, token in self._hook_tokens.items():
            (self.folder / f"{host}.token").write_text(token)
        self.config.write_text(yaml.safe_dump(self.actuator_settings(), sort_keys=False))

    def actuator_settings(self) -> dict[str, Any]:
        """Return the actuator's configuration for this lab."""
        keys = self.lab.keys
        scheme, _, rest = LIBVIRT_URIS["xen" if self.lab.flavour == "xen" else "qemu"].partition(":")
        return {
            "mode": "enforce",
            "listen": f":{PORTS['actuator']}",
            "journal": {"path": str(self.folder / "journal.sqlite")},
            "webhook": {"token_file": str(self.folder / "webhook.token")},
            "operator": {"token_file": str(self.folder / "operator.token")},
            "prometheus": {"url": f"http://localhost:{PORTS['prometheus']}"},
            "alertmanager": {"url": f"http://localhost:{PORTS['alertmanager']}"},
            "ssh": {
                "user": "root",
                "command": None,
                "key_file": str(keys.client),
                "known_hosts_file": str(keys.known_hosts),
            },
            "hosts": {
                host: {
                    "address": host,
                    "libvirt_uri": f"{scheme}+ssh://root@{host}/{rest.split('/')[-1]}",
                }
                | ({"arbiter_token_file": str(self.folder / f"{host}.token")} if self._hook_tokens else {})
                for host in self.lab.hosts
            },
            # On these emulated hosts an isolated VM was gone 13 to 16 s after the cut, ten times later than on a real one.
            "failover": {"margin_seconds": 12.0},
            "domains": {vm.name: {"host": vm.hosts[0], "hosts": list(vm.hosts)} for vm in self.vms},
            **self._settings,
        }


def parse_event(line: str) -> Event:
    """Read one line of `vmheal-actuator journal --json`."""
    raw = json.loads(line)
    return Event(
        at=raw["at"],
        kind=raw["kind"],
        sentence=raw["sentence"],
        domain=raw.get("domain", ""),
        host=raw.get("host", ""),
        plan=raw.get("plan"),
        detail=raw.get("detail", {}),
    )


def actuator_program() -> list[str]:
    """Return the argv of the actuator installed beside the Python that runs this."""
    return [str(Path(sys.executable).with_name("vmheal-actuator"))]


def monotonic_to_wall(moment: float) -> float:
    """Return the wall-clock time of a moment of this machine's monotonic clock."""
    return time.time() - (time.monotonic() - moment)
