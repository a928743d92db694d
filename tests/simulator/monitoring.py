"""Prometheus and Alertmanager, as far as the rules that ask for something: what they see, and how they tell it.

The rules themselves are tested on the real Prometheus (tests/rules); what counts here is when something is
told, and how often, and that it may be lost.
"""

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from actuator.model import Notification
from tests.simulator.domain import DOWN
from tests.simulator.drbd import STAND_ALONE, UP_TO_DATE, WAITS
from tests.simulator.fibers import EPOCH, Process
from tests.simulator.network import MANAGEMENT, MONITOR

if TYPE_CHECKING:
    from tests.simulator.host import Host
    from tests.simulator.world import World

SCRAPE_SECONDS = 1.0
FOR_SECONDS = {"HostFailure": 1.0, "VMDiskLost": 2.0}
NOTIFY_SECONDS = (0.02, 0.6)
GROUP_INTERVAL_SECONDS = 300.0
"""An alert that fires again within it is not told again."""
RETRY_SECONDS = 2.0
REPEATED_CRASHES, WINDOW_SECONDS = 3, 600.0

Labels = tuple[tuple[str, str], ...]


@dataclass
class _Scrape:
    """What an exporter last said."""

    at: float
    connected: dict[tuple[str, str], bool | None] = field(default_factory=dict)
    """By resource and peer; None: it does not try."""
    current: dict[tuple[str, str], bool] = field(default_factory=dict)
    diskless: set[str] = field(default_factory=set)
    domains: dict[str, str] = field(default_factory=dict)
    crashes: dict[str, int] = field(default_factory=dict)


@dataclass
class _Alert:
    pending_since: float
    starts_at: float | None = None


class Monitoring:
    """One Prometheus and one Alertmanager, on the machine of the actuator."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.process = Process("monitoring")
        self.prometheus_works = True
        self.alertmanager_works = True
        self.webhook_loses = 0.0
        """How likely a notification is lost."""
        self.webhook_doubles = 0.0
        self.webhook_late = 0.0
        """Up to so many seconds."""
        self._scraped: dict[str, _Scrape] = {}
        self._up: dict[str, bool] = {}
        self._crashed: dict[tuple[str, str], list[float]] = {}
        self._alerts: dict[Labels, _Alert] = {}
        self._told: dict[Labels, float] = {}
        self._expected: dict[str, str] = {}
        """Of the actuator's own metrics: where each domain should run."""
        world.loop.call_in(0.5, self._turn)

    # ---- what it is asked

    def known_to_prometheus(self) -> tuple[Notification, ...]:
        return tuple(self._firing("prometheus"))

    def known_to_alertmanager(self) -> tuple[Notification, ...]:
        return tuple(self._firing("alertmanager"))

    def last_words(self, host: str) -> dict[tuple[str, str], bool]:
        scraped = self._scraped.get(host)
        return {} if scraped is None else dict(scraped.current)

    def _firing(self, source: str) -> Iterator[Notification]:
        for labels, alert in self._alerts.items():
            if alert.starts_at is not None:
                yield Notification(
                    _fingerprint(labels), EPOCH + alert.starts_at, True, dict(labels), source=source
                )

    # ---- what it does

    def _turn(self) -> None:
        world = self._world
        if self.prometheus_works:
            for host in world.hosts.values():
                self._scrape(host)
            self._expected |= world.actuator.expected()
            self._evaluate()
        world.loop.call_in(SCRAPE_SECONDS, self._turn)

    def _scrape(self, host: "Host") -> None:
        world = self._world
        up = host.works and host.exporter_works and world.net.both_ways(MANAGEMENT, MONITOR, host.name)
        self._up[host.name] = up
        if not up:
            return
        scraped = _Scrape(world.loop.now)
        for name, node in host.nodes.items() if host.drbd_answers else ():
            if node.shown:
                if not (node.attached or node.client):
                    scraped.diskless.add(name)
                for link in node.links:
                    key = name, link.peer
                    connected = link.connection not in {STAND_ALONE, WAITS}
                    scraped.connected[key] = None if link.connection == STAND_ALONE else connected
                    scraped.current[key] = connected and link.disk == UP_TO_DATE
        if host.libvirt_works:
            before = self._scraped.get(host.name)
            for name, domain in host.domains.items():
                if domain.defined:
                    scraped.domains[name] = domain.state
                known = before.crashes.get(name, 0) if before else 0
                scraped.crashes[name] = domain.crashes
                for _ in range(domain.crashes - known):
                    self._crashed.setdefault((host.name, name), []).append(world.loop.now)
        if host.liar:
            host.liar.scraped(scraped)
        self._scraped[host.name] = scraped

    def _evaluate(self) -> None:
        now = self._world.loop.now
        true = set(self._true())
        for labels in sorted(true):
            alert = self._alerts.setdefault(labels, _Alert(now))
            waits = FOR_SECONDS.get(dict(labels)["alertname"], 0.0)
            if alert.starts_at is None and now - alert.pending_since >= waits:
                alert.starts_at = now
                self._tell(labels, now, firing=True)
        for labels in sorted(self._alerts.keys() - true):
            ended = self._alerts.pop(labels)
            if ended.starts_at is not None:
                self._tell(labels, ended.starts_at, firing=False)

    def _true(self) -> Iterator[Labels]:
        """The rules: VMFailure, VMPersistentFailure, VMDiskLost, HostFailure."""
        now = self._world.loop.now
        for host, up in sorted(self._up.items()):
            scraped = self._scraped.get(host)
            if up and scraped:
                liar = self._world.hosts[host].liar
                for domain, state in sorted(scraped.domains.items()):
                    if self._expected.get(domain) != host and not (liar and domain in liar.is_expected):
                        continue
                    if state in DOWN:
                        yield _labels("VMFailure", "restart", host=host, domain=domain)
                    if domain in scraped.diskless:
                        yield _labels("VMDiskLost", "migrate", host=host, domain=domain)
                    recent = [at for at in self._crashed.get((host, domain), ()) if now - at < WINDOW_SECONDS]
                    if len(recent) >= REPEATED_CRASHES:
                        yield _labels("VMPersistentFailure", "migrate", host=host, domain=domain)
            if not up:
                said = [
                    connected
                    for other, testimony in self._scraped.items()
                    if self._up.get(other)
                    for (_, peer), connected in testimony.connected.items()
                    if peer == host and connected is not None
                ]
                if said and not any(said):
                    yield _labels("HostFailure", "failover", host=host)

    def _tell(self, labels: Labels, starts_at: float, *, firing: bool) -> None:
        """Alertmanager's notification."""
        world = self._world
        now = world.loop.now
        random = world.loop.random
        if firing and now - self._told.get(labels, float("-inf")) < GROUP_INTERVAL_SECONDS:
            return
        self._told[labels] = now
        world.log(f"alert {dict(labels)['alertname']} {_about(labels)} {'fires' if firing else 'has ended'}")
        body = _body(labels, starts_at, firing=firing)
        times = 0 if random.random() < self.webhook_loses else 1
        times += 1 if random.random() < self.webhook_doubles else 0
        for _ in range(times):
            world.loop.spawn(self.process, lambda: self._deliver(body), "webhook")

    def say_ended(self) -> None:
        """Tell the webhook that all that fires has ended."""
        for labels, alert in self._alerts.items():
            if alert.starts_at is not None:
                body = _body(labels, alert.starts_at, firing=False)
                self._world.loop.spawn(self.process, partial(self._deliver, body), "webhook")

    def _deliver(self, body: bytes) -> None:
        world = self._world
        late = world.loop.random.uniform(0, self.webhook_late) if self.webhook_late else 0.0
        world.loop.sleep(world.loop.random.uniform(*NOTIFY_SECONDS) + late)
        end = world.loop.now + GROUP_INTERVAL_SECONDS
        while world.loop.now < end:
            if self.alertmanager_works and world.actuator.deliver(body):
                return
            world.loop.sleep(RETRY_SECONDS)


def _labels(name: str, action: str, **more: str) -> Labels:
    return tuple(sorted({"alertname": name, "action": action, "severity": "critical", **more}.items()))


def _about(labels: Labels) -> str:
    said = dict(labels)
    return " ".join(filter(None, (said.get("domain"), said.get("host"))))


def _fingerprint(labels: Labels) -> str:
    return f"{zlib.crc32(repr(labels).encode()):08x}"


def _body(labels: Labels, starts_at: float, *, firing: bool) -> bytes:
    alert = {
        "status": "firing" if firing else "resolved",
        "labels": dict(labels),
        "startsAt": datetime.fromtimestamp(EPOCH + starts_at, UTC).isoformat(timespec="milliseconds"),
        "fingerprint": _fingerprint(labels),
    }
    return json.dumps({"version": "4", "alerts": [alert]}).encode()
