"""Which guards each verb asks, and when."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from actuator.core.guards.domain import (
    drbd_answers,
    evidence_is_fresh,
    is_defined,
    is_defined_or_kept,
    is_down,
    libvirt_answers,
    nothing_is_left,
    runs_nowhere_else,
    runs_on_its_source,
    runs_on_no_third,
)
from actuator.core.guards.memory import (
    authority_is_held,
    authority_may_be_taken,
    is_in_sync,
    quorum_is_here,
    replica_continues,
    source_freezes,
    source_is_armed,
    writes_reached_the_peer,
)
from actuator.core.guards.replicas import (
    disk_is_up_to_date,
    disks_are_on_drbd,
    drbd_is_understood,
    has_quorum,
    io_flows,
    is_mirrored_here,
    is_not_standalone,
    is_open_nowhere_else,
    is_primary_here,
    may_be_promoted,
    peer_is_known,
    peer_is_not_primary,
)
from actuator.core.guards.situation import Guard, Situation
from actuator.core.guards.source import (
    link_to_source_is_lost,
    source_answers,
    source_has_let_go,
    source_is_dark,
    there_is_a_proof,
)
from actuator.model import Migrate, Plan, Refusal, ShutDown


def check(guards: tuple[Guard, ...], situation: Situation) -> Refusal | None:
    """Ask the guards in order; the first refusal, or None when all agree."""
    for guard in guards:
        if sentence := guard(situation):
            return Refusal(guard=guard.__name__, sentence=sentence)
    return None


ANSWERED: tuple[Guard, ...] = (libvirt_answers, drbd_answers, evidence_is_fresh)
"""The host has said how things are."""

KNOWN: tuple[Guard, ...] = (*ANSWERED, is_defined)
"""Enough is known to say anything at all."""

RESTART: tuple[Guard, ...] = (
    *KNOWN,
    is_down,
    disks_are_on_drbd,
    drbd_is_understood,
    peer_is_not_primary,
    runs_nowhere_else,
    is_open_nowhere_else,
    disk_is_up_to_date,
    io_flows,
    has_quorum,
    authority_may_be_taken,
    peer_is_known,
    may_be_promoted,
)
"""Asked before the plan, and again right before each of its steps."""

_DISKS: tuple[Guard, ...] = (
    disks_are_on_drbd,
    drbd_is_understood,
    authority_may_be_taken,
    disk_is_up_to_date,
    io_flows,
    has_quorum,
)
"""That a replica is excluded tells more than how its disk reads: Consistent, after both hosts were off."""

_LOST: tuple[Guard, ...] = (
    *ANSWERED,
    is_defined_or_kept,
    is_down,
    peer_is_not_primary,
    runs_on_no_third,
    *_DISKS,
    there_is_a_proof,
    source_is_armed,
    quorum_is_here,
    writes_reached_the_peer,
)
"""The source of a failover may wake at any time: the proof holds all the same."""

FAILOVER: tuple[Guard, ...] = (
    *_LOST,
    source_is_dark,
    link_to_source_is_lost,
    is_not_standalone,
    is_open_nowhere_else,
    replica_continues,
    is_in_sync,
    source_freezes,
)
"""Asked of each possible target before the plan, and before anything is called."""

MOVE: tuple[Guard, ...] = (
    *ANSWERED,
    is_defined_or_kept,
    source_answers,
    is_down,
    runs_on_no_third,
    is_open_nowhere_else,
    *_DISKS,
    is_mirrored_here,
    is_in_sync,
)
"""Asked of each possible target of a move from a host that answers, before the plan and before it begins."""


@dataclass(frozen=True, slots=True)
class Guards:
    """What a verb's steps must pass."""

    begin: tuple[Guard, ...]
    """Before the plan, and before a step that touches only the source, or ends what is left."""
    promote: tuple[Guard, ...]
    """Right before a promotion, whose intent took the authority."""
    start: tuple[Guard, ...]
    """Right before the start call."""


_AT_START: tuple[Guard, ...] = (nothing_is_left, is_primary_here, authority_is_held)

LIVE = (*MOVE, runs_on_its_source)
"""Asked of each possible target of a live migration, and before each of its steps until the domain moves."""

AGAIN: tuple[Guard, ...] = tuple(guard for guard in RESTART if guard is not is_down)
"""Asked before a domain that runs is shut down to be started again."""

_GUARDS: Mapping[str, Guards] = {
    "restart": Guards(RESTART, (*RESTART, authority_is_held), (*RESTART, *_AT_START)),
    "migrate": Guards(MOVE, (*RESTART, authority_is_held), (*RESTART, *_AT_START)),
    "failover": Guards(FAILOVER, (*_LOST, authority_is_held), (*_LOST, source_has_let_go, *_AT_START)),
}
_LIVE = Guards(LIVE, LIVE, LIVE)
_RESTART_RUNNING = replace(_GUARDS["restart"], begin=AGAIN)


def guards_of(plan: Plan) -> Guards:
    """The guards of a plan's steps. A move in order ends as a restart on its target."""
    if any(isinstance(step, Migrate) for step in plan.steps):
        return _LIVE
    if plan.verb == "restart" and any(isinstance(step, ShutDown) for step in plan.steps):
        return _RESTART_RUNNING
    return _GUARDS[plan.verb]
