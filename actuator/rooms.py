"""How much room each host has, and who else leaves: what the choice of a target rests on beyond the look.

Reconcile measures the hosts' memory, so a failover asks nobody for it. What plans will take of it is in the
journal's records, as far as this process has read or written them: of two versions the newer counts. After a
restart all is read and measured anew.
"""

import threading
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from actuator.config import Mode, Settings
from actuator.core.decide import APPROVAL, Hosts
from actuator.core.place import Leaving, Room, past
from actuator.model import Capacity, DomainRecord, PlanRecord
from actuator.ports import Journal
from actuator.protected import Protected
from exporter.libvirt_domain import parse_definition

BELIEVED_TURNS = 12
"""A figure is believed for so many intervals of reconcile."""


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
        self._records: dict[str, DomainRecord] = {}
        self._memory_bytes: dict[str, int | None] = {}
        self._measured: dict[str, tuple[Capacity, float]] = {}
        self._unanswered: dict[str, str] = {}

    # ---- what is told ------------------------------------------------------------------------------------

    def saw(self, *records: DomainRecord) -> None:
        """Take records as they were read, or written."""
        with self._lock:
            for it in records:
                known = self._records.get(it.domain)
                if known is None or known.version <= it.version:
                    self._records[it.domain] = it

    def defined(self, domain: str, xml: str) -> None:
        """Take a domain's definition for how much memory it may use."""
        with self._lock:
            self._memory_bytes[domain] = _memory_bytes(xml)

    def measured(self, host: str, capacity: Capacity, at: float) -> None:
        """Take a host's memory; ``at``: monotonic, before it was asked."""
        with self._lock:
            self._measured[host] = capacity, at

    def not_measured(self, host: str, why: str) -> None:
        """A host did not tell: the last figure stands while it is believed."""
        with self._lock:
            self._unanswered[host] = why

    # ---- what follows ------------------------------------------------------------------------------------

    def around(self, record: DomainRecord, hosts: Hosts, now: float, wall: float) -> Hosts:
        """What is known of hosts, with their room for the domain and with all that leave theirs.

        Raises:
            JournalError: a definition cannot be read.
        """
        with self._lock:
            others = [it for it in self._records.values() if it.domain != record.domain]
        leaving = [it for it in others if self._leaves(it, record, hosts, wall)]
        return replace(
            hosts,
            rooms=self._rooms(others, now, wall),
            leaving=tuple(self._leaving(it, hosts, wall) for it in (record, *leaving)),
        )

    def _leaves(self, it: DomainRecord, record: DomainRecord, hosts: Hosts, wall: float) -> bool:
        """Whether it is still to be given a target. What was refused holds no room: it may never go."""
        mode = self._settings.mode_of
        acts = mode(it.domain) is not Mode.OBSERVE or mode(record.domain) is Mode.OBSERVE
        paused = it.paused is not None and it.paused.stands(wall)
        goes = it.host in hosts.failed or it.host in hosts.drained
        refused = it.escalation is not None and it.escalation.guard != APPROVAL
        return goes and acts and not (paused or refused or it.open_plan)

    def _leaving(self, it: DomainRecord, hosts: Hosts, wall: float) -> Leaving:
        closed = {*hosts.failed, *hosts.drained, it.host}
        return Leaving(
            domain=it.domain,
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
        self.defined(domain, kept.xml)
        return _memory_bytes(kept.xml)


def _is_after_the_figure(plan: PlanRecord, age_seconds: float, wall: float) -> bool:
    """The host's figure is older than the plan's end: what the plan started there is not in it yet."""
    return plan.finished_at is None or wall - plan.finished_at <= age_seconds


def _memory_bytes(xml: str) -> int | None:
    try:
        return parse_definition(xml).memory_bytes
    except ET.ParseError:
        return None
