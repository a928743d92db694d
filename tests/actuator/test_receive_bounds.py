"""What a client can take of the receiver: bytes, time, connections and threads, all bounded."""

import contextlib
import socket
import threading
from dataclasses import dataclass, field

import pytest
import requests

from actuator import web
from exporter.web import ACCEPT_AT_ONCE
from tests.actuator.deliveries import HEADERS, TOKEN, MemoryJournal, alert, answer, body, request, served
from tests.lab.waiting import wait_until

LONG = 60.0  # seconds: longer than anything here takes, so that a hang is a failure


@pytest.fixture
def journal():
    return MemoryJournal()


def head(*lines: str, token: str = TOKEN) -> bytes:
    given = [
        "POST /alerts HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {token}",
        "Content-Type: application/json",
    ]
    return "\r\n".join([*given, *lines, "", ""]).encode()


def closed_by_peer(connection: socket.socket) -> bool:
    """The other side closes within the connection's timeout."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


# ---- bytes -----------------------------------------------------------------------------------------------


def test_ten_megabytes_are_refused_by_their_length_alone(journal):
    with served(journal) as receiver, receiver.connect() as connection:
        connection.sendall(head(f"Content-Length: {10 * 1024 * 1024}"))
        assert answer(connection)[0] == 413
        assert closed_by_peer(connection)
        assert receiver.value("vmheal_webhook_requests_total", code="413") == 1
        reply = requests.post(f"{receiver.url}/alerts", b"[" * 10 * 1024 * 1024, headers=HEADERS)
        assert reply.status_code == 413
    assert journal.calls == []


def test_ten_megabytes_without_a_length_are_refused_on_the_way(journal):
    with served(journal, max_body_bytes=500_000) as receiver, receiver.connect() as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        for _ in range(7):  # 458,752 bytes
            connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(LONG)
        connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        assert answer(connection)[0] == 413
        assert closed_by_peer(connection)
        reply = requests.post(f"{receiver.url}/alerts", iter([b"x" * 100_000] * 100), headers=HEADERS)
        assert reply.status_code == 413
        assert receiver.value("vmheal_webhook_requests_total", code="413") == 2
    assert journal.calls == []


def test_a_chunked_delivery_is_a_delivery(journal):
    content = body(alert(1))
    with served(journal) as receiver:
        reply = requests.post(f"{receiver.url}/alerts", iter([content[:100], content[100:]]), headers=HEADERS)
    assert (reply.status_code, len(journal.calls)) == (200, 1)


@pytest.mark.parametrize("lines", [["Content-Length: 5000000"], ["Transfer-Encoding: chunked"]])
def test_without_the_token_no_body_is_waited_for(journal, lines):
    with served(journal) as receiver, receiver.connect() as connection:
        connection.sendall(head(*lines, token="guess"))
        assert answer(connection)[0] == 401


def test_a_body_that_nobody_wants_is_dropped_and_the_connection_goes_on(journal):
    """A client that still sends must be able to read why it is refused: no reset, no leftover as a request."""
    hidden = request(body(alert(66))) * 100
    with served(journal) as receiver, receiver.connect() as connection:
        for cut in (0, 10, len(hidden) // 2, len(hidden)):
            connection.sendall(head(f"Content-Length: {len(hidden)}", token="guess") + hidden[:cut])
            assert answer(connection)[0] == 401
            connection.sendall(hidden[cut:] + request(body(alert(cut))))
            assert answer(connection)[0] == 200
    assert [int(it.fingerprint, 16) for (it,) in journal.calls] == [0, 10, len(hidden) // 2, len(hidden)]


def test_a_client_that_asks_first_is_told_to_go_on_only_with_the_token(journal):
    content = body(alert(1))
    asking = (f"Content-Length: {len(content)}", "Expect: 100-continue")
    with served(journal) as receiver:
        with receiver.connect() as connection:
            connection.sendall(head(*asking, token="guess"))
            assert answer(connection)[0] == 401
        with receiver.connect() as connection:
            connection.sendall(head(*asking))
            assert answer(connection)[0] == 100
            connection.sendall(content)
            assert answer(connection)[0] == 200


# ---- time ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "begin",
    [
        b"P",
        head("Content-Length: 1000"),
        head("Transfer-Encoding: chunked") + b"500000\r\n",
        head("Content-Length: 100000", token="no"),
    ],
    ids=["head", "body", "chunk", "unwanted body"],
)
def test_a_request_that_does_not_come_to_its_end_is_closed(journal, begin):
    """Even though a byte comes all the time."""
    with served(journal, request_timeout_seconds=0.3) as receiver, receiver.connect() as connection:
        connection.sendall(begin)

        def closed():
            with contextlib.suppress(ConnectionError):
                connection.sendall(b" ")
            return receiver.value("vmheal_http_connections_closed_total", reason="slow") == 1

        wait_until(closed, "the close", LONG, 0.01)
        assert closed_by_peer(connection)
    assert journal.calls == []


def test_a_connection_may_rest_between_requests_for_longer_than_a_request_may_take(journal):
    with served(journal, request_timeout_seconds=0.1) as receiver, receiver.connect() as connection:
        connection.sendall(request(body(alert(1))))
        assert answer(connection)[0] == 200
        with receiver.connect() as slow:
            slow.sendall(b"P")
            assert closed_by_peer(slow)  # so maintenance has come by
        connection.sendall(request(body(alert(2))))
        assert answer(connection)[0] == 200


def test_slow_clients_hold_no_thread(journal):
    with served(journal, request_timeout_seconds=LONG) as receiver, contextlib.ExitStack() as opened:
        content = request(body(alert(1)))
        slow = [
            opened.enter_context(receiver.connect()) for _ in range(2 * (web.BODY_THREADS + web.PAGE_THREADS))
        ]
        for connection in slow:
            connection.sendall(content[:-1])
        wait_until(
            lambda: receiver.value("vmheal_http_connections") == len(slow), "the connections", LONG, 0.01
        )
        assert requests.post(f"{receiver.url}/alerts", body(alert(2)), headers=HEADERS).status_code == 200
        for connection in slow:
            connection.sendall(content[-1:])
        assert [answer(connection)[0] for connection in slow] == [200] * len(slow)


# ---- connections -----------------------------------------------------------------------------------------


def test_a_new_connection_takes_the_place_of_the_longest_silent(journal, monkeypatch):
    monkeypatch.setattr(web, "MAX_CONNECTIONS", 8)
    with served(journal) as receiver, contextlib.ExitStack() as opened:
        silent = []
        for count in range(1, 9):
            silent.append(opened.enter_context(receiver.connect()))
            wait_until(
                lambda count=count: receiver.value("vmheal_http_connections") == count, "it", LONG, 0.01
            )
        silent[0].sendall(request(body(alert(1))))
        assert answer(silent[0])[0] == 200  # so the second one is the longest silent now
        assert requests.post(f"{receiver.url}/alerts", body(alert(2)), headers=HEADERS).status_code == 200
        assert closed_by_peer(silent[1])
        assert receiver.value("vmheal_http_connections_closed_total", reason="room") == 1
        silent[0].sendall(request(body(alert(3))))
        assert answer(silent[0])[0] == 200


def test_hundreds_of_silent_connections_lock_nobody_out(journal):
    with served(journal) as receiver, contextlib.ExitStack() as opened:
        for number in range(400):
            opened.enter_context(receiver.connect()).sendall(b"POST /alerts HTTP/1.1\r\n")
            if number % 100 == 0:
                assert (
                    requests.post(f"{receiver.url}/alerts", body(alert(2)), headers=HEADERS).status_code
                    == 200
                )
        # Two more: those that make room are on their way out.
        # Those that make room count until they are gone.
        assert receiver.value("vmheal_http_connections") <= web.MAX_CONNECTIONS + ACCEPT_AT_ONCE
        assert requests.post(f"{receiver.url}/alerts", body(alert(2)), headers=HEADERS).status_code == 200


# ---- threads ---------------------------------------------------------------------------------------------


@dataclass
class HangingJournal(MemoryJournal):
    """Writes when it is let go."""

    go: threading.Event = field(default_factory=threading.Event)
    inside: list[int] = field(default_factory=list)

    def receive(self, notifications, *, at):
        self.inside.append(1)
        assert self.go.wait(LONG)
        super().receive(notifications, at=at)


def test_pages_are_answered_while_deliveries_wait_for_the_disk():
    journal = HangingJournal()
    with served(journal) as receiver, contextlib.ExitStack() as opened:
        waiting = [opened.enter_context(receiver.connect()) for _ in range(2 * web.BODY_THREADS)]
        for number, connection in enumerate(waiting):
            connection.sendall(request(body(alert(number))))
        wait_until(lambda: len(journal.inside) == web.BODY_THREADS, "every thread", LONG, 0.01)
        wait_until(
            lambda: receiver.value("vmheal_http_requests_queued", pool="bodies") == web.BODY_THREADS,
            "the others in the queue",
            LONG,
            0.01,
        )
        assert requests.get(f"{receiver.url}/metrics", timeout=LONG).status_code == 200
        refused = requests.post(
            f"{receiver.url}/alerts", b"{}", headers=HEADERS | {"Authorization": "x"}, timeout=LONG
        )
        assert refused.status_code == 401
        journal.go.set()
        assert [answer(connection)[0] for connection in waiting] == [200] * len(waiting)


def test_stopping_answers_what_is_in_hand_and_closes_the_rest(monkeypatch):
    monkeypatch.setattr(web, "BODY_THREADS", 2)
    monkeypatch.setattr(web, "GRACE_SECONDS", LONG)
    journal = HangingJournal()

    def refused():
        try:
            receiver.connect().close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:  # it closed with us in its backlog: the next one tells
            return False
        return False

    def let_go():
        wait_until(refused, "the listening socket to close while deliveries are in hand", LONG, 0.01)
        journal.go.set()

    with contextlib.ExitStack() as opened:
        with served(journal) as receiver:
            silent, half, *busy = (opened.enter_context(receiver.connect()) for _ in range(7))
            half.sendall(request(body(alert(1)))[:-1])
            for number, connection in enumerate(busy):
                connection.sendall(request(body(alert(10 + number))))
            wait_until(
                lambda: receiver.value("vmheal_http_requests_queued", pool="bodies") == 3,
                "a queue",
                LONG,
                0.01,
            )
            observer = threading.Thread(target=let_go)
            observer.start()
        observer.join(LONG)
        assert [answer(connection)[0] for connection in busy] == [200] * len(busy)
        assert all(closed_by_peer(connection) for connection in (*busy, silent, half))
    assert sorted(int(it.fingerprint, 16) for (it,) in journal.calls) == [10, 11, 12, 13, 14]
    assert not [thread for thread in threading.enumerate() if thread.name == "http"]
