"""Targets: what programs on the hosts, other servers and the kernel answer."""

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

from pydantic import TypeAdapter

from actuator.adapters import alertmanager, child, drbd_storage, fence_agents, prometheus
from actuator.adapters.host_command import Completed, HostCommand
from actuator.adapters.http_json import HttpJson
from actuator.core import definition
from actuator.model import Allowed, Failed, HandlerReport, HostSetup, Notification
from actuator.ports import Unanswered
from exporter import fence_peer, kernel_log
from exporter.drbd import DrbdOutputError, parse_events2
from exporter.drbd_configuration import (
    parse_current_uuid,
    parse_dump_xml,
    parse_get_gi,
    parse_show9,
    parse_show84,
)
from exporter.drbd_proc import agrees, overlay, parse_kernel_message, parse_proc, proves
from exporter.libvirt_domain import drbd_volume, parse_definition
from exporter.lvm import LvmOutputError, parse_fullreport
from tests.exporter.drbd_samples import SAMPLES, command, drbd9, drbd84, snaps9, snaps84
from tests.fuzz.target import target
from tests.host.test_definition import QEMU, XEN

SOON = 30.0


def text(content: bytes) -> str:
    """As what programs print is read everywhere."""
    return content.decode("utf-8", "replace")


def answers(refused: type[Exception], *asks: Callable[[], Any]) -> list[Any]:
    """What they return. Where all are refused, the last refusal, in a sentence that a person can read, is raised."""
    got, failed = [], None
    for ask in asks:
        try:
            got.append(ask())
        except refused as error:
            failed = error
    assert failed is None or len(str(failed)) < 5000
    if failed is not None and not got:
        raise failed
    return got


# ---- DRBD ------------------------------------------------------------------------------------------------


def events2_said() -> Iterator[bytes]:
    for label in snaps84():
        yield command(drbd84(label), "drbdsetup events2 --now").encode()
    for label, host in snaps9():
        yield drbd9(label, host, "events2-now-statistics.txt").encode()


def proc_said() -> Iterator[bytes]:
    for label in snaps84():
        yield command(drbd84(label), "cat /proc/drbd").encode()
    yield b"version: 9.2.18 (api:2/proto:118-123)\n"


def show84_said() -> Iterator[bytes]:
    for label in snaps84():
        with contextlib.suppress(AssertionError):
            yield command(drbd84(label), "drbdsetup show").encode()


def show9_said() -> Iterator[bytes]:
    for label, host in snaps9():
        yield drbd9(label, host, "show.json").encode()


DUMP_XML = """<config file="/etc/drbd.conf"><common protocol="C"><section name="handlers">
<option name="fence-peer" value="/usr/bin/vmheal-fence-peer"/></section></common>
<resource name="voms01"><host name="v01"><address family="ipv4" port="7789">10.20.0.1</address></host>
<host name="v02"><address family="ipv6" port="7789">fd00::2</address></host>
<section name="handlers"><option name="unfence-peer" value="x"/></section></resource></config>"""
GET_GI = (
    "6A0D1E4B3C2F5A78:0000000000000004:1111111111111110:2222222222222222:1:1:0:1:0:0:0\n"
    "6A0D1E4B3C2F5A79:AAAAAAAAAAAAAAA0:1111111111111110:2222222222222222:1:1:0:1:0:0:0\n"
)
SNAPSHOT = parse_events2(next(events2_said()).decode())
PROC = parse_proc(next(proc_said()).decode())


@target(
    events2_said,
    DrbdOutputError,
    words=(b"exists ", b"destroy ", b"exists -\n", b" peer-node-id:", b" volume:"),
)
def events2(content):
    said = text(content)
    snapshot = parse_events2(said)
    # Nobody counts what was said twice, and what is not understood is told.
    lines = len(said.splitlines())
    assert len(snapshot.resources) <= lines
    assert len(snapshot.problems) <= 40 * lines + 1000
    assert len({it.name for it in snapshot.resources}) == len(snapshot.resources)
    for resource in snapshot.resources:
        assert resource.name == resource.name.strip("\n")
        assert len({it.volume for it in resource.devices}) == len(resource.devices)
        assert len({it.peer_node_id for it in resource.connections}) == len(resource.connections)
        for problem in snapshot.problems_of(resource.name):
            str(problem)
    agrees(snapshot, PROC)


@target(
    proc_said,
    DrbdOutputError,
    words=(b" cs:", b" ro:", b" ds:", b"finish: ", b" K/sec", b"sync'ed:", b"speed: ,"),
)
def proc(content):
    it = parse_proc(text(content))
    assert it.major >= 0
    assert proves(it, it) is (bool(it.minors) and not any(minor.suspended for minor in it.minors.values()))
    if agrees(SNAPSHOT, it):
        overlay(SNAPSHOT, it)
    for minor in it.minors.values():
        assert minor.done_ratio is None or math.isfinite(minor.done_ratio)


@target(
    show84_said,
    DrbdOutputError,
    words=(b"{", b"}", b";", b'"', b"_this_host", b"_remote_host", b"volume", b"none"),
)
def show84(content):
    for it in parse_show84(text(content)):
        assert isinstance(it.unknown_words, tuple)
        assert all(math.isfinite(connection.notices_seconds) for connection in it.connections)


@target(show9_said, DrbdOutputError, words=(b"_this_host", b"connections", b"net", b"ping-int", b"fencing"))
def show9(content):
    for it in parse_show9(text(content)):
        assert isinstance(it.name, str)
        assert isinstance(it.unknown_words, tuple)
        assert all(isinstance(connection.peer, str) for connection in it.connections)
        assert all(math.isfinite(connection.notices_seconds) for connection in it.connections)


@target(
    lambda: [DUMP_XML.encode()],
    DrbdOutputError,
    words=(b"<resource>", b"<host>", b"<address/>", b"<section>"),
)
def dump_xml(content):
    for it in parse_dump_xml(text(content)).values():
        it.peer_name("10.20.0.1", "v01")
        it.peer_name(None, "v02")
        assert all(isinstance(command, str) for command in it.handlers.values())


@target(lambda: [GET_GI.encode()], DrbdOutputError)
def get_gi(content):
    for it in parse_get_gi(text(content)):
        assert it.current is None or it.continues(it.current)
        parse_current_uuid(text(content))


MESSAGES = (
    b"3,1234,5678901,-;block drbd0: Split-Brain detected but unresolved, dropping connection!\n SUBSYSTEM=block\n",
    b"6,1235,5678902,-;drbd ce01/0 drbd10 v02: Online verify done (total 1 sec; paused 0 sec; 102400 K/sec)",
    b"6,1236,5678903,-;drbd ce01 v02: conn( Connecting -> Connected ) peer( Unknown -> Secondary )",
    b"6,1237,5678904,-;block drbd0: conn( WFReportParams -> WFBitMapS ) pdsk( DUnknown -> UpToDate )",
)


@target(lambda: MESSAGES, most=8192)
def kernel_message(content):
    record = kernel_log._record(text(content))
    if record is not None:
        assert math.isfinite(record.seconds)
        parse_kernel_message(record.text)


def looks() -> Iterator[bytes]:
    yield from list(proc_said())[:20]
    yield from list(events2_said())[-20:]


@target(looks, words=(b"UpToDate", b"Connected", b" conn-name:v02", b" peer-disk:UpToDate", b"0: cs:"))
def hook_look(content):
    """What decides whether a frozen Primary asks on: no good news that nobody told."""
    said = text(content)
    for state in (fence_peer._of_proc(said, ["0"]), fence_peer._of_events2(said, "v02")):
        if state is not None:
            assert "UpToDate" in said or not (state.up_to_date or state.peer_up_to_date)
            assert state.role in said or state.role in {"Unknown", ""}


def storage_said() -> Iterator[bytes]:
    """/proc/drbd, and of each program that is run, in the order of `storage`, the exit status and what it prints."""
    refused = "11 State change failed: (-2) Need access to UpToDate data\n"
    for proc_, events_, show_, is_9 in (
        ("version: 9.2.18 (api:2)\n", list(events2_said())[-3], list(show9_said())[10], True),
        (next(proc_said()).decode(), next(events2_said()), next(show84_said()), False),
    ):
        events, shown, names = f"0 {events_.decode()}", f"0 {show_.decode()}", f"0 {DUMP_XML}"
        status = [events] if is_9 else [events, names]
        looks_ = [*status, *([] if is_9 else ["20 "]), shown, shown, *([names] if is_9 else []), f"0 {CHECK}"]
        acts = [refused, events, "0 ", shown, events, events]
        yield "\f".join([proc_, *looks_, *acts, f"0 {GET_GI}"]).encode()


CHECK = (
    '{"time": 1700000000.1, "host": "v01", "isolation_seconds": 5.0, "links": {"br0": true},'
    ' "cpu": "AMD EPYC 7543 32-Core Processor", "problems": []}'
)


class ScriptedHost:
    """In the place of `SshHost`: answers from the input, part by part."""

    def __init__(self, content: bytes) -> None:
        proc_, *rest = content.split(b"\f")
        self._proc, self._rest = text(proc_), rest

    def read(self, _path, _seconds):
        return self._proc

    def run(self, _argv, _seconds):
        if not self._rest:
            raise TimeoutError("no answer")
        said = text(self._rest.pop(0))
        word, _, said = said.partition(" ")
        status = int(word) if word.isascii() and word.isdecimal() and len(word) < 4 else None
        return Completed(status, said, said if status else "")

    def allowed(self, _seconds):
        raise OSError("too old")


@target(storage_said, Unanswered, words=(b"\f", b"\f0 ", b"\f20 ", b"\f11 ", b"Failure: (102) "))
def storage(content):
    """Each look and change as the actuator makes it: an outcome, or `Unanswered`, and never a good one for nothing."""
    host = object.__new__(drbd_storage._Host)
    host.name, host._prefix, host._ssh, host._last = "v01", (), ScriptedHost(content), None
    host._names, host._names_at, host._has_json = {}, -math.inf, True
    looks_ = [partial(look, SOON) for look in (host.status, host.armed, host.setup)]
    for found in answers(Unanswered, *looks_):
        if isinstance(found, HostSetup) and isinstance(found.handler, HandlerReport):
            assert math.isfinite(found.handler.ahead_seconds)
            assert math.isfinite(found.handler.isolation_seconds or 0.0)
    for act in (
        lambda: host.change_role("primary", drbd_storage.Role.PRIMARY, "voms01", SOON),
        lambda: host.allow_two_primaries("voms01", allowed=True, timeout_seconds=SOON),
        lambda: host.connect("voms01", SOON),
        lambda: host.disconnect("voms01", SOON),
    ):
        outcome = act()
        if isinstance(outcome, Failed):
            assert len(outcome.reason) < 5000
    host.generations("voms01", SOON)


# ---- libvirt and LVM -------------------------------------------------------------------------------------


def definitions() -> Iterator[bytes]:
    yield from (QEMU.encode(), XEN.encode())
    yield b"""<domain type='kvm'><name>a</name><uuid>11111111-2222-3333-4444-555555555501</uuid><memory unit='KiB'>1024
</memory><cpu mode='custom' check='partial'><model>Skylake-Server</model><feature name='x'/></cpu><os><type arch='x86_64'
machine='pc'>hvm</type></os><devices><interface type='network'><source network='default'/></interface><disk type='block'>
<source dev='/dev/drbd0'/><target dev='vda'/><readonly/></disk></devices></domain>"""
    yield b"""<domain type='lxc'><name>c</name><devices><filesystem type='block'><source dev='/dev/drbd/by-res/c/0'/><target
dir='/'/></filesystem><hostdev mode='capabilities' type='storage'><source><block>/dev/drbd1</block></source></hostdev>
</devices></domain>"""


@target(
    definitions, ET.ParseError, words=(b"<memory>", b"<cpu>", b"<uuid>", b"<disk>", b"drbd:", b"<model/>")
)
def libvirt_definition(content):
    xml = text(content)
    found = parse_definition(xml)
    for disk in found.disks:
        with contextlib.suppress(LookupError):
            drbd_volume(disk.source, lambda _: None, realpath=lambda path: path)
    definition.needs(xml)
    uuid = "99999999-2222-3333-4444-555555555501"
    other = definition.with_uuid(xml, uuid)
    assert not definition.differ(xml, other), "another UUID is another definition"
    assert definition.with_uuid(other, uuid) == other


@target(
    lambda: [path.read_bytes() for path in sorted((SAMPLES / "lvm").glob("*.json"))],
    LvmOutputError,
    words=(b"vg_name", b"vg_size", b"lv_active", b"data_percent", b"report"),
)
def lvm(content):
    for group in parse_fullreport(text(content)):
        for volume in group.logical_volumes:
            for ratio in (volume.data_used_ratio, volume.metadata_used_ratio):
                assert ratio is None or isinstance(ratio, float)


# ---- vmheal-host's answers, and the arbiter's ------------------------------------------------------------


class ScriptedChannel:
    """In the place of paramiko's channel: the first line is there at once, the rest after a question."""

    def __init__(self, content: bytes) -> None:
        hello, newline, rest = content.partition(b"\n")
        self._parts = [hello + newline, rest]
        self._asked = threading.Event()
        self._seconds = None

    def settimeout(self, seconds):
        self._seconds = seconds

    def recv(self, _size):
        if len(self._parts) == 1 and self._seconds is not None:
            raise TimeoutError  # it waits for the first line, and there is no more
        if len(self._parts) == 1:
            self._asked.wait(SOON)
        return self._parts.pop(0) if self._parts else b""

    def recv_stderr(self, _size):
        return b"complaint"

    def sendall(self, _line):
        self._asked.set()

    def close(self):
        pass


HELLO = b'{"vmheal-host": 1}\n'
HOST_SAID = (
    b'{"id": 0, "status": 0, "out": "a", "err": ""}\n',
    b'{"id": 0, "out": "version: 8.4.11"}\n',
    b'{"id": 0, "error": 2, "out": "No such file or directory"}\n',
    b'{"id": 0, "resources": ["vm1"], "domains": ["*"]}\n',
    b'{"id": 0, "refused": "run: no"}\n',
    b'{"id": 0, "busy": "too many"}\n',
    b'{"id": 0, "late": true}\n',
    b'{"id": 1, "too_large": true}\n{"id": 0, "too_large": true}\n',
)


@target(
    lambda: [HELLO + it for it in HOST_SAID], OSError, words=(*HOST_SAID, b'"id": 0', b'"out"', b'"error": 2')
)
def host_answers(content):
    """Whatever vmheal-host says: an `OSError` of a named kind, never silence until the deadline."""
    until = time.monotonic() + SOON

    def anew() -> HostCommand:
        return HostCommand(ScriptedChannel(content), SOON)

    for got in answers(
        OSError,
        lambda: anew().run(["drbdadm", "get-gi", "vm1"], until, "get-gi on v01"),
        lambda: anew().run(["drbdadm", "primary", "vm1"], until, "primary on v01"),
        lambda: anew().read("/proc/drbd", until, "/proc/drbd on v01"),
        lambda: anew().allowed(until, "vmheal-host on v01"),
    ):
        if isinstance(got, Allowed):
            assert all(isinstance(name, str) for name in (*(got.resources or ()), *(got.domains or ())))
        else:
            assert isinstance(got, str | Completed)


ARBITER_HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"


@target(
    lambda: [
        ARBITER_HEAD + b'{"version": 7, "verdict": "grant", "sentence": "go on"}',
        ARBITER_HEAD + b'{"version": 7, "verdict": null, "sentence": "look, and ask with version 7"}',
        b"HTTP/1.0 503 SERVICE UNAVAILABLE\r\nRetry-After: 1\r\n\r\nthe journal is full\n",
    ],
    words=(b"HTTP/1.0 200 OK", b'"grant"', b'"release"', b'"version"', b"\r\n\r\n"),
)
def arbiter_answer(content):
    """The hook goes on only where an answer in order says so."""

    class Connection(contextlib.AbstractContextManager):
        def __init__(self):
            self.left = content

        def __exit__(self, *_):
            pass

        def sendall(self, _sent):
            pass

        def settimeout(self, _seconds):
            pass

        def recv(self, size):
            part, self.left = self.left[:size], self.left[size:]
            return part

    real = fence_peer.socket
    fence_peer.socket = SimpleNamespace(create_connection=lambda *_, **__: Connection(), socket=real.socket)
    try:
        state = fence_peer.State("Primary", up_to_date=True, connected=False, peer_up_to_date=False)
        actuator = fence_peer.Actuator("v09", 1, None)
        verdict, sentence = fence_peer.ask(actuator, "token", {"hook": "fence-peer"}, lambda: state)
    finally:
        fence_peer.socket = real
    assert isinstance(verdict, str)
    assert isinstance(sentence, str)
    head, _, body = content.partition(b"\r\n\r\n")
    said = None
    with contextlib.suppress(ValueError, RecursionError, IndexError):
        if head.split(b"\r\n")[0].split(b" ")[1] == b"200":
            said = json.loads(body)
    in_order = isinstance(said, dict) and {"version", "verdict", "sentence"} <= set(said)
    assert verdict == (str(said["verdict"]) if in_order else "")


# ---- servers over HTTP, and fence agents -----------------------------------------------------------------


class ScriptedServer:
    """In the place of the exchange over HTTP: what an answer means is found out by the real thing."""

    def __init__(self, *bodies: bytes) -> None:
        self._bodies = list(bodies)
        self._real = HttpJson("Server", "http://server")

    def get(self, _path, _parameters, answer: TypeAdapter, *, timeout_seconds):
        body = self._bodies.pop(0) if len(self._bodies) > 1 else self._bodies[0]
        return self._real._understand(body, answer)


PROMETHEUS_ALERT = {
    "labels": {"alertname": "VMFailure", "action": "restart", "domain": "voms01", "empty": ""},
    "annotations": {},
    "state": "firing",
    "activeAt": "2026-03-01T11:22:33.444555666Z",
    "value": "1e+00",
}
CONFIGURATION = {
    "status": "success",
    "data": {
        "yaml": "global:\n  external_labels: {site: pd}\nalerting:\n  alert_relabel_configs:\n"
        "  - {regex: 'replica|x.*', action: labeldrop}\n"
    },
}
VECTOR = {
    "status": "success",
    "data": {
        "resultType": "vector",
        "result": [{"metric": {"name": "voms01", "conn_name": "v02"}, "value": [1.7e9, "1"]}],
    },
}


def prometheus_said() -> Iterator[bytes]:
    alerts = {"status": "success", "data": {"alerts": [PROMETHEUS_ALERT]}}
    yield json.dumps(alerts).encode() + b"\n\n" + json.dumps(CONFIGURATION).encode()
    yield json.dumps(VECTOR).encode()


@target(prometheus_said, Unanswered, words=(b'"yaml": "', b"activeAt", b"labeldrop", b"(a+)+$", b"!!int ''"))
def prometheus_answers(content):
    alerts, _, configuration = content.partition(b"\n\n")
    one, other = prometheus.Prometheus("http://server"), prometheus.Prometheus("http://server")
    one._server, other._server = ScriptedServer(alerts, configuration), ScriptedServer(content)
    for got in answers(
        Unanswered,
        lambda: one.firing(timeout_seconds=SOON),
        lambda: other.last_words("v01", before=0.0, timeout_seconds=SOON),
    ):
        for notification in got if isinstance(got, tuple) else ():
            assert math.isfinite(notification.starts_at)
            assert len(notification.fingerprint) == 16


def alertmanager_said() -> Iterator[bytes]:
    labels = {"alertname": "Watchdog", "action": "restart"}
    yield json.dumps(
        [{"fingerprint": "0123456789abcdef", "startsAt": "2026-03-01T11:22:33.444Z", "labels": labels}]
    ).encode()
    matcher = {"name": "domain", "value": "voms.*", "isRegex": True, "isEqual": True}
    silence = {"status": {"state": "active"}, "createdBy": "ann", "comment": "x", "matchers": [matcher]}
    yield json.dumps([silence | {"endsAt": "2026-03-01T11:22:33.444Z"}]).encode()


@target(alertmanager_said, Unanswered, words=(b"startsAt", b"endsAt", b"matchers", b"0001-01-01T00:00:00Z"))
def alertmanager_answers(content):
    it = alertmanager.Alertmanager("http://server")
    it._server = ScriptedServer(content)
    for got in answers(
        Unanswered, *(partial(ask, timeout_seconds=SOON) for ask in (it.firing, it.watchdog, it.silences))
    ):
        for found in got if isinstance(got, tuple) else ():
            assert math.isfinite(found.starts_at if isinstance(found, Notification) else found.ends_at)


SECRET = "hunter2%&'"


@target(
    lambda: [
        b"2Status: OFF\n",
        b"0Status: ON\n",
        b"1" + f"Unknown option passwd={SECRET}".encode(),
        b"2usage: fence_x",
    ],
    Unanswered,
    words=(b"Status: OFF", b"status: off\r\n", b"2", SECRET.encode(), repr(SECRET).encode()),
)
def fence_agent(content):
    """Off is what lets another host write: only status 2 with the words for it is off. The password is never said."""
    status = content[0] - ord("0") if content[:1].isdigit() else None
    output = text(content[1:])
    real = child.run
    child.run = lambda *_, **__: child.Ended(status, timed_out=False, output=output)
    options = {"ip": "10.0.0.1", "password_script": SECRET}
    try:
        host = fence_agents._Host("v01", fence_agents.FenceAgent("fence_dummy", options), "/bin")
        said = host._run("status", SECRET, math.inf).said
        assert SECRET not in said
        assert len(said) < 1000
        if not host.is_on(math.inf):
            assert status == 2
            assert any(line.strip().upper() == "STATUS: OFF" for line in output.split("\n"))
    finally:
        child.run = real
