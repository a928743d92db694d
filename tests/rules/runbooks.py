"""docs/runbooks and their index: `python -m tests.rules.runbooks` writes the index anew."""

import re
from pathlib import Path

from actuator.model import EscalationKind
from tests.rules.replay import alerts

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
INDEX = RUNBOOKS / "README.md"
SECTIONS = (
    "What it means",
    "What vmheal does by itself",
    "What to check",
    "What to do",
    "Giving control back",
)
HEAD = """\
# What each alert means, and what to do

One page for each alert: those of `rules/`, and those that vmheal-actuator sends itself. `HOST`, `VM` and `RESOURCE` stand
for the alert's labels; what is to be typed on a hypervisor says so, everything else is for the actuator's machine.

Severities: critical: a person must get up now; warning: today; info: know it; none: not for people. The column action
says what Alertmanager asks vmheal to do; everything else is for a person alone.

The links in the alerts (`runbook_url`) begin with the external label `runbooks` of `rules/prometheus.yml`, and with
`runbooks_url` of the actuator's configuration: set both to where your people find this folder.

| alert | severity | action | what it means |
|---|---|---|---|
"""


def labels() -> dict[str, dict[str, str]]:
    """Severity and action of every alert, the actuator's own too."""
    found = {name: dict(rule["labels"]) for name, rule in alerts().items()}
    return found | {kind.value: {"severity": "critical"} for kind in EscalationKind}


def sections(name: str) -> dict[str, str]:
    """A runbook's sections by their heading."""
    _, *parts = re.split(r"^## (.+)\n", (RUNBOOKS / f"{name}.md").read_text(), flags=re.MULTILINE)
    return {heading: text.strip() for heading, text in zip(parts[::2], parts[1::2], strict=True)}


def index() -> str:
    """The index as it should be."""
    rows = []
    for name, its in sorted(labels().items()):
        means = " ".join(sections(name)["What it means"].split())
        first = re.split(r"(?<=\.) (?=[A-Z])", means)[0]
        rows.append(f"| [{name}]({name}.md) | {its['severity']} | {its.get('action', '')} | {first} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    INDEX.write_text(index())
