"""How many plans call something on a host at once."""

import pytest

from actuator.slots import TAKE_SECONDS, Slots


class Clock:
    """Its pauses take no time; while they last, something may happen."""

    def __init__(self):
        self.now = 0.0
        self.meanwhile = lambda: None
        self.stopping = False

    def monotonic(self):
        return self.now

    def pause(self, seconds):
        self.now += seconds
        self.meanwhile()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def woken():
    return []


@pytest.fixture
def slots(clock, woken):
    return Slots(2, clock, lambda: woken.append(clock.now), lambda: clock.stopping)


def test_so_many_on_each_host(slots):
    begun = [
        slots.begin(name, host, 0) for name, host in (("a", "v01"), ("b", "v01"), ("c", "v01"), ("d", "v02"))
    ]
    assert begun == [True, True, False, True]


def test_an_end_gives_the_place_to_the_next(slots, woken):
    slots.begin("a", "v01", 0)
    slots.begin("b", "v01", 0)
    slots.end("a")
    assert woken
    assert slots.begin("c", "v01", 0)
    assert not slots.begin("d", "v01", 0)


def test_one_that_only_waits_leaves_its_place(slots, woken):
    slots.begin("a", "v01", 0)
    slots.begin("b", "v01", 0)
    slots.rest("a")
    assert len(woken) == 1
    slots.rest("a")
    assert len(woken) == 1, "it had none to leave"
    assert slots.begin("c", "v01", 0)
    assert not slots.begin("d", "v01", 0)


def test_it_has_its_place_again_when_there_is_one(slots, clock):
    for name in "ab":
        slots.begin(name, "v01", 0)
    slots.rest("a")
    slots.begin("c", "v01", 0)
    pauses = []

    def meanwhile():
        pauses.append(clock.now)
        if len(pauses) == 3:
            slots.end("b")
            assert not slots.begin("d", "v01", 9), "whoever rested has waited longer"

    clock.meanwhile = meanwhile
    slots.take("a")
    assert len(pauses) == 3
    slots.take("a")
    assert len(pauses) == 3, "it has one"
    assert not slots.begin("d", "v01", 9)


def test_of_those_that_rested_the_more_important_one_is_first(slots, clock):
    for name, priority in (("a", 1), ("b", 5)):
        slots.begin(name, "v01", priority)
        slots.rest(name)
    for name in "cd":
        slots.begin(name, "v01", 0)
    taken = []

    def important():
        clock.meanwhile = lambda: slots.end("c") if "c" not in taken and not taken.append("c") else None
        slots.take("b")
        taken.append("b")
        clock.meanwhile = lambda: slots.end("d") if "d" not in taken and not taken.append("d") else None

    clock.meanwhile = important  # "a" asks first, and "b" while it waits
    slots.take("a")
    assert taken == ["c", "b", "d"]


def test_nobody_waits_for_ever(slots, clock):
    for name in "abc":
        slots.begin(name, "v01", 0)
        slots.rest(name)
    slots.take("a")
    slots.take("b")
    slots.take("c")
    assert TAKE_SECONDS <= clock.now < TAKE_SECONDS + 1


def test_a_host_with_much_to_do_holds_up_no_other(slots, clock):
    for name in "ab":
        slots.begin(name, "v01", 0)
    slots.begin("c", "v02", 0)
    slots.rest("c")
    slots.take("c")
    assert clock.now == 0


def test_when_all_stops_nobody_waits(slots, clock):
    for name in "abc":
        slots.begin(name, "v01", 0)
        slots.rest(name)
    slots.take("a")
    slots.take("b")
    clock.stopping = True
    slots.take("c")
    assert clock.now == 0
