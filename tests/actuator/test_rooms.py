"""Several VMs on two hosts leave one of them: who goes, who does not, and what a restart or a race may not change."""

import threading
from dataclasses import replace

import pytest

from actuator.core.decide import Hosts
from actuator.explain import Explainer
from actuator.model import (
    Capacity,
    DomainState,
    Escalation,
    EscalationKind,
    HostRecord,
    Order,
    Plan,
    PlanRecord,
    PlanStatus,
)
from actuator.rooms import Rooms
from exporter.drbd import Snapshot
from tests.actuator.world import EPOCH, IN_ORDER, PEER, Guest, Machine, Replica, World, alert, settings

NEEDS_MIB = 1024
HOST = {"address": "localhost", "libvirt_uri": "qemu:///system"}


class Mesh(World):
    """A world for each domain, behind the same ports: they share hosts, and the hosts' memory."""

    def __init__(self, free_mib, **homes):
        super().__init__(xen=False)
        self.of = {
            name: World(resources=(name,), first_minor=minor, xen=False) for minor, name in enumerate(homes)
        }
        for name, world in self.of.items():
            world.silent, world.calls, world.free_mib = self.silent, self.calls, self.free_mib
            if homes[name] == "v02":
                world.guests = {"v01": Guest(), "v02": Guest(DomainState.RUNNING, 5)}
                world.replicas = {("v01", name): Replica(), ("v02", name): world.replicas["v01", name]}
        self.free_mib |= {"v02": free_mib}

    def hook(self, on_call):
        for world in (self, *self.of.values()):
            world.on_call = on_call

    def cut(self, host):
        for world in self.of.values():
            world.power_cut(host)

    @property
    def homes(self):
        return {name: world.running for name, world in self.of.items()}

    def states(self, host, *, timeout_seconds):
        super().states(host, timeout_seconds=timeout_seconds)
        return {name: world.guests[host].state for name, world in self.of.items()}

    def status(self, host, *, timeout_seconds):
        seen = [world.status(host, timeout_seconds=timeout_seconds) for world in self.of.values()]
        return Snapshot(tuple(it for each in seen for it in each.resources), ())

    def capacity(self, host, *, timeout_seconds):
        found = super().capacity(host, timeout_seconds=timeout_seconds)
        here = sum(host in running for running in self.homes.values())
        return replace(found, free_memory_bytes=found.free_memory_bytes - (here * NEEDS_MIB << 20))


def _of_domain(method):
    def call(self, host, name, *rest, **more):
        return getattr(self.of[name], method)(host, name, *rest, **more)

    return call


for _method in (
    "look",
    "start",
    "destroy",
    "shut_down",
    "define",
    "definition",
    "generations",
    "promote",
    "demote",
    "allow_two_primaries",
):
    setattr(Mesh, _method, _of_domain(_method))
Mesh.migrate = lambda self, source, target, name, *rest, **more: self.of[name].migrate(
    source, target, name, *rest, **more
)


@pytest.fixture
def start(folders, clock, machines):
    path = folders() / "journal"

    def begin(mesh, *, measured=True, domains=None, watch=lambda it: it, **more):
        every = {
            name: {"host": (world.running or ["v01"])[0]} | (domains or {}).get(name, {})
            for name, world in mesh.of.items()
        }
        config = settings(path, hosts=dict.fromkeys(PEER, HOST), domains=every, **more)
        machine = Machine(mesh, path, clock, config=config, watch=watch)
        machines.append(machine)
        authorities = [replace(IN_ORDER, resource=name, holder=each["host"]) for name, each in every.items()]
        machine.journal.commit(authorities=authorities)
        if measured:
            machine.reconciler.turn()
        return machine

    return begin


def dead(machine, host="v01"):
    """A person has confirmed it; reconcile would say the same each turn."""
    now = machine.clock.wall()
    machine.world.cut(host)
    machine.journal.commit(hosts=[HostRecord(host, 1, failed_at=now, down=Order("ann", now))])


def drained(machine, host="v01"):
    machine.journal.commit(hosts=[HostRecord(host, 1, drained=Order("ann", machine.clock.wall()))])


def refused(machine, *names):
    """As after a refusal: such a domain holds no room for itself."""
    for name in names:
        record = machine.protected.record(name)
        why = Escalation(EscalationKind.REFUSED, "v01", "disk_is_up_to_date", "Outdated", EPOCH)
        machine.journal.commit(record=replace(record, version=record.version + 1, escalation=why))


def two_that_begin(machine):
    """Their host is dead: what the worker would run for each, side by side."""
    refused(machine, "a", "b")
    dead(machine)
    for name in "ab":
        machine.worker.suspect(name, "v01 has failed")
    machine.worker.turn()
    first, second = machine.tasks.queue
    machine.tasks.queue.clear()
    return first, second


def plan_of(machine, name):
    return machine.protected.record(name).plan


def guard_of(machine, name):
    escalation = machine.protected.record(name).escalation
    return None if escalation is None else escalation.guard


# ---- memory ------------------------------------------------------------------------------------------------


def test_two_that_fit_but_not_together_do_not_both_go_there(start):
    mesh = Mesh(1500, a="v01", b="v01")
    machine = start(mesh, domains={"b": {"priority": 1}})
    dead(machine)
    machine.run(12)
    assert mesh.homes == {"a": [], "b": ["v02"]}
    assert machine.protected.record("a").escalation.sentence == (
        "v02 has 476 MiB of memory free, and a may use 1024 MiB: move or end something on v02, or give a less"
    )
    assert plan_of(machine, "b").plan.chosen == (
        "v02 has 1500 MiB of memory free and 0 protected domains; there is no other"
    )
    mesh.free_mib["v02"] = 2100
    machine.run(12)
    assert mesh.homes == {"a": ["v02"], "b": ["v02"]}
    assert guard_of(machine, "a") is None


def test_one_that_is_decided_first_leaves_room_for_what_comes_before_it(start):
    mesh = Mesh(1500, a="v01", b="v01")
    machine = start(mesh, domains={"b": {"priority": 1}})
    dead(machine)
    machine.worker.suspect("a", "only this one is looked at")
    machine.settle()
    assert mesh.homes == {"a": [], "b": []}
    assert "less 1024 MiB for others on their way" in machine.protected.record("a").escalation.sentence
    machine.run(12)
    assert mesh.homes == {"a": [], "b": ["v02"]}


@pytest.mark.parametrize("why", ["refused", "paused", "observed"])
def test_what_may_never_go_holds_no_room(start, why):
    mesh = Mesh(1500, a="v01", b="v01")
    more = {"mode": "observe"} if why == "observed" else {}
    machine = start(mesh, domains={"b": {"priority": 1, **more}})
    if why == "refused":
        refused(machine, "b")
    if why == "paused":
        machine.journal.commit(
            record=replace(machine.protected.record("b"), version=1, paused=Order("ann", EPOCH))
        )
    dead(machine)
    machine.worker.suspect("a", "only this one is looked at")
    machine.settle()
    assert mesh.homes["a"] == ["v02"]


def test_what_waits_for_a_persons_word_holds_its_room(start):
    mesh = Mesh(1500, a="v01", b="v01")
    # Without the keeper nobody hears of v02 while nothing is begun.
    machine = start(mesh, domains={"b": {"priority": 1}}, mode="approve", failover={"max_dark_hosts": 2})
    dead(machine)
    machine.run(20)
    assert {name: guard_of(machine, name) for name in "ab"} == {"a": "has_memory", "b": "is_approved"}


def test_a_plan_made_between_a_look_and_its_decision_counts(start):
    mesh = Mesh(1500, a="v01", b="v01")
    machine = start(mesh)
    first, second = two_that_begin(machine)
    looks = []

    def on_call(name):
        if name == "look" and not looks:
            looks.append(name)
            second()

    mesh.hook(on_call)
    first()
    assert looks
    assert sum(map(len, mesh.homes.values())) == 1
    assert {guard_of(machine, name) for name in mesh.of} == {None, "has_memory"}


def test_nothing_is_decided_while_a_choice_is_not_durable_yet(start):
    """The real threads: the second decision waits for the first one's write."""
    mesh = Mesh(1500, a="v01", b="v01")
    begun = []

    class Journal:
        def __init__(self, journal):
            self.journal = journal

        def __getattr__(self, name):
            return getattr(self.journal, name)

        def commit(self, record=None, **more):
            if record is not None and record.open_plan and not begun and waiting:
                begun.append(threading.Thread(target=waiting.pop()))
                begun[0].start()
                begun[0].join(0.5)
            self.journal.commit(record=record, **more)

    waiting = []
    machine = start(mesh, watch=Journal)
    first, second = two_that_begin(machine)
    waiting.append(second)
    first()
    begun[0].join(30)
    assert sum(map(len, mesh.homes.values())) == 1
    assert {guard_of(machine, name) for name in mesh.of} == {None, "has_memory"}


def test_a_domain_that_was_defined_larger_meanwhile_needs_more(start):
    mesh = Mesh(1500, a="v01")
    # Without the keeper nobody hears of v02 while nothing is begun.
    machine = start(mesh, failover={"max_dark_hosts": 2})
    machine.worker.question(machine.protected.record("a"))
    world = mesh.of["a"]
    before = world.definition
    world.definition = lambda *what, **how: before(*what, **how).replace("1048576", "4194304")
    machine.run(61)
    dead(machine)
    machine.run(20)
    assert guard_of(machine, "a") == "has_memory"


def test_what_is_not_known_of_memory_stops_what_runs_and_not_what_is_down(start):
    mesh = Mesh(8192, a="v01")
    del mesh.free_mib["v02"]
    machine = start(mesh)
    drained(machine)
    machine.run(12)
    assert mesh.homes == {"a": ["v01"]}
    assert guard_of(machine, "a") == "has_memory"
    assert "(v02 does not answer)" in machine.protected.record("a").escalation.sentence
    mesh.cut("v01")
    machine.journal.commit(hosts=[HostRecord("v01", 2, failed_at=EPOCH, down=Order("ann", EPOCH))])
    machine.run(12)
    assert mesh.homes == {"a": ["v02"]}
    assert "an unknown amount of memory" in plan_of(machine, "a").plan.chosen


def test_a_drained_host_is_left_as_far_as_there_is_room(start):
    mesh = Mesh(1500, a="v01", b="v01")
    machine = start(mesh)
    drained(machine)
    machine.run(12)
    assert mesh.homes == {"a": ["v02"], "b": ["v01"]}
    assert guard_of(machine, "b") == "has_memory"
    mesh.free_mib["v02"] = 4096
    machine.run(12)
    assert mesh.homes == {"a": ["v02"], "b": ["v02"]}


def test_a_vm_that_is_down_on_a_host_that_answers_has_nothing_to_lose(start):
    mesh = Mesh(8192, a="v01")
    del mesh.free_mib["v02"]
    machine = start(mesh)
    mesh.of["a"].crash()
    machine.receive(alert(domain="a", action="migrate"))
    assert mesh.homes == {"a": ["v02"]}


# ---- apart -------------------------------------------------------------------------------------------------


def test_apart_does_not_keep_down_what_has_no_other_host(start):
    mesh = Mesh(8192, a="v01", b="v02")
    machine = start(mesh, domains={"b": {"apart": ["a"]}})
    dead(machine)
    machine.run(12)
    assert mesh.homes == {"a": ["v02"], "b": ["v02"]}
    assert plan_of(machine, "a").plan.reason == (
        "v01 is dead: a comes up on v02; no other host keeps it apart from b"
    )


def test_apart_keeps_what_runs_where_it_is(start):
    mesh = Mesh(8192, a="v01", b="v02")
    machine = start(mesh, domains={"b": {"apart": ["a"]}})
    drained(machine)
    machine.run(12)
    assert mesh.homes == {"a": ["v01"], "b": ["v02"]}
    assert guard_of(machine, "a") == "is_apart"


# ---- for people --------------------------------------------------------------------------------------------


def test_explain_tells_where_to_and_why(start):
    mesh = Mesh(8192, a="v01", b="v01")
    machine = start(mesh)
    explainer = Explainer(machine.ports, machine.config, machine.protected, machine.contacts, machine.worker)
    there = explainer.explain("a")["elsewhere"]["v02"]
    assert there["chosen"] == "v02 has 8192 MiB of memory free and 0 protected domains; there is no other"
    mesh.free_mib["v02"] = 1000
    machine.reconciler.turn()
    assert explainer.explain("a")["elsewhere"]["v02"]["guard"] == "has_memory"


# ---- what is known of hosts --------------------------------------------------------------------------------


def rooms_of(machine, **more):
    return Rooms(machine.config, machine.protected, machine.journal, **more)


def around(rooms, machine, now, wall=EPOCH):
    record = machine.protected.record("a")
    return rooms.around(record, Hosts(failed={"v01": wall}), now, wall)


@pytest.mark.parametrize(
    ("status", "finished_at", "counts"),
    [
        (PlanStatus.OPEN, None, True),
        (PlanStatus.UNDOING, None, True),
        (PlanStatus.SUCCEEDED, EPOCH - 1, True),
        (PlanStatus.SUCCEEDED, EPOCH - 3, False),
        (PlanStatus.SUCCEEDED, EPOCH + 100, True),
    ],
)
def test_a_plan_takes_memory_until_a_later_figure_has_it(start, status, finished_at, counts):
    """Also of a plan that the last process began: it is in the journal."""
    machine = start(Mesh(4096, a="v01", b="v01"))
    plan = Plan("failover", "b", "v02", "v01 is dead", (), source="v01")
    rooms = rooms_of(machine)
    machine.journal.commit(
        record=replace(
            machine.protected.record("b"),
            version=1,
            host="v02",
            plan=PlanRecord("b-1", plan, status, EPOCH - 10, (), finished_at),
        )
    )
    rooms.measured("v02", Capacity(4096 << 20, 8192 << 20, 4), 8.0)
    room = around(rooms, machine, now=10.0).placement.rooms["v02"]
    assert (room.free_bytes >> 20, room.taken_bytes >> 20) == (4096, 1024 if counts else 0)
    assert room.domains == {"b"}


def test_what_its_own_last_plan_would_take_is_not_in_its_way(start):
    machine = start(Mesh(4096, a="v01", b="v01"))
    plan = Plan("failover", "a", "v02", "v01 is dead", (), source="v01")
    failed = PlanRecord("a-1", plan, PlanStatus.FAILED, EPOCH - 10, (), EPOCH - 1)
    machine.journal.commit(record=replace(machine.protected.record("a"), version=1, plan=failed))
    rooms = rooms_of(machine)
    rooms.measured("v02", Capacity(4096 << 20, 8192 << 20, 4), 8.0)
    taken = {
        name: rooms.around(machine.protected.record(name), Hosts(failed={"v01": EPOCH}), 10.0, EPOCH)
        .placement.rooms["v02"]
        .taken_bytes
        for name in "ba"
    }
    assert taken == {"a": 0, "b": 1024 << 20}


def test_an_old_figure_is_not_believed_and_says_why(start):
    machine = start(Mesh(4096, a="v01"))
    rooms = rooms_of(machine)
    assert around(rooms, machine, now=10.0).placement.rooms["v02"].unknown == "it has not been measured yet"
    rooms.measured("v02", Capacity(4096 << 20, 8192 << 20, 4), 10.0)
    rooms.not_measured("v02", "no route")
    assert around(rooms, machine, now=70.0).placement.rooms["v02"].free_bytes == 4096 << 20
    old = around(rooms, machine, now=71.0).placement.rooms["v02"]
    assert (old.free_bytes, old.unknown) == (None, "it was last measured 61 s ago: no route")


def test_a_failover_asks_no_host_for_its_memory(start):
    mesh = Mesh(4096, a="v01")
    machine = start(mesh)
    dead(machine)
    mesh.calls.clear()
    machine.worker.suspect("a", "v01 has failed")
    machine.settle()
    assert mesh.homes == {"a": ["v02"]}
    assert "capacity" not in mesh.calls


def test_reconcile_measures_every_host_that_answers(start):
    mesh = Mesh(4096, a="v01")
    machine = start(mesh)
    mesh.cut("v01")
    mesh.calls.clear()
    machine.reconciler.turn()
    assert mesh.calls.count("capacity") == 1, "one that says nothing of what runs there is not asked more"
    assert around(machine.worker.rooms, machine, now=0.0).placement.rooms["v02"].free_bytes == 4096 << 20
    assert set(machine.reconciler.answered) == {
        "Alertmanager",
        "Prometheus",
        "libvirt on v01",
        "libvirt on v02",
    }
