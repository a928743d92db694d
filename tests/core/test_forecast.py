"""How long a plan will take."""

import pytest

from actuator.core.forecast import forecast, measured, medians
from actuator.model import Confirm, Event, Outlast, Promote, Start

START, CONFIRM = Start("v02", "voms01"), Confirm("v02", "voms01")


def outcome(**detail):
    told = {"step": "start", "on": "v02", "outcome": "done", "seconds": 1.5, "called_at": 7.0} | detail
    return Event(
        7.0, "outcome", "", host="v01", detail={key: it for key, it in told.items() if it is not None}
    )


@pytest.mark.parametrize(
    ("event", "found"),
    [
        (outcome(), (("start", "v02"), 1.5)),
        (outcome(on=None), (("start", "v01"), 1.5)),  # as events were written before
        (outcome(outcome="failed"), None),
        (outcome(outcome="indeterminate"), None),
        (outcome(called_at=None), None),  # it ran already
        (outcome(step="confirm", called_at=None), (("confirm", "v02"), 1.5)),
        (outcome(step="outlast", called_at=None), (("outlast", "v02"), 1.5)),
        (outcome(seconds=None), None),
        (Event(7.0, "finished", "", detail={"seconds": 1.5, "outcome": "succeeded"}), None),
    ],
)
def test_what_is_measured_of_a_step(event, found):
    assert measured(event) == found


def test_on_that_host_else_on_all_and_one_that_was_held_up_does_not_count():
    known = medians(
        {("start", "v02"): (1.0, 90.0, 2.0), ("start", "v01"): (8.0, 9.0), ("confirm", "v01"): (0.5,)}
    )
    assert forecast([START, CONFIRM], known, isolation_seconds=10.0) == 2.0 + 0.5
    assert forecast([Start("v03", "voms01")], known, isolation_seconds=10.0) == 8.0


def test_a_wait_that_was_never_seen_takes_what_is_configured():
    steps = [Outlast("v01", "voms01"), START]
    known = {("start", "v02"): 2.0}
    assert forecast(steps, known, isolation_seconds=10.0) == 12.0
    assert forecast(steps, known | {("outlast", ""): 7.0}, isolation_seconds=10.0) == 9.0


def test_of_what_was_never_seen_nothing_is_foretold():
    assert (
        forecast([Promote("v02", "voms01"), START], {("start", "v02"): 2.0}, isolation_seconds=10.0) is None
    )
    assert forecast([START], medians({}), isolation_seconds=10.0) is None
