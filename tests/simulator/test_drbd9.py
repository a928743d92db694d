"""The model of DRBD 9, against what 9.2 was seen to do (tests/samples, facts of DRBD)."""

from itertools import pairwise
from random import Random

import pytest

from tests.simulator.drbd import Record
from tests.simulator.network import REPLICATION
from tests.simulator.site import read
from tests.simulator.world import World

THREE, TIE = "nine vm1 v01 v02 v03", "nine vm1 v01 v02 tie v03"


class Played:
    """A resource with nobody who uses it: v01 Primary, all connected."""

    def __init__(self, folder, line):
        self.world = World(Random(1), folder, read([line.split()]))
        (self.group,) = self.world.pairs.values()
        self.v01, self.v02, self.v03 = self.group.nodes
        self.group.begin()
        self.numbers = iter(range(1, 100))
        assert self.call(self.v01, "primary").status == 0

    def call(self, node, verb, *arguments, seconds=4.0):
        """What it says; None when it has not come back."""
        said = []
        act = getattr(node, verb)
        self.world.loop.spawn(node.host.process, lambda: said.append(act(*arguments)), verb)
        self.world.loop.run(seconds)
        return said[0] if said else None

    def write(self, node):
        """Whether it is acknowledged; None when it waits."""
        return self.call(node, "write", Record(1, next(self.numbers)))

    def cut(self, *links):
        for one, two in links:
            self.world.net.cut_link(REPLICATION, one, two)

    def isolate(self, node):
        self.cut(*((node.host.name, it.host.name) for it in node.peers))

    def heal(self):
        self.world.net.heal()

    def passes(self, seconds=12.0):
        self.world.loop.run(seconds)


@pytest.fixture
def play(tmp_path):
    return lambda line: Played(tmp_path, line)


@pytest.mark.parametrize("line", [THREE, TIE])
def test_an_isolated_primary_is_suspended_and_the_others_take_over(play, line):
    it = play(line)
    it.isolate(it.v01)
    it.passes(3)
    assert (it.v01.quorum, it.v01.suspended, it.v01.disk) == (False, True, "UpToDate")
    assert it.write(it.v01) is None
    assert it.call(it.v02, "primary").status == 0
    assert it.write(it.v02) is True
    it.heal()
    it.passes()
    # samples 19-heal-old-primary-still-primary-suspended
    assert (it.v01.role, it.v01.disk, it.v01.suspended) == ("Primary", "Outdated", True)
    assert {link.connection for link in it.v01.links} == {"StandAlone"}
    assert it.call(it.v01, "resume_io").status == 0
    assert it.v01.suspended
    assert it.call(it.v01, "secondary").status == 0
    for node in it.group.nodes:
        it.call(node, "connect")
    it.passes()
    assert it.group.whole
    assert it.v02.md.data <= it.v01.md.data


def test_a_write_fails_without_a_quorum_where_that_is_configured(play):
    it = play(f"{THREE} io-error")
    it.isolate(it.v01)
    it.passes(3)
    assert not it.v01.suspended
    assert it.write(it.v01) is False
    assert it.call(it.v01, "read") is None


@pytest.mark.parametrize("line", [THREE, TIE])
def test_a_write_is_acknowledged_when_all_connected_replicas_have_it(play, line):
    it = play(line)
    assert it.write(it.v01) is True
    assert {len(node.md.data) for node in it.group.nodes if not node.tie} == {1}


@pytest.mark.parametrize("line", [THREE, TIE])
def test_a_promotion_asks_whoever_is_reached_over_others(play, line):
    it = play(line)
    it.cut(("v01", "v02"))
    it.passes(3)
    assert it.v02.quorum  # 07: also where a tie-breaker is connected to both
    assert it.call(it.v02, "primary").code == -1
    assert it.write(it.v01) is True
    assert it.v02.disk == "Outdated"  # 07b


def test_a_promotion_alone_is_refused_for_want_of_a_quorum(play):
    it = play(THREE)
    it.isolate(it.v02)
    assert it.call(it.v02, "primary").code == -25


def test_who_was_away_is_not_current_alone_nor_with_a_tie_breaker(play):
    it = play(TIE)
    it.isolate(it.v02)
    assert it.write(it.v01) is True
    it.v01.host.power_off()
    it.heal()
    it.passes()
    assert (it.v02.quorum, it.v02.disk) == (False, "Outdated")
    assert it.call(it.v02, "primary").status != 0


def test_a_rebooted_disk_is_consistent_until_most_replicas_are_there(play):
    it = play(THREE)
    for node in it.group.nodes:
        node.host.power_off()
    for node, quorum, disk in ((it.v02, False, "Consistent"), (it.v03, True, "UpToDate")):
        node.host.power_on()
        it.passes(40)
        assert (node.quorum, node.disk) == (quorum, disk)
    assert it.v02.disk == "UpToDate"


def test_a_stale_disk_is_outdated_by_one_that_only_knows_of_newer_data(play):
    it = play(THREE)
    it.isolate(it.v03)
    assert it.write(it.v01) is True
    it.call(it.v02, "detach")
    assert it.write(it.v01) is True
    it.v01.host.power_off()
    it.heal()
    it.passes()
    assert it.v03.disk == "Outdated"
    assert it.call(it.v03, "primary").status != 0


def test_one_after_the_other_is_lost_and_with_a_tie_breaker_the_last_goes_on(play):
    it = play(TIE)
    it.v02.host.power_off()
    assert it.write(it.v01) is True
    it.v03.host.power_off()
    assert it.write(it.v01) is True
    assert it.v01.quorum
    other = play(THREE)
    other.v02.host.power_off()
    assert other.write(other.v01) is True
    other.v03.host.power_off()
    assert other.write(other.v01) is None


def test_a_primary_that_wakes_writes_nothing(play):
    it = play(TIE)
    it.v01.host.freeze()
    it.passes(4)
    assert it.call(it.v02, "primary").status == 0
    assert it.write(it.v02) is True
    it.v01.host.wake()
    assert it.write(it.v01) is None


def test_a_resync_ends_with_all_that_was_written_meanwhile(play):
    it = play(THREE)
    it.isolate(it.v03)
    written = [it.write(it.v01) for _ in range(3)]
    it.heal()
    states = []
    for _ in range(40):
        states.append(it.v03.disk)
        it.call(it.v01, "write", Record(1, next(it.numbers)), seconds=0.4)
    assert written == [True] * 3
    changes = [one for one, two in pairwise([*states, ""]) if one != two]
    assert changes[-2:] == ["Inconsistent", "UpToDate"]
    assert it.v03.md.data == it.v01.md.data
    assert it.group.whole


def test_a_disk_that_was_away_at_a_promotion_is_resynced(play):
    it = play(THREE)
    assert it.call(it.v01, "secondary").status == 0
    it.v01.disk_gone()
    assert it.call(it.v02, "primary").status == 0
    assert it.write(it.v02) is True
    assert it.call(it.v01, "attach").status == 0
    it.passes()
    assert it.group.whole
    assert it.v01.md.data == it.v02.md.data


def test_two_primaries_only_where_both_allow_it(play):
    it = play(THREE)
    assert it.call(it.v02, "primary").code == -1
    it.v01.allow_two(allowed=True)
    assert it.call(it.v02, "primary").status == 0
    assert it.v01.allow_two(allowed=False).code == 164
    assert it.call(it.v01, "secondary").status == 0
    assert it.v02.allow_two(allowed=False).status == 0


def test_who_lost_a_replica_writes_on_only_when_the_others_are_heard(play):
    it = play(TIE)
    it.isolate(it.v01)
    it.v01.lose(it.v02)  # and not yet the tie-breaker
    assert it.v01.quorum
    assert it.call(it.v01, "write", Record(1, 1), seconds=0.5) is None


def test_who_has_a_quorum_with_one_without_a_disk_does_not_become_current_by_that(play):
    it = play(THREE)
    for node in it.group.nodes:
        node.host.power_off()
    it.v02.md.broken = True
    for node in (it.v02, it.v03):
        node.host.power_on()
    it.passes(40)
    assert (it.v02.disk, it.v03.quorum, it.v03.disk) == ("Diskless", True, "Consistent")


def test_of_two_primaries_that_lose_each_other_neither_writes_before_the_other_is_demoted(play):
    it = play(THREE)
    it.v01.allow_two(allowed=True)
    assert it.call(it.v02, "primary").status == 0
    it.cut(("v01", "v02"))
    it.passes(3)
    assert it.write(it.v01) is None
    assert it.call(it.v02, "secondary").status == 0
    assert it.write(it.v01) is True
    assert it.v02.disk == "Outdated"
