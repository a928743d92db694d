"""A line whose VM runs a service, which Debian's blackbox exporter probes as a site would.

The guest has no more than a boot sector (`answers.S`): it answers on its serial port, which QEMU offers as a
TCP port.
"""

import contextlib
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.libvirtd import Libvirtd
from tests.line.line import Line
from tests.program import Program

SERVICE_PORT = 4555
BLACKBOX_PORT = 9115
SETTLE_SECONDS = 15
"""Longer than Alertmanager needs to say that the alert is over: a group_interval."""
_SOURCE = Path(__file__).parent / "answers.S"

_SERIAL = f"""
<serial type='tcp'>
  <source mode='bind' host='127.0.0.1' service='{SERVICE_PORT}'/><protocol type='raw'/><target port='0'/>
</serial>
"""

_BLACKBOX = {
    "modules": {
        "service": {
            "prober": "tcp",
            "timeout": "1s",
            "tcp": {"query_response": [{"send": "ping"}, {"expect": "^pong"}]},
        }
    }
}

_RULES = {
    "groups": [
        {
            "name": "services",
            "interval": "1s",
            "rules": [
                {
                    "alert": "ServiceDead",
                    "expr": 'probe_success{job="blackbox"} == 0',
                    "for": "3s",
                    "labels": {"action": "restart", "if_running": "true", "severity": "critical"},
                }
            ],
        }
    ]
}


class ServiceLine(Line):
    """One VM, with the service in it."""

    def __init__(self, folder: Path, domain: str) -> None:
        super().__init__(folder, (domain,))
        self.sector = _assembled(folder)

    def die(self) -> None:
        """End the service, in the guest that runs on."""
        with self.netns.entered(), socket.create_connection(("127.0.0.1", SERVICE_PORT), timeout=10) as it:
            it.sendall(b"D")

    def _guest(self, libvirtd: Libvirtd, domain: str, device: str) -> str:
        self.disks[domain].write_bytes(self.sector)
        return libvirtd.guest(domain, _SERIAL, memory_mib=32, device=device)

    def _start_more(self, started: contextlib.ExitStack) -> None:
        configuration = self.folder / "blackbox.yml"
        configuration.write_text(yaml.safe_dump(_BLACKBOX))
        address = f"127.0.0.1:{BLACKBOX_PORT}"
        argv = ["prometheus-blackbox-exporter", f"--config.file={configuration}"]
        program = Program(
            [*argv, f"--web.listen-address={address}"], self.folder / "blackbox.log", netns=self.netns
        )
        started.enter_context(program)
        program.wait_ready(f"http://{address}/-/healthy")

    def _copy_rules(self, number: int) -> Path:
        folder = super()._copy_rules(number)
        (folder / "services.yml").write_text(yaml.safe_dump(_RULES))
        configuration = folder / "prometheus.yml"
        document = yaml.safe_load(configuration.read_text())
        document["rule_files"].append("services.yml")
        document["scrape_configs"].append(_probe(*self.domains))
        configuration.write_text(yaml.safe_dump(document))
        return folder

    def _adapted(self, settings: dict[str, Any]) -> dict[str, Any]:
        restart = {"max_attempts": 2, "backoff_seconds": 0, "settle_seconds": SETTLE_SECONDS}
        # The guest knows no ACPI: it is ended at this time.
        return settings | {"restart": restart, "move": {"shut_down_timeout_seconds": 2}}


def _probe(domain: str) -> dict[str, Any]:
    return {
        "job_name": "blackbox",
        "metrics_path": "/probe",
        "params": {"module": ["service"]},
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "static_configs": [{"targets": [f"127.0.0.1:{SERVICE_PORT}"], "labels": {"domain": domain}}],
        "relabel_configs": [
            {"source_labels": ["__address__"], "target_label": "__param_target"},
            {"source_labels": ["__param_target"], "target_label": "instance"},
            {"target_label": "__address__", "replacement": f"127.0.0.1:{BLACKBOX_PORT}"},
        ],
    }


def _assembled(folder: Path) -> bytes:
    """Return the boot sector."""
    assert shutil.which("as"), "needs binutils"
    parts, sector = folder / "answers.o", folder / "answers.bin"
    for argv in (
        ["as", "--32", "-o", parts, _SOURCE],
        ["ld", "-m", "elf_i386", "--oformat", "binary", "-Ttext", "0x7c00", "-o", sector, parts],
    ):
        subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return sector.read_bytes()
