"""DRBD's configuration, from captures of real DRBD."""

import json
import re
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.drbd import DrbdOutputError, UnknownWord
from exporter.drbd_configuration import (
    Fencing,
    Generations,
    Protocol,
    ResourceConfiguration,
    parse_current_uuid,
    parse_dump_xml,
    parse_get_gi,
    parse_show9,
    parse_show84,
)
from tests.exporter.drbd_samples import SAMPLES, command, drbd9, drbd84, snaps9, snaps84
from tests.exporter.fake_drbd import DUMP_XML

# Nothing is up: drbdsetup prints an error instead, and exits with status 20.
NOTHING_UP = {"00-unconfigured-no-device", "34-host-returned-resource-down", "39-v01-rejoined-down"}


def show84(label: str) -> ResourceConfiguration:
    (resource,) = parse_show84(command(drbd84(label), "drbdsetup show"))
    return resource


def show9(label: str, host: str) -> dict[str, ResourceConfiguration]:
    return {it.name: it for it in parse_show9(drbd9(label, host, "show.json"))}


@pytest.mark.parametrize("label", [it for it in snaps84() if it.split(".")[0] not in NOTHING_UP])
def test_every_84_capture(label):
    text = command(drbd84(label), "drbdsetup show")
    resource = show84(label)
    assert resource.name == "voms01"
    assert resource.unknown_words == ()
    assert resource.backing_disks == ({0: "/dev/vg0/voms01"} if 'disk			"' in text else {})
    assert bool(resource.connections) == ("_remote_host" in text)
    for connection in resource.connections:
        assert connection.peer_address == ("10.20.0.1" if label.endswith("v02") else "10.20.0.2")
        assert connection.protocol is Protocol.C
        assert connection.allow_two_primaries == ("allow-two-primaries" in text)
    assert (resource.quorum, resource.on_no_quorum, resource.auto_promote) == (None, None, None)


@pytest.mark.parametrize(("label", "host"), list(snaps9()))
def test_every_9_capture(label, host):
    said = {it["resource"]: it for it in json.loads(drbd9(label, host, "show.json"))}
    resources = show9(label, host)
    assert resources.keys() == said.keys()
    for name, resource in resources.items():
        assert resource.unknown_words == ()
        assert resource.auto_promote == said[name]["options"].get("auto-promote", True)
        assert resource.quorum == ("majority" if name == "voms01" else "off")
        assert len(resource.connections) == len(said[name]["connections"])
        assert all(it.peer_address == f"10.20.0.{it.peer[-1]}" for it in resource.connections)
        assert resource.backing_disks in ({}, {0: f"/dev/vg0/{name}"})


def test_fencing_in_the_captures():
    """In 8.4 it belongs to the disk: a detached one has none."""
    by_label = {label: show84(label).fencing for label in snaps84() if label.split(".")[0] not in NOTHING_UP}
    assert Counter(by_label.values()) == {Fencing.DONT_CARE: 54, Fencing.RESOURCE_ONLY: 6, None: 2}
    assert {label for label, policy in by_label.items() if policy is None} == {
        "41-diskless-secondary.v01",
        "41b-diskless-alone.v01",
    }
    label = "51-fencing-io-resource-and-stonith-exit-1"
    assert show9(label, "v01")["ce01"].fencing is Fencing.RESOURCE_AND_STONITH
    assert show9("50-fencing-resource-only-handler-exit-1", "v01")["ce01"].fencing is Fencing.RESOURCE_ONLY
    assert show9("10-verify", "v01")["ce01"].fencing is Fencing.DONT_CARE


def test_the_weakest_fencing_counts():
    text = command(drbd84("54f-after-refused.v01"), "drbdsetup show")
    volume = text[text.index("        volume 0 {") : text.rindex("    }\n}")]
    two = text.replace(
        volume, volume + volume.replace("volume 0", "volume 1").replace("resource-only", "dont-care")
    )
    (resource,) = parse_show84(two)
    assert resource.backing_disks.keys() == {0, 1}
    assert resource.fencing is Fencing.DONT_CARE
    (unknown,) = parse_show84(two.replace("dont-care", "moon"))
    assert unknown.fencing == UnknownWord("fencing", "moon", "voms01")
    assert unknown.unknown_words == (UnknownWord("fencing", "moon", "voms01"),)


def test_quorum_options():
    resource = show9("72-on-no-quorum-io-error", "v01")["voms01"]
    assert (resource.quorum, resource.on_no_quorum) == ("majority", "io-error")


def test_allow_two_primaries():
    assert show9("60b-both-primary-option-off", "v01")["ce01"].connections[0].allow_two_primaries in {
        True,
        False,
    }
    on = [
        (label, host)
        for label, host in snaps9()
        for it in show9(label, host).values()
        for to in it.connections
        if to.allow_two_primaries
    ]
    assert len(on) == 10
    assert (
        sum(
            to.allow_two_primaries
            for label in ("37-two-primaries.v01", "37-two-primaries.v02")
            for to in show84(label).connections
        )
        == 2
    )


def test_ipv6_and_protocol_a():
    text = command(drbd84("14-connected-primary-secondary.v01"), "drbdsetup show")
    text = text.replace("ipv4 10.20.0.2:7789", "ipv6 [fd00::2]:7789").replace(
        "net {", "net {\n protocol A; # default"
    )
    (connection,) = parse_show84(text)[0].connections
    assert connection.peer_address == "fd00::2"
    assert connection.protocol is Protocol.A


@pytest.mark.parametrize(
    "text",
    [
        "resource r {",
        "}",
        "{",
        ";",
        "resource r { } }",
        "resource {}",
        "resource r { _this_host { volume x { } } }",
        "{" * 100,
        "r {" * 100,
        "word",
        'resource "r',
    ],
)
def test_broken_show_is_refused(text):
    with pytest.raises(DrbdOutputError):
        parse_show84(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[1]",
        "{}x",
        '{"a": 1}',
        '[{"resource": "r"}]',
        '[{"resource": "r", "connections": [{}]}]',
        '[{"resource": "r", "_this_host": 1}]',
        "[" * 100_000,
    ],
)
def test_broken_json_is_refused(text):
    with pytest.raises(DrbdOutputError):
        parse_show9(text)


@given(st.text(alphabet=st.sampled_from(list('{};" #\nabr\\')) | st.characters()))
def test_any_text_parses_or_is_refused(text):
    for parse in (parse_show84, parse_show9, parse_dump_xml):
        with suppress(DrbdOutputError):
            parse(text)


def test_dump_xml():
    files = parse_dump_xml(DUMP_XML)["voms01"]
    assert files.hosts == {"v01": ("10.20.0.1",), "v02": ("10.20.0.2",)}
    assert files.handlers == {
        "fence-peer": '/usr/lib/vmheal/fence-peer "a b" &',
        "split-brain": "/usr/lib/drbd/notify-split-brain.sh root",
    }


@pytest.mark.parametrize(
    ("address", "own_name", "peer"),
    [
        ("10.20.0.2", "v01", "v02"),
        ("10.20.0.2", "some-alias", "v02"),  # the address tells
        ("10.20.0.9", "v01", "v02"),  # one other host: it must be that
        (None, "v01", "v02"),  # StandAlone
        (None, "v02", "v01"),
        (None, "some-alias", None),
    ],
)
def test_the_peers_name(address, own_name, peer):
    assert parse_dump_xml(DUMP_XML)["voms01"].peer_name(address, own_name) == peer


def test_every_84_uuid():
    """get-gi of both hosts of a moment: equal while they were in sync."""
    uuids = {label: parse_current_uuid(command(drbd84(label), "drbdadm get-gi")) for label in snaps84()}
    assert sum(uuid is None for uuid in uuids.values()) == 5
    for label in ("14-connected-primary-secondary", "15-connected-both-secondary", "30-mgmt-partition"):
        assert uuids[f"{label}.v01"] == uuids[f"{label}.v02"] is not None
    for label in ("31c-dual-primary-split", "32-splitbrain-healed"):
        assert uuids[f"{label}.v01"] != uuids[f"{label}.v02"]
    assert uuids["00-unconfigured-no-device.v01"] is None  # just created: the same on every fresh disk


def test_the_generations_of_every_84_sample():
    """Those of both hosts are equal whenever both were connected and UpToDate."""
    found = {label: parse_get_gi(command(drbd84(label), "drbdadm get-gi")) for label in snaps84()}
    moments = [label for label in found if label.endswith(".v01") and " disk:UpToDate" in drbd84(label)]
    pairs = [it.split(".")[0] for it in moments if "peer-disk:UpToDate" in drbd84(it)]
    assert len(pairs) > len(("14", "15", "16"))
    for moment in pairs:
        assert found[f"{moment}.v01"][0].current == found[f"{moment}.v02"][0].current is not None
    for label, (volume,) in found.items():
        assert volume.current == parse_current_uuid(command(drbd84(label), "drbdadm get-gi"))
    (before,), (after,) = found["30-mgmt-partition.v02"], found["31-both-links-cut.v02"]
    assert after.continues(before.current)
    assert not before.continues(after.current)
    assert found["04-connected-inconsistent-both.v01"] == (Generations(None),)


def test_the_generations_of_9_volume_by_volume():
    """Its get-gi prints the line of show-gi alone, with more flags."""
    show = (SAMPLES / "drbd9" / "91-primary-rebooted-isolated" / "act04-v02.txt").read_text()
    lines = re.findall("^[0-9A-F]{16}:.*\n", show, re.MULTILINE)
    assert parse_get_gi("".join(lines)) == (
        Generations("18C6C27CE9766C36", frozenset({"4553BFEE8578974E", "E84E10D8B7E7C064"})),
        Generations("6C78940F4FA2EF5E", frozenset({"B10D3585C429637E", "361E47ADA152F9D0"})),
    )


GI = "E25DF6057BB32DC1:F5E75D9CCF130B8D:0000000000000004:0000000000000000:1:1:1:1:0:1:0\n"


@pytest.mark.parametrize(
    "text",
    ["", "\n", "Device minor not allocated\n", GI[:40], GI.lower(), f"{GI}{GI[17:]}", f"x{GI}", f"{GI}\n"],
)
def test_what_get_gi_does_not_print(text):
    with pytest.raises(DrbdOutputError, match="get-gi"):
        parse_get_gi(text)


def test_the_primary_bit_is_no_part_of_the_identity():
    secondary = GI.replace("DC1:", "DC0:")
    assert parse_current_uuid(GI) == parse_current_uuid(secondary) == "E25DF6057BB32DC0"
    assert parse_get_gi(GI) == parse_get_gi(secondary)


def test_a_9_uuid_below_its_legend():
    """show-gi of both hosts; the legend's lines come first."""
    texts = [path.read_text() for path in sorted((SAMPLES / "drbd9").rglob("act*.txt"))]
    found = [parse_current_uuid(text) for text in texts if "drbdsetup show-gi" in text]
    assert found == ["18C6C27CE9766C36", "18C6C27CE9766C36"]


@pytest.mark.parametrize(
    "text", ["", "10: Failure: (158) Unknown resource\n", "0" * 16 + ":" + "0" * 16 + ":1\n"]
)
def test_no_uuid(text):
    assert parse_current_uuid(text) is None
