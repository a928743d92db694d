"""A device that somebody else holds open, as DRBD 9 tells."""

from dataclasses import replace

import pytest

from actuator.core.guards.replicas import is_open_nowhere_else
from actuator.core.guards.verbs import FAILOVER, LIVE, MOVE, RESTART, check
from actuator.model import DomainState
from exporter.drbd import Role
from tests.actuator.build import (
    DISK,
    connection,
    device,
    evidence,
    resource,
    situation,
    snapshot,
    theirs,
    view,
)

HELD = (device(is_open=True),)
SECONDARY = snapshot(resource(role=Role.SECONDARY, connections=(connection("v02"),)))


def held_there(there=None, drbd_here=SECONDARY):
    """It is down on v01, and Secondary on v02, where somebody holds it open."""
    back = connection("v01", peer_role=Role.SECONDARY)
    return evidence(
        drbd_here=drbd_here, there=there, drbd_there=snapshot(theirs(devices=HELD, connections=(back,)))
    )


@pytest.mark.parametrize("there", [None, view(), "no answer"])
def test_a_secondary_that_somebody_else_uses_is_not_promoted_over(there):
    refusal = check(RESTART, situation(held_there(there)))
    assert refusal is not None
    assert refusal.guard == "is_open_nowhere_else"
    assert "holds voms01 open on v02" in refusal.sentence


def test_what_is_primary_here_is_not_promoted():
    assert check(RESTART, situation(held_there(drbd_here=snapshot(resource())))) is None


@pytest.mark.parametrize("is_open", [None, False])
def test_a_device_that_nobody_holds_or_of_which_nothing_is_said(is_open):
    back = connection("v01", peer_role=Role.SECONDARY)
    there = snapshot(theirs(devices=(device(is_open=is_open),), connections=(back,)))
    assert check(RESTART, situation(evidence(drbd_here=SECONDARY, drbd_there=there))) is None


def test_the_domain_itself_holds_it_where_it_runs_and_whoever_is_here_is_no_matter():
    runs = evidence(
        here=view(DomainState.RUNNING, 5),
        drbd_here=snapshot(resource(devices=HELD)),
        drbd_there=snapshot(theirs(devices=HELD)),
    )
    moved = replace(situation(runs, kept=(DISK,)), host="v02", source="v01")
    assert is_open_nowhere_else(moved) is None
    crashed = replace(moved, evidence=evidence(drbd_here=snapshot(resource(devices=HELD))))
    assert "open on v01" in (is_open_nowhere_else(crashed) or "")


@pytest.mark.parametrize("guards", [RESTART, MOVE, LIVE, FAILOVER])
def test_every_verb_asks(guards):
    assert is_open_nowhere_else in guards
