"""The shipped rules and example configurations, checked by Prometheus's and Alertmanager's own tools."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import requests
import yaml
from prometheus_client.metrics_core import Metric

from exporter import drbdsetup
from exporter.collectors import drbd
from exporter.collectors.libvirt_state import LifecycleEvents
from exporter.exposition import CONTENT_TYPE, render
from tests.alertmanager import alertmanager
from tests.exporter.fake_drbd import FakeDrbd
from tests.lab.waiting import wait_until
from tests.prometheus import prometheus

SOON = 20.0
RULES = Path(__file__).parents[2] / "rules"

pytestmark = pytest.mark.daemons  # needs Debian's prometheus and prometheus-alertmanager packages


@pytest.mark.parametrize(
    "argv",
    [
        ["promtool", "check", "config", "prometheus.yml"],
        ["promtool", "check", "rules", "--lint-fatal", "vmheal.yml"],
        ["promtool", "test", "rules", "vmheal_test.yml"],
        ["amtool", "check-config", "alertmanager.yml"],
    ],
    ids=" ".join,
)
def test_shipped_file_is_accepted(argv):
    done = subprocess.run(argv, cwd=RULES, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_described():
    rules = [
        rule
        for group in yaml.safe_load((RULES / "vmheal.yml").read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    tests = (RULES / "vmheal_test.yml").read_text()
    assert rules
    for rule in rules:
        assert rule["alert"] in tests, f"{rule['alert']} has no promtool test"
        assert {"summary", "description"} <= rule["annotations"].keys(), rule["alert"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info", "none"}, rule["alert"]


def run(*argv: str, cwd: Path = RULES) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---- what the exporter really publishes ------------------------------------------------------------------


class Replay:
    """Captures of real DRBD, as the exporter publishes them, turned into input for promtool."""

    def __init__(self, folder: Path, node: Callable[[str], object]) -> None:
        self._folder = folder
        self._node = node
        self._samples: dict[tuple[str, tuple[tuple[str, str], ...]], dict[int, float]] = {}

    def publish(self, host: str, metrics: Iterable[Metric], at: range) -> None:
        """Take what the host published at these seconds, with the labels that a scrape adds."""
        scraped = {"job": "vmheal-state", "instance": f"{host}:10810", "host": host}
        for metric in metrics:
            for sample in metric.samples:
                key = sample.name, tuple((sample.labels | scraped).items())
                self._samples.setdefault(key, {}).update(dict.fromkeys(at, float(sample.value)))

    def up(self, host: str, value: float, at: range) -> None:
        """Whether the host could be scraped at these seconds."""
        metric = Metric("up", "", "gauge")
        metric.add_sample("up", {}, value)
        self.publish(host, [metric], at)

    def drbd(self, host: str, fake: FakeDrbd, at: range) -> None:
        """Let the exporter on the host read what the fake replays, and take what it publishes."""
        self._node(host)
        collector = drbd.Drbd(fake.paths)
        try:
            self.publish(host, list(collector.collect(time.monotonic() + SOON)), at)
        finally:
            collector.close()

    def expect(self, seconds: int, *alerts: str) -> None:
        """Let promtool say which alerts fire then: the labels of each."""
        series = []
        for (name, labels), values in self._samples.items():
            inside = ",".join(f"{label}={json.dumps(value)}" for label, value in labels)
            row = [str(values.get(second, "stale")) for second in range(seconds + 1)]
            series.append({"series": f"{name}{{{inside}}}", "values": " ".join(row)})
        check = {
            "expr": 'ALERTS{alertname!="Watchdog",alertstate="firing"}',
            "eval_time": f"{seconds}s",
            "exp_samples": [
                {"labels": f'ALERTS{{alertstate="firing",{labels}}}', "value": 1} for labels in alerts
            ],
        }
        test = {"interval": "1s", "input_series": series, "promql_expr_test": [check]}
        shutil.copy(RULES / "vmheal.yml", self._folder)
        written = {"rule_files": ["vmheal.yml"], "evaluation_interval": "1s", "tests": [test]}
        (self._folder / "replay.yml").write_text(yaml.safe_dump(written))
        run("promtool", "test", "rules", "replay.yml", cwd=self._folder)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    fake = FakeDrbd(tmp_path / "drbd")
    monkeypatch.setenv("PATH", f"{fake.base}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(drbdsetup, "DETAILS_PAUSE_SECONDS", 0.0)
    return fake


@pytest.fixture
def replay(tmp_path, monkeypatch):
    def node(host: str) -> None:
        monkeypatch.setattr(drbd.platform, "node", lambda: host)

    return Replay(tmp_path, node)


FAILED = 'alertname="HostFailure",action="failover",severity="critical",host="v01"'
UNREACHABLE = 'alertname="HostUnreachable",severity="warning",host="v01"'


@pytest.mark.parametrize(
    ("label", "alert"),
    [("33-peer-powered-off.v02", FAILED), ("14-connected-primary-secondary.v02", UNREACHABLE)],
    ids=["HostFailure", "HostUnreachable"],
)
def test_what_84_published_of_a_dark_host(fake, replay, label, alert):
    """On 8.4 the kernel says "peer": the exporter puts the host's name."""
    fake.replay84("14-connected-primary-secondary.v02")
    replay.drbd("v02", fake, range(5))
    replay.up("v02", 1, range(16))
    replay.up("v01", 1, range(5))
    replay.up("v01", 0, range(5, 16))
    fake.replay84(label)
    replay.drbd("v02", fake, range(5, 16))
    replay.expect(15, alert)


def test_what_9_published_of_a_dark_host(fake, replay):
    fake.replay9("09-ce01-connected", "v02")
    replay.drbd("v02", fake, range(5))
    replay.up("v02", 1, range(16))
    replay.up("v03", 1, range(16))
    replay.up("v01", 1, range(5))
    replay.up("v01", 0, range(5, 16))
    fake.replay9("38-v02-isolated-no-quorum", "v02")
    replay.drbd("v02", fake, range(5, 16))
    replay.expect(15, FAILED)


def test_what_was_published_of_a_split_brain(fake, replay):
    """The hosts stand alone: neither would notice the other's end."""
    for host, peer_dark in (("v01", False), ("v02", True)):
        fake.replay84(f"32-splitbrain-healed.{host}")
        replay.drbd(host, fake, range(31 if peer_dark else 21))
        replay.up(host, 1, range(31 if peer_dark else 21))
    replay.up("v01", 0, range(21, 31))
    link = 'alertname="ReplicationLinkDown",severity="warning",name="voms01"'
    replay.expect(20, f'{link},host="v01",conn_name="v02"', f'{link},host="v02",conn_name="v01"')
    replay.expect(30, UNREACHABLE)


def test_what_libvirt_told_of_a_vm_that_fails(replay):
    events, vm = LifecycleEvents(), SimpleNamespace(name=lambda: "voms01", UUIDString=lambda: "u1")
    expected = Metric("vmheal_domain_expected", "", "gauge")
    expected.add_sample("vmheal_domain_expected", {"domain": "voms01"}, 1)
    stopped, failed = 5, 5  # VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_FAILED
    replay.publish("v01", [expected], range(100))
    for time_ in range(4):
        replay.publish("v01", [events.metric({"voms01"})], range(time_ * 20, 100))
        events._lifecycle(None, vm, stopped, failed, None)
    replay.expect(
        79, 'alertname="VMPersistentFailure",action="migrate",severity="critical",host="v01",domain="voms01"'
    )
    replay.expect(59)


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

    for name in ("prometheus.yml", "vmheal.yml"):
        shutil.copy(RULES / name, tmp_path)
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump([{"targets": [f"{DEAD}:10810", f"{PEER}:10810"]}]))
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


def test_a_host_failure_hides_only_warnings_of_the_same_host(tmp_path):
    shutil.copy(RULES / "alertmanager.yml", tmp_path)
    (tmp_path / "webhook.token").write_text("secret")
    warning, critical = {"severity": "warning"}, {"severity": "critical"}
    alerts = [
        {"alertname": "HostFailure", "action": "failover", "host": "v01", **critical},
        {"alertname": "VMFailure", "action": "restart", "host": "v01", **critical},
        {"alertname": "Wished", "action": "migrate", "host": "v01", **warning},
        {"alertname": "VMPaused", "host": "v01", **warning},
        {"alertname": "ReplicationLinkDown", "host": "v02", **warning},
        {"alertname": "VMHealRefused", "host": "v01", **critical},
        {"alertname": "Elsewhere", **warning},
    ]
    with alertmanager(tmp_path / "alertmanager.yml", tmp_path) as server:
        url = f"{server.url}/api/v2/alerts"
        requests.post(url, json=[{"labels": it} for it in alerts], timeout=SOON).raise_for_status()

        def states() -> dict[str, str]:
            told = requests.get(url, timeout=SOON).json()
            return {it["labels"]["alertname"]: it["status"]["state"] for it in told}

        wait_until(lambda: len(states()) == len(alerts), "all alerts", SOON)
        wait_until(lambda: "suppressed" in states().values(), "the inhibition", SOON)
        wait_until(lambda: "unprocessed" not in states().values(), "all to be routed", SOON)
        hidden = {name for name, state in states().items() if state == "suppressed"}
        assert hidden == {"VMPaused"}
