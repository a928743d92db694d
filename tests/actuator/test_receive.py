"""What the actuator answers over HTTP: on real sockets, except where it says otherwise."""

import contextlib
import json
import subprocess
import threading
from dataclasses import dataclass, replace
from enum import StrEnum

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from actuator.config import WebhookSettings
from actuator.explain import BusyError
from actuator.orders import Pause, Refused, Taken
from actuator.ports import JournalError
from actuator.receive import MAX_LOG_LINES, MAX_ORDER_BYTES, Counters, Refusals, Server, create_app
from tests.actuator.deliveries import (
    HEADERS,
    TOKEN,
    TOKENS,
    MemoryJournal,
    alert,
    answer,
    body,
    parts,
    patient_journal,
    request,
    rights,
    served,
)


@pytest.fixture
def journal():
    return MemoryJournal()


@pytest.fixture
def receiver(journal):
    with served(journal, max_body_bytes=200_000, max_alerts=2000) as receiver:
        yield receiver


def fingerprints(journal):
    return [it.fingerprint for notifications in journal.calls for it in notifications]


# ---- deliveries ------------------------------------------------------------------------------------------


def test_a_delivery_is_in_the_journal_when_it_is_answered(journal, receiver):
    reply = requests.post(
        f"{receiver.url}/alerts", body(alert(1), alert(2, status="resolved")), headers=HEADERS
    )
    assert reply.status_code == 200
    ((first, second),) = journal.calls
    assert (first.domain, first.firing) == ("voms0001", True)
    assert (second.domain, second.firing) == ("voms0002", False)
    assert receiver.woken.acquire(blocking=False)
    assert receiver.value("vmheal_notifications_received_total", status="firing") == 1
    assert receiver.value("vmheal_notifications_received_total", status="resolved") == 1
    assert receiver.value("vmheal_webhook_requests_total", code="200") == 1
    assert receiver.value("vmheal_webhook_request_duration_seconds_count") == 1


def test_a_thousand_alerts_in_one_body_are_one_transaction(tmp_path):
    with contextlib.closing(patient_journal(tmp_path / "journal.db")) as journal, served(journal) as receiver:
        statements = []
        journal._connection.set_trace_callback(statements.append)
        reply = requests.post(f"{receiver.url}/alerts", body(*map(alert, range(1000))), headers=HEADERS)
        assert reply.status_code == 200
        assert statements.count("COMMIT") == 1
        assert [int(it.notification.fingerprint, 16) for it in journal.inbox(after=0, limit=2000)] == [
            *range(1000)
        ]


def test_alerts_that_ask_for_nothing_are_accepted_too(journal, receiver):
    watchdog = alert(1) | {"labels": {"alertname": "Watchdog"}}
    assert requests.post(f"{receiver.url}/alerts", body(watchdog), headers=HEADERS).status_code == 200
    assert requests.post(f"{receiver.url}/alerts", body(), headers=HEADERS).status_code == 200
    assert len(journal.calls) == 1


def test_alerts_that_alertmanager_left_out_are_counted_and_told(journal, receiver):
    with capture_logs() as lines:
        requests.post(f"{receiver.url}/alerts", body(alert(1), truncatedAlerts=5), headers=HEADERS)
    assert receiver.value("vmheal_webhook_truncated_alerts_total") == 5
    assert [line["left_out"] for line in lines] == [5]
    assert fingerprints(journal) == [f"{1:016x}"]


def test_200_at_once_are_all_answered_and_stored(tmp_path):
    with contextlib.closing(patient_journal(tmp_path / "journal.db")) as journal, served(journal) as receiver:
        codes, together = [], threading.Barrier(200)

        def deliver(number):
            with receiver.connect() as connection:
                together.wait(60)
                connection.sendall(request(body(alert(number))))
                codes.append(answer(connection)[0])

        threads = [threading.Thread(target=deliver, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert codes == [200] * 200
        stored = {int(it.notification.fingerprint, 16) for it in journal.inbox(after=0, limit=1000)}
        assert stored == set(range(200))


# ---- refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}, Bearer {TOKEN}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer \xff\xfe",
    ],
)
def test_without_the_token(journal, receiver, authorization):
    headers = {"Content-Type": "application/json"}
    if authorization is not None:
        headers["Authorization"] = authorization.encode("latin-1")
    reply = requests.post(f"{receiver.url}/alerts", body(alert(1)), headers=headers)
    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")
    assert receiver.value("vmheal_webhook_requests_total", code="401") == 1
    assert journal.calls == []


def test_the_scheme_is_written_in_any_case(receiver):
    headers = HEADERS | {
        "Authorization": f"bearer {TOKEN}",
        "Content-Type": "Application/JSON; charset=utf-8",
    }
    assert requests.post(f"{receiver.url}/alerts", body(alert(1)), headers=headers).status_code == 200


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
def test_another_content_type(journal, receiver, content_type):
    headers = HEADERS | {"Content-Type": content_type}
    reply = requests.post(f"{receiver.url}/alerts", body(alert(1)), headers=headers)
    assert (reply.status_code, journal.calls) == (415, [])


def test_malformed_and_too_many(journal, receiver):
    reply = requests.post(f"{receiver.url}/alerts", body(alert(1) | {"status": "odd"}), headers=HEADERS)
    assert (reply.status_code, reply.text[:16]) == (400, "alerts.0.status:")
    assert requests.post(f"{receiver.url}/alerts", b"[" * 100_000, headers=HEADERS).status_code == 400
    many = body(*[{**alert(1), "annotations": {}, "generatorURL": ""}] * 3000)
    with served(journal, max_alerts=2000) as roomy:
        reply = requests.post(f"{roomy.url}/alerts", many, headers=HEADERS)
    assert (reply.status_code, reply.text) == (413, "3000 alerts, at most 2000 are accepted\n")
    assert journal.calls == []


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/alerts", 405),
        ("HEAD", "/alerts", 405),
        ("PUT", "/alerts", 405),
        ("DELETE", "/alerts", 405),
        ("PROPFIND", "/alerts", 405),
        ("POST", "/metrics", 405),
        ("POST", "/alerts/", 404),
        ("POST", "/Alerts", 404),
        ("GET", "/", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%00", 404),
    ],
)
def test_another_method_or_path(journal, receiver, method, path, code):
    with receiver.connect() as connection:
        connection.sendall(request(body(alert(1))).replace(b"POST /alerts", f"{method} {path}".encode(), 1))
        assert answer_without_body(connection, method)[0] == code
        # The body was dropped: the same connection is good for the next one.
        connection.sendall(request(body(alert(1))))
        assert answer(connection)[0] == 200
    assert len(journal.calls) == 1


def answer_without_body(connection, method):
    """A HEAD's answer says a length and has no body."""
    if method != "HEAD":
        return answer(connection)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    return int(head.split(b" ")[1]), {}, b""


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"POST /alerts HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /alerts HTTP/1.1\r\nContent-Length: 1, 2\r\n\r\n", 400),
        (b"POST /alerts HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
    ],
    ids=["TLS", "no path", "negative length", "two lengths", "unknown encoding", "huge head"],
)
def test_what_is_not_http_is_refused_and_told(journal, receiver, sent, code):
    with capture_logs() as lines, receiver.connect() as connection:
        connection.sendall(sent)
        assert answer(connection)[0] == code
    assert [(line["status"], line["remote"]) for line in lines] == [(code, "127.0.0.1")]
    assert journal.calls == []


def test_what_is_not_http_is_told_without_the_token_in_it(receiver):
    with capture_logs() as lines, receiver.connect() as connection:
        connection.sendall(
            b"POST /alerts HTTP/1.1\r\nAuthorization Bearer " + TOKEN.encode() + b"\r\nX: 1\r\n\r\n"
        )
        status, _, said = answer(connection)
    assert status == 400
    assert TOKEN.encode() not in said
    assert [line["reason"] for line in lines] == ["illegal header line"]


def test_refusals_are_told_in_bounded_number_and_without_the_token(receiver):
    with capture_logs() as lines:
        for _ in range(MAX_LOG_LINES + 30):
            requests.post(
                f"{receiver.url}/alerts", b"", headers=HEADERS | {"Authorization": "Bearer guess-7"}
            )
        requests.post(f"{receiver.url}/alerts", b"{", headers=HEADERS)
    assert len(lines) == MAX_LOG_LINES
    assert {(line["status"], line["remote"]) for line in lines} == {(401, "127.0.0.1")}
    assert TOKEN not in repr(lines)
    assert "guess-7" not in repr(lines)
    assert receiver.value("vmheal_webhook_requests_total", code="401") == MAX_LOG_LINES + 30


# ---- our own faults --------------------------------------------------------------------------------------


@dataclass
class FailingJournal(MemoryJournal):
    error: Exception | None = None

    def receive(self, notifications, *, at):
        if self.error:
            raise self.error
        super().receive(notifications, at=at)


def test_a_journal_that_cannot_is_503_and_ready_says_so():
    journal = FailingJournal()
    with served(journal) as receiver:
        journal.error = JournalError("journal.db: database or disk is full")
        reply = requests.post(f"{receiver.url}/alerts", body(alert(1)), headers=HEADERS)
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
        assert "disk is full" in reply.text
        assert receiver.value("vmheal_notifications_received_total", status="firing") == 0
        assert not receiver.woken.acquire(blocking=False)
        assert requests.get(f"{receiver.url}/-/ready").status_code == 503
        assert requests.get(f"{receiver.url}/-/healthy").status_code == 200
        journal.error = None
        assert requests.post(f"{receiver.url}/alerts", body(alert(1)), headers=HEADERS).status_code == 200
        assert requests.get(f"{receiver.url}/-/ready").status_code == 200


def test_a_surprise_is_500_and_shows_nothing_of_the_inside():
    journal = FailingJournal(error=RuntimeError("inside-42"))
    with served(journal) as receiver, capture_logs() as lines:
        reply = requests.post(f"{receiver.url}/alerts", body(alert(1)), headers=HEADERS)
    assert reply.status_code == 500
    assert "inside-42" not in reply.text
    assert "Traceback" not in reply.text
    assert [line["log_level"] for line in lines] == ["error"]


# ---- orders ----------------------------------------------------------------------------------------------


OPERATOR = {"Authorization": "Bearer the-operators-token", "Content-Type": "application/json"}
PAUSE = json.dumps({"order": "pause", "what": "voms01", "by": "ann"}).encode()


@dataclass
class Commander:
    """Takes the orders that come, and answers as it is told."""

    answer: object = None
    orders: list = None

    def take(self, order):
        self.orders = [*(self.orders or []), order]
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or Taken("voms01 is paused")


@contextlib.contextmanager
def commanded(journal, commander, operator="the-operators-token", **more):
    given = replace(parts(journal), orders=commander, rights=rights(operator), **more)
    with Server("127.0.0.1:0", given) as server:
        yield f"http://127.0.0.1:{server.port}"


def test_an_order_is_handed_on_and_its_answer_given(journal):
    commander = Commander()
    with commanded(journal, commander) as url:
        reply = requests.post(f"{url}/api/v1/orders", PAUSE, headers=OPERATOR)
    assert (reply.status_code, reply.json()) == (200, {"sentence": "voms01 is paused"})
    assert reply.headers["Content-Type"] == "application/json"
    assert commander.orders == [Pause(order="pause", what="voms01", by="ann")]


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (Refused("voms1 is not a protected VM"), 409, "voms1 is not a protected VM"),
        (JournalError("journal.db: disk full"), 503, "journal.db: disk full"),
        (RuntimeError("inside-42"), 500, "an unexpected error; the actuator's log has it"),
    ],
)
def test_an_order_that_is_not_taken_says_why(journal, answer, code, said):
    with commanded(journal, Commander(answer)) as url, capture_logs():
        reply = requests.post(f"{url}/api/v1/orders", PAUSE, headers=OPERATOR)
    assert (reply.status_code, reply.text) == (code, f"{said}\n")


@pytest.mark.parametrize("bearer", [TOKEN, TOKENS["v01"], "", "the-operators-toke", "the-operators-token2"])
def test_only_operators_give_orders_and_they_do_nothing_else(journal, bearer):
    commander = Commander()
    with commanded(journal, commander) as url, capture_logs() as lines:
        headers = OPERATOR | {"Authorization": f"Bearer {bearer}"}
        assert requests.post(f"{url}/api/v1/orders", PAUSE, headers=headers).status_code == 401
        assert requests.post(f"{url}/alerts", body(alert(1)), headers=OPERATOR).status_code == 401
        assert requests.post(f"{url}/api/v1/arbitrate", b"{}", headers=OPERATOR).status_code == 401
    assert commander.orders is None
    assert journal.calls == []
    assert "the-operators-token" not in repr(lines)


@pytest.mark.parametrize(
    ("sent", "headers", "code", "said"),
    [
        (PAUSE, {"Content-Type": "text/plain"}, 415, "the content type is not application/json"),
        (b"{", {}, 400, "Invalid JSON"),
        (b'{"order": "pause", "what": "voms01"}', {}, 400, "pause.by: Field required"),
        (PAUSE + b" " * MAX_ORDER_BYTES, {}, 413, "larger than 16384 bytes"),
        (iter([PAUSE, b" " * MAX_ORDER_BYTES]), {}, 413, "larger than 16384 bytes"),
    ],
    ids=["not JSON", "broken", "nobody", "large", "large in chunks"],
)
def test_what_is_no_order_is_refused(journal, sent, headers, code, said):
    commander = Commander()
    with commanded(journal, commander) as url:
        reply = requests.post(f"{url}/api/v1/orders", sent, headers=OPERATOR | headers)
    assert reply.status_code == code
    assert said in reply.text
    assert commander.orders is None


def test_without_an_operators_token_there_are_no_orders(journal):
    commander = Commander()
    with commanded(journal, commander, operator="") as url:
        for bearer in ("", "x"):
            headers = OPERATOR | {"Authorization": f"Bearer {bearer}"}
            reply = requests.post(f"{url}/api/v1/orders", PAUSE, headers=headers)
            said = "no orders are taken: operator.token_file is not in the configuration\n"
            assert (reply.status_code, reply.text) == (404, said)
    assert commander.orders is None


def test_what_would_work_now(journal):
    said = {"domains": [{"domain": "voms01"}], "not_rehearsed": []}
    with commanded(journal, Commander(), ready=lambda: said) as url:
        reply = requests.get(f"{url}/api/v1/ready")
    assert (reply.status_code, reply.json()) == (200, said)


def test_explanations(journal):
    def explain(name):
        if name == "busy":
            raise BusyError("another explanation is being made")
        return {"domain": name} if name == "voms01" else None

    with commanded(journal, Commander(), explain=explain) as url:
        reply = requests.get(f"{url}/api/v1/explain/voms01")
        assert (reply.status_code, reply.json()) == (200, {"domain": "voms01"})
        reply = requests.get(f"{url}/api/v1/explain/voms1")
        assert (reply.status_code, reply.text) == (404, "'voms1' is neither a protected VM nor a host\n")
        reply = requests.get(f"{url}/api/v1/explain/busy")
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")


# ---- pages -----------------------------------------------------------------------------------------------


class Colour(StrEnum):
    RED = "red"


@dataclass
class Lamp:
    colour: Colour


def test_pages(journal):
    given = replace(parts(journal), status=lambda: {"lamps": [Lamp(Colour.RED)], "since": 1.5})
    with Server("127.0.0.1:0", given) as server:
        url = f"http://127.0.0.1:{server.port}"
        status = requests.get(f"{url}/api/v1/status")
        assert status.json() == {"lamps": [{"colour": "red"}], "since": 1.5}
        assert status.headers["Content-Type"] == "application/json"
        plain = requests.get(f"{url}/metrics")
        assert plain.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert 'vmheal_notifications_received_total{status="firing"} 0.0' in plain.text
        openmetrics = requests.get(f"{url}/metrics", headers={"Accept": "application/openmetrics-text"})
        assert openmetrics.text.endswith("# EOF\n")
        for path in ("/metrics", "/-/healthy", "/-/ready", "/api/v1/status"):
            head = requests.head(url + path)
            assert (head.status_code, head.content) == (200, b"")
            assert int(head.headers["Content-Length"]) > 0


@pytest.mark.daemons
def test_promtool_finds_nothing_in_the_metrics(receiver):
    requests.post(f"{receiver.url}/alerts", body(alert(1), truncatedAlerts=1), headers=HEADERS)
    page = requests.get(f"{receiver.url}/metrics").content
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_a_status_that_cannot_be_read_is_503(journal):
    def status():
        raise JournalError("journal.db: not read within 2 s")

    with Server("127.0.0.1:0", replace(parts(journal), status=status)) as server:
        reply = requests.get(f"http://127.0.0.1:{server.port}/api/v1/status")
    assert (reply.status_code, reply.text) == (503, "journal.db: not read within 2 s\n")


def test_without_a_host_it_listens_on_all_addresses_of_both_families(journal):
    with Server(":0", parts(journal)) as server:
        for host in ("127.0.0.1", "[::1]"):
            assert requests.get(f"http://{host}:{server.port}/-/healthy").status_code == 200


def test_an_address_that_is_taken_is_an_error_at_once(journal, receiver):
    with pytest.raises(OSError, match="in use"):
        Server(f"127.0.0.1:{receiver.port}", parts(journal))


# ---- whatever comes --------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    content=st.binary(max_size=2000)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["version", "alerts", "labels", "status", "startsAt"]), inner)
        ),
        max_leaves=20,
    ).map(lambda data: json.dumps(data).encode()),
    authorization=st.sampled_from([f"Bearer {TOKEN}"] * 4 + ["Bearer x"]) | st.text(max_size=10),
)
def test_whatever_body_comes(content, authorization):
    """Over WSGI without sockets, because it is many."""
    journal = MemoryJournal()
    given = parts(journal)
    client = create_app(given, Refusals(given.clock), Counters(given.registry)).test_client()
    with capture_logs() as lines:
        reply = client.post(
            "/alerts",
            data=content,
            content_type="application/json",
            environ_overrides={"HTTP_AUTHORIZATION": authorization.encode().decode("latin-1")},
        )
    assert reply.status_code in {200, 400, 401}
    assert b"Traceback" not in reply.data
    assert all(line["log_level"] == "warning" for line in lines)
    if reply.status_code != 200:
        assert journal.calls == []


@given(
    sent=st.binary(max_size=300)
    | st.tuples(
        st.sampled_from(
            [b"POST /alerts HTTP/1.1\r\n", b"GET /metrics HTTP/1.1\r\n", b"POST /alerts HTTP/1.0\r\n"]
        ),
        st.lists(
            st.sampled_from(
                [
                    b"Content-Length: 5\r\n",
                    b"Content-Length: 99999999999999999999\r\n",
                    b"Transfer-Encoding: chunked\r\n",
                    b"Content-Type: application/json\r\n",
                    b"Expect: 100-continue\r\n",
                    b"Connection: close\r\n",
                    f"Authorization: Bearer {TOKEN}\r\n".encode(),
                ]
            )
            | st.binary(max_size=30),
            max_size=6,
        ).map(b"".join),
        st.sampled_from([b"\r\n", b"\r\n5\r\n12345\r\n0\r\n\r\n", b""]),
        st.binary(max_size=100),
    ).map(b"".join),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_bytes_come(journal, receiver, sent):
    """The receiver stays the same for all of them: what one leaves behind would hurt the next."""
    with capture_logs() as lines, receiver.connect() as connection:
        connection.sendall(sent)
        with contextlib.suppress(OSError):
            connection.shutdown(1)
        received = b""
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(65536):
                received += data
    assert not received or received[:7] == b"HTTP/1."
    assert b"Traceback" not in received
    assert all(line["log_level"] == "warning" for line in lines)
    assert journal.calls == []
    assert requests.get(f"{receiver.url}/-/healthy").status_code == 200


def test_limits_come_from_the_settings(journal):
    assert WebhookSettings(token_file="/x").max_body_bytes == 8 * 1024 * 1024
    with served(journal, max_body_bytes=1500) as receiver:
        small, large = body(alert(1)), body(alert(1), alert(2), alert(3))
        assert len(small) < 1500 < len(large)
        assert requests.post(f"{receiver.url}/alerts", small, headers=HEADERS).status_code == 200
        reply = requests.post(f"{receiver.url}/alerts", large, headers=HEADERS)
    assert (reply.status_code, reply.text) == (413, "the body is larger than 1500 bytes\n")
    assert fingerprints(journal) == [f"{1:016x}"]
