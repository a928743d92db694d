"""Looking for what no webhook said: alerts that fire, and protected domains that are down.

An alert fired again inside group_interval, or while the actuator was down, is never delivered; a notification
lost is lost. So the sources and the live system are asked again and again, and what is found goes the same
way as a webhook does.
"""

import functools
from typing import TYPE_CHECKING

import structlog

from actuator.alarm import Alarm
from actuator.config import Settings
from actuator.core.guard import DOWN, RUNNING
from actuator.model import DomainState, Notification
from actuator.ports import JournalError, Ports, Unanswered
from actuator.protected import Protected
from actuator.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = structlog.get_logger(__name__)


class Reconciler:
    """One ``turn`` each interval."""

    def __init__(
        self, ports: Ports, settings: Settings, protected: Protected, worker: Worker, alarm: Alarm
    ) -> None:
        self._ports = ports
        self._settings = settings
        self._protected = protected
        self._worker = worker
        self._alarm = alarm
        self._down_since: dict[str, float] = {}
        self.last_at: float | None = None
        """Wall clock of the last turn that reached its end."""

    def turn(self) -> None:
        """Ask everybody once. Handles its own errors."""
        try:
            self._take_alerts()
            self._look_at_domains()
            self._alarm.resend(self._protected.records())
        except JournalError as error:
            log.error("journal", error=str(error))  # noqa: TRY400  said in one line, no traceback
        else:
            self.last_at = self._ports.clock.wall()

    def _take_alerts(self) -> None:
        """Receive what fires and was not taken up yet; from Alertmanager if it answers: it knows silences."""
        try:
            firing = self._ports.alerts.firing(timeout_seconds=self._settings.alertmanager.timeout_seconds)
        except Unanswered as error:
            log.warning("alertmanager does not answer", error=str(error))
            try:
                firing = self._ports.metrics.firing(timeout_seconds=self._settings.prometheus.timeout_seconds)
            except Unanswered as worse:
                log.warning("prometheus does not answer either", error=str(worse))
                return
        new = [notification for notification in firing if self._is_new(notification)]
        if new:
            self._ports.journal.receive(new, at=self._ports.clock.wall())
            self._worker.wake()

    def _is_new(self, notification: Notification) -> bool:
        return bool(notification.action) and not self._worker.knows(notification)

    def _look_at_domains(self) -> None:
        """Suspect each domain that is down past the grace time, and each that runs again under a warning."""
        records = self._protected.records()
        hosts = {record.host for record in records}
        timeout = self._settings.evidence.timeout_seconds
        calls: dict[str, Callable[[], Mapping[str, DomainState]]] = {
            host: functools.partial(self._ports.hypervisor.states, host, timeout_seconds=timeout)
            for host in sorted(hosts)
        }
        answers = self._ports.tasks.gather(calls, timeout_seconds=timeout)
        now = self._ports.clock.monotonic()
        for record in records:
            states = answers[record.host]
            if isinstance(states, Unanswered):
                self._down_since.pop(record.domain, None)
                continue
            state = states.get(record.domain)
            if state in RUNNING and record.escalation is not None:
                self._worker.suspect(record.domain, f"reconcile sees it {state} again on {record.host}")
            if state is not None and state not in DOWN:
                self._down_since.pop(record.domain, None)
                continue
            since = self._down_since.setdefault(record.domain, now)
            if now - since >= self._settings.reconcile.grace_seconds:
                self._worker.suspect(
                    record.domain, f"reconcile found it {state or 'not defined'} on {record.host}"
                )
