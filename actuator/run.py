"""Alerts that ask for a program of the site's own: its repairs and notifications.

The configuration names the programs; an alert names one of them. What an alert asks for is written down
before it is run, and it is never run twice for one alert, also when the actuator was killed meanwhile: then
its outcome is missing in the journal.
"""

import structlog

from actuator.config import Mode, Settings
from actuator.core.admit import PROGRAM
from actuator.model import CallOutcome, Event, Notification, ProgramRun, Received
from actuator.ports import JournalError, Ports, Unanswered

log = structlog.get_logger(__name__)


class Runner:
    """Runs programs for alerts, each in the background."""

    def __init__(self, ports: Ports, settings: Settings) -> None:
        self._ports = ports
        self._settings = settings

    def take(self, received: Received) -> None:
        """Write down that its program is run, and run it; nothing when that was done before.

        Raises:
            JournalError: it is not run, and stays in the inbox.
        """
        journal, alert = self._ports.journal, received.notification
        name, now = alert.labels[PROGRAM], self._ports.clock.wall()
        before = journal.run(alert.fingerprint)
        if before is not None and before.starts_at == alert.starts_at:
            journal.commit(settled=[received])
            return
        version = 1 if before is None else before.version + 1
        run = ProgramRun(alert.fingerprint, version, alert.starts_at, name, now)
        if self._settings.mode is not Mode.ENFORCE:
            sentence = f"in mode enforce vmheal would run the program {name}"
            journal.commit(run=run, events=[_event(alert, now, "would", sentence)], settled=[received])
            return
        journal.commit(
            run=run, events=[_event(alert, now, "intent", f"run the program {name}")], settled=[received]
        )
        try:
            self._ports.tasks.spawn(f"run {name}", lambda: self._run(name, alert))
        except Unanswered as error:
            self._write(alert, name, "not run", str(error))

    def _run(self, name: str, alert: Notification) -> None:
        timeout = self._settings.programs[name].timeout_seconds
        try:
            outcome: CallOutcome = self._ports.programs.run(name, alert, timeout_seconds=timeout)
        except Exception as error:
            log.exception("a fault of vmheal's own", program=name)
            self._write(alert, name, "failed", f"{type(error).__name__}: {error}")
            return
        said = outcome.detail if outcome.kind == "done" else outcome.reason
        self._write(alert, name, outcome.kind, said)

    def _write(self, alert: Notification, name: str, how: str, said: str) -> None:
        sentence = f"the program {name}: {how}{': ' if said else ''}{said}"
        try:
            event = _event(alert, self._ports.clock.wall(), "outcome", sentence)
            self._ports.journal.commit(events=[event])
        except JournalError as error:
            log.error("journal", program=name, outcome=sentence, error=str(error))  # noqa: TRY400  no traceback


def _event(alert: Notification, at: float, kind: str, sentence: str) -> Event:
    detail = {"alertname": alert.labels.get("alertname", "?"), "program": alert.labels.get(PROGRAM, "")}
    return Event(at, kind, sentence, alert.domain, alert.host, detail=detail)
