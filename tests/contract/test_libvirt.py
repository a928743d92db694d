"""What libvirt says and does, on the simulator's model and on a real libvirtd with QEMU: one expectation for both."""

import os
import signal
import threading
import time
from random import Random

import libvirt
import pytest

from actuator.adapters.libvirt_hypervisor import LibvirtHypervisor
from actuator.model import Done, Failed
from actuator.ports import Unanswered
from tests.boot_sectors import FLAG, OBEDIENT
from tests.libvirtd import Libvirtd
from tests.simulator.fibers import Process
from tests.simulator.ports import Hypervisor
from tests.simulator.site import Site
from tests.simulator.world import World

VM = "voms01"
SOON = 20.0


class Side:
    """One host and a VM on it, as the actuator sees it through its port; times in seconds."""

    def call(self, method, *arguments, **more):
        """Call the port, with a deadline."""
        raise NotImplementedError

    def wait(self, seconds):
        raise NotImplementedError

    def seen(self):
        """State and reason; or that nothing is defined, or that nobody answers."""
        try:
            view = self.call("look", VM)
        except Unanswered:
            return "no answer"
        return "not defined" if view is None else f"{view.state} {view.reason}"

    def comes_to(self, state):
        left = SOON
        while (seen := self.seen()) != state and left > 0:
            self.wait(0.1)
            left -= 0.1
        return seen == state or seen

    def id(self):
        view = self.call("look", VM)
        return view and view.id

    def has_disk(self):
        (disk,) = self.call("look", VM).disks
        return disk.attached

    def started(self):
        assert self.start() == "done"
        assert self.comes_to("running booted") is True
        return self.id()

    def start(self, name=VM):
        return self.outcome("start", name)

    def outcome(self, method, *arguments, **more):
        match self.call(method, *arguments, **more):
            case Done():
                return "done"
            case Failed(code=code):
                return f"refused {code}"
            case other:
                return type(other).__name__


class Model(Side):
    """The simulator's."""

    def __init__(self, folder, *, xen=False):
        self.world = World(Random(1), folder, Site({VM: ("v01", "v02")}, xen=xen))
        for pair in self.world.pairs.values():
            for node in pair.nodes:
                node.up = True
                node.attach()
                node.connection = "WFConnection"
            pair.meet()
        self.host = self.world.hosts["v01"]
        self.host.nodes[VM].role = "Primary"
        self.domain = self.host.domains[VM]
        self.port = Hypervisor(self.world)
        self.process = Process("who asks")

    def call(self, method, *arguments, **more):
        answers, errors = [], []

        def ask():
            try:
                answers.append(getattr(self.port, method)("v01", *arguments, **more, timeout_seconds=SOON))
            except Unanswered as error:
                errors.append(error)

        self.world.loop.spawn(self.process, ask)
        self.world.loop.run(2 * SOON)
        for error in errors:
            raise error
        return answers[0]

    def wait(self, seconds):
        self.world.loop.run(seconds)

    def kill_guest(self):
        self.domain.crash()

    def keeps_what_has_crashed(self):
        self.world.preserve = True

    def destroy_by_hand(self):
        self.world.loop.spawn(
            self.host.process,
            lambda: self.host.command(["virsh", "--quiet", "--connect", "", "destroy", self.domain.uuid]),
        )
        self.wait(SOON)

    def disk_is_closed(self):
        self.domain.node.role = "Secondary"

    def disk_is_open(self):
        self.domain.node.role = "Primary"

    def undefine(self):
        self.domain.defined = False

    def define(self):
        return self.outcome("define", VM, self.domain.xml, anew=False)

    def libvirtd_dies(self):
        self.host.libvirt_works = False

    def libvirtd_starts(self):
        self.host.start_libvirtd()

    def close(self):
        self.world.actuator.close()


class Real(Side):
    """A real libvirtd, and QEMU running a guest that obeys its power button."""

    def __init__(self, libvirtd):
        self.libvirtd = libvirtd
        self.xml = libvirtd.guest(VM)
        with self.disk().open("r+b") as disk:
            disk.write(OBEDIENT)
        self.ask(lambda handle: handle.defineXML(self.xml))
        self.port = LibvirtHypervisor({"v01": libvirtd.uri})

    def disk(self):
        return self.libvirtd.base / "disks" / f"{VM}.raw"

    def ask(self, question):
        handle = libvirt.open(self.libvirtd.uri)
        try:
            return question(handle)
        finally:
            handle.close()

    def call(self, method, *arguments, **more):
        return getattr(self.port, method)("v01", *arguments, **more, timeout_seconds=SOON)

    def wait(self, seconds):
        threading.Event().wait(seconds)

    def started(self):
        number = super().started()
        deadline = time.monotonic() + SOON
        while not self.ask(
            lambda it: any(it.lookupByName(VM).memoryPeek(FLAG, 4, libvirt.VIR_MEMORY_PHYSICAL))
        ):
            assert time.monotonic() < deadline, "its boot sector does not run"
            self.wait(0.05)
        return number

    def kill_guest(self):
        os.kill(self.libvirtd.qemu_pid(VM), signal.SIGKILL)

    def destroy_by_hand(self):
        self.ask(lambda handle: handle.lookupByName(VM).destroy())

    def disk_is_closed(self):
        self.disk().rename(self.disk().with_suffix(".away"))

    def disk_is_open(self):
        self.disk().with_suffix(".away").rename(self.disk())

    def undefine(self):
        self.ask(lambda handle: handle.lookupByName(VM).undefine())

    def define(self):
        return self.outcome("define", VM, self.xml, anew=False)

    def libvirtd_dies(self):
        self.libvirtd.stop(signal.SIGKILL)

    def libvirtd_starts(self):
        self.libvirtd.start()

    def close(self):
        self.port.close()
        for end in ("destroy", "undefine"):
            try:
                self.ask(lambda handle, end=end: getattr(handle.lookupByName(VM), end)())
            except libvirt.libvirtError:
                continue


@pytest.fixture(scope="module")
def libvirtd():
    with Libvirtd() as libvirtd:
        yield libvirtd


@pytest.fixture(params=["model", pytest.param("real", marks=pytest.mark.daemons)])
def it(request, tmp_path):
    side = Model(tmp_path) if request.param == "model" else Real(request.getfixturevalue("libvirtd"))
    yield side
    side.close()


def test_what_is_active_is_not_started(it):
    assert it.seen().startswith("shutoff ")
    it.started()
    assert it.start() == "refused 55"


def test_what_is_not_defined_is_not_started_and_has_no_definition(it):
    it.undefine()
    assert it.seen() == "not defined"
    assert it.start() == "refused 42"
    assert it.call("definition", VM) is None
    assert VM not in it.call("states")


def test_what_is_defined_again_is_there(it):
    it.undefine()
    assert it.define() == "done"
    assert it.seen() == "shutoff unknown"


def test_a_start_whose_disk_cannot_be_opened(it):
    """In the model a Secondary's; the real one's file is away, for which it has another number (38)."""
    it.disk_is_closed()
    assert it.start().startswith("refused ")
    assert it.comes_to("shutoff failed") is True
    assert it.id() is None
    it.disk_is_open()
    assert it.started() > 0


def test_ids_grow_with_each_start(it):
    ids = []
    for _ in range(3):
        ids.append(it.started())
        it.destroy_by_hand()
        assert it.comes_to("shutoff destroyed") is True
        assert it.id() is None
    assert ids == sorted(set(ids))


def test_a_guest_that_died_has_crashed(it):
    it.started()
    it.kill_guest()
    assert it.comes_to("shutoff crashed") is True
    assert it.id() is None


def test_a_guest_that_obeys_is_shut_down(it):
    number = it.started()
    assert it.outcome("shut_down", VM, number) == "done"
    assert it.seen() == "shutoff shutdown"


def test_another_id_is_not_shut_down(it):
    number = it.started()
    assert it.outcome("shut_down", VM, number + 1) == "refused None"
    assert it.seen() == "running booted"


def test_what_runs_is_not_destroyed_by_the_port(it):
    number = it.started()
    assert it.outcome("destroy", VM, number) == "refused None"
    assert it.seen() == "running booted"


def test_what_is_gone_is_destroyed_and_shut_down(it):
    number = it.started()
    it.destroy_by_hand()
    assert it.outcome("destroy", VM, number) == "done"
    assert it.outcome("shut_down", VM, number) == "done"


@pytest.fixture
def without_libvirtd(it):
    it.libvirtd_dies()
    yield it
    it.libvirtd_starts()


def test_a_dead_libvirtd_answers_nothing_and_starts_nothing(without_libvirtd):
    it = without_libvirtd
    assert it.seen() == "no answer"
    assert it.start() == "refused None"
    for question in (("states",), ("definition", VM), ("capacity",)):
        with pytest.raises(Unanswered):
            it.call(*question)
    for change in (("shut_down", VM, 1), ("destroy", VM, 1)):
        assert it.outcome(*change) == "refused None"
    assert it.define() == "refused None"


def test_a_guest_runs_on_without_libvirtd(it):
    number = it.started()
    it.libvirtd_dies()
    it.libvirtd_starts()
    assert it.seen() == "running booted"
    assert it.id() == number


def test_a_libvirtd_that_starts_has_forgotten_why_a_guest_ended(it):
    it.started()
    it.kill_guest()
    assert it.comes_to("shutoff crashed") is True
    it.libvirtd_dies()
    it.libvirtd_starts()
    assert it.comes_to("shutoff unknown") is True


def test_a_guest_that_ends_without_libvirtd(it):
    it.started()
    it.libvirtd_dies()
    it.kill_guest()
    it.libvirtd_starts()
    assert it.comes_to("shutoff crashed") is True


def test_a_libvirtd_that_starts_with_nothing_active_counts_ids_anew(it):
    first = it.started()
    it.destroy_by_hand()
    it.libvirtd_dies()
    it.libvirtd_starts()
    assert it.started() == 1
    assert first >= 1
