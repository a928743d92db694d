"""What the hooks of a host ask and do, and the release of one that has lost.

A hook is RUN or AGAIN (it asks who it is), v (it has the version), q (it has looked), a (it is answered).
The release asks as a hook does; then it is FREE to go on.
"""

from collections.abc import Iterator
from typing import Any

from actuator.core.arbiter import Verdict
from exporter import release
from exporter.release import Local, Step
from tests.sim import drbd
from tests.sim.arbiter import Arbiter
from tests.sim.world import (
    AGAIN,
    ALONE,
    BY_HAND,
    DISKLESS,
    DOWN,
    FREE,
    HOOKS,
    INCONSISTENT,
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
    end_vm,
    joined,
    with_host,
)


def moves(arbiter: Arbiter, w: World, host: int) -> Iterator[Move]:
    """The next step of each hook of a host; the VM is ended where the one of a frozen disk cannot ask (R7)."""
    x = w.hosts[host]
    if x.vm and x.frozen and x.fence and not x.reachable:
        yield "{h} is isolated and ends its frozen VM", host, end_vm(w, host)
    for hook in HOOKS:
        state = getattr(x, hook)
        if not state or state == FREE:
            continue
        if state in {RUN, AGAIN}:
            if x.reachable:
                begun = w
                if w.ghost and w.ghost[:2] == (host, hook) and state == RUN:
                    begun = w._replace(ghost=(host, hook, False, *w.ghost[3:]))
                if arbiter.began(w.it, host, hook, state == AGAIN):
                    begun = arbiter.write(begun, w.it)
                phase = ("q", True) if hook in {"attach", "resync"} else ("v", True)
                begun = with_host(begun, host, **{hook: phase}, sleep=_after_contact(w, x))
                yield f"{hook} hook on {{h}} reads the version", host, begun
            elif hook == "fence" and x.promoting:
                yield (
                    "`drbdadm primary` on {h} is refused: nobody answers",
                    host,
                    with_host(w, host, fence="", promoting=False),
                )
            elif hook == "unfence":
                yield "unfence hook on {h} reaches nobody", host, with_host(w, host, unfence="")
            elif hook == "resync":
                yield "resync hook on {h} reaches nobody: no resync", host, drbd.no_resync(arbiter, w, host)
        elif state[0] == "v":
            seen: tuple[Any, ...]
            if hook == "unfence":
                seen = (x.role, x.disk == UP, x.connection in TOGETHER, x.peer_disk == UP)
            else:
                seen = (x.role, x.disk == UP)
            yield f"{hook} hook on {{h}} looks", host, with_host(w, host, **{hook: ("q", state[1], *seen)})
        elif state[0] == "q":
            if x.reachable:
                yield _asked(arbiter, w, host, hook, state)
            else:
                yield (
                    f"{hook} question of {{h}} is not answered",
                    host,
                    with_host(w, host, **{hook: "" if hook == "unfence" else AGAIN}),
                )
        else:
            yield from _told(arbiter, w, host, hook, state[1])


def _after_contact(w: World, x: Host) -> str:
    """From now on a host is heard of that has woken: the plan waits anew, if it has not looked yet (R7)."""
    starts = w.plan is not None and (w.plan.step, w.plan.phase) == ("start", "call")
    return x.sleep if starts else ""


def _asked(arbiter: Arbiter, w: World, host: int, hook: str, state: Any) -> Move:
    """The question arrives, and is answered; nobody waits for the answer to unfence."""
    after, verdict = arbiter.answer(w.it, host, hook, True, state[1], state[2:])
    w = w if after is None else arbiter.write(w, after)
    w = with_host(w, host, **{hook: "" if hook == "unfence" else ("a", verdict)})
    return f"{hook} of {{h}}: {verdict}", host, w


def _told(arbiter: Arbiter, w: World, host: int, hook: str, verdict: str) -> Iterator[Move]:
    """The answer arrives, and the hook does as it is told."""
    x = w.hosts[host]
    match hook:
        case "fence" if verdict == Verdict.GRANT.value:
            w2 = with_host(w, host, fence="", promoting=False, peer_disk=OUTDATED, frozen=False, sleep="")
            if x.promoting:
                w2 = with_host(w2, host, role=PRIMARY, disk=UP, ahead=True)
            yield "{h} is told that it may go on", host, w2
        case "fence" if verdict == Verdict.RELEASE.value:
            yield "{h} is told that it has lost", host, with_host(w, host, fence="", release=RUN)
        case "fence" if x.promoting:
            yield "`drbdadm primary` on {h} is refused", host, with_host(w, host, fence="", promoting=False)
            yield "{h} asks again", host, with_host(w, host, fence=AGAIN)
        case "fence":
            yield "{h} asks again", host, with_host(w, host, fence=AGAIN)
        case "release":
            then = FREE if verdict == "release" else "" if verdict == "grant" else AGAIN
            yield f"the release on {{h}} is told: {verdict}", host, with_host(w, host, release=then)
        case "resync" if verdict == Verdict.ALLOW.value and joined(w):
            w2 = with_host(w, host, resync="", connection=SOURCE, peer_disk=INCONSISTENT)
            w2 = with_host(w2, 1 - host, connection=TARGET, disk=INCONSISTENT)
            yield "the resync of {p} begins", host, w2
        case "resync" if verdict == Verdict.WAIT.value:
            # Within its eight seconds it is answered, or it reaches nobody.
            yield "{h} asks again", host, with_host(w, host, resync=AGAIN)
        case "resync":
            yield "{h} begins no resync", host, drbd.no_resync(arbiter, w, host)
        case "attach" if verdict == Verdict.ALLOW.value:
            yield from _may_attach(arbiter, w, host)
        case "attach":
            yield "{h} asks again", host, with_host(w, host, attach=RUN)


def _may_attach(arbiter: Arbiter, w: World, host: int) -> Iterator[Move]:
    """It is excluded now; is there a disk, and may it be attached here and now (R4)?"""
    x, peer = w.hosts[host], w.hosts[1 - host]
    if x.broken and x.role == DOWN and not arbiter.rules.disk_first:
        yield (
            "{h} comes up without its disk",
            host,
            with_host(w, host, role=SECONDARY, connection=WAITING, peer_disk=UNKNOWN, attach=""),
        )
    elif x.broken:
        yield "{h} cannot attach its disk", host, with_host(w, host, attach=RUN if x.role == DOWN else "")
    elif x.role != DOWN and x.connection in TOGETHER and not joined(w):
        return  # it negotiates with a peer that does not answer, until that wakes or is lost
    elif x.role == DOWN or not joined(w) or peer.disk != DISKLESS or not arbiter.rules.disk_first:
        yield "{h} attaches its disk", host, drbd.attach(w, host)
    else:
        yield "{h} does not attach: {p} has no disk", host, with_host(w, host, attach="")


def late(arbiter: Arbiter, w: World) -> Iterator[Move]:
    """A question arrives although nobody waits for its answer any more."""
    if w.ghost is None:
        return
    host, hook, latest, current, seen = w.ghost
    after, _ = arbiter.answer(w.it, host, hook, latest, current, seen)
    w = w._replace(ghost=None)
    yield f"a late {hook} question of {{h}} arrives", host, w if after is None else arbiter.write(w, after)


def releases(arbiter: Arbiter, w: World, host: int) -> Iterator[Move]:
    """What a host does that has lost, in the release's real order."""
    x = w.hosts[host]
    if x.release != FREE:
        return
    if x.vm:
        yield "the release on {h} ends the VM", host, end_vm(w, host)
    standalone = x.connection in {ALONE, BY_HAND}
    local = Local(x.role != DOWN, x.role, standalone, (x.disk,), x.frozen)
    step, may = release.next_step(local, unused=not x.vm)
    if release.goes_on(step, local):
        yield "the release on {h} stops: it goes on", host, with_host(w, host, release="")
        return
    if not may:
        return
    match step:
        case Step.DISCONNECT:
            w2 = drbd.disconnect(arbiter, w, host, ALONE)
        case Step.DETACH:
            w2 = drbd.detach(arbiter, w, host)
            if w.it.holder == host or not w.it.granted:
                w2 = w2._replace(fault="a host gives its copy up, although no other was granted (R5)")
        case Step.RESUME:
            w2 = with_host(w, host, frozen=False)
        case Step.DEMOTE:
            w2 = with_host(w, host, role=SECONDARY)
        case _:
            w2 = with_host(w, host, role=DOWN, release="", attach=RUN, fence="", promoting=False)
    yield f"the release on {{h}}: {step.name}", host, w2
