"""The arbiter: for each DRBD resource the one host that may be Primary, and the replicas that are current.

DRBD alone does not stop a second writer: a Secondary that lost its peer promotes, and a stale disk says
UpToDate. So a Primary that loses its peer freezes its I/O (fencing resource-and-stonith) and asks here, and
so does whoever promotes without the peer. What is written here decides, and is durable before it is answered.

Each function takes what was written and a request, and gives what is to be written and the answer; the same
object means that nothing changes. Every change raises the version, and is written only over the version that
it was made from. That makes evidence safe: a change that rests on a look at the hosts is made from the record
that was read *before* the look, so nothing that happened meanwhile is overlooked. A hook on a host reads the
version first too, and names it in its request.

The rules R1 to R10, L1 and L2 that the comments name:

R1  The authority goes back to a former Primary only on the word of both sides, the holder's first.
R2  One version, raised by every change, intents to promote included: a connected promotion asks nobody.
R3  Granted is only who holds the authority, is admitted, and whose own disk is UpToDate.
R4  A Secondary that has lost its disk and its peer does not meet it again without its disk; nor a Primary one
    that it knows to be old.
R5  "Wait" keeps the loser frozen; "release" ends it, once the winner's grant is durable.
R6  Who attaches a disk is excluded first: a disk attached again may read UpToDate and be old.
R8  A grant excludes the peer; taking the authority excludes nobody; a resync's target is excluded first.
R9  A request of an earlier run of a hook changes nothing.
R10 A Primary that has lost the last current disk while another was resynced may have its last writes on the
    incomplete one alone: until a person's word nobody is admitted, and none overwrites the other.
L1  A holder that cannot be promoted and was not granted gives the authority up to one that can.
L2  Two connected Secondaries that both say UpToDate are both admitted.

(R7 is about when a VM may start: not here.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations

from actuator.model import Authority, HookRun, Parting, Proof
from exporter.drbd import ConnectionState, DiskState, Resource, Role
from exporter.drbd_configuration import Generations

MAX_RUNS = 256
"""Of one resource's hooks on one host, told apart by peer and volumes; one more is not heard."""


class Verdict(StrEnum):
    """What a hook is told."""

    GRANT = "grant"
    """fence-peer: the peer is excluded, go on (exit 4)."""
    WAIT = "wait"
    """fence-peer: stay frozen and ask again."""
    RELEASE = "release"
    """fence-peer: another host was granted. This copy is the loser: end the VM, give the disk up (exit 1)."""
    ALLOW = "allow"
    """before-resync-source, attach: written down, go on."""
    REFUSE = "refuse"
    """before-resync-source: do not; unfence-peer: nothing was admitted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict, and why, in a sentence."""

    verdict: Verdict
    sentence: str


@dataclass(frozen=True, slots=True)
class Side:
    """What one host says of its own replica and of its connection to one peer; of all volumes the worst."""

    host: str
    role: Role
    up_to_date: bool
    peer: str
    connected: bool
    peer_up_to_date: bool
    frozen: bool
    """Its I/O is suspended."""
    standalone: bool = False
    """It has given the connection up, and waits to be told to connect."""
    attached: bool = True
    """It has its own disk."""
    peer_old: bool = False
    """It knows that its peer's disk is Inconsistent or Outdated, or was when it was lost."""
    incomplete: bool = False
    """Its own disk is Inconsistent, or that of the peer that it is connected to: it takes writes, and lacks
    others."""


def side_of(host: str, resource: Resource, peer: str) -> Side:
    """Return how a host sees a resource of its own and one peer; what is not known is not the good case."""
    connection = next((it for it in resource.connections if it.name == peer), None)
    peer_devices = connection.peer_devices if connection else ()
    disks = {device.disk_state for device in resource.devices}
    theirs = {device.peer_disk_state for device in peer_devices}
    connected = connection is not None and connection.connection_state is ConnectionState.CONNECTED
    return Side(
        host=host,
        role=resource.role if isinstance(resource.role, Role) else Role.UNKNOWN,
        up_to_date=disks == _UP_TO_DATE,
        peer=peer,
        connected=connected,
        peer_up_to_date=len(peer_devices) == len(resource.devices) and theirs == _UP_TO_DATE,
        frozen=bool(resource.suspended),
        standalone=connection is not None and connection.connection_state is ConnectionState.STAND_ALONE,
        attached=bool(disks) and disks.isdisjoint(_WITHOUT_DISK),
        peer_old=not theirs.isdisjoint(_OLD),
        incomplete=DiskState.INCONSISTENT in (disks | theirs if connected else disks),
    )


_UP_TO_DATE = {DiskState.UP_TO_DATE}
_OLD = {DiskState.INCONSISTENT, DiskState.OUTDATED}
_WITHOUT_DISK = {
    DiskState.DISKLESS,
    DiskState.ATTACHING,
    DiskState.DETACHING,
    DiskState.FAILED,
    DiskState.NEGOTIATING,
}


# ---- what hooks ask ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """What every hook sends."""

    host: str
    hook: str
    """Which one of its host's: its name, peer and minors. Only the latest run of each counts."""
    run: HookRun
    version: int
    """Read from here before the hook looked at its own host."""

    @property
    def key(self) -> str:
        """Its place in ``Authority.runs``."""
        return f"{self.host} {self.hook}"


@dataclass(frozen=True, slots=True)
class FencePeer(Ask):
    """fence-peer: DRBD has lost the peer; a Primary is frozen, or a Secondary wants to become Primary."""

    peer: str
    role: Role
    up_to_date: bool
    connected: bool


def began(it: Authority, ask: Ask) -> Authority:
    """A hook has begun to run: from now on only this run of it may change anything (R9)."""
    last = it.runs.get(ask.key)
    if ask.host not in it.hosts or last == ask.run:
        return it
    if last is not None and last.boot_id == ask.run.boot_id and ask.run.began_ns < last.began_ns:
        return it
    if last is None and sum(key.startswith(f"{ask.host} ") for key in it.runs) >= MAX_RUNS:
        return it
    return _changed(it, runs={**it.runs, ask.key: ask.run})


def fence_peer(it: Authority, ask: FencePeer) -> tuple[Authority, Answer]:
    """May this host go on without that peer?"""
    if denied := _unfit(it, ask):
        return it, denied
    granted = Answer(Verdict.GRANT, f"{ask.peer} is excluded: {ask.host} goes on with {it.resource} alone")
    if it.granted and ask.peer not in it.admitted:
        return it, granted  # told once more, to whichever run
    if stale := _stale(it, ask):
        return it, stale
    admitted = it.admitted - {ask.peer}  # R8
    return _changed(it, admitted=admitted, granted=True, newest=admitted == {ask.host}), granted


def _unfit(it: Authority, ask: FencePeer) -> Answer | None:
    """Why the asker cannot be granted, as things are (R3)."""
    if foreign := _foreign(it, ask.host, ask.peer):
        return _wait(foreign)
    if ask.connected:
        return _wait(f"{ask.host} and {ask.peer} are connected: nobody has to be excluded")
    if ask.host != it.holder:
        lost = it.granted and ask.host not in it.admitted and ask.role is Role.PRIMARY
        if lost and not _stale(it, ask):  # R5
            return Answer(Verdict.RELEASE, f"{it.holder} was granted {it.resource}: {ask.host} gives it up")
        return _wait(f"{it.holder} holds the authority over {it.resource}")
    if why := why_not(it, ask.host):
        return _wait(why)
    return None if ask.up_to_date else _wait(f"the disk of {it.resource} on {ask.host} is not UpToDate")


def before_resync(it: Authority, ask: Ask, target: str) -> tuple[Authority, Answer]:
    """The host is about to overwrite a peer's blocks: it is excluded first (R8)."""
    if not it.hosts:
        return _changed(it), _nobody_yet(it)
    if foreign := _foreign(it, ask.host, target):
        return it, _refuse(foreign)
    if stale := _stale(it, ask):
        return it, stale
    if why := _not_over(it, ask.host, target):
        return it, _refuse(why)
    allowed = Answer(Verdict.ALLOW, f"{target} is excluded until its resync has ended")
    if target not in it.admitted and not it.newest:
        return it, allowed
    return _changed(it, admitted=it.admitted - {target}, newest=False), allowed


def _not_over(it: Authority, source: str, target: str) -> str | None:
    """Why the source must not overwrite the target; None when nothing is against it (R8, R10)."""
    if it.torn:
        return _excluded(it, source)
    if target == it.holder and it.granted:
        return f"{target} was granted {it.resource}: its data are newer than those of {source}"
    return None


def before_attach(it: Authority, ask: Ask) -> tuple[Authority, Answer]:
    """The host is about to attach its disk: its replica is excluded first (R6)."""
    if not it.hosts:
        return _changed(it), _nobody_yet(it)
    if foreign := _foreign(it, ask.host):
        return it, _refuse(foreign)
    if stale := _stale(it, ask):
        return it, stale
    if ask.host == it.holder and it.newest:
        return it, Answer(Verdict.ALLOW, f"{ask.host} was granted {it.resource}: its disk is the newest")
    allowed = Answer(Verdict.ALLOW, f"{ask.host} is excluded until it has met its peer")
    if ask.host not in it.admitted:
        return it, allowed
    return _changed(it, admitted=it.admitted - {ask.host}), allowed


def unfence_peer(it: Authority, ask: Ask, side: Side) -> tuple[Authority, Answer]:
    """The host sees the end of its peer's resync: it is admitted on the word of the Primary that holds it."""
    if foreign := _foreign(it, ask.host, side.peer):
        return it, _refuse(foreign)
    if stale := _stale(it, ask):
        return it, stale
    after = as_primary_sees(it, side)
    if ask.host != it.holder or side.peer not in after.admitted:
        return after, _refuse(f"{ask.host} is not the Primary that sees {side.peer} connected and UpToDate")
    return after, Answer(Verdict.ALLOW, f"{side.peer} is admitted")


def _nobody_yet(it: Authority) -> Answer:
    """Nobody is admitted, so nobody has to be excluded; the change makes an adoption look again (R2)."""
    return Answer(Verdict.ALLOW, f"{it.resource} has not been seen in order yet: nobody is admitted")


def _foreign(it: Authority, *hosts: str) -> str | None:
    if not it.hosts:
        return f"{it.resource} has not been seen in order yet: connected, and UpToDate on both sides"
    if len(set(hosts)) == len(hosts) and set(hosts) <= set(it.hosts):
        return None
    return f"{it.resource} is on {', '.join(it.hosts)}; this asks about {' and '.join(hosts)}"


def _stale(it: Authority, ask: Ask) -> Answer | None:
    if it.runs.get(ask.key) != ask.run:
        return _wait(f"this is not the latest run of {ask.hook} on {ask.host}")
    if it.version != ask.version:
        return _wait(f"{it.resource} has changed since version {ask.version} was read: look and ask again")
    return None


# ---- what a look at the hosts allows -------------------------------------------------------------------
# `it` was read before the first of the sides was looked at.


def adopted(it: Authority, sides: Sequence[Side]) -> Authority:
    """A resource is seen in order for the first time: connected and UpToDate on the word of both sides.

    Its Primary holds it; of two Secondaries the first, from which a plan may take it. Anything else proves
    nothing: what was written before may have been lost. Two hosts only, as far as the rules were searched.
    """
    hosts = {side.host for side in sides} | {side.peer for side in sides}
    if it.hosts or len(sides) != 2 or len(hosts) != 2:  # noqa: PLR2004  a pair
        return it
    one, other = sorted(sides, key=lambda side: side.host)
    roles = [one.role, other.role]
    if not _see_each_other(one, other) or one.frozen or other.frozen or Role.UNKNOWN in roles:
        return it
    if roles.count(Role.PRIMARY) > 1:
        return it
    holder = other if other.role is Role.PRIMARY else one
    return _changed(it, hosts=(one.host, other.host), holder=holder.host, admitted=frozenset(hosts))


def looked_at(it: Authority, sides: Sequence[Side]) -> Authority:
    """What one look at all hosts changes, other than giving the authority back: that takes a second look."""
    ours = [side for side in sides if {side.host, side.peer} <= set(it.hosts)]
    holder = next((side for side in ours if side.host == it.holder), None)
    for side in ours:
        if (after := as_primary_sees(it, side)) is not it:
            return after
    for one, other in combinations(ours, 2):
        if (after := met(it, one, other)) is not it:
            return after
    for side in ours:
        if (after := let_go(it, side, holder)) is not it:
            return after
    return it


def as_primary_sees(it: Authority, primary: Side) -> Authority:
    """The holder, Primary and not frozen: the peer that it sees UpToDate is admitted, and nothing else.

    What no hook tells too: that the peer lost its disk and not its link, left in order, or that the holder
    lost its own disk and goes on over the network. A grant is over once it sees its peer UpToDate. One that
    has no current disk itself admits no other: it takes for UpToDate whoever is of its generation. Its own
    disk, attached again, is UpToDate for it before it is so for the peer, which was the resync's source and
    would write on without it, and ask nobody: that takes the word of both (``met``).
    """
    if not _writes(it, primary) or primary.peer not in set(it.hosts) - {it.holder}:
        return it
    sees = primary.connected and primary.peer_up_to_date
    met_again = sees and primary.up_to_date
    admitted = it.admitted if sees else it.admitted - {primary.peer}
    if met_again and not it.torn:
        admitted |= {primary.peer}
    if not primary.up_to_date:
        admitted -= {primary.host}
    granted = it.granted and not met_again
    newest = it.newest and granted and primary.up_to_date
    torn = it.torn or (primary.incomplete and not primary.up_to_date and not sees)  # R10
    if (admitted, granted, newest, torn) == (it.admitted, it.granted, it.newest, it.torn):
        return it
    return _changed(it, admitted=admitted, granted=granted, newest=newest, torn=torn)


def given_back(it: Authority, holder: Side, asker: Side) -> Authority:
    """Another host than the holder is Primary, and the holder Secondary behind it: it has the authority (R1).

    The holder was looked at before the asker; never inside a dual-Primary window.
    """
    # Also that it sees the asker UpToDate: else it may be the source of a resync that has just ended, become
    # Primary without asking, and find the asker granted (H2).
    pair = holder.host == it.holder and (holder.peer, asker.peer) == (asker.host, holder.host)
    behind = pair and holder.role is Role.SECONDARY and _sees_both(holder)
    ahead = behind and asker.role is Role.PRIMARY and _sees_both(asker)
    return _met(it, asker, asker.host) if ahead else it


def met(it: Authority, one: Side, other: Side) -> Authority:
    """Two connected that both say UpToDate of both are admitted: Secondaries (L2), or the holder ahead."""
    waiting = [side for side in (one, other) if side.role is Role.SECONDARY]
    primaries = [side.host for side in (one, other) if side.role is Role.PRIMARY and not side.frozen]
    ordered = len(waiting) == 2 or (len(waiting) == 1 and primaries == [it.holder])  # noqa: PLR2004  a pair
    return _met(it, one, it.holder) if ordered and _see_each_other(one, other) else it


def let_go(it: Authority, to: Side, holder: Side | None) -> Authority:
    """A holder that cannot be promoted and was not granted gives the authority up, without a proof (L1).

    ``holder``: how its host sees it now; None when it does not say.
    """
    promotable = it.holder in it.admitted and (holder is None or holder.up_to_date)
    in_use = holder is not None and holder.role is Role.PRIMARY
    if it.granted or promotable or in_use or not to.up_to_date:
        return it
    after = taken(it, to.host, None)
    return it if isinstance(after, str) else after


def to_disconnect(it: Authority, side: Side) -> bool:
    """Whether this host must be kept from meeting its peer (R4): it has no disk to offer, and no peer now.

    DRBD takes the meeting for a reconnect: a peer that is frozen would go on, although another host was
    granted, and a disk that is old would count as UpToDate (both seen on 8.4, docs/drills.md). A Primary goes
    on over its peer's disk; it is kept from one that DRBD here knows to be old, which may have ended a resync
    meanwhile and lack what was written since.
    """
    lost = not side.attached and not side.connected and not side.standalone
    unfit = side.role is Role.SECONDARY or (side.role is Role.PRIMARY and side.peer_old)
    return lost and unfit and bool(it.armed) and {side.host, side.peer} == set(it.hosts)


def to_connect(it: Authority, side: Side, peer: Side) -> bool:
    """Whether this host, StandAlone, must be told to connect again (L1).

    Where DRBD then overwrites one of both replicas, it asks; where neither may be, both are StandAlone again.
    It is the holder that was granted alone, whose peer came back, or one of two Secondaries that ask: of them
    nobody writes. A Primary that was not granted may have been disconnected by a person, and its VM runs.
    """
    if not (side.standalone and side.attached and peer.role is Role.SECONDARY and peer.attached):
        return False
    pair = {side.host, side.peer} == set(it.hosts) and (peer.host, peer.peer) == (side.peer, side.host)
    granted = it.granted and side.host == it.holder and side.up_to_date
    idle = side.role is Role.SECONDARY and it.armed == set(it.hosts)
    return pair and (granted or idle)


def _met(it: Authority, side: Side, holder: str) -> Authority:
    """Both are current, the holder being one of them; others that the holder has not met are not."""
    pair = frozenset({side.host, side.peer})
    if it.torn or it.holder not in pair or not pair <= set(it.hosts):
        return it
    if pair <= it.admitted and not it.granted and holder == it.holder:
        return it
    return _changed(it, holder=holder, admitted=it.admitted | pair, granted=False, newest=False)


def _writes(it: Authority, side: Side) -> bool:
    return side.host == it.holder and side.role is Role.PRIMARY and not side.frozen


def _sees_both(side: Side) -> bool:
    return side.peer != side.host and side.connected and side.up_to_date and side.peer_up_to_date


def _see_each_other(one: Side, other: Side) -> bool:
    return (one.host, one.peer) == (other.peer, other.host) and _sees_both(one) and _sees_both(other)


# ---- what plans and people do --------------------------------------------------------------------------


def why_not(it: Authority, host: str) -> str | None:
    """Why a host may not be made Primary, or have the VM started; None when it may (R3).

    That its own disk is UpToDate is asked of the host itself, at the same time.
    """
    if it.holder != host:
        return f"{it.holder} holds the authority over {it.resource}, not {host}"
    if host not in it.admitted:
        return _excluded(it, host)
    return None


def _excluded(it: Authority, host: str) -> str:
    if it.torn:
        return (
            f"the replica of {it.resource} on {host} is excluded: {it.holder} lost the current disk in the"
            " middle of a resync, and its last writes may be on the other replica alone"
        )
    writer = "another one" if host == it.holder else it.holder
    return f"the replica of {it.resource} on {host} is excluded: it may lack what {writer} wrote"


def taken(it: Authority, target: str, proof: Proof | None) -> Authority | str:
    """The target gets the authority, or the sentence that says why not. Nobody is excluded by that (R8)."""
    if target not in it.admitted:
        return _excluded(it, target)
    if target == it.holder:
        return it
    if it.granted and proof not in {Proof.POWER, Proof.OPERATOR}:
        return (
            f"{it.holder} was granted {it.resource} alone and may become Primary without asking: only a proof"
            " that it is off takes the authority from it"
        )
    # Both replicas are as they were: what is known of their data still is, and is asked again (`guards`).
    return _changed(it, holder=target, granted=False, newest=False, generations=it.generations)


def armed(it: Authority, host: str, parting: Parting) -> Authority:
    """What DRBD's configuration in a host's kernel says: what does it do when it loses its peer?"""
    if host not in it.hosts:
        return it
    asks = it.armed | {host} if parting is Parting.ASKS else it.armed - {host}
    lossy = it.lossy | {host} if parting is Parting.LOSES else it.lossy - {host}
    if (asks, lossy) == (it.armed, it.lossy):
        return it
    return _changed(it, armed=asks, lossy=lossy)


def votes(it: Authority, host: str, nodes: frozenset[str], parting: Parting) -> Authority:
    """What a host's kernel says of a resource with more than two hosts, which it sees as these ``nodes``.

    Nobody holds such a resource. Two hosts that count differently could both have a quorum, so each counts
    only together with those that see the same nodes.
    """
    if it.hosts:
        return it
    counts = parting is Parting.VOTES and len(nodes) > 2  # noqa: PLR2004  not a pair
    others = (it.voting if nodes == it.voters or not counts else frozenset[str]()) - {host}
    after = (nodes, others | {host}) if counts else (it.voters, others)
    if after == (it.voters, it.voting):
        return it
    return _changed(it, voters=after[0], voting=after[1])


def identified(it: Authority, side: Side, generations: Sequence[Generations]) -> Authority:
    """The generation identifiers of the data, read on the holder after this look at it, while in order."""
    current = tuple(volume.current for volume in generations if volume.current is not None)
    known = bool(current) and len(current) == len(generations)
    if not known or current == it.generations or not in_order(it, side):
        return it
    return _changed(it, generations=current)


def in_order(it: Authority, side: Side) -> bool:
    """Whether this is the holder, Primary, that writes to both replicas, and both are admitted."""
    pair = {side.host, side.peer} == set(it.hosts) == it.admitted
    return _writes(it, side) and pair and _sees_both(side) and not it.granted


def intended(it: Authority) -> Authority:
    """The holder is about to be promoted by a plan (R2)."""
    return _changed(it)


def accepted(it: Authority, host: str) -> Authority:
    """A named person takes this replica for the current one, whatever it may lack."""
    return _changed(it, holder=host, admitted=frozenset({host}), granted=False, newest=False, torn=False)


def forgotten(it: Authority) -> Authority:
    """As if it had never been seen, its replicas being elsewhere: nobody is granted before it is in order."""
    return Authority(it.resource, version=it.version + 1)


def _changed(it: Authority, **changes: object) -> Authority:
    # A grant lets one write alone; who is admitted or given the authority back may have been written to since
    # the identifiers were read; a person's word overrules them. All of these forget them.
    if changes.keys() & {"holder", "admitted", "granted"}:
        changes = {"generations": (), **changes}
    return replace(it, version=it.version + 1, **changes)  # type: ignore[arg-type]


def _wait(sentence: str) -> Answer:
    return Answer(Verdict.WAIT, sentence)


def _refuse(sentence: str) -> Answer:
    return Answer(Verdict.REFUSE, sentence)
