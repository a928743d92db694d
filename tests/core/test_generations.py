"""Whose data a replica has, by DRBD's generation identifiers, over what real DRBD said and over all inputs."""

from dataclasses import replace
from itertools import product

import pytest

from actuator.core.guards.memory import replica_continues
from actuator.core.guards.verbs import FAILOVER
from actuator.model import Authority, Disk, Observed, Proof, Unknown
from exporter.drbd_configuration import Generations, parse_get_gi
from tests.actuator.build import evidence, resource, situation, snapshot, view
from tests.exporter.drbd_samples import command, drbd84

AUTHORITY = Authority("voms01", ("v01", "v02"), 1, "v02", frozenset({"v01", "v02"}))
"""v02 was the Primary and is lost; v01 is to have the domain."""


def refusal(recorded, here):
    """What the guard says of v01's replica; ``here`` None: it was not asked, a string: it did not answer."""
    fact = Unknown(here) if isinstance(here, str) else Observed(here, "test", 0.0)
    seen = replace(evidence(), generations={} if here is None else {"v01": fact})
    written = {"voms01": replace(AUTHORITY, generations=tuple(recorded))}
    return replica_continues(situation(seen, authorities=written, source="v02", proof=Proof.ARBITRATED))


def get_gi(label):
    return parse_get_gi(command(drbd84(label), "drbdadm get-gi"))


@pytest.mark.parametrize(
    ("primary", "target", "continues"),
    [
        ("14-connected-primary-secondary.v01", "14-connected-primary-secondary.v02", True),
        ("14-connected-primary-secondary.v01", "15-connected-both-secondary.v02", True),
        ("14-connected-primary-secondary.v01", "19-standalone-v02.v02", True),  # it lost its peer
        ("14-connected-primary-secondary.v01", "19b-after.v02", True),  # and was promoted
        ("14-connected-primary-secondary.v01", "23-after-resolve.v02", True),  # and was resynced
        ("32h-resolved.v01", "33-peer-powered-off.v02", True),
        ("37-two-primaries.v01", "38-after-xen-failover.v02", True),
        ("30-mgmt-partition.v01", "14-connected-primary-secondary.v02", False),  # an earlier state
        ("30-mgmt-partition.v01", "20d-reconnected.v02", False),  # the other side of a split brain
        ("30-mgmt-partition.v01", "37-two-primaries.v02", False),  # made anew
        ("30-mgmt-partition.v01", "00-unconfigured-no-device.v02", False),  # fresh
    ],
)
def test_what_real_drbd_said(primary, target, continues):
    recorded = [volume.current for volume in get_gi(primary)]
    sentence = refusal(recorded, {"voms01": get_gi(target)})
    assert (sentence is None) == continues
    assert continues or "readmit voms01 v01 --i-accept-lost-writes" in sentence


VOLUMES = [
    Generations(current, frozenset(former))
    for current, former in product((None, "A", "B"), ([], ["A"], ["B"], ["A", "B"]))
]


def test_it_refuses_only_what_is_known_not_to_continue():
    for recorded in ([], ["A"], ["A", "B"]):
        assert refusal(recorded, None) is None
        assert refusal(recorded, "drbdadm get-gi on v01: no") is None
        assert refusal(recorded, {"other": (Generations("F"),)}) is None
        for here in [*product(VOLUMES), *product(VOLUMES, VOLUMES)]:
            continues = len(here) == len(recorded) and all(
                identifier in {volume.current, *volume.former}
                for identifier, volume in zip(recorded, here, strict=True)
            )
            assert (refusal(recorded, {"voms01": here}) is None) == (not recorded or continues)


@pytest.mark.parametrize("name", ["data", "voms01"])
def test_of_several_resources_each_must_continue(name):
    disks = [Disk(f"xvd{it[0]}", f"/dev/drbd/by-res/{it}/0") for it in ("data", "voms01")]
    drbd = snapshot(resource("data"), resource("voms01"))
    here = {"data": (Generations("A"),), "voms01": (Generations("A"),), name: (Generations("B"),)}
    seen = evidence(here=view(disks=disks), drbd_here=drbd)
    seen = replace(seen, generations={"v01": Observed(here, "test", 0.0)})
    for others in ((), ("A",)):
        known = dict.fromkeys(("data", "voms01"), others) | {name: ("A",)}
        written = {it: replace(AUTHORITY, resource=it, generations=last) for it, last in known.items()}
        sentence = replica_continues(situation(seen, authorities=written, source="v02"))
        assert f"the data of {name} on v01" in sentence


def test_it_is_asked_before_a_failover():
    assert replica_continues in FAILOVER
