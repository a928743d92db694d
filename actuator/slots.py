"""How many plans may call something on a host at once; one that only waits leaves its place to others.

A failover promotes at once and starts the domain when the lost host cannot have it any more: with a place for
each of its plans, the second half of a host's domains would be promoted only after that wait.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from actuator.ports import Clock

TAKE_SECONDS = 60.0
"""Whoever has waited so long for a place goes on without one: every wait has an end."""
POLL_SECONDS = 0.1


@dataclass
class _Plan:
    host: str
    priority: int
    calls: bool = True
    """It has a place."""
    asks: bool = False
    """It has rested, and wants a place again."""


class Slots:
    """The places of all hosts; for any thread.

    Args:
        per_host: as many as that.
        clock: for the wait in ``take``.
        wake: called when a place may have become free.
        stopping: true when nobody is to wait any more.
    """

    def __init__(
        self, per_host: int, clock: Clock, wake: Callable[[], None], stopping: Callable[[], bool]
    ) -> None:
        self._per_host = per_host
        self._clock = clock
        self._wake = wake
        self._stopping = stopping
        self._lock = threading.Lock()
        self._plans: dict[str, _Plan] = {}

    def begin(self, domain: str, host: str, priority: int) -> bool:
        """Give the domain's plan a place, if there is one that no other one waits for."""
        with self._lock:
            if not self._free(host) or any(it.asks for it in self._plans.values() if it.host == host):
                return False
            self._plans[domain] = _Plan(host, priority)
            return True

    def rest(self, domain: str) -> None:
        """The plan only waits from now on."""
        with self._lock:
            plan = self._plans[domain]
            freed, plan.calls = plan.calls, False
        if freed:
            self._wake()

    def take(self, domain: str) -> None:
        """Wait until the plan has a place again, or all stops: those of higher priority first."""
        plan = self._plans[domain]
        deadline = self._clock.monotonic() + TAKE_SECONDS
        while not self._took(plan, late=self._clock.monotonic() >= deadline) and not self._stopping():
            self._clock.pause(POLL_SECONDS)

    def end(self, domain: str) -> None:
        """The plan is over."""
        with self._lock:
            del self._plans[domain]
        self._wake()

    def _took(self, plan: _Plan, *, late: bool) -> bool:
        with self._lock:
            others = [it for it in self._plans.values() if it.host == plan.host and it is not plan]
            first = all(it.priority <= plan.priority for it in others if it.asks)
            plan.calls = plan.calls or late or (first and self._free(plan.host))
            plan.asks = not plan.calls
            return plan.calls

    def _free(self, host: str) -> bool:
        return sum(it.calls for it in self._plans.values() if it.host == host) < self._per_host
