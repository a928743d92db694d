"""The plans for the VM: what is decided, and each step of it: intent, a fresh look, the call."""

from collections.abc import Iterator

from tests.sim import drbd, guards
from tests.sim.arbiter import Arbiter
from tests.sim.world import (
    DISKLESS,
    PRIMARY,
    SECONDARY,
    WAITING,
    Move,
    Plan,
    World,
    answers,
    end_vm,
    joined,
    mirrored,
    with_host,
    writes,
)

STARTED = "vmheal starts the VM on {h}"
MOVED = "the VM moves to {h}, live"
CHANGES_SIDES = frozenset({STARTED, MOVED})
"""After these the VM belongs to {h}."""

STEPS = {
    "failover": ("promote", "outlast", "start"),
    "restart": ("promote", "start"),
    "cold": ("shut down", "demote", "promote", "start"),
    "live": ("allow", "promote", "migrate", "demote", "forbid"),
}


def moves(arbiter: Arbiter, w: World) -> Iterator[Move]:
    """The next step of the open plan, or one that may be opened."""
    if w.plan is None:
        yield from _decisions(arbiter, w)
    elif w.plan.phase == "calling":
        x = w.hosts[w.plan.target]
        if not x.promoting:
            if x.role == PRIMARY and answers(x):
                yield (
                    "the promotion on {h} is done",
                    w.plan.target,
                    _next(arbiter, w._replace(plan=w.plan._replace(promoted=True))),
                )
            else:
                yield "the promotion on {h} has failed", w.plan.target, _fail(w)
    elif w.plan.phase == "call":
        yield from _call(arbiter, w)
    else:
        yield from _judge(arbiter, w)


def _decisions(arbiter: Arbiter, w: World) -> Iterator[Move]:
    """What is planned for the VM as things are."""
    home, other = w.hosts
    if not answers(home):
        for power in (False, True) if not home.on else (False,):
            if other.connection == WAITING and guards.may_take_over(arbiter, w, 1, power):
                yield (
                    "failover to {h} is planned" + (", {p} being off by proof" if power else ""),
                    1,
                    open_plan(arbiter, w, Plan("failover", "promote", 1, power=power)),
                )
        return
    if not home.vm:
        if guards.may_restart(arbiter, w, 0):
            step = "start" if home.role == PRIMARY else "promote"
            yield "a restart on {h} is planned", 0, open_plan(arbiter, w, Plan("restart", step, 0))
        elif guards.has_lost(arbiter, w) and guards.may_move(arbiter, w):
            yield "a move to {h} is planned", 1, open_plan(arbiter, w, Plan("cold", "demote", 1))
    elif home.disk == DISKLESS and guards.may_move(arbiter, w):
        yield (
            "a move to {h} is planned: the disk is lost",
            1,
            open_plan(arbiter, w, Plan("cold", "shut down", 1)),
        )


def open_plan(arbiter: Arbiter, w: World, plan: Plan) -> World:
    """With the intent of its first step."""
    return _claim(arbiter, w._replace(plan=plan))


def _claim(arbiter: Arbiter, w: World) -> World:
    """The intent of a promotion takes the authority, or raises the version; live it is that to demote."""
    plan = w.plan
    if plan is not None and plan.step == ("demote" if plan.verb == "live" else "promote"):
        after = arbiter.taken(w.it, plan.target, plan.power)
        return w if after is None else arbiter.write(w, after)
    return w


def _next(arbiter: Arbiter, w: World) -> World:
    """The step is done: the intent of the one after it, or the end of the plan."""
    plan = w.plan
    assert plan is not None
    steps = STEPS[plan.verb]
    at = steps.index(plan.step) + 1
    if at == len(steps):
        return w._replace(plan=None)
    step = steps[at]
    if step == "outlast" and plan.power:
        step = steps[at + 1]
    return _claim(arbiter, w._replace(plan=plan._replace(step=step, phase="intent")))


def _moved(arbiter: Arbiter, w: World, target: int) -> World:
    """The VM has been seen on its target, and belongs there from now on."""
    w = _next(arbiter, w)
    return mirrored(w) if target else w


def _fail(w: World) -> World:
    """What was begun is taken back: our promotion, and the window for two Primaries."""
    plan = w.plan
    assert plan is not None
    if plan.promoted and plan.step != "undo":
        return w._replace(plan=plan._replace(step="undo", phase="intent"))
    if plan.verb == "live" and plan.step != "close":
        return w._replace(plan=plan._replace(step="close", phase="intent"))
    return w._replace(plan=None)


def _judge(arbiter: Arbiter, w: World) -> Iterator[Move]:
    """A fresh look before a step: done already, to be called, to be waited for, or refused."""
    plan = w.plan
    assert plan is not None
    target = plan.target
    x, source = w.hosts[target], w.hosts[1 - target]
    held = not arbiter.why_not(w.it, target)
    go = w._replace(plan=plan._replace(phase="call"))
    moved = plan.verb == "failover"
    base = (
        guards.may_take_over(arbiter, w, target, plan.power)
        if moved
        else guards.may_restart(arbiter, w, target)
    )
    match plan.step:
        case "promote" if plan.verb == "live":
            fit = guards.may_move(arbiter, w, planned=False) and source.vm
        case "promote":
            fit = base and held
        case "outlast":
            if guards.has_let_go(arbiter, w, target):
                yield "nothing of the VM runs on {p} any more", target, _next(arbiter, w)
            yield "the plan waits no longer", target, _fail(w)
            return
        case "start" if x.vm:
            yield STARTED, target, mirrored(w._replace(plan=None)) if target else w._replace(plan=None)
            return
        case "start":
            let_go = not moved or plan.power or guards.has_let_go(arbiter, w, target)
            fit = base and held and x.role == PRIMARY and let_go
            if base and held and not let_go:
                yield "the plan waits no longer", target, _fail(w)
                return
        case "shut down":
            fit = guards.may_move(arbiter, w, planned=False)
        case "demote":
            fit = answers(source) and not source.vm
        case "allow":
            fit = guards.may_move(arbiter, w, planned=False) and source.vm
        case "migrate" if x.vm and not source.vm and answers(x) and answers(source):
            yield MOVED, target, _moved(arbiter, w, target)
            return
        case "migrate":
            fit = guards.may_move(arbiter, w, planned=False) and source.vm and x.role == PRIMARY
        case "undo":
            fit = answers(x) and not x.vm
        case _:
            fit = True
    if fit:
        yield f"the plan may {plan.step}", target, go
    else:
        yield f"the plan may not {plan.step}", target, _fail(w)


def _call(arbiter: Arbiter, w: World) -> Iterator[Move]:
    """The step that was judged is called, where its host answers."""
    plan = w.plan
    assert plan is not None
    target = plan.target
    at = 1 - target if plan.step in {"shut down", "demote", "allow"} else target
    if not answers(w.hosts[at]):
        yield f"the call to {plan.step} fails: {{h}} does not answer", at, _fail(w)
        return
    yield from effect(arbiter, w, plan, target)


def effect(arbiter: Arbiter, w: World, plan: Plan, target: int) -> Iterator[Move]:
    """What a call does, and the plan after it."""
    x, source = w.hosts[target], w.hosts[1 - target]
    match plan.step:
        case "promote":
            if x.role == PRIMARY:
                yield "{h} is Primary already", target, _next(arbiter, w)
            elif (after := drbd.promote(arbiter, w, target)) is None:
                yield "`drbdadm primary` on {h} is refused", target, _fail(w)
            elif after.hosts[target].promoting:
                yield (
                    "vmheal calls `drbdadm primary` on {h}",
                    target,
                    after._replace(plan=plan._replace(phase="calling")),
                )
            else:
                yield (
                    "vmheal promotes {h}",
                    target,
                    _next(arbiter, after._replace(plan=plan._replace(promoted=True))),
                )
        case "start":
            if x.role != PRIMARY:
                yield "the VM does not start on {h}", target, _fail(w)
                return
            w2 = with_host(w._replace(plan=None), target, vm=True)
            if source.vm and source.frozen and not source.sleep:
                w2 = w2._replace(fault="the VM is started although an awake host still has it")
            yield STARTED, target, mirrored(w2) if target else w2
        case "shut down":
            yield "vmheal shuts the VM down on {p}", target, _next(arbiter, end_vm(w, 1 - target))
        case "demote":
            if source.role == PRIMARY and not source.frozen and not source.vm:
                w = drbd.disk_first(arbiter, with_host(w, 1 - target, role=SECONDARY), 1 - target)
                yield "vmheal demotes {p}", target, _next(arbiter, w)
            elif source.role == PRIMARY:
                yield "`drbdadm secondary` on {p} is refused", target, _fail(w)
            else:
                yield "{p} is Secondary already", target, _next(arbiter, w)
        case "undo":
            if x.role == PRIMARY and not x.frozen and not x.vm:
                w = drbd.disk_first(arbiter, with_host(w, target, role=SECONDARY), target)
            yield "vmheal takes its promotion of {h} back", target, _fail(w)
        case "allow":
            w = with_host(w, 1 - target, two=True)
            w = with_host(w, target, two=True) if joined(w) else w
            yield "two Primaries are allowed", target, _next(arbiter, w)
        case "forbid" | "close":
            both = x.role == source.role == PRIMARY
            if joined(w) and not both:
                w = with_host(with_host(w, 0, two=False), 1, two=False)
            elif not joined(w):
                w = with_host(w, 1 - target, two=False) if answers(source) else w
            yield (
                "two Primaries are forbidden",
                target,
                _next(arbiter, w) if plan.step == "forbid" else _fail(w),
            )
        case "migrate":
            if joined(w) and source.vm and writes(w, 0) and writes(w, 1):
                w = with_host(with_host(w, 1 - target, vm=False, sleep=""), target, vm=True)
                yield MOVED, target, _moved(arbiter, w, target)
            else:
                yield "the migration fails", target, _fail(w)
