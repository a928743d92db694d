import contextlib
import socket
import threading
import time

import pytest

from exporter.web import AddressError, Bounds, Request, Response, listen
from tests.exporter.serving import Everybody, hello, serving, talk

CLOSE = b"Connection: close\r\n\r\n"


def get(path: str, extra: bytes = b"") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n".encode() + extra + CLOSE


def test_a_request_is_answered_with_length_and_type():
    with serving() as port:
        answer = talk(port, get("/metrics"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 15" in head
    assert body == b"hello /metrics\n"


def test_head_has_the_head_and_no_body():
    with serving() as port:
        answer = talk(port, b"HEAD / HTTP/1.1\r\nHost: x\r\n" + CLOSE)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"Content-Length: 8\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_one_connection_serves_many_requests():
    request = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        for number in range(3):
            client.sendall(request % number)
            assert f"hello /{number}".encode() in client.recv(65536)
        client.sendall(request % 7 + request % 8)  # two at once
        received = b""
        while b"hello /8" not in received:
            received += client.recv(65536)
        assert received.index(b"hello /7") < received.index(b"hello /8")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n" + CLOSE + b"abc", b"405"),
        (b"DELETE / HTTP/1.1\r\nHost: x\r\n" + CLOSE, b"405"),
        (b"GET / HTTP/1.1\r\n" + CLOSE, b"400"),  # no Host
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 50000 + b"\r\n" + CLOSE, b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n" + b"a" * 100000, b"405"),
    ],
)
def test_what_is_not_served_gets_its_status(sent, status):
    with serving() as port:
        answer = talk(port, sent)
    assert answer.split(b" ")[1] == status


def test_query_and_headers_reach_the_handler():
    seen: list[Request] = []

    def handler(request: Request) -> Response:
        seen.append(request)
        return Response(200, b"")

    with serving(handler) as port:
        talk(port, get("/metrics?collect[]=drbd&collect%5B%5D=libvirt&x=", b"A: 1\r\na: 2\r\n"))
    assert seen[0].query == {"collect[]": ["drbd", "libvirt"], "x": [""]}
    assert seen[0].headers["a"] == "1, 2"


def test_a_handlers_bug_is_a_500_and_the_server_goes_on():
    def handler(request: Request) -> Response:
        if request.path == "/bad":
            raise RuntimeError("bug")
        return hello(request)

    with serving(handler) as port:
        assert b" 500 " in talk(port, get("/bad"))
        assert b" 200 " in talk(port, get("/good"))


def test_a_client_that_drips_its_request_is_dropped():
    with (
        serving(bounds=Bounds(request_seconds=0.3)) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\n")
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 5:
                client.settimeout(0.1)
                try:
                    if client.recv(1) == b"":
                        break
                except TimeoutError:
                    client.sendall(b"X")  # a byte now and then does not buy more time
        assert time.monotonic() - began < 3


def test_a_client_that_never_reads_does_not_hold_its_connection():
    closed = threading.Event()

    def handler(request: Request) -> Response:
        return Response(200, b"x" * 50_000_000 if request.path == "/big" else b"ok")

    with serving(handler, bounds=Bounds(write_seconds=0.3)) as port, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        client.connect(("127.0.0.1", port))
        client.sendall(get("/big"))
        closed.wait(1.0)
        received = 0
        with contextlib.suppress(ConnectionError):
            while chunk := client.recv(1 << 20):
                received += len(chunk)
        assert received < 50_000_000  # it was cut off
        assert b" 200 " in talk(port, get("/small"))


def test_idle_connections_make_room_for_a_new_one():
    with serving(bounds=Bounds(connections=5)) as port, contextlib.ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(20)
        ]
        assert b" 200 " in talk(port, get("/"))
        assert idle[0].recv(1) == b""  # the oldest had to go


def test_a_crowd_from_one_address_takes_its_own_places():
    with serving(bounds=Bounds(connections=5)) as port, contextlib.ExitStack() as stack:

        def connect(source: str) -> socket.socket:
            it = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))
            return stack.enter_context(it)

        kept = connect("127.0.0.2")
        crowd = [connect("127.0.0.1") for _ in range(20)]
        assert crowd[0].recv(1) == b""  # the oldest of them
        kept.sendall(get("/"))
        assert b" 200 " in kept.recv(65536)


def test_connections_that_take_no_answer_make_room_for_a_new_one():
    began = threading.Semaphore(0)

    def handler(request: Request) -> Response:
        began.release()
        return Response(200, b"x" * 50_000_000 if request.path == "/big" else b"ok")

    with serving(handler, bounds=Bounds(connections=5)) as port, contextlib.ExitStack() as stack:
        for _ in range(5):
            deaf = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            deaf.sendall(get("/big"))
            assert began.acquire(timeout=10)
        assert b" 200 " in talk(port, get("/small"))


def test_pages_that_wait_for_a_thread_make_room_for_who_brings_something():
    go_on, asked = threading.Event(), threading.Semaphore(0)

    class Counting(Everybody):
        def quick(self, request: Request) -> bool:
            asked.release()
            return True

    def handler(request: Request) -> Response:
        if request.body is None:
            go_on.wait(10)
        return Response(200, b"ok")

    def wants_body(request: Request) -> bool:
        return request.method == "POST"

    bounds = Bounds(connections=4, threads=1)
    with (
        serving(handler, Counting(), bounds=bounds, wants_body=wants_body) as port,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(go_on.set)
        for _ in range(4):
            asker = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            asker.sendall(get("/page"))
            assert asked.acquire(timeout=10)
        head = b"POST /hook HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
        assert b" 200 " in talk(port, head + b"{}")


def test_a_body_with_two_ends_is_refused_and_what_follows_is_not_read():
    """A proxy that believes the length would take the rest for another client's request."""
    asked = []

    def handler(request: Request) -> Response:
        asked.append(request.path)
        return Response(200, b"ok")

    body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with serving(handler) as port:
        answer = talk(port, body + get("/hidden"))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert asked == []


def test_when_all_are_being_answered_a_new_one_is_turned_away():
    go_on, inside, told = threading.Event(), threading.Semaphore(0), []

    def handler(request: Request) -> Response:
        inside.release()
        go_on.wait(10)
        return hello(request)

    with serving(handler, bounds=Bounds(connections=2), closed=told.append) as port:
        answers: list[bytes] = []
        busy = [threading.Thread(target=lambda: answers.append(talk(port, get("/")))) for _ in range(2)]
        for thread in busy:
            thread.start()
            assert inside.acquire(timeout=10)
        with contextlib.suppress(ConnectionError):
            assert talk(port, get("/")) == b""
        assert told == ["full"]
        go_on.set()
        for thread in busy:
            thread.join(10)
        assert b" 200 " in talk(port, get("/"))
    assert [b" 200 " in it for it in answers] == [True, True]


def test_requests_in_flight_are_answered_when_the_server_stops():
    began, go_on = threading.Event(), threading.Event()
    answer: list[bytes] = []

    def handler(request: Request) -> Response:
        began.set()
        go_on.wait(5)
        return Response(200, b"done")

    with serving(handler) as port:
        client = threading.Thread(target=lambda: answer.append(talk(port, get("/"))))
        client.start()
        assert began.wait(5)
        threading.Timer(0.1, go_on.set).start()
    client.join(5)
    assert answer[0].endswith(b"done")


def test_passwords_that_are_being_checked_do_not_hold_up_scrapes():
    hold = threading.Event()

    class Slow:
        def quick(self, request):
            return True if request.path == "/known" else None

        def verify(self, request):
            hold.wait(5)
            return False

    with serving(access=Slow()) as port:
        guesses = [threading.Thread(target=talk, args=(port, get("/guess"))) for _ in range(20)]
        for guess in guesses:
            guess.start()
        assert b" 200 " in talk(port, get("/known"))
        hold.set()
        assert b" 401 " in talk(port, get("/guess"))
        for guess in guesses:
            guess.join(5)


@pytest.mark.parametrize("address", ["", "10810", ":x", ":99999", "nowhere.invalid:1", "[::1", "300.1.1.1:1"])
def test_addresses_that_cannot_be_used_are_named(address):
    with pytest.raises(AddressError, match="cannot listen on"):
        listen([address])


def test_a_port_in_use_is_named_and_the_others_are_given_back():
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
        probe.close()
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=f"127.0.0.1:{port}: Address already in use"):
            listen([f"127.0.0.1:{free}", f"127.0.0.1:{port}"])
        socket.create_server(("127.0.0.1", free)).close()


def test_an_empty_host_serves_both_families():
    sockets = listen([":0"])
    try:
        port = sockets[0].getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
    finally:
        for listening in sockets:
            listening.close()
