"""What is known about a peer: each word of DRBD, from either side."""

import pytest

from actuator.core.guards.replicas import may_be_promoted
from actuator.core.guards.verbs import check
from actuator.core.replica import Standing, peers
from exporter.drbd import ConnectionState, DiskState, Role, UnknownWord
from tests.actuator.build import connection, evidence, resource, situation, snapshot, theirs

CONNECTED, CONNECTING = ConnectionState.CONNECTED, ConnectionState.CONNECTING


@pytest.mark.parametrize(
    ("role", "link", "their_word", "standing"),
    [
        # The peer's own host answers.
        (Role.PRIMARY, connection(), snapshot(theirs()), Standing.ANSWERED),
        (Role.PRIMARY, connection(), snapshot(), Standing.ANSWERED),
        (Role.PRIMARY, connection(), snapshot(theirs(role=Role.PRIMARY)), Standing.PRIMARY),
        (Role.PRIMARY, connection(), snapshot(theirs(role=Role.UNKNOWN)), Standing.UNKNOWN),
        (
            Role.PRIMARY,
            connection(),
            snapshot(theirs(role=UnknownWord("role", "Tertiary", "voms01"))),
            Standing.UNKNOWN,
        ),
        (
            Role.PRIMARY,
            connection(),
            snapshot(theirs(), problems=(UnknownWord("disk", "Odd", "voms01"),)),
            Standing.UNKNOWN,
        ),
        (
            Role.PRIMARY,
            connection(),
            snapshot(theirs(), theirs("other"), problems=(UnknownWord("disk", "Odd", "other"),)),
            Standing.ANSWERED,
        ),
        # Our own connection says Primary, whatever it answers.
        (Role.PRIMARY, connection(peer_role=Role.PRIMARY), snapshot(theirs()), Standing.PRIMARY),
        (Role.SECONDARY, connection(peer_role=Role.PRIMARY), "gone", Standing.PRIMARY),
        # It does not answer.
        (Role.PRIMARY, connection(), "gone", Standing.CONNECTED),
        (Role.PRIMARY, connection(peer_role=Role.UNKNOWN), "gone", Standing.UNKNOWN),
        (Role.PRIMARY, connection(peer_disk=DiskState.OUTDATED), "gone", Standing.CONNECTED),
        (
            Role.PRIMARY,
            connection("v02", CONNECTING, Role.UNKNOWN, DiskState.OUTDATED),
            "gone",
            Standing.BARRED,
        ),
        (
            Role.PRIMARY,
            connection("v02", CONNECTING, Role.UNKNOWN, DiskState.INCONSISTENT),
            "gone",
            Standing.UNKNOWN,
        ),
        (
            Role.PRIMARY,
            connection("v02", CONNECTING, Role.UNKNOWN, DiskState.D_UNKNOWN),
            "gone",
            Standing.UNKNOWN,
        ),
        # A Secondary cannot vouch for its peer: it might be the one that was left behind.
        (Role.SECONDARY, connection(), "gone", Standing.UNKNOWN),
        (
            Role.SECONDARY,
            connection("v02", CONNECTING, Role.UNKNOWN, DiskState.OUTDATED),
            "gone",
            Standing.UNKNOWN,
        ),
        (Role.UNKNOWN, connection(), "gone", Standing.UNKNOWN),
    ],
)
def test_what_is_known_of_a_peer(role, link, their_word, standing):
    here = resource(role=role, connections=(link,))
    seen = evidence(drbd_here=snapshot(here), drbd_there=their_word)
    assert peers(seen, "v01", here, ("v01", "v02")) == {"v02": standing}


@pytest.mark.parametrize(
    ("their_side", "promoted"),
    [
        ({}, True),
        ({"role": Role.PRIMARY}, False),
        ({"role": Role.UNKNOWN}, False),
        ({"connections": ()}, False),
        ({"connections": (connection("v03"),)}, False),
        ({"connections": (connection("v01", CONNECTING),)}, False),
        ({"connections": (connection("v01", peer_disk=DiskState.CONSISTENT),)}, False),
        ({"connections": (connection("v01", peer_disk=UnknownWord("peer-disk", "Odd", "voms01")),)}, False),
    ],
)
def test_a_secondary_is_promoted_only_when_its_peer_vouches_for_it(their_side, promoted):
    here, there = resource(role=Role.SECONDARY), theirs(**their_side)
    seen = evidence(drbd_here=snapshot(here), drbd_there=snapshot(there))
    assert (check((may_be_promoted,), situation(seen)) is None) == promoted
