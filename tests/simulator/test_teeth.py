"""What keeps the promise is taken out, part by part: a schedule notices, or it is said why none can."""

import pytest

from tests.simulator.run import simulate
from tests.simulator.scenario import outcome_of, seen
from tests.simulator.teeth import ARGUED, BREAKS, CHANGES, TEETH, taken_out


@pytest.mark.parametrize("name", sorted(BREAKS))
def test_without_it_the_promise_breaks(name):
    schedule = BREAKS[name]
    with taken_out(name):
        outcome = simulate(int(schedule)) if schedule.isdecimal() else outcome_of(schedule)
    assert outcome.violations


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_without_it_a_scenario_goes_otherwise(name):
    log = seen(outcome_of(CHANGES[name]))
    with taken_out(name):
        assert seen(outcome_of(CHANGES[name])) != log


def test_each_part_is_noticed_or_has_its_reason():
    assert sorted([*BREAKS, *CHANGES, *ARGUED]) == sorted(TEETH)
