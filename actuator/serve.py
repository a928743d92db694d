"""The running actuator: the worker and reconcile, each in a thread of its own, around given ports."""

import threading
import time

import structlog

from actuator.alarm import Alarm
from actuator.config import Settings
from actuator.execute import Executor
from actuator.observe import Observer
from actuator.ports import Ports
from actuator.protected import Protected
from actuator.reconcile import Reconciler
from actuator.report import Report
from actuator.worker import Worker

STOP_SECONDS = 20.0
"""How long a stop waits for calls under way; what is not finished then is an intent without outcome."""

FAULT_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Actuator:
    """Everything behind the HTTP side.

    Args:
        ports: the world; its journal is watched already, if it shall be.
        settings: the configuration.
        report: gets what reconcile says of itself.
        stopping: set to stop; ends every wait.
    """

    def __init__(self, ports: Ports, settings: Settings, report: Report, stopping: threading.Event) -> None:
        self._settings = settings
        self._report = report
        self._stopping = stopping
        self._woken = threading.Event()
        self.protected = Protected(settings, ports.journal)
        alarm = Alarm(ports, settings.alertmanager.timeout_seconds)
        observer = Observer(ports, settings.evidence.timeout_seconds)
        executor = Executor(ports, observer, settings, self.protected, stopping.is_set)
        self.worker = Worker(ports, settings, self.protected, executor, alarm, self.wake)
        self.reconciler = Reconciler(ports, settings, self.protected, self.worker, alarm)
        self._threads = (
            threading.Thread(target=self._work, name="worker", daemon=True),
            threading.Thread(target=self._reconcile, name="reconcile", daemon=True),
        )

    def wake(self) -> None:
        """There is something to do."""
        self._woken.set()

    def start(self) -> None:
        """Take up what a crash left, then work.

        Raises:
            ConfigError: journal and configuration do not fit.
            JournalError: the journal cannot be read.
        """
        self.protected.check()
        self.worker.recover()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin nothing new, let calls that are under way come to their outcome, and return."""
        self._stopping.set()
        self.wake()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        while self.worker.busy and time.monotonic() < deadline:
            self._woken.wait(0.2)
            self._woken.clear()
        if self.worker.busy:
            log.warning("stopped with calls under way; the next start observes what became of them")

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                seconds = self.worker.turn()
            except Exception:
                # A fault of ours. To go on deaf would be worse than to try again.
                log.exception("a fault of vmheal's own", where="worker")
                self._report.faults.labels("worker").inc()
                seconds = FAULT_SECONDS
            self._woken.wait(seconds)

    def _reconcile(self) -> None:
        while not self._stopping.is_set():
            try:
                self.reconciler.turn()
            except Exception:
                log.exception("a fault of vmheal's own", where="reconcile")
                self._report.faults.labels("reconcile").inc()
            if self.reconciler.last_at is not None:
                self._report.reconciled(self.reconciler.last_at, self.reconciler.answered)
            self._stopping.wait(self._settings.reconcile.interval_seconds)
