"""A real OpenSSH server on loopback, an ordinary process with keys of its own."""

import contextlib
import getpass
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SSHD = Path("/usr/sbin/sshd")
LOOPBACK = "127.0.0.1"
CONFIG = """\
Port {port}
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxSessions 20
"""
SFTP = "Subsystem sftp internal-sftp\n"


@dataclass(frozen=True)
class Sshd:
    process: subprocess.Popen[bytes]
    port: int
    user: str
    user_key: Path
    host_key: Path
    known_hosts: Path
    address: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def make_key(path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True, timeout=10)


def write_known_hosts(path: Path, port: int, host_key: Path, address: str = LOOPBACK) -> None:
    kind, key, *_ = host_key.with_suffix(".pub").read_text().split()
    path.write_text(f"[{address}]:{port} {kind} {key}\n")


def wait_for_port(address: str, port: int, process: subprocess.Popen[bytes], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while True:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        try:
            socket.create_connection((address, port), 1).close()
        except OSError:
            assert time.monotonic() < deadline, f"{process.args} does not listen on {port}"
            time.sleep(0.02)  # noqa: TID251  between two looks, bounded by the deadline
        else:
            return


@contextlib.contextmanager
def sshd(
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    address: str = LOOPBACK,
    port: int | None = None,
    enter: Sequence[str] = (),
    sftp: bool = True,
    key_options: str = "",
    settings: str = "",
) -> Iterator[Sshd]:
    """Start a server.

    Args:
        folder: where its files lie; its keys are used again by a next start there.
        environment: what the programs run over it see.
        address: where it listens.
        port: instead of a free one.
        enter: put before its command line, such as `nsenter ...`; it must exec.
        sftp: whether it offers SFTP.
        key_options: what stands before the key in authorized_keys, such as `restrict,command="..."`.
        settings: further lines of its configuration.
    """
    port = port or free_port()
    host_key, user_key, known_hosts = folder / "host_key", folder / "user_key", folder / "known_hosts"
    if not host_key.exists():
        make_key(host_key)
        make_key(user_key)
    write_known_hosts(known_hosts, port, host_key, address)
    key = user_key.with_suffix(".pub").read_text()
    (folder / "authorized_keys").write_text(f"{key_options} {key}".lstrip())
    variables = "".join(f' "{name}={value}"' for name, value in (environment or {}).items())
    config = folder / "sshd_config"
    config.write_text(
        CONFIG.format(address=address, port=port, folder=folder)
        + (SFTP if sftp else "")
        + (f"SetEnv{variables}\n" if variables else "")
        + settings
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd run by root confines itself
    with (folder / "sshd.log").open("ab") as log:
        process = subprocess.Popen(
            [*enter, SSHD, "-D", "-e", "-f", config], stdin=subprocess.DEVNULL, stderr=log
        )
    try:
        wait_for_port(address, port, process)
        yield Sshd(process, port, getpass.getuser(), user_key, host_key, known_hosts, address)
    finally:
        process.kill()
        process.wait(10)
