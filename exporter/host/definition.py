"""What a domain's definition may hold that is sent to a host: no file of the host beside its disks. Pure.

What libvirt starts, it starts as root: a definition may name any file as a disk, any program as the emulator,
and any argument. Here every path in it must begin with one that a guest needs. What a definition can still do
is in docs/security.md.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

PATHS = (
    "/dev/drbd",
    *("/dev/null", "/dev/pts/", "/dev/random", "/dev/urandom"),
    *("/usr/bin/qemu-system-", "/usr/libexec/qemu-kvm", "/usr/lib/xen"),
    *("/usr/share/AAVMF/", "/usr/share/OVMF/", "/usr/share/edk2/", "/usr/share/qemu/", "/usr/share/seabios/"),
    "/var/lib/libvirt/qemu/",
)
INERT = {"cmdline", "description", "metadata", "title"}
"""Read by the guest alone, or by nobody."""
REFUSED = {"hostdev", "redirdev", "shmem"}
TYPES = {
    "disk": {"block", "file"},
    "interface": {"bridge", "ethernet", "network", "direct", "user", "internal", "vhostuser", "vdpa"},
}
"""Not a host's device, nor a volume of its pools."""
_PATHS = {"dir", "file", "path"}
"""Attributes that are paths, relative ones too."""
_SCRIPT = re.compile(r"vif-[a-z]+")
MAX_DEPTH = 32
"""Elements within each other; a guest's are seven."""
MAX_FAULT = 500
"""Letters of a sentence about one, which quotes it."""


def read(xml: str, more_paths: tuple[str, ...] = ()) -> tuple[str, str | None]:
    """The domain's name, and why it may not be defined so; None: it may.

    Args:
        xml: the definition.
        more_paths: what paths may begin with, beside `PATHS`.
    """
    if (
        "<!" in xml or "<?" in xml
    ):  # libvirt writes none, and its parser may read them otherwise than this one
        return "", "it has a prolog, a document type, a comment or a CDATA section"
    try:
        root = ET.fromstring(xml)  # noqa: S314  without a document type there are no entities to expand
    except ET.ParseError as error:
        return "", f"it is not XML: {error}"
    names = [it.text or "" for it in root.findall("name")]
    if root.tag != "domain" or len(names) != 1:
        return "", "it is not of one domain"
    fault = next(_faults(root, (*PATHS, *more_paths)), None)
    return names[0], None if fault is None else fault[:MAX_FAULT]


def _faults(it: ET.Element, paths: tuple[str, ...], in_disk: bool = False, depth: int = 1) -> Iterator[str]:
    if it.tag in INERT:
        return
    if depth > MAX_DEPTH:
        yield f"it has more than {MAX_DEPTH} elements within each other"
        return
    in_disk = in_disk or it.tag in {"disk", "filesystem"}
    if it.tag.startswith("{"):
        yield f"<{it.tag.partition('}')[2]}> is of another namespace"
    if it.tag in REFUSED or (it.tag in TYPES and it.get("type") not in TYPES[it.tag]):
        yield f"<{it.tag} type={it.get('type')!r}> is not allowed"
    for key, value in it.items():
        if not _attribute_allowed(it.tag, key, value, paths, in_disk):
            yield f"{key}={value!r} in <{it.tag}> is not allowed"
    for text in (it.text or "", it.tail or ""):
        if "/" in text and not _path_allowed(text.strip(), paths):
            yield f"{text.strip()!r} in <{it.tag}> is not allowed"
    for child in it:
        yield from _faults(child, paths, in_disk, depth + 1)


def _attribute_allowed(tag: str, key: str, value: str, paths: tuple[str, ...], in_disk: bool) -> bool:
    if key.startswith("{"):
        return False
    if (tag, key) == ("script", "path"):
        return _SCRIPT.fullmatch(value) is not None
    is_path = "/" in value or key in _PATHS or (in_disk and (tag, key) == ("source", "dev"))
    return not is_path or key == "timezone" or _path_allowed(value, paths)


def _path_allowed(path: str, paths: tuple[str, ...]) -> bool:
    return path.startswith(paths) and "/." not in path and "//" not in path
