"""The parser of events2 against every capture of real DRBD, and against whatever else may come out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.drbd import (
    Blocked,
    ConnectionState,
    DiskState,
    DrbdOutputError,
    MalformedLine,
    PeerDevice,
    ReplicationState,
    ResyncPause,
    Role,
    Snapshot,
    SuspendReason,
    UnknownWord,
    parse_events2,
)
from exporter.drbd_proc import parse_proc
from tests.exporter.drbd_samples import STREAMS9, command, drbd9, drbd84, snaps9, snaps84

WFCONNECTION = {"WFConnection": "Connecting"}
# The host noticed the cut between its two commands.
CHANGED_MEANWHILE = {"12-link-cut-during-sync.v02"}


def events84(label: str) -> Snapshot:
    return parse_events2(command(drbd84(label), "drbdsetup events2 --now --statistics"))


def events9(label: str, host: str) -> Snapshot:
    return parse_events2(drbd9(label, host, "events2-now-statistics.txt"))


def the_peer_device(snapshot: Snapshot, resource: str, peer: str) -> PeerDevice:
    (connection,) = (it for it in snapshot.resource(resource).connections if it.name == peer)
    (peer_device,) = connection.peer_devices
    return peer_device


def test_all_captures_are_there():
    assert len(list(snaps84())) == 67
    assert len(list(snaps9())) == 279


@pytest.mark.parametrize("label", list(snaps84()))
def test_every_84_capture_is_understood(label):
    """/proc/drbd of the same moment, printed by the kernel, says the same."""
    text = drbd84(label)
    snapshot, proc = events84(label), parse_proc(command(text, "cat /proc/drbd"))
    assert snapshot.problems == ()
    assert len(snapshot.resources) == len(proc.minors) == ("cs:" in text)
    if label in CHANGED_MEANWHILE:
        return
    for resource in snapshot.resources:
        (connection,), (device,) = resource.connections, resource.devices
        (peer_device,) = connection.peer_devices
        states = proc.minors[device.minor].states
        assert f" ro:{resource.role.value}/{connection.peer_role.value} " in states
        assert f" ds:{device.disk_state.value}/{peer_device.peer_disk_state.value} " in states
        cs = states.split("cs:")[1].split()[0]
        assert WFCONNECTION.get(cs, cs) in {
            connection.connection_state.value,
            peer_device.replication_state.value,
        }
        assert resource.suspended == ()
        assert not proc.minors[device.minor].suspended
        assert device.size_bytes == 102360 * 1024  # also while diskless: the peer's


@pytest.mark.parametrize(("label", "host"), list(snaps9()))
def test_every_9_capture_is_understood(label, host):
    text = drbd9(label, host, "events2-now-statistics.txt")
    snapshot = parse_events2(text)
    assert snapshot.problems == ()
    counted = {
        "resource": len(snapshot.resources),
        "device": sum(len(it.devices) for it in snapshot.resources),
        "connection": sum(len(it.connections) for it in snapshot.resources),
        "peer-device": sum(len(to.peer_devices) for it in snapshot.resources for to in it.connections),
        "path": sum(len(to.paths) for it in snapshot.resources for to in it.connections),
    }
    assert counted == {kind: text.count(f"exists {kind} ") for kind in counted}


@pytest.mark.parametrize(("label", "host"), list(snaps9()))
def test_the_same_moment_in_json_says_the_same(label, host):
    """status.json was captured a moment earlier, so only what lasts is compared."""
    status = {it["name"]: it for it in json.loads(drbd9(label, host, "status.json"))}
    for resource in events9(label, host).resources:
        said = status[resource.name]
        reasons = {f"suspended-{reason.value}" for reason in resource.suspended}
        assert {device.minor for device in resource.devices} == {it["minor"] for it in said["devices"]}
        assert {it.name for it in resource.connections} == {it["name"] for it in said["connections"]}
        if resource.role.value == said["role"] and bool(resource.suspended) == said["suspended"]:
            assert reasons == {key for key in said if key.startswith("suspended-") and said[key]}
        for device, other in zip(resource.devices, said["devices"], strict=True):
            assert device.client == other["client"]
            assert device.size_bytes == other["size"] * 1024


def test_steady_captures_say_exactly_the_same_in_json():
    (resource,) = (it for it in events9("38-v02-isolated-no-quorum", "v02").resources if it.name == "voms01")
    (said,) = (
        it
        for it in json.loads(drbd9("38-v02-isolated-no-quorum", "v02", "status.json"))
        if it["name"] == "voms01"
    )
    (device,) = resource.devices
    assert resource.role is Role.SECONDARY
    assert resource.suspended == (SuspendReason.QUORUM,)
    assert said["suspended-quorum"]
    assert device.quorum is False
    assert device.blocked == (Blocked.UPPER,)
    assert device.written_bytes == said["devices"][0]["written"] * 1024 == 16424 * 1024
    assert resource.may_promote is False
    assert resource.promotion_score == 0


@pytest.mark.parametrize("text", STREAMS9, ids=["17-failover", "41-split-brain"])
def test_the_words_of_recorded_streams_are_known(text):
    """A stream's lines are changes; as statements they hold no word that is not known.

    Lines of helpers are other things, and resources do not repeat what did not change: that is all that is
    wrong with them.
    """
    statements = [
        line.split(" ", 1)[1].replace("change ", "exists ", 1)
        for line in text.splitlines()
        if " helper " not in line
    ]
    for statement in statements:
        problems = parse_events2(f"{statement}\nexists -\n").problems
        assert not [it for it in problems if isinstance(it, UnknownWord)]
        assert all("no " in it.reason or "no line itself" in it.reason for it in problems), problems


# What chosen captures mean; where a label does not say what happened, the README's word counts.


def test_84_resync():
    source = the_peer_device(events84("08-syncing-mid.v01"), "voms01", "peer")
    assert source.replication_state is ReplicationState.SYNC_SOURCE
    assert source.peer_disk_state is DiskState.INCONSISTENT
    assert source.out_of_sync_bytes == 72408 * 1024
    assert source.sent_bytes == 29952 * 1024
    assert source.done_ratio is None
    target = the_peer_device(events84("08-syncing-mid.v02"), "voms01", "peer")
    assert target.replication_state is ReplicationState.SYNC_TARGET


def test_84_split_brain_is_stand_alone_on_both_sides_and_forgets_the_peer():
    for host in ("v01", "v02"):
        (resource,) = events84(f"32-splitbrain-healed.{host}").resources
        (connection,) = resource.connections
        assert resource.role is Role.PRIMARY
        assert connection.connection_state is ConnectionState.STAND_ALONE
        assert connection.name == "peer"
        assert connection.peer_devices[0].peer_disk_state is DiskState.D_UNKNOWN


def test_84_wfconnection_is_connecting():
    (resource,) = events84("53b-promoted-while-frozen.v02").resources
    assert resource.connections[0].connection_state is ConnectionState.CONNECTING
    assert resource.connections[0].peer_role is Role.UNKNOWN


def test_what_84_does_not_say_is_none():
    (resource,) = events84("14-connected-primary-secondary.v01").resources
    (device,), (connection,) = resource.devices, resource.connections
    assert resource.may_promote is resource.promotion_score is resource.force_io_failures is None
    assert device.backing_disk is device.client is device.quorum is device.open is None
    assert connection.ap_in_flight_bytes is connection.rs_in_flight_bytes is None
    assert connection.paths == ()


def test_84_without_resources():
    assert events84("00-unconfigured-no-device.v01") == Snapshot(())


def test_9_resync_and_tiebreaker():
    snapshot = events9("04-syncing-initial", "v01")
    source = the_peer_device(snapshot, "voms01", "v02")
    assert source.replication_state is ReplicationState.SYNC_SOURCE
    assert source.done_ratio == pytest.approx(0.1778)
    assert source.eta_seconds == 7
    assert source.sync_bytes_per_second == pytest.approx(15.46 * 1024 * 1024)
    tiebreaker = the_peer_device(snapshot, "voms01", "v03")
    assert tiebreaker.peer_disk_state is DiskState.DISKLESS
    assert tiebreaker.peer_client is True
    (device,) = events9("04-syncing-initial", "v03").resource("voms01").devices
    assert device.client is True
    assert device.backing_disk is None
    assert snapshot.resource("voms01").devices[0].backing_disk == "/dev/vg0/voms01"


def test_9_paused_sync():
    states = {
        it.replication_state: it.resync_suspended
        for host in ("v01", "v02")
        for it in (
            the_peer_device(
                events9("05a-paused-sync-by-source", host), "voms01", {"v01": "v02", "v02": "v01"}[host]
            ),
        )
    }
    assert states == {
        ReplicationState.PAUSED_SYNC_S: (ResyncPause.USER,),
        ReplicationState.PAUSED_SYNC_T: (ResyncPause.PEER,),
    }


def test_9_frozen_by_fencing():
    snapshot = events9("51-fencing-io-resource-and-stonith-exit-1", "v01")
    resource = snapshot.resource("ce01")
    assert resource.role is Role.PRIMARY
    assert resource.suspended == (SuspendReason.FENCING,)


def test_9_both_still_primary_in_60c():
    """60c says "migrated", but both are Primary."""
    for host in ("v01", "v02"):
        assert events9("60c-migrated", host).resource("ce01").role is Role.PRIMARY


def test_9_counters_below_zero_are_unknown():
    underflows = 0
    for label, host in snaps9():
        text = drbd9(label, host, "events2-now-statistics.txt")
        underflows += text.count("in-flight:184467440737")
        for resource in parse_events2(text).resources:
            for connection in resource.connections:
                assert (connection.ap_in_flight_bytes or 0) < 2**40
                assert (connection.rs_in_flight_bytes or 0) < 2**40
    line = "exists connection name:r peer-node-id:1 conn-name:b connection:Connected role:Primary congested:no ap-in-flight:18446744073709551608 rs-in-flight:8"
    (resource,) = parse_events2(f"{RESOURCE}\n{line}\nexists -\n").resources
    assert resource.connections[0].ap_in_flight_bytes is None
    assert resource.connections[0].rs_in_flight_bytes == 8 * 512


# Broken output.

RESOURCE = "exists resource name:r role:Primary suspended:no write-ordering:flush"
DEVICE = "exists device name:r volume:0 minor:7 disk:UpToDate size:4 upper-pending:0"
CONNECTION = (
    "exists connection name:r peer-node-id:0 conn-name:peer connection:Connected role:Secondary congested:no"
)
PEER_DEVICE = "exists peer-device name:r peer-node-id:0 conn-name:peer volume:0 replication:Established peer-disk:UpToDate resync-suspended:no out-of-sync:3"
WHOLE = [RESOURCE, CONNECTION, DEVICE, PEER_DEVICE]


def page(*lines: str) -> str:
    return "".join(f"{line}\n" for line in (*lines, "exists -"))


@pytest.mark.parametrize(
    ("good", "bad", "unknown"),
    [
        ("role:Primary", "role:Tertiary", UnknownWord("role", "Tertiary", "r")),
        ("role:Secondary", "role:Tertiary", UnknownWord("role", "Tertiary", "r")),
        ("disk:UpToDate", "disk:Sparkling", UnknownWord("disk", "Sparkling", "r")),
        ("peer-disk:UpToDate", "peer-disk:uptodate", UnknownWord("peer-disk", "uptodate", "r")),
        ("connection:Connected", "connection:Konnected", UnknownWord("connection", "Konnected", "r")),
        ("replication:Established", "replication:", UnknownWord("replication", "", "r")),
        ("suspended:no", "suspended:fencing,moon", UnknownWord("suspended", "moon", "r")),
        ("resync-suspended:no", "resync-suspended:cat", UnknownWord("resync-suspended", "cat", "r")),
        ("congested:no", "congested:maybe", UnknownWord("congested", "maybe", "r")),
    ],
)
def test_an_unknown_word_is_told_and_breaks_nothing_else(good, bad, unknown):
    other = [line.replace("name:r", "name:s") for line in WHOLE]
    text, sound = page(*WHOLE, *other), parse_events2(page(*WHOLE, *other))
    assert sound.problems == ()
    broken = parse_events2(text.replace(f" {good}", f" {bad}", 1))
    assert broken.problems == (unknown,)
    assert broken.problems_of("r") == (unknown,)
    assert broken.problems_of("s") == ()
    assert broken.resource("s") == sound.resource("s")
    assert broken.resource("r") != sound.resource("r")
    assert str(unknown) == f"resource r: {unknown.kind}:{unknown.word!r} is not known"


def test_an_unknown_word_equals_no_state():
    snapshot = parse_events2(page(RESOURCE, DEVICE.replace("UpToDate", "uptodate")))
    disk_state = snapshot.resource("r").devices[0].disk_state
    assert disk_state not in set(DiskState)
    assert isinstance(disk_state, UnknownWord)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        " ",
        "exists",
        "exists ",
        "exists device",
        "exists device name:r",
        "exists device name:r volume:0 minor:x disk:UpToDate",
        "exists device name:r volume:0 minor:-1 disk:UpToDate",
        "exists device name:r volume:0 minor:7 disk:UpToDate size:many",
        "exists device name:r volume:0 minor:\u0667 disk:UpToDate",
        "exists peer-device name:r volume:0 replication:Off peer-disk:DUnknown",
        "exists peer-device name:r peer-node-id:0 volume:0 replication:Off peer-disk:DUnknown done:half",
        "exists gadget name:r volume:0",
        "change device name:r volume:0 minor:7 disk:UpToDate",
        "call helper name:r peer-node-id:0 helper:split-brain",
        "exists device volume:0 minor:7 disk:UpToDate",
        "exists device name:r volume:0 minor:7 disk:UpToDate word",
        "\x1b[31mexists device name:r\x1b[m",
        DEVICE,  # said twice
        RESOURCE,
    ],
)
def test_a_malformed_line_is_told_and_breaks_nothing_else(bad):
    sound, broken = parse_events2(page(*WHOLE)), parse_events2(page(*WHOLE, bad))
    assert broken.resources == sound.resources
    (problem,) = broken.problems
    assert isinstance(problem, MalformedLine)
    assert problem.line == bad[:200]
    assert broken.problems_of("r") == (problem,)


@pytest.mark.parametrize("missing", [RESOURCE, CONNECTION])
def test_parts_without_their_whole_are_told(missing):
    broken = parse_events2(page(*(line for line in WHOLE if line != missing)))
    assert [problem.resource for problem in broken.problems] == ["r"]


@pytest.mark.parametrize(
    "text",
    ["", "exists -x\n", page(*WHOLE).removesuffix("exists -\n"), page(*WHOLE)[:-2], page(*WHOLE) + "exists"],
)
def test_output_that_was_cut_off_is_refused(text):
    """Else a resource that is only missing from the output would count as gone."""
    with pytest.raises(DrbdOutputError, match="exists -"):
        parse_events2(text)


def test_a_problem_that_may_be_anybodys_is_everybodys():
    """A byte of a device's line is broken just in its resource's name."""
    other = RESOURCE.replace("name:r", "name:s")
    snapshot = parse_events2(page(RESOURCE, other, CONNECTION, DEVICE.replace("name:r", "name:\x00")))
    assert len(snapshot.problems_of("r")) == len(snapshot.problems_of("s")) == 1


def test_more_keys_than_we_know_are_no_problem():
    assert parse_events2(page(*(f"{line} new-key:new-word" for line in WHOLE))).problems == ()


@given(st.text())
def test_any_text_parses_or_is_refused(text):
    try:
        parse_events2(text)
    except DrbdOutputError:
        return
    assert text.splitlines()[-1] == "exists -"


@given(
    st.lists(
        st.sampled_from([*WHOLE, "exists path name:r peer-node-id:0 local:a peer:b established:yes"]),
        max_size=8,
    ),
    st.data(),
)
def test_damaged_lines_never_raise_and_are_never_silent(lines, data):
    """Whatever a bad byte, a cut or a repetition makes of a line: it is read as it says, or told."""
    damaged = []
    for line in lines:
        at = data.draw(st.integers(0, len(line)))
        damaged.append(
            line[:at]
            + data.draw(st.sampled_from(["", "\x00", "\ufffd", ":", " ", ",", "9", "é"]))
            + line[at + data.draw(st.integers(0, 3)) :]
        )
    snapshot = parse_events2(page(*damaged))
    said = [line for line in page(*damaged).splitlines()[:-1] if line]
    parts = sum(
        1
        + len(it.devices)
        + len(it.connections)
        + sum(len(to.peer_devices) + len(to.paths) for to in it.connections)
        for it in snapshot.resources
    )
    assert parts + len(snapshot.problems) >= len({line for line in said if line in WHOLE} & {RESOURCE})
    if snapshot.problems == ():
        assert parts == len(said)
