"""The running actuator: worker, reconcile, keeper and rehearsals, each in a thread of its own."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from actuator.alarm import Alarm
from actuator.config import Settings
from actuator.contact import Contacts
from actuator.execute import Executor
from actuator.explain import Explainer
from actuator.keep import Keeper
from actuator.observe import Observer
from actuator.orders import Orders
from actuator.page.site import Facts, Site
from actuator.ports import Ports
from actuator.protected import Protected
from actuator.reconcile import Reconciler
from actuator.rehearse import Rehearser
from actuator.reload import NotAtRestError
from actuator.report import Report
from actuator.slots import Slots
from actuator.worker import Worker

STOP_SECONDS = 20.0
"""How long a stop waits for calls under way; what is not finished then is an intent without outcome."""

FAULT_SECONDS = 1.0
HUNG_SECONDS = 60.0
WAITS_OF_A_TURN = 10
"""A turn waits at most so often, each time to one of the configured deadlines; then, and some, it hangs."""
REST_POLL_SECONDS = 0.02

T = TypeVar("T")

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
        self._ports = ports
        self._settings = settings
        self._report = report
        self._stopping = stopping
        self._woken = threading.Event()
        self._due: dict[str, float] = {}
        """By loop: when it is to have begun its next turn at the latest; monotonic."""
        self._turn_seconds = HUNG_SECONDS + WAITS_OF_A_TURN * max(
            settings.evidence.timeout_seconds,
            settings.journal.timeout_seconds,
            settings.alertmanager.timeout_seconds,
            settings.prometheus.timeout_seconds,
        )
        self.protected = Protected(settings, ports.journal)
        self.contacts = Contacts(ports.clock.monotonic())
        alarm = Alarm(ports, settings.alertmanager.timeout_seconds, settings.runbooks_url)
        observer = Observer(ports, settings.evidence.timeout_seconds, self.contacts)
        limits = settings.limits
        slots = Slots(limits.plans_per_host, limits.plans, ports.clock, self.wake, stopping.is_set)
        executor = Executor(ports, observer, settings, self.protected, self.contacts, slots, stopping.is_set)
        self.worker = Worker(
            ports, settings, self.protected, executor, slots, self.contacts, alarm, self.wake
        )
        self._keeper = Keeper(ports, settings, self.contacts)
        self.reconciler = Reconciler(
            ports, settings, self.protected, self.worker, alarm, self.contacts, self._keeper
        )
        self.orders = Orders(
            ports.journal, ports.clock, settings, self.protected, self.contacts, alarm, self.worker
        )
        self.explainer = Explainer(ports, settings, self.protected, self.contacts, self.worker)
        self.rehearser = Rehearser(ports, settings, self.protected, self.worker)
        self._threads = tuple(
            threading.Thread(target=loop, name=name, daemon=True)
            for name, loop in {
                "worker": self._work,
                "reconcile": self._reconcile,
                "keeper": self._keep,
                "rehearsals": self._rehearse,
            }.items()
            if name != "rehearsals" or settings.readiness.interval_seconds
        )

    def wake(self) -> None:
        """There is something to do."""
        self._woken.set()

    def site(self) -> Site:
        """All that is known at this moment, for the page.

        Raises:
            JournalError: it cannot be read.
        """
        clock, journal = self._ports.clock, self._ports.journal
        now = clock.monotonic()
        return Site(
            Facts(
                settings=self._settings,
                now=clock.wall(),
                reconciled_at=self.reconciler.last_at,
                sources=self.reconciler.answered,
                records=self.protected.records(),
                hosts={it.host: it for it in journal.hosts()},
                authorities=[it for _, it in sorted(journal.authorities().items())],
                paused=self.worker.pauses(),
                states=self.reconciler.states,
                storage=self._keeper.seen,
                silent_seconds={it: self.contacts.silent_for(it, now) for it in self._settings.hosts},
                rehearsals={it.domain: it for it in self.rehearser.last()},
                power=self.rehearser.power(),
            )
        )

    def start(self) -> None:
        """Take up what a crash left, then work.

        Raises:
            ConfigError: journal and configuration do not fit.
            JournalError: the journal cannot be read.
        """
        self.check()
        self.worker.recover()
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """See whether ``start`` would come to its end; it raises the same."""
        self.protected.check()

    def rest(self, seconds: float) -> None:
        """Begin nothing any more, as soon as nothing is under way; ``worker.go_on`` ends that.

        Raises:
            NotAtRestError: it did not come to that in time, and goes on.
        """
        deadline = time.monotonic() + seconds
        while not self.worker.rest():
            if time.monotonic() > deadline:
                raise NotAtRestError(
                    f"plans of {self.worker.busy} VMs are under way, and go on by the settings that they"
                    " began with: reload when they have ended, or restart"
                )
            self._stopping.wait(REST_POLL_SECONDS)

    def stop(self) -> None:
        """Begin nothing new, let calls that are under way come to their outcome, and return."""
        self._stopping.set()
        self.wake()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            if thread.is_alive():  # one that was never started has nothing to end
                thread.join(max(0.0, deadline - time.monotonic()))
        while self.worker.busy and time.monotonic() < deadline:
            self._woken.wait(0.2)
            self._woken.clear()
        if self.worker.busy:
            log.warning("stopped with calls under way; the next start observes what became of them")

    def hung(self) -> tuple[str, ...]:
        """Loops that began a turn so long ago that no deadline explains it, or are gone."""
        now = time.monotonic()
        return tuple(name for name, due in self._due.copy().items() if due < now)

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            seconds = self._guarded("worker", self.worker.turn)
            self._woken.wait(self._waits("worker", seconds))

    def _keep(self) -> None:
        while not self._stopping.is_set():
            self._guarded("keeper", self._keeper.turn)
            self._stopping.wait(self._waits("keeper", self._settings.reconcile.drbd_interval_seconds))

    def _reconcile(self) -> None:
        while not self._stopping.is_set():
            self._guarded("reconcile", self.reconciler.turn)
            if self.reconciler.last_at is not None:
                self._report.reconciled(self.reconciler.last_at, self.reconciler.answered)
            self._stopping.wait(self._waits("reconcile", self._settings.reconcile.interval_seconds))

    def _rehearse(self) -> None:
        while not self._stopping.is_set():
            seconds = self._guarded("rehearsals", self.rehearser.turn)
            self._stopping.wait(self._waits("rehearsals", seconds))

    def _waits(self, where: str, seconds: float | None) -> float:
        """The loop waits for so long now; None: a fault ended its turn."""
        seconds = FAULT_SECONDS if seconds is None else seconds
        self._due[where] = time.monotonic() + seconds + self._turn_seconds
        return seconds

    def _guarded(self, where: str, turn: Callable[[], T]) -> T | None:
        """Do one turn. A fault of ours is told; to go on deaf would be worse than to try again."""
        self._due[where] = time.monotonic() + self._turn_seconds
        try:
            return turn()
        except Exception:
            log.exception("a fault of vmheal's own", where=where)
            self._report.faults.labels(where).inc()
            return None
