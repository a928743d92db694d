"""A real site, to be abused over the network: `tests.line`'s, with hosts' tokens and resources for the arbiter.

Whoever attacks it is in its network, and knows its ports. What is asked of it rightly goes on all the time.
"""

import contextlib
import json
import os
import re
import resource
import sqlite3
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from actuator.adapters.sqlite import SqliteJournal
from actuator.model import Authority as Held
from tests.exporter.certificates import Authority
from tests.line.line import HOSTS, PROGRAMS, Line
from tests.program import Program

ACTUATOR, EXPORTER, BY_TLS = ("127.0.0.1", 10811), ("127.0.0.1", 10810), ("127.0.0.1", 10812)
"""The last one is another exporter, by HTTPS: the server is the same."""
VM, BYSTANDER = "voms01", "ce01"
RESOURCES = tuple(f"r{number}" for number in range(10))
"""Of no VM and on no host's DRBD: what the arbiter writes of them is from hooks alone. v01 holds each."""
REQUEST_SECONDS = 3
"""What a request to the actuator may take here; the exporter's own ten are built in."""
PATIENCE = 60.0
"""Seconds that no answer takes on a machine that is busy with other things too."""
_DONE = {"decided", "intent", "outcome", "finished", "would", "ordered"}
"""Events of something that was done, and not only heard."""


class Site(Line):
    """Everything runs from entering to leaving."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, (VM, BYSTANDER))
        self.tokens = {host: f"a-token-of-{host}" for host in HOSTS}
        self.since = 0
        """The last event of the journal before the attempt."""
        self._pids: dict[str, int] = {}
        self.read = 0
        """How much of the logs was there before it."""

    @property
    def operator(self) -> str:
        """The operators' token."""
        return f"{self.token}-for-operators"

    def _adapted(self, settings: dict[str, Any]) -> dict[str, Any]:
        for host, token in self.tokens.items():
            (self.folder / f"{host}.token").write_text(token)
            settings["hosts"][host]["arbiter_token_file"] = str(self.folder / f"{host}.token")
        settings["webhook"]["request_timeout_seconds"] = REQUEST_SECONDS
        settings["journal"] |= {"keep_events": 1000, "max_bytes": 16 * 1024**2}
        with contextlib.closing(SqliteJournal(Path(settings["journal"]["path"]))) as journal:
            both = tuple(HOSTS)
            held = [Held(it, both, 1, both[0], frozenset(both)) for it in RESOURCES]
            journal.commit(authorities=held)
        return settings

    def _start_more(self, started: contextlib.ExitStack) -> None:
        folder = self.folder / "tls"
        folder.mkdir()
        authority = Authority(folder)
        certificate, key = authority.issue("server", ip=BY_TLS[0])
        self.believed = ssl.create_default_context(cafile=str(authority.file))
        configuration = folder / "web.yml"
        files = {"cert_file": str(certificate), "key_file": str(key)}
        configuration.write_text(yaml.safe_dump({"tls_server_config": files}))
        flags = [f"--web.listen-address={BY_TLS[0]}:{BY_TLS[1]}", f"--web.config.file={configuration}"]
        argv = [PROGRAMS / "vmheal-exporter", *flags, f"--libvirt.uri={self.libvirtds['v01'].uri}"]
        self.by_tls = started.enter_context(Program(argv, folder / "exporter.log", netns=self.netns))
        self.by_tls.wait_for(self._answers_by_tls, "an answer by TLS")

    def _answers_by_tls(self) -> bool:
        with self.netns.entered(), contextlib.suppress(OSError):
            return bool(self.ask_by_tls())
        return False

    def ask_by_tls(self) -> str:
        """A page of metrics.

        Raises:
            OSError: there was no answer.
        """
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self.believed)
        )
        with opener.open(f"https://{BY_TLS[0]}:{BY_TLS[1]}/metrics", timeout=20) as answer:
            return str(answer.read().decode())

    # ---- what was done beside the answers ----------------------------------------------------------------

    def forget(self) -> None:
        """Begin to note anew."""
        ((self.since,),) = self.journalled("SELECT coalesce(max(seq), 0) FROM event")
        self._pids = {it: self.pid(it) for it in self.domains}
        self.read = len(self.said())

    def ran(self) -> list[str]:
        """Plans, VMs that are not the same process any more, and faults in the programs' logs."""
        events = self.journalled("SELECT body FROM event WHERE seq > ?", self.since)
        found = [json.loads(body) for (body,) in events]
        done = sorted({f"{it['kind']} {it['domain']}" for it in found if it["kind"] in _DONE})
        ended = [f"another process of {it}" for it, pid in self._pids.items() if self.pid(it) != pid]
        faults = re.findall(r"Traceback|fault of vmheal's own|failed unexpectedly", self.said()[self.read :])
        return [*done, *ended, *faults]

    def said(self) -> str:
        """What the actuator and the exporter have logged."""
        return self.exporters["v01"].output + self.by_tls.output + self.actuator.output

    def journalled(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the journal's file, beside the actuator."""
        path = f"file:{self.folder / 'journal.sqlite3'}?mode=ro"
        with contextlib.closing(sqlite3.connect(path, uri=True)) as journal:
            return journal.execute(statement, values).fetchall()

    def authority(self, name: str) -> dict[str, Any]:
        """What is written down about a resource."""
        ((body,),) = self.journalled("SELECT body FROM record WHERE kind = 'resource' AND name = ?", name)
        found: dict[str, Any] = json.loads(body)
        return found

    # ---- what it costs -----------------------------------------------------------------------------------

    def process(self, address: tuple[str, int]) -> int:
        """Who listens there."""
        return {ACTUATOR: self.actuator, EXPORTER: self.exporters["v01"], BY_TLS: self.by_tls}[address].pid


def memory_mib(pid: int) -> int:
    """What it has in memory."""
    said = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", said)
    assert found
    return int(found[1]) // 1024


def descriptors(pid: int) -> int:
    """How many files and sockets it has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  names are not needed


@contextlib.contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Set it up, and be in its network; with room for as many connections as an attacker wants."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Site(folder) as it:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
        try:
            with it.netns.entered():
                yield it
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
