"""What keeps the promise, each part taken out: a simulator that does not notice proves nothing."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from actuator import arbitrate, execute, keep
from actuator.core import arbiter, decide, progress
from actuator.core.arbiter import Answer, Verdict
from actuator.core.guards import memory, verbs
from actuator.model import Promote, Proof
from exporter import release
from exporter.drbd import Role

Patches = list[tuple[Any, str, Any]]

_fence_peer, _stale, _taken, _why_not = (
    arbiter.fence_peer,
    arbiter._stale,
    arbiter.taken,
    arbiter.why_not,
)
_check, _next_step, _end_users = verbs.check, release.next_step, release.end_users


def _allowed(it: Any, _ask: Any, *_: Any) -> Any:
    return it, Answer(Verdict.ALLOW, "nobody is excluded")


def _without(*names: str) -> Callable[..., Any]:
    def check(guards: tuple[Any, ...], situation: Any) -> Any:
        return _check(tuple(guard for guard in guards if guard.__name__ not in names), situation)

    return check


def _guards(*names: str) -> Patches:
    return [(module, "check", _without(*names)) for module in (decide, progress)]


def _taken_by_anybody(it: Any, target: str, proof: Proof | None) -> Any:
    return _taken(replace(it, admitted=it.admitted | {target}), target, proof)


def _granted_may_be_taken(it: Any, target: str, proof: Proof | None) -> Any:
    return _taken(replace(it, granted=False), target, proof)


def _taken_everywhere(function: Callable[..., Any]) -> Patches:
    return [(module, "taken", function) for module in (arbiter, execute, memory)]


def _holder_alone(it: Any, host: str) -> str | None:
    return None if it.holder == host else _why_not(it, host)


def _grants_any_disk(it: Any, ask: Any) -> Any:
    return _fence_peer(it, replace(ask, up_to_date=True))


def _grants_whoever_asks(it: Any, ask: Any) -> Any:
    return it, Answer(Verdict.GRANT, "whoever asks")


def _grants_without_excluding(it: Any, ask: Any) -> Any:
    after, answer = _fence_peer(it, ask)
    granted = answer.verdict is Verdict.GRANT and after is not it
    return (replace(after, admitted=it.admitted, newest=False) if granted else after), answer


def _releases_at_once(it: Any, ask: Any) -> Any:
    after, answer = _fence_peer(it, ask)
    denied = answer.verdict is Verdict.WAIT and ask.host != it.holder and ask.role is Role.PRIMARY
    return after, (Answer(Verdict.RELEASE, "another host has it") if denied else answer)


GUARDS = sorted(
    {
        guard.__name__
        for guards in (*verbs._GUARDS.values(), verbs._LIVE, verbs._RESTART_RUNNING)
        for guard in (*guards.begin, *guards.promote, *guards.start)
    }
)

TEETH: Mapping[str, Patches] = {
    "R2: any version will do": [
        (arbiter, "_stale", lambda it, ask: _stale(it, replace(ask, version=it.version)))
    ],
    "R3: whoever asks is granted": [(arbitrate, "fence_peer", _grants_whoever_asks)],
    "R3: any disk is granted": [(arbitrate, "fence_peer", _grants_any_disk)],
    "R3: an excluded replica is taken": [
        *_taken_everywhere(_taken_by_anybody),
        (arbiter, "why_not", _holder_alone),
        (memory, "why_not", _holder_alone),
    ],
    "R5: released before another is granted": [(arbitrate, "fence_peer", _releases_at_once)],
    "R6: an attach excludes nobody": [(arbitrate, "before_attach", _allowed)],
    "R7: a lost host is not waited for": [
        (progress, "source_has_let_go", lambda it: None),
        *_guards("source_has_let_go"),
    ],
    "R7: an isolated host keeps its VM": [(release.Isolation, "_is_to_end", lambda self, config: False)],
    "R8: a grant excludes nobody": [(arbitrate, "fence_peer", _grants_without_excluding)],
    "R8: a resync excludes nobody": [(arbitrate, "before_resync", _allowed)],
    "R8: what was granted alone is taken": _taken_everywhere(_granted_may_be_taken),
    "a plan takes no authority": [(execute, "claims", lambda plan, written: ())],
    "the keeper sees nothing": [(keep.Keeper, "turn", lambda self: None)],
    "the keeper does not exclude": [(keep, "looked_at", lambda it, sides: it)],
    "a step is not judged again": [
        (
            progress,
            "_judge_promote",
            lambda step, it, guards: progress.Perform() if isinstance(step, Promote) else None,
        )
    ],
    "a start is not judged again": [(progress, "_judge_start", lambda it, guards: progress.Perform())],
    "the release does not end the VM first": [
        (release, "next_step", lambda local, *, unused: _next_step(local, unused=True))
    ],
    "the release ends no VM": [(release, "end_users", lambda *_: True)],
    **{f"guard {name}": _guards(name) for name in GUARDS if name != "source_has_let_go"},
}


@contextmanager
def taken_out(name: str) -> Iterator[None]:
    """The product without that, as long as this lasts."""
    with ExitStack() as stack:
        for target, attribute, replacement in TEETH[name]:
            stack.enter_context(mock.patch.object(target, attribute, replacement))
        yield
