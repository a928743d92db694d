"""The exporter's HTTP server: asyncio around h11, small on purpose.

It answers GET and HEAD on a handful of paths. Everything a client can hold on to is bounded: the size of a
request's head, the time to send it, the time to take the answer, and the number of connections, of which the
one that has been silent for longest makes room for a new one. A thread per connection, as in the usual WSGI
servers, would let a few clients that send one byte every few seconds lock Prometheus out.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

import h11
import structlog

log = structlog.get_logger()

MAX_CONNECTIONS = 128
MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024  # read and thrown away
HEAD_SECONDS = 10.0  # from its first byte, or from the connection, to the end of a request's head
IDLE_SECONDS = 120.0  # between two requests; Prometheus keeps its connection for the next scrape
TLS_SECONDS = 10.0  # for the handshake
WRITE_SECONDS = 15.0  # for the client to take the answer
SCRAPE_THREADS = 8


@dataclass(frozen=True)
class Request:
    """What a handler sees of a request."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]  # names in lower case; of repeated ones, joined by a comma
    received: float  # time.monotonic() seconds
    peer_certificate: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Response:
    """What a handler answers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: Sequence[tuple[str, str]] = field(default_factory=tuple)


UNAUTHORIZED = Response(
    401,
    b"who you are is not known here, or your password or certificate is not the right one\n",
    headers=[("WWW-Authenticate", 'Basic realm="vmheal-exporter"')],
)

Handler = Callable[[Request], Response]


class Access(Protocol):
    """Decides who may ask."""

    def quick(self, request: Request) -> bool | None:
        """Answer at once; None means that `verify` must find out."""

    def verify(self, request: Request) -> bool:
        """Answer after slow work; called in a thread of its own, one at a time."""


class AddressError(Exception):
    """A listen address cannot be used; the message says which and why."""


def listen(addresses: Sequence[str]) -> list[socket.socket]:
    """Open the listening sockets for addresses like `:10810`, `127.0.0.1:10810`, `[::1]:10810`.

    Raises:
        AddressError: an address cannot be read, resolved or bound.
    """
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            sockets += _listen(address)
    except AddressError:
        for opened in sockets:
            opened.close()
        raise
    return sockets


def _listen(address: str) -> list[socket.socket]:
    host, separator, port = address.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004
        raise AddressError(
            f"cannot listen on {address!r}: it is not HOST:PORT or :PORT, with a port up to 65535"
        )
    host = host.removeprefix("[").removesuffix("]")
    try:
        if not host and socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):  # IPv6 compiled in, but switched off on this host
                return [socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)]
        found = socket.getaddrinfo(
            host or "0.0.0.0",  # noqa: S104  every address is what ":PORT" asks for
            int(port),
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
        return [
            socket.create_server(where[:2], family=family)
            for family, where in dict.fromkeys((family, where) for family, _, _, _, where in found)
        ]
    except OSError as error:
        raise AddressError(f"cannot listen on {address}: {error.strerror or error}") from error


class _Client:
    """One connection: its streams, its parser, and since when it has been silent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def next_event(self) -> h11.Event:
        """Return the next event; as the client is read one request at a time, it is never PAUSED."""
        while not isinstance(event := self.parser.next_event(), h11.Event):
            assert event is h11.NEED_DATA
            self.parser.receive_data(await self.reader.read(MAX_HEAD_BYTES))
        return event

    async def send(self, *events: h11.Event) -> None:
        self.writer.write(b"".join(self.parser.send(event) or b"" for event in events))
        async with asyncio.timeout(WRITE_SECONDS):
            await self.writer.drain()


class Server:
    """Serves one handler on listening sockets until it is stopped."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        handler: Handler,
        access: Access,
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
        headers: Callable[[], Iterable[tuple[str, str]]] = tuple,
    ) -> None:
        """Take what to serve.

        Args:
            sockets: from `listen`.
            handler: called in a thread, a bounded number at a time.
            access: asked before each request.
            tls: the context for the next connection, None for plain HTTP; asked for each one, so that new
                certificates are used without a restart.
            headers: added to each answer.
        """
        self._sockets = sockets
        self._handler = handler
        self._access = access
        self._tls = tls
        self._headers = headers
        # Guesses at passwords wait for each other, and never in the way of scrapes.
        self._verifier = ThreadPoolExecutor(1, thread_name_prefix="verify")
        self._threads = ThreadPoolExecutor(SCRAPE_THREADS, thread_name_prefix="scrape")
        self._tasks: set[asyncio.Task[None]] = set()
        self._silent: dict[asyncio.Task[None], None] = {}  # waiting for a client's bytes, longest first

    async def run(self, stop: asyncio.Event, grace_seconds: float = 2.0) -> None:
        """Serve until `stop` is set, then let requests in flight end within `grace_seconds`."""
        accepting = [asyncio.create_task(self._accept(listening)) for listening in self._sockets]
        await stop.wait()
        for task in accepting:
            task.cancel()
        for listening in self._sockets:
            listening.close()
        for task in list(self._silent):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_seconds)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*accepting, *self._tasks, return_exceptions=True)
        for threads in (self._threads, self._verifier):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        while True:
            try:
                connected, _ = await loop.sock_accept(listening)
            except OSError as error:  # out of file descriptors, or the client is gone already
                log.warning("a connection could not be accepted", error=str(error))
                await asyncio.sleep(0.1)
                continue
            if len(self._tasks) >= MAX_CONNECTIONS:
                if not self._silent:
                    connected.close()
                    continue
                oldest = next(iter(self._silent))
                del self._silent[oldest]
                oldest.cancel()
            task = asyncio.create_task(self._connection(connected))
            self._tasks.add(task)
            self._silent[task] = None
            task.add_done_callback(partial(self._forget, connected))

    def _forget(self, connected: socket.socket, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._silent.pop(task, None)
        if task.cancelled():  # before it began
            connected.close()
        elif (error := task.exception()) is not None:
            log.error("a connection failed unexpectedly", error=repr(error))

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """Mark this connection as one that waits for its client, and may be closed to make room."""
        task = asyncio.current_task()
        assert task is not None
        self._silent[task] = None
        try:
            yield
        finally:
            self._silent.pop(task, None)

    async def _connection(self, connected: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_HEAD_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            context = self._tls()
            with self._waiting():
                transport, _ = await loop.connect_accepted_socket(
                    lambda: protocol,
                    connected,
                    ssl=context,
                    ssl_handshake_timeout=TLS_SECONDS if context else None,
                    ssl_shutdown_timeout=1.0 if context else None,
                )
        except (OSError, asyncio.CancelledError) as error:
            connected.close()
            log.debug("a connection ended before its first request", error=str(error))
            return
        transport.set_write_buffer_limits(high=0)  # drain() means: the client's kernel has it all
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            await self._requests(_Client(reader, writer))
        except (OSError, TimeoutError, h11.LocalProtocolError) as error:
            log.debug("a connection ended early", error=str(error))
        except asyncio.CancelledError:
            pass  # asked to make room or to stop: nothing is left to do but to close
        finally:
            if transport.get_write_buffer_size():
                transport.abort()
            else:
                writer.close()

    async def _requests(self, client: _Client) -> None:
        seconds = HEAD_SECONDS
        while True:
            try:
                with self._waiting():
                    if client.parser.our_state is h11.IDLE and not client.parser.trailing_data[0]:
                        async with asyncio.timeout(seconds):
                            client.parser.receive_data(await client.reader.read(MAX_HEAD_BYTES))
                    async with asyncio.timeout(HEAD_SECONDS):
                        event = await client.next_event()
                        if isinstance(event, h11.Request):
                            await _discard_body(client)
            except h11.RemoteProtocolError as error:
                await _answer(client, Response(error.error_status_hint, f"{error}\n".encode()), head=False)
                return
            if not isinstance(event, h11.Request):
                return  # the client closed
            await self._respond(client, event)
            if client.parser.our_state is not h11.DONE or client.parser.their_state is not h11.DONE:
                return
            client.parser.start_next_cycle()
            seconds = IDLE_SECONDS

    async def _respond(self, client: _Client, event: h11.Request) -> None:
        method = event.method.decode("ascii")
        if method not in {"GET", "HEAD"}:
            response = Response(405, b"only GET and HEAD are served\n", headers=[("Allow", "GET, HEAD")])
        else:
            response = await self._handle(_request(method, event, client.writer))
        response = replace(response, headers=[*response.headers, *self._headers()])
        await _answer(client, response, head=method == "HEAD")

    async def _handle(self, request: Request) -> Response:
        loop = asyncio.get_running_loop()
        try:
            allowed = self._access.quick(request)
            if allowed is None:
                allowed = await loop.run_in_executor(self._verifier, self._access.verify, request)
            if not allowed:
                return UNAUTHORIZED
            return await loop.run_in_executor(self._threads, self._handler, request)
        except Exception:
            log.exception("a request failed unexpectedly", path=request.path)
            return Response(500, b"an unexpected error; the exporter's log has it\n")


def _request(method: str, event: h11.Request, writer: asyncio.StreamWriter) -> Request:
    target = urlsplit(event.target.decode("latin-1"))
    headers: dict[str, str] = {}
    for raw_name, raw_value in event.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    try:
        query = parse_qs(target.query, keep_blank_values=True, max_num_fields=100)
    except ValueError:
        query = {"": ["too many fields"]}
    return Request(method, target.path, query, headers, time.monotonic(), writer.get_extra_info("peercert"))


async def _discard_body(client: _Client) -> None:
    length = 0
    while True:
        event = await client.next_event()
        if isinstance(event, h11.Data):
            length += len(event.data)
            if length > MAX_BODY_BYTES:
                raise h11.RemoteProtocolError("the request's body is too large", error_status_hint=413)
        else:
            return


async def _answer(client: _Client, response: Response, *, head: bool) -> None:
    if client.parser.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
        return
    headers = [
        ("Content-Type", response.content_type),
        ("Content-Length", str(len(response.body))),
        *response.headers,
    ]
    events: list[h11.Event] = [
        h11.Response(status_code=response.status, reason=HTTPStatus(response.status).phrase, headers=headers)
    ]
    if not head:
        events.append(h11.Data(data=response.body))
    await client.send(*events, h11.EndOfMessage())
