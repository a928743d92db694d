"""The actuator's side of vmheal's HTTP server: its bounds, its metrics, and a WSGI application behind it.

Requests with a body, which wait for a disk, have threads of their own: pages are answered meanwhile.
"""

import asyncio
import contextlib
import functools
import io
import math
import sys
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes
from wsgiref.types import WSGIApplication

import structlog
from cryptography import x509
from prometheus_client import CollectorRegistry, Counter, Gauge

from exporter.web import Bounds, Request, Response, Server, listen
from exporter.web_config import Guard, WebConfigFile

log = structlog.get_logger()

MAX_CONNECTIONS = 256
BODY_THREADS = 64
PAGE_THREADS = 4
GRACE_SECONDS = 5.0  # for requests in hand when the server stops

CERTIFICATE = "vmheal.peer_certificate"
"""Where the application's environment has the client's certificate, as ``ssl`` tells it."""


class WebServer:
    """Serves a WSGI application in a thread of its own, from ``start`` to ``stop``.

    Args:
        application: what answers.
        address: HOST:PORT, or :PORT for every address; port 0 takes a free one.
        wants_body: asked with each request's head; without its consent no body is kept.
        refused: told of each request that was not even HTTP: status, reason, remote address.
        max_body_bytes: of a wanted body.
        request_timeout_seconds: from a request's first byte to its last.
        registry: gets the server's metrics.
        config: TLS, and what else of ``--web.config.file`` is for the actuator.

    Raises:
        AddressError: the address cannot be listened on.
    """

    def __init__(
        self,
        application: WSGIApplication,
        address: str,
        *,
        wants_body: Callable[[Request], bool],
        refused: Callable[[int, str, str], None],
        max_body_bytes: int,
        request_timeout_seconds: float,
        registry: CollectorRegistry,
        config: WebConfigFile,
    ) -> None:
        closed = Counter(
            "vmheal_http_connections_closed",
            "Connections closed by the actuator: slow, a request was not complete in time; room, the"
            " longest silent one made room for a new one; full, a new one came when all were being answered.",
            ["reason"],
            registry=registry,
        )
        sockets = listen([address])
        self.port: int = sockets[0].getsockname()[1]
        """The port that is listened on."""
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._server = Server(
            sockets,
            functools.partial(answer, application),
            Guard(config.current),
            tls=lambda: config.current().tls,
            headers=lambda: config.current().headers,
            bounds=Bounds(
                connections=MAX_CONNECTIONS,
                body_bytes=max_body_bytes,
                request_seconds=request_timeout_seconds,
                threads=PAGE_THREADS,
                body_threads=BODY_THREADS,
            ),
            wants_body=wants_body,
            refused=refused,
            closed=lambda reason: closed.labels(reason).inc(),
        )
        Gauge("vmheal_http_connections", "Open HTTP connections.", registry=registry).set_function(
            lambda: self._server.connections
        )
        queued = Gauge(
            "vmheal_http_requests_queued",
            "Requests that have arrived and wait for a thread: bodies, deliveries of alerts; pages, others.",
            ["pool"],
            registry=registry,
        )
        queued.labels("bodies").set_function(lambda: self._server.bodies.waiting)
        queued.labels("pages").set_function(lambda: self._server.pages.waiting)
        Gauge(
            "vmheal_tls_certificate_expiry_timestamp_seconds",
            "When the actuator's certificate, or one that is sent along with it, expires, whichever is first;"
            " Unix time; +Inf without TLS.",
            registry=registry,
        ).set_function(lambda: expires_at(config.latest.certificate))
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Begin to answer. Connections have been accepted since the server was made."""
        self._thread.start()

    def stop(self) -> None:
        """Accept nothing more, answer what is in hand within ``GRACE_SECONDS``, and close."""
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._stopping.set)
        if self._thread.is_alive():
            self._thread.join(2 * GRACE_SECONDS)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._server.run(self._stopping, GRACE_SECONDS))
        except Exception:
            log.exception("the HTTP server has died")
            raise


def expires_at(certificates: bytes) -> float:
    """When the first of these expires, Unix time; infinite for none.

    Args:
        certificates: PEM.
    """
    if not certificates:
        return math.inf
    found = x509.load_pem_x509_certificates(certificates)
    return min(it.not_valid_after_utc.timestamp() for it in found)


def answer(application: WSGIApplication, request: Request) -> Response:
    """Have a WSGI application answer a request."""
    begun: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> Callable[[bytes], None]:
        begun[:] = [(status, headers)]
        return _write

    parts = application(_environment(request), start_response)
    try:
        body = b"".join(parts)
    finally:
        if close := getattr(parts, "close", None):
            close()
    ((status, headers),) = begun
    types = [value for name, value in headers if name.lower() == "content-type"]
    others = [(name, value) for name, value in headers if name.lower() != "content-type"]
    return Response(int(status.split(" ", 1)[0]), body, "".join(types[:1]), others)


def _write(_: bytes) -> None:
    raise NotImplementedError("WSGI's write() is for the applications of 2003")


def _environment(request: Request) -> dict[str, Any]:
    path, _, query = request.target.partition("?")
    host, _, port = request.headers.get("host", "").rpartition(":")
    environment: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(request.path).decode("latin-1"),
        "QUERY_STRING": query,
        "REQUEST_URI": path,
        "REMOTE_ADDR": request.remote,
        "SERVER_NAME": host or "vmheal-actuator",
        "SERVER_PORT": port or "0",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.scheme,
        "wsgi.input": io.BytesIO(request.body or b""),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        CERTIFICATE: request.peer_certificate,
    }
    for name, value in request.headers.items():
        # With an underscore it would be taken for another one; and the body has been put together.
        if "_" in name or name == "transfer-encoding":
            continue
        key = name.upper().replace("-", "_")
        environment[key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}"] = value
    if request.length is not None:
        environment["CONTENT_LENGTH"] = str(request.length)
    return environment
