"""Blocks that DRBD knows to differ, over what real DRBD said and over all inputs."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from actuator.core.guards.memory import is_in_sync
from actuator.core.guards.verbs import FAILOVER, LIVE, MOVE, RESTART
from actuator.model import Authority, Observed, Proof
from exporter.drbd import ConnectionState, DiskState, PeerDevice, Resource, Role, parse_events2
from exporter.drbd_configuration import Generations
from tests.actuator.build import connection, evidence, resource, situation, snapshot, theirs
from tests.exporter.drbd_samples import EVENTS2_COMMAND, command, drbd9, drbd84, snaps9, snaps84

BOTH = frozenset({"v01", "v02"})
AUTHORITY = Authority("voms01", ("v01", "v02"), 1, "v02", BOTH, generations=("A",))
"""v02 is the Primary; v01 is to have the domain."""
VOTING = Authority("voms01", voters=BOTH | {"v03"}, voting=BOTH, generations=("A",))


def link(peer: str, disk: DiskState, differs: int | None):
    it = connection(peer, peer_role=Role.PRIMARY, peer_disk=disk)
    return replace(it, peer_devices=(replace(it.peer_devices[0], out_of_sync_bytes=differs),))


def refusal(
    here: int | None,
    there: int | None = 0,
    *,
    peer_disk=DiskState.UP_TO_DATE,
    role=Role.SECONDARY,
    generation="A",
    authority=AUTHORITY,
) -> str | None:
    ours = resource(role=role, connections=(link("v02", peer_disk, here),))
    its = "v02 is lost" if there is None else snapshot(
        theirs(role=Role.PRIMARY, connections=(link("v01", DiskState.UP_TO_DATE, there),))
    )  # fmt: skip
    seen = evidence(drbd_here=snapshot(ours), drbd_there=its)
    seen = replace(seen, generations={"v01": Observed({"voms01": (Generations(generation),)}, "test", 0.0)})
    return is_in_sync(
        situation(seen, authorities={"voms01": authority}, source="v02", proof=Proof.ARBITRATED)
    )


def test_it_refuses_what_differs_on_either_hosts_word_unless_the_target_has_the_data():
    for here, there, disk, role, generation, admitted in product(
        (None, 0, 4096), (None, 0, 4096), DiskState, (Role.PRIMARY, Role.SECONDARY), "AB", (BOTH, {"v01"})
    ):
        written = replace(AUTHORITY, admitted=frozenset(admitted))
        said = refusal(here, there, peer_disk=disk, role=role, generation=generation, authority=written)
        as_good = disk in {DiskState.UP_TO_DATE, DiskState.D_UNKNOWN}
        differs = bool(here and as_good) or bool(there)
        has_the_data = role is Role.PRIMARY or generation == "B" or admitted == {"v01"}
        assert (said is not None) == (differs and not has_the_data)


def test_it_says_how_much_and_what_mends_it():
    sentence = refusal(8192, 4096)
    assert sentence.startswith(
        "8 KiB of voms01 differ between v02 and v01, although DRBD calls both UpToDate"
    )
    assert "'drbdadm connect voms01' on v01 copies them" in sentence
    assert "readmit voms01 v01 --i-accept-lost-writes" in sentence
    assert "readmit" not in refusal(8192, authority=VOTING)


def test_it_is_asked_before_a_domain_leaves_its_host_and_never_where_it_stays():
    assert all(is_in_sync in guards for guards in (FAILOVER, MOVE, LIVE))
    assert is_in_sync not in RESTART


# ---- what real DRBD marks --------------------------------------------------------------------------------


def captured() -> Iterator[tuple[str, Resource, ConnectionState, PeerDevice]]:
    """Every UpToDate replica of every capture, with each of its peers."""
    said = [(label, command(drbd84(label), "drbdsetup events2")) for label in snaps84()]
    for label, host in snaps9():
        text = drbd9(label, host, "events2-now-statistics.txt")
        found = EVENTS2_COMMAND.search(text)
        said.append((f"{label}/{host}", found[1] if found else text))
    for label, text in said:
        for it in parse_events2(text).resources:
            if it.devices and all(device.disk_state is DiskState.UP_TO_DATE for device in it.devices):
                for each in it.connections:
                    for device in each.peer_devices:
                        yield label, it, each.connection_state, device


def test_of_two_good_replicas_that_are_connected_real_drbd_marks_nothing():
    """None of the captures is of a verify that found something."""
    good = [
        (label, device.out_of_sync_bytes)
        for label, _, state, device in captured()
        if state is ConnectionState.CONNECTED and device.peer_disk_state is DiskState.UP_TO_DATE
    ]
    assert len(good) > 100
    assert [label for label, differs in good if differs] == []


WROTE_ALONE = {"41b", "41c", "41z", "71", "81"}
FELL = {"90", "91"}


def test_a_secondary_that_lost_its_peer_marks_nothing_by_that():
    """What is marked then was marked before, or it was the Primary; on DRBD 9 also when its own host fell."""
    lost = [
        (label.partition("-")[0], device.out_of_sync_bytes)
        for label, it, state, device in captured()
        if it.role is Role.SECONDARY
        and state is not ConnectionState.CONNECTED
        and device.peer_disk_state is DiskState.D_UNKNOWN
    ]
    assert len(lost) > 100
    assert {label for label, differs in lost if differs} == WROTE_ALONE | FELL


@pytest.mark.parametrize("label", ["14-connected-primary-secondary.v02", "54f-after-refused.v02"])
def test_what_84_tells_before_and_after_the_loss(label):
    """As captured, and as after a verify that found one block."""
    text = command(drbd84(label), "drbdsetup events2")
    assert "out-of-sync:0" in text
    for differs, refused in ((0, False), (4, True)):
        (ours,) = parse_events2(text.replace("out-of-sync:0", f"out-of-sync:{differs}")).resources
        ours = replace(ours, connections=tuple(replace(it, name="v01") for it in ours.connections))
        seen = evidence(drbd_here="v01 is lost", drbd_there=snapshot(ours))
        it = replace(
            situation(seen, source="v01", proof=Proof.ARBITRATED, authorities={"voms01": AUTHORITY}),
            host="v02",
            kept=situation(evidence()).disks,
        )
        assert it.resources == (ours,)
        assert (is_in_sync(it) is not None) == refused
