"""Several Alertmanagers of one cluster, and several Prometheus that watch the same hosts.

Each is told, and each is asked: Alertmanagers share silences with each other, but not alerts. What any of
them says counts; only when none answers it is unknown.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import structlog

from actuator.model import LastWords, Notification, OutgoingAlert, Silence
from actuator.ports import Alerts, Metrics, Tasks, Unanswered

ALONE, AMONG_OTHERS = 1.0, 0.8
"""The part of the time that each one has: an answer must not be lost with the time that another one takes."""

Member = TypeVar("Member")
Answer = TypeVar("Answer")

log = structlog.get_logger(__name__)


class _Several(Generic[Member]):
    def __init__(self, members: Mapping[str, Member], tasks: Tasks) -> None:
        """Ask nothing yet.

        Args:
            members: by what they are called in messages.
            tasks: to ask them side by side.
        """
        self._members = members
        self._tasks = tasks
        self._silent: frozenset[str] = frozenset()

    def _all(self, ask: Callable[[Member, float], Answer], timeout_seconds: float) -> list[Answer]:
        """What those say that answer, at least one.

        Raises:
            Unanswered: none does.
        """
        seconds = timeout_seconds * (AMONG_OTHERS if len(self._members) > 1 else ALONE)
        calls = {name: functools.partial(ask, it, seconds) for name, it in self._members.items()}
        said = self._tasks.gather(calls, timeout_seconds=timeout_seconds)
        failed = {name: answer for name, answer in said.items() if isinstance(answer, Unanswered)}
        if len(failed) == len(said):
            raise Unanswered("; ".join(str(error) for error in failed.values()))
        for name in failed.keys() - self._silent:
            log.warning("one of several does not answer", name=name, error=str(failed[name]))
        self._silent = frozenset(failed)
        return [answer for answer in said.values() if not isinstance(answer, Unanswered)]


class Alertmanagers(_Several[Alerts]):
    """The port ``Alerts``."""

    def firing(self, *, timeout_seconds: float) -> tuple[Notification, ...]:
        """See the port."""
        return _union(self._all(lambda it, seconds: it.firing(timeout_seconds=seconds), timeout_seconds))

    def watchdog(self, *, timeout_seconds: float) -> bool:
        """See the port. One that shows it is enough."""
        return any(self._all(lambda it, seconds: it.watchdog(timeout_seconds=seconds), timeout_seconds))

    def silences(self, *, timeout_seconds: float) -> tuple[Silence, ...]:
        """See the port. A silence counts before it has reached all of them."""
        found = self._all(lambda it, seconds: it.silences(timeout_seconds=seconds), timeout_seconds)
        return tuple(dict.fromkeys(silence for each in found for silence in each))

    def send(self, alerts: Sequence[OutgoingAlert], *, timeout_seconds: float) -> None:
        """See the port. Told is what one of them took."""
        self._all(lambda it, seconds: it.send(alerts, timeout_seconds=seconds), timeout_seconds)


class Prometheuses(_Several[Metrics]):
    """The port ``Metrics``."""

    def firing(self, *, timeout_seconds: float) -> tuple[Notification, ...]:
        """See the port."""
        return _union(self._all(lambda it, seconds: it.firing(timeout_seconds=seconds), timeout_seconds))

    def last_words(self, host: str, *, before: float, timeout_seconds: float) -> LastWords:
        """See the port. A replica was current when none of them heard otherwise."""
        found = self._all(
            lambda it, seconds: it.last_words(host, before=before, timeout_seconds=seconds), timeout_seconds
        )
        keys = {key for words in found for key in words}
        return {key: all(words.get(key, True) for words in found) for key in keys}


def _union(found: Sequence[tuple[Notification, ...]]) -> tuple[Notification, ...]:
    """Each alert once, as the first of them shows it; that it began at different times makes it two."""
    return tuple({(it.fingerprint, it.starts_at): it for each in reversed(found) for it in each}.values())
