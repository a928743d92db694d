"""Rehearsing, again and again, what would be done if something failed now. Nothing is touched.

One domain after the other, with a look of its own: never more than the threads of one look, no lock that a
decision waits for, and at most a fifth of the time. What a round takes grows with the site.
"""

import functools
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock

import structlog

from actuator.config import Settings
from actuator.core.decide import Question
from actuator.core.place import Placement
from actuator.core.readiness import Check, HostFacts, Known, rehearse
from actuator.ports import JournalError, Ports, Unanswered
from actuator.protected import Protected
from actuator.worker import Worker

AGENT_SECONDS = 300.0
"""How often a fence agent is asked: power controllers are slow, and some lock out who asks too often."""
REST_FACTOR = 4.0
"""After a rehearsal nothing is done for so many times as long as it took."""
IDLE_SECONDS = 60.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What the last rehearsal of a domain came to."""

    domain: str
    home: str
    """Where it should run."""
    at: float
    """Wall clock, before the look."""
    checks: tuple[Check, ...]


class Rehearser:
    """One domain each ``turn``.

    Args:
        ports: the world; only reads are called.
        settings: how often, and what is slow.
        protected: the domains.
        worker: knows what a decision rests on.
    """

    def __init__(self, ports: Ports, settings: Settings, protected: Protected, worker: Worker) -> None:
        self._ports = ports
        self._settings = settings
        self._protected = protected
        self._worker = worker
        self._interval_seconds = settings.readiness.interval_seconds
        self._next = deque(settings.domains)
        self._facts: dict[str, tuple[HostFacts, float]] = {}
        self._agents: dict[str, tuple[str, float]] = {}
        self._placements: dict[str, tuple[Placement, float]] = {}
        self._lock = Lock()
        self._last: dict[str, Rehearsal] = {}

    def turn(self) -> float:
        """Rehearse the domain whose turn it is; the seconds until the next one's. Handles its own errors."""
        if not self._next or not self._interval_seconds:
            return IDLE_SECONDS
        begun = self._ports.clock.monotonic()
        domain = self._next[0]
        self._next.rotate(-1)
        try:
            last = self.rehearse(domain)
        except JournalError as error:
            log.error("journal", error=str(error))  # noqa: TRY400  said in one line, no traceback
        else:
            with self._lock:
                self._last[domain] = last
        took = self._ports.clock.monotonic() - begun
        return min(self._interval_seconds, max(self._interval_seconds / len(self._next), REST_FACTOR * took))

    def last(self) -> tuple[Rehearsal, ...]:
        """The last rehearsal of each domain that has had one, by name."""
        with self._lock:
            return tuple(it for _, it in sorted(self._last.items()))

    def rehearse(self, domain: str) -> Rehearsal:
        """One domain, with a fresh look.

        Raises:
            JournalError: it cannot be read.
        """
        at = self._ports.clock.wall()
        record = self._protected.record(domain)
        self._measure(self._protected.hosts(record))
        question = self._worker.question(record, rehearsed=True)
        paused = self._worker.paused(record)
        known = Known(
            facts={host: facts for host, (facts, _) in self._facts.items()},
            placement=self._placement(record.host, question),
            slow_seconds=self._settings.readiness.slow_seconds,
            paused=paused.sentence if paused else "",
        )
        return Rehearsal(domain, record.host, at, rehearse(question, known))

    def _placement(self, home: str, question: Question) -> Placement:
        """Where all domains of the host would go: worked out once in each round."""
        now = self._ports.clock.monotonic()
        placed = self._placements.get(home)
        if placed is None or now - placed[1] >= self._interval_seconds:
            found = self._worker.rooms.if_lost(home, question.hosts, now, question.now)
            placed = self._placements[home] = found, now
        return placed[0]

    def _measure(self, hosts: tuple[str, ...]) -> None:
        """Ask the hosts that were not asked in this round how they are."""
        now = self._ports.clock.monotonic()
        due = [
            host
            for host in hosts
            if host not in self._facts or now - self._facts[host][1] >= self._interval_seconds
        ]
        calls: dict[tuple[str, str], Callable[[], object]] = {}
        timeout = self._settings.evidence.timeout_seconds
        hypervisor, storage = self._ports.hypervisor, self._ports.storage
        for host in due:
            calls["libvirt", host] = functools.partial(
                self._timed, functools.partial(hypervisor.states, host, timeout_seconds=timeout)
            )
            calls["drbd", host] = functools.partial(
                self._timed, functools.partial(storage.status, host, timeout_seconds=timeout)
            )
            calls["autostart", host] = functools.partial(
                hypervisor.autostarted, host, timeout_seconds=timeout
            )
        answers = self._ports.tasks.gather(calls, timeout_seconds=timeout)
        for host in due:
            self._facts[host] = (
                HostFacts(
                    libvirt_seconds=_seconds(answers["libvirt", host]),
                    drbd_seconds=_seconds(answers["drbd", host]),
                    autostarted=_names(answers["autostart", host]),
                    agent=self._agent(host, now),
                ),
                now,
            )

    def _timed(self, call: Callable[[], object]) -> float:
        begun = self._ports.clock.monotonic()
        call()
        return self._ports.clock.monotonic() - begun

    def _agent(self, host: str, now: float) -> str:
        """Why the host's fence agent does not say how it is; empty: it does, or there is none."""
        fence = self._settings.hosts[host].fence
        if fence is None:
            return ""
        known = self._agents.get(host)
        if known is None or now - known[1] >= AGENT_SECONDS:
            try:
                self._ports.fencing.is_on(host, timeout_seconds=fence.timeout_seconds)
            except Unanswered as error:
                known = str(error), now
            else:
                known = "", now
            self._agents[host] = known
        return known[0]


def _seconds(answer: object) -> float | None:
    return answer if isinstance(answer, float) else None


def _names(answer: object) -> frozenset[str]:
    return answer if isinstance(answer, frozenset) else frozenset()


def table(rehearsals: tuple[Rehearsal, ...], domains: Mapping[str, object]) -> Mapping[str, object]:
    """What ``/api/v1/ready`` answers: plain data. Domains that were not rehearsed yet are named apart."""
    known = {it.domain for it in rehearsals}
    return {
        "domains": [
            {
                "domain": it.domain,
                "host": it.home,
                "at": it.at,
                "checks": [
                    {"host": check.host, "verb": check.verb, "ready": check.ready, "reasons": check.reasons}
                    for check in it.checks
                ],
            }
            for it in rehearsals
        ],
        "not_rehearsed": [domain for domain in domains if domain not in known],
    }
