"""The keeper: it looks at both hosts, and writes what follows from that."""

from collections.abc import Iterator
from typing import Any

from actuator.core.arbiter import Side
from tests.sim.arbiter import Arbiter, side_of
from tests.sim.world import (
    DOWN,
    WAITING,
    Move,
    World,
    Written,
    answers,
    with_host,
)


def moves(arbiter: Arbiter, w: World) -> Iterator[Move]:
    """Read what is written, look at one host, then at the other; what follows is written later."""
    held = w.keeper
    if held is None:
        for host in (0, 1):
            yield from _first_look(arbiter, w, host)
        yield from _reconnects(arbiter, w)
    elif held[0] == "write":
        yield "the keeper writes what it saw", 0, arbiter.write(w._replace(keeper=None), held[1])
    elif held[0] == "one":
        yield from _second_look(arbiter, w, *held[1:])
    else:
        _, holder, asker, it = held
        x = w.hosts[asker]
        after = None
        if answers(x) and x.role != DOWN:
            after = arbiter.given_back(it, holder, side_of(x, asker))
        keeper = None if after is None else ("write", after)
        yield "the keeper looks at {h} again", asker, w._replace(keeper=keeper)


def _first_look(arbiter: Arbiter, w: World, host: int) -> Iterator[Move]:
    """What is written is read before it (R2); a look that can change nothing is left out."""
    x = w.hosts[host]
    if not answers(x) or x.role == DOWN:
        return
    side = side_of(x, host)
    if not arbiter.rules.two_sided and w.plan is None:
        after = arbiter.one_sided(w.it, side)
        if after is not None:
            yield "the keeper looks at {h}", host, w._replace(keeper=("write", after))
    if arbiter.may_matter(w.it, host, side):
        yield (
            "the keeper looks at {h}",
            host,
            w._replace(keeper=("one", host, side, w.plan is not None, w.it)),
        )


def _second_look(
    arbiter: Arbiter, w: World, host: int, side: Side, moving: bool, it: Written
) -> Iterator[Move]:
    other = 1 - host
    y = w.hosts[other]
    if not answers(y) or y.role == DOWN:
        after = arbiter.looked_at(it, (side,))
        yield (
            "{h} does not answer the keeper",
            other,
            w._replace(keeper=None if after is None else ("write", after)),
        )
        return
    theirs = side_of(y, other)
    after = arbiter.looked_at(it, (side, theirs) if host == 0 else (theirs, side))
    keeper: Any = None if after is None else ("write", after)
    if keeper is None and not moving:
        for holder, asker, who in ((side, theirs, other), (theirs, side, host)):
            if arbiter.given_back(it, holder, asker) is not None:
                keeper = ("again", holder, who, it)
    yield "the keeper looks at {h}", other, w._replace(keeper=keeper)


def _reconnects(arbiter: Arbiter, w: World) -> Iterator[Move]:
    """One that refused its peer is told to connect again (L1)."""
    if w.plan is not None or not all(answers(x) and x.role != DOWN for x in w.hosts):
        return
    sides = [side_of(x, host) for host, x in enumerate(w.hosts)]
    for host in (0, 1):
        if arbiter.to_connect(w.it, sides[host], sides[1 - host]):
            yield "the keeper connects {h}", host, with_host(w, host, connection=WAITING)
