"""Prometheus asks the actuator for the hosts: what it is told, and what the shipped prometheus.yml makes of it."""

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import replace

import pytest
import requests
from prometheus_client import CollectorRegistry

from actuator.config import Settings
from actuator.receive import Server
from actuator.targets import targets
from tests.actuator.deliveries import MemoryJournal, parts
from tests.lab.waiting import wait_until
from tests.prometheus import RULE_FILES, prometheus
from tests.rules.replay import RULES, SOON


def settings(hosts: Mapping[str, Mapping[str, str]]) -> Settings:
    return Settings.model_validate(
        {
            "journal": {"path": "/nowhere/journal"},
            "webhook": {"token_file": "/nowhere/token"},
            "alertmanager": {"url": "http://localhost:9093"},
            "prometheus": {"url": "http://localhost:9090"},
            "ssh": {"key_file": "/nowhere/key", "known_hosts_file": "/nowhere/known_hosts"},
            "hosts": {name: {"libvirt_uri": "test:///default", **host} for name, host in hosts.items()},
        }
    )


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ({"address": "v01"}, "v01:10810"),
        ({"address": "10.10.0.1"}, "10.10.0.1:10810"),
        ({"address": "fd00::1"}, "[fd00::1]:10810"),
        ({"address": "fd00::1", "exporter": "[fd00::2]:443"}, "[fd00::2]:443"),
        ({"address": "v01", "exporter": "mon-v01:9999"}, "mon-v01:9999"),
    ],
)
def test_a_host_is_where_its_exporter_is(host, target):
    assert targets(settings({"v01": host})) == [{"targets": [target], "labels": {"host": "v01"}}]


@pytest.mark.parametrize("exporter", ["v01", "fd00::1", "v01:", "v01:port", "http://v01:10810"])
def test_an_exporter_is_a_host_and_a_port(exporter):
    with pytest.raises(ValueError, match="exporter"):
        settings({"v01": {"address": "v01", "exporter": exporter}})


@pytest.mark.daemons  # needs Debian's prometheus package
def test_the_shipped_prometheus_scrapes_the_hosts_that_it_is_told(tmp_path):
    """And goes on with them while the actuator is away."""
    told = [{"targets": ["127.0.0.1:1"], "labels": {"host": "v01"}}]
    journal = MemoryJournal()
    given = replace(parts(journal), targets=lambda: told)
    for name in ("prometheus.yml", *RULE_FILES):
        shutil.copy(RULES / name, tmp_path)
    config = tmp_path / "prometheus.yml"
    with contextlib.ExitStack() as started:
        actuator = started.enter_context(Server("127.0.0.1:0", given))
        text = config.read_text().replace("localhost:10811", f"127.0.0.1:{actuator.port}")
        config.write_text(text.replace("refresh_interval: 5s", "refresh_interval: 1s"))
        server = started.enter_context(prometheus(config, tmp_path))

        def scraped() -> dict[str, set[str]]:
            found: dict[str, set[str]] = {}
            answer = requests.get(f"{server.url}/api/v1/targets", timeout=SOON).json()
            for it in answer["data"]["activeTargets"]:
                found.setdefault(it["labels"]["job"], set()).add(it["labels"].get("host", ""))
            return found

        hosts = {"v01"}
        wait_until(lambda: scraped().get("vmheal-state") == hosts, "the host to be scraped", SOON)
        assert scraped()["vmheal-stats"] == hosts
        told.append({"targets": ["127.0.0.1:2"], "labels": {"host": "v02"}})
        hosts = {"v01", "v02"}
        wait_until(lambda: scraped()["vmheal-state"] == hosts, "the new host to be scraped", SOON)
        port = actuator.port
        actuator.stop()
        wait_until(lambda: _failures(server.url) > 0, "Prometheus to ask in vain", SOON)
        assert scraped()["vmheal-state"] == hosts
        with Server(f"127.0.0.1:{port}", replace(given, registry=CollectorRegistry())):
            told.pop(0)
            wait_until(lambda: scraped()["vmheal-state"] == {"v02"}, "the host to be gone", SOON)


def _failures(url: str) -> float:
    lines = requests.get(f"{url}/metrics", timeout=SOON).text.splitlines()
    return sum(float(it.split()[-1]) for it in lines if it.startswith("prometheus_sd_http_failures_total"))
