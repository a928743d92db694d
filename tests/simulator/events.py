"""What can happen to a world, by name, as a schedule's lines say it: `12.5 power-off v01`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING, get_args

from actuator.model import Step
from tests.simulator.drbd import PRIMARY, STAND_ALONE, Node
from tests.simulator.drbd9 import Group, Replica
from tests.simulator.fibers import Process
from tests.simulator.liar import CLAIMS, HOOKS, Liar
from tests.simulator.network import GATEWAY, MANAGEMENT, MONITOR, REPLICATION
from tests.simulator.ports import MISHAPS
from tests.simulator.site import Site

if TYPE_CHECKING:
    from tests.simulator.world import World

Action = Callable[..., None]
ACTIONS: dict[str, Action] = {}
KINDS = sorted(step.__dataclass_fields__["kind"].default for step in get_args(Step))
"""Of steps."""


def action(call: Action) -> Action:
    ACTIONS[call.__name__.replace("_", "-")] = call
    return call


@dataclass(frozen=True, order=True)
class Happening:
    """One line of a schedule: so many seconds after its beginning."""

    at: float
    name: str
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join([f"{self.at:g}", self.name, *self.words])

    def do(self, world: "World") -> None:
        world.log(f"-- {' '.join([self.name, *self.words])}")
        ACTIONS[self.name](world, *self.words)


def read(text: str) -> tuple[Happening, ...]:
    """Read a schedule; `#` begins a comment.

    Raises:
        ValueError: a line is not understood.
    """
    found = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words:
            if len(words) < 2 or words[1] not in ACTIONS:
                raise ValueError(
                    f"{line!r}: must be 'SECONDS EVENT ...', with an event of {', '.join(ACTIONS)}"
                )
            found.append(Happening(float(words[0]), words[1], tuple(words[2:])))
    return tuple(sorted(found, key=lambda it: it.at))


@action
def nothing(_world: "World") -> None:
    """Time passes: the faults before this line last so long."""


# ---- hosts ---------------------------------------------------------------------------------------------------


@action
def power_off(world: "World", host: str) -> None:
    world.hosts[host].power_off()


@action
def power_on(world: "World", host: str) -> None:
    world.hosts[host].power_on()


@action
def power_off_at_grant(world: "World", host: str) -> None:
    """As soon as the arbiter has granted it something, before it hears of that."""
    world.hosts[host].dies_at_grant = True


@action
def freeze(world: "World", host: str) -> None:
    world.hosts[host].freeze()


@action
def wake(world: "World", host: str) -> None:
    world.hosts[host].wake()


@action
def libvirtd_dies(world: "World", host: str) -> None:
    world.hosts[host].libvirt_works = False


@action
def libvirtd_starts(world: "World", host: str) -> None:
    world.hosts[host].start_libvirtd()


@action
def drbd_hangs(world: "World", host: str) -> None:
    """drbdadm and drbdsetup do not come back; what runs, runs."""
    world.hosts[host].drbd_answers = False


@action
def drbd_answers(world: "World", host: str) -> None:
    world.hosts[host].drbd_answers = True


@action
def exporter_dies(world: "World", host: str) -> None:
    world.hosts[host].exporter_works = False


@action
def exporter_starts(world: "World", host: str) -> None:
    world.hosts[host].exporter_works = True


@action
def lies(world: "World", host: str, where: str, vm: str, what: str) -> None:
    """It says that from now on: liar.CLAIMS."""
    there = world.hosts[host]
    there.liar = there.liar or Liar(there)
    there.liar.claim(where, vm, what)
    world.oracle.liars.add(host)


@action
def asks(world: "World", host: str, hook: str, vm: str, peer: str, role: str) -> None:
    """It asks the arbiter by itself, as if DRBD there had run this hook."""
    there = world.hosts[host]
    world.oracle.liars.add(host)
    if there.on:
        liar = there.liar or Liar(there)
        world.loop.spawn(there.process, lambda: liar.ask(hook, vm, peer, role), f"asks {hook}")


@action
def honest(world: "World", host: str) -> None:
    """It says what is so again."""
    world.hosts[host].liar = None


# ---- networks ------------------------------------------------------------------------------------------------


@action
def cut_management(world: "World", host: str) -> None:
    world.net.cut_link(MANAGEMENT, MONITOR, host)


@action
def cut_management_one_way(world: "World", source: str, target: str) -> None:
    world.net.cut.add((MANAGEMENT, source, target))


@action
def slow_management(world: "World", host: str, seconds: str) -> None:
    """Each way takes so much longer."""
    for way in ((MONITOR, host), (host, MONITOR)):
        world.net.slow[(MANAGEMENT, *way)] = float(seconds)


@action
def cut_replication(world: "World", one: str, other: str) -> None:
    world.net.cut_link(REPLICATION, one, other)


@action
def cut_replication_one_way(world: "World", source: str, target: str) -> None:
    world.net.cut.add((REPLICATION, source, target))


@action
def cut_off(world: "World", host: str) -> None:
    """From everything."""
    cut_management(world, host)
    world.net.cut_link(MANAGEMENT, GATEWAY, host)
    for other in world.hosts:
        if other != host:
            cut_replication(world, host, other)


@action
def heal_replication(world: "World", one: str, other: str) -> None:
    """That link alone."""
    world.net.cut -= {(REPLICATION, one, other), (REPLICATION, other, one)}


@action
def heal_networks(world: "World") -> None:
    world.net.heal()


# ---- disks ---------------------------------------------------------------------------------------------------


@action
def disk_fails(world: "World", host: str, vm: str) -> None:
    node = world.hosts[host].nodes[vm]
    node.md.broken = True
    if world.hosts[host].works and node.attached:
        node.disk_gone()
        world.log(f"{node}: its disk has failed")


@action
def disk_mended(world: "World", host: str, vm: str) -> None:
    """As the docs say: `vmheal-fence-peer attach RESOURCE && drbdadm attach RESOURCE`; of DRBD 9 only that."""
    there = world.hosts[host]
    node = there.nodes[vm]
    node.md.broken = False
    if isinstance(node, Replica):
        there.drbdadm("attach", vm) if there.on and node.up else None
    elif there.on and node.up and not node.attached:
        there.hook(
            "attach", node, lambda status: _attach_and_connect(world, host, vm) if status == 0 else None
        )


def _attach_and_connect(world: "World", host: str, vm: str) -> None:
    there = world.hosts[host]
    there.drbdadm("attach", vm)
    there.drbdadm("connect", vm)


# ---- VMs -----------------------------------------------------------------------------------------------------


@action
def vm_crashes(world: "World", vm: str) -> None:
    for host in world.hosts.values():
        if host.works:
            host.domains[vm].crash() if vm in host.domains else None


@action
def guest_is_deaf(world: "World", vm: str) -> None:
    """It does not shut down when it is told to."""
    for host in world.hosts.values():
        if vm in host.domains:
            host.domains[vm].deaf = True


# ---- the actuator and monitoring ---------------------------------------------------------------------------


@action
def actuator_dies(world: "World") -> None:
    world.actuator.kill()


@action
def actuator_starts(world: "World") -> None:
    world.actuator.start()


@action
def actuator_dies_at_write(world: "World", number: str) -> None:
    """Counted from now; n before the write is made, n.5 after it. It is started again by its unit."""
    journal = world.actuator.journal
    if world.actuator.runs and journal is not None:
        journal.dies_at = journal.writes + float(number)


@action
def actuator_dies_at_step(world: "World", kind: str) -> None:
    """After the write that makes a step of this kind a plan's next one, before its call."""
    assert kind in KINDS
    if world.actuator.journal is not None:
        world.actuator.journal.dies_at_step = kind


@action
def journal_full(world: "World") -> None:
    if world.actuator.journal is not None:
        world.actuator.journal.full = True


@action
def journal_has_room(world: "World") -> None:
    if world.actuator.journal is not None:
        world.actuator.journal.full = False


@action
def call_goes_wrong(world: "World", host: str, how: str, call: str = "") -> None:
    """The next call of the actuator's that changes something there, or the next such one: ports.MISHAPS."""
    assert how in MISHAPS
    world.hosts[host].mishap = how, call


@action
def prometheus_dies(world: "World") -> None:
    world.monitoring.prometheus_works = False


@action
def prometheus_starts(world: "World") -> None:
    world.monitoring.prometheus_works = True


@action
def alertmanager_dies(world: "World") -> None:
    world.monitoring.alertmanager_works = False


@action
def alertmanager_starts(world: "World") -> None:
    world.monitoring.alertmanager_works = True


@action
def alerts_late(world: "World", seconds: str) -> None:
    """Each notification takes up to so much longer; so they overtake each other."""
    world.monitoring.webhook_late = float(seconds)


@action
def alerts_said_to_have_ended(world: "World") -> None:
    """Alertmanager tells of each alert that fires that it does not any more, which is not so."""
    world.monitoring.say_ended()


@action
def alerts_lost(world: "World", likely: str) -> None:
    world.monitoring.webhook_loses = float(likely)


@action
def alerts_doubled(world: "World", likely: str) -> None:
    world.monitoring.webhook_doubles = float(likely)


@action
def clock_jumps(world: "World", seconds: str) -> None:
    """The wall clock of the monitoring machine."""
    world.clock_jump += float(seconds)


# ---- people --------------------------------------------------------------------------------------


@action
def by_hand(world: "World", host: str, verb: str, vm: str) -> None:
    """`drbdadm VERB RESOURCE`, `virsh start|destroy|undefine VM`, or a program that opens the device and closes it.

    And `quorum-off`, of DRBD 9: `drbdadm resource-options --quorum=off RESOURCE`.
    """
    there = world.hosts[host]
    if not there.on:
        return

    def types() -> None:
        match verb:
            case "start":
                world.log(f"{host}: virsh start {vm}: {there.domains[vm].start(by_hand=True) or 'done'}")
            case "destroy":
                there.domains[vm].destroy()
            case "undefine" if there.domains[vm].id is None:
                there.domains[vm].defined = False
            case "undefine":
                pass  # it would be a transient domain then; the model knows none
            case "quorum-off" if isinstance(node := there.nodes[vm], Replica):
                node.quorum_off()
            case "open" if there.nodes[vm].role == PRIMARY:
                there.nodes[vm].holders.add("a program")
            case "open":
                pass  # DRBD lets nobody open a Secondary
            case "close":
                there.nodes[vm].holders.discard("a program")
            case "resume-io" if there.nodes[vm].suspended and there.nodes[vm].role == PRIMARY:
                there.drbdadm(verb, vm)
                if not there.nodes[vm].suspended:
                    world.oracle.thawed.add((vm, host))
            case _:
                there.drbdadm(verb, vm)

    world.loop.spawn(there.process, types, f"by hand {verb}")


@action
def order(world: "World", name: str, *more: str) -> None:
    """What an operator orders: `order migrate domain=vm1 to=v02`, `order drain host=v01`."""
    said = dict(word.split("=", 1) for word in more)
    seconds = {"seconds": float(said.pop("seconds"))} if "seconds" in said else {}
    body = {"order": name, "by": "operator", "reason": "the schedule says so", **said, **seconds}
    world.actuator.order(json.dumps(body).encode())


def mend_everything(world: "World") -> None:
    """The end of all faults: what a person mends, and nothing that vmheal should."""
    world.net.heal()
    world.monitoring.webhook_loses = world.monitoring.webhook_doubles = 0.0
    world.monitoring.webhook_late = 0.0
    prometheus_starts(world)
    alertmanager_starts(world)
    journal_has_room(world)
    actuator_starts(world)
    if world.actuator.journal is not None:
        world.actuator.journal.dies_at, world.actuator.journal.dies_at_step = None, ""
    for host in world.hosts.values():
        host.wake()
        host.start_libvirtd()
        host.exporter_works = host.drbd_answers = True
        host.mishap, host.liar = ("", ""), None
        host.dies_at_grant = False
        host.power_on()
        for domain in host.domains.values():
            domain.node.holders.discard("a program")
    for vm, pair in world.pairs.items():
        if isinstance(pair, Group):
            world.loop.spawn(Process("person"), partial(_mend_group, world, vm, pair), "person")
            continue
        broken = [node for node in pair.nodes if node.md.broken or (node.up and not node.attached)]
        if any(node.role == PRIMARY for node in broken) or (
            len(broken) == len(pair.nodes) and all(node.up for node in broken)
        ):
            world.loop.spawn(Process("person"), partial(_mend_from_scratch, vm, broken), "person")
        else:
            for node in broken:
                disk_mended(world, node.host.name, vm)


def _mend_group(world: "World", vm: str, group: Group) -> None:
    """As docs/runbooks say, for as long as hosts come up: what lost ends its VM, is demoted, and connects."""
    end = world.loop.now + MEND_SECONDS
    while world.loop.now < end:
        for node in group.nodes:
            if not node.host.on or not node.up:
                continue
            if node.md.broken or not (node.attached or node.tie):
                disk_mended(world, node.host.name, vm)
            apart = any(it.connection == STAND_ALONE for it in node.links)
            if apart and node.role == PRIMARY and node.without_data:
                node.host.domains[vm].end("destroyed")
                world.log(f"{node.host.name}: drbdadm secondary --force {vm}")
                node.secondary(force=True)
            if apart:
                node.host.drbdadm("connect", vm)
        world.loop.sleep(MEND_PAUSE_SECONDS)


MEND_SECONDS, MEND_PAUSE_SECONDS = 120.0, 5.0


def _mend_from_scratch(vm: str, nodes: list[Node]) -> None:
    """As the docs say: end the VM, part, attach, and let them meet (docs/hosts.md)."""
    loop = nodes[0].host.loop
    for node in nodes:
        node.md.broken = False
        node.host.domains[vm].end("destroyed")
    loop.sleep(2.0)
    for node in nodes:
        node.host.drbdadm("secondary", vm)
        node.host.drbdadm("disconnect", vm)
    for node in nodes:
        node.host.hook("attach", node, partial(_attach, node))
    loop.sleep(10.0)
    for node in nodes:
        if node.attached:
            node.host.drbdadm("connect", vm)


def _attach(node: Node, status: int) -> None:
    if status == 0:
        node.host.drbdadm("attach", node.pair.name)


ENDS = {
    *(
        "nothing",
        "power-on",
        "wake",
        "honest",
        "libvirtd-starts",
        "exporter-starts",
        "heal-networks",
        "disk-mended",
    ),
    *(
        "heal-replication",
        "drbd-answers",
        "actuator-starts",
        "journal-has-room",
        "prometheus-starts",
        "alertmanager-starts",
    ),
}
LIES = {"lies", "asks"}
BEGINNINGS = sorted(set(ACTIONS) - ENDS - LIES)
"""What goes wrong; the others are the ends of it, and what a host says that was taken over."""

# ---- schedules by chance -------------------------------------------------------------------------------------


WEIGHTS = {
    "power": 5, "freeze": 4, "management": 2, "management1": 1, "replication": 6, "replication1": 2, "off": 4,
    "disk": 4, "crash": 2, "crashes": 1, "actuator": 2, "write": 4, "libvirtd": 1, "exporter": 1, "lost": 1,
    "doubled": 1, "full": 1, "clock": 1, "hand": 4, "migrate": 3, "drain": 1, "slow": 1,
    "call": 4, "prometheus": 1, "alertmanager": 1, "late": 1, "drbd": 1, "ended": 1, "deaf": 1,
}  # fmt: skip
"""How often each kind of fault: what DRBD and the arbiter must get right comes most."""


UNTOUCHED = 0.6
"""So often is a schedule with a liar about the VM that has no replica on it."""
MOST_LIES = 8


def by_chance(random: Random, site: Site, most: int) -> tuple[Happening, ...]:
    """A schedule of up to so many faults, each of which may end again; mostly around one VM and its hosts.

    Of few kinds each: those that need each other come together more often than if all were drawn each time
    ("swarm testing", Groce et al., 2012).
    """
    found: list[Happening] = []
    vm = random.choice(sorted(site.vms))
    if site.liar and random.random() < UNTOUCHED:
        vm = next(it for it in sorted(site.vms) if site.liar not in site.vms[it])
    kinds = {kind: weight for kind, weight in WEIGHTS.items() if random.random() < 0.3} or WEIGHTS
    at = random.uniform(0, 5)
    for _ in range(random.randint(1, most)):
        around = vm if random.random() < 0.9 else random.choice(sorted(site.vms))
        kind = random.choices(list(kinds), weights=list(kinds.values()))[0]
        found += fault(random, site, around, at, kind)
        at += random.choice([random.uniform(0, 3), random.uniform(1, 12), random.uniform(5, 40)])
    if site.liar:
        found += [_lie(random, site, random.uniform(0, at)) for _ in range(random.randint(1, MOST_LIES))]
    found.append(line(at + random.choice([random.uniform(0, 10), random.uniform(10, 60)]), "nothing"))
    return tuple(sorted(found, key=lambda it: it.at))


def _lie(random: Random, site: Site, at: float) -> Happening:
    vm = random.choice(sorted(site.vms))
    if site.liar in site.vms[vm] and random.random() < 0.2:  # as root there
        return line(at, "by-hand", site.liar, random.choice(["resume-io", "primary", "start", "connect"]), vm)
    if random.random() < 0.4:
        hook, peer = random.choice(HOOKS), random.choice(site.hosts)
        return line(at, "asks", site.liar, hook, vm, peer, random.choice([PRIMARY, "Secondary"]))
    where = random.choice(sorted(CLAIMS))
    return line(at, "lies", site.liar, where, vm, random.choice(CLAIMS[where]))


def fault(random: Random, site: Site, vm: str, at: float, kind: str) -> list[Happening]:  # noqa: PLR0911  a table
    """One of a kind of ``WEIGHTS``, or that only an aim has (``pointed``), and its end."""
    one, other = random.sample(site.replicas(vm), 2)
    host = one
    lasts = random.choice([random.uniform(0.2, 4), random.uniform(3, 30), random.uniform(20, 90)])

    def pair(begin: str, end: str, *words: str) -> list[Happening]:
        return [line(at, begin, *words), line(at + lasts, end, *words)]

    def until_healed(name: str, *words: str) -> list[Happening]:
        return [line(at, name, *words), line(at + lasts, "heal-networks")]

    match kind:
        case "power":
            return pair("power-off", "power-on", host)
        case "freeze":
            return pair("freeze", "wake", host)
        case "management":
            return until_healed("cut-management", host)
        case "management1":
            ends = [MONITOR, host]
            random.shuffle(ends)
            return until_healed("cut-management-one-way", *ends)
        case "slow":
            return until_healed("slow-management", host, f"{random.choice([0.3, 1, 3]):g}")
        case "replication":
            return until_healed("cut-replication", one, other)
        case "replication1":
            return until_healed("cut-replication-one-way", one, other)
        case "off":
            return until_healed("cut-off", host)
        case "disk":
            return pair("disk-fails", "disk-mended", other if one == site.ties.get(vm) else one, vm)
        case "crash":
            return [line(at, "vm-crashes", vm)]
        case "crashes":
            return [line(at + number * 25, "vm-crashes", vm) for number in range(5)]
        case "actuator":
            return pair("actuator-dies", "actuator-starts")
        case "write":  # in what comes next
            number = random.randint(1, 14) + random.choice([0, 0.5])
            then = random.choice(
                ["power", "crash", "replication", "off", "migrate", "disk", "freeze", "drain"]
            )
            dies = line(at, "actuator-dies-at-write", f"{number:g}")
            return [dies, *fault(random, site, vm, at + 0.1, then)]
        case "step":
            dies = line(at, "actuator-dies-at-step", random.choice(KINDS))
            return [dies, *fault(random, site, vm, at + 0.1, random.choice(["power", "crash", "migrate"]))]
        case "grant":
            ends = [line(at + lasts, "power-on", other), line(at + lasts, "power-on", one)]
            return [line(at, "power-off-at-grant", other), line(at + 0.1, "power-off", one), *ends]
        case "deaf":
            return [line(at, "guest-is-deaf", vm), *fault(random, site, vm, at + 0.1, "migrate")]
        case "drbd":
            return pair("drbd-hangs", "drbd-answers", host)
        case "libvirtd":
            return pair("libvirtd-dies", "libvirtd-starts", host)
        case "exporter":
            return pair("exporter-dies", "exporter-starts", host)
        case "lost":
            return [line(at, "alerts-lost", "0.5")]
        case "doubled":
            return [line(at, "alerts-doubled", "0.7")]
        case "late":
            return [line(at, "alerts-late", f"{random.choice([2, 20, 60])}")]
        case "ended":
            return [line(at + lasts, "alerts-said-to-have-ended")]
        case "prometheus" | "alertmanager" as name:
            return pair(f"{name}-dies", f"{name}-starts")
        case "call":
            return [line(at, "call-goes-wrong", host, random.choice(MISHAPS))]
        case "full":
            return pair("journal-full", "journal-has-room")
        case "migrate":
            return [line(at, "order", "migrate", f"domain={vm}")]
        case "drain":
            return [
                line(at, "order", "drain", f"host={host}"),
                line(at + lasts, "order", "undrain", f"host={host}"),
            ]
        case "clock":
            return [line(at, "clock-jumps", f"{random.choice([-3600, -30, 30, 3600])}")]
        case _:
            verb = random.choice(
                [
                    "primary",
                    "secondary",
                    "disconnect",
                    "connect",
                    "start",
                    "destroy",
                    "down",
                    "detach",
                    "undefine",
                    "open",
                ]
            )
            if verb == "open":
                return [line(at, "by-hand", host, verb, vm), line(at + lasts, "by-hand", host, "close", vm)]
            return [line(at, "by-hand", random.choice(site.vms[vm]), verb, vm)]


def line(at: float, name: str, *words: str) -> Happening:
    """To the hundredth of a second."""
    return Happening(round(at, 2), name, words)
