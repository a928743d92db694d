"""Where the domains that leave their hosts go: all of them together, as one problem.

What is down comes before what runs, then the higher priority, then the larger, then the name. Each takes the
best host that is left to it, and what it takes is not there for those after it. So the same question has the
same answer in whatever order it is asked, and two that fit on a host, but not together, do not both go there.

What is not known of memory is not taken for enough. But a domain that is down has nothing to lose: it goes to
such a host, or to one where its ``apart`` would not have it, or at last to one that was seen without its
networks, which may be there again, when there is no better one; one that runs stays where it is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from typing import TypeVar

from actuator.model import DomainRecord, PlanStatus, Refusal

T = TypeVar("T")


class Past(IntEnum):
    """What has become of the domain on a host before; the worse, the later the host is chosen."""

    GOOD = 0
    FAILED = 1
    """The last plan failed there."""
    SUSPECT = 2
    """The domain failed there again and again."""


def past(record: DomainRecord, host: str, *, now: float) -> Past:
    """What the domain's record says of a host; ``now`` is wall clock."""
    if record.suspects.get(host, 0.0) > now:
        return Past.SUSPECT
    plan = record.plan
    failed = plan is not None and plan.status is PlanStatus.FAILED and plan.plan.host == host
    return Past.FAILED if failed else Past.GOOD


@dataclass(frozen=True, slots=True)
class Room:
    """What a host has for further domains."""

    free_bytes: int | None = None
    """As it was last measured; None: not known."""
    taken_bytes: int = 0
    """Of that, what domains will take that are on their way there."""
    domains: frozenset[str] = frozenset()
    """The protected domains that are there, or on their way there."""
    unknown: str = "it has not been measured yet"
    """Why ``free_bytes`` is not known."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """A domain that is to leave its host."""

    domain: str
    memory_bytes: int | None = None
    """What it may use; None: not known."""
    hosts: Mapping[str, Past] = field(default_factory=dict)
    """Where it may go, but for room."""
    priority: int = 0
    apart: frozenset[str] = frozenset()
    """Domains that should not be on the same host."""
    lacking: Mapping[str, str] = field(default_factory=dict)
    """By host: what it lacks of the domain's networks, as it was last rehearsed."""
    down: bool = True


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a domain goes, and why."""

    host: str = ""
    """Empty: nowhere."""
    reason: str = ""
    beside: tuple[str, ...] = ()
    """Domains on that host from which it should be apart."""
    rejected: Mapping[str, Refusal] = field(default_factory=dict)
    """By host: why it is not that one."""


def place(leaving: Iterable[Leaving], rooms: Mapping[str, Room]) -> Iterator[tuple[str, Choice]]:
    """Choose for each domain, in the order in which they come."""
    left = dict(rooms)
    for it in sorted(leaving, key=_order):
        choice = _choose(it, left)
        if choice.host:
            left[choice.host] = _with(left.get(choice.host, Room()), it)
        yield it.domain, choice


@dataclass(frozen=True)
class Placement:
    """All that leave at one moment, and where each goes: worked out once, however many of them ask."""

    leaving: Mapping[str, Leaving] = field(default_factory=dict)
    """By domain."""
    rooms: Mapping[str, Room] = field(default_factory=dict)

    @cached_property
    def choices(self) -> Mapping[str, Choice]:
        """By domain."""
        return dict(place(self.leaving.values(), self.rooms))

    def choose(self, one: Leaving) -> Choice:
        """Choose for one domain among the others; for one that leaves otherwise than was thought, anew."""
        if not one.hosts:
            return Choice()
        if self.leaving.get(one.domain) == one:
            return self.choices[one.domain]
        return dict(place({**self.leaving, one.domain: one}.values(), self.rooms))[one.domain]

    def went(self, domain: str) -> "Placement":
        """What is left when the domain is on its way to its choice: those of the others fit beside it."""
        host = self.choices[domain].host
        room = _with(self.rooms.get(host, Room()), self.leaving[domain])
        return self._left(domain, {**self.rooms, host: room}, _without(self.choices, domain))

    def stays(self, domain: str) -> "Placement":
        """What is left when the domain does not leave after all: room that was meant for it is free."""
        known: Mapping[str, Choice] | None = self.__dict__.get("choices")
        stand = known is not None and not known[domain].host
        return self._left(domain, self.rooms, _without(known, domain) if known and stand else None)

    def _left(
        self, domain: str, rooms: Mapping[str, Room], choices: Mapping[str, Choice] | None
    ) -> "Placement":
        left = Placement(_without(self.leaving, domain), rooms)
        if choices is not None:
            left.__dict__["choices"] = choices
        return left


def _without(of: Mapping[str, T], domain: str) -> dict[str, T]:
    return {name: it for name, it in of.items() if name != domain}


def _order(it: Leaving) -> tuple[bool, int, int, str]:
    return not it.down, -it.priority, -(it.memory_bytes or 0), it.domain


def _with(room: Room, it: Leaving) -> Room:
    taken = room.taken_bytes + (it.memory_bytes or 0)
    return replace(room, taken_bytes=taken, domains=room.domains | {it.domain})


# ---- may it go there --------------------------------------------------------------------------------------


def has_memory(it: Leaving, host: str, room: Room) -> str | None:
    """A host without the memory would not start the domain, or would swap, or kill another one for it."""
    if it.memory_bytes is None or room.free_bytes is None:
        return None if it.down else _not_known(it, host, room)
    if it.memory_bytes <= room.free_bytes - room.taken_bytes:
        return None
    taken = f" less {_mib_up(room.taken_bytes)} MiB for others on their way there" if room.taken_bytes else ""
    return (
        f"{host} has {room.free_bytes >> 20} MiB of memory free{taken}, and {it.domain} may use"
        f" {_mib_up(it.memory_bytes)} MiB: move or end something on {host}, or give {it.domain} less"
    )


def _not_known(it: Leaving, host: str, room: Room) -> str:
    if it.memory_bytes is None:
        return (
            f"how much memory {it.domain} may use is not known yet (it is read each minute where it runs): it"
            f" does not go to {host} before"
        )
    return (
        f"how much memory {host} has free is not known ({room.unknown}): {it.domain} runs, and does not go"
        f" there before; see that libvirt on {host} answers"
    )


def is_apart(it: Leaving, host: str, room: Room) -> str | None:
    """What a site keeps on two hosts should not be lost with one."""
    if it.down or not (beside := _beside(it, room)):
        return None
    return (
        f"{', '.join(beside)} is on {host}, and {it.domain} is kept apart from it (domains.{it.domain}.apart,"
        f" or the other's): {it.domain} runs, and does not go there; move {beside[0]} away from {host} first"
    )


def has_networks(it: Leaving, host: str, _room: Room) -> str | None:
    """Where a network is missing libvirt refuses the start."""
    if it.down or not (lacks := it.lacking.get(host)):
        return None
    return f"{host} has not the networks of {it.domain} ({lacks}): {it.domain} runs, and does not go there"


PLACE: tuple[Callable[[Leaving, str, Room], str | None], ...] = (has_memory, has_networks, is_apart)
"""Asked of each host that passed the guards of the move, with what is left of it."""


def _mib_up(size_bytes: int) -> int:
    return -(-size_bytes >> 20)


def _beside(it: Leaving, room: Room) -> tuple[str, ...]:
    return tuple(sorted(it.apart & room.domains))


# ---- the best of them -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class _Rank:
    """What makes one host better than another, the weightiest first; the lowest is chosen."""

    lacks: bool
    past: Past
    beside: bool
    unknown: bool
    load: int
    host: str


def _choose(it: Leaving, rooms: Mapping[str, Room]) -> Choice:
    rejected: dict[str, Refusal] = {}
    fit: list[_Rank] = []
    for host in sorted(it.hosts):
        room = rooms.get(host, Room())
        sentences = ((guard.__name__, guard(it, host, room)) for guard in PLACE)
        refusal = next((Refusal(name, sentence) for name, sentence in sentences if sentence), None)
        if refusal is None:
            fit.append(_rank(it, host, room))
        else:
            rejected[host] = refusal
    if not fit:
        return Choice(rejected=rejected)
    best = min(fit)
    rejected |= {other.host: Refusal("is_best", _why_not(other, best)) for other in fit if other is not best}
    room = rooms.get(best.host, Room())
    return Choice(best.host, _reason(it, best, room), _beside(it, room), rejected)


def _rank(it: Leaving, host: str, room: Room) -> _Rank:
    unknown = it.memory_bytes is None or room.free_bytes is None
    return _Rank(
        bool(it.lacking.get(host)), it.hosts[host], bool(_beside(it, room)), unknown, len(room.domains), host
    )


def _reason(it: Leaving, best: _Rank, room: Room) -> str:
    """Why this host, for people."""
    if room.free_bytes is None:
        memory = f"an unknown amount of memory free ({room.unknown})"
    else:
        memory = f"{(room.free_bytes - room.taken_bytes) >> 20} MiB of memory free"
    which = "it is the best of those it may go to" if len(it.hosts) > 1 else "there is no other"
    return f"{best.host} has {memory} and {_count(best.load)}; {which}"


def _why_not(other: _Rank, best: _Rank) -> str:
    """What was decisive between two hosts that both may have it."""
    if other.lacks is not best.lacks:
        return "it has not the networks that it needs"
    if other.past is not best.past:
        how = "again and again" if other.past is Past.SUSPECT else "with the last plan"
        return f"it failed there {how}"
    if other.beside is not best.beside:
        return "a domain from which it is kept apart is there"
    if other.unknown is not best.unknown:
        return "how much memory it has free is not known"
    if other.load != best.load:
        return f"it has {_count(other.load)}, {best.host} only {best.load}"
    return f"{best.host} comes first by name"


def _count(load: int) -> str:
    return f"{load} protected domain{'' if load == 1 else 's'}"
