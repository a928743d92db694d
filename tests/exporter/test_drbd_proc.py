"""/proc/drbd and the kernel's log, from captures of real DRBD."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.drbd import DrbdOutputError, Snapshot, UnknownWord, parse_events2
from exporter.drbd_proc import (
    PeerMet,
    Proc,
    SplitBrainSeen,
    VerifyFinished,
    agrees,
    overlay,
    parse_kernel_message,
    parse_proc,
)
from tests.exporter.drbd_samples import SAMPLES, command, drbd84, snaps84

# Captures in which the host wrote, or changed its state, between /proc/drbd and events2.
CHANGED_MEANWHILE = {
    "07-syncing-early", "08-syncing-mid", "12-link-cut-during-sync", "16-primary-in-use", "37-two-primaries",
    "38-after-xen-failover", "40-diskless-primary", "41-diskless-secondary", "53c-after-thaw",
}  # fmt: skip


def proc84(label: str) -> Proc:
    return parse_proc(command(drbd84(label), "cat /proc/drbd"))


@pytest.mark.parametrize("label", [it for it in snaps84() if it.split(".")[0] not in CHANGED_MEANWHILE])
def test_its_counters_are_those_of_events2(label):
    """So events2's statistics may be brought up to date from here without running it."""
    text = drbd84(label)
    snapshot = parse_events2(command(text, "drbdsetup events2 --now --statistics"))
    blank = replace(
        snapshot,
        resources=tuple(
            replace(
                it,
                devices=tuple(replace(device, written_bytes=None, al_writes=None) for device in it.devices),
            )
            for it in snapshot.resources
        ),
    )
    assert overlay(blank, proc84(label)) == snapshot


@pytest.mark.parametrize("label", list(snaps84()))
def test_it_agrees_with_events2_of_the_same_moment(label):
    text = drbd84(label)
    snapshot = parse_events2(command(text, "drbdsetup events2 --now --statistics"))
    assert agrees(snapshot, proc84(label)) == (label != "12-link-cut-during-sync.v02")


@pytest.mark.parametrize(
    "label", ["14-connected-primary-secondary.v01", "08-syncing-mid.v02", "53b-promoted-while-frozen.v02"]
)
def test_it_agrees_with_no_other_state(label):
    snapshot = parse_events2(command(drbd84(label), "drbdsetup events2 --now --statistics"))
    alike = {other for other in snaps84() if proc84(other).states == proc84(label).states}
    assert {other for other in snaps84() if agrees(snapshot, proc84(other))} == alike
    assert not agrees(Snapshot(()), proc84(label))
    assert not agrees(snapshot, Proc("8.4.11", {}))
    assert not agrees(snapshot, Proc("9.2.18", {}))
    renamed = replace(
        snapshot,
        resources=tuple(
            replace(it, role=UnknownWord("role", "Primary", it.name)) for it in snapshot.resources
        ),
    )
    assert not agrees(renamed, proc84(label))


def test_a_resync_that_runs():
    minor = proc84("08-syncing-mid.v01").minors[0]
    assert minor.done_ratio == pytest.approx(0.28)
    assert minor.eta_seconds == 36
    assert minor.sync_bytes_per_second == 2020 * 1024
    assert minor.protocol == "C"
    target = proc84("12-link-cut-during-sync.v02").minors[0]
    assert (target.done_ratio, target.eta_seconds) == (pytest.approx(0.4), 96)
    text = command(drbd84("08-syncing-mid.v01"), "drbdsetup events2 --now --statistics")
    (resource,) = overlay(parse_events2(text), proc84("08-syncing-mid.v01")).resources
    (peer_device,) = resource.connections[0].peer_devices
    assert peer_device.done_ratio == pytest.approx(0.28)
    assert peer_device.out_of_sync_bytes == 74072 * 1024


def test_a_stalled_resync_has_no_end():
    text = command(drbd84("08-syncing-mid.v01"), "cat /proc/drbd").replace(" K/sec", " K/sec (stalled)")
    minor = parse_proc(text).minors[0]
    assert minor.eta_seconds is None
    assert minor.done_ratio == pytest.approx(0.28)


# Of DRBD 8.4.11 too, beside the captures.
VERIFY = """\
version: 8.4.11 (api:1/proto:86-101)
srcversion: F73C670A7EC572DB9CF3E5B\x20
 0: cs:VerifyS ro:Primary/Secondary ds:UpToDate/UpToDate C r-----
    ns:80 nr:0 dw:80 dr:12324 al:9 bm:0 lo:0 pe:0 ua:1147 ap:0 ep:1 wo:f oos:0
\t[====>...............] verified: 25.0% (25072/32728)K
\tfinish: 0:00:03 speed: 7,656 (7,656) want: 51,200 K/sec
"""
SUSPENDED = """\
version: 8.4.11 (api:1/proto:86-101)
srcversion: F73C670A7EC572DB9CF3E5B\x20
 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C s-----
    ns:80 nr:0 dw:80 dr:80 al:9 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0
"""


def test_a_verify():
    minor = parse_proc(VERIFY).minors[0]
    assert (minor.done_ratio, minor.eta_seconds, minor.sync_bytes_per_second) == (0.25, 3, 7656 * 1024)
    assert minor.counters["ua"] == 1147


def test_stand_alone_has_no_protocol():
    assert proc84("32-splitbrain-healed.v01").minors[0].protocol is None


def test_frozen_io():
    assert parse_proc(SUSPENDED).minors[0].suspended
    assert not parse_proc(VERIFY).minors[0].suspended


def test_many_minors_and_unconfigured_ones():
    text = (
        "version: 8.4.11 (api:1/proto:86-101)\nsrcversion: F73C670A7EC572DB9CF3E5B \n"
        "\n 1: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate A r-----\n"
        "    ns:1 nr:0 dw:0 dr:0 al:8 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0\n"
        " 2: cs:Unconfigured\n"
        "\n147: cs:WFConnection ro:Secondary/Unknown ds:UpToDate/DUnknown C r-----\n"
        "    ns:147 nr:0 dw:0 dr:0 al:8 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0\n"
    )
    proc = parse_proc(text)
    assert list(proc.minors) == [1, 2, 147]
    assert [minor.counters.get("ns") for minor in proc.minors.values()] == [1, None, 147]
    assert proc.minors[1].protocol == "A"
    assert proc.minors[2].counters == {}
    changed = parse_proc(text.replace(" 2: cs:Unconfigured", " 2: cs:StandAlone"))
    assert changed.states != proc.states
    assert parse_proc(text.replace("ns:147", "ns:148")).states == proc.states


def test_drbd_9_says_its_version():
    proc = parse_proc(
        "version: 9.2.18 (api:2/proto:86-122)\nGIT-hash: 0\nTransports (api:21): tcp (9.2.18)\n"
    )
    assert (proc.version, proc.major, proc.minors) == ("9.2.18", 9, {})


@pytest.mark.parametrize("text", ["", "\n", "version: \n", "version: moon\n", "GIT-hash"])
def test_something_else_is_refused(text):
    with pytest.raises(DrbdOutputError):
        parse_proc(text)


@given(st.text())
def test_any_text_parses_or_is_refused(text):
    try:
        parse_proc(f"version: 8.4.11 (api:1)\n{text}")
        parse_proc(text)
    except DrbdOutputError:
        pass


def kernel_log() -> list[str]:
    """All kernel messages in the captures, without their times."""
    pattern = re.compile(r"^\[ *\d+\.\d+\] ((?:block )?drbd.*)$", re.MULTILINE)
    return [
        text
        for path in sorted(SAMPLES.rglob("*.txt"))
        for text in pattern.findall(path.read_text("utf-8", "replace"))
    ]


def test_every_captured_split_brain_is_seen():
    seen = [
        message for text in kernel_log() if isinstance(message := parse_kernel_message(text), SplitBrainSeen)
    ]
    assert len([it for it in seen if it.peer is None]) == 3  # 8.4
    assert {(it.minor, it.peer) for it in seen if it.peer} == {
        (0, "v01"),
        (0, "v02"),
        (10, "v01"),
        (10, "v02"),
    }
    assert len(seen) == sum("Split-Brain detected but unresolved" in text for text in kernel_log()) == 7


def test_every_captured_meeting_is_seen():
    met = [message for text in kernel_log() if isinstance(message := parse_kernel_message(text), PeerMet)]
    assert PeerMet(None, "ce01", "v02") in met
    assert PeerMet(0, None, None) in met
    assert len([it for it in met if it.resource]) == sum(
        bool(re.search(r"conn\( \S+ -> Connected \).*\[", text)) for text in kernel_log()
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("block drbd3: Online verify done (total 5 sec; paused 0 sec; 13108 K/sec)", VerifyFinished(3, None)),
        (
            "drbd r/0 drbd3 v02: Online verify done (total 5 sec; paused 0 sec; 1 K/sec)",
            VerifyFinished(3, "v02"),
        ),
        ("drbd voms01: conn( WFConnection -> WFReportParams ) ", None),
        ("block drbd0: conn( Connected -> TearDown ) pdsk( UpToDate -> DUnknown ) ", None),
        ("block drbd0: Split-Brain detected, 1 primaries, automatically solved. Sync from this node", None),
        ("eth0: Split-Brain detected but unresolved, dropping connection!", None),
        ("", None),
    ],
)
def test_kernel_messages(text, message):
    assert parse_kernel_message(text) == message


@given(st.text())
def test_any_kernel_message_parses(text):
    parse_kernel_message(text)
    parse_kernel_message(f"block drbd0: {text}")
