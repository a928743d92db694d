"""rules/health.yml on what the real exporter and actuator publish: DRBD's captures, libvirt's words, the journal."""

import contextlib
import re
import time
from dataclasses import replace as changed
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from prometheus_client import Gauge
from prometheus_client.metrics_core import Metric

from actuator.config import ConfigError
from actuator.core.readiness import Check, Reason
from actuator.model import (
    DomainRecord,
    Escalation,
    EscalationKind,
    Event,
    Order,
)
from actuator.ports import JournalError
from actuator.rehearse import Rehearsal
from actuator.reload import Reloader
from exporter.collectors import drbd
from exporter.collectors.libvirt_state import LibvirtState, LifecycleEvents
from exporter.scrape import Scraper
from tests.exporter.fake_drbd import DUMP_XML
from tests.grafana.promql import parse, selectors
from tests.rules.pages import (
    HEALTHY9,
    HEALTHY84,
    RUNS,
    ActuatorPage,
    actuator,
    armed,
    domains,
    hardware,
    open_plan,
)
from tests.rules.replay import RECORDED, SOON, Replay, alerts, told

pytestmark = pytest.mark.daemons  # needs Debian's prometheus package

BEGINS = 10
"""When the fault begins, in seconds; before it all is well."""


def both(label: str) -> dict[str, str]:
    return {host: f"{label}.{host}" for host in ("v01", "v02")}


def all_of(label: str) -> dict[str, str]:
    return {host: f"{label}/{host}" for host in ("v01", "v02", "v03")}


def up(replay: Replay, hosts, at: range) -> None:
    for host in hosts:
        replay.up(host, 1, at)


def link(host: str, name: str, conn_name: str):
    return told("ReplicationLinkDown", host=host, name=name, conn_name=conn_name)


def stands_alone(host: str, name: str, conn_name: str):
    return told("DRBDStandAlone", host=host, name=name, conn_name=conn_name)


def last_copy(name: str, volume: str = "0"):
    return told("DRBDRedundancyLost", name=name, volume=volume)


# ---- DRBD ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "healthy", [HEALTHY84, HEALTHY9, both("15-connected-both-secondary")], ids=["84", "9", "idle"]
)
def test_a_healthy_pair_says_nothing(replay, healthy):
    at = range(0, 420, 10)
    replay.step = 10
    for host, label in healthy.items():
        replay.drbd(host, label, at)
    up(replay, healthy, at)
    replay.expect(410)
    replay.ask()


@pytest.mark.parametrize(
    ("healthy", "faulty", "alert", "seconds", "alerts"),
    [
        pytest.param(
            HEALTHY84,
            both("37-two-primaries"),
            "DRBDTwoPrimaries",
            5,
            [told("DRBDTwoPrimaries", name="voms01")],
            id="two Primaries that are connected",
        ),
        pytest.param(
            HEALTHY84,
            both("31c-dual-primary-split"),
            "DRBDTwoPrimaries",
            5,
            [told("DRBDTwoPrimaries", name="voms01")],
            id="two Primaries that do not see each other",
        ),
        pytest.param(
            HEALTHY84,
            {"v01": "37-two-primaries.v01"},
            "DRBDTwoPrimaries",
            5,
            [told("DRBDTwoPrimaries", name="voms01"), told("HostUnreachable", host="v02")],
            id="two Primaries of which one tells",
        ),
        pytest.param(
            HEALTHY84,
            both("19-standalone-v02"),
            "DRBDStandAlone",
            30,
            [stands_alone("v02", "voms01", "v01"), link("v01", "voms01", "v02"), link("v02", "voms01", "v01")],
            id="a Secondary that is StandAlone",
        ),
        pytest.param(
            HEALTHY84,
            both("12-link-cut-during-sync"),
            "DRBDRedundancyLost",
            60,
            [last_copy("voms01"), link("v01", "voms01", "v02"), link("v02", "voms01", "v01")],
            id="one current copy, cut off",
        ),
        pytest.param(
            HEALTHY84,
            both("08-syncing-mid"),
            "DRBDRedundancyLost",
            60,
            [last_copy("voms01")],
            id="one current copy, while the other is resynced",
        ),
        pytest.param(
            HEALTHY84,
            both("41-diskless-secondary"),
            "DRBDDiskFailed",
            10,
            [told("DRBDDiskFailed", host="v01", name="voms01", volume="0")],
            id="a Secondary without its disk",
        ),
        pytest.param(
            HEALTHY9,
            all_of("13-diskless-after-detach"),
            "DRBDDiskFailed",
            10,
            [told("DRBDDiskFailed", host="v02", name="voms01", volume="0")],
            id="of DRBD 9, beside one that is diskless on purpose",
        ),
        pytest.param(
            HEALTHY9,
            {
                "v01": "50-fencing-resource-and-stonith-handler-exit-1/v01",
                "v02": "50-fencing-resource-and-stonith-handler-exit-1/v02",
                "v03": "08b-connected-uptodate-primary-secondary/v03",
            },
            "DRBDSuspended",
            30,
            [
                told("DRBDSuspended", host="v01", name="ce01"),
                *(link(*it) for name in ("ce01", "voms01") for it in (("v01", name, "v02"), ("v02", name, "v01"))),
                link("v02", "voms01", "v03"),
            ],
            id="a Primary that is frozen",
        ),
        pytest.param(
            HEALTHY9,
            all_of("40b-diverged") | {"v03": HEALTHY9["v03"]},
            "DRBDTwoPrimaries",
            5,
            [told("DRBDTwoPrimaries", name="ce01")],
            id="two Primaries of DRBD 9, and one replica without a quorum",
        ),
        pytest.param(
            HEALTHY9,
            {"v02": "38-v02-isolated-no-quorum/v02"},
            "DRBDNoQuorum",
            15,
            [
                told("DRBDNoQuorum", host="v02", name="voms01"),
                told("HostFailure", host="v01"),
                told("HostFailure", host="v03"),
                told("VMHealStorm"),
            ],
            id="nobody with a quorum who could be asked",
        ),
        pytest.param(
            HEALTHY9,
            {"v01": "17-failover-promote-with-quorum/v01", "v02": "17-failover-promote-with-quorum/v02"},
            "DRBDNoQuorum",
            15,
            [
                told("DRBDNoQuorum", host="v01", name="voms01"),
                told("HostUnreachable", host="v03"),
                *(link(*it) for name in ("ce01", "voms01") for it in (("v01", name, "v02"), ("v02", name, "v01"))),
            ],
            id="a Primary without a quorum",
        ),
    ],
)  # fmt: skip
def test_drbd(replay, healthy, faulty, alert, seconds, alerts):
    """It is quiet before, until its time has come, and then what is to be said is said."""
    end = BEGINS + seconds + 2
    up(replay, healthy, range(BEGINS))
    for host, label in healthy.items():
        replay.drbd(host, label, range(BEGINS))
        replay.up(host, host in faulty, range(BEGINS, end))
    for host, label in faulty.items():
        replay.drbd(host, label, range(BEGINS, end))
    replay.expect(BEGINS - 1)
    replay.quiet(BEGINS + seconds - 1, alert)
    replay.expect(end - 1, *alerts)
    replay.ask()


def third_replica(text: str) -> str:
    """DRBD 9's capture with a disk on the tie-breaker, too."""
    assert "peer-disk:Diskless" in text
    return text.replace("peer-disk:Diskless", "peer-disk:UpToDate")


def test_copies_are_counted_where_most_are_seen(replay):
    """Two of three are left; and a host without a disk sees those of its two peers."""
    at = range(0, 120, 5)
    replay.step = 5
    replay.up("v01", 1, at)
    replay.up("v02", 1, at)
    replay.drbd("v01", "38-v02-isolated-no-quorum/v01", at, events2=third_replica)
    replay.drbd("v02", "38-v02-isolated-no-quorum/v02", at)
    replay.quiet(115, "DRBDRedundancyLost")
    replay.ask()


def test_copies_as_a_host_without_a_disk_sees_them(replay):
    at = range(0, 120, 5)
    replay.step = 5
    replay.up("v03", 1, at)
    replay.drbd("v03", HEALTHY9["v03"], at)
    replay.expect(115)
    replay.ask()


def test_a_split_brain_is_said_until_the_two_have_met(replay, fake):
    with fake.kernel() as says:
        replay._node("v01")
        collector = drbd.Drbd(fake.paths)
        for second, label, text in (
            (0, "32-splitbrain-healed.v01", ""),
            (
                10,
                "32-splitbrain-healed.v01",
                "block drbd0: Split-Brain detected but unresolved, dropping connection!",
            ),
            (20, "14-connected-primary-secondary.v01", ""),
        ):
            fake.replay84(label)
            if text:
                says(text)
            replay.publish(
                "v01", list(collector.collect(time.monotonic() + SOON)), range(second, second + 10)
            )
        collector.close()
    replay.quiet(9, "DRBDSplitBrain")
    replay.expect(19, told("DRBDSplitBrain", name="voms01"))
    replay.expect(29)
    replay.ask()


@pytest.mark.parametrize("copies", [both("37-two-primaries")])
@pytest.mark.parametrize("why", ["plan", "libvirt", "another domain's plan"])
def test_two_primaries_of_a_live_migration(replay, journal, copies, why):
    for host, label in copies.items():
        replay.drbd(host, label, range(40))
    up(replay, copies, range(40))
    moves = {"voms01": ("paused", "migration") if why == "libvirt" else ("running", "booted")}
    replay.publish("v01", domains(voms01=("running", "booted")), range(40))
    replay.publish("v02", domains(**moves) if why == "libvirt" else domains(), range(20))
    replay.publish("v02", domains(), range(20, 40))
    if why != "libvirt":
        domain = "voms01" if why == "plan" else "voms02"
        open_plan(journal, domain, "migrate", 0.0)
    actuator(replay, journal, range(20))
    journal.commit("voms01", plan=None)
    open_plan(journal, "voms02", "migrate", 0.0)
    actuator(replay, journal, range(20, 40))
    two = told("DRBDTwoPrimaries", name="voms01")
    replay.expect(19, *([two] if why.startswith("another") else []))
    replay.expect(39, two)
    replay.ask()


@pytest.mark.parametrize(
    ("target", "quiet", "stalls"),
    [
        ("8.4", 179, True),
        ("paused", 179, True),
        ("StartingSyncT", 179, True),
        ("WFBitMapT", 179, True),
        ("WFSyncUUID", 179, True),
        ("stops", 340, True),
        ("goes on", 0, False),
        ("ended", 0, False),
    ],
)
def test_a_resync_that_stands_still(replay, target, quiet, stalls):
    """One moves all the while, as in two captures that came one after the other; one stops moving; one is over."""
    hosts = both("08-syncing-mid")
    if target == "paused":
        hosts = {host: f"05a-paused-sync-by-source/{host}" for host in ("v01", "v02")}
    if target == "ended":
        hosts = HEALTHY84

    def begins(text: str) -> str:
        assert "SyncTarget" in text
        return text.replace("SyncTarget", target)

    edit = (
        {"proc": begins, "events2": begins} if target in {"StartingSyncT", "WFBitMapT", "WFSyncUUID"} else {}
    )
    length, alert = 370, told("DRBDResyncStalled", host="v02", name="voms01", conn_name="v01", volume="0")
    for host, label in hosts.items():
        replay.up(host, 1, range(length))
        replay.drbd(host, label, range(length), **(edit if host == "v02" else {}))
    if target in {"goes on", "stops"}:
        for at in range(0, length if target == "goes on" else 50, 100):
            replay.drbd("v02", "07-syncing-early.v02", range(at, at + 50))
    copies = [] if target == "ended" else [last_copy("voms01")]
    if quiet:
        replay.quiet(quiet, "DRBDResyncStalled")
    replay.expect(length - 1, *copies, *([alert] if stalls else []))
    replay.ask()


def differs(text: str) -> str:
    """As after a verify that found a difference: no capture has both disks UpToDate then."""
    assert "oos:0" in text
    return text.replace("oos:0", "oos:4")


@pytest.mark.parametrize(
    "label", [HEALTHY84["v01"], "41-diskless-secondary.v02"], ids=["differs", "diskless peer"]
)
def test_replicas_that_differ(replay, label):
    """A Primary counts what its diskless peer misses: that is no difference between two disks."""
    replay.up("v01", 1, range(80))
    replay.drbd("v01", HEALTHY84["v01"], range(10))
    if label == HEALTHY84["v01"]:
        replay.drbd("v01", label, range(10, 80), proc=differs)
        replay.quiet(69, "DRBDOutOfSync")
        replay.expect(79, told("DRBDOutOfSync", name="voms01", volume="0"))
    else:
        replay.drbd("v01", label, range(10, 80))
        replay.expect(79, last_copy("voms01"))
    replay.expect(9)
    replay.ask()


@pytest.mark.parametrize("what", ["policy", "handler", "helper", "no helper", "nothing", "not protected"])
def test_a_resource_that_asks_nobody(replay, fake, journal, what):
    length = 330
    if what == "handler":
        fake.prints(
            "dump-xml", DUMP_XML.replace("/usr/lib/vmheal/fence-peer", "/usr/lib/drbd/crm-fence-peer.sh")
        )
    if what == "helper":
        fake.paths.usermode_helper.write_text("/bin/true\n")
    if what == "no helper":
        fake.paths.usermode_helper.write_text("\n")
    replay.step = 5
    at = range(0, length, 5)
    replay.up("v01", 1, at)
    edit = {} if what in {"policy", "not protected"} else {"show": armed}
    replay.drbd("v01", HEALTHY84["v01"], at, **edit)
    name = "scratch" if what == "not protected" else "voms01"
    replay.publish("v01", domains(**{name: ("running", "booted")}), at)
    actuator(replay, journal, at)
    replay.quiet(295, "DRBDUnfenced")
    unfenced = [told("DRBDUnfenced", host="v01", name="voms01")]
    replay.expect(length - 5, *([] if what in {"nothing", "not protected"} else unfenced))
    replay.ask()


def test_with_a_quorum_nobody_needs_to_be_asked(replay, journal):
    replay.step = 5
    at = range(0, 330, 5)
    for host, label in HEALTHY9.items():
        replay.up(host, 1, at)
        replay.drbd(host, label, at)
    replay.publish("v01", domains(voms01=("running", "booted"), ce01=("running", "booted")), at)
    journal.protect("ce01")
    actuator(replay, journal, at)
    replay.expect(325, *(told("DRBDUnfenced", host=host, name="ce01") for host in ("v01", "v02")))
    replay.ask()


@pytest.mark.parametrize(("protocol", "domain"), [("A", "voms01"), ("B", "voms01"), ("A", "scratch")])
def test_a_resource_that_is_not_mirrored_synchronously(replay, journal, protocol, domain):
    """Who runs on it only so far as vmheal is to protect it."""
    replay.step = 5
    at = range(0, 330, 5)
    replay.up("v01", 1, at)
    net = "    net {\n"
    replay.drbd(
        "v01",
        HEALTHY84["v01"],
        at,
        show=lambda text: armed(text).replace(net, f"{net}        protocol {protocol};\n"),
    )
    replay.publish("v01", domains(**{domain: RUNS}), at)
    actuator(replay, journal, at)
    replay.quiet(295, "DRBDNotSynchronous")
    weak = told("DRBDNotSynchronous", host="v01", name="voms01", conn_name="v02")
    replay.expect(325, *([weak] if domain == "voms01" else []))
    replay.ask()


@pytest.mark.parametrize("word", ["role:Primary", "exists device"], ids=["word", "line"])
def test_what_is_not_understood(replay, word):
    """The first one counts too: counters are there from 0 on."""
    replay.up("v01", 1, range(40))
    replay.drbd("v01", HEALTHY84["v01"], range(10))
    replay.drbd(
        "v01", HEALTHY84["v01"], range(10, 40), events2=lambda text: text.replace(word, "role:Tertiary")
    )
    replay.expect(9)
    replay.expect(39, told("DRBDNotUnderstood", host="v01"))
    replay.ask()


# ---- libvirt and the exporter ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hosts", "alert", "seconds", "alerts"),
    [
        pytest.param(
            {"v01": {"voms01": ("paused", "ioerror")}},
            "VMPausedIOError",
            5,
            [
                told("VMPausedIOError", host="v01", domain="voms01"),
                told("VMPaused", host="v01", domain="voms01"),
            ],
            id="paused by an I/O error",
        ),
        pytest.param(
            {"v01": {"voms01": ("paused", "user")}},
            "VMPaused",
            5,
            [told("VMPaused", host="v01", domain="voms01")],
            id="paused by a person",
        ),
        pytest.param(
            {"v01": {"voms01": RUNS, "scratch": ("paused", "ioerror")}},
            "VMPausedIOError",
            5,
            [],
            id="not protected",
        ),
        pytest.param(
            {"v01": {"voms01": RUNS, "control": ("occupied", 31.0)}},
            "VMMonitorHung",
            10,
            [told("VMMonitorHung", host="v01", domain="voms01")],
            id="a monitor that does not answer",
        ),
        pytest.param(
            {"v01": {"voms01": RUNS, "control": ("error", 0.0)}},
            "VMMonitorHung",
            10,
            [told("VMMonitorHung", host="v01", domain="voms01")],
            id="a monitor that is broken",
        ),
        pytest.param(
            {"v01": {"voms01": RUNS, "control": ("occupied", 29.0)}},
            "VMMonitorHung",
            10,
            [],
            id="a call that is slow",
        ),
        pytest.param(
            {"v01": {"voms01": RUNS, "control": ("job", 3600.0)}}, "VMMonitorHung", 10, [], id="a backup"
        ),
        pytest.param(
            {"v01": {"silent": ("voms01",)}},
            "VMNotAnswering",
            60,
            [told("VMNotAnswering", host="v01", domain="voms01")],
            id="a domain that libvirt keeps locked",
        ),
        pytest.param(
            {"v01": {"voms01": RUNS}, "v02": {"voms01": ("blocked", "unknown")}},
            "VMRunsTwice",
            5,
            [told("VMRunsTwice", domain="voms01", uuid="uuid-of-voms01")],
            id="on two hosts",
        ),
        pytest.param(
            {"v01": {"voms01": ("paused", "migration")}, "v02": {"voms01": ("running", "migrated")}},
            "VMRunsTwice",
            2,
            [],
            id="just migrated",
        ),
        pytest.param(
            {"v01": {"voms01": RUNS, "Domain-0": RUNS}, "v02": {"Domain-0": RUNS}},
            "VMRunsTwice",
            10,
            [],
            id="Xen's own domain",
        ),
        pytest.param(
            {"v01": {"up": 0.0}},
            "LibvirtDown",
            30,
            [told("LibvirtDown", host="v01")],
            id="libvirt does not answer",
        ),
    ],
)
def test_libvirt(replay, journal, hosts, alert, seconds, alerts):
    end = BEGINS + seconds + 2
    actuator(replay, journal, range(end))
    for host in ("v01", "v02"):
        replay.up(host, 1, range(end))
        replay.publish(host, domains(**({"voms01": RUNS} if host == "v01" else {})), range(BEGINS))
        replay.publish(host, domains(**hosts.get(host, {})), range(BEGINS, end))
    replay.expect(BEGINS - 1)
    replay.quiet(BEGINS + seconds - 1, alert)
    replay.expect(end - 1, *alerts)
    replay.ask()


IN_TROUBLE = {
    "VMFailure": {"voms01": ("shutoff", "crashed")},
    "VMPaused": {"voms01": ("paused", "user")},
    "VMPausedIOError": {"voms01": ("paused", "ioerror")},
}


@pytest.mark.parametrize("alert", IN_TROUBLE)
@pytest.mark.parametrize("moved", [False, True])
def test_a_vm_is_missed_where_it_should_run(replay, journal, alert, moved):
    """Also where it has only just been moved to; and on the other host, where it is defined too, never."""
    here, there = ("v02", "v01") if moved else ("v01", "v02")
    actuator(replay, journal, range(BEGINS))
    if moved:
        journal.commit("voms01", host=here)
    actuator(replay, journal, range(BEGINS, 30))
    up(replay, ("v01", "v02"), range(30))
    replay.publish(here, domains(voms01=RUNS), range(BEGINS))
    replay.publish(here, domains(**IN_TROUBLE[alert]), range(BEGINS, 30))
    replay.publish(
        there, domains(voms01=("shutoff", "destroyed")), range(30) if not moved else range(BEGINS + 1, 30)
    )
    replay.expect(BEGINS - 1)
    also = ["VMPaused"] if alert == "VMPausedIOError" else []
    replay.expect(29, *(told(it, host=here, domain="voms01") for it in (alert, *also)))
    replay.ask()


def test_a_vm_that_fails_again_and_again(replay, journal):
    """Where it has only just been moved to."""
    events, vm = LifecycleEvents(), SimpleNamespace(name=lambda: "voms01", UUIDString=lambda: "u1")
    stopped, failed = 5, 5  # VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_FAILED
    actuator(replay, journal, range(5))
    journal.commit("voms01", host="v02")
    actuator(replay, journal, range(5, 100))
    for time_ in range(4):
        replay.publish("v02", [events.metric({"voms01"})], range(time_ * 20, 100))
        events._lifecycle(None, vm, stopped, failed, None)
    replay.expect(79, told("VMPersistentFailure", host="v02", domain="voms01"))
    replay.expect(59)
    replay.ask()


def failed(text: str) -> str:
    """As in the moment before DRBD has let go of the disk: of that there is no capture."""
    assert " disk:Diskless" in text
    return text.replace(" disk:Diskless", " disk:Failed")


@pytest.mark.parametrize("what", ["diskless", "failed", "not here", "a client"])
def test_a_vm_whose_disk_is_lost(replay, journal, what):
    """Its own disk, below it where it should run; a client of DRBD 9 has none that it could lose."""
    actuator(replay, journal, range(5))
    journal.commit("voms01", host="v01" if what == "not here" else "v02")
    actuator(replay, journal, range(5, 20))
    faulty = (
        "08b-connected-uptodate-primary-secondary/v03" if what == "a client" else "13b-detached-promoted/v02"
    )
    replay.drbd("v02", HEALTHY9["v02"], range(BEGINS))
    replay.drbd("v02", faulty, range(BEGINS, 20), **({"events2": failed} if what == "failed" else {}))
    replay.publish("v02", domains(voms01=RUNS), range(20))
    up(replay, ["v02"], range(20))
    replay.expect(BEGINS - 1)
    replay.quiet(BEGINS + 1, "VMDiskLost")
    lost = [told("VMDiskLost", host="v02", domain="voms01")]
    replay.expect(BEGINS + 5, *(lost if what in {"diskless", "failed"} else []))
    replay.ask()


def test_an_exporter_that_is_down_on_a_host_that_lives(replay):
    replay.drbd("v02", HEALTHY84["v02"], range(90))
    replay.up("v02", 1, range(90))
    replay.up("v01", 1, range(BEGINS))
    replay.up("v01", 0, range(BEGINS, 90))
    replay.expect(9)
    replay.expect(69, told("HostUnreachable", host="v01"))
    replay.expect(79, told("HostUnreachable", host="v01"), told("ExporterDown", host="v01"))
    replay.ask()


def scrape(fake, *broken: str) -> list[Metric]:
    """What the exporter says of its collectors when drbdsetup prints nonsense, or all is well."""
    fake.replay84(HEALTHY84["v01"])
    if broken:
        fake.acts("events2", "echo broken >&2; exit 1")
    scraper = Scraper([drbd.Drbd(fake.paths), LibvirtState(("test:///default",), {}.get)])
    try:
        page = scraper.scrape(("drbd", "libvirt"), time.monotonic() + SOON)
    finally:
        scraper.close(SOON)
    return [it for it in page if it.name.startswith("vmheal_exporter_collector")]


def test_an_exporter_whose_collector_fails(replay, fake):
    replay.up("v01", 1, range(90))
    replay.publish("v01", scrape(fake), range(BEGINS))
    replay.publish("v01", scrape(fake, "drbd"), range(BEGINS, 90))
    replay.expect(69)
    replay.expect(79, told("ExporterFailing", host="v01", collector="drbd"))
    replay.ask()


def test_an_exporter_whose_statistics_are_not_answered(replay):
    for host, state in (("v01", 1), ("v02", 0)):
        replay.up(host, state, range(90))
        replay.up(host, 0, range(90), job="vmheal-stats")
    replay.quiet(59, "ExporterFailing")
    replay.expect(79, told("ExporterFailing", host="v01"), told("HostUnreachable", host="v02"))
    replay.ask()


def test_a_libvirt_that_is_not_there(replay):
    """LibvirtDown tells it, and ExporterFailing leaves it to that."""
    scraper = Scraper([LibvirtState(("test:///nonexistent",), {}.get)])
    replay.up("v01", 1, range(90))
    replay.publish("v01", scraper.scrape(("libvirt",), time.monotonic() + SOON), range(90))
    scraper.close(SOON)
    replay.expect(80, told("LibvirtDown", host="v01"))
    replay.ask()


# ---- the actuator ----------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path):
    page = ActuatorPage(tmp_path / "journal")
    yield page
    page.machine.close()


def test_an_actuator_that_is_down(replay, journal):
    actuator(replay, journal, range(10))
    replay.up("localhost", 0, range(10, 40), job="vmheal-actuator")
    replay.quiet(24, "ActuatorDown")
    replay.expect(9)
    replay.expect(30, told("ActuatorDown"))
    replay.ask()


@pytest.mark.parametrize("never", [True, False])
def test_an_actuator_that_does_not_look_around(replay, journal, never):
    replay.up("localhost", 1, range(140), job="vmheal-actuator")
    journal.reconciled(0.0 if never else 20.0)
    replay.publish("localhost", journal.report.registry.collect(), range(140), "vmheal-actuator")
    replay.quiet(85 if never else 109, "ActuatorStale")
    replay.expect(139, told("ActuatorStale"))
    replay.ask()


def rehearsal(*checks: Check) -> Rehearsal:
    return Rehearsal("voms01", "v01", 0.0, checks)


def reason(name: str, mends: str = "type this") -> Reason:
    return Reason(name, "a whole sentence", mends)


WELL = (Check("v01", "restart", ()), Check("v02", "migrate", ()), Check("v02", "failover", ()))


@pytest.mark.parametrize(
    ("checks", "alerts"),
    [
        (WELL, []),
        (
            (
                Check(
                    "v02", "failover", (reason("has_memory"), reason("autostart_is_off", "virsh autostart"))
                ),
                Check("v02", "migrate", (reason("has_memory"),)),
            ),
            [("v02", "has_memory", "type this"), ("v02", "autostart_is_off", "virsh autostart")],
        ),
        # Another host is ready.
        ((Check("v02", "failover", (reason("has_memory"),)), Check("v03", "failover", ())), []),
        # Of these other alerts tell.
        (
            tuple(
                Check("v02", "failover", (reason(name),))
                for name in ("not_paused", "not_blind", "no_storm", "source_answers")
            ),
            [],
        ),
    ],
)
def test_a_vm_that_nothing_would_bring_up(replay, journal, checks, alerts):
    replay.step = 30
    journal.report.show_readiness(lambda: [rehearsal(*checks)])
    actuator(replay, journal, range(0, 700, 30))
    replay.quiet(299, "VMNotProtected")
    replay.expect(
        330,
        *(
            told("VMNotProtected", domain="voms01", host=host, reason=name, mend=mends)
            for host, name, mends in alerts
        ),
    )
    replay.ask()


LONG = range(0, 4200, 30)


@pytest.mark.parametrize("last_at", [None, 600.0])
def test_rehearsals_that_stand_still(replay, journal, last_at):
    """Never begun, or not gone on with: 15 minutes and two intervals, and then for 15 minutes."""
    replay.step = 30
    last = [] if last_at is None else [changed(rehearsal(*WELL), at=last_at)]
    journal.report.show_readiness(lambda: last)
    actuator(replay, journal, LONG)
    since = (last_at or 0.0) + 900 + 2 * 60  # "0" is when the replay begins
    replay.quiet(int(since) + 899, "RehearsalStale")
    replay.expect(int(since) + 960, told("RehearsalStale"))
    replay.ask()


def rehearse_all_along(replay, journal, interval_seconds=60):
    """All is well, and is found so again and again; with 0 never."""
    last = [changed(rehearsal(*WELL), at=0.0)] if interval_seconds else []
    journal.report.show_readiness(lambda: last)
    for second in LONG:
        if interval_seconds and second % interval_seconds == 0:
            last[0] = changed(last[0], at=float(second))
        actuator(replay, journal, range(second, second + 1))


@pytest.mark.parametrize("interval_seconds", [60, 3600, 0])
def test_rehearsals_that_go_on_or_are_off(replay, journal, interval_seconds):
    replay.step = 30
    journal.restart(readiness={"interval_seconds": interval_seconds})
    rehearse_all_along(replay, journal, interval_seconds)
    replay.quiet(4170, "RehearsalStale")
    replay.ask()


def reload(journal, outcomes):
    """The configuration is reloaded again and again; that is what becomes of it."""
    reloader = Reloader(lambda: journal.config, Mock(side_effect=outcomes), journal.report.registry)
    for _ in outcomes:
        with contextlib.suppress(ConfigError):
            reloader.reload()


def certificate(journal, expires_at):
    name = "vmheal_tls_certificate_expiry_timestamp_seconds"
    Gauge(name, "as actuator.web shows it", registry=journal.report.registry).set(expires_at)


@pytest.mark.parametrize(
    ("happens", "quiet", "alert"),
    [
        pytest.param(lambda it: None, 0, None, id="nothing"),
        pytest.param(
            lambda it: certificate(it, 14 * 86400 - 1),
            3599,
            told("ActuatorCertificateExpires"),
            id="its certificate expires",
        ),
        pytest.param(lambda it: certificate(it, 15 * 86400), 0, None, id="it does not so soon"),
        pytest.param(lambda it: certificate(it, float("inf")), 0, None, id="it has none"),
        pytest.param(
            lambda it: it.restart(mode="observe"), 599, told("ActuatorPassive", mode="observe"), id="observes"
        ),
        pytest.param(
            lambda it: it.restart(mode="approve"), 599, told("ActuatorPassive", mode="approve"), id="asks"
        ),
        pytest.param(lambda it: reload(it, (ConfigError(("no",)), None)), 0, None, id="reloaded in the end"),
        pytest.param(
            lambda it: reload(it, (None, ConfigError(("no",)))),
            299,
            told("ActuatorNotReloaded"),
            id="not reloaded",
        ),
        pytest.param(
            lambda it: it.host("", paused=Order("ann", 0.0)), 3599, told("VMHealPaused"), id="all is paused"
        ),
        pytest.param(
            lambda it: it.host("v02", paused=Order("ann", 0.0, until_at=9000.0)),
            3599,
            told("VMHealPaused", host="v02"),
            id="a host is paused",
        ),
        pytest.param(
            lambda it: it.commit("voms01", paused=Order("ann", 0.0)),
            3599,
            told("VMHealPaused", domain="voms01"),
            id="a VM is paused",
        ),
        pytest.param(
            lambda it: it.host("v02", paused=Order("ann", 0.0, until_at=3500.0)),
            0,
            None,
            id="a pause that is over",
        ),
        pytest.param(
            lambda it: it.host("v02", drained=Order("ann", 0.0)),
            3599,
            told("HostDrained", host="v02"),
            id="drained",
        ),
        pytest.param(
            lambda it: it.restart(failover={"drbd_only": True}),
            0,
            told("VMHealUnproven"),
            id="without a proof",
        ),
        pytest.param(
            lambda it: open_plan(it, "voms01", "failover", 0.0),
            599,
            told("VMHealPlanTooLong", domain="voms01", host="v02", verb="failover"),
            id="a plan without an end",
        ),
        pytest.param(
            lambda it: it.commit(
                "voms01", escalation=Escalation(EscalationKind.REFUSED, "v01", "is_down", "it is paused", 0.0)
            ),
            1799,
            told("EscalationUnanswered", host="v01", domain="voms01", guard="is_down"),
            id="nobody answers",
        ),
    ],
)
def test_what_stands_for_long(replay, journal, happens, quiet, alert):
    replay.step = 30
    happens(journal)
    actuator(replay, journal, LONG)
    if quiet:
        replay.quiet(quiet, alert[0])
        replay.expect(quiet + 31, alert)
    replay.expect(4170, *([alert] if alert else []))
    replay.ask()


@pytest.mark.parametrize(
    ("silent", "alert"),
    [
        ("Alertmanager", told("ActuatorBlind", source="Alertmanager")),
        ("Prometheus", told("ActuatorBlind", source="Prometheus")),
        ("libvirt on v01", told("HostNotManageable", host="v01")),
        ("libvirt on v02", None),
    ],
)
def test_who_does_not_answer_the_actuator(replay, journal, silent, alert):
    """v02 is down itself: others tell."""
    replay.up("v01", 1, range(90))
    replay.up("v02", 0, range(90))
    actuator(replay, journal, range(10))
    journal.reconciled(10.0, **{silent.replace(" ", "_"): False})
    actuator(replay, journal, range(10, 90))
    down = told("HostUnreachable", host="v02")
    replay.expect(9, down)
    replay.expect(69, down)
    replay.expect(89, down, *([alert] if alert else []))
    replay.ask()


def test_a_plan_that_failed(replay, journal):
    """Each verb by itself; one that succeeds says nothing."""
    replay.step = 5
    actuator(replay, journal, range(0, 50, 5))
    for verb, outcome in (("migrate", "failed"), ("migrate", "failed"), ("restart", "succeeded")):
        detail = {"verb": verb, "outcome": outcome, "seconds": 1.0}
        journal.report.happened(Event(0.0, "finished", "it ended", "voms01", "v02", "p1", detail))
    actuator(replay, journal, range(50, 1000, 5))
    replay.expect(45)
    replay.expect(55, told("VMHealPlanFailed", verb="migrate"))
    replay.expect(940, told("VMHealPlanFailed", verb="migrate"))
    replay.expect(995)
    replay.ask()


@pytest.mark.parametrize("what", ["write", "read", "conflict"])
def test_a_journal_that_fails(replay, journal, what, monkeypatch):
    """A change that another one came before is written again: that is no failure."""
    actuator(replay, journal, range(10))

    def fails(*_: object, **__: object):
        raise JournalError("the disk is full")

    if what == "read":
        monkeypatch.setattr(journal.machine._file, "records", fails)
    else:
        if what == "write":
            monkeypatch.setattr(journal.machine._file, "commit", fails)
        with pytest.raises(JournalError):
            journal.machine.journal.commit(record=DomainRecord("voms01", 9, "v01"))
    actuator(replay, journal, range(10, 40))
    replay.expect(9)
    replay.expect(39, *([] if what == "conflict" else [told("JournalFailing", **PAGE)]))
    replay.ask()


PAGE = {"job": "vmheal-actuator", "instance": "localhost:10811"}


def test_a_fault_of_the_actuator(replay, journal):
    actuator(replay, journal, range(10))
    journal.report.faults.labels("keeper").inc()
    actuator(replay, journal, range(10, 40))
    replay.expect(9)
    replay.expect(39, told("ActuatorFaults", where="keeper"))
    replay.ask()


@pytest.mark.parametrize("healthy", [HEALTHY84, HEALTHY9], ids=["84", "9"])
def test_of_a_healthy_site_nothing_is_said(replay, fake, journal, healthy):
    """All that any rule reads, for longer than the longest of them waits."""
    replay.step = 30
    for host, label in healthy.items():
        replay.drbd(host, label, LONG, **({"show": armed} if healthy is HEALTHY84 else {}))
        for job in ("vmheal-state", "vmheal-stats"):
            replay.up(host, 1, LONG, job)
        replay.publish(
            host, domains(**({"voms01": RUNS} if host == "v01" else {"ce01": ("shutoff", "destroyed")})), LONG
        )
        replay.publish(host, hardware("healthy"), LONG, "node")
        replay.publish(host, scrape(fake), LONG)
    rehearse_all_along(replay, journal)
    for second in range(0, LONG[-1], 600):
        replay.expect(second)
    replay.expect(LONG[-1])
    replay.ask()


# ---- what the rules read ---------------------------------------------------------------------------------

KEPT_NAMES = [Path(__file__).parents[1] / "exporter" / name for name in ("names.txt", "names-drbd.txt")]
"""What the real exporter publishes, and with which labels: its own tests hold it to these."""
OTHERS = {
    "up": set(),  # Prometheus's own
    "ALERTS": {"alertname"},
    # github.com/prometheus-community/smartctl_exporter, metrics.go
    "smartctl_device_smartctl_exit_status": {"device"},
}
"""What no exporter here says."""


def labels_of(metrics) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for metric in metrics:
        for sample in metric.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.fixture
def published(journal) -> dict[str, set[str]]:
    """Every series that the exporter, an actuator in all its states and the hardware's exporters publish."""
    open_plan(journal, "voms01", "migrate", 0.0)
    refused = Escalation(EscalationKind.REFUSED, "v01", "is_down", "it is paused", 0.0)
    journal.commit("voms01", escalation=refused)
    journal.host("v02", paused=Order("ann", 0.0))
    journal.host("v02", drained=Order("ann", 0.0))
    journal.report.faults.labels("keeper").inc()
    reload(journal, [None])
    certificate(journal, 0.0)
    no = Check("v02", "failover", (reason("has_memory"),))
    journal.report.show_readiness(lambda: [rehearsal(*WELL[:2], no)])
    kept = re.findall(
        r"^(?:sometimes )?(\w+)\{([^}]*)\}", "".join(it.read_text() for it in KEPT_NAMES), re.MULTILINE
    )
    return (
        {name: set(labels.split(",")) for name, labels in kept}
        | labels_of(journal.report.registry.collect())
        | labels_of(hardware("failing"))
        | OTHERS
    )


@pytest.mark.parametrize("name", alerts())
def test_a_rule_reads_only_what_is_published(published, name):
    own = {rule["record"]: rule["expr"] for rule in RECORDED}
    expressions = [str(alerts()[name]["expr"])]
    expressions += [expr for record, expr in own.items() if record in expressions[0]]
    for it in (it for expr in expressions for it in selectors(parse(expr)) if it.name not in own):
        assert it.name in published, it
        scraped = {"host", "job", "instance"}
        assert it.matchers.keys() - {"__name__"} <= published[it.name] | scraped, it


BY_ITSELF = {"Watchdog": "it needs no series; rules/vmheal_test.yml"}


def test_each_alert_fires_on_what_was_really_published():
    """In a replay: what is written by hand (rules/vmheal_test.yml) is beside it, never instead."""
    text = "".join(it.read_text() for it in Path(__file__).parent.glob("test_*.py"))
    fires = {name for name in alerts() if f'told("{name}"' in text} | IN_TROUBLE.keys()
    assert alerts().keys() - fires == BY_ITSELF.keys()
