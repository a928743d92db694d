"""OpenSSH's program for libvirt, as strict about hosts' keys as the rest.

libvirt has three ways over SSH. Its `libssh` one leaves in libssh's buffer what came with a packet that it
has read in part: an answer of more than some 4 KB, as the definition of a VM with a few devices is, does
not come until more is sent (seen with libvirt 9.0 and libssh 0.10.6). `libssh2` does not notice the end of
libvirtd, and wants a key of each type in known_hosts. `ssh` runs the program, and has no parameter for
known_hosts: it is given a program of ours, which calls it with a configuration of its own.
"""

import functools
import shlex
import tempfile
from pathlib import Path

ALIVE_SECONDS = 5
ALIVE_TIMES = 3
"""A host that has left so many questions unanswered is lost, and so is what libvirt was asked there."""
CONNECT_SECONDS = 60
"""To exchange keys, too. Who opens the connection has found the host to be there, and gives up himself."""

_CONFIGURATION = """\
Host *
    BatchMode yes
    ClearAllForwardings yes
    ConnectTimeout {connect}
    ControlMaster no
    ControlPath none
    ForwardAgent no
    ForwardX11 no
    GlobalKnownHostsFile /dev/null
    IdentitiesOnly yes
    IdentityFile {key}
    LogLevel ERROR
    PermitLocalCommand no
    PreferredAuthentications publickey
    RequestTTY no
    ServerAliveCountMax {times}
    ServerAliveInterval {alive}
    StrictHostKeyChecking yes
    UpdateHostKeys no
    UserKnownHostsFile {known_hosts}
"""


@functools.cache
def ssh_program(key_file: Path, known_hosts_file: Path) -> Path:
    """The program that logs in with this key, on hosts whose keys are in this file; kept until this one ends.

    Raises:
        ValueError: a path that OpenSSH's configuration cannot say.
        OSError: it cannot be written.
    """
    folder = Path(tempfile.mkdtemp(dir=_folder().name))
    configuration, program = folder / "config", folder / "ssh"
    configuration.write_text(
        _CONFIGURATION.format(
            alive=ALIVE_SECONDS,
            times=ALIVE_TIMES,
            connect=CONNECT_SECONDS,
            key=_word(key_file),
            known_hosts=_word(known_hosts_file),
        )
    )
    program.write_text(f'#!/bin/sh\nexec ssh -F {shlex.quote(str(configuration))} "$@"\n')
    program.chmod(0o700)
    return program


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Of this process, for its owner alone; removed when it ends."""
    return tempfile.TemporaryDirectory(prefix="vmheal-ssh-")


def _word(path: Path) -> str:
    """As ssh_config(5) has it: in double quotes, with `%` doubled and `${` not there."""
    text = str(path)
    if '"' in text or "\n" in text or "${" in text:
        raise ValueError(f"{path}: OpenSSH's configuration cannot name such a file")
    return f'"{text.replace("%", "%%")}"'
