"""An operator's orders, from the order to what is done, on two hosts in memory over the real journal."""

import json
from dataclasses import replace

import pytest
from pydantic import TypeAdapter
from pydantic_core import to_json

from actuator.explain import BusyError, Explainer
from actuator.model import (
    Authority,
    Escalation,
    EscalationKind,
    Event,
    Matcher,
    Parting,
    PlanStatus,
    Proof,
    Silence,
)
from actuator.openapi import DomainExplained, HostExplained
from actuator.orders import MAX_ATTEMPTS, MalformedOrderError, Orders, Refused, Taken, parse
from actuator.ports import Conflict, JournalError
from actuator.report import Report, WatchedJournal
from exporter.drbd import Role
from exporter.drbd_configuration import Generations
from tests.actuator import test_moves as moves
from tests.actuator.test_moves import BEHIND, UNFENCED, assert_moved, changes, lose
from tests.actuator.world import IN_ORDER, World, alert, host_alert

start = moves.start
"""The fixture."""


def orders_of(machine) -> Orders:
    return Orders(
        machine.journal,
        machine.clock,
        machine.config,
        machine.protected,
        machine.contacts,
        machine.alarm,
        machine.worker,
    )


def order(machine, word, **fields):
    """Give an order as it comes over the wire, and let the worker work."""
    body = {"order": word, "by": "ann", "reason": "new memory", **fields}
    answer = orders_of(machine).take(parse(json.dumps(body).encode()))
    machine.settle()
    return answer


def taken(machine, word, **fields) -> str:
    answer = order(machine, word, **fields)
    assert isinstance(answer, Taken), answer
    return answer.sentence


def refused(machine, word, **fields) -> str:
    """The sentence; nothing was changed."""
    before = (machine.timeline, machine.journal.records(), machine.journal.hosts())
    before += (machine.journal.authorities(), machine.journal.inbox(after=0, limit=10))
    answer = order(machine, word, **fields)
    assert isinstance(answer, Refused), answer
    after = (machine.timeline, machine.journal.records(), machine.journal.hosts())
    assert (*after, machine.journal.authorities(), machine.journal.inbox(after=0, limit=10)) == before
    return answer.sentence


def ordered(machine) -> list[Event]:
    return [event for event in machine.timeline if event.kind == "ordered"]


# ---- pause and resume --------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["voms01", "v01", "all"])
def test_what_is_paused_is_left_alone_until_it_is_resumed(start, what):
    world = World()
    machine = start(world)
    assert taken(machine, "pause", what=what).startswith(f"{what} is paused until it is resumed: nothing is")
    world.crash()
    machine.receive(alert(machine.clock.wall()))
    machine.run(30)
    assert changes(world) == []
    assert machine.record.escalation is None
    postponed = [event.sentence for event in machine.timeline if event.kind == "postponed"]
    assert postponed == [f"{what} is paused by ann: new memory; 'vmheal-actuator resume {what}' ends it"]
    assert taken(machine, "resume", what=what) == f"{what} is not paused any more"
    machine.run(10)
    assert world.running == ["v01"]
    first, second = ordered(machine)
    assert first.sentence == f"ann: pause {what} until it is resumed: new memory"
    assert first.detail == {
        "order": "pause", "what": what, "by": "ann", "reason": "new memory", "seconds": None,
    }  # fmt: skip
    assert (second.sentence, second.host) == (
        f"ann: resume {what}: new memory", "" if what == "all" else "v01",
    )  # fmt: skip


def test_a_pause_of_another_host_or_vm_is_none_of_this_one(start):
    world = World()
    machine = start(world)
    taken(machine, "pause", what="v02")
    world.crash()
    machine.receive(alert(machine.clock.wall()))
    assert world.running == ["v01"]


def test_a_pause_ends_by_itself_when_a_time_was_given(start, clock):
    world = World()
    machine = start(world)
    assert "is paused until 2023-11-14 22:14:20+00:00" in taken(machine, "pause", what="all", seconds=60)
    world.crash()
    machine.run(59)
    assert world.running == []
    machine.run(10)
    assert world.running == ["v01"]


def test_resume_says_what_still_pauses_it(start):
    machine = start(World())
    for what in ("voms01", "all"):
        taken(machine, "pause", what=what)
    sentence = taken(machine, "resume", what="voms01")
    assert sentence.startswith("voms01 is not paused any more; but all is paused by ann")
    again = taken(machine, "resume", what="voms01")
    assert again.startswith("voms01 was not paused: nothing is changed; but all is paused by ann")
    assert len(ordered(machine)) == 3


@pytest.mark.parametrize("call", ["start", "look"])
def test_a_pause_in_the_midst_of_a_plan_lets_it_come_to_its_end(start, clock, call):
    world = World()
    machine = start(world)
    world.crash(preserved=True)
    said = []

    def pause(name):
        if name == call and machine.record.open_plan is not None and not said:
            said.append(None)
            body = b'{"order": "pause", "what": "voms01", "by": "ann"}'
            said.append(orders_of(machine).take(parse(body)).sentence)

    world.on_call = pause
    machine.receive(alert(clock.wall()))
    machine.run(10)
    assert "is under way, and is carried to its end" in said[1]
    assert world.violations == []
    assert (world.running, world.starts) == (["v01"], 1)
    assert machine.record.plan.status is PlanStatus.SUCCEEDED
    assert machine.record.paused.by == "ann"


# ---- silences ----------------------------------------------------------------------------------------------


def test_a_silence_is_a_pause_while_it_is_active(start, clock):
    world = World()
    matchers = (Matcher("domain", "voms.*", is_regex=True), Matcher("alertname", "VMFailure"))
    world.silenced = [Silence("bob", "moving racks", matchers, clock.wall() + 1000)]
    machine = start(world)
    machine.run(1)
    world.crash()
    machine.run(20)
    assert changes(world) == []
    assert "voms01 is silenced in Alertmanager by bob: moving racks" in [
        it.sentence for it in machine.timeline
    ]
    world.alertmanager = None
    machine.run(20)
    assert changes(world) == [], "Alertmanager does not tell: what it told last stands"
    world.alertmanager, world.silenced = [], []
    machine.run(15)
    assert world.running == ["v01"]


def test_a_silence_that_nobody_takes_back_ends_at_its_time(start, clock):
    world = World()
    machine = start(world)
    world.silenced = [Silence("bob", "", (Matcher("host", "v01"),), clock.wall() + 30)]
    machine.run(1)
    world.alertmanager = None
    world.crash()
    machine.run(28)
    assert world.running == []
    machine.run(10)
    assert world.running == ["v01"]


def test_a_silence_of_others_and_one_that_is_not_understood_pause_nothing(start, clock):
    world = World()
    others = Silence("bob", "", (Matcher("domain", "ce01"),), clock.wall() + 1000)
    odd = Silence("bob", "", (Matcher("domain", "(v+)+", is_regex=True),), clock.wall() + 1000)
    world.silenced = [others, odd]
    machine = start(world)
    machine.run(1)
    world.crash()
    machine.run(10)
    assert world.running == ["v01"]


# ---- hosts -------------------------------------------------------------------------------------------------


def test_a_drained_host_is_left_and_not_gone_back_to_until_it_is_undrained(start):
    world = World(xen=False)
    machine = start(world)
    machine.journal = WatchedJournal(machine.journal, Report(machine.config))
    sentence = taken(machine, "drain", host="v01")
    assert sentence == "v01 is drained: no VM is sent there, one VM is to leave it: voms01"
    assert_moved(world, machine)
    assert machine.protected.host("v01").drained.by == "ann"
    assert machine.journal.hosts()[0].drained.reason == "new memory"
    assert taken(machine, "migrate", domain="voms01", to="v01").startswith(
        "voms01 is to move from v02 to v01"
    )
    assert world.running == ["v02"]
    assert machine.record.escalation.guard == "not_drained"
    assert "may be used again" in taken(machine, "undrain", host="v01")
    taken(machine, "migrate", domain="voms01", to="v01")
    assert_moved(world, machine, to="v01")
    assert "was not drained" in taken(machine, "undrain", host="v01")
    said = "ann: drain v01: new memory"
    assert said in [event.sentence for event in ordered(machine)]


def test_a_host_that_is_heard_of_is_not_taken_for_down(start, clock):
    world = World()
    machine = start(world)
    machine.run(20, keeps=True)
    world.power_cut("v01")
    for _ in range(14):
        assert "was heard of" in refused(machine, "confirm-down", host="v01")
        clock.now += 1
    clock.now += 2
    assert isinstance(order(machine, "confirm-down", host="v01"), Taken)


def test_a_persons_word_that_a_host_is_down_brings_its_vms_up_elsewhere(start, clock):
    world = World()
    machine = start(world, arbitrated=False)
    machine.run(10, keeps=True)
    world.power_cut("v01")
    machine.run(20, keeps=True)
    assert world.running == []
    world.journal = machine.journal  # DRBD without fencing promotes; the World's journal stands for that
    sentence = taken(machine, "confirm-down", host="v01")
    assert sentence.startswith(
        "v01 is taken for down until it answers, on the word of ann; one VM is to come"
    )
    assert_moved(world, machine)
    assert machine.record.plan.plan.proof is Proof.OPERATOR
    world.silent.clear()
    world.connected = True
    machine.run(10)
    known = machine.protected.host("v01")
    assert (known.down, known.failed_at) == (None, None), "it answers"


def test_confirmed_down_but_alive_all_the_same_nothing_is_done(start, clock):
    world = World()
    machine = start(world, arbitrated=False)
    clock.now += 100  # nobody asked in between
    machine.contacts.heard("v02", clock.now)
    taken(machine, "confirm-down", host="v01")
    assert changes(world) == []
    assert machine.record.escalation.guard == "peer_is_not_primary"
    machine.run(10)
    assert machine.protected.host("v01").down is None
    assert world.running == ["v01"]


# ---- domains -----------------------------------------------------------------------------------------------


def proposal_of(machine) -> str:
    assert machine.record.escalation.guard == "is_approved"
    return machine.record.escalation.sentence.rpartition("voms01 ")[2].partition("'")[0]


def test_a_plan_that_is_approved_is_carried_out_and_no_other(start, clock):
    world = World()
    machine = start(world, mode="approve")
    assert refused(machine, "approve", domain="voms01", proposal="0" * 10) == (
        "no plan of voms01 waits to be approved"
    )
    world.crash()
    machine.receive(alert(clock.wall()))
    assert changes(world) == []
    assert refused(machine, "approve", domain="voms01", proposal="0" * 10).startswith(
        "another plan waits than 0000000000: voms01 is shutoff"
    )
    sentence = taken(machine, "approve", domain="voms01", proposal=proposal_of(machine))
    assert "is carried out if it still is what is to be done" in sentence
    assert world.running == ["v01"]
    assert machine.record.approved == "", "it was for one plan"
    world.crash()
    machine.receive(alert(clock.wall(), fingerprint="f2"))
    assert world.running == []


def test_what_was_approved_is_not_done_when_something_else_is_to_be_done(start, clock):
    world = World()
    machine = start(world, mode="approve")
    world.crash()
    machine.receive(alert(clock.wall()))
    stale = proposal_of(machine)
    world.guests["v01"].id = 77  # preserved: a destroy is needed first
    taken(machine, "approve", domain="voms01", proposal=stale)
    assert changes(world) == []
    assert proposal_of(machine) != stale


def test_only_in_mode_approve(start):
    machine = start(World())
    assert refused(machine, "approve", domain="voms01", proposal="0" * 10) == (
        "the mode of voms01 is enforce: no plan of it waits to be approved"
    )


@pytest.mark.parametrize("to", ["v02", None])
@pytest.mark.parametrize("mode", ["enforce", "approve"])
def test_a_vm_is_moved_on_order(start, mode, to):
    """An order needs no second word in mode approve."""
    world = World(xen=False)
    machine = start(world, mode=mode)
    fields = {} if to is None else {"to": to}
    sentence = taken(machine, "migrate", domain="voms01", **fields)
    assert sentence.startswith(f"voms01 is to move from v01 to {to or 'another host'}")
    assert ("in mode approve" in sentence) is (mode == "approve")
    assert_moved(world, machine)
    received = next(event for event in machine.timeline if event.kind == "received")
    labels = received.detail["labels"]
    assert (labels["by"], labels["reason"], labels.get("to")) == ("ann", "new memory", to)


def test_a_move_of_what_is_paused_waits_and_says_so(start):
    world = World(xen=False)
    machine = start(world)
    taken(machine, "pause", what="v01")
    assert "not before that ends: v01 is paused by ann" in taken(machine, "migrate", domain="voms01")
    machine.run(20)
    assert world.running == ["v01"]
    taken(machine, "resume", what="v01")
    machine.run(10)
    assert_moved(world, machine)


def test_in_mode_observe_a_move_is_only_said(start):
    world = World(xen=False)
    machine = start(world, mode="observe")
    assert "in mode observe" in taken(machine, "migrate", domain="voms01")
    assert changes(world) == []
    assert "would" in machine.kinds


def test_a_move_that_cannot_be_meant(start):
    machine = start(World())
    assert "should run on v01 already" in refused(machine, "migrate", domain="voms01", to="v01")
    assert refused(machine, "migrate", domain="voms01", to="v03") == (
        "voms01 has no disks on v03: it may run on v01, v02"
    )
    alone = start(World(), domains={"voms01": {"host": "v01", "hosts": ["v01"]}})
    assert "may run on v01 only" in refused(alone, "migrate", domain="voms01")


def test_what_was_given_up_is_tried_again(start, clock):
    world = World()
    machine = start(world, restart={"max_attempts": 1}, domains={"voms01": {"host": "v01", "hosts": ["v01"]}})
    world.crash()
    machine.receive(alert(clock.wall()))
    world.crash()
    machine.receive(alert(clock.wall(), fingerprint="f2"))
    assert machine.record.escalation.kind is EscalationKind.GAVE_UP
    world.sent.clear()
    sentence = taken(machine, "retry", domain="voms01")
    assert sentence == "voms01 is tried again, on v01: what failed before does not count"
    assert world.running == ["v01"]
    assert machine.record.escalation is None
    gone = [it for it in world.sent if it.labels["alertname"] == "VMHealGaveUp"]
    assert [it.ends_at <= clock.wall() for it in gone] == [True], "the warning is taken back"


def test_retry_forgets_which_hosts_failed_it(start, clock):
    machine = start(World())
    record = replace(machine.record, version=1, suspects={"v02": clock.wall() + 3600})
    machine.journal.commit(record=record)
    assert "on v01, and on v02:" in taken(machine, "retry", domain="voms01")
    assert machine.record.suspects == {}
    assert taken(machine, "retry", domain="voms01") == "voms01 was not given up: nothing is changed"


def test_what_is_under_way_is_neither_approved_nor_tried_again(start, clock):
    world = World()
    machine = start(world)
    world.crash()
    answers = []

    def give(name):
        if name == "start":
            orders = orders_of(machine)
            answers.append(orders.take(parse(b'{"order": "retry", "domain": "voms01", "by": "ann"}')))
            body = b'{"order": "readmit", "resource": "voms01", "host": "v02", "by": "ann",'
            excluded = replace(machine.journal.authority("voms01"), admitted=frozenset({"v01"}))
            machine.journal.commit(authorities=[replace(excluded, version=excluded.version + 1)])
            answers.append(orders.take(parse(body + b'"i_accept_lost_writes": true}')))
            answers.append(orders.take(parse(b'{"order": "forget", "resource": "voms01", "by": "ann"}')))

    world.replicas["v01", "voms01"].role = Role.SECONDARY
    world.on_call = give
    machine.receive(alert(clock.wall()))
    assert all(isinstance(answer, Refused) for answer in answers)
    assert ["is under way" in answer.sentence for answer in answers] == [True] * 3


# ---- resources ---------------------------------------------------------------------------------------------


READMIT = {"resource": "voms01", "host": "v02", "i_accept_lost_writes": True}


@pytest.fixture
def excluded(start):
    """v01 went on alone and is gone; v02 is excluded."""

    def begin(**more):
        world = World()
        machine = start(world, **more)
        machine.run(3, keeps=True)
        world.connected = False
        alone = replace(
            machine.journal.authority("voms01"), granted=True, newest=True, admitted=frozenset({"v01"})
        )
        said = "fence-peer of voms01 on v01: grant, v02 is excluded: v01 goes on with voms01 alone"
        detail = {"resource": "voms01", "verdict": "grant"}
        at = machine.clock.wall()
        machine.journal.commit(
            authorities=[replace(alone, version=alone.version + 1)],
            events=[
                Event(at - 9, "authority", "voms01: v01 holds it, admitted: v01, v02", detail=detail),
                Event(at, "arbitrated", said, host="v01", detail=detail),
                Event(at + 7, "arbitrated", said, host="v01", detail=detail),
                Event(at + 8, "arbitrated", said.replace("v02", "v03"), host="v01", detail=detail),
                Event(at + 9, "arbitrated", said, host="v01", detail={"resource": "other"}),
            ],
        )
        world.power_cut("v01")
        return world, machine

    return begin


def test_a_stale_replica_is_used_on_a_named_persons_word(excluded, clock):
    world, machine = excluded()
    machine.run(20, keeps=True)
    machine.receive(host_alert(clock.wall()))
    machine.run(5, keeps=True)
    assert world.running == []
    assert machine.record.escalation.guard == "authority_may_be_taken"
    sentence = taken(machine, "readmit", **READMIT)
    assert sentence.startswith(
        "v02 is admitted on a person's word, v01 is excluded; the replica of voms01 on v02"
    )
    assert "(since 2023-11-14 22:13:23+00:00)" in sentence
    after = machine.journal.authority("voms01")
    assert (after.holder, after.admitted) == ("v02", {"v02"})
    (event,) = ordered(machine)
    assert event.detail["i_accept_lost_writes"] is True
    assert event.detail["resource"] == "voms01"
    machine.run(30, keeps=True)
    assert world.running == []
    assert machine.record.escalation.guard == "source_freezes", "v01 was granted alone, and may write on"
    taken(machine, "confirm-down", host="v01")
    machine.run(30, keeps=True)
    assert_moved(world, machine)


def test_a_replica_that_was_admitted_since_is_excluded_since_later(excluded, clock):
    _, machine = excluded()
    detail = {"resource": "voms01"}
    for at, said in ((50, "v01 holds it, admitted: v01, v02; before: v01 holds it alone, admitted: v01"),
                     (60, "v01 holds it, admitted: v01; before: v01 holds it, admitted: v01, v02")):  # fmt: skip
        event = Event(clock.wall() + at, "authority", f"voms01: {said}", detail=detail)
        machine.journal.commit(events=[event])
    assert "(since 2023-11-14 22:14:23+00:00)" in taken(machine, "readmit", **READMIT)


@pytest.mark.parametrize("lacks", [{"last_words": BEHIND}, {"parting": Parting.LOSES}])
def test_what_fell_behind_unseen_before_its_peer_failed_is_readmitted(start, clock, lacks):
    world = World(**lacks)
    machine = start(world, **UNFENCED)
    world.journal = machine.journal  # nobody else writes
    lose(machine, world, clock)
    assert changes(world) == []
    taken(machine, "readmit", **READMIT)
    machine.run(20, keeps=True)
    assert_moved(world, machine)


@pytest.mark.parametrize("guard", ["replica_continues", "is_in_sync"])
def test_a_disk_that_was_made_anew_or_differs_is_promoted_on_a_named_persons_word(start, clock, guard):
    world = World()
    machine = start(world)
    machine.run(3, keeps=True)
    if guard == "is_in_sync":
        world.out_of_sync_bytes = 4096
    else:
        world.replicas["v02", "voms01"].generations = (Generations("F" * 16),)
    world.power_cut("v01")
    machine.receive(host_alert(clock.wall()))
    assert machine.record.escalation.guard == guard
    assert sentence_says_that_it_must_be_off(taken(machine, "readmit", **READMIT))
    machine.run(20, keeps=True)
    assert world.running == []
    taken(machine, "confirm-down", host="v01")
    machine.run(30, keeps=True)
    assert_moved(world, machine)


def sentence_says_that_it_must_be_off(sentence):
    return sentence.endswith("and when v01 is off, on an agent's word or yours (confirm-down v01)")


def test_what_needs_no_word_or_is_nothing_is_not_readmitted(start):
    machine = start(World())
    assert "is admitted already" in refused(machine, "readmit", **READMIT)
    assert refused(machine, "readmit", **READMIT | {"host": "v03"}) == "voms01 is on v01, v02, not on v03"
    assert refused(machine, "readmit", **READMIT | {"resource": "voms1"}) == (
        "nothing is known of a resource voms1: nothing is changed; did you mean voms01?"
    )
    machine.journal.commit(authorities=[Authority("new", version=1)])
    assert "nothing is known" in refused(machine, "readmit", **READMIT | {"resource": "new"})


def test_a_resource_whose_replicas_moved_is_forgotten_and_learned_anew(start, clock):
    world = World()
    machine = start(world)
    machine.run(3, keeps=True)
    before = machine.journal.authority("voms01")
    moved = replace(before, hosts=("v03", "v04"), holder="v03", admitted=frozenset({"v03", "v04"}))
    machine.journal.commit(authorities=[replace(moved, version=before.version + 1)])
    machine.run(3, keeps=True)
    assert machine.journal.authority("voms01").hosts == ("v03", "v04"), "never by itself"
    sentence = taken(machine, "forget", resource="voms01")
    assert sentence.startswith(
        "voms01 is forgotten, which was on v03 and v04 (v03 held it). Nobody is granted"
    )
    assert machine.journal.authority("voms01") == Authority("voms01", version=before.version + 2)
    assert [event.detail["resource"] for event in ordered(machine)] == ["voms01"]
    machine.run(3, keeps=True)
    after = machine.journal.authority("voms01")
    assert (after.hosts, after.holder, after.admitted) == (("v01", "v02"), "v01", {"v01", "v02"})


def test_while_it_is_forgotten_nothing_is_failed_over(start, clock):
    world = World()
    machine = start(world)
    machine.run(3, keeps=True)
    taken(machine, "forget", resource="voms01")
    world.power_cut("v01")
    machine.receive(host_alert(clock.wall()))
    machine.run(30, keeps=True)
    assert world.running == []
    assert machine.record.escalation.guard == "authority_may_be_taken"


def test_what_is_not_known_is_not_forgotten(start):
    machine = start(World())
    assert refused(machine, "forget", resource="voms1") == (
        "nothing is known of a resource voms1: nothing is changed; did you mean voms01?"
    )


def test_since_when_is_not_made_up(start):
    machine = start(World())
    alone = replace(IN_ORDER, version=2, granted=True, admitted=frozenset({"v01"}))
    machine.journal.commit(authorities=[alone])
    assert "(it is not known since when)" in taken(machine, "readmit", **READMIT)


# ---- what is not there, and what changes meanwhile ---------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "fields", "said"),
    [
        (
            "pause",
            {"what": "voms1"},
            "voms1 is neither a protected VM nor a host: nothing is changed; did you",
        ),
        ("pause", {"what": "x"}, "x is neither a protected VM nor a host: nothing is changed"),
        ("resume", {"what": "v03"}, "v03 is neither a protected VM nor a host"),
        ("drain", {"host": "voms01"}, "voms01 is not a host"),
        ("undrain", {"host": "v03"}, "v03 is not a host"),
        ("confirm-down", {"host": "v03"}, "v03 is not a host"),
        ("approve", {"domain": "v01", "proposal": "0" * 10}, "v01 is not a protected VM"),
        ("migrate", {"domain": "ce01"}, "ce01 is not a protected VM"),
        (
            "retry",
            {"domain": "voms02"},
            "voms02 is not a protected VM: nothing is changed; did you mean voms01?",
        ),
    ],
)
def test_what_is_not_there_is_said_and_nothing_is_changed(start, word, fields, said):
    assert refused(start(World()), word, **fields).startswith(said)


def test_a_name_of_both_a_vm_and_a_host_is_not_guessed(start):
    machine = start(World(), domains={"v01": {"host": "v01", "hosts": ["v01", "v02"]}})
    assert "both a VM and a host v01" in refused(machine, "pause", what="v01")


class Contested:
    """The journal; others change the domain's record before each of the first writes."""

    def __init__(self, journal, times) -> None:
        self.journal = journal
        self.times = times
        self.writes = 0

    def __getattr__(self, name):
        return getattr(self.journal, name)

    def commit(self, **change):
        self.writes += 1
        if self.writes <= self.times:
            stored = self.journal.record("voms01")
            warning = Escalation(EscalationKind.REFUSED, "v01", "g", f"by another {self.writes}", 1.0)
            self.journal.commit(record=replace(stored, version=stored.version + 1, escalation=warning))
        self.journal.commit(**change)


@pytest.mark.parametrize("times", [0, 3, MAX_ATTEMPTS - 1])
def test_what_others_write_meanwhile_is_kept(start, times):
    machine = start(World())
    machine.journal.commit(record=replace(machine.record, version=1))
    machine.journal = Contested(machine.journal, times)
    assert isinstance(order(machine, "pause", what="voms01"), Taken)
    stored = machine.journal.record("voms01")
    assert stored.paused.by == "ann"
    assert stored.escalation is None or stored.escalation.sentence == f"by another {times}"
    assert (stored.escalation is None) is (times == 0)
    assert len(ordered(machine)) == 1


def test_it_does_not_try_without_end(start):
    machine = start(World())
    machine.journal.commit(record=replace(machine.record, version=1))
    machine.journal = Contested(machine.journal, 1000)
    with pytest.raises(Conflict):
        order(machine, "pause", what="voms01")
    assert machine.journal.writes == MAX_ATTEMPTS
    assert ordered(machine) == []


def test_a_journal_that_cannot_write_is_no_taken_order(start):
    machine = start(World())
    machine.journal.fails = {machine.journal.writes + 1}
    with pytest.raises(JournalError, match="disk full"):
        order(machine, "pause", what="all")
    assert machine.journal.hosts() == ()


GOOD = {"order": "pause", "what": "voms01", "by": "ann"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "Invalid JSON"),
        (b"[]", ""),
        (GOOD | {"order": "stop"}, "'pause', 'resume'"),
        ({"what": "voms01", "by": "ann"}, "order"),
        ({"order": "pause", "what": "voms01"}, "pause.by: "),
        (GOOD | {"by": ""}, "pause.by: "),
        (GOOD | {"by": "a" * 65}, "pause.by: "),
        (GOOD | {"by": "ann\nbob"}, "pause.by: "),
        (GOOD | {"reason": "x" * 501}, "pause.reason: "),
        (GOOD | {"reason": "a\x1b[2J"}, "pause.reason: "),
        (GOOD | {"what": ""}, "pause.what: "),
        (GOOD | {"what": "a b"}, "pause.what: "),
        (GOOD | {"what": "a\n"}, "pause.what: "),
        (GOOD | {"seconds": 0}, "pause.seconds: "),
        (GOOD | {"seconds": 1e12}, "pause.seconds: "),
        (GOOD | {"seconds": "60"}, "pause.seconds: "),
        (GOOD | {"until": 1}, "pause.until: "),
        ({"order": "approve", "by": "ann", "domain": "voms01", "proposal": "yes"}, "approve.proposal: "),
        ({"order": "readmit", "by": "a", "resource": "r", "host": "h"}, "readmit.i_accept_lost_writes: "),
        (
            {"order": "readmit", "by": "a", "resource": "r", "host": "h", "i_accept_lost_writes": False},
            "readmit.i_accept_lost_writes: ",
        ),
    ],
)
def test_what_is_no_order(body, said):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(MalformedOrderError) as error:
        parse(raw)
    assert said in str(error.value)
    assert len(str(error.value)) < 400


# ---- explain -----------------------------------------------------------------------------------------------


def explainer_of(machine) -> Explainer:
    return Explainer(machine.ports, machine.config, machine.protected, machine.contacts, machine.worker)


def as_described(answer) -> None:
    """It is what the API's description says."""
    TypeAdapter(DomainExplained | HostExplained).validate_json(to_json(answer))


def explained(machine, name="voms01"):
    before = (machine.timeline, machine.journal.records(), machine.journal.hosts())
    answer = explainer_of(machine).explain(name)
    assert (machine.timeline, machine.journal.records(), machine.journal.hosts()) == before
    assert changes(machine.world) == []
    as_described(answer)
    return answer


def test_a_vm_that_runs_is_explained_and_where_it_could_go(start):
    answer = explained(start(World(xen=False)))
    assert answer["decision"] == {"kind": "nothing", "sentence": "voms01 is running on v01"}
    assert answer["seen"].startswith("v01: running (unknown, id 5), voms01 Primary UpToDate (v02 Connected")
    assert (answer["paused"], answer["plan_under_way"]) == (None, None)
    there = answer["elsewhere"]["v02"]
    assert (there["kind"], there["host"]) == ("plan", "v02")
    assert "move voms01 live from v01 to v02" in there["steps"]


def test_where_it_is_defined_otherwise_is_explained(start):
    world = World(xen=False, drifted={"v02"})
    machine = start(world)
    machine.run(2)
    machine.keeper.turn()
    answer = explained(machine)
    assert answer["drifted"] == ["v02"]
    steps = answer["elsewhere"]["v02"]["steps"]
    assert steps[0] == "define voms01 on v02 as it was where it last ran"


def test_a_vm_that_is_down_is_explained_step_by_step_and_nothing_is_done(start):
    world = World()
    machine = start(world)
    taken(machine, "pause", what="all")
    world.crash()
    answer = explained(machine)
    assert answer["paused"].startswith("all is paused by ann")
    assert answer["decision"]["steps"] == [
        "start voms01 on v01", "read voms01 back running on v01",
    ]  # fmt: skip
    assert answer["decision"]["verb"] == "restart"
    assert answer["elsewhere"]["v02"]["kind"] == "plan"


def test_what_stands_against_each_other_host_is_said(start, clock):
    world = World(xen=False)
    machine = start(world)
    excluded = replace(IN_ORDER, version=2, admitted=frozenset({"v01"}))
    machine.journal.commit(authorities=[excluded])
    answer = explained(machine)
    assert answer["elsewhere"]["v02"]["kind"] == "refusal"
    assert "the replica of voms01 on v02 is excluded" in answer["elsewhere"]["v02"]["sentence"]


def test_a_suspect_host_is_said_to_be_one(start, clock):
    machine = start(World(xen=False))
    machine.journal.commit(record=replace(machine.record, version=1, suspects={"v02": clock.wall() + 600}))
    there = explained(machine)["elsewhere"]["v02"]
    assert there["kind"] == "plan"
    assert there["note"] == "it failed there, and is not sent back before 2023-11-14 22:23:20+00:00"


def test_a_dead_hosts_vms_are_explained_with_the_proof(start, clock):
    world = World()
    machine = start(world, agent=True)
    machine.run(3, keeps=True)
    taken(machine, "pause", what="all")
    world.power_cut("v01")
    world.on_call = lambda name: None
    machine.run(20, keeps=True)
    machine.receive(host_alert(clock.wall()))
    answer = explained(machine, "v01")
    assert answer["silent_seconds"] >= 20
    assert answer["failed_at"] is not None
    (domain,) = answer["domains"]
    assert domain["decision"]["proof"] is Proof.POWER
    assert domain["decision"]["steps"][0] == "have v01 powered off by its fence agent"
    assert answer["not_looked_at"] == []


def test_a_host_without_vms_and_what_is_not_there(start):
    machine = start(World())
    assert explained(machine, "v02")["domains"] == []
    assert explainer_of(machine).explain("v03") is None


def test_one_explanation_at_a_time(start):
    world = World()
    machine = start(world)
    explainer = explainer_of(machine)
    said = []

    def ask(name):
        if name == "look" and not said:
            said.append(None)
            with pytest.raises(BusyError):
                explainer.explain("voms01")
            said.append("busy")

    world.on_call = ask
    assert explainer.explain("voms01") is not None
    assert said == [None, "busy"]
    assert explainer.explain("voms01") is not None, "free again"
