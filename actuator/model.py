"""What the actuator talks about: facts, domains, notifications, plans. Data only.

Times named ``*_at`` are wall clock, Unix seconds, for people and for what must outlive the process. ``at`` of
a fact is the actuator's monotonic clock, because ages must not depend on a wall clock that jumps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Generic, Literal, TypeAlias, TypeVar

from pydantic import Discriminator

from exporter.drbd import Snapshot
from exporter.drbd_configuration import Generations

T = TypeVar("T")
BY_KIND = Discriminator("kind")
"""Whoever reads it takes it for what its ``kind`` says: to try all kinds in turn costs several times more."""


# ---- facts -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Observed(Generic[T]):
    """A fact that somebody answered for."""

    value: T
    source: str
    """Who said it, for people: ``libvirt on v01``."""
    at: float
    """Monotonic seconds, read *before* the question was asked: the fact is at least this fresh."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A fact that nobody answered for. It is never taken for the good case."""

    reason: str


# ---- domains as libvirt sees them ------------------------------------------------------------------------


class DomainState(StrEnum):
    """libvirt's virDomainState, in the words that the exporter publishes."""

    NOSTATE = "nostate"
    RUNNING = "running"
    BLOCKED = "blocked"
    """Xen: running and idle."""
    PAUSED = "paused"
    SHUTDOWN = "shutdown"
    """Being shut down, not down."""
    SHUTOFF = "shutoff"
    CRASHED = "crashed"
    PMSUSPENDED = "pmsuspended"


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk of a domain, from its XML (LXC: also block file systems). Empty CD drives are left out."""

    target: str
    """As in the XML: ``vda``, ``xvda``; for LXC the directory or the device."""
    source: str
    """As in the XML: a path, or ``drbd:NAME`` for Xen's and QEMU's DRBD disks."""
    writable: bool = True
    attached: bool | None = None
    """The running domain really has it: libvirt's block statistics answer for it. None: not running, or the
    driver cannot tell. Xen starts a domain whose device cannot be opened, without the disk and without an
    error (facts of DRBD on Xen); QEMU and LXC fail the start instead."""


@dataclass(frozen=True, slots=True)
class DomainView:
    """One defined domain on one host."""

    name: str
    uuid: str
    state: DomainState
    reason: str
    """libvirt's reason for the state, in its words (``crashed``, ``ioerror``, ``unknown`` ...). For people
    only: a SIGTERM to QEMU reads like a clean shutdown, and a restarted libvirtd has forgotten reasons."""
    id: int | None
    """libvirt's id while it holds anything on the host, else None. A crashed domain that Xen preserves
    reads shutoff *with* an id: it must be destroyed before a start."""
    disks: tuple[Disk, ...] = ()


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a host could give to one more domain."""

    free_memory_bytes: int
    """QEMU, LXC: memory that can be had without swapping. Xen: the hypervisor's free memory."""
    memory_bytes: int
    cpus: int


@dataclass(frozen=True, slots=True)
class HostView:
    """A host as its libvirt sees it, beside its domains."""

    autostarted: frozenset[str] = frozenset()
    """Domains that libvirt starts by itself when the host comes up."""
    networks: frozenset[str] = frozenset()
    """Its virtual networks that are active."""


@dataclass(frozen=True, slots=True)
class GuestCpu:
    """The processor that a domain's definition asks for by name: a host has it or not."""

    kind: str
    """The definition's type: ``kvm``, ``qemu``."""
    arch: str
    xml: str
    """Its ``<cpu>``."""


@dataclass(frozen=True, slots=True)
class HandlerReport:
    """What ``vmheal-fence-peer check`` says on a host (exporter.fence_check)."""

    problems: tuple[str, ...] = ()
    """Why DRBD's handler could not do its work there, in sentences."""
    host: str = ""
    """Whom the arbiter takes it for, by its token; empty: no actuator answered it."""
    isolation_seconds: float | None = None
    """After so long at most it ends the frozen VMs of a host that is cut off; None: it cannot be told."""
    links: Mapping[str, bool] = field(default_factory=dict)
    """The host's network interfaces, bridges too, and whether each is up."""
    cpu: str = ""
    """What the host's processor calls itself; empty: nothing."""
    ahead_seconds: float = 0.0
    """By so much at least the host's clock is ahead of the actuator's machine's; behind: negative."""


@dataclass(frozen=True, slots=True)
class ResourceSetup:
    """A DRBD resource on a host, as it is in the kernel and in the configuration's files."""

    notices_seconds: float
    """After so long at most without a sign of its peer the peer counts as lost; of several the longest."""
    auto_promote: bool = False
    """Whoever opens its device makes it Primary (DRBD 9)."""
    handler: str = ""
    """The command of its fence-peer handler; empty: none."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the actuator's key may touch on a host: what its /etc/vmheal/host.conf names. None: everything."""

    resources: frozenset[str] | None = None
    domains: frozenset[str] | None = None
    migrate_uris: frozenset[str] | None = None
    """Where it may send a domain that runs. None: anywhere, or it was not told."""


@dataclass(frozen=True, slots=True)
class HostSetup:
    """How a host is set up for what may come, beyond what is now."""

    resources: Mapping[str, ResourceSetup] = field(default_factory=dict)
    """By name; those of which the kernel tells all."""
    handler: HandlerReport | Unknown = Unknown("it was not asked")
    allowed: Allowed = Allowed()


@dataclass(frozen=True, slots=True)
class LiveMigration:
    """How a domain is moved while it runs; see the section ``move`` of the configuration."""

    migrate_uri: str
    """Where the source's QEMU sends the memory: ``tcp://ADDRESS`` of the target."""
    target_uri: str
    """How the source's libvirtd reaches the target's (peer to peer)."""
    auto_converge: bool = True
    post_copy: bool = False
    max_downtime_seconds: float = 0.3


# ---- notifications ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Notification:
    """One alert, from whoever told us. It is a hint: the live system decides."""

    fingerprint: str
    starts_at: float
    """Identity together with the fingerprint; otherwise not trusted (Alertmanager may announce a startsAt
    only with its resolution)."""
    firing: bool
    labels: Mapping[str, str]
    source: Literal["webhook", "alertmanager", "prometheus", "reconcile", "operator"] = "webhook"

    @property
    def action(self) -> str:
        """What the alert asks for; empty when it asks for nothing."""
        return self.labels.get("action", "")

    @property
    def domain(self) -> str:
        """The domain that the alert is about; empty when it names none."""
        return self.labels.get("domain", "")

    @property
    def of_a_running_domain(self) -> bool:
        """The domain is believed dead although it runs: asked to be started again all the same."""
        return self.action == "restart" and self.labels.get("if_running") == "true"

    @property
    def host(self) -> str:
        """The host that the alert is about; empty when it names none."""
        return self.labels.get("host", "")


@dataclass(frozen=True, slots=True)
class OutgoingAlert:
    """An alert that we send to Alertmanager. Its identity is its labels."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: float
    ends_at: float
    """Alertmanager resolves it then unless it is sent again before; in the past: resolved now."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition of a silence; as in Alertmanager's API."""

    name: str
    value: str
    is_regex: bool = False
    is_equal: bool = True
    """False: ``!=`` and ``!~``."""


@dataclass(frozen=True, slots=True)
class Silence:
    """An active silence of Alertmanager."""

    by: str
    comment: str
    matchers: tuple[Matcher, ...]
    ends_at: float
    """Wall clock, Unix seconds."""


# ---- evidence --------------------------------------------------------------------------------------------


LastWords: TypeAlias = Mapping[tuple[str, str], bool]
"""Of a lost host's DRBD, by resource and peer, from Prometheus's history before it was lost: the peer was
connected and UpToDate. What it said nothing of is not in it."""


Identified: TypeAlias = Mapping[str, tuple[Generations, ...]]
"""The generation identifiers of a host's data, by resource and volume."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one look at the live system said about one domain, on every host where it may run."""

    domain: str
    at: float
    """Monotonic seconds before the first question was asked."""
    domains: Mapping[str, Observed[DomainView | None] | Unknown]
    """By host; None: libvirt answered, and no such domain is defined there."""
    storage: Mapping[str, Observed[Snapshot] | Unknown]
    """By host: the DRBD resources that are up in that host's kernel. One that is down is not in it."""
    last_words: LastWords | Unknown = Unknown("it was not asked")
    generations: Mapping[str, Observed[Identified] | Unknown] = field(default_factory=dict)
    """By host that it may fail over to."""


class Parting(StrEnum):
    """What becomes of a Primary's writes when it loses its peer: its DRBD's configuration, in the kernel."""

    ASKS = "asks"
    """Protocol C and ``fencing resource-and-stonith``: it freezes, and asks the arbiter."""
    VOTES = "votes"
    """Protocol C, more than two hosts and ``quorum majority``: without most of them it stops writing."""
    GOES_ON = "goes on"
    """Protocol C: it writes on, and asks nobody."""
    LOSES = "loses"
    """Protocol A or B: what the guest saw acknowledged last may never have reached the peer's disk."""


class Proof(StrEnum):
    """Why a host that does not say so itself cannot write any more."""

    ARBITRATED = "arbitrated"
    """Its DRBD freezes a resource that lost its peer, and asks the arbiter, which chose the other."""
    POWER = "power"
    """A fence agent reported it off."""
    OPERATOR = "operator"
    """A named person confirmed that it is down."""
    QUORUM = "quorum"
    """DRBD 9: the target has the quorum without it, so it has none, and its DRBD stops its writes. Its domain
    is not ended by that."""
    DRBD_ONLY = "drbd-only"
    """None: DRBD let the other side be promoted. Only where the configuration says so."""


# ---- decisions -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Destroy:
    """Make sure that what is left of a crashed domain is gone."""

    host: str
    domain: str
    domain_id: int
    kind: Literal["destroy"] = "destroy"


@dataclass(frozen=True, slots=True)
class Promote:
    """Make a DRBD resource Primary on the host."""

    host: str
    resource: str
    kind: Literal["promote"] = "promote"


@dataclass(frozen=True, slots=True)
class Demote:
    """Make a DRBD resource Secondary on the host: takes back a promotion of a plan that failed."""

    host: str
    resource: str
    kind: Literal["demote"] = "demote"


@dataclass(frozen=True, slots=True)
class Start:
    """Start the domain."""

    host: str
    domain: str
    kind: Literal["start"] = "start"


@dataclass(frozen=True, slots=True)
class Confirm:
    """Read the domain back as running, with its disks."""

    host: str
    domain: str
    kind: Literal["confirm"] = "confirm"


@dataclass(frozen=True, slots=True)
class Define:
    """Define the domain on the host, as it was last seen where it ran."""

    host: str
    domain: str
    anew: bool = False
    """It is defined there already, otherwise: that is replaced."""
    kind: Literal["define"] = "define"


@dataclass(frozen=True, slots=True)
class PowerOff:
    """Have the fence agent power the host off, and read back that it is."""

    host: str
    kind: Literal["power_off"] = "power_off"


@dataclass(frozen=True, slots=True)
class ShutDown:
    """End a domain that is to run elsewhere, or anew: the guest is asked first, and ended at its deadline."""

    host: str
    domain: str
    domain_id: int
    kind: Literal["shut_down"] = "shut_down"


@dataclass(frozen=True, slots=True)
class Outlast:
    """Wait until the domain cannot run on the host any more (arbiter's rule R7).

    Seen gone; or the host is isolated for so long that it has ended the domain itself.
    """

    host: str
    domain: str
    kind: Literal["outlast"] = "outlast"


@dataclass(frozen=True, slots=True)
class AllowTwo:
    """Let a resource be Primary on both its hosts, for a live migration; DRBD tells the peer."""

    host: str
    resource: str
    kind: Literal["allow_two"] = "allow_two"


@dataclass(frozen=True, slots=True)
class ForbidTwo:
    """End that."""

    host: str
    resource: str
    kind: Literal["forbid_two"] = "forbid_two"


@dataclass(frozen=True, slots=True)
class Migrate:
    """Move the running domain to the host, live."""

    host: str
    source: str
    domain: str
    domain_id: int
    kind: Literal["migrate"] = "migrate"


Step: TypeAlias = (
    Destroy
    | Promote
    | Demote
    | Start
    | Confirm
    | Define
    | PowerOff
    | ShutDown
    | Outlast
    | AllowTwo
    | ForbidTwo
    | Migrate
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in order. Made by the pure core, carried out by the executor."""

    verb: Literal["restart", "migrate", "failover"]
    domain: str
    host: str
    """Where the domain runs when the plan has succeeded."""
    reason: str
    """One sentence: what was seen that asks for it."""
    steps: tuple[Annotated[Step, BY_KIND], ...]
    source: str = ""
    """Where it ran, or should have; empty when it does not move."""
    proof: Proof | None = None
    """Of a failover: why the source cannot write any more."""
    chosen: str = ""
    """Why the domain goes to this host and to no other; empty when it does not move."""
    rejected: Mapping[str, str] = field(default_factory=dict)
    """By host: why the domain does not go there."""
    suspect: bool = False
    """The source has failed the domain: it is not sent back there for a while."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing is done, and why."""

    guard: str
    """The guard's name, for metrics."""
    sentence: str
    """What is wrong and what a person can do about it."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """Nothing has to be done: the domain is as it should be."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Postpone:
    """Not now: look again at ``until_at`` (wall clock)."""

    until_at: float
    sentence: str


Decision: TypeAlias = Plan | Refusal | Nothing | Postpone


# ---- outcomes of calls -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Done:
    """The call succeeded, or its effect was found to be there already."""

    detail: str = ""
    kind: Literal["done"] = "done"


@dataclass(frozen=True, slots=True)
class Failed:
    """The other side answered no: the call has had no effect and will have none."""

    reason: str
    """What it said, in its words."""
    code: int | None = None
    """DRBD: the number in drbdadm's brackets, negative or not; it tells refusals apart, the exit status does
    not. libvirt: the virErrorNumber."""
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Indeterminate:
    """No answer in time: it may have had its effect, may still have it, or never will. Observe again."""

    reason: str
    kind: Literal["indeterminate"] = "indeterminate"


CallOutcome: TypeAlias = Done | Failed | Indeterminate


# ---- what the journal keeps ------------------------------------------------------------------------------


class PlanStatus(StrEnum):
    """Where a plan stands."""

    OPEN = "open"
    UNDOING = "undoing"
    """A step failed or was refused; what had been begun is being taken back."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of a plan. An intent without an outcome means: nobody knows, observe."""

    step: Annotated[Step, BY_KIND]
    intended_at: float | None = None
    concluded_at: float | None = None
    outcome: Annotated[CallOutcome, BY_KIND] | None = None
    ours: bool = False
    """We called it, or may have before a crash; False: its effect was found to be there already."""


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """A plan and how far it came."""

    id: str
    plan: Plan
    status: PlanStatus
    claimed_at: float
    steps: tuple[StepRecord, ...]
    finished_at: float | None = None
    sentence: str = ""
    """How it ended, or why it is being undone."""
    forecast_seconds: float | None = None
    """How long it was to take when it was claimed; None: nobody could tell."""

    @property
    def finished(self) -> bool:
        """Nothing of it is left to do."""
        return self.status in {PlanStatus.SUCCEEDED, PlanStatus.FAILED}


class EscalationKind(StrEnum):
    """Why a person is asked; the value is the alert's name."""

    REFUSED = "VMHealRefused"
    """A guard refused: nothing was done."""
    FAILED = "VMHealFailed"
    """A plan failed on the way."""
    GAVE_UP = "VMHealGaveUp"
    """The limit of attempts is used up: nothing more is tried until the domain was seen running."""


@dataclass(frozen=True, slots=True)
class Escalation:
    """A warning that stands until the domain runs again."""

    kind: EscalationKind
    host: str
    guard: str
    sentence: str
    since_at: float


@dataclass(frozen=True, slots=True)
class Order:
    """What a person told vmheal, until taken back or over."""

    by: str
    at: float
    """Wall clock, Unix seconds."""
    reason: str = ""
    until_at: float | None = None
    """Wall clock; None: until it is taken back."""

    def stands(self, now: float) -> bool:
        """Whether it holds at this moment of the wall clock."""
        return self.until_at is None or now < self.until_at


@dataclass(frozen=True, slots=True)
class HostRecord:
    """What vmheal knows about one host beyond the live system; the host "" stands for all of them."""

    host: str
    version: int = 0
    """Raised by one with every change, as of a domain's record; 0: nothing has been written yet."""
    failed_at: float | None = None
    """Wall clock: since when an alert has asked for its failover; None once it was seen alive again."""
    drained: Order | None = None
    """Its domains are to leave it, and none is to come."""
    down: Order | None = None
    """A named person confirmed that it is down. Over as soon as it is seen alive."""
    paused: Order | None = None
    """Nothing is begun for its domains."""


@dataclass(frozen=True, slots=True)
class DomainRecord:
    """What vmheal knows about one protected domain beyond the live system."""

    domain: str
    version: int
    """Raised by one with every change: a change is written only over the version that it was made from."""
    host: str
    """Where it should run: desired state."""
    plan: PlanRecord | None = None
    """The open plan, else the last one. One at a time."""
    attempts_at: tuple[float, ...] = ()
    """When plans first called something, oldest first, as far back as the limits look."""
    escalation: Escalation | None = None
    suspects: Mapping[str, float] = field(default_factory=dict)
    """Hosts that failed the domain, and until when (wall clock) it is not sent there."""
    paused: Order | None = None
    """Nothing is begun for it."""
    approved: str = ""
    """Mode ``approve``: the plan that a person has released, by its proposal."""

    @property
    def last_was_failover(self) -> bool:
        """Then its attempts are those of failovers, and of nothing before."""
        return self.plan is not None and self.plan.plan.verb == "failover"

    @property
    def open_plan(self) -> PlanRecord | None:
        """The plan that is not finished."""
        return None if self.plan is None or self.plan.finished else self.plan


@dataclass(frozen=True, slots=True)
class Definition:
    """A domain's definition for libvirt, as it was last seen where it ran: it outlives that host."""

    domain: str
    version: int
    """Raised by one with every change."""
    xml: str
    host: str
    """Where it was seen."""
    at: float
    """When it was first seen like this; wall clock."""


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """The last run of a program for an alert with this fingerprint."""

    fingerprint: str
    version: int
    """Raised by one with every change."""
    starts_at: float
    """Of the alert: a program is run once for each time that it begins."""
    program: str
    at: float


@dataclass(frozen=True, slots=True)
class HookRun:
    """One run of a hook on a host: the boot, and the boot's clock (CLOCK_BOOTTIME, ns) when it began."""

    boot_id: str
    began_ns: int


@dataclass(frozen=True, slots=True)
class Authority:
    """What is written about one DRBD resource: who may be Primary, and whose data are current."""

    resource: str
    hosts: tuple[str, ...] = ()
    """The hosts with a replica; none until the resource was seen in order for the first time."""
    version: int = 0
    """Raised by one with every change of anything here; 0: nothing has been written yet."""
    holder: str = ""
    """The one host that may be Primary."""
    admitted: frozenset[str] = frozenset()
    """Whose replicas were seen UpToDate by the Primary itself, with nothing since that could have made them
    stale. All others are excluded."""
    granted: bool = False
    """The holder may have written what no other replica has, and DRBD's metadata lets it become Primary again
    without asking. Until both have met again only a proof that it is off takes the authority away."""
    newest: bool = False
    """Granted, and no resync from the holder has begun since: its disk is known to be the newest."""
    runs: Mapping[str, HookRun] = field(default_factory=dict)
    """The latest run of each hook that asked, by host, hook, peer and minors."""
    armed: frozenset[str] = frozenset()
    """Hosts whose DRBD was last seen with protocol C and ``fencing resource-and-stonith``: without that a
    Primary that lost its peer writes on and asks nobody."""
    lossy: frozenset[str] = frozenset()
    """Hosts whose DRBD was last seen with protocol A or B."""
    generations: tuple[str, ...] = ()
    """By volume, DRBD's generation identifier of the data that both replicas had when they were last seen in
    order, with nothing since that could have made others the current ones; none: not known."""
    voters: frozenset[str] = frozenset()
    """All hosts of a resource with more than two, which has no holder, as those that vote see them."""
    voting: frozenset[str] = frozenset()
    """Hosts whose DRBD was last seen to stop without a quorum of exactly these voters."""
    torn: bool = False
    """The last current disk was lost under a Primary in the middle of a resync: what it wrote last may be on
    the incomplete disk alone. Only a person's word ends it."""

    @property
    def votes(self) -> bool:
        """DRBD itself decides who may be Primary, and no authority is kept."""
        return not self.hosts and bool(self.voting)


@dataclass(frozen=True, slots=True)
class Received:
    """A notification in the journal's inbox: durable, not yet settled."""

    id: int
    received_at: float
    notification: Notification


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the timeline. Written for people; nothing is decided on it."""

    at: float
    """Wall clock, Unix seconds."""
    kind: str
    """received, ignored, observed, decided, intent, outcome, finished, escalated, solved ..."""
    sentence: str
    domain: str = ""
    host: str = ""
    plan: str = ""
    detail: Mapping[str, object] = field(default_factory=dict)
    """What stands behind the sentence: evidence, labels, seconds."""
