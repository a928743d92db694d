"""What a host does that has lost, is cut off, or boots: the real program against fake drbdadm and virsh.

The fakes keep state in files and write down each call; DRBD's and libvirt's own behaviour is in tests/lab.
"""

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from actuator.model import Authority
from exporter import fence_peer, release
from exporter.drbd import parse_events2
from tests.actuator.deliveries import TOKENS, patient_journal, served
from tests.exporter.drbd_samples import command, drbd9, drbd84, snaps9, snaps84
from tests.exporter.test_fence_peer import is_of_one_moment

SOON = 20.0

# DRBD 8.4's four words about one minor, each a file: connection, role, disk, flags. What a command does at
# last it may do late: `act/COMMAND` is run by the shell first, and may end it.
DRBDADM = """\
#!/bin/sh
echo "drbdadm $*" >> {base}/calls
for resource; do :; done
say() {{ echo "$2" > {base}/drbd/$resource/$1; }}
hear() {{ cat {base}/drbd/$resource/$1; }}
if [ -f {base}/act/$1 ]; then . {base}/act/$1; fi
case $1 in
sh-resources) ls {base}/drbd ;;
dump-xml) cat {base}/xml/$resource ;;
disconnect) say connection StandAlone ;;
detach) say disk Diskless ;;
resume-io) say flags r----- ;;
secondary)
    if [ -e {base}/held ]; then echo "0: State change failed: (-12) Device is held open by someone" >&2; exit 11; fi
    say role Secondary ;;
down) say connection Unconfigured ;;
up) say connection WFConnection; say role Secondary; say disk UpToDate; say flags r----- ;;
*) exit 20 ;;
esac
{base}/bin/write-proc
"""
WRITE_PROC = """\
#!/bin/sh
minor=0
{{
    echo "version: 8.4.11 (api:1/proto:86-101)"
    for resource in {base}/drbd/*; do
        read connection < $resource/connection
        read role < $resource/role
        read disk < $resource/disk
        read flags < $resource/flags
        if [ $connection = Unconfigured ]; then
            [ -e {base}/forgets ] || echo " $minor: cs:Unconfigured"
        else
            echo " $minor: cs:$connection ro:$role/Unknown ds:$disk/DUnknown C $flags"
            echo "    ns:0 nr:0 dw:8 dr:8 al:1 bm:0 lo:0 pe:0 ua:0 ap:1 ep:1 wo:f oos:4"
        fi
        minor=$((minor + 1))
    done
}} > {base}/proc.$$
mv {base}/proc.$$ {base}/proc
"""
# Each running domain is a file with its XML, by UUID; `act/destroy` as above.
VIRSH = """\
#!/bin/sh
uri=$3
shift 3
echo "virsh $uri $*" >> {base}/calls
if [ -f {base}/act/virsh ]; then . {base}/act/virsh; fi
domains={base}/domains/${{uri%%:*}}
case $1 in
list) ls $domains ;;
dumpxml*) for word in $*; do
        uuid=${{word%;}}
        if [ -f $domains/$uuid ]; then cat $domains/$uuid; fi
    done ;;
destroy)
    if [ -f {base}/act/destroy ]; then . {base}/act/destroy; fi
    rm $domains/$2 {base}/held ;;
esac
"""
DOMAIN = "<domain type='xen'><name>{name}</name><uuid>{uuid}</uuid><devices>{devices}</devices></domain>\n"
DISK = "<disk type='block' device='disk'><source dev='{}'/><target dev='xvda'/></disk>"
UUID = "8d9f1b2c-0000-4000-8000-00000000000{}"


class Host:
    """v01, a frozen Primary of voms01 whose VM runs."""

    def __init__(self, base, port):
        self.base = base
        for folder in ("bin", "drbd", "xml", "act", "domains/xen", "domains/lxc", "locks"):
            (base / folder).mkdir(parents=True)
        for name, text in {"drbdadm": DRBDADM, "virsh": VIRSH, "write-proc": WRITE_PROC}.items():
            program = base / "bin" / name
            program.write_text(text.format(base=base))
            program.chmod(0o755)
        (base / "calls").touch()
        self.resource("voms01", minor=0)
        self.runs(1, "voms01", "/dev/drbd0")
        (base / "held").touch()
        (base / "token").write_text(TOKENS["v01"])
        self.config = base / "conf"
        self.configure(port)
        self.environment = {"DRBD_RESOURCE": "voms01", "DRBD_MINOR": "0", "DRBD_PEER": "v02"}

    def configure(self, *ports, **more):
        lines = [
            *(f"actuator 127.0.0.1:{port}" for port in ports),
            f"token_file {self.base}/token",
            "libvirt_uri xen:///system",
            "libvirt_uri lxc:///system",
            *(f"{key} {value}" for key, value in more.items()),
        ]
        (self.base / "conf.new").write_text("".join(f"{line}\n" for line in lines))
        (self.base / "conf.new").rename(self.config)

    def resource(self, name, minor, **said):
        words = {"connection": "WFConnection", "role": "Primary", "disk": "UpToDate", "flags": "s-----"}
        folder = self.base / "drbd" / name
        folder.mkdir(exist_ok=True)
        for word, value in {**words, **said}.items():
            (folder / word).write_text(f"{value}\n")
        (self.base / "xml" / name).write_text(
            f"<resource name='{name}'>"
            + "".join(
                f"<host name='{host}'><volume vnr='0'><device minor='{minor}'>/dev/drbd{minor}</device></volume></host>"
                for host in ("v01", "v02")
            )
            + "</resource>\n"
        )
        self.refresh()

    def refresh(self):
        subprocess.run([str(self.base / "bin" / "write-proc")], check=True, timeout=SOON)

    def runs(self, number, name, *devices, uri="xen", xml=None):
        devices = xml or "".join(DISK.format(device) for device in devices)
        text = DOMAIN.format(name=name, uuid=UUID.format(number), devices=devices)
        (self.base / "domains" / uri / UUID.format(number)).write_text(text)

    def running(self):
        return sorted(path.name[-1] for path in (self.base / "domains").rglob("8d*"))

    def says(self, word, resource="voms01"):
        return (self.base / "drbd" / resource / word).read_text().strip()

    def acts(self, name, script):
        """What a command does before it does what it should."""
        (self.base / "act" / name).write_text(textwrap.dedent(script))

    def calls(self, *programs):
        lines = (self.base / "calls").read_text().splitlines()
        return [line for line in lines if not programs or line.startswith(programs)]

    def steps(self):
        return [
            line.split()[1]
            for line in self.calls("drbdadm")
            if line.split()[1] not in {"dump-xml", "sh-resources"}
        ]

    def run(self, *arguments):
        return fence_peer.run(arguments, self.environment, str(self.config), str(self.base / "proc"))

    def started(self, *arguments):
        """It runs beside the test, and is over at its end."""
        statuses = []
        thread = threading.Thread(target=lambda: statuses.append(self.run(*arguments)), daemon=True)
        thread.start()
        return thread, statuses


@pytest.fixture(autouse=True)
def said(monkeypatch):
    """In seconds as short as they may be; what goes to syslog."""
    sentences = []
    for module in (fence_peer, release):
        monkeypatch.setattr(module, "say", sentences.append)
    monkeypatch.setattr(fence_peer, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(fence_peer, "ASK_SECONDS", SOON)
    monkeypatch.setattr(fence_peer, "PATIENCE_SECONDS", dict.fromkeys(fence_peer.HOOKS, 0.3))
    monkeypatch.setattr(release, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(release, "STEP_SECONDS", SOON)
    monkeypatch.setattr(release, "BACKOFF_SECONDS", (0.02, 0.1))
    monkeypatch.setattr(release, "WITNESS_SECONDS", 0.2)
    monkeypatch.setattr(release, "MAX_FAILURES", 2)
    monkeypatch.setattr(socket, "gethostname", lambda: "v01")
    return sentences


@pytest.fixture
def journal(tmp_path):
    """v02 was granted voms01 alone: v01 has lost it."""
    journal = patient_journal(tmp_path / "journal")
    lost = Authority("voms01", ("v01", "v02"), 1, "v02", frozenset({"v02"}), granted=True, newest=True)
    journal.commit(authorities=[lost])
    yield journal
    journal.close()


@pytest.fixture
def port(journal):
    with served(journal) as receiver:
        yield receiver.port


@pytest.fixture
def host(tmp_path, port, monkeypatch):
    host = Host(tmp_path / "v01", port)
    monkeypatch.setattr(release, "LOCKS", str(host.base / "locks"))
    monkeypatch.setenv("PATH", f"{host.base}/bin:{os.environ['PATH']}")
    yield host
    while release._STARTED:
        process = release._STARTED.pop()
        process.kill()
        process.wait(SOON)


@pytest.fixture
def nobody():
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(what):
    deadline = time.monotonic() + SOON
    while not what():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


# ---- what it sees ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [label for label in snaps84() if is_of_one_moment(label)])
def test_proc_drbd_is_read_as_events2_is(label):
    capture = drbd84(label)
    snapshot, text = (
        parse_events2(command(capture, "drbdsetup events2 --now")),
        command(capture, "cat /proc/drbd"),
    )
    for resource in snapshot.resources:
        assert release._local_of_proc(text, [str(it.minor) for it in resource.devices]) == seen(resource)


@pytest.mark.parametrize(("label", "host_name"), tuple(snaps9()))
def test_events2_of_drbd_9_is_read_as_the_exporter_reads_it(label, host_name):
    text = drbd9(label, host_name, "events2-now-statistics.txt")
    for resource in parse_events2(text).resources:
        own = "".join(f"{line}\n" for line in text.splitlines() if f" name:{resource.name} " in f"{line} ")
        assert release._local_of_events2(own) == seen(resource)


def seen(resource):
    return release.Local(
        True,
        resource.role.value,
        all(connection.connection_state == "StandAlone" for connection in resource.connections),
        tuple(device.disk_state.value for device in resource.devices),
        bool(resource.suspended),
        connected=any(connection.connection_state == "Connected" for connection in resource.connections),
        meets_diskless=any(
            connection.connection_state == "Connected"
            and device.peer_disk_state == "Diskless"
            and not device.peer_client
            for connection in resource.connections
            for device in connection.peer_devices
        ),
    )


def test_what_is_down_is_down():
    for text in ("version: 8.4.11\n", "version: 8.4.11\n 0: cs:Unconfigured\n"):
        assert not release._local_of_proc(text, ["0"]).up
    assert not release._local_of_events2("exists -\n").up


# ---- the order ---------------------------------------------------------------------------------------------


def test_the_loser_is_freed_in_the_only_order_that_loses_nothing(host, journal):
    assert host.run("release", "voms01") == 0
    assert host.steps() == ["disconnect", "detach", "resume-io", "secondary", "down", "up"]
    assert "drbdadm detach --force voms01" in host.calls()
    assert f"virsh xen:///system destroy {UUID.format(1)}" in host.calls()
    assert host.running() == []
    assert (host.says("role"), host.says("connection")) == ("Secondary", "WFConnection")
    assert journal.authority("voms01").admitted == {"v02"}


def test_in_failed_nothing_is_resumed(host):
    """There, on 8.4, resume-io makes this loser the source."""
    host.acts("detach", f"say disk Failed; {host.base}/bin/write-proc; exit 0")
    thread, statuses = host.started("release", "voms01")
    wait_for(lambda: host.says("disk") == "Failed")
    thread.join(0.5)
    assert host.steps() == ["disconnect", "detach"]
    (host.base / "drbd" / "voms01" / "disk").write_text("Diskless\n")
    host.refresh()
    thread.join(SOON)
    assert statuses == [0]
    assert host.steps() == ["disconnect", "detach", "resume-io", "secondary", "down", "up"]


def test_what_is_refused_is_tried_again_and_never_passed_over(host):
    for step in ("disconnect", "detach", "resume-io", "secondary", "down"):
        host.acts(
            step,
            f"[ -e {host.base}/once-{step} ] || {{ touch {host.base}/once-{step}; echo no >&2; exit 11; }}",
        )
    assert host.run("release", "voms01") == 0
    steps = host.steps()
    assert [step for step, before in zip(steps, ["", *steps], strict=False) if step != before] == [
        *("disconnect", "detach", "resume-io", "secondary", "down", "up")
    ]
    assert all(steps.count(step) >= 2 for step in ("disconnect", "detach", "resume-io", "down"))


def test_a_device_that_is_held_open_is_waited_for(host):
    """libvirt said that the VM is gone; its process still had the device (seen with QEMU)."""
    host.acts("destroy", "rm $domains/$2; exit 0")
    thread, statuses = host.started("release", "voms01")
    wait_for(lambda: host.steps().count("secondary") > 1)
    assert "down" not in host.steps()
    (host.base / "held").unlink()
    thread.join(SOON)
    assert statuses == [0]


def test_a_vm_that_does_not_die_is_destroyed_again_and_hears_of_no_write_meanwhile(host):
    """A write that its own disk has, and the peer has not, is reported as done once I/O is resumed."""
    host.acts("destroy", "echo busy >&2; exit 1")
    thread, statuses = host.started("release", "voms01")
    wait_for(lambda: len(host.calls("virsh xen:///system destroy")) > 1 and host.says("disk") == "Diskless")
    thread.join(0.5)
    assert host.steps() == ["disconnect", "detach"]
    (host.base / "act" / "destroy").unlink()
    thread.join(SOON)
    assert statuses == [0]


def test_while_libvirt_does_not_answer_a_vm_may_be_there_and_nothing_is_resumed(host):
    host.runs(3, "box", uri="lxc", xml="<hostdev/>")
    host.acts("virsh", "if [ $uri = lxc:///system ]; then exit 1; fi")
    thread, statuses = host.started("release", "voms01")
    wait_for(lambda: host.says("disk") == "Diskless" and host.running() == ["3"])
    thread.join(0.5)
    assert host.steps() == ["disconnect", "detach"]
    (host.base / "act" / "virsh").unlink()
    thread.join(SOON)
    assert statuses == [0]


def test_without_a_libvirt_nothing_is_resumed(host, monkeypatch):
    monkeypatch.setattr(release, "RELEASE_SECONDS", 1)
    host.config.write_text(host.config.read_text().replace("libvirt_uri", "# "))
    with pytest.raises(fence_peer.HookError, match="waits before resume-io"):
        host.run("release", "voms01")
    assert host.steps() == ["disconnect", "detach"]


def test_a_logical_volume_on_the_device_may_be_a_vms(host, monkeypatch, tmp_path):
    monkeypatch.setattr(release, "SYS_BLOCK", str(tmp_path / "block"))
    (tmp_path / "block" / "drbd0" / "holders" / "dm-7").mkdir(parents=True)
    thread, statuses = host.started("release", "voms01")
    wait_for(lambda: host.says("disk") == "Diskless" and host.running() == [])
    thread.join(0.5)
    assert host.steps() == ["disconnect", "detach"]
    (tmp_path / "block" / "drbd0" / "holders" / "dm-7").rmdir()
    thread.join(SOON)
    assert statuses == [0]


def test_one_that_was_cut_short_is_gone_on_with(host):
    host.resource("voms01", 0, connection="StandAlone", disk="Diskless")
    assert host.run("release", "voms01") == 0
    assert host.steps() == ["resume-io", "secondary", "down", "up"]


def test_what_somebody_else_brought_back_is_left_alone(host):
    host.acts(
        "secondary",
        f"say disk UpToDate; say connection Connected; {host.base}/bin/write-proc; exit 1",
    )
    with pytest.raises(fence_peer.HookError, match="somebody else"):
        host.run("release", "voms01")
    assert host.steps() == ["disconnect", "detach", "resume-io", "secondary"]


@pytest.mark.parametrize("said", ["connection Connected", "connection StandAlone", "role Secondary"])
def test_one_that_met_its_peer_again_and_goes_on_keeps_its_disk(host, said):
    host.acts("disconnect", f"say flags r-----; say {said}; {host.base}/bin/write-proc; exit 0")
    with pytest.raises(fence_peer.HookError, match="goes on"):
        host.run("release", "voms01")
    assert (host.steps(), host.says("disk")) == (["disconnect"], "UpToDate")


def test_it_does_not_try_for_ever(host, monkeypatch):
    monkeypatch.setattr(release, "RELEASE_SECONDS", 0.5)
    host.acts("detach", "echo no >&2; exit 10")
    with pytest.raises(fence_peer.HookError, match=r"stopped after 0\.5 s: detach --force: no"):
        host.run("release", "voms01")
    assert set(host.steps()) == {"disconnect", "detach"}


def test_a_step_that_hangs_is_bounded(host, monkeypatch):
    monkeypatch.setattr(release, "STEP_SECONDS", 0.3)
    host.acts("disconnect", f"[ -e {host.base}/once ] || {{ touch {host.base}/once; exec sleep 60; }}")
    assert host.run("release", "voms01") == 0
    assert host.steps()[:3] == ["disconnect", "disconnect", "detach"]


# ---- only when told ----------------------------------------------------------------------------------------


def test_the_arbiter_has_the_last_word(host, journal, said):
    """What was true when the handler asked may not be any more: a person has taken this replica instead."""
    lost = journal.authority("voms01")
    accepted = Authority("voms01", ("v01", "v02"), lost.version + 1, "v01", frozenset({"v01"}))
    journal.commit(authorities=[accepted])
    assert host.run("release", "voms01") == 1
    assert (host.steps(), host.running()) == ([], ["1"])
    assert any("does not say so" in sentence for sentence in said)


def test_a_wait_releases_nothing(host, journal):
    """v02 holds the authority and was not granted: this may be the only running copy."""
    lost = journal.authority("voms01")
    journal.commit(
        authorities=[Authority("voms01", ("v01", "v02"), lost.version + 1, "v02", frozenset({"v01", "v02"}))]
    )
    thread, _ = host.started("release", "voms01")
    thread.join(1)
    assert thread.is_alive()
    assert (host.steps(), host.running()) == ([], ["1"])
    host.resource("voms01", 0, connection="Connected", flags="r-----")  # it ends
    thread.join(SOON)


def test_handlers_that_begin_later_do_not_silence_it(host, port):
    """DRBD starts one when the resource turns StandAlone. It finds this running, and leaves it to it."""
    question = fence_peer.question_of("fence-peer", "voms01", host.environment)
    later = question | {"began_ns": question["began_ns"] + 10**12}
    fence_peer.exchange(fence_peer.Actuator("127.0.0.1", port), TOKENS["v01"], later)
    thread, statuses = host.started("release", "voms01")
    thread.join(SOON)
    assert statuses == [0]


def test_it_runs_once(host):
    with (host.base / "locks" / "vmheal-release-voms01").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert host.run("release", "voms01") == 0
    assert (host.steps(), host.running()) == ([], ["1"])


def test_without_drbds_environment_the_configuration_says_it(host):
    host.environment = {}
    assert host.run("release", "voms01") == 0
    assert host.steps()[-1] == "up"
    with pytest.raises(fence_peer.HookError, match="drbdadm dump-xml nosuch"):
        host.run("release", "nosuch")


def test_the_handler_starts_it_and_does_not_wait_for_it(host, tmp_path, monkeypatch):
    """In a session of its own; the handler itself says no, whatever comes later."""
    program = tmp_path / "vmheal-fence-peer"
    program.write_text(f'#!/bin/sh\necho "$@ $DRBD_PEER $(ps -o sid= -p $$)" > {tmp_path}/told.new\n'
                       f"mv {tmp_path}/told.new {tmp_path}/told\nexec sleep 2\n")  # fmt: skip
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    begun = time.monotonic()
    assert host.run() == fence_peer.DENIED
    assert time.monotonic() - begun < SOON
    wait_for((tmp_path / "told").exists)
    *told, session = (tmp_path / "told").read_text().split()
    assert told == ["release", "voms01", "v02"]
    assert int(session) != os.getsid(0)
    assert host.running() == ["1"]  # the handler itself has touched nothing
    for process in release._STARTED:
        process.wait(SOON)


def test_the_programs_own_name_is_run(host):
    """As installed: one program that starts itself."""
    entry = host.base / "bin" / "vmheal-fence-peer"
    root = Path(fence_peer.__file__).parents[1]
    entry.write_text(
        f"#!{sys.executable}\nimport sys, socket\nsys.path.insert(0, {str(root)!r})\n"
        "from exporter import fence_peer, release\n"
        f"release.LOCKS = {str(host.base / 'locks')!r}\n"
        "socket.gethostname = lambda: 'v01'\n"
        "sys.exit(fence_peer.run(sys.argv[1:], __import__('os').environ,"
        f" {str(host.config)!r}, {str(host.base / 'proc')!r}))\n"
    )
    entry.chmod(0o755)
    done = subprocess.run(
        [str(entry)], env={**os.environ, **host.environment}, timeout=SOON, check=False, capture_output=True
    )
    assert done.returncode == fence_peer.DENIED, done.stderr
    wait_for(lambda: host.steps()[-1:] == ["up"])
    assert host.steps() == ["disconnect", "detach", "resume-io", "secondary", "down", "up"]
    assert host.running() == []


# ---- whose VM ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("xml", "uses"),
    [
        (DISK.format("/dev/drbd0"), True),
        (DISK.format("/dev/drbd0p1"), True),
        (DISK.format("/dev/drbd/by-res/voms01/0"), True),
        (DISK.format("/dev/drbd/by-res/voms01"), True),
        ("<disk><source file='/dev/drbd0'/></disk>", True),
        ("<disk><source dev='drbd:voms01'/></disk>", True),
        ("<disk><script path='block-drbd'/><source dev='voms01'/></disk>", True),
        (
            "<hostdev mode='capabilities' type='storage'><source><block>/dev/drbd0</block></source></hostdev>",
            True,
        ),
        ("<filesystem type='block'><source dev='/dev/drbd0'/></filesystem>", True),
        (DISK.format("/dev/drbd00"), False),
        (DISK.format("/dev/drbd1"), False),
        (DISK.format("/dev/drbd01"), False),
        (DISK.format("/dev/drbd1p0"), False),
        (DISK.format("/dev/drbd/by-res/voms01-2/0"), False),
        ("<disk><source dev='drbd:voms012'/></disk>", False),
        ("<disk><source dev='voms01'/></disk>", False),
        ("<disk device='cdrom'/><interface><source network='voms01' dev='voms01'/></interface>", False),
        ("<hostdev><source><char>/dev/drbd0</char></source></hostdev>", False),
    ],
)
def test_the_vm_is_the_one_that_has_the_device(host, xml, uses):
    host.runs(2, "other", xml=xml)
    found = [name for _, name in release.users("xen:///system", "voms01", ["0"])]
    assert ("other" in found) == uses


def test_a_link_to_the_device_is_the_device(host, tmp_path):
    (tmp_path / "link").symlink_to("/dev/drbd0")
    host.runs(2, "other", str(tmp_path / "link"))
    assert len(release.users("xen:///system", "voms01", ["0"])) == 2


def test_a_container_is_found_too_and_others_live_on(host):
    host.runs(2, "other", "/dev/drbd1")
    host.runs(3, "box", uri="lxc", xml="<hostdev><source><block>/dev/drbd0</block></source></hostdev>")
    assert not release.end_users(["xen:///system", "lxc:///system"], "voms01", ["0"])
    assert host.running() == ["2"]
    assert release.end_users(["xen:///system", "lxc:///system"], "voms01", ["0"])


@pytest.mark.parametrize(
    "act", ["echo no daemon >&2; exit 1", "exec sleep 60", "[ $1 = list ] || echo '<domain'"]
)
def test_a_libvirt_that_does_not_answer_hides_no_vm_of_another(host, monkeypatch, act, said):
    monkeypatch.setattr(release, "STEP_SECONDS", 0.3)
    host.acts("virsh", f"if [ $uri = lxc:///system ]; then\n{act}\nfi")
    host.runs(3, "box", uri="lxc", xml="<hostdev/>")
    assert not release.end_users(["lxc:///system", "xen:///system"], "voms01", ["0"])
    assert host.running() == ["3"]
    assert any("lxc:///system" in sentence for sentence in said)


# ---- isolation ---------------------------------------------------------------------------------------------


@pytest.fixture
def witness():
    """A host that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


UNREACHED = "255.255.255.255:9"  # nobody can be there


@contextlib.contextmanager
def asking(host):
    """The handler of a frozen Primary; connected again at the end."""
    thread, statuses = host.started()
    try:
        yield thread
    finally:
        host.resource("voms01", 0, connection="Connected", flags="r-----")
        thread.join(SOON)
        assert statuses == [fence_peer.DENIED]


def destroyed(host):
    return bool(host.calls("virsh xen:///system destroy"))


def test_an_isolated_host_ends_its_vm_and_goes_on_asking(host, nobody, journal):
    host.configure(nobody, isolation_timeout_seconds=0.5)
    begun = time.monotonic()
    thread, statuses = host.started()
    wait_for(lambda: destroyed(host))
    assert time.monotonic() - begun >= 0.5
    assert thread.is_alive()
    wait_for(lambda: host.running() == [])
    assert host.steps() == []  # its disk stays as it is
    lost = journal.authority("voms01")
    journal.commit(
        authorities=[Authority("voms01", ("v01", "v02"), lost.version + 1, "v01", frozenset({"v01"}))]
    )
    with served(journal, nobody):
        thread.join(SOON)
    assert statuses == [fence_peer.GRANTED]


def test_by_default_that_takes_five_seconds(host):
    config = fence_peer.read_config(str(host.config))
    assert (config.isolation_timeout_seconds, config.hard_timeout_seconds, config.witnesses) == (5, 60, ())


def test_a_configuration_that_is_spoilt_meanwhile_does_not_keep_an_isolated_vm_alive(nobody):
    """Whatever is wrong with it: what was read before counts."""
    read = [fence_peer.Config((("127.0.0.1", nobody),), "t", isolation_timeout_seconds=0.1)]
    looked = threading.Event()

    def configure():
        if read:
            return read.pop()
        raise ValueError("a fault of its own")

    def look_closer():
        looked.set()
        return SimpleNamespace(suspended=False)

    frozen = fence_peer.State("Primary", up_to_date=True, connected=False, peer_up_to_date=False)
    watch = release.Isolation(configure, lambda: frozen, look_closer, "voms01", {})
    watch.start()
    try:
        assert looked.wait(20)
        looked.clear()
        assert looked.wait(20)
        assert watch.is_alive()
    finally:
        watch.stop()


def test_a_host_that_is_answered_is_not_isolated(host, port, journal):
    """However long it waits."""
    lost = journal.authority("voms01")
    journal.commit(
        authorities=[Authority("voms01", ("v01", "v02"), lost.version + 1, "v02", frozenset({"v01", "v02"}))]
    )
    host.configure(port, isolation_timeout_seconds=1)
    with asking(host) as thread:
        thread.join(3)
        assert thread.is_alive()
        assert not destroyed(host)


def test_it_counts_from_the_last_answer(host, port, nobody, journal):
    lost = journal.authority("voms01")
    journal.commit(
        authorities=[Authority("voms01", ("v01", "v02"), lost.version + 1, "v02", frozenset({"v01", "v02"}))]
    )
    host.configure(port, isolation_timeout_seconds=1)
    with asking(host) as thread:
        thread.join(2)
        host.configure(nobody, isolation_timeout_seconds=1)
        silent = time.monotonic()
        wait_for(lambda: destroyed(host))
        assert 0.5 < time.monotonic() - silent < SOON


@pytest.mark.parametrize("refused", [False, True])
def test_a_witness_prolongs_a_vms_life_up_to_the_hard_timeout(host, nobody, witness, refused):
    reached = f"127.0.0.1:{nobody}" if refused else witness
    host.configure(nobody, isolation_timeout_seconds=0.3, hard_timeout_seconds=2, witness=reached)
    begun = time.monotonic()
    with asking(host) as thread:
        thread.join(1)
        assert not destroyed(host)
        wait_for(lambda: destroyed(host))
        assert time.monotonic() - begun >= 2


def test_a_witness_that_is_not_reached_prolongs_nothing(host, nobody):
    host.configure(nobody, isolation_timeout_seconds=0.3, hard_timeout_seconds=60, witness=UNREACHED)
    begun = time.monotonic()
    with asking(host):
        wait_for(lambda: destroyed(host))
        assert time.monotonic() - begun < SOON


@pytest.mark.parametrize(
    "said", [{"role": "Secondary"}, {"flags": "r-----"}, {"connection": "Unconfigured"}], ids=str
)
def test_only_a_frozen_primary_ends_its_vm(host, nobody, said):
    host.configure(nobody, isolation_timeout_seconds=0.1)
    host.resource("voms01", 0, **said)
    thread, _ = host.started()
    thread.join(1)
    assert not destroyed(host)
    host.resource("voms01", 0, connection="Connected", flags="r-----")
    thread.join(SOON)


def test_a_libvirt_that_comes_late_is_asked_again(host, nobody):
    host.acts("virsh", "exit 1")
    host.configure(nobody, isolation_timeout_seconds=0.1)
    with asking(host):
        wait_for(lambda: len(host.calls("virsh")) > 3)
        (host.base / "act" / "virsh").unlink()
        wait_for(lambda: host.running() == [])


# ---- coming up ---------------------------------------------------------------------------------------------


@pytest.fixture
def booting(host):
    """Two resources, both down."""
    for minor, name in enumerate(("voms01", "voms02")):
        host.resource(name, minor, connection="Unconfigured")
    return host


def test_at_boot_each_resource_is_asked_for_and_comes_up_as_a_secondary(booting, journal):
    both = frozenset({"v01", "v02"})
    journal.commit(authorities=[Authority("voms02", ("v01", "v02"), 1, "v01", both)])
    assert booting.run("up") == 0
    assert booting.steps() == ["up", "up"]
    assert journal.authority("voms02").admitted == {"v02"}  # the attached disk is suspect (R6)
    assert booting.calls("drbdadm")[0] == "drbdadm sh-resources"


def test_without_an_answer_nothing_is_attached_for_however_long(booting, nobody, journal):
    booting.configure(nobody)
    thread, statuses = booting.started("up")
    thread.join(1)
    assert thread.is_alive()
    assert booting.steps() == []
    with served(journal, nobody):
        thread.join(SOON)
    assert statuses == [0]
    assert booting.steps() == ["up", "up"]


def test_one_that_is_up_is_not_asked_for(booting, journal):
    """Asking would exclude it, and it may be the newest."""
    booting.resource("voms02", 1, connection="Connected", role="Secondary")
    both = frozenset({"v01", "v02"})
    journal.commit(authorities=[Authority("voms02", ("v01", "v02"), 1, "v01", both)])
    assert booting.run("up") == 0
    assert booting.calls("drbdadm up") == ["drbdadm up voms01"]
    assert journal.authority("voms02").admitted == both


def test_one_that_is_refused_holds_up_no_other(booting, journal):
    journal.commit(authorities=[Authority("voms02", ("v03", "v04"), 1, "v03", frozenset({"v03"}))])
    assert booting.run("up") == 1
    assert booting.calls("drbdadm up") == ["drbdadm up voms01"]  # the first time, and then it is up


@pytest.mark.parametrize(
    "act",
    [
        "echo '(104) Can not open backing device.' >&2; exit 10",
        "say connection WFConnection; say role Secondary; say disk Diskless; {base}/bin/write-proc; exit 0",
    ],
)
def test_nothing_stays_up_without_its_disk(booting, act):
    """A diskless peer counts as a reconnect (R4)."""
    booting.acts("up", act.format(base=booting.base))
    assert booting.run("up") == 1
    assert booting.steps() == 4 * ["up", "down"]
    assert booting.says("connection") == "Unconfigured"


def test_what_could_not_be_attached_is_tried_again(booting):
    """Seen on a busy host: drbdadm gave up on drbdsetup after its five seconds."""
    booting.acts(
        "up", f"[ -e {booting.base}/once ] || {{ touch {booting.base}/once; echo late >&2; exit 20; }}"
    )
    assert booting.run("up") == 0
    assert booting.steps() == ["up", "down", "up", "up"]


def test_a_configuration_that_drbdadm_does_not_read(booting):
    booting.acts("sh-resources", "echo 'drbd.d/voms01.res:3: conflicting use of IP' >&2; exit 10")
    with pytest.raises(fence_peer.HookError, match="conflicting use of IP"):
        booting.run("up")


def test_nothing_here_promotes_or_forces():
    """`resume-io` stands in one place, and nothing that makes data out of an old disk anywhere."""
    assert sorted(word for words in release.WORDS.values() for word in words) == [
        *("--force", "detach", "disconnect", "down", "resume-io", "secondary")
    ]
    for module in (fence_peer, release):
        source = Path(module.__file__).read_text()
        assert '"primary"' not in source
        assert "new-current-uuid" not in source
        assert source.count('"resume-io"') <= 1
