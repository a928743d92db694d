"""DRBD's quorum as a proof, over what the arbiter has written and what DRBD says."""

from dataclasses import replace
from itertools import chain, combinations, product

import pytest

from actuator.core.guards.memory import (
    authority_is_held,
    authority_may_be_taken,
    quorum_is_here,
    replica_was_current,
    source_freezes,
    voted,
)
from actuator.core.guards.verbs import FAILOVER
from actuator.core.progress import claimed
from actuator.execute import claims
from actuator.model import Authority, Disk, DomainRecord, Plan, Promote, Proof, Unknown
from tests.actuator.build import connection, device, evidence, resource, situation, snapshot, view

THREE = frozenset({"v01", "v02", "v03"})
VOTING = Authority("voms01", version=3, voters=THREE, voting=frozenset({"v01", "v02"}))
PAIR = Authority("voms01", ("v01", "v02"), 1, "v02", frozenset({"v01", "v02"}))


def subsets(names):
    return [frozenset(some) for n in range(len(names) + 1) for some in combinations(sorted(names), n)]


def target(authority, *quorums, proof=Proof.QUORUM, words=None):
    """v02 is lost, and the domain is to come up on v01."""
    volumes = [device(number, number, quorum=quorum) for number, quorum in enumerate(quorums)]
    links = (connection("v02"), connection("v03"))
    drbd = snapshot(resource(devices=volumes, connections=links))
    seen = evidence(here=view(disks=(Disk("xvda", "/dev/drbd/by-res/voms01/0"),)), drbd_here=drbd)
    if words is not None:
        seen = replace(seen, last_words=words)
    return situation(seen, authorities={"voms01": authority}, source="v02", proof=proof)


def test_both_must_stop_without_a_quorum_of_the_same_hosts_and_the_target_have_it():
    quorums = list(chain.from_iterable(product((True, False, None), repeat=n) for n in range(3)))
    for voters, voting, said, proof in product(subsets(THREE), subsets(THREE), quorums, (None, *Proof)):
        authority = replace(VOTING, voters=voters, voting=voting)
        passed = quorum_is_here(target(authority, *said, proof=proof)) is None
        has = bool(said) and all(quorum is True for quorum in said) and "v02" in voters
        if proof is None or (not voting and proof is not Proof.QUORUM):
            assert passed  # there is nothing to rest on, and others refuse
        elif proof in {Proof.POWER, Proof.OPERATOR}:
            assert passed == (has and "v01" in voting)
        else:
            assert passed == (has and {"v01", "v02"} <= voting)


def test_a_resource_that_has_a_holder_is_not_left_to_the_quorum():
    seen = target(replace(PAIR, voters=THREE, voting=THREE), True)
    assert not voted(seen)
    assert "v01 was" not in (quorum_is_here(seen) or "")
    assert quorum_is_here(seen) is not None
    assert voted(target(VOTING, True))
    assert quorum_is_here(target(PAIR, None, proof=Proof.ARBITRATED)) is None
    assert quorum_is_here in FAILOVER


def of_two(data, voms01, *, quorums=(True, True)):
    """The same for a domain with two disks, on resources of their own."""
    names = ("data", "voms01")
    disks = [Disk(f"xvd{letter}", f"/dev/drbd/by-res/{it}/0") for letter, it in zip("ab", names, strict=True)]
    volumes = [device(minor, quorum=quorum) for minor, quorum in enumerate(quorums)]
    drbd = snapshot(*(resource(it, devices=[volume]) for it, volume in zip(names, volumes, strict=True)))
    written = {"data": replace(data, resource="data"), "voms01": voms01}
    seen = evidence(here=view(disks=disks), drbd_here=drbd)
    return situation(seen, authorities=written, source="v02", proof=Proof.POWER)


NEVER_SEEN = Authority("voms01")


def test_of_several_disks_each_counts():
    assert voted(of_two(VOTING, VOTING))
    for mixed in (of_two(VOTING, PAIR), of_two(PAIR, VOTING)):
        assert not voted(mixed)
        assert quorum_is_here(mixed) is None
        assert authority_may_be_taken(mixed) is None
    assert "voms01 is not known to have a quorum" in quorum_is_here(
        of_two(PAIR, VOTING, quorums=(None, None))
    )
    for quorums in ((True, False), (False, True)):
        assert quorum_is_here(of_two(VOTING, VOTING, quorums=quorums)) is not None
    assert "over voms01" in authority_may_be_taken(of_two(VOTING, NEVER_SEEN))
    assert not voted(situation(evidence(here=view(disks=()))))


@pytest.mark.parametrize("proof", [None, *Proof])
def test_what_rests_on_an_authority_is_not_asked_where_nobody_holds_it_by_design(proof):
    for arbitrated, guard in product((True, False), (authority_may_be_taken, authority_is_held)):
        it = replace(target(VOTING, True, proof=proof), arbitrated=arbitrated)
        assert guard(it) is None
        never_seen = replace(it, authorities={"voms01": Authority("voms01")})
        assert (guard(never_seen) is None) == (proof is None and not arbitrated)


@pytest.mark.parametrize("proof", list(Proof))
def test_what_was_heard_last_must_be_known_and_good(proof):
    for words, good in (
        ({("voms01", "v01"): True}, True),
        ({("voms01", "v01"): False}, False),
        ({("voms01", "v03"): True}, False),
        (Unknown("Prometheus: connection refused"), False),
    ):
        for arbitrated in (True, False):
            it = replace(target(VOTING, True, proof=proof, words=words), arbitrated=arbitrated)
            refusal = replica_was_current(it)
            assert (refusal is None) == good
            assert good or refusal.endswith((" back", "bring v02 back"))
            assert good or "readmit" not in refusal


def test_of_a_domain_with_both_the_intent_takes_the_authority_that_there_is():
    written = {"data": replace(PAIR, resource="data"), "voms01": VOTING}
    steps = (Promote("v01", "data"), Promote("v01", "voms01"))
    plan = Plan("failover", "voms01", "v01", "v02 is dead", steps, source="v02", proof=Proof.POWER)
    record = claimed(DomainRecord("voms01", version=0, host="v02"), plan, now=1.0)
    (taken,) = claims(record.plan, written.get)
    assert (taken.resource, taken.holder) == ("data", "v01")


@pytest.mark.parametrize("order", [("data", "voms01"), ("voms01", "data")])
def test_an_intent_takes_the_authority_over_all_that_is_promoted_or_over_nothing(order):
    written = {"data": replace(PAIR, resource="data"), "voms01": replace(PAIR, admitted=frozenset({"v02"}))}
    steps = tuple(Promote("v01", name) for name in order)
    plan = Plan("failover", "voms01", "v01", "v02 is dead", steps, source="v02", proof=Proof.POWER)
    record = claimed(DomainRecord("voms01", version=0, host="v02"), plan, now=1.0)
    assert claims(record.plan, written.get) == ()


def test_only_what_freezes_and_asks_is_left_to_the_arbiter():
    """A host that had lost its disk does not, whoever got the authority since (L1).

    Unless the target was granted alone, as by a plan that failed later: that excluded the source.
    """
    holders, admitted = ("v01", "v02"), subsets({"v01", "v02"})
    for proof, holder, granted, one, other in product(
        (None, *Proof), holders, (False, True), admitted, admitted
    ):
        first = replace(PAIR, holder=holder, granted=granted, admitted=one)
        it = of_two(first, replace(first, resource=PAIR.resource, admitted=other))
        refusal = source_freezes(replace(it, proof=proof))
        writes_on = not (one >= {"v02"} <= other) and not (granted and holder == "v01")
        assert (refusal is not None) == (proof is Proof.ARBITRATED and writes_on)
    assert source_freezes in FAILOVER
