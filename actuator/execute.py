"""Carrying out a plan: step by step, each durable as an intent before it is called.

The loop knows no verbs: ``core.progress`` says what is next and whether it may be done; this module looks,
calls and writes down.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from actuator.config import Settings
from actuator.contact import Contacts
from actuator.core import progress
from actuator.core.arbiter import intended, taken
from actuator.core.guards.situation import Situation
from actuator.core.guards.verbs import guards_of
from actuator.core.words import describe
from actuator.model import (
    AllowTwo,
    Authority,
    CallOutcome,
    Confirm,
    Define,
    Demote,
    Destroy,
    Disk,
    DomainRecord,
    Done,
    Event,
    Failed,
    ForbidTwo,
    Indeterminate,
    LiveMigration,
    Migrate,
    Outlast,
    Plan,
    PlanRecord,
    PlanStatus,
    PowerOff,
    Promote,
    Refusal,
    ShutDown,
    Start,
    Step,
)
from actuator.observe import Observer
from actuator.ports import Ports
from actuator.protected import Protected
from actuator.slots import Slots
from exporter.libvirt_domain import parse_definition

POLL_SECONDS = 0.5
STILL_THE_SAME_LOOK_SECONDS = 0.5
"""A plan's first step may rest on the look that the plan was made from, when no more than this has passed
since that look ended: the time to make plan and intent durable. Another look would be as old when it ends."""

PEER_NOT_OUTDATED, HELD_OPEN = -7, -12
"""DRBD's reasons for a refusal. The first promotion after a peer was lost unnoticed is refused although the
arbiter has granted it; the device of a domain that was ended is closed a moment after libvirt said so."""

LOOKS_MORE = 2
"""How often a look is repeated when the arbiter's records changed during it."""


class Stopping(Exception):  # noqa: N818  not an error: the actuator is told to stop
    """The actuator stops between two steps; the plan stays open in the journal."""


@dataclass(frozen=True, slots=True)
class _Result:
    """What became of one step, and when it was called, if it was (wall clock)."""

    outcome: CallOutcome
    ours: bool
    called_at: float | None = None


class Executor:
    """Carries out open plans, new ones and those that a crash left behind.

    Args:
        ports: the world.
        observer: looks at it.
        settings: deadlines.
        protected: where domains may run.
        contacts: since when a lost host is quiet.
        slots: what is called on a host at the same time.
        stopping: true when no further step may begin.
    """

    def __init__(
        self,
        ports: Ports,
        observer: Observer,
        settings: Settings,
        protected: Protected,
        contacts: Contacts,
        slots: Slots,
        stopping: Callable[[], bool],
    ) -> None:
        self._ports = ports
        self._observer = observer
        self._settings = settings
        self._protected = protected
        self._contacts = contacts
        self._slots = slots
        self._stopping = stopping

    def situation(
        self, record: DomainRecord, *, lost_at: float | None = None, as_if_at: float | None = None
    ) -> Situation:
        """One fresh look at the record's domain; ``lost_at``: since then its own host does not answer.

        ``as_if_at``: what a failover would want to know if it had been lost then is asked, too. Wall clock.
        """
        hosts, lost = self._protected.hosts(record), lost_at is not None
        before = as_if_at if lost_at is None else lost_at
        return self._steady(partial(self._look, record, None, hosts, storage=True, lost=lost, lost_at=before))

    def run(self, record: DomainRecord, *, seen: Situation | None) -> DomainRecord:
        """Carry the record's open plan to its end.

        Args:
            record: as it is in the journal, with the plan claimed.
            seen: the look that the plan was made from; None for a plan that was found open: then its first
                step may have been called before.

        Raises:
            JournalError: nothing further was begun; the plan stays open.
            Stopping: likewise.
        """
        resumed = seen is None
        while (plan := record.open_plan) is not None:
            if self._stopping():
                raise Stopping
            index = progress.next_index(plan)
            assert index is not None, "an open plan has a next step"
            begun = self._ports.clock.monotonic()
            result = self._step(record, plan, plan.steps[index].step, seen, resumed=resumed)
            record = self._conclude(record, index, result, self._ports.clock.monotonic() - begun)
            seen, resumed = None, False
        return record

    def _step(
        self, record: DomainRecord, plan: PlanRecord, step: Step, seen: Situation | None, *, resumed: bool
    ) -> _Result:
        if not isinstance(step, Confirm | Outlast):
            self._take_place(record)
        now = self._ports.clock.monotonic()
        same = None if seen is None else _of_plan(seen, plan.plan)
        fresh = same is not None and now - same.now <= STILL_THE_SAME_LOOK_SECONDS
        if same is not None and fresh and self._as_written(same):
            verdict = progress.judge(step, replace(same, now=now), guards_of(plan.plan))
        else:
            verdict = self._judge(record, plan.plan, step)
        if progress.is_open(verdict):
            verdict = self._when_it_may(record, plan.plan, step, verdict)
        match verdict:
            case progress.Perform():
                return self._call_and_settle(record, plan.plan, step)
            case progress.Wait():
                return _Result(Indeterminate("not seen in time"), ours=False)
            case Refusal():
                return _Result(Failed(verdict.sentence), ours=False)
            case Done():
                return _Result(verdict, ours=resumed)

    def _when_it_may(
        self, record: DomainRecord, plan: Plan, step: Step, verdict: progress.Verdict
    ) -> progress.Verdict:
        """Look again until the step is done, may be called, or must not be; at the deadline the last word."""
        begun = self._ports.clock.monotonic()
        self._slots.rest(record.domain)
        while self._ports.clock.monotonic() - begun < self._patience_seconds(step, verdict):
            if self._stopping():
                raise Stopping
            self._ports.clock.pause(POLL_SECONDS)
            verdict = self._judge(record, plan, step)
            if isinstance(verdict, progress.Perform):
                self._take_place(record)  # that may last: what was seen before it need not hold
                verdict = self._judge(record, plan, step)
            if not progress.is_open(verdict):
                return verdict
            self._slots.rest(record.domain)
        return verdict

    def _take_place(self, record: DomainRecord) -> None:
        self._slots.take(record.domain)
        if self._stopping():
            raise Stopping

    def _call_and_settle(self, record: DomainRecord, plan: Plan, step: Step) -> _Result:
        called_at = self._ports.clock.wall()
        try:
            outcome = self._call(step)
            if self._deserves_another(step, outcome):
                outcome = self._again(record, plan, step, outcome)
        except Stopping:
            raise
        except Exception as error:  # noqa: BLE001  a fault of ours must not become a call without an outcome
            outcome = Indeterminate(f"{type(error).__name__}: {error}")
        # Whether a host is off only its agent can see, and that has looked.
        if isinstance(outcome, Indeterminate) and not isinstance(step, PowerOff):
            outcome = self._wait_for(record, plan, step, outcome)
        return _Result(outcome, True, called_at)

    def _deserves_another(self, step: Step, outcome: CallOutcome) -> bool:
        if not isinstance(outcome, Failed):
            return False
        if isinstance(step, Promote) and outcome.code == PEER_NOT_OUTDATED:
            written = self._ports.journal.authority(step.resource)
            return written is not None and written.granted and written.holder == step.host
        return isinstance(step, Demote) and outcome.code == HELD_OPEN

    def _again(self, record: DomainRecord, plan: Plan, step: Step, outcome: CallOutcome) -> CallOutcome:
        """Call once more, a promotion at once, a demotion until the device is closed; on fresh looks."""
        deadline = self._ports.clock.monotonic() + self._settings.restart.confirm_timeout_seconds
        while self._deserves_another(step, outcome) and self._ports.clock.monotonic() < deadline:
            if isinstance(step, Demote):
                self._ports.clock.pause(POLL_SECONDS)
            if self._stopping():
                raise Stopping
            match self._judge(record, plan, step):
                case progress.Perform():
                    outcome = self._call(step)
                case Done() as done:
                    return done
                case Refusal(sentence=sentence):
                    return Failed(sentence)
                case progress.Wait():
                    pass
            if isinstance(step, Promote):
                break
        return outcome

    def _wait_for(
        self, record: DomainRecord, plan: Plan, step: Step, otherwise: Indeterminate
    ) -> CallOutcome:
        """Look until the effect of a call without an answer is there, or is not to be expected any more."""
        moves, limits = isinstance(step, Migrate), self._settings
        seconds = limits.move.live_timeout_seconds if moves else limits.restart.confirm_timeout_seconds
        deadline = self._ports.clock.monotonic() + seconds
        while self._ports.clock.monotonic() < deadline:
            if self._stopping():
                raise Stopping
            failed = self._failed()
            if isinstance(done := self._judge(record, plan, step), Done):
                return done
            if failed & ({step.host, step.source} if isinstance(step, Migrate) else {step.host}):
                break
            self._ports.clock.pause(POLL_SECONDS)
        return otherwise

    def _patience_seconds(self, step: Step, verdict: progress.Verdict) -> float:
        """How long a step may be waited for before it is called, or seen.

        A lost host may take long to let go; one that the step needs, and that does not answer, may be busy
        with the others that come up there, unless an alert says that it has failed too.
        """
        if isinstance(verdict, Refusal) and step.host in self._failed():
            return 0.0
        if isinstance(step, Outlast | Start) and isinstance(verdict, progress.Wait):
            failover = self._settings.failover
            return failover.isolation_seconds + failover.release_timeout_seconds
        return self._settings.restart.confirm_timeout_seconds

    def _failed(self) -> set[str]:
        return {it.host for it in self._ports.journal.hosts() if it.failed_at is not None}

    def _judge(self, record: DomainRecord, plan: Plan, step: Step) -> progress.Verdict:
        confirms = isinstance(step, Confirm)
        asked = (step.host,) if confirms else self._protected.hosts(record)
        lost = plan.verb == "failover"
        situation = self._steady(partial(self._look, record, plan, asked, storage=not confirms, lost=lost))
        return progress.judge(step, situation, guards_of(plan))

    def _call(self, step: Step) -> CallOutcome:  # noqa: C901, PLR0911  a table
        hypervisor, storage, limits = self._ports.hypervisor, self._ports.storage, self._settings.restart
        change_seconds = limits.promote_timeout_seconds
        match step:
            case Destroy(host, domain, domain_id):
                timeout = limits.destroy_timeout_seconds
                return hypervisor.destroy(host, domain, domain_id, timeout_seconds=timeout)
            case ShutDown(host, domain, domain_id):
                timeout = self._settings.move.shut_down_timeout_seconds
                return hypervisor.shut_down(host, domain, domain_id, timeout_seconds=timeout)
            case Define(host, domain, anew):
                return self._define(host, domain, anew=anew)
            case Promote(host, resource):
                return storage.promote(host, resource, timeout_seconds=change_seconds)
            case Demote(host, resource):
                return storage.demote(host, resource, timeout_seconds=change_seconds)
            case AllowTwo(host, resource):
                return storage.allow_two_primaries(
                    host, resource, allowed=True, timeout_seconds=change_seconds
                )
            case ForbidTwo(host, resource):
                return storage.allow_two_primaries(
                    host, resource, allowed=False, timeout_seconds=change_seconds
                )
            case Start(host, domain):
                return hypervisor.start(host, domain, timeout_seconds=limits.start_timeout_seconds)
            case PowerOff(host):
                timeout = self._settings.failover.power_off_timeout_seconds
                return self._ports.fencing.power_off(host, timeout_seconds=timeout)
            case Migrate(host, source, domain, domain_id):
                timeout = self._settings.move.live_timeout_seconds
                options = self._live_options(host)
                return hypervisor.migrate(
                    source,
                    host,
                    domain,
                    domain_id,
                    options,
                    timeout_seconds=timeout,
                    lost=lambda: source in self._failed(),
                )
            case Confirm() | Outlast():
                raise AssertionError("what is looked for is not called")

    def _define(self, host: str, domain: str, *, anew: bool) -> CallOutcome:
        kept = self._ports.journal.definition(domain)
        if kept is None:
            return Failed("its definition has not been kept")
        timeout = self._settings.evidence.timeout_seconds
        return self._ports.hypervisor.define(host, domain, kept.xml, anew=anew, timeout_seconds=timeout)

    def _kept_disks(self, domain: str) -> tuple[Disk, ...]:
        kept = self._ports.journal.definition(domain)
        if kept is None:
            return ()
        found = parse_definition(kept.xml).disks
        return tuple(Disk(it.target, it.source, it.writable) for it in found if it.source)

    def _live_options(self, target: str) -> LiveMigration:
        move = self._settings.move
        target_uri, migrate_uri = self._settings.hosts[target].live_uris
        return LiveMigration(
            migrate_uri=migrate_uri,
            target_uri=target_uri,
            auto_converge=move.auto_converge,
            post_copy=move.post_copy,
            max_downtime_seconds=move.max_downtime_seconds,
        )

    def _conclude(self, record: DomainRecord, index: int, result: _Result, seconds: float) -> DomainRecord:
        now = self._ports.clock.wall()
        hold_seconds = self._settings.move.suspect_seconds
        after = progress.concluded(
            record, index, result.outcome, ours=result.ours, now=now, hold_seconds=hold_seconds
        )
        plan = after.plan
        assert plan is not None, "it was open"
        step = plan.steps[index].step
        detail = {
            "step": step.kind,
            "on": step.host,
            "outcome": result.outcome.kind,
            "seconds": round(seconds, 3),
            **({} if result.called_at is None else {"called_at": result.called_at}),
        }
        sentence = f"{describe(step)}: {_say(result.outcome)}"
        events = [plan_event(now, "outcome", sentence, plan, detail), *following(plan, now)]
        authorities = claims(plan, self._ports.journal.authority)
        self._ports.journal.commit(record=after, authorities=authorities, events=events)
        return after

    def _steady(self, look: Callable[[], Situation]) -> Situation:
        """A look during which the arbiter's records did not change."""
        situation = look()
        for _ in range(LOOKS_MORE):
            if self._as_written(situation):
                return situation
            situation = look()
        return situation if self._as_written(situation) else replace(situation, authorities=None)

    def _look(
        self,
        record: DomainRecord,
        plan: Plan | None,
        asked: tuple[str, ...],
        *,
        storage: bool,
        lost: bool,
        lost_at: float | None = None,
    ) -> Situation:
        # Before the look: R2. One without DRBD, as to confirm a start, rests on nothing of the journal.
        written = self._ports.journal.authorities() if storage else {}
        source = plan.source if plan else record.host
        settings = self._settings
        arbitrated = settings.hosts[record.host].arbiter_token_file is not None
        kept = self._kept_disks(record.domain) if storage else ()
        failed = self._failed()
        evidence = self._observer.look(
            record.domain,
            asked,
            storage=storage,
            lost=failed | {source} if lost else failed,
            history=None if lost_at is None or (arbitrated and _asks(source, written)) else (source, lost_at),
            identify=() if lost_at is None else kept,
        )
        situation = Situation(
            domain=record.domain,
            host=record.host,
            hosts=self._protected.hosts(record),
            evidence=evidence,
            now=self._ports.clock.monotonic(),
            max_age_seconds=settings.evidence.max_age_seconds,
            arbitrated=arbitrated,
            authorities=written,
            kept=kept,
            failed=frozenset(failed),
            xen=settings.hosts[record.host].libvirt_uri.startswith("xen"),
            isolation_seconds=settings.failover.isolation_seconds,
            accepts_loss=settings.failover.accept_loss,
        )
        return situation if plan is None else self._with_quiet(_of_plan(situation, plan))

    def _with_quiet(self, it: Situation) -> Situation:
        if not it.source:
            return it
        names = tuple(resource.name for resource in it.resources)
        return replace(it, quiet_seconds=self._contacts.quiet_for(it.source, it.host, names, it.now))

    def _as_written(self, it: Situation) -> bool:
        """Whether the arbiter's records of the domain's resources are still those of the situation."""
        known = it.authorities or {}
        names = [resource.name for resource in it.resources]
        return all(self._ports.journal.authority(name) == known.get(name) for name in names)


def following(plan: PlanRecord, now: float) -> list[Event]:
    """The events of what comes after this moment of a plan: its next intent, or its end."""
    if plan.finished:
        foretold = plan.forecast_seconds
        detail = {
            "verb": plan.plan.verb,
            "outcome": plan.status.value,
            "seconds": round(now - plan.claimed_at, 3),
            **({} if foretold is None else {"forecast_seconds": round(foretold, 3)}),
        }
        return [plan_event(now, "finished", f"plan {plan.status}: {plan.sentence}", plan, detail)]
    index = progress.next_index(plan)
    assert index is not None, "an open plan has a next step"
    return [plan_event(now, "intent", describe(plan.steps[index].step), plan, {})]


def claims(plan: PlanRecord, written: Callable[[str], Authority | None]) -> tuple[Authority, ...]:
    """What an intent to promote changes of the arbiter's records.

    The host takes the authority over all that the plan still promotes, or over nothing, and evidence from
    before is worthless (R2). Where it may not be taken, a guard stops the promotion.
    """
    index = None if plan.finished else progress.next_index(plan)
    step = None if index is None else plan.steps[index].step
    # Live, the domain holds the disks on its source until it has moved: the authority goes after it.
    kind = Demote if any(isinstance(entry.step, Migrate) for entry in plan.steps) else Promote
    if plan.status is not PlanStatus.OPEN or not isinstance(step, kind):
        return ()
    changed = []
    for entry in plan.steps:
        if not isinstance(entry.step, kind) or entry.outcome is not None:
            continue
        if (authority := written(entry.step.resource)) is None or authority.votes:
            continue
        after = taken(authority, plan.plan.host, plan.plan.proof)
        if isinstance(after, str):
            return ()
        if after is authority and entry.step == step:
            after = intended(authority)
        changed += [after] if after is not authority else []
    return tuple(changed)


def _asks(host: str, written: Mapping[str, Authority]) -> bool:
    """Whether DRBD on the host asks the arbiter when it loses a peer, for each resource that it has."""
    return all(host in it.armed for it in written.values() if host in it.hosts or host in it.voters)


def _of_plan(it: Situation, plan: Plan) -> Situation:
    """The situation as the plan's steps are to see it."""
    return replace(it, host=plan.host, source=plan.source, proof=plan.proof)


def plan_event(now: float, kind: str, sentence: str, plan: PlanRecord, detail: Mapping[str, object]) -> Event:
    """An event of a plan."""
    return Event(now, kind, sentence, plan.plan.domain, plan.plan.host, plan.id, detail)


def _say(outcome: CallOutcome) -> str:
    match outcome:
        case Done(detail=detail):
            return f"done{detail and f' ({detail})'}"
        case Failed(reason=reason):
            return f"failed: {reason}"
        case Indeterminate(reason=reason):
            return f"no answer: {reason}"
