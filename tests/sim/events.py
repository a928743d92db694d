"""What disturbs, which counts against the bound; and what is mended, which is free."""

from collections.abc import Iterator

from tests.sim import drbd, guards, plans
from tests.sim.arbiter import Arbiter
from tests.sim.plans import MOVED, STARTED
from tests.sim.world import (
    AGAIN,
    BY_HAND,
    DISKLESS,
    FREE,
    HOOKS,
    PRIMARY,
    RUN,
    SECONDARY,
    TOGETHER,
    WAITING,
    Move,
    Plan,
    World,
    answers,
    is_up,
    joined,
    mirrored,
    with_host,
)

MENDS = frozenset(
    {
        "the replication link is back",
        "{h} boots",
        "{h} wakes",
        "the management link of {h} is back",
        "the disk of {h} is back",
        "a person has mended and attaches the disk of {h}",
        "a person connects {h}",
    }
)


def host_mends(w: World, host: int) -> Iterator[Move]:
    """What of a host is mended, or given back by a person."""
    x = w.hosts[host]
    if not x.on:
        yield "{h} boots", host, with_host(w, host, on=True, attach=RUN)
    elif x.sleep == "frozen":
        yield "{h} wakes", host, _met_awake(with_host(w, host, sleep="woke" if _has_lost(w, host) else ""))
    if not x.reachable:
        yield "the management link of {h} is back", host, with_host(w, host, reachable=True)
    if x.broken:
        yield "the disk of {h} is back", host, with_host(w, host, broken=False)
    if is_up(x) and x.disk == DISKLESS and not x.broken and not x.attach and x.release != FREE:
        yield "a person has mended and attaches the disk of {h}", host, with_host(w, host, attach=RUN)
    if is_up(x) and x.connection == BY_HAND and x.disk != DISKLESS:
        yield "a person connects {h}", host, with_host(w, host, connection=WAITING)


def link_mends(w: World) -> Iterator[Move]:
    """The cable is put back."""
    if not w.cable:
        yield "the replication link is back", 0, _met_awake(w._replace(cable=True))


def _has_lost(w: World, host: int) -> bool:
    """Its VM hangs, or will once it notices what it has slept through."""
    x = w.hosts[host]
    return x.vm and (x.frozen or x.connection in TOGETHER)


def _met_awake(w: World) -> World:
    """Nothing has been lost where both are still connected."""
    for host in (0, 1):
        if w.hosts[host].sleep == "woke" and joined(w):
            w = with_host(w, host, sleep="")
    return w


def disturbances(arbiter: Arbiter, w: World) -> Iterator[Move]:
    """Cables, hosts, disks, questions, persons and the actuator itself."""
    if w.cable:
        yield "the replication link is cut", 0, w._replace(cable=False)
    for host in (0, 1):
        x = w.hosts[host]
        if x.on:
            yield "{h} crashes", host, drbd.crash(w, host)
        if x.on and not x.sleep:
            yield "{h} stands still", host, with_host(w, host, sleep="frozen")
        if x.reachable:
            yield "the management link of {h} is cut", host, with_host(w, host, reachable=False)
            if w.cable:
                yield (
                    "{h} is cut off from everything",
                    host,
                    with_host(w, host, reachable=False)._replace(cable=False),
                )
        if is_up(x):
            yield from _on_a_host(arbiter, w, host)
        for hook in HOOKS:
            state = getattr(x, hook)
            if isinstance(state, tuple) and state[0] == "a":
                yield (
                    f"the answer to {hook} is lost on its way to {{h}}",
                    host,
                    with_host(w, host, **{hook: AGAIN}),
                )
            if isinstance(state, tuple) and state[:2] == ("q", True) and w.ghost is None:
                yield (
                    f"the {hook} question of {{h}} is late, and asked anew",
                    host,
                    with_host(
                        w._replace(ghost=(host, hook, True, state[1], state[2:])), host, **{hook: AGAIN}
                    ),
                )
    if w.plan is None and w.hosts[0].vm and guards.may_move(arbiter, w):
        yield "a person moves the VM to {h}", 1, plans.open_plan(arbiter, w, Plan("cold", "shut down", 1))
        yield "a person moves the VM to {h} live", 1, plans.open_plan(arbiter, w, Plan("live", "allow", 1))
    if w.keeper is not None:
        yield "the actuator crashes", 0, _restarted(w)
    if w.plan is not None and w.plan.phase == "call":
        yield "the actuator crashes before its call", 0, _restarted(w)
        for text, host, after in plans.effect(arbiter.silent, w, w.plan, w.plan.target):
            if after.hosts != w.hosts and not after.fault and answers(w.hosts[w.plan.target]):
                # The effect is there, and nothing of it is written down.
                back = (text == STARTED and host) or text == MOVED
                hosts = (mirrored(after) if back else after)._replace(plan=w.plan, it=w.it)
                yield f"{text}; the actuator crashes before it has written that", host, _restarted(hosts)
    elif w.plan is not None and w.plan.phase == "calling":
        yield "the actuator crashes during its call", 0, _restarted(w)


def _on_a_host(arbiter: Arbiter, w: World, host: int) -> Iterator[Move]:
    """A disk, and a person who types: where DRBD is up."""
    x = w.hosts[host]
    if x.disk != DISKLESS:
        yield "the disk of {h} fails", host, drbd.detach(arbiter, w, host)
    if drbd.may_disconnect(w):
        yield "a person disconnects {h}", host, drbd.disconnect(arbiter, w, host, BY_HAND)
    if (after := drbd.promote(arbiter, w, host)) is not None:
        yield "a person types `drbdadm primary` on {h}", host, after
    if x.role == PRIMARY and not x.vm and not x.frozen:
        yield (
            "a person types `drbdadm secondary` on {h}",
            host,
            drbd.disk_first(arbiter, with_host(w, host, role=SECONDARY), host),
        )


def _restarted(w: World) -> World:
    """The actuator, anew: what it had seen is forgotten, what it had written stands."""
    plan = w.plan and w.plan._replace(phase="intent")
    return w._replace(keeper=None, plan=plan)
