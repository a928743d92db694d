"""Carrying out a plan: step by step, each durable as an intent before it is called.

The loop knows no verbs: ``core.progress`` says what is next and whether it may be done; this module looks,
calls and writes down.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from actuator.config import Settings
from actuator.core import progress
from actuator.core.arbiter import intended, taken
from actuator.core.guard import Situation
from actuator.core.words import describe
from actuator.model import (
    Authority,
    CallOutcome,
    Confirm,
    Demote,
    Destroy,
    DomainRecord,
    Done,
    Event,
    Failed,
    Indeterminate,
    PlanRecord,
    Promote,
    Refusal,
    Start,
    Step,
)
from actuator.observe import Observer
from actuator.ports import Ports
from actuator.protected import Protected

POLL_SECONDS = 0.5
STILL_THE_SAME_LOOK_SECONDS = 0.5
"""A plan's first step may rest on the look that the plan was made from, when no more than this has passed
since that look ended: the time to make plan and intent durable. Another look would be as old when it ends."""


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
        stopping: true when no further step may begin.
    """

    def __init__(
        self,
        ports: Ports,
        observer: Observer,
        settings: Settings,
        protected: Protected,
        stopping: Callable[[], bool],
    ) -> None:
        self._ports = ports
        self._observer = observer
        self._settings = settings
        self._protected = protected
        self._stopping = stopping

    def situation(self, record: DomainRecord) -> Situation:
        """One fresh look at the record's domain."""
        return self._situation(record, self._protected.hosts(record), storage=True)

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
            result = self._step(record, plan.steps[index].step, seen, resumed=resumed)
            record = self._conclude(record, index, result, self._ports.clock.monotonic() - begun)
            seen, resumed = None, False
        return record

    def _step(self, record: DomainRecord, step: Step, seen: Situation | None, *, resumed: bool) -> _Result:
        now = self._ports.clock.monotonic()
        fresh = seen is not None and now - seen.now <= STILL_THE_SAME_LOOK_SECONDS
        if seen is not None and fresh and self._as_written(seen):
            verdict = progress.judge(step, replace(seen, now=now))
        else:
            verdict = self._judge(record, step)
        match verdict:
            case progress.Perform():
                return self._call_and_settle(record, step)
            case progress.Wait():
                return _Result(self._wait_for(record, step, Indeterminate("not seen in time")), ours=False)
            case Refusal():
                return _Result(Failed(verdict.sentence), ours=False)
            case Done():
                return _Result(verdict, ours=resumed)

    def _call_and_settle(self, record: DomainRecord, step: Step) -> _Result:
        called_at = self._ports.clock.wall()
        try:
            outcome = self._call(step)
        except Exception as error:  # noqa: BLE001  a fault of ours must not become a call without an outcome
            outcome = Indeterminate(f"{type(error).__name__}: {error}")
        if isinstance(outcome, Indeterminate):
            outcome = self._wait_for(record, step, outcome)
        return _Result(outcome, True, called_at)

    def _wait_for(self, record: DomainRecord, step: Step, otherwise: Indeterminate) -> CallOutcome:
        """Look until the step's effect is there; what stands at the deadline is the outcome."""
        deadline = self._ports.clock.monotonic() + self._settings.restart.confirm_timeout_seconds
        while self._ports.clock.monotonic() < deadline and not self._stopping():
            match self._judge(record, step):
                case Done() as done:
                    return done
                case Refusal(sentence=sentence) if isinstance(step, Confirm):
                    return Failed(sentence)
            self._ports.clock.pause(POLL_SECONDS)
        if self._stopping():
            raise Stopping
        return otherwise

    def _judge(self, record: DomainRecord, step: Step) -> Done | Refusal | progress.Perform | progress.Wait:
        if isinstance(step, Confirm):
            return progress.judge(step, self._situation(record, (step.host,), storage=False))
        return progress.judge(step, self.situation(record))

    def _call(self, step: Step) -> CallOutcome:
        hypervisor, storage, limits = self._ports.hypervisor, self._ports.storage, self._settings.restart
        match step:
            case Destroy(host, domain, domain_id):
                timeout = limits.destroy_timeout_seconds
                return hypervisor.destroy(host, domain, domain_id, timeout_seconds=timeout)
            case Promote(host, resource):
                return storage.promote(host, resource, timeout_seconds=limits.promote_timeout_seconds)
            case Demote(host, resource):
                return storage.demote(host, resource, timeout_seconds=limits.promote_timeout_seconds)
            case Start(host, domain):
                return hypervisor.start(host, domain, timeout_seconds=limits.start_timeout_seconds)
            case Confirm():
                raise AssertionError("a confirmation is looked for, not called")

    def _conclude(self, record: DomainRecord, index: int, result: _Result, seconds: float) -> DomainRecord:
        now = self._ports.clock.wall()
        after = progress.concluded(record, index, result.outcome, ours=result.ours, now=now)
        plan = after.plan
        assert plan is not None, "it was open"
        step = plan.steps[index].step
        detail = {
            "step": step.kind,
            "outcome": result.outcome.kind,
            "seconds": round(seconds, 3),
            **({} if result.called_at is None else {"called_at": result.called_at}),
        }
        sentence = f"{describe(step)}: {_say(result.outcome)}"
        events = [plan_event(now, "outcome", sentence, plan, detail), *following(plan, now)]
        authorities = claims(plan, partial(self._authority, record.host))
        self._ports.journal.commit(record=after, authorities=authorities, events=events)
        return after

    def _situation(self, record: DomainRecord, asked: tuple[str, ...], *, storage: bool) -> Situation:
        situation = self._look(record, asked, storage=storage)
        for _ in range(LOOKS_MORE):
            if self._as_written(situation):
                return situation
            situation = self._look(record, asked, storage=storage)
        return situation if self._as_written(situation) else replace(situation, authorities=None)

    def _look(self, record: DomainRecord, asked: tuple[str, ...], *, storage: bool) -> Situation:
        written = self._written(record.host)  # before the look: R2
        evidence = self._observer.look(record.domain, asked, storage=storage)
        return Situation(
            domain=record.domain,
            host=record.host,
            hosts=self._protected.hosts(record),
            evidence=evidence,
            now=self._ports.clock.monotonic(),
            max_age_seconds=self._settings.evidence.max_age_seconds,
            arbitrated=self._arbitrated(record.host),
            authorities=written,
        )

    def _arbitrated(self, host: str) -> bool:
        return self._settings.hosts[host].arbiter_token_file is not None

    def _written(self, host: str) -> dict[str, Authority]:
        """What the arbiter has written, by resource; nothing for a host that does not ask it."""
        found = self._ports.journal.authorities() if self._arbitrated(host) else ()
        return {it.resource: it for it in found}

    def _authority(self, host: str, resource: str) -> Authority | None:
        return self._ports.journal.authority(resource) if self._arbitrated(host) else None

    def _as_written(self, it: Situation) -> bool:
        """Whether the arbiter's records of the domain's resources are still those of the situation."""
        known = it.authorities or {}
        names = [resource.name for resource in it.resources] if it.arbitrated else []
        return all(self._ports.journal.authority(name) == known.get(name) for name in names)


def following(plan: PlanRecord, now: float) -> list[Event]:
    """The events of what comes after this moment of a plan: its next intent, or its end."""
    if plan.finished:
        detail = {
            "verb": plan.plan.verb,
            "outcome": plan.status.value,
            "seconds": round(now - plan.claimed_at, 3),
        }
        return [plan_event(now, "finished", f"plan {plan.status}: {plan.sentence}", plan, detail)]
    index = progress.next_index(plan)
    assert index is not None, "an open plan has a next step"
    return [plan_event(now, "intent", describe(plan.steps[index].step), plan, {})]


def claims(plan: PlanRecord, written: Callable[[str], Authority | None]) -> tuple[Authority, ...]:
    """What an intent to promote changes of the arbiter's records.

    The host takes the authority, and evidence from before is worthless (R2). One that may not be taken is
    left as it is: a guard stops the promotion then.
    """
    index = None if plan.finished else progress.next_index(plan)
    step = None if index is None else plan.steps[index].step
    if not isinstance(step, Promote) or (authority := written(step.resource)) is None:
        return ()
    after = taken(authority, step.host, None)
    return () if isinstance(after, str) else (intended(authority) if after is authority else after,)


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
