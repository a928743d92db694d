"""What the page makes of what the actuator knows."""

import contextlib
from dataclasses import replace

import pytest

from actuator.core.readiness import MEND
from actuator.model import (
    Authority,
    DomainState,
    Done,
    EscalationKind,
    Failed,
    PlanStatus,
    Postpone,
)
from actuator.page.site import Level, Site, plan_line
from actuator.ports import Unanswered
from actuator.rehearse import Power
from exporter.drbd import DiskState, SuspendReason
from tests.actuator.build import device, resource, snapshot, theirs
from tests.actuator.mesh import fill
from tests.actuator.world import settings
from tests.bench.scale import Run
from tests.page.sites import (
    NOW,
    cut_off,
    facts,
    failing_over,
    host,
    order,
    record,
    refused,
    rehearsal,
    waiting_for_approval,
)

SILENT = Unanswered("v01: no route")
PAUSE = Postpone(NOW, "voms01 is paused by ann")


def the_vm(**changed):
    site = Site(facts(**changed))
    (vm,) = site.vms().shown
    return vm, site.vm_levels["voms01"]


def the_host(name="v01", **changed):
    site = Site(facts(**changed))
    return next(it for it in site.hosts().shown if it.name == name), site.host_levels[name]


def test_where_all_is_well_nothing_stands_out():
    site = Site(facts())
    for levels in (site.vm_levels, site.host_levels, site.resource_levels):
        assert set(levels.values()) == {Level.OK}
    assert (site.waiting, site.plans, site.blind, site.paused) == ((), (), (), None)
    (vm,) = site.vms().shown
    assert (vm.word.text, vm.notes, vm.obstacles) == ("runs on v01", (), ())
    assert [(it.host, it.word.text) for it in vm.targets] == [("v02", "move, failover")]
    assert [it.management.text for it in site.hosts().shown] == ["answers", "answers"]
    (drbd,) = site.resources().shown
    assert (drbd.authority, [it.word.text for it in drbd.replicas]) == (
        "v01",
        ["Primary UpToDate", "Secondary UpToDate"],
    )
    assert [it.admitted for it in drbd.replicas] == [True, True]


@pytest.mark.parametrize(
    ("changed", "level", "said"),
    [
        ({"records": [refused()]}, Level.BAD, "no replica is good"),
        ({"records": [failing_over()]}, Level.BUSY, "runs on v01"),
        ({"states": {"v01": {"voms01": DomainState.SHUTOFF}}}, Level.BAD, "shutoff on v01"),
        ({"states": {"v01": {"voms01": DomainState.PAUSED}}}, Level.BAD, "paused on v01"),
        ({"states": {"v01": {}}}, Level.BAD, "not defined on v01"),
        ({"states": {"v01": SILENT}}, Level.BAD, "not known: v01 does not answer"),
        ({"states": {}}, Level.NOTE, "not looked at yet"),
        ({"silent_seconds": {"v01": 9.0}}, Level.BAD, "not known: v01 is silent for 9 s"),
        (
            {"states": {key: {"voms01": DomainState.RUNNING} for key in ("v01", "v02")}},
            Level.BAD,
            "runs on v01, and up on v02",
        ),
        ({"paused": lambda _: PAUSE}, Level.NOTE, "voms01 is paused by ann"),
        ({"records": [record(suspects={"v02": NOW + 60})]}, Level.NOTE, "not sent back there for 60 s"),
        ({"rehearsals": {}}, Level.NOTE, "not rehearsed yet"),
        ({"rehearsals": {"voms01": rehearsal(home="v02")}}, Level.NOTE, "not rehearsed yet"),
        ({"rehearsals": {"voms01": rehearsal(("v02", "failover", "x"))}}, Level.NOTE, "move only"),
        (
            {"rehearsals": {"voms01": rehearsal(("v01", "restart", "x"))}},
            Level.NOTE,
            "a restart would not work",
        ),
    ],
)
def test_what_is_said_of_a_vm(changed, level, said):
    vm, found = the_vm(**changed)
    assert found is level
    words = [vm.word, *vm.notes, *(it.word for it in vm.targets)]
    assert any(said in it.text for it in words), words


def test_what_stands_in_the_way_is_said_once_with_all_its_verbs():
    against = [("v02", "migrate", "has_memory"), ("v02", "failover", "has_memory")]
    vm, _ = the_vm(rehearsals={"voms01": rehearsal(*against)})
    (obstacle,) = vm.obstacles
    assert (obstacle.verbs, obstacle.host, obstacle.mend) == (
        "migrate and failover",
        "v02",
        "mend has_memory",
    )
    assert vm.targets[0].word.text == "not now"


@pytest.mark.parametrize(
    ("changed", "level", "plane", "said"),
    [
        ({"silent_seconds": {"v01": 7.0}}, Level.BAD, "management", "silent for 7 s"),
        ({"states": {"v01": SILENT}}, Level.BAD, "management", "libvirt does not answer"),
        ({"storage": {"v01": SILENT}}, Level.BAD, "management", "libvirt answers, DRBD does not"),
        ({"states": {}}, Level.NOTE, "management", "not asked yet"),
        ({"storage": {"v02": cut_off()}}, Level.BAD, "replication", "0 of 1 connected"),
        ({"storage": {}}, Level.NOTE, "replication", "no peer tells"),
        ({"power": {}}, Level.NOTE, "power", "agent not asked yet"),
        ({"power": {"v01": Power(False, "", 0.0)}}, Level.BAD, "power", "off"),
        ({"power": {"v01": Power(None, "no route", 0.0)}}, Level.BAD, "power", "agent does not say"),
        ({"settings": settings("/nonexistent")}, Level.PLAIN, "power", "no fence agent"),
    ],
)
def test_the_planes_of_a_host(changed, level, plane, said):
    found, worst = the_host(**changed)
    assert getattr(found, plane).text == said
    assert getattr(found, plane).level is level
    assert worst is (Level.OK if level is Level.PLAIN else level)


@pytest.mark.parametrize(
    ("changed", "level", "said"),
    [
        ({"failed_at": NOW}, Level.BAD, "has failed"),
        ({"down": order()}, Level.BAD, "confirmed to be down by ann: new memory"),
        ({"drained": order()}, Level.NOTE, "drained by ann"),
        ({"paused": order(until_at=NOW + 60)}, Level.NOTE, "paused by ann"),
        ({"paused": order(until_at=NOW)}, Level.OK, ""),
    ],
)
def test_the_orders_about_a_host(changed, level, said):
    found, worst = the_host(hosts={"v01": host("v01", **changed)})
    assert worst is level
    assert [it.text[: len(said)] for it in found.orders] == ([said] if said else [])
    assert (found.drained, found.paused) == ("drained" in changed, "paused" in changed and bool(said))


@pytest.mark.parametrize(
    ("changed", "level", "said"),
    [
        ({"storage": {"v01": SILENT, "v02": snapshot(theirs())}}, Level.BAD, "not known"),
        ({"storage": {"v01": snapshot(), "v02": snapshot(theirs())}}, Level.BAD, "not up"),
        ({"storage": {"v02": cut_off()}}, Level.BAD, "Secondary UpToDate, v01 Connecting"),
        (
            {"storage": {"v01": snapshot(resource(devices=(device(disk_state=DiskState.INCONSISTENT),)))}},
            Level.BAD,
            "Primary Inconsistent",
        ),
        (
            {"storage": {"v01": snapshot(resource(suspended=(SuspendReason.FENCING,)))}},
            Level.BAD,
            "Primary UpToDate, frozen: fencing",
        ),
    ],
)
def test_what_is_said_of_a_replica(changed, level, said):
    site = Site(facts(**changed))
    assert site.resource_levels["voms01"] is level
    (found,) = site.resources().shown
    assert said in [it.word.text for it in found.replicas]


@pytest.mark.parametrize(
    ("authority", "level", "said", "admitted"),
    [
        (Authority("voms01", ("v01", "v02"), 1, "v01", frozenset({"v01"}), granted=True), Level.NOTE, "v01 alone", [True, False]),
        (Authority("voms01", ("v01", "v02"), 1, "", frozenset()), Level.NOTE, "nobody", [False, False]),
        (
            Authority("voms01", voters=frozenset({"v01", "v02"}), voting=frozenset({"v01"})),
            Level.OK,
            "DRBD's quorum decides",
            [None, None],
        ),
        (None, Level.OK, "none is kept yet", [None, None]),
    ],
)  # fmt: skip
def test_the_authority_of_a_resource(authority, level, said, admitted):
    site = Site(facts(authorities=[authority] if authority else []))
    assert site.resource_levels["voms01"] is level
    (found,) = site.resources().shown
    assert (found.authority, [it.admitted for it in found.replicas]) == (said, admitted)


@pytest.mark.parametrize(
    ("asked", "commands", "proposal"),
    [
        (
            refused("see that v01 is off, then 'vmheal-actuator confirm-down v01'", "there_is_a_proof"),
            ("vmheal-actuator confirm-down v01", "vmheal-actuator explain voms01"),
            "",
        ),
        (refused(), ("drbdadm status voms01 (on v01 and v02)", "vmheal-actuator explain voms01"), ""),
        (
            refused("3 attempts", "attempts_are_left", EscalationKind.GAVE_UP),
            ("vmheal-actuator retry voms01", "vmheal-actuator explain voms01"),
            "",
        ),
        (refused("so", "not_in_the_table"), ("vmheal-actuator explain voms01",), ""),
        (waiting_for_approval(), ("vmheal-actuator approve voms01 0123456789",), "0123456789"),
        (
            refused("not started", "start", EscalationKind.FAILED, plan=failing_over().plan),
            ("vmheal-actuator journal show voms01-1",),
            "",
        ),
    ],
)
def test_a_person_is_given_the_command_that_answers(asked, commands, proposal):
    (found,) = Site(facts(records=[asked])).waiting
    assert (found.commands, found.proposal) == (commands, proposal)


def test_every_guard_of_the_table_gives_a_command():
    for guard in MEND:
        (found,) = Site(facts(records=[refused("so", guard)])).waiting
        assert all(found.commands)
        assert "{" not in "".join(found.commands)


def test_a_plan_has_its_steps_and_clocks():
    (line,) = Site(facts(records=[failing_over(NOW - 10.0)])).plans
    assert (line.title, line.seconds, line.word.level) == (
        "failover voms01 from v01 to v02",
        10.0,
        Level.BUSY,
    )
    assert [(it.text, it.word.text, it.seconds) for it in line.steps] == [
        ("make voms01 Primary on v02", "under way", 10.0),
        ("start voms01 on v02", "to come", None),
    ]


def test_a_plan_that_has_ended_stands_still():
    plan = failing_over(NOW - 100.0).plan
    done = replace(plan.steps[0], outcome=Done("it is"), concluded_at=NOW - 98.0)
    failed = replace(
        plan.steps[1], intended_at=NOW - 98.0, outcome=Failed("no memory"), concluded_at=NOW - 95.0
    )
    ended = replace(plan, status=PlanStatus.FAILED, finished_at=NOW - 95.0, steps=(done, failed))
    line = plan_line(ended, NOW)
    assert (line.seconds, line.word.text, line.word.level) == (5.0, "failed", Level.BAD)
    assert [(it.word.text, it.seconds) for it in line.steps] == [
        ("done, it is", 2.0),
        ("failed: no memory", 3.0),
    ]
    assert Site(facts(records=[record(plan=ended)])).plans == ()
    assert Site(facts(records=[record(plan=ended)])).plan("voms01-1") == line
    assert Site(facts()).plan("voms01-1") is None


def test_what_keeps_vmheal_from_seeing():
    deaf = facts(sources={"Alertmanager": False, "Prometheus": True, "libvirt on v01": False})
    assert Site(deaf).blind == ("Alertmanager does not answer",)
    assert Site(facts(reconciled_at=NOW - 60.0)).blind == ("nothing has been looked at for 60 s",)
    assert Site(facts(reconciled_at=None)).blind == ()


def test_a_pause_of_all():
    assert Site(facts(hosts={"": host("", paused=order())})).paused == order()
    assert Site(facts(hosts={"": host("", paused=order(until_at=NOW))})).paused is None


def test_the_worst_come_first_a_part_at_a_time():
    names = [f"vm{number:03}" for number in range(120)]
    config = settings("/nonexistent", domains={it: {"host": "v01", "hosts": ["v01", "v02"]} for it in names})
    records = [record(domain=it) for it in names]
    records[77] = replace(refused(), domain="vm077")
    states = {"v01": dict.fromkeys(names, DomainState.RUNNING)}
    site = Site(facts(settings=config, records=records, states=states, rehearsals={}))
    rows = site.vms(limit=50)
    assert [it.name for it in rows.shown][:3] == ["vm077", "vm000", "vm001"]
    assert (rows.found, rows.after) == (120, 50)
    last = site.vms(first=100, limit=50)
    assert ([it.name for it in last.shown][-1], len(last.shown), last.after) == ("vm119", 20, None)
    assert [it.name for it in site.vms("VM11").shown] == [f"vm11{number}" for number in range(10)]
    assert site.vms("v02").found == 120, "where it may run is searched, too"
    assert (site.vms("none").shown, site.vms(first=10**15).shown) == ((), ())


def test_what_the_actuator_itself_knows(folders):
    """Over hosts in memory: what reconcile, keeper and rehearsals have last seen, before and after a loss."""
    run = Run(10, folders())
    actuator, mesh = run.actuator, run.mesh

    def look() -> Site:
        actuator.reconciler.turn()
        actuator._keeper.turn()
        return actuator.site()

    with contextlib.closing(run.journal):
        fill(run.journal, mesh)
        look()
        actuator.rehearser.turn()
        site = look()
        assert set(site.host_levels.values()) == {Level.OK, Level.NOTE}, "few agents have been asked yet"
        assert set(site.resource_levels.values()) == {Level.OK}
        rehearsed = [name for name, level in site.vm_levels.items() if level is Level.OK]
        assert rehearsed == [actuator.rehearser.last()[0].domain]
        (vm,) = site.vms(rehearsed[0]).shown
        assert (vm.word.text, vm.resources) == (f"runs on {mesh.vms[vm.name].home}", (vm.name,))

        mesh.lose_rack()
        run.clock.now += 6.0
        site = look()
        (lost,) = mesh.rack
        (host,) = site.hosts(lost).shown
        assert host.management.text == "silent for 6 s"
        assert host.replication.level is Level.BAD
        bad = {name for name, level in site.vm_levels.items() if level is Level.BAD}
        assert bad == set(mesh.leaving)
