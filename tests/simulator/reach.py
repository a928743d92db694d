"""What a run has come by: each guard that refused, each step's outcome, each place where the actuator died.

A generator of schedules proves nothing of what it never reaches. So it is counted, and what a long run has not
reached at all is said; what cannot be reached here has its reason in ``NOT_HERE``.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from actuator.core.arbiter import Verdict
from actuator.model import Event, Refusal
from exporter.fence_peer import HOOKS
from tests.simulator.events import BEGINNINGS, KINDS, LIES, Happening
from tests.simulator.liar import CLAIMS
from tests.simulator.teeth import GUARDS

NEAR_SECONDS = 20.0
"""Faults that begin within it count as a pair."""
OUTCOMES = ("done", "failed", "indeterminate")
LOOKED_FOR = {"confirm", "outlast"}
"""Steps that are not called."""

NOT_HERE = {
    "guard drbd_is_understood": "the model says nothing that the exporter's parser does not know",
    "guard quorum_is_here": "of the hosts with DRBD 9 none says otherwise than the others, but by a person's hand"
    " (nine_a_quorum_was_set_off)",
    "guard writes_reached_the_peer": "all resources use protocol C",
    "guard there_is_a_proof": "each host has the arbiter",
    "guard is_in_sync": "nobody runs a verify, which finds what differs",
    "guard evidence_is_fresh": "a look that takes longer than it may be old counts as not answered",
    "guard is_defined_or_kept": "definitions are kept from the first look on",
    "guard is_open_nowhere_else": "who has it open is Primary there, and that is refused first",
    "step outlast failed": "it is waited for, and not called",
}


class Reach:
    """Of one run."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self._intended: dict[str, int] = {}
        """By plan: which start of the actuator wrote its latest intent."""

    def refused(self, refusal: Refusal | None) -> Refusal | None:
        if refusal is not None:
            self.seen[f"guard {refusal.guard}"] += 1
        return refusal

    def wrote(self, start: int, events: Iterable[Event]) -> None:
        """The actuator, started so often, has written these."""
        for it in events:
            detail = it.detail
            match it.kind:
                case "outcome":
                    step = f"step {detail['step']}"
                    self.seen[f"{step} {detail['outcome']}"] += 1
                    if self._intended.get(it.plan, start) != start:
                        self.seen[f"{step} taken up again"] += 1
                case "arbitrated":
                    self.seen[f"hook {it.sentence.split()[0]} {detail['verdict']}"] += 1
            if it.plan:
                self._intended[it.plan] = start

    def died(self, when: str, events: Sequence[Event]) -> None:
        kinds = "+".join(dict.fromkeys(it.kind for it in events)) or "what was received"
        self.seen[f"died {when} the write of {kinds}"] += 1

    def scheduled(self, schedule: Sequence[Happening]) -> None:
        for it in schedule:
            if it.name in LIES:
                self.seen[lie(*it.words)] += 1
        begun = [it for it in schedule if it.name in BEGINNINGS]
        for it in begun:
            self.seen[f"fault {it.name}"] += 1
        for one, other in combinations(begun, 2):
            if abs(one.at - other.at) <= NEAR_SECONDS:
                self.seen[pair(one.name, other.name)] += 1


def pair(one: str, other: str) -> str:
    return "faults " + " and ".join(sorted((one, other)))


def lie(_host: str, how: str, _vm: str, what: str, *_: str) -> str:
    """With what it lies and what it says; or as which hook it asks."""
    return f"lie {how}" if how in HOOKS else f"lie {how} {what}"


def wanted() -> list[str]:
    """All that there is to reach."""
    steps = [f"step {kind} {outcome}" for kind in KINDS for outcome in OUTCOMES]
    again = [f"step {kind} taken up again" for kind in KINDS]
    deaths = [
        f"died {when} the write of {kinds}"
        for when in ("before", "after")
        for kinds in (
            "what was received",
            "observed+suspected+decided+intent",
            "outcome+intent",
            "outcome+finished",
            "arbitrated",
            "authority",
        )
    ]
    hooks = [f"hook {hook} {verdict}" for hook, verdicts in VERDICTS.items() for verdict in verdicts]
    faults = [f"fault {name}" for name in BEGINNINGS]
    lies = [f"lie {hook}" for hook in HOOKS]
    lies += [f"lie {where} {what}" for where, claims in CLAIMS.items() for what in claims]
    pairs = [pair(one, other) for one, other in combinations(BEGINNINGS, 2)]
    return [*(f"guard {name}" for name in GUARDS), *steps, *again, *deaths, *hooks, *faults, *pairs, *lies]


VERDICTS = {
    "fence-peer": (Verdict.GRANT, Verdict.WAIT, Verdict.RELEASE),
    "unfence-peer": (Verdict.ALLOW, Verdict.REFUSE),
    "before-resync-source": (Verdict.ALLOW, Verdict.WAIT, Verdict.REFUSE),
    "attach": (Verdict.ALLOW, Verdict.WAIT),
}
assert set(VERDICTS) == set(HOOKS)


def missing(seen: Counter[str]) -> list[str]:
    """What was never reached and has no reason for that; and reasons that do not hold."""
    never = [name for name in wanted() if not seen[name] and name not in NOT_HERE]
    return [*never, *(f"{name}: reached, although {NOT_HERE[name]}" for name in NOT_HERE if seen[name])]


def report(seen: Counter[str]) -> Iterator[str]:
    """Lines for people."""
    for name, times in sorted(seen.items()):
        if not name.startswith("faults "):
            yield f"{times:9d} {name}\n"
    yield f"{sum(name.startswith('faults ') for name in seen):9d} different pairs of faults\n"
