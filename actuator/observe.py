"""One look at the live system: every host of a domain is asked at the same time, libvirt and DRBD."""

import functools
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from actuator.contact import Contacts
from actuator.model import DomainView, Evidence, LastWords, Observed, Unknown
from actuator.ports import Ports, Unanswered
from exporter.drbd import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

HYPERVISOR = "libvirt"
STORAGE = "DRBD"

PROMETHEUS = "Prometheus"

HISTORY_SECONDS = 1.0
"""How long Prometheus has to answer: a failover waits for it."""
LOST_SECONDS = 0.25
"""How long a host that is lost has to answer: many times what one that is well needs."""


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
    ) -> Evidence:
        """What every host says about the domain now, and with ``storage`` about DRBD.

        Hosts that are ``lost`` are not waited for: that they do not answer is what is to be seen. What one of
        them said before (``history``: the host, and wall clock) is asked of Prometheus.
        """
        at = self._ports.clock.monotonic()
        calls: dict[tuple[str, str], Callable[[], DomainView | Snapshot | LastWords | None]] = {}
        if history is not None:
            host, before = history
            seconds = min(HISTORY_SECONDS, self._timeout_seconds)
            calls[PROMETHEUS, host] = functools.partial(
                self._ports.metrics.last_words, host, before=before, timeout_seconds=seconds
            )
        for host in hosts:
            timeout = min(LOST_SECONDS, self._timeout_seconds) if host in lost else self._timeout_seconds
            calls[HYPERVISOR, host] = functools.partial(
                self._ports.hypervisor.look, host, domain, timeout_seconds=timeout
            )
            if storage:
                calls[STORAGE, host] = functools.partial(self._status, host, timeout)
        answers = self._ports.tasks.gather(calls, timeout_seconds=self._timeout_seconds)
        domains: dict[str, Observed[DomainView | None] | Unknown] = {}
        snapshots: dict[str, Observed[Snapshot] | Unknown] = {}
        words: LastWords | Unknown = Unknown("it was not asked")
        for (who, host), answer in answers.items():
            source = f"{who} on {host}"
            if isinstance(answer, Mapping):
                words = answer
            elif who == PROMETHEUS:
                words = Unknown(str(answer))
            elif isinstance(answer, Snapshot):
                snapshots[host] = Observed(answer, source, at)
            elif isinstance(answer, Unanswered):
                facts = domains if who == HYPERVISOR else snapshots
                facts[host] = Unknown(str(answer))
            else:
                domains[host] = Observed(answer, source, at)
                self._contacts.heard(host, self._ports.clock.monotonic())
        return Evidence(domain, at, domains, snapshots, words)

    def _status(self, host: str, timeout_seconds: float) -> Snapshot:
        snapshot = self._ports.storage.status(host, timeout_seconds=timeout_seconds)
        return self._contacts.noting(host, snapshot, self._ports.clock.monotonic())
