"""A real libvirtd of a test's own, with real QEMU guests, apart from the machine's.

It runs in its own mount, UTS and network namespace with private directories bound over `/etc/libvirt`,
`/run/libvirt`, `/var/lib/libvirt` and `/var/log/libvirt`. Two of them can stand side by side, each in a network
namespace that the test made (`netns`). Needs root.

    with Libvirtd() as libvirtd:
        handle = libvirt.open(libvirtd.uri)
        handle.defineXML(libvirtd.guest("voms01"))
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

import libvirt

libvirt.registerErrorHandler(lambda *_: None, None)  # errors are exceptions; the default prints them too

START_SECONDS = 30.0
STOP_SECONDS = 20.0

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
exec libvirtd --listen --pid-file /run/libvirt/libvirtd.pid
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
        self._process: subprocess.Popen[bytes] | None = None
        self.base = Path(
            tempfile.mkdtemp(prefix="vmheal-libvirtd-", dir="/tmp")
        )  # short: a socket lies in it

    @property
    def uri(self) -> str:
        """The URI of its QEMU driver, usable by root from any namespace with this machine's /tmp."""
        return f"qemu:///system?socket={self.base}/run/libvirt-sock"

    @property
    def pid(self) -> int:
        """The process, for signals."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            for name in ("etc", "run", "lib", "log", "disks"):
                (self.base / name).mkdir()
            for name, text in _CONFIGURATION.items():
                (self.base / "etc" / name).write_text(text.format(host_uuid=uuid.uuid4()), encoding="utf-8")
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
        enter = ["unshare", "--mount", "--uts", "--propagation", "private"]
        enter = ["ip", "netns", "exec", self._netns, *enter] if self._netns else [*enter, "--net"]
        (self.base / "run" / "libvirt-sock").unlink(missing_ok=True)
        with (self.base / "libvirtd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*enter, "sh", "-c", _ENTER, "sh", str(self.base), self.hostname],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        pause = threading.Event()
        while True:
            with contextlib.suppress(libvirt.libvirtError):
                libvirt.openReadOnly(self.uri).close()
                return
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise TimeoutError(f"libvirtd does not answer: {(self.base / 'libvirtd.log').read_text()}")
            pause.wait(0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End libvirtd and leave its guests running, as a restart of its service does."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def guest(self, name: str, devices: str = "", memory_mib: int = 16, kind: str = "qemu") -> str:
        """Return the XML of a guest that has one disk, and nothing to boot.

        Args:
            name: the domain's name; its UUID follows from it.
            devices: further XML for `<devices>`.
            memory_mib: its memory.
            kind: the domain's type.
        """
        disk = self.base / "disks" / f"{name}.raw"
        with disk.open("wb") as image:
            image.truncate(1 << 20)
        own = (
            f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/>"
            "<target dev='vda' bus='virtio'/></disk>"
        )
        return _GUEST.format(
            kind=kind, name=name, uuid=guest_uuid(name), memory_mib=memory_mib, devices=own + devices
        )

    def qemu_pid(self, name: str) -> int:
        """Return the process of a running guest."""
        return int((self.base / "run" / "qemu" / f"{name}.pid").read_text())

    def _end(self) -> None:
        self.stop()
        for pid_file in (self.base / "run" / "qemu").glob("*.pid"):
            with contextlib.suppress(ValueError, OSError):
                _kill_qemu(int(pid_file.read_text()), self.base)
        shutil.rmtree(self.base, ignore_errors=True)


def guest_uuid(name: str) -> str:
    """Return the UUID that `Libvirtd.guest` gives a guest of this name."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def _kill_qemu(pid: int, base: Path) -> None:
    """Kill a guest's process; not one that got its number since."""
    if str(base).encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
        return
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + STOP_SECONDS
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        threading.Event().wait(0.02)
