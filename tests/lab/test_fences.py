"""Drills of fence agents: one that works, hangs, fails, or says off when the host is on."""

import pytest

from tests.lab.fenced import FencedSite
from tests.lab.moves import Moment, bring_back, failover_of, home, is_in_order, other, wait_writes_on
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def running_site(lab, vm):
    settings = {
        "restart": {"backoff_seconds": 0},
        "failover": {"power_off_timeout_seconds": 8, "margin_seconds": 12},
    }
    with FencedSite(lab, [vm], settings) as site:
        site.behaves("works")
        yield site


def cut_off(lab, host):
    for cable in ("replication", "management"):
        lab.unplug(host, cable)


def heal(lab, host):
    for cable in ("replication", "management"):
        lab.plug(host, cable)


def said_of_the_agent(site, vm, fault):
    return [
        event.sentence
        for event in site.events(fault.wall)
        if event.domain == vm.name and event.kind == "outcome" and event.detail["step"] == "power_off"
    ]


def test_a_cut_off_host_is_switched_off_and_its_vm_starts_at_once(lab, vm, site):
    site.behaves("works")
    lost = home(site, vm)
    alive = other(vm, lost)
    fault = Moment.now()
    cut_off(lab, lost)
    try:
        wait_writes_on(lab, site, vm, alive, fault)
    finally:
        heal(lab, lost)
    assert not lab.host(lost).machine.running
    lab.progress(
        f"seconds from the cut: {failover_of(site, [vm], fault)}; {said_of_the_agent(site, vm, fault)}"
    )
    lab.assert_nothing_lost(vm, alive)
    bring_back(lab, lost)


@pytest.mark.parametrize("mode", ["hangs", "fails"])
def test_an_agent_that_does_not_work_leaves_it_to_the_arbiter(lab, vm, site, mode):
    site.behaves(mode)
    lost = home(site, vm)
    alive = other(vm, lost)
    fault = Moment.now()
    cut_off(lab, lost)
    try:
        wait_writes_on(lab, site, vm, alive, fault)
        said = said_of_the_agent(site, vm, fault)
        lab.progress(f"seconds from the cut: {failover_of(site, [vm], fault)}; {said}")
        assert said
        assert "done" not in said[0]
        assert lab.host(lost).machine.running
    finally:
        heal(lab, lost)
    wait_until(lambda: is_in_order(site, vm), f"{lost} to be resynced and admitted", 400, 1)


def test_an_agent_that_says_off_when_the_host_is_on(lab, vm, site):
    """Its documented limit: the VM starts before the other has ended. Its frozen disk still keeps one writer."""
    site.behaves("lies")
    lost = home(site, vm)
    alive = other(vm, lost)
    fault = Moment.now()
    cut_off(lab, lost)
    try:
        wait_writes_on(lab, site, vm, alive, fault)
        lab.progress(f"seconds from the cut: {failover_of(site, [vm], fault)}")
        assert lab.host(lost).machine.running
    finally:
        heal(lab, lost)
    wait_until(lambda: is_in_order(site, vm), f"{lost} to be resynced and admitted", 400, 1)
    lab.assert_nothing_lost(vm)
