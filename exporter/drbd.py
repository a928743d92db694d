"""DRBD's vocabulary and the parser of `drbdsetup events2 --now --statistics`; pure, no I/O.

DRBD 8.4 and 9 print the same kind of lines, so one model serves both; what one of them does not say is None.
Words are spelled as upstream spells them (drbd_strings.c in drbd-utils). A word that is not known becomes an
`UnknownWord` in the place of the state and is listed in `Snapshot.problems`: it never equals a state, so that
a caller who asks "is this UpToDate?" gets no, and a caller who must be sure refuses when
`Snapshot.problems_of(resource)` is not empty.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum, unique
from functools import lru_cache
from typing import NoReturn, TypeVar

KIB = 1024
SECTOR = 512
MIB = 1024 * 1024

# drbdsetup prints it when it cannot tell, for example while nothing moves.
ETA_UNKNOWN_SECONDS = 987654321


@unique
class Role(StrEnum):
    """What a node may do with a resource; Unknown is the role of a peer that is not connected."""

    UNKNOWN = "Unknown"
    PRIMARY = "Primary"
    SECONDARY = "Secondary"


@unique
class DiskState(StrEnum):
    """The state of a replica's disk; DUnknown is the disk of a peer that is not connected."""

    DISKLESS = "Diskless"
    ATTACHING = "Attaching"
    DETACHING = "Detaching"
    FAILED = "Failed"
    NEGOTIATING = "Negotiating"
    INCONSISTENT = "Inconsistent"
    OUTDATED = "Outdated"
    D_UNKNOWN = "DUnknown"
    CONSISTENT = "Consistent"
    UP_TO_DATE = "UpToDate"


@unique
class ConnectionState(StrEnum):
    """The state of the connection to a peer. 8.4's WFConnection is printed as Connecting by events2."""

    STAND_ALONE = "StandAlone"
    DISCONNECTING = "Disconnecting"
    UNCONNECTED = "Unconnected"
    TIMEOUT = "Timeout"
    BROKEN_PIPE = "BrokenPipe"
    NETWORK_FAILURE = "NetworkFailure"
    PROTOCOL_ERROR = "ProtocolError"
    TEAR_DOWN = "TearDown"
    CONNECTING = "Connecting"
    CONNECTED = "Connected"


@unique
class ReplicationState(StrEnum):
    """What a connected pair of devices is doing; Off while it is not connected."""

    OFF = "Off"
    ESTABLISHED = "Established"
    STARTING_SYNC_S = "StartingSyncS"
    STARTING_SYNC_T = "StartingSyncT"
    WF_BITMAP_S = "WFBitMapS"
    WF_BITMAP_T = "WFBitMapT"
    WF_SYNC_UUID = "WFSyncUUID"
    SYNC_SOURCE = "SyncSource"
    SYNC_TARGET = "SyncTarget"
    VERIFY_S = "VerifyS"
    VERIFY_T = "VerifyT"
    PAUSED_SYNC_S = "PausedSyncS"
    PAUSED_SYNC_T = "PausedSyncT"
    AHEAD = "Ahead"
    BEHIND = "Behind"


@unique
class SuspendReason(StrEnum):
    """Why a resource's I/O is suspended (frozen); several may hold at once."""

    USER = "user"
    NO_DATA = "no-data"
    FENCING = "fencing"
    QUORUM = "quorum"


@unique
class ResyncPause(StrEnum):
    """Who has paused a resync: this node, the peer, or a resync-after dependency."""

    USER = "user"
    PEER = "peer"
    DEPENDENCY = "dependency"


@unique
class Blocked(StrEnum):
    """Which side of a device takes no I/O now: above DRBD, or the disk below it."""

    UPPER = "upper"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class UnknownWord:
    """A word that this program does not know, in the place of a state.

    Attributes:
        kind: what the word should have been, with events2's key: "disk", "role", "connection", ...
        word: the word as printed.
        resource: the resource that it was printed for.
    """

    kind: str
    word: str
    resource: str

    def __str__(self) -> str:
        """Say it in a sentence; the caller adds the host."""
        return f"resource {self.resource}: {self.kind}:{self.word[:64]!r} is not known"


@dataclass(frozen=True, slots=True)
class MalformedLine:
    """A line that could not be read and was left out.

    Attributes:
        reason: what was wrong with it.
        line: the line, cut to 200 characters.
        resource: the resource it speaks of, or "" when even that could not be read.
    """

    reason: str
    line: str
    resource: str

    def __str__(self) -> str:
        """Say it in a sentence; the caller adds the host."""
        return f"resource {self.resource or '(unknown)'}: {self.reason} in {self.line!r}"


Problem = UnknownWord | MalformedLine


@dataclass(frozen=True, slots=True)
class Device:
    """This node's side of one volume. None: not printed by this DRBD version, or unknown to it.

    Attributes:
        backing_disk: path of the disk below (DRBD 9 only; None too when there is none).
        client: diskless on purpose (DRBD 9).
        quorum: DRBD 9; also True while quorum is off, so read it with the configuration.
        open: somebody holds the device open (DRBD 9 with drbd-utils 9.23 or later).
        read_bytes, written_bytes: of the local disk, since attach.
        upper_pending: requests from above not yet answered.
        lower_pending: requests to the local disk not yet answered.
    """

    volume: int
    minor: int
    disk_state: DiskState | UnknownWord
    backing_disk: str | None
    client: bool | None
    quorum: bool | None
    open: bool | None
    size_bytes: int | None
    read_bytes: int | None
    written_bytes: int | None
    al_writes: int | None
    bm_writes: int | None
    upper_pending: int | None
    lower_pending: int | None
    al_suspended: bool | None
    blocked: tuple[Blocked | UnknownWord, ...]


@dataclass(frozen=True, slots=True)
class PeerDevice:
    """One volume as seen over one connection.

    Attributes:
        peer_client: the peer is diskless on purpose (DRBD 9).
        resync_suspended: empty when no resync is paused.
        done_ratio: 0 to 1 of a running resync or verify (DRBD 9; for 8.4 see `exporter.drbd_proc`).
        eta_seconds: until that is finished; None when DRBD cannot tell.
        sync_bytes_per_second: its recent speed.
        pending: requests sent to the peer and not yet answered.
        unacked: requests received from the peer and not yet answered.
    """

    volume: int
    replication_state: ReplicationState | UnknownWord
    peer_disk_state: DiskState | UnknownWord
    peer_client: bool | None
    resync_suspended: tuple[ResyncPause | UnknownWord, ...]
    done_ratio: float | None
    eta_seconds: float | None
    sync_bytes_per_second: float | None
    received_bytes: int | None
    sent_bytes: int | None
    out_of_sync_bytes: int | None
    pending: int | None
    unacked: int | None


@dataclass(frozen=True, slots=True)
class Path:
    """One pair of addresses of a connection (DRBD 9), as printed: `ipv4:10.20.0.1:7789`."""

    local: str
    peer: str
    established: bool | None


@dataclass(frozen=True, slots=True)
class Connection:
    """The connection to one peer.

    Attributes:
        name: the peer's host name on DRBD 9; on 8.4 always "peer" (not even printed while StandAlone).
        peer_node_id: always 0 on 8.4.
    """

    peer_node_id: int
    name: str
    connection_state: ConnectionState | UnknownWord
    peer_role: Role | UnknownWord
    congested: bool | None
    ap_in_flight_bytes: int | None
    rs_in_flight_bytes: int | None
    peer_devices: tuple[PeerDevice, ...]
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource as this node sees it.

    Attributes:
        suspended: why I/O is frozen; empty when it is not.
        may_promote: DRBD 9's hint; it proves nothing (seen "yes" in split brain and in isolation).
    """

    name: str
    role: Role | UnknownWord
    suspended: tuple[SuspendReason | UnknownWord, ...]
    may_promote: bool | None
    promotion_score: int | None
    force_io_failures: bool | None
    write_ordering: str | None
    devices: tuple[Device, ...]
    connections: tuple[Connection, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All resources of this node at one moment, and what could not be understood of them."""

    resources: tuple[Resource, ...]
    problems: tuple[Problem, ...] = ()

    def resource(self, name: str) -> Resource | None:
        """Return the resource of that name, or None when it is not configured in this kernel."""
        return next((resource for resource in self.resources if resource.name == name), None)

    def problems_of(self, name: str) -> tuple[Problem, ...]:
        """Return what was not understood of that resource, or of none that is known: it may be this one."""
        if not self.problems:
            return ()
        others = {resource.name for resource in self.resources} - {name}
        return tuple(problem for problem in self.problems if problem.resource not in others)


# So much of a line is told when it is malformed.
_TOLD_LENGTH = 200


class DrbdOutputError(ValueError):
    """A DRBD program's output is not what it should be, as a whole: nothing of it may be used."""


def parse_events2(text: str) -> Snapshot:
    """Parse the output of `drbdsetup events2 --now --statistics`, of DRBD 8.4 or 9.

    Units: DRBD prints KiB for sizes and amounts of data, sectors for data in flight, MiB/s for speed and
    percent for progress; here they are bytes, bytes per second and a ratio. A line that cannot be read is
    left out and listed as a problem.

    Raises:
        DrbdOutputError: the closing line `exists -` is missing, so the output was cut off: a resource that
            is not in it may exist all the same.
    """
    lines = text.splitlines()
    if not lines or lines[-1] != "exists -":
        raise DrbdOutputError("the output of 'drbdsetup events2 --now' ends before its last line 'exists -'")
    parts = _Parts()
    for line in lines[:-1]:
        parts.add(_known_line(line) if len(line) <= _KEPT_LINE_LENGTH else _read_line(line))
    return parts.snapshot()


Word = TypeVar("Word", bound=StrEnum)

_YES_NO = {"yes": True, "no": False}


class _Fields:
    """The `key:value` words of one line `exists TYPE key:value ...`, each read as what it should be."""

    __slots__ = ("line", "object_type", "problems", "resource", "values")

    def __init__(self, line: str) -> None:
        event, _, rest = line.partition(" ")
        self.line = line
        self.object_type, *words = rest.split(" ")
        self.values = dict(word.split(":", 1) for word in words if ":" in word)
        self.resource = self.values.get("name", "")
        self.problems: list[Problem] = []
        if event != "exists" or len(self.values) != len(words):
            self.object_type = ""

    def malformed(self, reason: str) -> None:
        self.problems.append(MalformedLine(reason, self.line[:_TOLD_LENGTH], self.resource))

    def identifier(self, key: str) -> int:
        """Read a number that names the object: without it the line means nothing."""
        value = self.values[key]
        if not (value.isascii() and value.isdecimal()):
            raise ValueError(f"{key}: is not a number")
        return int(value)

    def count(self, key: str, unit: int = 1) -> int | None:
        """Read a number that is never negative.

        DRBD 9 lets its in-flight counters fall below zero and prints nearly 2**64 then: unknown, too.
        """
        if key not in self.values:
            return None
        count = self.identifier(key)
        return count * unit if count < 2**63 else None

    def signed(self, key: str) -> int | None:
        value = self.values.get(key)
        return None if value is None else int(value)

    def number(self, key: str, unit: float = 1) -> float | None:
        """Read a number with decimals; `nan` and the sentinel of `eta` are unknown."""
        value = self.values.get(key)
        if value is None:
            return None
        number = float(value)
        return number * unit if 0 <= number < ETA_UNKNOWN_SECONDS else None

    def word(self, key: str, known: Mapping[str, Word]) -> Word | UnknownWord:
        """Read the one word of a state."""
        return self._known(key, self.values[key], known)

    def words(self, key: str, known: Mapping[str, Word]) -> tuple[Word | UnknownWord, ...]:
        """Read `no`, or words joined by commas; a key that is not there reads as `no`."""
        value = self.values.get(key, "no")
        return () if value == "no" else tuple(self._known(key, word, known) for word in value.split(","))

    def flag(self, key: str) -> bool | None:
        value = self.values.get(key)
        if value is None:
            return None
        if value in _YES_NO:
            return _YES_NO[value]
        self.problems.append(UnknownWord(key, value, self.resource))
        return None

    def _known(self, key: str, word: str, known: Mapping[str, Word]) -> Word | UnknownWord:
        if word in known:
            return known[word]
        unknown = UnknownWord(key, word, self.resource)
        self.problems.append(unknown)
        return unknown


_ROLES = {word.value: word for word in Role}
_DISK_STATES = {word.value: word for word in DiskState}
_CONNECTION_STATES = {word.value: word for word in ConnectionState}
_REPLICATION_STATES = {word.value: word for word in ReplicationState}
_SUSPEND_REASONS = {word.value: word for word in SuspendReason}
_RESYNC_PAUSES = {word.value: word for word in ResyncPause}
_BLOCKED = {word.value: word for word in Blocked}


_Peer = tuple[str, int]  # a resource's name, and a peer's node id


@dataclass
class _Parts:
    """What the lines said, until all have been read."""

    resources: dict[str, Resource] = field(default_factory=dict)
    devices: dict[str, dict[int, Device]] = field(default_factory=lambda: defaultdict(dict))
    connections: dict[str, dict[int, Connection]] = field(default_factory=lambda: defaultdict(dict))
    peer_devices: dict[_Peer, dict[int, PeerDevice]] = field(default_factory=lambda: defaultdict(dict))
    paths: dict[_Peer, dict[tuple[str, str], Path]] = field(default_factory=lambda: defaultdict(dict))
    problems: list[Problem] = field(default_factory=list)

    def add(self, line: "_Line") -> None:
        """Take one line."""
        self.problems += line.problems
        peer = line.resource, line.peer_node_id
        new = True
        match line.part:
            case Resource() as resource:
                new = _put(self.resources, resource.name, resource)
            case Device() as device:
                new = _put(self.devices[line.resource], device.volume, device)
            case Connection() as connection:
                new = _put(self.connections[line.resource], connection.peer_node_id, connection)
            case PeerDevice() as peer_device:
                new = _put(self.peer_devices[peer], peer_device.volume, peer_device)
            case Path() as path:
                new = _put(self.paths[peer], (path.local, path.peer), path)
        if not new:
            self.problems.append(MalformedLine("said twice", line.text[:_TOLD_LENGTH], line.resource))

    def snapshot(self) -> Snapshot:
        """Put the parts together. A part of something that has no line of its own is a problem."""
        peers = {(name, peer) for name, connections in self.connections.items() for peer in connections}
        for name in {*self.devices, *self.connections} - {*self.resources}:
            self.problems.append(MalformedLine("parts of a resource that has no line itself", "", name))
        for name, *_ in {*self.peer_devices, *self.paths} - peers:
            self.problems.append(
                MalformedLine("parts of a connection that has no line itself", "", str(name))
            )
        return Snapshot(
            tuple(
                replace(
                    resource,
                    devices=tuple(self.devices[name].values()),
                    connections=tuple(
                        replace(
                            connection,
                            peer_devices=tuple(self.peer_devices[name, peer].values()),
                            paths=tuple(self.paths[name, peer].values()),
                        )
                        for peer, connection in self.connections[name].items()
                    ),
                )
                for name, resource in self.resources.items()
            ),
            tuple(self.problems),
        )


Key = TypeVar("Key")
Part = TypeVar("Part")


def _put(parts: dict[Key, Part], key: Key, part: Part) -> bool:
    """Add a part and return whether it is the first of that key; a later one is dropped."""
    if key in parts:
        return False
    parts[key] = part
    return True


@dataclass(frozen=True, slots=True)
class _Line:
    """What one line says.

    Attributes:
        part: without the parts that have lines of their own; None when the line could not be read.
        peer_node_id: -1 for what belongs to no peer.
    """

    text: str
    resource: str
    peer_node_id: int
    part: Resource | Device | Connection | PeerDevice | Path | None
    problems: tuple[Problem, ...]


def _read_line(text: str) -> _Line:
    fields, part, peer_node_id = _Fields(text), None, -1
    try:
        name = fields.values["name"]
        if fields.object_type in _OF_A_PEER:
            peer_node_id = fields.identifier("peer-node-id")
        part = _READERS.get(fields.object_type, _unreadable)(name, fields)
    except KeyError as error:
        fields.malformed(f"no {error.args[0]}: found")
    except ValueError as error:
        fields.malformed(str(error))
    return _Line(text, fields.resource, peer_node_id, part, tuple(fields.problems))


def _unreadable(_name: str, _fields: _Fields) -> NoReturn:
    raise ValueError("not of the form 'exists TYPE key:value ...'")


def _resource(name: str, fields: _Fields) -> Resource:
    return Resource(
        name=name,
        role=fields.word("role", _ROLES),
        suspended=fields.words("suspended", _SUSPEND_REASONS),
        may_promote=fields.flag("may_promote"),
        promotion_score=fields.signed("promotion_score"),
        force_io_failures=fields.flag("force-io-failures"),
        write_ordering=fields.values.get("write-ordering"),
        devices=(),
        connections=(),
    )


def _device(_name: str, fields: _Fields) -> Device:
    backing_disk = fields.values.get("backing_dev", "none")
    return Device(
        volume=fields.identifier("volume"),
        minor=fields.identifier("minor"),
        disk_state=fields.word("disk", _DISK_STATES),
        backing_disk=None if backing_disk == "none" else backing_disk,
        client=fields.flag("client"),
        quorum=fields.flag("quorum"),
        open=fields.flag("open"),
        size_bytes=fields.count("size", KIB),
        read_bytes=fields.count("read", KIB),
        written_bytes=fields.count("written", KIB),
        al_writes=fields.count("al-writes"),
        bm_writes=fields.count("bm-writes"),
        upper_pending=fields.count("upper-pending"),
        lower_pending=fields.count("lower-pending"),
        al_suspended=fields.flag("al-suspended"),
        blocked=fields.words("blocked", _BLOCKED),
    )


def _connection(_name: str, fields: _Fields) -> Connection:
    return Connection(
        peer_node_id=fields.identifier("peer-node-id"),
        name=fields.values.get("conn-name", "peer"),
        connection_state=fields.word("connection", _CONNECTION_STATES),
        peer_role=fields.word("role", _ROLES),
        congested=fields.flag("congested"),
        ap_in_flight_bytes=fields.count("ap-in-flight", SECTOR),
        rs_in_flight_bytes=fields.count("rs-in-flight", SECTOR),
        peer_devices=(),
        paths=(),
    )


def _peer_device(_name: str, fields: _Fields) -> PeerDevice:
    return PeerDevice(
        volume=fields.identifier("volume"),
        replication_state=fields.word("replication", _REPLICATION_STATES),
        peer_disk_state=fields.word("peer-disk", _DISK_STATES),
        peer_client=fields.flag("peer-client"),
        resync_suspended=fields.words("resync-suspended", _RESYNC_PAUSES),
        done_ratio=fields.number("done", 0.01),
        eta_seconds=fields.number("eta"),
        sync_bytes_per_second=fields.number("dbdt1", MIB),
        received_bytes=fields.count("received", KIB),
        sent_bytes=fields.count("sent", KIB),
        out_of_sync_bytes=fields.count("out-of-sync", KIB),
        pending=fields.count("pending"),
        unacked=fields.count("unacked"),
    )


def _path(_name: str, fields: _Fields) -> Path:
    return Path(fields.values["local"], fields.values["peer"], fields.flag("established"))


_READERS: Mapping[str, Callable[[str, _Fields], Resource | Device | Connection | PeerDevice | Path]] = {
    "resource": _resource,
    "device": _device,
    "connection": _connection,
    "peer-device": _peer_device,
    "path": _path,
}
_OF_A_PEER = {"connection", "peer-device", "path"}

# Most lines read as in the second before, so what they say is kept: of 1,600 resources with one peer, and at
# most some 16 MB.
_known_line = lru_cache(8192)(_read_line)
_KEPT_LINE_LENGTH = 1000
