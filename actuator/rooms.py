"""How much room each host has, and who else leaves: what the choice of a target rests on beyond the look.

Reconcile measures the hosts' memory, so a failover asks nobody for it. What plans will take of it is in the
journal's records. After a restart all is measured anew.

When a rack is lost hundreds of domains leave at once. They are placed once for all of them, and again when
something is told that was not thought of, or a moment has passed.
"""

import threading
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from actuator.config import Mode, Settings
from actuator.core.decide import APPROVAL, Hosts
from actuator.core.place import Leaving, Placement, Room, past
from actuator.model import Capacity, DomainRecord, PlanRecord, PlanStatus
from actuator.ports import Journal
from actuator.protected import Protected
from exporter.libvirt_domain import parse_definition

BELIEVED_TURNS = 12
"""A figure is believed for so many intervals of reconcile."""
PLACED_SECONDS = 1.0
"""What follows from the time alone (an old figure, the end of a pause) is seen after so long."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A placement, and what it is good for."""

    placement: Placement
    at: float
    """Monotonic."""
    failed: frozenset[str]
    drained: frozenset[str]
    observes: bool


class Rooms:
    """Safe to use from several threads at once.

    Args:
        settings: priorities, modes, and what is kept apart.
        protected: where domains may run.
        journal: keeps their definitions.
    """

    def __init__(self, settings: Settings, protected: Protected, journal: Journal) -> None:
        self._settings = settings
        self._protected = protected
        self._journal = journal
        self._apart = settings.apart()
        self._believed_seconds = BELIEVED_TURNS * settings.reconcile.interval_seconds
        self.claiming = threading.Lock()
        """Held from the choice of a target until the plan is durable: no room is given to two."""
        self._lock = threading.Lock()
        self._memory_bytes: dict[str, int | None] = {}
        self._measured: dict[str, tuple[Capacity, float]] = {}
        self._unanswered: dict[str, str] = {}
        self._lacking: dict[str, Mapping[str, str]] = {}
        """By domain: hosts that have not its networks, and what they lack."""
        self._placed: _Placed | None = None
        self._told = 0
        """Raised by all that changes what a placement rests on."""

    # ---- what is told ------------------------------------------------------------------------------------

    def changed(self, before: DomainRecord, after: DomainRecord) -> None:
        """Take what was written of a domain: what was to be expected changes nothing for the others."""
        if _weight(before) == _weight(after):
            return
        with self._lock:
            placed = self._placed
            self._tell()
            left = _left(placed.placement, after) if placed else None
            if placed and left:
                self._placed = replace(placed, placement=left)

    def _tell(self) -> None:
        self._placed, self._told = None, self._told + 1

    def defined(self, domain: str, xml: str) -> None:
        """Take a domain's definition for how much memory it may use."""
        with self._lock:
            self._memory_bytes[domain] = _memory_bytes(xml)
            self._tell()

    def measured(self, host: str, capacity: Capacity, at: float) -> None:
        """Take a host's memory; ``at``: monotonic, before it was asked."""
        with self._lock:
            self._measured[host] = capacity, at
            self._tell()

    def not_measured(self, host: str, why: str) -> None:
        """A host did not tell: the last figure stands while it is believed."""
        with self._lock:
            self._unanswered[host] = why
            self._tell()

    def lacking(self, domain: str, of_hosts: Mapping[str, str]) -> None:
        """Take what hosts lack of the domain's networks, as it was last rehearsed; empty: nothing."""
        lacking = {host: why for host, why in of_hosts.items() if why}
        with self._lock:
            if self._lacking.get(domain, {}) != lacking:
                self._lacking[domain] = lacking
                self._tell()

    # ---- what follows ------------------------------------------------------------------------------------

    def around(self, record: DomainRecord, hosts: Hosts, now: float, wall: float) -> Hosts:
        """What is known of hosts, with their room for the domain and with all that leave theirs.

        Raises:
            JournalError: it cannot be read.
        """
        placement = self._placement(record, hosts, now, wall)
        return replace(hosts, leaving=self._leaving(record, hosts, wall), placement=placement)

    def if_lost(self, host: str, hosts: Hosts, now: float, wall: float) -> Placement:
        """Where all domains would go if this host were lost now; in whatever mode they are. Keeps nothing.

        Raises:
            JournalError: it cannot be read.
        """
        supposed = replace(hosts, failed={**hosts.failed, host: wall})
        return self._place(self._protected.records(), supposed, True, now, wall)

    def _placement(self, record: DomainRecord, hosts: Hosts, now: float, wall: float) -> Placement:
        """That of all, or where the record itself has taken room on a host, that of all others."""
        failed, observes = frozenset(hosts.failed), self._settings.mode_of(record.domain) is Mode.OBSERVE
        with self._lock:
            placed, told = self._placed, self._told
        if self._takes(record, now, wall):
            others = [it for it in self._protected.records() if it.domain != record.domain]
            return self._place(others, hosts, observes, now, wall)
        if placed and 0 <= now - placed.at < PLACED_SECONDS:
            known = (placed.failed, placed.drained, placed.observes)
            if known == (failed, hosts.drained, observes):
                return placed.placement
        placement = self._place(self._protected.records(), hosts, observes, now, wall)
        with self._lock:
            if self._told == told:
                self._placed = _Placed(placement, now, failed, hosts.drained, observes)
        return placement

    def _place(
        self, records: Collection[DomainRecord], hosts: Hosts, observes: bool, now: float, wall: float
    ) -> Placement:
        leaving = [it for it in records if self._leaves(it, hosts, observes, wall)]
        return Placement(
            {it.domain: self._leaving(it, hosts, wall) for it in leaving}, self._rooms(records, now, wall)
        )

    def _takes(self, it: DomainRecord, now: float, wall: float) -> bool:
        """Whether the domain's last plan counts on the host that it went to."""
        if it.plan is None:
            return False
        with self._lock:
            measured = self._measured.get(it.plan.plan.host)
        return _is_after_the_figure(it.plan, now - measured[1] if measured else 0.0, wall)

    def _leaves(self, it: DomainRecord, hosts: Hosts, observes: bool, wall: float) -> bool:
        """Whether it is still to be given a target. What was refused holds no room: it may never go."""
        if it.host not in hosts.failed and it.host not in hosts.drained:
            return False
        acts = observes or self._settings.mode_of(it.domain) is not Mode.OBSERVE
        paused = it.paused is not None and it.paused.stands(wall)
        return acts and not (paused or _is_refused(it) or it.open_plan)

    def _leaving(self, it: DomainRecord, hosts: Hosts, wall: float) -> Leaving:
        closed = {*hosts.failed, *hosts.drained, it.host}
        with self._lock:
            lacking = self._lacking.get(it.domain, {})
        return Leaving(
            domain=it.domain,
            lacking=lacking,
            memory_bytes=self._memory_of(it.domain),
            hosts={
                host: past(it, host, now=wall) for host in self._protected.hosts(it) if host not in closed
            },
            priority=self._settings.domains[it.domain].priority,
            apart=self._apart[it.domain],
            down=it.host in hosts.failed,
        )

    def _rooms(self, records: Iterable[DomainRecord], now: float, wall: float) -> Mapping[str, Room]:
        with self._lock:
            measured, unanswered = dict(self._measured), dict(self._unanswered)
        domains: defaultdict[str, set[str]] = defaultdict(set)
        taken: Counter[str] = Counter()
        for it in records:
            domains[it.open_plan.plan.host if it.open_plan else it.host].add(it.domain)
            if it.plan is None:
                continue
            host = it.plan.plan.host
            age = now - measured[host][1] if host in measured else 0.0
            if _is_after_the_figure(it.plan, age, wall):
                taken[host] += self._memory_of(it.domain) or 0
        return {
            host: self._room(measured.get(host), unanswered.get(host), now, taken[host], domains[host])
            for host in self._settings.hosts
        }

    def _room(
        self,
        measured: tuple[Capacity, float] | None,
        unanswered: str | None,
        now: float,
        taken_bytes: int,
        domains: Iterable[str],
    ) -> Room:
        room = Room(taken_bytes=taken_bytes, domains=frozenset(domains))
        if measured is None:
            return room if unanswered is None else replace(room, unknown=unanswered)
        capacity, at = measured
        if now - at <= self._believed_seconds:
            return replace(room, free_bytes=capacity.free_memory_bytes)
        why = f": {unanswered}" if unanswered else ""
        return replace(room, unknown=f"it was last measured {now - at:.0f} s ago{why}")

    def _memory_of(self, domain: str) -> int | None:
        with self._lock:
            if domain in self._memory_bytes:
                return self._memory_bytes[domain]
        kept = self._journal.definition(domain)
        if kept is None:
            return None
        memory_bytes = _memory_bytes(kept.xml)
        with self._lock:
            return self._memory_bytes.setdefault(domain, memory_bytes)


def _left(placement: Placement, it: DomainRecord) -> Placement | None:
    """The placement of the others, when one of those that leave has gone where it should, or was refused."""
    if it.domain not in placement.leaving:
        return None
    if (plan := it.open_plan) is not None:
        as_chosen = placement.choices[it.domain].host == plan.plan.host
        return placement.went(it.domain) if as_chosen else None
    return placement.stays(it.domain) if _is_refused(it) else None


def _is_refused(it: DomainRecord) -> bool:
    return it.escalation is not None and it.escalation.guard != APPROVAL


def _weight(it: DomainRecord) -> tuple[object, ...]:
    """What of a record counts for where others go. A plan that succeeds only goes on as it was counted."""
    plan = it.plan and (it.plan.plan.host, it.plan.status is PlanStatus.FAILED)
    there = it.open_plan.plan.host if it.open_plan else it.host
    return there, plan, it.paused, _is_refused(it), it.suspects


def _is_after_the_figure(plan: PlanRecord, age_seconds: float, wall: float) -> bool:
    """The host's figure is older than the plan's end: what the plan started there is not in it yet."""
    return plan.finished_at is None or wall - plan.finished_at <= age_seconds


def _memory_bytes(xml: str) -> int | None:
    try:
        return parse_definition(xml).memory_bytes
    except ET.ParseError:
        return None
