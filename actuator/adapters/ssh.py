"""Programs run and files read on the hosts, over SSH connections that are open before they are needed.

With vmheal-host, the key's only command; or without it: each program has a channel and a shell of its own.
"""

import contextlib
import errno
import logging
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import paramiko

from actuator.adapters.deadline import DeadlineThreads
from actuator.adapters.host_command import BrokenError as _BrokenError
from actuator.adapters.host_command import Completed, HostCommand, OutputTooLargeError
from actuator.adapters.warm import LATE_SECONDS, NotConnectedError, Warm
from actuator.model import Allowed

T = TypeVar("T")

logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # what it logs with a traceback, it raises too

MAX_OUTPUT_BYTES = 1 << 20
"""Of each stream; the states of 100 resources are 100 KB."""
CHUNK_BYTES = 1 << 16
REACH_SECONDS = 10.0
LOGIN_SECONDS = 60.0
"""For each step of a login. A busy host gets so much, because to begin again would make it busier; one that
has died meanwhile is noticed after `SILENT_PEER_SECONDS`."""
TURN_SECONDS = 15.0
"""For so long a login waits for another one that does not come to its end."""
KEEPALIVE_SECONDS = 2
SILENT_PEER_SECONDS = 5.0
"""Sent but not acknowledged for so long: the host or the way to it is dead (TCP_USER_TIMEOUT)."""
MAX_PROGRAMS = 8
"""At the same time on one host; sshd allows 10 (MaxSessions)."""
MAX_THREADS = 32
"""Of one host: for who waits for an answer, and for answers that come too late for anybody."""
SLACK_SECONDS = 0.1
"""What keeps the deadline itself says better why."""
ABSENT_EXIT_STATUS = -1
"""What paramiko says when the other side ended the channel without an exit status."""


class Logins:
    """The logins on one host, one after the other.

    A login costs a busy host more than what is asked afterwards, several at once all come too late there, and
    sshd drops some of ten (MaxStartups).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the others, but no longer than `TURN_SECONDS`: one may hang."""
        ours = self._lock.acquire(timeout=TURN_SECONDS)
        try:
            yield
        finally:
            if ours:
                self._lock.release()


@dataclass(frozen=True)
class SshAccess:
    """How to log in to one host. A host key that is not in `known_hosts_file` is refused.

    `logins` are taken in turns, libvirt's too.
    """

    address: str
    key_file: Path
    known_hosts_file: Path
    port: int = 22
    user: str = "root"
    command: str | None = None
    """How vmheal-host is called (`exporter.host`); None: the key may run everything."""
    logins: Logins = field(default_factory=Logins, compare=False, repr=False)


class SshHost:
    """Runs programs on one host, by one warm connection."""

    def __init__(self, host: str, access: SshAccess) -> None:
        self.host = host
        self._warm = Warm(f"ssh to {host}", lambda: _open(access))
        self._free = threading.BoundedSemaphore(MAX_PROGRAMS)
        self._threads = DeadlineThreads(f"ssh to {host}", MAX_THREADS)

    def run(self, argv: Sequence[str], timeout_seconds: float) -> Completed:
        """Run a program and wait for its end.

        A timeout does not end a program on the host that changes something: it may still have its effect.

        Raises:
            RefusedError: vmheal-host does not allow it: nothing was run.
            NotConnectedError: the host does not answer, is not the one in the known_hosts file, or refuses
                the login: nothing was run.
            ConnectionError: the connection broke; the program may have run, or may still run.
            TimeoutError: not ended in time.
            OutputTooLargeError: it printed more than `MAX_OUTPUT_BYTES`.
        """
        deadline = time.monotonic() + timeout_seconds
        what = f"{argv[0]} on {self.host}"

        def run() -> Completed:
            if not self._free.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise NotConnectedError(f"{what}: busy with {MAX_PROGRAMS} other programs")
            try:
                return self._twice(lambda connection: connection.run(argv, deadline, what), deadline)
            finally:
                self._free.release()

        return self._in_time(run, deadline, f"{what}: not ended in time")

    def read(self, path: str, timeout_seconds: float) -> str:
        """Read a file that stays in its place, such as one of /proc: no program is started for it.

        Over SFTP it is kept open, and costs two round trips from the second time on.

        Raises:
            TimeoutError, ConnectionError: no answer.
            OSError: it cannot be read, vmheal-host does not allow it, or the host's sshd offers no SFTP, over
                which an empty one reads as broken.
        """
        deadline = time.monotonic() + timeout_seconds
        what = f"{path} on {self.host}"

        def read() -> str:
            return self._twice(lambda connection: connection.read(path, deadline, what), deadline)

        return self._in_time(read, deadline, f"{what}: not read in time")

    def allowed(self, timeout_seconds: float) -> Allowed:
        """What vmheal-host there lets this key touch; everything where the key has a shell.

        Raises:
            RefusedError: it is too old to say so.
            TimeoutError, ConnectionError: no answer.
        """
        deadline = time.monotonic() + timeout_seconds
        what = f"vmheal-host on {self.host}"

        def ask() -> Allowed:
            return self._twice(lambda connection: connection.allowed(deadline, what), deadline)

        return self._in_time(ask, deadline, f"{what}: not answered in time")

    def _in_time(self, call: Callable[[], T], deadline: float, late: str) -> T:
        """Wait for a call that may go on past the deadline: paramiko knows none for the answers to requests.

        What comes too late still shows that the connection works.
        """
        try:
            return self._threads.run(call, deadline + SLACK_SECONDS - time.monotonic())
        except TimeoutError as error:
            raise TimeoutError(late) from error

    def _twice(self, call: Callable[["_SshConnection"], T], deadline: float) -> T:
        """Call it once more when the connection was broken and nobody had noticed yet."""
        try:
            with self._warm.use(deadline - time.monotonic()) as connection:
                return call(connection)
        except _BrokenError:
            with self._warm.use(deadline - time.monotonic()) as connection:
                return call(connection)

    def close(self) -> None:
        """End the connection."""
        self._warm.stop()


def _open(access: SshAccess) -> "_SshConnection":
    with access.logins.turn():
        return _SshConnection(access)


class _SshConnection:
    def __init__(self, access: SshAccess) -> None:
        """Connect and log in; raises OSError."""
        self._command: HostCommand | None = None
        self._sftp: paramiko.SFTPClient | None = None
        self._sftp_free = threading.Lock()
        self._files: dict[str, paramiko.SFTPFile] = {}
        self._client = paramiko.SSHClient()
        self._client.set_missing_host_key_policy(paramiko.RejectPolicy())
        begun = time.monotonic()
        try:
            self._client.load_system_host_keys(str(access.known_hosts_file))
            self._transport = self._connect(access)
            if access.command is None:
                self._sftp = self._open_sftp()
            else:
                self._command = self._open_command(access.command)
        except (ValueError, paramiko.hostkeys.InvalidHostKey) as error:
            self._client.close()
            raise ConnectionError(
                f"{access.key_file} or {access.known_hosts_file} is malformed: {error}"
            ) from error
        except (paramiko.SSHException, EOFError) as error:
            self._client.close()
            if time.monotonic() - begun >= LOGIN_SECONDS:  # paramiko says "No existing session"
                raise TimeoutError(f"not logged in within {LOGIN_SECONDS:g} s") from error
            raise ConnectionError(str(error) or type(error).__name__) from error
        except BaseException:
            self._client.close()
            raise

    def _connect(self, access: SshAccess) -> paramiko.Transport:
        wire = socket.create_connection((access.address, access.port), REACH_SECONDS)
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Who dies while we wait for him to let us in is asked by nobody else.
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS)
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(SILENT_PEER_SECONDS * 1000))
        self._client.connect(
            access.address,
            access.port,
            access.user,
            sock=wire,
            key_filename=str(access.key_file),
            allow_agent=False,
            look_for_keys=False,
            timeout=LOGIN_SECONDS,
            banner_timeout=LOGIN_SECONDS,
            auth_timeout=LOGIN_SECONDS,
            channel_timeout=LOGIN_SECONDS,
        )
        transport = self._client.get_transport()
        if transport is None:
            raise ConnectionError("the connection was closed while logging in")
        transport.set_keepalive(KEEPALIVE_SECONDS)
        return transport

    def _open_command(self, command: str) -> HostCommand:
        with self._closed_in(LOGIN_SECONDS):
            channel = self._transport.open_session(timeout=LOGIN_SECONDS)
            channel.exec_command(command)
            return HostCommand(channel, LOGIN_SECONDS)

    def _open_sftp(self) -> paramiko.SFTPClient | None:
        """Open it ahead, too: it is a program on the host, but only one for all files."""
        try:
            with self._closed_in(LOGIN_SECONDS):
                return self._client.open_sftp()
        except (paramiko.SSHException, EOFError):
            if self.alive():  # sshd offers none, or allows this key one command only
                return None
            raise

    @contextlib.contextmanager
    def _closed_in(self, seconds: float) -> Iterator[None]:
        """Close the connection after so long, and thereby end what waits for an answer on it."""
        watchdog = threading.Timer(seconds, self._client.close)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()

    def alive(self) -> bool:
        return self._transport.is_active() and (self._command is None or self._command.alive())

    def close(self) -> None:
        self._client.close()

    def allowed(self, deadline: float, what: str) -> Allowed:
        return Allowed() if self._command is None else self._command.allowed(deadline, what)

    def read(self, path: str, deadline: float, what: str) -> str:
        if self._command is not None:
            return self._command.read(path, deadline, what)
        if self._sftp is None:
            raise OSError(errno.EOPNOTSUPP, f"{what}: sshd offers no SFTP")
        if not self._sftp_free.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise TimeoutError(f"{what}: not read in time")
        try:
            with self._closed_in(LATE_SECONDS):
                content = self._content(self._sftp, path)
        except (paramiko.SSHException, paramiko.SFTPError, EOFError, OSError) as error:
            if self.alive() and isinstance(error, OSError):
                raise
            raise _BrokenError(f"{what}: not read: {str(error) or type(error).__name__}") from error
        finally:
            self._sftp_free.release()
        if len(content) > MAX_OUTPUT_BYTES:
            raise OutputTooLargeError(f"{what}: more than {MAX_OUTPUT_BYTES} bytes")
        return content.decode("utf-8", "replace")

    def _content(self, sftp: paramiko.SFTPClient, path: str) -> bytes:
        """Read it; raises EOFError when it is empty: paramiko takes a broken connection for a file's end."""
        content, file = b"", self._files.get(path)
        if file is not None:
            try:
                file.seek(0)
                content = file.read(MAX_OUTPUT_BYTES + 1)
            except OSError:  # it went away: its kernel module was unloaded, and perhaps loaded again
                del self._files[path]
                file = None
        if file is None:
            file = self._files[path] = sftp.open(path, "rb")
            content = file.read(MAX_OUTPUT_BYTES + 1)
        if not content:
            raise EOFError
        return content

    def run(self, argv: Sequence[str], deadline: float, what: str) -> Completed:
        if self._command is not None:
            return self._command.run(argv, deadline, what)
        channel = self._start(shlex.join(argv), deadline, what)
        try:
            stdout = _read(channel, channel.recv, deadline, what)
            stderr = _read(channel, channel.recv_stderr, deadline, what)
            if not channel.status_event.wait(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"{what}: not ended in time")
            if channel.exit_status == ABSENT_EXIT_STATUS and not self.alive():
                raise ConnectionError(f"{what}: the connection broke while it ran")
        finally:
            channel.close()
        status = None if channel.exit_status == ABSENT_EXIT_STATUS else channel.exit_status
        return Completed(status, stdout, stderr)

    def _start(self, command: str, deadline: float, what: str) -> paramiko.Channel:
        asked = False
        try:
            with self._closed_in(LATE_SECONDS):
                channel = self._transport.open_session(window_size=MAX_OUTPUT_BYTES, timeout=LATE_SECONDS)
                asked = time.monotonic() < deadline
                if asked:
                    channel.exec_command(command)
        except (paramiko.SSHException, EOFError, OSError) as error:
            kind = ConnectionError if asked else _BrokenError
            raise kind(f"{what}: not started: {str(error) or type(error).__name__}") from error
        if not asked:  # nobody waits for it any more
            channel.close()
            raise TimeoutError
        return channel


def _read(channel: paramiko.Channel, receive: Callable[[int], bytes], deadline: float, what: str) -> str:
    """Read one stream to its end. The other one waits in the channel's window, bounded by the same size."""
    chunks: list[bytes] = []
    size = 0
    while True:
        channel.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            chunk = receive(CHUNK_BYTES)
        except TimeoutError:
            raise TimeoutError(f"{what}: not ended in time") from None
        if not chunk:
            return b"".join(chunks).decode("utf-8", "replace")
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_OUTPUT_BYTES:
            raise OutputTooLargeError(f"{what}: more than {MAX_OUTPUT_BYTES} bytes of output")
