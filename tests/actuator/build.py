"""Short ways to say what libvirt and DRBD show; defaults are the healthy case on two hosts, v01 and v02."""

from actuator.core.guards.situation import Situation
from actuator.model import Disk, DomainRecord, DomainState, DomainView, Evidence, Observed, Unknown
from exporter.drbd import (
    Connection,
    ConnectionState,
    Device,
    DiskState,
    PeerDevice,
    ReplicationState,
    Resource,
    Role,
    Snapshot,
)

UUID = "11111111-2222-3333-4444-555555555501"
DISK = Disk("xvda", "/dev/drbd0")


def device(minor=0, volume=0, disk_state=DiskState.UP_TO_DATE, quorum=None, is_open=None) -> Device:
    return Device(
        volume=volume, minor=minor, disk_state=disk_state, backing_disk=None, client=None, quorum=quorum, open=is_open,
        size_bytes=None, read_bytes=None, written_bytes=None, al_writes=None, bm_writes=None, upper_pending=None,
        lower_pending=None, al_suspended=None, blocked=(),
    )  # fmt: skip


def peer_device(volume=0, peer_disk_state=DiskState.UP_TO_DATE) -> PeerDevice:
    return PeerDevice(
        volume=volume, replication_state=ReplicationState.ESTABLISHED, peer_disk_state=peer_disk_state,
        peer_client=None, resync_suspended=(), done_ratio=None, eta_seconds=None, sync_bytes_per_second=None,
        received_bytes=None, sent_bytes=None, out_of_sync_bytes=None, pending=None, unacked=None,
    )  # fmt: skip


def connection(
    peer="v02", state=ConnectionState.CONNECTED, peer_role=Role.SECONDARY, peer_disk=DiskState.UP_TO_DATE
) -> Connection:
    return Connection(
        peer_node_id=0, name=peer, connection_state=state, peer_role=peer_role, congested=None,
        ap_in_flight_bytes=None, rs_in_flight_bytes=None, peer_devices=(peer_device(peer_disk_state=peer_disk),),
        paths=(),
    )  # fmt: skip


def resource(name="voms01", role=Role.PRIMARY, suspended=(), devices=None, connections=None) -> Resource:
    return Resource(
        name=name, role=role, suspended=tuple(suspended), may_promote=None, promotion_score=None,
        force_io_failures=None, write_ordering=None,
        devices=(device(),) if devices is None else tuple(devices),
        connections=(connection(),) if connections is None else tuple(connections),
    )  # fmt: skip


def theirs(name="voms01", role=Role.SECONDARY, **more) -> Resource:
    """The same resource as v02 sees it."""
    more.setdefault("connections", (connection("v01", peer_role=Role.PRIMARY),))
    return resource(name, role, **more)


def view(state=DomainState.SHUTOFF, domain_id=None, disks=(DISK,), reason="crashed") -> DomainView:
    return DomainView("voms01", UUID, DomainState(state), reason, domain_id, tuple(disks))


def observed(value, at=0.0):
    return Observed(value, "test", at)


def snapshot(*resources, problems=()):
    return Snapshot(tuple(resources), tuple(problems))


NOT_SAID = object()


def evidence(*, here=NOT_SAID, there=NOT_SAID, drbd_here=NOT_SAID, drbd_there=NOT_SAID, at=0.0) -> Evidence:
    """A crashed domain on v01, not defined on v02, Primary here, Secondary there, connected; but for what is said.

    A string says Unknown, with that reason.
    """

    def fact(said, otherwise):
        value = otherwise if said is NOT_SAID else said
        return Unknown(value) if isinstance(value, str) else Observed(value, "test", at)

    return Evidence(
        "voms01",
        at,
        domains={"v01": fact(here, view()), "v02": fact(there, None)},
        storage={"v01": fact(drbd_here, snapshot(resource())), "v02": fact(drbd_there, snapshot(theirs()))},
    )


def situation(seen=None, *, now=1.0, max_age_seconds=6.0, **more) -> Situation:
    return Situation("voms01", "v01", ("v01", "v02"), seen or evidence(), now, max_age_seconds, **more)


def record(**more) -> DomainRecord:
    return DomainRecord(**{"domain": "voms01", "version": 1, "host": "v01"} | more)
