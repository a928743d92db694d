"""How a plan goes on, over every outcome of every step, and what each step demands right before it is called."""

import itertools
from dataclasses import replace

import pytest

from actuator.core import progress
from actuator.core.guards.verbs import guards_of
from actuator.core.words import describe, summary
from actuator.model import (
    Confirm,
    Demote,
    Destroy,
    Disk,
    DomainState,
    Done,
    Escalation,
    EscalationKind,
    Failed,
    Indeterminate,
    Migrate,
    Plan,
    PlanStatus,
    Promote,
    Refusal,
    Start,
)
from exporter.drbd import ConnectionState, Role
from tests.actuator.build import connection, evidence, record, resource, situation, snapshot, theirs, view
from tests.core.test_decide import REFUSED

STEPS = (
    Destroy("v01", "voms01", 7),
    Promote("v01", "data"),
    Promote("v01", "voms01"),
    Start("v01", "voms01"),
    Confirm("v01", "voms01"),
)
PLAN = Plan("restart", "voms01", "v01", "it crashed", STEPS)


def judge(step, it):
    return progress.judge(step, it, guards_of(PLAN))


OUTCOMES = (Done(), Failed("no"), Indeterminate("lost"))


def histories():
    """Every way through a plan: at each step each outcome, ours or found, until it is finished."""

    def go_on(state, taken):
        plan = state.open_plan
        if plan is None:
            yield state, taken
            return
        index = progress.next_index(plan)
        for outcome, ours in itertools.product(OUTCOMES, (True, False)):
            after = progress.concluded(
                state, index, outcome, ours=ours, now=float(len(taken) + 2), hold_seconds=0.0
            )
            assert after.version == state.version + 1
            yield from go_on(after, (*taken, (plan.steps[index].step, outcome, ours)))

    yield from go_on(progress.claimed(record(), PLAN, now=1.0), ())


def test_every_way_through_a_plan():
    ways = 0
    for ended, taken in histories():
        ways += 1
        plan = ended.plan
        outcomes = [outcome for _, outcome, _ in taken]
        steps = [step for step, _, _ in taken]
        succeeded = outcomes == [Done()] * len(STEPS)
        assert plan.status is (PlanStatus.SUCCEEDED if succeeded else PlanStatus.FAILED)
        assert ended.escalation is None or not succeeded
        assert plan.finished_at is not None
        # In order, and nothing of the plan itself after the first step that is not done.
        own = [step for step in steps if not isinstance(step, Demote)]
        assert tuple(own) == STEPS[: len(own)]
        assert all(isinstance(outcome, Done) for outcome in outcomes[: len(own) - 1])
        # What was promoted by us is taken back, last first, unless a start may have come about.
        ours = [step for step, outcome, mine in taken if mine and not isinstance(outcome, Failed)]
        promoted = [step for step in ours if isinstance(step, Promote)]
        start = next((outcome for step, outcome, _ in taken if isinstance(step, Start)), None)
        undone = [step for step in steps if isinstance(step, Demote)]
        if succeeded or (start is not None and not isinstance(start, Failed)):
            assert undone == []
        else:
            assert undone == [Demote(step.host, step.resource) for step in reversed(promoted)]
        # It counts as an attempt when we called anything.
        assert len(ended.attempts_at) == any(mine for _, _, mine in taken)
        # Every outcome had its intent before it.
        for entry in plan.steps:
            assert (entry.outcome is None) or entry.intended_at < entry.concluded_at
            assert (entry.outcome is not None) or entry.intended_at is None
        if not succeeded:
            assert ended.escalation.sentence == plan.sentence
            assert "no" in plan.sentence or "lost" in plan.sentence
    assert ways > 400


def test_a_plan_is_claimed_with_its_first_step_intended():
    claimed = progress.claimed(record(version=41), PLAN, now=5.0)
    assert claimed.version == 42
    assert claimed.plan.id == "voms01-42"
    assert [entry.intended_at for entry in claimed.plan.steps] == [5.0, None, None, None, None]
    with pytest.raises(AssertionError):
        progress.claimed(claimed, PLAN, now=6.0)


# ---- right before each step --------------------------------------------------------------------------------

HERE = snapshot(resource(role=Role.SECONDARY))
CALLED = {
    "destroy": (Destroy("v01", "voms01", 7), {"here": view(domain_id=7), "drbd_here": HERE}),
    "promote": (Promote("v01", "voms01"), {"drbd_here": HERE}),
    "start": (Start("v01", "voms01"), {}),
}


@pytest.mark.parametrize("name", CALLED)
def test_a_step_is_called_when_all_is_well(name):
    step, seen = CALLED[name]
    assert isinstance(judge(step, situation(evidence(**seen))), progress.Perform)


@pytest.mark.parametrize("name", CALLED)
@pytest.mark.parametrize("guard", REFUSED)
def test_a_step_is_never_called_into_a_hazard(name, guard):
    step, seen = CALLED[name]
    hazard = REFUSED[guard]
    if name == "destroy" and "here" in hazard and hazard["here"] not in {"gone", None}:
        hazard = hazard | {"here": view(DomainState.PAUSED, 7) if guard == "is_down" else hazard["here"]}
    verdict = judge(step, situation(evidence(**seen | hazard)))
    nothing_left = name == "destroy" and isinstance(verdict, Done)
    assert isinstance(verdict, Refusal) or nothing_left


@pytest.mark.parametrize("name", CALLED)
def test_a_step_is_never_called_on_old_evidence(name):
    step, seen = CALLED[name]
    verdict = judge(step, situation(evidence(**seen), now=99.0))
    assert isinstance(verdict, Refusal)
    assert verdict.guard == "evidence_is_fresh"


@pytest.mark.parametrize(
    ("step", "seen"),
    [
        (Destroy("v01", "voms01", 7), {"here": view()}),
        (Promote("v01", "voms01"), {}),
        (Start("v01", "voms01"), {"here": view(DomainState.RUNNING, 9)}),
        (Start("v01", "voms01"), {"here": view(DomainState.BLOCKED, 9)}),
        (Confirm("v01", "voms01"), {"here": view(DomainState.RUNNING, 9)}),
        (Demote("v01", "voms01"), {"drbd_here": HERE}),
        (Demote("v01", "voms01"), {"drbd_here": snapshot()}),
    ],
)
def test_what_is_there_already_is_not_done_again(step, seen):
    assert isinstance(judge(step, situation(evidence(**seen))), Done)


@pytest.mark.parametrize(
    ("step", "seen", "guard"),
    [
        (Destroy("v01", "voms01", 7), {"here": view(domain_id=8)}, "same_domain"),
        (Destroy("v01", "voms01", 7), {"here": view(DomainState.RUNNING, 7)}, "is_down"),
        (Promote("v01", "other"), {}, "same_disks"),
        (Start("v01", "voms01"), {"drbd_here": HERE}, "is_primary_here"),
        (Start("v01", "voms01"), {"here": view(domain_id=7)}, "nothing_is_left"),
        (Confirm("v01", "voms01"), {"here": view()}, "stays_up"),
        (Demote("v01", "voms01"), {"here": view(DomainState.RUNNING, 9)}, "nothing_is_left"),
        (Demote("v01", "voms01"), {"here": view(DomainState.SHUTOFF, 9)}, "nothing_is_left"),
        (Demote("v01", "voms01"), {"here": "gone"}, "host_answers"),
    ],
)
def test_what_forbids_a_step(step, seen, guard):
    verdict = judge(step, situation(evidence(**seen)))
    assert isinstance(verdict, Refusal)
    assert verdict.guard == guard


@pytest.mark.parametrize(
    "here",
    [
        "gone",
        view(DomainState.PAUSED, 9),
        view(DomainState.RUNNING, 9, disks=(Disk("xvda", "/dev/drbd0", attached=False),)),
    ],
)
def test_a_confirmation_waits(here):
    verdict = judge(Confirm("v01", "voms01"), situation(evidence(here=here)))
    assert isinstance(verdict, progress.Wait)


MIGRATE = Migrate("v01", "v02", "voms01", 9)
LIVE = Plan("migrate", "voms01", "v01", "drained", (MIGRATE,), source="v02")
RUNS = view(DomainState.RUNNING, 9)
LEFT = {"here": view(), "there": RUNS, "drbd_there": snapshot(theirs(role=Role.PRIMARY))}


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ({}, "may go"),
        ({"here": RUNS, "there": view()}, "is there"),
        ({"here": RUNS, "there": None}, "is there"),
        ({"here": RUNS}, "is_down"),
        ({"here": RUNS, "there": "gone"}, "source_answers"),
        ({"here": view(DomainState.PAUSED, 9), "there": view()}, "is_down"),
        ({"there": view()}, "runs_on_its_source"),
        ({"there": view(DomainState.RUNNING, 8)}, "same_domain"),
        ({"drbd_here": HERE}, "is_primary_here"),
        ({"drbd_here": "gone"}, "drbd_answers"),
    ],
)
def test_a_live_migration_is_done_when_it_runs_here_and_no_more_there(seen, expected):
    it = replace(situation(evidence(**LEFT | seen)), source="v02")
    match progress.judge(MIGRATE, it, guards_of(LIVE)):
        case progress.Perform():
            assert expected == "may go"
        case Done():
            assert expected == "is there"
        case Refusal(guard=guard):
            assert expected == guard


def test_our_own_promotion_is_taken_back():
    verdict = judge(Demote("v01", "voms01"), situation(evidence()))
    assert isinstance(verdict, progress.Perform)


# ---- warnings ----------------------------------------------------------------------------------------------

REFUSAL = Refusal("is_down", "voms01 is paused")
PAUSED = Escalation(EscalationKind.REFUSED, "v01", "is_down", "voms01 is paused", 1.0)
GAVE_UP = Escalation(EscalationKind.GAVE_UP, "v01", "attempts_are_left", "no more", 1.0)


@pytest.mark.parametrize(
    ("standing", "kind", "expected_kind", "since"),
    [
        (None, EscalationKind.REFUSED, EscalationKind.REFUSED, 9.0),
        (PAUSED, EscalationKind.REFUSED, None, None),
        (PAUSED, EscalationKind.GAVE_UP, EscalationKind.GAVE_UP, 9.0),
        (GAVE_UP, EscalationKind.REFUSED, None, None),
    ],
)
def test_a_warning_stands_and_giving_up_outlasts_it(standing, kind, expected_kind, since):
    after = progress.escalated(record(escalation=standing), kind, REFUSAL, now=9.0)
    if expected_kind is None:
        assert after is None
    else:
        assert (after.escalation.kind, after.escalation.since_at) == (expected_kind, since)
        assert after.version == 2


def test_the_same_warning_with_other_words_keeps_its_beginning():
    after = progress.escalated(
        record(escalation=PAUSED), EscalationKind.REFUSED, Refusal("is_down", "voms01 sleeps"), now=9.0
    )
    assert (after.escalation.sentence, after.escalation.since_at) == ("voms01 sleeps", 1.0)


# ---- words -------------------------------------------------------------------------------------------------


def test_evidence_in_words():
    cut = resource(connections=(connection("v02", ConnectionState.CONNECTING, Role.UNKNOWN),))
    seen = evidence(
        drbd_here=snapshot(cut, resource("stranger")), there="no route", drbd_there=snapshot(theirs())
    )
    assert summary(seen, frozenset({"voms01"})) == (
        "v01: shutoff (crashed), voms01 Primary UpToDate (v02 Connecting Unknown);"
        " v02: unknown (no route), voms01 Secondary UpToDate (v01 Connected Primary)"
    )


@pytest.mark.parametrize("step", [*STEPS, Demote("v01", "voms01")])
def test_every_step_has_words(step):
    assert "v01" in describe(step)
