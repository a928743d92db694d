"""How a plan goes on: which step is next, whether it may be done now, and what its outcome changes.

The same functions serve a plan that runs and one that was found in the journal after a crash: before each
step the live system is looked at again, and what is there already is not done again. So an intent without an
outcome needs no case of its own.

A step becomes an intent in the same write that makes it the next one, and is called only after that.
"""

from dataclasses import replace

from actuator.core.guard import DOWN, KNOWN, PROMOTE, RESTART, RUNNING, START, Situation, check
from actuator.core.words import describe
from actuator.model import (
    CallOutcome,
    Confirm,
    Demote,
    Destroy,
    DomainRecord,
    Done,
    Escalation,
    EscalationKind,
    Failed,
    Observed,
    Plan,
    PlanRecord,
    PlanStatus,
    Promote,
    Refusal,
    Start,
    Step,
    StepRecord,
)
from exporter.drbd import Role

KEEP_ATTEMPTS = 200


class Perform:
    """The step may be called now."""


class Wait:
    """Neither done nor failed yet: look again."""


# ---- may this step be done now ----------------------------------------------------------------------------


def judge(step: Step, it: Situation) -> Done | Refusal | Perform | Wait:
    """Whether a step is done already, may be called now, or must not be. Asked on evidence of this moment."""
    match step:
        case Destroy():
            return _judge_destroy(step, it)
        case Promote():
            return _judge_promote(step, it)
        case Start():
            return _judge_start(it)
        case Confirm():
            return _judge_confirm(it)
        case Demote():
            return _judge_demote(step, it)


def _judge_destroy(step: Destroy, it: Situation) -> Done | Refusal | Perform:
    if refusal := check(KNOWN, it):
        return refusal
    assert it.view is not None, "is_defined"
    if it.view.id is None and it.view.state in DOWN:
        return Done("nothing of it is left")
    if refusal := check(RESTART, it):
        return refusal
    if it.view.id != step.domain_id:
        return Refusal(
            "same_domain", f"{it.domain} on {it.host} is another one now than the one that crashed"
        )
    return Perform()


def _judge_promote(step: Promote, it: Situation) -> Done | Refusal | Perform:
    if refusal := check(PROMOTE, it):
        return refusal
    resource = next((resource for resource in it.resources if resource.name == step.resource), None)
    if resource is None:
        return Refusal("same_disks", f"{it.domain} has no disk on {step.resource} any more")
    return Done("is Primary already") if resource.role is Role.PRIMARY else Perform()


def _judge_start(it: Situation) -> Done | Refusal | Perform:
    if refusal := check(KNOWN, it):
        return refusal
    if it.view is not None and it.view.state in RUNNING:
        return Done("runs already")
    return check(START, it) or Perform()


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
    if refusal := check(KNOWN, it):
        return refusal
    assert it.view is not None, "is_defined"
    if it.view.id is not None or it.view.state not in DOWN:
        return Refusal(
            "nothing_is_left", f"{it.domain} is {it.view.state} on {it.host}: {step.resource} is in use"
        )
    storage = it.evidence.storage[it.host]
    assert isinstance(storage, Observed), "drbd_answers"
    resource = storage.value.resource(step.resource)
    return Done("is Secondary") if resource is None or resource.role is Role.SECONDARY else Perform()


# ---- what becomes of the record ---------------------------------------------------------------------------


def claimed(record: DomainRecord, plan: Plan, *, now: float) -> DomainRecord:
    """The record with the plan open and its first step intended."""
    assert record.open_plan is None, "one plan at a time"
    version = record.version + 1
    steps = tuple(StepRecord(step) for step in plan.steps)
    opened = PlanRecord(f"{record.domain}-{version}", plan, PlanStatus.OPEN, claimed_at=now, steps=steps)
    return replace(record, version=version, plan=_intend_next(opened, now))


def next_index(plan: PlanRecord) -> int | None:
    """The step that is next: the first without an outcome; while undoing, the first demotion without one."""
    for index, entry in enumerate(plan.steps):
        if entry.outcome is None and (plan.status is PlanStatus.OPEN or isinstance(entry.step, Demote)):
            return index
    return None


def concluded(
    record: DomainRecord, index: int, outcome: CallOutcome, *, ours: bool, now: float
) -> DomainRecord:
    """The record with a step's outcome, and with what follows: the next intent, the undoing, or the end.

    ``ours``: we called it, or may have before a crash. The first such step of a plan makes it an attempt.
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
    return replace(
        record, version=record.version + 1, plan=plan, escalation=escalation, attempts_at=attempts_at
    )


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
    """Take back our own promotions, last first.

    Not after a start whose answer is missing: it may still come about, and Xen would start the domain without
    its disk. A resource that stays Primary here harms nothing.
    """
    if plan.status is PlanStatus.UNDOING:
        return replace(plan, sentence=f"{plan.sentence}; and taking it back failed: {sentence}")
    may_have_started = any(
        isinstance(entry.step, Start) and entry.outcome is not None and not isinstance(entry.outcome, Failed)
        for entry in plan.steps
    )
    promoted = [
        entry.step
        for entry in plan.steps
        if isinstance(entry.step, Promote) and entry.ours and not isinstance(entry.outcome, Failed)
    ]
    undo = () if may_have_started else tuple(Demote(step.host, step.resource) for step in reversed(promoted))
    steps = (*plan.steps, *(StepRecord(step) for step in undo))
    return replace(plan, status=PlanStatus.UNDOING, sentence=sentence, steps=steps)


def _finished(
    plan: PlanRecord, standing: Escalation | None, now: float
) -> tuple[PlanRecord, Escalation | None]:
    if plan.status is PlanStatus.OPEN:
        done = replace(
            plan, status=PlanStatus.SUCCEEDED, finished_at=now, sentence=f"{plan.plan.domain} runs again"
        )
        return done, None
    failed = replace(plan, status=PlanStatus.FAILED, finished_at=now)
    warning = Escalation(EscalationKind.FAILED, plan.plan.host, "plan", failed.sentence, now)
    return failed, standing if standing and standing.kind is EscalationKind.GAVE_UP else warning
