"""Where nothing goes on by itself: why, what a person has to do, and what that does.

A world is stuck when all is mended, nothing is under way, and the VM never runs again.
"""

from typing import NamedTuple

from tests.sim import drbd
from tests.sim.arbiter import Arbiter
from tests.sim.world import (
    ALONE,
    DISKLESS,
    DOWN,
    OLD,
    PRIMARY,
    RUN,
    SECONDARY,
    UP,
    World,
    end_vm,
    with_host,
)

ACCEPT = (
    "a host was granted alone, and its peer would overwrite it: DRBD takes the peer's data for the newer ones, and"
    " nothing else tells whether the granted one has written; find that out, then"
    " 'vmheal-actuator readmit RESOURCE HOST' the replica that counts: the UpToDate one, if it never wrote"
)
REBOOT = (
    "a Primary is frozen and was not granted, and its peer, which was not granted either, would overwrite it:"
    " nothing may let its writes go; end its VM, and reboot its host"
)
NO_DISK = (
    "neither host has its disk, and a disk is not attached beside a peer without one (R4): where it is Secondary"
    " 'drbdadm down RESOURCE', then 'vmheal-fence-peer up'"
)
USELESS = (
    "a Primary has no current disk and no peer, and each write is an error: end its VM, then"
    " 'drbdadm secondary RESOURCE' there"
)
TORN = (
    "a Primary lost the last current disk, and what it wrote last may be on either replica alone (R10): end its VM,"
    " 'drbdadm secondary RESOURCE' there, then 'vmheal-actuator readmit RESOURCE HOST' the one that is UpToDate"
)
ELSEWHERE = "the resource is Primary, unused, on the host where the VM does not belong: 'drbdadm secondary RESOURCE' there"


class _Cause(NamedTuple):
    sentence: str
    host: int
    """Where a person acts."""


def why_stuck(w: World) -> str:
    """Why nothing goes on, and what a person has to do; empty: none of what is known."""
    cause = _cause(w)
    return cause.sentence if cause else ""


def by_hand(arbiter: Arbiter, w: World) -> World:
    """The world after a person has done that."""
    cause = _cause(w)
    assert cause is not None
    host = cause.host
    if cause.sentence == ACCEPT:
        return arbiter.write(w, arbiter.accepted(w.it, host))
    if cause.sentence == TORN:
        for number, it in enumerate(w.hosts):
            if it.role == PRIMARY and it.disk != UP:
                w = with_host(end_vm(w, number), number, role=SECONDARY)
        return arbiter.write(w, arbiter.accepted(w.it, host))
    if cause.sentence == REBOOT:
        return drbd.crash(end_vm(w, host), host)
    if cause.sentence == NO_DISK:
        return with_host(w, host, role=DOWN, connection=ALONE, two=False, attach=RUN)
    return drbd.disk_first(arbiter, with_host(end_vm(w, host), host, role=SECONDARY), host)


def _cause(w: World) -> _Cause | None:  # noqa: PLR0911  a table
    holder, other = w.it.holder, 1 - w.it.holder
    x, y = w.hosts[holder], w.hosts[other]
    if x.disk == y.disk == DISKLESS:
        return _Cause(NO_DISK, other if x.role == PRIMARY else holder)
    current = [host for host in (holder, other) if w.hosts[host].disk == UP]
    if current and (w.it.torn or (x.role == PRIMARY and x.disk in OLD and w.it.admitted == 0)):
        return _Cause(TORN, current[0])
    if w.it.granted and x.role == SECONDARY and x.disk in OLD and y.disk == UP:
        return _Cause(ACCEPT, other)
    for host in (0, 1):
        if w.hosts[host].role == PRIMARY and w.hosts[host].frozen:
            return _Cause(REBOOT, host)
    for host in (0, 1):
        if w.hosts[host].role == PRIMARY and w.hosts[host].disk != UP:
            return _Cause(USELESS, host)
    if w.hosts[1].role == PRIMARY and not w.hosts[1].vm:
        return _Cause(ELSEWHERE, 1)
    return None
