"""One host as docs/security.md sets it up: the user vmheal, its key, sudo's rules, DRBD's programs and a libvirtd.

The machine stays as it is: sshd and what it starts see overlays of their own over /etc and /usr/bin. Needs root,
and Debian's sudo and Python.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import libvirt

from tests.libvirtd import Libvirtd
from tests.sshd import Sshd, make_key, sshd

REPO = Path(__file__).parents[2]
SHIPPED = REPO / "exporter/host/etc"
USER = "vmheal"
ALLOWED, OTHER = "vm1", "vm9"
"""A resource and domain of the host's configuration, and one that is there but not in it."""
TARGET = "qemu+tcp://127.0.0.1:1/system"
SECRET = "<graphics type='vnc' passwd='secret'/></devices>"
PYTHON = "/usr/bin/python3"

_MOUNT = """
set -e
for name in etc usr/bin; do
    mount -t overlay overlay -o lowerdir=/$name,upperdir=$1/upper/$name,workdir=$1/scratch/$name /$name
done
shift
exec "$@"
"""
_PROGRAM = """#!/bin/sh
echo "${0##*/} $*" >> {base}/ran
case "$*" in
    *slow*) sleep 60; echo "${0##*/} $* ended" >> {base}/ran ;;
    *endless*) yes ;;
esac
echo said
"""


@dataclass(frozen=True)
class Site:
    """The host, and what was run on it."""

    base: Path
    sshd: Sshd
    libvirtd: Libvirtd
    kept: contextlib.ExitStack
    """What is open until the end."""

    def ran(self) -> list[str]:
        """The command lines of DRBD's programs."""
        try:
            return (self.base / "ran").read_text().splitlines()
        except FileNotFoundError:
            return []

    def forget(self) -> None:
        """Begin to note anew."""
        (self.base / "ran").write_text("")
        (self.base / "ran").chmod(0o666)

    def prepare(self) -> None:
        """Define the domain that may be touched, with a secret in it, and run the one that may not."""
        handle = libvirt.open(self.libvirtd.uri)
        handle.defineXML(self.libvirtd.guest(OTHER)).create()
        handle.defineXML(self.libvirtd.guest(ALLOWED).replace("</devices>", SECRET))
        handle.close()

    def argv(self, options: Sequence[str] = (), user: str = USER) -> list[str]:
        """The command line of ssh with the actuator's key, up to the command."""
        given = ["BatchMode=yes", f"UserKnownHostsFile={self.sshd.known_hosts}", "ConnectTimeout=10"]
        flags = [word for it in given for word in ("-o", it)]
        key = ["-F", "none", "-i", str(self.sshd.user_key), "-p", str(self.sshd.port)]
        return ["ssh", *key, *flags, *options, f"{user}@{self.sshd.address}"]


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """Set a host up."""
    base = Path(tempfile.mkdtemp(prefix="vmheal-site-", dir="/tmp"))
    base.chmod(0o755)
    try:
        with Libvirtd() as libvirtd:
            _install(base, libvirtd)
            mount = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNT, "sh", str(base)]
            enter = ["nsenter", f"--target={libvirtd.pid}", "--mount", "--", *mount]
            server = sshd(base, enter=enter, settings=(SHIPPED / "sshd.conf").read_text())
            with server as running, contextlib.ExitStack() as kept:
                yield Site(base, running, libvirtd, kept)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _install(base: Path, libvirtd: Libvirtd) -> None:
    package = base / "python" / "exporter"
    shutil.copytree(
        REPO / "exporter" / "host", package / "host", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(REPO / "exporter" / "__init__.py", package)
    for name in ("drbdadm", "drbdsetup", "vmheal-fence-peer"):
        _write(base / "bin" / name, _PROGRAM.replace("{base}", str(base)), 0o755)
    for name in ("etc", "usr/bin"):
        (base / "scratch" / name).mkdir(parents=True)
    upper = base / "upper"
    environment = f"PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={base / 'python'}"
    program = f'#!/bin/sh\nexec env {environment} {PYTHON} -m exporter.host.command "$@"\n'
    _write(upper / "usr" / "bin" / "vmheal-host", program, 0o755)
    etc = upper / "etc"
    for name in ("passwd", "shadow", "group"):
        _write(etc / name, Path("/etc", name).read_text(), 0o644)
    with (etc / "passwd").open("a") as passwd, (etc / "shadow").open("a") as shadow:
        passwd.write(f"{USER}:x:64999:65534::{base}:/bin/sh\n")
        shadow.write(f"{USER}:*:19000:0:99999:7:::\n")
    _write(etc / "sudoers.d" / "vmheal", (SHIPPED / "sudoers").read_text(), 0o440)
    lines = [
        f"resource {ALLOWED}",
        "resource slow",
        "resource endless",
        f"domain {ALLOWED}",
        f"migrate_uri {TARGET}",
        f"definition_path {libvirtd.base}/disks/",
        f"path {base / 'bin'}:/usr/bin:/bin",
        f"run_directory {base / 'places'}",
    ]
    _write(etc / "vmheal" / "host.conf", "".join(f"{line}\n" for line in lines), 0o644)
    for name in ("host_key", "user_key"):
        make_key(base / name)
    key = f'restrict,from="127.0.0.1",command="/usr/bin/vmheal-host" {(base / "user_key.pub").read_text()}'
    _write(etc / "vmheal" / "authorized_keys", key, 0o644)


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def environment_of(pid: int) -> dict[str, str]:
    """What a process was started with."""
    content = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    return dict(it.partition("=")[::2] for it in content.split("\0") if it)


def children_of(pid: int) -> list[int]:
    """The processes below one, at any depth."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return [*found, *(deeper for child in found for deeper in children_of(child))]
