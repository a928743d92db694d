"""One kept SSH connection to a host, opened again when it broke; every call has a deadline."""

import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko

from tests.lab.waiting import LabError, LabTimeoutError

CONNECT_TIMEOUT_SECONDS = 10.0
_OUTPUT_LIMIT_BYTES = 64 * 1024 * 1024


class CommandError(LabError):
    """A command on a host ended with another exit status than 0."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that has ended on a host."""

    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """What it printed on stdout, decoded, without the newline at the end."""
        return self.stdout.decode(errors="replace").rstrip("\n")


@dataclass(frozen=True, slots=True)
class Keys:
    """A lab's SSH identity: the client's key, and what is known of the hosts."""

    client: Path
    known_hosts: Path

    @staticmethod
    def generate(folder: Path, addresses: dict[str, Sequence[str]]) -> "Keys":
        """Make a client key, a host key for each host (`NAME.hostkey`) and the known_hosts file.

        Args:
            folder: where to put them.
            addresses: for each host all names and addresses by which it is reached.
        """
        keys = Keys(client=folder / "id_ed25519", known_hosts=folder / "known_hosts")
        _generate_key(keys.client)
        lines = []
        for host, names in addresses.items():
            _generate_key(folder / f"{host}.hostkey")
            kind, public, *_ = (folder / f"{host}.hostkey.pub").read_text(encoding="utf-8").split()
            lines.append(f"{','.join(names)} {kind} {public}\n")
        keys.known_hosts.write_text("".join(lines), encoding="utf-8")
        return keys


def _generate_key(path: Path) -> None:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vmheal-lab", "-f", str(path)]
    subprocess.run(argv, check=True, timeout=20, stdin=subprocess.DEVNULL)


class Connection:
    """Runs commands on one host. Threads may share it: each command has its own channel."""

    def __init__(self, host: str, keys: Keys, dial: Callable[[float], socket.socket]) -> None:
        """Prepare; connects at the first command.

        Args:
            host: the name under which known_hosts has the host's key.
            keys: the lab's.
            dial: opens the TCP connection within the given seconds.
        """
        self._host = host
        self._keys = keys
        self._dial = dial
        self._lock = threading.Lock()
        self._client: paramiko.SSHClient | None = None

    def run(
        self, argv: Sequence[str], *, timeout_seconds: float = 30, check: bool = True, stdin: bytes = b""
    ) -> Completed:
        """Run a command on the host and wait for its end.

        Args:
            argv: never a shell string; a shell is named in it when one is wanted.
            timeout_seconds: for everything, from the connection to the last byte.
            check: raise when it ends with another status than 0.
            stdin: what it reads.

        Raises:
            CommandError: it failed (`check`), or no connection could be made.
            LabTimeoutError: it did not end in time; the host may be frozen, cut off or slow.
        """
        deadline = time.monotonic() + timeout_seconds
        command = shlex.join(argv)
        try:
            channel = self._open_channel(deadline)
            try:
                channel.settimeout(max(0.1, deadline - time.monotonic()))
                channel.exec_command(command)
                completed = _communicate(channel, stdin, deadline)
            finally:
                channel.close()
        except (OSError, EOFError, paramiko.SSHException) as error:
            # paramiko says "timeout" with several exceptions; the clock knows.
            if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
                raise LabTimeoutError(
                    f"{self._host}: {command}: not ended after {timeout_seconds:g} s"
                ) from error
            self.close()
            raise CommandError(f"{self._host}: {command}: {error or type(error).__name__}") from error
        if check and completed.returncode:
            said = (completed.stderr or completed.stdout).decode(errors="replace").strip()
            raise CommandError(f"{self._host}: {command}: ended with {completed.returncode}: {said}")
        return completed

    def close(self) -> None:
        """Drop the connection; the next command makes a new one."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _open_channel(self, deadline: float) -> paramiko.Channel:
        with self._lock:
            transport = self._client.get_transport() if self._client else None
            if transport is None or not transport.is_active():
                self._client = self._connect(deadline)
                transport = self._client.get_transport()
            assert transport is not None
        return transport.open_session(timeout=max(0.1, deadline - time.monotonic()))

    def _connect(self, deadline: float) -> paramiko.SSHClient:
        patience = max(0.1, min(CONNECT_TIMEOUT_SECONDS, deadline - time.monotonic()))
        client = paramiko.SSHClient()
        client.load_host_keys(str(self._keys.known_hosts))
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        sock = self._dial(patience)
        try:
            client.connect(
                self._host,
                username="root",
                pkey=paramiko.Ed25519Key.from_private_key_file(str(self._keys.client)),
                sock=sock,
                timeout=patience,
                banner_timeout=patience,
                auth_timeout=patience,
                allow_agent=False,
                look_for_keys=False,
            )
        except BaseException:
            sock.close()
            client.close()
            raise
        return client


def _communicate(channel: paramiko.Channel, stdin: bytes, deadline: float) -> Completed:
    """Feed stdin, collect both outputs and the exit status; a paramiko channel has no poll for all three."""
    errors = bytearray()

    def read_errors() -> None:
        while block := channel.recv_stderr(65536):
            errors.extend(block)

    def feed() -> None:
        if stdin:
            channel.sendall(stdin)
        channel.shutdown_write()

    helpers = [threading.Thread(target=_quietly, args=(work,), daemon=True) for work in (read_errors, feed)]
    for helper in helpers:
        helper.start()
    output = bytearray()
    while block := channel.recv(65536):
        output.extend(block)
        if len(output) > _OUTPUT_LIMIT_BYTES:
            raise CommandError("more than 64 MiB of output")
        channel.settimeout(max(0.1, deadline - time.monotonic()))
    for helper in helpers:
        helper.join(max(0.1, deadline - time.monotonic()))
    if not channel.status_event.wait(max(0.1, deadline - time.monotonic())):
        raise TimeoutError
    return Completed(channel.recv_exit_status(), bytes(output), bytes(errors))


def _quietly(work: Callable[[], None]) -> None:
    """Run one side of a conversation; when the channel breaks the reader of stdout is the one who says so."""
    try:
        work()
    except (OSError, EOFError, paramiko.SSHException):
        return
