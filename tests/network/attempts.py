"""What somebody tries over the network, and what comes of it: the second table of docs/security.md.

Every attempt is made on a real site (`tests.network.site`), and says what it saw. That is held when what was
expected is in it, no plan was begun, no VM is another process than before, and no program logged a fault.
"""

import contextlib
import gzip
import itertools
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import requests

from actuator.receive import ALERTS, ARBITRATE, LOG_WINDOW_SECONDS, MAX_LOG_LINES, ORDERS, RELOAD
from tests.attempt import Attempt as AnyAttempt
from tests.lab.waiting import wait_until
from tests.network.clients import Crowd, Others, alert, connect, delivery, post, talk
from tests.network.site import ACTUATOR, BY_TLS, EXPORTER, PATIENCE, VM, Site, descriptors, memory_mib

Attempt = AnyAttempt[Site]
Attack = Callable[[Site, tuple[str, int]], str]
Try = Callable[[Site], str]

SERVERS = {"actuator": ACTUATOR, "exporter": EXPORTER}
ALL_SERVERS = SERVERS | {"by TLS": BY_TLS}
HEALTHY = "GET /-/healthy HTTP/1.1"
HALF = b"POST /alerts HTTP/1.1\r\nHost: x\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
HELLO = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + bytes(32) + b"\x00\x00\x02\x13\x01\x01\x00\x00\x99"
"""The beginning of a client's first message in TLS; the rest does not come."""
MANY = tuple(f"127.0.7.{number}" for number in range(1, 101))
"""Addresses."""
CROWD = 10_000
ROOM = 300
"""More connections than either server keeps."""
MEMORY_MIB = 96
"""What an attack may add to a program's memory: a head of 32 KiB in each of 256 connections, 8 MiB each of a
few bodies at a time, what the interpreter keeps of that, and as much again."""
JOURNAL_MIB = 80
"""Of its file: 16 as configured, what one of these deliveries writes (16) on top of it, SQLite's log of both,
and some. All of them together write 128."""
DESCRIPTORS = 16
"""What may be open a moment after an attack that was not before: the site's own connections come and go."""
STORED, REFUSED = "stored", "refused"
NOTHING = "nothing is written down"


# ---- HTTP that is none, at both servers ------------------------------------------------------------------


def raw(*lines: str, body: bytes = b"", first: str = "POST /alerts HTTP/1.1") -> bytes:
    """A request as it is said."""
    return ("\r\n".join([first, "Host: x", *lines]) + "\r\n\r\n").encode("latin-1") + body


def refused(*contents: bytes) -> Try:
    """Each is answered by no more than one refusal; what hides in it is not answered."""

    def try_it(site: Site) -> str:
        told = []
        for name, address in SERVERS.items():
            statuses = []
            for content in contents:
                found = [it.status for it in talk(address, content)]
                own = found[:-1] if found and found[-1] == 200 else found
                statuses += own or [0]
                if len(own) > 1 or any(status < 400 for status in own):
                    return f"taken by the {name}: {found}"
            told.append(
                f"{name} {', '.join('closed' if it == 0 else str(it) for it in sorted(set(statuses)))}"
            )
        return f"{REFUSED}: {'; '.join(told)}"

    return try_it


def answered(number: int, content: bytes, status: int) -> Try:
    """So many answers, and no other one."""

    def try_it(site: Site) -> str:
        for name, address in SERVERS.items():
            found = [it.status for it in talk(address, content)]
            if found != [status] * number + [200]:
                return f"{name}: {len(found)} answers, {found[-3:]}"
        return f"{number:,} answers of {status}"

    return try_it


# ---- deliveries ------------------------------------------------------------------------------------------


def stored(site: Site) -> str:
    """What came into the journal since."""
    (((number,),),) = [site.journalled("SELECT count(*) FROM event WHERE seq > ?", site.since)]
    return f"{number} written down" if number else NOTHING


def forged(*lines: str, path: str = ALERTS) -> Try:
    """A delivery with this for its credentials; the head is built when the tokens are known."""

    def try_it(site: Site) -> str:
        words = {"webhook": site.token, "host": site.tokens["v01"], "operator": site.operator}
        given = [line.format(**words, WEBHOOK=site.token.upper(), pre=site.token[:-1]) for line in lines]
        (found, *_) = talk(ACTUATOR, post(path.format(**words), delivery(alert()), *given))
        return f"{found.status}; {stored(site)}"

    return try_it


def delivered(content: bytes, *lines: str) -> Try:
    """A body with the right token."""

    def try_it(site: Site) -> str:
        (found, *_) = talk(ACTUATOR, post(ALERTS, content, *lines, token=site.token))
        return f"{found.status} {found.body[:80].decode(errors='replace').strip()}; {stored(site)}"

    return try_it


def fed(*contents: bytes, times: int = 1) -> Try:
    """Deliveries that are taken: what comes of them when all were looked at."""

    def try_it(site: Site) -> str:
        codes = send(site, contents * times)
        settle(site)
        return f"{', '.join(f'{number} of {code}' for code, number in codes.items())}; no plan"

    return try_it


def send(site: Site, contents: Sequence[bytes], connections: int = 8) -> Counter[int]:
    """Deliver, over a few connections; how often which status came. Of them, the last one is the last."""

    def over_one(some: Sequence[bytes]) -> list[int]:
        with requests.Session() as session:
            session.trust_env = False
            session.headers.update(
                {"Authorization": f"Bearer {site.token}", "Content-Type": "application/json"}
            )
            url = f"http://{ACTUATOR[0]}:{ACTUATOR[1]}{ALERTS}"
            return [session.post(url, it, timeout=PATIENCE).status_code for it in some]

    with ThreadPoolExecutor(connections) as threads:
        codes = threads.map(over_one, (contents[first:-1:connections] for first in range(connections)))
    return Counter([*itertools.chain(*codes), *over_one(contents[-1:])])


def settle(site: Site) -> None:
    """Wait until all that was received has been looked at."""
    wait_until(lambda: site.journalled("SELECT count(*) FROM inbox") == [(0,)], "an empty inbox", PATIENCE)


def begun(hours_ago: float) -> str:
    """A time, as Alertmanager says it."""
    return (datetime.now(UTC) - timedelta(hours=hours_ago)).isoformat()


def _restarted(site: Site) -> str:
    """A VM is killed and restarted; then its own alert comes again and again."""
    since = time.time()
    site.kill(VM)
    wait_until(lambda: site.has_finished(since, VM), "its restart", 2 * PATIENCE)
    ((body,), *_) = site.journalled(
        "SELECT body FROM event WHERE domain = ? AND json_extract(body, '$.kind') = 'received' ORDER BY seq DESC",
        VM,
    )
    heard = json.loads(body)
    again = alert(7, domain=VM, starts=datetime.fromtimestamp(heard["at"], UTC).isoformat())
    same = dict(again, fingerprint=heard["detail"].get("fingerprint", again["fingerprint"]))
    pid = site.pid(VM)
    codes = send(site, [delivery(same), delivery(again)] * 500)
    settle(site)
    site.wait_looked()
    plans = len([it for it in site.events(since, VM) if it["kind"] == "decided"])
    return f"{codes.get(200, 0)} taken; {plans} plan; {'one' if site.pid(VM) == pid else 'another'} process"


EVIL = {
    "domain": "x\r\n2026 [error] forged=1 \x1b]0;title\x07\x1b[2J",
    "host": "<script>alert(1)</script>",
    "alertname": "{{ 7*7 }}\u202e\u0085\u2028",
}


def _evil(site: Site) -> bytes:
    send(site, [delivery(alert(11, **EVIL))])
    settle(site)
    return site.said().encode()


def _into_the_log(site: Site) -> str:
    said = _evil(site).decode(errors="replace")[site.read :]
    bad = [it for it in said if (ord(it) < 32 and it != "\n") or it in "\x7f\x85\u2028\u202e"]
    forged_line = any(line.startswith("2026 [error]") for line in said.splitlines())
    return f"{len(bad)} control characters, {'a' if forged_line else 'no'} forged line"


def _into_the_terminal(site: Site) -> str:
    _evil(site)
    said = site.command("journal", "--lines", "50")
    bad = [it for it in said if (ord(it) < 32 and it != "\n") or it in "\x7f\x85\u2028\u202e"]
    return f"{'told' if 'forged=1' in said else 'not told'}, with {len(bad)} control characters"


def _into_the_page(site: Site) -> str:
    _evil(site)
    page = requests.get(f"http://{ACTUATOR[0]}:{ACTUATOR[1]}/history", timeout=PATIENCE).text
    told = "&lt;script&gt;" in page
    return f"{'told' if told else 'not told'}, {'as a script' if '<script>alert' in page else 'as text'}"


def _fill(site: Site) -> str:
    """As much as one can have written down, several times over what the journal may hold."""
    words = {"l": "x" * 8000}
    path = site.folder / "journal.sqlite3"
    sizes = []
    for turn in range(8):
        alerts = [alert(1000 * turn + it, domain="y" * 4000, **words) for it in range(400)]
        send(site, [delivery(*alerts)])
        settle(site)
        sizes.append(sum(it.stat().st_size for it in path.parent.glob(f"{path.name}*")) // 1024**2)
    bounded = f"at most {JOURNAL_MIB} MiB" if max(sizes) <= JOURNAL_MIB else f"{sizes} MiB"
    return f"{bounded}; {Others(site).once()}; {max(sizes)} MiB with SQLite's log"


# ---- the arbiter -----------------------------------------------------------------------------------------


class Asker:
    """Asks about one resource that v01 holds, and sees what is written down of it."""

    def __init__(self, site: Site, resource: str) -> None:
        self.site = site
        self.resource = resource
        self.versions = [self.now()["version"]]
        self.holders = {self.now()["holder"]} if self.now()["granted"] else set()

    def now(self) -> dict[str, Any]:
        return self.site.authority(self.resource)

    def body(self, host: str, number: int, **more: object) -> dict[str, object]:
        """A question of this host's, about the other one."""
        peer = {"v01": "v02", "v02": "v01"}[host]
        given = {"hook": "fence-peer", "resource": self.resource, "peer": peer, "minors": "0"}
        return given | {"boot_id": f"a-{host[1:]}", "began_ns": number} | more

    def post(self, host: str, body: object) -> dict[str, Any]:
        """Ask with the token of a host; what was answered, and the version is noted."""
        (found, *_) = talk(ACTUATOR, post(ARBITRATE, json.dumps(body).encode(), token=self.site.tokens[host]))
        it = self.now()
        self.versions.append(it["version"])
        if it["granted"]:
            self.holders.add(it["holder"])
        return json.loads(found.body) if found.status == 200 else {"verdict": str(found.status)}

    def ask(self, host: str, number: int, **more: object) -> tuple[dict[str, object], str]:
        """Both questions; the second one, and its verdict."""
        first = self.body(host, number, **more)
        version = self.post(host, first)["version"]
        second = first | FROZEN | {"version": version} | more
        return second, self.post(host, second)["verdict"]

    def told(self) -> str:
        """What became of it."""
        it = self.now()
        order = "epochs only grow" if self.versions == sorted(self.versions) else f"epochs {self.versions}"
        alone = "alone" if it["granted"] else "not alone"
        return f"{it['holder']} {alone}, admitted {', '.join(sorted(it['admitted']))}; {order}"


FROZEN = {"role": "Primary", "up_to_date": True}
SEES = {"hook": "unfence-peer", "connected": True, "peer_up_to_date": True}


def arbiter(resource: str, ask: Callable[[Asker], str]) -> Try:
    """Ask the site's arbiter."""

    def try_it(site: Site) -> str:
        it = Asker(site, resource)
        return f"{ask(it)}; {it.told()}"

    return try_it


def _as_another(it: Asker) -> str:
    """v01's very question, with v02's token."""
    question, _ = it.body("v01", 1), None
    first = it.post("v02", question)
    return str(it.post("v02", question | FROZEN | {"version": first.get("version", 1)})["verdict"])


def _old_grant(it: Asker) -> str:
    """A grant is asked for again when the peer was admitted meanwhile."""
    granted, verdict = it.ask("v01", 1)
    _, back = it.ask("v01", 2, **SEES)
    again = [it.post("v01", granted)["verdict"] for _ in range(20)]
    return f"{verdict}, {back}, then {', '.join(sorted(set(again)))}"


def _after_the_other(it: Asker) -> str:
    """v02 sends again what it was refused, when v01 was granted."""
    question, first = it.ask("v02", 1)
    _, granted = it.ask("v01", 1)
    again = {it.post("v02", question)["verdict"] for _ in range(20)}
    return f"v02 {first}, v01 {granted}, v02 {', '.join(sorted(again))}"


def _earlier_run(it: Asker) -> str:
    first = it.body("v01", 5)
    later = it.post("v01", it.body("v01", 9))["version"]
    it.post("v01", first)
    return str(it.post("v01", first | FROZEN | {"version": later})["verdict"])


def _second_first(it: Asker) -> str:
    return str(it.post("v01", it.body("v01", 1) | FROZEN | {"version": it.now()["version"]})["verdict"])


def _at_once(it: Asker) -> str:
    """A hundred askers of both hosts, each saying that it is the frozen Primary."""

    def one(number: int) -> tuple[str, str]:
        host = ("v01", "v02")[number % 2]
        head = post(ARBITRATE, json.dumps(it.body(host, number)).encode(), token=it.site.tokens[host])
        (found, *_) = talk(ACTUATOR, head)
        body = it.body(host, number) | FROZEN | {"version": json.loads(found.body)["version"]}
        (found, *_) = talk(ACTUATOR, post(ARBITRATE, json.dumps(body).encode(), token=it.site.tokens[host]))
        return host, json.loads(found.body)["verdict"]

    with ThreadPoolExecutor(50) as threads:
        said = list(threads.map(one, range(100)))
    it.versions.append(it.now()["version"])
    others = {host for host, verdict in said if verdict == "grant"} - {"v01"}
    _, then = it.ask("v01", 1000)
    return f"{len(said)} answered, granted to {', '.join(others) or 'nobody'} but v01; then v01 {then}"


def _flood_of_names(it: Asker) -> str:
    """Resources that nobody has."""
    before = memory_mib(it.site.process(ACTUATOR))
    for number in range(300):
        it.ask("v01", number, hook="before-resync-source", resource=f"x{number}")
    grown = memory_mib(it.site.process(ACTUATOR)) - before
    ((known,),) = it.site.journalled("SELECT count(*) FROM record WHERE kind = 'resource' AND name LIKE 'x%'")
    return f"{known} written down; {f'less than {MEMORY_MIB}' if grown < MEMORY_MIB else grown} MiB more"


# ---- load ------------------------------------------------------------------------------------------------


def under_load(server: str, attack: Attack) -> Try:
    """Attack one server while the others ask, and see what it costs."""

    def try_it(site: Site) -> str:
        address = ALL_SERVERS[server]
        pid = site.process(address)
        memory, open_before = memory_mib(pid), descriptors(pid)
        others = Others(site)
        with others.asking():
            seen = attack(site, address)
        told = others.told()
        wait_until(lambda: descriptors(pid) <= open_before + DESCRIPTORS, "its descriptors", PATIENCE)
        grown = memory_mib(pid) - memory
        memory_told = f"less than {MEMORY_MIB} MiB more" if grown < MEMORY_MIB else f"{grown} MiB more"
        return f"{told}; {memory_told}; {seen}"

    return try_it


HELD = f"the others are served; less than {MEMORY_MIB} MiB more"


def crowd(say: bytes, sources: Sequence[str] = MANY[:1]) -> Attack:
    """Ten thousand connections."""

    def attack(site: Site, address: tuple[str, int]) -> str:
        with Crowd(address, sources) as it:
            it.come(CROWD, say)
            return f"{it.came:,} came"

    return attack


def slow(site: Site, address: tuple[str, int]) -> str:
    """Fewer than it keeps, each with a byte every now and then: closed all the same."""
    with Crowd(address) as heads, Crowd(address) as bodies:
        heads.come(30, b"G")
        bodies.come(30, HALF + b"Content-Length: 1000\r\n\r\n{")

        def gone() -> bool:
            heads.drip(b"a")
            bodies.drip(b" ")
            return heads.look() == bodies.look() == 0

        wait_until(gone, "their end", PATIENCE, 0.2)
        return f"{heads.came + bodies.came} closed"


def deaf(site: Site, address: tuple[str, int]) -> str:
    """Ask for pages, and take none."""
    with Crowd(address) as it:
        it.come(ROOM, METRICS * 400, receive_bytes=4096)
        time.sleep(2)  # noqa: TID251  the others ask meanwhile
        return f"{it.came} came"


def churn(site: Site, address: tuple[str, int]) -> str:
    """Connect and go, by a reset and without a word."""
    for _ in range(CROWD):
        with contextlib.suppress(OSError), connect(address) as it:
            it.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return f"{CROWD:,} came"


def flood(content: bytes, number: int) -> Attack:
    """Requests as fast as they are answered, over a few connections."""

    def attack(site: Site, address: tuple[str, int]) -> str:
        def one(_: int) -> set[int]:
            return {it.status for it in talk(address, content * (number // 10), HIDDEN_END)}

        with ThreadPoolExecutor(10) as threads:
            found = set().union(*threads.map(one, range(10)))
        return f"{number:,} answered {', '.join(str(it) for it in sorted(found))}"

    return attack


def no_tls(site: Site, address: tuple[str, int]) -> str:
    """HTTP, and garbage, where TLS is spoken."""
    told = Counter(talk(address, it) == [] for it in [METRICS, bytes(range(256)) * 10] * 500)
    return f"{told[True]:,} closed, {told[False]} answered"


HIDDEN_END = b"GET /hidden HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def _quiet_log(site: Site) -> str:
    """How much of a flood is logged."""
    before = time.monotonic()
    said = under_load("actuator", flood(post(ALERTS, b"{}", token="guess"), 3000))(site)
    windows = 1 + (time.monotonic() - before) // LOG_WINDOW_SECONDS
    logged = site.said()[site.read :].count("request refused")
    lines = "few" if logged <= MAX_LOG_LINES * (windows + 1) else logged
    return said.replace(HELD, f"{HELD}; {lines} lines in the log")


# ---- all of them -----------------------------------------------------------------------------------------

WIRE, ALERT, REPLAY = "Both servers: what is no HTTP", "The webhook: forged deliveries", "The webhook's token"
BODY, ASKED, LOAD = "The webhook: bodies", "Hosts' tokens: replays", "Load"
IDLE = "no plan"
CHUNKED = "Transfer-Encoding: chunked"
TEN_MB = 10 * 1024**2


def _wire() -> Iterator[Attempt]:
    for name, content in {
        "two lengths": raw("Content-Length: 5", "Content-Length: 6", body=b"hello" + HIDDEN),
        "two lengths in one line": raw("Content-Length: 5, 6", body=b"hello" + HIDDEN),
        "a length and chunks": raw("Content-Length: 4", CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n" + HIDDEN),
        "a length below 0": raw("Content-Length: -1", body=HIDDEN),
        "a length of +5": raw("Content-Length: +5", body=b"hello" + HIDDEN),
        "a length of 5,000 digits": raw(f"Content-Length: {'9' * 5000}", body=HIDDEN),
        "a blank before the colon": raw("Content-Length : 5", body=b"hello" + HIDDEN),
        "an unknown transfer coding": raw("Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + HIDDEN),
        "two transfer codings": raw(CHUNKED, "Transfer-Encoding: identity", body=b"0\r\n\r\n" + HIDDEN),
        "compressed chunks": raw("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n" + HIDDEN),
        "a chunk of -5 bytes": raw(CHUNKED, body=b"-5\r\nhello\r\n0\r\n\r\n" + HIDDEN),
        "a chunk with an extension of 100 kB": raw(CHUNKED, body=b"5;" + b"x" * 100_000 + b"\r\n"),
        "20,000 trailers": raw(CHUNKED, body=b"0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"),
        "a head that begins with a folded line": b"GET / HTTP/1.1\r\n X: y\r\nHost: x\r\n\r\n",
        "CR within a header": raw("X: b\rY: c", first=HEALTHY),
        "NUL within a header": raw("X: b\0c", first=HEALTHY),
        "a header of 40 kB": raw("X: " + "y" * 40_000, first=HEALTHY),
        "10,000 headers": raw(*[f"X-{number}: y" for number in range(10_000)], first=HEALTHY),
        "200 kB without a line end": b"A" * 200_000,
        "TLS, where none is spoken": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
        "all bytes, a hundred times": bytes(range(256)) * 100,
        "zeros": bytes(100_000),
        "a path that is not ASCII": raw(first="GET /\xff HTTP/1.1"),
        "10 MB without a token": post(ALERTS, b"[" * TEN_MB),
    }.items():
        yield Attempt(WIRE, name, REFUSED, refused(content))
    methods = ("TRACE", "CONNECT", "DELETE", "PUT", "PATCH", "PROPFIND")
    yield Attempt(
        WIRE,
        ", ".join(methods),
        REFUSED,
        refused(*(raw(first=f"{it} /metrics HTTP/1.1") for it in methods)),
    )
    paths = (
        *("/static/../../../etc/passwd", "/static/%2e%2e/%2e%2e/etc/passwd", "/static/..%2f..%2fetc/passwd"),
        *("//evil.example/login", "/metrics%00", "/METRICS", "/metrics/../alerts", "/%61lerts/.."),
    )
    yield Attempt(
        WIRE,
        "`/../`, `%2e`, `%2f`, `//`, `%00` in the path",
        REFUSED,
        refused(*(raw(first=f"GET {it} HTTP/1.1") for it in paths)),
    )
    yield Attempt(
        WIRE, "1,000 requests in one go", "1,000 answers of 404", answered(1000, HIDDEN * 1000, 404)
    )


def _forged() -> Iterator[Attempt]:
    for name, lines in {
        "no token": (),
        "a guessed one": ("Authorization: Bearer guess",),
        "a host's": ("Authorization: Bearer {host}",),
        "the operators'": ("Authorization: Bearer {operator}",),
        "all but its last letter": ("Authorization: Bearer {pre}",),
        "one letter more": ("Authorization: Bearer {webhook}x",),
        "in capitals": ("Authorization: Bearer {WEBHOOK}",),
        "as a password": ("Authorization: Basic {webhook}",),
        "without its scheme": ("Authorization: {webhook}",),
        "in a cookie": ("Cookie: Authorization={webhook}; vmheal_session={webhook}",),
        "in headers of a proxy": ("Proxy-Authorization: Bearer {webhook}", "X-Forwarded-User: vmheal"),
        "after a wrong one": ("Authorization: Bearer guess", "Authorization: Bearer {webhook}"),
    }.items():
        yield Attempt(ALERT, name, f"401; {NOTHING}", forged(*lines))
    path = f"{ALERTS}?token={{webhook}}&access_token={{webhook}}"
    yield Attempt(ALERT, "in the query", f"401; {NOTHING}", forged(path=path))
    for path, what in {ORDERS: "an order", RELOAD: "a reload", ARBITRATE: "a hook's question"}.items():
        lines = ("Authorization: Bearer {webhook}",)
        yield Attempt(ALERT, f"{what} with the webhook's", f"401; {NOTHING}", forged(*lines, path=path))


def _bodies() -> Iterator[Attempt]:
    bomb = gzip.compress(bytes(50 * 1024**2))
    deep = b'{"version":"4","alerts":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    number = b'{"version":"4","truncatedAlerts":' + b"9" * 100_000 + b',"alerts":[]}'
    many = delivery(*({**alert(it), "labels": {"a": "b"}} for it in range(10_001)))
    for name, expected, content, *lines in (
        ("10 MB", "413", b" " * TEN_MB),
        ("JSON, 100,000 deep", "400", deep),
        ("a number of 100,000 digits", "400", number),
        ("NaN", "400", b'{"version":"4","truncatedAlerts":NaN,"alerts":[]}'),
        ("1e999", "400", b'{"version":"4","truncatedAlerts":1e999,"alerts":[]}'),
        ("a list", "400", b"[]"),
        ("a version of its own", "400", delivery(alert(), version="5")),
        ("alerts twice, the last ones wrong", "400", b'{"version":"4","alerts":[],"alerts":[1]}'),
        ("UTF-16", "400", delivery(alert()).decode().encode("utf-16")),
        ("what is not UTF-8", "400", delivery(alert(domain="X")).replace(b'"X"', b'"\xff\xfe"')),
        ("half a letter (a lone surrogate)", "400", delivery(alert(domain="\ud800"))),
        ("10,001 alerts", "413", many),
        ("129 labels", "400", delivery(alert(**{f"l{it}": "" for it in range(129)}))),
        ("a label of 1 MB", "400", delivery(alert(domain="x" * 2**20))),
        ("a label that is a list", "400", delivery(alert(domain=["ce01"]))),
        ("a fingerprint with a line end", "400", delivery({**alert(), "fingerprint": "a\nb"})),
        ("the year 0", "400", delivery(alert(starts="0000-01-01T00:00:00Z"))),
        ("a time without a zone", "400", delivery(alert(starts="2026-01-01T00:00:00"))),
        ("a gzip bomb", "400", bomb, "Content-Encoding: gzip"),
        ("two content types", "415", delivery(alert()), "Content-Type: text/plain"),
    ):
        yield Attempt(BODY, name, expected, delivered(content, *lines))


def _replays() -> Iterator[Attempt]:
    firing, over = delivery(alert(1)), delivery(alert(1, status="resolved"))
    taken = "of 200; no plan"
    for name, times, *contents in (
        ("the same alert of a VM that runs well, 1,000 times", 1000, firing),
        ("resolved, then firing again, 500 times", 500, over, firing),
        ("1,000 alerts of it", 1, *(delivery(alert(it)) for it in range(1000))),
        ("an alert that began five hours ago", 1, delivery(alert(2, starts=begun(5)))),
        ("one that `if_running` says to act on", 1, delivery(alert(3, if_running="true"))),
        ("a host's failure, of a host that lives", 1, delivery(alert(4, action="failover"))),
        ("a VM that is not protected", 1, delivery(alert(5, domain="dom0"))),
        ("a host that there is not", 1, delivery(alert(6, action="failover", host="v09"))),
        ("an action that there is not", 1, delivery(alert(8, action="destroy"))),
        ("a program that there is not", 1, delivery(alert(9, action="run", program="/bin/sh"))),
        ("a path for a VM", 1, delivery(alert(10, domain="../../etc/passwd", host="-oProxyCommand=id"))),
    ):
        yield Attempt(REPLAY, name, taken, fed(*contents, times=times))
    yield Attempt(
        REPLAY,
        "the alert of a VM that was restarted, 1,000 times",
        "1000 taken; 1 plan; one process",
        _restarted,
        (*(f"{it} {VM}" for it in ("decided", "intent", "outcome", "finished")), f"another process of {VM}"),
    )
    yield Attempt(
        REPLAY, "control characters, into the log", "0 control characters, no forged line", _into_the_log
    )
    yield Attempt(
        REPLAY, "into the terminal of who reads the journal", "told, with 0 control", _into_the_terminal
    )
    yield Attempt(REPLAY, "a script into the status page", "told, as text", _into_the_page)
    yield Attempt(
        REPLAY,
        "a journal of 16 MiB, filled with 3,200 alerts of 12 kB",
        f"at most {JOURNAL_MIB} MiB; the others are",
        _fill,
    )


def _asked() -> Iterator[Attempt]:
    both, order = "admitted v01, v02", "epochs only grow"
    wait = f"wait; v01 not alone, {both}; {order}"
    for number, (name, expected, ask) in enumerate(
        (
            ("v01's question with v02's token", wait, _as_another),
            (
                "a grant's question again, when the peer was admitted meanwhile",
                f"grant, allow, then wait; v01 not alone, {both}; {order}",
                _old_grant,
            ),
            (
                "a refused host's question again, when the other was granted",
                f"v02 wait, v01 grant, v02 wait; v01 alone, admitted v01; {order}",
                _after_the_other,
            ),
            ("an earlier run, after a later one", wait, _earlier_run),
            ("the second question without the first", wait, _second_first),
            (
                "100 at once, of both hosts",
                "100 answered, granted to nobody but v01; then v01 grant; v01 alone",
                _at_once,
            ),
            (
                "300 resources that there are not",
                f"less than {MEMORY_MIB} MiB more; v01 not alone",
                _flood_of_names,
            ),
        )
    ):
        yield Attempt(ASKED, name, expected, arbiter(f"r{number}", ask))


def _load(server: str, attacks: Mapping[str, Attack]) -> Iterator[Attempt]:
    for what, attack in attacks.items():
        yield Attempt(LOAD, f"{server}: {what}", HELD, under_load(server, attack))


SILENT = {"10,000 silent connections at once": crowd(b"")}
SLOW = {"heads and bodies, byte by byte": slow}
DEAF = {"300 that ask for pages and take none": deaf}
MORE = {
    "10,000 with half a head, from 100 addresses": crowd(HALF, MANY),
    "10,000 that come and go": churn,
    "10,000 requests without a token": flood(post(ALERTS, b"{}"), 10_000),
}

ATTEMPTS: tuple[Attempt, ...] = (
    *_wire(),
    *_forged(),
    *_bodies(),
    *_replays(),
    *_asked(),
    *_load("actuator", SILENT | SLOW | DEAF),
    *_load("exporter", DEAF),
    *_load("by TLS", {"10,000 handshakes that stop half-way": crowd(HELLO)}),
    Attempt(LOAD, "actuator: 3,000 requests without a token", f"{HELD}; few lines in the log", _quiet_log),
)
HEAVY: tuple[Attempt, ...] = (
    *_load("exporter", SILENT | SLOW),
    *_load("by TLS", {"1,000 times what is no TLS": no_tls}),
    *_load("actuator", MORE),
    *_load("exporter", MORE),
)
"""Those of `make abuse` and `make security` alone: the servers are one, with other bounds."""
