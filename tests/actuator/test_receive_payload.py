"""Alertmanager's payload: what is read, what is refused and with which words."""

import json
import tracemalloc
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actuator.webhook import MAX_LABELS, MalformedError, TooManyAlertsError, parse
from tests.actuator.deliveries import alert, body, payload

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


def test_a_delivery_of_debians_alertmanager():
    delivery = parse(body(alert(7), alert(8, status="resolved")), max_alerts=10)
    first, second = delivery.notifications
    assert (first.fingerprint, first.firing, first.source) == ("0000000000000007", True, "webhook")
    assert (first.domain, first.action, first.labels["host"]) == ("voms0007", "restart", "v02")
    assert second.firing is False
    assert delivery.truncated == 0


def test_it_starts_when_alertmanagers_api_says_that_it_starts():
    """The webhook tells nanoseconds, the API milliseconds, of the same alert."""
    api = datetime.fromisoformat("2026-03-01T11:22:33.444Z").timestamp()
    for said in (
        "2026-03-01T11:22:33.444555666Z",
        "2026-03-01T12:22:33.444999999+01:00",
        "2026-03-01T11:22:33.444Z",
    ):
        (notification,) = parse(body(alert(1) | {"startsAt": said}), max_alerts=1).notifications
        assert notification.starts_at == api


def test_an_alert_that_never_began_and_one_without_action_are_read_too():
    never = alert(1) | {"startsAt": "0001-01-01T00:00:00Z", "labels": {"alertname": "Watchdog"}}
    (notification,) = parse(body(never), max_alerts=1).notifications
    assert notification.starts_at == datetime(1, 1, 1, tzinfo=UTC).timestamp()
    assert (notification.action, notification.domain) == ("", "")


def test_unknown_keys_are_ignored_and_truncation_is_told():
    said = payload(alert(1) | {"silenceURL": 7}, truncatedAlerts=3, orgId=[{"x": None}], annotations=0)
    assert parse(json.dumps(said).encode(), max_alerts=1).truncated == 3
    del said["truncatedAlerts"], said["groupKey"], said["receiver"]
    assert parse(json.dumps(said).encode(), max_alerts=1).truncated == 0


def test_of_a_key_that_is_there_twice_the_last_counts():
    doubled = body(alert(1)).replace(b'"domain": "voms0001",', b'"domain": "other", "domain": "voms0001",', 1)
    (notification,) = parse(doubled, max_alerts=1).notifications
    assert notification.domain == "voms0001"


def labelled(name: str, value: object) -> bytes:
    return body(alert(1) | {"labels": {name: value}})


MALFORMED = {
    "empty": (b"", "EOF while parsing"),
    "not JSON": (b"alerts=1", "expected value"),
    "cut off": (body(alert(1))[:-5], "EOF while parsing"),
    "more behind it": (body(alert(1)) + b"{}", "trailing characters"),
    "byte order mark": (b"\xef\xbb\xbf" + body(alert(1)), "expected value"),
    "UTF-16": (body(alert(1)).decode().encode("utf-16"), "expected value"),
    "not UTF-8": (body(alert(1)).replace(b"voms0001", b"voms\xff01"), "invalid unicode"),
    "half a surrogate pair": (body(alert(1)).replace(b"voms0001", b"\\ud800"), "hex escape"),
    "deep list": (b"[" * 1_000_000, "recursion limit"),
    "deep object": (b'{"a":' * 100_000, "recursion limit"),
    "deep where nobody looks": (
        body(alert(1), extra=0)[:-2] + b"[" * 500 + b"]" * 500 + b"}",
        "recursion limit",
    ),
    "list": (b"[]", "should be an object"),
    "no version": (b'{"alerts": []}', "version: is missing"),
    "version 3": (body(version="3"), "version: Input should be '4'"),
    "version as number": (body(version=4), "version: Input should be '4'"),
    "no alerts": (b'{"version": "4"}', "alerts: is missing"),
    "alerts null": (body(alerts=None), "alerts: Input should be a valid"),
    "alert is a word": (body("x"), "alerts.0: Input should be an object"),
    "status of old": (body(alert(1) | {"status": "pending"}), "alerts.0.status: "),
    "the second one": (body(alert(1), alert(2) | {"status": 1}), "alerts.1.status: "),
    "no status": (body({k: v for k, v in alert(1).items() if k != "status"}), "alerts.0.status: is missing"),
    "no fingerprint": (body(alert(1) | {"fingerprint": None}), "alerts.0.fingerprint: "),
    "fingerprint with a line end": (body(alert(1) | {"fingerprint": "1f\n"}), "alerts.0.fingerprint: "),
    "start as number": (body(alert(1) | {"startsAt": 1700000000}), "alerts.0.startsAt: "),
    "start without zone": (body(alert(1) | {"startsAt": "2026-03-01T11:22:33"}), "alerts.0.startsAt: "),
    "start on no day": (body(alert(1) | {"startsAt": "2026-02-30T11:22:33Z"}), "alerts.0.startsAt: "),
    "start not a number": (body(alert(1) | {"startsAt": float("nan")}), "alerts.0.startsAt: "),
    "labels as list": (body(alert(1) | {"labels": []}), "alerts.0.labels: "),
    "label as number": (labelled("domain", 7), "alerts.0.labels.domain: Input should be a valid string"),
    "label without name": (labelled("", "x"), "alerts.0.labels.: String should have at least 1"),
    "long label": (labelled("domain", "x" * 10_000), "alerts.0.labels.domain: String should have at most"),
    "long name": (labelled("x" * 10_000, "x"), "alerts.0.labels.xxx"),
    "many labels": (body(alert(1) | {"labels": {f"l{n}": "" for n in range(MAX_LABELS + 1)}}), "129 labels"),
    "truncated by less than nothing": (body(alert(1), truncatedAlerts=-1), "truncatedAlerts: "),
    "truncated beyond all numbers": (body(alert(1), truncatedAlerts=10**400), "truncatedAlerts: "),
    "truncated as text": (body(alert(1), truncatedAlerts="1"), "truncatedAlerts: "),
    "endless number": (body(alert(1), truncatedAlerts=0)[:-2] + b"1" * 10_000 + b"}", "number out of range"),
}


@pytest.mark.parametrize(("content", "words"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(content, words):
    with pytest.raises(MalformedError) as caught:
        parse(content, max_alerts=100)
    assert words in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_more_alerts_than_accepted():
    assert len(parse(body(*map(alert, range(50))), max_alerts=50).notifications) == 50
    with pytest.raises(TooManyAlertsError, match="51 alerts, at most 50"):
        parse(body(*map(alert, range(51))), max_alerts=50)


@pytest.mark.parametrize(
    "content",
    [
        b'{"version": "4", "alerts": [' + b"0," * 200_000 + b"0]}",
        body(alert(1) | {"labels": dict.fromkeys(map(str, range(50_000)), 0)}),
    ],
    ids=["alerts", "labels"],
)
def test_many_faults_cost_no_more_than_one(content):
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError):
            parse(content, max_alerts=10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30 * len(content)


def read(content):
    """What was read, or the words of the refusal."""
    try:
        return parse(content, max_alerts=10)
    except MalformedError as error:
        return str(error)


@settings(deadline=None)
@given(st.binary() | ANY_JSON.map(lambda data: json.dumps(data).encode()))
def test_whatever_comes_is_read_or_refused_in_words(content):
    result = read(content)
    assert result
    if not isinstance(result, str):
        assert json.loads(content)["version"] == "4"
        assert len(result.notifications) == len(json.loads(content)["alerts"])


@settings(deadline=None)
@given(st.sampled_from(sorted(alert(1))), ANY_JSON)
def test_whatever_a_key_of_an_alert_holds(key, value):
    result = read(body(alert(1) | {key: value}))
    if isinstance(result, str):
        assert result.startswith((f"alerts.0.{key}", "Invalid JSON"))
    else:
        (notification,) = result.notifications
        assert all(isinstance(part, str) for pair in notification.labels.items() for part in pair)
        assert notification.fingerprint.isprintable()
