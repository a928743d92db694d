"""The exporter's server, run in a thread of the test's own process on a port of its own."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from exporter.web import Handler, Request, Response, Server, listen

WAIT_SECONDS = 10.0
LOOPBACK = "127.0.0.1"


class Everybody:
    """Access for all."""

    def quick(self, request: Request) -> bool | None:
        return True

    def verify(self, request: Request) -> bool:
        raise AssertionError("nobody is asked twice")


def hello(request: Request) -> Response:
    return Response(200, f"hello {request.path}\n".encode())


@contextlib.contextmanager
def serving(handler: Handler = hello, access: Any = None, **options: Any) -> Iterator[int]:
    """Serve on loopback and give the port."""
    sockets = listen([f"{LOOPBACK}:0"])
    port: int = sockets[0].getsockname()[1]
    started = threading.Event()
    handles: list[Callable[[], object]] = []

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        handles.append(lambda: loop.call_soon_threadsafe(stop.set))
        started.set()
        await Server(sockets, handler, access or Everybody(), **options).run(stop, grace_seconds=0.5)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert started.wait(WAIT_SECONDS)
    try:
        yield port
    finally:
        handles[0]()
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive(), "the server does not stop"


def talk(port: int, sent: bytes, until_closed: bool = True) -> bytes:
    """Send bytes and return all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as client:
        client.sendall(sent)
        received = b""
        while chunk := client.recv(65536):
            received += chunk
            if not until_closed:
                break
        return received
