"""Every scenario in tests/scenarios, as it is expected to go; see tests/simulator/scenario.py."""

import pytest

from tests.simulator.scenario import SCENARIOS, names, outcome_of, seen


@pytest.mark.parametrize("name", names())
def test_scenario(name):
    outcome = outcome_of(name)
    assert outcome.violations == []
    expected = SCENARIOS / name / "expected"
    assert expected.is_file(), f"read what 'python -m tests.simulator.scenario {name}' prints, and keep it"
    assert seen(outcome) == expected.read_text()


@pytest.mark.parametrize("name", names())
def test_a_scenario_says_what_it_shows(name):
    text = (SCENARIOS / name / "README.md").read_text()
    assert text.count("\n") == 1
    assert text.endswith(".\n")
