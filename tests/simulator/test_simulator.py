"""The simulator itself: it is the same each time, it notices what breaks the promise, and vmheal keeps it."""

import hashlib
import os
import subprocess
import sys
from random import Random

import pytest

from tests.simulator import events
from tests.simulator.run import play, simulate
from tests.simulator.site import Site
from tests.simulator.teeth import taken_out

SEEDS = range(1, 31)

TELL = """
import sys
from tests.simulator.run import simulate
print("\\n".join(simulate(int(sys.argv[1]), tell=True).story))
"""


@pytest.mark.parametrize("seed", SEEDS)
def test_schedules_by_chance_keep_the_promise(seed):
    outcome = simulate(seed)
    assert outcome.violations == [], "\n".join([*map(str, outcome.schedule), *outcome.story])


def test_a_run_is_the_same_to_the_byte_whatever_the_process():
    stories = set()
    for salt in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", TELL, "5"],
            env=os.environ | {"PYTHONHASHSEED": salt},
            capture_output=True,
            check=True,
        ).stdout
        assert len(told.splitlines()) > 10
        stories.add(hashlib.sha256(told).hexdigest())
    assert len(stories) == 1


FROZEN = """
1  freeze v01
30 wake v01
80 nothing
"""
CUT_OFF = """
1  cut-off v01
60 nothing
"""


@pytest.mark.parametrize(
    ("without", "schedule", "says"),
    [
        ("R3: whoever asks is granted", FROZEN, "although it has read its disk elsewhere"),
        ("the release ends no VM", FROZEN, "while it runs on"),
        ("R7: an isolated host keeps its VM", CUT_OFF, "while it runs on"),
    ],
)
def test_what_is_taken_out_is_noticed(without, schedule, says):
    site, happenings = Site({"vm1": ("v01", "v02")}), events.read(schedule)
    assert play(Random(1), site, happenings).violations == []
    with taken_out(without):
        broken = play(Random(1), site, happenings)
    assert says in "".join(broken.violations)


def test_a_schedule_that_is_not_understood_says_so():
    with pytest.raises(ValueError, match="with an event of"):
        events.read("12 explode v01")
