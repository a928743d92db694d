"""vmheal's HTTP server, the exporter's and the actuator's: asyncio around h11, small on purpose.

Everything a client can hold on to is bounded: the size of a request's head and body, the time to send it,
the time to take the answer, and the number of connections, of which the one that has been silent for longest,
from the address that has the most, makes room for a new one. A thread per connection, as in the usual WSGI
servers, would let a few clients that send one byte every few seconds lock Prometheus out. A body is kept only
when the request's head is good for it; else the request is answered at once, and what comes of its body is
dropped.
"""

import asyncio
import contextlib
import re
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from queue import SimpleQueue
from typing import Protocol, TypeVar
from urllib.parse import parse_qs

import h11
import structlog

T = TypeVar("T")

log = structlog.get_logger()

READ_BYTES = 64 * 1024
ACCEPT_AT_ONCE = 64
BACKLOG = 1024  # who finds it full tries again a second later
TLS_SHUTDOWN_SECONDS = 1.0
ACCEPT_AGAIN_SECONDS = 0.1  # after one could not be accepted


@dataclass(frozen=True)
class Bounds:
    """What a client can take."""

    connections: int = 128
    head_bytes: int = 16 * 1024
    body_bytes: int = 64 * 1024
    """Of a body that is kept, and of one that is dropped before the connection goes on."""
    request_seconds: float = 10.0
    """From a request's first byte to its last; from the connection to its first byte; for a TLS handshake."""
    idle_seconds: float = 120.0
    """Between two requests; Prometheus keeps its connection for the next scrape."""
    write_seconds: float = 15.0
    """For the client to take the answer."""
    threads: int = 8
    """That answer requests without a kept body."""
    body_threads: int = 1
    """That answer requests with one."""


@dataclass(frozen=True)
class Request:
    """What a handler sees of a request."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]  # names in lower case; of repeated ones, joined by a comma
    received: float  # time.monotonic() seconds
    peer_certificate: Mapping[str, object] | None = None
    target: str = ""  # path and query as they came
    remote: str = ""  # the client's address
    scheme: str = "http"
    body: bytes | None = None  # None: there is none, or it was not kept
    length: int | None = None  # of the body in bytes, as announced, or as far as it was read


@dataclass(frozen=True)
class Response:
    """What a handler answers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: Sequence[tuple[str, str]] = field(default_factory=tuple)  # may have a length of their own


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


class AddressError(OSError):
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
    if not (separator and re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= 65535):  # noqa: PLR2004
        raise AddressError(
            f"cannot listen on {address!r}: it is not HOST:PORT or :PORT, with a port up to 65535"
        )
    host = host.removeprefix("[").removesuffix("]")
    try:
        if not host and socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):  # IPv6 compiled in, but switched off on this host
                return [
                    socket.create_server(
                        ("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
                    )
                ]
        found = socket.getaddrinfo(
            host or "0.0.0.0",  # noqa: S104  every address is what ":PORT" asks for
            int(port),
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
        return [
            socket.create_server(where[:2], family=family, backlog=BACKLOG)
            for family, where in dict.fromkeys((family, where) for family, _, _, _, where in found)
        ]
    except OSError as error:
        raise AddressError(f"cannot listen on {address}: {error.strerror or error}") from error


class Pool:
    """Threads that answer requests, started when they are needed; they end with the process.

    Used from the event loop alone.
    """

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._room = asyncio.Semaphore(limit)
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._busy = 0
        self._started = 0
        self.waiting = 0
        """Calls for which no thread is free."""

    async def run(
        self,
        call: Callable[[], T],
        while_waiting: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> T:
        """Return what the call returns, or raise what it raises; `while_waiting` for a thread to be free."""
        self.waiting += 1
        try:
            with while_waiting():
                await self._room.acquire()
        finally:
            self.waiting -= 1
        self._busy += 1
        try:
            if self._busy > self._started:
                self._started += 1
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[T] = loop.create_future()
            self._jobs.put(partial(_call, call, answer, loop))
            return await answer
        finally:
            self._busy -= 1
            self._room.release()

    def close(self) -> None:
        """Let threads end that have nothing to do."""
        for _ in range(self._started):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # what it holds is not to wait for the next one


def _call(call: Callable[[], T], answer: asyncio.Future[T], loop: asyncio.AbstractEventLoop) -> None:
    def put(done: Callable[[T], None] | Callable[[BaseException], None], result: T | BaseException) -> None:
        if not answer.done():  # nobody waits for it any more
            done(result)  # type: ignore[arg-type]

    try:
        told: partial[None] = partial(put, answer.set_result, call())
    except Exception as error:  # noqa: BLE001  it is raised where the answer is waited for
        told = partial(put, answer.set_exception, error)
    with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
        loop.call_soon_threadsafe(told)


class _Client:
    """One connection: its streams, its parser, and where it comes from."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, remote: str, bounds: Bounds
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.remote = remote
        self.parser = h11.Connection(h11.SERVER, max_incomplete_event_size=bounds.head_bytes)
        self._bounds = bounds

    async def first_bytes(self) -> None:
        """Wait until something of the next request is there, or the client has closed."""
        if self.parser.our_state is h11.IDLE and not self.parser.trailing_data[0]:
            await self._receive()

    async def next_event(self) -> h11.Event:
        """Return the next event; as the client is read one request at a time, it is never PAUSED."""
        while not isinstance(event := self.parser.next_event(), h11.Event):
            assert event is h11.NEED_DATA
            await self._receive()
        return event

    async def _receive(self) -> None:
        # Of a head no more than the parser, which has that bound, must see to know it for too large.
        most = self._bounds.head_bytes + 1 if self.parser.their_state is h11.IDLE else READ_BYTES
        self.parser.receive_data(await self.reader.read(most))

    async def body(self, limit: int, *, keep: bool) -> tuple[bytes, int, bool]:
        """Read a body; what was kept of it, how long that was, and whether it ended within the limit."""
        kept, length = [], 0
        while isinstance(event := await self.next_event(), h11.Data):
            length += len(event.data)
            if length > limit:
                return b"", length, False
            if keep:
                kept.append(bytes(event.data))
        return b"".join(kept), length, True

    async def send(self, *events: h11.Event) -> None:
        self.writer.write(b"".join(self.parser.send(event) or b"" for event in events))
        async with asyncio.timeout(self._bounds.write_seconds):
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
        *,
        bounds: Bounds | None = None,
        wants_body: Callable[[Request], bool] | None = None,
        refused: Callable[[int, str, str], None] = lambda *_: None,
        closed: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take what to serve.

        Args:
            sockets: from `listen`.
            handler: called in a thread, a bounded number at a time.
            access: asked before each request.
            tls: the context for the next connection, None for plain HTTP; asked for each one, so that new
                certificates are used without a restart.
            headers: added to each answer.
            bounds: what a client can take.
            wants_body: asked with each request's head whether its body is to be kept; None: only GET and HEAD
                are served.
            refused: told of what is not even HTTP, or not TLS: status, reason, remote address.
            closed: told why a connection was closed that might have gone on: `slow`, `room`, `full`.
        """
        self._sockets = sockets
        self._handler = handler
        self._access = access
        self._tls = tls
        self._headers = headers
        self._bounds = bounds or Bounds()
        self._wants_body = wants_body
        self._refused = refused
        self._closed = closed
        self._stopping = False
        # Guesses at passwords wait for each other, and never in the way of scrapes.
        self._verifier = Pool("verify", 1)
        self.pages = Pool("pages", self._bounds.threads)
        """For requests without a body that was kept."""
        self.bodies = Pool("bodies", self._bounds.body_threads)
        """For the others: they may wait for a disk, and pages are answered meanwhile."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._silent: dict[asyncio.Task[None], None] = {}  # waiting for a client's bytes, longest first

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._tasks)

    async def run(self, stop: asyncio.Event, grace_seconds: float = 2.0) -> None:
        """Serve until `stop` is set, then let requests in flight end within `grace_seconds`."""
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            listening.setblocking(False)
            loop.add_reader(listening, self._accept, listening)
        await stop.wait()
        self._stopping = True
        for listening in self._sockets:
            loop.remove_reader(listening)
            listening.close()
        for task in list(self._silent):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_seconds)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pool in (self.pages, self.bodies, self._verifier):
            pool.close()

    def _accept(self, listening: socket.socket) -> None:
        """Accept those that have come. No task does that: cancelled in between, it would lose one.

        Several at once: of a crowd that comes and goes, most have gone before any work was done for them, and
        who comes behind it does not wait for that.
        """
        for _ in range(ACCEPT_AT_ONCE):
            if not self._accept_one(listening):
                return

    def _accept_one(self, listening: socket.socket) -> bool:
        """Accept one; whether there was one."""
        try:
            connected, address = listening.accept()
        except ConnectionAbortedError:  # the client is gone already
            return True
        except BlockingIOError:
            return False
        except OSError as error:  # out of file descriptors
            log.warning("a connection could not be accepted", error=str(error))
            loop = asyncio.get_running_loop()
            loop.remove_reader(listening)
            loop.call_later(ACCEPT_AGAIN_SECONDS, self._accept_again, listening)
            return False
        connected.setblocking(False)
        if len(self._tasks) >= self._bounds.connections:
            if not self._silent:
                self._closed("full")
                connected.close()
                return True
            self._closed("room")
            oldest = self._longest_silent()
            del self._silent[oldest]
            oldest.cancel()
        remote = address[0].removeprefix("::ffff:")
        task = asyncio.create_task(self._connection(connected, remote), name=remote)
        self._tasks.add(task)
        self._silent[task] = None
        task.add_done_callback(partial(self._forget, connected))
        return True

    def _longest_silent(self) -> asyncio.Task[None]:
        """Of the address that has the most of them: a crowd from one machine takes its own places."""
        numbers = Counter(it.get_name() for it in self._silent)
        most = max(numbers.values())
        return next(it for it in self._silent if numbers[it.get_name()] == most)

    def _accept_again(self, listening: socket.socket) -> None:
        if not self._stopping:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

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

    async def _connection(self, connected: socket.socket, remote: str) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            context = self._tls()
            with self._waiting():
                transport, _ = await loop.connect_accepted_socket(
                    lambda: protocol,
                    connected,
                    ssl=context,
                    ssl_handshake_timeout=self._bounds.request_seconds if context else None,
                    ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS if context else None,
                )
        except (OSError, asyncio.CancelledError) as error:
            connected.close()
            if isinstance(error, ssl.SSLError):
                self._refused(HTTPStatus.BAD_REQUEST, f"TLS: {_tls_reason(error)}", remote)
            log.debug("a connection ended before its first request", error=str(error))
            return
        # drain() means: the client's kernel has it all. To asyncio's TLS a buffer of 0 bytes is full at 0.
        transport.set_write_buffer_limits(high=1 if context else 0)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            await self._requests(_Client(reader, writer, remote, self._bounds))
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
        seconds = self._bounds.request_seconds
        while not self._stopping:
            with self._waiting():
                async with asyncio.timeout(seconds):
                    await client.first_bytes()
            deadline = asyncio.get_running_loop().time() + self._bounds.request_seconds
            try:
                request = await self._in_time(deadline, self._next_request(client))
                if request is None:
                    return  # the client closed
                await self._respond(client, request)
                if client.parser.our_state is not h11.DONE:
                    return
                if client.parser.their_state is not h11.DONE:
                    _, _, ended = await self._in_time(
                        deadline, client.body(self._bounds.body_bytes, keep=False)
                    )
                    if not ended:
                        return
            except h11.RemoteProtocolError as error:
                reason = _what_is_wrong(error)
                if not client.reader.at_eof():  # it went away: that is no news
                    self._refused(error.error_status_hint, reason, client.remote)
                await self._send(
                    client, Response(error.error_status_hint, f"{reason}\n".encode()), head=False
                )
                return
            client.parser.start_next_cycle()
            seconds = self._bounds.idle_seconds

    async def _in_time(self, deadline: float, reading: Coroutine[None, None, T]) -> T:
        """Read from the client; one that is not ready by then is slow."""
        try:
            with self._waiting():
                async with asyncio.timeout_at(deadline):
                    return await reading
        except TimeoutError:
            self._closed("slow")
            raise

    async def _next_request(self, client: _Client) -> Request | None:
        event = await client.next_event()
        if not isinstance(event, h11.Request):
            return None
        _check_framing(event)
        request = _request(event, client)
        limit = self._bounds.body_bytes
        if self._wants_body is None or client.parser.their_state is not h11.SEND_BODY:
            return request
        if (request.length or 0) > limit or not self._wants_body(request):
            return request
        if client.parser.they_are_waiting_for_100_continue:
            await client.send(h11.InformationalResponse(status_code=100, headers=[], reason="Continue"))
        body, length, ended = await client.body(limit, keep=True)
        return replace(request, body=body if ended else None, length=length)

    async def _respond(self, client: _Client, request: Request) -> None:
        if self._wants_body is None and request.method not in {"GET", "HEAD"}:
            response = Response(405, b"only GET and HEAD are served\n", headers=[("Allow", "GET, HEAD")])
        else:
            response = await self._handle(request)
        headers = [*response.headers, *self._headers()]
        # What is left of its body would be too much to drop, or may never come.
        unread = (request.length or 0) > self._bounds.body_bytes
        if self._stopping or unread or client.parser.they_are_waiting_for_100_continue:
            headers.append(("Connection", "close"))
        await self._send(client, replace(response, headers=headers), head=request.method == "HEAD")

    async def _send(self, client: _Client, response: Response, *, head: bool) -> None:
        with self._waiting():  # clients that take no answers must not keep others out
            await _answer(client, response, head=head)

    async def _handle(self, request: Request) -> Response:
        try:
            allowed = self._access.quick(request)
            if allowed is None:
                allowed = await self._verifier.run(partial(self._access.verify, request))
            if not allowed:
                return UNAUTHORIZED
            call = partial(self._handler, request)
            if request.body is None:
                # Whoever asks for pages without end must not keep out those who bring something.
                return await self.pages.run(call, self._waiting)
            return await self.bodies.run(call)
        except Exception:
            log.exception("a request failed unexpectedly", path=request.path)
            return Response(500, b"an unexpected error; the log has it\n")


def _tls_reason(error: ssl.SSLError) -> str:
    """In OpenSSL's words; of a certificate, what is wrong with it."""
    said = (error.reason or "the handshake failed").lower().replace("_", " ")
    why = getattr(error, "verify_message", "")
    return f"{said}: {why}" if why else said


def _what_is_wrong(error: h11.RemoteProtocolError) -> str:
    """Without the line at fault, which may be the one with the password."""
    return re.split(r":? (?:bytearray\(|b['\"])", str(error), maxsplit=1)[0]


def _check_framing(event: h11.Request) -> None:
    """Refuse a body with two ends: a proxy may take what is between them for the next request."""
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in event.headers}:
        raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")


def _request(event: h11.Request, client: _Client) -> Request:
    target = event.target.decode("latin-1")
    headers: dict[str, str] = {}
    for raw_name, raw_value in event.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    path, _, raw_query = target.partition("?")
    if not path.startswith("/"):  # a proxy's way to ask: http://host/path
        path = "/" + path.partition("://")[2].partition("/")[2]
    try:
        query = parse_qs(raw_query, keep_blank_values=True, max_num_fields=100)
    except ValueError:
        query = {"": ["too many fields"]}
    tls = client.writer.get_extra_info("ssl_object") is not None
    return Request(
        event.method.decode("ascii"),
        path,
        query,
        headers,
        time.monotonic(),
        client.writer.get_extra_info("peercert"),
        target=target,
        remote=client.remote,
        scheme="https" if tls else "http",
        length=int(headers["content-length"]) if "content-length" in headers else None,
    )


async def _answer(client: _Client, response: Response, *, head: bool) -> None:
    if client.parser.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
        return
    headers = list(response.headers)
    if response.content_type:
        headers.insert(0, ("Content-Type", response.content_type))
    if all(name.lower() != "content-length" for name, _ in headers) and response.status >= HTTPStatus.OK:
        headers.append(("Content-Length", str(len(response.body))))
    events: list[h11.Event] = [
        h11.Response(status_code=response.status, reason=HTTPStatus(response.status).phrase, headers=headers)
    ]
    if not head:
        events.append(h11.Data(data=response.body))
    await client.send(*events, h11.EndOfMessage())
