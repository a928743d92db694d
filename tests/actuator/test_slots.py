"""How many plans call something on a host at once."""

import contextlib
import threading

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
    return Slots(2, 100, clock, lambda: woken.append(clock.now), lambda: clock.stopping)


def gets_one(slots, clock, domain):
    """Whether there is a place for it again now; else it has asked for one, and goes on without."""
    asked_at = clock.now
    clock.meanwhile = lambda: setattr(clock, "stopping", True)
    slots.take(domain)
    clock.meanwhile, clock.stopping = lambda: None, False
    return clock.now == asked_at


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


def test_a_place_goes_to_the_most_important_of_those_that_ask(slots, clock):
    for name, priority in (("a", 1), ("b", 5), ("c", 5)):
        slots.begin(name, "v01", priority)
        slots.rest(name)
    for name in "de":
        slots.begin(name, "v01", 9)
    assert [gets_one(slots, clock, name) for name in "abc"] == [False] * 3
    slots.end("d")
    assert not gets_one(slots, clock, "a")
    assert gets_one(slots, clock, "b"), "whoever has a place, or is as important, is not in its way"
    slots.end("e")
    assert not gets_one(slots, clock, "a")
    assert gets_one(slots, clock, "c")
    slots.end("c")
    assert gets_one(slots, clock, "a"), "whoever got one asks no more"


def test_nobody_waits_for_ever(slots, clock):
    for name, priority in (("a", 0), ("b", 0), ("c", 0), ("d", 9)):
        slots.begin(name, "v01", priority)
        slots.rest(name)
    slots.take("a")
    slots.take("b")
    assert not gets_one(slots, clock, "d")
    slots.take("c")
    assert TAKE_SECONDS <= clock.now < TAKE_SECONDS + 1


def test_a_host_with_much_to_do_holds_up_no_other(slots, clock):
    for name in "abc":
        slots.begin(name, "v01", 9)
        slots.rest(name)
    slots.take("a")
    slots.take("b")
    assert not gets_one(slots, clock, "c")
    assert slots.begin("d", "v02", 0)
    slots.rest("d")
    assert gets_one(slots, clock, "d")


def test_when_all_stops_nobody_waits(slots, clock):
    for name in "abc":
        slots.begin(name, "v01", 0)
        slots.rest(name)
    slots.take("a")
    slots.take("b")
    clock.stopping = True
    slots.take("c")
    assert clock.now == 0


@pytest.mark.parametrize("leave", [Slots.rest, Slots.end])
def test_whoever_is_woken_finds_the_place_free(clock, leave):
    begun = []
    slots = Slots(1, 100, clock, lambda: begun.append(slots.begin("b", "v01", 0)), lambda: False)
    slots.begin("a", "v01", 0)
    leave(slots, "a")
    assert begun == [True]


def test_one_that_begins_and_one_that_goes_on_do_not_get_the_same_place(clock):
    slots = Slots(1, 100, clock, lambda: None, lambda: False)
    slots.begin("a", "v01", 0)
    slots.rest("a")
    both, free = threading.Barrier(2), slots._free

    def slow(host):
        found = free(host)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.2)
        return found

    slots._free = slow
    clock.meanwhile = lambda: slots.end("b")
    going_on = threading.Thread(target=slots.take, args=("a",))
    going_on.start()
    begun = slots.begin("b", "v01", 0)
    going_on.join(timeout=20)
    waited = clock.now > 0
    assert begun == waited


def test_so_many_in_all(clock, woken):
    slots = Slots(2, 3, clock, lambda: woken.append(clock.now), lambda: clock.stopping)
    for domain, host in (("a", "v01"), ("b", "v01"), ("c", "v02")):
        assert slots.any_is_free
        assert slots.begin(domain, host, 0)
    assert not slots.any_is_free
    assert not slots.begin("d", "v03", 0)
    slots.rest("a")
    assert slots.begin("d", "v03", 0)
    assert not gets_one(slots, clock, "a"), "its host has a place, but not in all"
    slots.end("d")
    assert not slots.any_is_free
    assert not slots.begin("e", "v03", 9), "whoever rested has waited longer"
    assert gets_one(slots, clock, "a")
    slots.end("b")
    assert slots.begin("e", "v03", 0)


def test_one_that_waits_for_its_own_host_keeps_no_place_of_the_others(clock, woken):
    slots = Slots(1, 2, clock, lambda: woken.append(clock.now), lambda: clock.stopping)
    slots.begin("a", "v01", 0)
    slots.rest("a")
    slots.begin("b", "v01", 0)
    assert not gets_one(slots, clock, "a")
    assert slots.begin("c", "v02", 0)
