"""waitress, with the bounds that it lacks.

waitress reads requests in one thread and hands complete ones to a pool, so a client that sends slowly holds
no thread. But it reads every body to its end before anybody may refuse it, knows no limit for the time that
a request takes to arrive, stops accepting at its number of connections, and has one pool for all. Here:

- a body is kept only when the request's head is good for it; else the request is answered at once, and what
  comes of its body is dropped;
- a request that is not complete within its time is closed;
- a new connection takes the place of the one that has kept us waiting for longest;
- requests with a body, which wait for a disk, have a pool of their own: pages are answered meanwhile.
"""

import functools
import logging
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sized
from typing import Any
from wsgiref.types import WSGIApplication

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher
from waitress.utilities import RequestEntityTooLarge

log = structlog.get_logger()

MAX_CONNECTIONS = 256
MAX_HEAD_BYTES = 16 * 1024
MAX_PAGE_BYTES_IN_MEMORY = 64 * 1024 * 1024  # of an answer; larger ones go through a file
BODY_THREADS = 64
PAGE_THREADS = 4
IDLE_SECONDS = 120  # between two requests of one connection, and for a client to take its answer
CLEANUP_SECONDS = 1
GRACE_SECONDS = 5.0  # for requests in hand when the server stops

WantsBody = Callable[[str, str, Mapping[str, str]], bool]
"""Whether the body of such a request is to be kept: method, path, headers (as ``CONTENT_TYPE``)."""


class _Parser(HTTPRequestParser):
    """Reads one request, its body only when it is wanted."""

    kept = False
    """The request has a body, and it was wanted."""
    error: Any
    body_rcv: Any

    def __init__(self, channel: "_Channel", adj: Adjustments) -> None:
        super().__init__(adj)
        self._channel = channel

    def received(self, data: bytes) -> int:
        head_was_complete = self.headers_finished
        consumed: int = super().received(data)
        if isinstance(self.error, RequestEntityTooLarge):
            # Answered by the application like any other; the rest is not read, so nothing can follow it.
            self.error = None
            self._drop_body(str(max(self.content_length, self.body_bytes_received)))
            self.headers["CONNECTION"] = "close"
            return len(data)
        if self.body_rcv is None or head_was_complete or self.error is not None:
            return consumed
        self.kept = self._channel.server.wants_body(self.command, self.path, self.headers)
        if self.kept:
            return consumed
        self._drop_body(str(self.content_length))
        if self.chunked:
            self.headers["CONNECTION"] = "close"
            return len(data)
        here = min(self.content_length, len(data) - consumed)
        self._channel.unread = self.content_length - here
        return consumed + int(here)

    def _drop_body(self, length: str) -> None:
        self.body_rcv = None
        self.completed = True
        self.expect_continue = False
        self.headers["CONTENT_LENGTH"] = length


class _ErrorTask(ErrorTask):
    """Answers what is not HTTP."""

    def execute(self) -> None:
        error = self.request.error
        # waitress quotes the line at fault, which may be the one with the token.
        self.channel.server.refused(error.code, error.body.partition('"')[0].strip(), self.channel.addr[0])
        super().execute()


class _Channel(HTTPChannel):
    """One connection."""

    error_task_class = _ErrorTask
    unread = 0
    """Bytes to come of a body that nobody wants."""

    def __init__(
        self,
        server: "_Listener",
        sock: socket.socket,
        addr: tuple[str, int],
        adj: Adjustments,
        map: dict[int, wasyncore.dispatcher],  # noqa: A002  the caller names it
    ) -> None:
        self.parser_class = functools.partial(_Parser, self)
        self.waiting_since = time.monotonic()
        """The first byte of the request that is arriving, else of the last one, else the connection."""
        super().__init__(server, sock, addr, adj, map)

    @property
    def arriving(self) -> bool:
        """A request has begun and is not complete."""
        return self.request is not None or self.unread > 0

    def received(self, data: bytes) -> bool:
        if not self.arriving:
            self.waiting_since = time.monotonic()
        dropped = min(self.unread, len(data))
        self.unread -= dropped
        return bool(super().received(data[dropped:]))


class _Listener(TcpWSGIServer):
    """The listening socket, and what all its connections share."""

    channel_class = _Channel
    active_channels: dict[int, _Channel]

    def __init__(
        self,
        application: WSGIApplication,
        listening: socket.socket,
        *,
        wants_body: WantsBody,
        refused: Callable[[int, str, str], None],
        max_body_bytes: int,
        request_timeout_seconds: float,
        closed: Counter,
    ) -> None:
        self.wants_body = wants_body
        self.refused = refused
        self._request_timeout_seconds = request_timeout_seconds
        self._closed = closed
        self.pools = {"bodies": ThreadedTaskDispatcher(), "pages": ThreadedTaskDispatcher()}
        self.pools["bodies"].set_thread_count(BODY_THREADS)
        self.pools["pages"].set_thread_count(PAGE_THREADS)
        super().__init__(
            application,
            map={},
            _sock=listening,
            bind_socket=False,
            dispatcher=self.pools["pages"],
            sockinfo=(listening.family, listening.type, listening.proto, listening.getsockname()),
            adj=Adjustments(
                sockets=[listening],
                ident=None,
                max_request_header_size=MAX_HEAD_BYTES,
                max_request_body_size=max_body_bytes + 1,  # waitress refuses what reaches it
                inbuf_overflow=max_body_bytes + MAX_HEAD_BYTES,  # into a file: never, the disk may be full
                outbuf_overflow=MAX_PAGE_BYTES_IN_MEMORY,
                connection_limit=MAX_CONNECTIONS + 32,  # when all of them are being served
                channel_timeout=IDLE_SECONDS,
                cleanup_interval=CLEANUP_SECONDS,
            ),
        )

    def add_task(self, task: _Channel) -> None:
        self.pools["bodies" if task.requests[0].kept else "pages"].add_task(task)

    def handle_accept(self) -> None:
        super().handle_accept()
        if len(self.active_channels) > MAX_CONNECTIONS:
            silent = [it for it in self.active_channels.values() if not it.requests and not it.will_close]
            if silent:
                self._close(min(silent, key=lambda it: it.waiting_since), "room")

    def maintenance(self, now: float) -> None:
        super().maintenance(now)
        begun_before = time.monotonic() - self._request_timeout_seconds
        for channel in self.active_channels.values():
            if channel.arriving and not channel.requests and channel.waiting_since < begun_before:
                self._close(channel, "slow")

    def _close(self, channel: _Channel, reason: str) -> None:
        if not channel.will_close:
            channel.will_close = True
            self._closed.labels(reason).inc()

    def poll(self, timeout_seconds: float) -> None:
        """Let the sockets' work be done until there was some, or the time is over."""
        wasyncore.poll2(timeout_seconds, self._map)

    def drain(self) -> None:
        """Accept nothing more, let requests in hand be answered, and close everything."""
        wasyncore.dispatcher.close(self)
        deadline = time.monotonic() + GRACE_SECONDS
        while self.active_channels and time.monotonic() < deadline:
            for channel in self.active_channels.values():
                if not channel.requests and not channel.total_outbufs_len:
                    channel.will_close = True
            self.poll(0.05)
        for pool in self.pools.values():
            pool.shutdown(timeout=max(0.1, deadline - time.monotonic()))
        # A thread that comes late still pulls the trigger: what has its descriptor by then must be itself.
        weakref.finalize(self, self.trigger.close)
        self.trigger.del_channel()
        wasyncore.close_all(self._map)


class WebServer:
    """Serves a WSGI application in a thread of its own, from ``start`` to ``stop``.

    Args:
        application: what answers.
        address: host and port; port 0 takes a free one.
        wants_body: asked with each request's head; without its consent no body is kept.
        refused: told of each request that was not even HTTP: status, reason, remote address.
        max_body_bytes: of a wanted body.
        request_timeout_seconds: from a request's first byte to its last.
        registry: gets the server's metrics.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        application: WSGIApplication,
        address: tuple[str, int],
        *,
        wants_body: WantsBody,
        refused: Callable[[int, str, str], None],
        max_body_bytes: int,
        request_timeout_seconds: float,
        registry: CollectorRegistry,
    ) -> None:
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # it warns of each request that waits
        self._stopping = threading.Event()
        self._listener = _Listener(
            application,
            _listen(address),
            wants_body=wants_body,
            refused=refused,
            max_body_bytes=max_body_bytes,
            request_timeout_seconds=request_timeout_seconds,
            closed=Counter(
                "vmheal_http_connections_closed",
                "Connections closed by the actuator: slow, a request was not complete in time; room, the"
                " longest silent one made room for a new one.",
                ["reason"],
                registry=registry,
            ),
        )
        Gauge("vmheal_http_connections", "Open HTTP connections.", registry=registry).set_function(
            lambda: len(self._listener.active_channels)
        )
        queued = Gauge(
            "vmheal_http_requests_queued",
            "Requests that have arrived and wait for a thread: bodies, deliveries of alerts; pages, others.",
            ["pool"],
            registry=registry,
        )
        for name, pool in self._listener.pools.items():
            queued.labels(name).set_function(functools.partial(_length, pool.queue))
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._listener.effective_port)

    def start(self) -> None:
        """Begin to answer. Connections have been accepted since the server was made."""
        self._thread.start()

    def stop(self) -> None:
        """Accept nothing more, answer what is in hand within ``GRACE_SECONDS``, and close."""
        self._stopping.set()
        self._listener.pull_trigger()
        self._thread.join(2 * GRACE_SECONDS)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._listener.poll(1.0)
            self._listener.drain()
        except Exception:
            log.exception("the HTTP server has died")
            raise


def _length(queue: Sized) -> float:
    return len(queue)


def _listen(address: tuple[str, int]) -> socket.socket:
    family, _, _, _, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(where[:2], family=family, backlog=1024)
