"""The aimed schedules: all are in turn, and what chance seldom comes by is reached by its own."""

import pytest

from tests.simulator import pointed
from tests.simulator.events import BEGINNINGS
from tests.simulator.run import simulate

REACHED = {
    "an authority that goes elsewhere": "guard authority_is_held",
    "a replica that is StandAlone": "guard is_not_standalone",
    "a lost host that is connected": "guard link_to_source_is_lost",
    "a grant that is not heard": "hook before-resync-source refuse",
    "a lost host does not let go": "step outlast indeterminate",
    "define hangs": "step define indeterminate",
    "destroy hangs": "step destroy indeterminate",
    "allow_two is taken up again": "step allow_two taken up again",
    "define is taken up again": "step define taken up again",
}


def _seed_of(name: str) -> int:
    return pointed.EVERY * next(turn for turn, aim in enumerate(pointed.AIMS) if aim.name == name)


def test_each_fault_has_its_kind():
    assert {*pointed.FAULTS, "alerts-said-to-have-ended"} == set(BEGINNINGS)


def test_of_so_many_seeds_one_is_aimed():
    assert [seed for seed in range(1, 20) if pointed.aim(seed)] == [6, 12, 18]


def test_each_pair_of_faults_comes_in_turn():
    seeds = range(0, pointed.EVERY * len(pointed.AIMS), pointed.EVERY)
    names = {aim.name for aim in map(pointed.aim, seeds) if aim}
    pairs = {f"{one} and {other}" for one in BEGINNINGS for other in BEGINNINGS if one < other}
    assert pairs <= names


@pytest.mark.parametrize("name", REACHED)
def test_an_aim_reaches_its_place(name):
    outcome = simulate(_seed_of(name))
    assert outcome.violations == []
    assert outcome.reached[REACHED[name]]
