"""Warnings to people, through Alertmanager: the site's own mail, SMS and pager routes deliver them.

A standing warning is sent again before Alertmanager would end it, until it is solved. Sending never holds up
a plan: it happens in the background, and what was not delivered is sent again by reconcile.
"""

import threading
from collections.abc import Sequence

import structlog

from actuator.model import DomainRecord, Escalation, EscalationKind, Notification, OutgoingAlert, Refusal
from actuator.ports import Ports, Unanswered

RESEND_SECONDS = 60.0
LASTS_SECONDS = 240.0
"""Without being sent again, a warning ends by itself after this."""
MAX_REFUSED = 100
"""Of the refused alerts that are looked at together, people are warned of so many."""

log = structlog.get_logger(__name__)


class Alarm:
    """Sends warnings, takes them back, and sends standing ones again.

    Args:
        ports: Alertmanager, the clock, and threads.
        timeout_seconds: for each time that something is sent.
        runbooks_url: where docs/runbooks is served, with a slash at its end; empty: the links are relative.
    """

    def __init__(self, ports: Ports, timeout_seconds: float, runbooks_url: str = "") -> None:
        self._ports = ports
        self._runbooks_url = runbooks_url
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._sent_at: dict[str, float] = {}

    def changed(self, before: DomainRecord, after: DomainRecord) -> None:
        """Tell people what is new between two records of a domain."""
        if before.escalation == after.escalation:
            return
        now = self._ports.clock.wall()
        alerts = []
        if after.escalation is not None:
            alerts.append(self._standing(after.domain, after.escalation, now))
        if before.escalation is not None and _labels(before) != _labels(after):
            alerts.append(self._ended(before.domain, before.escalation, now))
        with self._lock:
            self._sent_at.pop(after.domain, None)
        self._send_soon(alerts, *(() if after.escalation is None else (after.domain,)))

    def not_admitted(self, refused: Sequence[tuple[Notification, Refusal]]) -> None:
        """Tell people of alerts that asked for what we do not do. Ends by itself when not repeated.

        Together, and no more than ``MAX_REFUSED``: thousands of them take neither as many threads, which
        plans need, nor as many mails. All of them are in the journal.
        """
        now = self._ports.clock.wall()
        if len(refused) > MAX_REFUSED:
            log.warning("alerts refused that nobody is warned of", left_out=len(refused) - MAX_REFUSED)
        alerts = [self._refused(notification, it, now) for notification, it in refused[:MAX_REFUSED]]
        if alerts:
            self._send_soon(alerts)

    def _refused(self, notification: Notification, refusal: Refusal, now: float) -> OutgoingAlert:
        labels = {
            "alertname": EscalationKind.REFUSED.value,
            "severity": "warning",
            "guard": refusal.guard,
            "domain": notification.domain,
            "host": notification.labels.get("host", ""),
            "refused_alert": notification.labels.get("alertname", ""),
        }
        return self._alert(labels, refusal.sentence, now, now + LASTS_SECONDS)

    def resend(self, records: Sequence[DomainRecord]) -> None:
        """Send again what stands and was not delivered within the last minute."""
        now = self._ports.clock.monotonic()
        with self._lock:
            due = [
                record
                for record in records
                if record.escalation is not None
                and now - self._sent_at.get(record.domain, float("-inf")) >= RESEND_SECONDS
            ]
        wall = self._ports.clock.wall()
        alerts = [self._standing(it.domain, it.escalation, wall) for it in due if it.escalation is not None]
        if alerts:
            self._send(alerts, *(it.domain for it in due))

    def _send_soon(self, alerts: Sequence[OutgoingAlert], *standing: str) -> None:
        try:
            self._ports.tasks.spawn("warn", lambda: self._send(alerts, *standing))
        except Unanswered as error:
            log.warning("warnings not sent", error=str(error))

    def _send(self, alerts: Sequence[OutgoingAlert], *standing: str) -> None:
        """Send, and note the domains whose standing warning is delivered; the others are sent again."""
        try:
            self._ports.alerts.send(alerts, timeout_seconds=self._timeout_seconds)
        except Unanswered as error:
            log.warning("warnings not sent", error=str(error))
        else:
            now = self._ports.clock.monotonic()
            with self._lock:
                self._sent_at.update(dict.fromkeys(standing, now))

    def _standing(self, domain: str, escalation: Escalation, now: float) -> OutgoingAlert:
        labels = _labels_of(domain, escalation)
        return self._alert(labels, escalation.sentence, escalation.since_at, now + LASTS_SECONDS)

    def _ended(self, domain: str, escalation: Escalation, now: float) -> OutgoingAlert:
        return self._alert(_labels_of(domain, escalation), escalation.sentence, escalation.since_at, now)

    def _alert(
        self, labels: dict[str, str], sentence: str, starts_at: float, ends_at: float
    ) -> OutgoingAlert:
        name = labels["alertname"]
        annotations = {
            "summary": _SUMMARY[EscalationKind(name)].format(domain=labels["domain"] or "an alert"),
            "description": sentence,
            "runbook_url": f"{self._runbooks_url}{name}.md",
        }
        return OutgoingAlert(labels, annotations, starts_at, ends_at)


def _labels(record: DomainRecord) -> dict[str, str]:
    return {} if record.escalation is None else _labels_of(record.domain, record.escalation)


def _labels_of(domain: str, escalation: Escalation) -> dict[str, str]:
    return {
        "alertname": escalation.kind.value,
        "severity": "critical",
        "guard": escalation.guard,
        "domain": domain,
        "host": escalation.host,
    }


_SUMMARY = {
    EscalationKind.REFUSED: "vmheal does not act on {domain}",
    EscalationKind.FAILED: "vmheal did not succeed with {domain}",
    EscalationKind.GAVE_UP: "vmheal has given up {domain}",
}
