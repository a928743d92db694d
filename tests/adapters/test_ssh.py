"""Programs over a real OpenSSH server: what works, and everything that can go wrong on the way."""

import contextlib
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from actuator.adapters import ssh as ssh_module
from actuator.adapters import warm as warm_module
from actuator.adapters.ssh import OutputTooLargeError, SshAccess, SshHost
from actuator.adapters.warm import NotConnectedError
from tests.lab.waiting import wait_until
from tests.netns import LINKED, Link, network_namespace
from tests.sshd import free_port, make_key, sshd, write_known_hosts

pytestmark = pytest.mark.daemons

# Far above what anything here takes, far below pytest's own limit: an answer "in time" comes before it.
SOON = 15


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sshd")


@pytest.fixture(scope="module")
def server(folder):
    with sshd(folder, environment={"HOME": str(folder), "GREETING": "a b"}) as server:
        yield server


def access_to(server):
    return SshAccess(server.address, server.user_key, server.known_hosts, server.port, server.user)


@contextlib.contextmanager
def host(access):
    ssh = SshHost("v01", access)
    try:
        yield ssh
    finally:
        ssh.close()


@pytest.fixture
def v01(server):
    with host(access_to(server)) as ssh:
        ssh.run(["true"], SOON)
        yield ssh


def test_a_file_is_read_without_a_program(v01, tmp_path):
    (tmp_path / "state").write_text("äö\n" * 100_000)
    for text in ("äö\n" * 100_000, "other"):
        (tmp_path / "state").write_text(text)
        assert v01.read(str(tmp_path / "state"), SOON) == text
    assert v01.read("/proc/self/comm", SOON).startswith("sshd")


def test_a_file_of_proc_is_fresh_each_time(v01):
    uptimes = [float(v01.read("/proc/uptime", SOON).split()[0]) for _ in range(3)]
    wait = threading.Event()
    wait.wait(0.02)  # its resolution is 10 ms
    uptimes.append(float(v01.read("/proc/uptime", SOON).split()[0]))
    assert uptimes == sorted(uptimes)
    assert uptimes[-1] > uptimes[0]


def test_a_file_that_went_away_is_opened_again(v01):
    """As /proc/drbd when the module was unloaded and loaded: the open one answers with an error for good."""
    path = "/proc/{}/comm"
    sleeper = int(v01.run(["sh", "-c", "sleep 60 >&- 2>&- & echo $!"], SOON).stdout)
    assert v01.read(path.format(sleeper), SOON) == "sleep\n"
    os.kill(sleeper, signal.SIGKILL)

    def read_until_it_is_gone():
        deadline = time.monotonic() + SOON
        while time.monotonic() < deadline:
            v01.read(path.format(sleeper), SOON)

    with pytest.raises(FileNotFoundError):
        read_until_it_is_gone()


def test_a_file_that_cannot_be_read_is_told_and_the_connection_kept(v01, tmp_path):
    pid = connection_pid(v01)
    with pytest.raises(FileNotFoundError):
        v01.read("/proc/drbd-not-there", SOON)
    (tmp_path / "large").write_bytes(b"x" * (ssh_module.MAX_OUTPUT_BYTES + 1))
    with pytest.raises(OutputTooLargeError, match="large on v01: more than 1048576 bytes"):
        v01.read(str(tmp_path / "large"), SOON)
    assert connection_pid(v01) == pid


def test_many_files_at_once(v01, tmp_path):
    for number in range(30):
        (tmp_path / str(number)).write_text(f"{number}" * 50_000)
    contents = {}

    def read(number):
        contents[number] = v01.read(str(tmp_path / str(number)), SOON)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents == {number: f"{number}" * 50_000 for number in range(30)}


def test_a_file_that_hangs_costs_one_deadline(v01, tmp_path):
    os.mkfifo(tmp_path / "fifo")  # opening it waits for a writer
    begun = time.monotonic()
    try:
        with pytest.raises(TimeoutError, match="fifo on v01: not read in time"):
            v01.read(str(tmp_path / "fifo"), 0.5)
    finally:
        os.close(
            os.open(tmp_path / "fifo", os.O_WRONLY | os.O_NONBLOCK)
        )  # the server's process goes on, and ends
    assert time.monotonic() - begun < SOON
    assert v01.read("/proc/self/comm", SOON)


def test_a_broken_connection_costs_a_reader_nothing_but_time(v01):
    for _ in range(5):
        os.kill(connection_pid(v01), signal.SIGKILL)
        assert v01.read("/proc/self/comm", SOON)


def test_without_sftp_programs_still_run(tmp_path):
    with sshd(tmp_path, sftp=False) as server, host(access_to(server)) as ssh:
        with pytest.raises(OSError, match="sshd offers no SFTP"):
            ssh.read("/proc/self/comm", SOON)
        assert ssh.run(["echo", "well"], SOON).stdout == "well\n"


def connection_pid(ssh):
    """The server's process for our connection."""
    return int(ssh.run(["sh", "-c", "echo $PPID"], SOON).stdout)


def pid_or_none(ssh):
    """The same, when it answers soon."""
    with contextlib.suppress(OSError):
        return int(ssh.run(["sh", "-c", "echo $PPID"], 1).stdout)
    return None


def test_output_status_and_arguments_arrive_as_they_were(v01):
    result = v01.run(
        ["sh", "-c", 'echo "$GREETING"; printf %s "$1" >&2; exit 3', "sh", "x; echo 'y' $HOME"], SOON
    )
    assert (result.exit_status, result.stdout, result.stderr) == (3, "a b\n", "x; echo 'y' $HOME")


def test_many_programs_share_one_connection(v01):
    parents = []
    threads = [threading.Thread(target=lambda: parents.append(connection_pid(v01))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(parents) == 20
    assert len(set(parents)) == 1


def test_a_program_that_hangs_is_given_up_and_the_next_one_answers(v01):
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match="sleep on v01: not ended in time"):
        v01.run(["sleep", "100"], 0.5)
    assert time.monotonic() - begun < 0.5 + SOON / 3
    assert v01.run(["echo", "well"], SOON).stdout == "well\n"


def test_a_hanging_program_does_not_disturb_one_that_runs_beside_it(v01):
    results = []
    beside = threading.Thread(
        target=lambda: results.append(v01.run(["sh", "-c", "sleep 1; echo well"], SOON))
    )
    beside.start()
    with pytest.raises(TimeoutError):
        v01.run(["sleep", "100"], 0.3)
    beside.join()
    assert results[0].stdout == "well\n"


def test_a_flood_of_output_is_refused(v01):
    with pytest.raises(OutputTooLargeError, match="yes on v01: more than 1048576 bytes"):
        v01.run(["yes"], SOON)
    with pytest.raises(TimeoutError):  # stays in the channel's window, which is as large
        v01.run(["sh", "-c", "yes >&2"], 1)
    assert v01.run(["echo", "well"], SOON).stdout == "well\n"


def test_a_large_output_is_read_whole(v01):
    assert v01.run(["head", "-c", "1000000", "/dev/zero"], SOON).stdout == "\0" * 1_000_000


def test_a_program_ended_by_a_signal_has_no_exit_status(v01):
    assert v01.run(["sh", "-c", "kill -9 $$"], SOON).exit_status is None


def test_a_program_that_does_not_exist_says_so(v01):
    result = v01.run(["drbdadm-not-there"], SOON)
    assert result.exit_status == 127
    assert "not found" in result.stderr


def test_a_connection_that_breaks_in_the_middle_is_told_and_replaced(v01):
    pid = connection_pid(v01)
    with pytest.raises(ConnectionError, match="the connection broke while it ran"):
        v01.run(["sh", "-c", "kill -9 $PPID; sleep 100"], SOON)
    assert connection_pid(v01) != pid


def test_a_connection_that_breaks_while_idle_is_replaced_before_it_is_needed(v01):
    pid, first = connection_pid(v01), v01._warm._current
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + SOON
    while v01._warm._current in {first, None}:
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    assert connection_pid(v01) != pid


def test_a_connection_that_broke_just_now_costs_the_caller_nothing_but_time(v01):
    for _ in range(5):
        pid = connection_pid(v01)
        os.kill(pid, signal.SIGKILL)
        assert connection_pid(v01) != pid


def test_a_server_process_that_is_stopped_is_replaced_when_it_has_not_answered_for_long(v01, monkeypatch):
    monkeypatch.setattr(ssh_module, "LATE_SECONDS", 1)
    monkeypatch.setattr(warm_module, "LATE_SECONDS", 1)
    pid = connection_pid(v01)
    os.kill(pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        with pytest.raises(TimeoutError, match="true on v01: not ended in time"):
            v01.run(["true"], 0.5)
        assert time.monotonic() - begun < 1
        wait_until(lambda: pid_or_none(v01) not in {pid, None}, "another connection", SOON, 0.05)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_an_answer_that_comes_late_costs_no_login(v01):
    """The host is busy: it is not helped by another process that has to be started for us."""
    pid = connection_pid(v01)
    v01.read("/proc/self/comm", SOON)
    for ask in (lambda: v01.read("/proc/self/comm", 0.3), lambda: v01.run(["true"], 0.3)):
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                ask()
        finally:
            os.kill(pid, signal.SIGCONT)
    assert v01.read("/proc/self/comm", SOON)
    assert connection_pid(v01) == pid


class NeverStarts(paramiko.ServerInterface):
    """Opens channels and lets the request to start a program hang, as sshd does when a login shell cannot be
    read from a dead disk."""

    def __init__(self):
        self.release = threading.Event()

    def check_auth_publickey(self, username, key):
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind, chanid):
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel, command):
        self.release.wait(2 * SOON)
        return True


def test_a_program_that_is_never_started_costs_one_deadline(server, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        write_known_hosts(tmp_path / "known_hosts", port, server.host_key)
        access = replace(access_to(server), port=port, known_hosts_file=tmp_path / "known_hosts")
        with host(access) as ssh:
            wire, _ = listener.accept()
            transport, never = paramiko.Transport(wire), NeverStarts()
            transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(server.host_key)))
            transport.start_server(server=never)
            begun = time.monotonic()
            try:
                with pytest.raises(TimeoutError, match="true on v01: not ended in time"):
                    ssh.run(["true"], 1)
                assert time.monotonic() - begun < SOON
            finally:
                never.release.set()
                transport.close()


def test_an_unknown_or_wrong_host_key_is_refused(server, tmp_path):
    other_key = tmp_path / "other"
    make_key(other_key)
    wrong, empty = tmp_path / "wrong", tmp_path / "empty"
    write_known_hosts(wrong, server.port, other_key)
    empty.touch()
    for known_hosts, words in ((wrong, "does not match"), (empty, "not found in known_hosts")):
        with (
            host(replace(access_to(server), known_hosts_file=known_hosts)) as ssh,
            pytest.raises(NotConnectedError, match=words),
        ):
            ssh.run(["true"], SOON)


def test_a_login_that_is_refused_is_told(server, tmp_path):
    make_key(tmp_path / "stranger")
    with (
        host(replace(access_to(server), key_file=tmp_path / "stranger")) as ssh,
        pytest.raises(NotConnectedError, match="Authentication failed"),
    ):
        ssh.run(["true"], SOON)


@pytest.mark.parametrize("name", ["key_file", "known_hosts_file"])
def test_a_missing_file_is_named(server, name):
    with (
        host(replace(access_to(server), **{name: Path("/nonexistent/file")})) as ssh,
        pytest.raises(NotConnectedError, match="/nonexistent/file"),
    ):
        ssh.run(["true"], SOON)


@pytest.mark.parametrize("name", ["key_file", "known_hosts_file"])
@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[127.0.0.1]:22 ssh-ed25519 %%%\n", b""])
def test_a_file_that_is_none_of_what_it_should_be_is_told(server, tmp_path, name, content):
    (tmp_path / "file").write_bytes(content)
    with (
        host(replace(access_to(server), **{name: tmp_path / "file"})) as ssh,
        pytest.raises(
            NotConnectedError, match=r"ssh to v01: .*(malformed|private key file|not found in known_hosts)"
        ),
    ):
        ssh.run(["true"], SOON)


def test_nobody_listening_is_told_at_once(server):
    begun = time.monotonic()
    with (
        host(replace(access_to(server), port=free_port())) as ssh,
        pytest.raises(NotConnectedError, match="Connection refused"),
    ):
        ssh.run(["true"], SOON)
    assert time.monotonic() - begun < SOON


def test_a_server_that_says_nothing_is_given_up(server):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        silent = replace(access_to(server), port=mute.getsockname()[1])
        begun = time.monotonic()
        with host(silent) as ssh, pytest.raises(NotConnectedError, match="no connection within"):
            ssh.run(["true"], 0.5)
        assert time.monotonic() - begun < SOON


def test_a_login_that_takes_too_long_is_told_so(server, monkeypatch):
    monkeypatch.setattr(ssh_module, "LOGIN_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        slow = replace(access_to(server), port=mute.getsockname()[1])
        with (
            host(slow) as ssh,
            pytest.raises(NotConnectedError, match=r"ssh to v01: not logged in within 0\.2 s"),
        ):
            ssh.run(["true"], SOON)


def test_a_host_that_dies_in_the_middle_of_a_login_is_noticed(server):
    """It owes us an answer, we it nothing: without keepalive nobody would ask."""
    with network_namespace({}) as there, network_namespace({}) as here:
        link = Link((there, here))
        link.lay()
        with there.entered():
            mute = socket.create_server((LINKED[0], 0))
        mute.settimeout(SOON)
        access = replace(access_to(server), address=LINKED[0], port=mute.getsockname()[1])
        with mute, here.entered(), host(access) as ssh, mute.accept()[0] as accepted:
            accepted.recv(1)  # who logs in has said who he is
            link.cut()
            with pytest.raises(NotConnectedError, match="ssh to v01: Error reading SSH protocol banner"):
                ssh.run(["true"], ssh_module.LOGIN_SECONDS / 2)


def test_it_waits_for_a_host_that_comes_back(folder, tmp_path):
    port = free_port()
    with sshd(tmp_path, port=port) as server:
        access = access_to(server)
        ssh = SshHost("v01", access)
        assert ssh.run(["echo", "well"], SOON).stdout == "well\n"
        pid = connection_pid(ssh)
    os.kill(pid, signal.SIGKILL)  # sshd's children outlive it
    with pytest.raises(OSError):
        ssh.run(["true"], SOON)
    with sshd(tmp_path, port=port):
        deadline = time.monotonic() + SOON
        while True:
            with contextlib.suppress(NotConnectedError):
                assert ssh.run(["echo", "again"], SOON).stdout == "again\n"
                break
            assert time.monotonic() < deadline
    ssh.close()


def test_more_programs_than_allowed_at_once_wait_for_their_turn(v01, monkeypatch):
    assert ssh_module.MAX_PROGRAMS < 10  # sshd's MaxSessions
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(v01.run(["sh", "-c", "sleep 0.2; echo well"], SOON)))
        for _ in range(3 * ssh_module.MAX_PROGRAMS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.stdout for result in results] == ["well\n"] * len(threads)
