"""The whole line, from a notification in the journal to a VM that runs again, on two hosts in memory."""

import contextlib
from collections import deque
from dataclasses import replace

import pytest

from actuator.alarm import MAX_REFUSED
from actuator.model import Authority, DomainState, EscalationKind, Failed, Indeterminate, PlanStatus
from actuator.ports import JournalError
from exporter.drbd import DiskState, Role
from tests.actuator.world import EPOCH, Killed, Machine, World, alert, assert_ended_well, settings


@pytest.fixture
def start(folders, clock, machines):
    """Starts actuators on one journal; closes them all at the end."""
    path = folders() / "journal"

    def begin(world, *, mode="enforce", **more):
        for machine in machines:
            machine.close()
        given = {k: more.pop(k) for k in ("restart", "limits", "hosts", "domains") if k in more}
        config = settings(path, mode=mode, **given)
        machines.append(Machine(world, path, clock, config=config, **more))
        return machines[-1]

    return begin


def test_a_crashed_vm_is_restarted(start):
    world = World()
    machine = start(world)
    world.crash()
    machine.receive(alert())
    assert_ended_well(world, machine)
    assert world.starts == 1
    assert machine.kinds == [
        "received",
        "observed",
        "decided",
        "intent",
        "outcome",
        "intent",
        "outcome",
        "finished",
    ]
    assert machine.record.plan.status is PlanStatus.SUCCEEDED
    assert machine.record.attempts_at == (EPOCH,)


def test_what_is_preserved_of_it_is_destroyed_first(start):
    world = World()
    machine = start(world)
    world.crash(preserved=True)
    machine.receive(alert())
    assert_ended_well(world, machine)
    assert [call for call in world.calls if call in {"destroy", "start"}] == ["destroy", "start"]


def test_a_secondary_is_promoted_before_the_start(start):
    world = World(resources=("voms01", "data"))
    machine = start(world)
    world.crash()
    for name in world.resources:
        world.replicas["v01", name].role = Role.SECONDARY
    machine.receive(alert())
    assert_ended_well(world, machine)
    assert [call for call in world.calls if call in {"promote", "start"}] == ["promote", "promote", "start"]


HOST = {"address": "localhost", "libvirt_uri": "test:///default", "arbiter_token_file": "/nonexistent"}
ARBITRATED = {"v01": HOST, "v02": HOST}
AUTHORITY = Authority("voms01", ("v01", "v02"), 1, "v01", frozenset({"v01", "v02"}))


def test_where_drbd_asks_the_arbiter_a_promotion_is_written_there_before_it_is_called(start):
    world = World()
    machine = start(world, hosts=ARBITRATED)
    machine.journal.commit(authorities=[AUTHORITY])
    world.crash()
    world.replicas["v01", "voms01"].role = Role.SECONDARY
    versions = []
    world.on_call = lambda name: versions.append((name, machine.journal.authority("voms01").version))
    machine.receive(alert())
    assert_ended_well(world, machine)
    assert ("promote", 2) in versions
    assert machine.journal.authority("voms01") == replace(AUTHORITY, version=2)


def test_where_drbd_asks_the_arbiter_the_promotion_takes_the_authority(start):
    """Both hosts were rebooted, and the other one was the first to have it."""
    world = World()
    machine = start(world, hosts=ARBITRATED)
    machine.journal.commit(authorities=[replace(AUTHORITY, holder="v02")])
    world.crash()
    world.replicas["v01", "voms01"].role = Role.SECONDARY
    machine.receive(alert())
    assert_ended_well(world, machine)
    assert machine.journal.authority("voms01") == replace(AUTHORITY, version=2)


def test_where_drbd_asks_the_arbiter_a_granted_host_keeps_the_authority_and_gets_the_vm(start):
    world = World()
    machine = start(world, hosts=ARBITRATED)
    machine.journal.commit(authorities=[replace(AUTHORITY, holder="v02", granted=True)])
    world.crash()
    world.replicas["v01", "voms01"].role = Role.SECONDARY
    machine.receive(alert())
    assert world.violations == []
    assert world.running == ["v02"]
    assert machine.record.host == "v02"
    assert machine.journal.authority("voms01").holder == "v02"


def test_where_drbd_asks_the_arbiter_its_word_stops_a_plan_at_every_step(start):
    world = World()
    machine = start(world, hosts=ARBITRATED)
    world.crash(preserved=True)
    machine.receive(alert())
    assert machine.record.escalation.guard == "authority_may_be_taken"
    assert world.starts == 0
    machine.journal.commit(authorities=[AUTHORITY])
    moved = replace(AUTHORITY, version=2, holder="v02")

    def move(name):
        if "destroy" in world.calls and machine.journal.authority("voms01").version == 1:
            machine.journal.commit(authorities=[moved])

    world.on_call = move
    machine.run(2)
    assert world.calls.count("destroy") == 1
    assert world.starts == 0
    assert "v02 holds the authority over voms01" in machine.record.plan.sentence
    machine.run(5)
    assert world.violations == []


@pytest.mark.parametrize("times", [2, 5])
def test_a_repeated_notification_restarts_once(start, times):
    world = World()
    machine = start(world)
    world.crash()
    for _ in range(times):
        machine.receive(alert())
    assert world.starts == 1
    assert_ended_well(world, machine)


def test_doubled_while_the_plan_runs_it_restarts_once(start):
    world = World()
    machine = start(world)
    world.crash()
    world.on_call = lambda name: name == "start" and machine.journal.receive([alert()], at=EPOCH)
    machine.receive(alert())
    assert world.starts == 1
    assert machine.kinds[-1] == "nothing"


def test_an_alert_for_a_vm_that_runs_does_nothing(start):
    world = World()
    machine = start(world)
    machine.receive(alert())
    assert world.starts == 0
    assert machine.kinds == ["received", "observed", "nothing"]


def test_a_resolution_withdraws_what_has_not_begun(start):
    world = World()
    machine = start(world)
    world.crash()
    machine.journal.receive([alert()], at=EPOCH)
    machine.receive(alert(firing=False))
    assert world.starts == 0
    machine.receive(alert(EPOCH + 1))
    machine.receive(alert(firing=False))  # of the first one, late: takes nothing back
    assert world.starts == 1


@pytest.mark.parametrize(
    ("notification", "guard"),
    [
        (alert(action="explode"), "known_action"),
        (alert(domain="other"), "protected"),
        (alert(domain=""), "names_a_domain"),
        (alert(EPOCH - 5 * 3600), "not_too_old"),
    ],
)
def test_what_is_not_ours_is_refused_and_said(start, notification, guard):
    world = World()
    machine = start(world)
    world.crash()
    machine.receive(notification)
    assert world.starts == 0
    refused = machine.timeline[-1]
    assert (refused.kind, refused.detail["guard"]) == ("refused", guard)
    (warning,) = world.sent
    assert warning.labels["alertname"] == "VMHealRefused"
    assert "action" not in warning.labels
    assert warning.annotations["description"] == refused.sentence
    assert warning.annotations["runbook_url"] == "VMHealRefused.md"


def test_thousands_that_are_not_ours_are_one_message_to_people_and_not_a_thread_each(start):
    world = World()
    machine = start(world)
    number = 3 * MAX_REFUSED
    several = [alert(domain=f"other{it}", fingerprint=f"f{it}") for it in range(number)]
    machine.receive(*several)
    assert machine.kinds.count("refused") == number
    assert len(world.sent) == MAX_REFUSED
    assert world.calls.count("send") == 1


def test_an_alert_that_asks_for_nothing_is_let_pass(start):
    world = World()
    machine = start(world)
    machine.receive(alert(action=""))
    assert machine.kinds == ["received"]
    assert world.sent == []
    assert machine.journal.inbox(after=0, limit=10) == ()


def test_a_refusal_stands_as_a_warning_until_it_is_solved(start, clock):
    world = World()
    machine = start(world)
    world.guests["v01"].state = DomainState.PAUSED
    world.guests["v01"].reason = "ioerror"
    machine.receive(alert())
    assert world.starts == 0
    assert machine.record.escalation.kind is EscalationKind.REFUSED
    assert "paused" in world.sent[-1].annotations["description"]
    machine.run(300)
    assert [warning.ends_at > clock.wall() for warning in world.sent[-1:]] == [True]
    assert 4 <= len(world.sent) <= 8
    assert machine.kinds.count("refused") == 1
    world.guests["v01"].state = DomainState.RUNNING
    machine.run(10)
    assert machine.record.escalation is None
    assert machine.kinds[-1] == "solved"
    assert world.sent[-1].ends_at <= clock.wall()
    assert world.sent[-1].labels == world.sent[0].labels


def test_a_warning_outlives_the_actuator_and_an_alertmanager_that_is_down(start):
    world = World()
    machine = start(world)
    world.guests["v01"].state = DomainState.PAUSED
    world.alertmanager = None
    machine.receive(alert())
    assert world.sent == []
    world.alertmanager = []
    machine = start(world)
    machine.run(2)
    assert [warning.labels["guard"] for warning in world.sent] == ["is_down"]


def test_it_runs_on_the_other_host(start):
    world = World()
    machine = start(world)
    world.crash()
    world.guests["v02"].state, world.guests["v02"].id = DomainState.RUNNING, 3
    machine.receive(alert())
    assert world.starts == 0
    assert machine.record.escalation.guard == "runs_nowhere_else"


def test_it_is_started_by_hand_on_the_other_host_too_while_it_runs(start):
    """No alert fires: it runs where it should. Reconcile sees the second one, and its end."""
    world = World()
    machine = start(world)
    world.guests["v02"].state, world.guests["v02"].id = DomainState.RUNNING, 3
    machine.run(10)
    assert machine.record.escalation.guard == "runs_nowhere_else"
    assert "end one of them at once" in world.sent[-1].annotations["description"]
    assert machine.record.plan is None
    world.guests["v02"].state, world.guests["v02"].id = DomainState.SHUTOFF, None
    machine.run(10)
    assert machine.record.escalation is None
    assert world.running == ["v01"]


def test_the_peer_is_gone_and_nobody_knows_what_it_does(start):
    world = World(connected=False, silent={"v02"})
    machine = start(world)
    world.crash()
    machine.receive(alert())
    assert world.starts == 0
    assert machine.record.escalation.guard in {"peer_is_known", "runs_nowhere_else"}
    world.silent.clear()
    machine.run(10)
    assert_ended_well(world, machine)


def test_found_by_reconcile_without_any_alert(start):
    world = World()
    machine = start(world)
    world.crash()
    machine.run(2)
    assert world.starts == 0, "left to its alert at first"
    machine.run(10)
    assert_ended_well(world, machine)
    kinds = [kind for kind in machine.kinds if kind != "definition"]
    assert "suspected" in kinds[:2]


@pytest.mark.parametrize("source", ["alertmanager", "prometheus"])
def test_an_alert_fired_while_the_actuator_was_down_is_taken_up(start, source):
    world = World()
    world.crash()
    if source == "alertmanager":
        world.alertmanager = [alert()]
    else:
        world.alertmanager, world.prometheus = None, [alert()]
    machine = start(world)
    machine.reconciler.turn()
    machine.settle()
    assert_ended_well(world, machine)
    assert machine.timeline[0].sentence == f"VMFailure firing, from {source}"
    received = machine.kinds.count("received")
    machine.run(60)
    assert machine.kinds.count("received") == received, "taken up once"


def test_mode_observe_says_what_it_would_do(start):
    world = World()
    machine = start(world, mode="observe")
    world.crash(preserved=True)
    machine.receive(alert())
    machine.run(60)
    assert not {"start", "destroy", "promote", "demote"} & set(world.calls)
    said = [event.sentence for event in machine.timeline if event.kind == "would"]
    assert len(said) == 1
    assert "destroy what is left of voms01 on v01; start voms01 on v01" in said[0]
    assert machine.record.plan is None


def test_after_so_many_attempts_it_gives_up_and_stays_so(start, clock):
    world = World()
    only_there = {"voms01": {"host": "v01", "hosts": ["v01"]}}
    machine = start(world, domains=only_there)
    for attempt in range(3):
        world.crash()
        machine.receive(alert(clock.wall()))
        machine.run(40)
        assert world.starts == attempt + 1
    world.crash()
    machine.receive(alert(clock.wall()))
    assert world.starts == 3
    assert machine.record.escalation.kind is EscalationKind.GAVE_UP
    machine = start(world, domains=only_there)
    machine.run(2000)
    assert world.starts == 3, "neither a restart of the actuator nor the window's end begins it anew"
    assert world.sent[-1].labels["alertname"] == "VMHealGaveUp"
    world.guests["v01"].state, world.guests["v01"].id = DomainState.RUNNING, 99
    machine.run(10)
    assert machine.record.escalation is None
    world.crash()
    machine.receive(alert(clock.wall()))
    assert_ended_well(world, machine)


def test_the_second_attempt_waits(start, clock):
    world = World()
    machine = start(world)
    world.crash()
    machine.receive(alert())
    world.crash()
    machine.receive(alert(EPOCH + 1))
    assert world.starts == 1
    assert machine.kinds[-1] == "postponed"
    machine.run(4)
    assert world.starts == 1
    machine.run(3)
    assert world.starts == 2
    assert machine.kinds.count("postponed") == 1


def test_a_failed_start_takes_back_the_promotion_and_is_tried_again(start):
    world = World()
    world.answers["start"] = deque([(Failed("not enough memory", 1), False)])
    machine = start(world)
    world.crash()
    world.replicas["v01", "voms01"].role = Role.SECONDARY
    machine.receive(alert())
    assert world.replicas["v01", "voms01"].role is Role.SECONDARY
    assert machine.record.plan.status is PlanStatus.FAILED
    assert machine.record.escalation.kind is EscalationKind.FAILED
    assert "not enough memory" in world.sent[-1].annotations["description"]
    machine.run(30)
    assert_ended_well(world, machine)
    assert machine.record.escalation is None


def test_a_promotion_refused_takes_back_the_other(start):
    world = World(resources=("voms01", "data"))
    world.answers["promote"] = deque([(None, True), (Failed("need access to UpToDate data", -2), False)] * 9)
    machine = start(world)
    world.crash()
    for name in world.resources:
        world.replicas["v01", name].role = Role.SECONDARY
    machine.receive(alert())
    assert world.starts == 0
    assert [world.replicas["v01", name].role for name in world.resources] == [Role.SECONDARY] * 2


@pytest.mark.parametrize("has_effect", [True, False])
@pytest.mark.parametrize("call", ["start", "destroy", "promote"])
def test_a_call_without_an_answer_is_looked_after(start, call, has_effect):
    world = World()
    world.answers[call] = deque([(Indeterminate("connection lost"), has_effect)])
    machine = start(world)
    world.crash(preserved=True)
    world.replicas["v01", "voms01"].role = Role.SECONDARY
    machine.receive(alert())
    machine.run(60)
    assert_ended_well(world, machine)
    plans = machine.kinds.count("finished")
    assert plans == (1 if has_effect else 2), (
        "an effect that came is found by looking, without another attempt"
    )
    assert world.starts == (2 if call == "start" and not has_effect else 1)


def kill_at(world, name):
    """The actuator dies right after the effect of the next such call."""

    def kill(called):
        if called == name:
            world.on_call = lambda _: None
            world.kill_at, world.kill_after = len(world.calls) + 1, True

    world.on_call = kill


def test_a_start_that_a_crash_interrupted_counts_as_an_attempt(start):
    world = World()
    machine = start(world)
    world.crash()
    kill_at(world, "start")
    with pytest.raises(Killed):
        machine.receive(alert())
    machine = start(world)
    machine.settle()
    assert_ended_well(world, machine)
    assert world.starts == 1
    assert len(machine.record.attempts_at) == 1


def test_a_promotion_that_a_crash_interrupted_is_taken_back_too(start):
    world = World(resources=("voms01", "data"))
    world.answers["promote"] = deque([(None, True), (Failed("need access to UpToDate data", -2), False)])
    machine = start(world)
    world.crash()
    for name in world.resources:
        world.replicas["v01", name].role = Role.SECONDARY
    kill_at(world, "promote")
    with pytest.raises(Killed):
        machine.receive(alert())
    assert Role.PRIMARY in {world.replicas["v01", name].role for name in world.resources}
    machine = start(world)
    machine.settle()
    assert machine.record.plan.status is PlanStatus.FAILED
    assert {world.replicas["v01", name].role for name in world.resources} == {Role.SECONDARY}


def test_after_a_crash_what_others_did_later_is_not_taken_for_ours(start):
    world = World(resources=("voms01", "data"))
    world.answers["start"] = deque([(Failed("no memory", 1), False)])
    machine = start(world)
    world.crash()
    for name in world.resources:
        world.replicas["v01", name].role = Role.SECONDARY
    kill_at(world, "promote")
    with pytest.raises(Killed):
        machine.receive(alert())
    for name in world.resources:
        world.replicas["v01", name].role = Role.PRIMARY  # one by us, the other by somebody's hand
    machine = start(world)
    machine.settle()
    assert [world.replicas["v01", name].role for name in ("data", "voms01")] == [Role.SECONDARY, Role.PRIMARY]


def test_a_vm_that_crashes_at_once_fails_the_plan(start):
    world = World()
    machine = start(world)
    world.crash()
    world.on_call = lambda name: world.starts == 1 and name == "look" and world.crash()
    machine.receive(alert())
    assert machine.record.plan.status is PlanStatus.FAILED
    assert "again" in machine.record.plan.sentence


def test_the_first_step_rests_on_the_look_that_the_plan_was_made_from(start):
    world = World()
    machine = start(world)
    world.crash()
    machine.receive(alert())
    assert world.calls[: world.calls.index("start")] == ["look", "status", "look", "status"], (
        "one look at two hosts"
    )
    assert_ended_well(world, machine)


HAZARDS = {
    "the peer is promoted": (
        lambda world: (
            setattr(world, "connected", False),
            setattr(world.replicas["v02", "voms01"], "role", Role.PRIMARY),
        ),
        "Primary on v02",
    ),
    "the disk is lost": (
        lambda world: setattr(world.replicas["v01", "voms01"], "disk", DiskState.DISKLESS),
        "Diskless",
    ),
    "it is started elsewhere": (
        lambda world: vars(world.guests["v02"]).update(state=DomainState.RUNNING, id=8),
        "voms01 is running on v02",
    ),
    "it is paused": (
        lambda world: vars(world.guests["v01"]).update(state=DomainState.PAUSED, id=8),
        "is paused",
    ),
    "DRBD answers no more": (lambda world: world.silent.add("v01"), "does not answer"),
}


@pytest.mark.parametrize("hazard", HAZARDS)
def test_what_happens_between_two_steps_stops_the_plan(start, hazard):
    happen, said = HAZARDS[hazard]
    world = World()
    machine = start(world)
    world.crash(preserved=True)
    world.on_call = lambda name: "destroy" in world.calls and happen(world)
    machine.receive(alert())
    assert world.starts == 0
    assert said in machine.record.plan.sentence


@pytest.mark.parametrize("hazard", HAZARDS)
def test_what_happens_while_the_plan_is_written_slowly_stops_it(start, hazard, monkeypatch):
    happen, said = HAZARDS[hazard]
    world = World()
    machine = start(world)
    world.crash()
    commit = machine.journal.commit

    def commit_slowly(**change):
        commit(**change)
        if "observed" in machine.kinds:
            machine.clock.now += 0.6
            happen(world)

    monkeypatch.setattr(machine.journal, "commit", commit_slowly)
    machine.receive(alert())
    assert world.starts == 0
    assert said in machine.record.plan.sentence


def test_started_by_hand_meanwhile_counts_as_done(start):
    world = World()
    machine = start(world)
    world.crash(preserved=True)

    def meddle(name):
        if "destroy" in world.calls and not world.running:
            world.guests["v01"].state, world.guests["v01"].id = DomainState.RUNNING, 77

    world.on_call = meddle
    machine.receive(alert())
    assert world.starts == 0
    assert machine.record.plan.status is PlanStatus.SUCCEEDED


def test_told_to_stop_it_leaves_the_plan_and_the_next_one_goes_on(start):
    world = World()
    machine = start(world)
    world.crash(preserved=True)

    def stop(name):
        if name == "destroy":
            machine.stopping = True

    world.on_call = stop
    machine.receive(alert())
    assert world.starts == 0
    assert machine.record.open_plan is not None
    machine = start(world)
    machine.settle()
    assert_ended_well(world, machine)


@pytest.mark.parametrize("failing", range(1, 9))
def test_the_journal_fails_for_a_while(start, failing):
    world = World()
    world.crash()
    machine = start(world, fails={failing, failing + 1})
    # The delivery itself: answered 503 then, and reconcile finds the domain.
    with contextlib.suppress(JournalError):
        machine.receive(alert())
    machine.run(30)
    assert_ended_well(world, machine)
    assert world.starts == 1


def test_a_fault_of_our_own_neither_loops_nor_loses_the_domain(start):
    world = World()
    machine = start(world)
    world.crash()
    broken = iter([True])

    def bug(name):
        if name == "look" and next(broken, False):
            raise ZeroDivisionError

    world.on_call = bug
    machine.receive(alert())
    assert world.starts == 0
    machine.clock.now += 11
    machine.settle()
    assert_ended_well(world, machine)


def test_an_open_plan_is_left_alone_in_mode_observe(start):
    world = World()
    machine = start(world)
    world.crash(preserved=True)
    world.on_call = lambda name: name == "destroy" and setattr(machine, "stopping", True)
    machine.receive(alert())
    machine = start(world, mode="observe")
    world.on_call = lambda name: None
    machine.run(30)
    assert world.starts == 0
    assert machine.record.open_plan is not None
