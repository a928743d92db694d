"""What DRBD does, on a host or between both."""

from collections.abc import Iterator

from tests.sim.arbiter import Arbiter, side_of
from tests.sim.world import (
    ALONE,
    ASKS_SOURCE,
    ASKS_TARGET,
    BY_HAND,
    CONNECTED,
    CONSISTENT,
    DISKLESS,
    DOWN,
    FREE,
    HOOKS,
    INCONSISTENT,
    OLD,
    OUTDATED,
    PRIMARY,
    RUN,
    SECONDARY,
    SOURCE,
    TARGET,
    TOGETHER,
    UNKNOWN,
    UP,
    WAITING,
    Host,
    Move,
    World,
    is_up,
    joined,
    with_host,
    writes,
)

# ---- by itself ---------------------------------------------------------------------------------------------


def moves(arbiter: Arbiter, w: World, host: int) -> Iterator[Move]:
    """What a host's DRBD does by itself, and the VM on it."""
    x, peer = w.hosts[host], w.hosts[1 - host]
    together = joined(w)
    if x.role != DOWN and x.connection in TOGETHER and not together:
        yield "{h} notices that it has lost {p}", host, lose(arbiter, w, host)
    if x.vm and writes(w, host):
        w2 = w
        received = together and peer.disk != DISKLESS and peer.connection != ASKS_TARGET
        if not received:
            w2 = with_host(w2, 1 - host, lacks=True)
            w2 = with_host(w2, host, ahead=True)
        if x.disk == DISKLESS:
            w2 = with_host(with_host(w2, host, lacks=True), 1 - host, ahead=True)
        if w2 != w:
            yield "the VM on {h} writes, acknowledged", host, w2
    if together and x.connection == SOURCE:
        if peer.connection == TARGET:
            # It has the source's generation now; the source hears of it later (H2).
            w2 = with_host(
                w, 1 - host, connection=CONNECTED, disk=UP, peer_disk=UP,
                lacks=x.lacks, ahead=False, crashed=False,
            )  # fmt: skip
            w2 = with_host(w2, host, ahead=False)
            yield "{p} sees the end of its resync", host, w2
        elif peer.connection == CONNECTED:
            w2 = with_host(w, host, connection=CONNECTED, peer_disk=UP, unfence=RUN, crashed=False)
            yield "{h} sees the end of the resync too", host, w2


def meet(w: World) -> Iterator[Move]:
    """Both wait for each other, and nothing is between them."""
    a, b = w.hosts
    if a.connection == b.connection == WAITING and w.cable and is_up(a) and is_up(b):
        yield "the two connect", 0, connect(w)


# ---- what is done to it, and what follows ------------------------------------------------------------------


def orphaned(w: World, host: int, hooks: tuple[str, ...]) -> World:
    """Nobody waits for these hooks any more; one question of them may still be on its way."""
    x = w.hosts[host]
    ghost = w.ghost
    for hook in hooks:
        state = getattr(x, hook)
        if ghost is None and isinstance(state, tuple) and state[0] == "q" and state[1]:
            ghost = (host, hook, True, state[1], state[2:])
    return with_host(w._replace(ghost=ghost), host, **dict.fromkeys(hooks, ""))


def lose(arbiter: Arbiter, w: World, host: int) -> World:
    """This side sees its connection broken."""
    w = orphaned(w, host, ("resync", "unfence"))
    x = w.hosts[host]
    if x.release == FREE and not x.frozen and x.disk != DISKLESS:
        w = with_host(w, host, release="")  # it looks three times a second: it has seen them connected
    seen = x.peer_disk if x.peer_disk in OLD else UNKNOWN
    w = with_host(w, host, connection=WAITING, peer_disk=seen)
    # "Not fencing peer, I'm not even Consistent myself": it thaws at once, and each write is an error.
    if x.role == PRIMARY and x.disk in {UP, CONSISTENT} and seen == UNKNOWN and not x.frozen:
        return with_host(w, host, frozen=True, fence=x.fence or RUN)
    return disk_first(arbiter, w, host)


def disk_first(arbiter: Arbiter, w: World, host: int) -> World:
    """Who has no disk and no peer, and must not meet it so, is disconnected by the next look at it (R4)."""
    x = w.hosts[host]
    if arbiter.rules.disk_first and x.role != DOWN and arbiter.to_disconnect(w.it, side_of(x, host)):
        return stand_alone(w, host, BY_HAND)
    return w


def stand_alone(w: World, host: int, state: str = ALONE) -> World:
    """The connection is given up, and with it what was allowed for it alone: DRBD forgets its options."""
    return with_host(w, host, connection=state, two=False)


def connect(w: World, attaching: int | None = None) -> World:
    """Two sides meet, or one attaches its disk while they are connected."""
    a, b = w.hosts
    two = a.two and b.two
    if a.two != b.two or (a.role == b.role == PRIMARY and not two and attaching is None):
        return _both_alone(w)
    if DISKLESS in {a.disk, b.disk}:
        return _meet_diskless(w)
    source = _source(a, b)
    if source is not None and source < 0:
        return _both_alone(w)
    if source is not None and _stays_primary(w.hosts[1 - source]) and attaching != 1 - source:
        return _both_alone(w)
    for host in (0, 1):
        w = orphaned(w, host, ("fence", "release") if w.hosts[host].release != FREE else ("fence",))
        w = with_host(w, host, sleep="", frozen=False, promoting=False)
    if source is None:
        # Consistent and Outdated vanish, also of both: they are the same, and there is nobody else to be newer.
        for host in (0, 1):
            w = with_host(w, host, connection=CONNECTED, disk=UP, peer_disk=UP, crashed=False)
        return w
    target = 1 - source
    old = w.hosts[target].disk
    old = old if old in OLD else OUTDATED
    w = with_host(w, source, connection=ASKS_SOURCE, disk=UP, peer_disk=old, resync=RUN)
    return with_host(w, target, connection=ASKS_TARGET, disk=old, peer_disk=UP)


def _stays_primary(x: Host) -> bool:
    """It is told "I shall become SyncTarget, but I am primary!": one whose disk it may have read from."""
    return x.role == PRIMARY and x.disk not in OLD


def _meet_diskless(w: World) -> World:
    """At least one of them has no disk."""
    for host in (0, 1):
        # "Can only connect to data with current UUID" (8.4's source): what its VM has seen must be there.
        x = w.hosts[host]
        elsewhere = x.ahead or (w.hosts[1 - host].ahead and not x.beyond)
        if x.role == PRIMARY and x.disk == DISKLESS and elsewhere:
            return stand_alone(w, host)
    for host in (0, 1):
        x, peer = w.hosts[host], w.hosts[1 - host]
        w = orphaned(w, host, ("fence", "release") if x.release != FREE else ("fence",))
        # Also one that is Outdated (seen on 8.4: tests/contract/clauses/disks.txt).
        disk = UP if x.disk in {CONSISTENT, OUTDATED} else x.disk
        peer_disk = UP if peer.disk in {CONSISTENT, OUTDATED} else peer.disk
        w = with_host(
            w, host, connection=CONNECTED, disk=disk, peer_disk=peer_disk,
            sleep="", frozen=False, promoting=False,
        )  # fmt: skip
    return w


def _source(a: Host, b: Host) -> int | None:
    """Who overwrites whom when these meet; None: nobody; -1: neither may."""
    if (a.ahead and b.ahead) or (a.disk == b.disk == INCONSISTENT):
        return -1
    newer = [a.ahead or b.disk == INCONSISTENT, b.ahead or a.disk == INCONSISTENT]
    if all(newer):
        return -1
    if any(newer):
        return newer.index(True)
    if (a.crashed or b.crashed) and (source := _after_a_crash(a, b)) is not None:
        return source
    if (a.disk == OUTDATED) != (b.disk == OUTDATED):
        return 1 if a.disk == OUTDATED else 0
    return None


def _after_a_crash(a: Host, b: Host) -> int | None:
    """Of one generation: a Primary, which was frozen or is new, wins; else who crashed as one."""
    for host, x in enumerate((a, b)):
        if _stays_primary(x):
            return host
    if a.crashed == b.crashed:
        return None
    return 0 if a.crashed else 1


def _both_alone(w: World) -> World:
    """Both refuse each other."""
    return stand_alone(stand_alone(w, 0), 1)


def promote(arbiter: Arbiter, w: World, host: int) -> World | None:
    """`drbdadm primary`; None: refused at once. Else it is done, or waits for the handler."""
    x = w.hosts[host]
    if x.role != SECONDARY or x.promoting:
        return None
    if x.connection in TOGETHER and joined(w):
        peer = w.hosts[1 - host]
        if (peer.role == PRIMARY and not (x.two and peer.two)) or UP not in {x.disk, peer.disk}:
            return None
        return _beyond(with_host(w, host, role=PRIMARY), host)
    if x.connection in TOGETHER:
        w = lose(arbiter, w, host)
        x = w.hosts[host]
    if x.disk not in {UP, CONSISTENT}:
        return None
    if x.disk == UP and x.peer_disk in OLD:
        return with_host(w, host, role=PRIMARY, ahead=True)  # a grant that persists: nobody is asked
    return with_host(w, host, promoting=True, fence=RUN)


def disconnect(arbiter: Arbiter, w: World, host: int, state: str) -> World:
    """`drbdadm disconnect`: a Secondary of a Primary knows that it is Outdated from now on."""
    if not joined(w):
        w = lose(arbiter, w, host) if w.hosts[host].connection in TOGETHER else w
        return stand_alone(w, host, state)
    for one, other in ((0, 1), (1, 0)):
        if w.hosts[one].role == PRIMARY and w.hosts[other].role == SECONDARY:
            disk = w.hosts[other].disk
            disk = OUTDATED if disk in {UP, CONSISTENT} else disk
            w = with_host(w, other, disk=disk)
            w = with_host(w, one, peer_disk=disk if disk in OLD else OUTDATED)
    w = stand_alone(lose(arbiter, w, host), host, state)
    return lose(arbiter, w, 1 - host)


def may_disconnect(w: World) -> bool:
    """Not from the only current disk: "Need access to UpToDate data"."""
    return joined(w) and not any(x.role == PRIMARY and x.disk != UP for x in w.hosts)


def no_resync(arbiter: Arbiter, w: World, host: int) -> World:
    """before-resync-source has failed: both lose each other, and this side asks for no more."""
    w = orphaned(w, host, ("resync",))
    w = stand_alone(lose(arbiter, w, host), host)
    return lose(arbiter, w, 1 - host) if w.hosts[1 - host].connection in TOGETHER else w


def detach(arbiter: Arbiter, w: World, host: int) -> World:
    """The disk is gone: it has failed, or `drbdadm detach --force`."""
    x = w.hosts[host]
    w = with_host(w, host, disk=DISKLESS, kept=(x.disk, x.peer_disk in OLD))
    if not joined(w):
        return disk_first(arbiter, w, host)
    w = _beyond(w, host)
    if x.connection in {TARGET, ASKS_TARGET, SOURCE, ASKS_SOURCE}:
        w = orphaned(w, host, ("resync",))
        w = orphaned(w, 1 - host, ("resync",))
        w = with_host(w, host, connection=CONNECTED)
    return with_host(w, 1 - host, peer_disk=DISKLESS, connection=CONNECTED)


def _beyond(w: World, host: int) -> World:
    """A Primary without its disk: its peer begins a generation at once, of which it hears."""
    x, peer = w.hosts[host], w.hosts[1 - host]
    if x.role != PRIMARY or x.disk != DISKLESS or peer.disk != UP:
        return w
    return with_host(with_host(w, host, beyond=True), 1 - host, ahead=True)


def attach(w: World, host: int) -> World:
    """The disk comes back with what its metadata say; not under a Primary that has seen newer data."""
    x = w.hosts[host]
    if x.role == PRIMARY and x.beyond and not joined(w):
        return with_host(w, host, attach="")  # "Can only attach to data with current UUID"
    w = with_host(w, host, beyond=False)
    x = w.hosts[host]
    own, peer_is_old = x.kept
    disk = CONSISTENT if own == UP else own
    if disk == CONSISTENT and peer_is_old:
        disk = UP
    w = with_host(w, host, disk=disk, kept=(UP, False), attach="")
    if x.role == DOWN:
        peer_disk = OUTDATED if peer_is_old else UNKNOWN
        return with_host(w, host, role=SECONDARY, connection=WAITING, peer_disk=peer_disk)
    if joined(w):
        return connect(w, attaching=host)
    return with_host(w, host, peer_disk=OUTDATED if peer_is_old else x.peer_disk)


def crash(w: World, host: int) -> World:
    """Only what is on its disk is left."""
    x = w.hosts[host]
    kept = x.kept if x.disk == DISKLESS or x.role == DOWN else (x.disk, x.peer_disk in OLD)
    crashed = x.crashed or (x.role == PRIMARY and x.disk != DISKLESS)
    w = orphaned(w, host, HOOKS)
    x = Host(
        on=False, reachable=x.reachable, role=DOWN, disk=DISKLESS, kept=kept, crashed=crashed,
        broken=x.broken or (x.role != DOWN and x.disk == DISKLESS),
        connection=ALONE, peer_disk=UNKNOWN, ahead=x.ahead, lacks=x.lacks,
    )  # fmt: skip
    return w._replace(hosts=(x, w.hosts[1]) if host == 0 else (w.hosts[0], x))
