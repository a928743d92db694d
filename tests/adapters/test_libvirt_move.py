"""What moves a domain, behind its port: on libvirt's test driver, and live between two real libvirtd."""

import contextlib
import os
import signal
import subprocess
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt
import pytest

from actuator.adapters import libvirt_changes, libvirt_hypervisor
from actuator.adapters.libvirt_changes import Active
from actuator.adapters.libvirt_hypervisor import LibvirtHypervisor
from actuator.model import Capacity, DomainState, Done, Failed, Indeterminate, LiveMigration
from actuator.ports import Unanswered
from tests.boot_sectors import COUNTER, FLAG, OBEDIENT, restless
from tests.lab.waiting import wait_until
from tests.libvirtd import Libvirtd
from tests.loop_device import loop_device
from tests.netns import LINKED, Link, network_namespace

# Far above what anything here takes, far below pytest's own limit.
SOON = 30

LIVE = LiveMigration(migrate_uri=f"tcp://{LINKED[1]}", target_uri=f"qemu+tcp://{LINKED[1]}/system")


def until(condition, what, seconds=SOON):
    wait_until(condition, what, seconds, 0.02)


# ---- on libvirt's test driver ----------------------------------------------------------------------------

DOMAIN = """
<domain type='test'>
  <name>{name}</name>
  <memory unit='MiB'>{memory_mib}</memory>
  <os><type>hvm</type></os>
</domain>
"""


def xml_of(name="voms01", memory_mib=1):
    return DOMAIN.format(name=name, memory_mib=memory_mib)


@pytest.fixture(scope="module")
def handle():
    handle = libvirt.open("test:///default")
    yield handle
    handle.close()


@pytest.fixture
def hypervisor(handle):
    hypervisor = LibvirtHypervisor({"v01": "test:///default", "v02": "test:///default"})
    yield hypervisor
    hypervisor.close()
    for domain in handle.listAllDomains():
        if domain.name() != "test":
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
            with contextlib.suppress(libvirt.libvirtError):
                domain.undefine()


def test_a_guest_that_obeys_is_shut_down_and_not_ended(hypervisor, handle):
    domain = handle.defineXML(xml_of())
    domain.create()
    assert hypervisor.shut_down("v01", "voms01", domain.ID(), timeout_seconds=SOON) == Done()
    assert domain.state() == [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN]


def test_another_id_is_not_shut_down(hypervisor, handle):
    domain = handle.defineXML(xml_of())
    domain.create()
    outcome = hypervisor.shut_down("v01", "voms01", domain.ID() + 1, timeout_seconds=SOON)
    assert isinstance(outcome, Failed)
    assert "started again meanwhile" in outcome.reason
    assert domain.isActive()


def test_what_is_gone_is_shut_down(hypervisor, handle):
    handle.defineXML(xml_of())
    for name in ("voms01", "voms99"):
        assert hypervisor.shut_down("v01", name, 7, timeout_seconds=SOON) == Done("it was gone already")


class Guest:
    """The only domain of a handle: what libvirt's drivers here do not do of themselves."""

    def __init__(self, state=libvirt.VIR_DOMAIN_RUNNING, on_shutdown=lambda guest: None):
        self.id, self.current, self.on_shutdown, self.calls = 7, state, on_shutdown, []

    def lookupByName(self, _name):  # noqa: N802  libvirt's name
        return self

    def isAlive(self):  # noqa: N802  libvirt's name
        return True

    def ID(self):  # noqa: N802  libvirt's name
        return self.id

    def state(self):
        return self.current, 0

    def shutdown(self):
        self.calls.append("shutdown")
        self.on_shutdown(self)

    def destroy(self):
        self.calls.append("destroy")
        self.id = -1

    def close(self):
        pass


@pytest.fixture
def with_handle(monkeypatch):
    """Give a hypervisor that gets this handle, whatever it connects to."""
    made = []

    def make(handle):
        monkeypatch.setattr(
            libvirt_hypervisor._Connection, "__init__", lambda self, _uri: setattr(self, "handle", handle)
        )
        made.append(LibvirtHypervisor({"v01": "test:///default"}))
        return made[-1]

    yield make
    for hypervisor in made:
        hypervisor.close()


def test_a_crashed_domain_that_xen_preserves_is_ended_without_waiting(with_handle):
    guest = Guest(libvirt.VIR_DOMAIN_SHUTOFF)
    begun = time.monotonic()
    assert with_handle(guest).shut_down("v01", "voms01", 7, timeout_seconds=10 * SOON) == Done()
    assert guest.calls == ["destroy"]
    assert time.monotonic() - begun < SOON


def test_a_domain_that_came_back_with_another_id_is_left_alone(with_handle):
    """It was asked to end, so there is no saying that nothing came of that."""
    guest = Guest(on_shutdown=lambda guest: setattr(guest, "id", 8))
    outcome = with_handle(guest).shut_down("v01", "voms01", 7, timeout_seconds=10 * SOON)
    assert isinstance(outcome, Indeterminate)
    assert "its id is 8 now" in outcome.reason
    assert guest.calls == ["shutdown"]


def test_a_guest_that_cannot_be_asked_is_ended_at_the_deadline(with_handle):
    def refuse(_guest):
        raise libvirt.libvirtError("no handlers")

    guest = Guest(on_shutdown=refuse)
    assert with_handle(guest).shut_down("v01", "voms01", 7, timeout_seconds=0.5) == Done()
    assert guest.calls == ["shutdown", "destroy"]


def test_the_definition_is_that_of_the_inactive_domain(hypervisor, handle):
    domain = handle.defineXML(xml_of())
    domain.create()
    root = ET.fromstring(hypervisor.definition("v01", "voms01", timeout_seconds=SOON))
    assert (root.findtext("name"), root.findtext("uuid"), root.get("id")) == (
        "voms01",
        domain.UUIDString(),
        None,
    )


def test_what_is_not_defined_has_no_definition(hypervisor, handle):
    handle.createXML(xml_of("transient01"))
    for name in ("transient01", "voms99"):
        assert hypervisor.definition("v01", name, timeout_seconds=SOON) is None


def test_a_definition_is_put_there_once(hypervisor, handle):
    assert hypervisor.define("v01", "voms01", xml_of(), anew=False, timeout_seconds=SOON) == Done()
    domain = handle.lookupByName("voms01")
    assert (domain.isPersistent(), domain.isActive(), domain.autostart()) == (True, False, False)
    definition = hypervisor.definition("v01", "voms01", timeout_seconds=SOON)
    again = hypervisor.define("v01", "voms01", definition, anew=False, timeout_seconds=SOON)
    assert again == Done("is defined there already")


def test_another_definition_is_kept(hypervisor, handle):
    domain = handle.defineXML(xml_of(memory_mib=2))
    before = domain.XMLDesc()
    for prepare in (lambda: None, domain.create):
        prepare()
        outcome = hypervisor.define("v01", "voms01", xml_of(memory_mib=4), anew=False, timeout_seconds=SOON)
        assert outcome == Done("is defined there already, differently")
    domain.destroy()
    assert domain.XMLDesc() == before


def test_another_definition_is_replaced_under_its_own_uuid(hypervisor, handle):
    domain = handle.defineXML(xml_of(memory_mib=2))
    uuid = domain.UUIDString()
    handle.defineXML(xml_of("voms02", memory_mib=4))
    kept = hypervisor.definition("v01", "voms02", timeout_seconds=SOON).replace("voms02", "voms01")
    assert uuid not in kept
    outcome = hypervisor.define("v01", "voms01", kept, anew=True, timeout_seconds=SOON)
    assert outcome == Done("was defined there differently, and is defined anew")
    domain = handle.lookupByName("voms01")
    assert (domain.UUIDString(), domain.maxMemory()) == (uuid, 4096)
    again = hypervisor.define("v01", "voms01", kept, anew=True, timeout_seconds=SOON)
    assert again == Done("is defined there already")


def test_what_is_active_is_not_defined_anew(hypervisor, handle):
    domain = handle.defineXML(xml_of(memory_mib=2))
    domain.create()
    before = domain.XMLDesc()
    outcome = hypervisor.define("v01", "voms01", xml_of(memory_mib=4), anew=True, timeout_seconds=SOON)
    assert isinstance(outcome, Failed)
    assert "active there" in outcome.reason
    assert domain.XMLDesc() == before


def test_what_libvirt_refuses_changes_nothing(hypervisor, handle):
    domain = handle.defineXML(xml_of())
    before = domain.XMLDesc()
    xml = "<domain type='test'><name>voms01</name></domain>"
    outcome = hypervisor.define("v01", "voms01", xml, anew=True, timeout_seconds=SOON)
    assert isinstance(outcome, Failed)
    assert handle.lookupByName("voms01").XMLDesc() == before


def test_nothing_is_left_to_start_by_itself(hypervisor, handle):
    domain = handle.defineXML(xml_of())
    domain.setAutostart(1)
    outcome = hypervisor.define("v01", "voms01", xml_of(), anew=False, timeout_seconds=SOON)
    assert isinstance(outcome, Done)
    assert not domain.autostart()


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (xml_of("voms02"), "is of voms02, not of voms01"),
        ("<domain", "is not XML"),
        ("<domain type='test'><name>voms01</name></domain>", "an os <type> must be specified"),
    ],
)
def test_a_wrong_definition_is_refused(hypervisor, handle, xml, words):
    outcome = hypervisor.define("v01", "voms01", xml, anew=False, timeout_seconds=SOON)
    assert isinstance(outcome, Failed)
    assert words in outcome.reason
    assert [domain.name() for domain in handle.listAllDomains()] == ["test"]


def test_a_domain_that_runs_without_a_definition_is_given_none(hypervisor, handle):
    domain = handle.createXML(xml_of())
    outcome = hypervisor.define("v01", "voms01", xml_of(), anew=False, timeout_seconds=SOON)
    assert isinstance(outcome, Failed)
    assert "active there without a definition" in outcome.reason
    assert not domain.isPersistent()


def test_capacity_on_xen_is_the_hypervisors(with_handle):
    class Dom0:
        def isAlive(self):  # noqa: N802  libvirt's name
            return True

        def getInfo(self):  # noqa: N802  libvirt's name
            return ["x86_64", 4096, 8, 2000, 1, 1, 8, 1]

        def getType(self):  # noqa: N802  libvirt's name
            return "Xen"

        def getFreeMemory(self):  # noqa: N802  libvirt's name
            return 123456789

        def close(self):
            pass

    assert with_handle(Dom0()).capacity("v01", timeout_seconds=SOON) == Capacity(123456789, 4096 << 20, 8)


def test_a_driver_whose_migration_cannot_be_ended_moves_nothing_live(hypervisor, handle):
    """libvirt's drivers for Xen and LXC, and here its test driver: all of its hosts are one."""
    domain = handle.defineXML(xml_of())
    domain.create()
    outcome = libvirt_changes.migrate(
        handle,
        name="voms01",
        domain_id=domain.ID(),
        options=LIVE,
        at_target=lambda: None,
        gate=libvirt_changes.Gate(),
    )
    assert isinstance(outcome, Failed)
    assert "TEST driver has no migration that can be bounded" in outcome.reason
    assert domain.isActive()


class Migrating(Guest):
    """A guest whose migration ends in this way, on its source."""

    def __init__(self, refusal, left):
        super().__init__()
        self.refusal, self.left = refusal, left

    def getType(self):  # noqa: N802  libvirt's name
        return "QEMU"

    def jobInfo(self):  # noqa: N802  libvirt's name
        return [libvirt.VIR_DOMAIN_JOB_NONE]

    def migrateSetMaxDowntime(self, milliseconds):  # noqa: N802  libvirt's name
        self.calls.append(milliseconds)

    def migrateToURI3(self, uri, _parameters, _flags):  # noqa: N802  libvirt's name
        self.calls.append(uri)
        if self.left is None:
            self.id = -1
        else:
            self.current = self.left
        if self.refusal:
            raise libvirt.libvirtError("operation failed")


RUNNING = Active(3, DomainState.RUNNING)
PAUSED = Active(3, DomainState.PAUSED)
CUT_OFF = Unanswered("libvirt on v02: no answer")


@pytest.mark.parametrize(
    ("refusal", "left", "at_target", "kind"),
    [
        (False, None, RUNNING, Done),
        (True, None, RUNNING, Done),  # the source heard no more of it
        (True, libvirt.VIR_DOMAIN_RUNNING, None, Failed),
        (True, libvirt.VIR_DOMAIN_PAUSED, None, Indeterminate),
        (True, libvirt.VIR_DOMAIN_RUNNING, PAUSED, Indeterminate),
        (True, libvirt.VIR_DOMAIN_RUNNING, RUNNING, Indeterminate),
        (True, libvirt.VIR_DOMAIN_RUNNING, CUT_OFF, Indeterminate),
        (True, None, None, Indeterminate),
        (True, None, PAUSED, Indeterminate),
        (False, None, CUT_OFF, Indeterminate),
        (False, None, PAUSED, Indeterminate),
        (False, libvirt.VIR_DOMAIN_RUNNING, RUNNING, Indeterminate),
        (False, libvirt.VIR_DOMAIN_RUNNING, None, Indeterminate),
    ],
)
def test_whatever_the_call_says_both_sides_are_read(monkeypatch, refusal, left, at_target, kind):
    monkeypatch.setattr(libvirt_changes, "SETTLE_SECONDS", 0.3)
    guest = Migrating(refusal, left)

    def read():
        if isinstance(at_target, Exception):
            raise at_target
        return at_target

    outcome = libvirt_changes.migrate(
        guest,
        name="voms01",
        domain_id=7,
        options=LIVE,
        at_target=read,
        gate=libvirt_changes.Gate(),
    )
    assert isinstance(outcome, kind)
    assert guest.calls == [300, LIVE.target_uri]
    if isinstance(at_target, Exception):
        assert "libvirt on v02: no answer" in outcome.reason


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("begins", [True, False])
def test_what_has_begun_and_is_not_answered_is_given_up(hypervisor, monkeypatch, begins, lost):
    if not lost:
        monkeypatch.setattr(libvirt_hypervisor, "OPEN_SECONDS", 0.5)
    release, given_up = threading.Event(), []

    def change(_handle, *, gate):
        if begins:
            gate.enter()
        release.wait(SOON)
        return Done()

    seconds = 1e6 if lost else 0
    outcome = hypervisor._hosts["v01"].change_apart(
        change, seconds, give_up=lambda: given_up.append(True), lost=lambda: lost
    )
    release.set()
    assert ("lost before it answered" in outcome.reason) == lost
    assert isinstance(outcome, Indeterminate if begins else Failed)
    assert given_up == ([True] if begins else [])


# ---- guests that do something ----------------------------------------------------------------------------


@contextlib.contextmanager
def two_hosts():
    """Two hosts with a link between them."""
    with network_namespace({}) as one, network_namespace({}) as two, contextlib.ExitStack() as stack:
        Link((one, two)).lay()
        yield (
            stack.enter_context(Libvirtd("v01", one.name)),
            stack.enter_context(Libvirtd("v02", two.name)),
        )


@pytest.fixture(scope="module")
def pair():
    with two_hosts() as pair:
        yield pair


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """A block device that both hosts see, as a DRBD device that is Primary on both."""
    with loop_device(tmp_path_factory.mktemp("disk") / "disk.raw") as device:
        yield str(device)


class Moved:
    """A guest on two hosts, seen by a way that is not the one under test."""

    def __init__(self, pair, device):
        self.libvirtds, self.device = pair, device
        self.hypervisor = LibvirtHypervisor({each.hostname: each.uri for each in pair})

    def defined(self, sector):
        Path(self.device).write_bytes(sector)
        with self.opened(0) as handle:
            handle.defineXML(self.libvirtds[0].guest("voms01", memory_mib=32, device=self.device))

    def started(self, sector):
        """Start it on v01 and give its id, when its boot sector runs."""
        self.defined(sector)
        with self.domain(0) as domain:
            domain.create()
            at = FLAG if sector == OBEDIENT else COUNTER
            until(lambda: any(domain.memoryPeek(at, 4, libvirt.VIR_MEMORY_PHYSICAL)), "its boot sector")
            return domain.ID()

    def slowed(self):
        """Have its migration never come to an end."""
        with self.domain(0) as domain:
            domain.migrateSetMaxSpeed(1)

    def move(self, domain_id, options=LIVE, timeout_seconds=SOON, lost=lambda: False):
        return self.hypervisor.migrate(
            "v01", "v02", "voms01", domain_id, options, timeout_seconds=timeout_seconds, lost=lost
        )

    @contextlib.contextmanager
    def moving(self, domain_id, **more):
        """Have it moved meanwhile; gives a list that has the outcome afterwards."""
        outcomes = []
        mover = threading.Thread(target=lambda: outcomes.append(self.move(domain_id, **more)))
        mover.start()
        until(self.migrating, "the migration")
        yield outcomes
        mover.join(SOON)
        assert outcomes

    def counts(self, host):
        """Whether it does its work there."""
        with self.domain(host) as domain:
            seen = domain.memoryPeek(COUNTER, 4, libvirt.VIR_MEMORY_PHYSICAL)
            until(lambda: domain.memoryPeek(COUNTER, 4, libvirt.VIR_MEMORY_PHYSICAL) != seen, "its work")
        return True

    def id_on(self, host):
        """None: nothing of it is active there."""
        try:
            with self.domain(host) as domain:
                return domain.ID() if domain.isActive() else None
        except libvirt.libvirtError:
            return None

    def migrating(self):
        with self.domain(0) as domain:
            return domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_UNBOUNDED

    @contextlib.contextmanager
    def opened(self, host):
        handle = libvirt.open(self.libvirtds[host].uri)
        try:
            yield handle
        finally:
            handle.close()

    @contextlib.contextmanager
    def domain(self, host):
        with self.opened(host) as handle:
            yield handle.lookupByName("voms01")

    def clear(self):
        self.hypervisor.close()
        for host in (0, 1):
            with contextlib.suppress(libvirt.libvirtError), self.domain(host) as domain:
                with contextlib.suppress(libvirt.libvirtError):
                    domain.destroy()
                domain.undefine()


@pytest.fixture
def guest(pair, device):
    moved = Moved(pair, device)
    yield moved
    moved.clear()


# ---- shut down -------------------------------------------------------------------------------------------


@pytest.mark.daemons
def test_a_real_guest_obeys(guest):
    number = guest.started(OBEDIENT)
    assert guest.hypervisor.shut_down("v01", "voms01", number, timeout_seconds=SOON) == Done()
    with guest.domain(0) as domain:
        assert domain.state() == [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN]


@pytest.mark.daemons
@pytest.mark.parametrize("hangs", [False, True])
def test_a_real_guest_that_does_not_hear_is_ended(guest, hangs):
    """With ``hangs`` its monitor hangs too, and the call that asks with it."""
    number = guest.started(restless())
    pid = guest.libvirtds[0].qemu_pid("voms01")
    if hangs:
        os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    assert guest.hypervisor.shut_down("v01", "voms01", number, timeout_seconds=1) == Done()
    assert 1 <= time.monotonic() - begun < SOON
    assert guest.id_on(0) is None
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.daemons
def test_capacity_is_what_can_be_had_without_swapping(guest):
    capacity = guest.hypervisor.capacity("v01", timeout_seconds=SOON)
    meminfo = {
        line.split(":")[0]: int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
    }
    assert capacity.cpus == os.cpu_count()
    assert capacity.memory_bytes == pytest.approx(meminfo["MemTotal"], abs=1 << 20)
    free = meminfo["MemFree"] + meminfo["Buffers"] + meminfo["Cached"]
    assert capacity.free_memory_bytes == pytest.approx(free, rel=0.2)
    assert capacity.free_memory_bytes > meminfo["MemFree"]


@pytest.mark.daemons
def test_what_libvirt_starts_by_itself(guest):
    guest.started(OBEDIENT)
    for on, said in ((True, {"voms01"}), (False, set())):
        with guest.domain(0) as domain:
            domain.setAutostart(on)
        assert guest.hypervisor.host_view("v01", timeout_seconds=SOON).autostarted == said


@pytest.mark.daemons
def test_a_definition_goes_from_host_to_host(guest):
    guest.defined(OBEDIENT)
    definition = guest.hypervisor.definition("v01", "voms01", timeout_seconds=SOON)
    assert guest.hypervisor.define("v02", "voms01", definition, anew=False, timeout_seconds=SOON) == Done()
    assert guest.hypervisor.definition("v02", "voms01", timeout_seconds=SOON) == definition
    again = guest.hypervisor.define("v02", "voms01", definition, anew=False, timeout_seconds=SOON)
    assert again == Done("is defined there already")
    assert guest.hypervisor.start("v02", "voms01", timeout_seconds=SOON) == Done()


# ---- live ------------------------------------------------------------------------------------------------


@pytest.mark.daemons
def test_a_running_guest_moves_and_stays_defined_on_both(guest):
    number = guest.started(restless())
    assert guest.move(number) == Done()
    assert guest.counts(1)
    assert guest.id_on(0) is None
    for host in (0, 1):
        with guest.domain(host) as domain:
            assert (domain.isPersistent(), domain.autostart()) == (True, False)
    view = guest.hypervisor.look("v02", "voms01", timeout_seconds=SOON)
    assert (view.state, view.reason) == (DomainState.RUNNING, "migrated")


@pytest.mark.daemons
def test_a_move_that_takes_too_long_is_aborted(guest):
    number = guest.started(restless())
    guest.slowed()
    begun = time.monotonic()
    outcome = guest.move(number, timeout_seconds=2)
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("not done within 2 s: ")
    assert outcome.code == libvirt.VIR_ERR_OPERATION_ABORTED
    assert 2 <= time.monotonic() - begun < SOON
    assert (guest.id_on(0), guest.id_on(1)) == (number, None)
    assert guest.counts(0)


@pytest.mark.daemons
def test_a_move_that_a_person_cancels_has_failed(guest):
    number = guest.started(restless())
    guest.slowed()
    with guest.moving(number) as outcomes:
        host = guest.hypervisor._hosts["v01"]
        assert host._idle.qsize() == len(host._all)  # it has a connection of its own
        uri = guest.libvirtds[0].uri
        subprocess.run(["virsh", "-c", uri, "domjobabort", "voms01"], check=True, timeout=SOON)
    [outcome] = outcomes
    assert isinstance(outcome, Failed)
    assert not outcome.reason.startswith("not done within")
    assert (guest.id_on(0), guest.id_on(1)) == (number, None)
    assert guest.counts(0)


@pytest.mark.daemons
def test_with_post_copy_it_is_switched_at_the_deadline(guest):
    number = guest.started(restless())
    guest.slowed()
    options = LiveMigration(LIVE.migrate_uri, LIVE.target_uri, post_copy=True)
    # Long enough for its memory to be on the way then, also on a busy machine: before that nothing can be switched.
    assert guest.move(number, options, timeout_seconds=6) == Done()
    assert guest.counts(1)
    assert guest.id_on(0) is None


@pytest.mark.daemons
def test_what_is_not_the_running_guest_is_not_moved(guest):
    number = guest.started(restless())
    another = guest.move(number + 1)
    with guest.domain(0) as domain:
        domain.suspend()
        paused = guest.move(number)
        domain.resume()
    for outcome, words in ((another, "started again meanwhile"), (paused, "its state is paused")):
        assert isinstance(outcome, Failed)
        assert words in outcome.reason
    assert (guest.id_on(0), guest.id_on(1)) == (number, None)


@pytest.mark.daemons
def test_where_it_is_active_already_it_is_not_moved(guest):
    """It may be there because an earlier call is still moving it."""
    number = guest.started(restless())
    with guest.opened(1) as handle:
        xml = guest.libvirtds[1].guest("voms01")
        there = handle.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED).ID()
    outcome = guest.move(number)
    assert isinstance(outcome, Indeterminate)
    assert "on v02 it is paused" in outcome.reason
    assert (guest.id_on(0), guest.id_on(1)) == (number, there)


@pytest.mark.daemons
def test_what_does_not_run_on_the_source_may_have_been_moved_already(guest):
    guest.defined(OBEDIENT)
    assert isinstance(guest.move(1), Indeterminate)


@pytest.mark.daemons
def test_a_move_that_is_under_way_is_left_alone(guest, monkeypatch):
    """Also while the target does not show it yet."""
    number = guest.started(restless())
    guest.slowed()
    with guest.moving(number) as outcomes:
        assert isinstance(guest.move(number), Indeterminate)
        monkeypatch.setattr(libvirt_changes, "active", active_only_on(guest.libvirtds[0]))
        outcome = guest.move(number)
        assert isinstance(outcome, Indeterminate)
        assert "being moved" in outcome.reason
        monkeypatch.undo()
        assert guest.migrating()
        with guest.domain(0) as domain:
            domain.abortJob()
    assert isinstance(outcomes[0], Failed)


def active_only_on(libvirtd):
    active = libvirt_changes.active

    def only(handle, name):
        return active(handle, name) if str(libvirtd.base) in handle.getURI() else None

    return only


@pytest.mark.daemons
def test_a_disk_that_the_hosts_do_not_share_is_not_moved(guest):
    """libvirt's own check, which a flag would end."""
    with guest.opened(0) as handle:
        number = handle.createXML(guest.libvirtds[0].guest("voms01")).ID()
    outcome = guest.move(number)
    assert isinstance(outcome, Failed)
    assert "Unsafe migration" in outcome.reason
    assert (guest.id_on(0), guest.id_on(1)) == (number, None)


@pytest.mark.daemons
def test_a_target_that_the_source_cannot_reach_is_told(guest):
    number = guest.started(restless())
    outcome = guest.move(number, LiveMigration(LIVE.migrate_uri, f"qemu+tcp://{LINKED[1]}:1/system"))
    assert isinstance(outcome, Failed)
    assert "Connection refused" in outcome.reason
    assert (guest.id_on(0), guest.id_on(1)) == (number, None)
    assert guest.counts(0)


@pytest.mark.daemons
def test_a_move_whose_sources_libvirtd_dies_is_indeterminate(guest):
    number = guest.started(restless())
    guest.slowed()
    with guest.moving(number) as outcomes:
        guest.libvirtds[0].stop(signal.SIGKILL)
    guest.libvirtds[0].start()
    [outcome] = outcomes
    assert isinstance(outcome, Indeterminate)


@pytest.mark.daemons
def test_a_move_that_nobody_follows_any_more_is_aborted(guest, monkeypatch):
    monkeypatch.setattr(libvirt_hypervisor, "OPEN_SECONDS", 1)
    monkeypatch.setattr(libvirt_hypervisor, "ABORT_SECONDS", 2 - SOON)
    number = guest.started(restless())
    guest.slowed()
    outcome = guest.move(number)
    assert isinstance(outcome, Indeterminate)
    assert "no answer within" in outcome.reason
    until(lambda: not guest.migrating(), "the end of the migration", 5)
    # The source's job ends before libvirt has removed what waited on the target.
    until(lambda: guest.id_on(1) is None, "the end of what was on the target", 5)
    assert guest.id_on(0) == number
    assert guest.counts(0)


@pytest.mark.daemons
def test_a_target_that_answers_no_more_leaves_it_open(guest, monkeypatch):
    monkeypatch.setattr(libvirt_hypervisor, "ABORT_SECONDS", 2)
    monkeypatch.setattr(libvirt_hypervisor, "OPEN_SECONDS", 5)
    monkeypatch.setattr(libvirt_hypervisor, "SHORT_SECONDS", 1)
    number = guest.started(restless())
    guest.slowed()
    try:
        with guest.moving(number, timeout_seconds=2) as outcomes:
            guest.libvirtds[1].stand_still()
        assert isinstance(outcomes[0], Indeterminate)
    finally:
        os.kill(guest.libvirtds[1].pid, signal.SIGCONT)
    until(lambda: guest.id_on(0) == number and guest.id_on(1) is None, "the end of what was on the target")
    until(lambda: not guest.migrating(), "the end of the migration")
    assert guest.counts(0)
