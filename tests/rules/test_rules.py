"""The shipped rules and example configurations, checked by Prometheus's and Alertmanager's own tools."""

import shutil
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import requests
import yaml
from prometheus_client.metrics_core import Metric

from exporter.collectors import drbd
from exporter.exposition import CONTENT_TYPE, render
from tests.alertmanager import alertmanager
from tests.lab.waiting import wait_until
from tests.prometheus import RULE_FILES, name_targets, prometheus
from tests.rules.replay import RULES, SOON, alerts, run, told

pytestmark = pytest.mark.daemons  # needs Debian's prometheus and prometheus-alertmanager packages


@pytest.mark.parametrize(
    "argv",
    [
        ["promtool", "check", "config", "prometheus.yml"],
        ["promtool", "check", "rules", "--lint-fatal", *RULE_FILES],
        ["promtool", "test", "rules", "vmheal_test.yml"],
        ["amtool", "check-config", "alertmanager.yml"],
    ],
    ids=" ".join,
)
def test_shipped_file_is_accepted(argv):
    run(*argv)


CRITICAL = {
    "VMFailure", "VMPersistentFailure", "VMDiskLost", "HostFailure", "VMHealStorm",
    "DRBDSplitBrain", "DRBDTwoPrimaries", "DRBDSuspended", "DRBDNoQuorum", "VMRunsTwice", "VMPausedIOError",
    "ActuatorDown", "ActuatorStale", "ActuatorBlind", "JournalFailing", "EscalationUnanswered",
    "HostHardwareFailing", "SeveralHostsHardwareFailing",
}  # fmt: skip
ACTIONS = {
    "VMFailure": "restart",
    "VMPersistentFailure": "migrate",
    "VMDiskLost": "migrate",
    "HostFailure": "failover",
    "HostHardwareFailing": "evacuate",
}
AT_ONCE = {
    # What acts, and may not be late; or what cannot come and go.
    "VMFailure", "VMPersistentFailure", "VMHealPlanFailed", "Watchdog", "DRBDSplitBrain", "DRBDNotUnderstood",
    "JournalFailing", "ActuatorFaults", "VMHealPlanTooLong", "VMHealUnproven", "HostMemoryErrors",
}  # fmt: skip


def test_who_is_to_get_up_and_what_is_acted_on():
    assert {name for name, it in alerts().items() if it["labels"]["severity"] == "critical"} == CRITICAL
    assert {
        name: it["labels"]["action"] for name, it in alerts().items() if "action" in it["labels"]
    } == ACTIONS
    assert {name for name, it in alerts().items() if "for" not in it} == AT_ONCE


@pytest.mark.parametrize("name", alerts())
def test_an_alert_is_described(name):
    rule = alerts()[name]
    assert rule["labels"].keys() <= {"severity", "action"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info", "none"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == "{{ $externalLabels.runbooks }}" + f"{name}.md"
    assert len(rule["annotations"]["summary"]) <= 110
    assert not rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["description"].endswith(".")
    assert "keep_firing_for" not in rule, "what is not true any more is not to be acted on"


# ---- what the exporter really publishes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "alert"),
    [
        ("33-peer-powered-off.v02", "HostFailure"),
        ("14-connected-primary-secondary.v02", "HostUnreachable"),
    ],
)
def test_what_84_published_of_a_dark_host(replay, label, alert):
    """On 8.4 the kernel says "peer": the exporter puts the host's name."""
    replay.drbd("v02", "14-connected-primary-secondary.v02", range(5))
    replay.up("v02", 1, range(16))
    replay.up("v01", 1, range(5))
    replay.up("v01", 0, range(5, 16))
    replay.drbd("v02", label, range(5, 16))
    replay.expect(15, told(alert, host="v01"))
    replay.ask()


def test_what_9_published_of_a_dark_host(replay):
    replay.drbd("v02", "09-ce01-connected/v02", range(5))
    for host in ("v02", "v03"):
        replay.up(host, 1, range(16))
    replay.up("v01", 1, range(5))
    replay.up("v01", 0, range(5, 16))
    replay.drbd("v02", "38-v02-isolated-no-quorum/v02", range(5, 16))
    replay.expect(15, told("HostFailure", host="v01"))
    replay.ask()


@pytest.mark.parametrize("word", ["StandAlone", "Disconnecting"])
def test_what_was_published_of_a_split_brain(replay, word):
    """The hosts stand alone, or are about to: neither would notice the other's end."""

    def said(text: str) -> str:
        assert "StandAlone" in text
        return text.replace("StandAlone", word)

    for host, peer_dark in (("v01", False), ("v02", True)):
        at = range(31 if peer_dark else 21)
        replay.drbd(host, f"32-splitbrain-healed.{host}", at, events2=said, proc=said)
        replay.up(host, 1, at)
    replay.up("v01", 0, range(21, 31))
    replay.expect(
        20,
        told("DRBDTwoPrimaries", name="voms01"),
        *(
            told("ReplicationLinkDown", host=host, name="voms01", conn_name=peer)
            for host, peer in (("v01", "v02"), ("v02", "v01"))
        ),
    )
    replay.expect(
        30,
        told("HostUnreachable", host="v01"),
        *(
            [told("DRBDStandAlone", host="v02", name="voms01", conn_name="v01")]
            if word == "StandAlone"
            else []
        ),
    )
    replay.ask()


def test_a_host_with_two_addresses_of_which_one_is_dead(replay):
    """It answers: with the pair connected nothing is said, and then what any pair without a link says."""
    replay.step = 5
    at, parted = range(0, 150, 5), range(100, 150, 5)
    for host in ("v01", "v02"):
        replay.drbd(host, f"14-connected-primary-secondary.{host}", at)
        replay.drbd(host, f"19-standalone-v02.{host}", parted)
        for job in ("vmheal-state", "vmheal-stats"):
            replay.up(host, 1, at, job)
            second = Metric("up", "", "gauge")
            second.add_sample("up", {"instance": f"{host}.example:10810"}, 0)
            replay.publish(host, [second], at, job)
    replay.expect(95)
    replay.expect(
        145,
        told("ReplicationLinkDown", host="v01", name="voms01", conn_name="v02"),
        told("ReplicationLinkDown", host="v02", name="voms01", conn_name="v01"),
        told("DRBDStandAlone", host="v02", name="voms01", conn_name="v01"),
    )
    replay.ask()


# ---- Prometheus's part -----------------------------------------------------------------------------------

DEAD, PEER = "127.0.0.11", "127.0.0.12"  # their addresses are their names: no /etc/hosts is needed


class Exporter(ThreadingHTTPServer):
    """A host's exporter, as far as Prometheus can tell."""

    def __init__(self, host: str, page: bytes = b"") -> None:
        self.page = page
        super().__init__((host, 10810), ExporterHandler)
        Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def end(self) -> None:
        """Refuse from now on."""
        self.shutdown()
        self.server_close()


class ExporterHandler(BaseHTTPRequestHandler):
    """Answers every request with the page."""

    server: Exporter

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.end_headers()
        self.wfile.write(self.server.page)

    def log_message(self, *_: object) -> None:
        pass


def test_prometheus_tells_a_failed_host_within_seconds(tmp_path, fake, monkeypatch, capsys):
    """Prometheus itself makes the series of a target that does not answer stale."""

    def page(label: str) -> bytes:
        monkeypatch.setattr(drbd.platform, "node", lambda: "v02")
        fake.replay84(label)
        collector = drbd.Drbd(fake.paths)
        try:
            text = render(collector.collect(time.monotonic() + SOON)).decode()
        finally:
            collector.close()
        assert 'conn_name="v01"' in text
        return text.replace('conn_name="v01"', f'conn_name="{DEAD}"').encode()

    for name in ("prometheus.yml", *RULE_FILES):
        shutil.copy(RULES / name, tmp_path)
    name_targets(tmp_path / "prometheus.yml", {host: f"{host}:10810" for host in (DEAD, PEER)})
    connected, lost = page("14-connected-primary-secondary.v02"), page("33-peer-powered-off.v02")
    dead, peer = Exporter(DEAD), Exporter(PEER, connected)
    try:
        with prometheus(tmp_path / "prometheus.yml", tmp_path) as server:

            def firing() -> set[tuple[str, str]]:
                answer = requests.get(f"{server.url}/api/v1/alerts", timeout=SOON).json()
                firing = [it["labels"] for it in answer["data"]["alerts"] if it["state"] == "firing"]
                return {(it["alertname"], it.get("host", "")) for it in firing} - {("Watchdog", "")}

            def scraped() -> list[str]:
                query = {"query": 'up{job="vmheal-state"} == 1'}
                found = requests.get(f"{server.url}/api/v1/query", params=query, timeout=SOON).json()
                return found["data"]["result"]

            wait_until(lambda: len(scraped()) == 2, "both hosts to be scraped", SOON)
            assert firing() == set()
            dead.end()
            wait_until(lambda: ("HostUnreachable", DEAD) in firing(), "the warning", SOON)
            assert firing() == {("HostUnreachable", DEAD)}
            peer.page, begun = lost, time.monotonic()
            wait_until(lambda: ("HostFailure", DEAD) in firing(), "the failure", SOON, 0.05)
            seconds = time.monotonic() - begun
            wait_until(lambda: firing() == {("HostFailure", DEAD)}, "the end of the warning", SOON)
            with capsys.disabled():
                print(f"\nthe second plane dark to HostFailure firing {seconds:.1f} s")
            peer.end()
            wait_until(lambda: ("HostUnreachable", PEER) in firing(), "the other's warning", SOON)
            assert "HostFailure" not in {name for name, _ in firing()}
    finally:
        peer.server_close()
        dead.server_close()


# ---- Alertmanager's part ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (["alertname=VMFailure", "action=restart"], "vmheal,operators"),
        (["alertname=HostFailure", "action=failover"], "vmheal,operators"),
        (["alertname=HostUnreachable"], "operators"),
        (["alertname=VMHealStorm"], "operators"),
        (["alertname=Watchdog"], "watchdog"),
    ],
    ids=" ".join,
)
def test_who_hears_of_it(labels, receivers):
    said = run("amtool", "config", "routes", "test", "--config.file=alertmanager.yml", *labels)
    assert said.strip() == receivers


def inhibited(folder, sent: list[dict[str, str]]) -> list[dict[str, str]]:
    """Give these alerts to Alertmanager, and tell which of them nobody hears of."""
    shutil.copy(RULES / "alertmanager.yml", folder)
    (folder / "webhook.token").write_text("secret")
    with alertmanager(folder / "alertmanager.yml", folder) as server:
        url = f"{server.url}/api/v2/alerts"
        requests.post(url, json=[{"labels": it} for it in sent], timeout=SOON).raise_for_status()

        def states() -> list[tuple[dict[str, str], str]]:
            told = requests.get(url, timeout=SOON).json()
            return [(it["labels"], it["status"]["state"]) for it in told]

        def all_are_routed() -> bool:
            now = [state for _, state in states()]
            return len(now) == len(sent) and "suppressed" in now and "unprocessed" not in now

        wait_until(all_are_routed, "all to be routed", SOON)
        return [labels for labels, state in states() if state == "suppressed"]


def test_a_host_failure_hides_only_warnings_of_the_same_host(tmp_path):
    warning, critical = {"severity": "warning"}, {"severity": "critical"}
    sent = [
        {"alertname": "HostFailure", "action": "failover", "host": "v01", **critical},
        {"alertname": "VMFailure", "action": "restart", "host": "v01", **critical},
        {"alertname": "Wished", "action": "migrate", "host": "v01", **warning},
        {"alertname": "VMPaused", "host": "v01", **warning},
        {"alertname": "HostDrained", "host": "v01", "severity": "info"},
        {"alertname": "ReplicationLinkDown", "host": "v02", **warning},
        {"alertname": "VMHealRefused", "host": "v01", **critical},
        {"alertname": "Elsewhere", **warning},
    ]
    assert {it["alertname"] for it in inhibited(tmp_path, sent)} == {"VMPaused", "HostDrained"}


def sources() -> set[str]:
    """The alerts that hide others."""
    shipped = yaml.safe_load((RULES / "alertmanager.yml").read_text())["inhibit_rules"]
    return {it.split("=")[1].strip('"') for rule in shipped for it in rule["source_matchers"]}


RESOURCE = {"name": "voms01", "volume": "0", "conn_name": "v02", "host": "v01", "domain": "voms01"}


@pytest.mark.parametrize(
    ("says", "hides"),
    [
        ("VMHealStorm", {"HostUnreachable", "ExporterDown"}),
        ("ExporterDown", {"HostUnreachable"}),
        (
            "DRBDSplitBrain",
            {"DRBDTwoPrimaries", "DRBDStandAlone", "ReplicationLinkDown", "DRBDRedundancyLost"},
        ),
        ("DRBDStandAlone", {"ReplicationLinkDown", "DRBDRedundancyLost"}),
        ("ReplicationLinkDown", {"DRBDRedundancyLost"}),
        ("DRBDDiskFailed", {"DRBDRedundancyLost"}),
        ("DRBDResyncStalled", {"DRBDRedundancyLost"}),
        ("DRBDNoQuorum", {"DRBDSuspended"}),
        ("VMPausedIOError", {"VMPaused"}),
        ("HostHardwareFailing", {"HostHot", "HostFanFailed", "HostMemoryErrors"}),
        ("LibvirtDown", {"HostNotManageable"}),
    ],
)
def test_what_follows_from_something_else_is_not_said(tmp_path, says, hides):
    """Of the same host, resource or VM; nothing else is hidden by it, and nothing elsewhere."""
    effects = alerts().keys() - sources()
    here = [{"alertname": it, **alerts()[it]["labels"], **RESOURCE} for it in effects | hides | {says}]
    elsewhere = {"host": "v09", "name": "ce01", "domain": "ce01"}
    there = [{"alertname": it, **alerts()[it]["labels"], **RESOURCE, **elsewhere} for it in effects]
    found = inhibited(tmp_path, here + there)
    assert {it["alertname"] for it in found if it["host"] == "v01"} == hides
    if says != "VMHealStorm":  # of a storm nobody asks where
        assert not [it for it in found if it["host"] == "v09"]


def test_what_carries_an_action_is_never_hidden():
    shipped = yaml.safe_load((RULES / "alertmanager.yml").read_text())["inhibit_rules"]
    acting = {name for name, rule in alerts().items() if "action" in rule["labels"]}
    assert acting
    for rule in shipped:
        matchers = rule["target_matchers"]
        named = [it for it in matchers if it.startswith("alertname")]
        assert 'action=""' in matchers or named, rule
        for it in named:
            names = set(it.split("=")[1].strip('~"').split("|"))
            assert names <= alerts().keys() - acting, it
