"""The arbiter's rules, each taken out: by a wrapper around a real function, or a host that does not keep to it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from unittest.mock import patch

from actuator.core import arbiter
from actuator.core.arbiter import Answer, Verdict
from tests.sim.arbiter import Rules
from tests.sim.model import Model

Patches = dict[str, Callable]

_real = {name: getattr(arbiter, name) for name in (
    "fence_peer", "why_not", "before_attach", "before_resync", "let_go", "met", "_stale", "taken",
)}  # fmt: skip


def _ignores_the_version(it, ask):
    return _real["_stale"](it, replace(ask, version=it.version))


def _ignores_the_run(it, ask):
    return _real["_stale"](replace(it, runs={**it.runs, ask.key: ask.run}), ask)


def _any_disk_is_granted(it, ask):
    return _real["fence_peer"](it, replace(ask, up_to_date=True))


def _only_the_holder_counts(it, host):
    return None if it.holder == host else _real["why_not"](it, host)


def _taken_by_anybody(it, target, proof):
    return _real["taken"](replace(it, admitted=it.admitted | {target}), target, proof)


def _granted_may_be_taken(it, target, proof):
    return _real["taken"](replace(it, granted=False), target, proof)


def _released_at_once(it, ask):
    after, answer = _real["fence_peer"](it, ask)
    denied = answer.verdict is Verdict.WAIT and ask.host != it.holder and ask.role is arbiter.Role.PRIMARY
    return after, (Answer(Verdict.RELEASE, "another host has the authority") if denied else answer)


def _allowed(it, ask, *_):
    return it, Answer(Verdict.ALLOW, "nobody is excluded")


def _grants_without_excluding(it, ask):
    after, answer = _real["fence_peer"](it, ask)
    granted = answer.verdict is Verdict.GRANT and after is not it
    return (replace(after, admitted=it.admitted, newest=False) if granted else after), answer


TAKEN_OUT: dict[str, tuple[Patches, Rules]] = {
    "R1": ({}, Rules(two_sided=False)),
    "R2": ({"_stale": _ignores_the_version}, Rules(hooks_name_versions=False, keeper_minds_versions=False)),
    "R2 the hooks": ({"_stale": _ignores_the_version}, Rules(hooks_name_versions=False)),
    "R2 the keeper": ({}, Rules(keeper_minds_versions=False)),
    "R3": ({"why_not": _only_the_holder_counts, "taken": _taken_by_anybody}, Rules()),
    "R3 the asker's own disk": ({"fence_peer": _any_disk_is_granted}, Rules()),
    "R4": ({}, Rules(disk_first=False)),
    "R5": ({"fence_peer": _released_at_once}, Rules()),
    "R6": ({"before_attach": _allowed}, Rules()),
    "R7": ({}, Rules(outlast=False)),
    "R8": ({"before_resync": _allowed, "fence_peer": _grants_without_excluding}, Rules()),
    "R8 a grant excludes": ({"fence_peer": _grants_without_excluding}, Rules()),
    "R8 a resync excludes": ({"before_resync": _allowed}, Rules()),
    "R8 granted is not taken": ({"taken": _granted_may_be_taken}, Rules()),
    "R9": ({"_stale": _ignores_the_run}, Rules()),
    "L1": ({"let_go": lambda it, *_: it}, Rules()),
    "L2": ({"met": lambda it, *_: it}, Rules()),
}


@contextmanager
def taken_out(rule: str) -> Iterator[Model]:
    """The model without a rule, as long as this lasts."""
    patches, rules = TAKEN_OUT[rule]
    with ExitStack() as stack:
        for name, function in patches.items():
            stack.enter_context(patch.object(arbiter, name, function))
        yield Model(rules)
