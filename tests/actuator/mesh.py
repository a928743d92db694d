"""Many hosts and VMs behind the actuator's ports, and a rack of them that is lost: for what grows with the site.

Each VM has a home and one mirror, in another rack. Hosts answer as they are; a call costs what its own host
holds, never what the site holds, so what grows faster is the actuator's.
"""

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from actuator.adapters.sqlite import SqliteJournal
from actuator.arbitrate import Arbiter, Question
from actuator.config import Settings
from actuator.contact import Contacts
from actuator.core.arbiter import Verdict
from actuator.model import (
    Authority,
    Capacity,
    Definition,
    Disk,
    DomainRecord,
    DomainState,
    DomainView,
    Done,
    Failed,
    HostRecord,
    HostView,
    Indeterminate,
    Notification,
    Parting,
)
from actuator.ports import Unanswered
from exporter.drbd import ConnectionState, DiskState, Role, Snapshot
from exporter.drbd_configuration import Generations
from tests.actuator.build import connection, device, resource, snapshot
from tests.actuator.world import Clock, set_up

VMS_PER_HOST = 20
HOSTS_PER_RACK = 20
MIB = 1 << 20
HOST_BYTES = 512 << 30
GENERATION = "A" * 16


@dataclass(frozen=True)
class Vm:
    """One of the mesh."""

    home: str
    mirror: str
    priority: int
    memory_mib: int


@dataclass
class Mesh:
    """All hypervisors, Prometheus and Alertmanager.

    Attributes:
        vms: by name.
        rack: the hosts that are lost at once.
        latency_seconds: what each call to a host that answers takes; a lost one takes all its time.
        pause: how time passes meanwhile.
        runs: by VM: where it runs.
        lost: hosts that do not answer.
        under_way: by host: calls that change something there, now.
        most: by host: as many of them as there ever were at the same time.
        starts: VMs in the order in which they were started, with their hosts.
        calls: how often each call was made.
    """

    vms: dict[str, Vm]
    hosts: tuple[str, ...]
    rack: tuple[str, ...]
    latency_seconds: float = 0.0
    pause: Callable[[float], object] = lambda seconds: None
    journal: object = None
    runs: dict[str, str] = field(default_factory=dict)
    primary: dict[str, str] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    under_way: Counter = field(default_factory=Counter)
    most: Counter = field(default_factory=Counter)
    starts: list[tuple[str, str]] = field(default_factory=list)
    calls: Counter = field(default_factory=Counter)
    alertmanager: tuple = ()
    sent: list = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runs = {name: vm.home for name, vm in self.vms.items()}
        self.primary = dict(self.runs)
        self.on = defaultdict(list)
        for name, vm in self.vms.items():
            self.on[vm.home].append(name)
            self.on[vm.mirror].append(name)
        self._said: dict[str, Snapshot] = {}
        self._lock = threading.Lock()
        self.free_mib: dict[str, int] = {}

    # ---- what happens to it

    def lose_rack(self) -> None:
        """All at once: nobody hears of its hosts any more."""
        self.lost |= set(self.rack)
        self._said.clear()

    @property
    def leaving(self) -> list[str]:
        """The VMs of the lost rack."""
        return [name for name, vm in self.vms.items() if vm.home in self.rack]

    # ---- how a call goes

    def _read(self, call: str, host: str, timeout_seconds: float) -> None:
        self.calls[call] += 1
        if host in self.lost:
            if self.latency_seconds:
                self.pause(timeout_seconds)
            raise Unanswered(f"{host} does not answer")
        if self.latency_seconds:
            self.pause(self.latency_seconds)

    def _change(self, call: str, host: str, effect: Callable[[], object]):
        self.calls[call] += 1
        if host in self.lost:
            return Indeterminate(f"{host} does not answer")
        with self._lock:
            self.under_way[host] += 1
            self.most[host] = max(self.most[host], self.under_way[host])
        if self.latency_seconds:
            self.pause(self.latency_seconds)
        try:
            return effect() or Done()
        finally:
            with self._lock:
                self.under_way[host] -= 1
                self._said.pop(host, None)

    # ---- Hypervisor

    def look(self, host, domain, *, timeout_seconds):
        self._read("look", host, timeout_seconds)
        runs = self.runs[domain] == host
        disk = Disk("vda", f"/dev/drbd/by-res/{domain}/0", attached=True if runs else None)
        state = DomainState.RUNNING if runs else DomainState.SHUTOFF
        return DomainView(domain, domain, state, "unknown", 7 if runs else None, (disk,))

    def states(self, host, *, timeout_seconds):
        self._read("states", host, timeout_seconds)
        return {
            name: DomainState.RUNNING if self.runs[name] == host else DomainState.SHUTOFF
            for name in self.on[host]
        }

    def definition(self, host, domain, *, timeout_seconds):
        self._read("definition", host, timeout_seconds)
        return self.xml(domain)

    def _peer(self, host: str, name: str) -> str:
        vm = self.vms[name]
        return vm.mirror if host == vm.home else vm.home

    def xml(self, domain: str) -> str:
        return (
            f"<domain type='kvm'><name>{domain}</name><memory unit='KiB'>{self.vms[domain].memory_mib << 10}</memory>"
            f"<devices><disk type='block' device='disk'><source dev='/dev/drbd/by-res/{domain}/0'/>"
            "<target dev='vda' bus='virtio'/></disk></devices></domain>"
        )

    def capacity(self, host, *, timeout_seconds):
        self._read("capacity", host, timeout_seconds)
        return Capacity(self._free_bytes(host), HOST_BYTES, 32)

    def _free_bytes(self, host: str) -> int:
        return HOST_BYTES - sum(
            self.vms[it].memory_mib * MIB for it in self.on[host] if self.runs[it] == host
        )

    def host_view(self, host, *, timeout_seconds):
        self._read("host_view", host, timeout_seconds)
        return HostView()

    def setup(self, host, *, timeout_seconds):
        self._read("setup", host, timeout_seconds)
        return set_up(host, tuple(self.vms))

    def start(self, host, domain, *, timeout_seconds):
        def effect():
            if self.primary.get(domain) != host:
                return Failed("Wrong medium type", 38)
            self.runs[domain] = host
            self.starts.append((domain, host))
            return None

        return self._change("start", host, effect)

    # ---- Storage

    def status(self, host, *, timeout_seconds):
        self._read("status", host, timeout_seconds)
        if host not in self._said:
            self._said[host] = snapshot(*(self._resource(host, name) for name in self.on[host]))
        return self._said[host]

    def _resource(self, host: str, name: str):
        peer, here = self._peer(host, name), self.primary.get(name) == host
        if peer in self.lost:
            link = connection(peer, ConnectionState.CONNECTING, Role.UNKNOWN, DiskState.D_UNKNOWN)
        else:
            link = connection(peer, peer_role=Role.SECONDARY if here else Role.PRIMARY)
        return resource(
            name, Role.PRIMARY if here else Role.SECONDARY, connections=(link,), devices=(device(),)
        )

    def armed(self, host, *, timeout_seconds):
        self._read("armed", host, timeout_seconds)
        return dict.fromkeys(self.on[host], Parting.ASKS)

    def generations(self, host, resource, *, timeout_seconds):
        self._read("generations", host, timeout_seconds)
        return (Generations(GENERATION),)

    def promote(self, host, resource, *, timeout_seconds):
        def effect():
            if not self._granted(host, resource):
                return Failed("Refusing to be Primary while peer is not outdated", -7)
            self.primary[resource] = host
            return None

        return self._change("promote", host, effect)

    def _granted(self, host: str, name: str) -> bool:
        """DRBD runs its handler, which asks the arbiter."""
        peer = self._peer(host, name)
        arbiter = Arbiter(self.journal, Clock(), Contacts(0.0))
        who = {"hook": "fence-peer", "resource": name, "peer": peer, "boot_id": "0", "began_ns": 1}
        version = arbiter.reply(host, Question(**who)).version
        asked = Question(**who, version=version, role="Secondary", up_to_date=True)
        return arbiter.reply(host, asked).verdict is Verdict.GRANT

    def demote(self, host, resource, *, timeout_seconds):
        return self._change("demote", host, partial(self.primary.pop, resource, None))

    def connect(self, host, resource, *, timeout_seconds):
        return self._change("connect", host, lambda: None)

    # ---- Fencing

    def power_off(self, host, *, timeout_seconds):
        self.calls["power_off"] += 1
        return Done("off")

    def is_on(self, host, *, timeout_seconds):
        self.calls["is_on"] += 1
        return host not in self.lost

    # ---- Alerts; Prometheus: the same

    def send(self, alerts, *, timeout_seconds):
        self.calls["send"] += 1
        self.sent.extend(alerts)

    def firing(self, *, timeout_seconds):
        return tuple(self.alertmanager)

    def watchdog(self, *, timeout_seconds):
        return True

    def silences(self, *, timeout_seconds):
        return ()

    def last_words(self, host, *, before, timeout_seconds):
        return {(name, self._peer(host, name)): True for name in self.on[host]}


def mesh(hosts: int, *, seed: int = 1, **more) -> Mesh:
    """One of so many hosts, a tenth of them in each rack; VMs of all sizes and priorities."""
    chance = random.Random(seed)
    names = [f"h{number:03}" for number in range(hosts)]
    rack = max(1, hosts // 10)
    vms = {}
    for number, home in enumerate(names):
        first = (number // rack + 1) * rack  # of the next rack
        for _ in range(VMS_PER_HOST):
            mirror = names[(first + chance.randrange(hosts - rack)) % hosts]
            vms[f"vm{len(vms):04}"] = Vm(
                home, mirror, chance.randrange(4), chance.choice((1024, 2048, 4096, 8192))
            )
    return Mesh(vms, tuple(names), tuple(names[:rack]), **more)


def settings_of(it: Mesh, path, *, agents: bool, arbiter: bool = True, **more) -> Settings:
    """The actuator's configuration of it; by the words each host has a fence agent, and asks the arbiter."""
    server = {"url": "http://localhost:1"}
    host = {
        "address": "localhost",
        "libvirt_uri": "qemu:///system",
        **({"arbiter_token_file": "/nonexistent/token"} if arbiter else {}),
        **({"fence": {"agent": "fence_dummy"}} if agents else {}),
    }
    return Settings.model_validate(
        {
            "mode": "enforce",
            "journal": {"path": str(path)},
            "webhook": {"token_file": "/nonexistent/token"},
            "alertmanager": server,
            "prometheus": server,
            "ssh": {"key_file": "/nonexistent/key", "known_hosts_file": "/nonexistent/hosts"},
            "hosts": dict.fromkeys(it.hosts, host),
            "domains": {
                name: {"host": vm.home, "hosts": [vm.home, vm.mirror], "priority": vm.priority}
                for name, vm in it.vms.items()
            },
            "failover": {"max_dark_hosts": len(it.rack)},
            **more,
        }
    )


def fill(journal: SqliteJournal, it: Mesh) -> None:
    """What the journal knows of a site that has run for a while: records, authorities, definitions."""
    for name, vm in it.vms.items():
        both = frozenset((vm.home, vm.mirror))
        authority = Authority(
            name, tuple(sorted(both)), 1, vm.home, both, armed=both, generations=(GENERATION,)
        )
        journal.commit(
            record=DomainRecord(name, 1, vm.home),
            definition=Definition(name, 1, it.xml(name), vm.home, 0.0),
            authorities=[authority],
        )
    journal.commit(hosts=[HostRecord(host, 1) for host in it.hosts])


def host_failures(it: Mesh, starts_at: float) -> list[Notification]:
    """An alert for each host of the lost rack."""
    return [
        Notification(
            f"failure of {host}",
            starts_at,
            True,
            {"alertname": "HostFailure", "action": "failover", "host": host, "severity": "critical"},
        )
        for host in it.rack
    ]
