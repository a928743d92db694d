"""What DRBD says without a program: /proc/drbd and its messages in the kernel's log; pure, no I/O.

On 8.4 /proc/drbd holds every minor's states and the same counters as events2, and alone tells how far a
resync is (drbd_proc.c in Linux). On 9 it holds no more than the version.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from exporter.drbd import (
    KIB,
    Connection,
    ConnectionState,
    DiskState,
    DrbdOutputError,
    PeerDevice,
    ReplicationState,
    Resource,
    Role,
    Snapshot,
    UnknownWord,
)


@dataclass(frozen=True, slots=True)
class ProcMinor:
    """One minor in 8.4's /proc/drbd.

    Attributes:
        states: the line with its states as printed, ` 0: cs:Connected ro:... ds:... C r-----`: equal lines
            mean equal states.
        protocol: "A", "B" or "C"; None while the connection is not configured (StandAlone).
        suspended: its I/O is frozen, for whatever reason.
        counters: `ns`, `nr`, ... as printed, see `overlay`.
        done_ratio: of a running resync or verify, 0 to 1.
        eta_seconds: until that is finished; None while it is stalled.
        sync_bytes_per_second: its recent speed.
    """

    states: str
    protocol: str | None
    suspended: bool
    counters: Mapping[str, int]
    done_ratio: float | None
    eta_seconds: float | None
    sync_bytes_per_second: float | None


@dataclass(frozen=True, slots=True)
class Proc:
    """A reading of /proc/drbd; `minors` is empty on DRBD 9."""

    version: str
    minors: Mapping[int, ProcMinor]

    @property
    def major(self) -> int:
        """8 or 9."""
        return int(self.version.split(".")[0])

    @property
    def states(self) -> tuple[str, ...]:
        """The states of all minors, to be compared with those of another reading."""
        return tuple(minor.states for minor in self.minors.values())


_VERSION = re.compile(r"version: ([0-9]{1,4}\.\S+)")
_MINOR = re.compile(r"^ *([0-9]{1,20}): cs:.*$", re.MULTILINE)
# cs:SyncSource ro:Primary/Secondary ds:UpToDate/Inconsistent C r-----
_FLAGS = re.compile(r" ds:\S+ ([ABC ]) ([rs])\S*$")
_COUNTER = re.compile(r"\b([a-z]{2,3}):([0-9]{1,20})\b")
_DONE = re.compile(r"(?:sync'ed|verified): *([0-9]{1,20}(?:\.[0-9]{1,20})?)%")
_SPEED = re.compile(
    r"finish: ([0-9]{1,20}):([0-9]{2}):([0-9]{2}) speed: ([0-9][0-9,]{0,25}) "
    r"\([^)]*\)[^\n]* K/sec( \(stalled\))?"
)


def parse_proc(text: str) -> Proc:
    """Parse /proc/drbd.

    Raises:
        DrbdOutputError: it does not begin with a version.
    """
    version = _VERSION.match(text)
    if version is None:
        raise DrbdOutputError("/proc/drbd does not begin with 'version: '")
    heads = list(_MINOR.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)] * bool(heads)
    return Proc(
        version[1],
        {
            int(head[1]): _minor(head[0], text[head.end() : end])
            for head, end in zip(heads, ends, strict=True)
        },
    )


def _minor(head: str, details: str) -> ProcMinor:
    flags, done, speed = _FLAGS.search(head), _DONE.search(details), _SPEED.search(details)
    return ProcMinor(
        states=head,
        protocol=flags[1].strip() or None if flags else None,
        suspended=bool(flags and flags[2] == "s"),
        counters={name: int(count) for name, count in _COUNTER.findall(details)},
        done_ratio=float(done[1]) / 100 if done else None,
        eta_seconds=int(speed[1]) * 3600 + int(speed[2]) * 60 + int(speed[3])
        if speed and not speed[5]
        else None,
        sync_bytes_per_second=int(speed[4].replace(",", "")) * KIB if speed else None,
    )


def proves(proc: Proc, before: Proc) -> bool:
    """Whether what events2 said just after `before` must still be true at `proc`.

    Not on DRBD 9, which shows no minors; and not while I/O is frozen, as the reason is not shown.
    """
    frozen = any(minor.suspended for minor in proc.minors.values())
    return bool(proc.minors) and not frozen and proc.states == before.states


def agrees(snapshot: Snapshot, proc: Proc) -> bool:
    """Whether 8.4's /proc/drbd shows the very states of the snapshot, for all its minors and no other.

    Two equal readings before and after do not say that: a state may have come and gone in between.
    """
    states = {
        device.minor: _states(resource.role, device.disk_state, connection, peer_device)
        for resource in snapshot.resources
        for device in resource.devices
        for connection in resource.connections
        for peer_device in connection.peer_devices
        if peer_device.volume == device.volume
    }
    return states.keys() == proc.minors.keys() and all(
        states[number] in minor.states for number, minor in proc.minors.items()
    )


def _states(
    role: Role | UnknownWord,
    disk_state: DiskState | UnknownWord,
    connection: Connection,
    peer_device: PeerDevice,
) -> str:
    """Return the states as /proc/drbd words them: one state for connection and replication together."""
    state: object = connection.connection_state
    if peer_device.replication_state not in {ReplicationState.OFF, ReplicationState.ESTABLISHED}:
        state = peer_device.replication_state
    elif state is ConnectionState.CONNECTING:
        state = "WFConnection"
    return f" cs:{state} ro:{role}/{connection.peer_role} ds:{disk_state}/{peer_device.peer_disk_state} "


def overlay(snapshot: Snapshot, proc: Proc) -> Snapshot:
    """Return the snapshot with 8.4's statistics and resync progress as /proc/drbd has them now.

    The kernel fills both from the same counters, so this is what a newer events2 would print; only for a
    snapshot that agrees with this reading.
    """
    if not proc.minors:
        return snapshot
    return replace(snapshot, resources=tuple(_overlay(resource, proc) for resource in snapshot.resources))


def _overlay(resource: Resource, proc: Proc) -> Resource:
    minors = {device.volume: proc.minors.get(device.minor) for device in resource.devices}

    def count(minor: ProcMinor, name: str, unit: int = 1) -> int | None:
        return minor.counters[name] * unit if name in minor.counters else None

    return replace(
        resource,
        devices=tuple(
            device
            if (minor := minors[device.volume]) is None
            else replace(
                device,
                read_bytes=count(minor, "dr", KIB),
                written_bytes=count(minor, "dw", KIB),
                al_writes=count(minor, "al"),
                bm_writes=count(minor, "bm"),
                upper_pending=count(minor, "ap"),
                lower_pending=count(minor, "lo"),
            )
            for device in resource.devices
        ),
        connections=tuple(
            replace(
                connection,
                peer_devices=tuple(
                    peer_device
                    if (minor := minors.get(peer_device.volume)) is None
                    else replace(
                        peer_device,
                        received_bytes=count(minor, "nr", KIB),
                        sent_bytes=count(minor, "ns", KIB),
                        out_of_sync_bytes=count(minor, "oos", KIB),
                        pending=count(minor, "pe"),
                        unacked=count(minor, "ua"),
                        done_ratio=minor.done_ratio,
                        eta_seconds=minor.eta_seconds,
                        sync_bytes_per_second=minor.sync_bytes_per_second,
                    )
                    for peer_device in connection.peer_devices
                ),
            )
            for connection in resource.connections
        ),
    )


@dataclass(frozen=True, slots=True)
class SplitBrainSeen:
    """DRBD has found that both sides wrote on their own, and has dropped the connection.

    Attributes:
        peer: its host name on DRBD 9; None on 8.4.
    """

    minor: int
    peer: str | None


@dataclass(frozen=True, slots=True)
class PeerMet:
    """A connection has been established: what was split is settled.

    Attributes:
        minor: which device, on 8.4; None on DRBD 9, which names the resource and the peer.
    """

    minor: int | None
    resource: str | None
    peer: str | None


@dataclass(frozen=True, slots=True)
class VerifyFinished:
    """An online verify came to its end; what it found is in the out-of-sync bytes."""

    minor: int
    peer: str | None


KernelMessage = SplitBrainSeen | PeerMet | VerifyFinished

# 8.4 "block drbd0: ...", 9 "drbd ce01/0 drbd10 v02: ..."
_ABOUT_MINOR = re.compile(
    r"^(?:block |drbd \S+/\d+ )drbd(?P<minor>[0-9]{1,20})(?: (?P<peer>\S+))?: (?P<said>.*)$", re.DOTALL
)
# 9 "drbd ce01 v02: conn( Connecting -> Connected ) ..."
_ABOUT_PEER = re.compile(r"^drbd (?P<resource>[^\s/]+) (?P<peer>\S+): (?P<said>.*)$", re.DOTALL)
_CONNECTED = re.compile(r"\bconn\( \S+ -> (?:Connected|WFBitMap[ST]|StartingSync[ST]) \)")


def parse_kernel_message(text: str) -> KernelMessage | None:
    """Read one message of the kernel's log (its text, without priority and time); None: nothing for us.

    Wording: drbd_receiver.c, drbd_worker.c and drbd_state.c of DRBD 8.4 and 9.
    """
    if match := _ABOUT_MINOR.match(text):
        minor, peer, said = int(match["minor"]), match["peer"], match["said"]
        if said.startswith("Split-Brain detected but unresolved"):
            return SplitBrainSeen(minor, peer)
        if said.startswith("Online verify done"):
            return VerifyFinished(minor, peer)
        if _CONNECTED.search(said):
            return PeerMet(minor, None, None)
    elif (match := _ABOUT_PEER.match(text)) and _CONNECTED.search(match["said"]):
        return PeerMet(None, match["resource"], match["peer"])
    return None
