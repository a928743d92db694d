"""Connections that are open before they are needed, and opened again when they break.

A new SSH or libvirt connection costs up to a second, which a failed VM would pay for.
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

import structlog

log = structlog.get_logger(__name__)

CHECK_SECONDS = 1.0
"""How often a connection that nobody uses is looked at."""
LATE_SECONDS = 15.0
"""A connection that answered so lately is kept when an answer comes late: a new login helps no busy host."""
FIRST_PAUSE_SECONDS = 0.25
MAX_PAUSE_SECONDS = 15.0


class NotConnectedError(ConnectionError):
    """There was no connection to use: nothing was asked of the other side."""


class Connection(Protocol):
    """What can be kept warm."""

    def alive(self) -> bool:
        """Say, without waiting, whether the connection is believed to work."""

    def close(self) -> None:
        """Release it without waiting for the other side; does not raise."""


C = TypeVar("C", bound=Connection)


class Warm(Generic[C]):
    """One connection to one host, kept by one thread, which alone opens it.

    `open_connection` returns or raises (OSError, so ConnectionError and TimeoutError too) within seconds.
    Failed attempts are repeated after a pause that doubles up to `MAX_PAUSE_SECONDS`; a caller that needs the
    connection shortens the pause to `FIRST_PAUSE_SECONDS`.

    A connection is retired when it dies, or when a call on it timed out and none was answered for
    `LATE_SECONDS`: a new one is opened at once, and the old one is closed when the last call on it has ended.
    """

    def __init__(self, name: str, open_connection: Callable[[], C]) -> None:
        self._name = name
        self._open_connection = open_connection
        self._changed = threading.Condition()
        self._current: C | None = None
        self._answered_at = 0.0
        """By the current one; monotonic."""
        self._users: Counter[C] = Counter()
        self._attempts_ended = 0
        self._failure: Exception | None = None
        self._wanted = False
        self._stopping = False
        self._keeper = threading.Thread(target=self._keep, name=f"keeps {name}", daemon=True)
        self._keeper.start()

    @contextlib.contextmanager
    def use(self, timeout_seconds: float) -> Iterator[C]:
        """Lend the connection; a ConnectionError that passes through here retires it; for others see `late`.

        Raises:
            NotConnectedError: an attempt that ended after this call began has failed, or none ended in time.
        """
        with self._changed:
            connection = self._wait_for_connection(timeout_seconds)
            self._users[connection] += 1
        try:
            yield connection
        except TimeoutError:
            self.late(connection)
            raise
        except ConnectionError:
            self.retire(connection)
            raise
        except Exception:
            self._has_answered(connection)  # that it does not like what it was asked
            raise
        else:
            self._has_answered(connection)
        finally:
            with self._changed:
                self._users[connection] -= 1
                last = not self._users[connection] and connection is not self._current
                if not self._users[connection]:
                    del self._users[connection]
            if last:
                connection.close()

    @property
    def connected(self) -> bool:
        """Whether there is a connection to lend, as far as is known without asking."""
        current = self._current
        return current is not None and current.alive()

    def _has_answered(self, connection: C) -> None:
        with self._changed:
            if connection is self._current:
                self._answered_at = time.monotonic()

    def late(self, connection: C) -> None:
        """A call on it did not come back in time: it is retired when none has for long."""
        with self._changed:
            stuck = time.monotonic() - self._answered_at >= LATE_SECONDS
        if stuck:
            self.retire(connection)

    def retire(self, connection: C) -> None:
        """Never lend this connection again; open another one."""
        with self._changed:
            if connection is not self._current:
                return
            self._current = None
            unused = not self._users[connection]
            self._changed.notify_all()
        if unused:
            connection.close()

    def stop(self) -> None:
        """Close the connection and open no other one."""
        with self._changed:
            self._stopping = True
            current = self._current
            self._changed.notify_all()
        if current is not None:
            self.retire(current)

    def _wait_for_connection(self, timeout_seconds: float) -> C:
        deadline = time.monotonic() + timeout_seconds
        attempts_before = self._attempts_ended
        while True:
            if self._stopping:
                raise NotConnectedError(f"{self._name}: closed, because this program ends")
            if self._current is not None and self._current.alive():
                return self._current
            if self._failure is not None and self._attempts_ended > attempts_before:
                raise NotConnectedError(f"{self._name}: {self._failure}") from self._failure
            self._wanted = True
            self._changed.notify_all()
            if not self._changed.wait(deadline - time.monotonic()):
                reason = f"; last failure: {self._failure}" if self._failure else ""
                raise NotConnectedError(f"{self._name}: no connection within {timeout_seconds:g} s{reason}")

    def _keep(self) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        while self._wait_until_needed():
            try:
                connection = self._open_connection()
            except Exception as error:  # noqa: BLE001  a malformed key file, say: told to who asks, not the end
                if pause_seconds == FIRST_PAUSE_SECONDS:
                    log.warning(
                        "connection failed, will be tried again", connection=self._name, error=str(error)
                    )
                self._attempt_ended(None, error)
                self._pause(pause_seconds)
                pause_seconds = min(2 * pause_seconds, MAX_PAUSE_SECONDS)
            else:
                pause_seconds = FIRST_PAUSE_SECONDS
                log.info("connected", connection=self._name)
                self._attempt_ended(connection, None)

    def _wait_until_needed(self) -> bool:
        """Wait until the connection is missing or dead. False: the program ends."""
        while True:
            with self._changed:
                if self._stopping:
                    return False
                current = self._current
                if current is not None and current.alive():
                    self._changed.wait(CHECK_SECONDS)
                    continue
            if current is None:
                return True
            log.warning("connection lost", connection=self._name)
            self.retire(current)

    def _attempt_ended(self, connection: C | None, failure: Exception | None) -> None:
        with self._changed:
            self._current = connection
            self._answered_at = time.monotonic()
            self._failure = failure
            self._attempts_ended += 1
            self._wanted = False
            self._changed.notify_all()
            stopped = self._stopping
        if stopped and connection is not None:
            self.retire(connection)

    def _pause(self, seconds: float) -> None:
        start = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, min(seconds, FIRST_PAUSE_SECONDS))
            rest = start + seconds - time.monotonic()
            self._changed.wait_for(lambda: self._stopping or self._wanted, max(0.0, rest))
