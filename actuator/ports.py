"""What the actuator needs of the world. Real ones are in ``adapters``; a simulator implements the same.

Every port is used from several threads at once. Every call has a deadline, ``timeout_seconds``: the call
returns or raises within it plus scheduling noise, whatever hangs on the other side.

Reads answer or raise ``Unanswered``. Calls that change something never raise for what the other side did: they
return ``Done``, ``Failed`` (it said no: no effect, now or later) or ``Indeterminate`` (no answer: the effect
may come, now or later). When in doubt between the last two, ``Indeterminate``.

Hosts are named as in DRBD's configuration; how to reach one is the adapter's own configuration.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from actuator.model import CallOutcome, DomainState, DomainView, Notification, OutgoingAlert
from exporter.drbd import Resource

K = TypeVar("K")
T = TypeVar("T")


class Unanswered(Exception):  # noqa: N818  it is an answer to a question, not an error of the program
    """Nobody answered, or not in words that we understand: nothing is known.

    Its text is one sentence that names the host and what happened, fit for a person.
    """


class Hypervisor(Protocol):
    """libvirt on every host: QEMU/KVM, Xen (libxl), LXC."""

    def look(self, host: str, domain: str, *, timeout_seconds: float) -> DomainView | None:
        """The domain as libvirt sees it now; None when libvirt answered that it is not defined there.

        Must not enter a monitor of a domain that may hang, except for ``Disk.attached`` of a running one.

        Raises:
            Unanswered: host or libvirtd not reached, or no answer in time.
        """

    def states(self, host: str, *, timeout_seconds: float) -> Mapping[str, DomainState]:
        """State of every domain that is defined or runs there, by name. For reconcile: cheap, no XML.

        Raises:
            Unanswered: host or libvirtd not reached, or no answer in time.
        """

    def destroy(self, host: str, domain: str, domain_id: int, *, timeout_seconds: float) -> CallOutcome:
        """End the domain with this id at once (virDomainDestroy), and read back that its id is gone.

        ``Failed`` without touching anything when the id is another one now, or the state is running, blocked or
        paused: the id is read just before. ``Done`` when it is gone already.
        """

    def start(self, host: str, domain: str, *, timeout_seconds: float) -> CallOutcome:
        """Start the defined, inactive domain (virDomainCreate). ``Failed`` when it is active already."""


class Storage(Protocol):
    """DRBD on every host, 8.4 and 9."""

    def status(self, host: str, *, timeout_seconds: float) -> tuple[Resource, ...]:
        """Every resource that is up in the host's kernel, as that host sees it now (``drbdsetup events2``).

        Peers carry host names on both versions (8.4's events2 says ``peer``; the adapter knows the name).

        Raises:
            Unanswered: host not reached, no answer in time, or output that is not understood.
        """

    def promote(self, host: str, resource: str, *, timeout_seconds: float) -> CallOutcome:
        """``drbdadm primary RESOURCE``, never with --force. ``Done`` also when it is Primary already.

        ``Failed.code`` is the number in drbdadm's brackets (-1, -2, -7, -10, ...).
        """

    def demote(self, host: str, resource: str, *, timeout_seconds: float) -> CallOutcome:
        """``drbdadm secondary RESOURCE``, never with --force. ``Done`` also when it is Secondary already."""


class Alerts(Protocol):
    """Alertmanager."""

    def firing(self, *, timeout_seconds: float) -> tuple[Notification, ...]:
        """Active alerts that carry an ``action`` label; silenced and inhibited ones are left out.

        ``source`` is ``alertmanager``.

        Raises:
            Unanswered: not reached, no answer in time, or not understood.
        """

    def send(self, alerts: Sequence[OutgoingAlert], *, timeout_seconds: float) -> None:
        """Post alerts (API v2). Sending one again with a later end prolongs it.

        Raises:
            Unanswered: not reached, not in time, or refused.
        """


class Metrics(Protocol):
    """Prometheus."""

    def firing(self, *, timeout_seconds: float) -> tuple[Notification, ...]:
        """Alerts in state firing that carry an ``action`` label. ``source`` is ``prometheus``.

        Prometheus's API gives no fingerprint: the adapter makes one from the labels.

        Raises:
            Unanswered: not reached, no answer in time, or not understood.
        """


class Clock(Protocol):
    """Time."""

    def wall(self) -> float:
        """Unix seconds. May jump."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start. Never goes back; means nothing to another process."""

    def pause(self, seconds: float) -> None:
        """Let time pass. Returns early when the actuator is told to stop."""


class Tasks(Protocol):
    """Things done at the same time: threads, or a simulator's schedule."""

    def gather(
        self, calls: Mapping[K, Callable[[], T]], *, timeout_seconds: float
    ) -> dict[K, T | Unanswered]:
        """Run all calls side by side and give each one's result, in the order of ``calls``.

        A call that raises ``Unanswered`` gives that; one that is not back in time gives an ``Unanswered`` that
        says so, and its late result is dropped. Other exceptions are raised here.
        """

    def spawn(self, name: str, call: Callable[[], None]) -> None:
        """Run the call in the background. It handles its own errors."""
