"""The arbiter's real functions, over the small values of a world, and what is written."""

from copy import copy
from functools import cache
from typing import Any, NamedTuple

from actuator.core import arbiter as real
from actuator.core.arbiter import Ask, FencePeer, Side
from actuator.model import Authority, HookRun, Proof
from exporter.drbd import Role
from tests.sim.world import (
    AGAIN,
    ALONE,
    BY_HAND,
    DISKLESS,
    HOOKS,
    INCONSISTENT,
    OLD,
    RUN,
    TOGETHER,
    UP,
    Host,
    World,
    Written,
)


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


_NAMES = ("v01", "v02")
_EARLIER_RUN, _RUN, _LATER_RUN = HookRun("boot", 1), HookRun("boot", 2), HookRun("boot", 3)
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
        torn=it.torn,
        **more,
    )


def _written(it: Authority) -> Written:
    admitted = sum(1 << _NAMES.index(host) for host in it.admitted)
    return Written(_NAMES.index(it.holder), admitted, it.granted, it.newest, it.torn)


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


class Arbiter:
    """The functions, each remembered: there are few different questions.

    Args:
        rules: what hosts and the keeper keep to; the arbiter's own rules are taken out of its functions.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.began = cache(self._began)
        self.answer = cache(self._answer)
        self.taken = cache(self._taken)
        self.why_not = cache(lambda it, host: real.why_not(_authority(it), _NAMES[host]) is not None)
        self.looked_at = cache(self._looked_at)
        self.given_back = cache(self._given_back)
        self.one_sided = cache(self._one_sided)
        self.accepted = cache(lambda it, host: _written(real.accepted(_authority(it), _NAMES[host])))
        self.may_matter = cache(self._may_matter)
        self.to_connect = cache(lambda it, *sides: real.to_connect(_authority(it), *sides))
        self.to_disconnect = cache(lambda it, side: real.to_disconnect(_authority(it), side))
        self.silent = copy(self)
        """The same, but nothing is written: the actuator crashes first."""
        self.silent.write = lambda w, _: w

    def write(self, w: World, it: Written) -> World:
        """A change: its version makes all earlier evidence worthless (R2)."""
        keeper = None if self.rules.keeper_minds_versions else w.keeper
        if not self.rules.hooks_name_versions:
            return w._replace(it=it, keeper=keeper)
        a, b = w.hosts
        return w._replace(hosts=(_outdated(a), _outdated(b)), it=it, keeper=keeper, ghost=None)

    @staticmethod
    def _began(it: Written, host: int, hook: str, again: bool) -> bool:
        """Whether a run that says that it begins changes anything; `again`: it has said so before (R9)."""
        ask = Ask(_NAMES[host], hook, _RUN, 0)
        before = _authority(it, runs={ask.key: _RUN if again else _EARLIER_RUN})
        return real.began(before, ask) is not before

    @staticmethod
    def _answer(
        it: Written, host: int, hook: str, latest: bool, current: bool, seen: tuple[Any, ...]
    ) -> tuple[Written | None, str]:
        """What is written (None: nothing), and the verdict."""
        name, peer = _NAMES[host], _NAMES[_PEERS[host]]
        ask = Ask(name, hook, _RUN, _VERSION if current else _VERSION - 1)
        before = _authority(it, runs={ask.key: _RUN if latest else _LATER_RUN})
        match hook:
            case "fence" | "release":
                role, up_to_date = seen
                question = FencePeer(name, hook, ask.run, ask.version, peer, Role(role), up_to_date, False)
                after, answer = real.fence_peer(before, question)
            case "resync":
                after, answer = real.before_resync(before, ask, peer)
            case "attach":
                after, answer = real.before_attach(before, ask)
            case _:
                role, up_to_date, connected, peer_up_to_date = seen
                side = Side(name, Role(role), up_to_date, peer, connected, peer_up_to_date, frozen=False)
                after, answer = real.unfence_peer(before, ask, side)
        return (None if after is before else _written(after)), answer.verdict.value

    @staticmethod
    def _taken(it: Written, target: int, power: bool) -> Written | None:
        """After an intent to promote; None: it may not be taken."""
        before = _authority(it)
        after = real.taken(before, _NAMES[target], Proof.POWER if power else None)
        if isinstance(after, str):
            return None
        return _written(real.intended(after) if after is before else after)

    @staticmethod
    def _looked_at(it: Written, sides: tuple[Side, ...]) -> Written | None:
        before = _authority(it)
        after = real.looked_at(before, sides)
        return None if after is before else _written(after)

    @staticmethod
    def _given_back(it: Written, holder: Side, asker: Side) -> Written | None:
        before = _authority(it)
        after = real.given_back(before, holder, asker)
        return None if after is before else _written(after)

    def _one_sided(self, it: Written, asker: Side) -> Written | None:
        """R1 out: on the word of the asker alone."""
        holder = Side(asker.peer, Role.SECONDARY, True, asker.host, True, True, False)
        return self.given_back(it, holder, asker)

    def _may_matter(self, it: Written, host: int, side: Side) -> bool:
        """Whether this side can change anything, with whatever the other says."""
        name, peer = _NAMES[host], _NAMES[_PEERS[host]]
        for bits in range(32):
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
def side_of(x: Host, host: int) -> Side:
    """What the host says of itself."""
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
        x.peer_disk in OLD,
        x.disk == INCONSISTENT or (x.connection in TOGETHER and x.peer_disk == INCONSISTENT),
    )
