"""The actuator's ports over the simulated world."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from actuator.model import (
    CallOutcome,
    Capacity,
    Disk,
    DomainState,
    DomainView,
    Done,
    Failed,
    Indeterminate,
    OutgoingAlert,
    Parting,
)
from actuator.ports import Unanswered
from exporter.drbd import ConnectionState, DiskState, Resource, Role, Snapshot, SuspendReason
from exporter.drbd_configuration import Generations
from tests.actuator.build import connection, device, resource
from tests.simulator.domain import CODES, DESTROY_SECONDS, DOWN
from tests.simulator.drbd import STAND_ALONE, WAITS, Link, Node, Result
from tests.simulator.drbd9 import Replica
from tests.simulator.fibers import EPOCH, Event, Loop, Process
from tests.simulator.network import MANAGEMENT, MONITOR

if TYPE_CHECKING:
    from tests.simulator.host import Host
    from tests.simulator.world import World

T = TypeVar("T")
START_SECONDS = (0.3, 3.0)
SHUT_DOWN_SECONDS = (0.5, 6.0)
MIGRATE_SECONDS = (1.0, 9.0)
POLL_SECONDS = 0.05
MISHAPS = ("fails-before", "fails-after", "hangs", "lies-done", "lies-failed")
"""What may become of the next call that changes something on a host: before its effect, or after it."""


class Clock:
    """Of one run of the actuator."""

    def __init__(self, world: "World", stopping: Event) -> None:
        self._world = world
        self._stopping = stopping

    def wall(self) -> float:
        return EPOCH + self._world.loop.now + self._world.clock_jump

    def monotonic(self) -> float:
        return self._world.loop.now

    def pause(self, seconds: float) -> None:
        self._stopping.wait(seconds)


class Tasks:
    """A fiber for each call that waits. Those that are answered soon are asked by one, one after the other."""

    def __init__(self, loop: Loop, process: Process) -> None:
        self._loop = loop
        self._process = process

    def gather(
        self, calls: Mapping[Any, Callable[[], Any]], *, timeout_seconds: float
    ) -> dict[Any, Any | Unanswered]:
        if not calls:
            return {}
        asking = _Asking(self._loop, self._process, calls)
        asking.go_on()
        asking.done.wait(timeout_seconds)
        late = Unanswered(f"no answer within {timeout_seconds:g} s")
        said = dict(asking.answers)
        return {key: said.get(key, late) for key in calls}

    def spawn(self, name: str, call: Callable[[], None]) -> None:
        self._loop.spawn(self._process, call, name)


class _Asking:
    """Several calls at once, and what they have answered."""

    def __init__(self, loop: Loop, process: Process, calls: Mapping[Any, Callable[[], Any]]) -> None:
        self._loop = loop
        self._process = process
        self._rest = iter(calls.items())
        self._wanted = len(calls)
        self._there_at = 0.0
        """When the latest answer is there."""
        self.answers: dict[Any, Any] = {}
        self.done = Event(loop)

    def go_on(self) -> None:
        """Ask the rest."""
        self._loop.spawn(self._process, self._ask, "ask")

    def _ask(self) -> None:
        """One call after the other; if one waits, another fiber goes on with those after it."""
        loop = self._loop
        fiber = loop.current
        assert fiber is not None
        fiber.leaves = self.go_on
        for key, call in self._rest:
            fiber.late_seconds = 0.0
            try:
                self.answers[key] = call()
            except Unanswered as error:
                self.answers[key] = error
            waited = fiber.leaves is None
            self._there_at = max(self._there_at, loop.now + (0.0 if waited else fiber.late_seconds))
            if len(self.answers) == self._wanted:
                fiber.leaves = None
                self.done.set(self._there_at - loop.now)
            if waited:
                return
        fiber.leaves = None


class _OnHosts:
    def __init__(self, world: "World") -> None:
        self._world = world

    def _ask(self, host: str, seconds: float, what: str, answer: Callable[["Host"], T]) -> T:
        try:
            return self._world.ask(self._world.hosts[host], answer, seconds, what)
        except (TimeoutError, ConnectionError) as error:
            raise Unanswered(f"{what} on {host}: {error}") from None

    def _do(
        self,
        host: str,
        seconds: float,
        what: str,
        effect: Callable[["Host"], CallOutcome],
        lost: Callable[[], bool] | None = None,
    ) -> CallOutcome:
        there = self._world.hosts[host]
        mishap, call = there.mishap
        if call and call != what.replace(" ", "-"):
            mishap = ""
        if mishap:
            there.mishap = "", ""
            self._world.log(f"{what} on {host}: the call {mishap.replace('-', ' ')}")
        match mishap:
            case "fails-before":
                return Failed(f"{what} on {host}: Connection reset by peer")
            case "hangs":
                self._world.loop.sleep(seconds)
                return Indeterminate(f"{what} on {host}: no answer within {seconds:g} s")
            case "lies-done":
                return Done()
        outcome = self._called(there, seconds, what, effect, lost)
        match mishap:
            case "fails-after":
                return Indeterminate(f"{what} on {host}: Connection reset by peer")
            case "lies-failed":
                return Failed(f"{what} on {host}: an unexpected error")
        return outcome

    def _called(
        self,
        there: "Host",
        seconds: float,
        what: str,
        effect: Callable[["Host"], CallOutcome],
        lost: Callable[[], bool] | None,
    ) -> CallOutcome:
        host = there.name
        if there.liar and (said := there.liar.outcome()):
            self._world.log(f"{what} on {host}: it says that it is {said.kind}")
            return said
        try:
            return self._world.call(
                MANAGEMENT, MONITOR, host, lambda: there.answering, lambda: effect(there), seconds, what, lost
            )
        except ConnectionRefusedError as error:
            return Failed(f"{what} on {host}: {error}")
        except (TimeoutError, ConnectionError) as error:
            return Indeterminate(f"{what} on {host}: {error}")


class Hypervisor(_OnHosts):
    """``ports.Hypervisor``."""

    def look(self, host: str, domain: str, *, timeout_seconds: float) -> DomainView | None:
        def answer(it: "Host") -> DomainView | None:
            true = self._view(it, domain)
            return it.liar.view(domain, true) if it.liar else true

        return self._ask(host, timeout_seconds, "look", answer)

    def states(self, host: str, *, timeout_seconds: float) -> Mapping[str, DomainState]:
        def answer(it: "Host") -> Mapping[str, DomainState]:
            self._libvirt(it)
            true = {name: DomainState(domain.seen) for name, domain in it.domains.items() if domain.defined}
            return it.liar.states(true) if it.liar else true

        return self._ask(host, timeout_seconds, "states", answer)

    def destroy(self, host: str, domain: str, domain_id: int, *, timeout_seconds: float) -> CallOutcome:
        def effect(it: "Host") -> CallOutcome:
            found = it.domains[domain]
            if found.id is None:
                return Done()
            if found.id != domain_id or found.state not in DOWN:
                return Failed(f"{domain} is {found.state}, id {found.id}")
            it.loop.sleep(it.loop.random.uniform(*DESTROY_SECONDS))
            found.destroy()
            return Done()

        return self._change(host, timeout_seconds, "destroy", effect)

    def start(self, host: str, domain: str, *, timeout_seconds: float) -> CallOutcome:
        def effect(it: "Host") -> CallOutcome:
            it.loop.sleep(it.loop.random.uniform(*START_SECONDS))
            found = it.domains[domain]
            if not found.defined:
                return Failed("Domain not found", 42)
            said = found.start()
            return Failed(said, CODES[said]) if said else Done()

        return self._change(host, timeout_seconds, "start", effect)

    def shut_down(self, host: str, domain: str, domain_id: int, *, timeout_seconds: float) -> CallOutcome:
        def effect(it: "Host") -> CallOutcome:
            found = it.domains[domain]
            if found.id is not None and found.id != domain_id:
                return Failed(f"{domain} has the id {found.id} now")
            it.loop.sleep(timeout_seconds if found.deaf else it.loop.random.uniform(*SHUT_DOWN_SECONDS))
            if found.deaf:
                return Indeterminate(f"{domain} has not shut down within {timeout_seconds:g} s")
            if found.id == domain_id:
                found.end("shutdown")
            return Done()

        return self._change(host, timeout_seconds + 5, "shut down", effect)

    def definition(self, host: str, domain: str, *, timeout_seconds: float) -> str | None:
        def answer(it: "Host") -> str | None:
            self._libvirt(it)
            found = it.domains[domain]
            true = found.xml if found.defined else None
            return it.liar.definition(domain, true) if it.liar and true else true

        return self._ask(host, timeout_seconds, "definition", answer)

    def define(self, host: str, domain: str, xml: str, *, anew: bool, timeout_seconds: float) -> CallOutcome:
        def effect(it: "Host") -> CallOutcome:
            found = it.domains[domain]
            if not found.defined or anew:
                found.defined, found.xml = True, xml
            return Done()

        return self._change(host, timeout_seconds, "define", effect)

    def capacity(self, host: str, *, timeout_seconds: float) -> Capacity:
        def answer(it: "Host") -> Capacity:
            self._libvirt(it)
            used = sum(1 for _ in it.running())
            return Capacity((16 - used) << 30, 16 << 30, 8)

        return self._ask(host, timeout_seconds, "capacity", answer)

    def migrate(
        self,
        source: str,
        target: str,
        domain: str,
        domain_id: int,
        options: Any,
        *,
        timeout_seconds: float,
        lost: Callable[[], bool],
    ) -> CallOutcome:
        def effect(it: "Host") -> CallOutcome:
            here, there = it.domains[domain], self._world.hosts[target]
            if here.id is None:
                return Indeterminate(f"{domain} does not run on {source}")
            if here.id != domain_id:
                return Failed(f"{domain} has the id {here.id} now")
            if there.domains[domain].id is not None or there.domains[domain].comes is not None:
                return Indeterminate(f"{domain} is on {target} already")
            begun = it.loop.now
            ends = begun + it.loop.random.uniform(*MIGRATE_SECONDS)
            arriving = there.domains[domain]
            arriving.expect(it)
            outcome = move(it, there, begun, ends)  # when it is killed, its target notices later
            if arriving.comes is not None and it.net.both_ways(MANAGEMENT, source, target):
                arriving.expect_no_more()
            return outcome

        def move(  # noqa: PLR0911  as it may end
            it: "Host", there: "Host", begun: float, ends: float
        ) -> CallOutcome:
            while True:
                here = it.domains[domain]
                if not it.libvirt_works:
                    return Indeterminate(f"libvirtd on {source} is gone")
                if here.id != domain_id:
                    return Failed(f"{domain} does not run on {source} any more")
                if not (there.works and it.net.both_ways(MANAGEMENT, source, target)):
                    return Indeterminate("the migration was aborted: the target is not reached")
                if there.domains[domain].comes is None:
                    return Failed("the migration was aborted: the target has given it up")
                if there.nodes[domain].role != "Primary":
                    return Failed("the target cannot open the disk")
                if it.loop.now - begun > timeout_seconds:
                    return Failed("the migration was cancelled: it did not end in time")
                if it.loop.now >= ends and not here.writing:
                    here.move_to(there.domains[domain])
                    return Done()
                it.loop.sleep(POLL_SECONDS)

        return self._change(source, timeout_seconds + 10, "migrate", effect, lost)

    def _change(
        self,
        host: str,
        seconds: float,
        what: str,
        effect: Callable[["Host"], CallOutcome],
        lost: Callable[[], bool] | None = None,
    ) -> CallOutcome:
        def by_libvirt(it: "Host") -> CallOutcome:
            return effect(it) if it.libvirt_works else Failed("failed to connect to the hypervisor")

        return self._do(host, seconds, what, by_libvirt, lost)

    @staticmethod
    def _libvirt(it: "Host") -> None:
        if not it.libvirt_works:
            raise Unanswered(f"libvirtd on {it.name} does not answer")

    def _view(self, it: "Host", domain: str) -> DomainView | None:
        self._libvirt(it)
        found = it.domains.get(domain)
        if found is None or not found.defined:
            return None
        attached = found.has_disk if found.id else None
        disks = tuple(
            Disk("xvda" if minor == found.minor else f"xvd{minor}", f"/dev/drbd{minor}", attached=attached)
            for minor in found.minors
        )
        number, reason = (found.id, found.reason) if found.comes is None else (found.comes, "migration")
        return DomainView(domain, found.uuid, DomainState(found.seen), reason, number, disks)


class Storage(_OnHosts):
    """``ports.Storage``."""

    def status(self, host: str, *, timeout_seconds: float) -> Snapshot:
        if not self._world.hosts[host].drbd_answers:
            self._world.loop.sleep(timeout_seconds)
            raise Unanswered(f"drbdsetup on {host}: no answer within {timeout_seconds:g} s")
        return self._ask(host, timeout_seconds, "events2", snapshot_of)

    def armed(self, host: str, *, timeout_seconds: float) -> Mapping[str, Parting]:
        def answer(it: "Host") -> Mapping[str, Parting]:
            return {name: _parting(node) for name, node in it.nodes.items() if _is_known(node)}

        return self._ask(host, timeout_seconds, "drbdsetup show", answer)

    def generations(self, host: str, resource: str, *, timeout_seconds: float) -> tuple[Generations, ...]:
        def answer(it: "Host") -> tuple[Generations, ...]:
            node = it.nodes.get(resource)
            if node is None:
                raise Unanswered(f"{resource} is not on {host}")
            former = () if isinstance(node, Replica) else (node.md.bitmap, *node.md.history)
            true = (Generations(f"{node.md.current:016X}", frozenset(f"{it:016X}" for it in former if it)),)
            return it.liar.generations(resource, true) if it.liar else true

        return self._ask(host, timeout_seconds, "get-gi", answer)

    def promote(self, host: str, resource: str, *, timeout_seconds: float) -> CallOutcome:
        return self._run(host, "primary", resource, timeout_seconds)

    def demote(self, host: str, resource: str, *, timeout_seconds: float) -> CallOutcome:
        return self._run(host, "secondary", resource, timeout_seconds)

    def allow_two_primaries(
        self, host: str, resource: str, *, allowed: bool, timeout_seconds: float
    ) -> CallOutcome:
        return self._do(
            host,
            timeout_seconds,
            "net-options",
            lambda it: _outcome(it.nodes[resource].allow_two(allowed=allowed)),
        )

    def connect(self, host: str, resource: str, *, timeout_seconds: float) -> CallOutcome:
        def effect(it: "Host") -> CallOutcome:
            node = it.nodes[resource]
            if not node.attached:
                return Failed(f"{resource} on {host} has no disk attached")
            return _outcome(it.drbdadm("connect", resource))

        return self._do(host, timeout_seconds, "connect", effect)

    def disconnect(self, host: str, resource: str, *, timeout_seconds: float) -> CallOutcome:
        def effect(it: "Host") -> CallOutcome:
            node = it.nodes[resource]
            if node.attached or any(map(_is_connected, node.links)):
                return Failed(f"{resource} on {host} has not lost both")
            return _outcome(it.drbdadm("disconnect", resource))

        return self._do(host, timeout_seconds, "disconnect", effect)

    def _run(self, host: str, verb: str, resource: str, timeout_seconds: float) -> CallOutcome:
        if not self._world.hosts[host].drbd_answers:
            self._world.loop.sleep(timeout_seconds)
            return Indeterminate(
                f"drbdadm {verb} {resource} on {host}: no answer within {timeout_seconds:g} s"
            )
        return self._do(
            host, timeout_seconds, f"drbdadm {verb}", lambda it: _outcome(it.drbdadm(verb, resource))
        )


class Fencing:
    """``ports.Fencing``: an agent for each host, as good as the site says."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def power_off(self, host: str, *, timeout_seconds: float) -> CallOutcome:
        world = self._world
        world.loop.sleep(world.loop.random.uniform(0.5, 2.0))
        match world.agents.get(host, "none"):
            case "works":
                world.hosts[host].power_off()
                return Done()
            case "hangs":
                world.loop.sleep(timeout_seconds)
                return Indeterminate("the agent does not end")
            case "lies":
                if world.hosts[host].on:
                    world.log(f"the fence agent of {host} lies: it is not off")
                    world.oracle.agents_that_lied.add(host)
                return Done()
            case "fails":
                return Failed("the agent's device does not answer")
        return Failed(f"{host} has no fence agent")


class NoPrograms:
    """``ports.Programs``: none."""

    def run(self, *_: Any, **__: Any) -> CallOutcome:
        return Failed("no programs here")


class Alerts:
    """``ports.Alerts``."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def firing(self, *, timeout_seconds: float) -> tuple[Any, ...]:
        self._wait()
        return self._world.monitoring.known_to_alertmanager()

    def watchdog(self, *, timeout_seconds: float) -> bool:
        self._wait()
        return True

    def silences(self, *, timeout_seconds: float) -> tuple[Any, ...]:
        self._wait()
        return ()

    def send(self, alerts: Sequence[OutgoingAlert], *, timeout_seconds: float) -> None:
        self._wait()

    def _wait(self) -> None:
        self._world.loop.answer_in(self._world.loop.random.uniform(0.001, 0.02))
        if not self._world.monitoring.alertmanager_works:
            raise Unanswered("Alertmanager does not answer")


class Metrics:
    """``ports.Metrics``."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def firing(self, *, timeout_seconds: float) -> tuple[Any, ...]:
        self._wait()
        return self._world.monitoring.known_to_prometheus()

    def last_words(
        self, host: str, *, before: float, timeout_seconds: float
    ) -> Mapping[tuple[str, str], bool]:
        self._wait()
        return self._world.monitoring.last_words(host)

    def _wait(self) -> None:
        self._world.loop.answer_in(self._world.loop.random.uniform(0.001, 0.02))
        if not self._world.monitoring.prometheus_works:
            raise Unanswered("Prometheus does not answer")


def snapshot_of(host: "Host") -> Snapshot:
    """What events2 says on a host."""
    true = Snapshot(tuple(_resource(node) for node in host.nodes.values() if node.shown))
    return host.liar.snapshot(true) if host.liar else true


def _parting(node: Node | Replica) -> Parting:
    if isinstance(node, Replica):
        return Parting.VOTES if node.votes else Parting.GOES_ON
    return Parting.ASKS if node.pair.fencing else Parting.GOES_ON


def _is_known(node: Node | Replica) -> bool:
    """Whether the kernel says what becomes of a Primary there; 8.4 only with its disk and its connection."""
    if isinstance(node, Replica):
        return node.up
    return node.attached and node.connection != STAND_ALONE


def _is_connected(link: Link) -> bool:
    return link.connection not in {STAND_ALONE, WAITS}


def _resource(node: Node | Replica) -> Resource:
    nine = isinstance(node, Replica)
    why = (SuspendReason.QUORUM if nine else SuspendReason.FENCING,) if node.suspended else ()
    quorum = node.quorum if isinstance(node, Replica) else None
    return _said(node.pair.name, node.pair.minor, node.role, node.disk, why, quorum, node.links)


@cache
def _said(
    name: str,
    minor: int,
    role: str,
    disk: str,
    suspended: tuple[SuspendReason, ...],
    quorum: bool | None,
    links: tuple[Link, ...],
) -> Resource:
    return resource(
        name,
        Role(role),
        suspended=suspended,
        devices=(device(minor, disk_state=DiskState(disk), quorum=quorum),),
        connections=tuple(connection(it.peer, _state(it), Role(it.role), DiskState(it.disk)) for it in links),
    )


def _state(link: Link) -> ConnectionState:
    words = {STAND_ALONE: ConnectionState.STAND_ALONE, WAITS: ConnectionState.CONNECTING}
    return words.get(link.connection, ConnectionState.CONNECTED)


def _outcome(result: Result) -> CallOutcome:
    return (
        Done() if result.status == 0 else Failed(result.error or f"exit status {result.status}", result.code)
    )
