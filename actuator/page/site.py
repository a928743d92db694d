"""What the page shows, worked out of what the actuator knows at one moment. Pure.

All VMs, hosts and resources are ranked by the worst that is said of each, which is cheap; only those that are
shown are put into words.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Generic, TypeVar

from actuator.config import Mode, Settings
from actuator.core.decide import APPROVAL
from actuator.core.guards.situation import DOWN, RUNNING
from actuator.core.readiness import MEND, mended
from actuator.core.words import describe
from actuator.model import (
    Authority,
    CallOutcome,
    DomainRecord,
    DomainState,
    Done,
    Escalation,
    EscalationKind,
    HostRecord,
    Order,
    PlanRecord,
    PlanStatus,
    Postpone,
    StepRecord,
)
from actuator.ports import Unanswered
from actuator.rehearse import Power, Rehearsal
from actuator.worker import DARK_SECONDS
from exporter.drbd import ConnectionState, DiskState, Resource, Role, Snapshot, UnknownWord

T = TypeVar("T")

_NOT_THERE = DOWN | {None}
STALE_RECONCILES = 6
"""So many intervals without the end of a reconcile mean that what is shown is old."""
_COMMAND = re.compile(r"'((?:vmheal-actuator|drbdadm|virsh) [^']+)'")
_APPROVE = re.compile(r"vmheal-actuator approve \S+ ([0-9a-f]{10})")


class Level(StrEnum):
    """How it is; the worst first. The value is the word of the style sheet."""

    BAD = "bad"
    """Broken, or a person is asked."""
    BUSY = "busy"
    """vmheal is at it."""
    NOTE = "note"
    """Works, but not all would, or a person has ordered something."""
    OK = "ok"
    PLAIN = "plain"
    """Says nothing about that."""


_RANK = {level: rank for rank, level in enumerate(Level)}


@dataclass(frozen=True, slots=True)
class Word:
    """A state in words, and how it is."""

    level: Level
    text: str


# ---- what is known ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the actuator knows at one moment. Times are wall clock, ages are seconds."""

    settings: Settings
    now: float
    reconciled_at: float | None
    """When all were last asked."""
    sources: Mapping[str, bool]
    """Whether Alertmanager, Prometheus and each host's libvirt answered then."""
    records: Sequence[DomainRecord]
    hosts: Mapping[str, HostRecord]
    """By name; "" stands for all."""
    authorities: Sequence[Authority]
    paused: Callable[[DomainRecord], Postpone | None]
    states: Mapping[str, Mapping[str, DomainState] | Unanswered]
    """By host: what its libvirt last said of its domains."""
    storage: Mapping[str, Snapshot | Unanswered]
    """By host: what its DRBD last said."""
    silent_seconds: Mapping[str, float]
    """By host: since it was last heard of."""
    rehearsals: Mapping[str, Rehearsal]
    """By domain."""
    power: Mapping[str, Power]
    """By host that has a fence agent: what that last said, if it was asked."""


# ---- what is shown ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waiting:
    """A person is asked."""

    domain: str
    escalation: Escalation
    commands: tuple[str, ...]
    """What answers it, or tells more."""
    proposal: str
    """Of the plan that waits to be approved; empty: it is something else."""

    @property
    def title(self) -> str:
        """What it is about, in some words."""
        if self.proposal:
            return "a plan waits to be approved"
        return {
            EscalationKind.REFUSED: "refused: nothing was done",
            EscalationKind.FAILED: "a plan has failed",
            EscalationKind.GAVE_UP: "given up: nothing more is tried",
        }[self.escalation.kind]


@dataclass(frozen=True, slots=True)
class StepLine:
    """One step of a plan."""

    text: str
    word: Word
    seconds: float | None
    """How long it took, or has taken so far; None: it has not begun."""


@dataclass(frozen=True, slots=True)
class PlanLine:
    """A plan under way."""

    id: str
    domain: str
    title: str
    reason: str
    word: Word
    since_at: float
    seconds: float
    steps: tuple[StepLine, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """Another host, and whether the VM could go there now."""

    host: str
    word: Word


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why something would not work now, and what mends it."""

    verbs: str
    host: str
    name: str
    sentence: str
    mend: str


@dataclass(frozen=True, slots=True)
class Vm:
    """A protected VM."""

    name: str
    host: str
    """Where it should run."""
    word: Word
    """What libvirt says of it there."""
    targets: tuple[Target, ...]
    notes: tuple[Word, ...]
    obstacles: tuple[Obstacle, ...]
    resources: tuple[str, ...]
    paused: bool
    """By an order on the VM itself."""


@dataclass(frozen=True, slots=True)
class Host:
    """A hypervisor."""

    name: str
    management: Word
    replication: Word
    power: Word
    vms: int
    """That should run there."""
    orders: tuple[Word, ...]
    paused: bool
    drained: bool


@dataclass(frozen=True, slots=True)
class Replica:
    """A DRBD resource on one host."""

    host: str
    word: Word
    admitted: bool | None
    """As the arbiter has it; None: it does not keep this resource."""


@dataclass(frozen=True, slots=True)
class DrbdResource:
    """A DRBD resource on all its hosts."""

    name: str
    authority: str
    replicas: tuple[Replica, ...]


@dataclass(frozen=True, slots=True)
class Rows(Generic[T]):
    """Some of many, the worst first."""

    shown: tuple[T, ...]
    found: int
    """How many there are of which these are some."""
    first: int
    """The place of the first of them, from 0."""

    @property
    def after(self) -> int | None:
        """Where to go on."""
        end = self.first + len(self.shown)
        return end if end < self.found else None


@dataclass(frozen=True, slots=True)
class Totals:
    """How many there are, and how many of them are not all right."""

    all: int
    words: tuple[Word, ...]


_COUNTED = {Level.BAD: "in trouble", Level.BUSY: "being worked on", Level.NOTE: "with a note"}


class Site:
    """What the page shows of the facts."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._records = {it.domain: it for it in facts.records}
        self._paused = {it.domain: pause for it in facts.records if (pause := facts.paused(it)) is not None}
        self._views: defaultdict[str, dict[str, Resource]] = defaultdict(dict)
        """By resource and host: how DRBD there sees it."""
        self._links: defaultdict[str, list[bool]] = defaultdict(list)
        """By host: whether its peers' DRBD is connected to it, for each resource."""
        for host, said in facts.storage.items():
            if isinstance(said, Unanswered):
                continue
            for resource in said.resources:
                self._views[resource.name][host] = resource
                for it in resource.connections:
                    self._links[it.name].append(it.connection_state is ConnectionState.CONNECTED)

    # ---- the whole ---------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The moment of all this; wall clock."""
        return self._facts.now

    @property
    def mode(self) -> Mode:
        """The global one."""
        return self._facts.settings.mode

    @property
    def other_modes(self) -> Mapping[str, int]:
        """How many VMs have a mode of their own, by mode."""
        settings = self._facts.settings
        own = Counter(settings.mode_of(it).value for it in settings.domains)
        return {mode: count for mode, count in sorted(own.items()) if mode != settings.mode}

    @property
    def paused(self) -> Order | None:
        """All is paused, by this."""
        return self._pause_of("")

    @property
    def reconciled_at(self) -> float | None:
        """When all were last asked; wall clock."""
        return self._facts.reconciled_at

    @cached_property
    def blind(self) -> tuple[str, ...]:
        """What keeps vmheal from seeing; empty: nothing does."""
        interval = self._facts.settings.reconcile.interval_seconds
        said = [
            f"{source} does not answer"
            for source, answered in self._facts.sources.items()
            if not answered and not source.startswith("libvirt on ")
        ]
        at = self._facts.reconciled_at
        if at is not None and self.now - at > STALE_RECONCILES * interval:
            said.append(f"nothing has been looked at for {self.now - at:.0f} s")
        return tuple(said)

    @cached_property
    def waiting(self) -> tuple[Waiting, ...]:
        """What a person is asked: what waits for longest first."""
        found = [
            self._asked(record, record.escalation)
            for record in self._facts.records
            if record.escalation is not None
        ]
        return tuple(sorted(found, key=lambda it: (it.escalation.since_at, it.domain)))

    @cached_property
    def plans(self) -> tuple[PlanLine, ...]:
        """Plans under way, the oldest first."""
        opened = [(it, it.open_plan) for it in self._facts.records]
        found = [plan_line(plan, self.now) for _, plan in opened if plan is not None]
        return tuple(sorted(found, key=lambda it: (it.since_at, it.id)))

    def runbook(self, alert: str) -> str:
        """Where it is said what an alert means; empty when the configuration does not say."""
        base = self._facts.settings.runbooks_url
        return f"{base}{alert}.md" if base else ""

    def knows(self, name: str) -> bool:
        """Whether it is a protected VM or a host."""
        return name in self._records or name in self._facts.settings.hosts

    def homes_of(self, host: str) -> tuple[str, ...]:
        """The VMs that should run there."""
        return tuple(it.domain for it in self._facts.records if it.host == host)

    def proposal_of(self, domain: str) -> Waiting | None:
        """The plan of a domain that waits to be approved."""
        return next((it for it in self.waiting if it.domain == domain and it.proposal), None)

    def plan(self, plan: str) -> PlanLine | None:
        """The open plan, or the last one, of its VM, if it has this id."""
        record = self._records.get(plan.rpartition("-")[0])
        if record is None or record.plan is None or record.plan.id != plan:
            return None
        return plan_line(record.plan, self.now)

    def _asked(self, record: DomainRecord, escalation: Escalation) -> Waiting:
        approve = _APPROVE.search(escalation.sentence) if escalation.guard == APPROVAL else None
        return Waiting(
            record.domain, escalation, self._commands(record, escalation), approve[1] if approve else ""
        )

    def _commands(self, record: DomainRecord, escalation: Escalation) -> tuple[str, ...]:
        """Those that the sentence names; else what mends such a thing; and what tells more."""
        named = tuple(dict.fromkeys(_COMMAND.findall(escalation.sentence)))
        if not named and escalation.guard in MEND:
            hosts = self._facts.settings.hosts_of(record.domain)
            names = self._resources_of(record)
            named = (mended(escalation.guard, record.domain, record.host, escalation.host, hosts, names),)
        more = f"vmheal-actuator explain {record.domain}"
        if escalation.kind is EscalationKind.FAILED and record.plan is not None:
            more = f"vmheal-actuator journal show {record.plan.id}"
        return named if more in named or escalation.guard == APPROVAL else (*named, more)

    @property
    def vm_totals(self) -> Totals:
        """Of the VMs."""
        return _totals(self.vm_levels)

    @property
    def host_totals(self) -> Totals:
        """Of the hosts."""
        return _totals(self.host_levels)

    @property
    def resource_totals(self) -> Totals:
        """Of the DRBD resources."""
        return _totals(self.resource_levels)

    # ---- VMs ---------------------------------------------------------------------------------------------

    @cached_property
    def vm_levels(self) -> Mapping[str, Level]:
        """How each VM is."""
        return {it.domain: self._level_of_vm(it) for it in self._facts.records}

    def vms(self, text: str = "", first: int = 0, limit: int = 50) -> Rows[Vm]:
        """Those whose name, or one of whose hosts, has the text in it."""
        settings = self._facts.settings

        def words(name: str) -> Iterable[str]:
            return (name, self._records[name].host, *settings.domains[name].hosts)

        return _rows(self.vm_levels, words, text, first, limit, lambda name: self._vm(self._records[name]))

    def _level_of_vm(self, record: DomainRecord) -> Level:
        if record.escalation is not None:
            return Level.BAD
        if record.open_plan is not None:
            return Level.BUSY
        rehearsal = self._rehearsal(record)
        ready = rehearsal is not None and all(it.ready for it in rehearsal.checks)
        well = Word(Level.OK if ready else Level.NOTE, "")
        return _worst(self._where(record), well, *self._notes(record, rehearsal))

    def _vm(self, record: DomainRecord) -> Vm:
        rehearsal = self._rehearsal(record)
        return Vm(
            record.domain,
            record.host,
            self._where(record),
            self._targets(record, rehearsal),
            tuple(self._notes(record, rehearsal)),
            _obstacles(rehearsal),
            self._resources_of(record),
            record.paused is not None and record.paused.stands(self.now),
        )

    def _state(self, record: DomainRecord, host: str) -> DomainState | None:
        said = self._facts.states.get(host)
        return None if said is None or isinstance(said, Unanswered) else said.get(record.domain)

    def _where(self, record: DomainRecord) -> Word:
        """What is seen of it where it should run; and anywhere else, where it should not."""
        said = self._facts.states.get(record.host)
        state = self._state(record, record.host)
        silent = self._silent_seconds(record.host)
        elsewhere = [
            host
            for host in self._facts.settings.hosts_of(record.domain)
            if host != record.host and self._state(record, host) not in _NOT_THERE
        ]
        if silent is not None:
            word = Word(Level.BAD, f"not known: {record.host} is silent for {silent:.0f} s")
        elif said is None:
            word = Word(Level.NOTE, "not looked at yet")
        elif isinstance(said, Unanswered):
            word = Word(Level.BAD, f"not known: {record.host} does not answer")
        elif state in RUNNING:
            word = Word(Level.OK, f"runs on {record.host}")
        else:
            word = Word(Level.BAD, f"{state or 'not defined'} on {record.host}")
        if elsewhere:
            return Word(Level.BAD, f"{word.text}, and up on {', '.join(elsewhere)}")
        return word

    def _rehearsal(self, record: DomainRecord) -> Rehearsal | None:
        """Its last one; one of before it moved says nothing any more."""
        found = self._facts.rehearsals.get(record.domain)
        return found if found is not None and found.home == record.host else None

    def _resources_of(self, record: DomainRecord) -> tuple[str, ...]:
        found = self._facts.rehearsals.get(record.domain)
        return found.resources if found is not None else ()

    def _targets(self, record: DomainRecord, rehearsal: Rehearsal | None) -> tuple[Target, ...]:
        others = [it for it in self._facts.settings.hosts_of(record.domain) if it != record.host]
        return tuple(Target(host, _could_go(rehearsal, host)) for host in others)

    def _notes(self, record: DomainRecord, rehearsal: Rehearsal | None) -> Iterable[Word]:
        mode = self._facts.settings.mode_of(record.domain)
        if mode is not self.mode:
            yield Word(Level.NOTE, f"mode {mode}")
        if record.escalation is not None:
            yield Word(Level.BAD, record.escalation.sentence)
        if (pause := self._paused.get(record.domain)) is not None:
            yield Word(Level.NOTE, pause.sentence)
        for host, until in record.suspects.items():
            if until > self.now:
                yield Word(
                    Level.NOTE, f"failed on {host}: is not sent back there for {until - self.now:.0f} s"
                )
        if rehearsal is not None and any(it.verb == "restart" and not it.ready for it in rehearsal.checks):
            yield Word(Level.NOTE, "a restart would not work now")

    # ---- hosts -------------------------------------------------------------------------------------------

    @cached_property
    def host_levels(self) -> Mapping[str, Level]:
        """How each host is."""
        return {
            host: _worst(
                self._management(host), self._replication(host), self._power(host), *self._said_of(host)
            )
            for host in self._facts.settings.hosts
        }

    def hosts(self, text: str = "", first: int = 0, limit: int = 50) -> Rows[Host]:
        """Those whose name has the text in it."""
        return _rows(self.host_levels, lambda name: (name,), text, first, limit, self._host)

    def _host(self, name: str) -> Host:
        record = self._record_of_host(name)
        return Host(
            name,
            self._management(name),
            self._replication(name),
            self._power(name),
            self._homes[name],
            tuple(self._said_of(name)),
            self._pause_of(name) is not None,
            record.drained is not None,
        )

    @cached_property
    def _homes(self) -> Counter[str]:
        return Counter(it.host for it in self._facts.records)

    def _record_of_host(self, host: str) -> HostRecord:
        return self._facts.hosts.get(host) or HostRecord(host)

    def _pause_of(self, host: str) -> Order | None:
        order = self._record_of_host(host).paused
        return order if order is not None and order.stands(self.now) else None

    def _management(self, host: str) -> Word:
        silent = self._silent_seconds(host)
        said = self._facts.states.get(host)
        if silent is not None:
            return Word(Level.BAD, f"silent for {silent:.0f} s")
        if said is None:
            return Word(Level.NOTE, "not asked yet")
        if isinstance(said, Unanswered):
            return Word(Level.BAD, "libvirt does not answer")
        if isinstance(self._facts.storage.get(host), Unanswered):
            return Word(Level.BAD, "libvirt answers, DRBD does not")
        return Word(Level.OK, "answers")

    def _silent_seconds(self, host: str) -> float | None:
        """Since when nobody has heard of a host that is dark: what it said before that may be long over."""
        silent = self._facts.silent_seconds.get(host, 0.0)
        return silent if silent >= DARK_SECONDS else None

    def _replication(self, host: str) -> Word:
        links = self._links.get(host, [])
        if not links:
            return Word(Level.NOTE, "no peer tells")
        up = sum(links)
        level = Level.OK if up == len(links) else Level.BAD
        return Word(level, f"{up} of {len(links)} connected")

    def _power(self, host: str) -> Word:
        if self._facts.settings.hosts[host].fence is None:
            return Word(Level.PLAIN, "no fence agent")
        said = self._facts.power.get(host)
        if said is None:
            return Word(Level.NOTE, "agent not asked yet")
        if said.on is None:
            return Word(Level.BAD, "agent does not say")
        return Word(Level.OK, "on") if said.on else Word(Level.BAD, "off")

    def _said_of(self, host: str) -> Iterable[Word]:
        record = self._record_of_host(host)
        if record.failed_at is not None:
            yield Word(Level.BAD, "has failed, says an alert")
        if record.down is not None:
            yield Word(Level.BAD, f"confirmed to be down {by(record.down)}")
        if record.drained is not None:
            yield Word(Level.NOTE, f"drained {by(record.drained)}")
        if (pause := self._pause_of(host)) is not None:
            yield Word(Level.NOTE, f"paused {by(pause)}")

    # ---- resources ---------------------------------------------------------------------------------------

    @cached_property
    def _authorities(self) -> Mapping[str, Authority]:
        return {it.resource: it for it in self._facts.authorities}

    @cached_property
    def resource_levels(self) -> Mapping[str, Level]:
        """How each resource is."""
        names = sorted(self._views.keys() | self._authorities.keys())
        return {name: self._level_of_resource(name) for name in names}

    def resources(self, text: str = "", first: int = 0, limit: int = 50) -> Rows[DrbdResource]:
        """Those whose name, or one of whose hosts, has the text in it."""
        return _rows(
            self.resource_levels,
            lambda name: (name, *self._hosts_of(name)),
            text,
            first,
            limit,
            self._resource,
        )

    def _hosts_of(self, resource: str) -> Sequence[str]:
        authority = self._authorities.get(resource)
        known = () if authority is None else authority.hosts or sorted(authority.voters)
        return tuple(dict.fromkeys((*known, *self._views.get(resource, {}))))

    def _level_of_resource(self, name: str) -> Level:
        authority, views = self._authorities.get(name), self._views.get(name, {})
        for view in views.values():
            if _replica_level(view) is Level.BAD:
                return Level.BAD
        if authority is None:
            return Level.OK
        for host in authority.hosts or authority.voters:
            if host not in views:
                return Level.BAD
        return Level.OK if authority.admitted.issuperset(authority.hosts) else Level.NOTE

    def _resource(self, name: str) -> DrbdResource:
        authority = self._authorities.get(name)
        if authority is None:
            said = "none is kept yet"
        elif authority.votes:
            said = "DRBD's quorum decides"
        else:
            said = f"{authority.holder or 'nobody'}{' alone' * authority.granted}"
        replicas = tuple(self._replica(name, host, authority) for host in self._hosts_of(name))
        return DrbdResource(name, said, replicas)

    def _replica(self, name: str, host: str, authority: Authority | None) -> Replica:
        view = self._views.get(name, {}).get(host)
        admitted = host in authority.admitted if authority is not None and authority.hosts else None
        if view is not None:
            return Replica(host, Word(_replica_level(view), _replica_text(view)), admitted)
        answers = not isinstance(self._facts.storage.get(host, Unanswered()), Unanswered)
        return Replica(host, Word(Level.BAD, "not up" if answers else "not known"), admitted)


# ---- how ---------------------------------------------------------------------------------------------------


def _rows(
    levels: Mapping[str, Level],
    words: Callable[[str], Iterable[str]],
    text: str,
    first: int,
    limit: int,
    row: Callable[[str], T],
) -> Rows[T]:
    """Those that the text is found of, the worst first, else as they stand."""
    wanted = text.casefold()
    found = [it for it in levels if not wanted or any(wanted in word.casefold() for word in words(it))]
    found.sort(key=lambda it: _RANK[levels[it]])
    return Rows(tuple(row(it) for it in found[first : first + limit]), len(found), first)


def _totals(levels: Mapping[str, Level]) -> Totals:
    count = Counter(levels.values())
    words = tuple(Word(it, f"{count[it]} {words}") for it, words in _COUNTED.items() if count[it])
    return Totals(len(levels), words)


def _worst(*words: Word) -> Level:
    return min((it.level for it in words), key=_RANK.__getitem__)


def by(order: Order) -> str:
    """Who has given an order, and why."""
    return f"by {order.by}" + (f": {order.reason}" if order.reason else "")


def _could_go(rehearsal: Rehearsal | None, host: str) -> Word:
    """Whether it could go there now: in order, and when its own host is lost."""
    checks = () if rehearsal is None else tuple(it for it in rehearsal.checks if it.host == host)
    if not checks:
        return Word(Level.NOTE, "not rehearsed yet")
    named = {"migrate": "move", "failover": "failover"}
    able = [named[it.verb] for it in checks if it.ready and it.verb in named]
    if len(able) == len(checks):
        return Word(Level.OK, "move, failover")
    return Word(Level.NOTE, f"{able[0]} only") if able else Word(Level.NOTE, "not now")


def _obstacles(rehearsal: Rehearsal | None) -> tuple[Obstacle, ...]:
    """Each reason once, with the verbs that it stands against."""
    against: dict[tuple[str, str, str, str], list[str]] = {}
    for check in () if rehearsal is None else rehearsal.checks:
        for it in check.reasons:
            against.setdefault((check.host, it.name, it.sentence, it.mend), []).append(check.verb)
    return tuple(Obstacle(" and ".join(verbs), *reason) for reason, verbs in against.items())


def plan_line(plan: PlanRecord, now: float) -> PlanLine:
    """A plan with its clocks."""
    level = {
        PlanStatus.OPEN: Level.BUSY,
        PlanStatus.UNDOING: Level.BAD,
        PlanStatus.SUCCEEDED: Level.OK,
        PlanStatus.FAILED: Level.BAD,
    }[plan.status]
    words = {PlanStatus.OPEN: "under way", PlanStatus.UNDOING: "being taken back"}
    made = plan.plan
    whence = f" from {made.source}" if made.source else ""
    return PlanLine(
        plan.id,
        made.domain,
        f"{made.verb} {made.domain}{whence} {'to' if made.source else 'on'} {made.host}",
        made.reason,
        Word(level, words.get(plan.status, plan.status.value)),
        plan.claimed_at,
        max(0.0, (plan.finished_at or now) - plan.claimed_at),
        tuple(_step_line(it, now) for it in plan.steps),
    )


def _step_line(it: StepRecord, now: float) -> StepLine:
    text = describe(it.step)
    if it.intended_at is None:
        return StepLine(text, Word(Level.PLAIN, "to come"), None)
    seconds = max(0.0, (now if it.concluded_at is None else it.concluded_at) - it.intended_at)
    return StepLine(text, _outcome(it.outcome), seconds)


def _outcome(outcome: CallOutcome | None) -> Word:
    match outcome:
        case None:
            return Word(Level.BUSY, "under way")
        case Done(detail=detail):
            return Word(Level.OK, f"done{f', {detail}' if detail else ''}")
        case _:
            return Word(Level.BAD, f"{outcome.kind}: {outcome.reason}")


def _replica_level(view: Resource) -> Level:
    """Asked of each replica of the site: plain loops, which are quick."""
    if view.suspended or not isinstance(view.role, Role):
        return Level.BAD
    for device in view.devices:
        if device.disk_state is not DiskState.UP_TO_DATE and not device.client:
            return Level.BAD
    for connection in view.connections:
        if connection.connection_state is not ConnectionState.CONNECTED:
            return Level.BAD
    return Level.OK


def _replica_text(view: Resource) -> str:
    disks = "/".join(dict.fromkeys(_word(it.disk_state) for it in view.devices))
    links = [
        f"{it.name} {_word(it.connection_state)}"
        for it in view.connections
        if it.connection_state is not ConnectionState.CONNECTED
    ]
    frozen = [f"frozen: {'/'.join(_word(it) for it in view.suspended)}"] if view.suspended else []
    return ", ".join((f"{_word(view.role)} {disks}", *links, *frozen))


def _word(state: str | UnknownWord) -> str:
    return state.word if isinstance(state, UnknownWord) else str(state)
