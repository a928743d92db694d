"""The collector `drbd` over replayed captures, and over a DRBD that hangs, floods, fails or lies."""

import contextlib
import os
import re
import subprocess
import threading
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from exporter import drbdsetup
from exporter.collector import CollectorError
from exporter.collectors import drbd
from exporter.collectors.drbd import Drbd
from exporter.exposition import render
from tests.exporter.drbd_samples import command, drbd9, drbd84, snaps9, snaps84
from tests.exporter.fake_drbd import FakeDrbd
from tests.exporter.pages import SECONDS, Page, collect, ones, series, value

NAMES = Path(__file__).with_name("names-drbd.txt")


@pytest.fixture
def fake(tmp_path, monkeypatch):
    fake = FakeDrbd(tmp_path / "drbd")
    monkeypatch.setenv("PATH", f"{fake.base}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(drbd.platform, "node", lambda: "v01")
    monkeypatch.setattr(drbdsetup, "DETAILS_PAUSE_SECONDS", 0.0)
    return fake


@pytest.fixture
def no_child_is_left():
    """To be called at the test's end: none that it began is there, not even a zombie."""

    def children():
        found: set[str] = set()
        for task in Path("/proc/self/task").iterdir():
            # A thread that ends while we look leaves its children to another one.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found.update((task / "children").read_text().split())
        return found

    def check():
        deadline = time.monotonic() + SECONDS
        while new := children() - before:
            assert time.monotonic() < deadline, new

    before = children()
    return check


@pytest.fixture
def collector(fake):
    collector = Drbd(fake.paths)
    yield collector
    collector.close()


def state(page: Page, name: str, /, **labels: str) -> set[str]:
    """Which states of a StateSet are 1."""
    return ones(page, name, name, **labels)


def eventually(collector: Drbd, condition) -> Page:
    deadline = time.monotonic() + SECONDS
    while not condition(page := collect(collector)):
        assert time.monotonic() < deadline, page
    return page


VOLUME = {"name": "voms01", "volume": "0", "minor": "0"}
PEER = {"name": "voms01", "conn_name": "v02", "peer_node_id": "0"}


def test_a_resync_on_84(fake, collector):
    fake.replay84("08-syncing-mid.v01")
    page = collect(collector)
    assert value(page, "drbd_up") == value(page, "drbdreactor_up") == 1
    assert value(page, "drbd_version", kmod="8.4.11", utils="9.22.0") == 1
    assert value(page, "drbd_resource_resources") == 1
    assert state(page, "drbd_resource_role", name="voms01") == {"Primary"}
    assert state(page, "drbd_device_state", **VOLUME) == {"UpToDate"}
    assert state(page, "drbd_connection_state", **PEER) == {"Connected"}
    assert state(page, "vmheal_drbd_connection_peer_role", **PEER) == {"Secondary"}
    assert state(page, "vmheal_drbd_peerdevice_replication", **PEER, volume="0") == {"SyncSource"}
    assert state(page, "vmheal_drbd_peerdevice_disk", **PEER, volume="0") == {"Inconsistent"}
    assert value(page, "vmheal_drbd_peerdevice_sync_done_ratio", **PEER, volume="0") == pytest.approx(0.28)
    assert value(page, "vmheal_drbd_peerdevice_sync_eta_seconds", **PEER, volume="0") == 36
    assert value(page, "drbd_peerdevice_outofsync_bytes", **PEER, volume="0") == 74072 * 1024
    assert value(page, "drbd_peerdevice_sent_bytes", **PEER, volume="0") == 28288 * 1024
    assert value(page, "drbd_device_read_bytes_total", **VOLUME) == 28288 * 1024
    assert value(page, "drbd_device_size_bytes", **VOLUME) == 102360 * 1024
    assert value(page, "drbd_device_unintentionaldiskless", **VOLUME) == 0
    assert state(page, "vmheal_drbd_resource_fencing", name="voms01") == {"dont-care"}
    assert state(page, "vmheal_drbd_connection_protocol", **PEER) == {"C"}
    assert value(page, "vmheal_drbd_connection_split_brain", **PEER) == 0
    assert (
        value(page, "vmheal_drbd_device_info", **VOLUME, device="/dev/drbd0", backing_disk="/dev/vg0/voms01")
        == 1
    )
    assert value(page, "vmheal_drbd_usermode_helper_info", path="/sbin/drbdadm") == 1
    assert (
        value(
            page,
            "vmheal_drbd_resource_handler_info",
            name="voms01",
            handler="fence-peer",
            command='/usr/lib/vmheal/fence-peer "a b" &',
        )
        == 1
    )
    page = eventually(collector, lambda page: value(page, "vmheal_drbd_device_current_uuid_info", **VOLUME))
    assert value(page, "vmheal_drbd_device_current_uuid_info", **VOLUME, uuid="E25DF6057BB32DC0") == 1
    for absent in (
        "drbd_resource_maypromote",
        "drbd_device_quorum",
        "drbd_device_client",
        "drbd_connection_apinflight_bytes",
        "vmheal_drbd_resource_auto_promote",
        "vmheal_drbd_resource_info",
    ):
        assert not [key for key in page if key[0] == absent]
    assert collector.volume_of_minor(0) == ("voms01", "0")
    assert collector.volume_of_minor(1) is None
    assert collector.backing_disks() == {("voms01", "0"): "/dev/vg0/voms01"}


def test_a_lost_quorum_on_9(fake, collector):
    fake.replay9("38-v02-isolated-no-quorum", "v02")
    page = collect(collector)
    assert value(page, "drbd_resource_suspended", name="voms01") == 1
    assert state(page, "vmheal_drbd_resource_suspended_reason", name="voms01") == {"quorum"}
    assert value(page, "drbd_device_quorum", **VOLUME) == 0
    assert value(page, "vmheal_drbd_resource_quorum_configured", name="voms01") == 1
    assert value(page, "vmheal_drbd_resource_quorum_configured", name="ce01") == 0
    assert (
        value(page, "vmheal_drbd_resource_info", name="voms01", quorum="majority", on_no_quorum="suspend-io")
        == 1
    )
    assert value(page, "vmheal_drbd_resource_auto_promote", name="ce01") == 0
    assert value(page, "drbd_resource_promotionscore", name="ce01") == 10101
    assert state(page, "vmheal_drbd_device_blocked", **VOLUME) == {"upper"}
    for peer, node_id in (("v01", "0"), ("v03", "2")):
        to = {"name": "voms01", "conn_name": peer, "peer_node_id": node_id}
        assert state(page, "drbd_connection_state", **to) == {"Connecting"}
        assert value(page, "vmheal_drbd_path_established", **to) == 0
        assert value(page, "vmheal_drbd_peerdevice_client", **to, volume="0") == (peer == "v03")
    assert collector.volume_of_minor(10) == ("ce01", "0")


def test_a_diskless_device(fake, collector):
    fake.replay84("41-diskless-secondary.v01")
    page = collect(collector)
    assert state(page, "drbd_device_state", **VOLUME) == {"Diskless"}
    assert value(page, "drbd_device_unintentionaldiskless", **VOLUME) == 1
    assert value(page, "vmheal_drbd_device_info", **VOLUME, backing_disk="") == 1
    assert state(page, "vmheal_drbd_resource_fencing", name="voms01") == set()
    fake.replay9("04-syncing-initial", "v03")
    page = collect(collector)
    assert value(page, "drbd_device_unintentionaldiskless", **VOLUME) == 0
    assert value(page, "drbd_device_client", **VOLUME) == 1


@pytest.mark.parametrize(("own", "peer"), [("v01", "v02"), ("v02", "v01")])
def test_every_84_capture_has_its_page(fake, own, peer, monkeypatch):
    """The labels of a series are unique, and each StateSet of a thing has one state."""
    monkeypatch.setattr(drbd.platform, "node", lambda: own)
    collector = Drbd(fake.paths)
    labels = [label for label in snaps84() if label.endswith(own)]
    assert len(labels) in {33, 34}
    for label in labels:
        fake.replay84(label)
        page = collect(collector)
        for name in (
            "drbd_resource_role",
            "drbd_device_state",
            "drbd_connection_state",
            "vmheal_drbd_connection_peer_role",
            "vmheal_drbd_peerdevice_replication",
            "vmheal_drbd_peerdevice_disk",
        ):
            assert len(state(page, name)) == ("cs:" in drbd84(label)), label
        assert {dict(its).get("conn_name", peer) for _, its in page} == {peer}, label
        assert nothing_unknown(page), label
    collector.close()


def test_every_9_capture_has_its_page(fake):
    collector = Drbd(fake.paths)
    for label, host in snaps9():
        fake.replay9(label, host)
        page = collect(collector)
        resources = drbd9(label, host, "show.json").count('"resource"')
        assert value(page, "drbd_resource_resources") == resources, (label, host)
        assert nothing_unknown(page), (label, host)
    collector.close()


def nothing_unknown(page: Page) -> bool:
    return not any(
        number
        for (name, _), number in page.items()
        if name in {"vmheal_exporter_drbd_unknown_words_total", "vmheal_exporter_drbd_malformed_lines_total"}
    )


# What is run, and what is not.


def test_84_runs_nothing_while_proc_drbd_reads_the_same(fake, collector):
    fake.replay84("14-connected-primary-secondary.v01")
    collect(collector)
    proc = (fake.base / "proc").read_text()
    for written in ("dw:11111", "dw:22222"):
        fake.proc(re.sub(r"dw:\d+", written, proc))
        page = collect(collector)
        assert value(page, "drbd_device_written_bytes_total", **VOLUME) == int(written[3:]) * 1024
    assert len(fake.calls("drbdsetup events2")) == 1


def test_84_sees_a_change_at_once(fake, collector):
    fake.replay84("14-connected-primary-secondary.v01")
    assert state(collect(collector), "drbd_connection_state", **PEER) == {"Connected"}
    fake.replay84("33-peer-powered-off.v02")
    page = collect(collector)
    assert state(page, "drbd_connection_state", name="voms01") == {"Connecting"}
    assert len(fake.calls("drbdsetup events2")) == 2


def test_84_trusts_no_answer_that_proc_drbd_contradicts(fake, collector):
    """The state changed while events2 ran and changed back, so /proc/drbd reads as before it."""
    fake.replay84("14-connected-primary-secondary.v01")
    fake.prints("events2", command(drbd84("33-peer-powered-off.v02"), "drbdsetup events2"))
    assert state(collect(collector), "drbd_connection_state") == {"Connecting"}
    fake.replay84("14-connected-primary-secondary.v01")
    assert state(collect(collector), "drbd_connection_state") == {"Connected"}


def test_84_asks_again_when_what_proc_drbd_does_not_show_is_due(fake, collector, monkeypatch):
    fake.replay84("14-connected-primary-secondary.v01")
    assert value(collect(collector), "drbd_connection_congested", **PEER) == 0
    events2 = command(drbd84("14-connected-primary-secondary.v01"), "drbdsetup events2")
    fake.prints("events2", events2.replace("congested:no", "congested:yes"))
    assert value(collect(collector), "drbd_connection_congested", **PEER) == 0
    monkeypatch.setattr(drbdsetup, "REREAD_SECONDS", 0.0)
    assert value(collect(collector), "drbd_connection_congested", **PEER) == 1


def test_84_asks_each_time_while_io_is_frozen(fake, collector):
    """/proc/drbd shows that it is, not why."""
    fake.replay84("14-connected-primary-secondary.v01")
    fake.proc((fake.base / "proc").read_text().replace(" r-----", " s-----"))
    events2 = command(drbd84("14-connected-primary-secondary.v01"), "drbdsetup events2")
    for reason in ("user", "fencing", "user,fencing"):
        fake.prints("events2", events2.replace("suspended:no", f"suspended:{reason}", 1))
        assert state(collect(collector), "vmheal_drbd_resource_suspended_reason", name="voms01") == set(
            reason.split(",")
        )


def test_9_asks_each_time(fake, collector):
    fake.replay9("10-verify", "v01")
    for _ in range(3):
        collect(collector)
    assert len(fake.calls("drbdsetup events2")) == 3


def test_details_are_read_again_only_when_something_changed(fake, collector):
    fake.replay84("14-connected-primary-secondary.v01")
    eventually(collector, lambda page: value(page, "vmheal_drbd_device_current_uuid_info", **VOLUME))
    before = fake.calls()
    for _ in range(10):
        collect(collector)
    assert fake.calls() == before
    assert len(fake.calls("drbdadm dump-xml")) == len(fake.calls("drbdsetup show")) == 1
    fake.replay84("31c-dual-primary-split.v01")
    page = collect(collector)
    assert (
        value(page, "vmheal_drbd_device_current_uuid_info", **VOLUME) is None
    )  # the old one may be wrong now
    page = eventually(collector, lambda page: value(page, "vmheal_drbd_device_current_uuid_info", **VOLUME))
    assert len(fake.calls("drbdsetup get-gi 0")) == 2
    assert len(fake.calls("drbdadm dump-xml")) == 1


def test_changed_files_are_read_again(fake, collector, monkeypatch):
    monkeypatch.setattr(drbdsetup, "DETAILS_SECONDS", 0.05)
    fake.replay84("14-connected-primary-secondary.v01")
    collect(collector)
    fake.prints(
        "dump-xml",
        (fake.base / "out/dump-xml").read_text().replace("fence-peer &quot;a b&quot; &amp;", "new"),
    )
    (fake.base / "drbd.d" / "more.res").write_text("")
    eventually(
        collector,
        lambda page: value(page, "vmheal_drbd_resource_handler_info", command="/usr/lib/vmheal/new"),
    )


def test_changed_options_are_seen(fake, collector, monkeypatch):
    monkeypatch.setattr(drbdsetup, "DETAILS_SECONDS", 0.05)
    fake.replay84("14-connected-primary-secondary.v01")
    collect(collector)
    fake.prints("show", command(drbd84("54f-after-refused.v01"), "drbdsetup show"))
    eventually(collector, lambda page: state(page, "vmheal_drbd_resource_fencing") == {"resource-only"})


# The peer's name on 8.4.


def test_the_peer_keeps_its_name_while_stand_alone(fake, collector):
    """The kernel has forgotten its address then."""
    fake.replay84("32-splitbrain-healed.v01")
    assert state(collect(collector), "drbd_connection_state", **PEER) == {"StandAlone"}


def test_without_the_files_the_address_is_the_name(fake, collector):
    fake.acts("dump-xml", "echo 'drbd.conf:1: Parse error' >&2; exit 10")
    fake.replay84("14-connected-primary-secondary.v01")
    page = eventually(
        collector, lambda page: value(page, "vmheal_exporter_drbd_details_success", source="drbdadm") == 0
    )
    page = collect(collector)
    assert state(page, "drbd_connection_state", conn_name="10.20.0.2") == {"Connected"}
    fake.replay84("32-splitbrain-healed.v01")
    assert state(collect(collector), "drbd_connection_state", conn_name="10.20.0.2") == {"StandAlone"}


# Split brain and verify, from the kernel's log.


@pytest.fixture
def kernel_says(fake):
    with fake.kernel() as says:
        yield says


def test_split_brain_on_84(fake, kernel_says):
    collector = Drbd(fake.paths)
    fake.replay84("32-splitbrain-healed.v01")
    assert value(collect(collector), "vmheal_drbd_connection_split_brain", **PEER) == 0
    kernel_says("block drbd1: Split-Brain detected but unresolved, dropping connection!")
    assert value(collect(collector), "vmheal_drbd_connection_split_brain", **PEER) == 0
    kernel_says("block drbd0: Split-Brain detected but unresolved, dropping connection!")
    assert value(collect(collector), "vmheal_drbd_connection_split_brain", **PEER) == 1
    kernel_says(
        "block drbd0: peer( Unknown -> Secondary ) conn( WFReportParams -> WFBitMapS ) pdsk( DUnknown -> Consistent ) "
    )
    kernel_says("drbd voms01: conn( WFConnection -> Disconnecting ) ")
    assert value(collect(collector), "vmheal_drbd_connection_split_brain", **PEER) == 0
    collector.close()


def test_split_brain_on_9_is_with_one_peer(fake, kernel_says):
    collector = Drbd(fake.paths)
    fake.replay9("38c-healed-split-brain-voms01", "v02")
    kernel_says("drbd voms01/0 drbd0 v01: Split-Brain detected but unresolved, dropping connection!")
    page = collect(collector)
    assert value(page, "vmheal_drbd_connection_split_brain", name="voms01", conn_name="v01") == 1
    assert value(page, "vmheal_drbd_connection_split_brain", name="voms01", conn_name="v03") == 0
    assert value(page, "vmheal_drbd_connection_split_brain", name="ce01", conn_name="v01") == 0
    kernel_says("drbd voms01 v03: conn( Connecting -> Connected ) peer( Unknown -> Secondary ) [remote]")
    assert (
        value(collect(collector), "vmheal_drbd_connection_split_brain", name="voms01", conn_name="v01") == 1
    )
    kernel_says("drbd voms01/0 drbd0 v03: Split-Brain detected but unresolved, dropping connection!")
    kernel_says("drbd voms01 v01: conn( Connecting -> Connected ) peer( Unknown -> Secondary ) [remote]")
    assert (
        value(collect(collector), "vmheal_drbd_connection_split_brain", name="voms01", conn_name="v01") == 0
    )
    collector.close()


def test_a_connected_peer_is_no_split_brain(fake, kernel_says):
    """Whatever the log has lost."""
    collector = Drbd(fake.paths)
    fake.replay84("14-connected-primary-secondary.v01")
    kernel_says("block drbd0: Split-Brain detected but unresolved, dropping connection!")
    assert value(collect(collector), "vmheal_drbd_connection_split_brain", **PEER) == 0
    collector.close()


def test_a_finished_verify(fake, kernel_says):
    collector = Drbd(fake.paths)
    fake.replay84("14-connected-primary-secondary.v01")
    name = "vmheal_drbd_peerdevice_verify_finished_timestamp_seconds"
    assert value(collect(collector), name, **PEER) is None
    kernel_says(
        "block drbd0: Online verify done (total 5 sec; paused 0 sec; 13108 K/sec)", time.monotonic() - 60
    )
    assert value(collect(collector), name, **PEER) == pytest.approx(time.time() - 60, abs=SECONDS)
    collector.close()


def test_a_kernel_log_that_is_not_for_us(fake):
    fake.paths.kernel_log.unlink()
    with capture_logs() as logs:
        collector = Drbd(fake.paths)
    assert [entry["log_level"] for entry in logs] == ["warning"]
    fake.replay84("14-connected-primary-secondary.v01")
    assert value(collect(collector), "vmheal_drbd_connection_split_brain", **PEER) is None
    collector.close()


# No DRBD, and DRBD that is ill.


DOWN = {("drbd_up", frozenset()): 0, ("drbdreactor_up", frozenset()): 0}


def test_no_module_is_said_once_and_nothing_is_run(fake, collector):
    """drbdsetup would load the module."""
    with capture_logs() as logs:
        assert collect(collector) == collect(collector) == series(collector.down()) == DOWN
    assert [entry["event"] for entry in logs] == ["no DRBD on this host: its kernel module is not loaded"]
    assert fake.calls() == []
    fake.replay84("14-connected-primary-secondary.v01")
    assert value(collect(collector), "drbd_up") == 1
    fake.unload()
    assert collect(collector) == DOWN
    assert collector.volume_of_minor(0) is None
    assert collector.backing_disks() == {}


def test_a_module_without_resources(fake, collector):
    fake.replay84("00-unconfigured-no-device.v01")
    page = collect(collector)
    assert value(page, "drbd_up") == 1
    assert value(page, "drbd_resource_resources") == 0
    assert fake.calls("drbdsetup show") == []


@pytest.mark.parametrize(
    ("act", "error"),
    [
        ("exec cat /dev/zero", "printed more than"),
        ("exec yes exists resource", "printed more than"),
        ("head -c 20000 /dev/urandom; exit 0", "exists -"),
        ("exit 0", "exists -"),
        ("echo 'exists -'; echo; exit 0", "exists -"),
        (
            "echo 'received netlink error reply: No such device' >&2; exit 20",
            "drbdsetup events2 failed with exit status 20: received netlink error",
        ),
        ("kill -9 $$", "was ended by signal 9"),
    ],
)
@pytest.mark.parametrize("version", [84, 9])
def test_a_drbdsetup_that_is_ill(no_child_is_left, fake, collector, act, error, version):
    fake.replay(version)
    fake.acts("events2", act)
    begin = time.monotonic()
    with pytest.raises(CollectorError, match=error):
        collector.collect(begin + SECONDS)
    assert time.monotonic() - begin < SECONDS
    fake.acts("events2", "")
    assert value(collect(collector), "drbd_up") == 1
    collector.close()
    no_child_is_left()


@pytest.mark.parametrize("act", ["sleep 1000", "trap '' TERM; while :; do sleep 1000; done", "kill -STOP $$"])
@pytest.mark.parametrize("version", [84, 9])
def test_a_drbdsetup_that_hangs(no_child_is_left, fake, collector, act, version, monkeypatch):
    """Each scrape answers in time; one child hangs, not one for each; afterwards all is well again."""
    monkeypatch.setattr(drbdsetup, "EVENTS2_SECONDS", 1.5)
    fake.replay(version)
    fake.acts("events2", act)
    for _ in range(3):
        begin = time.monotonic()
        with pytest.raises(CollectorError, match="drbdsetup events2 did not answer in time"):
            collector.collect(begin + 0.3)
        assert time.monotonic() - begin < 1.0  # much less than the child takes, even on a busy machine
    assert len(fake.calls("drbdsetup events2")) == 1
    with pytest.raises(CollectorError, match="did not end in time"):
        collect(collector)
    fake.acts("events2", "")
    assert value(collect(collector), "drbd_up") == 1
    collector.close()
    no_child_is_left()


@pytest.mark.parametrize("version", [84, 9])
def test_a_drbdsetup_that_hangs_ends_with_the_collector(no_child_is_left, fake, collector, version):
    fake.replay(version)
    fake.acts("events2", "sleep 1000")
    with pytest.raises(CollectorError, match="did not answer in time"):
        collector.collect(time.monotonic() + 0.3)
    begin = time.monotonic()
    collector.close()
    no_child_is_left()
    assert time.monotonic() - begin < drbdsetup.EVENTS2_SECONDS - 1


@pytest.mark.parametrize("version", [84, 9])
def test_a_slow_drbdsetup_answers_the_next_scrape(fake, collector, version):
    fake.replay(version)
    fake.acts("events2", "sleep 0.5")
    with pytest.raises(CollectorError, match="did not answer in time"):
        collector.collect(time.monotonic() + 0.2)
    assert value(collect(collector), "drbd_up") == 1
    assert len(fake.calls("drbdsetup events2")) == 1


def test_84_does_not_take_a_late_answer_for_another_state(fake, collector):
    fake.replay84("14-connected-primary-secondary.v01")
    fake.acts("events2", f"cat {fake.base}/out/events2; sleep 0.5; exit 0")
    with pytest.raises(CollectorError, match="did not answer in time"):
        collector.collect(time.monotonic() + 0.2)
    fake.replay84("33-peer-powered-off.v02")
    assert state(collect(collector), "drbd_connection_state") == {"Connecting"}
    assert len(fake.calls("drbdsetup events2")) == 2


def test_9_does_not_take_an_answer_that_comes_too_late(fake, collector, monkeypatch):
    monkeypatch.setattr(drbdsetup, "LATE_SECONDS", 0.0)
    fake.replay(9)
    fake.acts("events2", "sleep 0.5")
    with pytest.raises(CollectorError, match="did not answer in time"):
        collector.collect(time.monotonic() + 0.2)
    assert value(collect(collector), "drbd_up") == 1
    assert len(fake.calls("drbdsetup events2")) == 2


def test_84_lives_through_a_drbdsetup_that_hangs(fake, collector, monkeypatch):
    """The kernel vouches for what was read before, as long as its states read the same."""
    monkeypatch.setattr(drbdsetup, "REREAD_SECONDS", 0.0)
    fake.replay84("14-connected-primary-secondary.v01")
    collect(collector)
    fake.acts("events2", "sleep 1000")
    assert state(collect(collector, 1.0), "drbd_connection_state", **PEER) == {"Connected"}
    fake.proc((fake.base / "proc").read_text().replace("cs:Connected", "cs:WFConnection"))
    with pytest.raises(CollectorError, match="did not answer in time"):
        collect(collector, 1.0)


def test_no_drbdsetup(fake, collector, monkeypatch):
    fake.replay9("10-verify", "v01")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(CollectorError, match="drbdsetup is not in PATH"):
        collect(collector)


@pytest.mark.parametrize("act", ["sleep 1000", "exec yes", "head -c 1000 /dev/urandom; exit 0", "exit 1"])
def test_the_state_does_not_wait_for_details(fake, collector, monkeypatch, act):
    monkeypatch.setattr(drbd, "FIRST_DETAILS_SECONDS", 0.1)
    monkeypatch.setattr(drbdsetup, "DETAILS_CHILD_SECONDS", 1.0)
    for details in ("--version", "dump-xml", "show", "get-gi"):
        fake.acts(details, act)
    fake.replay84("14-connected-primary-secondary.v01")
    collect(collector)
    begin = time.monotonic()
    page = collect(collector, 1.0)
    assert time.monotonic() - begin < 1.0
    assert state(page, "drbd_resource_role", name="voms01") == {"Primary"}
    page = eventually(
        collector, lambda page: value(page, "vmheal_exporter_drbd_details_success", source="show") == 0
    )
    assert value(page, "vmheal_drbd_device_current_uuid_info") is None


def test_old_options_are_not_published(fake, collector, monkeypatch):
    fake.replay84("14-connected-primary-secondary.v01")
    assert state(collect(collector), "vmheal_drbd_resource_fencing") == {"dont-care"}
    monkeypatch.setattr(drbd, "CONFIGURATION_SECONDS", -1.0)
    page = collect(collector)
    assert state(page, "vmheal_drbd_resource_fencing") == set()
    assert state(page, "drbd_connection_state", **PEER) == {"Connected"}


def test_unknown_words_are_counted_and_logged_once(fake, collector):
    fake.replay9("10-verify", "v01")
    text = drbd9("10-verify", "v01", "events2-now-statistics.txt").replace(
        "disk:UpToDate client", "disk:Sparkling client", 1
    )
    fake.prints("events2", text)
    with capture_logs() as logs:
        for expected in (1, 2, 3):
            page = collect(collector)
            assert value(page, "vmheal_exporter_drbd_unknown_words_total", kind="disk") == expected
    assert state(page, "drbd_device_state", **VOLUME) == set()
    assert value(page, "drbd_device_size_bytes", **VOLUME) == 131032 * 1024
    (entry,) = (entry for entry in logs if entry["log_level"] == "warning")
    assert entry["host"] == "v01"
    assert entry["resource"] == "voms01"
    assert "disk:'Sparkling'" in entry["problem"]


def test_an_unknown_word_is_counted_once_for_each_time_it_was_read(fake, collector):
    """Not at each scrape for which 8.4's /proc/drbd proves that it still holds."""
    fake.replay(84)
    text = (fake.base / "out/events2").read_text()
    fake.prints("events2", text.replace("congested:no", "congested:maybe"))
    for _ in range(3):
        page = collect(collector)
        assert value(page, "vmheal_exporter_drbd_unknown_words_total", kind="other") == 1
    assert value(page, "drbd_connection_congested", **PEER) is None


def test_an_unknown_fencing_policy_is_counted(fake, collector):
    fake.replay84("54f-after-refused.v01")
    fake.prints("show", (fake.base / "out/show").read_text().replace("resource-only", "moon"))
    page = collect(collector)
    assert value(page, "vmheal_exporter_drbd_unknown_words_total", kind="fencing") == 1
    assert state(page, "vmheal_drbd_resource_fencing") == set()


def test_malformed_lines_are_counted(fake, collector):
    fake.replay9("10-verify", "v01")
    fake.prints("events2", "garbage\n" + drbd9("10-verify", "v01", "events2-now-statistics.txt"))
    assert value(collect(collector), "vmheal_exporter_drbd_malformed_lines_total") == 1


def test_close_ends_the_thread(fake):
    collector = Drbd(fake.paths)
    fake.replay84("14-connected-primary-secondary.v01")
    collect(collector)
    threads = [it for it in threading.enumerate() if it.name == "drbd-details"]
    assert threads
    collector.close()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()


# The names on the page.


def test_the_names_on_the_page_are_those_promised(fake):
    """`names-drbd.txt` is what dashboards and rules are built on: name{labels} type."""
    found = set()
    collector = Drbd(fake.paths)
    for replay, last_to_come in (
        (lambda: fake.replay84("08-syncing-mid.v01"), "vmheal_drbd_device_current_uuid_info"),
        (lambda: fake.replay9("04-syncing-initial", "v01"), "vmheal_drbd_resource_info"),
    ):
        replay()
        eventually(collector, lambda page, name=last_to_come: any(its == name for its, _ in page))
        for metric in collector.collect(time.monotonic() + SECONDS):
            found |= {f"{it.name}{{{','.join(sorted(it.labels))}}} {metric.type}" for it in metric.samples}
    collector.close()
    assert found == {line for line in NAMES.read_text().splitlines() if not line.startswith("#")}


@pytest.mark.daemons
@pytest.mark.parametrize("version", [84, 9])
def test_promtool_accepts_the_page(fake, collector, version):
    fake.replay(version)
    page = render(collector.collect(time.monotonic() + SECONDS))
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
