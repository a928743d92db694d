"""libvirt behind its port: on the test driver inside this process, and on real libvirtd with real QEMU guests."""

import contextlib
import gc
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import libvirt
import pytest

from actuator.adapters import libvirt_hypervisor, ssh, warm
from actuator.adapters.libvirt_hypervisor import LibvirtHypervisor, strict_uri
from actuator.adapters.ssh import Logins, SshAccess, SshHost
from actuator.adapters.ssh_program import ssh_program
from actuator.core.definition import needs
from actuator.model import Disk, DomainState, Done, Failed, GuestCpu, Indeterminate
from actuator.ports import Unanswered
from tests.host_command import forced
from tests.sshd import make_key, sshd, write_known_hosts

# Far above what anything here takes, far below pytest's own limit: an answer "in time" comes before it.
SOON = 20

ACCESS = SshAccess("10.10.0.1", Path("/etc/vmheal/key"), Path("/etc/vmheal/known hosts"), 22, "root")


def wait_until(condition, seconds=SOON):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


# ---- what is left behind ---------------------------------------------------------------------------------


def refuses(handle, *, gate=None):
    domain = handle.lookupByName("test")
    domain.create()  # is active already


@pytest.mark.parametrize("do", ["ask", "change", "change_apart"])
def test_no_object_of_libvirts_waits_for_the_garbage_collector(do):
    """Whoever drops the last of them says goodbye to libvirtd, and waits for its answer: not any thread."""
    hypervisor = LibvirtHypervisor({"v01": "test:///default"})
    hypervisor.states("v01", timeout_seconds=SOON)
    gc.collect()
    gc.disable()
    try:
        before = {id(it) for it in libvirt_objects()}
        host = hypervisor._hosts["v01"]
        with contextlib.suppress(Unanswered):
            more = [lambda: None, lambda: False] if do == "change_apart" else []
            getattr(host, do)(refuses, SOON, *more)
        wait_until(lambda: {id(it) for it in libvirt_objects()} <= before, 2)
    finally:
        gc.enable()
        hypervisor.close()


def libvirt_objects():
    return [it for it in gc.get_objects() if type(it) is libvirt.virDomain]


# ---- URIs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "complete"),
    [
        ("xen+ssh://v01/system", "xen+ssh://root@v01:22/system?"),
        ("qemu+libssh2://v01/system", "qemu+ssh://root@v01:22/system?"),
        ("lxc+libssh://anna@v01:2222/system", "lxc+ssh://anna@v01:2222/system?"),
        ("qemu+ssh://[fd00::1]/system", "qemu+ssh://root@[fd00::1]:22/system?"),
    ],
)
def test_ssh_uris_are_completed_with_our_program(uri, complete):
    strict = strict_uri(f"{uri}?sshauth=agent&no_tty=0&command=/bin/sh&known_hosts_verify=normal", ACCESS)
    assert strict.startswith(complete)
    program = quote(str(ssh_program(ACCESS.key_file, ACCESS.known_hosts_file)), safe="")
    assert strict.partition("?")[2].split("&") == [f"command={program}", "no_tty=1"]


def test_what_the_uri_itself_says_stands():
    strict = strict_uri("qemu+ssh://v01/system?keyfile=/k&known_hosts=/h&socket=/run/other", ACCESS)
    assert quote(str(ssh_program(Path("/k"), Path("/h"))), safe="") in strict
    assert "socket=%2Frun%2Fother" in strict


@pytest.mark.parametrize(
    "uri", ["qemu:///system", "test:///default", "qemu+tls://v01/system", "qemu+unix:///system"]
)
def test_other_uris_are_left_alone(uri):
    assert strict_uri(uri, ACCESS) == uri


@pytest.mark.parametrize("query", ["known_hosts_verify=ignore", "known_hosts_verify=auto", "no_verify=1"])
def test_a_uri_that_trusts_any_host_is_refused(query):
    with pytest.raises(ValueError, match="always verified"):
        strict_uri(f"qemu+ssh://v01/system?{query}", ACCESS)


# ---- on libvirt's test driver ----------------------------------------------------------------------------

DOMAIN = """
<domain type='test'>
  <name>{name}</name>
  <memory unit='MiB'>1</memory>
  <os><type>hvm</type></os>
  <devices>
    <disk type='block' device='disk'><source dev='/dev/drbd0'/><target dev='vda' bus='virtio'/></disk>
    <disk type='block' device='disk'><source dev='/dev/drbd1'/><target dev='vdb' bus='virtio'/><readonly/></disk>
    <disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>
  </devices>
</domain>
"""


@pytest.fixture(scope="module")
def handle():
    handle = libvirt.open("test:///default")
    yield handle
    handle.close()


@pytest.fixture
def hypervisor():
    hypervisor = LibvirtHypervisor({"v01": "test:///default"})
    hypervisor.states("v01", timeout_seconds=SOON)  # connected, for the tests with short deadlines
    yield hypervisor
    hypervisor.close()


@pytest.fixture
def domain(handle):
    domain = handle.defineXML(DOMAIN.format(name="voms01"))
    yield domain
    with contextlib.suppress(libvirt.libvirtError):
        domain.destroy()
    domain.undefine()


def test_the_host_of_the_test_driver(hypervisor, handle):
    """Its one network is always active; it has no word for processors, which is no answer against any."""
    view = hypervisor.host_view("v01", timeout_seconds=SOON)
    assert view.networks == {network.name() for network in handle.listAllNetworks()} == {"default"}
    cpu = GuestCpu("test", "i686", "<cpu mode='custom'><model>Penryn</model></cpu>")
    assert hypervisor.cpu_misses("v01", cpu, timeout_seconds=SOON) == ""


def test_a_domain_is_seen_as_it_is(hypervisor, domain):
    view = hypervisor.look("v01", "voms01", timeout_seconds=SOON)
    assert (view.name, view.uuid, view.state, view.id) == (
        "voms01",
        domain.UUIDString(),
        DomainState.SHUTOFF,
        None,
    )
    assert view.disks == (Disk("vda", "/dev/drbd0"), Disk("vdb", "/dev/drbd1", writable=False))
    domain.create()
    view = hypervisor.look("v01", "voms01", timeout_seconds=SOON)
    assert (view.state, view.id) == (DomainState.RUNNING, domain.ID())
    assert [disk.attached for disk in view.disks] == [True, True]
    domain.suspend()
    view = hypervisor.look("v01", "voms01", timeout_seconds=SOON)
    assert (view.state, view.reason) == (DomainState.PAUSED, "user")


def test_a_crashed_domain_says_so(hypervisor, domain):
    domain.create()
    domain.coreDump("/dev/null", libvirt.VIR_DUMP_CRASH)
    view = hypervisor.look("v01", "voms01", timeout_seconds=SOON)
    assert (view.state, view.reason, view.id) == (DomainState.SHUTOFF, "crashed", None)


def test_a_domain_that_is_not_defined_is_none(hypervisor):
    assert hypervisor.look("v01", "voms99", timeout_seconds=SOON) is None


def test_states_of_all(hypervisor, domain):
    assert hypervisor.states("v01", timeout_seconds=SOON) == {
        "voms01": DomainState.SHUTOFF,
        "test": DomainState.RUNNING,
    }


def test_start_and_start_again(hypervisor, domain):
    assert hypervisor.start("v01", "voms01", timeout_seconds=SOON) == Done()
    assert domain.isActive()
    again = hypervisor.start("v01", "voms01", timeout_seconds=SOON)
    assert isinstance(again, Failed)
    assert again.code == libvirt.VIR_ERR_OPERATION_INVALID
    assert "active already" in again.reason


def test_start_of_what_is_not_defined(hypervisor):
    outcome = hypervisor.start("v01", "voms99", timeout_seconds=SOON)
    assert isinstance(outcome, Failed)
    assert outcome.code == libvirt.VIR_ERR_NO_DOMAIN


def test_a_domain_that_lives_is_not_destroyed(hypervisor, domain):
    domain.create()
    for prepare, state in ((lambda: None, "running"), (domain.suspend, "paused")):
        prepare()
        outcome = hypervisor.destroy("v01", "voms01", domain.ID(), timeout_seconds=SOON)
        assert isinstance(outcome, Failed)
        assert state in outcome.reason
        assert domain.isActive()


def test_another_id_is_not_destroyed(hypervisor, domain):
    domain.create()
    outcome = hypervisor.destroy("v01", "voms01", domain.ID() + 1, timeout_seconds=SOON)
    assert isinstance(outcome, Failed)
    assert "started again meanwhile" in outcome.reason
    assert domain.isActive()


def test_what_is_gone_is_done(hypervisor, domain):
    assert isinstance(hypervisor.destroy("v01", "voms01", 7, timeout_seconds=SOON), Done)
    assert isinstance(hypervisor.destroy("v01", "voms99", 7, timeout_seconds=SOON), Done)


class Preserved:
    """A crashed domain that Xen preserves: shutoff, with an id. libvirt has no other driver that shows one."""

    def __init__(self, refuses=False):
        self.id, self.refuses, self.calls = 7, refuses, []

    def lookupByName(self, name):  # noqa: N802  libvirt's name
        return self

    def isAlive(self):  # noqa: N802  libvirt's name
        return True

    def ID(self):  # noqa: N802  libvirt's name
        return self.id

    def state(self):
        return libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED

    def close(self):
        pass

    def destroy(self):
        self.calls.append("destroy")
        if self.refuses:
            raise libvirt.libvirtError("Failed to terminate process 4711")
        self.id = -1


def preserved(monkeypatch, domain):
    """A hypervisor whose only domain is this one."""

    def connect(connection, uri):
        connection.handle = domain

    monkeypatch.setattr(libvirt_hypervisor._Connection, "__init__", connect)
    return LibvirtHypervisor({"v01": "test:///default"})


def test_a_preserved_crashed_domain_is_destroyed(monkeypatch):
    domain = Preserved()
    hypervisor = preserved(monkeypatch, domain)
    assert hypervisor.destroy("v01", "voms01", 7, timeout_seconds=SOON) == Done()
    assert domain.calls == ["destroy"]
    hypervisor.close()


def test_a_domain_that_is_still_there_after_destroy_is_not_called_gone(monkeypatch):
    hypervisor = preserved(monkeypatch, Preserved(refuses=True))
    outcome = hypervisor.destroy("v01", "voms01", 7, timeout_seconds=SOON)
    assert isinstance(outcome, Indeterminate)
    assert "still there. Failed to terminate process 4711" in outcome.reason
    hypervisor.close()


# ---- calls that hang -------------------------------------------------------------------------------------


def test_no_two_calls_share_a_connection(hypervisor):
    """libvirt's client crashes otherwise, see the module."""
    host, users, most, lock = hypervisor._hosts["v01"], Counter(), [], threading.Lock()

    def question(handle):
        with lock:
            users[id(handle)] += 1
            most.append(max(users.values()))
        threading.Event().wait(0.002)
        with lock:
            users[id(handle)] -= 1

    def work():
        for _ in range(30):
            host.ask(question, SOON)

    threads = [threading.Thread(target=work) for _ in range(2 * libvirt_hypervisor.MAX_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(users) == libvirt_hypervisor.MAX_CONNECTIONS


def test_no_connection_is_opened_while_others_do_not_come_about(monkeypatch):
    """A host that is so busy that logins fail is not given more of them."""
    opened, release = [], threading.Event()

    def open_connection(_uri):
        opened.append(True)
        assert release.wait(SOON)
        raise ConnectionError("later")

    monkeypatch.setattr(libvirt_hypervisor, "_Connection", open_connection)
    hypervisor = LibvirtHypervisor({"v01": "test:///default"})
    host = hypervisor._hosts["v01"]

    def ask():
        with pytest.raises(Unanswered):
            host.ask(str, 0.3)

    callers = [threading.Thread(target=ask) for _ in range(20)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(host._all) == libvirt_hypervisor.WARM_CONNECTIONS
    assert len(opened) == 1  # one after the other
    release.set()
    hypervisor.close()


def test_libvirt_and_ssh_log_in_to_a_host_one_after_the_other(monkeypatch):
    inside, logins, overlaps = threading.Semaphore(1), Counter(), []

    def log_in(who):
        if not inside.acquire(blocking=False):
            overlaps.append(who)
            return
        logins[who] += 1
        threading.Event().wait(0.02)  # long enough for another one to come in between
        inside.release()
        raise ConnectionError("later")

    monkeypatch.setattr(libvirt_hypervisor, "_Connection", lambda _uri: log_in("libvirt"))
    monkeypatch.setattr(ssh, "_SshConnection", lambda _access: log_in("ssh"))
    access = replace(ACCESS, logins=Logins())
    hypervisor = LibvirtHypervisor({"v01": "test:///default"}, {"v01": access.logins})
    over_ssh = SshHost("v01", access)
    wait_until(lambda: logins["ssh"] >= 2 and logins["libvirt"] >= 2 * libvirt_hypervisor.WARM_CONNECTIONS)
    over_ssh.close()
    hypervisor.close()
    assert overlaps == []


def test_a_login_that_hangs_keeps_nobody_out_for_long(monkeypatch):
    monkeypatch.setattr(ssh, "TURN_SECONDS", 0.1)
    logins = Logins()
    with logins.turn():  # raises at its end when somebody else has ended it
        hypervisor = LibvirtHypervisor({"v01": "test:///default"}, {"v01": logins})
        wait_until(hypervisor._hosts["v01"]._all_connected)
        hypervisor.close()


def test_what_waits_to_log_in_does_not_when_all_is_closed(monkeypatch):
    opened, logins = [], Logins()
    monkeypatch.setattr(libvirt_hypervisor, "_Connection", opened.append)
    with logins.turn():
        hypervisor = LibvirtHypervisor({"v01": "test:///default"}, {"v01": logins})
        keepers = [warm._keeper for warm in hypervisor._hosts["v01"]._all]
        hypervisor.close()
    for keeper in keepers:
        keeper.join(SOON)
        assert not keeper.is_alive()
    assert opened == []


def test_what_only_a_busy_time_needed_is_closed_again(monkeypatch):
    monkeypatch.setattr(libvirt_hypervisor, "PING_SECONDS", 0.05)
    hypervisor = LibvirtHypervisor({"v01": "test:///default"})
    host = hypervisor._hosts["v01"]
    wait_until(lambda: all(warm.connected for warm in host._all))
    several = threading.Barrier(libvirt_hypervisor.WARM_CONNECTIONS + 2)
    callers = [
        threading.Thread(target=lambda: host.ask(lambda _: several.wait(SOON), SOON)) for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    wait_until(lambda: len(host._all) == host._idle.qsize() == libvirt_hypervisor.WARM_CONNECTIONS)
    assert host.ask(lambda _: True, SOON)
    hypervisor.close()


def test_no_connection_is_closed_while_others_are_lost(monkeypatch):
    """It may be the only one that works."""
    monkeypatch.setattr(libvirt_hypervisor, "PING_SECONDS", 1000)
    hypervisor = LibvirtHypervisor({"v01": "test:///default"})
    host = hypervisor._hosts["v01"]
    host._grow()
    wait_until(lambda: all(warm.connected for warm in host._all))
    before = list(host._all)
    with monkeypatch.context() as patch:
        patch.setattr(host, "_all_connected", lambda: False)
        host._shrink()
        assert host._all == before
    host._shrink()
    assert len(host._all) == libvirt_hypervisor.WARM_CONNECTIONS
    hypervisor.close()


@pytest.mark.parametrize("late_seconds", [0, 60])
def test_a_call_that_hangs_is_answered_in_time_and_its_connection_used_again_only_when_it_answered_lately(
    hypervisor, monkeypatch, late_seconds
):
    monkeypatch.setattr(warm, "LATE_SECONDS", late_seconds)
    host, release, stuck = hypervisor._hosts["v01"], threading.Event(), []

    def hang(handle):
        stuck.append(handle)
        release.wait()
        assert handle.isAlive()  # nobody closed it under the call

    begun = time.monotonic()
    with pytest.raises(Unanswered, match=r"libvirt on v01: no answer within"):
        host.ask(hang, 0.2)
    assert time.monotonic() - begun < SOON
    handles = [host.ask(lambda handle: handle, SOON) for _ in range(10)]
    assert (stuck[0] in handles) is bool(late_seconds)
    release.set()


def test_more_hanging_calls_than_allowed_are_told_so(monkeypatch):
    monkeypatch.setattr(libvirt_hypervisor, "MAX_THREADS", 3)
    monkeypatch.setattr(libvirt_hypervisor, "PING_SECONDS", 1000)
    hypervisor = LibvirtHypervisor({"v01": "test:///default"})
    host, release = hypervisor._hosts["v01"], threading.Event()
    host.ask(lambda handle: None, SOON)
    begun = time.monotonic()
    for _ in range(5):
        with pytest.raises(Unanswered):
            host.ask(lambda handle: release.wait(), 0.3)
    with pytest.raises(Unanswered, match="3 earlier calls have not come back"):
        host.ask(lambda handle: None, 0.3)
    assert time.monotonic() - begun < SOON
    release.set()
    wait_until(lambda: contextlib.suppress(Unanswered) and host.ask(lambda handle: True, SOON))
    hypervisor.close()


@pytest.mark.parametrize("too_late", [True, False])
def test_a_change_that_its_caller_gave_up_begins_never_or_is_indeterminate(hypervisor, too_late):
    """Told "nothing was changed", the caller must be able to rely on it."""
    release, done, effects = threading.Event(), threading.Event(), []

    def change(handle, *, gate):
        try:
            if too_late:
                release.wait()
            gate.enter()
            effects.append("begun")
            release.wait()
            return Done()
        finally:
            done.set()

    outcome = hypervisor._hosts["v01"].change(change, 0.2)
    release.set()
    assert done.wait(SOON)
    if too_late:
        assert isinstance(outcome, Failed)
        assert outcome.reason.endswith("nothing was changed")
        assert effects == []
    else:
        assert isinstance(outcome, Indeterminate)
        assert effects == ["begun"]


def test_a_host_that_does_not_listen_is_told_at_once():
    hypervisor = LibvirtHypervisor({"v01": "qemu+ssh://root@127.0.0.1:1/system"})
    begun = time.monotonic()
    with pytest.raises(Unanswered, match=r"libvirt on v01: .*Connection refused"):
        hypervisor.look("v01", "voms01", timeout_seconds=10 * SOON)
    outcome = hypervisor.start("v01", "voms01", timeout_seconds=10 * SOON)
    assert isinstance(outcome, Failed)
    assert "nothing was changed" in outcome.reason
    assert time.monotonic() - begun < SOON
    hypervisor.close()


# ---- on a real libvirtd, over SSH ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def libvirtd():
    from tests.libvirtd import Libvirtd

    with Libvirtd() as libvirtd:
        yield libvirtd


@pytest.fixture(scope="module")
def ssh_access(libvirtd, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sshd")
    enter = ["nsenter", f"--target={libvirtd.pid}", "--mount", "--"]
    allowed = forced(folder, "domain voms01", f"definition_path {libvirtd.base}/disks/")
    with sshd(folder, environment={"HOME": str(folder)}, enter=enter, key_options=allowed) as server:
        known_hosts = server.known_hosts
        yield SshAccess(server.address, server.user_key, known_hosts, server.port, server.user, "vmheal-host")


@pytest.fixture
def over_ssh(ssh_access):
    hypervisor = LibvirtHypervisor({"v01": strict_uri("qemu+ssh://127.0.0.1/system", ssh_access)})
    yield hypervisor
    hypervisor.close()


@pytest.fixture
def guest(libvirtd):
    """A defined QEMU guest, not running; and a way to it that is not the one under test."""
    handle = libvirt.open(libvirtd.uri)
    guest = handle.defineXML(libvirtd.guest("voms01"))
    yield guest
    handle = libvirt.open(libvirtd.uri)  # the test may have restarted libvirtd
    guest = handle.lookupByName("voms01")
    with contextlib.suppress(libvirt.libvirtError):
        guest.destroy()
    guest.undefine()
    handle.close()


def is_active(libvirtd, name="voms01"):
    handle = libvirt.openReadOnly(libvirtd.uri)
    try:
        return bool(handle.lookupByName(name).isActive())
    finally:
        handle.close()


@pytest.mark.daemons
def test_a_killed_guest_is_seen_and_started_again(over_ssh, guest, libvirtd):
    for _ in range(2):
        assert over_ssh.start("v01", "voms01", timeout_seconds=SOON) == Done()
        view = over_ssh.look("v01", "voms01", timeout_seconds=SOON)
        assert (view.state, [disk.attached for disk in view.disks]) == (DomainState.RUNNING, [True])
        assert over_ssh.states("v01", timeout_seconds=SOON) == {"voms01": DomainState.RUNNING}
        pid = libvirtd.qemu_pid("voms01")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: over_ssh.look("v01", "voms01", timeout_seconds=SOON).id is None)
        view = over_ssh.look("v01", "voms01", timeout_seconds=SOON)
        assert (view.state, view.reason) == (DomainState.SHUTOFF, "crashed")
        assert isinstance(over_ssh.destroy("v01", "voms01", 1, timeout_seconds=SOON), Done)


@pytest.mark.daemons
def test_a_guest_whose_disk_cannot_be_opened_is_told_in_libvirts_words(over_ssh, guest, libvirtd):
    (libvirtd.base / "disks" / "voms01.raw").unlink()
    outcome = over_ssh.start("v01", "voms01", timeout_seconds=SOON)
    assert isinstance(outcome, Failed)
    assert "No such file" in outcome.reason
    assert outcome.code is not None
    assert not is_active(libvirtd)


@pytest.mark.daemons
def test_a_guest_that_hangs_is_seen_all_the_same(over_ssh, guest, libvirtd):
    guest.create()
    pid = libvirtd.qemu_pid("voms01")
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(3):
            view = over_ssh.look("v01", "voms01", timeout_seconds=5)
            assert view.state is DomainState.RUNNING
            assert over_ssh.states("v01", timeout_seconds=5) == {"voms01": DomainState.RUNNING}
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.daemons
def test_a_libvirtd_that_hangs_costs_one_deadline_and_starts_nothing_later(over_ssh, guest, libvirtd):
    over_ssh.look("v01", "voms01", timeout_seconds=SOON)
    libvirtd.stand_still()
    try:
        begun = time.monotonic()
        with pytest.raises(Unanswered, match="v01"):
            over_ssh.look("v01", "voms01", timeout_seconds=0.5)
        outcome = over_ssh.start("v01", "voms01", timeout_seconds=0.5)
        assert isinstance(outcome, Failed)
        assert "nothing was changed" in outcome.reason
        assert time.monotonic() - begun < SOON / 2
    finally:
        os.kill(libvirtd.pid, signal.SIGCONT)
    view = over_ssh.look("v01", "voms01", timeout_seconds=SOON)
    assert view.state is DomainState.SHUTOFF
    assert not is_active(libvirtd)
    assert over_ssh.start("v01", "voms01", timeout_seconds=SOON) == Done()


@pytest.mark.daemons
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_restarted_libvirtd_is_not_noticed_by_the_caller(over_ssh, guest, libvirtd, how):
    over_ssh.start("v01", "voms01", timeout_seconds=SOON)
    for _ in range(2):  # both warm connections have been used
        assert over_ssh.look("v01", "voms01", timeout_seconds=SOON).state is DomainState.RUNNING
    libvirtd.stop(how)
    begun = time.monotonic()
    with pytest.raises(Unanswered):
        over_ssh.look("v01", "voms01", timeout_seconds=SOON)
    assert time.monotonic() - begun < SOON
    libvirtd.start()
    assert over_ssh.look("v01", "voms01", timeout_seconds=SOON).state is DomainState.RUNNING


@pytest.mark.daemons
def test_a_broken_connection_is_replaced_before_a_change_too(over_ssh, guest, libvirtd):
    for _ in range(2):
        over_ssh.look("v01", "voms01", timeout_seconds=SOON)
    libvirtd.stop()
    libvirtd.start()
    assert over_ssh.start("v01", "voms01", timeout_seconds=SOON) == Done()


@pytest.mark.daemons
def test_an_idle_connection_that_hangs_is_replaced_before_it_is_needed(ssh_access, guest, monkeypatch):
    monkeypatch.setattr(libvirt_hypervisor, "PING_SECONDS", 0.2)
    monkeypatch.setattr(warm, "LATE_SECONDS", 1)
    hypervisor = LibvirtHypervisor({"v01": strict_uri("qemu+ssh://127.0.0.1/system", ssh_access)})
    warms = hypervisor._hosts["v01"]._all
    wait_until(lambda: all(it._current for it in warms))
    before = [it._current for it in warms]
    config = str(ssh_access.key_file.parent / "host.conf").encode()
    helpers = [
        int(entry.name)
        for entry in Path("/proc").glob("[0-9]*")
        if config in read(entry / "cmdline").split(b"\0")
        and b"exporter.host.command" in read(entry / "cmdline")
    ]
    assert len(helpers) >= len(before)
    for pid in helpers:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(
            lambda: all(it._current and it._current is not old for it, old in zip(warms, before, strict=True))
        )
    finally:
        for pid in helpers:
            os.kill(pid, signal.SIGKILL)
    hypervisor.close()


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def start_refused(handle, xml, name="needy"):
    """Why libvirt does not start a domain that is defined so."""
    domain = handle.defineXML(xml)
    try:
        with pytest.raises(libvirt.libvirtError) as refused:
            domain.create()
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            domain.destroy()
        domain.undefine()
    return str(refused.value)


@pytest.mark.daemons
@pytest.mark.parametrize("size", [4_000, 6_000, 10_000, 20_000, 60_000])
def test_a_definition_of_any_size_is_read(over_ssh, libvirtd, size):
    """Every look reads one. Over libvirt's libssh transport such an answer hung, depending on its size."""
    handle = libvirt.open(libvirtd.uri)
    text = f"<description>{'x' * size}</description>"
    domain = handle.defineXML(libvirtd.guest("voms01").replace("<memory unit", f"{text}<memory unit"))
    try:
        assert text in over_ssh.definition("v01", "voms01", timeout_seconds=SOON)
        assert over_ssh.look("v01", "voms01", timeout_seconds=SOON).state is DomainState.SHUTOFF
    finally:
        domain.undefine()
        handle.close()


@pytest.mark.daemons
def test_a_network_that_is_not_active_is_not_seen_and_nothing_is_started_on_it(over_ssh, libvirtd):
    handle = libvirt.open(libvirtd.uri)
    network = handle.networkDefineXML(
        "<network><name>lan</name><forward mode='bridge'/><bridge name='br77'/></network>"
    )
    try:
        guest = libvirtd.guest("needy", "<interface type='network'><source network='lan'/></interface>")
        assert needs(guest).networks == {"lan"}
        assert over_ssh.host_view("v01", timeout_seconds=SOON).networks == set()
        assert "network 'lan' is not active" in start_refused(handle, guest)
        network.create()
        assert over_ssh.host_view("v01", timeout_seconds=SOON).networks == {"lan"}
        network.destroy()
    finally:
        network.undefine()
        handle.close()


@pytest.mark.daemons
def test_nothing_is_started_on_a_bridge_that_is_not_there(libvirtd):
    handle = libvirt.open(libvirtd.uri)
    guest = libvirtd.guest("needy", "<interface type='bridge'><source bridge='br77'/></interface>")
    assert needs(guest).links == {"br77"}
    assert "br77" in start_refused(handle, guest)
    handle.close()


@pytest.mark.daemons
def test_a_processor_that_the_host_has_not_is_told_and_nothing_is_started_with_it(over_ssh, libvirtd):
    """Emulated QEMU has no AVX-512, whatever this machine has."""

    def guest(more):
        cpu = f"<cpu mode='custom' match='exact' check='partial'><model>qemu64</model>{more}</cpu>"
        return libvirtd.guest("needy").replace("<devices>", f"{cpu}<devices>", 1)

    wanting = guest("<feature policy='require' name='avx512f'/>")
    misses = over_ssh.cpu_misses("v01", needs(wanting).cpu, timeout_seconds=SOON)
    assert "Host CPU does not provide required features" in misses
    assert "avx512f" in misses
    assert over_ssh.cpu_misses("v01", needs(guest("")).cpu, timeout_seconds=SOON) == ""
    handle = libvirt.open(libvirtd.uri)
    assert "avx512f" in start_refused(handle, wanting)
    handle.close()
    unknown = GuestCpu("qemu", "x86_64", "<cpu mode='custom'><model>Nonsense</model></cpu>")
    with pytest.raises(Unanswered, match="Unknown CPU model Nonsense"):
        over_ssh.cpu_misses("v01", unknown, timeout_seconds=SOON)


@pytest.mark.daemons
def test_an_unknown_or_wrong_host_key_is_refused(ssh_access):
    # In a short path: of ssh's words, which name the file twice, libvirt takes no more than 1 KiB.
    with tempfile.TemporaryDirectory() as folder:
        _unknown_or_wrong_host_key(ssh_access, Path(folder))


def _unknown_or_wrong_host_key(ssh_access, folder):
    make_key(folder / "other")
    wrong, empty = folder / "wrong", folder / "empty"
    write_known_hosts(wrong, ssh_access.port, folder / "other")
    empty.touch()
    for known_hosts, words in (
        (wrong, "has changed and you have requested strict checking"),
        (empty, "Host key verification failed"),
    ):
        uri = strict_uri("qemu+ssh://127.0.0.1/system", replace(ssh_access, known_hosts_file=known_hosts))
        hypervisor = LibvirtHypervisor({"v01": uri})
        with pytest.raises(Unanswered, match=words):
            hypervisor.look("v01", "voms01", timeout_seconds=SOON)
        hypervisor.close()
    assert empty.read_bytes() == b""


@pytest.mark.daemons
def test_many_threads_for_many_calls_do_not_crash_libvirts_client(over_ssh, guest):
    """With a shared connection this test ends the interpreter (CVE-2024-4418)."""
    errors = []

    def work():
        try:
            for _ in range(100):
                assert over_ssh.look("v01", "voms01", timeout_seconds=SOON).name == "voms01"
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
