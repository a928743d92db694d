"""How a plan goes on: which step is next, whether it may be done now, and what its outcome changes.

The same functions serve a plan that runs and one that was found in the journal after a crash: before each
step the live system is looked at again, and what is there already is not done again. So an intent without an
outcome needs no case of its own.

A step becomes an intent in the same write that makes it the next one, and is called only after that.
"""

from dataclasses import replace
from typing import TypeAlias

from actuator.core.guards.replicas import is_primary_here, peer_is_not_primary
from actuator.core.guards.situation import DOWN, RUNNING, Situation
from actuator.core.guards.source import source_has_let_go
from actuator.core.guards.verbs import ANSWERED, KNOWN, Guards, check
from actuator.core.words import describe
from actuator.model import (
    AllowTwo,
    CallOutcome,
    Confirm,
    Define,
    Demote,
    Destroy,
    DomainRecord,
    Done,
    Escalation,
    EscalationKind,
    Failed,
    ForbidTwo,
    Indeterminate,
    Migrate,
    Observed,
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
    StepRecord,
)
from exporter.drbd import Role

KEEP_ATTEMPTS = 200


_ENDS = {source_has_let_go.__name__, peer_is_not_primary.__name__}
"""A lost host that wakes has the domain, and is Primary, until its handler has freed both."""


class Perform:
    """The step may be called now."""


class Wait:
    """Neither done nor failed yet: look again."""


Verdict: TypeAlias = Done | Refusal | Perform | Wait

_HOST_ANSWERS = "host_answers"
_UNANSWERED = {_HOST_ANSWERS, *(guard.__name__ for guard in ANSWERED)}


def is_open(verdict: Verdict) -> bool:
    """Whether another look may say otherwise: it waits for something, or a host has not answered."""
    unanswered = isinstance(verdict, Refusal) and verdict.guard in _UNANSWERED
    return unanswered or isinstance(verdict, Wait)


# ---- may this step be done now ----------------------------------------------------------------------------


def judge(step: Step, it: Situation, guards: Guards) -> Verdict:  # noqa: C901, PLR0911  a table
    """Whether a step is done already, may be called now, or must not be. Asked on evidence of this moment."""
    match step:
        case Destroy() | ShutDown():
            return _judge_end(step, it, guards)
        case Promote():
            return _judge_promote(step, it, guards)
        case Start():
            return _judge_start(it, guards)
        case Confirm():
            return _judge_confirm(it)
        case Demote():
            return _judge_demote(step, it)
        case Define(anew=False) if it.view is not None:
            return Done("is defined there")
        case Define() | PowerOff() | AllowTwo():
            return check(guards.begin, it) or Perform()
        case ForbidTwo():
            return _judge_forbid(step, it)
        case Outlast():
            return Wait() if source_has_let_go(it) else Done(f"nothing of {it.domain} runs on {step.host}")
        case Migrate():
            return _judge_migrate(step, it, guards)


def _judge_end(step: Destroy | ShutDown, it: Situation, guards: Guards) -> Done | Refusal | Perform:
    if refusal := check(ANSWERED, it):
        return refusal
    if not isinstance(it.evidence.domains.get(step.host), Observed):
        return Refusal(_HOST_ANSWERS, f"libvirt on {step.host} does not answer: {it.domain} is not ended")
    view = it.view_on(step.host)
    if view is None or (view.id is None and view.state in DOWN):
        return Done("nothing of it is left")
    if refusal := check(guards.begin, it):
        return refusal
    if view.id != step.domain_id:
        return Refusal(
            "same_domain", f"{it.domain} on {step.host} is another one now than the one that was seen before"
        )
    return Perform()


def _judge_promote(step: Promote, it: Situation, guards: Guards) -> Done | Refusal | Perform:
    if refusal := check(guards.promote, it):
        return refusal
    resource = next((resource for resource in it.resources if resource.name == step.resource), None)
    if resource is None:
        return Refusal("same_disks", f"{it.domain} has no disk on {step.resource} any more")
    return Done("is Primary already") if resource.role is Role.PRIMARY else Perform()


def _judge_start(it: Situation, guards: Guards) -> Done | Refusal | Perform | Wait:
    if refusal := check(KNOWN, it):
        return refusal
    if it.view is not None and it.view.state in RUNNING:
        return Done("runs already")
    refusal = check(guards.start, it)
    if refusal is not None and it.source and refusal.guard in _ENDS:
        return Wait()
    return refusal or Perform()


def _judge_confirm(it: Situation) -> Done | Refusal | Wait:
    view = it.view
    if view is None:
        return Wait()
    if view.state in DOWN:
        return Refusal("stays_up", f"{it.domain} was started and is {view.state} again: {view.reason}")
    if view.state not in RUNNING or any(disk.attached is False for disk in view.disks):
        return Wait()
    return Done(f"is {view.state} with its disks")


def _judge_demote(step: Demote, it: Situation) -> Done | Refusal | Perform:
    domain, storage = it.evidence.domains.get(step.host), it.evidence.storage.get(step.host)
    if not isinstance(domain, Observed) or not isinstance(storage, Observed):
        return Refusal(_HOST_ANSWERS, f"{step.host} does not answer: {step.resource} is not demoted there")
    if view := it.active_on(step.host):
        return Refusal(
            "nothing_is_left", f"{it.domain} is {view.state} on {step.host}: {step.resource} is in use"
        )
    resource = storage.value.resource(step.resource)
    return Done("is Secondary") if resource is None or resource.role is Role.SECONDARY else Perform()


def _judge_forbid(step: ForbidTwo, it: Situation) -> Refusal | Perform:
    if not isinstance(it.evidence.storage.get(step.host), Observed):
        return Refusal(
            _HOST_ANSWERS, f"{step.host} does not answer: it may still allow {step.resource} two Primaries"
        )
    return Perform()  # what is closed already is closed once more


def _judge_migrate(step: Migrate, it: Situation, guards: Guards) -> Done | Refusal | Perform:
    here, there = it.view, it.view_on(step.source)
    left = isinstance(it.evidence.domains.get(step.source), Observed) and not it.active_on(step.source)
    # QEMU runs it on the target only when it has stopped it on the source: one that is lost need not say so.
    if here is not None and here.state in RUNNING and (left or step.source in it.failed):
        return Done(f"runs on {step.host}")
    if refusal := check(guards.begin, it):
        return refusal
    if there is None or there.id != step.domain_id:
        return Refusal("same_domain", f"{it.domain} on {step.source} is another one now than the one to move")
    if sentence := is_primary_here(it):
        return Refusal(is_primary_here.__name__, sentence)
    return Perform()


# ---- what becomes of the record ---------------------------------------------------------------------------


def claimed(
    record: DomainRecord, plan: Plan, *, now: float, forecast_seconds: float | None = None
) -> DomainRecord:
    """The record with the plan open and its first step intended. Failovers' attempts count by themselves."""
    assert record.open_plan is None, "one plan at a time"
    version = record.version + 1
    steps = tuple(StepRecord(step) for step in plan.steps)
    opened = PlanRecord(
        f"{record.domain}-{version}",
        plan,
        PlanStatus.OPEN,
        claimed_at=now,
        steps=steps,
        forecast_seconds=forecast_seconds,
    )
    attempts_at = () if plan.verb == "failover" and not record.last_was_failover else record.attempts_at
    return replace(
        record, version=version, plan=_intend_next(opened, now), approved="", attempts_at=attempts_at
    )


def next_index(plan: PlanRecord) -> int | None:
    """The step that is next: the first without an outcome; while undoing, the first that takes back."""
    first = 0 if plan.status is PlanStatus.OPEN else len(plan.plan.steps)
    for index, entry in enumerate(plan.steps[first:], first):
        if entry.outcome is None:
            return index
    return None


def concluded(
    record: DomainRecord, index: int, outcome: CallOutcome, *, ours: bool, now: float, hold_seconds: float
) -> DomainRecord:
    """The record with a step's outcome, and with what follows: the next intent, the undoing, or the end.

    ``ours``: we called it, or may have before a crash. The first such step of a plan makes it an attempt.
    ``hold_seconds``: for so long a domain is not sent back to a host that failed it.
    """
    plan = record.open_plan
    assert plan is not None, "an open plan"
    entry = replace(plan.steps[index], outcome=outcome, concluded_at=now, ours=ours)
    plan = replace(plan, steps=(*plan.steps[:index], entry, *plan.steps[index + 1 :]))
    if not isinstance(outcome, Done):
        plan = _undoing(plan, f"{describe(entry.step)}: {outcome.reason}")
    plan = _intend_next(plan, now)
    escalation = record.escalation
    if next_index(plan) is None:
        plan, escalation = _finished(plan, escalation, now)
    attempts_at = record.attempts_at
    if ours and not any(earlier.ours for earlier in plan.steps[:index]):
        attempts_at = (*attempts_at, now)[-KEEP_ATTEMPTS:]
    after = replace(
        record, version=record.version + 1, plan=plan, escalation=escalation, attempts_at=attempts_at
    )
    return _moved(after, plan, now + hold_seconds) if _belongs_to_target(plan) else after


def _belongs_to_target(plan: PlanRecord) -> bool:
    """A domain that moves should run on its target once it may run there.

    Not before: what did not start there is looked at from its source again, with all the care of a move.
    """
    return any(
        isinstance(entry.step, Start | Migrate)
        and entry.outcome is not None
        and not (isinstance(entry.outcome, Failed) or _is_lost(entry))
        for entry in plan.steps
    )


def _is_lost(entry: StepRecord) -> bool:
    """A live migration without an answer: the domain is where it was until it is seen elsewhere."""
    return isinstance(entry.step, Migrate) and isinstance(entry.outcome, Indeterminate)


def _moved(record: DomainRecord, plan: PlanRecord, suspect_until: float) -> DomainRecord:
    if record.host == plan.plan.host:
        return record
    left = {plan.plan.source: suspect_until} if plan.plan.suspect else {}
    return replace(record, host=plan.plan.host, attempts_at=(), suspects={**record.suspects, **left})


def escalated(
    record: DomainRecord, kind: EscalationKind, refusal: Refusal, *, now: float
) -> DomainRecord | None:
    """The record with the warning standing; None when it stands already. Giving up outlasts the others."""
    standing = record.escalation
    if standing is not None:
        if standing.kind is EscalationKind.GAVE_UP and kind is not EscalationKind.GAVE_UP:
            return None
        if (standing.kind, standing.guard, standing.sentence) == (kind, refusal.guard, refusal.sentence):
            return None
    since = standing.since_at if standing is not None and standing.kind is kind else now
    warning = Escalation(kind, record.host, refusal.guard, refusal.sentence, since)
    return replace(record, version=record.version + 1, escalation=warning)


def solved(record: DomainRecord) -> DomainRecord:
    """The record without its warning: the domain was seen running."""
    return replace(record, version=record.version + 1, escalation=None)


def _intend_next(plan: PlanRecord, now: float) -> PlanRecord:
    index = next_index(plan)
    if index is None or plan.steps[index].intended_at is not None:
        return plan
    entry = replace(plan.steps[index], intended_at=now)
    return replace(plan, steps=(*plan.steps[:index], entry, *plan.steps[index + 1 :]))


def _undoing(plan: PlanRecord, sentence: str) -> PlanRecord:
    """Take back our own promotions, last first, and close the window for two Primaries.

    Not the promotions after a start whose answer is missing: it may still come about, and Xen would start the
    domain without its disk. A resource that stays Primary here harms nothing.
    """
    if plan.status is PlanStatus.UNDOING:
        return replace(plan, sentence=f"{plan.sentence}; and taking it back failed: {sentence}")
    may_run_here = any(
        isinstance(entry.step, Start | Migrate)
        and entry.outcome is not None
        and not isinstance(entry.outcome, Failed)
        for entry in plan.steps
    )
    undo: list[Step] = []
    if not may_run_here:
        undo += [
            Demote(entry.step.host, entry.step.resource)
            for entry in reversed(plan.steps)
            if isinstance(entry.step, Promote) and entry.ours and not isinstance(entry.outcome, Failed)
        ]
    # What lets two be Primary ends whatever happened; DRBD refuses it while both are.
    undo += [
        ForbidTwo(entry.step.host, entry.step.resource)
        for entry in plan.steps
        if isinstance(entry.step, AllowTwo)
    ]
    steps = (*plan.steps, *(StepRecord(step) for step in undo))
    return replace(plan, status=PlanStatus.UNDOING, sentence=sentence, steps=steps)


def _success(plan: Plan) -> str:
    if not any(isinstance(step, Confirm) for step in plan.steps):
        return f"{plan.domain}'s disks are Primary on one host at most"
    return f"{plan.domain} runs {f'on {plan.host}' if plan.source else 'again'}"


def _finished(
    plan: PlanRecord, standing: Escalation | None, now: float
) -> tuple[PlanRecord, Escalation | None]:
    if plan.status is PlanStatus.OPEN:
        return replace(plan, status=PlanStatus.SUCCEEDED, finished_at=now, sentence=_success(plan.plan)), None
    failed = replace(plan, status=PlanStatus.FAILED, finished_at=now)
    warning = Escalation(EscalationKind.FAILED, plan.plan.host, "plan", failed.sentence, now)
    return failed, standing if standing and standing.kind is EscalationKind.GAVE_UP else warning
