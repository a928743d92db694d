"""The simulator itself: it is the same each time, it notices what breaks the promise, and vmheal keeps it."""

import hashlib
import os
import subprocess
import sys
from random import Random

import pytest

from tests.simulator import events
from tests.simulator.fibers import Process
from tests.simulator.run import END_SECONDS, come_to_rest, play, simulate
from tests.simulator.scenario import outcome_of
from tests.simulator.site import Site
from tests.simulator.teeth import taken_out
from tests.simulator.world import World

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


# Each broke the promise once, in a soak (docs/simulator.md), and is as short as it can be.
FOUND = {
    2087: "3.93 disk-fails v01 vm1; 5.31 disk-mended v01 vm1; 5.74 cut-off v01; 19.3766 heal-networks",
    10009055: "4 order migrate domain=vm2; 4.53 libvirtd-dies v01; 6.32 by-hand v03 start vm2",
    10020043: "4 heal-networks; 8 vm-crashes vm1; 9.28 disk-fails v01 vm1; 38.18 vm-crashes vm1;"
    " 50.18 vm-crashes vm1; 57.3978 vm-crashes vm1",
    10091473: "3.09 cut-off v01; 5.43 by-hand v01 resume-io vm1; 17.6684 heal-networks",
    10113250: "1.59 cut-replication-one-way v02 v01; 3.65 heal-networks; 4.56 slow-management v01 3;"
    " 11.98 disk-fails v01 vm1; 13.01 disk-mended v01 vm1; 13.26 heal-networks; 23.06 vm-crashes vm1;"
    " 30.3894 actuator-dies",
    10122247: "1.95 order migrate domain=vm1; 4.62 actuator-dies-at-write 3.5; 4.72 cut-off v02; 12.1398 nothing",
    10136007: "1.46 vm-crashes vm2; 4.43 disk-fails v01 vm2; 6.74 disk-mended v01 vm2; 7.16 disk-fails v03 vm2",
    10368215: "4 by-hand v02 secondary vm1; 5.82 cut-management v02; 8.15 freeze v02; 20.43 wake v02;"
    " 32.95 disk-fails v02 vm1; 37.8303 nothing",
    10384336: "4 actuator-dies-at-write 5; 4.1 freeze v01; 13.4173 nothing",
    10526692: "0.1 actuator-dies-at-write 1; 0.2 vm-crashes vm3; 2.57 actuator-dies-at-write 8;"
    " 2.67 order migrate domain=vm2; 6.67 vm-crashes vm3; 14.67 actuator-dies-at-write 4.5; 14.77 freeze v02;"
    " 16.71 wake v02; 16.9 power-off v01; 37.2231 nothing",
    10683757: "4 disk-fails v01 vm1; 7.66 disk-mended v01 vm1; 9.78 disk-fails v02 vm1",
    10686971: "0.81 cut-management-one-way v03 monitor; 4.55 heal-networks; 8.55 disk-fails v01 vm2;"
    " 18.11 cut-replication v02 v03; 30.19 disk-mended v01 vm2; 38.69 heal-networks; 48.67 cut-off v02;"
    " 51.1 disk-fails v02 vm3",
}


@pytest.mark.parametrize("seed", FOUND)
def test_what_a_soak_has_found_is_found_no_more(seed):
    outcome = simulate(seed, events.read(FOUND[seed].replace(";", "\n")))
    assert outcome.violations == [], "\n".join(outcome.story)


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


@pytest.fixture
def world(tmp_path):
    """One VM that runs and writes."""
    with World(Random(1), tmp_path, Site({"vm1": ("v01", "v02")})) as world:
        come_to_rest(world)
        assert world.in_order({"vm1": 0})
        yield world


@pytest.fixture
def parted(world):
    """Its host's peer has given the connection up besides: that warning stands."""
    world.hosts["v02"].nodes["vm1"].down()
    return world


def seconds_to_rest(world):
    begun = world.loop.now
    come_to_rest(world)
    return world.loop.now - begun


def test_a_run_ends_when_a_warning_stands_and_nothing_changes_any_more(parted):
    assert seconds_to_rest(parted) < END_SECONDS / 4


def test_a_run_does_not_end_while_something_is_under_way(parted):
    host = parted.hosts["v02"]
    parted.loop.spawn(host.process, lambda: parted.loop.sleep(END_SECONDS / 2), "a program")
    assert END_SECONDS / 2 < seconds_to_rest(parted) < END_SECONDS


def test_a_run_does_not_end_while_something_changes(parted):
    def change():
        for _ in range(6):
            parted.log("something has changed")
            parted.loop.sleep(40)

    parted.loop.spawn(Process("somebody"), change)
    assert 200 < seconds_to_rest(parted) < END_SECONDS


def test_a_run_does_not_end_within_a_plan(world):
    world.hosts["v01"].power_off()
    waits = False
    while not waits and world.loop.now < END_SECONDS:
        world.run(0.1)
        planned = any(it.open_plan for it in world.records().values())
        waits = planned and not any(host.busy for host in world.hosts.values())
    assert waits
    assert world.seen() is None


def test_a_run_goes_on_to_its_bound_while_no_warning_stands(parted):
    host = parted.hosts["v01"]
    host.libvirt_works = False  # nobody can tell vmheal
    host.domains["vm1"].end("destroyed")
    assert seconds_to_rest(parted) >= END_SECONDS
    assert "no warning stands" in "".join(parted.oracle.violations)


def test_a_definition_that_is_not_kept_is_said_once():
    story = outcome_of("a_liar_gives_its_vm_anothers_disk").story
    assert sum("vm1's disk /dev/drbd1 on v01 is vm2's" in line for line in story) == 1


def test_a_schedule_that_is_not_understood_says_so():
    with pytest.raises(ValueError, match="with an event of"):
        events.read("12 explode v01")
