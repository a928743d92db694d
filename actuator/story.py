"""The story of one plan, out of the timeline: what was seen, what was decided, each step, how it ended."""

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_jsonable_python

from actuator.model import Event


def story_of(plan: str, events: Sequence[Event]) -> dict[str, Any] | None:
    """What the timeline of a domain tells of one of its plans; None: nothing of it.

    The evidence is what was observed last before the decision.
    """
    evidence: Event | None = None
    decision: Event | None = None
    end: Event | None = None
    steps: list[dict[str, Any]] = []
    for event in events:
        if decision is None and event.kind == "observed":
            evidence = event
        if event.plan != plan:
            continue
        match event.kind:
            case "decided":
                decision = event
            case "intent":
                steps.append({"step": event.sentence, "intended_at": event.at, "concluded_at": None})
            case "outcome":
                _conclude(steps, event)
            case "finished":
                end = event
    if decision is None and end is None and not steps:
        return None
    said: dict[str, Any] = to_jsonable_python(
        {"plan": plan, "evidence": evidence, "decision": decision, "steps": steps, "end": end}
    )
    return said


def _conclude(steps: list[dict[str, Any]], event: Event) -> None:
    for step in steps:
        if step["concluded_at"] is None and event.sentence.startswith(f"{step['step']}: "):
            step["concluded_at"] = event.at
            step["seconds"] = event.detail.get("seconds")
            step["outcome"] = event.sentence.removeprefix(f"{step['step']}: ")
            return
    # Its intent is older than what the journal keeps.
    steps.append({"step": event.sentence, "intended_at": None, "concluded_at": event.at, "outcome": ""})
