"""Prometheus's API: canned answers, and Debian's Prometheus and Alertmanager with the files of rules/."""

import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
import yaml
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from actuator import webhook
from actuator.adapters.alertmanager import Alertmanager
from actuator.adapters.prometheus import Prometheus, fingerprint
from actuator.model import DomainState, Notification
from actuator.ports import Unanswered
from tests.alertmanager import alertmanager
from tests.lab.waiting import wait_until
from tests.netns import Netns, network_namespace
from tests.prometheus import prometheus

PATIENCE = 10.0
RULES = Path(__file__).parents[2] / "rules"

ALERT = {
    "labels": {"action": "restart", "alertname": "VMFailure", "domain": "voms01", "host": "v01"},
    "annotations": {"summary": "VM voms01 is down on v01"},
    "state": "firing",
    "activeAt": "2026-03-01T12:00:00.120987654Z",
    "value": "1e+00",
}


def answer(*alerts: dict) -> dict:
    return {"status": "success", "data": {"alerts": list(alerts)}}


def configuration(text: str) -> dict:
    return {"status": "success", "data": {"yaml": text}}


def firing(server: HTTPServer) -> tuple[Notification, ...]:
    return Prometheus(server.url_for("/prom/")).firing(timeout_seconds=PATIENCE)


def test_a_firing_alert(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/prom/api/v1/alerts").respond_with_json(answer(ALERT))
    httpserver.expect_request("/prom/api/v1/status/config").respond_with_json(configuration("global: {}\n"))
    assert firing(httpserver) == (
        Notification(
            fingerprint=fingerprint(ALERT["labels"]),
            starts_at=1772366400.12,
            firing=True,
            labels=ALERT["labels"],
            source="prometheus",
        ),
    )


def test_only_what_fires_and_asks_for_something(httpserver: HTTPServer) -> None:
    labels = ALERT["labels"]
    httpserver.expect_request("/prom/api/v1/alerts").respond_with_json(
        answer(
            ALERT | {"state": "pending"},
            ALERT | {"state": "a word of a later release"},
            ALERT | {"labels": labels | {"action": ""}},
            ALERT | {"labels": {"alertname": "VMPaused", "domain": "voms01"}},
        )
    )
    assert firing(httpserver) == ()
    assert len(httpserver.log) == 1  # the configuration was not needed


def test_labels_that_prometheus_adds_for_alertmanager(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/prom/api/v1/alerts").respond_with_json(answer(ALERT))
    httpserver.expect_request("/prom/api/v1/status/config").respond_with_json(
        configuration("global:\n  external_labels:\n    site: ifca\n    host: not-this-one\n")
    )
    (found,) = firing(httpserver)
    assert found.labels == ALERT["labels"] | {"site": "ifca"}
    assert found.fingerprint == fingerprint(found.labels)


@pytest.mark.parametrize(
    ("action", "regex", "dropped"),
    [
        ("labeldrop", "runbooks", True),
        ("labeldrop", "run.*|replica", True),
        ("labeldrop", "book", False),  # it must match the whole name
        ("labeldrop", r"\\C(", False),  # nothing that Python knows
        ("keep", "runbooks", False),
    ],
)
def test_labels_that_are_dropped_on_the_way_to_alertmanager(
    httpserver: HTTPServer, action: str, regex: str, dropped: bool
) -> None:
    httpserver.expect_request("/prom/api/v1/alerts").respond_with_json(answer(ALERT))
    httpserver.expect_request("/prom/api/v1/status/config").respond_with_json(
        configuration(
            "global:\n  external_labels:\n    runbooks: docs/\n"
            f'alerting:\n  alert_relabel_configs:\n  - {{action: {action}, regex: "{regex}"}}\n'
        )
    )
    (found,) = firing(httpserver)
    assert ("runbooks" in found.labels) == (not dropped)
    assert found.fingerprint == fingerprint(found.labels)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"status": "error", "errorType": "internal", "error": "no"}, "status: Input should be 'success'"),
        ({"status": "success"}, "data: Field required"),
        (answer(ALERT | {"activeAt": "2026-03-01T12:00:00"}), "data.alerts.0.activeAt: .*timezone"),
        (answer(ALERT | {"activeAt": None}), "data.alerts.0.activeAt: "),
        (answer(ALERT, ALERT | {"labels": {"action": 5}}), "data.alerts.1.labels.action: "),
        (answer(ALERT | {"state": None}), "data.alerts.0.state: "),
    ],
)
def test_an_answer_that_is_not_understood(httpserver: HTTPServer, body: dict, said: str) -> None:
    httpserver.expect_request("/prom/api/v1/alerts").respond_with_json(body)
    with pytest.raises(Unanswered, match=f"^Prometheus at http://localhost.*/prom: .*not understood: {said}"):
        firing(httpserver)


@pytest.mark.parametrize(
    "text",
    ["global: [", "- global", "global:\n  external_labels: [site]\n", "global:\n  external_labels: {a: 1}\n"],
)
def test_a_configuration_that_is_not_understood(httpserver: HTTPServer, text: str) -> None:
    httpserver.expect_request("/prom/api/v1/alerts").respond_with_json(answer(ALERT))
    httpserver.expect_request("/prom/api/v1/status/config").respond_with_json(configuration(text))
    with pytest.raises(Unanswered, match=r"not understood: data\.yaml"):
        firing(httpserver)


# ---- what it heard before ----------------------------------------------------------------------------------


def words(*samples: tuple[str, str, str]) -> dict:
    found = [
        {"metric": {"name": name, "conn_name": peer}, "value": [1772366400.5, value]}
        for name, peer, value in samples
    ]
    return {"status": "success", "data": {"resultType": "vector", "result": found}}


def test_last_words(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/prom/api/v1/query").respond_with_json(
        words(("voms01", "v02", "1"), ("voms01", "v03", "0"), ("ce01", "v02", "NaN"))
    )
    adapter = Prometheus(httpserver.url_for("/prom/"))
    assert adapter.last_words("v01", before=1772366400.5, timeout_seconds=PATIENCE) == {
        ("voms01", "v02"): True,
        ("voms01", "v03"): False,
        ("ce01", "v02"): False,
    }
    request, _ = httpserver.log[0]
    assert request.args["time"] == "1772366400.500"
    assert request.args["query"].count('{host="v01",') == 2


@pytest.mark.parametrize(
    "body",
    [words(("voms01", "v02", 1)), {"status": "success", "data": {"resultType": "scalar", "result": []}}],
)
def test_last_words_that_are_not_understood(httpserver: HTTPServer, body: dict) -> None:
    httpserver.expect_request("/prom/api/v1/query").respond_with_json(body)
    with pytest.raises(Unanswered, match="not understood"):
        Prometheus(httpserver.url_for("/prom/")).last_words("v01", before=0.0, timeout_seconds=PATIENCE)


# ---- Debian's Prometheus and Alertmanager, rules/ as it is -------------------------------------------------

TOKEN = "a-token-of-this-test"
HOSTS = {"v01": "127.0.0.1", "v02": "127.0.0.2"}


class Site:
    """Two hosts' exporters and an actuator, all of them pages; Prometheus and Alertmanager, both real."""

    def __init__(self, netns: Netns, folder: Path, started: ExitStack) -> None:
        self.netns = netns
        self.domains: dict[str, DomainState] = {}
        """The protected domains of v01; each is shut off on v02."""
        self.drbd: dict[str, str] = {}
        """What each host's exporter says of its DRBD, as a page."""
        self._folder = folder
        self._started = started
        self._actuator = HTTPServer("127.0.0.1", 10811)
        self._actuator.expect_request("/metrics").respond_with_handler(self._expected)
        self._actuator.expect_request("/alerts", method="POST").respond_with_handler(
            lambda _: Response("", 200)
        )
        exporters = [
            {"targets": [f"{address}:10810"], "labels": {"host": host}} for host, address in HOSTS.items()
        ]
        self._actuator.expect_request("/api/v1/targets").respond_with_json(exporters)
        self._serve(self._actuator)
        for host, address in HOSTS.items():
            exporter = HTTPServer(address, 10810)
            exporter.expect_request("/metrics").respond_with_handler(
                lambda request, host=host: self._states(request, host)
            )
            self._serve(exporter)

    def run(self, **changes: object) -> None:
        """Start Prometheus and Alertmanager with the files of rules/; `changes` are Prometheus's `global`."""
        for name in ("prometheus.yml", "vmheal.yml", "alertmanager.yml"):
            shutil.copy(RULES / name, self._folder / name)
        (self._folder / "webhook.token").write_text(TOKEN)
        config = self._folder / "prometheus.yml"
        if changes:
            document = yaml.safe_load(config.read_text())
            document["global"] |= changes
            config.write_text(yaml.safe_dump(document))
        for start, path, port in (
            (alertmanager, self._folder / "alertmanager.yml", 9093),
            (prometheus, config, 9090),
        ):
            self._started.enter_context(start(path, self._folder, port=port, netns=self.netns))

    def in_prometheus(self) -> dict[str, Notification]:
        return self._ask(Prometheus("http://127.0.0.1:9090"))

    def in_alertmanager(self) -> dict[str, Notification]:
        return self._ask(Alertmanager("http://127.0.0.1:9093"))

    def delivered(self) -> dict[str, Notification]:
        """What came over the webhook, by domain; the last of each."""
        deliveries = [webhook.parse(request.data, max_alerts=100) for request in self.posts()]
        return {alert.domain: alert for delivery in deliveries for alert in delivery.notifications}

    def posts(self) -> list[Request]:
        return [request for request, _ in list(self._actuator.log) if request.method == "POST"]

    def silence(self, domain: str) -> None:
        body = {
            "matchers": [{"name": "domain", "value": domain, "isRegex": False}],
            "startsAt": "2020-01-01T00:00:00Z",
            "endsAt": "2999-01-01T00:00:00Z",
            "createdBy": "test",
            "comment": "test",
        }
        with self.netns.entered():
            answer = requests.post("http://127.0.0.1:9093/api/v2/silences", json=body, timeout=PATIENCE)
        answer.raise_for_status()

    def _ask(self, adapter: Prometheus | Alertmanager) -> dict[str, Notification]:
        with self.netns.entered():
            found = adapter.firing(timeout_seconds=PATIENCE)
        by_domain = {alert.domain: alert for alert in found}
        assert len(by_domain) == len(found)
        return by_domain

    def _serve(self, server: HTTPServer) -> None:
        with self.netns.entered():
            server.start()
        self._started.callback(server.stop)

    def _expected(self, _: Request) -> Response:
        lines = [
            f'vmheal_domain_expected{{domain="{domain}",host="{host}"}} {int(host == "v01")}\n'
            for domain in self.domains
            for host in HOSTS
        ]
        return Response("".join(lines), content_type="text/plain; version=0.0.4")

    def _states(self, request: Request, host: str) -> Response:
        assert request.args.getlist("collect[]")
        if self.drbd.get(host) == "":
            return Response("", 500)
        lines = ["libvirt_up 1\n", self.drbd.get(host, "")]
        if "libvirt" in request.args.getlist("collect[]"):
            for domain, now in list(self.domains.items()):
                seen = now if host == "v01" else DomainState.SHUTOFF
                lines += [
                    f'libvirt_domain_state{{domain="{domain}",uuid="{domain}",state="{state}"}} {int(state is seen)}\n'
                    for state in DomainState
                ]
        return Response("".join(lines), content_type="text/plain; version=0.0.4")


@pytest.fixture
def site(tmp_path):
    with network_namespace(HOSTS) as netns, ExitStack() as started:
        yield Site(netns, tmp_path, started)


@pytest.mark.daemons
def test_a_failed_vm_is_one_notification_whoever_tells_it(site: Site) -> None:
    site.domains |= {"runs": DomainState.RUNNING, "fails": DomainState.RUNNING, "paused": DomainState.RUNNING}
    site.run()
    assert site.in_prometheus() == {}
    site.domains |= {"fails": DomainState.CRASHED, "paused": DomainState.PAUSED}
    wait_until(lambda: "fails" in site.delivered(), "the webhook", 30)
    heard, read, asked = (x()["fails"] for x in (site.delivered, site.in_prometheus, site.in_alertmanager))
    assert heard.labels == read.labels == asked.labels
    assert heard.labels == {
        "alertname": "VMFailure",
        "action": "restart",
        "domain": "fails",
        "host": "v01",
        "severity": "critical",
    }
    assert heard.fingerprint == read.fingerprint == asked.fingerprint
    assert heard.starts_at == read.starts_at == asked.starts_at
    assert {alert.source for alert in (heard, read, asked)} == {"webhook", "prometheus", "alertmanager"}
    assert {post.headers["Authorization"] for post in site.posts()} == {f"Bearer {TOKEN}"}

    site.silence("fails")
    wait_until(lambda: site.in_alertmanager() == {}, "the silence", PATIENCE)
    assert set(site.in_prometheus()) == {"fails"}  # Prometheus knows no silences

    site.domains |= {"fails": DomainState.RUNNING}
    wait_until(lambda: site.in_prometheus() == {}, "the end of the alert", 30)
    assert set(site.delivered()) == {"fails"}


@pytest.mark.daemons
def test_one_fingerprint_also_with_external_labels(site: Site) -> None:
    domain = "höher als\tsonst"
    site.domains |= {domain: DomainState.SHUTOFF}
    labels = {"Site": "ifca", "replica": "1", "severity": "not this one", "zone": "${ZONE} ü"}
    site.run(external_labels=labels)
    wait_until(lambda: domain in site.in_alertmanager(), "the alert", 30)
    read, asked = site.in_prometheus()[domain], site.in_alertmanager()[domain]
    assert read.labels == asked.labels
    assert read.labels["Site"] == "ifca"
    assert read.labels["severity"] == "critical"
    assert (read.fingerprint, read.starts_at) == (asked.fingerprint, asked.starts_at)


def drbd(peer: str, *, connected: bool, disks: tuple[bool, ...]) -> str:
    """The states of one resource as the exporter publishes them."""
    here = f'name="voms01",conn_name="{peer}",peer_node_id="0"'
    link = "drbd_connection_state"
    disk = "vmheal_drbd_peerdevice_disk"
    lines = [
        f'{link}{{{here},{link}="Connected"}} {int(connected)}',
        f'{link}{{{here},{link}="Connecting"}} 0',
    ]
    lines += [
        f'{disk}{{{here},volume="{volume}",{disk}="UpToDate"}} {int(good)}'
        for volume, good in enumerate(disks)
    ]
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.daemons
def test_what_prometheus_heard_last_of_a_host_that_is_gone(site: Site) -> None:
    adapter = Prometheus("http://127.0.0.1:9090")

    def heard() -> bool | None:
        with site.netns.entered():
            said = adapter.last_words("v01", before=time.time(), timeout_seconds=PATIENCE)
        assert said.keys() <= {("voms01", "v02")}
        return said.get(("voms01", "v02"))

    site.drbd["v01"] = drbd("v02", connected=True, disks=(True, False))
    site.drbd["v02"] = drbd("v01", connected=False, disks=(False, False))
    site.run()
    wait_until(lambda: heard() is False, "a volume that is behind", 30)
    site.drbd["v01"] = drbd("v02", connected=True, disks=(True, True))
    wait_until(lambda: heard() is True, "both volumes UpToDate", 30)
    site.drbd["v01"] = ""
    wait_until(lambda: not _up(site, "v01"), "the host to be dark", 30)
    assert heard() is True
    with site.netns.entered():
        assert adapter.last_words("v01", before=time.time() + 3600, timeout_seconds=PATIENCE) == {}


def _up(site: Site, host: str) -> bool:
    """Whether Prometheus's last scrape of the host succeeded."""
    query = {"query": f'max(up{{job="vmheal-state",host="{host}"}})'}
    with site.netns.entered():
        answer = requests.get("http://127.0.0.1:9090/api/v1/query", params=query, timeout=PATIENCE).json()
    return bool(answer["data"]["result"][0]["value"][1] == "1")
