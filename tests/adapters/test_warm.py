"""What is promised of a connection that is kept open, with a connection that the test breaks at will."""

import threading
import time

import pytest

from actuator.adapters import warm as warm_module
from actuator.adapters.warm import NotConnectedError, Warm


class Wire:
    """A connection that a test can break."""

    def __init__(self):
        self.broken = threading.Event()
        self.closed = threading.Event()

    def alive(self):
        return not self.broken.is_set()

    def close(self):
        assert not self.closed.is_set(), "closed twice"
        self.closed.set()


class Host:
    """Counts the connections that are opened, and refuses them while `down` is set."""

    def __init__(self):
        self.down = threading.Event()
        self.attempts = 0
        self.opened = []

    def open(self):
        self.attempts += 1
        if self.down.is_set():
            raise ConnectionRefusedError("no")
        self.opened.append(Wire())
        return self.opened[-1]


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(warm_module, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(warm_module, "FIRST_PAUSE_SECONDS", 0.02)
    return Host()


@pytest.fixture
def warm(host):
    kept = Warm("ssh to v01", host.open)
    yield kept
    kept.stop()


def until(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def test_it_is_open_before_anybody_asks_and_the_same_for_all(host, warm):
    until(lambda: host.opened)
    with warm.use(1) as first, warm.use(1) as second:
        assert first is second is host.opened[0]


def test_a_broken_one_is_replaced_although_nobody_asks(host, warm):
    with warm.use(1) as first:
        pass
    first.broken.set()
    until(lambda: len(host.opened) == 2)
    assert first.closed.wait(1)
    with warm.use(1) as second:
        assert second is host.opened[1]


@pytest.mark.parametrize("error", [TimeoutError, ConnectionError])
def test_one_on_which_a_call_failed_is_never_lent_again_and_closed_when_its_last_call_ended(
    host, warm, error, monkeypatch
):
    monkeypatch.setattr(warm_module, "LATE_SECONDS", 0)
    with warm.use(1) as other_call:
        with pytest.raises(error), warm.use(1) as stuck:
            raise error
        assert stuck is other_call
        with warm.use(1) as fresh:
            assert fresh is not stuck
        assert not stuck.closed.is_set()
    assert stuck.closed.is_set()


def test_one_that_has_answered_lately_is_kept_when_an_answer_comes_late(host, warm, monkeypatch):
    monkeypatch.setattr(warm_module, "LATE_SECONDS", 0.3)

    def comes_late():
        with pytest.raises(TimeoutError), warm.use(1):
            raise TimeoutError

    begun = time.monotonic()
    while time.monotonic() - begun < 0.6:
        with warm.use(1):
            pass
        comes_late()
    assert len(host.opened) == 1
    threading.Event().wait(0.4)
    comes_late()
    until(lambda: len(host.opened) == 2)


def test_another_error_keeps_it(host, warm):
    with pytest.raises(ValueError), warm.use(1) as first:
        raise ValueError
    with warm.use(1) as second:
        assert second is first


def test_a_host_that_refuses_is_told_at_once_and_not_after_the_deadline(host, warm):
    host.down.set()
    with warm.use(1) as first:
        first.broken.set()
    with pytest.raises(NotConnectedError, match="ssh to v01: no"), warm.use(30):
        pass
    host.down.clear()
    with warm.use(5):
        pass


def test_a_caller_does_not_wait_for_a_long_pause_to_end(host, warm, monkeypatch):
    monkeypatch.setattr(warm_module, "MAX_PAUSE_SECONDS", 1000)
    host.down.set()
    with warm.use(1) as first:
        first.broken.set()
    until(lambda: host.attempts >= 6)  # the pause is 0.64 s by now
    host.down.clear()
    begun = time.monotonic()
    with warm.use(30):
        assert time.monotonic() - begun < 0.5


def test_attempts_are_bounded_while_everybody_asks(host, warm):
    host.down.set()
    with warm.use(1) as first:
        first.broken.set()
    before = host.attempts
    begun = time.monotonic()
    while time.monotonic() - begun < 0.5:
        with pytest.raises(NotConnectedError), warm.use(1):
            pass
    assert 2 <= host.attempts - before <= 0.5 / 0.02 + 1


def test_a_surprise_while_opening_is_told_and_not_the_end(host):
    def surprise():
        if host.down.is_set():
            raise ValueError("key file is not text")
        return host.open()

    host.down.set()
    warm = Warm("ssh to v01", surprise)
    with pytest.raises(NotConnectedError, match="ssh to v01: key file is not text"), warm.use(5):
        pass
    host.down.clear()
    with warm.use(5):
        pass
    warm.stop()


def test_an_attempt_that_hangs_does_not_hold_the_caller(monkeypatch):
    release = threading.Event()

    def hang():
        release.wait(10)
        return Wire()

    warm = Warm("ssh to v01", hang)
    with pytest.raises(NotConnectedError, match=r"no connection within 0\.1 s"), warm.use(0.1):
        pass
    release.set()
    with warm.use(5):
        pass
    warm.stop()


def test_stop_closes_it_and_opens_no_other(host, warm):
    with warm.use(1) as wire:
        pass
    warm.stop()
    assert wire.closed.wait(1)
    with pytest.raises(NotConnectedError, match="closed"), warm.use(1):
        pass
    assert len(host.opened) == 1
