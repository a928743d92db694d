"""A resource of DRBD 9 on three hosts, with ``quorum majority``: three replicas, or two and a diskless tie-breaker.

As outputs of 9.2 show it (tests/samples, facts of DRBD), and its kernel module's calc_quorum(). Simpler than the
real one: generations are numbers with one parent each; a replica's bitmap is the set of its records; whoever is
in contact with somebody knows of the newest generation that this one knows of, and is Outdated when its own is
older. A disk that was attached is Consistent until it is in contact with a quorum.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations, count
from typing import TYPE_CHECKING

from tests.simulator.drbd import (
    CONNECTED,
    CONSISTENT,
    D_UNKNOWN,
    DISKLESS,
    HAS_DISK,
    HAS_PEER,
    INCONSISTENT,
    LOSS_SECONDS,
    MEETS_WITHIN_TICKS,
    NO_CONNECTION,
    NO_DATA,
    NO_MINOR,
    NO_RESOURCE,
    OUTDATED,
    PRIMARY,
    PROBE_SECONDS,
    RESYNC_SECONDS,
    SECONDARY,
    STAND_ALONE,
    TICK_SECONDS,
    UNKNOWN,
    UP_TO_DATE,
    WAITS,
    Link,
    Record,
    Result,
    Session,
    failed,
    refused,
)
from tests.simulator.fibers import Loop
from tests.simulator.network import REPLICATION

if TYPE_CHECKING:
    from tests.simulator.host import Host

NO_QUORUM = refused(11, -25, "No quorum")
SUSPEND_IO, IO_ERROR = "suspend-io", "io-error"


@dataclass
class Metadata:
    """What is on the disk, and survives everything but the disk."""

    current: int
    known: int
    """The newest generation that it knows of."""
    outdated: set[str] = field(default_factory=set)
    """Hosts whose replicas it knows to be Outdated, each on its own disk too."""
    consistent: bool = True
    was_up_to_date: bool = True
    data: set[Record] = field(default_factory=set)
    broken: bool = False


class Replica:
    """One host's side; of a tie-breaker without a disk, on purpose."""

    def __init__(self, group: "Group", host: "Host", generation: int, *, tie: bool) -> None:
        self.pair = group
        self.host = host
        self.tie = tie
        self.md = Metadata(generation, generation)
        self.dead()

    def __repr__(self) -> str:
        if not self.up:
            return f"{self.host.name} down"
        links = ", ".join(f"{it.peer} {it.connection} {it.role} {it.disk}" for it in self.links)
        quorum = "" if self.quorum else " without quorum"
        return f"{self.host.name} {self.role} {self.disk}{quorum} ({links})"

    def dead(self) -> None:
        """Nothing but the disk is left."""
        self.up = False
        self.role = SECONDARY
        self.disk = DISKLESS
        self.quorum = False
        self.votes = True
        """``quorum majority`` in its kernel; a person may set it off there."""
        self.two = False
        self.known = 0
        self.sessions: dict[Replica, Session] = {}
        self.gave_up: set[Replica] = set()
        """Peers to whom it is StandAlone."""
        self.quorumless: set[Replica] = set()
        """Peers that were not there when a generation began with the quorum: they have none before they meet it
        again."""
        self.new_generation = False
        """To be made before the next write: a replica was lost that has all until now."""
        self.syncs: Session | None = None
        """A resync to it runs over this."""
        self.holders: set[object] = set()
        self.unheard: dict[Replica, tuple[float, float]] = {}
        """By peer: since when, and how long that is borne."""
        self._waiting: list[Callable[[], None]] = []

    # ---- what is seen

    @property
    def peers(self) -> tuple["Replica", ...]:
        return tuple(it for it in self.pair.nodes if it is not self)

    @property
    def attached(self) -> bool:
        return self.up and self.disk != DISKLESS

    @property
    def shown(self) -> bool:
        return self.up

    @property
    def client(self) -> bool:
        """Diskless on purpose."""
        return self.tie

    @property
    def suspended(self) -> bool:
        return self.up and not self.quorum and self.pair.on_no_quorum == SUSPEND_IO

    @property
    def without_data(self) -> bool:
        """A Primary that can neither write nor read: no quorum, or no current data."""
        return self.role == PRIMARY and not (self.quorum and self._has_data())

    @property
    def left_alone(self) -> bool:
        """Nobody ends its VM, which can do nothing with its disk: a quorum has no handler."""
        return self.without_data

    @property
    def links(self) -> tuple[Link, ...]:
        return tuple(self._link(it) for it in self.peers)

    def _link(self, peer: "Replica") -> Link:
        name = peer.host.name
        if peer in self.sessions:
            heard = peer.sessions.get(self) is self.sessions[peer]
            return Link(name, CONNECTED, peer.role if heard else UNKNOWN, peer.disk if heard else D_UNKNOWN)
        disk = OUTDATED if name in self.md.outdated else D_UNKNOWN
        return Link(name, STAND_ALONE if peer in self.gave_up else WAITS, UNKNOWN, disk)

    def with_(self, peer: "Replica") -> bool:
        """Connected, and what is said arrives and is answered."""
        session = self.sessions.get(peer)
        return session is not None and peer.sessions.get(self) is session and self.pair.passes(self, peer)

    def _has_data(self) -> bool:
        return self.disk == UP_TO_DATE or any(it.disk == UP_TO_DATE and self.with_(it) for it in self.peers)

    # ---- quorum

    def judge(self) -> None:
        """Whether it has the quorum (calc_quorum), and what follows."""
        had, self.quorum = self.quorum, self.up and self._counts()
        if had != self.quorum and self.role == PRIMARY:
            self.pair.log(f"{self}: {'no quorum any more' if had else 'has the quorum'}")
        if self.disk == CONSISTENT and self.quorum and self.pair.may_be_current(self):
            self.disk = UP_TO_DATE

    def _counts(self) -> bool:
        if not self.votes:
            return True
        present = int(self.attached)
        gone = unknown = ties = here = 0
        for peer in self.peers:
            linked = peer in self.sessions
            if peer.tie:
                ties, here = ties + 1, here + linked
            elif linked:
                present += 1
            elif peer.host.name in self.md.outdated or peer in self.quorumless:
                gone += 1
            else:
                unknown += 1
        voters = gone + unknown + present if unknown else present
        majority = voters // 2 + 1
        if present >= majority:
            return True
        breaks_tie = here >= ties // 2 + 1 and voters > 0 and voters % 2 == 0
        return breaks_tie and present == majority - 1 and self.quorum

    def settle(self) -> None:
        if self.attached:
            self.md.known = self.known
            self.md.consistent = self.disk != INCONSISTENT
            self.md.was_up_to_date = self.disk in {CONSISTENT, UP_TO_DATE}
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def wait_change(self, seconds: float | None = None) -> None:
        """Until something of the resource changes."""
        self._waiting.append(self.pair.loop.park(seconds))
        self.pair.loop.wait_parked()

    def lose(self, peer: "Replica") -> None:
        """It has lost this one."""
        with self.pair.changing():
            self.sessions.pop(peer, None)
            self.unheard.pop(peer, None)
            self.new_generation |= self.role == PRIMARY and not peer.tie

    # ---- what drbdadm makes it do: in a fiber of the host

    def primary(self) -> Result:  # noqa: PLR0911  as its refusals are
        if not self.up:
            return NO_MINOR
        if self.role == PRIMARY:
            return Result(0)
        self.pair.probe(self)
        if not self.up:
            return NO_MINOR
        others = [it for it in self.pair.reachable(self) - {self} if it.role == PRIMARY]
        if any(not (self.two and it.two and self.with_(it)) for it in others):
            return refused(11, -1, "Multiple primaries not allowed by config")
        if not self._has_data():
            return NO_DATA
        if not self.quorum:
            return NO_QUORUM
        with self.pair.changing():
            self.role = PRIMARY
            self.new_generation = any(
                it not in self.sessions or it.disk == DISKLESS for it in self.peers if not it.tie
            )
            self.confirm()
        return Result(0)

    def confirm(self) -> bool:
        """Begin a generation, if one is due, with the consent of all that count as connected."""
        if not self.new_generation:
            return True
        primaries = {it for it in self.pair.reachable(self) if it.role == PRIMARY} - {self}
        if not all(map(self.with_, self.sessions)) or primaries - self.sessions.keys():
            return False
        with self.pair.changing():
            self.pair.begin_generation(self)
        return True

    def secondary(self, *, force: bool = False) -> Result:
        """By force also while it is held open: what waits fails."""
        if not self.up:
            return NO_MINOR
        if self.holders and not force:
            return refused(11, -12, "Device is held open by someone")
        with self.pair.changing():
            self.role, self.new_generation = SECONDARY, False
            self.holders.clear()
        return Result(0)

    def connect(self) -> Result:
        if not self.up:
            return NO_RESOURCE
        if not self.gave_up:
            return HAS_PEER
        with self.pair.changing():
            self.gave_up.clear()
        return Result(0)

    def disconnect(self) -> Result:
        """From all; who leaves a Primary in order knows from now on that it is Outdated."""
        if not self.up or self.gave_up == set(self.peers):
            return NO_CONNECTION
        if self.role == PRIMARY and self.disk != UP_TO_DATE:
            return NO_DATA
        for peer in self.peers:
            if self.with_(peer):
                with self.pair.changing():
                    _part_in_order(self, peer)
                    _part_in_order(peer, self)
                peer.lose(self)
            self.lose(peer)
        with self.pair.changing():
            self.gave_up, self.two = set(self.peers), False
        return Result(0)

    def outdate(self) -> Result:
        if not self.up:
            return NO_MINOR
        if self.sessions:
            return refused(17, -6, "Need a connection for this operation")
        with self.pair.changing():
            self.disk = OUTDATED if self.disk in {UP_TO_DATE, CONSISTENT} else self.disk
        return Result(0)

    def detach(self, *, force: bool = False) -> Result:
        if not self.attached:
            return Result(0) if self.up else NO_MINOR
        elsewhere = any(it.disk == UP_TO_DATE and self.with_(it) for it in self.peers)
        if not force and self.role == PRIMARY and not elsewhere:
            return NO_DATA
        self.disk_gone()
        return Result(0)

    def disk_gone(self) -> None:
        """Detached, or the disk below has failed: who writes begins a generation without it."""
        with self.pair.changing():
            self.settle()
            self.disk, self.syncs = DISKLESS, None
            for it in (self, *self.sessions):
                it.new_generation |= it.role == PRIMARY

    def resume_io(self) -> Result:
        """It does not lift a suspension for want of a quorum."""
        return Result(0) if self.up else NO_MINOR

    def quorum_off(self) -> Result:
        """``drbdadm resource-options --quorum=off``, on this host alone, until it is brought up again."""
        with self.pair.changing():
            self.votes = False
        return Result(0)

    def down(self) -> Result:
        if not self.up:
            return Result(0)
        if (demoted := self.secondary()).status:
            return demoted
        if self.gave_up != set(self.peers) and (parted := self.disconnect()).status:
            return parted
        with self.pair.changing():
            self.settle()
            self.dead()
        return Result(0)

    def attach(self) -> Result:
        if not self.up:
            return NO_MINOR
        if self.attached:
            return HAS_DISK
        if self.tie:
            return Result(0)
        md = self.md
        if md.broken:
            return Result(1, "open(/dev/vg0/disk) failed: Input/output error")
        if self.role == PRIMARY and md.current != self.known:
            return failed(150, "Can only attach to the data we lost last (see kernel log).")
        with self.pair.changing():
            self.disk = INCONSISTENT if not md.consistent else CONSISTENT if md.was_up_to_date else OUTDATED
            self.known = max(self.known, md.known)
        return Result(0)

    def bring_up(self) -> Result:
        with self.pair.changing():
            self.up = True
        return self.attach()

    def allow_two(self, *, allowed: bool) -> Result:
        """Of all connections; what is set on one side is set on the other."""
        if not self.up:
            return NO_RESOURCE
        together = [it for it in self.peers if self.with_(it)]
        if not allowed and self.role == PRIMARY and any(it.role == PRIMARY for it in together):
            return failed(164, "cannot clear allow_two_primaries while both are Primary")
        with self.pair.changing():
            for it in (self, *together):
                it.two = allowed
        return Result(0)

    # ---- what its user does: in a fiber of the guest

    def write(self, record: Record) -> bool:
        """Write, and return when every connected replica has it, and the quorum is here; False: an I/O error."""
        while self.up and self.role == PRIMARY:
            if self.attached and self.md.broken:
                self.disk_gone()
            if self.suspended:
                self.wait_change()
            elif not (self.quorum and self._has_data()):
                return False
            elif self.confirm() and self._send(record):
                return True
            else:
                self.wait_change(TICK_SECONDS)
        return False

    def _send(self, record: Record) -> bool:
        loop, net, here = self.pair.loop, self.pair.net, self.attached
        sessions = dict(self.sessions)
        if here:
            self.md.data.add(record)
        names = [it.host.name for it in sessions if not it.tie]
        loop.sleep(max((net.latency(REPLICATION, self.host.name, it) for it in names), default=0.0))
        heard = {it for it in sessions if self.with_(it)}
        for peer in heard:
            if peer.attached:
                peer.md.data.add(record)
        loop.sleep(max((net.latency(REPLICATION, it, self.host.name) for it in names), default=0.0))
        if self.attached and here:
            self.md.data.add(record)
        unchanged = self.sessions == sessions and self.attached == here and not self.new_generation
        answered = all(it in heard and self.with_(it) for it in sessions if not it.tie)
        return unchanged and answered and self.quorum and self.role == PRIMARY

    def read(self) -> frozenset[Record] | None:
        """All that is on it; None: an I/O error, or no answer."""
        if not self.up or self.role != PRIMARY or not self.quorum:
            return None
        for it in (self, *self.peers):
            if it.disk == UP_TO_DATE and (it is self or self.with_(it)):
                return frozenset(it.md.data)
        return None


def _part_in_order(primary: Replica, other: Replica) -> None:
    if primary.role == PRIMARY and other.role == SECONDARY and other.attached:
        primary.md.outdated.add(other.host.name)
        if other.disk in {UP_TO_DATE, CONSISTENT}:
            other.disk = OUTDATED


class Group:
    """All sides, and what happens between them.

    Args:
        hosts: of the replicas, and of the tie-breaker, if there are only two.
        on_no_quorum: ``suspend-io`` or ``io-error``.
    """

    def __init__(
        self, loop: Loop, name: str, minor: int, hosts: tuple["Host", ...], *, tie: bool, on_no_quorum: str
    ) -> None:
        self.loop = loop
        self.net = hosts[0].net
        self.name = name
        self.minor = minor
        self.on_no_quorum = on_no_quorum
        self.generations = count(minor * 1_000_000 + 1)
        first = next(self.generations)
        self.parents: dict[int, int] = {}
        """By generation, the one before it."""
        self.nodes = tuple(Replica(self, it, first, tie=tie and it is hosts[-1]) for it in hosts)
        self.log: Callable[[str], None] = hosts[0].world.log
        for node in self.nodes:
            node.host.nodes[name] = node
        loop.call_in(loop.random.uniform(0, TICK_SECONDS), self._tick)

    def begin(self) -> None:
        """All is up and connected, as a site was before anything happens to it."""
        for node in self.nodes:
            node.bring_up()
        for one, two in combinations(self.nodes, 2):
            self._meet(one, two)

    @property
    def whole(self) -> bool:
        """All are connected, and all replicas current."""
        current = all(it.tie or it.disk == UP_TO_DATE for it in self.nodes)
        return current and not self.parted

    @property
    def parted(self) -> bool:
        return not all(one.with_(two) for one, two in combinations(self.nodes, 2))

    def passes(self, one: Replica, two: Replica) -> bool:
        """Both run, and hear each other."""
        there = one.up and two.up and one.host.works and two.host.works
        return there and self.net.both_ways(REPLICATION, one.host.name, two.host.name)

    def reachable(self, node: Replica) -> set[Replica]:
        """It, and whoever it is connected to, also over others."""
        found = {node}
        while more := {it for one in found for it in one.sessions if it.sessions.get(one)} - found:
            found |= more
        return found

    def probe(self, node: Replica) -> None:
        """Before a change of the whole cluster: who counts as connected is asked; who is silent is lost."""
        reached = self.reachable(node)
        silent = [(one, two) for one in self.nodes for two in one.sessions if not one.with_(two)]
        silent = [(one, two) for one, two in silent if one in reached]
        if not silent:
            return
        self.loop.sleep(PROBE_SECONDS)
        for one, two in silent:
            if one.host.works and two in one.sessions and not one.with_(two):
                one.lose(two)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """After this all that follows from it is so, and whoever waits for a change is woken."""
        yield
        self._spread()
        for node in self.nodes:
            node.judge()
        for node in self.nodes:
            node.settle()

    # ---- generations

    def begin_generation(self, node: Replica) -> None:
        generation = next(self.generations)
        self.parents[generation] = node.known
        for it in (node, *node.sessions):
            if it.disk == UP_TO_DATE:
                it.md.current = generation
        node.known = generation
        node.new_generation = False
        reached = self.reachable(node)
        behind = {it for it in reached if it.attached and it not in node.sessions} - {node}
        node.md.outdated |= {it.host.name for it in behind}
        if node.quorum:
            node.quorumless |= {it for it in node.peers if not it.tie and it not in reached}

    def _before(self, one: int, two: int) -> bool:
        """Whether the data of the second generation contain those of the first."""
        generation: int | None = self.parents.get(two)
        while generation is not None and generation != one:
            generation = self.parents.get(generation)
        return generation == one

    def _spread(self) -> None:
        """Who is in contact with somebody knows what this one knows."""
        for node in self.nodes:
            if not node.up:
                continue
            heard = {it for it in self._contacts(node) if it.attached or it.known}
            node.known = max(node.known, *(max(it.known, it.md.current * it.attached) for it in heard), 0)
        for node in self.nodes:
            current = node.disk in {UP_TO_DATE, CONSISTENT}
            if current and node.md.current != node.known:
                node.disk = OUTDATED

    def _contacts(self, node: Replica) -> set[Replica]:
        found = {node}
        while more := {it for one in found for it in one.peers if one.with_(it)} - found:
            found |= more
        return found

    def may_be_current(self, node: Replica) -> bool:
        """It is in contact with most of the replicas, and none of them knows of newer data."""
        disks = [it for it in self.nodes if not it.tie]
        there = [it for it in disks if it is node or (node.with_(it) and it.attached)]
        return 2 * len(there) > len(disks) and self._hears_primaries(node)

    def _hears_primaries(self, node: Replica) -> bool:
        """Whoever writes, writes to it too."""
        return all(it is node or node.with_(it) for it in self._contacts(node) if it.role == PRIMARY)

    # ---- what happens by itself

    def _tick(self) -> None:
        for one, two in combinations(self.nodes, 2):
            for node, peer in ((one, two), (two, one)):
                if peer in node.sessions and node.host.works:
                    self._listen(node, peer)
            linked = two in one.sessions or one in two.sessions
            given_up = two in one.gave_up or one in two.gave_up
            if not linked and not given_up and self.passes(one, two):
                if self.loop.random.random() * MEETS_WITHIN_TICKS < 1:
                    self._meet(one, two)
            elif one.with_(two):
                self._agree(one, two)
                self._agree(two, one)
        self.loop.call_in(TICK_SECONDS, self._tick)

    def _listen(self, node: Replica, peer: Replica) -> None:
        if node.with_(peer):
            node.unheard.pop(peer, None)
            return
        now = self.loop.now
        since, patience = node.unheard.setdefault(peer, (now, self.loop.random.uniform(*LOSS_SECONDS)))
        if self.passes(node, peer) or now - since >= patience:
            node.lose(peer)

    def _meet(self, one: Replica, two: Replica) -> None:
        for node, peer in ((one, two), (two, one)):
            theirs = max(it.known for it in self._contacts(peer))
            if node.role == PRIMARY and node.known < theirs:
                with self.changing():
                    node.disk = OUTDATED if node.attached else node.disk
                self._part(one, two, f"{node.host.name} is Primary, and its data are old")
                return
        if one.role == two.role == PRIMARY and not (one.two and two.two):
            self._part(one, two, "both are Primary")
            return
        a, b = one.md.current, two.md.current
        if one.attached and two.attached and a != b and not self._before(a, b) and not self._before(b, a):
            self._part(one, two, "Split-Brain detected but unresolved")
            return
        with self.changing():
            session = Session()
            for node, peer in ((one, two), (two, one)):
                node.sessions[peer] = session
                node.unheard.pop(peer, None)
                node.quorumless.discard(peer)
                node.md.outdated.discard(peer.host.name)
                node.two = node.two and peer.two

    def _part(self, one: Replica, two: Replica, why: str) -> None:
        self.log(f"{self.name}: {one.host.name} and {two.host.name} refuse each other: {why}")
        with self.changing():
            one.gave_up.add(two)
            two.gave_up.add(one)

    def _agree(self, source: Replica, target: Replica) -> None:
        """The target gets what it lacks, if whoever writes meanwhile writes to it too."""
        fits = source.disk == UP_TO_DATE and target.disk in {INCONSISTENT, OUTDATED, CONSISTENT}
        if not fits or target.role == PRIMARY or target.syncs or not self._hears_primaries(target):
            return
        if source.md.current == target.md.current and target.disk != INCONSISTENT:
            with self.changing():
                target.disk = UP_TO_DATE
            return
        session = source.sessions[target]
        with self.changing():
            target.disk, target.syncs = INCONSISTENT, session
        self.log(f"{self.name}: {target.host.name} is resynced from {source.host.name}")
        seconds = self.loop.random.uniform(*RESYNC_SECONDS)
        self.loop.call_in(seconds, self._end, source, target, session)

    def _end(self, source: Replica, target: Replica, session: Session) -> None:
        if target.syncs is not session:
            return
        if source.sessions.get(target) is session and not source.with_(target):
            self.loop.call_in(TICK_SECONDS, self._end, source, target, session)  # it may come back
            return
        with self.changing():
            target.syncs = None
            if source.with_(target) and source.disk == UP_TO_DATE and self._hears_primaries(target):
                target.md.data = set(source.md.data)
                target.md.current = source.md.current
                target.disk = UP_TO_DATE
                self.log(f"{self.name}: {target.host.name} is current again")
