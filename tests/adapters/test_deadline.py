"""Calls that know no deadline get one, and the threads left behind are counted."""

import threading
import time

import pytest

from actuator.adapters.deadline import DeadlineThreads


def test_answers_and_errors_come_through():
    threads = DeadlineThreads("libvirt on v01", 1)
    assert threads.run(lambda: 42, 1) == 42
    with pytest.raises(ZeroDivisionError):
        threads.run(lambda: 1 / 0, 1)
    with pytest.raises(TimeoutError, match="its own"):
        threads.run(lambda: (_ for _ in ()).throw(TimeoutError("its own")), 1)


def test_a_call_that_hangs_is_left_behind_and_bounded():
    release = threading.Event()
    threads = DeadlineThreads("libvirt on v01", 2)
    begun = time.monotonic()
    for _ in range(2):
        with pytest.raises(TimeoutError, match=r"libvirt on v01: no answer within 0\.05 s"):
            threads.run(release.wait, 0.05)
    with pytest.raises(TimeoutError, match="2 earlier calls have not come back"):
        threads.run(lambda: 42, 0.05)
    assert time.monotonic() - begun < 5
    release.set()
    assert threads.run(lambda: 42, 5) == 42


def test_a_call_to_what_is_lost_is_not_waited_for():
    threads, stays, asked = DeadlineThreads("libvirt on v01", 1), threading.Event(), threading.Event()

    def lost():
        asked.set()
        return True

    try:
        with pytest.raises(TimeoutError, match="libvirt on v01: lost before it answered"):
            threads.run(stays.wait, 1e6, lost=lost)
    finally:
        stays.set()
    assert asked.is_set()


def test_an_answer_that_is_there_counts_whatever_is_lost():
    assert DeadlineThreads("libvirt on v01", 1).run(lambda: 7, 1e6, lost=lambda: True) == 7
