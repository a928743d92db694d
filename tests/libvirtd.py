"""A real libvirtd of a test's own, with real QEMU guests, apart from the machine's.

It runs in its own mount, UTS and network namespace with private directories bound over `/etc/libvirt`,
`/run/libvirt`, `/var/lib/libvirt` and `/var/log/libvirt`. Two of them can stand side by side, each in a network
namespace that the test made (`netns`). Needs root.

    with Libvirtd() as libvirtd:
        handle = libvirt.open(libvirtd.uri)
        handle.defineXML(libvirtd.guest("voms01"))
"""

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import libvirt

libvirt.registerErrorHandler(lambda *_: None, None)  # errors are exceptions; the default prints them too

START_SECONDS = 30.0
STOP_SECONDS = 20.0
_PAUSE = threading.Event()

_CONFIGURATION = {
    "libvirtd.conf": """
auth_unix_ro = "none"
auth_unix_rw = "none"
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
host_uuid = "{host_uuid}"
""",
    "qemu.conf": """
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
remember_owner = 0
""",
}

# $1 is the base directory, $2 the host's name.
_ENTER = """
set -e
hostname "$2"
mkdir -p /etc/libvirt /run/libvirt /var/lib/libvirt /var/log/libvirt
mount --bind "$1/etc" /etc/libvirt
mount --bind "$1/run" /run/libvirt
mount --bind "$1/lib" /var/lib/libvirt
mount --bind "$1/log" /var/log/libvirt
ip link set lo up
exec "$3" -c "$4" "$1"
"""

# Inside the namespaces, for as long as the `Libvirtd` is entered: starts libvirtd for each line on standard
# input and says its process number, and buries the guests' processes when they die. QEMU's processes fall to
# the nearest ancestor that asks for them; the machine's first process may be slow, and libvirtd waits for it.
# When standard input ends, be it because the test was killed, it ends them all and clears the directory away.
_UNDERTAKER = """
import ctypes, os, shutil, signal, sys, time
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
def bury(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
signal.signal(signal.SIGCHLD, bury)
for _ in sys.stdin:
    argv = ["libvirtd", "--listen", "--pid-file", "/run/libvirt/libvirtd.pid"]
    print(os.posix_spawnp(argv[0], argv, os.environ), flush=True)
while children := open(f"/proc/self/task/{os.getpid()}/children").read().split():
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    time.sleep(0.02)
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""

_GUEST = """
<domain type='{kind}'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64'>hvm</type></os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>preserve</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='virtio'/>
    <video><model type='none'/></video>
    {devices}
  </devices>
</domain>
"""


class Libvirtd:
    """One libvirtd; starts on entering, and on leaving ends with all its guests."""

    def __init__(self, hostname: str = "v01", netns: str | None = None) -> None:
        """Start nothing yet.

        Args:
            hostname: what the host calls itself.
            netns: a network namespace made with `ip netns add`; None gives it a new one with only loopback.
        """
        self.hostname = hostname
        self._netns = netns
        self._undertaker: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self.base = Path(
            tempfile.mkdtemp(prefix="vmheal-libvirtd-", dir="/tmp")
        )  # short: a socket lies in it

    @property
    def uri(self) -> str:
        """The URI of its QEMU driver, usable by root from any namespace with this machine's /tmp."""
        return f"qemu:///system?socket={self.base}/run/libvirt-sock"

    @property
    def pid(self) -> int:
        """libvirtd's process, for signals."""
        assert self._pid is not None
        return self._pid

    def __enter__(self) -> Self:
        try:
            for name in ("etc", "run", "lib", "log", "disks"):
                (self.base / name).mkdir()
            for name, text in _CONFIGURATION.items():
                (self.base / "etc" / name).write_text(text.format(host_uuid=uuid.uuid4()), encoding="utf-8")
            self._enter()
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def start(self) -> None:
        """Start libvirtd on the same directories, again after `stop`, and wait until it answers.

        Raises:
            TimeoutError: it does not answer; the message has its log.
        """
        assert self._undertaker is not None
        assert self._undertaker.stdin is not None
        assert self._undertaker.stdout is not None
        (self.base / "run" / "libvirt-sock").unlink(missing_ok=True)
        self._undertaker.stdin.write(b"\n")
        self._undertaker.stdin.flush()
        said = self._undertaker.stdout.readline()
        if not said:
            raise TimeoutError(f"libvirtd's namespaces failed: {(self.base / 'libvirtd.log').read_text()}")
        self._pid = int(said)
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(libvirt.libvirtError):
                libvirt.openReadOnly(self.uri).close()
                return
            if time.monotonic() > deadline or not _exists(self._pid):
                raise TimeoutError(f"libvirtd does not answer: {(self.base / 'libvirtd.log').read_text()}")
            _PAUSE.wait(0.02)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End libvirtd and leave its guests running, as a restart of its service does."""
        pid, self._pid = self._pid, None
        if pid is None or not _exists(pid):
            return
        os.kill(pid, how)
        with contextlib.suppress(ProcessLookupError):  # it has ended at once
            os.kill(pid, signal.SIGCONT)
        if not _wait_gone(pid, STOP_SECONDS):
            os.kill(pid, signal.SIGKILL)
            _wait_gone(pid, STOP_SECONDS)

    def stand_still(self) -> None:
        """Answer nobody any more, until SIGCONT.

        Not before what this test process has left behind is cleared away: whoever drops the last object of a
        connection waits for an answer.
        """
        gc.collect()
        os.kill(self.pid, signal.SIGSTOP)

    @contextlib.contextmanager
    def dead_guests_stay(self) -> Iterator[None]:
        """Let no dead guest's process go, so that libvirtd waits for it with the domain locked.

        The same happens on a host when the process hangs in a write to a frozen disk.
        """
        assert self._undertaker is not None
        os.kill(self._undertaker.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._undertaker.pid, signal.SIGCONT)

    def _enter(self) -> None:
        """Make the namespaces, with the undertaker in them."""
        enter = ["unshare", "--mount", "--uts", "--propagation", "private"]
        enter = ["ip", "netns", "exec", self._netns, *enter] if self._netns else [*enter, "--net"]
        with (self.base / "libvirtd.log").open("ab") as log:
            self._undertaker = subprocess.Popen(
                [
                    *enter,
                    "sh",
                    "-c",
                    _ENTER,
                    "sh",
                    str(self.base),
                    self.hostname,
                    sys.executable,
                    _UNDERTAKER,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def guest(
        self, name: str, devices: str = "", memory_mib: int = 16, kind: str = "qemu", device: str = ""
    ) -> str:
        """Return the XML of a guest that has one disk, and nothing to boot.

        Args:
            name: the domain's name; its UUID follows from it.
            devices: further XML for `<devices>`.
            memory_mib: its memory.
            kind: the domain's type.
            device: a block device that is its disk, without the host's cache; else it has a file of its own.
        """
        disk = self.base / "disks" / f"{name}.raw"
        with disk.open("wb") as image:
            image.truncate(1 << 20)
        own = (
            f"<disk type='block' device='disk'><driver name='qemu' type='raw' cache='none'/><source dev='{device}'/>"
            if device
            else f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/>"
        ) + "<target dev='vda' bus='virtio'/></disk>"
        return _GUEST.format(
            kind=kind, name=name, uuid=guest_uuid(name), memory_mib=memory_mib, devices=own + devices
        )

    def qemu_pid(self, name: str) -> int:
        """Return the process of a running guest."""
        return int((self.base / "run" / "qemu" / f"{name}.pid").read_text())

    def _end(self) -> None:
        self.stop()
        if self._undertaker is not None:
            self._undertaker.communicate(timeout=STOP_SECONDS)
        shutil.rmtree(self.base, ignore_errors=True)


def guest_uuid(name: str) -> str:
    """Return the UUID that `Libvirtd.guest` gives a guest of this name."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _wait_gone(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while _exists(pid) and time.monotonic() < deadline:
        _PAUSE.wait(0.01)
    return not _exists(pid)
