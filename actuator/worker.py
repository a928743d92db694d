"""The line: what was received becomes an action, a refusal, or an escalation.

One thing at a time for a domain; many domains side by side, bounded per host.
``turn`` takes up what is new and begins what is due; it never waits. Whoever owns the worker calls it when
``wake`` is called or the seconds that it returned have passed.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

import structlog

from actuator.alarm import Alarm
from actuator.config import Mode, Settings
from actuator.contact import Contacts
from actuator.core import progress, sight
from actuator.core.admit import OF_HOSTS, RUN, admit
from actuator.core.decide import APPROVAL, ATTEMPTS, Hosts, Limits, Question, Wish, decide, proposal
from actuator.core.guards.situation import Situation
from actuator.core.replica import names_of
from actuator.core.silence import silenced
from actuator.core.words import describe, summary
from actuator.execute import Executor, Stopping, claims, following
from actuator.experience import Experience
from actuator.model import (
    Decision,
    DomainRecord,
    Done,
    EscalationKind,
    Event,
    HostRecord,
    Nothing,
    Notification,
    Order,
    Plan,
    PlanStatus,
    Postpone,
    PowerOff,
    Received,
    Refusal,
    Silence,
)
from actuator.ports import JournalError, Ports, Unanswered
from actuator.protected import Protected
from actuator.rooms import Rooms
from actuator.run import Runner
from actuator.slots import Slots

RETRY_SECONDS = 1.0
"""After a failure of the journal or of a plan, before the domain is looked at again."""
IDLE_SECONDS = 60.0
PAUSED_SECONDS = 5.0
"""Before a paused domain is looked at again."""
RETRIED = {"authority_may_be_taken"}
"""What may be otherwise a moment later. The rest is left to reconcile: a host that is too busy to answer is
not helped by being asked again and again."""
DARK_SECONDS = 5.0
"""A host that nobody has heard of for so long counts for the storm guard."""
AGENT_SECONDS = 300.0
"""For so long another proof is looked for after a fence agent failed."""
INBOX_PAGE = 1000
KNOWN_ALERTS = 20_000

log = structlog.get_logger(__name__)

Key = tuple[str, float]


@dataclass(frozen=True, slots=True)
class Firing:
    """The alerts with an action that fired when their source was last asked."""

    keys: frozenset[Key] = frozenset()
    at: float = float("-inf")
    """Wall clock, before the question."""


@dataclass(slots=True)
class _Case:
    """Why a domain is to be looked at, and from when on."""

    received: dict[Key, Received] = field(default_factory=dict)
    suspicion: str = ""
    """What reconcile saw; needs no durability: it sees it again."""
    due: float = 0.0
    """Monotonic seconds."""
    busy: bool = False
    """It is being handled now."""
    last_said: str = ""

    @property
    def waiting(self) -> bool:
        return not self.busy and bool(self.received or self.suspicion)


class Worker:
    """Takes notifications from the journal to their end.

    Args:
        ports: the world.
        settings: limits and modes.
        protected: the domains and where they should run.
        executor: carries out plans.
        slots: how many at once on a host.
        contacts: which hosts are dark.
        alarm: tells people.
        wake: called when ``turn`` should be called again soon; from any thread.
    """

    def __init__(
        self,
        ports: Ports,
        settings: Settings,
        protected: Protected,
        executor: Executor,
        slots: Slots,
        contacts: Contacts,
        alarm: Alarm,
        wake: Callable[[], None],
    ) -> None:
        self._ports = ports
        self._settings = settings
        self._protected = protected
        self._executor = executor
        self._slots = slots
        self._contacts = contacts
        self._runner = Runner(ports, settings)
        self.rooms = Rooms(settings, protected, ports.journal)
        """Reconcile tells it what hosts have."""
        self.experience = Experience(ports.journal, settings.failover.isolation_seconds)
        """Rehearsals have it read what happened."""
        self._limits = _limits(settings)
        self._alarm = alarm
        self.wake = wake
        self.silences: Sequence[Silence] = ()
        """Active ones, as far as reconcile knows."""
        self.firing = Firing()
        """Reconcile asks."""
        self.back: Mapping[str, str] = {}
        """By domain: the host that it may go back to; reconcile looks."""
        self.drifted: Mapping[str, frozenset[str]] = {}
        """By domain: hosts where it is defined otherwise than as kept; reconcile looks."""
        self.wrong_agents: frozenset[str] = frozenset()
        """Hosts whose fence agent called them off while they answered; rehearsals look. It is no proof."""
        self.sight: sight.Sight | None = None
        """Of monitoring; reconcile looks for it."""
        self._lock = threading.Lock()
        self._rests = False
        self._cases: dict[str, _Case] = {}
        self._inbox_seen = 0
        self._known: OrderedDict[Key, None] = OrderedDict()

    # ---- from outside ------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Take up the plans that a crash left open.

        Raises:
            JournalError: they cannot be read.
        """
        records = self._protected.records()
        for record in records:
            if record.open_plan is not None:
                self.suspect(record.domain, f"plan {record.open_plan.id} was left open")

    def suspect(self, domain: str, why: str, *, after_seconds: float = 0.0, at_once: bool = False) -> None:
        """Have a protected domain looked at, without an alert; ``at_once``: whatever it waits for."""
        due = self._ports.clock.monotonic() + after_seconds
        with self._lock:
            case = self._cases.setdefault(domain, _Case())
            case.suspicion = why
            if after_seconds:
                case.due = max(case.due, due)
            elif at_once:
                case.due = 0.0
        self.wake()

    def knows(self, notification: Notification) -> bool:
        """This alert was taken up already since the actuator started."""
        with self._lock:
            return key_of(notification) in self._known

    @property
    def busy(self) -> int:
        """Domains that are being handled now."""
        with self._lock:
            return sum(case.busy for case in self._cases.values())

    def rest(self) -> bool:
        """Begin nothing any more, if nothing is under way; whether that is so."""
        with self._lock:
            self._rests = not any(case.busy for case in self._cases.values())
            return self._rests

    def go_on(self) -> None:
        """End the rest."""
        with self._lock:
            self._rests = False
        self.wake()

    def turn(self) -> float:
        """Take up what is new, begin what is due; the seconds until it should be called again."""
        if self._rests:
            return IDLE_SECONDS
        try:
            self._take_inbox()
            return self._begin_due()
        except JournalError as error:
            log.error("journal", error=str(error))  # noqa: TRY400  said in one line, no traceback
            return RETRY_SECONDS

    # ---- the inbox ---------------------------------------------------------------------------------------

    def _take_inbox(self) -> None:
        while True:
            page = self._ports.journal.inbox(after=self._inbox_seen, limit=INBOX_PAGE)
            if not page:
                return
            self._take(page)
            self._inbox_seen = page[-1].id

    def _take(self, page: tuple[Received, ...]) -> None:
        now = self._ports.clock.wall()
        admitted: list[Received] = []
        settled: list[Received] = []
        refused: list[tuple[Notification, Refusal]] = []
        events: list[Event] = []
        asked: dict[str, list[Notification]] = {}
        for received in page:
            notification = received.notification
            if not (notification.firing and notification.action):
                settled.append(received)
                continue
            refusal = admit(
                notification,
                protected=self._settings.domains,
                hosts=self._settings.hosts,
                programs=self._settings.programs,
                now=now,
                max_age_seconds=self._settings.limits.max_alert_age_seconds,
            )
            if refusal is None and notification.action in OF_HOSTS:
                asked.setdefault(notification.host, []).append(notification)
                settled.append(received)
                continue
            if refusal is None and notification.action == RUN:
                self._runner.take(received)
                continue
            if refusal is None:
                admitted.append(received)
                continue
            settled.append(received)
            refused.append((notification, refusal))
            events.append(_refused(now, notification.domain, notification.labels.get("host", ""), refusal))
        if settled:
            hosts = [self._asked_of(host, of_it, now) for host, of_it in asked.items()]
            self._ports.journal.commit(hosts=hosts, events=events, settled=settled)
        self._suspect_all(asked)
        self._alarm.not_admitted(refused)
        self._open_cases(page, settled, admitted)

    def _open_cases(
        self, page: tuple[Received, ...], settled: list[Received], admitted: list[Received]
    ) -> None:
        with self._lock:
            for received in settled:
                # A resolution withdraws the firing that it ends, if nothing has begun for it.
                if case := self._cases.get(received.notification.domain):
                    case.received.pop(key_of(received.notification), None)
            for received in admitted:
                case = self._cases.setdefault(received.notification.domain, _Case())
                if key_of(received.notification) not in case.received:
                    case.due = 0.0
                case.received[key_of(received.notification)] = received
            for received in page:
                self._remember(key_of(received.notification))

    def _asked_of(self, host: str, asked: list[Notification], now: float) -> HostRecord:
        """The host's record with what alerts ask for all of its domains: it outlives the alerts."""
        record = self._protected.host(host)
        after = replace(record, version=record.version + 1)
        for it in asked:
            if it.action == "failover":
                after = replace(after, failed_at=record.failed_at or min(now, it.starts_at))
            elif after.drained is None:
                after = replace(
                    after, drained=Order(it.labels.get("alertname", "an alert"), now, "its alert")
                )
        return after

    def _suspect_all(self, asked: Mapping[str, list[Notification]]) -> None:
        if asked:
            for record in self._protected.records():
                for notification in asked.get(record.host, ()):
                    name = notification.labels.get("alertname", "?")
                    why = f"{name} asks to {notification.action} {record.host}"
                    self.suspect(record.domain, why)

    def _remember(self, key: Key) -> None:
        self._known[key] = None
        self._known.move_to_end(key)
        if len(self._known) > KNOWN_ALERTS:
            self._known.popitem(last=False)

    # ---- beginning ---------------------------------------------------------------------------------------

    def _begin_due(self) -> float:
        now = self._ports.clock.monotonic()
        with self._lock:
            waiting = [domain for domain, case in self._cases.items() if case.waiting]
            due = [domain for domain in waiting if self._cases[domain].due <= now]
            later = [self._cases[domain].due - now for domain in waiting if self._cases[domain].due > now]
        if not due or not self._slots.any_is_free:
            return min(later, default=IDLE_SECONDS)
        failed = {it.host for it in self._ports.journal.hosts() if it.failed_at is not None}
        records = {domain: self._protected.record(domain) for domain in due}
        for domain in sorted(due, key=lambda it: self._turn_of(records[it], failed)):
            host = self._where_it_is_handled(records[domain], failed)
            if self._slots.begin(domain, host, self._settings.domains[domain].priority):
                self._begin(domain)
        return min(later, default=IDLE_SECONDS)

    def _turn_of(self, record: DomainRecord, failed: Collection[str]) -> tuple[bool, int]:
        """Its place among those that are due. What only is to be looked at again lets the others go first.

        Such as a domain that has just left a dead host, in which reconcile was a moment late: that look waits
        for the dead host, and takes the place of one that is still down.
        """
        with self._lock:
            asked_for = bool(self._cases[record.domain].received)
        urgent = asked_for or record.host in failed
        return not urgent, -self._settings.domains[record.domain].priority

    def _where_it_is_handled(self, record: DomainRecord, failed: Collection[str]) -> str:
        """The host that its plan burdens: a dead host's domains come up elsewhere."""
        hosts = self._protected.hosts(record)
        return next((host for host in hosts if host not in failed), record.host)

    def _begin(self, domain: str) -> None:
        with self._lock:
            if self._rests:
                self._slots.end(domain)
                return
            case = self._cases[domain]
            received, case.received = tuple(case.received.values()), {}
            suspicion, case.suspicion = case.suspicion, ""
            case.busy = True
        try:
            self._ports.tasks.spawn(f"handle {domain}", lambda: self._handle(domain, received, suspicion))
        except Unanswered as error:
            log.warning("put off", domain=domain, error=str(error))
            self._put_back(domain, received, suspicion, RETRY_SECONDS)
            self._ended(domain)

    def _put_back(self, domain: str, received: tuple[Received, ...], suspicion: str, seconds: float) -> None:
        due = self._ports.clock.monotonic() + seconds
        with self._lock:
            case = self._cases[domain]
            # What came meanwhile is newer.
            case.received = {key_of(it.notification): it for it in received} | case.received
            case.suspicion = case.suspicion or suspicion
            case.due = due

    def _ended(self, domain: str) -> None:
        # In this order: what is not busy may be begun again, and would lose the place that it then got.
        self._slots.end(domain)
        with self._lock:
            self._cases[domain].busy = False

    # ---- one domain --------------------------------------------------------------------------------------

    def _handle(self, domain: str, received: tuple[Received, ...], suspicion: str) -> None:
        try:
            self._line(domain, received, suspicion)
        except Stopping:
            log.info("stopped between two steps", domain=domain)
        except JournalError as error:
            log.error("journal", domain=domain, error=str(error))  # noqa: TRY400  no traceback for it
            self._put_back(domain, received, suspicion or "after a failure of the journal", RETRY_SECONDS)
        except Exception:
            log.exception("a fault of vmheal's own", domain=domain)
            self._put_back(domain, received, suspicion or "after a fault", 10 * RETRY_SECONDS)
        finally:
            self._ended(domain)
            self.wake()

    def _line(self, domain: str, received: tuple[Received, ...], suspicion: str) -> None:
        record = self._protected.record(domain)
        if record.open_plan is not None:
            if self._settings.mode_of(domain) is Mode.OBSERVE:
                log.warning("mode observe: an open plan is left as it is", domain=domain)
                self._ports.journal.commit(settled=received)
                return
            record = self._run(record, None)
        hosts = self._hosts(record)
        if waits := self.paused(record) or self._unsure(received):
            self._postpone(record, waits, [], received, suspicion, self._ports.clock.wall())
            return
        wish = self._wish(domain, received)
        question = self._question(record, wish, hosts)
        situation, now = question.home, question.now
        said = [_observed(now, situation), *([_suspected(now, record, suspicion)] if not received else [])]
        with self.rooms.claiming:
            decision = decide(self._with_rooms(question))
            if isinstance(decision, Plan) and self._is_released(record, decision, received):
                claimed, seen = self._claim(record, decision, situation, said, received, now)
            else:
                claimed, seen = None, None
        if claimed is not None:
            after = self._run(claimed, seen)
            if wish.dead and after.plan and after.plan.status is PlanStatus.SUCCEEDED:
                self._put_back(domain, received, "", RETRY_SECONDS)
        elif wish.dead and isinstance(decision, Refusal):
            self._refuse(record, decision, said, (), now)
            # The warning stands while the alert fires, though the domain is seen running.
            self._put_back(domain, received, "", PAUSED_SECONDS)
        else:
            self._leave(record, decision, said, received, suspicion, now)

    def _leave(
        self,
        record: DomainRecord,
        decision: Decision,
        said: list[Event],
        received: tuple[Received, ...],
        suspicion: str,
        now: float,
    ) -> None:
        """Nothing is begun: say why."""
        match decision:
            case Nothing():
                self._nothing(record, decision, said, received, now)
            case Refusal():
                self._refuse(record, decision, said, received, now)
            case Postpone():
                self._postpone(record, decision, said, received, suspicion, now)
            case Plan():
                self._withhold(record, decision, said, received, now)

    def question(self, record: DomainRecord, *, rehearsed: bool = False) -> Question:
        """What a decision about the domain would rest on now, with a fresh look. Changes nothing.

        ``rehearsed``: also what a failover of its host would rest on, were that lost now.

        Raises:
            JournalError: it cannot be read.
        """
        wish = self._wish(record.domain, ())
        return self._with_rooms(self._question(record, wish, self._hosts(record), rehearsed=rehearsed))

    def _wish(self, domain: str, received: tuple[Received, ...]) -> Wish:
        """What the notifications ask for, together: a move outdoes a restart, and a person an alert.

        Only when nobody asks for anything does it go back to its own host.
        """
        if not received:
            return Wish(back=self.back.get(domain, ""))
        dead = [it.notification for it in received if it.notification.of_a_running_domain]
        fires = [it.labels.get("alertname", "an alert") for it in dead if key_of(it) in self.firing.keys]
        moves = [it.notification for it in received if it.notification.action == "migrate"]
        persons = [it for it in moves if it.source == "operator"]
        to = persons[-1].labels.get("to", "") if persons else ""
        verb: Literal["restart", "migrate"] = "migrate" if moves else "restart"
        return Wish(verb, to, leave=bool(persons), dead=fires[0] if fires else "")

    def _unsure(self, received: tuple[Received, ...]) -> Postpone | None:
        """A running domain is ended on an alert's word alone: it must be known to fire still."""
        now = self._ports.clock.wall()
        old = now - self.firing.at > 2 * self._settings.reconcile.interval_seconds + RETRY_SECONDS
        for it in received:
            alert = it.notification
            if alert.of_a_running_domain and (old or self.firing.at < it.received_at):
                name = alert.labels.get("alertname", "?")
                return Postpone(now + RETRY_SECONDS, f"whether {name} still fires is being asked")
        return None

    def _question(
        self, record: DomainRecord, wish: Wish, hosts: Hosts, *, rehearsed: bool = False
    ) -> Question:
        as_if_at = self._ports.clock.wall() if rehearsed else None
        situation = self._executor.situation(record, lost_at=hosts.failed.get(record.host), as_if_at=as_if_at)
        situation = replace(situation, drifted=self.drifted.get(record.domain, frozenset()))
        return Question(situation, record, self._limits, wish, hosts, self._ports.clock.wall(), self.sight)

    def _with_rooms(self, it: Question) -> Question:
        """The question with what is known of the hosts' room at this moment."""
        return replace(
            it, hosts=self.rooms.around(it.record, it.hosts, self._ports.clock.monotonic(), it.now)
        )

    def paused(self, record: DomainRecord) -> Postpone | None:
        """A person has said that nothing is to be begun for it, here or in Alertmanager.

        Raises:
            JournalError: it cannot be read.
        """
        return self.pauses()(record)

    def pauses(self) -> Callable[[DomainRecord], Postpone | None]:
        """What ``paused`` says at this moment, for many records: the hosts' are read once.

        Raises:
            JournalError: they cannot be read.
        """
        now, silences = self._ports.clock.wall(), self.silences
        of_hosts = {it.host: it.paused for it in self._ports.journal.hosts()}
        return lambda record: _paused(record, of_hosts, silences, now)

    def _hosts(self, record: DomainRecord) -> Hosts:
        now, wall = self._ports.clock.monotonic(), self._ports.clock.wall()
        known = self._ports.journal.hosts()
        silent = {host: self._contacts.silent_for(host, now) for host in self._settings.hosts}
        return Hosts(
            failed={it.host: it.failed_at for it in known if it.failed_at is not None},
            dark=frozenset(host for host, seconds in silent.items() if seconds >= DARK_SECONDS),
            drained=frozenset(it.host for it in known if it.drained and it.drained.stands(wall)),
            confirmed_down=frozenset(it.host for it in known if it.down and it.down.stands(wall)),
            fenceable=frozenset(
                name
                for name, host in self._settings.hosts.items()
                if host.fence and name not in self.wrong_agents and not _agent_failed(record, wall)
            ),
            quorum=self._settings.failover.quorum,
            drbd_only=self._settings.failover.drbd_only,
        )

    def _nothing(
        self,
        record: DomainRecord,
        nothing: Nothing,
        said: list[Event],
        received: tuple[Received, ...],
        now: float,
    ) -> None:
        after = progress.solved(record) if record.escalation is not None else None
        kind = "nothing" if after is None else "solved"
        events = [*said, Event(now, kind, nothing.sentence, record.domain, record.host)]
        if after is not None or received:
            self._ports.journal.commit(record=after, events=events, settled=received)
        if after is not None:
            self._alarm.changed(record, after)

    def _refuse(
        self,
        record: DomainRecord,
        refusal: Refusal,
        said: list[Event],
        received: tuple[Received, ...],
        now: float,
    ) -> None:
        kind = EscalationKind.GAVE_UP if refusal.guard == ATTEMPTS else EscalationKind.REFUSED
        after = progress.escalated(record, kind, refusal, now=now)
        # Reconcile asks again and again, and an error's words may change each time: that is no news.
        standing = record.escalation
        is_news = standing is None or standing.guard != refusal.guard or bool(received)
        events = [*said, _refused(now, record.domain, record.host, refusal)] if is_news else []
        if after is not None or received:
            self._ports.journal.commit(record=after, events=events, settled=received)
        if after is not None:
            self.rooms.changed(record, after)
            self._alarm.changed(record, after)
        if refusal.guard in RETRIED:
            self.suspect(record.domain, "it was refused a moment ago", after_seconds=RETRY_SECONDS)

    def _postpone(
        self,
        record: DomainRecord,
        postpone: Postpone,
        said: list[Event],
        received: tuple[Received, ...],
        suspicion: str,
        now: float,
    ) -> None:
        event = Event(now, "postponed", postpone.sentence, record.domain, record.host)
        if self._is_new(record.domain, postpone.sentence):
            self._ports.journal.commit(events=[*said, event])
        self._put_back(record.domain, received, suspicion or "postponed", max(0.1, postpone.until_at - now))

    def _is_released(self, record: DomainRecord, plan: Plan, received: tuple[Received, ...]) -> bool:
        """The mode lets the plan be carried out, or a person: what a person orders needs no second word."""
        match self._settings.mode_of(record.domain):
            case Mode.OBSERVE:
                return False
            case Mode.APPROVE:
                return self._wish(record.domain, received).leave or record.approved == proposal(plan)
            case Mode.ENFORCE:
                return True

    def _withhold(
        self,
        record: DomainRecord,
        plan: Plan,
        said: list[Event],
        received: tuple[Received, ...],
        now: float,
    ) -> None:
        """Say what would be done, and to a person who may release it, how."""
        steps = "; ".join(describe(step) for step in plan.steps)
        if self._settings.mode_of(record.domain) is Mode.OBSERVE:
            sentence = f"{plan.reason}; in mode enforce vmheal would: {steps}"
            if self._is_new(record.domain, sentence) or received:
                event = Event(now, "would", sentence, record.domain, record.host)
                self._ports.journal.commit(events=[*said, event], settled=received)
            return
        refusal = Refusal(
            APPROVAL,
            f"{plan.reason}. vmheal would: {steps}. 'vmheal-actuator approve {record.domain}"
            f" {proposal(plan)}' lets it",
        )
        self._refuse(record, refusal, said, (), now)
        # What was asked for waits with it: without it another plan would be made.
        self._put_back(record.domain, received, "a plan waits to be approved", PAUSED_SECONDS)

    def _claim(
        self,
        record: DomainRecord,
        plan: Plan,
        seen: Situation,
        said: list[Event],
        received: tuple[Received, ...],
        now: float,
    ) -> tuple[DomainRecord, Situation]:
        """Make the plan durable, with its first intent; the look still holds for that."""
        forecast_seconds = self.experience.forecast(plan.steps)
        claimed = progress.claimed(record, plan, now=now, forecast_seconds=forecast_seconds)
        opened = claimed.open_plan
        assert opened is not None, "just claimed"
        steps = "; ".join(describe(step) for step in plan.steps)
        why = {"chosen": plan.chosen, "rejected": plan.rejected} if plan.source else {}
        decided = Event(now, "decided", f"{plan.reason}: {steps}", plan.domain, plan.host, opened.id, why)
        authorities = claims(opened, (seen.authorities or {}).get)
        self._ports.journal.commit(
            record=claimed,
            authorities=authorities,
            events=[*said, decided, *following(opened, now)],
            settled=received,
        )
        self.rooms.changed(record, claimed)
        # Written over what was read before the look, so the look still holds.
        written = {**(seen.authorities or {}), **{it.resource: it for it in authorities}}
        return claimed, replace(seen, authorities=written)

    def _run(self, record: DomainRecord, seen: Situation | None) -> DomainRecord:
        after = self._executor.run(record, seen=seen)
        self.rooms.changed(record, after)
        self._alarm.changed(record, after)
        if after.plan is not None and after.plan.status is PlanStatus.FAILED:
            self.suspect(record.domain, "the last plan failed", after_seconds=RETRY_SECONDS)
        return after

    def _is_new(self, domain: str, sentence: str) -> bool:
        with self._lock:
            case = self._cases[domain]
            new, case.last_said = case.last_said != sentence, sentence
        return new


def _paused(
    record: DomainRecord, of_hosts: Mapping[str, Order | None], silences: Sequence[Silence], now: float
) -> Postpone | None:
    orders = {
        record.domain: record.paused,
        record.host: of_hosts.get(record.host),
        "all": of_hosts.get(""),
    }
    for what, order in orders.items():
        if order is not None and order.stands(now):
            until = "" if order.until_at is None else f" until {_clock(order.until_at)}"
            why = f": {order.reason}" if order.reason else ""
            sentence = f"{what} is paused by {order.by}{until}{why}; 'vmheal-actuator resume {what}' ends it"
            return Postpone(now + PAUSED_SECONDS, sentence)
    if silence := silenced(record.domain, record.host, silences, now):
        why = f": {silence.comment}" if silence.comment else ""
        sentence = f"{record.domain} is silenced in Alertmanager by {silence.by}{why}"
        return Postpone(now + PAUSED_SECONDS, sentence)
    return None


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_attempts=settings.restart.max_attempts,
        window_seconds=settings.restart.window_seconds,
        backoff_seconds=settings.restart.backoff_seconds,
        live=settings.move.live,
        cold=settings.move.cold,
        max_dark_hosts=settings.failover.max_dark_hosts,
        settle_seconds=settings.restart.settle_seconds,
        watchdog_max_age_seconds=settings.failover.watchdog_max_age_seconds,
    )


def _agent_failed(record: DomainRecord, now: float) -> bool:
    """The fence agent has just failed for this domain's last plan: another proof may do."""
    plan = record.plan
    if plan is None or plan.status is not PlanStatus.FAILED or plan.finished_at is None:
        return False
    failed = any(
        isinstance(it.step, PowerOff) and not isinstance(it.outcome, Done | None) for it in plan.steps
    )
    return failed and 0 <= now - plan.finished_at < AGENT_SECONDS


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def key_of(notification: Notification) -> Key:
    """What tells one alert from another, and from the same alert at another time."""
    return notification.fingerprint, notification.starts_at


def _observed(now: float, situation: Situation) -> Event:
    seconds = round(situation.now - situation.evidence.at, 3)
    sentence = summary(situation.evidence, names_of(situation.evidence))
    return Event(now, "observed", sentence, situation.domain, situation.host, detail={"seconds": seconds})


def _suspected(now: float, record: DomainRecord, why: str) -> Event:
    return Event(now, "suspected", why, record.domain, record.host)


def _refused(now: float, domain: str, host: str, refusal: Refusal) -> Event:
    return Event(now, "refused", refusal.sentence, domain, host, detail={"guard": refusal.guard})
