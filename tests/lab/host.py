"""A host: a machine that one can log in to, with DRBD and libvirt on it."""

import io
import tarfile
from collections.abc import Sequence

from tests.lab import network
from tests.lab.image import REPO
from tests.lab.machine import Accelerator, Machine
from tests.lab.network import Network
from tests.lab.ssh import CommandError, Completed, Connection, Keys
from tests.lab.vm import FENCE_PEER, LIBVIRT_URIS, VOLUME_GROUP, Resource, Vm
from tests.lab.waiting import LabError, LabTimeoutError, wait_until

SSH_TIMEOUT_SECONDS = 300.0
# What an installer would make of the entry point in pyproject.toml.
LAUNCHER = """\
#!/opt/vmheal/bin/python
import sys

sys.path.insert(0, "/opt/vmheal/src")
from exporter.__main__ import main

main()
"""
# -I and -S spare most of the interpreter's start: a VM's I/O stands still meanwhile.
FENCE_PEER_LAUNCHER = """\
#!/usr/bin/python3 -IS
import sys

sys.path.insert(0, "/opt/vmheal/src")
from exporter.fence_peer import main

main()
"""
_LIBXL_LOG = "/var/log/libvirt/libxl/libxl-driver.log"
EXPORTER_UNIT = REPO / "exporter" / "systemd" / "vmheal-exporter.service"
DRBD_UNIT = REPO / "exporter" / "systemd" / "vmheal-drbd.service"


class Host:
    """Commands go over the out-of-band network, which no drill cuts."""

    def __init__(self, machine: Machine, cables: Network, keys: Keys, accelerator: Accelerator) -> None:
        self.name = machine.name
        self.machine = machine
        self._accelerator = accelerator
        oob = network.address(self.name, "oob")
        self._connection = Connection(self.name, keys, lambda patience: cables.connect(oob, 22, patience))

    def run(
        self, argv: Sequence[str], *, timeout_seconds: float = 60, check: bool = True, stdin: bytes = b""
    ) -> Completed:
        """Run a command as root; see `tests.lab.ssh.Connection.run`."""
        return self._connection.run(argv, timeout_seconds=timeout_seconds, check=check, stdin=stdin)

    def boot(self) -> None:
        """Switch on and wait until it answers; DRBD and VMs stay off (`drbd_up`).

        Raises:
            LabError: it runs already, died, or did not answer in time.
        """
        self.power_on()
        self.wait_for_ssh()

    def power_on(self) -> None:
        """Switch on; returns at once."""
        self.machine.power_on(self._accelerator)

    def wait_for_ssh(self) -> None:
        """Wait until commands can be run.

        Raises:
            LabError: QEMU ended, or no answer in time; the message has the last lines of the console.
        """

        def answers() -> bool:
            if not self.machine.running:
                raise LabError(f"{self.name} died: {self.machine.died()}")
            try:
                return self.run(["true"], timeout_seconds=15).returncode == 0
            except LabError:
                return False

        try:
            wait_until(answers, f"{self.name} to answer over ssh", SSH_TIMEOUT_SECONDS, 0.3)
        except LabTimeoutError as error:
            console = self.machine.console_log.read_bytes()[-1500:].decode(errors="replace")
            raise LabError(f"{error}; its console ends with:\n{console}") from error

    def kill(self) -> None:
        """Cut its power."""
        self.machine.kill()
        self._connection.close()

    def freeze(self) -> None:
        """Have it stand still, its TCP connections open."""
        self.machine.freeze()

    def thaw(self) -> None:
        """Have it go on."""
        self.machine.thaw()

    def write(self, path: str, text: str) -> None:
        """Write a file on the host."""
        self.run(["tee", path], stdin=text.encode())

    def break_disk(self, resource: Resource) -> None:
        """Have every read and write of the resource's local volume fail, below DRBD."""
        device = _dm_name(resource)
        table = self.run(["dmsetup", "table", device]).text
        self.run(["mkdir", "-p", "/run/lab"])
        self.write(_table_file(resource), f"{table}\n")
        sectors = table.split()[1]
        self._replace_table(device, f"0 {sectors} error")

    def mend_disk(self, resource: Resource) -> None:
        """Give the resource its volume back; DRBD stays detached until it is told to attach."""
        table = self.run(["cat", _table_file(resource)]).text
        self._replace_table(_dm_name(resource), table)

    def drbd_state(self, resource: Resource) -> tuple[str, str, str]:
        """Return the resource's connection state, roles (here/peer) and disk states, with one fork."""
        for line in self.run(["cat", "/proc/drbd"]).text.splitlines():
            words = line.split()
            if words and words[0] == f"{resource.minor}:":
                fields = dict(word.split(":", 1) for word in words[1:] if ":" in word)
                return fields["cs"], fields.get("ro", ""), fields.get("ds", "")
        return "Unconfigured", "", ""

    def wait_for_drbd(
        self,
        resource: Resource,
        *,
        connection: str = "",
        roles: str = "",
        disks: str = "",
        timeout_seconds: float = 60,
    ) -> None:
        """Wait until the resource's states are the given ones (those left empty may be any).

        Raises:
            LabTimeoutError: they are not; the message has the last ones.
        """
        wanted = (connection, roles, disks)
        last: list[tuple[str, str, str]] = []

        def reached() -> bool:
            last[:] = [self.drbd_state(resource)]
            return all(want in ("", have) for want, have in zip(wanted, last[0], strict=True))

        what = f"{resource.name} on {self.name} to be {'/'.join(filter(None, wanted))}"
        try:
            wait_until(reached, what, timeout_seconds, 0.2)
        except LabTimeoutError as error:
            raise LabTimeoutError(f"{error} ({' '.join(last[0])})") from error

    def read_disk(self, resource: Resource, size_bytes: int) -> bytes:
        """Return the beginning of the resource's local volume, past every cache, also on a Secondary."""
        block = 64 * 1024
        count = str(-(-size_bytes // block))
        argv = [
            "dd",
            f"if={resource.backing}",
            f"bs={block}",
            f"count={count}",
            "iflag=direct",
            "status=none",
        ]
        return self.run(argv, timeout_seconds=120).stdout

    def domain_state(self, vm: Vm) -> str:
        """Return libvirt's state and reason of a domain: "running (booted)", "shut off (crashed)", ..."""
        return self.virsh(vm.uri, "domstate", "--reason", vm.name)

    def wait_for_domain(self, vm: Vm, state: str, timeout_seconds: float = 60) -> None:
        """Wait until libvirt's word for a domain begins with `state`.

        Raises:
            LabTimeoutError: it does not; the message has the last word.
        """
        last = [""]

        def reached() -> bool:
            last[0] = self.domain_state(vm)
            return last[0].startswith(state)

        try:
            wait_until(reached, f"{vm.name} on {self.name} to be {state}", timeout_seconds, 0.3)
        except LabTimeoutError as error:
            raise LabTimeoutError(f"{error} ({last[0]})") from error

    def start_guest(self, vm: Vm) -> None:
        """Have libvirt start the domain.

        Raises:
            LabError: it refused; for Xen the message has the end of libxl's log, which alone says why.
        """
        try:
            self.virsh(vm.uri, "start", vm.name)
        except CommandError as error:
            if vm.flavour != "xen":
                raise
            said = self.run(["tail", "-n", "20", _LIBXL_LOG], check=False).text
            raise LabError(f"{error}\n{said}") from error

    def crash_guest(self, vm: Vm) -> None:
        """Have the guest's kernel panic.

        Raises:
            LabError: a container has no kernel of its own.
        """
        if vm.flavour == "xen":
            self.run(["xl", "sysrq", vm.name, "c"])
        elif vm.flavour == "qemu":
            self.virsh(vm.uri, "inject-nmi", vm.name)  # unknown_nmi_panic is on its command line
        else:
            raise LabError(f"{vm.name} is a container: it has no kernel that could panic")

    def kill_guest(self, vm: Vm) -> None:
        """End the guest behind libvirt's back: SIGKILL to its process; for Xen, which has none, a destroy."""
        if vm.flavour == "xen":
            self.run(["xl", "destroy", vm.name])
        else:
            process = self.run(["cat", f"/run/libvirt/{vm.flavour}/{vm.name}.pid"]).text
            self.run(["kill", "-KILL", process])

    def destroy_guest(self, vm: Vm) -> None:
        """Have libvirt destroy the domain."""
        self.virsh(vm.uri, "destroy", vm.name)

    def pause_guest(self, vm: Vm) -> None:
        """Have libvirt pause the domain."""
        self.virsh(vm.uri, "suspend", vm.name)

    def resume_guest(self, vm: Vm) -> None:
        """Have libvirt continue the domain."""
        self.virsh(vm.uri, "resume", vm.name)

    def restart_libvirtd(self) -> None:
        """Restart libvirtd; guests run on."""
        self.run(["systemctl", "restart", "libvirtd.service"], timeout_seconds=120)

    def install_exporter(self) -> None:
        """Copy the checkout's exporter to the host and start it by the unit that the repo ships."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(REPO / "exporter", "opt/vmheal/src/exporter", filter=_without_bytecode)
            _add_program(tar, "opt/vmheal/bin/vmheal-exporter", LAUNCHER)
            tar.add(EXPORTER_UNIT, f"etc/systemd/system/{EXPORTER_UNIT.name}")
        self.run(["tar", "-x", "-C", "/"], stdin=archive.getvalue())
        # As pip does; the unit's view of /opt is read-only.
        self.run(["python3", "-m", "compileall", "-q", "/opt/vmheal"], timeout_seconds=120)
        self.run(["systemctl", "daemon-reload"], timeout_seconds=120)
        self.run(["systemctl", "enable", "--quiet", EXPORTER_UNIT.name], timeout_seconds=120)
        self.run(["sync"], timeout_seconds=60)
        self.run(["systemctl", "restart", EXPORTER_UNIT.name], timeout_seconds=120)

    def install_fence_peer(self, actuator: str, token: str) -> None:
        """Copy the checkout's DRBD handler to the host; it asks the actuator at this address and port.

        Its unit for the boot is there and not enabled: the lab's hosts boot without DRBD (`boot`).
        """
        flavours = ("xen",) if self.machine.flavour == "xen" else ("qemu", "lxc")
        lines = [
            f"actuator {actuator}",
            "token_file /etc/vmheal/fence-peer.token",
            *(f"libvirt_uri {LIBVIRT_URIS[flavour]}" for flavour in flavours),
        ]
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(DRBD_UNIT, f"etc/systemd/system/{DRBD_UNIT.name}")
            for name in ("__init__.py", "fence_peer.py", "release.py"):
                tar.add(REPO / "exporter" / name, f"opt/vmheal/src/exporter/{name}")
            _add_program(tar, FENCE_PEER.removeprefix("/"), FENCE_PEER_LAUNCHER)
            _add_file(tar, "etc/vmheal/fence-peer.token", f"{token}\n", 0o600)
            config = "".join(f"{line}\n" for line in lines)
            _add_file(tar, "etc/vmheal/fence-peer.conf", config, 0o644)
        self.run(["tar", "-x", "-C", "/"], stdin=archive.getvalue())
        self.run(["sync"], timeout_seconds=60)  # it may lose its power soon: an empty unit counts as masked

    def virsh(self, uri: str, *words: str, timeout_seconds: float = 180, check: bool = True) -> str:
        """Run virsh and return what it printed.

        Raises:
            CommandError: it failed (`check`).
        """
        argv = ["virsh", "--quiet", "--connect", uri, *words]
        return self.run(argv, timeout_seconds=timeout_seconds, check=check).text

    def first_boot(self) -> None:
        """Make the volume group on the fresh data disk."""
        self.run(["vgcreate", "--quiet", VOLUME_GROUP, "/dev/vdb"], timeout_seconds=120)

    def drbd_up(self, *resources: str) -> None:
        """Attach and connect resources (all without arguments), as a host's boot would.

        Raises:
            CommandError: LVM or drbdadm refused.
        """
        self.run(["vgchange", "--quiet", "--quiet", "--activate", "y", VOLUME_GROUP], timeout_seconds=120)
        self.run(["drbdadm", "up", *(resources or ("all",))], timeout_seconds=120)

    def make_volume(self, resource: Resource) -> None:
        """Make a resource's logical volume, full of zeros as the fresh disk is."""
        volume = ["--size", f"{resource.size_mib}M", "--name", resource.name, VOLUME_GROUP]
        unwiped = ["--wipesignatures", "n", "--zero", "n"]
        self.run(["lvcreate", "--quiet", "--yes", *unwiped, *volume], timeout_seconds=120)

    def make_half(self, resource: Resource) -> None:
        """Bring this host's half of a resource into being, up to its `up`."""
        self.write(f"/etc/drbd.d/{resource.name}.res", resource.config())
        self.make_volume(resource)
        # "--force" answers create-md's question about data found on a disk that is known to be empty.
        self.run(["drbdadm", "create-md", "--force", resource.name], timeout_seconds=120)
        self.drbd_up(resource.name)

    def define(self, vm: Vm) -> None:
        """Define a VM's domain, and have a Xen guest's console reach the bare machine."""
        if vm.flavour == "xen":
            log = f"/var/log/xen/console/guest-{vm.name}.log"
            self.run(["mkdir", "-p", "/var/log/xen/console"])
            self.run(["ln", "-sfn", f"/dev/virtio-ports/guest{vm.port}", log])
        definition = f"/var/lib/lab/{vm.name}.xml"
        self.write(definition, vm.domain_xml())
        self.virsh(vm.uri, "define", definition)

    def demote(self, resource: Resource, timeout_seconds: float = 60) -> None:
        """Make a resource Secondary, as soon as nobody has its device open any more.

        A destroyed guest's device is closed a moment after libvirt has said that the guest is gone.

        Raises:
            LabTimeoutError: somebody still has; the message has DRBD's words.
        """

        last = [""]

        def demoted() -> bool:
            done = self.run(["drbdadm", "secondary", resource.name], check=False)
            last[0] = done.stderr.decode(errors="replace").strip()
            return done.returncode == 0

        try:
            wait_until(demoted, f"{resource.name} on {self.name} to be Secondary", timeout_seconds, 1)
        except LabTimeoutError as error:
            raise LabTimeoutError(f"{error} ({last[0]})") from error

    def _replace_table(self, device: str, table: str) -> None:
        # noflush: what is in flight gets the new table's answer instead of holding up the change.
        self.run(["dmsetup", "suspend", "--noflush", "--nolockfs", device])
        self.run(["dmsetup", "load", device, "--table", table])
        self.run(["dmsetup", "resume", device])


def _dm_name(resource: Resource) -> str:
    """Return a volume's name for device mapper, which doubles the hyphens within names."""
    return f"{VOLUME_GROUP}-{resource.name.replace('-', '--')}"


def _table_file(resource: Resource) -> str:
    return f"/run/lab/{resource.name}.table"


def _add_program(tar: tarfile.TarFile, path: str, text: str) -> None:
    _add_file(tar, path, text, 0o755)


def _add_file(tar: tarfile.TarFile, path: str, text: str, mode: int) -> None:
    info = tarfile.TarInfo(path)
    info.mode, info.size = mode, len(text)
    tar.addfile(info, io.BytesIO(text.encode()))


def _without_bytecode(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in info.name else info
