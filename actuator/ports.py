"""What the actuator needs of the world. Real ones are in ``adapters``; a simulator implements the same.

Every port is used from several threads at once. Every call has a deadline, ``timeout_seconds``: the call
returns or raises within it plus scheduling noise, whatever hangs on the other side.

Reads answer or raise ``Unanswered``. Calls that change something never raise for what the other side did:
they return ``Done``, ``Failed`` (it said no: no effect, now or later) or ``Indeterminate`` (no answer: the
effect may come, now or later). When in doubt between the last two, ``Indeterminate``.

Hosts are named as in DRBD's configuration; how to reach one is the adapter's own configuration.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from actuator.model import (
    Authority,
    CallOutcome,
    Capacity,
    Definition,
    DomainRecord,
    DomainState,
    DomainView,
    Event,
    GuestCpu,
    HostRecord,
    HostSetup,
    HostView,
    LastWords,
    LiveMigration,
    Notification,
    OutgoingAlert,
    Parting,
    ProgramRun,
    Received,
    Silence,
)
from exporter.drbd import Snapshot
from exporter.drbd_configuration import Generations

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

        ``Failed`` without touching anything when the id is another one now, or the state is running, blocked
        or paused: both are read just before. ``Done`` when it is gone already.
        """

    def start(self, host: str, domain: str, *, timeout_seconds: float) -> CallOutcome:
        """Start the defined, inactive domain (virDomainCreate). ``Failed`` when it is active already."""

    def shut_down(self, host: str, domain: str, domain_id: int, *, timeout_seconds: float) -> CallOutcome:
        """Ask the guest with this id to shut down, wait until its id is gone, and end it at the deadline.

        For a planned move: whatever its state is, nothing of it is left when this says ``Done``, which it
        also does when it was gone already. ``Failed`` without touching anything when the id is another one.
        ``timeout_seconds`` is for the guest; ending it takes some seconds more.
        """

    def definition(self, host: str, domain: str, *, timeout_seconds: float) -> str | None:
        """The persistent definition as XML (inactive, with secrets left out); None: not defined there.

        Raises:
            Unanswered: host or libvirtd not reached, or no answer in time.
        """

    def define(self, host: str, domain: str, xml: str, *, anew: bool, timeout_seconds: float) -> CallOutcome:
        """Define the domain there (virDomainDefineXML), autostart off; ``Done`` when it is defined already.

        ``anew``: one that is defined there otherwise is replaced, under the UUID that it has there; without
        that it is left as it is. ``Failed`` when the XML is of another name, or libvirt refuses it.
        """

    def capacity(self, host: str, *, timeout_seconds: float) -> Capacity:
        """What the host could give to one more domain.

        Raises:
            Unanswered: host or libvirtd not reached, or no answer in time.
        """

    def host_view(self, host: str, *, timeout_seconds: float) -> HostView:
        """The host itself, as its libvirt sees it.

        Raises:
            Unanswered: host or libvirtd not reached, or no answer in time.
        """

    def cpu_misses(self, host: str, cpu: GuestCpu, *, timeout_seconds: float) -> str:
        """What the host lacks to run a domain with this processor, in libvirt's words; empty: nothing.

        virConnectCompareHypervisorCPU; empty also where the driver knows no such question (Xen, LXC).

        Raises:
            Unanswered: host or libvirtd not reached, or no answer in time; or the processor is not known.
        """

    def migrate(
        self,
        source: str,
        target: str,
        domain: str,
        domain_id: int,
        options: LiveMigration,
        *,
        timeout_seconds: float,
        lost: Callable[[], bool],
    ) -> CallOutcome:
        """Move the running domain live, peer to peer; it is aborted when not done in time, and reads back.

        ``lost`` is asked about once a second: whether the source is known to be lost. Its libvirtd will then
        not say any more what became of the move, and is not waited for.

        ``Done``: it runs on the target and is gone from the source. ``Failed``: it still runs on the source,
        and nothing of it is left on the target. ``Indeterminate``: either, or both hold a part of it.
        """


class Storage(Protocol):
    """DRBD on every host, 8.4 and 9."""

    def status(self, host: str, *, timeout_seconds: float) -> Snapshot:
        """Every resource that is up in the host's kernel, as that host sees it now (``drbdsetup events2``).

        ``Connection.name`` is the peer's host name on both versions (8.4's events2 says ``peer``: the adapter
        puts the name that the host's DRBD configuration gives). What was not understood of a resource is in
        ``problems``.

        Raises:
            Unanswered: host not reached, no answer in time, or output that is not understood as a whole.
        """

    def armed(self, host: str, *, timeout_seconds: float) -> Mapping[str, Parting]:
        """By resource that is up: what its Primary does when it loses its peer.

        As it is in the kernel (``drbdsetup show``), of all its connections and disks the weakest.

        Raises:
            Unanswered: host not reached, no answer in time, or output that is not understood.
        """

    def setup(self, host: str, *, timeout_seconds: float) -> HostSetup:
        """How the host is set up: DRBD's options in the kernel, and what its handler says of itself.

        ``drbdsetup show``, ``drbdadm dump-xml`` now and then, and ``vmheal-fence-peer check``, which touches
        nothing.

        Raises:
            Unanswered: host not reached, no answer in time, or DRBD's output is not understood.
        """

    def generations(self, host: str, resource: str, *, timeout_seconds: float) -> tuple[Generations, ...]:
        """The generation identifiers of its data there, volume by volume (``drbdadm get-gi RESOURCE``).

        With more than one peer DRBD 9 gives a line for each of a volume's peers.

        Raises:
            Unanswered: host not reached, no answer in time, or output that is not understood.
        """

    def promote(self, host: str, resource: str, *, timeout_seconds: float) -> CallOutcome:
        """``drbdadm primary RESOURCE``, never with --force. ``Done`` also when it is Primary already.

        ``Failed.code`` is the number in drbdadm's brackets (-1, -2, -7, -10, ...).
        """

    def demote(self, host: str, resource: str, *, timeout_seconds: float) -> CallOutcome:
        """``drbdadm secondary RESOURCE``, never with --force. ``Done`` also when it is Secondary already."""

    def allow_two_primaries(
        self, host: str, resource: str, *, allowed: bool, timeout_seconds: float
    ) -> CallOutcome:
        """Open or close the dual-Primary window on this side (``drbdadm net-options``), run-time only.

        On 8.4 and 9 the connected peer takes it over. It cannot be closed while both are Primary: ``Failed``.
        """

    def connect(self, host: str, resource: str, *, timeout_seconds: float) -> CallOutcome:
        """``drbdadm connect RESOURCE``; ``Done`` also when it is not StandAlone. Proves nothing about later.

        Refused (``Failed``) when a local disk of it is not attached (arbiter's rule R4).
        """

    def disconnect(self, host: str, resource: str, *, timeout_seconds: float) -> CallOutcome:
        """``drbdadm disconnect RESOURCE``; ``Done`` also when it is StandAlone.

        Refused (``Failed``) but for one that has lost both its disk and its peer (R4): from any other it
        would take something.
        """


class Fencing(Protocol):
    """Fence agents: the programs of Debian's ``fence-agents``, one configured for each host that has one."""

    def power_off(self, host: str, *, timeout_seconds: float) -> CallOutcome:
        """Have the host powered off, and read back that it is.

        ``Done`` only when the agent's own status says off, before (then nothing is done) or after.
        ``Failed``: it is on, or has no agent. An agent that lies is believed: that is its documented limit.
        """

    def is_on(self, host: str, *, timeout_seconds: float) -> bool:
        """Whether the host is on, by the agent's own status. Touches nothing, and never delays ``power_off``.

        Raises:
            Unanswered: no agent, or it does not say; or the host is being powered off now.
        """


class Programs(Protocol):
    """What the configuration lets alerts run."""

    def run(self, name: str, alert: Notification, *, timeout_seconds: float) -> CallOutcome:
        """Run the named program: alert as JSON on stdin, labels in the environment as ``VMHEAL_LABEL_name``.

        ``Done`` with the end of its output when it exits 0 in time, else ``Failed`` with the same; it never
        outlives the deadline.
        """


class Alerts(Protocol):
    """Alertmanager."""

    def firing(self, *, timeout_seconds: float) -> tuple[Notification, ...]:
        """Active alerts that carry an ``action`` label; silenced and inhibited ones are left out.

        ``source`` is ``alertmanager``.

        Raises:
            Unanswered: not reached, no answer in time, or not understood.
        """

    def watchdog(self, *, timeout_seconds: float) -> bool:
        """Whether the alert ``Watchdog``, which always fires, is there: silenced or not.

        Raises:
            Unanswered: not reached, no answer in time, or not understood.
        """

    def silences(self, *, timeout_seconds: float) -> tuple[Silence, ...]:
        """Silences that are active now.

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

    def last_words(self, host: str, *, before: float, timeout_seconds: float) -> LastWords:
        """What the host's exporter last said of DRBD's connections, in the two minutes before that moment.

        By resource and peer: it was connected, and all of the peer's disks were UpToDate. ``before`` is wall
        clock. A connection of which nothing was said then is left out.

        Raises:
            Unanswered: not reached, no answer in time, or not understood.
        """


class JournalError(Exception):
    """The journal could not do it. What was to be written may be there or not: rely on neither."""


class Conflict(JournalError):  # noqa: N818  names what happened
    """A record's version is not the one that the change was made from: somebody else changed it."""


@dataclass(frozen=True, slots=True)
class Past:
    """Some of what happened, the newest first."""

    events: tuple[tuple[int, Event], ...]
    """Each with its sequence number."""
    before: int | None = None
    """Where to search on; None: there is nothing older. A search ends when its time is over, too."""


class Journal(Protocol):
    """The durable memory: records that change by compare-and-swap, an inbox, and a timeline.

    When a method that writes returns, what it wrote survives a power failure; all of one call is there, or
    nothing. Every method raises ``JournalError`` when it cannot, and within its own bound of time.
    No caller knows what stands behind it: SQLite, or a consensus store.
    """

    def receive(self, notifications: Sequence[Notification], *, at: float) -> None:
        """Put notifications into the inbox, with a timeline event each. ``at`` is wall clock.

        One that is there already (same fingerprint and startsAt, not settled) takes the newer's place: a
        resolution takes the place of the firing that it ends.
        """

    def inbox(self, *, after: int, limit: int) -> tuple[Received, ...]:
        """What has been received and not settled, with ids above ``after``, in the order of their ids."""

    def records(self) -> tuple[DomainRecord, ...]:
        """Every domain's record."""

    def record(self, domain: str) -> DomainRecord | None:
        """One domain's record; None when there is none yet."""

    def hosts(self) -> tuple[HostRecord, ...]:
        """Every host's record that has ever been written; the host "" stands for all."""

    def run(self, fingerprint: str) -> ProgramRun | None:
        """The last run of a program for an alert with this fingerprint."""

    def definition(self, domain: str) -> Definition | None:
        """The domain's definition as it was last seen where it ran; None when it has not been yet."""

    def authorities(self) -> Mapping[str, Authority]:
        """What is written about every DRBD resource, by its name."""

    def authority(self, resource: str) -> Authority | None:
        """What is written about one resource; None when nothing is yet."""

    def commit(
        self,
        *,
        record: DomainRecord | None = None,
        authorities: Sequence[Authority] = (),
        hosts: Sequence[HostRecord] = (),
        definition: Definition | None = None,
        run: ProgramRun | None = None,
        events: Sequence[Event] = (),
        settled: Sequence[Received] = (),
    ) -> None:
        """One transaction: put records, append events, take what is settled out of the inbox.

        The version of each thing put is one above the version that it was made from (1: there was none). A
        settled notification that was received again meanwhile stays in the inbox.

        Raises:
            Conflict: what is stored is not of the version before; nothing was written.
        """

    def timeline(
        self, *, domain: str = "", after: int = 0, limit: int = 1000, newest: bool = False
    ) -> tuple[tuple[int, Event], ...]:
        """Events with their sequence numbers above ``after``, in order; of one domain, or of all.

        ``newest``: the last ``limit`` of them instead of the first. Old events are dropped: see the journal's
        retention.
        """

    def history(
        self,
        *,
        domain: str = "",
        plan: str = "",
        words: Sequence[str] = (),
        before: int | None = None,
        limit: int = 50,
    ) -> Past:
        """Search the timeline, the newest events first. Nothing that acts waits for it.

        Args:
            domain: only its events.
            plan: only those of this plan.
            words: each must be in an event's kind, domain, host, plan or sentence; capitals do not matter.
            before: only below this sequence number.
            limit: so many at most.
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

        A call that raises ``Unanswered`` gives that; one that is not back in time gives an ``Unanswered``
        that says so, and its late result is dropped. Other exceptions are raised here.
        """

    def spawn(self, name: str, call: Callable[[], None]) -> None:
        """Run the call in the background. It handles its own errors.

        Raises:
            Unanswered: too much is under way already; nothing was begun.
        """


@dataclass(frozen=True, slots=True)
class Ports:
    """All of them."""

    hypervisor: Hypervisor
    storage: Storage
    fencing: Fencing
    programs: Programs
    alerts: Alerts
    metrics: Metrics
    journal: Journal
    clock: Clock
    tasks: Tasks
