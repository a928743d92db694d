"""A restart is planned exactly when it is safe: over the whole product of what can be seen."""

import itertools
from dataclasses import astuple, replace
from types import SimpleNamespace

import pytest

from actuator.core import decide as core
from actuator.core.decide import ATTEMPTS, Hosts, Limits, Question, Wish
from actuator.core.guards.memory import authority_is_held
from actuator.core.guards.replicas import io_flows
from actuator.core.guards.verbs import RESTART, check, guards_of
from actuator.model import (
    Authority,
    Confirm,
    Destroy,
    Disk,
    DomainState,
    Escalation,
    EscalationKind,
    Nothing,
    Plan,
    PlanRecord,
    PlanStatus,
    Postpone,
    Promote,
    Proof,
    Refusal,
    Start,
)
from exporter.drbd import ConnectionState, DiskState, Role, SuspendReason, UnknownWord
from tests.actuator.build import (
    connection,
    device,
    evidence,
    record,
    resource,
    situation,
    snapshot,
    theirs,
    view,
)

LIMITS = Limits(max_attempts=3, window_seconds=600.0, backoff_seconds=5.0)
NOW = 1_000_000.0
_, PROMOTE, START = astuple(guards_of(Plan("restart", "voms01", "v01", "it crashed", ())))


def decide(it, known, limits, *, now):
    """Nothing is asked, and nothing known of hosts."""
    return core.decide(Question(it, known, limits, Wish(), Hosts(), now))


STATES = tuple(DomainState)
DOWN = (DomainState.SHUTOFF, DomainState.CRASHED)
ELSEWHERE = {
    "unknown": "no answer",
    "not defined": None,
    "off": view(),
    "running": view(DomainState.RUNNING, 3),
    "preserved": view(DomainState.SHUTOFF, 3),
    "paused": view(DomainState.PAUSED, 3),
}
CONNECTIONS = (ConnectionState.CONNECTED, ConnectionState.CONNECTING, ConnectionState.STAND_ALONE)
PEER_DISKS = (DiskState.UP_TO_DATE, DiskState.OUTDATED, DiskState.INCONSISTENT, DiskState.D_UNKNOWN)
THEIR_WORD = {
    "unknown": "no answer",
    "down": snapshot(),
    "primary": snapshot(theirs(role=Role.PRIMARY, connections=(connection("v01"),))),
    "secondary": snapshot(theirs()),
    "secondary, sees us Inconsistent": snapshot(
        theirs(connections=(connection("v01", peer_disk=DiskState.INCONSISTENT),))
    ),
    "secondary, lost us": snapshot(theirs(connections=(connection("v01", ConnectionState.CONNECTING),))),
    "role unknown": snapshot(theirs(role=Role.UNKNOWN)),
}


def is_safe(state, elsewhere, role, disk, link, peer_role, peer_disk, their_word, suspended) -> bool:
    """The rules of the verb once more, written from the design and not from the code."""
    if state not in DOWN:
        return False
    if elsewhere in {"running", "preserved", "paused"}:
        return False
    if disk is not DiskState.UP_TO_DATE or suspended:
        return False
    if peer_role is Role.PRIMARY or their_word in {"primary", "role unknown"}:
        return False
    says_it_does_not_write = their_word not in {"unknown", "primary", "role unknown"}
    if role is Role.PRIMARY:
        by_connection = link is ConnectionState.CONNECTED and peer_role is Role.SECONDARY
        by_outdated = link is not ConnectionState.CONNECTED and peer_disk is DiskState.OUTDATED
        # An unknown libvirt over there is answered by the same proof: without its disks nothing runs there.
        return says_it_does_not_write or by_connection or by_outdated
    return role is Role.SECONDARY and link is ConnectionState.CONNECTED and their_word == "secondary"


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_a_restart_is_planned_exactly_when_it_is_safe(state, elsewhere):
    planned = 0
    # What is left of a crashed domain: nothing, or something that must be destroyed first.
    domain_id = None if state is DomainState.SHUTOFF else 7
    axes = (
        (Role.PRIMARY, Role.SECONDARY, Role.UNKNOWN),
        (DiskState.UP_TO_DATE, DiskState.OUTDATED, DiskState.DISKLESS),
        CONNECTIONS if state in DOWN else CONNECTIONS[:1],
        tuple(Role) if state in DOWN else (Role.SECONDARY,),
        PEER_DISKS if state in DOWN else PEER_DISKS[:1],
        THEIR_WORD,
        ((), (SuspendReason.FENCING,)),
    )
    for role, disk, link, peer_role, peer_disk, their_word, suspended in itertools.product(*axes):
        here = resource(
            role=role,
            suspended=suspended,
            devices=(device(disk_state=disk),),
            connections=(connection("v02", link, peer_role, peer_disk),),
        )
        seen = evidence(
            here=view(state, domain_id),
            there=ELSEWHERE[elsewhere],
            drbd_here=snapshot(here),
            drbd_there=THEIR_WORD[their_word],
        )
        decision = decide(situation(seen), record(), LIMITS, now=NOW)
        safe = is_safe(state, elsewhere, role, disk, link, peer_role, peer_disk, their_word, suspended)
        restarts = isinstance(decision, Plan) and decision.verb == "restart"
        assert restarts == safe, (decision, here, their_word)
        if isinstance(decision, Plan) and not restarts:
            # Its disk here is lost, and both sides agree about the one there.
            assert disk is not DiskState.UP_TO_DATE
            assert (link, decision.host) == (ConnectionState.CONNECTED, "v02")
            assert their_word in {"secondary", "secondary, sees us Inconsistent"}
        elif isinstance(decision, Plan):
            planned += 1
            assert decision.steps == expected_steps(domain_id, role)
        elif isinstance(decision, Nothing):
            assert state in {DomainState.RUNNING, DomainState.BLOCKED}
            assert elsewhere not in {"running", "preserved", "paused"}
        else:
            assert isinstance(decision, Refusal)
            assert len(decision.sentence) > 30
            assert "voms01" in decision.sentence
    assert (planned > 0) == (state in DOWN and elsewhere in {"unknown", "not defined", "off"})


def expected_steps(domain_id, role):
    destroy = () if domain_id is None else (Destroy("v01", "voms01", domain_id),)
    promote = () if role is Role.PRIMARY else (Promote("v01", "voms01"),)
    return (*destroy, *promote, Start("v01", "voms01"), Confirm("v01", "voms01"))


@pytest.mark.parametrize("state", [state for state in DiskState if state is not DiskState.UP_TO_DATE])
@pytest.mark.parametrize("role", [Role.PRIMARY, Role.SECONDARY])
def test_every_disk_state_but_up_to_date_refuses(state, role):
    seen = evidence(drbd_here=snapshot(resource(role=role, devices=(device(disk_state=state),))))
    decision = decide(situation(seen), record(), LIMITS, now=NOW)
    assert isinstance(decision, Refusal)
    assert decision.guard == "disk_is_up_to_date"
    assert state.value in decision.sentence


@pytest.mark.parametrize(
    "link", [state for state in ConnectionState if state is not ConnectionState.CONNECTED]
)
def test_a_secondary_that_is_not_connected_is_never_promoted(link):
    here = resource(role=Role.SECONDARY, connections=(connection("v02", link, Role.UNKNOWN),))
    decision = decide(situation(evidence(drbd_here=snapshot(here))), record(), LIMITS, now=NOW)
    assert isinstance(decision, Refusal)
    assert decision.guard == "may_be_promoted"


REFUSED = {
    "libvirt_answers": {"here": "gone"},
    "drbd_answers": {"drbd_here": "gone"},
    "is_defined": {"here": None},
    "is_down": {"here": view(DomainState.PAUSED, 3, reason="ioerror")},
    "disks_are_on_drbd": {"here": view(disks=(Disk("vda", "/var/lib/x.raw"),))},
    "drbd_is_understood": {
        "drbd_here": snapshot(resource(), problems=(UnknownWord("role", "Tertiary", "voms01"),))
    },
    "peer_is_not_primary": {"drbd_there": THEIR_WORD["primary"]},
    "runs_nowhere_else": {"there": view(DomainState.RUNNING, 3)},
    "is_open_nowhere_else": {
        "drbd_here": snapshot(resource(role=Role.SECONDARY)),
        "drbd_there": snapshot(theirs(devices=(device(is_open=True),))),
    },
    "disk_is_up_to_date": {
        "here": view(disks=(Disk("vda", "drbd:voms01"),)),
        "drbd_here": snapshot(resource(devices=())),
    },
    "io_flows": {"drbd_here": snapshot(resource(suspended=(SuspendReason.USER,)))},
    "has_quorum": {"drbd_here": snapshot(resource(devices=(device(quorum=False),)))},
    "peer_is_known": {
        "drbd_here": snapshot(
            resource(connections=(connection("v02", ConnectionState.CONNECTING, Role.UNKNOWN),))
        ),
        "drbd_there": "gone",
    },
    "may_be_promoted": {"drbd_here": snapshot(resource(role=Role.SECONDARY, connections=()))},
}


@pytest.mark.parametrize("guard", REFUSED)
def test_each_guard_refuses_its_hazard(guard):
    refusal = check(RESTART, situation(evidence(**REFUSED[guard])))
    assert refusal is not None
    assert refusal.guard == guard


def test_every_guard_of_a_restart_has_its_hazard_here():
    named = {guard.__name__ for guard in RESTART}
    assert named == set(REFUSED) | {"evidence_is_fresh", "authority_may_be_taken"}


AUTHORITY = Authority("voms01", ("v01", "v02"), 1, "v01", frozenset({"v01", "v02"}))
EXCLUDED = {"admitted": frozenset({"v02"})}
ALONE = {"granted": True, "newest": True}


@pytest.mark.parametrize("role", [Role.PRIMARY, Role.SECONDARY])
@pytest.mark.parametrize(
    ("authority", "may_be_taken", "is_held"),
    [
        (AUTHORITY, None, None),
        (replace(AUTHORITY, **ALONE, admitted=frozenset({"v01"})), None, None),
        (replace(AUTHORITY, holder="v02"), None, "v02 holds the authority over voms01, not v01"),
        (replace(AUTHORITY, holder="v02", **ALONE), "v02 was granted voms01 alone", "v02 holds"),
        (replace(AUTHORITY, **EXCLUDED), "the replica of voms01 on v01 is excluded", "is excluded"),
        (replace(AUTHORITY, holder="v02", **EXCLUDED), "is excluded", "v02 holds"),
        (Authority("voms01"), "nobody has yet been given the authority over voms01", "holds the authority"),
        (replace(AUTHORITY, resource="other"), "nobody has yet been given the authority", "holds"),
        (None, "changed while they were looked at", "holds"),
    ],
)
def test_where_drbd_asks_the_arbiter_only_its_holder_is_promoted_or_started(
    authority, may_be_taken, is_held, role
):
    """The plan may rest on an authority that its first intent takes; what is called may not."""
    written = None if authority is None else {authority.resource: authority}
    seen = evidence(drbd_here=snapshot(resource(role=role)))
    it = situation(seen, arbitrated=True, authorities=written)
    refusal = check(RESTART, it)
    assert (refusal is None) == (may_be_taken is None)
    if may_be_taken is not None:
        assert refusal.guard == "authority_may_be_taken"
        assert may_be_taken in refusal.sentence
    refusal = check((authority_is_held,), it)
    assert (refusal is None) == (is_held is None)
    assert is_held is None or is_held in refusal.sentence
    assert {PROMOTE[-1], START[-1]} == {authority_is_held}
    if authority is not None:
        assert check(PROMOTE, replace(it, arbitrated=False)) is None


@pytest.mark.parametrize(
    ("link", "role", "is_there"),
    [
        (ConnectionState.CONNECTED, Role.SECONDARY, False),
        (ConnectionState.CONNECTING, Role.UNKNOWN, True),
    ],
)
@pytest.mark.parametrize("reason", ["migrated", "crashed", "unknown"])
def test_who_was_moved_away_alive_may_run_where_nobody_answers(reason, link, role, is_there):
    """Even if all was granted here: a VM that hangs on a frozen disk runs, until its host has ended it."""
    alone = replace(AUTHORITY, **ALONE, admitted=frozenset({"v01"}), armed=frozenset({"v01", "v02"}))
    seen = evidence(
        here=view(DomainState.SHUTOFF, reason=reason),
        there="gone",
        drbd_here=snapshot(resource(connections=(connection("v02", link, role),))),
        drbd_there="gone",
    )
    refusal = check(RESTART, situation(seen, arbitrated=True, authorities={"voms01": alone}))
    assert (refusal is not None) == (reason == "migrated" and is_there)
    assert refusal is None or refusal.guard == "runs_nowhere_else"


@pytest.mark.parametrize("proof", [None, *Proof])
@pytest.mark.parametrize("role", [Role.PRIMARY, Role.SECONDARY])
@pytest.mark.parametrize("count", range(3))
def test_frozen_io_refuses_but_where_the_grant_of_a_promotion_lets_it_go(proof, role, count):
    for reasons in itertools.combinations(
        [*SuspendReason, UnknownWord("suspended", "moon", "voms01")], count
    ):
        here = resource(role=role, suspended=reasons)
        said = io_flows(situation(evidence(drbd_here=snapshot(here)), proof=proof))
        goes_on = proof is not None and role is Role.SECONDARY and reasons == (SuspendReason.FENCING,)
        assert (said is None) == (not reasons or goes_on)


@pytest.mark.parametrize(("now", "fresh"), [(0.0, True), (6.0, True), (6.1, False), (-0.1, False)])
def test_old_evidence_refuses(now, fresh):
    refusal = check(RESTART, situation(evidence(), now=now))
    assert (refusal is None) == fresh
    assert fresh or refusal.guard == "evidence_is_fresh"


@pytest.mark.parametrize(
    "disks",
    [
        (),
        (Disk("sda", "/srv/a.iso", writable=False),),
        (Disk("vda", "/dev/drbd0"), Disk("vdb", "/dev/sdb")),
        (Disk("vda", "/dev/drbd7"),),
        (Disk("vda", "drbd:other"),),
        (Disk("vda", "/dev/drbd/by-disk/vg0/voms01"),),
    ],
)
def test_a_disk_that_is_not_on_drbd_refuses(disks):
    refusal = check(RESTART, situation(evidence(here=view(disks=disks))))
    assert refusal is not None
    assert refusal.guard == "disks_are_on_drbd"


@pytest.mark.parametrize(
    "source",
    ["/dev/drbd0", "/dev/drbd0p1", "drbd:voms01", "/dev/drbd/by-res/voms01", "/dev/drbd/by-res/voms01/0"],
)
def test_a_disk_is_found_on_its_resource(source):
    disks = (Disk("vda", source), Disk("sda", "/srv/a.iso", writable=False))
    assert check(RESTART, situation(evidence(here=view(disks=disks)))) is None


def test_all_resources_of_a_vm_count():
    disks = (Disk("xvda", "/dev/drbd0"), Disk("xvdb", "/dev/drbd1"))
    good, bad = resource(), resource("data", devices=(device(1, disk_state=DiskState.OUTDATED),))
    seen = evidence(
        here=view(disks=disks), drbd_here=snapshot(good, bad), drbd_there=snapshot(theirs(), theirs("data"))
    )
    refusal = check(RESTART, situation(seen))
    assert refusal is not None
    assert refusal.sentence.startswith("data/0 on v01 is Outdated")


def test_both_resources_are_promoted_in_order():
    disks = (Disk("xvda", "/dev/drbd0"), Disk("xvdb", "/dev/drbd1"))
    here = snapshot(
        resource(role=Role.SECONDARY), resource("data", role=Role.SECONDARY, devices=(device(1),))
    )
    there = snapshot(theirs(), theirs("data"))
    seen = evidence(here=view(disks=disks), drbd_here=here, drbd_there=there)
    plan = decide(situation(seen), record(), LIMITS, now=NOW)
    assert isinstance(plan, Plan)
    assert plan.steps[:2] == (Promote("v01", "data"), Promote("v01", "voms01"))


def test_a_peer_that_is_no_host_of_the_domain_must_be_seen_by_drbd():
    stray = connection("v09", ConnectionState.CONNECTING, Role.UNKNOWN, DiskState.D_UNKNOWN)
    here = snapshot(resource(connections=(connection(), stray)))
    refusal = check(RESTART, situation(evidence(drbd_here=here)))
    assert refusal is not None
    assert refusal.guard == "peer_is_known"
    assert "v09 is not among" in refusal.sentence


def test_a_resource_without_connections_asks_the_other_hosts_themselves():
    lonely = snapshot(resource(connections=()))
    assert check(RESTART, situation(evidence(drbd_here=lonely))) is None
    refusal = check(RESTART, situation(evidence(drbd_here=lonely, drbd_there="gone")))
    assert refusal is not None
    assert refusal.guard == "peer_is_known"


def test_a_start_needs_primary_and_nothing_left():
    assert check(START, situation()) is None
    secondary = snapshot(resource(role=Role.SECONDARY))
    assert check(START, situation(evidence(drbd_here=secondary))).guard == "is_primary_here"
    assert check(START, situation(evidence(here=view(domain_id=4)))).guard == "nothing_is_left"


# ---- what runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [DomainState.RUNNING, DomainState.BLOCKED])
def test_a_domain_that_runs_needs_nothing_even_after_giving_up(state):
    gave_up = Escalation(EscalationKind.GAVE_UP, "v01", ATTEMPTS, "no more", 1.0)
    decision = decide(situation(evidence(here=view(state, 4))), record(escalation=gave_up), LIMITS, now=NOW)
    assert isinstance(decision, Nothing)


def test_a_domain_that_runs_without_its_disk_is_said():
    diskless = view(DomainState.RUNNING, 4, disks=(Disk("xvda", "/dev/drbd0", attached=False),))
    decision = decide(situation(evidence(here=diskless)), record(), LIMITS, now=NOW)
    assert isinstance(decision, Refusal)
    assert decision.guard == "has_its_disks"


def test_a_domain_that_runs_twice_is_said():
    seen = evidence(here=view(DomainState.RUNNING, 4), there=view(DomainState.RUNNING, 9))
    decision = decide(situation(seen), record(), LIMITS, now=NOW)
    assert isinstance(decision, Refusal)
    assert "also on v02" in decision.sentence


# ---- limits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ages", "expected"),
    [
        ((), Plan),
        ((700,), Plan),  # outside the window
        ((1,), Postpone),
        ((5,), Plan),
        ((100, 9), Postpone),
        ((100, 10), Plan),
        ((300, 200, 100), Refusal),
        ((900, 200, 100), Plan),
        ((-3600,), Plan),  # the wall clock went back: it counts, and is not waited for
        ((-3600, 1), Postpone),
        ((-3600, -3600, -3600), Refusal),
    ],
)
def test_attempts_are_limited(ages, expected):
    attempts = tuple(NOW - age for age in ages)
    decision = decide(situation(), record(attempts_at=attempts), LIMITS, now=NOW)
    assert isinstance(decision, expected), decision
    if isinstance(decision, Postpone):
        assert NOW < decision.until_at <= NOW + LIMITS.backoff_seconds * 2


@pytest.mark.parametrize(("age", "waits"), [(1, True), (600, False), (-3600, False)])
def test_a_move_that_failed_is_tried_later_but_not_when_the_clock_comes_to_it_again(age, waits):
    plan = replace(decide(situation(), record(), LIMITS, now=NOW), source="v02")
    last = PlanRecord("voms01-3", plan, PlanStatus.FAILED, NOW - age, (), NOW - age, "it did not come up")
    question = SimpleNamespace(record=record(plan=last), now=NOW, limits=LIMITS)
    assert isinstance(core._limited_move(question), Postpone) == waits


def test_the_refusal_of_another_attempt_says_how_the_last_one_failed():
    plan = decide(situation(), record(), LIMITS, now=NOW)
    last = PlanRecord("voms01-3", plan, PlanStatus.FAILED, NOW, (), NOW, "start voms01 on v01: no memory")
    decision = decide(situation(), record(attempts_at=(NOW,) * 3, plan=last), LIMITS, now=NOW)
    assert isinstance(decision, Refusal)
    assert decision.guard == ATTEMPTS
    assert "no memory" in decision.sentence


def test_given_up_stays_given_up_when_the_window_has_passed():
    gave_up = Escalation(EscalationKind.GAVE_UP, "v01", ATTEMPTS, "it was tried three times", 1.0)
    decision = decide(situation(), record(escalation=gave_up), LIMITS, now=NOW)
    assert decision == Refusal(ATTEMPTS, "it was tried three times")
