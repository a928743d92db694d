"""Everything together: hosts, networks, DRBD, VMs, monitoring, the real actuator, and what watches the promise."""

import contextlib
import itertools
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Self, TypeVar
from unittest import mock

import structlog

from actuator import orders, serve
from actuator.core import decide, progress
from actuator.core.guards.situation import Guard, Situation
from actuator.model import DomainRecord, Refusal
from tests.simulator.actuator import SimulatedActuator
from tests.simulator.domain import PAUSED, RUNNING, Domain
from tests.simulator.drbd import Pair
from tests.simulator.drbd9 import Group
from tests.simulator.fibers import EPOCH, Event, Killed, Loop, Process, Threading
from tests.simulator.host import Host, hooks_on_simulated_hosts
from tests.simulator.monitoring import Monitoring
from tests.simulator.network import MANAGEMENT, MONITOR, Network
from tests.simulator.oracle import Oracle
from tests.simulator.reach import Reach
from tests.simulator.site import HARD_SECONDS, Site

T = TypeVar("T")
RETRANSMIT_SECONDS = 0.2
AT_ONCE_SECONDS = 0.01


class World:
    """One run. A context manager: while it is open, the product's code is in virtual time.

    Args:
        random: all chance.
        folder: empty; for the actuator's journal and configuration.
        site: what is simulated.
    """

    isolation_seconds = 5.0
    hard_seconds = HARD_SECONDS

    def __init__(self, random: Random, folder: Path, site: Site) -> None:
        self.loop = Loop(random)
        self.xen = site.xen
        self.agents = site.agents
        self.preserve = site.preserve
        self.witness = site.witness
        self.vms = site.vms
        self.protected = sorted(set(site.vms) - site.alone)
        self.story: list[str] = []
        self.reach = Reach()
        self.clock_jump = 0.0
        self.net = Network(self.loop.random)
        self.threading = Threading(self.loop)
        self.hosts = {name: Host(self, name) for name in site.hosts}
        for name, rate in site.clocks.items():
            if name in self.hosts:
                self.hosts[name].clock_rate = rate
        self._boots = itertools.count(1)
        self._words = itertools.count(1)
        prolonged = self.hard_seconds - self.isolation_seconds if site.witness else 0.0
        self.oracle = Oracle(self.loop, self.hosts, self.log, prolonged_seconds=prolonged)
        self.pairs: dict[str, Pair | Group] = {}
        for minor, (vm, on) in enumerate(sorted(site.vms.items())):
            self.pairs[vm] = self._resource(site, vm, minor)
            for host in on:
                uuid = f"{minor:08x}-0000-0000-0000-000000000000"
                self.hosts[host].domains[vm] = Domain(self.hosts[host], vm, uuid, minor)
        self.actuator = SimulatedActuator(self, site.configuration(folder))
        self.monitoring = Monitoring(self)
        self._opened = contextlib.ExitStack()

    def _resource(self, site: Site, vm: str, minor: int) -> Pair | Group:
        hosts = tuple(self.hosts[it] for it in site.replicas(vm))
        if vm in site.nine:
            tie = vm in site.ties
            return Group(self.loop, vm, minor, hosts, tie=tie, on_no_quorum=site.nine[vm])
        one, two = hosts
        return Pair(self.loop, vm, minor, (one, two))

    # ---- opening

    def __enter__(self) -> Self:
        self._opened.enter_context(hooks_on_simulated_hosts(self))
        self._opened.enter_context(mock.patch.object(serve, "threading", self.threading))
        for module in (decide, progress):
            told = partial(self._refused, module.check)
            self._opened.enter_context(mock.patch.object(module, "check", told))
        self._opened.enter_context(mock.patch.object(orders.secrets, "token_hex", self._next_word))
        before = structlog.get_config()
        self._opened.callback(lambda: structlog.configure(**before))
        structlog.configure(processors=[self._heard], cache_logger_on_first_use=False)
        self._opened.callback(self.actuator.close)
        for pair in self.pairs.values():
            pair.begin()
        for vm, (home, *_) in self.vms.items():
            self.loop.spawn(self.hosts[home].process, lambda vm=vm, home=home: self._first_start(vm, home))
        self.loop.call_in(0.0, self.actuator.start)
        return self

    def __exit__(self, *_: object) -> None:
        self.actuator.process.alive = False
        self.loop.close()
        self._opened.close()

    def _first_start(self, vm: str, home: str) -> None:
        self.hosts[home].nodes[vm].primary()
        self.hosts[home].domains[vm].start()

    # ---- time

    def run(self, seconds: float) -> None:
        """Let time pass; stop at the first thing that breaks the promise."""
        self.loop.run(seconds)

    def log(self, sentence: str) -> None:
        self.story.append(f"{self.loop.now:9.3f} {sentence}")

    def _next_word(self, _bytes: int) -> str:
        return f"order{next(self._words)}"

    def next_boot(self) -> int:
        return next(self._boots)

    def host_of(self, process: Process) -> Host:
        return next(host for host in self.hosts.values() if host.process is process)

    # ---- calls over a network

    def call(
        self,
        net: str,
        source: str,
        target: str,
        process: Callable[[], Process],
        answer: Callable[[], T],
        seconds: float,
        what: str,
        lost: Callable[[], bool] | None = None,
    ) -> T:
        """Ask something of another machine, in a fiber; it may be done there although nobody hears of it.

        ``lost`` is asked every second, and ends the waiting.

        Raises:
            TimeoutError: no answer in time.
        """
        loop, network = self.loop, self.net
        deadline = loop.now + seconds
        loop.sleep(network.latency(net, source, target))
        self._until(lambda: network.passes(net, source, target) and process().alive, deadline, what, lost)
        said: list[tuple[bool, Any]] = []
        done = Event(loop)

        def act() -> None:
            try:
                said.append((True, answer()))
            except Killed:
                raise
            except Exception as error:
                said.append((False, error))
            done.set()

        loop.spawn(process(), act, what)
        if lost is None:
            done.wait(max(0.0, deadline - loop.now))
        while lost is not None and not done.wait(max(0.0, min(1.0, deadline - loop.now))):
            if lost():
                raise TimeoutError("lost before it answered")
            if loop.now >= deadline:
                break
        if not said:
            raise TimeoutError(f"no answer within {seconds:g} s")
        loop.sleep(network.latency(net, target, source))
        self._until(lambda: network.passes(net, target, source), deadline, what, lost)
        good, value = said[0]
        if good:
            return value
        raise value

    def ask(self, host: Host, answer: Callable[[Host], T], seconds: float, what: str) -> T:
        """``call`` of a host by the actuator, where the answer needs no time and changes nothing.

        Where the network is well it is as old as the way there and back takes.
        """
        loop, network, name = self.loop, self.net, host.name
        there_and_back = network.latency(MANAGEMENT, MONITOR, name) + network.latency(
            MANAGEMENT, name, MONITOR
        )
        process = host.answering
        well = process.alive and not process.frozen and network.both_ways(MANAGEMENT, MONITOR, name)
        if not well or there_and_back > min(seconds, AT_ONCE_SECONDS):
            return self.call(
                MANAGEMENT, MONITOR, name, lambda: host.answering, lambda: answer(host), seconds, what
            )
        said = answer(host)
        loop.answer_in(there_and_back)
        if not network.passes(MANAGEMENT, name, MONITOR):
            self._until(lambda: network.passes(MANAGEMENT, name, MONITOR), loop.now + seconds, what)
        return said

    def _until(
        self,
        passes: Callable[[], bool],
        deadline: float,
        what: str,
        lost: Callable[[], bool] | None = None,
    ) -> None:
        while not passes():
            if self.loop.now >= deadline:
                raise TimeoutError(f"{what}: not reached in time")
            if lost is not None and lost():
                raise TimeoutError(f"{what}: lost before it answered")
            self.loop.sleep(min(RETRANSMIT_SECONDS, max(0.001, deadline - self.loop.now)))

    # ---- what is seen

    def _refused(
        self, check: Callable[..., Refusal | None], guards: tuple[Guard, ...], it: Situation
    ) -> Refusal | None:
        return self.reach.refused(check(guards, it))

    def _heard(self, _logger: object, method: str, event: Any) -> Any:
        if method == "exception" or event.get("exc_info"):
            self.oracle.broken(f"{event.get('event')}: {traceback.format_exc()}")
        elif method in {"warning", "error"}:
            self.log(f"actuator: {event.get('event')} {event}")
        raise structlog.DropEvent

    def where(self, vm: str) -> list[str]:
        """Hosts on which it runs and has its disk."""
        return [
            host.name
            for host in self.hosts.values()
            if host.on and (it := host.domains.get(vm)) and it.state == RUNNING and it.has_disk
        ]

    def acknowledged(self) -> dict[str, int]:
        """How many records of each VM."""
        return {vm: self.oracle.count(vm) for vm in self.vms}

    def in_order(self, before: Mapping[str, int]) -> bool:
        """Nothing is left to be done: each VM writes, on both disks, and may be moved to both."""
        if not self.actuator.runs:
            return False
        records = self.records()
        authorities = self.actuator.read().authorities()
        for vm, pair in self.pairs.items():
            record, authority = records.get(vm), authorities.get(vm)
            if (
                (vm in self.protected and (len(self.where(vm)) != 1 or self.oracle.count(vm) == before[vm]))
                or not pair.whole
                or (record is not None and (record.open_plan or record.escalation))
                or authority is None
                or len(authority.voting if isinstance(pair, Group) else authority.admitted) < len(pair.nodes)
            ):
                return False
        return True

    def seen(self) -> object | None:
        """All that changes with what happens, but for what guests write; None: something is under way."""
        journal = self.actuator.journal
        hosts = self.hosts.values()
        if (
            not self.actuator.runs
            or journal is None
            or any(it.busy for it in hosts)
            or any(it.open_plan for it in self.actuator.read().records())
        ):
            return None
        nodes = [repr(node) for host in hosts for node in host.nodes.values()]
        domains = [(it.state, it.reason, it.id) for host in hosts for it in host.domains.values()]
        return len(self.story), self.actuator.starts, journal.writes, nodes, domains

    def paused(self, vm: str) -> bool:
        """It is there, and stands still: the rule VMPaused says so, and vmheal leaves it alone."""
        there = [host.domains[vm] for host in self.hosts.values() if host.works and vm in host.domains]
        return any(it.state == PAUSED for it in there)

    def parted(self, vm: str) -> bool:
        """Its hosts are there and their DRBD is not connected: the rule ReplicationLinkDown says so."""
        return self.pairs[vm].parted

    def records(self) -> dict[str, DomainRecord]:
        return {it.domain: it for it in self.actuator.read().records()}

    def told(self) -> list[str]:
        """The story, and the journal's timeline within it, for people."""
        journal = [
            f"{event.at - EPOCH:9.3f} journal {event.domain or event.host}: {event.kind}: {event.sentence}"
            for event in self.actuator.events()
        ]
        return sorted([*self.story, *journal], key=lambda line: float(line.split()[0]))
