"""What an operator orders: pause, drain, confirm that a host is down, approve, migrate, readmit and others.

An order is written down with who gave it and why, over the version of the record that it was judged on, and
is durable before it is answered. It is a wish: what is done for it is decided by the worker, on a fresh look,
behind the same guards as for an alert. What cannot be meant is refused in a sentence, and nothing is changed.
"""

import difflib
import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from actuator.alarm import Alarm
from actuator.config import Mode, Name, Settings
from actuator.contact import Contacts
from actuator.core.arbiter import accepted, forgotten
from actuator.faults import first_fault
from actuator.model import (
    Authority,
    Demote,
    DomainRecord,
    EscalationKind,
    Event,
    HostRecord,
    Notification,
    Order,
    Promote,
)
from actuator.ports import Clock, Conflict, Journal
from actuator.protected import Protected
from actuator.worker import DARK_SECONDS, Worker

MAX_ATTEMPTS = 20
"""To write over a version that others change too; each that loses means that another one got through."""
MAX_PAUSE_SECONDS = 366 * 86400
MAX_REASON_LENGTH = 500
"""Of what is wrong with an order: it may quote what was sent."""
ALL = "all"
LOOKED_BACK = 10_000
"""Events of the timeline that are read to say since when a replica is excluded."""


# ---- what an order says ----------------------------------------------------------------------------------

_Who = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,64}$")]
_Why = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{0,500}$")]
_Resource = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.][A-Za-z0-9_.+-]{0,127}$")]


class _Order(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    by: _Who
    reason: _Why = ""


class Pause(_Order):
    """Begin nothing for a VM, for the VMs of a host, or for all."""

    order: Literal["pause"]
    what: Name
    seconds: Annotated[float, Field(gt=0, le=MAX_PAUSE_SECONDS)] | None = None
    """None: until it is taken back."""


class Resume(_Order):
    """Take a pause back."""

    order: Literal["resume"]
    what: Name


class Drain(_Order):
    """Have all protected VMs leave a host, and send none there."""

    order: Literal["drain"]
    host: Name


class Undrain(_Order):
    """Let a host be used again."""

    order: Literal["undrain"]
    host: Name


class ConfirmDown(_Order):
    """A named person has seen to it that a host is down, and stays so: a fence proof."""

    order: Literal["confirm-down"]
    host: Name


class Approve(_Order):
    """Release exactly one plan, in mode ``approve``."""

    order: Literal["approve"]
    domain: Name
    proposal: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{10}$")]


class Migrate(_Order):
    """Move a VM to another host."""

    order: Literal["migrate"]
    domain: Name
    to: Name | None = None


class Readmit(_Order):
    """Take a replica for the current one, whatever it may lack."""

    order: Literal["readmit"]
    resource: _Resource
    host: Name
    i_accept_lost_writes: Literal[True]


class Forget(_Order):
    """Have a resource be seen anew, whose replicas moved to other hosts."""

    order: Literal["forget"]
    resource: _Resource


class Retry(_Order):
    """Try again what was given up."""

    order: Literal["retry"]
    domain: Name


AnyOrder: TypeAlias = (
    Pause | Resume | Drain | Undrain | ConfirmDown | Approve | Migrate | Readmit | Forget | Retry
)

_ORDER: TypeAdapter[AnyOrder] = TypeAdapter(Annotated[AnyOrder, Field(discriminator="order")])


_NAME: TypeAdapter[str] = TypeAdapter(_Who)


def is_name(by: str) -> bool:
    """Whether an order may be given in this name."""
    try:
        _NAME.validate_python(by)
    except ValidationError:
        return False
    return True


class MalformedOrderError(ValueError):
    """The body is no order; the text says where and why."""


def parse(body: bytes) -> AnyOrder:
    """Read an order.

    Raises:
        MalformedOrderError: it is none.
    """
    try:
        return _ORDER.validate_json(body)
    except ValidationError as error:
        raise MalformedOrderError(first_fault(error)[:MAX_REASON_LENGTH]) from None


# ---- what becomes of it ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """The order is durable, or changes nothing; the sentence says what follows from it."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was changed, and why."""

    sentence: str


@dataclass(frozen=True, slots=True)
class _Change:
    """What an order changes."""

    sentence: str
    """For the operator: what follows."""
    said: str
    """For the timeline, after the operator's name."""
    before: DomainRecord | None = None
    record: DomainRecord | None = None
    host: HostRecord | None = None
    authority: Authority | None = None
    notification: Notification | None = None
    look_at: tuple[str, ...] = ()
    """Domains for which something may be to be done now."""
    domain: str = ""
    place: str = ""
    """The host that it is about, for the timeline."""


_Verdict: TypeAlias = _Change | Taken | Refused


class Orders:
    """Takes orders from operators, who have shown who they are.

    Args:
        journal: where they are written down.
        clock: for until when, and since when.
        settings: what there is.
        protected: the domains, and where they should run.
        contacts: a host that was heard of is not down.
        alarm: a warning that is taken back is told.
        worker: does what is to be done.
    """

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        settings: Settings,
        protected: Protected,
        contacts: Contacts,
        alarm: Alarm,
        worker: Worker,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._settings = settings
        self._protected = protected
        self._contacts = contacts
        self._alarm = alarm
        self._worker = worker

    def take(self, order: AnyOrder, *, via: str = "") -> Taken | Refused:
        """Judge the order, make it durable, and wake the worker.

        Args:
            order: it.
            via: where it was given, for the timeline; empty: by a command.

        Raises:
            JournalError: it may be written down or not; it can be given again.
        """
        conflict: Conflict | None = None
        for _ in range(MAX_ATTEMPTS):
            change = self._judge(order)
            if not isinstance(change, _Change):
                return change
            try:
                self._write(order, change, via)
            except Conflict as error:
                conflict = error
                continue
            self._follow(order, change)
            return Taken(change.sentence)
        assert conflict is not None, "the loop ended without a verdict"
        raise conflict

    def _write(self, order: AnyOrder, change: _Change, via: str) -> None:
        """Write all of it in one transaction; a notification goes into the inbox after that."""
        why = f": {order.reason}" if order.reason else ""
        who = f"{order.by}, on the {via}" if via else order.by
        detail = order.model_dump(mode="json", exclude={"domain", "host"})  # the event has them
        if via:
            detail["via"] = via
        if change.authority is not None:
            detail["version"] = change.authority.version
        event = Event(
            self._clock.wall(),
            "ordered",
            f"{who}: {change.said}{why}",
            change.domain,
            change.place,
            detail=detail,
        )
        self._journal.commit(
            record=change.record,
            hosts=[] if change.host is None else [change.host],
            authorities=[] if change.authority is None else [change.authority],
            events=[event],
        )
        if change.notification is not None:
            self._journal.receive([change.notification], at=self._clock.wall())

    def _follow(self, order: AnyOrder, change: _Change) -> None:
        if change.before is not None and change.record is not None:
            self._alarm.changed(change.before, change.record)
        for domain in change.look_at:
            self._worker.suspect(domain, f"{order.by} ordered: {change.said}", at_once=True)
        self._worker.wake()

    def _judge(self, order: AnyOrder) -> _Verdict:  # noqa: PLR0911  a table
        match order:
            case Pause():
                return self._pause(order)
            case Resume():
                return self._resume(order)
            case Drain() | Undrain():
                return self._drain(order)
            case ConfirmDown():
                return self._confirm_down(order)
            case Approve():
                return self._approve(order)
            case Migrate():
                return self._migrate(order)
            case Readmit():
                return self._readmit(order)
            case Forget():
                return self._forget(order)
            case Retry():
                return self._retry(order)

    # ---- pause and resume --------------------------------------------------------------------------------

    def _pause(self, order: Pause) -> _Verdict:
        now = self._clock.wall()
        until = None if order.seconds is None else now + order.seconds
        pause = Order(order.by, now, order.reason, until)
        how_long = "until it is resumed" if until is None else f"until {_time(until)}"
        change = self._with_pause(order.what, pause)
        if isinstance(change, Refused):
            return change
        goes_on = ""
        if change.record is not None and change.record.open_plan is not None:
            goes_on = f"; its plan {change.record.open_plan.id} is under way, and is carried to its end"
        return replace(
            change,
            sentence=f"{order.what} is paused {how_long}: nothing is begun for {_it(change)}{goes_on}",
            said=f"pause {order.what} {how_long}",
        )

    def _resume(self, order: Resume) -> _Verdict:
        change = self._with_pause(order.what, None)
        if isinstance(change, Refused):
            return change
        record, host = change.record, change.host
        stood = self._pause_of(order.what, record)
        still = self._still_paused(record)
        if stood is None:
            return Taken(f"{order.what} was not paused: nothing is changed{still}")
        look_at = self._look_at(record, host)
        sentence = f"{order.what} is not paused any more{still}"
        return replace(change, sentence=sentence, said=f"resume {order.what}", look_at=look_at)

    def _with_pause(self, what: str, pause: Order | None) -> _Change | Refused:
        """Put the pause, or the end of it, on the record of what it is about."""
        is_domain, is_host = what in self._settings.domains, what == ALL or what in self._settings.hosts
        if is_domain and is_host:
            return Refused(f"there are both a VM and a host {what}: nothing is changed")
        if is_domain:
            before = self._protected.record(what)
            record = replace(before, version=before.version + 1, paused=pause)
            return _Change("", "", record=record, domain=what, place=record.host)
        if is_host:
            host = self._protected.host("" if what == ALL else what)
            host = replace(host, version=host.version + 1, paused=pause)
            return _Change("", "", host=host, place=host.host)
        known = [*self._settings.domains, *self._settings.hosts, ALL]
        return Refused(f"{what} is neither a protected VM nor a host{_near(what, known)}")

    def _pause_of(self, what: str, record: DomainRecord | None) -> Order | None:
        if record is not None:
            return self._protected.record(what).paused
        return self._protected.host("" if what == ALL else what).paused

    def _still_paused(self, record: DomainRecord | None) -> str:
        """What else stops a VM that is resumed."""
        still = self._worker.paused(record) if record is not None else None
        return f"; but {still.sentence}" if still is not None else ""

    def _look_at(self, record: DomainRecord | None, host: HostRecord | None) -> tuple[str, ...]:
        if record is not None:
            return (record.domain,)
        name = host.host if host is not None else ""
        return tuple(it.domain for it in self._protected.records() if not name or it.host == name)

    # ---- hosts -------------------------------------------------------------------------------------------

    def _drain(self, order: Drain | Undrain) -> _Verdict:
        if refused := self._unknown_host(order.host):
            return refused
        before = self._protected.host(order.host)
        there = tuple(it.domain for it in self._protected.records() if it.host == order.host)
        if isinstance(order, Undrain):
            if before.drained is None:
                return Taken(f"{order.host} was not drained: nothing is changed")
            after = replace(before, version=before.version + 1, drained=None)
            sentence = f"{order.host} may be used again; what has left it stays where it is"
            return _Change(sentence, f"undrain {order.host}", host=after, place=order.host)
        drained = Order(order.by, self._clock.wall(), order.reason)
        after = replace(before, version=before.version + 1, drained=drained)
        leaves = f"{_count(there)} to leave it: {', '.join(there)}" if there else "no VM is to leave it"
        sentence = f"{order.host} is drained: no VM is sent there, {leaves}{self._only_said(there)}"
        return _Change(sentence, f"drain {order.host}", host=after, look_at=there, place=order.host)

    def _confirm_down(self, order: ConfirmDown) -> _Verdict:
        if refused := self._unknown_host(order.host):
            return refused
        silent = self._contacts.silent_for(order.host, self._clock.monotonic())
        needed = self._silence_needed_seconds
        if silent < needed:
            return Refused(
                f"{order.host} was heard of {silent:.0f} s ago (or vmheal has just started): it is not taken"
                f" for down. See that it is off and stays so, and confirm it after {needed:.0f} s of silence"
            )
        now = self._clock.wall()
        before = self._protected.host(order.host)
        after = replace(
            before,
            version=before.version + 1,
            down=Order(order.by, now, order.reason),
            failed_at=before.failed_at or now,
        )
        there = tuple(it.domain for it in self._protected.records() if it.host == order.host)
        comes_up = f"{_count(there)} to come up elsewhere: {', '.join(there)}" if there else "no VM ran there"
        sentence = (
            f"{order.host} is taken for down until it answers, on the word of {order.by}; {comes_up}"
            f"{self._only_said(there)}"
        )
        said = f"confirm that {order.host} is down; not heard of for {silent:.0f} s"
        return _Change(sentence, said, host=after, look_at=there, place=order.host)

    @property
    def _silence_needed_seconds(self) -> float:
        """A host that lives would have been heard of: a whole turn of reconcile, and its longest answer."""
        settings = self._settings
        return DARK_SECONDS + settings.reconcile.interval_seconds + settings.evidence.timeout_seconds

    # ---- domains -----------------------------------------------------------------------------------------

    def _approve(self, order: Approve) -> _Verdict:
        if refused := self._unknown_domain(order.domain):
            return refused
        if (mode := self._settings.mode_of(order.domain)) is not Mode.APPROVE:
            return Refused(f"the mode of {order.domain} is {mode}: no plan of it waits to be approved")
        record = self._protected.record(order.domain)
        if record.open_plan is not None:
            return Refused(f"plan {record.open_plan.id} of {order.domain} is under way already")
        standing = record.escalation
        if standing is None:
            return Refused(f"no plan of {order.domain} waits to be approved")
        if standing.guard == "is_approved" and order.proposal not in standing.sentence:
            return Refused(f"another plan waits than {order.proposal}: {standing.sentence}")
        after = replace(record, version=record.version + 1, approved=order.proposal)
        return _Change(
            f"{order.domain}: plan {order.proposal} is carried out if it still is what is to be done",
            f"approve plan {order.proposal} of {order.domain}",
            record=after,
            look_at=(order.domain,),
            domain=order.domain,
            place=record.host,
        )

    def _migrate(self, order: Migrate) -> _Verdict:
        if refused := self._unknown_domain(order.domain):
            return refused
        record = self._protected.record(order.domain)
        hosts = self._protected.hosts(record)
        if order.to == record.host:
            return Refused(f"{order.domain} should run on {order.to} already: there is nothing to move")
        if order.to is not None and order.to not in hosts:
            return Refused(f"{order.domain} has no disks on {order.to}: it may run on {', '.join(hosts)}")
        if len(hosts) == 1:
            return Refused(f"{order.domain} may run on {record.host} only: it cannot be moved")
        labels = {
            "alertname": "order",
            "action": "migrate",
            "domain": order.domain,
            "host": record.host,
            "by": order.by,
            "reason": order.reason,
        }
        if order.to is not None:
            labels["to"] = order.to
        notification = Notification(
            secrets.token_hex(16), self._clock.wall(), firing=True, labels=labels, source="operator"
        )
        to = order.to or "another host"
        paused = self._worker.paused(record)
        return _Change(
            f"{order.domain} is to move from {record.host} to {to}{self._only_said((order.domain,))}"
            + (f"; not before that ends: {paused.sentence}" if paused is not None else ""),
            f"migrate {order.domain} to {to}",
            notification=notification,
            domain=order.domain,
            place=record.host,
        )

    def _retry(self, order: Retry) -> _Verdict:
        if refused := self._unknown_domain(order.domain):
            return refused
        before = self._protected.record(order.domain)
        if before.open_plan is not None:
            return Refused(f"plan {before.open_plan.id} of {order.domain} is under way: it is being tried")
        gave_up = before.escalation is not None and before.escalation.kind is EscalationKind.GAVE_UP
        if not gave_up and not before.suspects and not before.attempts_at:
            return Taken(f"{order.domain} was not given up: nothing is changed")
        after = replace(
            before,
            version=before.version + 1,
            escalation=None if gave_up else before.escalation,
            suspects={},
            attempts_at=(),
        )
        forgotten = "" if not before.suspects else f", and on {', '.join(sorted(before.suspects))}"
        return _Change(
            f"{order.domain} is tried again, on {before.host}{forgotten}: what failed before does not count"
            f"{self._only_said((order.domain,))}",
            f"try {order.domain} again",
            before=before,
            record=after,
            look_at=(order.domain,),
            domain=order.domain,
            place=before.host,
        )

    # ---- resources ---------------------------------------------------------------------------------------

    def _readmit(self, order: Readmit) -> _Verdict:
        resource, host = order.resource, order.host
        before = self._known(resource)
        if isinstance(before, Refused):
            return before
        if host not in before.hosts:
            return Refused(f"{resource} is on {', '.join(before.hosts)}, not on {host}")
        # One that is admitted may have fallen behind unseen before another of its hosts failed.
        lost = [it for it in before.hosts if it != host and self._protected.host(it).failed_at is not None]
        if before.admitted == {host} or (host in before.admitted and not lost):
            return Refused(
                f"the replica of {resource} on {host} is admitted already: nothing is to be accepted"
            )
        if busy := self._busy(resource):
            return busy
        since = self._excluded_since(resource, host)
        lacks = "it is not known since when" if since is None else f"since {_time(since)}"
        others = ", ".join(f"{it} is excluded" for it in before.hosts if it != host)
        was = (
            f"{host} is admitted on a person's word, {others}; the replica of {resource} on {host} was not"
            f" current ({lacks}): what was written since may be lost for good"
        )
        waiting = tuple(
            it.domain
            for it in self._protected.records()
            if it.escalation is not None and host in self._protected.hosts(it)
        )
        off = (
            f", and when {lost[0]} is off, on an agent's word or yours (confirm-down {lost[0]})"
            if lost
            else ""
        )
        return _Change(
            f"{was}. It is promoted only when DRBD there says UpToDate{off}",
            f"readmit {resource} on {host}: {was}",
            authority=accepted(before, host),
            look_at=waiting,
            place=host,
        )

    def _forget(self, order: Forget) -> _Verdict:
        before = self._known(order.resource)
        if isinstance(before, Refused):
            return before
        if busy := self._busy(order.resource):
            return busy
        hosts = " and ".join(before.hosts)
        was = f"{order.resource} is forgotten, which was on {hosts} ({before.holder} held it)"
        return _Change(
            f"{was}. Nobody is granted it, and nothing is failed over with it, before it is seen connected"
            " and UpToDate on both its hosts",
            f"forget {order.resource}: {was}",
            authority=forgotten(before),
        )

    def _known(self, resource: str) -> Authority | Refused:
        found = self._journal.authority(resource)
        if found is not None and found.hosts:
            return found
        known = [it.resource for it in self._journal.authorities().values() if it.hosts]
        return Refused(f"nothing is known of a resource {resource}{_near(resource, known)}")

    def _busy(self, resource: str) -> Refused | None:
        for record in self._protected.records():
            if record.open_plan is not None and resource in _touched(record):
                return Refused(f"plan {record.open_plan.id} is under way with {resource}: wait for its end")
        return None

    def _excluded_since(self, resource: str, host: str) -> float | None:
        """Since when the replica is excluded, as far as the timeline tells; only words rest on it."""
        since: float | None = None
        for _, event in self._journal.timeline(limit=LOOKED_BACK, newest=True):
            if event.detail.get("resource") == resource:
                match _admits(event.sentence, host):
                    case True:
                        since = None
                    case False:
                        since = event.at if since is None else since
        return since

    # ---- common ------------------------------------------------------------------------------------------

    def _unknown_domain(self, domain: str) -> Refused | None:
        if domain in self._settings.domains:
            return None
        return Refused(f"{domain} is not a protected VM{_near(domain, self._settings.domains)}")

    def _unknown_host(self, host: str) -> Refused | None:
        if host in self._settings.hosts:
            return None
        return Refused(f"{host} is not a host{_near(host, self._settings.hosts)}")

    def _only_said(self, domains: Collection[str]) -> str:
        """Where vmheal does not act on its own, that is said."""
        waits = {self._settings.mode_of(it) for it in domains} - {Mode.ENFORCE}
        if not waits:
            return ""
        return f" (in mode {' and '.join(sorted(waits))}: see 'vmheal-actuator status')"


def _it(change: _Change) -> str:
    if change.record is not None:
        return "it"
    return "the VMs of it" if change.host is not None and change.host.host else "any VM"


def _count(domains: Collection[str]) -> str:
    return "one VM is" if len(domains) == 1 else f"{len(domains)} VMs are"


def _near(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f": nothing is changed; did you mean {near[0]}?" if near else ": nothing is changed"


def _touched(record: DomainRecord) -> set[str]:
    assert record.open_plan is not None, "asked of an open plan"
    return {it.step.resource for it in record.open_plan.steps if isinstance(it.step, Promote | Demote)}


def _admits(sentence: str, host: str) -> bool | None:
    """Whether an event's sentence about a resource says that the host's replica is admitted, or excluded."""
    after = sentence.partition("; before: ")[0]
    _, said, admitted = after.rpartition("admitted: ")
    if said:
        return host in admitted.split(", ")
    if f"{host} is admitted" in after:
        return True
    return False if f"{host} is excluded" in after else None


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="seconds")
