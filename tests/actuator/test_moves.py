"""The verbs that move a VM, from a notification to the VM on the other host, on two hosts in memory.

The arbiter's rules and records are the real ones; real DRBD is in tests/lab.
"""

from collections import deque
from dataclasses import replace

import pytest

from actuator.model import (
    AllowTwo,
    Confirm,
    Demote,
    DomainState,
    EscalationKind,
    Failed,
    ForbidTwo,
    HostRecord,
    Indeterminate,
    LiveMigration,
    Migrate,
    Notification,
    Order,
    Parting,
    PlanStatus,
    Promote,
    Proof,
)
from actuator.ports import Unanswered
from exporter.drbd import DiskState, Role
from exporter.drbd_configuration import Generations
from tests.actuator.world import EPOCH, IN_ORDER, Guest, Killed, Machine, World, alert, host_alert, settings

HOST = {"address": "localhost", "libvirt_uri": "qemu:///system", "arbiter_token_file": "/nonexistent"}
AGENT = {"fence": {"agent": "fence_dummy"}}


@pytest.fixture
def start(folders, clock, machines):
    path = folders() / "journal"

    def begin(world, *, arbitrated=True, agent=False, written=True, of_host=lambda name: {}, **more):
        for machine in machines:
            machine.close()
        host = dict(HOST) | (AGENT if agent else {})
        if not arbitrated:
            del host["arbiter_token_file"]
        hosts = {name: host | of_host(name) for name in ("v01", "v02")}
        config = settings(path, hosts=hosts, **more)
        machine = Machine(world, path, clock, config=config)
        machines.append(machine)
        if written and not machine.journal.authorities():
            names = world.resources
            machine.journal.commit(authorities=[replace(IN_ORDER, resource=name) for name in names])
        if arbitrated:
            world.journal = machine.journal
        return machine

    return begin


def changes(world):
    reads = {"look", "status", "states", "firing", "send", "definition", "last_words", "capacity"}
    reads |= {"generations", "host_view", "setup", "cpu_misses", "is_on"}
    return [call for call in world.calls if call not in reads]


def assert_moved(world, machine, *, to="v02"):
    assert world.violations == []
    assert world.running == [to]
    assert world.guests[to].has_disks
    assert machine.record.host == to
    assert machine.record.open_plan is None
    assert machine.record.plan.status is PlanStatus.SUCCEEDED
    assert machine.record.escalation is None


# ---- failover ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resources", [("voms01",), ("voms01", "data")])
def test_a_dead_hosts_vm_comes_up_where_its_disks_are(start, resources):
    world = World(resources=resources)
    machine = start(world)
    machine.run(3, keeps=True)
    world.power_cut("v01")
    world.calls.clear()
    machine.receive(host_alert(machine.clock.wall()))
    machine.run(20, keeps=True)
    assert_moved(world, machine)
    assert changes(world) == ["promote"] * len(resources) + ["start"]
    for name in resources:
        written = machine.journal.authority(name)
        assert (written.holder, written.granted, written.admitted) == ("v02", True, {"v02"})
    assert machine.record.plan.plan.proof is Proof.ARBITRATED


GRANTED_ELSEWHERE = replace(IN_ORDER, holder="v02", admitted=frozenset({"v02"}), granted=True, newest=True)


@pytest.mark.parametrize("disk", [DiskState.UP_TO_DATE, DiskState.CONSISTENT, DiskState.DISKLESS])
def test_a_vm_whose_host_has_lost_comes_up_where_the_arbiter_granted_unconnected(start, clock, disk):
    """As after a link that was cut in the middle of a live migration, when the VM was on the losing side."""
    world = World()
    machine = start(world, written=False)
    machine.journal.commit(authorities=[GRANTED_ELSEWHERE])
    machine.run(3)
    world.connected = False
    world.replicas["v01", "voms01"].role = Role.SECONDARY
    world.replicas["v01", "voms01"].disk = disk
    world.crash()
    world.calls.clear()
    machine.receive(alert(clock.wall()))
    machine.run(20)
    assert_moved(world, machine)
    assert changes(world) == ["promote", "start"]


def test_while_the_losing_host_is_primary_nothing_is_started_elsewhere(start, clock):
    world = World()
    machine = start(world, written=False)
    machine.journal.commit(authorities=[GRANTED_ELSEWHERE])
    machine.run(3)
    world.connected = False
    world.crash()
    world.calls.clear()
    machine.receive(alert(clock.wall()))
    machine.run(20)
    assert changes(world) == []
    assert machine.record.escalation is not None


@pytest.mark.parametrize(
    "otherwise",
    [
        {"granted": False},
        {"admitted": frozenset({"v01", "v02"})},
        {"holder": "v01", "admitted": frozenset({"v01"})},
        {"armed": frozenset({"v01"})},
    ],
)
def test_one_that_was_not_granted_alone_takes_nothing_over_unconnected(start, clock, otherwise):
    world = World()
    machine = start(world, written=False)
    machine.journal.commit(authorities=[replace(GRANTED_ELSEWHERE, **otherwise)])
    machine.run(3)
    world.connected = False
    world.replicas["v01", "voms01"].role = Role.SECONDARY
    world.replicas["v01", "voms01"].disk = DiskState.CONSISTENT
    world.crash()
    world.calls.clear()
    machine.receive(alert(clock.wall()))
    machine.run(20)
    assert changes(world) == []


def busy_after(world, clock, call, seconds):
    """v02 answers nobody for so long once it has done that: it starts other domains, say."""

    def watch(name):
        if call in world.calls and not until:
            world.silent.add("v02")
            until.append(clock.now + seconds)
        elif until and clock.now >= until[0]:
            world.silent.discard("v02")

    until = []
    world.on_call = watch


def test_a_target_that_is_too_busy_to_answer_is_waited_for(start, clock):
    world = World()
    machine = start(world, agent=True)
    machine.run(3, keeps=True)
    world.power_cut("v01")
    busy_after(world, clock, "promote", 25)
    machine.receive(host_alert(clock.wall()))
    machine.run(60, keeps=True)
    assert_moved(world, machine)
    assert changes(world) == ["power_off", "promote", "start"], "what was promoted was not taken back"


def test_a_target_that_answers_no_more_is_not_waited_for_without_end(start, clock):
    world = World()
    machine = start(world, agent=True)
    machine.run(3, keeps=True)
    world.power_cut("v01")
    busy_after(world, clock, "promote", 1e9)
    begun = clock.now
    machine.receive(host_alert(clock.wall()))
    assert machine.record.plan.status is PlanStatus.FAILED
    assert "does not answer" in machine.record.plan.sentence
    waits = machine.config.restart.confirm_timeout_seconds
    assert waits <= clock.now - begun <= 3 * waits


def test_a_target_that_has_failed_too_is_not_waited_for(start, clock):
    world = World()
    machine = start(world, agent=True)
    machine.run(3, keeps=True)
    world.power_cut("v01")
    busy_after(world, clock, "promote", 1e9)
    watch = world.on_call

    def fails_too(name):
        watch(name)
        if "v02" in world.silent and not machine.protected.host("v02").failed_at:
            known = machine.protected.host("v02")
            failed = replace(known, version=known.version + 1, failed_at=clock.wall())
            machine.journal.commit(hosts=[failed])

    world.on_call = fails_too
    begun = clock.now
    machine.receive(host_alert(clock.wall()))
    assert machine.record.plan.status is PlanStatus.FAILED
    assert clock.now - begun < machine.config.restart.confirm_timeout_seconds / 2


def test_nothing_is_failed_over_while_monitoring_is_not_seen(start, clock):
    world = World()
    machine = start(world)
    machine.run(3)
    world.watching = False
    machine.run(121)
    world.power_cut("v01")
    machine.receive(host_alert(clock.wall()))
    machine.run(20, keeps=True)
    assert changes(world) == []
    assert machine.record.escalation.guard == "not_blind"
    assert "does not show the alert Watchdog" in machine.record.escalation.sentence
    world.watching = True
    machine.run(30, keeps=True)
    assert_moved(world, machine)


@pytest.mark.parametrize("silent", ["alertmanager", "prometheus"])
def test_a_server_of_monitoring_that_is_away_for_a_moment_stops_nothing(start, clock, silent):
    world = World()
    machine = start(world)
    machine.run(3)
    setattr(world, silent, None)
    world.power_cut("v01")
    machine.receive(host_alert(clock.wall()))
    machine.run(30, keeps=True)
    assert_moved(world, machine)


@pytest.mark.parametrize("silent", ["alertmanager", "prometheus"])
def test_a_server_of_monitoring_that_stays_away_does(start, clock, silent):
    world = World()
    machine = start(world)
    setattr(world, silent, None)
    machine.run(121)
    world.power_cut("v01")
    machine.receive(host_alert(clock.wall()))
    machine.run(20, keeps=True)
    assert changes(world) == []
    assert f"{silent.title()}: connection refused" in machine.record.escalation.sentence


def test_who_has_not_looked_for_monitoring_yet_is_not_blind(start, clock):
    world = World()
    machine = start(world)
    machine.keeper.turn()
    world.power_cut("v01")
    world.watching = False
    machine.receive(host_alert(clock.wall()))
    assert "promote" in world.calls


def test_who_is_blind_restarts_all_the_same(start):
    world = World()
    world.watching = False
    machine = start(world, arbitrated=False)
    machine.run(3)
    world.crash()
    machine.receive(alert())
    assert world.running == ["v01"]


UNFENCED = {"arbitrated": False, "failover": {"drbd_only": True}}
BEHIND = {("voms01", "v02"): False}


def lose(machine, world, clock, *, confirmed=False):
    """v01 dies, and its alert asks for a failover."""
    machine.run(3, keeps=True)
    world.power_cut("v01")
    if confirmed:
        down = Order("ann", clock.wall())
        machine.journal.commit(hosts=[HostRecord("v01", 1, down=down)])
    machine.receive(host_alert(clock.wall()))
    machine.run(20, keeps=True)


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_replica_that_fell_behind_unseen_is_not_promoted(start, clock, confirmed):
    world = World(last_words=BEHIND)
    machine = start(world, **UNFENCED)
    lose(machine, world, clock, confirmed=confirmed)
    assert changes(world) == []
    assert machine.record.escalation.guard == "replica_was_current"
    assert "last said that voms01 on v02 was not connected and UpToDate" in machine.record.escalation.sentence


@pytest.mark.parametrize(
    ("silent", "said"), [(True, "Prometheus: connection refused"), (False, "nothing was heard")]
)
def test_drbds_word_alone_needs_a_history(start, clock, silent, said):
    world = World(last_words={("voms01", "v03"): True})
    machine = start(world, **UNFENCED)
    machine.run(3)
    if silent:
        world.prometheus = None
    lose(machine, world, clock)
    assert changes(world) == []
    assert said in machine.record.escalation.sentence


def test_a_persons_word_does_not(start, clock):
    world = World(last_words={})
    machine = start(world, arbitrated=False)
    world.journal = machine.journal  # nobody else writes, as the person says
    lose(machine, world, clock, confirmed=True)
    assert_moved(world, machine)
    assert machine.record.plan.plan.proof is Proof.OPERATOR


def test_an_armed_hosts_last_words_are_not_asked_for(start, clock):
    world = World(last_words=BEHIND)
    machine = start(world)
    lose(machine, world, clock)
    assert_moved(world, machine)
    assert "last_words" not in world.calls


VOTING = {"failover": {"quorum": True}, "written": False}


@pytest.mark.parametrize("arbitrated", [True, False])
def test_what_has_the_quorum_comes_up_where_it_is(start, clock, arbitrated):
    world = World(third="v02", parting=Parting.VOTES)
    machine = start(world, arbitrated=arbitrated, **VOTING)
    lose(machine, world, clock)
    assert_moved(world, machine)
    assert machine.record.plan.plan.proof is Proof.QUORUM
    assert changes(world) == ["promote", "start"]
    assert "last_words" in world.calls
    assert machine.journal.authority("voms01").holder == ""


def test_nothing_is_started_before_a_lost_host_has_been_quiet_for_long_enough(start, clock):
    world = World(third="v02", parting=Parting.VOTES)
    machine = start(world, arbitrated=False, **VOTING)
    machine.run(3, keeps=True)
    world.power_cut("v01")
    when, cut_at = {}, clock.now
    world.on_call = lambda name: when.setdefault(name, clock.now - cut_at)
    machine.receive(host_alert(clock.wall()))
    machine.run(30, keeps=True)
    assert_moved(world, machine)
    assert when["promote"] < machine.config.failover.isolation_seconds <= when["start"]


@pytest.mark.parametrize(
    ("more", "settings", "guard"),
    [
        ({}, {"quorum": False}, "there_is_a_proof"),
        ({"third": "v01"}, {}, "has_quorum"),
        ({"last_words": {}}, {}, "replica_was_current"),
        ({"last_words": BEHIND}, {}, "replica_was_current"),
        ({"parting": Parting.GOES_ON}, {}, "there_is_a_proof"),
        ({"parting": Parting.GOES_ON}, {"drbd_only": True}, "authority_may_be_taken"),
        ({"last_words": {}}, {"drbd_only": True}, "replica_was_current"),
    ],
)
def test_what_has_no_quorum_or_may_be_old_does_not(start, clock, more, settings, guard):
    world = World(**{"third": "v02", "parting": Parting.VOTES} | more)
    machine = start(world, arbitrated=False, written=False, failover={"quorum": True} | settings)
    lose(machine, world, clock)
    assert changes(world) == []
    assert machine.record.escalation.guard == guard


@pytest.mark.parametrize(("last_words", "moves"), [(BEHIND, False), ({}, False), (None, True)])
def test_what_votes_and_may_be_old_is_not_promoted_on_a_persons_word_either(start, clock, last_words, moves):
    world = World(third="v02", parting=Parting.VOTES, last_words=last_words)
    machine = start(world, arbitrated=False, written=False)
    lose(machine, world, clock, confirmed=True)
    if moves:
        assert_moved(world, machine)
    else:
        assert changes(world) == []
        assert machine.record.escalation.guard == "replica_was_current"


@pytest.mark.parametrize("arbitrated", [True, False])
@pytest.mark.parametrize("resources", [("voms01",), ("voms01", "data")])
def test_a_disk_that_was_made_anew_is_not_promoted(start, clock, arbitrated, resources):
    world = World(resources=resources)
    machine = start(world, arbitrated=arbitrated, failover={"drbd_only": not arbitrated})
    machine.run(3, keeps=True)
    world.power_cut("v01")
    world.replicas["v02", resources[-1]].generations = (Generations("F" * 16),)
    world.calls.clear()
    machine.receive(host_alert(clock.wall()))
    machine.run(20, keeps=True)
    assert changes(world) == []
    assert machine.record.escalation.guard == "replica_continues"
    assert f"the data of {resources[-1]} on v02 do not continue" in machine.record.escalation.sentence


@pytest.mark.parametrize("why", ["its host is lost", "its host is drained"])
def test_a_replica_that_a_verify_found_to_differ_gets_no_vm(start, clock, why):
    """Not by a failover, not by a move: until it was resynced, or for a failover a person has said so."""
    world = World(xen=False, out_of_sync_bytes=4096)
    machine = start(world)
    machine.run(3, keeps=True)
    world.calls.clear()
    if why == "its host is lost":
        lose(machine, world, clock)
    else:
        machine.journal.commit(hosts=[HostRecord("v01", 1, drained=Order("ann", clock.wall()))])
        machine.run(20, keeps=True)
    assert changes(world) == []
    assert machine.record.escalation.guard == "is_in_sync"
    assert "4 KiB of voms01 differ between v01 and v02" in machine.record.escalation.sentence
    world.out_of_sync_bytes = 0
    machine.run(30, keeps=True)
    assert_moved(world, machine)


def test_whose_data_a_replica_has_is_asked_for_a_failover_alone(start, clock):
    world = World(resources=("voms01", "data"))
    machine = start(world)
    machine.run(5, keeps=True)
    assert world.calls.count("generations") == len(world.resources)  # by the keeper
    world.crash()
    world.calls.clear()
    machine.receive(alert(clock.wall()))
    machine.run(5)
    assert world.running == ["v01"]
    assert "generations" not in world.calls
    world.power_cut("v01")
    machine.receive(host_alert(clock.wall()))
    assert world.calls.count("generations") == len(world.resources)
    machine.run(20, keeps=True)
    assert_moved(world, machine)


def test_a_source_that_lost_its_disk_a_moment_before_is_not_taken_to_freeze(start, clock):
    """Nobody has seen it; but the peer's DRBD began a new generation of the data then."""
    world = World()
    machine = start(world)
    machine.run(5, keeps=True)
    (known,) = world.replicas["v02", "voms01"].generations
    began = Generations("B" * 16, frozenset({known.current}))
    world.replicas["v02", "voms01"].generations = (began,)
    world.power_cut("v01")
    world.calls.clear()
    machine.receive(host_alert(clock.wall()))
    assert machine.record.escalation.guard == "source_freezes"
    assert changes(world) == []


def test_a_replica_that_does_not_say_whose_data_it_has_is_left_to_the_other_guards(start):
    world = World()
    machine = start(world)
    machine.run(3, keeps=True)

    def refuse(name):
        if name == "generations":
            raise Unanswered("drbdadm get-gi on v02: no")

    world.on_call = refuse
    world.power_cut("v01")
    machine.receive(host_alert(machine.clock.wall()))
    machine.run(20, keeps=True)
    assert_moved(world, machine)


@pytest.mark.parametrize("confirmed", [False, True])
def test_from_a_host_with_protocol_a_or_b_nothing_is_failed_over_without_consent(start, clock, confirmed):
    world = World(parting=Parting.LOSES)
    machine = start(world, **UNFENCED)
    lose(machine, world, clock, confirmed=confirmed)
    assert changes(world) == []
    assert machine.record.escalation.guard == "writes_reached_the_peer"
    assert "voms01 was seen with protocol A or B on v01" in machine.record.escalation.sentence


@pytest.mark.parametrize("parting", [Parting.GOES_ON, Parting.LOSES])
def test_with_consent_it_is(start, clock, parting):
    world = World(parting=parting)
    accept = parting is Parting.LOSES
    machine = start(world, arbitrated=False, failover={"drbd_only": True, "accept_loss": accept})
    world.journal = machine.journal  # nobody else writes
    lose(machine, world, clock)
    assert_moved(world, machine)


def test_it_is_promoted_at_once_and_started_when_an_isolated_host_has_ended_it(start, clock):
    world = World()
    machine = start(world)
    world.cut_off("v01")
    cut_at = clock.now
    when = {}

    def note(name):
        when.setdefault(name, clock.now - cut_at)
        if name == "start":
            world.guests["v01"] = Guest()  # isolated, it has ended its frozen domain by now

    world.on_call = note
    machine.receive(host_alert(clock.wall()))
    machine.run(20, keeps=True)
    assert when["promote"] < 1
    assert when["start"] >= machine.config.failover.isolation_seconds
    assert_moved(world, machine)


def test_while_the_lost_host_is_heard_of_nothing_is_started(start, clock):
    """Its handler still asks: it is not isolated, and does not end the frozen VM by itself."""
    world = World()
    machine = start(world)
    world.cut_off("v01")
    world.on_call = lambda name: machine.contacts.heard("v01", clock.now)
    machine.receive(host_alert(clock.wall()))
    assert "promote" in world.calls
    assert world.starts == 0
    assert machine.record.plan.status is PlanStatus.FAILED
    assert world.violations == []


def test_a_host_that_answers_again_is_believed_when_it_has_let_go(start, clock):
    world = World()
    machine = start(world)
    world.cut_off("v01")

    def wake(name):
        if name == "promote":
            world.silent.clear()  # it answers; DRBD is not connected; it is released
        if clock.now > 100 and world.guests["v01"].id is not None:
            world.guests["v01"] = Guest()
            world.replicas["v01", "voms01"].role = Role.SECONDARY

    world.on_call = wake
    machine.receive(host_alert(clock.wall()))
    assert_moved(world, machine)
    assert clock.now > 100


def test_a_host_that_wakes_right_before_the_start_is_waited_for(start, clock):
    world = World()
    machine = start(world)
    world.cut_off("v01")
    looked = []

    def wake(name):
        # The start is the fourth step: its look is the first one after the wait.
        if machine.record.open_plan and machine.record.open_plan.steps[1].outcome and name == "look":
            looked.append(clock.now)
            world.silent.clear()
        if looked and clock.now > looked[0] + 30:
            world.guests["v01"] = Guest()
            world.replicas["v01", "voms01"].role = Role.SECONDARY

    world.on_call = wake
    machine.receive(host_alert(clock.wall()))
    assert_moved(world, machine)
    assert clock.now > looked[0] + 30
    assert machine.kinds.count("decided") == 1


ONE_PLACE = {"limits": {"plans_per_host": 1}}
HELD_SECONDS = 40.0


def take_turns(machine, clock, monkeypatch, *, then=lambda held: None):
    """Another plan has v02's only place whenever it is free, for a while; since when, each time.

    ``then`` is called at each pause.
    """
    slots, held = machine.worker._slots, []
    inside = []

    def pause(seconds):
        clock.now += seconds
        if slots.begin("other", "v02", 0):
            held.append(clock.now)
            inside.append("other")
        elif inside and clock.now >= held[-1] + HELD_SECONDS:
            slots.end(inside.pop())
        then(held)

    monkeypatch.setattr(clock, "pause", pause)
    return held


def test_a_failover_that_only_waits_leaves_its_place_and_starts_with_one(start, clock, monkeypatch):
    world = World()
    machine = start(world, **ONE_PLACE)
    world.power_cut("v01")
    when = {}
    world.on_call = lambda name: when.setdefault(name, clock.now)
    held = take_turns(machine, clock, monkeypatch)
    machine.receive(host_alert(clock.wall()))
    assert_moved(world, machine)
    assert when["promote"] < held[0] < machine.config.failover.isolation_seconds
    assert when["start"] >= held[0] + HELD_SECONDS


@pytest.mark.parametrize("holds", [True, False])
def test_what_was_seen_before_a_place_was_waited_for_is_looked_at_again(start, clock, monkeypatch, holds):
    world = World()
    machine = start(world, **ONE_PLACE)
    world.cut_off("v01")
    when = {}

    def wake(name):
        when.setdefault(name, clock.now)
        if machine.record.open_plan and machine.record.open_plan.steps[1].outcome:
            world.silent.clear()  # right before the start

    def release(held):
        if len(held) == 2 and clock.now > held[1] + 10:
            world.guests["v01"] = world.guests["v01"] if world.starts else Guest()
            world.replicas["v01", "voms01"].role = Role.SECONDARY
        if len(held) == 2 and clock.now > held[1] + 30 and not holds:
            world.replicas["v02", "voms01"].disk = DiskState.OUTDATED

    world.on_call = wake
    held = take_turns(machine, clock, monkeypatch, then=release)
    machine.receive(host_alert(clock.wall()))
    if holds:
        assert_moved(world, machine)
        assert when["start"] >= held[1] + HELD_SECONDS
    else:
        assert world.starts == 0
        assert machine.record.plan.status is PlanStatus.FAILED


@pytest.mark.parametrize("after_seconds", [0.0, 20.0])
def test_told_to_stop_while_it_waits_it_goes_no_further(start, clock, monkeypatch, after_seconds):
    """It waits for what a lost host may still have, or for a place to start with."""
    world = World()
    machine = start(world, **ONE_PLACE)
    world.power_cut("v01")
    stopped = []

    def stop(held):
        if clock.now >= held[0] + after_seconds:
            machine.stopping = True
            stopped.append(clock.now)

    take_turns(machine, clock, monkeypatch, then=stop)
    machine.receive(host_alert(clock.wall()))
    assert world.starts == 0
    assert machine.record.open_plan is not None
    assert clock.now == stopped[0]


@pytest.mark.parametrize(
    ("fault", "guard"),
    [
        ("alive", "source_is_dark"),
        ("linked", "link_to_source_is_lost"),
        ("stale", "authority_may_be_taken"),
        ("stale and attached alone", "authority_may_be_taken"),
        ("granted", "authority_may_be_taken"),
        ("unarmed", "source_is_armed"),
        ("without its disk", "source_freezes"),
        ("without its disk, and without the authority", "source_freezes"),
        ("outdated", "disk_is_up_to_date"),
        ("drained", "not_drained"),
        ("not seen in order", "authority_may_be_taken"),
    ],
)
def test_what_stops_a_failover_touches_nothing(start, clock, fault, guard):
    world = World()
    machine = start(world, written=False)
    written = {
        "stale": replace(IN_ORDER, admitted=frozenset({"v01"})),
        "stale and attached alone": replace(IN_ORDER, admitted=frozenset({"v01"})),
        "granted": replace(IN_ORDER, granted=True),
        "unarmed": replace(IN_ORDER, armed=frozenset({"v02"})),
        "without its disk": replace(IN_ORDER, admitted=frozenset({"v02"})),
        "without its disk, and without the authority": replace(
            IN_ORDER, holder="v02", admitted=frozenset({"v02"})
        ),
    }.get(fault, IN_ORDER)
    if fault != "not seen in order":
        machine.journal.commit(authorities=[written])
    world.power_cut("v01")
    if fault == "alive":
        world.silent.clear()
    if fault == "linked":
        world.connected = True
    if fault == "stale and attached alone":
        world.replicas["v02", "voms01"].disk = DiskState.CONSISTENT
    if fault == "outdated":
        world.replicas["v02", "voms01"].disk = DiskState.OUTDATED
    if fault == "drained":
        machine.journal.commit(hosts=[HostRecord("v02", 1, drained=Order("ann", EPOCH))])
    machine.receive(host_alert(clock.wall()))
    assert machine.record.escalation.guard == guard
    assert machine.record.escalation.kind is EscalationKind.REFUSED
    assert "voms01" in machine.record.escalation.sentence
    assert changes(world) == []
    expected = {} if fault == "not seen in order" else {"voms01": written}
    assert machine.journal.authorities() == expected


def test_an_unfenced_pair_needs_a_persons_word(start, clock):
    world = World()
    machine = start(world, arbitrated=False)
    world.power_cut("v01")
    machine.receive(host_alert(clock.wall()))
    assert machine.record.escalation.guard == "there_is_a_proof"
    assert "confirm-down v01" in machine.record.escalation.sentence
    assert changes(world) == []
    known = machine.protected.host("v01")
    world.journal = machine.journal  # DRBD without fencing promotes; the World's journal stands for that
    machine.journal.commit(hosts=[replace(known, version=known.version + 1, down=Order("ann", clock.wall()))])
    machine.run(10)
    assert_moved(world, machine)
    assert machine.record.plan.plan.proof is Proof.OPERATOR


def test_with_a_fence_agent_the_host_is_off_first_and_the_vm_starts_at_once(start, clock):
    world = World()
    machine = start(world, agent=True)
    world.cut_off("v01")
    cut_at = clock.now
    machine.receive(host_alert(clock.wall()))
    assert_moved(world, machine)
    assert changes(world) == ["power_off", "promote", "start"]
    assert clock.now - cut_at < 2


@pytest.mark.parametrize("outcome", [Failed, Indeterminate])
def test_when_the_fence_agent_fails_the_arbiter_decides(start, clock, outcome):
    world = World(agent=outcome("fence_ipmilan: timed out"))
    machine = start(world, agent=True)
    world.power_cut("v01")
    cut_at = clock.now
    machine.receive(host_alert(clock.wall()))
    assert changes(world) == ["power_off"]
    assert clock.now - cut_at < 2, "nothing is waited for that only the agent could have seen"
    machine.run(60, keeps=True)
    assert_moved(world, machine)
    assert machine.record.plan.plan.proof is Proof.ARBITRATED


def test_the_only_host_with_the_data_starts_it_again_while_the_other_is_dead(start, clock):
    """It was granted alone, and was itself switched off and on: its disk is the newest, and nobody else may write."""
    world = World()
    machine = start(world)
    world.power_cut("v01")
    machine.receive(host_alert(clock.wall()))
    machine.run(30, keeps=True)
    assert_moved(world, machine)
    world.crash(host="v02")
    world.replicas["v02", "voms01"].role = Role.SECONDARY
    machine.run(30, keeps=True)
    assert world.violations == []
    assert world.running == ["v02"]


def test_hosts_that_fail_in_the_same_moment_are_a_storm_before_they_have_been_silent_for_long(start, clock):
    world = World()
    machine = start(world)
    machine.run(3, keeps=True)
    world.power_cut("v01")
    machine.receive(host_alert(clock.wall()), host_alert(clock.wall(), host="v02", fingerprint="h2"))
    assert machine.record.escalation.guard == "no_storm"
    assert changes(world) == []
    machine.run(20, keeps=True)  # v02 answers: that alert was none
    assert_moved(world, machine)


def test_more_dark_hosts_than_allowed_freeze_everything(start, clock):
    world = World()
    machine = start(world)
    machine.run(3, keeps=True)
    world.silent |= {"v01", "v02"}
    machine.run(10, keeps=True)
    machine.receive(host_alert(clock.wall()))
    assert machine.record.escalation.guard == "no_storm"
    assert changes(world) == []


def test_a_promotion_that_was_granted_is_tried_once_more(start, clock):
    """DRBD refuses the first one after a death that it had not noticed, although its handler was granted."""
    world = World()
    machine = start(world)
    world.power_cut("v01")
    granted = iter([True])

    def refuse(name):
        if name == "promote" and next(granted, False):
            world._granted("v02", "voms01")
            world.answers["promote"] = deque([(Failed("no", -7), False)])

    world.on_call = refuse
    machine.receive(host_alert(clock.wall()))
    machine.run(20, keeps=True)
    assert_moved(world, machine)
    assert changes(world) == ["promote", "promote", "start"]


@pytest.mark.parametrize("kept", [True, False])
def test_the_definition_of_a_vm_outlives_its_host(start, clock, kept):
    world = World(undefined={"v02"})
    machine = start(world)
    if kept:
        machine.run(2)
    world.power_cut("v01")
    machine.receive(host_alert(clock.wall()))
    machine.run(20, keeps=True)
    if kept:
        assert_moved(world, machine)
        assert changes(world) == ["define", "promote", "start"]
    else:
        assert machine.record.escalation.guard == "is_defined_or_kept"
        assert changes(world) == []


def test_a_definition_that_differs_is_said_once_and_never_started_from(start, clock):
    world = World()
    machine = start(world)
    machine.run(2)
    world.drifted = {"v02"}
    machine.run(200, keeps=True)
    said = [it.sentence for it in machine.timeline if it.kind == "definition" and it.host == "v02"]
    assert len(said) == 1
    assert "defined otherwise on v02 than it was where it last ran (v01)" in said[0]
    world.power_cut("v01")
    machine.receive(host_alert(clock.wall()))
    machine.run(20, keeps=True)
    assert_moved(world, machine)
    assert changes(world) == ["define", "promote", "start"]
    assert world.drifted == set()


def test_a_definition_that_cannot_be_replaced_is_not_started_from(start, clock):
    world = World(drifted={"v02"})
    machine = start(world)
    machine.run(2)
    world.answers["define"] = deque([(Failed("unsupported machine type"), False)] * 9)
    world.power_cut("v01")
    machine.receive(host_alert(clock.wall()))
    machine.run(5, keeps=True)
    assert set(changes(world)) == {"define"}
    assert "unsupported machine type" in machine.record.escalation.sentence


def test_a_host_that_does_not_say_how_it_is_defined_there_has_not_mended_it(start):
    world = World(drifted={"v02"})
    machine = start(world)
    machine.run(70, keeps=True)

    def refuse(name):
        if name == "definition":
            raise Unanswered("libvirt is busy")

    world.on_call = refuse
    machine.run(100, keeps=True)
    assert machine.worker.drifted == {"voms01": {"v02"}}
    world.on_call, world.drifted = lambda name: None, set()
    machine.run(100, keeps=True)
    assert machine.worker.drifted == {"voms01": frozenset()}


# ---- to another host, in order -----------------------------------------------------------------------------


def test_a_vm_that_failed_again_and_again_goes_to_the_other_host_and_not_back(start, clock):
    world = World()
    machine = start(world)
    for _ in range(3):
        world.crash()
        machine.receive(alert(clock.wall()))
        machine.run(40)
    world.crash()
    world.calls.clear()
    machine.receive(alert(clock.wall()))
    assert_moved(world, machine)
    assert changes(world) == ["demote", "promote", "start"]
    assert machine.journal.authority("voms01").holder == "v02"
    assert machine.record.attempts_at == (), "there it is new"
    for _ in range(4):
        world.crash(host="v02")
        machine.receive(replace(alert(clock.wall()), labels=alert().labels | {"host": "v02"}))
        machine.run(40)
    assert world.running == []
    assert machine.record.escalation.kind is EscalationKind.GAVE_UP
    assert "not sent back" in machine.record.escalation.sentence
    assert world.violations == []


def test_restarts_on_a_host_that_dies_do_not_count_against_its_failover(start, clock):
    """Nor does their backoff delay it."""
    world = World()
    machine = start(world)
    for _ in range(3):
        world.crash()
        machine.receive(alert(clock.wall()))
        machine.run(40, keeps=True)
    assert len(machine.record.attempts_at) == 3
    world.power_cut("v01")
    machine.receive(host_alert(clock.wall()))
    machine.run(20, keeps=True)
    assert_moved(world, machine)


def test_failovers_that_fail_again_and_again_are_given_up(start, clock):
    world = World()
    world.answers = {"promote": deque([(Failed("no", -2), False)] * 20)}
    machine = start(world)
    machine.run(3, keeps=True)
    world.crash()
    machine.receive(alert(clock.wall()))
    machine.run(40, keeps=True)
    world.power_cut("v01")
    machine.receive(host_alert(clock.wall()))
    for _ in range(5):
        machine.run(100, keeps=True)
        machine.receive(host_alert(clock.wall()))
    assert world.running == []
    assert world.calls.count("promote") == 3
    assert machine.record.escalation.kind is EscalationKind.GAVE_UP
    assert machine.record.escalation.sentence.startswith(
        "3 attempts to fail voms01 over from v01 in 600 s did not hold (the last: "
    )


def test_a_host_that_failed_it_before_is_better_than_a_dead_one(start, clock):
    world = World()
    machine = start(world)
    world.crash()
    machine.receive(alert(clock.wall(), action="migrate"))
    assert_moved(world, machine)
    machine.run(200, keeps=True)
    world.power_cut("v02")
    machine.receive(host_alert(clock.wall(), host="v02"))
    machine.run(30, keeps=True)
    assert_moved(world, machine, to="v01")


def test_an_alert_may_ask_for_it(start, clock):
    world = World()
    machine = start(world)
    world.crash(preserved=True)
    machine.receive(alert(clock.wall(), action="migrate"))
    assert_moved(world, machine)
    assert changes(world) == ["destroy", "demote", "promote", "start"]
    assert machine.record.suspects.keys() == {"v01"}


def test_a_move_that_fails_is_undone_and_the_vm_goes_up_where_it_was(start, clock):
    world = World()
    world.answers = {"promote": deque([(Failed("no", -2), False)])}
    machine = start(world)
    world.crash()
    machine.receive(alert(clock.wall(), action="migrate"))
    assert machine.record.plan.status is PlanStatus.FAILED
    machine.run(30)
    assert world.violations == []
    assert world.running == ["v01"]
    assert machine.record.host == "v01"


def order(to=""):
    labels = {"alertname": "order", "action": "migrate", "domain": "voms01", "by": "ann", "to": to}
    return Notification("o1", EPOCH, True, labels, "operator")


def test_a_person_moves_a_vm_that_runs_live(start):
    world = World(xen=False)
    machine = start(world)
    machine.receive(order("v02"))
    assert_moved(world, machine)
    assert changes(world) == ["allow_two", "promote", "migrate", "demote", "allow_two"]
    assert world.two_primaries == set()
    assert machine.journal.authority("voms01").holder == "v02"


def test_a_window_is_closed_when_all_disks_are_secondary_on_the_host_that_is_left(start):
    world = World(resources=("data", "voms01"), xen=False)
    machine = start(world)
    machine.receive(order())
    assert_moved(world, machine)
    assert machine.record.suspects == {}, "it did not fail there"
    names = world.resources
    assert [entry.step for entry in machine.record.plan.steps] == [
        *(AllowTwo("v01", name) for name in names),
        *(Promote("v02", name) for name in names),
        Migrate("v02", "v01", "voms01", 5),
        *(Demote("v01", name) for name in names),
        *(ForbidTwo("v01", name) for name in names),
        Confirm("v02", "voms01"),
    ]


def test_a_live_migration_that_is_cancelled_closes_its_window(start):
    world = World(xen=False)
    world.answers = {"migrate": deque([(Failed("job was cancelled"), False)])}
    machine = start(world)
    machine.receive(order())
    assert changes(world) == ["allow_two", "promote", "migrate", "demote", "allow_two"]
    assert world.two_primaries == set()
    assert world.running == ["v01"]
    assert machine.record.host == "v01"
    assert world.replicas["v02", "voms01"].role is Role.SECONDARY
    assert machine.journal.authority("voms01").holder == "v01"


@pytest.mark.parametrize("flag", [True, False])
def test_a_live_migration_goes_where_and_as_the_settings_say(start, flag):
    world = World(xen=False)

    def linked(name):
        return {"migrate_address": f"{name}-link", "migrate_libvirt_uri": f"qemu+tcp://{name}-link/system"}

    how = {"auto_converge": flag, "post_copy": not flag, "max_downtime_seconds": 7.0}
    machine = start(world, of_host=linked, move=how)
    machine.receive(order())
    assert_moved(world, machine)
    assert world.migrated == [LiveMigration("tcp://v02-link", "qemu+tcp://v02-link/system", **how)]


def test_a_window_that_was_opened_without_an_answer_is_closed(start):
    world = World(xen=False)
    world.answers = {"allow_two": deque([(Indeterminate("lost"), True)])}
    machine = start(world)
    machine.receive(order())
    assert changes(world) == ["allow_two", "allow_two"]
    assert world.two_primaries == set()


def test_a_window_that_was_opened_right_before_a_crash_is_closed_when_nothing_moves_after_it(start):
    world = World(xen=False)
    machine = start(world)

    def kill(name):
        if name == "allow_two":
            world.kill_at, world.kill_after = len(world.calls) + 1, True

    world.on_call = kill
    with pytest.raises(Killed):
        machine.receive(order())
    assert world.two_primaries == {"voms01"}
    world.on_call = lambda name: None
    world.replicas["v02", "voms01"].disk = DiskState.OUTDATED
    machine = start(world)
    machine.settle()
    assert changes(world) == ["allow_two", "allow_two"]
    assert world.two_primaries == set()
    assert machine.kinds.count("decided") == 1, "by the same plan"


@pytest.mark.parametrize(("code", "tries"), [(-12, 3), (-2, 1)])
def test_a_device_that_is_still_held_open_is_demoted_a_moment_later(start, clock, code, tries):
    world = World(xen=False)
    machine = start(world)
    begun = clock.now
    world.answers = {"demote": deque([(Failed("no", code), False)] * 2)}
    machine.receive(order())
    before = ["allow_two", "promote", "migrate"]
    assert changes(world)[: 3 + tries] == [*before, *["demote"] * tries]
    assert world.running == ["v02"]
    if tries > 1:
        assert_moved(world, machine)
        assert world.two_primaries == set()
        assert clock.now > begun
    else:
        assert machine.record.plan.status is PlanStatus.FAILED
        machine.run(300)
        assert_closed(world, machine)


def assert_closed(world, machine):
    """The VM runs, its disks are Primary only there, and nothing is left to be warned of."""
    (host,) = world.running
    assert world.two_primaries == set()
    primary = {where for where, replica in world.replicas.items() if replica.role is Role.PRIMARY}
    assert primary == {(host, name) for name in world.resources}
    assert machine.record.escalation is None


@pytest.mark.parametrize("fails", [0, 1])
def test_of_several_windows_none_is_left_open(start, fails):
    """One that could not be closed, the device being held open, is no less open when the last one was closed."""
    world = World(resources=("data", "voms01"), xen=False)
    said = [(Failed("no", -2), False) if number == fails else (None, True) for number in range(2)]
    world.answers = {"migrate": deque([(Failed("job was cancelled"), False)]), "demote": deque(said)}
    machine = start(world)
    machine.receive(order())
    assert len(world.two_primaries) == 1
    machine.run(3)
    assert world.running == ["v01"]
    assert_closed(world, machine)


def test_a_window_that_cannot_be_closed_is_tried_again_now_and_then_and_said_meanwhile(start):
    world = World(xen=False)
    world.answers = {"demote": deque([(Failed("no", -2), False)] * 6)}
    machine = start(world, restart={"max_attempts": 3, "window_seconds": 600.0})
    machine.receive(order())
    machine.run(300)
    assert changes(world).count("demote") == 1 + 3
    assert machine.record.escalation.guard == "windows_are_closed"
    assert "'drbdadm secondary voms01' on v01, then 'drbdadm adjust" in machine.record.escalation.sentence
    machine.run(700)
    assert_closed(world, machine)
    assert world.violations == []


def test_a_live_migration_without_an_answer_may_take_as_long_as_one_with(start, clock):
    world = World(xen=False)
    world.answers = {"migrate": deque([(Indeterminate("lost"), False)])}
    machine = start(world)
    begun = clock.now

    def arrive(name):
        if clock.now - begun > machine.config.move.live_timeout_seconds - 5 and world.running == ["v01"]:
            world.guests = {"v01": Guest(), "v02": Guest(DomainState.RUNNING, 9)}

    world.on_call = arrive
    machine.receive(order())
    assert_moved(world, machine)
    assert changes(world) == ["allow_two", "promote", "migrate", "demote", "allow_two"]


def test_what_may_still_arrive_is_not_deprived_of_its_disks(start):
    world = World(xen=False)
    world.answers = {"migrate": deque([(Indeterminate("lost"), False)])}
    machine = start(world)
    machine.receive(order())
    assert machine.record.plan.status is PlanStatus.FAILED
    assert changes(world) == ["allow_two", "promote", "migrate", "allow_two"]
    assert world.replicas["v02", "voms01"].role is Role.PRIMARY


@pytest.mark.parametrize("has_effect", [False, True])
def test_a_live_migration_without_an_answer_leaves_no_window_open(start, clock, has_effect):
    world = World(xen=False)
    world.answers = {"migrate": deque([(Indeterminate("lost"), has_effect)])}
    machine = start(world)
    machine.receive(order())
    machine.run(300)
    to = "v02" if has_effect else "v01"
    assert world.violations == []
    assert world.running == [to]
    assert world.two_primaries == set()
    assert machine.record.host == to
    assert world.replicas["v01" if has_effect else "v02", "voms01"].role is Role.SECONDARY
    assert machine.record.open_plan is None
    assert machine.record.escalation is None


def lose_the_source_within_a_move(machine, world, clock, *, arrived):
    """v01 is cut off while the VM moves away from it, and the alert comes before the answer."""
    machine.run(3, keeps=True)

    def cut(name):
        if name == "migrate":
            world.power_cut("v01")
            if arrived:
                world.guests["v02"] = Guest(DomainState.RUNNING, 9)
            known = machine.protected.host("v01")
            lost = replace(known, version=known.version + 1, failed_at=clock.wall())
            machine.journal.commit(hosts=[lost])

    world.on_call = cut
    begun = clock.now
    machine.receive(order())
    world.on_call = lambda name: None
    assert clock.now - begun < machine.config.restart.confirm_timeout_seconds / 2, "nobody waits for the dead"


def test_a_vm_whose_source_dies_before_it_has_arrived_comes_up_on_its_target(start, clock):
    world = World(xen=False)
    machine = start(world)
    lose_the_source_within_a_move(machine, world, clock, arrived=False)
    assert world.replicas["v02", "voms01"].role is Role.PRIMARY
    machine.receive(host_alert(clock.wall()))
    machine.run(60, keeps=True)
    assert_moved(world, machine)
    given_up = ["demote", "allow_two"]
    assert changes(world) == ["allow_two", "promote", "migrate", *given_up, "promote", "start"]
    assert world.two_primaries == set()
    assert machine.record.escalation is None


def test_a_vm_that_has_arrived_when_its_source_dies_runs_on(start, clock):
    world = World(xen=False)
    machine = start(world)
    lose_the_source_within_a_move(machine, world, clock, arrived=True)
    assert machine.record.host == "v02"
    assert machine.journal.authority("voms01").holder == "v02", "or its disk stays frozen"
    machine.receive(host_alert(clock.wall()))
    machine.run(60, keeps=True)
    assert world.running == ["v02"]
    assert changes(world) == ["allow_two", "promote", "migrate"], "a lost host is left alone"
    postponed = [event.sentence for event in machine.timeline if event.kind == "postponed"]
    why = "voms01 runs on v02, and its disks may still be Primary on v01 too, which is lost"
    assert postponed == [f"{why}: that is ended when it is back"]
    world.silent.clear()
    world.connected = True
    machine.run(60, keeps=True)
    assert_closed(world, machine)


def test_a_vm_that_arrives_when_nobody_waits_for_it_any_more_is_taken_on(start, clock):
    world = World(xen=False)
    machine = start(world)
    lose_the_source_within_a_move(machine, world, clock, arrived=False)
    assert machine.record.plan.status is PlanStatus.FAILED
    world.silent.clear()
    world.connected = True
    world.replicas["v01", "voms01"].role = Role.PRIMARY
    world.guests["v02"] = Guest(DomainState.RUNNING, 9)
    machine.run(30, keeps=True)
    assert_moved(world, machine)
    assert_closed(world, machine)
    assert changes(world) == ["allow_two", "promote", "migrate", "demote", "allow_two"]


@pytest.mark.parametrize("there", [DomainState.RUNNING, DomainState.PAUSED])
def test_a_vm_that_is_on_both_after_a_move_is_a_persons(start, clock, there):
    world = World(xen=False)
    machine = start(world)
    lose_the_source_within_a_move(machine, world, clock, arrived=False)
    world.silent.clear()
    world.connected = True
    world.guests = {"v01": Guest(DomainState.RUNNING, 5), "v02": Guest(there, 9)}
    machine.run(30, keeps=True)
    assert changes(world) == ["allow_two", "promote", "migrate"]
    assert machine.record.escalation.guard == "runs_nowhere_else"


def test_whether_a_vm_has_come_is_not_said_while_its_source_is_silent(start, clock):
    world = World(xen=False)
    machine = start(world)
    lose_the_source_within_a_move(machine, world, clock, arrived=False)
    world.guests["v02"] = Guest(DomainState.RUNNING, 9)
    known = machine.protected.host("v01")
    machine.journal.commit(hosts=[replace(known, version=known.version + 1, failed_at=None)])
    machine.run(60)
    assert changes(world) == ["allow_two", "promote", "migrate"]
    assert machine.kinds.count("decided") == 1, "the move"
    assert machine.record.escalation.guard == "libvirt_answers"


def test_a_vm_that_is_paused_where_it_was_moved_to_has_not_come(start, clock):
    world = World(xen=False)
    machine = start(world)
    lose_the_source_within_a_move(machine, world, clock, arrived=False)
    world.silent.clear()
    world.connected = True
    world.guests["v02"] = Guest(DomainState.PAUSED, 9, "ioerror")
    machine.run(30, keeps=True)
    assert changes(world) == ["allow_two", "promote", "migrate"]
    assert machine.record.escalation is not None
    assert machine.kinds.count("decided") == 1, "the move"


COMES = Guest(DomainState.PAUSED, 9, "migration")


def test_what_a_live_migration_brings_is_nobodys_twin(start):
    world = World(xen=False)
    world.guests["v02"] = COMES
    machine = start(world)
    machine.receive(alert())
    assert changes(world) == []
    assert machine.record.escalation is None
    [said] = [event.sentence for event in machine.timeline if event.kind == "postponed"]
    assert "a live migration brings it to v02, or did" in said
    world.guests["v02"] = replace(COMES, reason="user")
    machine.run(30)
    assert machine.record.escalation.guard == "runs_nowhere_else"


def test_a_vm_that_a_live_migration_brings_is_not_to_be_resumed_by_hand(start, clock):
    world = World(xen=False)
    machine = start(world)
    machine.run(3, keeps=True)
    world.power_cut("v01")
    world.guests["v02"] = COMES
    machine.receive(host_alert(clock.wall()))
    sentence = machine.record.escalation.sentence
    assert sentence.startswith("a live migration is bringing voms01 to v02, or was")
    assert "resume" not in sentence


def test_a_drained_host_is_left_and_not_come_back_to(start, clock):
    world = World(xen=False)
    machine = start(world)
    machine.journal.commit(hosts=[HostRecord("v01", 1, drained=Order("ann", clock.wall()))])
    machine.run(10)
    assert_moved(world, machine)
    world.crash(host="v02")
    machine.run(10)
    assert world.running == ["v02"]


def test_a_paused_vm_is_left_alone_until_it_is_over(start, clock):
    world = World()
    machine = start(world)
    machine.journal.commit(
        hosts=[HostRecord("v01", 1, paused=Order("ann", clock.wall(), "kernel", clock.wall() + 60))]
    )
    world.crash()
    machine.receive(alert(clock.wall()))
    machine.run(30)
    assert changes(world) == []
    assert any("paused by ann" in event.sentence for event in machine.timeline)
    machine.run(40)
    assert world.running == ["v01"]


@pytest.mark.parametrize("action", ["restart", "migrate"])
def test_in_mode_approve_a_plan_waits_for_a_persons_word(start, clock, action):
    world = World()
    machine = start(world, mode="approve")
    world.crash()
    machine.receive(alert(clock.wall(), action=action))
    machine.run(12)
    assert changes(world) == []
    sentence = machine.record.escalation.sentence
    name = sentence.partition("approve voms01 ")[2].partition("'")[0]
    record = machine.record
    machine.journal.commit(record=replace(record, version=record.version + 1, approved=name))
    machine.run(10)
    assert world.running == ["v01" if action == "restart" else "v02"]
    assert machine.record.approved == ""
    assert [event.kind for event in machine.timeline].count("refused") == 1


def test_a_vm_of_xen_that_runs_is_shut_down_for_a_move_only_where_that_is_allowed(start, clock):
    for cold in (False, True):
        world = World()
        machine = start(world, move={"cold": cold, "live": False})
        machine.receive(replace(order(), fingerprint=f"cold {cold}"))
        if not cold:
            assert machine.record.escalation.guard == "may_be_shut_down"
            assert changes(world) == []
            continue
        assert_moved(world, machine)
        assert changes(world) == ["shut_down", "demote", "promote", "start"]


def test_a_state_that_is_not_known_is_no_reason_to_move(start, clock):
    world = World()
    machine = start(world)
    world.guests["v01"] = Guest(DomainState.PAUSED, 5)
    machine.receive(alert(clock.wall(), action="migrate"))
    assert machine.record.escalation.guard == "is_down"
    assert changes(world) == []


def lost_disk(world, machine):
    """DRBD has lost the disk below the running domain, and goes on over the network; the rule says so."""
    world.replicas["v01", "voms01"].disk = DiskState.DISKLESS
    machine.run(3, keeps=True)
    assert machine.journal.authority("voms01").admitted == {"v02"}
    world.calls.clear()
    machine.receive(replace(alert(machine.clock.wall(), action="migrate"), fingerprint="lost"))


def test_a_vm_that_lost_its_disk_is_moved_live_to_the_data(start):
    world = World(xen=False)
    machine = start(world)
    lost_disk(world, machine)
    assert_moved(world, machine)
    assert "migrate" in changes(world)
    assert machine.journal.authority("voms01").holder == "v02"


@pytest.mark.parametrize("cold", [True, False])
def test_a_xen_vm_that_lost_its_disk_is_shut_down_for_a_move_only_where_that_is_allowed(start, cold):
    world = World()
    machine = start(world, move={"cold": cold, "live": False})
    lost_disk(world, machine)
    if cold:
        assert_moved(world, machine)
        assert changes(world) == ["shut_down", "demote", "promote", "start"]
    else:
        assert changes(world) == []
        assert machine.record.escalation.guard == "may_be_shut_down"
        assert machine.record.escalation.sentence.startswith("voms01/0 on v01 has lost its disk: Diskless; ")


def test_an_alert_about_a_disk_that_is_there_moves_nothing(start, clock):
    world = World()
    machine = start(world, move={"cold": True})
    machine.receive(alert(clock.wall(), action="migrate"))
    assert changes(world) == []
    assert world.running == ["v01"]
