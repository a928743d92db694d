"""Debian's Prometheus, started for a test."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import yaml

from tests.netns import Netns
from tests.program import Server, configured_server

RULE_FILES = ("vmheal.yml", "health.yml", "hardware.yml")
"""What prometheus.yml names; of those that are not beside it Prometheus says nothing."""


def prometheus(
    config: Path | str, folder: Path, *, port: int | None = None, netns: Netns | None = None
) -> AbstractContextManager[Server]:
    """Run Prometheus; its storage is in the folder. See `configured_server`."""
    return configured_server(
        "prometheus",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        # Watchdog, told before Alertmanager was found, is told again soon; without it a minute later.
        "--rules.alert.resend-delay=5s",
        config=config,
        folder=folder,
        port=port,
        netns=netns,
    )


def name_targets(config: Path, targets: Mapping[str, str]) -> None:
    """Name the exporters, by host, in a copy of prometheus.yml: of tests that run no actuator to ask."""
    groups = [{"targets": [target], "labels": {"host": host}} for host, target in targets.items()]
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    for job in document["scrape_configs"]:
        if job.pop("http_sd_configs", None):
            job["static_configs"] = groups
    config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def leave_out(rules: Path, alert: str) -> None:
    """Take an alert from a copy of the rules: of tests that do again and again what it is about."""
    document = yaml.safe_load(rules.read_text(encoding="utf-8"))
    for group in document["groups"]:
        group["rules"] = [rule for rule in group["rules"] if rule.get("alert") != alert]
    rules.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def with_hardware_jobs(text: str) -> str:
    """The shipped prometheus.yml with the jobs that are commented out in it, for the hosts' hardware."""
    head, mark, tail = text.partition("  # - job_name: node\n")
    assert mark
    shown = "".join(f"  {line.removeprefix('  # ')}\n" for line in (mark + tail).splitlines())
    return head + shown
