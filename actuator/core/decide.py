"""What to do about a domain: evidence, history, orders and limits give a plan, or the reason for none."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Literal

from actuator.core.guards.domain import is_down, runs_nowhere_else
from actuator.core.guards.memory import authority_may_be_taken, replica_was_current, voted
from actuator.core.guards.replicas import disk_is_up_to_date, disks_are_on_drbd, is_secondary_here
from actuator.core.guards.situation import COMING, RUNNING, Guard, Situation
from actuator.core.guards.verbs import AGAIN, FAILOVER, KNOWN, LIVE, MOVE, RESTART, check
from actuator.core.place import Choice, Leaving, Placement, past
from actuator.core.sight import Sight, not_blind
from actuator.model import (
    AllowTwo,
    Confirm,
    Decision,
    Define,
    Demote,
    Destroy,
    DomainRecord,
    DomainState,
    DomainView,
    Done,
    EscalationKind,
    ForbidTwo,
    Migrate,
    Nothing,
    Observed,
    Outlast,
    Plan,
    PlanRecord,
    PlanStatus,
    Postpone,
    PowerOff,
    Promote,
    Proof,
    Refusal,
    ShutDown,
    Start,
    Step,
)
from exporter.drbd import DiskState, Role


def proposal(plan: Plan) -> str:
    """A short name of exactly this plan, for a person to approve."""
    return sha256(repr((plan.verb, plan.source, plan.host, plan.steps)).encode()).hexdigest()[:10]


WINDOW_SECONDS = 10.0
"""Before a window for two Primaries that cannot be closed now is looked at again."""

TO_LIVE: tuple[Guard, ...] = (*LIVE, is_secondary_here)
TO_MOVE: tuple[Guard, ...] = (*MOVE, is_secondary_here)
TO_FAILOVER: tuple[Guard, ...] = (*FAILOVER, replica_was_current)
"""Asked of each possible target before such a plan is made."""

ATTEMPTS = "attempts_are_left"
"""The name of the refusal when the limit is used up."""
APPROVAL = "is_approved"
"""That of a plan that waits for a person's word."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How often, and how; see the sections ``restart``, ``move`` and ``failover`` of the configuration."""

    max_attempts: int
    """Within the window."""
    window_seconds: float
    """How far back attempts count."""
    backoff_seconds: float
    """Before the second attempt; doubled before each further one."""
    live: bool = True
    """A domain that runs is moved live where its driver can."""
    cold: bool = False
    """Where it cannot be, it is shut down and started on its target."""
    max_dark_hosts: int = 1
    """More dark hosts at once mean that it is we who see nothing."""
    watchdog_max_age_seconds: float = 120.0
    """So does monitoring that was not seen to work for longer."""
    settle_seconds: float = 120.0
    """After a plan, before a domain that runs may be called dead again."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for a domain, beyond that it should run."""

    verb: Literal["restart", "migrate"] = "restart"
    to: str = ""
    """The host that a person named; empty: any."""
    leave: bool = False
    """It is to leave its host also when it runs there well: a person's word, or the host is drained."""
    back: str = ""
    """The host that it goes back to if that is easily done."""
    dead: str = ""
    """The alert that fires now and says that it is dead although it runs."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """What is known of hosts beyond the look."""

    failed: Mapping[str, float] = field(default_factory=dict)
    """An alert asked for their failover, and they were not seen alive since; wall clock: since when."""
    dark: frozenset[str] = frozenset()
    """Nobody has heard of them for a while, on no way."""
    drained: frozenset[str] = frozenset()
    confirmed_down: frozenset[str] = frozenset()
    """By a named person."""
    fenceable: frozenset[str] = frozenset()
    """They have a fence agent, which has not just failed, and was not seen to look at another host."""
    quorum: bool = False
    """DRBD's quorum may be taken for a proof."""
    drbd_only: bool = False
    """DRBD's word alone is proof enough: the site has said so."""
    leaving: Leaving | None = None
    """The domain of the question, as it would leave its host."""
    placement: Placement = field(default_factory=Placement)
    """What room each has for further domains, and all that are to leave a failed or drained one."""


@dataclass(frozen=True, slots=True)
class Question:
    """All that a decision about one domain rests on. ``now`` is wall clock."""

    home: Situation
    """Of the host where the domain should run."""
    record: DomainRecord
    limits: Limits
    wish: Wish
    hosts: Hosts
    now: float
    sight: Sight | None = None
    """Of monitoring; None: not looked for yet."""


def decide(it: Question) -> Decision:
    """Decide about a domain that has no open plan.

    The order matters: a host that is dark is another question than one that answers; what is not known
    refuses first; a domain that runs needs nothing, whatever the history, but for a wish that it leaves; one
    that was given up stays so until it was seen running; then safety, limits and the plan.
    """
    if arrived := _arrived(it):
        return arrived
    if it.home.host in it.hosts.failed:
        return _failover(it)
    if refusal := check(KNOWN, it.home):
        return refusal
    view = it.home.view
    assert view is not None, "is_defined"
    return _running(it, view) if view.state in RUNNING else _down(it, view)


def given_up(record: DomainRecord) -> Refusal | None:
    """It was given up, and stays so until it was seen running."""
    standing = record.escalation
    if standing is None or standing.kind is not EscalationKind.GAVE_UP:
        return None
    return Refusal(ATTEMPTS, standing.sentence)


def _down(it: Question, view: DomainView) -> Decision:
    if refusal := given_up(it.record):
        return refusal
    if refusal := check((is_down,), it.home):
        return refusal
    suspect = it.wish.verb == "migrate" or it.record.suspects.get(it.home.host, 0.0) > it.now
    if suspect or it.home.host in it.hosts.drained:
        return _move(it, view, suspect=suspect)
    refusal = check(RESTART, it.home)
    if refusal is not None and refusal.guard in _ELSEWHERE:
        moved = _move(it, view, suspect=False)
        return moved if isinstance(moved, Plan) else refusal
    limited = refusal or _limited(it)
    if isinstance(limited, Refusal) and limited.guard == ATTEMPTS:
        moved = _move(it, view, suspect=True)
        return moved if isinstance(moved, Plan) else _both(limited, moved)
    return limited or _restart(it.home, view)


_ELSEWHERE = {
    authority_may_be_taken.__name__,
    disk_is_up_to_date.__name__,
    disks_are_on_drbd.__name__,
}
"""Where its own host cannot have it, another one may: the arbiter gave it the disks, or this disk is lost, or
its host has just given it up."""


def _running(it: Question, view: DomainView) -> Decision:
    home = it.home
    for disk in view.disks:
        if disk.attached is False:
            return Refusal(
                "has_its_disks",
                f"{view.name} runs on {home.host} without its disk {disk.target}:"
                f" 'virsh destroy {view.name}' there; vmheal then starts it anew",
            )
    if twice := _twice(it, view):
        return twice
    if left_open := _left_open(it):
        return left_open
    if it.wish.leave or home.host in it.hosts.drained:
        return _move(it, view, suspect=False)
    if lost := _lost_disk(home):
        moved = _move(it, view, suspect=False)
        return moved if not isinstance(moved, Refusal) else Refusal(moved.guard, f"{lost}; {moved.sentence}")
    return _dead(it, view) if it.wish.dead else _well(it, view)


def _twice(it: Question, view: DomainView) -> Refusal | Postpone | None:
    home = it.home
    twins = {host: twin for host in home.hosts if host != home.host and (twin := home.active_on(host))}
    here, there = f"{view.name} runs on {home.host}", ", ".join(twins)
    if not twins:
        return None
    if all(twin.state is DomainState.PAUSED and twin.reason == COMING for twin in twins.values()):
        why = f"{here}, and a live migration brings it to {there}, or did: it is looked at again by itself"
        return Postpone(it.now + WINDOW_SECONDS, why)
    sentence = f"{here}, and also on {there}: end one of them at once"
    return Refusal(runs_nowhere_else.__name__, sentence)


def _well(it: Question, view: DomainView) -> Plan | Nothing:
    """Nothing is wrong with it. That it cannot go back is no reason to warn a person."""
    sentence = f"{view.name} is {view.state} on {it.home.host}"
    if not it.wish.back:
        return Nothing(sentence)
    moved = _move(replace(it, wish=Wish("migrate", it.wish.back)), view, suspect=False)
    if isinstance(moved, Plan):
        return replace(moved, reason=f"{it.wish.back} is well again; {moved.reason}")
    return Nothing(f"{sentence}, and does not go back to {it.wish.back} now: {moved.sentence}")


def _dead(it: Question, view: DomainView) -> Decision:
    """Start anew, then move, what runs and does not do its work."""
    domain, last = it.home.domain, it.record.plan
    if refusal := given_up(it.record):
        return refusal
    if last is not None and last.status is PlanStatus.SUCCEEDED and last.finished_at is not None:
        until = min(last.finished_at, it.now) + it.limits.settle_seconds
        if it.now < until:
            return Postpone(until, f"{domain} has restart.settle_seconds to come up before it is called dead")
    limited = _limited(it)
    if isinstance(limited, Refusal):
        moved = _move_down(it, view, suspect=True)
        return moved if isinstance(moved, Plan) else _both(limited, moved)
    again = (ShutDown(it.home.host, domain, _id(view)), *restart_steps(it.home, replace(view, id=None)))
    return (
        check(AGAIN, it.home)
        or limited
        or Plan(
            verb="restart",
            domain=domain,
            host=it.home.host,
            reason=f"{domain} is {view.state} on {it.home.host}, and dead by the word of {it.wish.dead}",
            steps=again,
        )
    )


def _id(view: DomainView) -> int:
    assert view.id is not None, "it runs"
    return view.id


def _lost_disk(home: Situation) -> str | None:
    """A disk below DRBD that is gone, while the domain goes on over the network; not one that never was."""
    for resource in home.resources:
        for device in resource.devices:
            if device.disk_state in {DiskState.DISKLESS, DiskState.FAILED} and not device.client:
                return (
                    f"{resource.name}/{device.volume} on {home.host} has lost its disk: {device.disk_state}"
                )
    return None


def _left_open(it: Question) -> Decision | None:
    """Close the windows that a live migration of ours left open, as while nobody knew where the domain was.

    Only ours: what a person made Primary is left to that person. What did not succeed is tried again, but
    not all the time.
    """
    last, home = it.record.plan, it.home
    if last is None or last.status is not PlanStatus.FAILED or not (names := _may_be_open(last)):
        return None
    took = (entry.step for entry in last.steps if isinstance(entry.step, Promote | Demote | ForbidTwo))
    there = next(step.host for step in took if step.host != home.host)
    why = f"{home.domain} runs on {home.host}, and its disks may still be Primary on {there} too"
    if there in it.hosts.failed:
        return Postpone(it.now + WINDOW_SECONDS, f"{why}, which is lost: that is ended when it is back")
    limited = None if any(isinstance(entry.step, AllowTwo) for entry in last.steps) else _limited(it)
    if isinstance(limited, Refusal):
        return Refusal(
            "windows_are_closed",
            f"{why}, which could not be ended: 'drbdadm secondary {' '.join(names)}' on {there}, then"
            f" 'drbdadm adjust {' '.join(names)}' on {home.host}",
        )
    return limited or Plan(
        verb="migrate",
        domain=home.domain,
        host=home.host,
        reason=why,
        steps=(
            *(Demote(there, name) for name in names),
            *(ForbidTwo(home.host, name) for name in names),
        ),
    )


def _arrived(it: Question) -> Plan | None:
    """What is left to do of a live move of ours, when the domain has come to its target after all.

    As when its answer was given up, because its source stood still for a while.
    """
    last, home = it.record.plan, it.home
    step = _failed_move(last)
    there = home.active_on(step.host) if step is not None and step.source == home.host else None
    if last is None or step is None or there is None or there.state not in RUNNING:
        return None
    if home.active_on(home.host):
        return None
    if not isinstance(home.evidence.domains.get(home.host), Observed) and home.host not in it.hosts.failed:
        return None  # its source may have it still
    return Plan(
        verb="migrate",
        domain=home.domain,
        host=step.host,
        reason=f"{home.domain} has come to {step.host} after all",
        steps=last.plan.steps[last.plan.steps.index(step) :],
        source=home.host,
    )


def _failed_move(plan: PlanRecord | None) -> Migrate | None:
    """The live move of a plan that has failed."""
    if plan is None or plan.status is not PlanStatus.FAILED:
        return None
    return next((step for step in plan.plan.steps if isinstance(step, Migrate)), None)


def _left_primary(it: Question) -> Decision | None:
    """Give up what a live move of ours made Primary on its target, when its source was lost meanwhile.

    DRBD froze it there as it lost its peer, and it is promoted anew like any other replica. A move that comes
    after all finds a device that it cannot open, and ends.
    """
    last, home = it.record.plan, it.home
    step = _failed_move(last)
    if last is None or step is None:
        return None
    there = step.host
    storage, domains = home.evidence.storage.get(there), home.evidence.domains.get(there)
    if not isinstance(storage, Observed) or not isinstance(domains, Observed) or home.active_on(there):
        return None
    found = (storage.value.resource(name) for name in _may_be_open(last))
    names = [resource.name for resource in found if resource and resource.role is Role.PRIMARY]
    return (_limited(it) if it.record.last_was_failover else None) or (
        Plan(
            verb="failover",
            domain=home.domain,
            host=there,
            reason=f"{home.host} is dead, and {home.domain} has not come to {there}, which is Primary for it",
            steps=tuple(kind(there, name) for kind in (Demote, ForbidTwo) for name in names),
            source=home.host,
        )
        if names
        else None
    )


def _may_be_open(plan: PlanRecord) -> tuple[str, ...]:
    """The resources whose window was opened, and closing it, when last tried, did not succeed."""
    opened = {entry.step.resource: entry for entry in plan.steps if isinstance(entry.step, AllowTwo)}
    # Of a plan that opened none, because it was to close them, all that it should have closed.
    closed = {entry.step.resource: entry.outcome for entry in plan.steps if isinstance(entry.step, ForbidTwo)}
    names = [name for name, entry in opened.items() if entry.intended_at is not None] if opened else closed
    return tuple(name for name in names if not isinstance(closed.get(name), Done))


def _limited(it: Question) -> Refusal | Postpone | None:
    record, limits, now = it.record, it.limits, it.now
    # An attempt in the future means that the wall clock went back. It counts, but how long ago it was nobody
    # knows: to wait for the clock to come to it again could take hours.
    recent = [at for at in record.attempts_at if now - at < limits.window_seconds]
    if len(recent) >= limits.max_attempts:
        dead = record.host in it.hosts.failed
        what = f"to fail {record.domain} over from" if dead else f"to have {record.domain} run on"
        return Refusal(
            ATTEMPTS,
            f"{len(recent)} attempts {what} {record.host} in {limits.window_seconds:g} s did not"
            f" hold{_last_failure(record)}: find out why and start it by hand; until it was seen running"
            " vmheal does not restart it any more",
        )
    if recent and recent[-1] <= now:
        wait = limits.backoff_seconds * 2 ** (len(recent) - 1)
        until = recent[-1] + wait
        if now < until:
            return Postpone(until, f"{record.domain}: attempt {len(recent) + 1} is made after {wait:g} s")
    return None


def _both(limited: Refusal, moved: Decision) -> Refusal:
    why = moved.sentence if isinstance(moved, Refusal | Postpone) else "it has nowhere to go"
    return Refusal(limited.guard, f"{limited.sentence}; nor can it move: {why}")


def _last_failure(record: DomainRecord) -> str:
    failed = record.plan is not None and record.plan.status is PlanStatus.FAILED
    return f" (the last: {record.plan.sentence})" if failed and record.plan else ""


# ---- restart ----------------------------------------------------------------------------------------------


def _restart(situation: Situation, view: DomainView) -> Plan:
    return Plan(
        verb="restart",
        domain=situation.domain,
        host=situation.host,
        reason=f"{view.name} is {view.state} on {situation.host} (reason: {view.reason})",
        steps=tuple(restart_steps(situation, view)),
    )


def restart_steps(situation: Situation, view: DomainView) -> Iterator[Step]:
    """What a restart does."""
    if view.id is not None:
        yield Destroy(situation.host, situation.domain, view.id)
    for resource in situation.resources:
        if resource.role is not Role.PRIMARY:
            yield Promote(situation.host, resource.name)
    yield Start(situation.host, situation.domain)
    yield Confirm(situation.host, situation.domain)


# ---- to another host ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a domain goes."""

    there: Situation
    chosen: str
    """Why to this host."""
    beside: str
    """For the plan's reason: from whom it could not be kept apart."""
    rejected: Mapping[str, str]
    """By host: why not to that one."""


def _target(
    it: Question, guards: tuple[Guard, ...], verb: str, *, down: bool, proof: Proof | None = None
) -> _Target | Refusal:
    """The best of the hosts that may have the domain, among all that leave theirs at the same time."""
    domain, own = it.record.domain, it.home.host
    fit: dict[str, Situation] = {}
    rejected: dict[str, Refusal] = {}
    for host in it.home.hosts:
        if host == own:
            continue
        refusal = against(it, host, guards, proof)
        if refusal is None:
            fit[host] = there_of(it.home, host, proof)
        else:
            rejected[host] = refusal
    choice = _choice(it, fit, down=down)
    rejected |= choice.rejected
    if not choice.host:
        return _nowhere(domain, verb, {host: rejected[host] for host in it.home.hosts if host in rejected})
    beside = f"; no other host keeps it apart from {', '.join(choice.beside)}" if choice.beside else ""
    sentences = {host: refusal.sentence for host, refusal in rejected.items()}
    return _Target(fit[choice.host], choice.reason, beside, sentences)


def there_of(home: Situation, host: str, proof: Proof | None = None) -> Situation:
    """The situation as that of a host to which the domain leaves its own."""
    return replace(home, host=host, source=home.host, proof=proof)


def against(it: Question, host: str, guards: tuple[Guard, ...], proof: Proof | None = None) -> Refusal | None:
    """What stands against that the domain leaves its host for this one, but for room."""
    return _unwanted(it, host) or check(guards, there_of(it.home, host, proof))


def _choice(it: Question, fit: Iterable[str], *, down: bool) -> Choice:
    known = it.hosts.leaving or Leaving(it.record.domain)
    hosts = {host: past(it.record, host, now=it.now) for host in fit}
    return it.hosts.placement.choose(replace(known, hosts=hosts, down=down))


def _unwanted(it: Question, host: str) -> Refusal | None:
    domain, wish = it.record.domain, it.wish
    if wish.to and host != wish.to:
        return Refusal("is_asked_for", f"{domain} is to go to {wish.to}, not to {host}")
    if host in it.hosts.drained:
        return Refusal(
            "not_drained",
            f"{domain} does not go to {host}, which is drained: 'vmheal-actuator undrain {host}' when it may"
            " be used again",
        )
    if host in it.hosts.failed:
        return Refusal("not_failed", f"{domain} does not go to {host}, which has failed too")
    until = it.record.suspects.get(host, 0.0)
    if until > it.now and not wish.to and it.home.host not in it.hosts.failed:
        return Refusal(
            "not_suspect",
            f"{domain} failed on {host} again and again, and is not sent back there for another"
            f" {until - it.now:.0f} s; 'vmheal-actuator migrate {domain} --to {host}' does it at once",
        )
    return None


def _nowhere(domain: str, verb: str, rejected: Mapping[str, Refusal]) -> Refusal:
    """Say why a domain goes nowhere; the guard is that of the last host that was asked."""
    if not rejected:
        return Refusal("has_a_target", f"{domain} has no other host with its disks: it cannot be {verb}")
    *_, last = rejected.values()
    if len(rejected) == 1:
        return last
    return Refusal(last.guard, "; ".join(f"{host}: {it.sentence}" for host, it in rejected.items()))


def _move(it: Question, view: DomainView, *, suspect: bool) -> Decision:
    """Move in order from a host that answers: live when it runs well, else down, and up on the target."""
    home, runs = it.home, view.state in RUNNING
    if postpone := _limited_move(it):
        return postpone
    if runs and it.limits.live and not home.xen:
        target = _target(it, TO_LIVE, "moved", down=False)
        if isinstance(target, _Target):
            return _live(target, view)
        if not it.limits.cold:
            return target
    elif runs and not it.limits.cold:
        return Refusal(
            "may_be_shut_down",
            f"{home.domain} runs on {home.host} and cannot be moved live: move.cold allows to shut it down"
            " for that, or shut it down yourself",
        )
    return _move_down(it, view, suspect=suspect)


def _move_down(it: Question, view: DomainView, *, suspect: bool) -> Decision:
    runs = view.state in RUNNING
    target = _target(it, TO_MOVE, "moved", down=not runs)
    return _cold(target, view, suspect=suspect) if isinstance(target, _Target) else target


def _limited_move(it: Question) -> Refusal | Postpone | None:
    """A move that failed is not tried again at once, nor without end."""
    recent = [at for at in it.record.attempts_at if it.now - at < it.limits.window_seconds]
    if len(recent) >= 2 * it.limits.max_attempts:
        return Refusal(ATTEMPTS, f"{len(recent)} attempts for {it.record.domain}{_last_failure(it.record)}")
    last = it.record.plan
    if (
        last is None
        or last.status is not PlanStatus.FAILED
        or not last.plan.source
        or last.finished_at is None
        or last.finished_at > it.now  # the wall clock went back
    ):
        return None
    until = last.finished_at + it.limits.backoff_seconds
    sentence = f"{it.record.domain}: the last move failed; the next one is tried later"
    return Postpone(until, sentence) if it.now < until else None


def _definition(target: Situation) -> tuple[Step, ...]:
    """What it last ran well from counts: it is not started from a definition that differs."""
    drifted = target.host in target.drifted
    if target.view is not None and not drifted:
        return ()
    return (Define(target.host, target.domain, anew=drifted),)


def _cold(found: _Target, view: DomainView, *, suspect: bool) -> Plan:
    target = found.there
    source, domain = target.source, target.domain
    why = ", and failed there again and again" if suspect else ""
    return Plan(
        verb="migrate",
        domain=domain,
        host=target.host,
        reason=f"{domain} is {view.state} on {source} (reason: {view.reason}){why}:"
        f" it moves to {target.host}{found.beside}",
        steps=tuple(cold_steps(target, view)),
        source=source,
        chosen=found.chosen,
        rejected=found.rejected,
        suspect=suspect,
    )


def cold_steps(target: Situation, view: DomainView) -> Iterator[Step]:
    """What a move does of a domain that is down, or is to be; ``view``: as it is on its source."""
    source, domain = target.source, target.domain
    yield from _definition(target)
    if view.id is not None:
        yield (ShutDown if view.state in RUNNING else Destroy)(source, domain, view.id)
    names = [resource.name for resource in target.resources]
    yield from (Demote(source, name) for name in names)
    yield from (Promote(target.host, name) for name in names)
    yield Start(target.host, domain)
    yield Confirm(target.host, domain)


def _live(found: _Target, view: DomainView) -> Plan:
    target = found.there
    source, domain = target.source, target.domain
    return Plan(
        verb="migrate",
        domain=domain,
        host=target.host,
        reason=f"{domain} runs on {source} and is to leave it: it moves to {target.host}, live",
        steps=tuple(live_steps(target, view)),
        source=source,
        chosen=found.chosen,
        rejected=found.rejected,
    )


def live_steps(target: Situation, view: DomainView) -> Iterator[Step]:
    """What a live move does; ``view``: the domain as it runs on its source."""
    source, domain = target.source, target.domain
    names = [resource.name for resource in target.resources]
    yield from _definition(target)
    yield from (AllowTwo(source, name) for name in names)
    yield from (Promote(target.host, name) for name in names)
    yield Migrate(target.host, source, domain, _id(view))
    yield from (Demote(source, name) for name in names)
    yield from (ForbidTwo(source, name) for name in names)
    yield Confirm(target.host, domain)


def is_seen(it: Question) -> Refusal | None:
    """Who sees nothing takes every host for dead."""
    home, allowed = it.home, it.limits.max_dark_hosts
    dark = it.hosts.dark | it.hosts.failed.keys()  # an alert may be faster than silence
    if len(dark) > allowed:
        return Refusal(
            "no_storm",
            f"{len(dark)} hosts are dark at once ({', '.join(sorted(dark))}), more than"
            f" failover.max_dark_hosts ({allowed}): perhaps it is vmheal that sees nothing; {home.domain} is"
            " not failed over before some of them are seen again",
        )
    if why := not_blind(it.sight, home.now, it.limits.watchdog_max_age_seconds):
        return Refusal(not_blind.__name__, f"{why}; {home.domain} is not failed over before that")
    return None


def _failover(it: Question) -> Decision:
    """Bring a dead host's domain up where its disks are."""
    if refusal := is_seen(it):
        return refusal
    if left := _left_primary(it):
        return left
    home = it.home
    proof = proof_of(home, it.hosts)
    found = _target(it, TO_FAILOVER, "failed over", down=True, proof=proof)
    if isinstance(found, Refusal):
        return found
    target = found.there
    # Earlier plans were tried on the host that is dead now: that they failed says nothing of another one.
    return (_limited(it) if it.record.last_was_failover else None) or Plan(
        verb="failover",
        domain=home.domain,
        host=target.host,
        reason=f"{home.host} is dead: {home.domain} comes up on {target.host}{found.beside}",
        steps=tuple(failover_steps(target)),
        source=home.host,
        proof=proof,
        chosen=found.chosen,
        rejected=found.rejected,
    )


def failover_steps(it: Situation) -> Iterator[Step]:
    """What a failover to the situation's host does."""
    yield from _definition(it)
    if it.proof is Proof.POWER:
        yield PowerOff(it.source)
    for resource in it.resources:
        yield Promote(it.host, resource.name)
    if it.proof not in {Proof.POWER, Proof.OPERATOR}:
        yield Outlast(it.source, it.domain)
    yield Start(it.host, it.domain)
    yield Confirm(it.host, it.domain)


def proof_of(home: Situation, hosts: Hosts) -> Proof | None:
    """The strongest proof that can be had that the host does not write any more."""
    if home.host in hosts.confirmed_down:
        return Proof.OPERATOR
    if home.host in hosts.fenceable:
        return Proof.POWER
    if hosts.quorum and voted(home):
        return Proof.QUORUM
    if home.arbitrated:
        return Proof.ARBITRATED
    return Proof.DRBD_ONLY if hosts.drbd_only else None
