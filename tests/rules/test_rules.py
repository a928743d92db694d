"""The shipped rules and example configurations, checked by Prometheus's and Alertmanager's own tools."""

import subprocess
from pathlib import Path

import pytest

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
    import yaml

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
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}, rule["alert"]
