"""Break each alert in every small way, and see a test of it fail: `python -m tests.rules.mutants [ALERT ...]`.

The replays of tests/rules are made once, by pytest; each mutant is then played against those, alone with what it
builds on. What survives is printed: a part of a rule that no test needs.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from tests.prometheus import RULE_FILES
from tests.rules.replay import RULES, SHIPPED

SWAPS = (
    ("==", "!="), (" > ", " < "), (" < ", " > "), ("and on", "unless on"), ("unless on", "and on"), ("== 1", "== 0"),
    ("== 0", "== 1"), ("max by", "min by"), ("min by", "max by"), ("sum by", "max by"), ("count by", "max by"),
    ("bool 0", "bool 1e9"), ("bool 2", "bool 1"), ("[15m]", "[1s]"), ("last_over_time", "min_over_time"),
)  # fmt: skip
# Beside each alert: the rules that it builds on.
NEEDED = ("HostFailure", "host:vmheal_hardware_failing:max")

WATCHDOG = 'alertname="Watchdog"'

EQUIVALENT = (
    # Of what is 1 throughout the greatest is the least, and `and` and `unless` keep the value on their left.
    re.compile(r"(?:max|min) by \([^)]*\) \(\s*[^()]*? == 1(?:\)|\s+(?:and|unless)\b)"),
    # What has one series for these labels: a host's connection to a peer, what is of a host and resource, or of a
    # domain, host, source or order, of which one actuator tells.
    re.compile(
        r"(?:max|min) by \([^)]*\) \(\s*(?:label_replace\(\s*)?(?:drbd_device_state|vmheal_drbd_resource_fencing"
        r"|libvirt_up|node_md_disks|node_md_disks_required|vmheal_(?:exporter_collector_success|paused_until_timestamp_seconds|host_order|escalation|plan_begun_timestamp_seconds|source_up))\b"
    ),
    re.compile(r"max by \(host, name, conn_name\) \(drbd_connection_state\b"),
    # What is never negative has a sum above 0 when its greatest is.
    re.compile(r"sum by \([^)]*\) \(\s*increase\([^()]*\)(?:\s+or increase\([^()]*\))?\s*\) > 0"),
)
"""Where a swap of how series are brought together changes nothing, and why."""

Rule = dict[str, object]


def _name(rule: Rule) -> str:
    return str(rule.get("alert") or rule["record"])


def _is_compared(expr: str, at: int) -> bool:
    """Whether it matters what the aggregation there gives; else only that it gives something, which any does."""
    begins = expr.index("(", expr.index(")", at))
    depth, ends = 1, begins
    while depth:
        ends += 1
        depth += {"(": 1, ")": -1}.get(expr[ends], 0)
    after = expr[ends + 1 :].lstrip()
    return not (after == "" or re.match(r"(?:and|or|unless)\b", after))


def mutants(rule: Rule) -> Iterator[tuple[str, Rule]]:
    """The rule with one thing changed, and what."""
    expr = str(rule["expr"])
    if "for" in rule:
        yield "no for", {key: it for key, it in rule.items() if key != "for"}
        number, unit = re.fullmatch(r"(\d+)(\w+)", str(rule["for"])).groups()
        yield "for twice as long", rule | {"for": f"{int(number) * 2}{unit}"}
    for old, new in SWAPS:
        for at in [it.start() for it in re.finditer(re.escape(old), expr)]:
            if any(it.match(expr, at) for it in EQUIVALENT) or (" by" in old and not _is_compared(expr, at)):
                continue
            yield f"{old} at {at} is {new}", rule | {"expr": expr[:at] + new + expr[at + len(old) :]}
    for found in re.finditer(r"=~\"([^\"]+)\"", expr):
        words = found[1].split("|")
        for word in words if len(words) > 1 else ():
            fewer = "|".join(it for it in words if it != word)
            yield f"without {word!r}", rule | {"expr": expr[: found.start(1)] + fewer + expr[found.end(1) :]}
    for found in re.finditer(r"\b(?:or|and|unless)\b", expr):
        # A side of it alone, where that is an expression still.
        yield f"only what is before {found[0]} at {found.start()}", rule | {"expr": expr[: found.start()]}
        after = re.sub(r"^\s*on \([^)]*\)", "", expr[found.end() :])
        yield f"only what is after {found[0]} at {found.start()}", rule | {"expr": after}
    for found in re.finditer(r"(?<=[\s>])\d+(?=\s|$|\))", expr):
        if found[0] not in {"0", "1"}:
            more = str(int(found[0]) * 3)
            yield f"{found[0]} is {more}", rule | {"expr": expr[: found.start()] + more + expr[found.end() :]}


def replays_of(folder: Path) -> list[dict[str, object]]:
    """Let pytest make every replay there, unless it has."""
    if not folder.exists():
        argv = [sys.executable, "-m", "pytest", "-q", f"--basetemp={folder}", "tests/rules"]
        if subprocess.run(argv, timeout=3600, check=False).returncode:
            sys.exit("the rules do not pass their tests as they are")
    made = [yaml.load(it.read_text(), yaml.CSafeLoader) for it in sorted(folder.rglob("replay.yml"))]
    return [*made, yaml.safe_load((RULES / "vmheal_test.yml").read_text())]


class Judge:
    """The replays, cut down to one alert."""

    def __init__(self, name: str, replays: list[dict[str, object]], folder: Path) -> None:
        self._folder = folder / name
        self._folder.mkdir(parents=True)
        self._inputs: list[Path] = []
        own = next(str(it["expr"]) for it in SHIPPED if _name(it) == name)
        self._rules = [
            it for it in SHIPPED if _name(it) == name or (_name(it) in NEEDED and _name(it) in own)
        ]
        read = " ".join(str(it["expr"]) for it in self._rules)
        self._read = set(re.findall(r"[A-Za-z_:][A-Za-z0-9_:]*", read))
        played: dict[tuple[bool, str], list[object]] = {}
        for replay in replays:
            tests = self._only(name, replay)
            # Those in which it fires come first: most mutants end there.
            silent = "'value': 1" not in str(tests)
            played.setdefault((silent, str(replay["evaluation_interval"])), []).extend(tests)
        for (silent, interval), tests in sorted(played.items()):
            if tests:
                path = self._folder / f"{silent:d}-{interval}.yml"
                input_ = {"rule_files": [*RULE_FILES], "evaluation_interval": interval, "tests": tests}
                path.write_text(yaml.dump(input_, Dumper=yaml.CSafeDumper))
                self._inputs.append(path)

    def _only(self, name: str, replay: dict[str, object]) -> list[object]:
        tests = []
        for test in replay["tests"]:
            checks = []
            for check in test.get("promql_expr_test", []):
                wanted = [it for it in check["exp_samples"] if f'alertname="{name}"' in it["labels"]]
                if "ALERTS" in check["expr"] and "count(" not in check["expr"]:
                    one = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
                    if f'"{name}"' in check["expr"] or 'alertname="' not in check["expr"].replace(
                        WATCHDOG, ""
                    ):
                        checks.append(check | {"expr": one, "exp_samples": wanted})
                elif name in check["expr"]:
                    checks.append(check)
            told = [it for it in test.get("alert_rule_test", []) if it["alertname"] == name]
            series = [it for it in test["input_series"] if it["series"].partition("{")[0] in self._read]
            if series and (checks or told):
                cut = {"input_series": series, "promql_expr_test": checks, "alert_rule_test": told}
                tests.append(test | cut)
        return tests

    def kills(self, rule: Rule) -> bool:
        """Whether a test fails with this instead of the rule; also when it is no rule any more."""
        played = [rule if _name(it) == _name(rule) else it for it in self._rules]
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            for file in RULE_FILES:
                groups = [{"name": "mutant", "rules": played}] if file == RULE_FILES[0] else []
                (Path(folder) / file).write_text(yaml.dump({"groups": groups}))
            for path in self._inputs:
                (Path(folder) / "test.yml").write_bytes(path.read_bytes())
                argv = ["promtool", "test", "rules", "test.yml"]
                done = subprocess.run(argv, cwd=folder, capture_output=True, timeout=600, check=False)
                if done.returncode:
                    return True
        return False


def main() -> None:
    """Judge all, and print what survives."""
    asked = argparse.ArgumentParser()
    asked.add_argument("alerts", nargs="*", help="only these")
    asked.add_argument(
        "--replays", type=Path, help="the --basetemp of a run of tests/rules, made if it is not there"
    )
    arguments = asked.parse_args()
    chosen = set(arguments.alerts)
    made = survived = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        replays = replays_of(arguments.replays or folder / "replays")
        for rule in SHIPPED:
            name = str(rule.get("alert", "HostHardwareFailing"))
            if name == "Watchdog" or (chosen and name not in chosen):
                continue
            print(name, file=sys.stderr, flush=True)
            judge = Judge(
                name, replays, folder / str(rule.get("alert", rule.get("record"))).replace(":", "-")
            )
            if judge.kills(rule):
                sys.exit(f"{name} does not pass as it is")
            changed = [it for it in mutants(rule) if it[1] != rule]
            with ThreadPoolExecutor(2) as pool:
                killed = list(pool.map(judge.kills, [it for _, it in changed]))
            made += len(changed)
            for (what, _), dead in zip(changed, killed, strict=True):
                if not dead:
                    survived += 1
                    print(f"{name}: {what}: nobody notices", flush=True)
    print(f"{made} mutants, {survived} survived")


if __name__ == "__main__":
    main()
