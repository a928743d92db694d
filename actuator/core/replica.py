"""A domain's disks as DRBD replicas: which resources they lie on, and what is known about the peers."""

import re
from collections.abc import Sequence
from enum import Enum, auto

from actuator.model import Disk, Evidence, Observed
from exporter.drbd import Connection, ConnectionState, DiskState, Resource, Role, Snapshot
from exporter.libvirt_domain import minor_of

_BY_NAME = re.compile(r"(?:drbd:|/dev/drbd/by-res/)([^/]+)(?:/\d+)?")


def resource_of(disk: Disk, snapshot: Snapshot) -> Resource | None:
    """The resource that is up and that the disk lies on; None when there is none that we can tell."""
    if match := _BY_NAME.fullmatch(disk.source):
        return snapshot.resource(match[1])
    if (minor := minor_of(disk.source)) is not None:
        return next(
            (
                resource
                for resource in snapshot.resources
                if any(device.minor == minor for device in resource.devices)
            ),
            None,
        )
    return None


def resources_here(evidence: Evidence, host: str, kept: Sequence[Disk] = ()) -> tuple[Resource, ...]:
    """The resources of the domain's disks on the host, each once, by name; none when a part is unknown.

    ``kept``: its disks as they are known otherwise, for a host where it is not defined.
    """
    domain, storage = evidence.domains.get(host), evidence.storage.get(host)
    if not (isinstance(domain, Observed) and isinstance(storage, Observed)):
        return ()
    disks = kept if domain.value is None else domain.value.disks
    found = (resource_of(disk, storage.value) for disk in disks)
    return tuple(
        sorted({resource.name: resource for resource in found if resource}.values(), key=lambda it: it.name)
    )


def names_of(evidence: Evidence) -> frozenset[str]:
    """The resources of the domain's disks, on whichever host they are known."""
    return frozenset(it.name for host in evidence.domains for it in resources_here(evidence, host))


class Standing(Enum):
    """What is known about whether a peer writes to a resource now."""

    PRIMARY = auto()
    """It is Primary: it says so, or our connection to it does."""
    ANSWERED = auto()
    """Its own host answered just now: the resource is Secondary there, or down."""
    CONNECTED = auto()
    """Its host does not answer, but DRBD here is Primary, connected to it, and sees it Secondary. It cannot
    become Primary while that connection lives, and when the connection breaks we are the Primary that was."""
    BARRED = auto()
    """Its host does not answer and it is not connected, but DRBD here holds its disk for Outdated: it left in
    order and knows it, or a fence-peer handler answered for it. Inconsistent is not enough: at the end of a
    resync the target can call itself UpToDate 2.5 s before we hear of it (seen on 8.4), and be cut off."""
    UNKNOWN = auto()
    """Anything else. Never taken for the good case."""


def peers(evidence: Evidence, here: str, resource: Resource, hosts: tuple[str, ...]) -> dict[str, Standing]:
    """Every host that may hold the resource too, and what it does with it.

    DRBD's own connections name them. A resource without any connection (its network part is down) has no
    names to give: then every other host of the domain counts.
    """
    by_name = {connection.name: connection for connection in resource.connections}
    names = by_name or dict.fromkeys(host for host in hosts if host != here)
    return {name: _standing(evidence, name, resource, by_name.get(name)) for name in names}


def _standing(evidence: Evidence, peer: str, resource: Resource, connection: Connection | None) -> Standing:
    if connection is not None and connection.peer_role is Role.PRIMARY:
        return Standing.PRIMARY
    answer = evidence.storage.get(peer)
    if isinstance(answer, Observed):
        return _own_word(answer.value, resource.name)
    if connection is None or resource.role is not Role.PRIMARY:
        return Standing.UNKNOWN
    if connection.connection_state is ConnectionState.CONNECTED:
        return Standing.CONNECTED if connection.peer_role is Role.SECONDARY else Standing.UNKNOWN
    disks = [device.peer_disk_state for device in connection.peer_devices]
    outdated = bool(disks) and all(disk is DiskState.OUTDATED for disk in disks)
    return Standing.BARRED if outdated else Standing.UNKNOWN


def _own_word(snapshot: Snapshot, name: str) -> Standing:
    if snapshot.problems_of(name):
        return Standing.UNKNOWN
    resource = snapshot.resource(name)
    if resource is None:
        return Standing.ANSWERED
    by_role = {Role.PRIMARY: Standing.PRIMARY, Role.SECONDARY: Standing.ANSWERED}
    return (
        by_role.get(resource.role, Standing.UNKNOWN) if isinstance(resource.role, Role) else Standing.UNKNOWN
    )
