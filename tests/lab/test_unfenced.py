"""Drills of a pair whose DRBD asks nobody: without a proof nothing is failed over; a named person is one."""

import time

import pytest

from tests.lab.moves import Moment, acted, wait_refused, wait_writes_on
from tests.lab.site import Site
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def vm(lab):
    vm = lab.add_vm("plain01", on=("v01", "v02"))
    lab.start_vms([vm])
    yield vm
    lab.end_vm(vm)


@pytest.fixture
def site(lab, vm):
    with Site(lab, [vm], {"restart": {"backoff_seconds": 0}}) as site:
        site.wait_watching()
        wait_until(
            lambda: site.resource(vm.name).get("admitted") == [*vm.hosts], "both to be current", 120, 1
        )
        lab.witness.wait_for_record(vm, after=time.monotonic())
        yield site


def test_a_host_is_killed_and_a_person_confirms_that_it_is_down(lab, vm, site):
    fault = Moment.now()
    lab.host("v01").kill()
    escalation = wait_refused(site, vm, "confirm-down v01", fault)
    assert escalation["guard"] == "there_is_a_proof"
    wait_until(lambda: time.monotonic() > fault.monotonic + 30, "30 s", 60, 0.5)
    assert acted(site, vm, fault) == []
    confirmed = time.monotonic()
    lab.progress(site.order("confirm-down", "v01").strip())
    wait_writes_on(lab, site, vm, "v02", fault)
    lab.progress(f"{vm.name} wrote on v02 {time.monotonic() - confirmed:.1f} s after the confirmation")
    lab.assert_nothing_lost(vm, "v02")
    # The pair is left as it is: v01 comes back without its DRBD for the drills after this one.
    lab.host("v01").boot()
