"""What DRBD says of the domain's disks: here, and at the peers."""

from actuator.core.guards.situation import Situation, word
from actuator.core.replica import Standing, resource_of
from actuator.model import Observed, Unknown
from exporter.drbd import ConnectionState, DiskState, Resource, Role, Snapshot, SuspendReason


def disks_are_on_drbd(it: Situation) -> str | None:
    """What is not on DRBD could be in use elsewhere without our seeing it, or be left behind by a move."""
    if it.snapshot is None:
        return None
    for disk in it.disks:
        if disk.writable and resource_of(disk, it.snapshot) is None:
            return (
                f"{it.domain}'s disk {disk.target} ({disk.source}) is on no DRBD resource that is up on"
                f" {it.host}: bring the resource up (drbdadm up), or give the disk's DRBD device in the"
                " domain's XML"
            )
    if not it.resources:
        return f"{it.domain} has no disk on DRBD: vmheal cannot protect it; take it out of domains"
    return None


def drbd_is_understood(it: Situation) -> str | None:
    """A word that we do not know may mean anything."""
    if it.snapshot is None:
        return None
    for resource in it.resources:
        if problems := it.snapshot.problems_of(resource.name):
            return f"DRBD on {it.host} says what vmheal does not understand: {problems[0]}"
        if resource.role not in {Role.PRIMARY, Role.SECONDARY}:
            return (
                f"DRBD on {it.host} gives no role for {resource.name}: see 'drbdadm status {resource.name}'"
            )
    return None


def disk_is_up_to_date(it: Situation) -> str | None:
    """Any other state may lack writes that the guest saw acknowledged, or has no disk at all."""
    for resource in it.resources:
        for device in resource.devices:
            if device.disk_state is not DiskState.UP_TO_DATE:
                return (
                    f"{resource.name}/{device.volume} on {it.host} is {word(device.disk_state)}, not"
                    f" UpToDate: see 'drbdadm status {resource.name}' and attach, connect or resync it"
                )
        if not resource.devices:
            return f"{resource.name} has no volume on {it.host}: see 'drbdadm status {resource.name}'"
    return None


def io_flows(it: Situation) -> str | None:
    """A start on frozen I/O hangs; and DRBD froze it because the other side may be writing.

    A Secondary that DRBD froze while it was Primary, as after a live move whose source was lost, goes on with
    the grant that comes with its promotion (drbd_state.c): with a proof that is no reason against it.
    """
    for resource in it.resources:
        frozen = {*resource.suspended}
        if frozen and not (
            it.proof and resource.role is Role.SECONDARY and frozen == {SuspendReason.FENCING}
        ):
            why = ", ".join(word(reason) for reason in resource.suspended)
            return (
                f"the I/O of {resource.name} on {it.host} is suspended ({why}): never resume it by hand"
                " before it is known that the peer does not write"
            )
    return None


def has_quorum(it: Situation) -> str | None:
    """DRBD 9: without quorum another part of the cluster may have it."""
    for resource in it.resources:
        if any(device.quorum is False for device in resource.devices):
            return f"{resource.name} has no quorum on {it.host}: bring its other hosts back"
    return None


def peer_is_not_primary(it: Situation) -> str | None:
    """Never two writers."""
    for resource in it.resources:
        for peer, standing in it.peers(resource).items():
            if standing is Standing.PRIMARY:
                return (
                    f"{resource.name} is Primary on {peer}: somebody uses it there; find out who and demote"
                    f" it there ('drbdadm secondary {resource.name}') before {it.domain} is started here"
                )
    return None


def is_open_nowhere_else(it: Situation) -> str | None:
    """Whoever holds a device open on another host uses it, also as a Secondary; DRBD 9 tells, 8.4 does not.

    It is promoted here only when nobody does. The domain itself holds it open where it runs.
    """
    for resource in it.resources:
        for host in it.hosts if resource.role is not Role.PRIMARY else ():
            fact = it.evidence.storage.get(host)
            theirs = fact.value.resource(resource.name) if isinstance(fact, Observed) else None
            held = theirs is not None and any(device.open for device in theirs.devices)
            if held and host != it.host and not it.active_on(host):
                return (
                    f"somebody holds {resource.name} open on {host}, and it is not {it.domain}: find out who"
                    f" ('fuser -v /dev/drbd/by-res/{resource.name}/0') and end it"
                )
    return None


def peer_is_known(it: Situation) -> str | None:
    """A peer that nobody can vouch for may be Primary; see the docstring of the package."""
    for resource in it.resources:
        for peer, standing in it.peers(resource).items():
            if standing is Standing.UNKNOWN and not it.was_granted(resource):
                fact = it.evidence.storage.get(peer, Unknown(f"{peer} is not among {it.domain}'s hosts"))
                reason = fact.reason if isinstance(fact, Unknown) else "its answer is not understood"
                return (
                    f"nobody can say what {peer} does with {resource.name} ({reason}; not connected to"
                    f" {it.host}): mend the way to {peer}; without it there is no proof that {peer} does not"
                    " write"
                )
    return None


def may_be_promoted(it: Situation) -> str | None:
    """A Secondary is promoted only in full view of its peers.

    DRBD itself would promote a replica that lost its peer, or one that was detached while the peer wrote on,
    and both say UpToDate. So every peer must be connected, answer for itself, be Secondary, and see this disk
    UpToDate: the peer's own look is what makes ours true.
    """
    for resource in it.resources:
        if resource.role is Role.PRIMARY:
            continue
        if not resource.connections:
            return f"{resource.name} is Secondary on {it.host} and has no peer: 'drbdadm connect' it"
        if it.was_granted(resource):
            continue
        for connection in resource.connections:
            peer = connection.name
            if connection.connection_state is not ConnectionState.CONNECTED:
                return (
                    f"{resource.name} is Secondary on {it.host} and not connected to {peer}"
                    f" ({word(connection.connection_state)}): its data may be old and {peer} may write;"
                    " connect them"
                )
            fact = it.evidence.storage.get(peer, Unknown(f"{peer} is not among {it.domain}'s hosts"))
            theirs = fact.value.resource(resource.name) if isinstance(fact, Observed) else None
            if theirs is None or not _sees_us_up_to_date(theirs, it.host):
                return (
                    f"{resource.name} is Secondary on {it.host} and {peer} does not confirm that this replica"
                    f" is connected and UpToDate: see 'drbdadm status {resource.name}' on {peer}"
                )
    return None


def _sees_us_up_to_date(theirs: Resource, us: str) -> bool:
    for connection in theirs.connections:
        if connection.name == us:
            disks = [device.peer_disk_state for device in connection.peer_devices]
            return (
                theirs.role is Role.SECONDARY
                and connection.connection_state is ConnectionState.CONNECTED
                and bool(disks)
                and all(disk is DiskState.UP_TO_DATE for disk in disks)
            )
    return False


def is_primary_here(it: Situation) -> str | None:
    """Xen starts a domain on a Secondary without its disk, and says that all is well."""
    for resource in it.resources:
        if resource.role is not Role.PRIMARY:
            return f"{resource.name} is not Primary on {it.host}: {it.domain} would start without its disk"
    return None


def is_not_standalone(it: Situation) -> str | None:
    """Two sides that refuse each other have different data, and nobody but a person knows which to keep."""
    for resource in it.resources:
        for connection in resource.connections:
            if connection.connection_state is ConnectionState.STAND_ALONE:
                return (
                    f"{resource.name} on {it.host} is StandAlone to {connection.name}: perhaps a split brain;"
                    f" find out whose data count, then 'drbdadm connect {resource.name}'"
                )
    return None


def is_mirrored_here(it: Situation) -> str | None:
    """The target must have what the source has, in full view of each other; or the source has let go.

    One that the arbiter granted alone has all that was ever acknowledged (R3), whatever its peer has.
    """
    fact = it.evidence.storage.get(it.source)
    for resource in it.resources:
        if (
            it.was_granted(resource)
            and isinstance(fact, Observed)
            and not _is_primary(fact.value, resource.name)
        ):
            continue
        ours = next((c for c in resource.connections if c.name == it.source), None)
        theirs = fact.value.resource(resource.name) if isinstance(fact, Observed) else None
        back = next((c for c in theirs.connections if c.name == it.host), None) if theirs else None
        connected = (
            ours is not None
            and back is not None
            and ours.connection_state is ConnectionState.CONNECTED
            and back.connection_state is ConnectionState.CONNECTED
        )
        if (
            not connected
            or not back
            or any(device.peer_disk_state is not DiskState.UP_TO_DATE for device in back.peer_devices)
        ):
            return (
                f"{resource.name} on {it.host} is not connected to {it.source} and seen UpToDate from there:"
                f" see 'drbdadm status {resource.name}' on both"
            )
    return None


def _is_primary(snapshot: Snapshot, name: str) -> bool:
    """Or may be, for all that is understood; one that is down is not."""
    theirs = snapshot.resource(name)
    return bool(snapshot.problems_of(name)) or (theirs is not None and theirs.role is not Role.SECONDARY)


def is_secondary_here(it: Situation) -> str | None:
    """Asked before a move is planned: what is Primary there already is in somebody's hands."""
    for resource in it.resources:
        if resource.role is not Role.SECONDARY:
            return (
                f"{resource.name} is {word(resource.role)} on {it.host} already: find out who uses it there"
                f" and demote it ('drbdadm secondary {resource.name}') before {it.domain} moves there"
            )
    return None
