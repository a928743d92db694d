"""The world that is searched, as values: two hosts, what is written, a plan; and what is true of them.

A ``World`` is a nested tuple: equal worlds are one. Nothing in it changes; the functions here and in the other
modules give another one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

UP, OUTDATED, INCONSISTENT, CONSISTENT = "UpToDate", "Outdated", "Inconsistent", "Consistent"
DISKLESS, UNKNOWN = "Diskless", "DUnknown"
PRIMARY, SECONDARY, DOWN = "Primary", "Secondary", ""
CONNECTED, SOURCE, TARGET, ASKS_SOURCE, ASKS_TARGET = (
    "Connected",
    "SyncSource",
    "SyncTarget",
    "WFBitMapS",
    "WFBitMapT",
)
WAITING, ALONE, BY_HAND = "WFConnection", "StandAlone", "StandAlone by hand"
TOGETHER = frozenset({CONNECTED, SOURCE, TARGET, ASKS_SOURCE, ASKS_TARGET})
OLD = frozenset({OUTDATED, INCONSISTENT})
RUN, AGAIN, FREE = "run", "again", "free"
HOOKS = ("fence", "unfence", "resync", "attach", "release")


class Host(NamedTuple):
    """A host, and DRBD's view there. A hook is "", or how far it is: see ``hooks``."""

    on: bool = True
    sleep: str = ""
    """"frozen", or "woke": and has lost its peer, and nobody has heard of it since (R7)."""
    reachable: bool = True
    """By the actuator, and the other way."""
    role: str = SECONDARY
    disk: str = UP
    kept: tuple[str, bool] = (UP, False)
    """Its metadata while it is not attached: its own state, and whether the peer is Outdated."""
    broken: bool = False
    """There is no disk to be attached at the boot; under a resource that is up a person mends it first."""
    crashed: bool = False
    """It was Primary when it lost its power: then the activity log makes it a source."""
    connection: str = CONNECTED
    peer_disk: str = UP
    beyond: bool = False
    """A Primary without its disk, which has seen newer data than that disk has: those of its peer."""
    frozen: bool = False
    two: bool = False
    ahead: bool = False
    lacks: bool = False
    vm: bool = False
    promoting: bool = False
    """`drbdadm primary` waits for the handler."""
    fence: Any = ""
    unfence: Any = ""
    resync: Any = ""
    attach: Any = ""
    release: Any = ""


class Written(NamedTuple):
    """An ``Authority``, without what does not change here."""

    holder: int = 0
    admitted: int = 3
    granted: bool = False
    newest: bool = False
    torn: bool = False


class Plan(NamedTuple):
    """An open plan, at a step; ``phase``: intent, call (it was judged), calling (drbdadm asks the handler)."""

    verb: str
    step: str
    target: int
    phase: str = "intent"
    power: bool = False
    promoted: bool = False


class World(NamedTuple):
    """All of it."""

    hosts: tuple[Host, Host]
    cable: bool = True
    it: Written = Written()
    plan: Plan | None = None
    keeper: Any = None
    ghost: Any = None
    """A question that is still on its way although nobody waits for its answer: (host, hook, of the latest run,
    names the current version, what was seen). With another version it would change nothing, and is left out."""
    fault: str = ""


START = World((Host(role=PRIMARY, vm=True), Host()))
Move = tuple[str, int, World]
"""What happens, in a sentence that names the host as {h} and the other as {p}; that host; the world after it."""


# ---- another world -----------------------------------------------------------------------------------------

_new: Callable[[type[World], tuple[Any, ...]], World] = tuple.__new__


def with_host(w: World, host: int, **changes: Any) -> World:
    """The same with this host changed."""
    hosts = w[0]
    x = hosts[host]._replace(**changes)
    # World's _replace would take twice as long.
    return _new(World, ((x, hosts[1]) if host == 0 else (hosts[0], x), *w[1:]))


def end_vm(w: World, host: int) -> World:
    """Shut down, or destroyed."""
    return with_host(w, host, vm=False, sleep="")


def mirrored(w: World) -> World:
    """The same with the hosts exchanged."""
    it = w.it
    admitted = (it.admitted & 1) << 1 | it.admitted >> 1
    plan = w.plan and w.plan._replace(target=1 - w.plan.target)
    ghost = w.ghost and (1 - w.ghost[0], *w.ghost[1:])
    written = Written(1 - it.holder, admitted, it.granted, it.newest, it.torn)
    # What the keeper has looked at is dropped: it begins again.
    return World(w.hosts[::-1], w.cable, written, plan, None, ghost, w.fault)


# ---- what is true of one -----------------------------------------------------------------------------------


def awake(x: Host) -> bool:
    return x.on and x.sleep != "frozen"


def is_up(x: Host) -> bool:
    return x.on and x.sleep != "frozen" and x.role != DOWN


def answers(x: Host) -> bool:
    return x.on and x.sleep != "frozen" and x.reachable


def joined(w: World) -> bool:
    """Both are connected, and what one sends the other gets."""
    a, b = w.hosts
    return w.cable and a.connection in TOGETHER and b.connection in TOGETHER and is_up(a) and is_up(b)


def writes(w: World, host: int) -> bool:
    """Would a write be acknowledged here?"""
    x = w.hosts[host]
    if x.role != PRIMARY or x.frozen or not awake(x):
        return False
    if x.connection in TOGETHER:
        return joined(w) and UP in {x.disk, w.hosts[1 - host].disk}
    return x.disk == UP


def violation(w: World) -> str:
    """Which part of the promise is broken; empty: none."""
    if w.fault:
        return w.fault
    here, there = writes(w, 0), writes(w, 1)
    if here and there and not joined(w):
        return "two writers: both hosts acknowledge writes, each alone"
    if here and there and w.hosts[0].vm and w.hosts[1].vm:
        return "the VM runs on both hosts"
    for host, able in ((0, here), (1, there)):
        if able:
            x, y = w.hosts[host], w.hosts[1 - host]
            if x.lacks if x.disk == UP else y.lacks:
                return "old disk: a Primary goes on with a disk that lacks acknowledged writes"
    return ""
