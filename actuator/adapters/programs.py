"""Runs what a site lets alerts run, behind `actuator.ports.Programs`.

An alert brings words from outside. They reach the program as data only: JSON on standard input, and values of
environment variables. Its argv is the configuration's alone, and no shell is between.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from actuator.adapters import child
from actuator.model import CallOutcome, Done, Failed, Notification

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LABEL_LIMIT = 100
LABEL_NAME_LIMIT = 200
LABEL_BYTES = 4096
"""More labels, and longer ones, are in the JSON only: the kernel bounds the environment."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program of the configuration."""

    argv: tuple[str, ...]
    """It, by its absolute path, and its arguments."""
    timeout_seconds: float = 60.0
    """For one run; less when the caller has less time."""

    def __post_init__(self) -> None:
        if not self.argv or not self.argv[0].startswith("/"):
            raise ValueError(f"{self.argv!r} does not begin with an absolute path")
        if any("\0" in word for word in self.argv):
            raise ValueError(f"{self.argv[0]}: an argument has a NUL")


class ConfiguredPrograms:
    """`actuator.ports.Programs`."""

    def __init__(self, programs: Mapping[str, Program]) -> None:
        """Start nothing yet.

        Args:
            programs: by the name that alerts use.
        """
        self._programs = dict(programs)

    def run(self, name: str, alert: Notification, *, timeout_seconds: float) -> CallOutcome:
        """See `actuator.ports.Programs.run`."""
        program = self._programs.get(name)
        if program is None:
            return Failed(f"{name!r} is no program of the configuration; nothing was run")
        timeout = min(program.timeout_seconds, timeout_seconds)
        if timeout <= 0:
            return Failed(f"{name} was not run: no time is left")
        try:
            ended = child.run(
                program.argv, stdin=_document(alert), environment=_environment(alert), timeout_seconds=timeout
            )
        except OSError as error:
            return Failed(f"{name}: {program.argv[0]} cannot be started: {error.strerror}")
        output = ended.output.strip()
        if ended.exit_status == 0:
            return Done(output)
        return Failed(f"{name} {ended.how}" + (f": {output}" if output else ""))


def _document(alert: Notification) -> bytes:
    """The alert, named as Alertmanager names its parts."""
    document = {
        "status": "firing" if alert.firing else "resolved",
        "labels": dict(alert.labels),
        "fingerprint": alert.fingerprint,
        "startsAt": alert.starts_at,
        "source": alert.source,
    }
    return json.dumps(document).encode() + b"\n"


def _environment(alert: Notification) -> dict[str, str]:
    """A variable for each label. Where two names become the same one, the label that is called so has it."""
    variables = {}
    for name, value in list(alert.labels.items())[:LABEL_LIMIT]:
        variable = re.sub(r"[^A-Za-z0-9_]", "_", name)
        fits = "\0" not in value and len(value.encode(errors="replace")) <= LABEL_BYTES
        if fits and len(name) <= LABEL_NAME_LIMIT and (variable == name or variable not in alert.labels):
            variables[f"VMHEAL_LABEL_{variable}"] = value.encode(errors="replace").decode()
    return {**variables, "PATH": PATH, "LC_ALL": "C.UTF-8"}
