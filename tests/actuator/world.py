"""Two hosts in memory behind the actuator's ports, with faults at every call, and the actuator on them.

Time is virtual and everything runs in one thread, so a run is the same each time. It behaves like the captured
outputs of real DRBD and libvirt for what a restart meets; the real ones are in tests/adapters and tests/lab.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from actuator.adapters.sqlite import SqliteJournal
from actuator.alarm import Alarm
from actuator.arbitrate import Arbiter, Question
from actuator.config import Settings
from actuator.contact import Contacts
from actuator.core.arbiter import Verdict
from actuator.execute import Executor
from actuator.keep import Keeper
from actuator.model import (
    Authority,
    Capacity,
    Disk,
    DomainRecord,
    DomainState,
    DomainView,
    Done,
    Event,
    Failed,
    HandlerReport,
    HostSetup,
    HostView,
    Indeterminate,
    Notification,
    OutgoingAlert,
    Parting,
    PlanStatus,
    ResourceSetup,
    Silence,
)
from actuator.observe import Observer
from actuator.ports import JournalError, Ports, Unanswered
from actuator.protected import Protected
from actuator.reconcile import Reconciler
from actuator.slots import Slots
from actuator.worker import Worker
from exporter.drbd import ConnectionState, DiskState, Role, Snapshot
from exporter.drbd_configuration import Generations
from tests.actuator.build import UUID, connection, device, resource, snapshot

EPOCH = 1_700_000_000.0
PEER = {"v01": "v02", "v02": "v01"}
BOTH = frozenset(PEER)
IN_ORDER = Authority("voms01", ("v01", "v02"), 1, "v01", BOTH, armed=BOTH)
"""As the arbiter's journal has it while all is well."""


NETWORKS = (
    "<interface type='network'><source network='default'/></interface>"
    "<interface type='bridge'><source bridge='br0'/></interface>"
)


def set_up(host: str, names: tuple[str, ...] = ("voms01", "data")) -> HostSetup:
    """A host that is set up as it should be."""
    resource = ResourceSetup(notices_seconds=1.5, handler="/usr/bin/vmheal-fence-peer")
    links = {"lo": True, "br0": True}
    report = HandlerReport(host=host, isolation_seconds=5.0, links=links, cpu="AMD EPYC 7543")
    return HostSetup(dict.fromkeys(names, resource), report)


class Killed(BaseException):
    """The actuator's process ends here, as by SIGKILL."""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.offset = EPOCH

    def wall(self) -> float:
        return self.offset + self.now

    def monotonic(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


class Serial:
    """``ports.Tasks`` in one thread: gathered calls one after the other, spawned ones when there is time."""

    def __init__(self) -> None:
        self.queue: deque[Callable[[], None]] = deque()

    def gather(self, calls, *, timeout_seconds):
        answers = {}
        for key, call in calls.items():
            try:
                answers[key] = call()
            except Unanswered as error:
                answers[key] = error
        return answers

    def spawn(self, name, call):
        self.queue.append(call)


@dataclass
class Replica:
    """One resource on one host."""

    role: Role = Role.SECONDARY
    disk: DiskState = DiskState.UP_TO_DATE
    generations: tuple[Generations, ...] = (Generations("A" * 16),)


@dataclass
class Guest:
    """The domain on one host."""

    state: DomainState = DomainState.SHUTOFF
    id: int | None = None
    reason: str = "unknown"
    has_disks: bool = True


@dataclass
class World:
    """v01 runs voms01; what goes wrong is set before or while it runs.

    Attributes:
        answers: for calls that change something, by name: what they say instead, once each, and whether they
            have their effect all the same.
        silent: hosts that do not answer.
        parting: how DRBD is configured on both hosts.
        third: of a resource with quorum, the host that keeps its tiebreaker when the two lose each other.
        third_reached: it is not down.
        drifted: hosts where the domain is defined otherwise.
        last_words: what Prometheus has heard of a lost host; None: that all was well.
        watching: Alertmanager shows the alert Watchdog.
        free_mib: the memory that each host has free; without a figure it does not tell. The domain needs 1024.
        journal: where DRBD's handler on a host asks the arbiter, when it does.
        agent: what the fence agent says; None: it works.
        mute_agent: why it does not say whether a host is on.
        wrong_plugs: hosts whose fence agent looks at another one, which is off.
        autostarts: hosts whose libvirt starts the domain by itself.
        networks: libvirt's networks that are active, by host.
        epyc: hosts with the processor that the domain asks for.
        setups: how each host is set up; one that is not in it says ``setup_says``.
        devices: what the domain's definition has beside its disks.
        cpu: and of a processor.
        takes: lets the time pass that a read of this name takes on this host.
        out_of_sync_bytes: what DRBD knows to differ.
        problems: what DRBD says that is not understood.
        kill_at: the number of the call (reads included) at which the actuator is killed.
        kill_after: it is killed after the call's effect, not before.
    """

    resources: tuple[str, ...] = ("voms01",)
    first_minor: int = 0
    xen: bool = True
    connected: bool = True
    replicas: dict[tuple[str, str], Replica] = field(default_factory=dict)
    guests: dict[str, Guest] = field(default_factory=dict)
    answers: dict[str, deque] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    journal: object = None
    ran: list = field(default_factory=list)
    undefined: set[str] = field(default_factory=set)
    drifted: set[str] = field(default_factory=set)
    free_mib: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PEER, 8192))
    agent: object = None
    mute_agent: str = ""
    wrong_plugs: set[str] = field(default_factory=set)
    autostarts: set[str] = field(default_factory=set)
    networks: dict[str, set[str]] = field(default_factory=lambda: {host: {"default"} for host in PEER})
    epyc: set[str] = field(default_factory=lambda: set(PEER))
    setups: dict[str, HostSetup] = field(default_factory=lambda: {host: set_up(host) for host in PEER})
    setup_says: str = ""
    devices: str = NETWORKS
    cpu: str = ""
    takes: Callable[[str, str], object] = lambda name, host: None
    out_of_sync_bytes: int | None = None
    problems: tuple = ()
    two_primaries: set[str] = field(default_factory=set)
    alertmanager: list[Notification] | None = field(default_factory=list)
    prometheus: list[Notification] | None = field(default_factory=list)
    silenced: list[Silence] = field(default_factory=list)
    watching: bool = True
    parting: Parting = Parting.ASKS
    third: str = ""
    third_reached: bool = True
    last_words: dict[tuple[str, str], bool] | None = None
    sent: list[OutgoingAlert] = field(default_factory=list)
    on_call: Callable[[str], None] = lambda name: None
    calls: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    kill_at: int | None = None
    kill_after: bool = False
    next_id: int = 10
    started: int = 0
    migrated: list = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in self.resources:
            self.replicas["v01", name] = Replica(Role.PRIMARY)
            self.replicas["v02", name] = Replica()
        self.guests = {"v01": Guest(DomainState.RUNNING, 5), "v02": Guest()}

    # ---- what happens to it

    def crash(self, *, preserved: bool = False, host: str = "v01") -> None:
        guest = self.guests[host]
        guest.state = DomainState.SHUTOFF
        guest.reason = "crashed"
        if not preserved:
            guest.id = None

    def power_cut(self, host: str) -> None:
        """The host is dead: nobody hears of it, and what ran there does not any more."""
        self.silent.add(host)
        self.connected = False
        self.guests[host] = Guest(DomainState.SHUTOFF)
        for name in self.resources:
            self.replicas[host, name].role = Role.SECONDARY

    def cut_off(self, host: str) -> None:
        """Nobody hears of the host, on no network; it runs on, its disks frozen."""
        self.silent.add(host)
        self.connected = False

    @property
    def running(self) -> list[str]:
        return [host for host, guest in self.guests.items() if guest.state is DomainState.RUNNING]

    @property
    def starts(self) -> int:
        return self.calls.count("start")

    def _enter(self, name: str) -> Callable[[], None]:
        """Count the call; kill the actuator before it, or give what kills it after."""
        self.on_call(name)
        self.calls.append(name)
        number = len(self.calls)
        if self.kill_at == number and not self.kill_after:
            self.kill_at = None
            raise Killed

        def leave() -> None:
            if self.kill_at == number:
                self.kill_at = None
                raise Killed

        return leave

    def _change(self, name: str, host: str, effect: Callable[[], object]):
        leave = self._enter(name)
        said, has_effect = self.answers[name].popleft() if self.answers.get(name) else (None, True)
        if host in self.silent:
            said, has_effect = Indeterminate(f"{host} does not answer"), False
        result = effect() if has_effect else None
        leave()
        return said or result or Done()

    # ---- Hypervisor

    def look(self, host, domain, *, timeout_seconds):
        leave = self._enter("look")
        if host in self.silent:
            raise Unanswered(f"{host} does not answer")
        guest = self.guests[host]
        alive = guest.state is DomainState.RUNNING
        if host in self.undefined:
            leave()
            return None
        disks = tuple(
            Disk(
                f"xvd{'abc'[number]}",
                f"/dev/drbd{self.first_minor + number}",
                attached=guest.has_disks if alive else None,
            )
            for number, _ in enumerate(self.resources)
        )
        leave()
        return DomainView(domain, UUID, guest.state, guest.reason, guest.id, disks)

    def states(self, host, *, timeout_seconds):
        self._enter("states")()
        self.takes("states", host)
        if host in self.silent:
            raise Unanswered(f"{host} does not answer")
        return {"voms01": self.guests[host].state}

    def destroy(self, host, domain, domain_id, *, timeout_seconds):
        def effect():
            guest = self.guests[host]
            if guest.state in {DomainState.RUNNING, DomainState.PAUSED} or guest.id not in {None, domain_id}:
                return Failed(f"is {guest.state}, id {guest.id}")
            guest.id = None
            return None

        return self._change("destroy", host, effect)

    def start(self, host, domain, *, timeout_seconds):
        def effect():
            guest = self.guests[host]
            if guest.id is not None:
                return Failed("domain is already active", 55)
            if any(self.replicas[PEER[host], name].role is Role.PRIMARY for name in self.resources) and (
                self.journal is None and not self.third
            ):
                self.violations.append(f"started on {host} while {PEER[host]} may write")
            if other := [running for running in self.running if running != host]:
                self.violations.append(f"started on {host} while it runs on {other}")
            secondary = any(self.replicas[host, name].role is not Role.PRIMARY for name in self.resources)
            if secondary and not self.xen:
                return Failed("Wrong medium type", 38)
            if secondary:
                self.violations.append(f"started on {host} without its disk")
            guest.state, guest.id, guest.has_disks = DomainState.RUNNING, self.next_id, not secondary
            self.next_id += 1
            self.started += 1
            return None

        return self._change("start", host, effect)

    # ---- Storage

    def status(self, host, *, timeout_seconds) -> Snapshot:
        leave = self._enter("status")
        self.takes("status", host)
        if host in self.silent:
            raise Unanswered(f"{host} does not answer")
        peer = PEER[host]
        seen = []
        for minor, name in enumerate(self.resources, self.first_minor):
            mine, its = self.replicas[host, name], self.replicas[peer, name]
            link = connection(
                peer,
                ConnectionState.CONNECTED if self.connected else ConnectionState.CONNECTING,
                its.role if self.connected else Role.UNKNOWN,
                its.disk if self.connected else DiskState.D_UNKNOWN,
            )
            differs = [
                dataclasses.replace(it, out_of_sync_bytes=self.out_of_sync_bytes) for it in link.peer_devices
            ]
            link = dataclasses.replace(link, peer_devices=tuple(differs))
            links = (link, *self._tiebreaker(host))
            disk = device(minor, disk_state=mine.disk, quorum=self._has_quorum(host) if self.third else None)
            seen.append(resource(name, mine.role, devices=(disk,), connections=links))
        leave()
        return snapshot(*seen, problems=self.problems)

    def _has_quorum(self, host) -> bool:
        return self.connected or self.third == host

    def _tiebreaker(self, host):
        if not self.third:
            return ()
        if self._has_quorum(host) and self.third_reached:
            return (connection("v03", peer_role=Role.SECONDARY, peer_disk=DiskState.DISKLESS),)
        return (connection("v03", ConnectionState.CONNECTING, Role.UNKNOWN, DiskState.D_UNKNOWN),)

    def armed(self, host, *, timeout_seconds):
        if host in self.silent:
            raise Unanswered(f"{host} does not answer")
        return dict.fromkeys(self.resources, self.parting)

    def generations(self, host, resource, *, timeout_seconds):
        self._enter("generations")()
        if host in self.silent:
            raise Unanswered(f"{host} does not answer")
        mine, its = self.replicas[host, resource], self.replicas[PEER[host], resource]
        if self.connected and its.role is Role.PRIMARY and mine.disk is DiskState.UP_TO_DATE:
            mine.generations = its.generations
        return mine.generations

    def promote(self, host, resource, *, timeout_seconds):
        def effect():
            its = self.replicas[PEER[host], resource]
            if self.connected and its.role is Role.PRIMARY and resource not in self.two_primaries:
                return Failed("Multiple primaries not allowed by config", -1)
            if self.third and not self._has_quorum(host):
                return Failed("No quorum", -25)
            if not self.connected and self.journal is None and not self.third:
                self.violations.append(f"promoted {resource} on {host} without its peer")
            asks = not self.connected and self.journal is not None and not self.third
            if asks and not self._granted(host, resource):
                return Failed("Refusing to be Primary while peer is not outdated", -7)
            replica = self.replicas[host, resource]
            replica.role = Role.PRIMARY
            if not self.connected:
                replica.generations = tuple(map(self._next_generation, replica.generations))
            return None

        return self._change("promote", host, effect)

    def _next_generation(self, before: Generations) -> Generations:
        """What it writes without its peer."""
        self.next_id += 1
        return Generations(f"{self.next_id:016X}", frozenset({before.current}))

    def demote(self, host, resource, *, timeout_seconds):
        def effect():
            if self.guests[host].state is DomainState.RUNNING:
                return Failed("Device is held open by someone", -12)
            self.replicas[host, resource].role = Role.SECONDARY
            return None

        return self._change("demote", host, effect)

    def _granted(self, host, resource) -> bool:
        """DRBD runs its handler, which asks the arbiter."""
        arbiter = Arbiter(self.journal, Clock(), Contacts(0.0))
        who = {"hook": "fence-peer", "resource": resource, "peer": PEER[host], "boot_id": "0", "began_ns": 1}
        version = arbiter.reply(host, Question(**who)).version
        disk = self.replicas[host, resource].disk is DiskState.UP_TO_DATE
        asked = Question(**who, version=version, role="Secondary", up_to_date=disk)
        return arbiter.reply(host, asked).verdict is Verdict.GRANT

    def allow_two_primaries(self, host, resource, *, allowed, timeout_seconds):
        def effect():
            both = all(self.replicas[each, resource].role is Role.PRIMARY for each in PEER)
            if not allowed and both:
                return Failed("cannot clear allow_two_primaries", 164)
            (self.two_primaries.add if allowed else self.two_primaries.discard)(resource)
            return None

        return self._change("allow_two", host, effect)

    def connect(self, host, resource, *, timeout_seconds):
        return self._change("connect", host, lambda: None)

    def disconnect(self, host, resource, *, timeout_seconds):
        return self._change("disconnect", host, lambda: None)

    def run(self, name, alert, *, timeout_seconds):
        self.ran.append((name, alert.fingerprint, timeout_seconds))
        return self._change("run", "", lambda: Done("3 mails sent"))

    # ---- moves

    def definition(self, host, domain, *, timeout_seconds):
        self._enter("definition")()
        if host in self.silent:
            raise Unanswered(f"{host} does not answer")
        first = self.first_minor + (0 if domain == "voms01" else 100)  # no two have the same disk
        disks = "".join(
            f"<disk type='block' device='disk'><source dev='/dev/drbd{first + number}'/>"
            f"<target dev='xvd{'abc'[number]}'/></disk>"
            for number, _ in enumerate(self.resources)
        )
        if host in self.undefined:
            return None
        disks += "<hostdev/>" * (host in self.drifted)
        kind = "xen" if self.xen else "kvm"
        head = f"<name>{domain}</name><memory unit='KiB'>1048576</memory>{self.cpu}"
        return f"<domain type='{kind}'>{head}<devices>{disks}{self.devices}</devices></domain>"

    def capacity(self, host, *, timeout_seconds):
        self._enter("capacity")()
        if host in self.silent or host not in self.free_mib:
            raise Unanswered(f"{host} does not answer")
        return Capacity(self.free_mib[host] << 20, 64 << 30, 8)

    def define(self, host, domain, xml, *, anew, timeout_seconds):
        def effect():
            self.undefined.discard(host)
            if anew:
                self.drifted.discard(host)

        return self._change("define", host, effect)

    def shut_down(self, host, domain, domain_id, *, timeout_seconds):
        def effect():
            guest = self.guests[host]
            if guest.id not in {None, domain_id}:
                return Failed(f"id {guest.id}")
            self.guests[host] = Guest(DomainState.SHUTOFF)
            return None

        return self._change("shut_down", host, effect)

    def migrate(self, source, target, domain, domain_id, options, *, timeout_seconds, lost):
        def effect():
            if not all(self.replicas[target, name].role is Role.PRIMARY for name in self.resources):
                return Failed("Wrong medium type", 38)
            self.migrated.append(options)
            self.guests[source] = Guest(DomainState.SHUTOFF)
            self.guests[target] = Guest(DomainState.RUNNING, self.next_id)
            self.next_id += 1
            return None

        return self._change("migrate", source, effect)

    def host_view(self, host, *, timeout_seconds):
        self._enter("host_view")()
        if host in self.silent:
            raise Unanswered(f"{host} does not answer")
        autostarted = frozenset({"voms01"}) if host in self.autostarts else frozenset()
        return HostView(autostarted, frozenset(self.networks[host]))

    def cpu_misses(self, host, cpu, *, timeout_seconds):
        self._enter("cpu_misses")()
        if host in self.silent:
            raise Unanswered(f"{host} does not answer")
        assert "<model>EPYC</model>" in cpu.xml
        return "" if host in self.epyc else "Host CPU does not provide required features: svm"

    def setup(self, host, *, timeout_seconds):
        self._enter("setup")()
        if host in self.silent:
            raise Unanswered(f"{host} does not answer")
        if host not in self.setups:
            raise Unanswered(self.setup_says)
        return self.setups[host]

    def power_off(self, host, *, timeout_seconds):
        if self.agent is None:
            self.power_cut(host)
        return self._change("power_off", "", lambda: self.agent)

    def is_on(self, host, *, timeout_seconds):
        self._enter("is_on")()
        if self.mute_agent:
            raise Unanswered(self.mute_agent)
        return host not in self.silent and host not in self.wrong_plugs

    # ---- Alerts

    def send(self, alerts: Sequence[OutgoingAlert], *, timeout_seconds) -> None:
        self._enter("send")()
        if self.alertmanager is None:
            raise Unanswered("Alertmanager: connection refused")
        self.sent.extend(alerts)

    def firing(self, *, timeout_seconds) -> tuple[Notification, ...]:
        self._enter("firing")()
        if self.alertmanager is None:
            raise Unanswered("Alertmanager: connection refused")
        return tuple(dataclasses.replace(alert, source="alertmanager") for alert in self.alertmanager)

    def watchdog(self, *, timeout_seconds) -> bool:
        if self.alertmanager is None:
            raise Unanswered("Alertmanager: connection refused")
        return self.watching

    def silences(self, *, timeout_seconds) -> tuple[Silence, ...]:
        if self.alertmanager is None:
            raise Unanswered("Alertmanager: connection refused")
        return tuple(self.silenced)


@dataclass
class PrometheusOf:
    """``ports.Metrics`` of a world."""

    world: World

    def firing(self, *, timeout_seconds):
        if self.world.prometheus is None:
            raise Unanswered("Prometheus: connection refused")
        return tuple(dataclasses.replace(alert, source="prometheus") for alert in self.world.prometheus)

    def last_words(self, host, *, before, timeout_seconds):
        self.world.calls.append("last_words")
        if self.world.prometheus is None:
            raise Unanswered("Prometheus: connection refused")
        if self.world.last_words is not None:
            return self.world.last_words
        return {(name, PEER[host]): True for name in self.world.resources}


class MortalJournal:
    """The real journal; the actuator is killed at its write number ``kill_at``, before or after it is durable."""

    def __init__(self, journal, *, kill_at=None, kill_after=False, fails=()) -> None:
        self.journal = journal
        self.kill_at = kill_at
        self.kill_after = kill_after
        self.fails = set(fails)
        self.writes = 0

    def __getattr__(self, name):
        return getattr(self.journal, name)

    def _write(self, write) -> None:
        self.writes += 1
        if self.writes in self.fails:
            raise JournalError("disk full")
        if self.writes == self.kill_at and not self.kill_after:
            raise Killed
        write()
        if self.writes == self.kill_at:
            raise Killed

    def receive(self, notifications: Sequence[Notification], *, at: float) -> None:
        self._write(lambda: self.journal.receive(notifications, at=at))

    def commit(self, **change) -> None:
        self._write(lambda: self.journal.commit(**change))


def settings(path, **more) -> Settings:
    server = {"url": "http://localhost:1"}
    host = {"address": "localhost", "libvirt_uri": "test:///default"}
    return Settings.model_validate(
        {
            "mode": "enforce",
            "journal": {"path": str(path)},
            "webhook": {"token_file": "/nonexistent/token"},
            "alertmanager": server,
            "prometheus": server,
            "ssh": {"key_file": "/nonexistent/key", "known_hosts_file": "/nonexistent/hosts"},
            "hosts": {"v01": host, "v02": host},
            "domains": {"voms01": {"host": "v01", "hosts": ["v01", "v02"]}},
        }
        | more
    )


class Machine:
    """The actuator over a world and a journal file; ``kill`` and build another to restart it."""

    def __init__(
        self, world: World, path, clock: Clock, *, config=None, watch=lambda it: it, **journal
    ) -> None:
        self.world = world
        self.config = config or settings(path)
        self.clock = clock
        self.tasks = Serial()
        self.stopping = False
        self._file = SqliteJournal(path)
        self.journal = watch(MortalJournal(self._file, **journal))
        self.ports = Ports(
            world, world, world, world, world, PrometheusOf(world), self.journal, clock, self.tasks
        )
        self.protected = Protected(self.config, self.journal)
        self.alarm = Alarm(self.ports, 5.0)
        self.contacts = Contacts(clock.monotonic())
        observer = Observer(self.ports, self.config.evidence.timeout_seconds, self.contacts)
        limits = self.config.limits
        slots = Slots(limits.plans_per_host, limits.plans, clock, lambda: None, lambda: self.stopping)
        executor = Executor(
            self.ports, observer, self.config, self.protected, self.contacts, slots, lambda: self.stopping
        )
        self.worker = Worker(
            self.ports, self.config, self.protected, executor, slots, self.contacts, self.alarm, lambda: None
        )
        self.keeper = Keeper(self.ports, self.config, self.contacts)
        self.reconciler = Reconciler(
            self.ports, self.config, self.protected, self.worker, self.alarm, self.contacts, self.keeper
        )
        # As after reconcile's first turn: what runs is not moved to where its memory is not known.
        for host, free_mib in world.free_mib.items():
            self.worker.rooms.measured(host, Capacity(free_mib << 20, 64 << 30, 8), clock.now)
        self.worker.rooms.defined("voms01", "<domain><memory unit='KiB'>1048576</memory></domain>")
        self.worker.recover()

    def close(self) -> None:
        self._file.close()

    def receive(self, *notifications: Notification) -> None:
        self.journal.receive(notifications, at=self.clock.wall())
        self.settle()

    def settle(self) -> None:
        """Work until there is nothing to do at this time."""
        for _ in range(1000):
            self.worker.turn()
            if not self.tasks.queue:
                return
            while self.tasks.queue:
                self.tasks.queue.popleft()()
        raise AssertionError("the worker never comes to rest")

    def run(self, seconds: float, *, keeps: bool = False) -> None:
        """Let time pass, with reconcile at its interval, and each second the worker and, if it keeps, the keeper."""
        end = self.clock.now + seconds
        reconciled_at = float("-inf")
        while self.clock.now < end:
            if self.clock.now - reconciled_at >= self.config.reconcile.interval_seconds:
                reconciled_at = self.clock.now
                self.reconciler.turn()
            if keeps:
                self.keeper.turn()
            self.settle()
            self.clock.now += 1.0

    @property
    def record(self) -> DomainRecord:
        return self.protected.record("voms01")

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.timeline]

    @property
    def timeline(self) -> list[Event]:
        return [event for _, event in self._file.timeline(limit=100_000)]


def host_alert(starts_at=EPOCH, *, host="v01", action="failover", fingerprint="h1") -> Notification:
    labels = {"alertname": "HostFailure", "action": action, "host": host, "severity": "critical"}
    return Notification(fingerprint, starts_at, True, labels)


def alert(
    starts_at=EPOCH, *, firing=True, domain="voms01", action="restart", fingerprint="f1"
) -> Notification:
    labels = {
        "alertname": "VMFailure",
        "action": action,
        "host": "v01",
        "domain": domain,
        "severity": "critical",
    }
    return Notification(fingerprint, starts_at, firing, labels)


def assert_ended_well(world: World, machine: Machine) -> None:
    """One VM, with its disks, nothing forbidden on the way, no plan left open."""
    assert world.violations == []
    assert world.running == ["v01"]
    assert world.guests["v01"].has_disks
    assert machine.record.open_plan is None
    assert machine.record.plan is None or machine.record.plan.status in {
        PlanStatus.SUCCEEDED,
        PlanStatus.FAILED,
    }
