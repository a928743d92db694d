"""The arbiter over its whole input space for two hosts, and what three change."""

from dataclasses import replace
from itertools import chain, combinations, product

import pytest

from actuator.core.arbiter import (
    MAX_RUNS,
    Ask,
    FencePeer,
    Proof,
    Side,
    Verdict,
    accepted,
    adopted,
    as_primary_sees,
    before_attach,
    before_resync,
    began,
    fence_peer,
    given_back,
    identified,
    intended,
    let_go,
    looked_at,
    met,
    side_of,
    taken,
    to_connect,
    to_disconnect,
    unfence_peer,
    votes,
    why_not,
)
from actuator.model import Authority, HookRun, Parting
from exporter.drbd import DiskState, Role, parse_events2
from exporter.drbd_configuration import Generations
from tests.actuator.build import device, resource
from tests.exporter.drbd_samples import command, drbd84

HOSTS = ("v01", "v02")
RUN = HookRun("boot", 1000)
OLD_RUN = HookRun("boot", 999)
ROLES = (Role.PRIMARY, Role.SECONDARY, Role.UNKNOWN)
YES_NO = (True, False)


def subsets(hosts):
    return [frozenset(some) for some in chain(*(combinations(hosts, n) for n in range(len(hosts) + 1)))]


def known(admitted, granted):
    """The generation identifiers are known only while both replicas are current and none writes alone."""
    return ("A" * 16,) if admitted == set(HOSTS) and not granted else ()


FENCE, RESYNC, ATTACH, UNFENCE = "fence-peer", "before-resync-source", "attach", "unfence-peer"
RUNS = {f"{host} {hook}": RUN for host in HOSTS for hook in (FENCE, RESYNC, ATTACH, UNFENCE)}
STATES = [
    Authority(
        "voms01", HOSTS, 7, holder, admitted, granted, newest, RUNS, generations=known(admitted, granted)
    )
    for holder, admitted, granted, newest in product(HOSTS, subsets(HOSTS), YES_NO, YES_NO)
]
FENCE_ASKS = [
    FencePeer(host, FENCE, run, version, peer, role, up_to_date, connected)
    for host, run, version, peer, role, up_to_date, connected in product(
        (*HOSTS, "v09"),
        (RUN, OLD_RUN, HookRun("other boot", 1)),
        (6, 7),
        (*HOSTS, "v09"),
        ROLES,
        YES_NO,
        YES_NO,
    )
]


def asks(hook):
    return [
        Ask(host, hook, run, version)
        for host, run, version in product((*HOSTS, "v09"), (RUN, OLD_RUN), (6, 7))
    ]


SIDES = [
    Side(host, role, *rest)
    for host, role, rest in product(HOSTS, ROLES, product(YES_NO, (*HOSTS, "v09"), YES_NO, YES_NO, YES_NO))
]
# For pairs of them; whether one is frozen counts for an exclusion only.
THAWED = [side for side in SIDES if not side.frozen]
TWO = [(it, holder, other) for it in STATES for holder, other in (HOSTS, HOSTS[::-1]) if it.holder == holder]


def current(ask):
    return ask.run == RUN and ask.version == 7


def check_step(before, after):
    """What every change keeps."""
    assert after.version == before.version + (after is not before)
    assert (after.resource, after.hosts) == (before.resource, before.hosts)
    assert after.admitted <= set(after.hosts)
    assert after.holder in after.hosts
    assert after.generations in ((), before.generations)
    assert not after.generations or known(after.admitted, after.granted)


# ---- fence-peer --------------------------------------------------------------------------------------------


def sane(ask):
    return ask.host in HOSTS and ask.peer in HOSTS and ask.peer != ask.host and not ask.connected


def test_who_is_granted():
    verdicts = set()
    for it, ask in product(STATES, FENCE_ASKS):
        after, answer = fence_peer(it, ask)
        verdicts.add(answer.verdict)
        check_step(it, after)
        fit = sane(ask) and ask.host == it.holder and ask.host in it.admitted and ask.up_to_date
        granted_before = it.granted and ask.peer not in it.admitted
        may = fit and (current(ask) or granted_before)
        assert (answer.verdict is Verdict.GRANT) == may
        if may:
            assert (after.granted, after.admitted, after.holder) == (True, {ask.host}, ask.host)
            assert (after is it) == granted_before
            # Told to one who did not hear: the same again, and nothing is written.
            assert fence_peer(after, replace(ask, version=after.version)) == (after, answer)
        else:
            assert after is it
            assert answer.sentence
    assert verdicts == {Verdict.GRANT, Verdict.WAIT, Verdict.RELEASE}


def test_nobody_but_a_frozen_loser_of_a_durable_grant_is_released():
    """It asks as the latest run, on evidence of now, and is not connected: else it may be the only running copy."""
    for it, ask in product(STATES, FENCE_ASKS):
        loser = ask.host != it.holder and ask.host not in it.admitted and ask.role is Role.PRIMARY
        released = fence_peer(it, ask)[1].verdict is Verdict.RELEASE
        assert released == (sane(ask) and current(ask) and loser and it.granted)


def test_both_orders_of_the_race_are_safe():
    """Whoever asks first, one host at most is ever granted, until they have met."""
    for it in STATES:
        for first, second in (HOSTS, HOSTS[::-1]):
            one, answer = fence_peer(it, ask_of(it, first, second))
            two, other = fence_peer(one, ask_of(one, second, first))
            assert (answer.verdict, other.verdict) != (Verdict.GRANT, Verdict.GRANT)
            if answer.verdict is Verdict.GRANT:
                assert other.verdict is Verdict.RELEASE
                assert two is one
                assert isinstance(taken(two, second, None), str)
                assert isinstance(taken(two, second, Proof.POWER), str)


def ask_of(it, host, peer, *, up_to_date=True, role=Role.PRIMARY):
    return FencePeer(host, FENCE, RUN, it.version, peer, role, up_to_date, False)


@pytest.mark.parametrize("peer_left", HOSTS[1:])
def test_of_three_hosts_only_the_peer_that_is_gone_is_excluded(peer_left):
    three = (*HOSTS, "v03")
    it = Authority("r", three, 1, "v01", frozenset(three), runs=RUNS)
    after, answer = fence_peer(it, ask_of(it, "v01", peer_left))
    assert answer.verdict is Verdict.GRANT
    assert (after.admitted, after.granted, after.newest) == (frozenset({"v01", "v03"}), True, False)
    last, _ = fence_peer(after, ask_of(after, "v01", "v03"))
    assert (last.admitted, last.newest) == (frozenset({"v01"}), True)


# ---- the other hooks ---------------------------------------------------------------------------------------


def test_a_resync_excludes_its_target_first_and_never_overwrites_a_granted_holder():
    verdicts = set()
    for it, ask, target in product(STATES, asks(RESYNC), (*HOSTS, "v09")):
        after, answer = before_resync(it, ask, target)
        verdicts.add(answer.verdict)
        check_step(it, after)
        if answer.verdict is Verdict.ALLOW:
            assert current(ask)
            assert target not in after.admitted
            assert after.admitted == it.admitted - {target}
            assert (after.holder, after.granted, after.newest) == (it.holder, it.granted, False)
            assert not (target == it.holder and it.granted)
        else:
            assert after is it
    assert verdicts == {Verdict.ALLOW, Verdict.WAIT, Verdict.REFUSE}


def test_who_attaches_is_excluded_unless_its_disk_is_known_to_be_the_newest():
    for it, ask in product(STATES, asks(ATTACH)):
        after, answer = before_attach(it, ask)
        check_step(it, after)
        assert (answer.verdict is Verdict.ALLOW) == (ask.host in HOSTS and current(ask))
        newest = ask.host == it.holder and it.newest
        if answer.verdict is Verdict.ALLOW and not newest:
            assert ask.host not in after.admitted
            assert after.admitted == it.admitted - {ask.host}
        else:
            assert after is it
        assert (after.holder, after.granted, after.newest) == (it.holder, it.granted, it.newest)


def test_only_the_latest_run_of_a_hook_counts():
    it = Authority("voms01", HOSTS, 7, "v01", frozenset(HOSTS))

    def ask(state, run=RUN, host="v01"):
        return replace(ask_of(state, host, "v02"), run=run)

    assert fence_peer(it, ask(it))[1].verdict is Verdict.WAIT
    first = began(it, ask(it, OLD_RUN))
    assert first.version == 8
    assert began(first, ask(first, OLD_RUN)) is first
    second = began(first, ask(first))
    assert second.version == 9
    assert began(second, ask(second, OLD_RUN)) is second
    assert began(second, ask(second, host="v09")) is second
    assert fence_peer(second, ask(second, OLD_RUN))[1].verdict is Verdict.WAIT
    assert fence_peer(second, ask(second))[1].verdict is Verdict.GRANT
    rebooted = began(second, ask(second, HookRun("another boot", 1)))
    assert fence_peer(rebooted, ask(rebooted))[1].verdict is Verdict.WAIT


def test_hooks_of_one_host_that_run_side_by_side_do_not_silence_each_other():
    """One for each volume, or for each peer of DRBD 9."""
    it = Authority("voms01", HOSTS, 7, "v01", frozenset(HOSTS))
    for minor in ("0", "1"):
        it = began(it, Ask("v01", f"{RESYNC} v02 {minor}", HookRun("boot", 1000 - int(minor)), 0))
    for minor in ("0", "1"):
        ask = Ask("v01", f"{RESYNC} v02 {minor}", HookRun("boot", 1000 - int(minor)), it.version)
        assert before_resync(it, ask, "v02")[1].verdict is Verdict.ALLOW


def test_of_a_resource_never_seen_in_order_nobody_is_granted_and_nothing_is_held_up():
    """Its first resync could not run otherwise. Each change makes an adoption look again."""
    it = Authority("voms01")
    assert fence_peer(it, ask_of(it, "v01", "v02")) == (it, fence_peer(it, ask_of(it, "v01", "v02"))[1])
    assert fence_peer(it, ask_of(it, "v01", "v02"))[1].verdict is Verdict.WAIT
    for after, answer in (
        before_resync(it, Ask("v01", RESYNC, RUN, 0), "v02"),
        before_attach(it, Ask("v01", ATTACH, RUN, 0)),
    ):
        assert answer.verdict is Verdict.ALLOW
        assert after == replace(it, version=1)
    assert unfence_peer(it, Ask("v01", UNFENCE, RUN, 0), PAIR[0])[1].verdict is Verdict.REFUSE
    assert isinstance(taken(it, "v01", None), str)
    assert why_not(it, "v01")


PAIR = (
    Side("v01", Role.PRIMARY, True, "v02", True, True, False),
    Side("v02", Role.SECONDARY, True, "v01", True, True, False),
)


def test_the_end_of_a_resync_is_the_word_of_the_primary_that_holds_it():
    verdicts = set()
    for it, side in product(STATES, SIDES):
        for run, version in ((RUN, 7), (OLD_RUN, 7), (RUN, 6)):
            after, answer = unfence_peer(it, Ask(side.host, UNFENCE, run, version), side)
            verdicts.add(answer.verdict)
            fresh = (run, version) == (RUN, 7) and {side.host, side.peer} == set(HOSTS)
            assert after == (as_primary_sees(it, side) if fresh else it)
            if answer.verdict is Verdict.ALLOW:
                assert fresh
                assert side.host == it.holder
                assert side.peer in after.admitted
    assert verdicts == {Verdict.ALLOW, Verdict.WAIT, Verdict.REFUSE}


# ---- looks at the hosts ------------------------------------------------------------------------------------


def sees_both(side):
    known = side.peer in HOSTS and side.peer != side.host
    return known and side.connected and side.up_to_date and side.peer_up_to_date


def test_what_the_primary_that_holds_it_sees_up_to_date_is_admitted_and_nothing_else():
    for it, side in product(STATES, SIDES):
        after = as_primary_sees(it, side)
        check_step(it, after)
        assert after.holder == it.holder
        heard = side.host == it.holder and side.role is Role.PRIMARY and not side.frozen
        if not heard or side.peer not in HOSTS or side.peer == side.host:
            assert after is it
            continue
        mirrored = side.connected and side.peer_up_to_date
        # Without a disk of its own it would take any peer of its generation for UpToDate.
        assert (side.peer in after.admitted) == (mirrored and (side.up_to_date or side.peer in it.admitted))
        assert after.granted == (it.granted and not (mirrored and side.up_to_date))
        assert after.newest == (it.newest and after.granted and side.up_to_date)
        # Its own disk: never admitted on its own word.
        assert (side.host in after.admitted) == (side.up_to_date and side.host in it.admitted)


def test_the_last_current_disk_is_lost_under_a_primary_in_the_middle_of_a_resync():
    torn = 0
    for it, side in product(STATES, SIDES):
        after = as_primary_sees(it, replace(side, incomplete=True))
        check_step(it, after)
        heard = side.host == it.holder and side.role is Role.PRIMARY and not side.frozen
        current = side.up_to_date or (side.connected and side.peer_up_to_date)
        assert after.torn == (heard and side.peer in HOSTS and side.peer != side.host and not current)
        assert not (after.torn and after.admitted)
        assert not as_primary_sees(it, side).torn  # whose writes were on no other disk
        torn += after.torn
    assert torn


TORN = [replace(it, torn=True) for it in STATES if not it.admitted]


def test_what_is_torn_stays_so_until_a_person_takes_one_for_the_current():
    for it in TORN:
        for side in SIDES:
            after = as_primary_sees(it, side)
            assert (after.torn, after.admitted) == (True, frozenset())
        for one, other in product(THAWED, THAWED):
            assert met(it, one, other) is it
            assert given_back(it, one, other) is it
        for ask, target in product(asks(RESYNC), HOSTS):
            after, answer = before_resync(it, ask, target)
            assert after is it
            assert answer.verdict is not Verdict.ALLOW
        assert all(fence_peer(it, ask)[1].verdict is not Verdict.GRANT for ask in FENCE_ASKS)
        for host in HOSTS:
            assert "its last writes may be on the other replica alone" in str(taken(it, host, Proof.OPERATOR))
            assert why_not(it, host)
            after = accepted(it, host)
            assert (after.torn, after.holder, after.admitted) == (False, host, {host})


def test_a_former_primary_gets_the_authority_back_on_the_word_of_both_sides_only():
    moved = 0
    for it, holder in product(STATES, THAWED):
        for asker in THAWED:
            after = given_back(it, holder, asker)
            if after is it:
                continue
            check_step(it, after)
            moved += after.holder != it.holder
            assert holder.host == it.holder == asker.peer
            assert holder.peer == asker.host
            assert holder.role is Role.SECONDARY
            assert sees_both(holder)
            assert asker.role is Role.PRIMARY
            assert sees_both(asker)
            assert (after.holder, after.admitted, after.granted) == (asker.host, set(HOSTS), False)
            assert after.generations == ()  # another has written
    assert moved


def test_two_that_have_met_are_both_admitted_unless_another_than_the_holder_is_primary():
    admitted = 0
    for it, one, other in product(STATES, THAWED, THAWED):
        after = met(it, one, other)
        if after is it:
            continue
        check_step(it, after)
        admitted += 1
        primaries = {side.host for side in (one, other) if side.role is Role.PRIMARY}
        assert primaries <= {it.holder}
        assert Role.UNKNOWN not in {one.role, other.role}
        assert sees_both(one)
        assert sees_both(other)
        assert (after.holder, after.admitted, after.granted) == (it.holder, set(HOSTS), False)
        assert after.generations == ()
    assert admitted


def test_a_disk_attached_again_under_the_holder_is_admitted_on_the_word_of_both():
    """It is UpToDate for itself a moment before it is so for the source, which then would not ask (H2)."""
    it = Authority("voms01", HOSTS, 7, "v01", frozenset({"v02"}), runs=RUNS)
    primary = Side("v01", Role.PRIMARY, True, "v02", True, True, False)
    source = Side("v02", Role.SECONDARY, True, "v01", True, False, False)
    assert looked_at(it, (primary, source)) is it
    assert looked_at(it, (primary,)) is it
    assert looked_at(it, (primary, replace(source, peer_up_to_date=True))).admitted == set(HOSTS)
    frozen = replace(primary, frozen=True)
    assert looked_at(it, (frozen, replace(source, peer_up_to_date=True))) is it


def test_an_ungranted_holder_that_cannot_be_promoted_lets_go():
    let = 0
    for (it, holder, other), to, seen in product(TWO, THAWED, (None, *THAWED)):
        if seen is not None and seen.host != holder:
            continue
        after = let_go(it, to, seen)
        if after is it:
            continue
        let += 1
        check_step(it, after)
        assert not it.granted
        assert (after.holder, to.host) == (other, other)
        assert other in it.admitted
        assert to.up_to_date
        assert holder not in it.admitted or (seen is not None and not seen.up_to_date)
        assert seen is None or seen.role is not Role.PRIMARY
        assert after.admitted == it.admitted
    assert let


def test_what_has_neither_disk_nor_peer_is_disconnected_where_somebody_freezes():
    """A Primary only from a peer that it knows to be old: over another's disk it goes on."""
    for it, seen, attached, standalone, old in product(STATES, SIDES, YES_NO, YES_NO, YES_NO):
        side = replace(seen, attached=attached, standalone=standalone, peer_old=old)
        unfit = side.role is Role.SECONDARY or (side.role is Role.PRIMARY and old)
        lost = unfit and (attached, side.connected, standalone) == (False, False, False)
        ours = side.peer in HOSTS and side.peer != side.host
        for armed in subsets(HOSTS):
            assert to_disconnect(replace(it, armed=armed), side) is (lost and ours and bool(armed))


def test_who_is_connected_again():
    """A StandAlone host with its disk whose peer waits with one: granted alone, or nobody writes."""
    may = 0
    apart = [side for side in THAWED if not side.connected and not side.peer_up_to_date]
    for state, armed, one, other in product(STATES, subsets(HOSTS), apart, apart):
        it = replace(state, armed=armed)
        pair = {(one.host, one.peer), (other.peer, other.host)} in ({HOSTS}, {HOSTS[::-1]})
        alone = it.granted and it.holder == one.host and one.up_to_date
        waits = other.role is Role.SECONDARY
        idle = one.role is Role.SECONDARY and len(armed) == 2
        expected = pair and waits and (alone or idle)
        assert to_connect(it, replace(one, standalone=True), other) is expected
        may += expected
        assert not to_connect(it, one, other), "it is not StandAlone"
        assert not to_connect(it, replace(one, standalone=True, attached=False), other), "R4"
        assert not to_connect(it, replace(one, standalone=True), replace(other, attached=False)), "R4"
    assert may


def test_a_resource_is_adopted_of_a_pair_in_order_only():
    made = 0
    new = Authority("voms01", version=3)
    for one, other in product(SIDES, SIDES):
        it = adopted(new, (one, other))
        roles = [one.role, other.role]
        pair = {one.host, other.host} == set(HOSTS) == {one.peer, other.peer} and one.peer == other.host
        in_order = sees_both(one) and sees_both(other) and not (one.frozen or other.frozen)
        known = Role.UNKNOWN not in roles and roles.count(Role.PRIMARY) <= 1
        assert (it is not new) == (pair and in_order and known)
        if it is not new:
            made += 1
            primaries = [side.host for side in (one, other) if side.role is Role.PRIMARY]
            assert it == Authority("voms01", HOSTS, 4, (*primaries, "v01")[0], frozenset(HOSTS))
            assert adopted(it, (one, other)) is it
    assert made == 6


def test_a_name_that_more_than_two_hosts_have_is_not_adopted():
    """Three replicas were not searched; or two pairs have named their resources alike."""
    far = (
        Side("v03", Role.PRIMARY, True, "v04", True, True, False),
        Side("v04", Role.SECONDARY, True, "v03", True, True, False),
    )
    new = Authority("voms01")
    assert adopted(new, (*PAIR, *far)) is new
    assert adopted(new, (*PAIR, far[0])) is new
    it = adopted(new, PAIR)
    assert it.hosts == HOSTS
    granted = replace(it, admitted=frozenset({"v01"}), granted=True)
    assert looked_at(granted, far) is granted


def test_who_has_met_without_the_holder_has_not_met_it():
    """v03 writes alone; v01 and v02 are connected, Secondary and UpToDate, and old."""
    three = (*HOSTS, "v03")
    it = Authority("voms01", three, 7, "v03", frozenset({"v03"}), granted=True, newest=True)
    secondaries = [replace(side, role=Role.SECONDARY) for side in PAIR]
    assert met(it, *secondaries) is it
    assert looked_at(it, secondaries) is it


def test_identifiers_are_those_of_a_pair_in_order_only():
    written = 0
    for it, side in product(STATES, SIDES):
        for current in (["A" * 16], ["B" * 16], ["B" * 16, "C" * 16], [None], ["B" * 16, None], []):
            after = identified(it, side, [Generations(each) for each in current])
            whole = current and None not in current
            holder = side.host == it.holder and side.role is Role.PRIMARY and not side.frozen
            pair = holder and sees_both(side) and it.admitted == set(HOSTS) and not it.granted
            if whole and pair and tuple(current) != it.generations:
                written += 1
                assert after == replace(it, version=8, generations=tuple(current))
            else:
                assert after is it
    assert written


THREE = frozenset({*HOSTS, "v03"})


def test_who_stops_without_a_quorum_is_known_of_resources_without_a_holder_only():
    for parting, nodes in product(Parting, (THREE, THREE | {"v04"}, frozenset(HOSTS), frozenset())):
        for voters, voting in ((frozenset(), ()), (THREE, ("v01",)), (THREE, ("v02",)), (THREE, HOSTS)):
            it = Authority("voms01", version=7, voters=voters, voting=frozenset(voting))
            after = votes(it, "v01", nodes, parting)
            assert after == it or after.version == 8
            assert (after is it) == ((after.voters, after.voting) == (voters, it.voting))
            counts = parting is Parting.VOTES and len(nodes) > 2
            assert ("v01" in after.voting) == counts
            assert after.voters == (nodes if counts else voters)
            # The other one counts as long as both see the same nodes.
            assert ("v02" in after.voting) == ("v02" in voting and (not counts or nodes == voters))
            assert not any((after.hosts, after.holder, after.admitted, after.granted))
        for it in STATES:
            assert votes(it, "v01", nodes, parting) is it


def test_a_resource_that_votes_is_given_to_nobody():
    it = votes(Authority("voms01"), "v01", THREE, Parting.VOTES)
    assert it.votes
    assert fence_peer(it, ask_of(it, "v01", "v02"))[1].verdict is Verdict.WAIT
    assert isinstance(taken(it, "v01", Proof.QUORUM), str)
    assert looked_at(it, PAIR) is it


# ---- plans and people --------------------------------------------------------------------------------------


def test_the_authority_moves_only_to_an_admitted_replica_and_from_a_granted_host_only_with_proof():
    for it, target, proof in product(STATES, HOSTS, (None, *Proof)):
        after = taken(it, target, proof)
        proven = proof in {Proof.POWER, Proof.OPERATOR}
        may = target in it.admitted and (target == it.holder or not it.granted or proven)
        assert isinstance(after, Authority) == may
        if isinstance(after, str):
            assert it.resource in after
            continue
        check_step(it, after)
        assert after.holder == target
        assert after.admitted == it.admitted  # taking excludes nobody: the grant does
        assert after.generations == it.generations  # a failover asks again
        assert after is it or not (after.granted or after.newest)
        assert why_not(after, target) is None


def test_who_may_be_promoted_or_have_the_vm_started():
    for it, host in product(STATES, HOSTS):
        assert (why_not(it, host) is None) == (it.holder == host and host in it.admitted)


def test_an_intent_raises_the_version_and_a_person_may_accept_a_loss():
    for it in STATES:
        assert intended(it) == replace(it, version=8)
        after = accepted(it, "v02")
        check_step(it, after)
        assert after.generations == ()
        assert (after.holder, after.admitted, after.granted) == ("v02", {"v02"}, False)


def test_an_ask_that_was_read_before_any_change_is_turned_away():
    """Each kind of change makes evidence that was read before it worthless (R2)."""
    it = Authority("voms01", HOSTS, 7, "v01", frozenset(HOSTS), runs=RUNS)
    both = Side("v01", Role.PRIMARY, True, "v02", True, True, False)
    changes = [
        intended(it),
        accepted(it, "v01"),
        before_attach(it, Ask("v02", ATTACH, RUN, 7))[0],
        before_resync(it, Ask("v01", RESYNC, RUN, 7), "v02")[0],
        fence_peer(it, ask_of(it, "v01", "v02"))[0],
        began(it, Ask("v02", FENCE, HookRun("boot", 2000), 0)),
        taken(taken(it, "v02", None), "v01", None),
        as_primary_sees(replace(it, admitted=frozenset({"v01"})), both),
        as_primary_sees(it, replace(both, peer_up_to_date=False)),
    ]
    for after in changes:
        assert after.version > 7
        late = ask_of(it, "v01", "v02")
        if not after.granted:  # what is granted already may be told to anyone who lost the answer
            assert fence_peer(after, late)[1].verdict is Verdict.WAIT
        assert before_resync(after, replace(late, hook=RESYNC), "v02")[1].verdict is Verdict.WAIT
        assert before_attach(after, replace(late, hook=ATTACH))[1].verdict is Verdict.WAIT


# ---- how a host sees itself --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "host", "role", "up_to_date", "connected", "peer_up_to_date", "frozen"),
    [
        ("14-connected-primary-secondary", "v01", Role.PRIMARY, True, True, True, False),
        ("14-connected-primary-secondary", "v02", Role.SECONDARY, True, True, True, False),
        ("08-syncing-mid", "v01", Role.PRIMARY, True, True, False, False),
        ("08-syncing-mid", "v02", Role.SECONDARY, False, True, True, False),
        ("31-both-links-cut", "v02", Role.PRIMARY, True, False, False, False),
        ("41-diskless-secondary", "v01", Role.SECONDARY, False, True, True, False),
        ("41-diskless-secondary", "v02", Role.PRIMARY, True, True, False, False),
        ("19-standalone-v02", "v02", Role.SECONDARY, True, False, False, False),
    ],
)
def test_sides_of_real_drbd(label, host, role, up_to_date, connected, peer_up_to_date, frozen):
    peer = "v02" if host == "v01" else "v01"
    text = command(drbd84(f"{label}.{host}"), "drbdsetup events2").replace(
        "conn-name:peer", f"conn-name:{peer}"
    )
    resource = parse_events2(text).resource("voms01")
    side = side_of(host, resource, peer)
    attached = (label, host) != ("41-diskless-secondary", "v01")
    old = (label, host) == ("08-syncing-mid", "v01")
    said = (host, role, up_to_date, peer, connected, peer_up_to_date, frozen)
    assert side == Side(*said, attached=attached, peer_old=old, incomplete=label == "08-syncing-mid")
    stranger = side_of(host, resource, "v09")
    assert (stranger.connected, stranger.peer_up_to_date) == (False, False)


def test_a_side_has_its_disk_when_each_volume_has_one():
    there = {DiskState.INCONSISTENT, DiskState.OUTDATED, DiskState.CONSISTENT, DiskState.UP_TO_DATE}
    said = set(DiskState) - {DiskState.D_UNKNOWN}  # that is only said of a peer's disk
    for disks in chain.from_iterable(product(said, repeat=n) for n in range(3)):
        volumes = [device(number, number, disk_state=disk) for number, disk in enumerate(disks)]
        side = side_of("v01", resource(devices=volumes), "v02")
        assert side.attached == (bool(disks) and there.issuperset(disks))


def test_a_peer_is_current_when_each_volume_of_it_is_known_to_be():
    both = resource(devices=[device(0, 0), device(1, 1)])
    assert side_of("v01", resource(), "v02").peer_up_to_date
    assert not side_of("v01", both, "v02").peer_up_to_date  # it says something of one volume


def test_the_hooks_of_one_host_are_bounded_and_leave_the_others_alone():
    it = Authority("voms01", HOSTS, 1, "v01", frozenset(HOSTS))
    for number in range(MAX_RUNS + 3):
        it = began(it, Ask("v02", f"{FENCE} v01 {number}", RUN, 0))
    assert len(it.runs) == MAX_RUNS
    assert began(it, Ask("v02", f"{FENCE} v01 0", HookRun("boot", 2000), 0)).version == it.version + 1
    other = began(it, Ask("v01", f"{FENCE} v02", RUN, 0))
    assert len(other.runs) == MAX_RUNS + 1
