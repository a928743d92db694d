"""Rehearsing, again and again, what would be done if something failed now. Nothing is touched.

One domain after the other, with a look of its own: never more than the threads of one look, no lock that a
decision waits for, and at most a fifth of the time. What a round takes grows with the site.
"""

import functools
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

import structlog

from actuator.config import Settings
from actuator.core.beside import HostFacts, Known, missing
from actuator.core.decide import Question
from actuator.core.definition import Needs, needs
from actuator.core.place import Placement
from actuator.core.readiness import Check, rehearse
from actuator.core.replica import names_of
from actuator.model import GuestCpu, HostSetup, HostView, Unknown
from actuator.ports import JournalError, Ports, Unanswered
from actuator.protected import Protected
from actuator.worker import Worker

AGENT_SECONDS = 300.0
"""How often a fence agent is asked: power controllers are slow, and some lock out who asks too often."""
REST_FACTOR = 4.0
"""After a rehearsal nothing is done for so many times as long as it took."""
IDLE_SECONDS = 60.0
MORE_SECONDS = 20.0
"""For what no decision waits for. Programs are started for it, which a busy host needs seconds for."""

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
    resources: tuple[str, ...] = ()
    """The DRBD resources that its disks were seen on."""
    forecasts: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By verb and host: how many seconds it would take, as far as that is known."""


@dataclass(frozen=True, slots=True)
class Power:
    """What a host's fence agent last said."""

    on: bool | None
    """None: it did not say."""
    problem: str
    """Why not; empty: it did."""
    at: float
    """Monotonic."""
    errs: bool = False
    """It says that its host is off, which answers."""


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
        self._agents: dict[str, Power] = {}
        self._cpus: dict[tuple[str, GuestCpu], tuple[str, float]] = {}
        """What each host lacks of a processor: many domains ask for the same one."""
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

    def power(self) -> Mapping[str, Power]:
        """What each host's fence agent last said, where there is one and it has been asked."""
        return dict(self._agents)

    def rehearse(self, domain: str) -> Rehearsal:
        """One domain, with a fresh look.

        Raises:
            JournalError: it cannot be read.
        """
        at = self._ports.clock.wall()
        record = self._protected.record(domain)
        hosts = self._protected.hosts(record)
        self._measure(hosts)
        facts = {host: facts for host, (facts, _) in self._facts.items()}
        wants = self._needs(domain)
        self._worker.rooms.lacking(domain, {host: missing(wants, facts[host]) for host in hosts})
        question = self._worker.question(record, rehearsed=True)
        paused = self._worker.paused(record)
        readiness, failover = self._settings.readiness, self._settings.failover
        known = Known(
            facts=facts,
            placement=self._placement(record.host, question),
            slow_seconds=readiness.slow_seconds,
            skew_seconds=readiness.clock_skew_seconds,
            paused=paused.sentence if paused else "",
            needs=wants,
            cpu_misses=self._cpu_misses(hosts, wants.cpu),
            isolation_seconds=failover.isolation_seconds - failover.margin_seconds,
            margin_seconds=failover.margin_seconds,
            live_uris={host: self._settings.hosts[host].live_uris for host in hosts},
        )
        resources = tuple(sorted(names_of(question.home.evidence)))
        checks = rehearse(question, known)
        experience = self._worker.experience
        experience.read()
        forecasts = {(it.verb, it.host): experience.forecast(it.steps) for it in checks if it.steps}
        told: dict[tuple[str, str], float] = {
            key: seconds for key, seconds in forecasts.items() if seconds is not None
        }
        return Rehearsal(domain, record.host, at, checks, resources, told)

    def _needs(self, domain: str) -> Needs:
        kept = self._ports.journal.definition(domain)
        try:
            return needs(kept.xml) if kept else Needs()
        except ET.ParseError:
            return Needs()

    def _cpu_misses(self, hosts: tuple[str, ...], cpu: GuestCpu | None) -> Mapping[str, str]:
        """What each host that answers lacks of a processor; asked once in a round, whoever wants it."""
        if cpu is None:
            return {}
        now, timeout = self._ports.clock.monotonic(), self._settings.evidence.timeout_seconds
        self._cpus = {key: it for key, it in self._cpus.items() if now - it[1] < self._interval_seconds}
        ask = self._ports.hypervisor.cpu_misses
        due = {
            host: functools.partial(ask, host, cpu, timeout_seconds=timeout)
            for host in hosts
            if (host, cpu) not in self._cpus and self._facts[host][0].view is not None
        }
        answers = self._ports.tasks.gather(due, timeout_seconds=timeout)
        self._cpus |= {(host, cpu): (str(answer), now) for host, answer in answers.items()}
        return {host: self._cpus[host, cpu][0] for host in hosts if (host, cpu) in self._cpus}

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
        took = self._answer_seconds(due)
        seen = self._what_else(took)
        for host in due:
            view, setup = seen.get(("libvirt", host)), seen.get(("drbd", host))
            agent = self._agent(host, now)
            self._facts[host] = (
                HostFacts(
                    libvirt_seconds=took["libvirt", host],
                    drbd_seconds=took["drbd", host],
                    view=view if isinstance(view, HostView) else None,
                    setup=_setup(setup),
                    agent=agent.problem if agent else "",
                    agent_errs=agent is not None and agent.errs,
                ),
                now,
            )
        self._worker.wrong_agents = frozenset(host for host, it in self._agents.items() if it.errs)

    def _answer_seconds(self, hosts: Sequence[str]) -> Mapping[tuple[str, str], float | None]:
        """How long each host's libvirt and DRBD need for an answer; None: there was none."""
        timeout = self._settings.evidence.timeout_seconds
        calls = {
            (who, host): functools.partial(self._timed, functools.partial(ask, host, timeout_seconds=timeout))
            for host in hosts
            for who, ask in (
                ("libvirt", self._ports.hypervisor.states),
                ("drbd", self._ports.storage.status),
            )
        }
        answers = self._ports.tasks.gather(calls, timeout_seconds=timeout)
        return {key: it if isinstance(it, float) else None for key, it in answers.items()}

    def _what_else(
        self, took: Mapping[tuple[str, str], float | None]
    ) -> Mapping[tuple[str, str], HostView | HostSetup | Unanswered]:
        """What else those that answered say; asked later, not to hold up the answers that are measured."""
        asks: dict[str, Callable[..., HostView | HostSetup]] = {
            "libvirt": self._ports.hypervisor.host_view,
            "drbd": self._ports.storage.setup,
        }
        calls = {
            (who, host): functools.partial(asks[who], host, timeout_seconds=MORE_SECONDS)
            for (who, host), seconds in took.items()
            if seconds is not None
        }
        return self._ports.tasks.gather(calls, timeout_seconds=MORE_SECONDS)

    def _timed(self, call: Callable[[], object]) -> float:
        begun = self._ports.clock.monotonic()
        call()
        return self._ports.clock.monotonic() - begun

    def _agent(self, host: str, now: float) -> Power | None:
        """What the host's fence agent says of it now and then; None: it has none."""
        fence = self._settings.hosts[host].fence
        if fence is None:
            return None
        known = self._agents.get(host)
        if known is None or now - known.at >= AGENT_SECONDS:
            known = self._agents[host] = self._ask_agent(host, fence.timeout_seconds, now)
        return known

    def _ask_agent(self, host: str, timeout_seconds: float, now: float) -> Power:
        try:
            on = self._ports.fencing.is_on(host, timeout_seconds=timeout_seconds)
        except Unanswered as error:
            return Power(None, str(error), now)
        return Power(on, "", now, errs=not on and self._answers(host))

    def _answers(self, host: str) -> bool:
        """Asked after the agent: a host that answers now was not off then."""
        try:
            self._ports.hypervisor.states(host, timeout_seconds=self._settings.evidence.timeout_seconds)
        except Unanswered:
            return False
        return True


def _setup(answer: object) -> HostSetup | None:
    """How a host is set up; what its DRBD answers without telling that is told."""
    if isinstance(answer, Unanswered):
        return HostSetup(handler=Unknown(str(answer)))
    return answer if isinstance(answer, HostSetup) else None


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
                    {
                        "host": check.host,
                        "verb": check.verb,
                        "ready": check.ready,
                        "forecast_seconds": it.forecasts.get((check.verb, check.host)),
                        "reasons": check.reasons,
                    }
                    for check in it.checks
                ],
            }
            for it in rehearsals
        ],
        "not_rehearsed": [domain for domain in domains if domain not in known],
    }
