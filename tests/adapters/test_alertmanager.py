"""Alertmanager's API: canned answers, and Debian's Alertmanager."""

import json
import time

import pytest
import requests
from pytest_httpserver import HTTPServer
from werkzeug import Response

from actuator import webhook
from actuator.adapters.alertmanager import Alertmanager
from actuator.model import Matcher, Notification, OutgoingAlert, Silence
from actuator.ports import Unanswered
from tests.alertmanager import alertmanager
from tests.lab.waiting import wait_until

PATIENCE = 10.0

ALERT = {
    "annotations": {"summary": "VM voms01 is down on v01"},
    "endsAt": "2026-03-01T12:04:00.120Z",
    "fingerprint": "8d4f7d1e2c3b4a59",
    "receivers": [{"name": "vmheal"}],
    "startsAt": "2026-03-01T12:00:00.120Z",
    "status": {"inhibitedBy": [], "silencedBy": [], "state": "active"},
    "updatedAt": "2026-03-01T12:00:00.121Z",
    "generatorURL": "http://prometheus:9090/graph",
    "labels": {"action": "restart", "alertname": "VMFailure", "domain": "voms01", "host": "v01"},
}


def adapter(url: str) -> Alertmanager:
    return Alertmanager(url)


def test_an_active_alert(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/am/api/v2/alerts", method="GET").respond_with_json([ALERT])
    found = adapter(httpserver.url_for("/am/")).firing(timeout_seconds=PATIENCE)
    assert found == (
        Notification(
            fingerprint="8d4f7d1e2c3b4a59",
            starts_at=1772366400.12,
            firing=True,
            labels=ALERT["labels"],
            source="alertmanager",
        ),
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fingerprint": None}, "0.fingerprint: "),
        ({"fingerprint": ""}, "0.fingerprint: "),
        ({"labels": ["action"]}, "0.labels: "),
        ({"labels": {"action": 1}}, "0.labels.action: "),
        ({"startsAt": "2026-03-01T12:00:00"}, "0.startsAt: .*timezone"),
        ({"startsAt": "yesterday"}, "0.startsAt: "),
        ({"startsAt": 1772366400}, "0.startsAt: "),
    ],
)
def test_an_alert_that_is_not_understood_is_not_left_out(
    httpserver: HTTPServer, change: dict, said: str
) -> None:
    httpserver.expect_request("/api/v2/alerts").respond_with_json([ALERT | change, ALERT])
    with pytest.raises(Unanswered, match=f"^Alertmanager at http://localhost.*not understood: {said}"):
        adapter(httpserver.url_for("")).firing(timeout_seconds=PATIENCE)


def test_what_is_sent(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/api/v2/alerts", method="POST").respond_with_data("")
    alert = OutgoingAlert({"alertname": "VMHealRefused"}, {"summary": "höher"}, 1772366400.1234, 1772366460.0)
    adapter(httpserver.url_for("")).send([alert], timeout_seconds=PATIENCE)
    request, _ = httpserver.log[0]
    assert request.headers["Content-Type"] == "application/json"
    assert json.loads(request.data) == [
        {
            "labels": {"alertname": "VMHealRefused"},
            "annotations": {"summary": "höher"},
            "startsAt": "2026-03-01T12:00:00.123+00:00",
            "endsAt": "2026-03-01T12:01:00.000+00:00",
        }
    ]


def test_what_is_refused(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/api/v2/alerts").respond_with_json("start time must be before end time", 400)
    with pytest.raises(Unanswered, match=r"answered 400 BAD REQUEST: .start time must be before end time"):
        adapter(httpserver.url_for("")).send([], timeout_seconds=PATIENCE)


SILENCE = {
    "id": "6b6d29c5-7fd4-4b4f-9cbd-1f2f3d1a2b3c",
    "status": {"state": "active"},
    "updatedAt": "2026-03-01T12:00:00.000Z",
    "comment": "new memory",
    "createdBy": "ann",
    "startsAt": "2026-03-01T12:00:00.000Z",
    "endsAt": "2026-03-01T14:00:00.000Z",
    "matchers": [
        {"isEqual": False, "isRegex": True, "name": "domain", "value": "voms.*"},
        {"isRegex": False, "name": "host", "value": "v01"},
    ],
}


@pytest.mark.parametrize("found", [[ALERT], []])
def test_the_watchdog(httpserver: HTTPServer, found: list) -> None:
    query = {"filter": 'alertname="Watchdog"'}
    httpserver.expect_request("/api/v2/alerts", query_string=query).respond_with_json(found)
    assert adapter(httpserver.url_for("")).watchdog(timeout_seconds=PATIENCE) is bool(found)


def test_active_silences(httpserver: HTTPServer) -> None:
    others = [SILENCE | {"status": {"state": state}} for state in ("expired", "pending")]
    httpserver.expect_request("/api/v2/silences", method="GET").respond_with_json([SILENCE, *others])
    found = adapter(httpserver.url_for("")).silences(timeout_seconds=PATIENCE)
    matchers = (Matcher("domain", "voms.*", is_regex=True, is_equal=False), Matcher("host", "v01"))
    assert found == (Silence("ann", "new memory", matchers, 1772373600.0),)


def test_silences_that_are_not_understood_are_not_left_out(httpserver: HTTPServer) -> None:
    odd = SILENCE | {"status": {"state": "muted"}}
    httpserver.expect_request("/api/v2/silences").respond_with_json([SILENCE, odd])
    with pytest.raises(Unanswered, match=r"not understood: 1.status.state: "):
        adapter(httpserver.url_for("")).silences(timeout_seconds=PATIENCE)


# ---- Debian's Alertmanager --------------------------------------------------------------------------------

CONFIG = """
route:
  receiver: test
  group_by: [alertname, host, domain]
  group_wait: 0s
  group_interval: 1s
  repeat_interval: 1h
inhibit_rules:
  - source_matchers: [alertname=HostFailure]
    target_matchers: [alertname=VMFailure]
    equal: [host]
receivers:
  - name: test
    webhook_configs:
      - url: {url}
"""


class Site:
    """An Alertmanager that is asked through the adapter, through its API, and that posts to a webhook."""

    def __init__(self, url: str, webhook_server: HTTPServer) -> None:
        self.url = url
        self.adapter = adapter(url)
        self._webhook = webhook_server

    def send(self, *, starts_in: float = 0.0, ends_in: float = 300.0, **labels: str) -> OutgoingAlert:
        now = time.time()
        alert = OutgoingAlert(labels, {"summary": "said by a test"}, now + starts_in, now + ends_in)
        self.adapter.send([alert], timeout_seconds=PATIENCE)
        return alert

    def domains(self) -> set[str]:
        """The domains of the alerts that the adapter finds firing."""
        return {alert.domain for alert in self.adapter.firing(timeout_seconds=PATIENCE)}

    def everything(self) -> dict[str, dict]:
        """All alerts by name, as the API tells them."""
        answer = requests.get(f"{self.url}/api/v2/alerts", timeout=PATIENCE).json()
        return {alert["labels"]["alertname"]: alert for alert in answer}

    def silence(self, **labels: str) -> str:
        now = time.time()
        body = {
            "matchers": [{"name": k, "value": v, "isRegex": False} for k, v in labels.items()],
            "startsAt": time.strftime("%FT%TZ", time.gmtime(now)),
            "endsAt": time.strftime("%FT%TZ", time.gmtime(now + 3600)),
            "createdBy": "test",
            "comment": "test",
        }
        answer = requests.post(f"{self.url}/api/v2/silences", json=body, timeout=PATIENCE)
        answer.raise_for_status()
        return answer.json()["silenceID"]

    def delivered(self) -> dict[tuple[str, bool], Notification]:
        """What came over the webhook, by domain and whether it fires; the last of each."""
        bodies = [request.data for request, _ in list(self._webhook.log)]
        deliveries = [webhook.parse(body, max_alerts=100) for body in bodies]
        return {(n.domain, n.firing): n for delivery in deliveries for n in delivery.notifications}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with HTTPServer() as webhook_server:
        webhook_server.expect_request("/alerts").respond_with_handler(lambda _: Response("", 200))
        config = CONFIG.format(url=webhook_server.url_for("/alerts"))
        with alertmanager(config, tmp_path_factory.mktemp("alertmanager")) as server:
            yield Site(server.url, webhook_server)


@pytest.mark.daemons
def test_only_alerts_that_ask_for_something(site: Site) -> None:
    site.send(alertname="VMFailure", action="restart", domain="asks", host="v01")
    site.send(alertname="VMPaused", domain="asks-nothing", host="v01")
    site.send(alertname="VMPaused", action="", domain="asks-for-emptiness", host="v01")
    wait_until(lambda: "asks" in site.domains(), "the alert", PATIENCE)
    assert not {"asks-nothing", "asks-for-emptiness"} & site.domains()


@pytest.mark.daemons
def test_one_identity_over_webhook_and_api(site: Site) -> None:
    site.send(alertname="VMFailure", action="restart", domain="identity", host="v01")
    wait_until(lambda: ("identity", True) in site.delivered(), "the webhook", PATIENCE)
    heard = site.delivered()["identity", True]
    (asked,) = (
        alert for alert in site.adapter.firing(timeout_seconds=PATIENCE) if alert.domain == "identity"
    )
    assert (asked.fingerprint, asked.starts_at) == (heard.fingerprint, heard.starts_at)
    assert asked.labels == heard.labels
    assert asked.firing


@pytest.mark.daemons
def test_what_is_silenced_is_left_out_until_the_silence_ends(site: Site) -> None:
    site.send(alertname="VMFailure", action="restart", domain="silenced", host="v01")
    site.send(alertname="VMFailure", action="restart", domain="beside-silenced", host="v01")
    wait_until(lambda: {"silenced", "beside-silenced"} <= site.domains(), "the alerts", PATIENCE)
    silence = site.silence(domain="silenced")
    wait_until(lambda: "silenced" not in site.domains(), "the silence", PATIENCE)
    assert "beside-silenced" in site.domains()
    (told,) = site.adapter.silences(timeout_seconds=PATIENCE)
    assert (told.by, told.comment, told.matchers) == ("test", "test", (Matcher("domain", "silenced"),))
    assert told.ends_at == pytest.approx(time.time() + 3600, abs=PATIENCE + 1)
    requests.delete(f"{site.url}/api/v2/silence/{silence}", timeout=PATIENCE).raise_for_status()
    wait_until(lambda: "silenced" in site.domains(), "the end of the silence", PATIENCE)
    assert site.adapter.silences(timeout_seconds=PATIENCE) == ()


@pytest.mark.daemons
def test_the_watchdog_is_seen_also_when_it_is_silenced(site: Site) -> None:
    assert not site.adapter.watchdog(timeout_seconds=PATIENCE)
    site.send(alertname="Watchdog", severity="none")
    wait_until(lambda: site.adapter.watchdog(timeout_seconds=PATIENCE), "the alert", PATIENCE)
    silence = site.silence(alertname="Watchdog")
    wait_until(
        lambda: site.everything()["Watchdog"]["status"]["state"] == "suppressed", "the silence", PATIENCE
    )
    assert site.adapter.watchdog(timeout_seconds=PATIENCE)
    requests.delete(f"{site.url}/api/v2/silence/{silence}", timeout=PATIENCE).raise_for_status()


@pytest.mark.daemons
def test_what_is_inhibited_is_left_out(site: Site) -> None:
    site.send(alertname="VMFailure", action="restart", domain="inhibited", host="v09")
    wait_until(lambda: "inhibited" in site.domains(), "the alert", PATIENCE)
    site.send(alertname="HostFailure", action="failover", host="v09")
    wait_until(lambda: "inhibited" not in site.domains(), "the inhibition", PATIENCE)
    assert "" in site.domains()  # the host's own alert


@pytest.mark.daemons
def test_an_alert_is_prolonged_and_resolved(site: Site) -> None:
    name = "VMHealRefused"
    first = site.send(alertname=name, domain="prolonged", ends_in=60)
    wait_until(lambda: name in site.everything(), "the alert", PATIENCE)
    before = site.everything()[name]
    site.adapter.send(
        [OutgoingAlert(first.labels, first.annotations, first.starts_at, first.ends_at + 300)],
        timeout_seconds=PATIENCE,
    )
    wait_until(lambda: site.everything()[name]["endsAt"] > before["endsAt"], "the later end", PATIENCE)
    after = site.everything()[name]
    assert (after["startsAt"], after["fingerprint"]) == (before["startsAt"], before["fingerprint"])
    wait_until(lambda: ("prolonged", True) in site.delivered(), "the webhook", PATIENCE)

    site.adapter.send(
        [OutgoingAlert(first.labels, first.annotations, first.starts_at, time.time())],
        timeout_seconds=PATIENCE,
    )
    wait_until(lambda: name not in site.everything(), "the resolution", PATIENCE)
    wait_until(lambda: ("prolonged", False) in site.delivered(), "the webhook's word of it", PATIENCE)


@pytest.mark.daemons
def test_an_alert_that_is_not_sent_again_ends_by_itself(site: Site) -> None:
    site.send(alertname="VMFailure", action="restart", domain="short", host="v01", ends_in=1.5)
    wait_until(lambda: "short" in site.domains(), "the alert", PATIENCE)
    wait_until(lambda: "short" not in site.domains(), "its end", PATIENCE)


@pytest.mark.daemons
def test_alertmanager_says_what_it_refuses(site: Site) -> None:
    with pytest.raises(Unanswered, match=r"answered 400 Bad Request: .*start time must be before end time"):
        site.send(alertname="VMHealRefused", domain="refused", starts_in=0, ends_in=-60)
    with pytest.raises(Unanswered, match=r"answered 400 Bad Request: .*at least one label pair required"):
        site.send()
    with pytest.raises(Unanswered, match=r"answered 400 Bad Request: .*invalid label"):
        site.send(**{"not a name": "x"})
