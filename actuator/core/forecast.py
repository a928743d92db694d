"""How long a plan will take, from what the same steps took before.

The median, since one step that was held up says little of the next: of the last steps of its kind on that
host, else on all hosts. A wait that was never seen takes what the configuration says. Where of a step neither
is known, nothing is forecast.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from actuator.model import Event, Step

KEPT = 20
"""So many of the last durations of each kind of step count on each host."""
ANYWHERE = ""
"""Stands for all hosts together."""

Medians = Mapping[tuple[str, str], float]
"""Seconds, by kind of step and host."""

_LOOKED_FOR = {"confirm", "outlast"}
"""Steps that are waited for, and not called."""


def measured(event: Event) -> tuple[tuple[str, str], float] | None:
    """The kind, the host and the seconds of a step that was done; None: the event tells of none.

    What was found to be done already took no time worth knowing.
    """
    match event.detail:
        case {"step": str(kind), "outcome": "done", "seconds": float(seconds)} if event.kind == "outcome":
            host = event.detail.get("on", event.host)
            called = "called_at" in event.detail or kind in _LOOKED_FOR
            return ((kind, str(host)), seconds) if called else None
        case _:
            return None


def medians(samples: Mapping[tuple[str, str], Sequence[float]]) -> Medians:
    """The medians of what was measured, by kind of step and host, and of all hosts."""
    anywhere: dict[tuple[str, str], list[float]] = {}
    for (kind, _), seconds in samples.items():
        anywhere.setdefault((kind, ANYWHERE), []).extend(seconds)
    return {key: median(seconds) for key, seconds in (*samples.items(), *anywhere.items()) if seconds}


def forecast(steps: Iterable[Step], known: Medians, *, isolation_seconds: float) -> float | None:
    """Seconds from the claim of a plan with these steps to its end; None when it cannot be told.

    Args:
        steps: of the plan.
        known: what such steps took.
        isolation_seconds: for so long at most a lost host is waited for.
    """
    waits = {"outlast": isolation_seconds}
    total = 0.0
    for step in steps:
        seconds = known.get((step.kind, step.host), known.get((step.kind, ANYWHERE), waits.get(step.kind)))
        if seconds is None:
            return None
        total += seconds
    return total
