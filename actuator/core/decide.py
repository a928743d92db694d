"""What to do about a domain: evidence, history and limits give a plan, or the reason for none."""

from collections.abc import Iterator
from typing import Protocol

from actuator.core.guard import KNOWN, RESTART, RUNNING, Situation, active_on, check, runs_nowhere_else
from actuator.model import (
    Confirm,
    Decision,
    Destroy,
    DomainRecord,
    DomainView,
    EscalationKind,
    Nothing,
    Plan,
    PlanStatus,
    Postpone,
    Promote,
    Refusal,
    Start,
    Step,
)
from exporter.drbd import Role


class RestartLimits(Protocol):
    """The limits of the verb; see ``config.RestartSettings``."""

    @property
    def max_attempts(self) -> int:
        """Within the window."""

    @property
    def window_seconds(self) -> float:
        """How far back attempts count."""

    @property
    def backoff_seconds(self) -> float:
        """Before the second attempt; doubled before each further one."""


ATTEMPTS = "attempts_are_left"
"""The name of the refusal when the limit is used up."""


def decide(situation: Situation, record: DomainRecord, limits: RestartLimits, *, now: float) -> Decision:
    """Decide about a domain that has no open plan. ``now`` is wall clock.

    The order matters: what is not known refuses first; a domain that runs needs nothing, whatever the
    history; one that was given up stays so until it was seen running; then safety, limits and the plan.
    """
    if refusal := check(KNOWN, situation):
        return refusal
    view = situation.view
    assert view is not None, "is_defined"
    if view.state in RUNNING:
        return _running(situation, view)
    if record.escalation is not None and record.escalation.kind is EscalationKind.GAVE_UP:
        return Refusal(ATTEMPTS, record.escalation.sentence)
    return check(RESTART, situation) or _limited(record, limits, now) or _plan(situation, view)


def _running(situation: Situation, view: DomainView) -> Refusal | Nothing:
    for disk in view.disks:
        if disk.attached is False:
            return Refusal(
                "has_its_disks",
                f"{view.name} runs on {situation.host} without its disk {disk.target}:"
                f" 'virsh destroy {view.name}' there; vmheal then starts it anew",
            )
    twins = [host for host in situation.hosts if host != situation.host and active_on(situation, host)]
    if twins:
        return Refusal(
            runs_nowhere_else.__name__,
            f"{view.name} runs on {situation.host}, and also on {', '.join(twins)}: end one of them at once",
        )
    return Nothing(f"{view.name} is {view.state} on {situation.host}")


def _limited(record: DomainRecord, limits: RestartLimits, now: float) -> Refusal | Postpone | None:
    # An attempt in the future means that the wall clock went back: it counts as just now.
    recent = [at for at in record.attempts_at if now - at < limits.window_seconds]
    if len(recent) >= limits.max_attempts:
        return Refusal(
            ATTEMPTS,
            f"{len(recent)} restarts of {record.domain} on {record.host} in {limits.window_seconds:g} s did"
            f" not hold{_last_failure(record)}: find out why and start it by hand; until it was seen running"
            " vmheal does not restart it any more",
        )
    if recent:
        wait = limits.backoff_seconds * 2 ** (len(recent) - 1)
        until = min(recent[-1], now) + wait
        if now < until:
            return Postpone(until, f"{record.domain}: attempt {len(recent) + 1} is made after {wait:g} s")
    return None


def _last_failure(record: DomainRecord) -> str:
    failed = record.plan is not None and record.plan.status is PlanStatus.FAILED
    return f" (the last: {record.plan.sentence})" if failed and record.plan else ""


def _plan(situation: Situation, view: DomainView) -> Plan:
    return Plan(
        verb="restart",
        domain=situation.domain,
        host=situation.host,
        reason=f"{view.name} is {view.state} on {situation.host} (reason: {view.reason})",
        steps=tuple(_steps(situation, view)),
    )


def _steps(situation: Situation, view: DomainView) -> Iterator[Step]:
    if view.id is not None:
        yield Destroy(situation.host, situation.domain, view.id)
    for resource in situation.resources:
        if resource.role is not Role.PRIMARY:
            yield Promote(situation.host, resource.name)
    yield Start(situation.host, situation.domain)
    yield Confirm(situation.host, situation.domain)
