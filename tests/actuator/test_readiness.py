"""Would it work now? What is planted, and what the rehearsal says of it; on a healthy site it says nothing."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from pydantic_core import to_json

from actuator.core import readiness
from actuator.core.decide import TO_FAILOVER, TO_LIVE, TO_MOVE, Wish, decide
from actuator.core.guards.verbs import RESTART
from actuator.core.place import PLACE
from actuator.model import (
    Allowed,
    DomainState,
    Escalation,
    EscalationKind,
    Event,
    HostRecord,
    Order,
    Parting,
    Plan,
    Proof,
    Refusal,
    Unknown,
)
from actuator.openapi import Ready
from actuator.rehearse import AGENT_SECONDS, IDLE_SECONDS, Rehearser, table
from actuator.report import Report
from actuator.serve import Actuator
from exporter.drbd import DiskState, MalformedLine, Role
from exporter.drbd_configuration import Generations
from tests.actuator.test_moves import assert_moved, changes
from tests.actuator.test_moves import start as start  # noqa: PLC0414  a fixture
from tests.actuator.world import EPOCH, Guest, World, alert, host_alert, settings


def rehearser_of(machine) -> Rehearser:
    return Rehearser(machine.ports, machine.config, machine.protected, machine.worker)


def rehearsed(machine) -> dict[tuple[str, str], dict[str, readiness.Reason]]:
    """By verb and host: the reasons by their names. Nothing is changed by it."""
    before = (machine.timeline, machine.journal.records(), machine.journal.authorities())
    calls = changes(machine.world)
    last = rehearser_of(machine).rehearse("voms01")
    assert (machine.timeline, machine.journal.records(), machine.journal.authorities()) == before
    assert changes(machine.world) == calls
    return {(it.verb, it.host): {reason.name: reason for reason in it.reasons} for it in last.checks}


@pytest.mark.parametrize("xen", [True, False])
@pytest.mark.parametrize(
    "proof",
    [
        {"arbitrated": True},
        {"arbitrated": False, "agent": True},
        {"arbitrated": True, "agent": True},
        {"arbitrated": False, "failover": {"drbd_only": True}},
    ],
)
@pytest.mark.parametrize("resources", [("voms01",), ("voms01", "data")])
def test_of_a_healthy_site_nothing_is_said(start, xen, proof, resources):
    machine = start(World(xen=xen, resources=resources), **proof)
    machine.run(3, keeps=True)
    assert rehearsed(machine) == {
        ("restart", "v01"): {}, ("migrate", "v02"): {}, ("failover", "v02"): {},
    }  # fmt: skip


@pytest.mark.parametrize("arbitrated", [True, False])
def test_of_a_healthy_site_with_quorum_nothing_is_said(start, arbitrated):
    """What DRBD's quorum decides needs no handler, whatever others on its host need."""
    world = World(third="v02", parting=Parting.VOTES)
    for host in ("v01", "v02"):
        _sets_up(host, handler="")(world, None)
    machine = start(world, arbitrated=arbitrated, written=False, failover={"quorum": True})
    machine.run(60, keeps=True)
    assert set(map(len, rehearsed(machine).values())) == {0}


def test_a_vm_that_is_down_is_rehearsed_as_it_is(start):
    world = World()
    machine = start(world)
    machine.run(3, keeps=True)
    world.crash()
    assert set(map(len, rehearsed(machine).values())) == {0}


# ---- what is planted ---------------------------------------------------------------------------------------

RESTARTS, MOVES, FAILS_OVER = ("restart", "v01"), ("migrate", "v02"), ("failover", "v02")


@dataclass(frozen=True)
class Planted:
    """What was broken, and what was said: where, under which name, in which words, and what mends it."""

    what: str
    plant: Callable[[World, object], object]
    said: dict[tuple[str, str], str]
    sentence: str
    mend: str
    site: dict = field(default_factory=dict)
    world: dict = field(default_factory=dict)
    keeps: bool = True
    """Whether the keeper has looked at DRBD before."""


def _replica(host, **changed):
    def plant(world, machine):
        for key, value in changed.items():
            setattr(world.replicas[host, "voms01"], key, value)

    return plant


def _world(**changed):
    def plant(world, machine):
        for key, value in changed.items():
            setattr(world, key, value)

    return plant


def _authority(**changed):
    def plant(world, machine):
        before = machine.journal.authority("voms01")
        machine.journal.commit(authorities=[replace(before, version=before.version + 1, **changed)])

    return plant


def _order(**changed):
    return lambda world, machine: machine.journal.commit(hosts=[HostRecord(version=1, **changed)])


def _reports(where="v02", **changed):
    def plant(world, machine):
        before = world.setups[where]
        world.setups[where] = replace(before, handler=replace(before.handler, **changed))

    return plant


def _sets_up(host, **changed):
    def plant(world, machine):
        before = world.setups[host]
        resources = {name: replace(it, **changed) for name, it in before.resources.items()}
        world.setups[host] = replace(before, resources=resources)

    return plant


def _allows(host, allowed):
    def plant(world, machine):
        world.setups[host] = replace(world.setups[host], allowed=allowed)

    return plant


def _slow(name, host):
    def plant(world, machine):
        world.takes = lambda called, at: machine.clock.pause(1.5 * ((called, at) == (name, host)))

    return plant


def _undefined_and_not_kept(world, machine):
    world.undefined.add("v02")


TABLE = [
    Planted(
        "the mirror is inconsistent",
        _replica("v02", disk=DiskState.INCONSISTENT),
        {MOVES: "disk_is_up_to_date", FAILS_OVER: "disk_is_up_to_date"},
        "voms01/0 on v02 is Inconsistent, not UpToDate",
        "drbdadm status voms01 (on v01 and v02)",
    ),
    Planted(
        "the own disk is lost",
        _replica("v01", disk=DiskState.DISKLESS),
        {RESTARTS: "disk_is_up_to_date"},
        "voms01/0 on v01 is Diskless, not UpToDate",
        "drbdadm status voms01 (on v01 and v02)",
    ),
    Planted(
        "the replicas are not connected",
        _world(connected=False),
        {MOVES: "is_mirrored_here"},
        "voms01 on v02 is not connected to v01",
        "drbdadm connect voms01 (on v02)",
    ),
    Planted(
        "the mirror is excluded",
        _authority(admitted=frozenset({"v01"})),
        {MOVES: "authority_may_be_taken", FAILS_OVER: "authority_may_be_taken"},
        "the replica of voms01 on v02 is excluded",
        "drbdadm connect voms01 (on v01 and v02, until UpToDate)",
    ),
    Planted(
        "nobody was given the authority",
        lambda world, machine: None,
        dict.fromkeys((RESTARTS, MOVES, FAILS_OVER), "authority_may_be_taken"),
        "nobody has yet been given the authority over voms01",
        "drbdadm connect voms01 (on v01 and v02, until UpToDate)",
        site={"written": False},
        keeps=False,
    ),
    Planted(
        "blocks differ that a verify has found",
        _world(out_of_sync_bytes=8192),
        {MOVES: "is_in_sync", FAILS_OVER: "is_in_sync"},
        "8 KiB of voms01 differ between v01 and v02, although DRBD calls both UpToDate",
        "drbdadm disconnect voms01; drbdadm connect voms01 (on v02)",
    ),
    Planted(
        "DRBD says what nobody understands",
        _world(problems=(MalformedLine("no such key", "resource name:voms01 x:y", "voms01"),)),
        {RESTARTS: "drbd_is_understood", MOVES: "drbd_is_understood", FAILS_OVER: "drbd_is_understood"},
        "says what vmheal does not understand",
        "drbdadm status voms01",
    ),
    Planted(
        "the mirror is Primary, too",
        _replica("v02", role=Role.PRIMARY),
        {RESTARTS: "peer_is_not_primary", MOVES: "is_secondary_here"},
        "voms01 is Primary on v02",
        "drbdadm secondary voms01 (on",
    ),
    Planted(
        "there is neither arbiter nor agent nor quorum",
        lambda world, machine: None,
        {FAILS_OVER: "there_is_a_proof"},
        "there is no proof that v01 does not write to voms01's disks any more",
        "set hosts.v01.fence or hosts.v01.arbiter_token_file in the configuration",
        site={"arbitrated": False},
    ),
    Planted(
        "the kernel's fencing policy is not armed",
        _authority(armed=frozenset({"v02"})),
        {FAILS_OVER: "source_is_armed"},
        "voms01 was not seen with protocol C and fencing resource-and-stonith on v01",
        "drbdadm adjust voms01 (on v01",
    ),
    Planted(
        "protocol A",
        _authority(lossy=frozenset({"v01"})),
        {FAILS_OVER: "writes_reached_the_peer"},
        "voms01 was seen with protocol A or B on v01",
        "drbdadm adjust voms01 (on v01 and v02, with protocol C)",
    ),
    Planted(
        "the fence agent does not answer",
        _world(mute_agent="fence_dummy action=status ended with exit status 1: Unable to connect"),
        {FAILS_OVER: "fence_agent_answers"},
        "the fence agent of v01 does not say how it is: fence_dummy action=status ended with exit status 1",
        "set hosts.v01.fence right",
        site={"agent": True},
    ),
    Planted(
        "only the mirror stops without a quorum",
        _authority(voting=frozenset({"v02"})),
        {FAILS_OVER: "quorum_is_here"},
        "voms01 was not seen on v01 with protocol C and quorum majority",
        "drbdadm status voms01 (on v01 and v02)",
        site={"arbitrated": False, "written": False, "failover": {"quorum": True}},
        world={"third": "v02", "parting": Parting.VOTES},
    ),
    Planted(
        "the mirror's disk was made anew",
        lambda world, machine: (
            _world(connected=False)(world, machine),
            _replica("v02", generations=(Generations("B" * 16),))(world, machine),
        ),
        {MOVES: "is_mirrored_here", FAILS_OVER: "replica_continues"},
        "the data of voms01 on v02 do not continue those that both its hosts last had",
        "drbdadm connect voms01 (on",
        site={"arbitrated": False, "agent": True},
    ),
    Planted(
        "not defined on the mirror, and not kept",
        _undefined_and_not_kept,
        {MOVES: "is_defined_or_kept", FAILS_OVER: "is_defined_or_kept"},
        "libvirt on v02 does not know voms01",
        "virsh define voms01.xml (on v02)",
        site={"seconds": 0},
    ),
    Planted(
        "not defined at home",
        lambda world, machine: world.undefined.add("v01"),
        {RESTARTS: "is_defined"},
        "libvirt on v01 does not know voms01",
        "virsh define voms01.xml (on v01)",
    ),
    Planted(
        "the mirror's host has not the memory",
        lambda world, machine: (world.free_mib.update(v02=512), machine.run(6)),
        {MOVES: "has_memory", FAILS_OVER: "has_memory"},
        "v02 has 512 MiB of memory free, and voms01 may use 1024 MiB",
        "virsh freecell --all (on v02)",
    ),
    Planted(
        "libvirt would start it by itself where it ran",
        _world(autostarts={"v01"}),
        {FAILS_OVER: "autostart_is_off"},
        "libvirt on v01 starts voms01 by itself when v01 comes up",
        "virsh autostart --disable voms01 (on v01 and v02)",
    ),
    Planted(
        "and on the mirror",
        _world(autostarts={"v02"}),
        {FAILS_OVER: "autostart_is_off"},
        "libvirt on v02 starts voms01 by itself when v02 comes up",
        "virsh autostart --disable voms01 (on v01 and v02)",
    ),
    Planted(
        "the mirror's host does not answer",
        _world(silent={"v02"}),
        {MOVES: "libvirt_answers", FAILS_OVER: "libvirt_answers"},
        "libvirt on v02 does not answer",
        "vmheal-actuator check --live",
    ),
    Planted(
        "the own host does not answer",
        _world(silent={"v01"}),
        {RESTARTS: "libvirt_answers", MOVES: "source_answers"},
        "libvirt on v01 does not answer",
        "vmheal-actuator check --live",
    ),
    Planted(
        "libvirt answers late",
        _slow("states", "v02"),
        {MOVES: "libvirt_is_fast", FAILS_OVER: "libvirt_is_fast"},
        "libvirt on v02 needed 1.5 s for an answer, more than readiness.slow_seconds (1)",
        "systemctl status libvirtd (on v02)",
    ),
    Planted(
        "SSH answers late",
        _slow("status", "v01"),
        {RESTARTS: "drbd_is_fast"},
        "DRBD, over SSH, on v01 needed 1.5 s for an answer",
        "ssh v01 true",
    ),
    Planted(
        "Alertmanager does not show the Watchdog",
        lambda world, machine: (setattr(world, "watching", False), machine.run(130, keeps=True)),
        {FAILS_OVER: "not_blind"},
        "vmheal sees nothing of monitoring",
        "vmheal-actuator check --live",
    ),
    Planted(
        "the mirror's host is drained",
        _order(host="v02", drained=Order("ann", EPOCH)),
        {MOVES: "not_drained", FAILS_OVER: "not_drained"},
        "voms01 does not go to v02, which is drained",
        "vmheal-actuator undrain v02",
    ),
    Planted(
        "somebody has paused everything",
        _order(host="", paused=Order("ann", EPOCH)),
        {RESTARTS: "not_paused", MOVES: "not_paused", FAILS_OVER: "not_paused"},
        "all is paused by ann",
        "vmheal-actuator resume voms01",
    ),
    Planted(
        "a network of libvirt's is not active on the mirror",
        lambda world, machine: world.networks["v02"].clear(),
        {MOVES: "has_networks", FAILS_OVER: "has_networks"},
        "v02 has not the networks of voms01: libvirt's network default is not active there",
        "virsh net-list --all (on v02)",
    ),
    Planted(
        "the mirror has not the bridge",
        _reports(links={"lo": True}),
        {MOVES: "has_networks", FAILS_OVER: "has_networks"},
        "v02 has not the networks of voms01: there is no interface br0",
        "ip -brief link",
    ),
    Planted(
        "the own host's bridge is down",
        _reports("v01", links={"br0": False}),
        {RESTARTS: "has_networks"},
        "v01 has not the networks of voms01: its interface br0 is down",
        "ip -brief link",
    ),
    Planted(
        "the mirror has not the processor that is asked for",
        lambda world, machine: world.epyc.discard("v02"),
        {MOVES: "cpu_fits", FAILS_OVER: "cpu_fits"},
        "voms01 asks for a processor that v02 does not have: Host CPU does not provide required features: svm",
        "virsh hypervisor-cpu-compare voms01.xml --error (on v02)",
        world={"xen": False, "cpu": "<cpu mode='custom'><model>EPYC</model></cpu>"},
    ),
    Planted(
        "the mirror has another processor than the VM sees",
        _reports(cpu="AMD EPYC 7302"),
        {MOVES: "cpu_is_the_same"},
        "voms01 sees the processor of v01 itself (host-passthrough: AMD EPYC 7543), and v02 has another one (AMD EPYC"
        " 7302)",
        "give voms01 a processor by name",
        world={"xen": False, "cpu": "<cpu mode='host-passthrough'/>"},
    ),
    Planted(
        "the mirror does not allow the VM and its disk",
        _allows("v02", Allowed(frozenset({"other"}), frozenset())),
        {MOVES: "is_allowed_there", FAILS_OVER: "is_allowed_there"},
        "vmheal-host on v02 refuses it: its /etc/vmheal/host.conf does not name resource voms01, domain voms01",
        "name voms01 and voms01 in /etc/vmheal/host.conf; pkill -u vmheal (on v02)",
    ),
    Planted(
        "its own host does not allow the VM",
        _allows("v01", Allowed(None, frozenset({"other"}))),
        {RESTARTS: "is_allowed_there"},
        "vmheal-host on v01 refuses it: its /etc/vmheal/host.conf does not name domain voms01",
        "in /etc/vmheal/host.conf; pkill -u vmheal (on v01)",
    ),
    Planted(
        "its own host does not send it to the mirror while it runs",
        _allows("v01", Allowed(migrate_uris=frozenset({"tcp://localhost"}))),
        {MOVES: "may_be_sent_there"},
        "vmheal-host on v01 does not send it to v02 while it runs: its /etc/vmheal/host.conf does not name migrate_uri"
        " qemu:///system",
        "name each migrate_uri in /etc/vmheal/host.conf; pkill -u vmheal (on v01)",
        world={"xen": False},
    ),
    Planted(
        "auto-promote on the mirror",
        _sets_up("v02", auto_promote=True),
        {FAILS_OVER: "auto_promote_is_off"},
        "voms01 on v02 has auto-promote",
        "drbdadm adjust voms01 (on v01 and v02, with auto-promote no)",
    ),
    Planted(
        "DRBD's own timers",
        _sets_up("v01", notices_seconds=10.5),
        {FAILS_OVER: "loss_is_noticed_in_time"},
        "voms01 on v01 needs up to 10.5 s to see that it is cut off (ping-int and ping-timeout), and"
        " failover.margin_seconds is 5",
        "with a shorter ping-int",
    ),
    Planted(
        "no handler is configured",
        _sets_up("v01", handler=""),
        {FAILS_OVER: "handler_can_run"},
        "DRBD's configuration on v01 names no fence-peer handler for voms01",
        "vmheal-fence-peer check",
    ),
    Planted(
        "the handler is not installed",
        lambda world, machine: world.setups.update(
            v02=replace(world.setups["v02"], handler=Unknown("vmheal-fence-peer check on v02: not found"))
        ),
        {FAILS_OVER: "handler_can_run"},
        "DRBD's handler on v02 cannot be asked: vmheal-fence-peer check on v02: not found",
        "vmheal-fence-peer check",
    ),
    Planted(
        "the handler does not reach the actuator",
        _reports(problems=("no actuator answers: mon:1: refused",)),
        {FAILS_OVER: "handler_can_run"},
        "DRBD's handler on v02 could not do its work: no actuator answers: mon:1: refused",
        "vmheal-fence-peer check",
    ),
    Planted(
        "the handler has another host's token",
        _reports("v01", host="v02"),
        {FAILS_OVER: "handler_is_its_own"},
        "DRBD's handler on v01 has the token of v02",
        "token_file",
    ),
    Planted(
        "the host ends what is cut off later than is counted on",
        _reports("v01", isolation_seconds=60.0),
        {FAILS_OVER: "isolation_is_agreed"},
        "cut off, DRBD's handler on v01 ends voms01 after 60 s, and vmheal counts on 5 s",
        "as in fence-peer.conf",
    ),
    Planted(
        "the mirror's clock is late",
        _reports(ahead_seconds=-93.04),
        {MOVES: "clock_is_right", FAILS_OVER: "clock_is_right"},
        "the clock of v02 is 93.0 s behind that of vmheal's machine, more than readiness.clock_skew_seconds (1)",
        "timedatectl timesync-status (on v02)",
    ),
    Planted(
        "the fence agent has another host's plug",
        _world(wrong_plugs={"v01"}),
        {FAILS_OVER: "fence_agent_is_its_own"},
        "the fence agent of v01 says that it is off, and it answers",
        "set hosts.v01.fence right",
        site={"agent": True},
    ),
    Planted(
        "the VM is paused",
        lambda world, machine: world.guests.update(v01=Guest(DomainState.PAUSED, 5, "ioerror")),
        {RESTARTS: "is_down"},
        "voms01 is paused on v01 (reason: ioerror)",
        "virsh domstate --reason voms01 (on v01)",
    ),
    Planted(
        "the VM runs without its disk",
        lambda world, machine: setattr(world.guests["v01"], "has_disks", False),
        {MOVES: "runs_on_its_source"},
        "voms01 does not run on v01 with all of its disks",
        "virsh destroy voms01 (on v01; vmheal starts it anew)",
        world={"xen": False},
    ),
    Planted(
        "the VM runs on both hosts",
        lambda world, machine: world.guests.update(v02=Guest(DomainState.RUNNING, 7)),
        {RESTARTS: "runs_nowhere_else", MOVES: "is_down", FAILS_OVER: "is_down"},
        "voms01 is running on v02",
        "virsh d",
    ),
]


@pytest.mark.parametrize("planted", TABLE, ids=lambda it: it.what)
def test_what_is_broken_is_found(start, planted):
    site = dict(planted.site)
    seconds = site.pop("seconds", 30)
    machine = start(World(**planted.world), **site)
    machine.run(seconds, keeps=planted.keeps)
    planted.plant(machine.world, machine)
    found = rehearsed(machine)
    for where, name in planted.said.items():
        assert name in found[where], found[where]
    reasons = [found[where][name] for where, name in planted.said.items()]
    assert any(planted.sentence in reason.sentence for reason in reasons), reasons
    assert all(planted.mend in reason.mend for reason in reasons), reasons
    assert not any(found[where] for where in found.keys() - planted.said.keys()), found


def test_enough_is_planted():
    assert len({it.what for it in TABLE}) >= 40
    assert len({name for it in TABLE for name in it.said.values()}) >= 30


def test_each_reason_has_what_mends_it():
    guards = {guard.__name__ for guard in (*RESTART, *TO_LIVE, *TO_MOVE, *TO_FAILOVER, *PLACE)}
    assert guards <= readiness.MEND.keys()
    page = (Path(__file__).parents[2] / "docs" / "readiness.md").read_text()
    assert set(re.findall(r"`([a-z_]+)`", page.partition("## The reasons")[2].partition("##")[0])) == set(
        readiness.MEND
    )


def test_a_host_has_room_only_for_what_would_come_with_it(start):
    """Each of the two fits alone, and moves; when their host is lost only the first one does."""
    hosts = {"host": "v01", "hosts": ["v01", "v02"]}
    world = World(free_mib={"v01": 8192, "v02": 1536})
    machine = start(world, domains={"voms01": hosts, "voms02": hosts})
    machine.run(3, keeps=True)
    machine.worker.rooms.defined("voms02", "<domain><memory unit='KiB'>1048576</memory></domain>")
    rehearser = rehearser_of(machine)
    said = {
        name: {(it.verb, it.host): [why.name for why in it.reasons] for it in rehearser.rehearse(name).checks}
        for name in ("voms01", "voms02")
    }
    assert said["voms01"][FAILS_OVER] == []
    assert said["voms02"][FAILS_OVER] == ["has_memory"]
    assert said["voms01"][MOVES] == said["voms02"][MOVES] == []


def test_without_another_host_nothing_can_move(start):
    machine = start(World(), domains={"voms01": {"host": "v01", "hosts": ["v01"]}})
    machine.run(3, keeps=True)
    found = rehearsed(machine)
    assert found.pop(RESTARTS) == {}
    assert {where: set(why) for where, why in found.items()} == {
        ("migrate", "v01"): {"has_a_target"}, ("failover", "v01"): {"has_a_target"},
    }  # fmt: skip


def test_what_was_given_up_is_said(start):
    machine = start(World())
    machine.run(3, keeps=True)
    standing = Escalation(EscalationKind.GAVE_UP, "v01", "attempts_are_left", "3 attempts did not hold", 0.0)
    machine.journal.commit(record=replace(machine.record, version=1, escalation=standing))
    reason = rehearsed(machine)[RESTARTS]["attempts_are_left"]
    assert (reason.sentence, reason.mend) == ("3 attempts did not hold", "vmheal-actuator retry voms01")


@pytest.mark.parametrize(("reached", "said"), [((), {"has_quorum"}), (("v03",), set())])
def test_without_the_host_the_others_must_have_a_quorum(start, reached, said):
    """Of three: whether the third one is there counts only once the host is lost."""
    world = World(third="v02", parting=Parting.VOTES)
    machine = start(world, arbitrated=False, written=False, failover={"quorum": True})
    machine.run(60, keeps=True)
    world.third_reached = bool(reached)
    found = rehearsed(machine)
    assert set(found[FAILS_OVER]) == said
    assert set(found[RESTARTS]) == ({"peer_is_known"} if said else set())


# ---- its turns ---------------------------------------------------------------------------------------------


def test_turn_by_turn_each_vm_once_in_an_interval(start, clock):
    hosts = {"host": "v01", "hosts": ["v01", "v02"]}
    machine = start(World(), domains={"voms01": hosts, "voms02": hosts})
    machine.run(3, keeps=True)
    rehearser = rehearser_of(machine)
    assert table(rehearser.last(), machine.config.domains) == {
        "domains": [], "not_rehearsed": ["voms01", "voms02"],
    }  # fmt: skip
    assert [rehearser.turn(), rehearser.turn()] == [30.0, 30.0]
    assert [it.domain for it in rehearser.last()] == ["voms01", "voms02"]
    shown = table(rehearser.last(), machine.config.domains)
    Ready.model_validate_json(to_json(shown))
    assert shown["not_rehearsed"] == []
    assert [it["ready"] for it in shown["domains"][0]["checks"]] == [True] * 3
    machine.world.calls.clear()
    clock.now += 30
    rehearser.turn()
    assert {"host_view", "setup", "states"}.isdisjoint(machine.world.calls), "hosts were asked in this round"
    clock.now += 30
    rehearser.turn()
    assert {"host_view", "setup", "states"} <= set(machine.world.calls)


def test_it_rests_for_longer_than_it_works(start):
    world = World()
    names = ["voms01", *(f"other{number}" for number in range(99))]
    hosts = {"host": "v01", "hosts": ["v01", "v02"]}
    machine = start(world, domains=dict.fromkeys(names, hosts), readiness={"interval_seconds": 10})
    world.takes = lambda called, host: machine.clock.pause(0.25)
    rehearser = rehearser_of(machine)
    rehearser.turn()  # which asks how the hosts are, too
    begun = machine.clock.now
    seconds = rehearser.turn()
    assert machine.clock.now - begun == 0.5
    assert seconds == 2.0
    world.takes = lambda called, host: machine.clock.pause(4)
    assert rehearser.turn() == 10.0, "never longer than a round"


def test_what_it_says_is_published(start):
    world = World(autostarts={"v02"})
    machine = start(world)
    machine.run(3, keeps=True)
    report = Report(machine.config)
    rehearser = rehearser_of(machine)
    report.show_readiness(rehearser.last)
    value = report.registry.get_sample_value
    to = {"domain": "voms01", "host": "v02", "verb": "failover"}
    assert value("vmheal_domain_ready", to) is None, "not rehearsed yet"
    rehearser.turn()
    assert value("vmheal_domain_ready", to) == 0
    assert value("vmheal_domain_ready", to | {"verb": "migrate"}) == 1
    assert value("vmheal_domain_ready", to | {"verb": "restart", "host": "v01"}) == 1
    why = {"reason": "autostart_is_off", "mend": "virsh autostart --disable voms01 (on v01 and v02)"}
    assert value("vmheal_domain_not_ready_info", to | why) == 1
    assert value("vmheal_domain_rehearsed_timestamp_seconds", {"domain": "voms01"}) == machine.clock.wall()
    world.autostarts.clear()
    machine.run(60, keeps=True)
    rehearser.turn()
    assert value("vmheal_domain_ready", to) == 1
    assert value("vmheal_domain_not_ready_info", to | why) is None


def test_how_long_it_would_take_is_told_and_compared_with_what_it_took(start, clock):
    world = World()
    machine = start(world)
    machine.run(3, keeps=True)
    world.on_call = lambda name: clock.pause(2.0 * (name == "start"))
    report = Report(machine.config)
    report.show(machine.protected)
    rehearser = rehearser_of(machine)
    report.show_readiness(rehearser.last)
    value = report.registry.get_sample_value
    restart = {"domain": "voms01", "host": "v01", "verb": "restart"}
    failover = {"domain": "voms01", "host": "v02", "verb": "failover"}
    ended = restart | {"source": "", "outcome": "succeeded"}

    def crash():
        world.crash()
        machine.receive(alert(machine.clock.wall(), fingerprint=str(clock.now)))
        machine.run(130)
        rehearser.turn()

    rehearser.turn()
    assert value("vmheal_domain_recovery_forecast_seconds", restart) is None, "nothing was done yet"
    crash()
    assert machine.record.plan.forecast_seconds is None
    assert value("vmheal_domain_plan_forecast_seconds", ended) is None
    assert value("vmheal_domain_recovery_forecast_seconds", restart) == 2.0
    assert value("vmheal_domain_recovery_forecast_seconds", failover) is None, "nothing was promoted yet"
    shown = table(rehearser.last(), machine.config.domains)["domains"][0]["checks"]
    assert [it["forecast_seconds"] for it in shown] == [2.0, None, None]
    world.on_call = lambda name: clock.pause(3.0 * (name == "start"))
    crash()
    assert value("vmheal_domain_plan_forecast_seconds", ended) == 2.0
    assert value("vmheal_domain_plan_duration_seconds", ended) == 3.0
    (finished,) = (it for it in machine.timeline if it.kind == "finished" and "forecast_seconds" in it.detail)
    assert (finished.detail["forecast_seconds"], finished.detail["seconds"]) == (2.0, 3.0)
    assert value("vmheal_domain_recovery_forecast_seconds", restart) == 2.5, "the median"


def test_a_failover_is_foretold_with_its_wait(start, clock):
    world = World()
    machine = start(world)
    machine.run(3, keeps=True)
    steps = {"promote": 1.0, "start": 2.0, "confirm": 0.5}
    detail = {"outcome": "done", "called_at": 0.0, "on": "v02"}
    events = [
        Event(0.0, "outcome", "", detail=detail | {"step": step, "seconds": seconds})
        for step, seconds in steps.items()
    ]
    machine.journal.commit(events=events)
    last = rehearser_of(machine).rehearse("voms01")
    waits = machine.config.failover.isolation_seconds
    assert last.forecasts["failover", "v02"] == 1.0 + waits + 2.0 + 0.5
    assert last.forecasts["restart", "v01"] == 2.0 + 0.5, "the disk is Primary there"
    world.autostarts.add("v02")
    clock.now += 60
    again = rehearser_of(machine).rehearse("voms01")
    assert ("failover", "v02") not in again.forecasts, "it would not work"


def test_it_runs_in_a_thread_of_its_own(start):
    world = World()
    machine = start(world)
    stopping = threading.Event()
    actuator = Actuator(machine.ports, machine.config, Report(machine.config), stopping)
    names = {thread.name for thread in actuator._threads}
    assert "rehearsals" in names
    off = settings(machine.config.journal.path, readiness={"interval_seconds": 0})
    names = {thread.name for thread in Actuator(machine.ports, off, Report(off), stopping)._threads}
    assert names == {"worker", "reconcile", "keeper"}


def test_a_fence_agent_is_asked_now_and_then(start, clock):
    world = World()
    machine = start(world, agent=True)
    rehearser = rehearser_of(machine)
    for _ in range(10):
        rehearser.turn()
        clock.now += 60
    assert world.calls.count("is_on") == 2 * (1 + int(540 // AGENT_SECONDS))
    assert {host: it.on for host, it in rehearser.power().items()} == {"v01": True, "v02": True}
    world.mute_agent = "no route"
    clock.now += AGENT_SECONDS
    rehearser.turn()
    said = rehearser.power()["v01"]
    assert (said.on, "no route" in said.problem) == (None, True)
    assert rehearser.last()[0].resources == ("voms01",)


@pytest.mark.parametrize("errs", [True, False])
def test_an_agent_that_looks_at_another_host_is_no_proof(start, errs):
    """It would say "off already" of a host that lives, and its VM be started a second time at once."""
    world = World(wrong_plugs={"v01"} if errs else set())
    machine = start(world, agent=True)
    machine.run(3, keeps=True)
    rehearser_of(machine).turn()
    assert machine.worker.wrong_agents == (world.wrong_plugs)
    world.power_cut("v01")
    world.calls.clear()
    machine.receive(host_alert(machine.clock.wall()))
    machine.run(20, keeps=True)
    assert_moved(world, machine)
    assert machine.record.plan.plan.proof is (Proof.ARBITRATED if errs else Proof.POWER)
    assert ("power_off" in world.calls) is not errs


def test_an_agent_that_calls_a_host_off_that_is_off_is_right(start, clock):
    world = World(silent={"v01"})
    machine = start(world, agent=True)
    rehearser = rehearser_of(machine)
    rehearser.turn()
    assert machine.worker.wrong_agents == frozenset()
    world.silent.clear()
    world.wrong_plugs.add("v01")
    clock.now += AGENT_SECONDS
    rehearser.turn()
    assert machine.worker.wrong_agents == {"v01"}
    world.wrong_plugs.clear()
    clock.now += AGENT_SECONDS
    rehearser.turn()
    assert machine.worker.wrong_agents == frozenset()


def test_how_fast_hosts_answer_is_measured_before_they_have_more_to_do(start):
    """The handler is a program that has to be started there."""
    machine = start(World())
    machine.run(3, keeps=True)
    machine.world.calls.clear()
    rehearser_of(machine).turn()
    assert machine.world.calls[:8] == ["states", "status"] * 2 + ["host_view", "setup"] * 2


def test_a_host_that_does_not_answer_is_not_asked_for_more(start):
    machine = start(World(silent={"v02"}))
    machine.run(3, keeps=True)
    machine.world.calls.clear()
    rehearser_of(machine).turn()
    assert [machine.world.calls.count(name) for name in ("states", "host_view", "setup")] == [2, 1, 1]


def test_a_setup_that_cannot_be_read_is_said(start):
    """DRBD answers, and what it is configured to do is not understood."""
    machine = start(World())
    machine.run(3, keeps=True)
    machine.world.setups = {}
    machine.world.setup_says = "v01: the output of 'drbdsetup show' is not understood"
    assert "is not understood" in rehearsed(machine)[FAILS_OVER]["handler_can_run"].sentence


def test_a_processor_is_asked_about_once_in_a_round_for_all_vms(start, clock):
    hosts = {"host": "v01", "hosts": ["v01", "v02"]}
    world = World(xen=False, cpu="<cpu mode='custom'><model>EPYC</model></cpu>")
    machine = start(world, domains={"voms01": hosts, "voms02": hosts})
    machine.run(3, keeps=True)
    for name in ("voms01", "voms02"):
        assert machine.journal.definition(name) is not None
    rehearser = rehearser_of(machine)
    world.calls.clear()
    rehearser.turn()
    rehearser.turn()
    assert world.calls.count("cpu_misses") == 2, "once for each host"
    clock.now += 60
    rehearser.turn()
    assert world.calls.count("cpu_misses") == 4


@pytest.mark.parametrize("lacks", [True, False])
def test_what_runs_does_not_go_where_its_networks_are_not(start, lacks):
    world = World(xen=False)
    machine = start(world)
    machine.run(30, keeps=True)
    if lacks:
        world.networks["v02"].clear()
    rehearser_of(machine).turn()
    moved = machine.worker.question(machine.record)
    decision = decide(replace(moved, wish=Wish("migrate", to="v02", leave=True)))
    assert isinstance(decision, Refusal if lacks else Plan)
    if lacks:
        assert decision.guard == "has_networks"


def test_switched_off_it_asks_nobody(start):
    machine = start(World(), readiness={"interval_seconds": 0})
    machine.world.calls.clear()
    assert rehearser_of(machine).turn() == IDLE_SECONDS
    assert machine.world.calls == []


def test_a_journal_that_fails_leaves_the_last_word(start):
    machine = start(World())
    rehearser = rehearser_of(machine)
    rehearser.turn()
    before = rehearser.last()
    machine.close()
    rehearser.turn()
    assert rehearser.last() == before
