"""A resource of DRBD 8.4 on two hosts: roles, disks, connection, generation identifiers, handlers, data.

As seen on the real one (facts of DRBD, docs/drills.md), and where these are silent, as its kernel module says
(drbd_state.c: sanitize_state, after_state_ch; drbd_receiver.c: drbd_uuid_compare, drbd_sync_handshake).

What a host's DRBD does takes no time here unless it waits for somebody: the peer, a handler, a resync.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from tests.simulator.fibers import Loop
from tests.simulator.network import REPLICATION

if TYPE_CHECKING:
    from tests.simulator.host import Host

PRIMARY, SECONDARY, UNKNOWN = "Primary", "Secondary", "Unknown"
DISKLESS, INCONSISTENT, OUTDATED, D_UNKNOWN = "Diskless", "Inconsistent", "Outdated", "DUnknown"
CONSISTENT, UP_TO_DATE = "Consistent", "UpToDate"
STAND_ALONE, WAITS, CONNECTED = "StandAlone", "WFConnection", "Connected"
BITMAP_S, BITMAP_T, SYNC_SOURCE, SYNC_TARGET = "WFBitMapS", "WFSyncUUID", "SyncSource", "SyncTarget"
OLD = {INCONSISTENT, OUTDATED}

TICK_SECONDS = 0.4
LOSS_SECONDS = (0.6, 1.9)
"""From the last sign of the peer until it counts as lost, with ping-int 1 and ping-timeout 5."""
MEETS_WITHIN_TICKS = 4
RESYNC_SECONDS = (0.3, 8.0)
LATE_END_SECONDS = (0.05, 2.5)
"""H2: for so long the target of a resync says that it has ended before its source does."""
PROBE_SECONDS = 1.3
"""A promotion whose peer does not answer any more."""
TRIES = 4
"""A promotion that is denied runs the handler so often."""


class Record(NamedTuple):
    """One write of a guest."""

    boot: int
    """Of the guest, over all VMs."""
    number: int


class Link(NamedTuple):
    """How a host sees a peer."""

    peer: str
    connection: str
    role: str
    disk: str


class Result(NamedTuple):
    """What drbdadm leaves behind."""

    status: int
    error: str = ""
    code: int | None = None


def refused(status: int, code: int, text: str) -> Result:
    return Result(status, f"0: State change failed: ({code}) {text}", code)


def failed(code: int, text: str) -> Result:
    return Result(10, f"0: Failure: ({code}) {text}", code)


NO_MINOR = failed(127, "Device minor not allocated")
NO_RESOURCE = failed(158, "Unknown resource")
NO_CONNECTION = failed(162, "Invalid configuration request")
HAS_DISK = Result(20, "Device '0' is configured!")
"""drbdmeta's word, which drbdadm asks first: the kernel is not."""
HAS_PEER = failed(102, "Local address(port) already in use.")
NO_DATA = refused(17, -2, "Need access to UpToDate data")
REFUSED_BY_PEER = refused(11, -10, "State change was refused by peer node")


@dataclass
class Metadata:
    """What is on the disk, and survives everything but the disk."""

    current: int
    bitmap: int = 0
    history: list[int] = field(default_factory=list)
    consistent: bool = True
    was_up_to_date: bool = True
    peer_outdated: bool = False
    primary: bool = False
    data: set[Record] = field(default_factory=set)
    broken: bool = False
    """The disk below fails."""


class Session:
    """One connection of both; whoever has let go of it does not answer on it any more."""


class Node:
    """One host's side."""

    peer: "Node"
    """Told by its pair."""

    def __init__(self, pair: "Pair", host: "Host", metadata: Metadata) -> None:
        self.pair = pair
        self.host = host
        self.md = metadata
        self.dead()

    def __repr__(self) -> str:
        if not self.up:
            return f"{self.host.name} down"
        frozen = " frozen" if self.suspended else ""
        return f"{self.host.name} {self.connection} {self.role}/{self.peer_role} {self.disk}/{self.peer_disk}{frozen}"

    def dead(self) -> None:
        """Nothing but the disk is left."""
        self.up = False
        self.role = SECONDARY
        self.disk = DISKLESS
        self.connection = STAND_ALONE
        self.peer_disk = D_UNKNOWN
        self.suspended = False
        self.two = False
        self.pauses = False
        """pause-sync was typed here."""
        self.session: Session | None = None
        self.untold: Session | None = None
        """The connection over which its peer is still to be told that its disk is gone."""
        self.crashed = False
        """It was Primary when it stopped (CRASHED_PRIMARY)."""
        self.new_generation = False
        """To be made when it thaws without its peer (NEW_CUR_UUID)."""
        self.exposed = 0
        """The generation that its user has seen."""
        self.left_alone = False
        """As Primary, without its disk, it lost its peer: then it runs no handler."""
        self.holders: set[object] = set()
        """Who has the device open."""
        self.unheard_at: float | None = None
        self.patience = 0.0
        self._waiting: list[Callable[[], None]] = []

    @property
    def attached(self) -> bool:
        return self.up and self.disk != DISKLESS

    @property
    def shown(self) -> bool:
        """8.4 shows one that is diskless and StandAlone as Unconfigured (seen)."""
        idle = self.connection == STAND_ALONE and self.disk == DISKLESS and self.role == SECONDARY
        return self.up and not idle

    @property
    def connection_shown(self) -> str:
        paused = {SYNC_SOURCE: "PausedSyncS", SYNC_TARGET: "PausedSyncT"} if self.pair.paused else {}
        return paused.get(self.connection, self.connection)

    @property
    def client(self) -> bool:
        """Diskless on purpose: that is DRBD 9's."""
        return False

    @property
    def links(self) -> tuple[Link, ...]:
        return (Link(self.peer.host.name, self.connection, self.peer_role, self.peer_disk),)

    @property
    def peer_role(self) -> str:
        return self.peer.role if self.session is not None and self.peer.session is self.session else UNKNOWN

    @property
    def together(self) -> bool:
        """Connected, and what is said arrives and is answered."""
        peer = self.peer
        net = self.pair.net
        return (
            self.session is not None
            and peer.session is self.session
            and self.host.works
            and peer.host.works
            and net.both_ways(REPLICATION, self.host.name, peer.host.name)
        )

    @property
    def sends(self) -> bool:
        """Whether a write goes to the peer too (drbd_should_do_remote)."""
        resyncs = self.connection in {BITMAP_T, SYNC_SOURCE, SYNC_TARGET}
        return self.peer_disk == UP_TO_DATE or (resyncs and self.peer.attached)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Whoever waits for a change is woken after this, and the metadata say what is so then."""
        yield
        for node in (self, self.peer):
            node.settle()

    def settle(self) -> None:
        if self.attached:
            md = self.md
            md.primary = self.role == PRIMARY or (self.peer_disk == DISKLESS and self.peer_role == PRIMARY)
            md.consistent = self.disk != INCONSISTENT
            md.was_up_to_date = self.disk in {CONSISTENT, UP_TO_DATE}
            md.peer_outdated = self.peer_disk in OLD
            if self.role == PRIMARY:
                self.exposed = md.current
        elif self.together and self.peer.disk == UP_TO_DATE:  # an older one begins no generation for us
            self.exposed = self.peer.md.current
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def wait_change(self, seconds: float | None = None) -> None:
        """Until something of this side changes."""
        loop = self.pair.loop
        self._waiting.append(loop.park(seconds))
        loop.wait_parked()

    # ---- generation identifiers

    def new_current(self) -> None:
        self.md.bitmap = self.md.current
        self.md.current = next(self.pair.generations)
        self.new_generation = False

    def drop_bitmap(self) -> None:
        if self.md.bitmap:
            self.md.history = [self.md.bitmap, *self.md.history[:1]]
            self.md.bitmap = 0

    # ---- what it does by itself

    def lose(self) -> None:
        """It has lost its peer."""
        with self.changing():
            self.session = None
            self.unheard_at = None
            self.connection = WAITS
            before = self.peer_disk
            self.peer_disk = before if before in OLD else D_UNKNOWN
            if self.role != PRIMARY or not self.attached:
                self.left_alone = self.role == PRIMARY
                return
            if self.disk == UP_TO_DATE and self.md.bitmap == 0 and before not in {*OLD, D_UNKNOWN, DISKLESS}:
                self.new_generation = True
            asks = self.pair.fencing and self.peer_disk == D_UNKNOWN and self.disk not in OLD
            if asks and not self.suspended:
                self.suspended = True
                self.pair.log(f"{self}: frozen")
            if self.new_generation and not self.suspended:
                self.new_current()
        if self.suspended:
            self._ask_for_grant()

    def _ask_for_grant(self) -> None:
        """What it is told then is of no use any more when both have met meanwhile."""
        met = self.pair.meetings
        self.run_handler(
            "fence-peer", lambda status: self._outdated(status if met == self.pair.meetings else 1)
        )

    def run_handler(self, hook: str, then: Callable[[int], None]) -> None:
        """Beside all else; `then` gets its exit status."""
        self.host.hook(hook, self, then)

    def _outdated(self, status: int) -> None:
        """fence-peer has ended for a frozen Primary."""
        if status == 4 and self.suspended and self.session is None and self.up:
            self._go_on_alone()

    def _go_on_alone(self) -> None:
        """Its peer is known not to write: what was frozen goes on."""
        with self.changing():
            self.peer_disk = OUTDATED
            if not self.suspended:
                return
            if self.new_generation and self.attached:
                self.new_current()
            self.suspended = False
            self.pair.log(f"{self}: thawed by a grant")

    def lost_peer_disk(self) -> None:
        """The peer's disk is gone, not its link."""
        if self.session is None:
            return
        if self.connection in {SYNC_SOURCE, SYNC_TARGET, BITMAP_S, BITMAP_T}:
            self.connection = CONNECTED
        self.peer_disk = DISKLESS
        if PRIMARY in {self.role, self.peer.role} and self.md.bitmap == 0 and self.disk == UP_TO_DATE:
            self.new_current()

    # ---- what drbdadm makes it do: in a fiber of the host

    def primary(self) -> Result:  # noqa: PLR0911  as its refusals are
        if not self.up:
            return NO_MINOR
        if self.role == PRIMARY:
            return Result(0)
        last_try = False
        for _ in range(TRIES):
            if self.session is not None and not self.together:
                # One that was Primary is looked at only once more.
                last_try = self.peer_role == PRIMARY and not self.two
                self.pair.loop.sleep(PROBE_SECONDS)
                if self.session is not None and not self.together:
                    self.lose()
            if self.session is not None:
                return self._primary_together()
            if self.disk not in {UP_TO_DATE, CONSISTENT}:
                return NO_DATA
            if (self.disk == UP_TO_DATE and self.peer_disk in OLD) or not self.pair.fencing:
                return self._primary_alone()
            status = self._ask()
            if not self.up or self.role == PRIMARY:
                return Result(0 if self.role == PRIMARY else 10)
            if self.session is None and status == 4:
                self._go_on_alone()
                if not last_try:
                    return self._primary_alone()
            if last_try:
                break  # granted or not
        if self.disk == CONSISTENT:
            return NO_DATA
        return refused(11, -7, "Refusing to be Primary while peer is not outdated")

    def _ask(self) -> int:
        """Run fence-peer and wait for it."""
        answers: list[int] = []

        def told(status: int) -> None:
            answers.append(status)
            self.settle()

        self.run_handler("fence-peer", told)
        while not answers:
            self.wait_change()
        return answers[0]

    def _primary_together(self) -> Result:
        if self.peer.role == PRIMARY and not (self.two and self.peer.two):
            return refused(11, -1, "Multiple primaries not allowed by config")
        if UP_TO_DATE not in {self.disk, self.peer_disk}:
            return NO_DATA
        with self.changing():
            self.role = PRIMARY
            for one, other in ((self, self.peer), (self.peer, self)):
                if one.attached and not other.attached and one.md.bitmap == 0:
                    one.new_current()
        return Result(0)

    def _primary_alone(self) -> Result:
        with self.changing():
            self.role = PRIMARY
            self.disk = UP_TO_DATE
            if self.md.bitmap == 0:
                self.new_current()
        self.pair.log(f"{self}: promoted without its peer")
        return Result(0)

    def secondary(self) -> Result:
        if not self.up:
            return NO_MINOR
        if self.role == SECONDARY:
            return Result(0)
        if self.holders:
            return refused(11, -12, "Device is held open by someone")
        with self.changing():
            self.role = SECONDARY
            self.left_alone = False
        return Result(0)

    def connect(self) -> Result:
        if not self.up:
            return NO_RESOURCE
        if self.connection != STAND_ALONE:
            return HAS_PEER
        with self.changing():
            self.connection = WAITS
        return Result(0)

    def disconnect(self) -> Result:
        """In order: a Secondary of a Primary knows from now on that it is Outdated (fact 10)."""
        if not self.up or self.connection == STAND_ALONE:
            return NO_CONNECTION
        if self.role == PRIMARY and self.session is not None and self.disk != UP_TO_DATE:
            return NO_DATA
        if self.together:
            if self.peer.role == PRIMARY and self.peer.disk != UP_TO_DATE:
                return REFUSED_BY_PEER
            for one, other in ((self, self.peer), (self.peer, self)):
                if self.pair.fencing and one.role == PRIMARY and other.role == SECONDARY:
                    if other.disk in {UP_TO_DATE, CONSISTENT}:
                        other.disk = OUTDATED
                    one.peer_disk = OUTDATED
                    if one.attached and one.md.bitmap == 0:
                        one.new_current()
        was_together = self.together
        if self.session is not None:
            self.lose()
        with self.changing():
            self.stand_alone()
        if was_together:
            self.peer.lose()
        if self.suspended:
            self._ask_for_grant()  # again, on StandAlone
        return Result(0)

    def outdate(self) -> Result:
        if not self.up:
            return NO_MINOR
        if self.session is not None:
            return refused(17, -6, "Need a connection for this operation")
        with self.changing():
            self.disk = OUTDATED if self.disk in {UP_TO_DATE, CONSISTENT} else self.disk
        return Result(0)

    def stand_alone(self) -> None:
        """Give the connection up, and what was allowed for it alone."""
        self.connection, self.two = STAND_ALONE, False

    def detach(self, *, force: bool = False) -> Result:
        """By hand; by force also where nobody else has current data."""
        if not self.attached:
            return Result(0) if self.up else NO_MINOR
        if not force and self.role == PRIMARY and not (self.session and self.peer_disk == UP_TO_DATE):
            return NO_DATA
        if not force and self.together and self.peer.role == PRIMARY and self.peer.disk != UP_TO_DATE:
            return REFUSED_BY_PEER
        self.disk_gone()
        return Result(0)

    def disk_gone(self) -> None:
        """Detached, or the disk below has failed."""
        with self.changing():
            if self.role == PRIMARY and self.together:
                self.exposed = self.md.current
            self.settle()
            self.disk = DISKLESS
            if self.session is not None and self.connection in {SYNC_SOURCE, SYNC_TARGET, BITMAP_S, BITMAP_T}:
                self.connection = CONNECTED
            self.untold = self.session
            self.tell()

    def tell(self) -> None:
        """The peer hears of it, in the same connection; where the link is cut, before all that is sent later."""
        if self.untold is not None and self.together:
            if self.untold is self.session and not self.attached:
                self.peer.lost_peer_disk()
                self.peer.settle()
            self.untold = None

    def resume_io(self) -> Result:
        if not self.up:
            return NO_MINOR
        with self.changing():
            if self.new_generation and self.attached:
                self.new_current()
            elif self.new_generation:
                # "Please tear down before attempting to re-configure": it meets no data and no peer as it is.
                self.exposed, self.new_generation = next(self.pair.generations), False
            self.suspended = False
        return Result(0)

    def down(self) -> Result:
        if not self.up:
            return Result(0)
        if (demoted := self.secondary()).status:
            return demoted
        if self.connection != STAND_ALONE and (parted := self.disconnect()).status:
            return parted
        with self.changing():
            self.settle()
            self.dead()
        return Result(0)

    def attach(self) -> Result:
        """With what its metadata say (drbd_adm_attach)."""
        if not self.up:
            return NO_MINOR
        if self.attached:
            return HAS_DISK
        newer = self.exposed not in {0, self.md.current} and self.peer_disk != UP_TO_DATE
        if newer and PRIMARY in {self.role, self.peer_role}:
            return failed(150, "Can only attach to the data we lost last (see kernel log).")
        if self.md.broken:
            return Result(1, "open(/dev/vg0/disk) failed: Input/output error")
        md = self.md
        with self.changing():
            self.crashed = self.crashed or md.primary
            self.disk = INCONSISTENT if not md.consistent else CONSISTENT if md.was_up_to_date else OUTDATED
            if self.session is None:
                self.peer_disk = OUTDATED if md.peer_outdated else self.peer_disk
            if self.disk == CONSISTENT and (md.peer_outdated or not self.pair.fencing):
                self.disk = UP_TO_DATE
            if self.together:
                self.pair.meet(attaching=self)
        return Result(0)

    def bring_up(self) -> Result:
        if not self.up:
            with self.changing():
                self.up = True
                self.connection = STAND_ALONE
        elif self.attached:
            return Result(1, "Device is configured!")
        attached = self.attach()
        if attached.status:
            return attached
        return self.connect()

    def allow_two(self, *, allowed: bool) -> Result:
        if not self.up:
            return NO_RESOURCE
        if not allowed and self.role == PRIMARY and self.together and self.peer.role == PRIMARY:
            return failed(164, "cannot clear allow_two_primaries while both are Primary")
        with self.changing():
            self.two = allowed
            if self.together:
                self.peer.two = allowed
        return Result(0)

    # ---- what its user does: in a fiber of the guest

    def write(self, record: Record) -> bool:
        """Write, and return when it is acknowledged; False: an I/O error."""
        loop, net = self.pair.loop, self.pair.net
        done_here = False
        over: Session | None = None
        """Which it was sent over. One copy is enough, if it is on an Inconsistent disk."""
        while True:
            while self.suspended:
                self.wait_change()
            if self.role != PRIMARY or not self.up:
                return False
            underway = over is not None and over is self.session
            if UP_TO_DATE not in {self.disk, self.peer_disk} and not underway:
                return over is not None and done_here and self.attached
            sends = underway or self.sends  # to both at once: that the own disk fails is seen after it
            if self.attached and self.md.broken:
                self.disk_gone()
            if not done_here and self.attached:
                self.md.data.add(record)
                done_here = True
            self.tell()
            session = self.session
            if session is None:
                return done_here and self.attached
            if self.together and not sends:
                return done_here  # a resync will bring it over
            over = session
            if self.together:
                there = self.peer
                loop.sleep(net.latency(REPLICATION, self.host.name, there.host.name))
                if self.together and self.session is session:
                    if there.attached and there.md.broken:
                        there.disk_gone()
                    if there.attached:
                        there.md.data.add(record)
                    elif not done_here:
                        return False
                    loop.sleep(net.latency(REPLICATION, there.host.name, self.host.name))
                    if self.together and self.session is session:
                        if self.attached and done_here:
                            self.md.data.add(record)  # also where a resync has ended meanwhile
                        return True
            # Sent, and not acknowledged: until it is lost, or comes back.
            if self.session is session and not self.suspended:
                self.wait_change(TICK_SECONDS)

    def read(self) -> frozenset[Record] | None:
        """All that is on it; None: an I/O error."""
        if not self.up or self.role != PRIMARY:
            return None
        if self.attached and self.disk == UP_TO_DATE:
            return frozenset(self.md.data)
        if self.together and self.peer.disk == UP_TO_DATE:
            return frozenset(self.peer.md.data)
        return None


class Pair:
    """Both sides, and what happens between them.

    Args:
        fencing: ``resource-and-stonith`` with a handler; else ``dont-care``.
    """

    def __init__(
        self, loop: Loop, name: str, minor: int, hosts: tuple["Host", "Host"], *, fencing: bool = True
    ) -> None:
        self.loop = loop
        self.net = hosts[0].net
        self.name = name
        self.minor = minor
        self.fencing = fencing
        self.generations = count(minor * 1_000_000 + 1)
        self.meetings = 0
        first = next(self.generations)
        one, two = self.nodes = tuple(Node(self, host, Metadata(first)) for host in hosts)
        one.peer, two.peer = two, one
        self.log: Callable[[str], None] = hosts[0].world.log
        for node in self.nodes:
            node.host.nodes[name] = node
        loop.call_in(loop.random.uniform(0, TICK_SECONDS), self._tick)

    def begin(self) -> None:
        """All is up and connected, as a site was before anything happens to it."""
        for node in self.nodes:
            node.up = True
            node.attach()
            node.connection = WAITS
        self.meet()

    @property
    def whole(self) -> bool:
        """Both are connected and current."""
        return all(node.together and node.disk == node.peer_disk == UP_TO_DATE for node in self.nodes)

    @property
    def parted(self) -> bool:
        return not all(node.together for node in self.nodes)

    def _tick(self) -> None:
        one, two = self.nodes
        if one.together:
            one.tell()
            two.tell()
            one.unheard_at = two.unheard_at = None
            self.loop.call_in(TICK_SECONDS, self._tick)
            return
        for node in self.nodes:
            if node.session is not None and node.host.works:
                self._listen(node)
        if (
            one.connection == two.connection == WAITS
            and one.up
            and two.up
            and one.host.works
            and two.host.works
            and self.net.both_ways(REPLICATION, one.host.name, two.host.name)
            and self.loop.random.random() * MEETS_WITHIN_TICKS < 1
        ):
            self.meet()
        self.loop.call_in(TICK_SECONDS, self._tick)

    def _listen(self, node: Node) -> None:
        """To a peer that does not answer."""
        answers = node.peer.host.works and self.net.both_ways(
            REPLICATION, node.host.name, node.peer.host.name
        )
        if node.unheard_at is None:
            node.unheard_at = self.loop.now
            node.patience = self.loop.random.uniform(*LOSS_SECONDS)
        if answers or self.loop.now - node.unheard_at >= node.patience:
            node.lose()

    # ---- meeting

    @property
    def paused(self) -> bool:
        """No resync goes on."""
        return any(node.pauses for node in self.nodes)

    def meet(self, attaching: Node | None = None) -> None:
        """Both are there, or one has attached its disk while they are connected (drbd_sync_handshake)."""
        one, two = self.nodes
        both_primary = one.role == two.role == PRIMARY
        if one.two != two.two or (both_primary and not one.two and attaching is None):
            self._part("both are Primary" if both_primary else "one of them allows two Primaries")
            return
        if not (one.attached and two.attached):
            self._meet_diskless()
            return
        source, why = self._source()
        if why:
            self._part(why)
            return
        if (
            source is not None
            and source.peer.role == PRIMARY
            and attaching is not source.peer
            and source.peer.disk != INCONSISTENT
        ):
            self._part(f"{source.peer.host.name} shall become SyncTarget, but it is Primary", source.peer)
            return
        with one.changing():
            self._join()
            if source is None:
                for node in self.nodes:
                    node.connection, node.crashed = CONNECTED, False
                    node.disk = _when_connected(node.disk)
                one.peer_disk, two.peer_disk = two.disk, one.disk
                return
            target = source.peer
            # As the lab shows it: each has its own word for the target until the resync begins.
            outdated = target.disk if target.disk in OLD else OUTDATED
            target.disk = INCONSISTENT if attaching is target else outdated
            source.disk, source.peer_disk = UP_TO_DATE, CONSISTENT
            source.connection, target.connection = BITMAP_S, BITMAP_T
            target.peer_disk = UP_TO_DATE
        self._resync(source)

    def _join(self) -> None:
        session = Session()
        self.meetings += 1
        for node in self.nodes:
            node.session = session
            node.unheard_at = None
            if node.suspended:
                self.log(f"{node.host.name}: {self.name} thaws, its peer is back")
            node.suspended = False
            node.new_generation = False

    def _part(self, why: str, who: Node | None = None) -> None:
        """One of them gives up the connection, or both do."""
        self.log(f"{self.name}: {who.host.name if who else 'both'} will not connect: {why}")
        one, _ = self.nodes
        for node in self.nodes:
            if node.session is not None:
                node.lose()
        with one.changing():
            for node in self.nodes if who is None else (who,):
                node.stand_alone()
            if who is not None:
                who.peer.peer_disk = D_UNKNOWN

    def _meet_diskless(self) -> None:
        one, two = self.nodes
        for node in self.nodes:
            if (
                node.role == PRIMARY
                and not node.attached
                and node.peer.attached
                and node.exposed != node.peer.md.current
            ):
                self.log(f"{self.name}: {node.host.name} can only connect to data with its current UUID")
                with node.changing():
                    node.stand_alone()
                    self._met_and_left(node.peer)
                return
        with one.changing():
            self._join()
            for node in self.nodes:
                node.connection = CONNECTED
                node.disk = _when_connected(node.disk)
                if node.attached and PRIMARY in {one.role, two.role} and node.md.bitmap == 0:
                    node.new_current()
            one.peer_disk, two.peer_disk = two.disk, one.disk

    @staticmethod
    def _met_and_left(node: Node) -> None:
        """A Primary without a disk has refused it, but was heard before that: for it they were Connected (seen in the lab)."""
        node.disk, node.peer_disk = _when_connected(node.disk), D_UNKNOWN
        if node.disk == UP_TO_DATE and node.md.bitmap == 0:
            node.new_current()

    def _source(self) -> tuple[Node | None, str]:
        """Who overwrites the other (None: nobody), or why neither may."""
        one, two = self.nodes
        verdict = _compare(one, two)
        states = [one.disk == INCONSISTENT, two.disk == INCONSISTENT]
        if any(states) and not all(states):
            return (two if states[0] else one), ""
        if all(states) and verdict in {"one", "two"}:
            return None, "shall become SyncSource, but it is Inconsistent"
        match verdict:
            case "same":
                return None, ""
            case "split" | "unrelated":
                return None, "Split-Brain detected but unresolved"
            case _:
                return (one if verdict == "one" else two), ""

    def _resync(self, source: Node) -> None:
        session, target = source.session, source.peer

        def begins(status: int) -> None:
            if source.session is not session or not source.together:
                return
            if status != 0:
                self.log(f"{self.name}: before-resync-source on {source.host.name} has failed")
                source.lose()
                with source.changing():
                    source.stand_alone()
                target.lose()
                if source.role == PRIMARY:
                    source.run_handler("fence-peer", lambda status: None)
                return
            with source.changing():
                source.md.bitmap = next(self.generations)
                target.md.current = source.md.bitmap
                target.disk = source.peer_disk = INCONSISTENT
                source.connection, target.connection = SYNC_SOURCE, SYNC_TARGET
            self.loop.call_in(self.loop.random.uniform(*RESYNC_SECONDS), ends)

        def ends() -> None:
            if source.session is not session or source.connection != SYNC_SOURCE:
                return
            if self.paused or not source.together:  # it may come back before it is lost
                self.loop.call_in(TICK_SECONDS, ends)
                return
            with source.changing():
                target.md.data = set(source.md.data)
                target.md.history = [target.md.current, source.md.bitmap]
                target.md.current, target.md.bitmap = source.md.current, 0
                target.connection, target.disk, target.crashed = CONNECTED, UP_TO_DATE, False
                target.peer_disk = UP_TO_DATE
            self.loop.call_in(self.loop.random.uniform(*LATE_END_SECONDS), heard)

        def heard() -> None:
            if source.session is not session or source.connection != SYNC_SOURCE:
                return
            if not source.together:
                self.loop.call_in(TICK_SECONDS, heard)
                return
            with source.changing():
                source.drop_bitmap()
                source.connection, source.peer_disk, source.crashed = CONNECTED, UP_TO_DATE, False
            source.run_handler("unfence-peer", lambda status: None)

        source.run_handler("before-resync-source", begins)


def _compare(one: Node, two: Node) -> str:  # noqa: PLR0911  a table
    """Whose data are newer, by their generations (drbd_uuid_compare)."""
    a, b = one.md, two.md
    if a.current == b.current:
        if a.bitmap and not b.bitmap:
            return "one"
        if b.bitmap and not a.bitmap:
            return "two"
        if not (one.crashed or two.crashed):
            return "same"
        if one.role == two.role == PRIMARY:
            return "split"
        if PRIMARY in {one.role, two.role}:
            return "one" if one.role == PRIMARY else "two"
        return "one" if one.crashed else "two"
    if a.current == b.bitmap or a.current in b.history:
        return "two"
    if b.current == a.bitmap or b.current in a.history:
        return "one"
    if {a.bitmap, *a.history} & {b.bitmap, *b.history} - {0}:
        return "split"
    return "unrelated"


def _when_connected(disk: str) -> str:
    """Consistent and Outdated vanish then, whoever the peer is (sanitize_state)."""
    return UP_TO_DATE if disk in {CONSISTENT, OUTDATED} else disk
