"""Drills of moments: both sides ask at once, and the actuator dies between two steps of a failover."""

import sys
import time
from functools import partial
from threading import Event

import pytest

from tests.lab.moves import (
    Moment,
    boots_of,
    bring_back,
    home,
    is_in_order,
    other,
    wait_at_rest,
    wait_writes_on,
)
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(3600)]

SETTINGS = {"restart": {"backoff_seconds": 0}}
ROUNDS = 8
DECIDED_SECONDS = 20
"""After a wake the journal has long said who has the disks."""


def test_both_sides_ask_at_the_same_time(lab, vm, site):
    """A frozen host wakes just when its failover begins: it is granted, or the other is, and never both.

    Each round halves the distance to the moment at which it turns.
    """
    soonest, latest = 2.0, 7.0
    won = []
    for _ in range(ROUNDS):
        wait_at_rest(lab, site, [vm])
        site.wait_looked()
        owner = home(site, vm)
        seconds = (soonest + latest) / 2
        boots = boots_of(lab, vm)
        lab.host(owner).freeze()
        Event().wait(seconds)
        lab.host(owner).thaw()
        woke = time.monotonic()
        over = partial(winner_of, lab, site, vm, owner, woke)
        winner = wait_until(over, "one side to win", 300, 0.5)
        wait_writes_on(lab, site, vm, winner, Moment.now())
        wait_until(lambda: is_in_order(site, vm), "both replicas to be current", 400, 1)
        lab.assert_nothing_lost(vm)
        stayed = winner == owner
        new = set(boots_of(lab, vm)) - set(boots)
        lab.progress(
            f"stood still for {seconds:.2f} s: {'it' if stayed else 'the other'} won, {len(new)} new boot(s)"
        )
        assert len(new) == (0 if stayed else 1)
        won.append(stayed)
        soonest, latest = (seconds, latest) if stayed else (soonest, seconds)
    assert set(won) == {True, False}, won


def winner_of(lab, site, vm, owner, woke):
    """Whose VM it is: the other's, once it was given to it; the owner's, when it writes long after it woke."""
    if home(site, vm) != owner:
        return home(site, vm)
    last = lab.witness.last_record(vm)
    writes = last is not None and last.at > woke + DECIDED_SECONDS
    return owner if writes and site.resource(vm.name)["holder"] == owner else None


@pytest.mark.parametrize("write", range(2, 12))
def test_the_actuator_is_killed_between_two_writes_of_a_failover(lab, vm, site, write):
    """Started again it finishes what it began, or takes it back and begins anew: one VM, started once."""
    dead = home(site, vm)
    alive = other(vm, dead)
    site.stop("actuator")
    site.start("actuator", wrapper=[sys.executable, "-m", "tests.mortal_actuator", str(write)])
    site.wait_ready("actuator")
    site.wait_watching()
    site.wait_looked()
    boots, fault = boots_of(lab, vm), Moment.now()
    lab.host(dead).kill()

    def writes_there():
        return any(
            it.kind == "record" and it.host == alive and it.at > fault.monotonic
            for it in lab.witness.lines(vm)
        )

    wait_until(lambda: site.ended("actuator") or writes_there(), "a kill or a failover", 240, 0.2)
    killed = site.ended("actuator")
    lab.progress(
        f"killed after write {write}: {killed}, {time.monotonic() - fault.monotonic:.1f} s after the host"
    )
    if killed:
        site.start("actuator")
        site.wait_ready("actuator")
    wait_writes_on(lab, site, vm, alive, fault)
    bring_back(lab, dead)
    assert len(set(boots_of(lab, vm)) - set(boots)) == 1
    if not killed:
        site.stop("actuator")
        site.start("actuator")
        site.wait_ready("actuator")
