"""What a protected VM is: its mirrored disks as DRBD resources, and its domain for libvirt."""

import uuid
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape

from tests.lab import network

VmFlavour = Literal["xen", "qemu", "lxc"]
OnCrash = Literal["destroy", "preserve"]
Protocol = Literal["A", "B", "C"]

LIBVIRT_URIS = {"xen": "xen:///system", "qemu": "qemu:///system", "lxc": "lxc:///system"}
FENCE_PEER = "/usr/bin/vmheal-fence-peer"
DISK_MIB = 32
VOLUME_GROUP = "vg0"
_FIRST_PORT = 7700

# What spares an emulated processor. On a busy machine it also fails the kernel's test of its timer.
_FAST = "quiet loglevel=3 mitigations=off nokaslr no_timer_check nowatchdog cryptomgr.notests"
_XEN_WORDS = f"console=hvc0 panic=-1 {_FAST}"
# `virsh inject-nmi` makes it panic; then it stands still, as libvirt's panic device reports it.
_QEMU_WORDS = f"console=ttyS0 panic=0 unknown_nmi_panic tsc=reliable {_FAST}"

# Short timers, so that a drill sees a lost peer within two seconds (units: s, 0.1 s, 0.1 s, s); a resync
# that does not crawl while the guest writes.
_RESOURCE = """\
resource {name} {{
    device /dev/drbd{minor} minor {minor};
    meta-disk internal;
    net {{
        protocol {protocol};
        ping-int 1;
        ping-timeout 5;
        timeout 30;
        connect-int 2;
        after-sb-0pri disconnect;
        after-sb-1pri disconnect;
        after-sb-2pri disconnect;
    }}
    disk {{
        on-io-error detach;
        c-plan-ahead 0;
        resync-rate 50M;
        c-min-rate 0;
{fencing}    }}
{handlers}{sides}}}
"""
_FENCING = """\
        fencing resource-and-stonith;
"""
_HANDLERS = f"""\
    handlers {{
        fence-peer "{FENCE_PEER}";
        unfence-peer "{FENCE_PEER} unfence-peer";
        before-resync-source "{FENCE_PEER} before-resync-source";
    }}
"""
_SIDE = """\
    on {host} {{
        disk {backing};
        address {address}:{port};
    }}
"""


@dataclass(frozen=True, slots=True)
class Resource:
    """A DRBD resource with one volume, mirrored between two hosts."""

    name: str
    minor: int
    hosts: tuple[str, str]
    fenced: bool = False
    """DRBD freezes its I/O when it loses the peer, and asks the arbiter."""
    protocol: Protocol = "C"
    """When DRBD tells that something is written; with C it is on both disks."""
    size_mib: int = DISK_MIB

    @property
    def device(self) -> str:
        """The mirrored block device."""
        return f"/dev/drbd{self.minor}"

    @property
    def backing(self) -> str:
        """The logical volume below it, on either host."""
        return f"/dev/{VOLUME_GROUP}/{self.name}"

    def config(self) -> str:
        """Return its file for /etc/drbd.d."""
        sides = "".join(
            _SIDE.format(
                host=host,
                backing=self.backing,
                address=network.address(host, "replication"),
                port=_FIRST_PORT + self.minor,
            )
            for host in self.hosts
        )
        return _RESOURCE.format(
            name=self.name,
            minor=self.minor,
            protocol=self.protocol,
            fencing=_FENCING if self.fenced else "",
            handlers=_HANDLERS if self.fenced else "",
            sides=sides,
        )


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM: defined on both hosts that hold its disks, meant to run on the first."""

    name: str
    hosts: tuple[str, str]
    flavour: VmFlavour
    resources: tuple[Resource, ...]
    port: int
    """Which virtio port of a host its console goes to."""
    memory_mib: int = 96
    interval_ms: int = 125
    on_crash: OnCrash = "destroy"
    """What libvirt does with a guest that crashed; `destroy` is libvirt's own default. LXC has no such thing."""
    initramfs: str = "/var/lib/lab/guest.cpio"
    """Of Xen and QEMU guests, on its hosts."""

    @property
    def uri(self) -> str:
        """The libvirt driver that runs it, as seen on its host."""
        return LIBVIRT_URIS[self.flavour]

    @property
    def uuid(self) -> str:
        """The same on both hosts: it is one VM."""
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.vmheal.invalid"))

    def domain_xml(self) -> str:
        """Return its definition for libvirt."""
        return {"xen": self._xen, "qemu": self._qemu, "lxc": self._lxc}[self.flavour]()

    def _words(self, devices: list[str]) -> list[str]:
        """Tell the guest's program what to do (`guest/writer.c`)."""
        return [*(f"records={device}" for device in devices), f"interval_ms={self.interval_ms}"]

    def _xen(self) -> str:
        targets = [f"xvd{letter}" for letter in "abcdefgh"[: len(self.resources)]]
        boot = self._boot(_XEN_WORDS, [f"/dev/{target}" for target in targets])
        disks = "".join(
            f"""
    <disk type='block' device='disk'>
      <driver name='phy'/><source dev='{resource.device}'/><target dev='{target}' bus='xen'/>
    </disk>"""
            for resource, target in zip(self.resources, targets, strict=True)
        )
        return f"""\
<domain type='xen'>{self._identity()}
  <vcpu cpuset='1'>1</vcpu>
  <os>
    <type arch='x86_64' machine='xenpv'>linux</type>{boot}
  </os>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>{self.on_crash}</on_crash>
  <devices>{disks}
    <console type='pty'><target type='xen' port='0'/></console>
  </devices>
</domain>
"""

    def _qemu(self) -> str:
        targets = [f"vd{letter}" for letter in "abcdefgh"[: len(self.resources)]]
        boot = self._boot(_QEMU_WORDS, [f"/dev/{target}" for target in targets])
        disks = "".join(
            f"""
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw' cache='none' error_policy='stop'/>
      <source dev='{resource.device}'/><target dev='{target}' bus='virtio'/>
    </disk>"""
            for resource, target in zip(self.resources, targets, strict=True)
        )
        return f"""\
<domain type='qemu'>{self._identity()}
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>{boot}
  </os>
  <features><acpi/><apic/></features>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>{self.on_crash}</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>{disks}
    <controller type='usb' model='none'/><memballoon model='none'/>
    <serial type='file'><source path='/dev/virtio-ports/guest{self.port}' append='on'/></serial>
    <panic model='isa'/>
  </devices>
</domain>
"""

    def _lxc(self) -> str:
        console = f"/dev/virtio-ports/guest{self.port}"
        words = [*self._words([resource.device for resource in self.resources]), f"console={console}"]
        arguments = "".join(f"<initarg>{escape(word)}</initarg>" for word in words)
        devices = "".join(
            f"""
    <hostdev mode='capabilities' type='storage'><source><block>{resource.device}</block></source></hostdev>"""
            for resource in self.resources
        )
        return f"""\
<domain type='lxc'>{self._identity()}
  <vcpu>1</vcpu>
  <os><type>exe</type><init>/writer</init>{arguments}</os>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <filesystem type='mount'><source dir='/var/lib/lab/lxc'/><target dir='/'/></filesystem>{devices}
    <hostdev mode='capabilities' type='misc'><source><char>{console}</char></source></hostdev>
    <console type='pty'/>
  </devices>
</domain>
"""

    def _identity(self) -> str:
        return f"""
  <name>{self.name}</name>
  <uuid>{self.uuid}</uuid>
  <memory unit='MiB'>{self.memory_mib}</memory>"""

    def _boot(self, words: str, devices: list[str]) -> str:
        return f"""
    <kernel>/var/lib/lab/vmlinux</kernel><initrd>{self.initramfs}</initrd>
    <cmdline>{escape(" ".join([words, *self._words(devices)]))}</cmdline>"""
