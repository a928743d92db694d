"""Comparing how one domain is defined on several hosts."""

import xml.etree.ElementTree as ET


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
