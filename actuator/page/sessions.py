"""Who is logged in to the page, and how often a wrong token may be tried. Nothing survives a restart."""

import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

from actuator.ports import Clock
from actuator.rights import Right

T = TypeVar("T")

IDLE_SECONDS = 8 * 3600.0
"""A session that is not used for so long is over."""
MAX_SECONDS = 24 * 3600.0
"""And after so long, however much it is used."""
MAX_SESSIONS = 100
"""Beyond it the one that was used least lately is over."""
MAX_ATTEMPTS = 5
"""With a wrong token, from one address, within ``ATTEMPT_SECONDS``."""
ATTEMPT_SECONDS = 60.0
MAX_ADDRESSES = 1000
SAID_SECONDS = 60.0
"""For so long the answer to an order is shown."""


@dataclass(slots=True)
class Session:
    """One browser of a person who has shown a token."""

    name: str
    """Who it is, in their own words."""
    may_order: bool
    """It was the operators'; else one for reading."""
    form_token: str
    """Every form brings it: another site's pages cannot know it."""
    began_at: float
    """Monotonic."""
    used_at: float
    said: str = ""
    """What the last order was answered."""
    said_at: float = 0.0

    def lasts(self, now: float) -> bool:
        """Whether it is not over."""
        return now - self.used_at < IDLE_SECONDS and now - self.began_at < MAX_SECONDS

    def say(self, sentence: str, now: float) -> None:
        """Keep an order's answer for the next page."""
        self.said, self.said_at = sentence, now

    def news(self, now: float) -> str:
        """It, while it is new."""
        return self.said if now - self.said_at < SAID_SECONDS else ""


class TooManyAttemptsError(Exception):
    """Too many wrong tokens have come from this address: wait."""


class Sessions:
    """Safe to use from several threads at once.

    Args:
        right: what a token is good for; None: nothing.
        clock: for when a session is over.
    """

    def __init__(self, right: Callable[[str], Right | None], clock: Clock) -> None:
        self._right = right
        self._clock = clock
        self._lock = Lock()
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        """By the cookie's value; that which was used least lately first."""
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        """By address: when a wrong token came, monotonic."""

    def log_in(self, token: str, name: str, address: str) -> str | None:
        """Begin a session; the cookie's value, or None when the token is wrong.

        Raises:
            TooManyAttemptsError: whatever the token is, it is not looked at.
        """
        now = self._clock.monotonic()
        with self._lock:
            failures = self._failures.get(address, deque(maxlen=MAX_ATTEMPTS))
            if len(failures) == MAX_ATTEMPTS and now - failures[0] < ATTEMPT_SECONDS:
                raise TooManyAttemptsError
            if (right := self._right(token)) is None:
                failures.append(now)
                _put(self._failures, address, failures, MAX_ADDRESSES)
                return None
            self._failures.pop(address, None)
            key = secrets.token_urlsafe(32)
            session = Session(name, right is Right.ORDER, secrets.token_urlsafe(32), now, now)
            _put(self._sessions, key, session, MAX_SESSIONS)
            return key

    def find(self, key: str) -> Session | None:
        """The session of a cookie's value, which is used by that; None: there is none, or it is over."""
        now = self._clock.monotonic()
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                return None
            if not session.lasts(now):
                del self._sessions[key]
                return None
            session.used_at = now
            self._sessions.move_to_end(key)
            return session

    def log_out(self, key: str) -> None:
        """End it."""
        with self._lock:
            self._sessions.pop(key, None)


def _put(table: OrderedDict[str, T], key: str, value: T, limit: int) -> None:
    table[key] = value
    table.move_to_end(key)
    while len(table) > limit:
        table.popitem(last=False)
