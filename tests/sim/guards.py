"""The guards of plans, written down anew; what they ask the arbiter is its real functions."""

from tests.sim.arbiter import Arbiter
from tests.sim.world import (
    DOWN,
    OUTDATED,
    PRIMARY,
    SECONDARY,
    TOGETHER,
    UP,
    World,
    answers,
)


def has_lost(arbiter: Arbiter, w: World) -> bool:
    """Its own host cannot have the VM: another was given the authority, or this disk is lost."""
    home = w.hosts[0]
    return home.role != DOWN and (arbiter.taken(w.it, 0, False) is None or home.disk != UP)


def _authority(arbiter: Arbiter, w: World, target: int, power: bool) -> bool:
    return arbiter.taken(w.it, target, power) is not None


def may_take_over(arbiter: Arbiter, w: World, target: int, power: bool) -> bool:
    """All that a failover needs; a restart needs more."""
    x, peer = w.hosts[target], w.hosts[1 - target]
    if not (answers(x) and x.role != DOWN and x.disk == UP and not x.frozen and not x.vm):
        return False
    if peer.role == PRIMARY and (answers(peer) or x.connection in TOGETHER):
        return False
    return _authority(arbiter, w, target, power)


def _was_granted(w: World, target: int) -> bool:
    return w.it.granted and w.it.holder == target and w.it.admitted == 1 << target


def may_restart(arbiter: Arbiter, w: World, target: int) -> bool:
    """Is it known that the VM does not run on the peer?"""
    x, peer = w.hosts[target], w.hosts[1 - target]
    if not may_take_over(arbiter, w, target, False):
        return False
    granted = _was_granted(w, target)
    if answers(peer):
        known = not peer.vm
        if not known:
            return False
    else:
        known = x.role == PRIMARY and (x.connection in TOGETHER or x.peer_disk == OUTDATED)
    if not (known or granted):
        return False
    if x.role == PRIMARY or granted:
        return True
    sees_us = peer.role == SECONDARY and peer.connection in TOGETHER and peer.peer_disk == UP
    return x.connection in TOGETHER and answers(peer) and sees_us


def may_move(arbiter: Arbiter, w: World, *, planned: bool = True) -> bool:
    """From host 0 to host 1."""
    home, there = w.hosts
    mirrored = home.connection in TOGETHER and there.connection in TOGETHER and home.peer_disk == UP
    fit = answers(there) and there.role != DOWN and there.disk == UP and not there.frozen and not there.vm
    return (
        answers(home) and home.role != DOWN and mirrored and fit and _authority(arbiter, w, 1, False)
        and (there.role == SECONDARY or not planned)
    )  # fmt: skip


def has_let_go(arbiter: Arbiter, w: World, target: int) -> bool:
    """The source cannot have the VM any more: seen gone, or quiet for long enough (R7)."""
    source = w.hosts[1 - target]
    if not arbiter.rules.outlast:
        return True
    if answers(source):
        return not source.vm and source.role != PRIMARY
    if not source.vm or not source.on or source.sleep:
        return True
    return not source.frozen and source.connection not in TOGETHER
