"""Two hosts, one DRBD resource, one VM, and the arbiter's real functions: a world small enough to be searched.

A ``World`` is a nested tuple: equal worlds are one. ``moves`` gives what may happen next by itself or as a
mend (a cable is put back, a host boots or wakes, a disk is attached again), ``events`` what disturbs. Each is
(sentence, host, world after it); the sentence names the host as {h} and the other as {p}.

What is abstracted:

- **Hosts** are 0 and 1, and the VM belongs to 0: when it moves, the two are exchanged (``_mirrored``). They are
  alike in everything else.
- **Versions**: one never comes back, so a message keeps only whether the version that it names is still the
  current one, and the keeper's look is dropped with the change that makes it worthless.
- **Time**: everything may take as long as it likes, with two exceptions. A release looks three times a second,
  so it has seen a connection that came back before that is lost once more. And R7: by the time that a plan has
  waited for a quiet host, that host has noticed its loss and ended its frozen VM, unless it stood still. One
  that woke has its VM until its handler acts: that bound is stated in docs/moves.md, and not counted here.
- **Data**: a disk ``lacks`` acknowledged writes or it does not; it is ``ahead`` when it has a generation
  (DRBD's current UUID) of which the other has not heard. A write is acknowledged when it is on the disks that
  DRBD waits for.
- **DRBD** is 8.4 with protocol C and resource-and-stonith, as in the facts: each side has its own view of the
  connection, which may be older than what happened.
- A plan's look at both hosts is one moment, after which anything may happen before its call. Its guards are
  written down anew here; what they ask the arbiter is the real ``taken``, ``why_not``, ``intended``.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

from actuator.core import arbiter
from actuator.core.arbiter import Ask, FencePeer, Side, Verdict
from actuator.model import Authority, HookRun, Proof
from exporter import release
from exporter.drbd import Role
from exporter.release import Local, Step

UP, OUTDATED, INCONSISTENT, CONSISTENT = "UpToDate", "Outdated", "Inconsistent", "Consistent"
DISKLESS, UNKNOWN = "Diskless", "DUnknown"
PRIMARY, SECONDARY, DOWN = "Primary", "Secondary", ""
CONNECTED, SOURCE, TARGET, ASKS_SOURCE, ASKS_TARGET = (
    "Connected",
    "SyncSource",
    "SyncTarget",
    "WFBitMapS",
    "WFBitMapT",
)
WAITING, ALONE, BY_HAND = "WFConnection", "StandAlone", "StandAlone by hand"
TOGETHER = frozenset({CONNECTED, SOURCE, TARGET, ASKS_SOURCE, ASKS_TARGET})
OLD = frozenset({OUTDATED, INCONSISTENT})
RUN, AGAIN, FREE = "run", "again", "free"
HOOKS = ("fence", "unfence", "resync", "attach", "release")
STARTED = "vmheal starts the VM on {h}"
MOVED = "the VM moves to {h}, live"
CHANGES_SIDES = frozenset({STARTED, MOVED})
"""After these the VM belongs to {h}."""

MENDS = frozenset(
    {
        "the replication link is back",
        "{h} boots",
        "{h} wakes",
        "the management link of {h} is back",
        "the disk of {h} is back",
        "a person has mended and attaches the disk of {h}",
        "a person connects {h}",
    }
)


class Host(NamedTuple):
    """A host, and DRBD's view there. A hook is "", or how far it is: see ``_hooks``."""

    on: bool = True
    sleep: str = ""
    """"frozen", or "woke": and has not ended its VM since."""
    reachable: bool = True
    """By the actuator, and the other way."""
    role: str = SECONDARY
    disk: str = UP
    kept: tuple[str, bool] = (UP, False)
    """Its metadata while it is not attached: its own state, and whether the peer is Outdated."""
    broken: bool = False
    """There is no disk to be attached at the boot; under a resource that is up a person mends it first."""
    crashed: bool = False
    """It was Primary when it lost its power: then the activity log makes it a source."""
    connection: str = CONNECTED
    peer_disk: str = UP
    frozen: bool = False
    two: bool = False
    ahead: bool = False
    lacks: bool = False
    vm: bool = False
    promoting: bool = False
    """`drbdadm primary` waits for the handler."""
    fence: Any = ""
    unfence: Any = ""
    resync: Any = ""
    attach: Any = ""
    release: Any = ""


class Written(NamedTuple):
    """An ``Authority``, without what does not change here."""

    holder: int = 0
    admitted: int = 3
    granted: bool = False
    newest: bool = False


class Plan(NamedTuple):
    """An open plan, at a step; ``phase``: intent, call (it was judged), calling (drbdadm asks the handler)."""

    verb: str
    step: str
    target: int
    phase: str = "intent"
    power: bool = False
    promoted: bool = False


class World(NamedTuple):
    """All of it."""

    hosts: tuple[Host, Host]
    cable: bool = True
    it: Written = Written()
    plan: Plan | None = None
    keeper: Any = None
    ghost: Any = None
    """A question that is still on its way although nobody waits for its answer: (host, hook, of the latest run,
    names the current version, what was seen). With another version it would change nothing, and is left out."""
    fault: str = ""


START = World((Host(role=PRIMARY, vm=True), Host()))
Move = tuple[str, int, World]

STEPS = {
    "failover": ("promote", "outlast", "start"),
    "restart": ("promote", "start"),
    "cold": ("shut down", "demote", "promote", "start"),
    "live": ("allow", "promote", "migrate", "demote", "forbid"),
}


class Rules(NamedTuple):
    """What is taken out besides the arbiter's functions: behaviour of hosts and of the keeper."""

    hooks_name_versions: bool = True
    keeper_minds_versions: bool = True
    """R2"""
    two_sided: bool = True
    """R1"""
    disk_first: bool = True
    """R4: nothing is connected without its disk."""
    outlast: bool = True
    """R7"""


# ---- the arbiter's real functions, over small values -------------------------------------------------------

_NAMES = ("v01", "v02")
_RUN, _OTHER_RUN = HookRun("boot", 2), HookRun("boot", 3)
_VERSION = 7
_PEERS = (1, 0)


def _authority(it: Written, **more: Any) -> Authority:
    admitted = frozenset(_NAMES[host] for host in (0, 1) if it.admitted >> host & 1)
    return Authority(
        "r",
        _NAMES,
        _VERSION,
        _NAMES[it.holder],
        admitted,
        it.granted,
        it.newest,
        armed=frozenset(_NAMES),
        **more,
    )


def _written(it: Authority) -> Written:
    admitted = sum(1 << _NAMES.index(host) for host in it.admitted)
    return Written(_NAMES.index(it.holder), admitted, it.granted, it.newest)


class Arbiter:
    """The functions, each remembered: there are few different questions."""

    def __init__(self) -> None:
        self.began = cache(self._began)
        self.answer = cache(self._answer)
        self.taken = cache(self._taken)
        self.why_not = cache(lambda it, host: arbiter.why_not(_authority(it), _NAMES[host]) is not None)
        self.looked_at = cache(self._looked_at)
        self.given_back = cache(self._given_back)
        self.one_sided = cache(self._one_sided)
        self.may_matter = cache(self._may_matter)
        self.to_connect = cache(lambda it, *sides: arbiter.to_connect(_authority(it), *sides))
        self.to_disconnect = cache(lambda it, side: arbiter.to_disconnect(_authority(it), side))

    @staticmethod
    def _began(it: Written, host: int, hook: str) -> bool:
        before = _authority(it)
        return arbiter.began(before, Ask(_NAMES[host], hook, _RUN, 0)) is not before

    @staticmethod
    def _answer(
        it: Written, host: int, hook: str, latest: bool, current: bool, seen: tuple[Any, ...]
    ) -> tuple[Written | None, str]:
        """What is written (None: nothing), and the verdict."""
        name, peer = _NAMES[host], _NAMES[_PEERS[host]]
        ask = Ask(name, hook, _RUN, _VERSION if current else _VERSION - 1)
        before = _authority(it, runs={ask.key: _RUN if latest else _OTHER_RUN})
        match hook:
            case "fence" | "release":
                role, up_to_date = seen
                question = FencePeer(name, hook, ask.run, ask.version, peer, Role(role), up_to_date, False)
                after, answer = arbiter.fence_peer(before, question)
            case "resync":
                after, answer = arbiter.before_resync(before, ask, peer)
            case "attach":
                after, answer = arbiter.before_attach(before, ask)
            case _:
                role, up_to_date, connected, peer_up_to_date = seen
                side = Side(name, Role(role), up_to_date, peer, connected, peer_up_to_date, frozen=False)
                after, answer = arbiter.unfence_peer(before, ask, side)
        return (None if after is before else _written(after)), answer.verdict.value

    @staticmethod
    def _taken(it: Written, target: int, power: bool) -> Written | None:
        """After an intent to promote; None: it may not be taken."""
        before = _authority(it)
        after = arbiter.taken(before, _NAMES[target], Proof.POWER if power else None)
        if isinstance(after, str):
            return None
        return _written(arbiter.intended(after) if after is before else after)

    @staticmethod
    def _looked_at(it: Written, sides: tuple[Side, ...]) -> Written | None:
        before = _authority(it)
        after = arbiter.looked_at(before, sides)
        return None if after is before else _written(after)

    @staticmethod
    def _given_back(it: Written, holder: Side, asker: Side) -> Written | None:
        before = _authority(it)
        after = arbiter.given_back(before, holder, asker)
        return None if after is before else _written(after)

    def _one_sided(self, it: Written, asker: Side) -> Written | None:
        """R1 out: on the word of the asker alone."""
        holder = Side(asker.peer, Role.SECONDARY, True, asker.host, True, True, False)
        return self.given_back(it, holder, asker)

    def _may_matter(self, it: Written, host: int, side: Side) -> bool:
        """Whether this side can change anything, with whatever the other says."""
        name, peer = _NAMES[host], _NAMES[_PEERS[host]]
        for bits in range(64):
            role = Role.PRIMARY if bits & 1 else Role.SECONDARY
            flags = [bool(bits >> n & 1) for n in range(1, 5)]
            other = Side(peer, role, flags[0], name, flags[1], flags[2], flags[3], not flags[1], flags[0])
            pair = (side, other)
            if (
                self.looked_at(it, pair)
                or self.given_back(it, side, other)
                or self.given_back(it, other, side)
            ):
                return True
        return self.looked_at(it, (side,)) is not None


@cache
def _side(x: Host, host: int) -> Side:
    return Side(
        _NAMES[host],
        Role(x.role),
        x.disk == UP,
        _NAMES[_PEERS[host]],
        x.connection in TOGETHER,
        x.peer_disk == UP,
        x.frozen,
        x.connection in {ALONE, BY_HAND},
        x.disk != DISKLESS,
    )


# ---- small steps -------------------------------------------------------------------------------------------


_new: Callable[[type[World], tuple[Any, ...]], World] = tuple.__new__


def _with(w: World, host: int, **changes: Any) -> World:
    hosts = w[0]
    x = hosts[host]._replace(**changes)
    return _new(
        World, ((x, hosts[1]) if host == 0 else (hosts[0], x), *w[1:])
    )  # _replace takes twice as long


def _awake(x: Host) -> bool:
    return x.on and x.sleep != "frozen"


def _is_up(x: Host) -> bool:
    return x.on and x.sleep != "frozen" and x.role != DOWN


def _answers(x: Host) -> bool:
    return x.on and x.sleep != "frozen" and x.reachable


def joined(w: World) -> bool:
    """Both are connected, and what one sends the other gets."""
    a, b = w.hosts
    return w.cable and a.connection in TOGETHER and b.connection in TOGETHER and _is_up(a) and _is_up(b)


def writes(w: World, host: int) -> bool:
    """Would a write be acknowledged here?"""
    x = w.hosts[host]
    if x.role != PRIMARY or x.frozen or not _awake(x):
        return False
    if x.connection in TOGETHER:
        return joined(w) and UP in {x.disk, w.hosts[1 - host].disk}
    return x.disk == UP


def violation(w: World) -> str:
    """Which part of the promise is broken; empty: none."""
    if w.fault:
        return w.fault
    here, there = writes(w, 0), writes(w, 1)
    if here and there and not joined(w):
        return "two writers: both hosts acknowledge writes, each alone"
    if here and there and w.hosts[0].vm and w.hosts[1].vm:
        return "the VM runs on both hosts"
    for host, able in ((0, here), (1, there)):
        if able:
            x, y = w.hosts[host], w.hosts[1 - host]
            if x.lacks if x.disk == UP else y.lacks:
                return "old disk: a Primary goes on with a disk that lacks acknowledged writes"
    return ""


def _outdated(x: Host) -> Host:
    """The same host with the versions that its hooks read outdated.

    Such a question changes nothing, and is asked again; only who may also give up is told so first.
    """
    changes: dict[str, Any] = {}
    for hook in HOOKS:
        state = getattr(x, hook)
        if not isinstance(state, tuple) or state[0] == "a":
            continue
        if hook == "fence" and x.promoting:
            changes[hook] = (state[0], False, *state[2:])
        else:
            changes[hook] = {"attach": RUN, "unfence": ""}.get(hook, AGAIN)
    return x._replace(**changes) if changes else x


class Model:
    """How worlds follow each other."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.arbiter = Arbiter()

    # ---- what is written -----------------------------------------------------------------------------------

    def _write(self, w: World, it: Written) -> World:
        """A change: its version makes all earlier evidence worthless (R2)."""
        keeper = None if self.rules.keeper_minds_versions else w.keeper
        if not self.rules.hooks_name_versions:
            return w._replace(it=it, keeper=keeper)
        a, b = w.hosts
        return w._replace(hosts=(_outdated(a), _outdated(b)), it=it, keeper=keeper, ghost=None)

    # ---- DRBD ----------------------------------------------------------------------------------------------

    def _orphaned(self, w: World, host: int, hooks: tuple[str, ...]) -> World:
        """Nobody waits for these hooks any more; one question of them may still be on its way."""
        x = w.hosts[host]
        ghost = w.ghost
        for hook in hooks:
            state = getattr(x, hook)
            if ghost is None and isinstance(state, tuple) and state[0] == "q" and state[1]:
                ghost = (host, hook, True, state[1], state[2:])
        return _with(w._replace(ghost=ghost), host, **dict.fromkeys(hooks, ""))

    def _lose(self, w: World, host: int) -> World:
        """This side sees its connection broken."""
        w = self._orphaned(w, host, ("resync", "unfence"))
        x = w.hosts[host]
        if x.release == FREE and not x.frozen and x.disk != DISKLESS:
            w = _with(w, host, release="")  # it looks three times a second: it has seen them connected
        seen = x.peer_disk if x.peer_disk in OLD else UNKNOWN
        w = _with(w, host, connection=WAITING, peer_disk=seen)
        if x.role == PRIMARY and x.disk != DISKLESS and seen == UNKNOWN and not x.frozen:
            return _with(w, host, frozen=True, fence=x.fence or RUN)
        return self._disk_first(w, host)

    def _disk_first(self, w: World, host: int) -> World:
        """A Secondary without its disk and without its peer is disconnected, by the next look at it (R4)."""
        x = w.hosts[host]
        if self.rules.disk_first and x.role != DOWN and self.arbiter.to_disconnect(w.it, _side(x, host)):
            return _with(w, host, connection=BY_HAND)
        return w

    def _alone(self, w: World) -> World:
        """Both refuse each other."""
        return _with(_with(w, 0, connection=ALONE), 1, connection=ALONE)

    def _connect(self, w: World, attaching: int | None = None) -> World:
        """Two sides meet, or one attaches its disk while they are connected."""
        a, b = w.hosts
        two = a.two and b.two
        if a.two != b.two or (a.role == b.role == PRIMARY and not two and attaching is None):
            return self._alone(w)
        if DISKLESS in {a.disk, b.disk}:
            return self._meet_diskless(w)
        source = _source(a, b)
        if source is not None and source < 0:
            return self._alone(w)
        if source is not None and w.hosts[1 - source].role == PRIMARY and attaching != 1 - source:
            return self._alone(w)  # "I shall become SyncTarget, but I am primary!"
        for host in (0, 1):
            w = self._orphaned(w, host, ("fence", "release") if w.hosts[host].release != FREE else ("fence",))
            w = _with(w, host, sleep="", frozen=False, promoting=False, crashed=False)
        if source is None:
            both = UP if a.disk != OUTDATED or b.disk != OUTDATED else OUTDATED
            for host in (0, 1):
                w = _with(w, host, connection=CONNECTED, disk=both, peer_disk=both)
            return w
        target = 1 - source
        old = w.hosts[target].disk
        old = old if old in OLD else OUTDATED
        w = _with(w, source, connection=ASKS_SOURCE, disk=UP, peer_disk=old, resync=RUN)
        return _with(w, target, connection=ASKS_TARGET, disk=old, peer_disk=UP)

    def _meet_diskless(self, w: World) -> World:
        for host in (0, 1):
            # "Can only connect to data with current UUID" (8.4's source): what its VM has seen must be there.
            x = w.hosts[host]
            if x.role == PRIMARY and x.disk == DISKLESS and (x.ahead or w.hosts[1 - host].ahead):
                return _with(w, host, connection=ALONE)
        for host in (0, 1):
            x, peer = w.hosts[host], w.hosts[1 - host]
            w = self._orphaned(w, host, ("fence", "release") if x.release != FREE else ("fence",))
            disk = UP if x.disk == CONSISTENT else x.disk
            peer_disk = UP if peer.disk == CONSISTENT else peer.disk
            w = _with(
                w, host, connection=CONNECTED, disk=disk, peer_disk=peer_disk, frozen=False, promoting=False
            )
        return w

    def _promote(self, w: World, host: int) -> World | None:
        """`drbdadm primary`; None: refused at once. Else it is done, or waits for the handler."""
        x = w.hosts[host]
        if x.role != SECONDARY or x.promoting:
            return None
        if x.connection in TOGETHER and joined(w):
            peer = w.hosts[1 - host]
            if (peer.role == PRIMARY and not (x.two and peer.two)) or UP not in {x.disk, peer.disk}:
                return None
            return _with(w, host, role=PRIMARY)
        if x.connection in TOGETHER:
            w = self._lose(w, host)
            x = w.hosts[host]
        if x.disk not in {UP, CONSISTENT}:
            return None
        if x.disk == UP and x.peer_disk in OLD:
            return _with(w, host, role=PRIMARY, ahead=True)  # a grant that persists: nobody is asked
        return _with(w, host, promoting=True, fence=RUN)

    def _disconnect(self, w: World, host: int, state: str) -> World:
        """`drbdadm disconnect`: a Secondary of a Primary knows that it is Outdated from now on."""
        if not joined(w):
            w = self._lose(w, host) if w.hosts[host].connection in TOGETHER else w
            return _with(w, host, connection=state)
        for one, other in ((0, 1), (1, 0)):
            if w.hosts[one].role == PRIMARY and w.hosts[other].role == SECONDARY:
                disk = w.hosts[other].disk
                disk = OUTDATED if disk in {UP, CONSISTENT} else disk
                w = _with(w, other, disk=disk)
                w = _with(w, one, peer_disk=disk if disk in OLD else OUTDATED)
        w = _with(self._lose(w, host), host, connection=state)
        return self._lose(w, 1 - host)

    def _detach(self, w: World, host: int) -> World:
        x = w.hosts[host]
        w = _with(w, host, disk=DISKLESS, kept=(x.disk, x.peer_disk in OLD))
        if not joined(w):
            return self._disk_first(w, host)
        if x.connection in {TARGET, ASKS_TARGET, SOURCE, ASKS_SOURCE}:
            w = self._orphaned(w, host, ("resync",))
            w = self._orphaned(w, 1 - host, ("resync",))
            w = _with(w, host, connection=CONNECTED)
        return _with(w, 1 - host, peer_disk=DISKLESS, connection=CONNECTED)

    def _attach(self, w: World, host: int) -> World:
        """The disk comes back with what its metadata say."""
        x = w.hosts[host]
        own, peer_is_old = x.kept
        disk = CONSISTENT if own == UP else own
        if disk == CONSISTENT and peer_is_old:
            disk = UP
        if x.role == DOWN:
            peer_disk = OUTDATED if peer_is_old else UNKNOWN
            x = x._replace(role=SECONDARY, peer_disk=peer_disk, connection=WAITING)
            return _with(
                w._replace(hosts=(x, w.hosts[1]) if host == 0 else (w.hosts[0], x)),
                host,
                disk=disk,
                kept=(UP, False),
                attach="",
            )
        w = _with(w, host, disk=disk, kept=(UP, False), attach="")
        if joined(w):
            return self._connect(w, attaching=host)
        return _with(w, host, peer_disk=OUTDATED if peer_is_old else x.peer_disk)

    def _crash(self, w: World, host: int) -> World:
        x = w.hosts[host]
        kept = x.kept if x.disk == DISKLESS or x.role == DOWN else (x.disk, x.peer_disk in OLD)
        crashed = x.crashed or (x.role == PRIMARY and x.disk != DISKLESS)
        w = self._orphaned(w, host, HOOKS)
        x = Host(
            on=False, reachable=x.reachable, role=DOWN, disk=DISKLESS, kept=kept, crashed=crashed,
            broken=x.broken or (x.role != DOWN and x.disk == DISKLESS),
            connection=ALONE, peer_disk=UNKNOWN, ahead=x.ahead, lacks=x.lacks,
        )  # fmt: skip
        return w._replace(hosts=(x, w.hosts[1]) if host == 0 else (w.hosts[0], x))

    # ---- what happens by itself, or is mended --------------------------------------------------------------

    def moves(self, w: World) -> Iterator[Move]:
        """What may happen next without a further disturbance."""
        for host in (0, 1):
            if _awake(w.hosts[host]):
                yield from self._drbd(w, host)
                yield from self._hooks(w, host)
                yield from self._releases(w, host)
            yield from self._mends(w, host)
        if not w.cable:
            yield "the replication link is back", 0, w._replace(cable=True)
        a, b = w.hosts
        if a.connection == b.connection == WAITING and w.cable and _is_up(a) and _is_up(b):
            yield "the two connect", 0, self._connect(w)
        if w.ghost is not None:
            host, hook, latest, current, seen = w.ghost
            after, _ = self.arbiter.answer(w.it, host, hook, latest, current, seen)
            w2 = w._replace(ghost=None)
            yield (
                f"a late {hook} question of {{h}} arrives",
                host,
                w2 if after is None else self._write(w2, after),
            )
        yield from self._keeper(w)
        yield from self._plans(w)

    def _drbd(self, w: World, host: int) -> Iterator[Move]:
        x, peer = w.hosts[host], w.hosts[1 - host]
        together = joined(w)
        if x.role != DOWN and x.connection in TOGETHER and not together:
            yield "{h} notices that it has lost {p}", host, self._lose(w, host)
        if x.vm and writes(w, host):
            w2 = w
            received = together and peer.disk != DISKLESS and peer.connection != ASKS_TARGET
            if not received:
                w2 = _with(w2, 1 - host, lacks=True)
                w2 = _with(w2, host, ahead=True)
            if x.disk == DISKLESS:
                w2 = _with(_with(w2, host, lacks=True), 1 - host, ahead=True)
            if w2 != w:
                yield "the VM on {h} writes, acknowledged", host, w2
        if together and x.connection == SOURCE:
            if peer.connection == TARGET:
                # It has the source's generation now; the source hears of it later (H2).
                w2 = _with(
                    w, 1 - host, connection=CONNECTED, disk=UP, peer_disk=UP, lacks=x.lacks, ahead=False
                )
                w2 = _with(w2, host, ahead=False)
                yield "{p} sees the end of its resync", host, w2
            elif peer.connection == CONNECTED:
                w2 = _with(w, host, connection=CONNECTED, peer_disk=UP, unfence=RUN)
                yield "{h} sees the end of the resync too", host, w2
        if x.vm and x.frozen and x.fence and not x.reachable:
            yield "{h} is isolated and ends its frozen VM", host, self._end_vm(w, host)

    def _end_vm(self, w: World, host: int) -> World:
        return _with(w, host, vm=False, sleep="")

    def _hooks(self, w: World, host: int) -> Iterator[Move]:
        """A hook: RUN or AGAIN (it asks who it is), v (it has the version), q (it has looked), a (answered)."""
        x = w.hosts[host]
        for hook in HOOKS:
            state = getattr(x, hook)
            if not state or state == FREE:
                continue
            if state in {RUN, AGAIN}:
                if x.reachable:
                    begun = w
                    if w.ghost and w.ghost[:2] == (host, hook) and state == RUN:
                        begun = w._replace(ghost=(host, hook, False, *w.ghost[3:]))
                    if state == RUN and self.arbiter.began(w.it, host, hook):
                        begun = self._write(begun, w.it)
                    phase = ("q", True) if hook in {"attach", "resync"} else ("v", True)
                    yield f"{hook} hook on {{h}} reads the version", host, _with(begun, host, **{hook: phase})
                elif hook == "fence" and x.promoting:
                    yield (
                        "`drbdadm primary` on {h} is refused: nobody answers",
                        host,
                        _with(w, host, fence="", promoting=False),
                    )
                elif hook == "unfence":
                    yield "unfence hook on {h} reaches nobody", host, _with(w, host, unfence="")
                elif hook == "resync":
                    yield "resync hook on {h} reaches nobody: no resync", host, self._no_resync(w, host)
            elif state[0] == "v":
                if hook == "unfence":
                    seen = (x.role, x.disk == UP, x.connection in TOGETHER, x.peer_disk == UP)
                else:
                    seen = (x.role, x.disk == UP)
                yield f"{hook} hook on {{h}} looks", host, _with(w, host, **{hook: ("q", state[1], *seen)})
            elif state[0] == "q":
                if x.reachable:
                    yield self._asked(w, host, hook, state)
                else:
                    yield (
                        f"{hook} question of {{h}} is not answered",
                        host,
                        _with(w, host, **{hook: "" if hook == "unfence" else AGAIN}),
                    )
            else:
                yield from self._told(w, host, hook, state[1])

    def _asked(self, w: World, host: int, hook: str, state: Any) -> Move:
        after, verdict = self.arbiter.answer(w.it, host, hook, True, state[1], state[2:])
        w = w if after is None else self._write(w, after)
        w = _with(w, host, **{hook: "" if hook == "unfence" else ("a", verdict)})
        return f"{hook} of {{h}}: {verdict}", host, w

    def _no_resync(self, w: World, host: int) -> World:
        w = self._orphaned(w, host, ("resync",))
        w = _with(self._lose(w, host), host, connection=ALONE)
        return self._lose(w, 1 - host) if w.hosts[1 - host].connection in TOGETHER else w

    def _told(self, w: World, host: int, hook: str, verdict: str) -> Iterator[Move]:
        x = w.hosts[host]
        match hook:
            case "fence" if verdict == Verdict.GRANT.value:
                w2 = _with(w, host, fence="", promoting=False, peer_disk=OUTDATED, frozen=False, sleep="")
                if x.promoting:
                    w2 = _with(w2, host, role=PRIMARY, disk=UP, ahead=True)
                yield "{h} is told that it may go on", host, w2
            case "fence" if verdict == Verdict.RELEASE.value:
                yield "{h} is told that it has lost", host, _with(w, host, fence="", release=RUN)
            case "fence" if x.promoting:
                yield "`drbdadm primary` on {h} is refused", host, _with(w, host, fence="", promoting=False)
                yield "{h} asks again", host, _with(w, host, fence=AGAIN)
            case "fence":
                yield "{h} asks again", host, _with(w, host, fence=AGAIN)
            case "release":
                then = FREE if verdict == "release" else "" if verdict == "grant" else AGAIN
                yield f"the release on {{h}} is told: {verdict}", host, _with(w, host, release=then)
            case "resync" if verdict == Verdict.ALLOW.value and joined(w):
                w2 = _with(w, host, resync="", connection=SOURCE, peer_disk=INCONSISTENT)
                yield (
                    "the resync of {p} begins",
                    host,
                    _with(w2, 1 - host, connection=TARGET, disk=INCONSISTENT, lacks=w.hosts[1 - host].lacks),
                )
            case "resync" if verdict == Verdict.WAIT.value:
                # Within its eight seconds it is answered, or it reaches nobody.
                yield "{h} asks again", host, _with(w, host, resync=AGAIN)
            case "resync":
                yield "{h} begins no resync", host, self._no_resync(w, host)
            case "attach" if verdict == Verdict.ALLOW.value:
                yield from self._may_attach(w, host)
            case "attach":
                yield "{h} asks again", host, _with(w, host, attach=RUN)

    def _may_attach(self, w: World, host: int) -> Iterator[Move]:
        x, peer = w.hosts[host], w.hosts[1 - host]
        if x.broken and x.role == DOWN and not self.rules.disk_first:
            yield (
                "{h} comes up without its disk",
                host,
                _with(w, host, role=SECONDARY, connection=WAITING, peer_disk=UNKNOWN, attach=""),
            )
        elif x.broken:
            yield "{h} cannot attach its disk", host, _with(w, host, attach=RUN if x.role == DOWN else "")
        elif x.role == DOWN or not joined(w) or peer.disk != DISKLESS or not self.rules.disk_first:
            yield "{h} attaches its disk", host, self._attach(w, host)
        else:
            yield "{h} does not attach: {p} has no disk", host, _with(w, host, attach="")

    def _releases(self, w: World, host: int) -> Iterator[Move]:
        x = w.hosts[host]
        if x.release != FREE:
            return
        if x.vm:
            yield "the release on {h} ends the VM", host, self._end_vm(w, host)
        standalone = x.connection in {ALONE, BY_HAND}
        local = Local(x.role != DOWN, x.role, standalone, (x.disk,), x.frozen)
        step, may = release.next_step(local, unused=not x.vm)
        if release.goes_on(step, local):
            yield "the release on {h} stops: it goes on", host, _with(w, host, release="")
            return
        if not may:
            return
        match step:
            case Step.DISCONNECT:
                w2 = self._disconnect(w, host, ALONE)
            case Step.DETACH:
                w2 = self._detach(w, host)
                if w.it.holder == host or not w.it.granted:
                    w2 = w2._replace(fault="a host gives its copy up, although no other was granted (R5)")
            case Step.RESUME:
                w2 = _with(w, host, frozen=False)
            case Step.DEMOTE:
                w2 = _with(w, host, role=SECONDARY)
            case _:
                w2 = _with(w, host, role=DOWN, release="", attach=RUN, fence="", promoting=False)
        yield f"the release on {{h}}: {step.name}", host, w2

    def _mends(self, w: World, host: int) -> Iterator[Move]:
        x = w.hosts[host]
        if not x.on:
            yield "{h} boots", host, _with(w, host, on=True, attach=RUN)
        elif x.sleep == "frozen":
            yield "{h} wakes", host, _with(w, host, sleep="woke" if x.vm else "")
        if not x.reachable:
            yield "the management link of {h} is back", host, _with(w, host, reachable=True)
        if x.broken:
            yield "the disk of {h} is back", host, _with(w, host, broken=False)
        if _is_up(x) and x.disk == DISKLESS and not x.broken and not x.attach and x.release != FREE:
            yield "a person has mended and attaches the disk of {h}", host, _with(w, host, attach=RUN)
        if _is_up(x) and x.connection == BY_HAND and x.disk != DISKLESS:
            yield "a person connects {h}", host, _with(w, host, connection=WAITING)

    # ---- the keeper ----------------------------------------------------------------------------------------

    def _keeper(self, w: World) -> Iterator[Move]:
        """Read what is written, look at one host, then at the other; what follows is written later."""
        held = w.keeper
        if held is None:
            for host in (0, 1):
                yield from self._first_look(w, host)
            yield from self._reconnects(w)
        elif held[0] == "write":
            yield "the keeper writes what it saw", 0, self._write(w._replace(keeper=None), held[1])
        elif held[0] == "one":
            yield from self._second_look(w, *held[1:])
        else:
            _, holder, asker, it = held
            x = w.hosts[asker]
            after = None
            if _answers(x) and x.role != DOWN:
                after = self.arbiter.given_back(it, holder, _side(x, asker))
            keeper = None if after is None else ("write", after)
            yield "the keeper looks at {h} again", asker, w._replace(keeper=keeper)

    def _first_look(self, w: World, host: int) -> Iterator[Move]:
        x = w.hosts[host]
        if not _answers(x) or x.role == DOWN:
            return
        side = _side(x, host)
        if not self.rules.two_sided and w.plan is None:
            after = self.arbiter.one_sided(w.it, side)
            if after is not None:
                yield "the keeper looks at {h}", host, w._replace(keeper=("write", after))
        if self.arbiter.may_matter(w.it, host, side):
            yield (
                "the keeper looks at {h}",
                host,
                w._replace(keeper=("one", host, side, w.plan is not None, w.it)),
            )

    def _second_look(self, w: World, host: int, side: Side, moving: bool, it: Written) -> Iterator[Move]:
        other = 1 - host
        y = w.hosts[other]
        if not _answers(y) or y.role == DOWN:
            after = self.arbiter.looked_at(it, (side,))
            yield (
                "{h} does not answer the keeper",
                other,
                w._replace(keeper=None if after is None else ("write", after)),
            )
            return
        theirs = _side(y, other)
        after = self.arbiter.looked_at(it, (side, theirs) if host == 0 else (theirs, side))
        keeper: Any = None if after is None else ("write", after)
        if keeper is None and not moving:
            for holder, asker, who in ((side, theirs, other), (theirs, side, host)):
                if self.arbiter.given_back(it, holder, asker) is not None:
                    keeper = ("again", holder, who, it)
        yield "the keeper looks at {h}", other, w._replace(keeper=keeper)

    def _reconnects(self, w: World) -> Iterator[Move]:
        if w.plan is not None or not all(_answers(x) and x.role != DOWN for x in w.hosts):
            return
        sides = [_side(x, host) for host, x in enumerate(w.hosts)]
        for host in (0, 1):
            if self.arbiter.to_connect(w.it, sides[host], sides[1 - host]):
                yield "the keeper connects {h}", host, _with(w, host, connection=WAITING)

    # ---- plans ---------------------------------------------------------------------------------------------

    def _plans(self, w: World) -> Iterator[Move]:
        if w.plan is None:
            yield from self._decisions(w)
        elif w.plan.phase == "calling":
            x = w.hosts[w.plan.target]
            if not x.promoting:
                if x.role == PRIMARY and _answers(x):
                    yield (
                        "the promotion on {h} is done",
                        w.plan.target,
                        self._next(w._replace(plan=w.plan._replace(promoted=True))),
                    )
                else:
                    yield "the promotion on {h} has failed", w.plan.target, self._fail(w)
        elif w.plan.phase == "call":
            yield from self._call(w)
        else:
            yield from self._judge(w)

    def _decisions(self, w: World) -> Iterator[Move]:
        home, other = w.hosts
        if not _answers(home):
            for power in (False, True) if not home.on else (False,):
                if self._may_fail_over(w, 1, power) and other.connection not in {*TOGETHER, ALONE, BY_HAND}:
                    yield (
                        "failover to {h} is planned" + (", {p} being off by proof" if power else ""),
                        1,
                        self._open(w, Plan("failover", "promote", 1, power=power)),
                    )
            return
        if not home.vm:
            if self._may_restart(w, 0):
                step = "start" if home.role == PRIMARY else "promote"
                yield "a restart on {h} is planned", 0, self._open(w, Plan("restart", step, 0))
            elif self._has_lost(w) and self._may_move(w):
                yield "a move to {h} is planned", 1, self._open(w, Plan("cold", "demote", 1))
        elif home.disk == DISKLESS and self._may_move(w):
            yield "a move to {h} is planned: the disk is lost", 1, self._open(w, Plan("cold", "shut down", 1))

    def _has_lost(self, w: World) -> bool:
        """Its own host cannot have the VM: another was given the authority, or this disk is lost."""
        home = w.hosts[0]
        return home.role != DOWN and (self.arbiter.taken(w.it, 0, False) is None or home.disk != UP)

    def _open(self, w: World, plan: Plan) -> World:
        w = w._replace(plan=plan)
        return self._claim(w)

    def _claim(self, w: World) -> World:
        """The intent of a promotion takes the authority, or raises the version; live it is that to demote."""
        plan = w.plan
        if plan is not None and plan.step == ("demote" if plan.verb == "live" else "promote"):
            after = self.arbiter.taken(w.it, plan.target, plan.power)
            return w if after is None else self._write(w, after)
        return w

    def _next(self, w: World) -> World:
        plan = w.plan
        assert plan is not None
        steps = STEPS[plan.verb]
        at = steps.index(plan.step) + 1
        if at == len(steps):
            return w._replace(plan=None)
        step = steps[at]
        if step == "outlast" and plan.power:
            step = steps[at + 1]
        return self._claim(w._replace(plan=plan._replace(step=step, phase="intent")))

    def _fail(self, w: World) -> World:
        """What was begun is taken back: our promotion, and the window for two Primaries."""
        plan = w.plan
        assert plan is not None
        if plan.promoted and plan.step != "undo":
            return w._replace(plan=plan._replace(step="undo", phase="intent"))
        if plan.verb == "live" and plan.step != "close":
            return w._replace(plan=plan._replace(step="close", phase="intent"))
        return w._replace(plan=None)

    def _authority(self, w: World, target: int, power: bool) -> bool:
        return self.arbiter.taken(w.it, target, power) is not None

    def _base(self, w: World, target: int, power: bool) -> bool:
        x, peer = w.hosts[target], w.hosts[1 - target]
        if not (_answers(x) and x.role != DOWN and x.disk == UP and not x.frozen and not x.vm):
            return False
        if peer.role == PRIMARY and (_answers(peer) or x.connection in TOGETHER):
            return False
        return self._authority(w, target, power)

    def _may_fail_over(self, w: World, target: int, power: bool) -> bool:
        return self._base(w, target, power)

    def _was_granted(self, w: World, target: int) -> bool:
        return w.it.granted and w.it.holder == target and w.it.admitted == 1 << target

    def _may_restart(self, w: World, target: int) -> bool:
        x, peer = w.hosts[target], w.hosts[1 - target]
        if not self._base(w, target, False):
            return False
        granted = self._was_granted(w, target)
        if _answers(peer):
            known = not peer.vm
            if not known:
                return False
        else:
            known = x.role == PRIMARY and (x.connection in TOGETHER or x.peer_disk == OUTDATED)
        if not (known or granted):
            return False
        if x.role == PRIMARY or granted:
            return True
        sees_us = peer.role == SECONDARY and peer.connection in TOGETHER and peer.peer_disk == UP
        return x.connection in TOGETHER and _answers(peer) and sees_us

    def _may_move(self, w: World, *, planned: bool = True) -> bool:
        """From host 0 to host 1."""
        home, there = w.hosts
        mirrored = home.connection in TOGETHER and there.connection in TOGETHER and home.peer_disk == UP
        fit = (
            _answers(there) and there.role != DOWN and there.disk == UP and not there.frozen and not there.vm
        )
        return (
            _answers(home) and home.role != DOWN and mirrored and fit and self._authority(w, 1, False)
            and (there.role == SECONDARY or not planned)
        )  # fmt: skip

    def _judge(self, w: World) -> Iterator[Move]:
        """A fresh look before a step: done already, to be called, to be waited for, or refused."""
        plan = w.plan
        assert plan is not None
        target = plan.target
        x, source = w.hosts[target], w.hosts[1 - target]
        held = not self.arbiter.why_not(w.it, target)
        go = w._replace(plan=plan._replace(phase="call"))
        moved = plan.verb == "failover"
        base = self._base(w, target, plan.power) if moved else self._may_restart(w, target)
        match plan.step:
            case "promote" if plan.verb == "live":
                fit = self._may_move(w, planned=False) and source.vm
            case "promote":
                fit = base and held
            case "outlast":
                if self._let_go(w, target):
                    yield "nothing of the VM runs on {p} any more", target, self._next(w)
                yield "the plan waits no longer", target, self._fail(w)
                return
            case "start" if x.vm:
                yield STARTED, target, _mirrored(w._replace(plan=None)) if target else w._replace(plan=None)
                return
            case "start":
                let_go = not moved or plan.power or self._let_go(w, target)
                fit = base and held and x.role == PRIMARY and let_go
                if base and held and not let_go:
                    yield "the plan waits no longer", target, self._fail(w)
                    return
            case "shut down":
                fit = self._may_move(w, planned=False)
            case "demote":
                fit = _answers(source) and not source.vm
            case "allow":
                fit = self._may_move(w, planned=False) and source.vm
            case "migrate":
                fit = self._may_move(w, planned=False) and source.vm and x.role == PRIMARY
            case "undo":
                fit = _answers(x) and not x.vm
            case _:
                fit = True
        if fit:
            yield f"the plan may {plan.step}", target, go
        else:
            yield f"the plan may not {plan.step}", target, self._fail(w)

    def _let_go(self, w: World, target: int) -> bool:
        """The source cannot have the VM any more: seen gone, or quiet for long enough (R7)."""
        source = w.hosts[1 - target]
        if not self.rules.outlast:
            return True
        if _answers(source):
            return not source.vm and source.role != PRIMARY
        if not source.vm or not source.on or source.sleep:
            return True
        return not source.frozen and source.connection not in TOGETHER

    def _call(self, w: World) -> Iterator[Move]:
        plan = w.plan
        assert plan is not None
        target = plan.target
        at = 1 - target if plan.step in {"shut down", "demote", "allow"} else target
        if not _answers(w.hosts[at]):
            yield f"the call to {plan.step} fails: {{h}} does not answer", at, self._fail(w)
            return
        yield from self._effect(w, plan, target)

    def _effect(self, w: World, plan: Plan, target: int) -> Iterator[Move]:
        x, source = w.hosts[target], w.hosts[1 - target]
        match plan.step:
            case "promote":
                if x.role == PRIMARY:
                    yield "{h} is Primary already", target, self._next(w)
                elif (after := self._promote(w, target)) is None:
                    yield "`drbdadm primary` on {h} is refused", target, self._fail(w)
                elif after.hosts[target].promoting:
                    yield (
                        "vmheal calls `drbdadm primary` on {h}",
                        target,
                        after._replace(plan=plan._replace(phase="calling")),
                    )
                else:
                    yield (
                        "vmheal promotes {h}",
                        target,
                        self._next(after._replace(plan=plan._replace(promoted=True))),
                    )
            case "start":
                if x.role != PRIMARY:
                    yield "the VM does not start on {h}", target, self._fail(w)
                    return
                w2 = _with(w._replace(plan=None), target, vm=True)
                if source.vm and source.frozen and not source.sleep:
                    w2 = w2._replace(fault="the VM is started although an awake host still has it")
                yield STARTED, target, _mirrored(w2) if target else w2
            case "shut down":
                yield "vmheal shuts the VM down on {p}", target, self._next(self._end_vm(w, 1 - target))
            case "demote":
                if source.role == PRIMARY and not source.frozen and not source.vm:
                    w = self._disk_first(_with(w, 1 - target, role=SECONDARY), 1 - target)
                    yield "vmheal demotes {p}", target, self._next(w)
                elif source.role == PRIMARY:
                    yield "`drbdadm secondary` on {p} is refused", target, self._fail(w)
                else:
                    yield "{p} is Secondary already", target, self._next(w)
            case "undo":
                if x.role == PRIMARY and not x.frozen and not x.vm:
                    w = self._disk_first(_with(w, target, role=SECONDARY), target)
                yield "vmheal takes its promotion of {h} back", target, self._fail(w)
            case "allow":
                w = _with(w, 1 - target, two=True)
                w = _with(w, target, two=True) if joined(w) else w
                yield "two Primaries are allowed", target, self._next(w)
            case "forbid" | "close":
                both = x.role == source.role == PRIMARY
                if joined(w) and not both:
                    w = _with(_with(w, 0, two=False), 1, two=False)
                elif not joined(w):
                    w = _with(w, 1 - target, two=False) if _answers(source) else w
                yield (
                    "two Primaries are forbidden",
                    target,
                    self._next(w) if plan.step == "forbid" else self._fail(w),
                )
            case "migrate":
                if joined(w) and source.vm and writes(w, 0) and writes(w, 1):
                    w = _with(_with(w, 1 - target, vm=False, sleep=""), target, vm=True)
                    w = self._next(w)
                    yield MOVED, target, _mirrored(w) if target else w
                else:
                    yield "the migration fails", target, self._fail(w)

    # ---- what disturbs -------------------------------------------------------------------------------------

    def events(self, w: World) -> Iterator[Move]:
        """What counts against the bound."""
        if w.cable:
            yield "the replication link is cut", 0, w._replace(cable=False)
        for host in (0, 1):
            x = w.hosts[host]
            if x.on:
                yield "{h} crashes", host, self._crash(w, host)
            if x.on and not x.sleep:
                yield "{h} stands still", host, _with(w, host, sleep="frozen")
            if x.reachable:
                yield "the management link of {h} is cut", host, _with(w, host, reachable=False)
                if w.cable:
                    yield (
                        "{h} is cut off from everything",
                        host,
                        _with(w, host, reachable=False)._replace(cable=False),
                    )
            if _is_up(x):
                yield from self._events_of(w, host)
            for hook in HOOKS:
                state = getattr(x, hook)
                if isinstance(state, tuple) and state[0] == "a":
                    yield (
                        f"the answer to {hook} is lost on its way to {{h}}",
                        host,
                        _with(w, host, **{hook: AGAIN}),
                    )
                if isinstance(state, tuple) and state[:2] == ("q", True) and w.ghost is None:
                    yield (
                        f"the {hook} question of {{h}} is late, and asked anew",
                        host,
                        _with(
                            w._replace(ghost=(host, hook, True, state[1], state[2:])), host, **{hook: AGAIN}
                        ),
                    )
        if w.plan is None and w.hosts[0].vm and self._may_move(w):
            yield "a person moves the VM to {h}", 1, self._open(w, Plan("cold", "shut down", 1))
            yield "a person moves the VM to {h} live", 1, self._open(w, Plan("live", "allow", 1))
        if w.keeper is not None:
            yield "the actuator crashes", 0, _restarted(w)
        if w.plan is not None and w.plan.phase == "call":
            yield "the actuator crashes before its call", 0, _restarted(w)
            for text, host, after in self._effect(w, w.plan, w.plan.target):
                if after.hosts != w.hosts and not after.fault and _answers(w.hosts[w.plan.target]):
                    # The effect is there, and nothing of it is written down.
                    back = (text == STARTED and host) or text == MOVED
                    hosts = (_mirrored(after) if back else after)._replace(plan=w.plan, it=w.it)
                    yield f"{text}; the actuator crashes before it has written that", host, _restarted(hosts)
        elif w.plan is not None and w.plan.phase == "calling":
            yield "the actuator crashes during its call", 0, _restarted(w)

    def _events_of(self, w: World, host: int) -> Iterator[Move]:
        x = w.hosts[host]
        if x.disk != DISKLESS:
            yield "the disk of {h} fails", host, self._detach(w, host)
        if joined(w):
            yield "a person disconnects {h}", host, self._disconnect(w, host, BY_HAND)
        if (after := self._promote(w, host)) is not None:
            yield "a person types `drbdadm primary` on {h}", host, after
        if x.role == PRIMARY and not x.vm and not x.frozen:
            yield (
                "a person types `drbdadm secondary` on {h}",
                host,
                self._disk_first(_with(w, host, role=SECONDARY), host),
            )


def _source(a: Host, b: Host) -> int | None:
    """Who overwrites whom when these meet; None: nobody; -1: neither may."""
    if (a.ahead and b.ahead) or (a.disk == b.disk == INCONSISTENT):
        return -1
    newer = [a.ahead or b.disk == INCONSISTENT, b.ahead or a.disk == INCONSISTENT]
    if all(newer):
        return -1
    if any(newer):
        return newer.index(True)
    if a.crashed != b.crashed:
        return 0 if a.crashed else 1
    if (a.disk == OUTDATED) != (b.disk == OUTDATED):
        return 1 if a.disk == OUTDATED else 0
    return None


def _restarted(w: World) -> World:
    """The actuator, anew: what it had seen is forgotten, what it had written stands."""
    plan = w.plan and w.plan._replace(phase="intent")
    return w._replace(keeper=None, plan=plan)


def _mirrored(w: World) -> World:
    """The same with the hosts exchanged."""
    it = w.it
    admitted = (it.admitted & 1) << 1 | it.admitted >> 1
    plan = w.plan and w.plan._replace(target=1 - w.plan.target)
    ghost = w.ghost and (1 - w.ghost[0], *w.ghost[1:])
    written = Written(1 - it.holder, admitted, it.granted, it.newest)
    # What the keeper has looked at is dropped: it begins again.
    return World(w.hosts[::-1], w.cable, written, plan, None, ghost, w.fault)
