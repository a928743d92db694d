"""A live migration, in the simulator's model and between two real libvirtds: one expectation for both."""

import contextlib
import os
import signal
from pathlib import Path
from random import Random
from unittest import mock

import libvirt
import pytest

from actuator.model import Done, Failed
from tests.adapters import test_libvirt_move as real
from tests.boot_sectors import restless
from tests.simulator import ports
from tests.simulator.fibers import Process
from tests.simulator.site import Site
from tests.simulator.world import World

VM = "voms01"
SOON = 20.0
TOO_SOON = 2.0
"""Shorter than the slow migration takes, longer than any other."""

device = real.device


def kind(outcome):
    return {Done: "done", Failed: "refused"}.get(type(outcome), "open")


class Model:
    """The simulator's two hosts."""

    def __init__(self, folder):
        self.world = World(Random(1), folder, Site({VM: ("v01", "v02")}, xen=False))
        self.world.oracle.broken = lambda *_: None  # that it is active twice is what is asked about
        (one, two) = self.nodes = self.world.pairs[VM].nodes
        for node in self.nodes:
            node.up = True
            node.attach()
            node.connection = "WFConnection"
        self.world.pairs[VM].meet()
        one.two = two.two = True
        one.role = two.role = "Primary"
        self.port = ports.Hypervisor(self.world)
        self.process = Process("who asks")
        self.ends = [self.world.actuator.close]

    def started(self):
        self.domain(0).start()
        return self.domain(0).id

    def domain(self, host):
        return self.world.hosts[f"v0{host + 1}"].domains[VM]

    def seen(self, host):
        return f"{self.domain(host).state} {self.domain(host).reason}"

    def id_on(self, host):
        return self.domain(host).id

    def move(self, number, seconds=SOON, meanwhile=lambda: None):
        outcomes = []

        def ask():
            outcomes.append(
                self.port.migrate("v01", "v02", VM, number, None, timeout_seconds=seconds, lost=lambda: False)
            )

        self.world.loop.spawn(self.process, ask)
        self.world.loop.run(0.5)
        meanwhile()
        self.world.loop.run(3 * SOON)
        return kind(outcomes[0])

    def slowed(self):
        slow = mock.patch.object(ports, "MIGRATE_SECONDS", (10 * SOON, 10 * SOON))
        slow.start()
        self.ends.append(slow.stop)

    def started_there(self):
        self.domain(1).start()

    def end(self):
        self.domain(0).end("destroyed")

    def sources_libvirtd_dies(self):
        self.world.hosts["v01"].libvirt_works = False

    def sources_libvirtd_starts(self):
        self.world.hosts["v01"].start_libvirtd()

    def target_dies(self):
        self.world.hosts["v02"].power_off()

    def close(self):
        for end in self.ends:
            end()


class Real:
    """Two real libvirtds, and a guest that is never done with its memory."""

    def __init__(self, pair, device):
        self.guest = real.Moved(pair, device)

    def started(self):
        return self.guest.started(restless())

    def seen(self, host):
        view = self.guest.hypervisor.look(f"v0{host + 1}", VM, timeout_seconds=SOON)
        return f"{view.state} {view.reason}"

    def id_on(self, host):
        return self.guest.id_on(host)

    def move(self, number, seconds=SOON, meanwhile=None):
        if meanwhile is None:
            return kind(self.guest.move(number, timeout_seconds=seconds))
        with self.guest.moving(number, timeout_seconds=seconds) as outcomes:
            meanwhile()
        return kind(outcomes[0])

    def slowed(self):
        self.guest.slowed()

    def started_there(self):
        with self.guest.opened(1) as handle:
            handle.createXML(self.guest.libvirtds[1].guest(VM), libvirt.VIR_DOMAIN_START_PAUSED)

    def end(self):
        with self.guest.domain(0) as domain:
            domain.destroy()

    def sources_libvirtd_dies(self):
        self.guest.libvirtds[0].stop(signal.SIGKILL)

    def sources_libvirtd_starts(self):
        self.guest.libvirtds[0].start()

    def target_dies(self):
        target = self.guest.libvirtds[1]
        parent = target._undertaker.pid
        target.stop(signal.SIGKILL)
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)

    def close(self):
        self.guest.hypervisor.close()


@pytest.fixture(params=["model", pytest.param("real", marks=pytest.mark.daemons)])
def it(request, tmp_path):
    """Hosts of its own: what one that died leaves behind on the other may last for a minute."""
    with contextlib.ExitStack() as stack:
        if request.param == "model":
            side = Model(tmp_path)
        else:
            side = Real(stack.enter_context(real.two_hosts()), request.getfixturevalue("device"))
        yield side
        side.close()


def test_it_goes_on_there_and_says_so_on_both(it):
    assert it.move(it.started()) == "done"
    assert it.id_on(0) is None
    assert it.id_on(1) is not None
    assert [it.seen(host) for host in (0, 1)] == ["shutoff migrated", "running migrated"]


def test_another_id_is_not_moved(it):
    number = it.started()
    assert it.move(number + 1) == "refused"
    assert (it.id_on(0), it.id_on(1)) == (number, None)


def test_what_does_not_run_on_the_source_may_have_been_moved_already(it):
    number = it.started()
    it.end()
    assert it.move(number) == "open"


def test_where_it_is_active_already_it_is_not_moved(it):
    number = it.started()
    it.started_there()
    assert it.move(number) == "open"
    assert it.id_on(0) == number


def test_at_the_deadline_it_is_aborted_and_stays(it):
    number = it.started()
    it.slowed()
    assert it.move(number, TOO_SOON) == "refused"
    assert (it.id_on(0), it.id_on(1)) == (number, None)
    assert it.seen(0).startswith("running ")


def test_a_source_whose_libvirtd_dies_leaves_it_open(it):
    number = it.started()
    it.slowed()
    assert it.move(number, meanwhile=it.sources_libvirtd_dies) == "open"
    it.sources_libvirtd_starts()


def test_a_target_that_dies_leaves_it_running_on_the_source(it):
    number = it.started()
    it.slowed()
    assert it.move(number, meanwhile=it.target_dies) == "open"
    assert it.id_on(0) == number
    assert it.seen(0).startswith("running ")
