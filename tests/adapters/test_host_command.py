"""Programs by vmheal-host over a real OpenSSH server: the same promises as without it (`test_ssh`), at its own limits."""

import contextlib
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from actuator.adapters.drbd_storage import DrbdStorage
from actuator.adapters.host_command import HostCommand, OutputTooLargeError, RefusedError
from actuator.adapters.ssh import MAX_PROGRAMS, SshAccess, SshHost
from actuator.adapters.warm import NotConnectedError
from actuator.model import Allowed, Failed
from exporter.host import serve
from tests.host_command import forced
from tests.lab.waiting import wait_until
from tests.sshd import sshd

pytestmark = pytest.mark.daemons

SOON = 30
DRBDADM = """#!/bin/sh
case $2 in
    pid) echo $PPID ;;
    both) echo "a b"; echo "äö" >&2; exit 3 ;;
    killed) kill -9 $$ ;;
    secrets) cat {base}/secrets ;;
    slow) sleep 1; echo well ;;
    hang) echo $$ >> {base}/hanging; exec sleep 60 ;;
    endless) yes ;;
    large) head -c 1000000 /dev/zero ;;
    cut) echo $$ >> {base}/hanging; kill -9 $PPID; exec sleep 60 ;;
esac
echo "$*" >> {base}/ran
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("host")
    program = folder / "bin" / "drbdadm"
    program.parent.mkdir()
    program.write_text(DRBDADM.replace("{base}", str(folder)))
    program.chmod(0o755)
    return folder


@pytest.fixture
def base(folder):
    """The folder of the server, in which nothing has been run and nothing hangs."""
    for name in ("ran", "hanging"):
        (folder / name).write_text("")
    yield folder
    for pid in hanging(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def access(folder):
    options = forced(folder, "resource *", "domain vm1", f"path {folder / 'bin'}:/usr/bin:/bin")
    with sshd(folder, key_options=options) as server:
        known_hosts = server.known_hosts
        yield SshAccess(server.address, server.user_key, known_hosts, server.port, server.user, "vmheal-host")


@pytest.fixture(scope="module")
def v01(access):
    with contextlib.closing(SshHost("v01", access)) as ssh:
        pid_of(ssh)
        yield ssh


def get(ssh, what, seconds=SOON):
    """A program that changes nothing."""
    return ssh.run(["drbdadm", "get-gi", what], seconds)


def change(ssh, what, seconds=SOON):
    return ssh.run(["drbdadm", "primary", what], seconds)


def pid_of(ssh):
    """vmheal-host's process."""
    return int(get(ssh, "pid").stdout)


def hanging(base):
    return [int(it) for it in (base / "hanging").read_text().split() if Path(f"/proc/{it}").exists()]


def test_output_and_status_arrive_as_they_were(v01):
    result = get(v01, "both")
    assert (result.exit_status, result.stdout, result.stderr) == (3, "a b\n", "äö\n")
    assert get(v01, "killed").exit_status is None
    assert get(v01, "large").stdout == "\0" * 1_000_000
    missing = v01.run(["drbdsetup", "show"], SOON)
    assert (missing.exit_status, missing.stderr) == (127, "drbdsetup: No such file or directory")


def test_a_shared_secret_stays_on_its_host(v01, base):
    said = (
        'net {\tshared-secret\t"S"; }\n"shared-secret": "S",\n<option name="shared-secret" value="S"/> "S"\n'
    )
    (base / "secrets").write_text(said)
    assert get(v01, "secrets").stdout == said.replace('"S";', '"";').replace('"S",', '"",').replace(
        '"S"/', '""/'
    )


def test_many_programs_share_one_process(v01):
    pids = []
    threads = [threading.Thread(target=lambda: pids.append(pid_of(v01))) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 40
    assert len(set(pids)) == 1


def test_they_run_beside_each_other(v01):
    assert MAX_PROGRAMS < serve.MAX_RUNNING
    slow = threading.Thread(target=lambda: get(v01, "slow"))
    slow.start()
    begun = time.monotonic()
    get(v01, "pid")
    answered = time.monotonic() - begun
    slow.join()
    assert answered < time.monotonic() - begun


def test_what_is_not_allowed_is_told_and_the_connection_kept(v01, base, access):
    pid = pid_of(v01)
    for argv in (["id"], ["drbdadm", "invalidate", "vm1"], ["drbdadm", "primary", "--force", "vm1"]):
        with pytest.raises(RefusedError, match=r"refused by vmheal-host: run: .* is not in the list"):
            v01.run(argv, SOON)
    with pytest.raises(RefusedError, match="'/etc/shadow' is not in the list"):
        v01.read("/etc/shadow", SOON)
    assert pid_of(v01) == pid
    with contextlib.closing(DrbdStorage({"v01": access})) as storage:
        outcome = storage.promote("v01", "minor-1", timeout_seconds=SOON)
    assert isinstance(outcome, Failed)
    assert "nothing was run" in outcome.reason
    assert "minor-1" not in (base / "ran").read_text()


def test_what_it_allows_is_asked(v01):
    assert v01.allowed(SOON) == Allowed(None, frozenset({"vm1"}), frozenset())


def test_a_question_that_hangs_is_given_up_and_killed(v01, base):
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match="drbdadm on v01: not ended in time"):
        get(v01, "hang", 0.5)
    assert time.monotonic() - begun < SOON
    wait_until(lambda: not hanging(base), "its end", SOON)
    assert get(v01, "both").exit_status == 3


def test_a_change_that_hangs_is_given_up_and_goes_on(v01, base):
    with pytest.raises(TimeoutError, match="drbdadm on v01: not ended in time"):
        change(v01, "hang", 0.5)
    assert get(v01, "both").exit_status == 3  # asked after it was given up there, too
    assert len(hanging(base)) == 1


def test_a_flood_of_output_is_refused(v01):
    pid = pid_of(v01)
    with pytest.raises(OutputTooLargeError, match="drbdadm on v01: more than 1 MiB"):
        get(v01, "endless")
    assert pid_of(v01) == pid


def test_a_change_whose_connection_breaks_may_have_been_made(v01, base):
    with pytest.raises(ConnectionError, match="the connection broke while it ran") as caught:
        change(v01, "cut")
    assert not isinstance(caught.value, NotConnectedError)
    assert len(hanging(base)) == 1


def test_a_question_whose_connection_breaks_is_asked_again(v01, base):
    with pytest.raises(ConnectionError):
        get(v01, "cut")
    assert len(hanging(base)) == 2


def test_a_connection_that_broke_just_now_costs_the_caller_nothing_but_time(v01, base):
    """Before a change it is asked for a sign of life: none is made twice, and none is in doubt."""
    for number in range(5):
        os.kill(pid_of(v01), signal.SIGKILL)
        assert change(v01, f"vm{number}").exit_status == 0
    assert [line for line in (base / "ran").read_text().splitlines() if "primary" in line] == [
        f"primary vm{number}" for number in range(5)
    ]


def test_without_vmheal_host_nothing_is_run(base, access):
    folder = base / "without"
    folder.mkdir()
    with sshd(folder) as server:
        given = {"key_file": server.user_key, "known_hosts_file": server.known_hosts, "port": server.port}
        without = replace(access, command="vmheal-host-that-is-not-there", **given)
        with (
            contextlib.closing(SshHost("v01", without)) as ssh,
            pytest.raises(NotConnectedError, match=r"vmheal-host is not there: .*not found"),
        ):
            change(ssh, "vm1")
    assert "primary" not in (base / "ran").read_text()


def test_a_file_is_read(v01):
    if Path("/proc/drbd").exists():
        assert v01.read("/proc/drbd", SOON).startswith("version:")
    else:
        with pytest.raises(FileNotFoundError):
            v01.read("/proc/drbd", SOON)


@pytest.mark.parametrize(
    "answer",
    [
        "{}",
        "[]",
        "null",
        "x",
        '{"id": []}',
        '{"id": 1}',
        '{"id": 1, "status": "0", "out": "", "err": ""}',
        '{"id": 1, "status": 0, "out": 1, "err": ""}',
        "[" * 100_000,
    ],
)
def test_a_host_that_answers_nonsense_is_told(base, access, answer):
    """As one would that somebody else has taken over. The sign of life before the change is 0, the change 1."""
    folder = base / str(abs(hash(answer)))
    folder.mkdir()
    (folder / "answers").write_text('{"id": 0}\n' + answer + "\n")
    said = f"echo '{{\\\"vmheal-host\\\":1}}'; read x; head -n 1 {folder}/answers; read x; tail -n +2 {folder}/answers"
    with sshd(folder, key_options=f'command="{said}"') as server:
        given = {"key_file": server.user_key, "known_hosts_file": server.known_hosts, "port": server.port}
        with (
            contextlib.closing(SshHost("v01", replace(access, **given))) as ssh,
            pytest.raises(ConnectionError) as caught,
        ):
            change(ssh, "vm1")
    assert not isinstance(caught.value, NotConnectedError)


class Talkative:
    """The channel of a host that says the same for ever, after a beginning."""

    def __init__(self, begin: bytes, always: bytes) -> None:
        self.begin, self.always = begin, always
        self.closed = threading.Event()

    def settimeout(self, seconds: float | None) -> None:
        """What is there is there at once."""

    def recv(self, _: int) -> bytes:
        self.closed.wait(0.01)
        said, self.begin = self.begin or self.always, b""
        return said

    def recv_stderr(self, _: int) -> bytes:
        return b""

    def sendall(self, _: bytes) -> None:
        pass

    def close(self) -> None:
        self.closed.set()


def test_a_host_whose_first_line_does_not_end_is_given_up():
    """Even though a byte comes all the time: an attempt to connect has a deadline as a whole."""
    with pytest.raises(ConnectionError, match="does not answer: its first line does not end"):
        HostCommand(Talkative(b"{", b" "), 0.2)


def test_a_host_that_answers_what_nobody_has_asked_is_not_listened_to_any_more():
    channel = Talkative(b'{"vmheal-host":1}\n', b'{"id":0}\n' * 100)
    command = HostCommand(channel, SOON)
    assert channel.closed.wait(SOON)
    wait_until(lambda: not command.alive(), "its end", SOON, 0.01)
