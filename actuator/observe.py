"""One look at the live system: every host of a domain is asked at the same time, libvirt and DRBD."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from actuator.contact import Contacts
from actuator.core.replica import resource_of
from actuator.model import Disk, DomainView, Evidence, Identified, LastWords, Observed, Unknown
from actuator.ports import Ports, Unanswered
from exporter.drbd import Snapshot

HYPERVISOR = "libvirt"
STORAGE = "DRBD"
GENERATIONS = "drbdadm get-gi"

PROMETHEUS = "Prometheus"

HISTORY_SECONDS = 1.0
"""How long Prometheus has to answer, and whose data a replica has: a failover waits for it."""
LOST_SECONDS = 0.2
"""How long a host that is lost has to answer: many times what one that is well needs."""


@dataclass(frozen=True, slots=True)
class _OnHost:
    """Whose data a host's replicas are."""

    identified: Identified


_Answer: TypeAlias = DomainView | Snapshot | LastWords | _OnHost | None


class Observer:
    """Asks, and notes who said what and when. A look takes no longer than ``timeout_seconds``."""

    def __init__(self, ports: Ports, timeout_seconds: float, contacts: Contacts) -> None:
        self._ports = ports
        self._timeout_seconds = timeout_seconds
        self._contacts = contacts

    def look(
        self,
        domain: str,
        hosts: tuple[str, ...],
        *,
        storage: bool = True,
        lost: Collection[str] = (),
        history: tuple[str, float] | None = None,
        identify: Sequence[Disk] = (),
    ) -> Evidence:
        """What every host says about the domain now, and with ``storage`` about DRBD.

        Hosts that are ``lost`` are not waited for: that they do not answer is what is to be seen. What one of
        them said before (``history``: the host, and wall clock) is asked of Prometheus, and of all others
        whose data their replicas of the disks to ``identify`` are.
        """
        at = self._ports.clock.monotonic()
        calls = self._calls(domain, hosts, lost, identify, storage=storage)
        if history is not None:
            host, before = history
            seconds = min(HISTORY_SECONDS, self._timeout_seconds)
            calls[PROMETHEUS, host] = functools.partial(
                self._ports.metrics.last_words, host, before=before, timeout_seconds=seconds
            )
        answers = self._ports.tasks.gather(calls, timeout_seconds=self._timeout_seconds)
        domains: dict[str, Observed[DomainView | None] | Unknown] = {}
        snapshots: dict[str, Observed[Snapshot] | Unknown] = {}
        generations: dict[str, Observed[Identified] | Unknown] = {}
        words: LastWords | Unknown = Unknown("it was not asked")
        for (who, host), answer in answers.items():
            source = f"{who} on {host}"
            match answer:
                case _OnHost():
                    generations[host] = Observed(answer.identified, source, at)
                case Unanswered() if who == GENERATIONS:
                    generations[host] = Unknown(str(answer))
                case Mapping():
                    words = answer
                case Unanswered() if who == PROMETHEUS:
                    words = Unknown(str(answer))
                case Snapshot():
                    snapshots[host] = Observed(answer, source, at)
                case Unanswered():
                    facts = domains if who == HYPERVISOR else snapshots
                    facts[host] = Unknown(str(answer))
                case _:
                    domains[host] = Observed(answer, source, at)
                    self._contacts.heard(host, self._ports.clock.monotonic())
        return Evidence(domain, at, domains, snapshots, words, generations)

    def _calls(
        self,
        domain: str,
        hosts: tuple[str, ...],
        lost: Collection[str],
        identify: Sequence[Disk],
        *,
        storage: bool,
    ) -> dict[tuple[str, str], Callable[[], _Answer]]:
        """What is asked of the hosts themselves."""
        calls: dict[tuple[str, str], Callable[[], _Answer]] = {}
        for host in hosts:
            timeout = min(LOST_SECONDS, self._timeout_seconds) if host in lost else self._timeout_seconds
            calls[HYPERVISOR, host] = functools.partial(
                self._ports.hypervisor.look, host, domain, timeout_seconds=timeout
            )
            if storage:
                calls[STORAGE, host] = functools.partial(self._status, host, timeout)
            if identify and host not in lost:
                calls[GENERATIONS, host] = functools.partial(self._generations, host, identify)
        return calls

    def _status(self, host: str, timeout_seconds: float) -> Snapshot:
        snapshot = self._ports.storage.status(host, timeout_seconds=timeout_seconds)
        return self._contacts.noting(host, snapshot, self._ports.clock.monotonic())

    def _generations(self, host: str, disks: Sequence[Disk]) -> _OnHost:
        """Of the resources that the disks lie on, whose names DRBD there tells first."""
        clock, storage = self._ports.clock, self._ports.storage
        deadline = clock.monotonic() + min(HISTORY_SECONDS, self._timeout_seconds)
        seen = storage.status(host, timeout_seconds=deadline - clock.monotonic())
        names = {it.name for disk in disks if (it := resource_of(disk, seen)) is not None}
        return _OnHost(
            {
                name: storage.generations(host, name, timeout_seconds=deadline - clock.monotonic())
                for name in sorted(names)
            }
        )
