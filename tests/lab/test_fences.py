"""Drills of fence agents: one that works, hangs, fails, or says off when the host is on.

The agent speaks as Debian's do, and switches the lab's machines off; see `actuator.adapters.fence_agents`.
"""

import sys

import pytest

from tests.lab.moves import Moment, bring_back, failover_of, home, is_in_order, other, wait_writes_on
from tests.lab.site import Site
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1500)]

AGENT = """\
#!/bin/sh
while read -r line; do
    case $line in action=*) action=${{line#action=}};; plug=*) plug=${{line#plug=}};; esac
done
pid=$(cat {folder}/$plug.pid)
on() {{ grep -q '^State:' /proc/$pid/status && ! grep -q '^State:.*Z' /proc/$pid/status; }}
case $(cat {folder}/mode) in
    hangs) exec sleep 600;;
    fails) echo "Failed: Unable to connect/login to fencing device" >&2; exit 1;;
    lies) if [ $action = status ]; then echo "Status: OFF"; exit 2; fi; exit 0;;
esac
case $action in
    status) if on; then echo "Status: ON"; exit 0; fi; echo "Status: OFF"; exit 2;;
    off) kill -KILL $pid; echo "Success: Powered OFF";;
esac
"""


class FencedSite(Site):
    """Each host has the fence agent; it does what the folder's `mode` says."""

    def actuator_settings(self):
        settings = super().actuator_settings()
        for host, section in settings["hosts"].items():
            section["fence"] = {"agent": "fence_lab", "options": {"plug": host}, "timeout_seconds": 3.0}
        return settings

    def start(self, name, *arguments, wrapper=()):
        if name == "actuator":
            agent = self.folder / "fence_lab"
            agent.write_text(AGENT.format(folder=self.folder))
            agent.chmod(0o755)
            wrapper = [sys.executable, "-m", "tests.fenced_actuator", str(self.folder)]
        super().start(name, *arguments, wrapper=wrapper)

    def behaves(self, mode):
        """How the agent is from now on."""
        (self.folder / "mode").write_text(mode)
        for name, host in self.lab.hosts.items():
            (self.folder / f"{name}.pid").write_text(str(host.machine.pid))


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
