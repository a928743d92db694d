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
