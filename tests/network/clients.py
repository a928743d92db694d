"""Who talks to the site: strangers that send bytes, and those who ask rightly all the time.

What is asked rightly is asked as the real clients do it: Prometheus over a connection that it keeps, DRBD's
handler with its own program's code over a new one each time; and one that is closed on the way is tried again,
as both of them and Alertmanager do.
"""

import contextlib
import itertools
import json
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import requests

from exporter import fence_peer
from tests.network.site import ACTUATOR, BYSTANDER, EXPORTER, PATIENCE, Site

TRIES = 5
OTHERS_SECONDS = 20.0
"""For one answer to those who ask rightly; a stranger waits for longer."""
END = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
"""Well formed, and the last: where it is answered, what came before has not ended the connection."""


def connect(address: tuple[str, int], source: str = "127.0.0.1", receive_bytes: int = 0) -> socket.socket:
    """A connection; with so little room for answers."""
    it = socket.socket()
    it.settimeout(PATIENCE)
    if receive_bytes:
        it.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    it.bind((source, 0))
    it.connect(address)
    return it


@dataclass(frozen=True)
class Answer:
    """One."""

    status: int
    head: bytes
    body: bytes


def talk(address: tuple[str, int], content: bytes, end: bytes = END) -> list[Answer]:
    """Send all of it and the end, and read until the other side closes."""
    with connect(address) as connection:
        writer = threading.Thread(target=_send, args=(connection, content + end), daemon=True)
        writer.start()
        received = b""
        with contextlib.suppress(ConnectionError):
            while chunk := connection.recv(1 << 16):
                received += chunk
        writer.join(PATIENCE)
    return answers(received)


def _send(connection: socket.socket, content: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(content)


def answers(received: bytes) -> list[Answer]:
    """What is in these bytes; status 0: it is no answer."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        words = head.split(b" ", 2)
        if not head.startswith(b"HTTP/1.") or len(words) < 2:
            return [*found, Answer(0, head, rest)]
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        length = int(lines.get(b"content-length", 0)) if words[1] != b"100" else 0
        found.append(Answer(int(words[1]), head, rest[:length]))
        received = rest[length:]
    return found


def post(path: str, content: bytes, *lines: str, token: str = "") -> bytes:
    """A request to the actuator with a body."""
    given = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *lines]
    if token:
        given.append(f"Authorization: Bearer {token}")
    given.append(f"Content-Length: {len(content)}")
    return ("\r\n".join(given) + "\r\n\r\n").encode("latin-1") + content


def delivery(*alerts: dict, **changed: object) -> bytes:
    """A body of Alertmanager's."""
    return json.dumps({"version": "4", "truncatedAlerts": 0, "alerts": alerts, **changed}).encode()


def alert(
    number: int = 0, *, status: str = "firing", starts: str = "2099-01-01T00:00:00Z", **labels: str
) -> dict:
    """One of them, about a VM that runs well."""
    given = {"alertname": "VMFailure", "action": "restart", "domain": BYSTANDER, "host": "v01"}
    return {
        "status": status,
        "labels": given | labels,
        "startsAt": starts,
        "fingerprint": f"{number:016x}",
    }


# ---- those who ask rightly -------------------------------------------------------------------------------


@dataclass
class Others:
    """What the site's own clients get meanwhile."""

    site: Site
    served: Counter[str] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def kinds(self) -> dict[str, Callable[[], None]]:
        """Each asks once, and raises when it is not answered well."""
        scraper, deliverer = requests.Session(), requests.Session()
        scraper.trust_env = deliverer.trust_env = False
        numbers = itertools.count(1)

        def scrape(address: tuple[str, int], series: str) -> Callable[[], None]:
            def ask() -> None:
                reply = scraper.get(f"http://{address[0]}:{address[1]}/metrics", timeout=OTHERS_SECONDS)
                assert reply.status_code == 200, reply.text
                assert series in reply.text

            return ask

        def deliver() -> None:
            content = delivery(alert(next(numbers), status="resolved", domain="of-the-others"))
            head = {"Authorization": f"Bearer {self.site.token}", "Content-Type": "application/json"}
            reply = deliverer.post(
                f"http://{ACTUATOR[0]}:{ACTUATOR[1]}/alerts", content, headers=head, timeout=OTHERS_SECONDS
            )
            assert (reply.status_code, reply.text) == (200, "stored\n")

        def arbitrate() -> None:
            question = {"hook": "fence-peer", "resource": BYSTANDER, "peer": "v02", "minors": "9"}
            question |= {"boot_id": "abc", "began_ns": next(numbers)}
            reply = fence_peer.exchange(fence_peer.Actuator(*ACTUATOR), self.site.tokens["v01"], question)
            look = {"role": "Primary", "up_to_date": True, "connected": True, "version": reply["version"]}
            reply = fence_peer.exchange(
                fence_peer.Actuator(*ACTUATOR), self.site.tokens["v01"], question | look
            )
            assert reply["verdict"] == "wait", reply

        def by_tls() -> None:
            assert "libvirt_domain_state" in self.site.ask_by_tls()

        return {
            "scrape of the exporter": scrape(EXPORTER, "libvirt_domain_state"),
            "scrape of the actuator": scrape(ACTUATOR, "vmheal_domain_expected"),
            "scrape by TLS": by_tls,
            "delivery": deliver,
            "arbitration": arbitrate,
        }

    def turn(self, kind: str, ask: Callable[[], None]) -> None:
        """Ask until it is answered, a few times."""
        begun = time.monotonic()
        for _ in range(TRIES):
            self.tries[kind] += 1
            try:
                ask()
            except Exception as error:
                self.failed[kind] = f"{type(error).__name__}: {error}"
                threading.Event().wait(0.1)
            else:
                self.failed.pop(kind, None)
                self.served[kind] += 1
                self.seconds.setdefault(kind, []).append(time.monotonic() - begun)
                return
        self._stop.set()

    def once(self) -> str:
        """Each asks one time more; what they have got in all."""
        for kind, ask in self.kinds().items():
            self.turn(kind, ask)
        return self.told()

    def told(self) -> str:
        """In words."""
        if missing := [kind for kind in self.kinds() if not self.served[kind]]:
            return f"not served: {', '.join(missing)}"
        if self.failed:
            return "not served: " + "; ".join(f"{kind}: {why}" for kind, why in sorted(self.failed.items()))
        return "the others are served"

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """All of them, each again and again."""

        def loop(kind: str, ask: Callable[[], None]) -> None:
            while not self._stop.is_set():
                self.turn(kind, ask)
                self._stop.wait(0.05)

        threads = [threading.Thread(target=loop, args=it, daemon=True) for it in self.kinds().items()]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(OTHERS_SECONDS * TRIES)


# ---- crowds ----------------------------------------------------------------------------------------------


class Crowd:
    """Many connections of somebody who wants no answer, as a context manager."""

    def __init__(self, address: tuple[str, int], sources: Sequence[str] = ("127.0.0.1",)) -> None:
        self._address = address
        self._sources = itertools.cycle(sources)
        self._coming: dict[int, socket.socket] = {}
        self._open: dict[int, socket.socket] = {}
        self._events = select.epoll()
        self.came = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for it in (*self._coming.values(), *self._open.values()):
            it.close()
        self._events.close()

    def come(self, number: int, say: bytes, *, receive_bytes: int = 0) -> None:
        """So many more at once, each with its first words when it is let in."""
        for count in range(1, number + 1):
            it = socket.socket()
            it.setblocking(False)
            if receive_bytes:
                it.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            it.bind((next(self._sources), 0))
            it.connect_ex(self._address)
            self._coming[it.fileno()] = it
            self._events.register(it, select.EPOLLOUT | select.EPOLLRDHUP)
            if count % 500 == 0:
                self._turn(say)
        deadline = time.monotonic() + PATIENCE
        while self._coming and time.monotonic() < deadline:
            self._turn(say, 0.05)
        assert not self._coming, f"{len(self._coming)} of {number} were not let in"

    def _turn(self, say: bytes = b"", seconds: float = 0.0) -> None:
        for descriptor, what in self._events.poll(seconds):
            it = self._coming.pop(descriptor, None)
            if it is not None:
                self.came += 1
                self._open[descriptor] = it
            it = self._open[descriptor]
            if what & ~select.EPOLLOUT:
                self._events.unregister(descriptor)
                self._open.pop(descriptor).close()
            else:
                self._events.modify(descriptor, select.EPOLLRDHUP)
                with contextlib.suppress(OSError):
                    it.send(say)

    def look(self) -> int:
        """How many are still open; the others are let go."""
        self._turn()
        return len(self._open)

    def drip(self, say: bytes) -> None:
        """Each says this little more."""
        for it in self._open.values():
            with contextlib.suppress(OSError):
                it.send(say)
