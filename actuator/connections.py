"""Connecting and disconnecting DRBD's replicas where nobody else would: the arbiter's rules L1 and R4."""

import math
from collections.abc import Callable
from itertools import permutations

from actuator.core.arbiter import Side, to_connect, to_disconnect
from actuator.model import Authority, CallOutcome, Done, Event
from actuator.ports import Ports

AGAIN_SECONDS, AGAIN_SECONDS_MAX = 10.0, 3600.0
"""Before the same is done once more to a resource on a host; twice as long each time until it is connected.

A split brain refuses each connection, and DRBD runs its handler for it each time.
"""


class Connections:
    """The connections of all resources; what was done to each is remembered."""

    def __init__(self, ports: Ports, timeout_seconds: float) -> None:
        self._ports = ports
        self._timeout_seconds = timeout_seconds
        self._done: dict[tuple[str, str, str], tuple[float, float]] = {}
        """By verb, host and resource: when, and how long nothing is done then."""

    def part(self, it: Authority, sides: tuple[Side, ...]) -> None:
        """Disconnect what must not meet its peer, right after a look: that may be back any moment.

        Raises:
            JournalError: what was done could not be written down.
        """
        for side in sides:
            if side.connected and self._done:
                for verb in ("connect", "disconnect"):
                    self._done.pop((verb, side.host, it.resource), None)
            if to_disconnect(it, side):
                self._do(
                    "disconnect", self._ports.storage.disconnect, side, it.resource, "has no disk and no peer"
                )

    def join(self, it: Authority, sides: tuple[Side, ...], *, moving: bool) -> None:
        """Connect what may meet, when that look has changed nothing else; `moving`: a plan has it in hand.

        Raises:
            JournalError: what was done could not be written down.
        """
        for side, peer in permutations(sides, 2):
            if to_connect(it, side, peer) and not moving and not self._is_paused(side.host, peer.host):
                self._do("connect", self._ports.storage.connect, side, it.resource, "was StandAlone")

    def _do(self, verb: str, call: Callable[..., CallOutcome], side: Side, resource: str, why: str) -> None:
        if not self._is_due(verb, side.host, resource):
            return
        outcome = call(side.host, resource, timeout_seconds=self._timeout_seconds)
        said = "" if isinstance(outcome, Done) else f": {outcome.reason}"
        sentence = f"{resource} on {side.host} {why}; {verb}: {outcome.kind}{said}"
        event = Event(self._ports.clock.wall(), "connection", sentence, host=side.host)
        self._ports.journal.commit(events=[event])

    def _is_due(self, verb: str, host: str, resource: str) -> bool:
        now = self._ports.clock.monotonic()
        at, pause = self._done.get((verb, host, resource), (-math.inf, AGAIN_SECONDS / 2))
        if now - at < pause:
            return False
        self._done[verb, host, resource] = now, min(2 * pause, AGAIN_SECONDS_MAX)
        return True

    def _is_paused(self, *hosts: str) -> bool:
        """A person has one of them in hand, or all."""
        now = self._ports.clock.wall()
        orders = [it.paused for it in self._ports.journal.hosts() if it.host in {"", *hosts}]
        return any(order is not None and order.stands(now) for order in orders)
