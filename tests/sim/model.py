"""Two hosts, one DRBD resource, one VM, and the arbiter's real functions: a world small enough to be searched.

``Model`` gives what may follow a ``World``: ``moves`` are what happens next by itself or as a mend (a cable is
put back, a host boots or wakes, a disk is attached again), ``events`` what disturbs.

What is abstracted:

- **Hosts** are 0 and 1, and the VM belongs to 0: when it moves, the two are exchanged (``world.mirrored``).
  They are alike in everything else.
- **Versions**: one never comes back, so a message keeps only whether the version that it names is still the
  current one, and the keeper's look is dropped with the change that makes it worthless.
- **Time**: everything may take as long as it likes, with two exceptions. A release looks three times a second,
  so it has seen a connection that came back before that is lost once more. And R7: by the time that a plan has
  waited for a quiet host, that host has noticed its loss and ended its frozen VM, unless it stood still. One
  that woke has its VM until its handler acts: that bound is stated in docs/moves.md, and not counted here.
- **Data**: a disk ``lacks`` acknowledged writes or it does not; it is ``ahead`` when it has a generation
  (DRBD's current UUID) of which the other has not heard. A write is acknowledged when it is on the disks that
  DRBD waits for.
- **DRBD** is 8.4 with protocol C and resource-and-stonith, as in the facts: each side has its own view of the
  connection, which may be older than what happened.
- A plan's look at both hosts is one moment, after which anything may happen before its call. Its guards are
  written down anew (``guards``); what they ask the arbiter is the real ``taken``, ``why_not``, ``intended``.
"""

from collections.abc import Iterator

from tests.sim import drbd, events, hooks, keeper, plans, stuck
from tests.sim.arbiter import Arbiter, Rules
from tests.sim.world import Move, World, awake


class Model:
    """How worlds follow each other."""

    def __init__(self, rules: Rules | None = None) -> None:
        self._arbiter = Arbiter(rules or Rules())

    def moves(self, w: World) -> Iterator[Move]:
        """What may happen next without a further disturbance."""
        arbiter = self._arbiter
        for host in (0, 1):
            if awake(w.hosts[host]):
                yield from drbd.moves(arbiter, w, host)
                yield from hooks.moves(arbiter, w, host)
                yield from hooks.releases(arbiter, w, host)
            yield from events.host_mends(w, host)
        yield from events.link_mends(w)
        yield from drbd.meet(w)
        yield from hooks.late(arbiter, w)
        yield from keeper.moves(arbiter, w)
        yield from plans.moves(arbiter, w)

    def events(self, w: World) -> Iterator[Move]:
        """What counts against the bound."""
        return events.disturbances(self._arbiter, w)

    def by_hand(self, w: World) -> World:
        """What a person makes of a stuck one."""
        return stuck.by_hand(self._arbiter, w)
