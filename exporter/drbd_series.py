"""Which series there are for DRBD's resources, connections, devices and peer devices.

Names and labels that begin with `drbd_` are those of LINBIT's drbd-reactor, so that dashboards and alerts
made for it work here; what it does not have begins with `vmheal_drbd_`. Each state is a StateSet: a series
for every state that there is, 1 for the current one, so that none vanishes and none needs a regular
expression. A figure that DRBD does not print is left out, never 0.
"""

from exporter.drbd import (
    Blocked,
    Connection,
    ConnectionState,
    Device,
    DiskState,
    PeerDevice,
    ReplicationState,
    Resource,
    ResyncPause,
    Role,
    SuspendReason,
)
from exporter.drbd_configuration import ConnectionConfiguration, Fencing, Protocol, ResourceConfiguration
from exporter.series import Figure, States

RESOURCE: tuple[Figure[Resource] | States[Resource], ...] = (
    States("drbd_resource_role", "DRBD's role of the resource on this host.", Role, lambda it: it.role),
    Figure(
        "drbd_resource_suspended",
        "Whether I/O is suspended (frozen), for whatever reason.",
        lambda it: bool(it.suspended),
    ),
    States(
        "vmheal_drbd_resource_suspended_reason",
        "Why I/O is suspended; several may hold at once.",
        SuspendReason,
        lambda it: it.suspended,
    ),
    Figure(
        "drbd_resource_maypromote",
        "DRBD 9's hint that the resource may be promoted; it proves nothing.",
        lambda it: it.may_promote,
    ),
    Figure(
        "drbd_resource_promotionscore",
        "DRBD 9's promotion score, higher is better.",
        lambda it: it.promotion_score,
    ),
    Figure(
        "drbd_resource_forceiofailures",
        "Whether all I/O is made to fail (DRBD 9, during secondary --force).",
        lambda it: it.force_io_failures,
    ),
)

CONNECTION: tuple[Figure[Connection] | States[Connection], ...] = (
    States(
        "drbd_connection_state", "DRBD's connection state.", ConnectionState, lambda it: it.connection_state
    ),
    States(
        "vmheal_drbd_connection_peer_role",
        "The peer's role, as far as known; Unknown while not connected.",
        Role,
        lambda it: it.peer_role,
    ),
    Figure(
        "drbd_connection_congested",
        "Whether the TCP send buffer of the data connection is more than 80 % full.",
        lambda it: it.congested,
    ),
    Figure(
        "drbd_connection_apinflight_bytes",
        "Application data sent to the peer and not yet confirmed.",
        lambda it: it.ap_in_flight_bytes,
    ),
    Figure(
        "drbd_connection_rsinflight_bytes",
        "Resync data sent to the peer and not yet confirmed.",
        lambda it: it.rs_in_flight_bytes,
    ),
)

DEVICE: tuple[Figure[Device] | States[Device], ...] = (
    States("drbd_device_state", "DRBD's state of the local disk.", DiskState, lambda it: it.disk_state),
    Figure("drbd_device_client", "Whether the device is diskless on purpose (DRBD 9).", lambda it: it.client),
    Figure(
        "drbd_device_unintentionaldiskless",
        "Whether the device is diskless, and not on purpose.",
        lambda it: it.disk_state is DiskState.DISKLESS and not it.client,
    ),
    Figure(
        "drbd_device_quorum",
        "Whether the device has quorum (DRBD 9); also 1 while quorum is off.",
        lambda it: it.quorum,
    ),
    Figure(
        "drbd_device_open",
        "Whether somebody holds the device open (DRBD 9 with drbd-utils that tell).",
        lambda it: it.open,
    ),
    Figure("drbd_device_size_bytes", "Size of the device.", lambda it: it.size_bytes),
    Figure(
        "drbd_device_read_bytes_total",
        "Data read from the local disk since it was attached.",
        lambda it: it.read_bytes,
        "counter",
    ),
    Figure(
        "drbd_device_written_bytes_total",
        "Data written to the local disk since it was attached.",
        lambda it: it.written_bytes,
        "counter",
    ),
    Figure(
        "drbd_device_alwrites_total",
        "Updates of the activity log in the metadata.",
        lambda it: it.al_writes,
        "counter",
    ),
    Figure(
        "drbd_device_bmwrites_total",
        "Updates of the bitmap in the metadata.",
        lambda it: it.bm_writes,
        "counter",
    ),
    Figure(
        "drbd_device_upperpending",
        "Requests from above that DRBD has not yet answered.",
        lambda it: it.upper_pending,
    ),
    Figure(
        "drbd_device_lowerpending",
        "Requests to the local disk that it has not yet answered.",
        lambda it: it.lower_pending,
    ),
    Figure("drbd_device_alsuspended", "Whether the activity log is suspended.", lambda it: it.al_suspended),
    States(
        "vmheal_drbd_device_blocked",
        "On which side the device takes no I/O now.",
        Blocked,
        lambda it: it.blocked,
    ),
)

PEER_DEVICE: tuple[Figure[PeerDevice] | States[PeerDevice], ...] = (
    States(
        "vmheal_drbd_peerdevice_replication",
        "DRBD's replication state of the volume with this peer.",
        ReplicationState,
        lambda it: it.replication_state,
    ),
    States(
        "vmheal_drbd_peerdevice_disk",
        "The peer's disk state, as this host sees it.",
        DiskState,
        lambda it: it.peer_disk_state,
    ),
    States(
        "vmheal_drbd_peerdevice_resync_suspended",
        "Who has paused the resync; several may hold at once.",
        ResyncPause,
        lambda it: it.resync_suspended,
    ),
    Figure(
        "vmheal_drbd_peerdevice_client",
        "Whether the peer is diskless on purpose (DRBD 9).",
        lambda it: it.peer_client,
    ),
    Figure(
        "vmheal_drbd_peerdevice_sync_done_ratio",
        "How much of the running resync or verify is done, 0 to 1.",
        lambda it: it.done_ratio,
    ),
    Figure(
        "vmheal_drbd_peerdevice_sync_eta_seconds",
        "DRBD's estimate until the running resync or verify ends.",
        lambda it: it.eta_seconds,
    ),
    Figure(
        "vmheal_drbd_peerdevice_sync_bytes_per_second",
        "Recent speed of the running resync or verify.",
        lambda it: it.sync_bytes_per_second,
    ),
    Figure(
        "drbd_peerdevice_outofsync_bytes",
        "Data that differs, or may differ, from the peer's.",
        lambda it: it.out_of_sync_bytes,
    ),
    Figure(
        "drbd_peerdevice_sent_bytes",
        "Data sent to the peer since the local disk was attached; a counter.",
        lambda it: it.sent_bytes,
        "unknown",
    ),
    Figure(
        "drbd_peerdevice_received_bytes",
        "Data received from the peer since the local disk was attached; a counter.",
        lambda it: it.received_bytes,
        "unknown",
    ),
    Figure(
        "vmheal_drbd_peerdevice_pending",
        "Requests sent to the peer that it has not yet answered.",
        lambda it: it.pending,
    ),
    Figure(
        "vmheal_drbd_peerdevice_unacked",
        "Requests received from the peer and not yet answered.",
        lambda it: it.unacked,
    ),
)

CONFIGURATION: tuple[Figure[ResourceConfiguration] | States[ResourceConfiguration], ...] = (
    States(
        "vmheal_drbd_resource_fencing",
        "The fencing policy in the kernel, the weakest of the disks (8.4) or connections (9).",
        Fencing,
        lambda it: it.fencing,
    ),
    Figure(
        "vmheal_drbd_resource_auto_promote",
        "Whether opening the device promotes it, past every guard (DRBD 9).",
        lambda it: it.auto_promote,
    ),
    Figure(
        "vmheal_drbd_resource_quorum_configured",
        "Whether quorum is on (DRBD 9); only then drbd_device_quorum means something.",
        lambda it: None if it.quorum is None else it.quorum != "off",
    ),
)

CONNECTION_CONFIGURATION: tuple[Figure[ConnectionConfiguration] | States[ConnectionConfiguration], ...] = (
    States(
        "vmheal_drbd_connection_protocol",
        "The replication protocol in the kernel: only with C no acknowledged write can be lost.",
        Protocol,
        lambda it: it.protocol,
    ),
    Figure(
        "vmheal_drbd_connection_allow_two_primaries",
        "Whether the kernel allows both sides to be Primary.",
        lambda it: it.allow_two_primaries,
    ),
)
