"""Of a backup only what holds vmheal back is believed."""

from dataclasses import fields, replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actuator.core.arbiter import Verdict, fence_peer, forgotten, looked_at, taken, why_not
from actuator.core.progress import claimed
from actuator.core.restored import restored_domain, restored_host
from actuator.model import DomainRecord, HostRecord, Order, Plan, PlanStatus, Proof, Start
from tests.core.test_arbiter import FENCE_ASKS, HOSTS, SIDES, STATES

ORDER = st.builds(Order, st.just("someone"), st.floats(0, 1e9), st.text(max_size=3))


@given(
    st.builds(
        HostRecord,
        st.sampled_from(["", "v01"]),
        st.integers(0, 9),
        st.none() | st.floats(0, 1e9),
        *[st.none() | ORDER] * 3,
    )
)
def test_a_host_is_not_believed_to_be_down(before):
    after = restored_host(before, "me", 5.0)
    assert (after.failed_at, after.down) == (None, None)
    assert after.drained == before.drained
    assert after.version == before.version + 1
    if before.host:
        assert after.paused == before.paused
    else:
        assert (after.paused.by, after.paused.until_at) == ("me", None)


@pytest.mark.parametrize("status", PlanStatus)
def test_no_plan_is_carried_on(status):
    record = DomainRecord("voms01", 3, "v02", attempts_at=(1.0,), suspects={"v01": 9.0}, approved="p")
    record = claimed(record, Plan("restart", "voms01", "v02", "it", (Start("v02", "voms01"),)), now=10.0)
    record = replace(record, approved="p", plan=replace(record.plan, status=status))
    after = restored_domain(record)
    assert after.open_plan is None
    assert after.approved == ""
    kept = {it.name for it in fields(DomainRecord)} - {"version", "plan", "approved"}
    assert all(getattr(after, it) == getattr(record, it) for it in kept)
    assert after.version == record.version + 1


def test_nobody_is_granted_or_promoted_by_what_a_backup_says():
    """Whatever it says, whoever asks, whatever the proof; what one side says changes nothing either."""
    for it in map(forgotten, STATES):
        assert not any(fence_peer(it, ask)[1].verdict is Verdict.GRANT for ask in FENCE_ASKS)
        assert all(isinstance(taken(it, host, proof), str) for host, proof in product(HOSTS, (None, *Proof)))
        assert all(why_not(it, host) is not None for host in HOSTS)
        assert all(looked_at(it, (side,)) is it for side in SIDES)
