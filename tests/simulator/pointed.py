"""Schedules aimed at what those by chance seldom come by: each pair of faults, and places that need several in a row.

One seed in ``EVERY`` has one, in turn, so a run that is long enough has them all. What is not said here is chance,
and of the site too; the other seeds are as they would be without this.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from random import Random
from typing import Any

from tests.simulator.events import BEGINNINGS, Happening, fault, line
from tests.simulator.ports import MISHAPS
from tests.simulator.site import MESH, Site

EVERY = 6
TIMES = 3
"""So often comes each aim that is no pair, for each time that each pair comes."""

FAULTS: Mapping[str, str] = {
    "actuator-dies": "actuator", "actuator-dies-at-step": "step", "actuator-dies-at-write": "write",
    "alertmanager-dies": "alertmanager", "alerts-doubled": "doubled", "alerts-late": "late", "alerts-lost": "lost",
    "by-hand": "hand", "call-goes-wrong": "call", "clock-jumps": "clock", "cut-management": "management",
    "cut-management-one-way": "management1", "cut-off": "off", "cut-replication": "replication",
    "cut-replication-one-way": "replication1", "disk-fails": "disk", "drbd-hangs": "drbd", "exporter-dies": "exporter",
    "freeze": "freeze", "guest-is-deaf": "deaf", "journal-full": "full", "libvirtd-dies": "libvirtd",
    "order": "migrate", "power-off": "power", "power-off-at-grant": "grant", "prometheus-dies": "prometheus",
    "slow-management": "slow", "vm-crashes": "crash",
}  # fmt: skip
"""The kind of fault that begins with each event."""


@dataclass(frozen=True)
class Around:
    """A VM and its hosts."""

    random: Random
    vm: str
    home: str
    other: str

    def chance(self, low: float, high: float) -> float:
        return self.random.uniform(low, high)


Lines = Iterator[Happening]


@dataclass(frozen=True)
class Aim:
    """What a schedule is aimed at.

    Attributes:
        lines: what happens.
        site: what of the site it needs; the rest is the seed's.
    """

    name: str
    lines: Callable[[Around], Lines]
    site: Mapping[str, Any] = field(default_factory=dict)


def aim(seed: int) -> Aim | None:
    """What the seed's schedule is aimed at; most are not."""
    turn, rest = divmod(seed, EVERY)
    return None if rest else AIMS[turn % len(AIMS)]


def site_for(it: Aim, by_chance: Site) -> Site:
    """The seed's, with what the aim needs: pairs with DRBD 8.4, all protected."""
    if not it.site:
        return by_chance
    pairs = {vm: on[:2] for vm, on in by_chance.vms.items()}
    settings = {section: dict(said) for section, said in by_chance.settings.items()}
    settings.get("failover", {}).pop("quorum", None)
    settings.pop("reconcile", None)  # its times are for an actuator that looks as often as it comes
    plain = replace(by_chance, vms=pairs, nine={}, ties={}, alone=frozenset(), settings=settings)
    return replace(plain, **it.site)


def schedule(it: Aim, random: Random, site: Site) -> tuple[Happening, ...]:
    """What happens then."""
    vm = min(site.vms)
    home, other = site.vms[vm][:2]
    found = list(it.lines(Around(random, vm, home, other))) if it.site else list(_pair(it, random, site, vm))
    return tuple(sorted(found, key=lambda line: line.at))


# ---- pairs ---------------------------------------------------------------------------------------------------


def _pair(it: Aim, random: Random, site: Site, vm: str) -> Lines:
    names = it.name.split(" and ")
    random.shuffle(names)
    at = random.uniform(0, 5)
    for name in names:
        if name == "alerts-said-to-have-ended":
            yield line(at, name)
        else:
            yield from fault(random, site, vm, at, FAULTS[name])
        at += random.uniform(0, 15)
    yield line(at + random.uniform(10, 60), "nothing")


# ---- several in a row ----------------------------------------------------------------------------------------


QEMU: Mapping[str, Any] = {"xen": False}
COLD: Mapping[str, Any] = {"xen": True, "settings": {"move": {"cold": True}}}
ALONE: Mapping[str, Any] = {"agents": {}}
FENCED: Mapping[str, Any] = {"agents": {"v01": "works", "v02": "works", "v03": "works"}}
KEPT: Mapping[str, Any] = {"preserve": True, "agents": {}}
THREE: Mapping[str, Any] = {"vms": MESH}


def _moves(it: Around) -> Lines:
    yield line(1.0, "order", "migrate", f"domain={it.vm}")


def _moves_undefined(it: Around) -> Lines:
    yield line(0.5, "by-hand", it.other, "undefine", it.vm)
    yield from _moves(it)


def _crashes(it: Around) -> Lines:
    yield line(1.0, "vm-crashes", it.vm)


def _is_lost(it: Around) -> Lines:
    yield line(1.0, "power-off", it.home)


STEPS: Mapping[str, tuple[Callable[[Around], Lines], Mapping[str, Any], str]] = {
    "allow_two": (_moves, QEMU, "net-options"),
    "confirm": (_crashes, ALONE, ""),
    "define": (_moves_undefined, COLD, "define"),
    "demote": (_moves, COLD, "drbdadm-secondary"),
    "destroy": (_crashes, KEPT, "destroy"),
    "forbid_two": (_moves, QEMU, "net-options"),
    "migrate": (_moves, QEMU, "migrate"),
    "outlast": (_is_lost, ALONE, ""),
    "power_off": (_is_lost, FENCED, ""),
    "promote": (_moves, COLD, "drbdadm-primary"),
    "shut_down": (_moves, COLD, "shut-down"),
    "start": (_crashes, ALONE, "start"),
}
"""By step: what makes vmheal come to it, the site that it takes, and the call that it makes of a host."""
AT_HOME = {"allow_two", "demote", "destroy", "forbid_two", "migrate", "shut_down", "start"}


def _killed_at(step: str) -> Callable[[Around], Lines]:
    def lines(it: Around) -> Lines:
        yield line(0.2, "actuator-dies-at-step", step)
        yield from STEPS[step][0](it)
        yield line(it.chance(40, 70), "nothing")

    return lines


def _goes_wrong(step: str, how: str) -> Callable[[Around], Lines]:
    begins, _, call = STEPS[step]

    def lines(it: Around) -> Lines:
        at = 2.5 if step == "forbid_two" else 0.2  # what begins with the same call has been done by then
        yield line(at, "call-goes-wrong", it.home if step in AT_HOME else it.other, how, call)
        yield from begins(it)
        yield line(it.chance(40, 90), "nothing")

    return lines


def _never_lets_go(it: Around) -> Lines:
    """It stands still for so long that its VM is failed over, and has no libvirtd to end its own with."""
    yield line(1.0, "libvirtd-dies", it.home)
    yield line(1.5, "freeze", it.home)
    yield line(it.chance(8, 9.5), "wake", it.home)
    yield line(240.0, "nothing")


def _stands_alone(it: Around) -> Lines:
    """Of two VMs' replicas one has given its connection up, the other one testifies that the host is lost."""
    yield line(1.0, "power-off", it.home)
    yield line(it.chance(2.8, 3.6), "by-hand", it.other, "disconnect", it.vm)
    yield line(it.chance(40, 70), "nothing")


def _is_connected_still(it: Around) -> Lines:
    """A host whose VM is down, known to be lost by another VM's replica alone: this one's hosts are connected."""
    yield line(0.5, "exporter-dies", it.other)
    yield line(1.0, "cut-management", it.home)
    yield line(1.2, "by-hand", it.home, "destroy", it.vm)
    yield line(1.5, "by-hand", it.home, "secondary", it.vm)
    yield line(1.6, "cut-replication", it.home, "v03")
    yield line(it.chance(40, 70), "nothing")


def _grant_is_not_heard(it: Around) -> Lines:
    """Who is granted the lost host's disk is lost before DRBD there hears of it; then both come back."""
    yield line(0.5, "power-off-at-grant", it.other)
    yield line(1.0, "power-off", it.home)
    yield line(it.chance(25, 35), "power-on", it.home)
    yield line(it.chance(36, 60), "power-on", it.other)
    yield line(100.0, "nothing")


def _authority_leaves(it: Around) -> Lines:
    """The target of a move is Outdated, by hand, while the plan waits for its libvirtd; and UpToDate again."""
    yield from _moves(it)
    yield line(1.9, "libvirtd-dies", it.other)
    yield line(9.0, "by-hand", it.other, "disconnect", it.vm)
    yield line(9.5, "by-hand", it.other, "outdate", it.vm)
    yield line(it.chance(13, 15), "by-hand", it.other, "connect", it.vm)
    yield line(it.chance(19, 22), "libvirtd-starts", it.other)
    yield line(60.0, "nothing")


ROWS = [
    *(Aim(f"{step} is taken up again", _killed_at(step), site) for step, (_, site, _) in STEPS.items()),
    *(
        Aim(f"{call} {how}", _goes_wrong(step, how), site)
        for step, (_, site, call) in STEPS.items()
        if call
        for how in MISHAPS
    ),
    Aim("a lost host does not let go", _never_lets_go, ALONE),
    Aim("a replica that is StandAlone", _stands_alone, {**ALONE, **THREE}),
    Aim("a lost host that is connected", _is_connected_still, {**ALONE, **THREE}),
    Aim("a grant that is not heard", _grant_is_not_heard, ALONE),
    Aim("an authority that goes elsewhere", _authority_leaves, COLD),
]
AIMS = [
    *(Aim(f"{one} and {other}", lambda _: iter(())) for one, other in combinations(BEGINNINGS, 2)),
    *ROWS * TIMES,
]
