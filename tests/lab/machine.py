"""One emulated machine: its QEMU, its disks, its own files, and what can be done to it from outside."""

import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.lab import network
from tests.lab.image import CACHE, Image, pack_cpio
from tests.lab.network import Network
from tests.lab.ssh import Keys
from tests.lab.waiting import LabError, LabTimeoutError, wait_until

Flavour = Literal["xen", "plain"]

GUEST_PORTS = 8
"""How many guests' consoles reach the bare machine: virtio ports named guest0, guest1, ... on each host."""

DATA_DISK_MIB = 2048
_MEMORY_MIB = {"xen": 1280, "plain": 1280}
_KERNEL_WORDS = (
    "root=/dev/vda rw quiet loglevel=4 mitigations=off nokaslr net.ifnames=0 systemd.show_status=0 audit=0 "
    "random.trust_cpu=on tsc=reliable no_timer_check nowatchdog cryptomgr.notests"
)
# A dom0 with both processors is half as fast: each change of a page table interrupts the other one. So it has
# the first, and the guests have the second (`tests.lab.vm`).
_XEN_WORDS = (
    "console=com1 com1=115200,8n1 dom0_mem=640M,max:640M dom0_max_vcpus=1 dom0_vcpus_pin "
    "loglvl=warning guest_loglvl=warning spec-ctrl=no xpti=no pv-l1tf=no"
)


@dataclass(frozen=True, slots=True)
class Accelerator:
    """How QEMU runs the hosts' instructions: in hardware (KVM) or in software (TCG)."""

    kvm: bool

    def arguments(self, flavour: Flavour) -> list[str]:
        """Return QEMU's accelerator and CPU model.

        Under TCG Xen's dom0 crashes on `-cpu max` (SMAP), and libvirtd ends when it cannot name the CPU:
        Westmere mends both.
        """
        if self.kvm:
            return ["-accel", "kvm", "-cpu", "host"]
        return ["-accel", "tcg,thread=multi", "-cpu", "Westmere" if flavour == "xen" else "max"]

    @staticmethod
    def probe(image: Image, guest: Path) -> "Accelerator":
        """Find out whether KVM really boots a guest here; asked once per boot of the bare machine.

        A /dev/kvm that opens proves nothing: on some machines a stock kernel then hangs. So the lab's
        guest is booted, and must print its first line within 20 s.
        """
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        answer = CACHE / "kvm"
        if not answer.exists() or answer.read_text(encoding="utf-8").split()[0] != boot:
            works = Path("/dev/kvm").exists() and _kvm_boots(image, guest)
            answer.write_text(f"{boot} {'kvm' if works else 'tcg'}\n", encoding="utf-8")
        return Accelerator(kvm=answer.read_text(encoding="utf-8").split()[1] == "kvm")


def _kvm_boots(image: Image, guest: Path) -> bool:
    argv = [
        "qemu-system-x86_64",
        "-machine",
        "q35",
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-m",
        "256",
        "-nodefaults",
    ]
    argv += [
        "-display",
        "none",
        "-no-reboot",
        "-serial",
        "stdio",
        "-kernel",
        str(image.kernel),
        "-initrd",
        str(guest),
    ]
    argv += ["-append", "console=ttyS0 quiet panic=-1"]
    qemu = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert qemu.stdout is not None
    os.set_blocking(qemu.stdout.fileno(), False)
    seen = bytearray()

    def spoke() -> bool:
        seen.extend(qemu.stdout.read() or b"")
        return b"vmheal-guest" in seen or qemu.poll() is not None

    try:
        wait_until(spoke, "a guest under KVM", 20)
    except LabTimeoutError:
        return False
    finally:
        qemu.kill()
        qemu.communicate()
    return b"vmheal-guest" in seen


@dataclass(frozen=True, slots=True)
class Payload:
    """What every host of a lab gets, besides the image: keys and the guest's two forms."""

    keys: Keys
    guest_initramfs: Path
    guest_program: Path


class Machine:
    """A host's hardware. Its disks survive `kill`, as real ones survive a power cut."""

    def __init__(
        self, name: str, flavour: Flavour, image: Image, cables: Network, folder: Path, logs: Path
    ) -> None:
        self.name = name
        self.flavour: Flavour = flavour
        self._image = image
        self._network = cables
        self._folder = folder
        self._logs = logs
        self._qemu: subprocess.Popen[bytes] | None = None
        self._frozen = False

    @property
    def running(self) -> bool:
        """Whether it has power (a frozen one has)."""
        return self._qemu is not None and self._qemu.poll() is None

    @property
    def pid(self) -> int | None:
        """Of its QEMU; None before it was first switched on."""
        return None if self._qemu is None else self._qemu.pid

    @property
    def frozen(self) -> bool:
        """Whether it stands still."""
        return self.running and self._frozen

    @property
    def console_log(self) -> Path:
        """What the host's kernel said, over all its boots."""
        return self._logs / f"{self.name}.console"

    def guest_log(self, port: int) -> Path:
        """What a guest on this host printed, over all boots: the far end of the virtio port `guestN`."""
        return self._logs / f"{self.name}.guest{port}"

    def prepare(self, payload: Payload) -> None:
        """Make fresh disks, and the part of the initramfs that holds this host's own files."""
        # Raw disks without flushes: what a killed machine wrote is in the bare machine's page cache and
        # stays, and a flush costs nothing.
        subprocess.run(
            ["cp", "--reflink=auto", "--sparse=always", str(self._image.root), str(self._disk("root"))],
            check=True,
            timeout=120,
        )
        with self._disk("data").open("wb") as data:
            data.truncate(DATA_DISK_MIB * 1024 * 1024)
        tree = self._folder / f"{self.name}.seed"
        self._write_seed(tree / "seed", payload)
        seed = self._folder / f"{self.name}.seed.cpio"
        pack_cpio(tree, seed)
        self._initrd.write_bytes(self._image.initrd.read_bytes() + seed.read_bytes())
        shutil.rmtree(tree)
        seed.unlink()

    def power_on(self, accelerator: Accelerator) -> None:
        """Start QEMU; returns at once.

        Raises:
            LabError: it runs already.
        """
        if self.running:
            raise LabError(f"{self.name} runs already")
        self._frozen = False
        log = (self._logs / f"{self.name}.qemu").open("ab")
        with log:
            self._qemu = subprocess.Popen(
                self._network.command(self._argv(accelerator)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the person's program; the janitor ends this one
            )

    def kill(self) -> None:
        """Cut the power (SIGKILL); fine when there is none."""
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait(timeout=20)
        self._frozen = False

    def freeze(self) -> None:
        """Have it stand still with its connections open (SIGSTOP)."""
        self._signal(signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """Have it go on as if nothing had been; fine when it was not frozen."""
        self._signal(signal.SIGCONT)
        self._frozen = False

    def died(self) -> str:
        """Return QEMU's last words, for an error message."""
        return (self._logs / f"{self.name}.qemu").read_text(encoding="utf-8", errors="replace")[-500:]

    def _signal(self, what: signal.Signals) -> None:
        if self._qemu is None or not self.running:
            raise LabError(f"{self.name} does not run")
        self._qemu.send_signal(what)

    @property
    def _initrd(self) -> Path:
        return self._folder / f"{self.name}.initrd"

    def _disk(self, which: str) -> Path:
        return self._folder / f"{self.name}.{which}.raw"

    def _write_seed(self, tree: Path, payload: Payload) -> None:
        number = network.host_number(self.name)
        batch = ["link set lo up"]
        for position, (plane, device) in enumerate(network.DEVICES.items()):
            batch += [
                f"link set eth{position} name {device}",
                f"addr add {network.address(self.name, plane)}/24 dev {device}",
                f"link set {device} up",
            ]
        texts = {
            "etc/hostname": f"{self.name}\n",
            "etc/hosts": network.hosts_file(self._network.hosts),
            "etc/machine-id": f"{uuid.UUID(int=number).hex}\n",
            "etc/lab/network.batch": "".join(f"{line}\n" for line in batch),
            "root/.ssh/authorized_keys": payload.keys.client.with_suffix(".pub").read_text(encoding="utf-8"),
        }
        for name, text in texts.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (tree / "root" / ".ssh").chmod(0o700)
        host_key = payload.keys.client.with_name(f"{self.name}.hostkey")
        copies = {
            "etc/ssh/ssh_host_ed25519_key": host_key,
            "etc/ssh/ssh_host_ed25519_key.pub": host_key.with_suffix(".hostkey.pub"),
            "etc/ssh/ssh_known_hosts": payload.keys.known_hosts,
            "var/lib/lab/guest.cpio": payload.guest_initramfs,
            "var/lib/lab/lxc/writer": payload.guest_program,
        }
        for name, source in copies.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, path)

    def _argv(self, accelerator: Accelerator) -> list[str]:
        number = network.host_number(self.name)
        argv = ["qemu-system-x86_64", "-name", self.name, "-machine", "q35,usb=off,vmport=off"]
        argv += accelerator.arguments(self.flavour)
        argv += ["-smp", "2", "-m", str(_MEMORY_MIB[self.flavour]), "-uuid", str(uuid.UUID(int=number))]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        argv += [
            "-chardev",
            f"file,id=console,path={self.console_log},append=on",
            "-serial",
            "chardev:console",
        ]
        argv += ["-device", "virtio-rng-pci"]
        for disk in ("root", "data"):
            argv += [
                "-drive",
                f"if=none,id={disk},file={self._disk(disk)},format=raw,cache=unsafe,discard=unmap",
            ]
            argv += ["-device", f"virtio-blk-pci,drive={disk}"]
        for position, plane in enumerate(network.DEVICES):
            argv += [
                "-netdev",
                f"tap,id={plane},ifname={network.tap(self.name, plane)},script=no,downscript=no",
            ]
            mac = f"52:54:00:00:{number:02x}:{position + 1:02x}"
            argv += ["-device", f"virtio-net-pci,netdev={plane},mac={mac},romfile="]
        argv += ["-device", "virtio-serial-pci"]
        for port in range(GUEST_PORTS):
            argv += ["-chardev", f"file,id=guest{port},path={self.guest_log(port)},append=on"]
            argv += ["-device", f"virtserialport,chardev=guest{port},name=guest{port}"]
        return argv + self._boot_arguments()

    def _boot_arguments(self) -> Sequence[str]:
        if self.flavour == "xen":
            modules = f"{self._image.kernel} console=hvc0 {_KERNEL_WORDS},{self._initrd}"
            return ["-kernel", str(self._image.xen), "-initrd", modules, "-append", _XEN_WORDS]
        words = f"console=ttyS0 {_KERNEL_WORDS}"
        return ["-kernel", str(self._image.kernel), "-initrd", str(self._initrd), "-append", words]
