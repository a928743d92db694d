"""How many plans may call something at once, on a host and in all; one that only waits leaves its place.

A failover promotes at once and starts the domain when the lost host cannot have it any more: with a place for
each of its plans, the second half of a host's domains would be promoted only after that wait.

When a rack is lost, hundreds of plans side by side end no sooner than some dozens: they share one processor's
Python with each other, and with the looks that say which hosts are there.
"""

import threading
from collections import defaultdict
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
    calls: bool = False
    """It has a place."""
    asks: bool = False
    """It has rested, and wants a place again."""
    next: bool = False
    """It asks, and its host has a place for it: only in all there is none."""


class Slots:
    """The places of all hosts; for any thread.

    Args:
        per_host: as many as that on one host.
        in_all: as many as that on all hosts together.
        clock: for the wait in ``take``.
        wake: called when a place may have become free.
        stopping: true when nobody is to wait any more.
    """

    def __init__(
        self,
        per_host: int,
        in_all: int,
        clock: Clock,
        wake: Callable[[], None],
        stopping: Callable[[], bool],
    ) -> None:
        self._per_host = per_host
        self._in_all = in_all
        self._clock = clock
        self._wake = wake
        self._stopping = stopping
        self._lock = threading.Lock()
        self._plans: dict[str, _Plan] = {}
        self._on: defaultdict[str, dict[str, _Plan]] = defaultdict(dict)
        """The same, by host and domain."""
        self._calling = self._next = 0
        """How many of them have a place, and are next."""

    @property
    def any_is_free(self) -> bool:
        """There is a place for one more plan, if its host has one."""
        with self._lock:
            return self._calling + self._next < self._in_all

    def begin(self, domain: str, host: str, priority: int) -> bool:
        """Give the domain's plan a place, if there is one that no other one waits for."""
        with self._lock:
            taken = self._calling + self._next >= self._in_all
            if taken or not self._free(host) or any(it.asks for it in self._on[host].values()):
                return False
            self._plans[domain] = self._on[host][domain] = _Plan(host, priority)
            self._set(self._plans[domain], calls=True)
            return True

    def rest(self, domain: str) -> None:
        """The plan only waits from now on."""
        with self._lock:
            plan = self._plans[domain]
            freed = plan.calls
            self._set(plan, calls=False, asks=plan.asks, is_next=plan.next)
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
            plan = self._plans.pop(domain)
            del self._on[plan.host][domain]
            self._set(plan, calls=False)
        self._wake()

    def _took(self, plan: _Plan, *, late: bool) -> bool:
        with self._lock:
            asking = [it for it in self._on[plan.host].values() if it.asks and it is not plan]
            first = all(it.priority <= plan.priority for it in asking) and self._free(plan.host)
            calls = plan.calls or late or (first and self._calling < self._in_all)
            self._set(plan, calls=calls, asks=not calls, is_next=first and not calls)
            return calls

    def _set(self, plan: _Plan, *, calls: bool, asks: bool = False, is_next: bool = False) -> None:
        self._calling += calls - plan.calls
        self._next += is_next - plan.next
        plan.calls, plan.asks, plan.next = calls, asks, is_next

    def _free(self, host: str) -> bool:
        return sum(it.calls for it in self._on[host].values()) < self._per_host
