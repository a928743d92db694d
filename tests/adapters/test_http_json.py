"""Servers that misbehave: each ends in time, in one sentence that names the server and what happened."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from pydantic import TypeAdapter
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from actuator.adapters import http_json
from actuator.adapters.http_json import Credentials, HttpJson
from actuator.ports import Unanswered
from exporter.web import Response as WebAnswer
from exporter.web_config import WebConfigFile
from tests.exporter.certificates import Authority
from tests.exporter.serving import serving

NUMBERS = TypeAdapter(list[int])
PATIENCE = 0.2
NOISE = 5.0
"""What a busy machine may add to a deadline; the servers here would hold a call for ever."""

Talk = Callable[[socket.socket], None]


@contextlib.contextmanager
def raw_server(talk: Talk) -> Iterator[str]:
    """Accept connections and let `talk` answer each, until it or the client hangs up."""
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            talk(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connections.append(listener.accept()[0])
                threads.append(threading.Thread(target=serve, args=[connections[-1]]))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join(5)
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(5)


def drip(prefix: bytes, drop: bytes) -> Talk:
    """Say `prefix` at once, then `drop` again and again, slowly enough to be within any time-out of one read."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(prefix)
        while True:
            connection.sendall(drop)
            threading.Event().wait(0.05)

    return talk


def silence(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "talk",
    [
        pytest.param(silence, id="silence"),
        pytest.param(drip(OK, b"X"), id="a header line that drips"),
        pytest.param(drip(OK + b"Content-Length: 1000\r\n\r\n", b" "), id="a body that drips"),
        pytest.param(drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"), id="chunks that drip"),
        pytest.param(drip(OK + b"\r\n", b" "), id="a body without end that drips"),
        pytest.param(drip(b"HTTP/1.1 503 Not now\r\n\r\n", b" "), id="an error that drips"),
    ],
)
def test_the_deadline_holds_for_the_whole_exchange(talk: Talk) -> None:
    with raw_server(talk) as url:
        server = HttpJson("Server", url)
        for call in (
            lambda: server.get("/", {}, NUMBERS, timeout_seconds=PATIENCE),
            lambda: server.post("/", b"[]", timeout_seconds=PATIENCE),
        ):
            begun = time.monotonic()
            with pytest.raises(Unanswered, match=f"^Server at {url}: "):
                call()
            assert PATIENCE - 0.05 < time.monotonic() - begun < PATIENCE + NOISE


def test_no_thread_stays_with_a_body_that_drips() -> None:
    with raw_server(drip(OK + b"Content-Length: 1000\r\n\r\n", b" ")) as url:
        server = HttpJson("Server", url)
        for _ in range(http_json.THREADS + 1):
            with pytest.raises(Unanswered, match=r"no answer within|did not end in time"):
                server.get("/", {}, NUMBERS, timeout_seconds=0.1)


@pytest.mark.parametrize("head", [b"Content-Length: 99999999999\r\n\r\n", b"\r\n"])
def test_a_huge_answer_is_not_read_to_its_end(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_json, "MAX_BODY_BYTES", 1_000_000)
    sent = 0

    def flood(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(OK + head)
        while True:
            connection.sendall(b" " * 65536)
            sent += 65536

    with raw_server(flood) as url, pytest.raises(Unanswered, match="larger than 1000000 bytes"):
        HttpJson("Server", url).get("/", {}, NUMBERS, timeout_seconds=5)
    assert sent < 20_000_000  # what fits into sockets' buffers


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(Unanswered, match=f"^Server at {url}: Connection refused$"):
        HttpJson("Server", url).get("/", {}, NUMBERS, timeout_seconds=2)


def test_a_name_that_is_not_known() -> None:
    with pytest.raises(Unanswered, match=r"^Server at http://name\.invalid: \S"):
        HttpJson("Server", "http://name.invalid").get("/", {}, NUMBERS, timeout_seconds=2)


def test_a_name_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: over.wait(60))
    begun = time.monotonic()
    with pytest.raises(Unanswered, match=r"no answer within 0\.2 s"):
        HttpJson("Server", "http://name.invalid").get("/", {}, NUMBERS, timeout_seconds=PATIENCE)
    assert time.monotonic() - begun < PATIENCE + NOISE
    over.set()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"nonsense\r\n\r\n", "nonsense"),
        (OK + b"Content-Length: 100\r\n\r\n[1", "IncompleteRead"),
        (b"", "Remote end closed connection"),
    ],
)
def test_what_is_no_http(answer: bytes, said: str) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(answer)

    with raw_server(talk) as url, pytest.raises(Unanswered, match=f"^Server at {url}: .*{said}"):
        HttpJson("Server", url).get("/", {}, NUMBERS, timeout_seconds=2)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "Invalid JSON"),
        (b"<html>", "Invalid JSON"),
        (b"\xff\xfe[1]", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON: recursion limit"),
        (b"[1", "Invalid JSON: EOF"),
        (b"{}", "should be a valid array"),
        (b"null", "should be a valid array"),
        (b'[1, "two"]', "1: Input should be a valid integer"),
    ],
)
def test_an_answer_that_is_not_understood(httpserver: HTTPServer, body: bytes, said: str) -> None:
    httpserver.expect_request("/").respond_with_data(body, content_type="application/json")
    with pytest.raises(Unanswered, match="the answer is not understood: .*" + said) as raised:
        HttpJson("Server", httpserver.url_for("")).get("/", {}, NUMBERS, timeout_seconds=2)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "body", "content_type", "said"),
    [
        (
            400,
            '"bad start\n\x1b[31mtime"',
            "application/json",
            r"answered 400 BAD REQUEST: \"bad start \[31mtime\"$",
        ),
        (401, "", "text/plain", r"answered 401 UNAUTHORIZED$"),
        (404, "x" * 1_000_000, "text/plain", r"answered 404 NOT FOUND: x{200}$"),
        (502, "<html><h1>nginx</h1>", "text/html; charset=utf-8", r"answered 502 BAD GATEWAY$"),
        (204, "", "application/json", r"answered 204 NO CONTENT$"),
        (302, "", "text/html", r"answered 302 FOUND: it redirects"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(
    httpserver: HTTPServer, status: int, body: str, content_type: str, said: str
) -> None:
    elsewhere = {"Location": httpserver.url_for("/elsewhere")} if status == 302 else {}
    httpserver.expect_request("/elsewhere").respond_with_data("[]")
    httpserver.expect_request("/").respond_with_data(body, status, elsewhere, content_type=content_type)
    server = HttpJson("Server", httpserver.url_for(""))
    with pytest.raises(Unanswered, match=said):
        server.get("/", {}, NUMBERS, timeout_seconds=2)
    with pytest.raises(Unanswered, match=said):
        server.post("/", b"[]", timeout_seconds=2)
    assert not [request for request, _ in httpserver.log if request.path == "/elsewhere"]


def test_reads_are_tried_again_and_what_changes_something_is_not(httpserver: HTTPServer) -> None:
    statuses = iter([503, 500, 200, 503])
    httpserver.expect_request("/").respond_with_handler(
        lambda _: Response("[1]", next(statuses), content_type="application/json")
    )
    server = HttpJson("Server", httpserver.url_for(""))
    assert server.get("/", {}, NUMBERS, timeout_seconds=5) == [1]
    assert len(httpserver.log) == 3
    with pytest.raises(Unanswered, match="503"):
        server.post("/", b"[]", timeout_seconds=5)
    assert len(httpserver.log) == 4


def test_a_read_is_not_tried_for_ever(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/").respond_with_data("", 503)
    with pytest.raises(Unanswered, match="503"):
        HttpJson("Server", httpserver.url_for("")).get("/", {}, NUMBERS, timeout_seconds=5)
    assert len(httpserver.log) == http_json.READ_ATTEMPTS


def test_a_refusal_is_final(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/").respond_with_data("", 404)
    with pytest.raises(Unanswered, match="404"):
        HttpJson("Server", httpserver.url_for("")).get("/", {}, NUMBERS, timeout_seconds=5)
    assert len(httpserver.log) == 1


def test_credentials_are_sent_and_said_to_nobody(
    httpserver: HTTPServer, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    httpserver.expect_request("/").respond_with_data("no", 503)
    url = httpserver.url_for("").replace("http://", "http://me:secret@")
    with pytest.raises(Unanswered) as raised:
        HttpJson("Server", url).get("/", {}, NUMBERS, timeout_seconds=2)
    assert httpserver.log[0][0].authorization.password == "secret"
    assert str(raised.value).startswith(f"Server at {httpserver.url_for('').rstrip('/')}: ")
    printed = capfd.readouterr()
    assert "secret" not in f"{raised.value} {printed.out} {printed.err} {caplog.text}"


def test_what_is_shown_is_read_from_files_each_time(httpserver: HTTPServer, tmp_path) -> None:
    httpserver.expect_request("/").respond_with_data("[1]", content_type="application/json")
    secret = tmp_path / "secret"
    by_token = HttpJson("Server", httpserver.url_for(""), Credentials(token_file=secret))
    by_password = HttpJson("Server", httpserver.url_for(""), Credentials(user="me", password_file=secret))
    for word in ("s3cret", "r0tated"):
        secret.write_text(f"{word}\n")
        assert by_token.get("/", {}, NUMBERS, timeout_seconds=5) == [1]
        assert httpserver.log[-1][0].headers["Authorization"] == f"Bearer {word}"
        by_password.post("/", b"[]", timeout_seconds=5)
        assert httpserver.log[-1][0].authorization.username == "me"
        assert httpserver.log[-1][0].authorization.password == word
    secret.write_text("")
    for server in (by_token, by_password):
        with pytest.raises(Unanswered, match="secret: must hold the secret alone"):
            server.get("/", {}, NUMBERS, timeout_seconds=5)
    assert len(httpserver.log) == 4


def test_by_https_both_are_verified(tmp_path) -> None:
    ca = Authority(tmp_path)
    ca.issue("server", dns="localhost")
    certificate, key = ca.issue("actuator", dns="actuator.example")
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", "stranger")
    (tmp_path / "web.yml").write_text(
        "tls_server_config: {cert_file: server.pem, key_file: server.key, client_ca_file: ca.pem,"
        " client_auth_type: RequireAndVerifyClientCert}"
    )
    config = WebConfigFile(tmp_path / "web.yml")
    shown = Credentials(verified_by=str(ca.file), certificate=(str(certificate), str(key)))
    with serving(lambda _: WebAnswer(200, b"[1]"), tls=lambda: config.current().tls) as port:

        def ask(credentials: Credentials, host: str = "localhost") -> object:
            server = HttpJson("Server", f"https://{host}:{port}", credentials)
            return server.get("/", {}, NUMBERS, timeout_seconds=5)

        assert ask(shown) == [1]
        for credentials, said in (
            (replace(shown, certificate=None), "certificate required|reset|EOF|closed"),
            (replace(shown, verified_by=str(stranger.file)), "certificate verify failed"),
            (replace(shown, verified_by=True), "certificate verify failed"),
            (replace(shown, verified_by=str(tmp_path / "nowhere.pem")), "nowhere.pem"),
            (replace(shown, certificate=(str(certificate), str(tmp_path / "nowhere.key"))), "nowhere.key"),
        ):
            with pytest.raises(Unanswered, match=said):
                ask(credentials)
        with pytest.raises(Unanswered, match="mismatch"):
            ask(shown, "127.0.0.1")


def test_the_environments_proxy_and_passwords_are_not_used(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    (tmp_path / "netrc").write_text("machine localhost login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    def echo(request: Request) -> Response:
        return Response("[1]" if request.authorization is None else "[2]", content_type="application/json")

    httpserver.expect_request("/").respond_with_handler(echo)
    assert HttpJson("Server", httpserver.url_for("")).get("/", {}, NUMBERS, timeout_seconds=2) == [1]


def test_many_threads_share_one_server(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/").respond_with_data("[1]", content_type="application/json")
    server = HttpJson("Server", httpserver.url_for(""))
    results = []
    callers = [
        threading.Thread(target=lambda: results.append(server.get("/", {}, NUMBERS, timeout_seconds=10)))
        for _ in range(4 * http_json.THREADS)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    assert results == [[1]] * len(callers)
