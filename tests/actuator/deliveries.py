"""Alertmanager's deliveries as Debian's 0.25 sends them, and the receiver here or in a process of its own."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from actuator.adapters.clock import SystemClock
from actuator.adapters.sqlite import SqliteJournal
from actuator.arbitrate import Arbiter
from actuator.config import WebhookSettings
from actuator.contact import Contacts
from actuator.model import Authority, Notification
from actuator.ports import Journal
from actuator.receive import Parts, Server
from actuator.rights import Holder, Right, Rights

TOKEN = "not-a-real-secret"
HOOKS = {"a-token-of-v01": "v01", "a-token-of-v02": "v02"}
"""Host by the token of its hooks."""
TOKENS = {host: token for token, host in HOOKS.items()}
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}


def alert(number: int, *, status: str = "firing") -> dict:
    """The alert about domain `number`; its fingerprint says which one it is."""
    labels = {
        "action": "restart",
        "alertname": "VMFailure",
        "domain": f"voms{number:04}",
        "host": f"v{number % 3 + 1:02}",
        "severity": "critical",
    }
    return {
        "status": status,
        "labels": labels,
        "annotations": {
            "description": f"libvirt on {labels['host']} says that {labels['domain']} is shut off; it should run.",
            "summary": f"{labels['domain']} is down on {labels['host']}",
        },
        "startsAt": "2026-03-01T11:22:33.444555666Z",
        "endsAt": "0001-01-01T00:00:00Z" if status == "firing" else "2026-03-01T11:25:00.444555666Z",
        "generatorURL": "http://monitor:9090/graph?g0.expr=vmheal_domain_expected+%3D%3D+1&g0.tab=1",
        "fingerprint": f"{number:016x}",
    }


def payload(*alerts: dict, **changed: object) -> dict:
    """A delivery's body, as data."""
    group = {"alertname": "VMFailure", "domain": "voms0001", "host": "v01"}
    return {
        "receiver": "vmheal",
        "status": "firing",
        "alerts": list(alerts),
        "groupLabels": group,
        "commonLabels": group,
        "commonAnnotations": {},
        "externalURL": "http://monitor:9093",
        "version": "4",
        "groupKey": '{}/{action=~".+"}:{alertname="VMFailure", domain="voms0001", host="v01"}',
        "truncatedAlerts": 0,
        **changed,
    }


def body(*alerts: dict, **changed: object) -> bytes:
    return json.dumps(payload(*alerts, **changed)).encode()


def request(content: bytes, *, token: str = TOKEN) -> bytes:
    """A delivery as bytes on the wire."""
    head = (
        "POST /alerts HTTP/1.1\r\nHost: localhost:10811\r\nUser-Agent: Alertmanager/0.25.0\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


@dataclass
class MemoryJournal:
    """Keeps what it was given; durable enough for tests that ask what reached the journal."""

    calls: list[tuple[Notification, ...]] = field(default_factory=list)

    def receive(self, notifications: Sequence[Notification], *, at: float) -> None:
        self.calls.append(tuple(notifications))


def patient_journal(path: Path) -> SqliteJournal:
    """The real journal; a machine that is busy with other tests is not its failure."""
    return SqliteJournal(path, timeout_seconds=60.0)


@contextlib.contextmanager
def arbitrating_journal(path: Path) -> Iterator[SqliteJournal]:
    """One that knows voms01: v01 holds it, and both its replicas are admitted."""
    with contextlib.closing(patient_journal(path)) as journal:
        both = ("v01", "v02")
        journal.commit(authorities=[Authority("voms01", both, 1, "v01", frozenset(both))])
        yield journal


@dataclass
class Served:
    """A receiver that answers."""

    port: int
    registry: CollectorRegistry
    woken: threading.Semaphore

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self, timeout_seconds: float = 60.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout_seconds)

    def value(self, sample: str, **labels: str) -> float:
        return self.registry.get_sample_value(sample, labels) or 0.0


def rights(operator: str = "", read: str = "") -> Rights:
    """Who may do what here: Alertmanager, two hosts, and whom the tokens are given for."""
    tokens = {TOKEN: (Right.DELIVER, "Alertmanager")}
    tokens |= {token: (Right.ARBITRATE, host) for token, host in HOOKS.items()}
    tokens |= {operator: (Right.ORDER, "operator"), read: (Right.READ, "reader")}
    return Rights([Holder(*it, lambda token=token: (token,)) for token, it in tokens.items() if token])


def parts(journal: Journal, **limits: float) -> Parts:
    """What a server works with here, with a registry of its own."""
    return Parts(
        journal=journal,
        clock=SystemClock(threading.Event()),
        rights=rights(),
        arbiter=Arbiter(journal, SystemClock(threading.Event()), Contacts(0.0)),
        webhook=WebhookSettings(token_file="/unused", **limits),
        wake=lambda: None,
        registry=CollectorRegistry(),
        status=dict,
    )


@contextlib.contextmanager
def served(journal: Journal, port: int = 0, **limits: float) -> Iterator[Served]:
    """The receiver on a port of loopback, a free one by default, in this process."""
    given, woken = parts(journal, **limits), threading.Semaphore(0)
    with Server(f"127.0.0.1:{port}", replace(given, wake=woken.release)) as server:
        yield Served(server.port, given.registry, woken)


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one answer: status, headers (names in lower case), body."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _some(connection)
    head, _, content = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(content) < int(headers.get("content-length", 0)):
        content += _some(connection)
    return int(first.split(" ")[1]), headers, content


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("closed before the answer was complete")
    return data


@contextlib.contextmanager
def receiver_process(journal: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The receiver over a real journal, alone in a process; yields it and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.actuator.deliveries", str(journal)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def _serve(path: Path) -> None:
    """Serve until standard input ends."""
    with contextlib.closing(patient_journal(path)) as journal, served(journal) as receiver:
        print(receiver.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
