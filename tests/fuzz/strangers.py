"""Targets: what is sent over the network, before and after the sender has shown who it is."""

import asyncio
import base64
import contextlib
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from xml.etree import ElementTree as ET

import h11
import structlog
from pydantic import TypeAdapter

from actuator import arbitrate, orders, webhook
from actuator.arbitrate import MalformedQuestionError
from actuator.model import Authority, Notification
from actuator.orders import MalformedOrderError, Taken
from actuator.page.pages import COOKIE, Page
from actuator.page.site import Site
from actuator.ports import Past
from actuator.receive import Counters, Refusals, create_app
from exporter import web
from exporter.host import command, definition, relay, requests, serve
from exporter.host.command import RefusedError
from exporter.host.config import Config
from exporter.host.libvirt_calls import (
    CALLS,
    DEFINE_XML,
    HEAD,
    KEEPALIVE,
    LOOKUP_BY_NAME,
    REMOTE,
    Guard,
    MalformedError,
)
from exporter.host.requests import PROGRAMS, Read, Refused, Run, Target
from exporter.host.serve import ProtocolError
from exporter.scrape import Scraper
from exporter.web_config import Guard as Access
from exporter.web_config import WebConfig
from exporter.web_pages import Pages
from tests.actuator.deliveries import HOOKS, TOKEN, alert, body, parts, rights
from tests.actuator.world import Clock
from tests.fuzz.target import target
from tests.host.test_definition import QEMU, XEN
from tests.host.test_libvirt_calls import call, domain, reply, string
from tests.page.sites import facts

structlog.configure(processors=[lambda *_: (_ for _ in ()).throw(structlog.DropEvent)])

# ---- the actuator's HTTP side ----------------------------------------------------------------------------

OPERATOR = "an-operators-token"
NOTIFICATION = TypeAdapter(Notification)


class NoJournal:
    """Keeps nothing. What is given is written and read back as the real one does it."""

    def receive(self, notifications, *, at):
        for it in notifications:
            assert NOTIFICATION.validate_json(NOTIFICATION.dump_json(it)) == it

    def authority(self, resource):
        return Authority(resource, ("v01", "v02"), 7, "v02", frozenset({"v01", "v02"}))

    def authorities(self):
        return {}

    def commit(self, **_):
        pass

    def history(self, **_):
        return Past((), None)


class Commander:
    def take(self, _order, *, via=""):
        return Taken("it is done")


@contextlib.contextmanager
def _app():
    journal = NoJournal()
    held = rights(OPERATOR)
    page = Page(lambda: Site(facts()), journal, Clock(), held, Commander())
    given = replace(parts(journal), page=page, rights=held, orders=Commander())
    yield create_app(given, Refusals(given.clock), Counters(given.registry)), page


with _app() as (APP, PAGE):
    SESSION = PAGE._sessions.log_in(OPERATOR, "ann", "127.0.0.1")
    FORM_TOKEN = PAGE._sessions.find(SESSION).form_token


def ask(method: str, path: str, query: str, content: bytes, **headers: str) -> tuple[int, str]:
    """As a server gives it to the application: no client's library is between that would tidy it up."""
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost",
        "CONTENT_LENGTH": str(len(content)),
        "wsgi.input": io.BytesIO(content),
        "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "http",
        "wsgi.version": (1, 0),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **headers,
    }
    said = []
    answered = APP(environ, lambda status, _headers, _info=None: said.append(status))
    text = b"".join(answered).decode()
    answered.close()
    return int(said[0][:3]), text


def post(path: str, token: str, content: bytes) -> tuple[int, str]:
    return ask(
        "POST", path, "", content, CONTENT_TYPE="application/json", HTTP_AUTHORIZATION=f"Bearer {token}"
    )


@target(
    lambda: [body(alert(1)), body(alert(1), alert(2, status="resolved"), truncatedAlerts=3), body()],
    webhook.MalformedError,
    words=(b'"version": "4"', b"startsAt", b"truncatedAlerts", b"fingerprint", b"0001-01-01T00:00:00Z"),
)
def delivery(content):
    code, text = post("/alerts", TOKEN, content)
    assert code in {200, 400, 413}, code
    assert len(text) < 1000
    if code == 200:
        for it in webhook.parse(content, max_alerts=10_000).notifications:
            assert abs(it.starts_at) < 1e12
            assert len(it.labels) <= webhook.MAX_LABELS


QUESTION = {"hook": "fence-peer", "resource": "voms01", "peer": "v02", "boot_id": "0a-1", "began_ns": 1000}
SEEN = {"version": 7, "role": "Primary", "up_to_date": True, "connected": False, "peer_up_to_date": True}


def questions() -> Iterator[bytes]:
    for hook in ("fence-peer", "before-resync-source", "unfence-peer", "attach"):
        peer = {} if hook == "attach" else {"peer": "v02"}
        for more in ({}, SEEN):
            yield json.dumps({**QUESTION, "hook": hook, "minors": "0 1"} | peer | more).encode()


@target(
    questions, MalformedQuestionError, words=(b'"version": 7', b'"role": "Primary"', b'"minors"'), most=4096
)
def question(content):
    """v02 has the authority: v01 is granted nothing, whatever it says."""
    token = next(token for token, host in HOOKS.items() if host == "v01")
    code, text = post("/api/v1/arbitrate", token, content)
    assert code in {200, 400}, code
    assert len(text) < 5000
    if code == 200:
        assert json.loads(text)["verdict"] in {None, "wait", "release", "refuse", "allow"}, text
        assert arbitrate.parse(content).hook != "fence-peer" or json.loads(text)["verdict"] != "allow"


def ordered() -> Iterator[bytes]:
    for it in (
        {"order": "pause", "what": "voms01", "seconds": 60.0},
        {"order": "resume", "what": "all"},
        {"order": "drain", "host": "v01"},
        {"order": "confirm-down", "host": "v01"},
        {"order": "approve", "domain": "voms01", "proposal": "0123456789"},
        {"order": "migrate", "domain": "voms01", "to": None},
        {"order": "readmit", "resource": "voms01", "host": "v02", "i_accept_lost_writes": True},
        {"order": "forget", "resource": "voms01"},
        {"order": "retry", "domain": "voms01"},
    ):
        yield json.dumps({"by": "ann", "reason": "because"} | it).encode()


@target(
    ordered,
    MalformedOrderError,
    words=(b'"order"', b'"seconds": NaN', b'"i_accept_lost_writes": true'),
    most=16384,
)
def order(content):
    code, text = post("/api/v1/orders", OPERATOR, content)
    assert code in {200, 400}, code
    assert len(text) < 2000
    if code == 200:
        it = orders.parse(content)
        assert orders.parse(it.model_dump_json().encode()) == it
        assert not set(it.by) & set("\0\n\r\x7f")


def forms() -> Iterator[bytes]:
    yield b"/\nq=voms01"
    yield b"/vms\nq=a+b&from=100"
    yield b"/history\nq=x&vm=voms01&before=7"
    yield b"/plans/voms01-7\n"
    yield b"/order\norder=pause&name=voms01&seconds=3600&reason=x"
    yield b"/order\norder=approve&name=voms01&proposal=0123456789"
    yield b"/login\nname=ann&token=x&next=%2Forder%3Forder%3Dpause"
    yield b"/api/v1/explain/voms01\n"
    yield b"/static/page.css\n"


@target(
    forms,
    words=(b"/order\n", b"/login\n", b"%00", b"%ff", b"&seconds=", b"order=drain", b"&name=all", b"name="),
    most=16384,
)
def page(content):
    """One who is logged in asks for a page, and sends the same as a form; nothing that was sent is taken for HTML."""
    path, _, form = content.decode("latin-1").partition("\n")
    query = re.sub(r"[\r\n]", "", form)  # no server lets them through
    code, text = ask("GET", f"/{path.lstrip('/')}", query, b"", HTTP_COOKIE=f"{COOKIE}={SESSION}")
    assert code in {200, 301, 303, 304, 308, 400, 403, 404, 405, 414}, code
    sent = f"form_token={FORM_TOKEN}&{form}".encode("latin-1")
    code, said = ask(
        "POST",
        "/login" if path == "/login" else "/order",
        "",
        sent[:16384],
        CONTENT_TYPE="application/x-www-form-urlencoded",
        HTTP_ORIGIN="http://localhost",
        HTTP_COOKIE=f"{COOKIE}={SESSION}",
    )
    assert code in {200, 303, 400, 403, 404, 409, 413, 429}, code
    assert "<odd" not in text + said


# ---- the HTTP server ------------------------------------------------------------------------------------

USERS = WebConfig(users={"ann": b"$2b$04$abcdefghijklmnopqrstuuJ0MvRLGFpRgEZzCzCUU1oQ3nGkP9hzS"})


class Taker:
    """In the place of asyncio's writer."""

    def __init__(self) -> None:
        self.sent = b""

    def write(self, sent: bytes) -> None:
        self.sent += sent

    async def drain(self) -> None:
        pass

    def get_extra_info(self, _name: str) -> None:
        return None


class QuickOnly:
    """bcrypt is slow on purpose: what only it can tell is refused."""

    def __init__(self) -> None:
        self._access = Access(lambda: USERS)

    def quick(self, request):
        if "authorization" not in request.headers:
            return True
        return bool(self._access.quick(request))

    def verify(self, _request):
        raise AssertionError("asked twice")


LOOP = asyncio.new_event_loop()
SERVERS = (
    web.Server([], Pages(Scraper([]), "/metrics"), QuickOnly()),
    web.Server([], lambda it: web.Response(200, it.body or b""), QuickOnly(), wants_body=lambda _: True),
)
"""As the exporter has it, and as the actuator has it, which reads bodies."""
BASIC = base64.b64encode(b"ann:secret").decode()


def request_heads() -> Iterator[bytes]:
    close = "Connection: close\r\n\r\n"
    for first, more in (
        (
            "GET /metrics HTTP/1.1",
            "X-Prometheus-Scrape-Timeout-Seconds: 10\r\nAccept-Encoding: gzip;q=0.5, x\r\n",
        ),
        ("GET /metrics?collect[]=drbd&collect%5B%5D=x HTTP/1.1", ""),
        ("HEAD / HTTP/1.1", f"Authorization: Basic {BASIC}\r\n"),
        ("GET http://x/-/healthy HTTP/1.0", ""),
        ("POST / HTTP/1.1", "Content-Length: 3\r\n"),
    ):
        yield f"{first}\r\nHost: x\r\n{more}{close}abc".encode()
    yield b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"


@target(
    request_heads,
    OSError,
    h11.LocalProtocolError,
    words=(
        b"GET //[ HTTP/1.1",
        b"\r\n\r\n",
        b"Host: x\r\n",
        b"Authorization: Basic ",
        b"HTTP/1.1",
        b"?collect[]=",
        b"//[",
    ),
)
def http_head(content):
    """A connection's bytes: answers, or none, and never a fault of the exporter's own."""

    async def talk(server: web.Server) -> bytes:
        reader, writer = asyncio.StreamReader(), Taker()
        reader.feed_data(content)
        reader.feed_eof()
        await server._requests(web._Client(reader, writer, "127.0.0.1", web.Bounds()))
        return writer.sent

    for server in SERVERS:
        sent = LOOP.run_until_complete(talk(server))
        assert not sent or re.match(rb"HTTP/1\.1 ([1-4]\d\d|501) ", sent)
        assert b"HTTP/1.1 500" not in sent.removesuffix(content)


# ---- vmheal-host -----------------------------------------------------------------------------------------

CONFIG = Config(
    resources=frozenset({"vm1", "vm-2.a+b"}),
    domains=frozenset({"vm1"}),
    migrate_uris=frozenset({"qemu+tls://v02/system", "tcp://10.0.0.2"}),
)
LAST = {Target.NONE: [], Target.RESOURCE: ["vm1"], Target.CONNECTION: ["vm1:v02.example"]}
RESOURCES = {"vm1", "vm-2.a+b"}


def lines_sent() -> Iterator[bytes]:
    for row in PROGRAMS:
        yield json.dumps({"id": 1, "seconds": 5, "run": [*row.words, *LAST[row.target]]}).encode()
    yield b'{"id": 2, "seconds": 0.5, "read": "/proc/drbd"}'
    yield b'{"id": 3, "seconds": 5, "allowed": true}'
    yield b'{"id": 4, "seconds": 5}'


@target(
    lines_sent,
    words=(
        b'"run"',
        b'"vm1"',
        b'"seconds": 1' + b"0" * 400,
        b'"--force"',
        b'"all"',
        b'"minor-0"',
        b"vm1:v02",
        b"\\u0000",
    ),
    most=serve.MAX_LINE_BYTES,
)
def host_line(content):
    """What is run is a row of the closed list with a name of the configuration, whatever was sent."""
    it = requests.parse(content, CONFIG)
    match it:
        case Refused(number, sentence):
            assert number is None or 0 <= number < requests.MAX_ID
            assert 0 < len(sentence) < 500
            assert sentence.isprintable()
        case Run(number, seconds, argv, changes):
            assert 0 <= number < requests.MAX_ID
            assert 0 < seconds <= requests.MAX_SECONDS
            rows = [row for row in PROGRAMS if argv[: len(row.words)] == row.words and row.changes is changes]
            assert any(
                len(argv) == len(row.words)
                if row.target is Target.NONE
                else len(argv) == len(row.words) + 1 and argv[-1].partition(":")[0] in RESOURCES
                for row in rows
            )
            assert argv[-1] in RESOURCES or re.fullmatch(r"[\w.+-]+(:\w[\w.-]*)?", argv[-1], re.ASCII)
            assert json.loads(content)["run"] == list(argv)
        case Read(_, _, path):
            assert path == "/proc/drbd"
        case _:
            assert 0 <= it.id < requests.MAX_ID


@target(lambda: [b"\n".join(lines_sent()) + b"\n", b"\n\n", b"a" * 4096 + b"\n"], ProtocolError, most=60_000)
def host_lines(content):
    taker, giver = os.pipe()
    try:
        os.write(giver, content)
        os.close(giver)
        found = list(serve.lines(taker))
    finally:
        os.close(taker)
    assert found == content.split(b"\n")[:-1]
    assert all(len(line) <= serve.MAX_LINE_BYTES for line in found)


COMMANDS = (
    "vmheal-host",
    "sh -c 'virt-ssh-helper 'qemu:///system''",
    "sh -c 'virt-ssh-helper xen:///system'",
)


@target(
    lambda: [it.encode() for it in COMMANDS],
    RefusedError,
    words=(b"qemu", b"lxc", b";", b"\n", b"'", b"vmheal-host"),
)
def ssh_command(content):
    """Only few exact words are anything at all."""
    said = os.fsdecode(content)
    kind = command.wanted(said)
    assert kind in command.PLACES
    tails = ("://", ":///", ":///system")
    allowed = {
        f"sh -c 'virt-ssh-helper {a}{kind}{tail}{b}'" for a in ("", "'") for b in ("", "'") for tail in tails
    }
    assert said == "vmheal-host" if kind == "serve" else said in allowed


OURS, THEIRS = b"1" * 16, b"9" * 16
XML = "<domain type='kvm'><name>vm1</name></domain>"


def libvirt_said() -> Iterator[bytes]:
    for number in CALLS:
        yield call(number, domain())
    yield call(1, b"\0\0\0\1" + string("qemu:///system") + b"\0" * 4)
    yield call(LOOKUP_BY_NAME, string("vm1"))
    yield call(24, OURS)
    yield call(14, domain() + b"\0\0\0\2")
    yield call(29, domain() + b"\0" * 4)
    for xml in (XML, QEMU, XEN):
        yield call(DEFINE_XML, string(xml))
    yield call(
        305,
        domain() + b"\0\0\0\1" + string("qemu+tls://v02/system") + b"\0\0\0\1" + string("migrate_uri")
        + b"\0\0\0\7" + string("tcp://10.0.0.2") + string("") + b"\0\0\0\3",
    )  # fmt: skip
    yield HEAD.pack(KEEPALIVE, 1, 1, 2, 0, 0)
    yield reply(LOOKUP_BY_NAME, domain())


@target(
    libvirt_said,
    MalformedError,
    words=(string("vm1"), OURS, THEIRS, string("vm9"), b"\xff\xff\xff\xff", b"\0\0\0\1"),
)
def libvirt_call(content):
    """What reaches libvirtd is a call of the list, and what acts is about a domain of the configuration."""
    guard = Guard("qemu", CONFIG)
    guard.learn(reply(LOOKUP_BY_NAME, domain()))
    guard.learn(reply(LOOKUP_BY_NAME, domain("vm9", THEIRS)))
    answer = guard.answer(content)
    if answer is not None:
        assert len(answer) < 65536, "an answer that libvirt may not take"
    else:
        program, version, procedure, kind, _, status = HEAD.unpack_from(content)
        assert (kind, status) == (0, 0) or program == KEEPALIVE
        if program != KEEPALIVE:
            assert (program, version) == (REMOTE, 1)
            assert procedure in CALLS
            if CALLS[procedure].name in {
                "create",
                "destroy",
                "shutdown",
                "setAutostart",
                "migrateToURI3",
                "abortJob",
            }:
                assert content[HEAD.size :].startswith(string("vm1") + OURS)
    Guard("qemu", CONFIG).learn(content)


@target(
    lambda: [len(it).to_bytes(4) + it[4:] for it in (b"\0\0\0\0" + m for m in libvirt_said())],
    MalformedError,
    EOFError,
)
def libvirt_message(content):
    stream = io.BytesIO(content)
    message = relay._message(stream.read, relay.MAX_CALL_BYTES)
    assert content.startswith((len(message) + 4).to_bytes(4) + message)


INERT = {"cmdline", "description", "metadata", "title"}


def _values(it: ET.Element) -> Iterator[tuple[str, str, str]]:
    if it.tag not in INERT:
        yield from ((it.tag, key, value) for key, value in it.items() if key != "timezone")
        yield from ((it.tag, "", text.strip()) for text in (it.text or "", it.tail or ""))
        for child in it:
            yield from _values(child)


@target(
    lambda: [QEMU.encode(), XEN.encode(), XML.encode()],
    words=(b"/etc/shadow", b"/dev/sda", b"/dev/drbd/../sda", b"<hostdev/>", b"<disk type='block'>", b"file=", b"<devices>",
           b" xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'", b"<q:commandline>", b"&#47;", b"type='file'", b"<name>"),
)  # fmt: skip
def domain_definition(content):
    """One that is taken names no file of the host beside those of every guest."""
    xml = content.decode("utf-8", "replace")
    name, refused = definition.read(xml)
    assert refused is None or 0 < len(refused) <= definition.MAX_FAULT
    if refused is None:
        root = ET.fromstring(xml)
        assert root.findtext("name") == name or (not name and not root.findtext("name"))
        for _, key, value in _values(root):
            if "/" in value:
                assert value.startswith(definition.PATHS), (key, value)
                assert ".." not in value.split("/"), value
        assert "hostdev" not in {tag for tag, _, _ in _values(root)}
