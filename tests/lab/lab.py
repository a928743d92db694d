"""The lab: hosts, networks, VMs and what can happen to them. See `Lab`."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Self, TypeVar

from tests.lab import guest, janitor, network
from tests.lab.host import Host
from tests.lab.image import CACHE, Image, build
from tests.lab.machine import GUEST_PORTS, Accelerator, Flavour, Machine, Payload
from tests.lab.network import MONITOR, Cable, Network
from tests.lab.ssh import Keys
from tests.lab.vm import OnCrash, Resource, Vm, VmFlavour
from tests.lab.waiting import LabError, Progress, print_progress, stage
from tests.lab.witness import DiskCopy, Line, Witness, read_records

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Do the work for all items at the same time; the first error is raised when all have ended."""
    todo = list(items)
    with ThreadPoolExecutor(max_workers=max(1, len(todo))) as pool:
        return list(pool.map(work, todo))


class Lab:
    """Two or three whole hosts, as a context manager: on leaving it, nothing of it is left but its logs.

    Labs of different names may run at the same time; a second one of the same name waits for the first
    to end. What a killed program left behind is taken away at once by the lab's janitor.

        with Lab(hosts=2, flavour="xen") as lab:
            vm = lab.add_vm("vm01", on=("v01", "v02"), flavour="xen")
            lab.start_vm(vm)
            lab.witness.wait_for_record(vm)
    """

    def __init__(
        self,
        hosts: int = 2,
        flavour: Flavour = "xen",
        name: str = "test",
        progress: Progress = print_progress,
    ) -> None:
        """Describe the lab; nothing happens before it is entered.

        Args:
            hosts: how many (1 to 9), named v01, v02, ...
            flavour: `xen` boots each as a Xen host, `plain` on the bare kernel (for QEMU and LXC guests).
            name: of this lab, for its folders and its network namespace; at most 10 letters.
            progress: where to say what is going on.
        """
        if not 1 <= hosts <= 9 or not 1 <= len(name) <= 10:
            raise LabError(f"A lab has 1 to 9 hosts and a name of 1 to 10 letters, not {hosts} and {name!r}")
        self.name = name
        self.flavour: Flavour = flavour
        self.folder = CACHE / "run" / name
        self.logs = CACHE / "logs" / name
        self.network = Network(f"vmheal-{name}", tuple(f"v{number:02d}" for number in range(1, hosts + 1)))
        self.hosts: Mapping[str, Host] = {}
        self.vms: dict[str, Vm] = {}
        self.door = ""
        """The address at which the bare machine reaches what listens in the lab's namespace."""
        self.progress = progress
        self.witness = Witness()
        self._lock: IO[str] | None = None
        self._janitor: subprocess.Popen[bytes] | None = None
        self._keys: Keys | None = None
        self._resources = 0

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def keys(self) -> Keys:
        """The client key and the known_hosts file (hosts by name and by every address)."""
        assert self._keys is not None, "the lab has not been entered"
        return self._keys

    def host(self, name: str) -> Host:
        """Return a host by name."""
        return self.hosts[name]

    def close(self) -> None:
        """End everything and take it away; logs stay in `logs`. Fine when done before.

        Raises:
            LabError: something could not be taken away.
        """
        self.witness.stop()
        keeper, self._janitor = self._janitor, None
        lock, self._lock = self._lock, None
        try:
            if keeper is not None:
                with stage(self.progress, "lab: taking all away"):
                    keeper.communicate(timeout=60)
                for host in self.hosts.values():
                    host.machine.kill()  # the janitor has; its end is taken note of here
                if keeper.returncode:
                    raise LabError(f"The janitor of {self.network.namespace} ended with {keeper.returncode}")
        finally:
            if lock is not None:
                lock.close()

    def leave_running(self) -> None:
        """Give the lab up without ending it; `take_away(name)` ends it later."""
        self.witness.stop()
        if self._janitor is not None:
            self._janitor.kill()
            self._janitor.wait()
            self._janitor = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def popen(
        self, argv: Sequence[str], log: str, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program on the monitoring machine (in the namespace); it never outlives the lab.

        Args:
            argv: the program.
            log: its output is appended to `logs`/LOG.log.
            env: its whole environment; this process's when left out.
            cwd: its working directory.
        """
        with (self.logs / f"{log}.log").open("ab") as output:
            return subprocess.Popen(
                self.network.command(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )

    def unplug(self, name: str, cable: Cable) -> None:
        """Pull a cable of a host, or the management cable of the `monitor`."""
        self.network.unplug(name, cable)

    def plug(self, name: str, cable: Cable) -> None:
        """Put a cable back; without effect when it is in."""
        self.network.plug(name, cable)

    def add_vm(
        self,
        name: str,
        on: tuple[str, str] = ("v01", "v02"),
        flavour: VmFlavour | None = None,
        disks: int = 1,
        interval_ms: int = 125,
        on_crash: OnCrash = "destroy",
        *,
        fenced: bool = False,
    ) -> Vm:
        """Make a VM: its volumes and DRBD resources, mirrored and UpToDate, Primary on the first host, and
        its domain, defined on both and not started. With `fenced`, DRBD asks the arbiter (see `Site`).

        Raises:
            LabError: no console port is left, or a host refused something.
        """
        if len(self.vms) == GUEST_PORTS or name in self.vms:
            raise LabError(f"No room for a VM {name!r}: there are {sorted(self.vms)} (at most {GUEST_PORTS})")
        resources = tuple(
            Resource(
                name if position == 0 else f"{name}-{position + 1}", self._resources + position, on, fenced
            )
            for position in range(disks)
        )
        self._resources += disks
        natural: VmFlavour = "xen" if self.flavour == "xen" else "qemu"
        vm = Vm(
            name, on, flavour or natural, resources, len(self.vms), interval_ms=interval_ms, on_crash=on_crash
        )
        with stage(self.progress, f"{name}: volumes, DRBD, domain on {' and '.join(on)}"):
            in_parallel(lambda host: self._define(vm, self.hosts[host]), on)
            for resource in resources:
                self.mirror(resource)
        self.vms[name] = vm
        for host in on:
            self.witness.watch(vm, host, self.hosts[host].machine.guest_log(vm.port))
        return vm

    def mirror(self, resource: Resource) -> None:
        """Connect the fresh halves and make the first host Primary, without a first sync: both are empty."""
        first, second = (self.hosts[name] for name in resource.hosts)
        first.wait_for_drbd(resource, connection="Connected")
        first.run(["drbdadm", "new-current-uuid", "--clear-bitmap", f"{resource.name}/0"])
        for host in (first, second):
            host.wait_for_drbd(resource, connection="Connected", disks="UpToDate/UpToDate")
        first.run(["drbdadm", "primary", resource.name])

    def start_vm(self, vm: Vm, on: str | None = None) -> None:
        """Start the VM's domain with libvirt, on the given host or its first.

        Raises:
            LabError: libvirt refused; the message has what libxl logged of it.
        """
        self.hosts[on or vm.hosts[0]].start_guest(vm)

    def start_vms(self, vms: Iterable[Vm], timeout_seconds: float = 120) -> list[Line]:
        """Start VMs on their first hosts and wait until each writes; return a record of each.

        Raises:
            LabTimeoutError: one wrote nothing in time.
        """
        started = list(vms)
        for vm in started:
            self.start_vm(vm)
        return [self.witness.wait_for_record(vm, timeout_seconds=timeout_seconds) for vm in started]

    def end_vm(self, vm: Vm) -> None:
        """Destroy the VM's domain wherever anything of it is left."""
        for host in vm.hosts:
            if vm.name in self.hosts[host].virsh(vm.uri, "list", "--name").split():
                self.hosts[host].destroy_guest(vm)

    def records_on_disk(self, vm: Vm, host: str) -> DiskCopy:
        """Read from a host's own volumes which records are there; those of every disk, when it has several.

        Raises:
            LabError: a record is damaged.
        """
        self.witness.read()
        begun = self.witness.clock()
        numbers = [line.number for line in self.witness.lines(vm)]
        size = guest.SLOT_BYTES * min(guest.SLOTS, max(numbers, default=0) + 200)
        copies = [read_records(self.hosts[host].read_disk(resource, size)) for resource in vm.resources]
        records = {
            number: boot
            for number, boot in copies[0].items()
            if all(copy.get(number) == boot for copy in copies[1:])
        }
        return DiskCopy(host, begun, records, guest.SLOTS)

    def assert_nothing_lost(self, vm: Vm, *hosts: str) -> None:
        """Assert that nothing that the VM printed was lost, on these hosts' disks too (its own by default).

        Raises:
            BrokenError: something was, or two guests ran at once.
        """
        for host in hosts or vm.hosts:
            self.witness.assert_nothing_lost(vm, self.records_on_disk(vm, host))

    def _begin(self) -> None:
        if os.geteuid() != 0:
            raise LabError("The lab needs root: it makes network namespaces and runs whole hosts")
        image = build(self.progress)
        (CACHE / "run").mkdir(parents=True, exist_ok=True)
        self._lock = (CACHE / "run" / f"{self.name}.lock").open("w", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.progress(f"another lab {self.name!r} is running; waiting for its end")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        janitor.take_away(self.network.namespace, self.folder)
        shutil.rmtree(self.logs, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.logs.mkdir(parents=True)
        self._janitor = janitor.start(self.network.namespace, self.folder, self._lock.fileno())
        with stage(self.progress, f"lab: network, keys, disks of {len(self.network.hosts)} hosts"):
            self._prepare(image.linked(self.folder / "image"))
        with stage(self.progress, f"lab: boot {len(self.hosts)} {self.flavour} hosts"):
            for host in self.hosts.values():
                host.power_on()
            in_parallel(Host.wait_for_ssh, self.hosts.values())
        with stage(self.progress, "lab: volume groups"):
            in_parallel(Host.first_boot, self.hosts.values())
        self.witness.start()

    def _prepare(self, image: Image) -> None:
        self.network.create()
        self.door = self.network.open_door()
        names = {
            host: [host, *(network.address(host, plane) for plane in network.PREFIXES)]
            for host in self.network.hosts
        }
        self._keys = Keys.generate(self.folder, names)
        (self.folder / "ssh_config").write_text(self._ssh_config(), encoding="utf-8")
        initramfs, program = guest.build(image, self.folder)
        payload = Payload(self._keys, initramfs, program)
        accelerator = Accelerator.probe(image, initramfs)
        hosts = {}
        for name in self.network.hosts:
            machine = Machine(name, self.flavour, image, self.network, self.folder, self.logs)
            machine.prepare(payload)
            hosts[name] = Host(machine, self.network, self._keys, accelerator)
        self.hosts = hosts

    def _ssh_config(self) -> str:
        """Return a configuration for a person's `ssh -F`, by host name over the out-of-band network."""
        common = f"""\
Host *
    User root
    IdentityFile {self.keys.client}
    IdentitiesOnly yes
    UserKnownHostsFile {self.keys.known_hosts}
    StrictHostKeyChecking yes
"""
        return common + "".join(
            f"Host {host}\n    HostName {network.address(host, 'oob')}\n" for host in self.network.hosts
        )

    def _define(self, vm: Vm, host: Host) -> None:
        """Bring one host's half of a VM into being."""
        for resource in vm.resources:
            host.make_half(resource)
        host.define(vm)


def take_away(name: str) -> None:
    """End a lab that was left running, or what is left of one; fine when there is nothing."""
    janitor.take_away(f"vmheal-{name}", CACHE / "run" / name)


__all__ = ["MONITOR", "Lab", "in_parallel", "take_away"]
