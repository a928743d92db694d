"""What the exporters really publish, turned into input for promtool, which says what the rules make of it."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml
from prometheus_client.metrics_core import Metric

from exporter import drbdsetup
from exporter.collectors import drbd
from tests.exporter.fake_drbd import FakeDrbd
from tests.prometheus import RULE_FILES

SOON = 20.0
RULES = Path(__file__).parents[2] / "rules"


def run(*argv: str, cwd: Path = RULES) -> str:
    """Run a checking program; its failure is the test's."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


SHIPPED = [
    rule
    for name in RULE_FILES
    for group in yaml.safe_load((RULES / name).read_text())["groups"]
    for rule in group["rules"]
]
RECORDED = [rule for rule in SHIPPED if "record" in rule]
"""Rules that only make a series for others."""


def alerts() -> dict[str, dict[str, object]]:
    """Every shipped alert by its name."""
    return {rule["alert"]: rule for rule in SHIPPED if "alert" in rule}


Told = tuple[str, dict[str, str]]


def told(alert: str, /, **labels: str) -> Told:
    """An alert that fires: its name, and its labels beside severity and action."""
    return alert, labels


class Replay:
    """Collects what was published when, and asks promtool.

    Args:
        folder: where the input is written.
        fake: the DRBD whose exporter is read.
        node: says which host that one is.
        step: seconds between two scrapes, and between two evaluations: promtool has one interval for all groups.
    """

    def __init__(self, folder: Path, fake: FakeDrbd, node: Callable[[str], object], step: int = 1) -> None:
        self._folder = folder
        self._fake = fake
        self._node = node
        self.step = step
        self._samples: dict[tuple[str, tuple[tuple[str, str], ...]], dict[int, float]] = {}
        self._checks: list[dict[str, object]] = []
        self.asked = False

    def publish(self, host: str, metrics: Iterable[Metric], at: range, job: str = "vmheal-state") -> None:
        """Take what the host published at these seconds, with the labels that a scrape adds.

        The actuator's series have none of a host but their own.
        """
        scraped = {"job": job, "instance": f"{host}:10810", "host": host}
        if job == "vmheal-actuator":
            scraped = {"job": job, "instance": "localhost:10811"}
        for metric in metrics:
            for sample in metric.samples:
                labels = scraped | sample.labels
                key = sample.name, tuple(labels.items())
                self._samples.setdefault(key, {}).update(dict.fromkeys(at, float(sample.value)))

    def up(self, host: str, value: float, at: range, job: str = "vmheal-state") -> None:
        """Whether the host could be scraped at these seconds."""
        metric = Metric("up", "", "gauge")
        metric.add_sample("up", {}, value)
        self.publish(host, [metric], at, job)

    def drbd(self, host: str, label: str, at: range, **edit: Callable[[str], str]) -> None:
        """Let the exporter on the host read a capture, and take what it publishes.

        Args:
            host: the host.
            label: as for `replay84`; for DRBD 9 `LABEL/HOST`.
            at: when.
            edit: by subcommand, or `proc` for /proc/drbd, what is changed in the real output.
        """
        self._node(host)
        if "/" in label:
            self._fake.replay9(*label.split("/"))
        else:
            self._fake.replay84(label)
        for name, change in edit.items():
            path = self._fake.paths.proc if name == "proc" else self._fake.base / "out" / name
            path.write_text(change(path.read_text()))
        collector = drbd.Drbd(self._fake.paths)
        try:
            self.publish(host, list(collector.collect(time.monotonic() + SOON)), at)
        finally:
            collector.close()

    def openmetrics(self, begin: float) -> str:
        """All of it with its times, as `promtool tsdb create-blocks-from openmetrics` takes it."""
        lines = []
        for (name, labels), values in self._samples.items():
            inside = ",".join(f"{label}={json.dumps(value)}" for label, value in labels)
            lines += [f"{name}{{{inside}}} {value} {begin + at:.3f}" for at, value in values.items()]
        return "\n".join([*lines, "# EOF", ""])

    def expect(self, second: int, *expected: Told) -> None:
        """Have exactly these alerts fire then; severity and action as in the rules."""
        self._check(second, 'alertname!="Watchdog"', expected)

    def quiet(self, second: int, name: str) -> None:
        """Have this alert not fire then."""
        self._check(second, f'alertname="{name}"', ())

    def _check(self, second: int, matcher: str, expected: Iterable[Told]) -> None:
        wanted = []
        for name, labels in expected:
            all_ = {"alertname": name, "alertstate": "firing"} | labels | alerts()[name]["labels"]
            inside = ",".join(f"{key}={json.dumps(it)}" for key, it in all_.items())
            wanted.append({"labels": f"ALERTS{{{inside}}}", "value": 1})
        expression = f'ALERTS{{{matcher},alertstate="firing"}}'
        self._checks.append({"expr": expression, "eval_time": f"{second}s", "exp_samples": wanted})

    def ask(self) -> None:
        """Let promtool judge all that is expected."""
        self.asked = True
        last = max(int(str(it["eval_time"])[:-1]) for it in self._checks)
        series = []
        for (name, labels), values in self._samples.items():
            inside = ",".join(f"{label}={json.dumps(value)}" for label, value in labels)
            row = [str(values.get(second, "stale")) for second in range(0, last + self.step, self.step)]
            series.append({"series": f"{name}{{{inside}}}", "values": " ".join(row)})
        test = {"interval": f"{self.step}s", "input_series": series, "promql_expr_test": self._checks}
        for name in RULE_FILES:
            shutil.copy(RULES / name, self._folder)
        written = {"rule_files": [*RULE_FILES], "evaluation_interval": f"{self.step}s", "tests": [test]}
        # tests/rules/mutants.py plays it again.
        (self._folder / "replay.yml").write_text(yaml.safe_dump(written))
        run("promtool", "test", "rules", "replay.yml", cwd=self._folder)


def fake_drbd(folder: Path, patch: pytest.MonkeyPatch) -> FakeDrbd:
    """A DRBD whose programs are the first in the PATH."""
    fake = FakeDrbd(folder / "drbd")
    patch.setenv("PATH", f"{fake.base}/bin:{os.environ['PATH']}")
    patch.setattr(drbdsetup, "DETAILS_PAUSE_SECONDS", 0.0)
    return fake


def replay_of(folder: Path, fake: FakeDrbd, patch: pytest.MonkeyPatch) -> Replay:
    """A replay in the folder, of what this DRBD's exporter says on whichever host."""
    return Replay(folder, fake, lambda host: patch.setattr(drbd.platform, "node", lambda: host))
