"""What libvirt says about a domain, in words: states, reasons, events, and the parts of its definition.

The numbers are those of libvirt's public headers (include/libvirt/libvirt-domain.h); the words are the
constants' names in lower case. A number that a newer libvirt added reads `unknown`.
"""

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

# virDomainState, in its order.
STATES = ("nostate", "running", "blocked", "paused", "shutdown", "shutoff", "crashed", "pmsuspended")

# virDomain*Reason for each state, in their order.
REASONS: dict[str, tuple[str, ...]] = {
    "nostate": ("unknown",),
    "running": (
        "unknown", "booted", "migrated", "restored", "from_snapshot", "unpaused", "migration_canceled",
        "save_canceled", "wakeup", "crashed", "postcopy", "postcopy_failed",
    ),
    "blocked": ("unknown",),
    "paused": (
        "unknown", "user", "migration", "save", "dump", "ioerror", "watchdog", "from_snapshot",
        "shutting_down", "snapshot", "crashed", "starting_up", "postcopy", "postcopy_failed",
    ),
    "shutdown": ("unknown", "user"),
    "shutoff": (
        "unknown", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from_snapshot",
        "daemon",
    ),
    "crashed": ("unknown", "panicked"),
    "pmsuspended": ("unknown",),
}  # fmt: skip

# virDomainControlState, in its order.
CONTROL_STATES = ("ok", "job", "occupied", "error")

# virDomainEventType with the details of each, in their order.
EVENTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("defined", ("added", "updated", "renamed", "from_snapshot")),
    ("undefined", ("removed", "renamed")),
    ("started", ("booted", "migrated", "restored", "from_snapshot", "wakeup")),
    (
        "suspended",
        (
            "paused", "migrated", "ioerror", "watchdog", "restored", "from_snapshot", "api_error", "postcopy",
            "postcopy_failed",
        ),
    ),
    ("resumed", ("unpaused", "migrated", "from_snapshot", "postcopy", "postcopy_failed")),
    ("stopped", ("shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from_snapshot")),
    ("shutdown", ("finished", "guest", "host")),
    ("pmsuspended", ("memory", "disk")),
    ("crashed", ("panicked", "crashloaded")),
)  # fmt: skip


def state_name(state: int) -> str:
    """Return the word for a virDomainState."""
    return STATES[state] if 0 <= state < len(STATES) else "nostate"


def reason_name(state: int, reason: int) -> str:
    """Return the word for a state's reason."""
    reasons = REASONS[state_name(state)]
    return reasons[reason] if 0 <= reason < len(reasons) else "unknown"


def event_name(event: int, detail: int) -> tuple[str, str]:
    """Return the words for a lifecycle event and its detail."""
    if not 0 <= event < len(EVENTS):
        return "unknown", "unknown"
    name, details = EVENTS[event]
    return name, details[detail] if 0 <= detail < len(details) else "unknown"


@dataclass(frozen=True)
class Disk:
    """One disk (or a container's block file system or device) as the definition names it; empty: not said."""

    target: str  # device name in the guest, or the mount point or device in a container
    source: str  # path, resource or volume; empty for an empty drive
    kind: str = ""
    bus: str = ""
    serial: str = ""
    driver: str = ""
    driver_type: str = ""
    cache: str = ""
    discard: str = ""
    writable: bool = True


@dataclass(frozen=True)
class Interface:
    """One network interface; `target` is the device on the host, known while the domain runs."""

    target: str
    bridge: str
    kind: str = ""
    mac_address: str = ""
    model: str = ""
    mtu: str = ""
    network: str = ""  # libvirt's, of kind network
    device: str = ""  # the host's own interface, of kind direct


@dataclass(frozen=True)
class Definition:
    """The parts of a domain's XML that are published."""

    kind: str  # kvm, qemu, xen, lxc, test
    title: str
    os_type: str
    machine: str
    disks: tuple[Disk, ...]
    interfaces: tuple[Interface, ...]
    memory_bytes: int | None = None  # the most that it may use; None: not said in KiB, as libvirt always does


@lru_cache(256)
def parse_definition(xml: str) -> Definition:
    """Read a domain's XML; the same one is read again and again.

    Raises:
        ET.ParseError: it is not XML.
    """
    domain = ET.fromstring(xml)  # noqa: S314  libvirtd's own output; expat bounds entity expansion
    os_type = domain.find("./os/type")
    return Definition(
        kind=domain.get("type", ""),
        title=(domain.findtext("title") or "").strip(),
        os_type="" if os_type is None else (os_type.text or "").strip(),
        machine="" if os_type is None else os_type.get("machine", ""),
        disks=tuple(
            [_disk(element) for element in domain.findall("./devices/disk")]
            + [_filesystem(element) for element in domain.findall("./devices/filesystem[@type='block']")]
            + [_block_device(element) for element in domain.findall(_BLOCK_DEVICES)]
        ),
        interfaces=tuple(_interface(element) for element in domain.findall("./devices/interface")),
        memory_bytes=_memory_bytes(domain),
    )


_NUMBER = re.compile(r"[0-9]{1,18}")


def _memory_bytes(domain: ET.Element) -> int | None:
    memory = domain.find("memory")
    if memory is None or memory.get("unit", "KiB") != "KiB":
        return None
    number = _NUMBER.fullmatch((memory.text or "").strip())
    return int(number[0]) * 1024 if number else None


# A container's block devices (libvirt: Domain XML format, "Block / character devices").
_BLOCK_DEVICES = "./devices/hostdev[@mode='capabilities'][@type='storage']"


def _attribute(element: ET.Element, child: str, name: str) -> str:
    found = element.find(child)
    return "" if found is None else found.get(name, "")


def _disk(element: ET.Element) -> Disk:
    sources = (_attribute(element, "source", name) for name in ("dev", "file", "name", "volume"))
    source = next(filter(None, sources), "")
    # Xen's own script for DRBD gets the resource's name as the disk's source.
    script = _attribute(element, "script", "path")
    if os.path.basename(script) == "block-drbd" and not source.startswith(("/", "drbd:")):  # noqa: PTH119
        source = f"drbd:{source}"
    return Disk(
        target=_attribute(element, "target", "dev"),
        source=source,
        kind=element.get("type", ""),
        bus=_attribute(element, "target", "bus"),
        serial=element.findtext("serial") or "",
        driver=_attribute(element, "driver", "name"),
        driver_type=_attribute(element, "driver", "type"),
        cache=_attribute(element, "driver", "cache"),
        discard=_attribute(element, "driver", "discard"),
        writable=element.find("readonly") is None,
    )


def _interface(element: ET.Element) -> Interface:
    return Interface(
        target=_attribute(element, "target", "dev"),
        bridge=_attribute(element, "source", "bridge"),
        kind=element.get("type", ""),
        mac_address=_attribute(element, "mac", "address"),
        model=_attribute(element, "model", "type"),
        mtu=_attribute(element, "mtu", "size"),
        network=_attribute(element, "source", "network"),
        device=_attribute(element, "source", "dev"),
    )


def _filesystem(element: ET.Element) -> Disk:
    return Disk(
        target=_attribute(element, "target", "dir"),
        source=_attribute(element, "source", "dev"),
        writable=element.find("readonly") is None,
    )


def _block_device(element: ET.Element) -> Disk:
    device = (element.findtext("./source/block") or "").strip()
    return Disk(target=device, source=device)  # it has the same name inside


_MINOR = re.compile(r"/dev/drbd([0-9]{1,7})(?:p[0-9]+)?")  # Linux has 20 bits for one
_BY_RESOURCE = re.compile(r"/dev/drbd/by-res/(?P<resource>[^/]+)(?:/(?P<volume>\d+))?")
_XEN_DRBD = re.compile(r"drbd:(?P<resource>[^/]+)(?:/(?P<volume>\d+))?")

# The (resource, volume) of a DRBD device number, None when nobody knows it.
VolumeOfMinor = Callable[[int], tuple[str, str] | None]


def minor_of(source: str) -> int | None:
    """The minor of a DRBD device, or of a partition of one, by its name `/dev/drbdN`; None for all else."""
    device = _MINOR.fullmatch(source)
    return int(device[1]) if device else None


def drbd_volume(
    source: str,
    by_minor: VolumeOfMinor,
    realpath: Callable[[str], str] = os.path.realpath,
) -> tuple[str, str] | None:
    """Return the (resource, volume) that a disk's source lies on, or None when it is no DRBD device.

    Understood: `/dev/drbdN`, `/dev/drbd/by-res/RESOURCE[/VOLUME]`, Xen's `drbd:RESOURCE`, and symlinks to
    any of them (`/dev/drbd/by-disk/...`, own names from a resource's `device NAME minor N`).

    Args:
        source: what the domain's definition says.
        by_minor: the resource and volume of a device number, None when nobody knows it.
        realpath: follows symlinks; an argument for the tests.

    Raises:
        LookupError: it is a DRBD device whose resource nobody knows.
    """
    named = _XEN_DRBD.fullmatch(source) or _BY_RESOURCE.fullmatch(source)
    if named:
        return named["resource"], named["volume"] or "0"
    if not source.startswith("/"):
        return None
    path = source if minor_of(source) is not None else realpath(source)
    named = _BY_RESOURCE.fullmatch(path)  # a link to a link that is gone while its resource is down
    if named:
        return named["resource"], named["volume"] or "0"
    minor = minor_of(path)
    if minor is None:
        if source.startswith("/dev/drbd/"):
            raise LookupError(f"{source} leads to no DRBD device; its resource is probably down")
        return None
    found = by_minor(minor)
    if found is None:
        raise LookupError(f"no resource is known for {path}")
    return found
