"""A line whose hosts tell of their hardware, as node_exporter does where a site runs it (tests/samples/hardware)."""

import contextlib
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.exporter.drbd_samples import SAMPLES
from tests.line.line import HOSTS, RULES, SOON, Line
from tests.program import Program
from tests.prometheus import with_hardware_jobs

NODE_PORT = 9100
FAILING = "HostHardwareFailing"


class HardwareLine(Line):
    """All is well with the hardware at first."""

    def report(self, host: str, *, hot: bool) -> None:
        """Have a host's page say from now on whether a temperature is at its critical limit."""
        text, hotter = (
            (SAMPLES / "hardware" / label / "node.prom").read_text() for label in ("healthy", "failing")
        )
        if hot:
            (was,), (alarm,) = (
                [it for it in page.splitlines() if it.startswith("node_hwmon_temp_crit_alarm_celsius{")]
                for page in (text, hotter)
            )
            assert was != alarm
            text = text.replace(was, alarm)
        page = self._page(host)
        new = page.with_name("new")
        new.write_text(text)
        new.replace(page)

    def failing(self) -> dict[str, Any] | None:
        """The alert that a host's hardware fails, as Alertmanager has it."""
        found = [it for it in self.all_alerts() if it["labels"]["alertname"] == FAILING]
        return found[0] if found else None

    def silence(self, **labels: str) -> None:
        """Silence these alerts in Alertmanager, as a person does."""
        matchers = [
            {"name": name, "value": value, "isRegex": False, "isEqual": True}
            for name, value in labels.items()
        ]
        now = datetime.now(UTC)
        body = {
            "matchers": matchers,
            "startsAt": now.isoformat(),
            "endsAt": (now + timedelta(hours=1)).isoformat(),
            "createdBy": "ann",
            "comment": "we know",
        }
        with self.netns.entered(), requests.Session() as session:
            session.trust_env = False
            url = f"{self.alertmanager.url}/api/v2/silences"
            session.post(url, json=body, timeout=SOON).raise_for_status()

    def _page(self, host: str) -> Path:
        return self.folder / host / "node" / "metrics"

    def _start_more(self, started: contextlib.ExitStack) -> None:
        for host, address in HOSTS.items():
            folder = self._page(host).parent
            folder.mkdir()
            self.report(host, hot=False)
            argv = [sys.executable, "-m", "http.server", str(NODE_PORT), "--bind", address]
            log = self.folder / host / "node.log"
            page = Program([*argv, "--directory", folder], log, netns=self.netns)
            started.enter_context(page).wait_ready(f"http://{address}:{NODE_PORT}/metrics")

    def _copy_rules(self, number: int) -> Path:
        """The rules as shipped, but that they look each second."""
        folder = super()._copy_rules(number)
        rules = (RULES / "hardware.yml").read_text()
        assert "    interval: 15s\n" in rules
        (folder / "hardware.yml").write_text(rules.replace("    interval: 15s\n", "    interval: 1s\n"))
        shipped = yaml.safe_load(with_hardware_jobs((RULES / "prometheus.yml").read_text()))
        (node,) = (it for it in shipped["scrape_configs"] if it["job_name"] == "node")
        configuration = folder / "prometheus.yml"
        document = yaml.safe_load(configuration.read_text())
        document["scrape_configs"].append(node | {"scrape_interval": "1s", "scrape_timeout": "1s"})
        configuration.write_text(yaml.safe_dump(document))
        return folder
