"""One look at the live system: every host of a domain is asked at the same time, libvirt and DRBD."""

import functools
from typing import TYPE_CHECKING

from actuator.model import DomainView, Evidence, Observed, Unknown
from actuator.ports import Ports, Unanswered
from exporter.drbd import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

HYPERVISOR = "libvirt"
STORAGE = "DRBD"


class Observer:
    """Asks, and notes who said what and when. A look takes no longer than ``timeout_seconds``."""

    def __init__(self, ports: Ports, timeout_seconds: float) -> None:
        self._ports = ports
        self._timeout_seconds = timeout_seconds

    def look(self, domain: str, hosts: tuple[str, ...], *, storage: bool = True) -> Evidence:
        """What every host says about the domain now, and with ``storage`` about DRBD."""
        at = self._ports.clock.monotonic()
        timeout = self._timeout_seconds
        calls: dict[tuple[str, str], Callable[[], DomainView | Snapshot | None]] = {}
        for host in hosts:
            calls[HYPERVISOR, host] = functools.partial(
                self._ports.hypervisor.look, host, domain, timeout_seconds=timeout
            )
            if storage:
                calls[STORAGE, host] = functools.partial(
                    self._ports.storage.status, host, timeout_seconds=timeout
                )
        answers = self._ports.tasks.gather(calls, timeout_seconds=timeout)
        domains: dict[str, Observed[DomainView | None] | Unknown] = {}
        snapshots: dict[str, Observed[Snapshot] | Unknown] = {}
        for (who, host), answer in answers.items():
            source = f"{who} on {host}"
            if isinstance(answer, Snapshot):
                snapshots[host] = Observed(answer, source, at)
            elif isinstance(answer, Unanswered):
                facts = domains if who == HYPERVISOR else snapshots
                facts[host] = Unknown(str(answer))
            else:
                domains[host] = Observed(answer, source, at)
        return Evidence(domain, at, domains, snapshots)
