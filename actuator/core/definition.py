"""A domain's definition: whether two are the same, and what a host must have for it."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from actuator.model import GuestCpu, HostView
from exporter.libvirt_domain import parse_definition


def differ(one: str, other: str) -> bool:
    """Whether a guest could tell which of the two definitions it was started from.

    Not by the order of attributes, by spaces, or by the UUID: who defines a domain by hand on each host may
    have let libvirt choose one.
    """
    return one != other and _canonical(one) != _canonical(other)


def with_uuid(xml: str, uuid: str) -> str:
    """The definition under another UUID: libvirt replaces one of the same name only under its own."""
    root = ET.fromstring(xml)  # noqa: S314  libvirt's own output; expat bounds entities
    own = root.find("uuid")
    if own is None:
        own = ET.SubElement(root, "uuid")
    own.text = uuid
    return ET.tostring(root, encoding="unicode")


def _canonical(xml: str) -> str:
    root = ET.fromstring(xml)  # noqa: S314  as above
    for uuid in root.findall("uuid"):
        root.remove(uuid)
    return ET.canonicalize(ET.tostring(root, encoding="unicode"), strip_text=True)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a definition asks of a host, beyond disks and memory."""

    networks: frozenset[str] = frozenset()
    """libvirt's virtual networks, by name."""
    links: frozenset[str] = frozenset()
    """The host's own interfaces: bridges, and what a guest's macvtap hangs on."""
    cpu: GuestCpu | None = None
    """None: it takes what there is."""
    same_cpu: bool = False
    """The guest sees the host's own processor: live it moves only to the same one."""


def needs(xml: str) -> Needs:
    """Read what a domain needs of a host.

    Raises:
        ET.ParseError: it is not XML.
    """
    root = ET.fromstring(xml)  # noqa: S314  libvirt's own output; expat bounds entities
    cpu = root.find("cpu")
    mode = "" if cpu is None else cpu.get("mode", "custom")
    arch = root.find("./os/type")
    interfaces = parse_definition(xml).interfaces
    named = None
    # With check='none' libvirt starts it with whatever the host has of it.
    if cpu is not None and mode == "custom" and cpu.find("model") is not None and cpu.get("check") != "none":
        text = ET.tostring(cpu, encoding="unicode").strip()
        named = GuestCpu(root.get("type", ""), "" if arch is None else arch.get("arch", ""), text)
    return Needs(
        networks=frozenset(it.network for it in interfaces if it.kind == "network" and it.network),
        links=frozenset(
            name for it in interfaces if (name := {"bridge": it.bridge, "direct": it.device}.get(it.kind, ""))
        ),
        cpu=named,
        same_cpu=mode == "host-passthrough",
    )


def missing_networks(wanted: Needs, host: HostView, links: Mapping[str, bool] | None) -> Iterator[str]:
    """What of a domain's networks is not on a host; ``links``: its interfaces, None when not known."""
    for name in sorted(wanted.networks - host.networks):
        yield f"libvirt's network {name} is not active there"
    if links is None:
        return
    for name in sorted(wanted.links):
        if name not in links:
            yield f"there is no interface {name}"
        elif not links[name]:
            yield f"its interface {name} is down"
