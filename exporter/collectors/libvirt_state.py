"""Collector `libvirt`: the state of every defined domain, from calls that never enter a VM's monitor.

libvirtd locks a domain while it kills its process, and that can take long: a process in a write to a
frozen DRBD device does not die. Then not only that domain's state waits, but also the list of all domains and
the bulk call for their states. So there are two ways, both by workers:

- The quick one asks for all states in one call. It is nearly always answered at once.
- If it is not, the careful one asks for each domain by itself, only with calls that libvirtd's reserved
  workers serve even when all others wait for hung monitors (`priority: high` in its remote_protocol.x). While
  the list waits, the domains of the last one are asked, and a domain that does not answer is left out and
  named.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import libvirt
import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from exporter.collector import CollectorError
from exporter.exposition import StateSet
from exporter.libvirt_connection import Connection, Connections, OwnConnections
from exporter.libvirt_domain import (
    CONTROL_STATES,
    STATES,
    Definition,
    VolumeOfMinor,
    drbd_volume,
    event_name,
    parse_definition,
    reason_name,
    state_name,
)
from exporter.workers import Workers

log = structlog.get_logger()

# A definition is read again when an event says that it changed, and in any case after this time: not every
# driver tells every change.
DEFINITION_SECONDS = 60.0
# The events of a domain that is gone are published this long, so that the one that ended it is seen.
GONE_SECONDS = 600.0
MOST_WORKERS = 6
# The part of the scrape's time that the quick way gets, and then the time for the list.
QUICK_SHARE = 0.5
LIST_SECONDS = 0.2
# Whether a domain is persistent and starts by itself is read again after this time, and with its definition.
FLAGS_SECONDS = 10.0
HANDBACK_SECONDS = 0.05

# Published as 0 for each known domain: what alerts build on, where increase() must not miss the first one.
# All other events appear when they first occur.
EVENTS_FROM_ZERO = (
    ("started", "booted"),
    ("suspended", "paused"),
    ("suspended", "ioerror"),
    ("suspended", "watchdog"),
    ("stopped", "shutdown"),
    ("stopped", "destroyed"),
    ("stopped", "crashed"),
    ("stopped", "failed"),
    ("crashed", "panicked"),
)

_ZEROS = dict.fromkeys(EVENTS_FROM_ZERO, 0)

UP = ("libvirt_up", "Whether every configured libvirt answered in this scrape: 1 or 0.")


class LifecycleEvents:
    """Counts lifecycle events by domain; written by libvirt's event loop, read by scrapes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[tuple[str, str], int]] = {}
        self._gone_since: dict[str, float] = {}
        self._changed: set[str] = set()

    def register(self, handle: Any) -> None:
        """Ask a new connection for its events.

        Raises:
            libvirt.libvirtError: lifecycle events cannot be had.
        """
        handle.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
        for event in (
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
            libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
        ):
            try:
                handle.domainEventRegisterAny(None, event, self._definition_changed, None)
            except libvirt.libvirtError as error:  # not every driver has them
                log.debug("this libvirt does not tell an event", event=event, error=str(error))

    def _lifecycle(self, _handle: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        words = event_name(event, detail)
        with self._lock:
            counts = self._counts.setdefault(domain.name(), {})
            counts[words] = counts.get(words, 0) + 1
            self._changed.add(domain.UUIDString())
        log.info("lifecycle event", domain=domain.name(), what=words[0], detail=words[1])

    def _definition_changed(self, _handle: Any, domain: Any, *_: Any) -> None:
        with self._lock:
            self._changed.add(domain.UUIDString())

    def take_changed(self) -> set[str]:
        """Return the UUIDs of domains whose definition may have changed since the last call."""
        with self._lock:
            changed, self._changed = self._changed, set()
            return changed

    def metric(self, known: Iterable[str]) -> Metric:
        """Return the counters of the known domains, and of those that went a short while ago."""
        family = CounterMetricFamily(
            "libvirt_domain_lifecycle_events",
            "How often libvirt told this event of the domain since the exporter started.",
            labels=["domain", "event", "detail"],
        )
        now = time.monotonic()
        known = set(known)
        with self._lock:
            for domain in known - self._counts.keys() | known & self._gone_since.keys():
                self._counts.setdefault(domain, {})
                self._gone_since.pop(domain, None)
            for domain in self._counts.keys() - known:
                if now - self._gone_since.setdefault(domain, now) > GONE_SECONDS:
                    del self._counts[domain], self._gone_since[domain]
            for domain, counts in self._counts.items():
                for (event, detail), count in (_ZEROS | counts).items():
                    labels = {"domain": domain, "event": event, "detail": detail}
                    family.samples.append(Sample("libvirt_domain_lifecycle_events_total", labels, count))
        return family


@dataclass(frozen=True)
class _Known:
    """A definition as it was read, and where its disks lay then."""

    definition: Definition
    drbd: tuple[tuple[str, str, str], ...]  # resource, volume, target device
    unresolved: tuple[tuple[str, str], ...]  # target device, source
    name: str
    read_at: float
    generation: int


@dataclass(frozen=True)
class _Domain:
    """One domain of a list."""

    uri: str
    name: str
    uuid: str
    persistent: bool
    autostart: bool
    generation: int  # which opening of the connection with the events told of it


@dataclass(frozen=True)
class _Listing:
    """The domains of one libvirt."""

    generation: int
    domains: tuple[_Domain, ...]


@dataclass(frozen=True)
class _Flags:
    """UUIDs of one libvirt's domains."""

    generation: int
    read_at: float
    persistent: frozenset[str]
    autostart: frozenset[str]


@dataclass(frozen=True)
class _State:
    """What a domain answered."""

    state: int
    reason: int
    control: tuple[int, int] | None  # state, milliseconds
    known: _Known


class _Families:
    """The metric families of one scrape."""

    def __init__(self) -> None:
        domain = ["domain", "uuid"]
        self.state = StateSet(
            "libvirt_domain_state", "The domain's state: 1 for the one it is in, 0 for all others.",
            STATES, label="state",
        )  # fmt: skip
        self.answers = GaugeMetricFamily(
            "libvirt_domain_answers",
            "Whether libvirt answered for the domain: 1, or 0 while it keeps the domain locked, as when it "
            "kills its process. Without an answer no state is published.",
            labels=domain,
        )
        self.reason = GaugeMetricFamily(
            "libvirt_domain_state_reason", "Why the domain is in its state, in libvirt's words: always 1.",
            labels=[*domain, "reason"],
        )  # fmt: skip
        self.info = GaugeMetricFamily(
            "libvirt_domain_info", "What the domain is, as its definition says: always 1.",
            labels=[*domain, "title", "type", "os_type", "machine", "persistent", "autostart"],
        )  # fmt: skip
        self.control = StateSet(
            "libvirt_domain_control_state",
            "State of the domain's control interface (QEMU's monitor): 1 for the one it is in. "
            "Occupied for long means that the monitor does not answer.",
            CONTROL_STATES,
            label="state",
        )
        self.control_seconds = GaugeMetricFamily(
            "libvirt_domain_control_state_seconds",
            "For how long the control interface has been in a state other than ok.",
            labels=domain,
        )
        self.drbd = GaugeMetricFamily(
            "libvirt_domain_drbd_resource", "The DRBD volume that a disk of the domain lies on: always 1.",
            labels=[*domain, "resource", "volume", "target_device"],
        )  # fmt: skip
        self.unresolved = GaugeMetricFamily(
            "libvirt_domain_drbd_unresolved",
            "A disk of the domain that is a DRBD device of no known resource, because it is down: always 1.",
            labels=[*domain, "source", "target_device"],
        )

    def add(self, domain: _Domain, answer: _State) -> None:
        """Add what a domain answered."""
        labels = [domain.name, domain.uuid]
        self.answers.add_metric(labels, 1.0)
        identity = {"domain": domain.name, "uuid": domain.uuid}
        self.state.add(identity, frozenset({state_name(answer.state)}))
        self.reason.add_metric([*labels, reason_name(answer.state, answer.reason)], 1.0)
        about = answer.known.definition
        flags = [str(flag).lower() for flag in (domain.persistent, domain.autostart)]
        self.info.add_metric([*labels, about.title, about.kind, about.os_type, about.machine, *flags], 1.0)
        for resource, volume, target in answer.known.drbd:
            self.drbd.add_metric([*labels, resource, volume, target], 1.0)
        for target, source in answer.known.unresolved:
            self.unresolved.add_metric([*labels, source, target], 1.0)
        if answer.control is not None:
            control_state, milliseconds = answer.control
            self.control.add(identity, frozenset(CONTROL_STATES[control_state : control_state + 1]))
            self.control_seconds.add_metric(labels, milliseconds / 1000)

    def all(self) -> list[Metric]:
        return list(vars(self).values())


class LibvirtState:
    """Every defined domain's state, identity, control interface and DRBD resources; lifecycle events."""

    name = "libvirt"

    def __init__(self, uris: tuple[str, ...], volume_of_minor: VolumeOfMinor) -> None:
        """Connect nothing yet.

        Args:
            uris: libvirt's connection URIs; none means what this host has.
            volume_of_minor: the (resource, volume) of a DRBD device number, None when unknown.
        """
        self._events = LifecycleEvents()
        self._connections = Connections(uris, self._events.register)
        self._volume_of_minor = volume_of_minor
        self._known: dict[str, _Known] = {}  # by UUID
        self._listings: dict[str, _Listing] = {}  # by URI
        self._silent: dict[str, str] = {}  # domains that did not answer, and why
        self._flags: dict[str, _Flags] = {}  # by URI
        self._quick: Workers[OwnConnections, list[tuple[_Domain, _State]]] = Workers(
            "libvirt-quick", OwnConnections, usual=1, most=1
        )
        self._listers: Workers[OwnConnections, None] = Workers(
            "libvirt-list", OwnConnections, usual=1, most=1
        )
        self._workers: Workers[OwnConnections, _State | None] = Workers(
            "libvirt-state", OwnConnections, usual=1, most=MOST_WORKERS
        )
        # URIs of drivers without them
        self._no_control_info: set[str] = set()
        self._no_bulk: set[str] = set()

    def collect(self, deadline: float) -> Iterable[Metric]:
        """Ask each libvirt; see `Collector.collect`."""
        connections: list[Connection] = []
        errors: dict[str, str] = {}  # by URI
        handles: dict[str, Any] = {}  # by URI
        for connection, handle in self._connections:
            connections.append(connection)
            if isinstance(handle, libvirt.libvirtError):
                errors[connection.uri] = str(handle)
            else:
                handles[connection.uri] = handle
        for uuid in self._events.take_changed():
            self._known.pop(uuid, None)
            self._flags.clear()
        families = _Families()
        quick = self._ask_quickly(connections, handles, deadline, families)
        slow = {uri: handle for uri, handle in handles.items() if uri not in quick}
        domains = self._list(connections, slow, deadline, errors)
        self._ask(domains, slow, deadline - HANDBACK_SECONDS, families, errors)
        for uri, handle in handles.items():
            if not handle.isAlive():
                errors.setdefault(uri, "the connection broke")
        domains += [domain for found in quick.values() for domain in found]
        for uuid in self._known.keys() - {domain.uuid for domain in domains}:
            self._known.pop(uuid, None)
        return self._page(connections, domains, families, errors)

    def _ask_quickly(
        self, connections: list[Connection], handles: dict[str, Any], deadline: float, families: _Families
    ) -> dict[str, list[_Domain]]:
        """Add the states of those libvirts that answer in one go, and return their domains by URI."""
        jobs = {
            connection.uri: partial(self._read_quickly, connection)
            for connection in connections
            if connection.uri in handles
        }
        now = time.monotonic()
        answers = self._quick.run(jobs, now + (deadline - now) * QUICK_SHARE)
        for found in answers.answered.values():
            for domain, answer in found:
                families.add(domain, answer)
        return {uri: [domain for domain, _ in found] for uri, found in answers.answered.items()}

    def _read_quickly(self, connection: Connection, own: OwnConnections) -> list[tuple[_Domain, _State]]:
        """Read all domains of one libvirt; called by a worker."""
        generation = connection.opened
        handle = own[connection.uri].handle()
        flags = self._read_flags(connection.uri, generation, handle)
        found: list[tuple[_Domain, _State]] = []
        for virtual, state, reason in self._states(connection.uri, handle):
            domain = _named(virtual, connection.uri, generation, flags)
            try:
                found.append((domain, self._answer(domain, virtual, state, reason)))
            except libvirt.libvirtError as error:
                if not _is_gone(error):
                    raise
        self._listings[connection.uri] = _Listing(generation, tuple(domain for domain, _ in found))
        return found

    def _states(self, uri: str, handle: Any) -> Iterable[tuple[Any, int, int]]:
        """Yield every domain with its state and reason."""
        if uri not in self._no_bulk:
            try:
                found = handle.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
                    raise
                self._no_bulk.add(uri)
            else:
                for domain, values in found:
                    yield domain, values["state.state"], values["state.reason"]
                return
        for domain in handle.listAllDomains(0):
            try:
                state, reason = domain.state()
            except libvirt.libvirtError as error:
                if not _is_gone(error):
                    raise
            else:
                yield domain, state, reason

    def _read_flags(self, uri: str, generation: int, handle: Any) -> _Flags:
        flags, now = self._flags.get(uri), time.monotonic()
        if flags is None or flags.generation != generation or now - flags.read_at > FLAGS_SECONDS:
            persistent, autostart = (
                frozenset(domain.UUIDString() for domain in handle.listAllDomains(flag))
                for flag in (
                    libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT,
                    libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART,
                )
            )
            flags = self._flags[uri] = _Flags(generation, now, persistent, autostart)
        return flags

    def _list(
        self, connections: list[Connection], handles: dict[str, Any], deadline: float, errors: dict[str, str]
    ) -> list[_Domain]:
        """Return the domains of all connections that have a list, even if it is the last one's."""
        jobs: dict[str, Callable[[OwnConnections], None]] = {}
        wait = 0.0
        for connection in connections:
            if connection.uri in handles:
                jobs[connection.uri] = partial(self._read_list, connection)
                wait = max(wait, LIST_SECONDS if self._listing(connection) else float("inf"))
        answers = self._listers.run(jobs, min(deadline - HANDBACK_SECONDS, time.monotonic() + wait))
        domains: list[_Domain] = []
        for connection in connections:
            listing = self._listing(connection)
            if connection.uri in answers.failed:
                errors[connection.uri] = str(answers.failed[connection.uri])
            elif connection.uri in handles and listing is None:
                errors[connection.uri] = "it hangs: the list of its domains did not come back"
            elif connection.uri in handles and listing is not None:
                domains += listing.domains
        return domains

    def _listing(self, connection: Connection) -> _Listing | None:
        """Return the last list that this very connection gave."""
        listing = self._listings.get(connection.uri)
        return listing if listing is not None and listing.generation == connection.opened else None

    def _read_list(self, connection: Connection, own: OwnConnections) -> None:
        """List one libvirt's domains; called by a worker, and kept even when nobody waits any more."""
        generation = connection.opened
        handle = own[connection.uri].handle()
        flags = self._read_flags(connection.uri, generation, handle)
        self._listings[connection.uri] = _Listing(
            generation,
            tuple(_named(domain, connection.uri, generation, flags) for domain in handle.listAllDomains(0)),
        )

    def _ask(
        self,
        domains: list[_Domain],
        handles: dict[str, Any],
        deadline: float,
        families: _Families,
        errors: dict[str, str],
    ) -> None:
        """Ask each domain and add the answers; a libvirt that answers no other question either has failed."""
        jobs: dict[str, Callable[[OwnConnections], _State | None]] = {
            uri: partial(_is_alive, uri) for uri in handles
        }
        jobs |= {domain.uuid: partial(self._state, domain) for domain in domains}
        answers = self._workers.run(jobs, deadline)
        silent: dict[str, str] = {}
        for domain in domains:
            answer, error = answers.answered.get(domain.uuid), answers.failed.get(domain.uuid)
            if answer is not None:
                families.add(domain, answer)
            elif not _is_gone(error):
                silent[domain.name] = "no answer before the deadline" if error is None else str(error)
                families.answers.add_metric([domain.name, domain.uuid], 0.0)
        if silent != self._silent:
            log.warning("domains that do not answer", domains=silent)
            self._silent = silent
        for uri in handles:
            if uri in answers.failed:
                errors[uri] = str(answers.failed[uri])
            elif uri not in answers.answered:
                errors[uri] = "it hangs: it does not even tell its version"

    def _page(
        self,
        connections: list[Connection],
        domains: list[_Domain],
        families: _Families,
        errors: dict[str, str],
    ) -> list[Metric]:
        """Put the metrics together.

        Raises:
            CollectorError: no libvirt answered.
        """
        if errors and len(errors) == len(connections):
            raise CollectorError("; ".join(f"{uri}: {error}" for uri, error in errors.items()))
        if errors:
            log.warning("a libvirt does not answer", errors=errors)
        up = GaugeMetricFamily(*UP, value=float(not errors))
        connection_up = GaugeMetricFamily(
            "libvirt_connection_up", "Whether this libvirt answered in this scrape: 1 or 0.", labels=["uri"]
        )
        connected = CounterMetricFamily(
            "libvirt_connection_opened",
            "How often the connection was opened; events between two connections are not counted.",
            labels=["uri"],
        )
        for connection in connections:
            connection_up.add_metric([connection.uri], float(connection.uri not in errors))
            connected.add_metric([connection.uri], connection.opened)
        names = [domain.name for domain in domains]
        return [up, connection_up, connected, *families.all(), self._events.metric(names)]

    def down(self) -> Iterable[Metric]:
        """Say `libvirt_up 0` and nothing of any domain: what was true earlier may not be."""
        return [GaugeMetricFamily(*UP, value=0.0)]

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _state(self, domain: _Domain, own: OwnConnections) -> _State:
        """Ask for one domain; called by a worker."""
        handle = own[domain.uri].domain(domain.uuid)
        return self._answer(domain, handle, *handle.state())

    def _answer(self, domain: _Domain, handle: Any, state: int, reason: int) -> _State:
        control = None if state_name(state) in {"shutoff", "crashed"} else self._control(domain, handle)
        return _State(state, reason, control, self._definition(domain, handle))

    def _control(self, domain: _Domain, handle: Any) -> tuple[int, int] | None:
        """Return the control interface's state and its milliseconds; None when there is none."""
        if domain.uri in self._no_control_info:
            return None
        try:
            state, _details, milliseconds = handle.controlInfo()
        except libvirt.libvirtError as error:
            match error.get_error_code():
                case libvirt.VIR_ERR_NO_SUPPORT:
                    self._no_control_info.add(domain.uri)
                    return None
                case libvirt.VIR_ERR_OPERATION_INVALID:  # it stopped meanwhile
                    return None
                case _:
                    raise
        return state, milliseconds

    def _definition(self, domain: _Domain, handle: Any) -> _Known:
        now = time.monotonic()
        known = self._known.get(domain.uuid)
        if (
            known is None
            or known.name != domain.name
            or known.generation != domain.generation
            or now - known.read_at > DEFINITION_SECONDS
        ):
            definition = parse_definition(handle.XMLDesc(0))
            drbd, unresolved = self._drbd(definition)
            known = _Known(definition, drbd, unresolved, domain.name, now, domain.generation)
            self._known[domain.uuid] = known
        elif known.unresolved:  # DRBD may have come up since
            drbd, unresolved = self._drbd(known.definition)
            known = self._known[domain.uuid] = replace(known, drbd=drbd, unresolved=unresolved)
        return known

    def _drbd(
        self, definition: Definition
    ) -> tuple[tuple[tuple[str, str, str], ...], tuple[tuple[str, str], ...]]:
        found: list[tuple[str, str, str]] = []
        unresolved: list[tuple[str, str]] = []
        for disk in definition.disks:
            try:
                volume = drbd_volume(disk.source, self._volume_of_minor)
            except LookupError:
                unresolved.append((disk.target, disk.source))
            else:
                if volume is not None:
                    found.append((*volume, disk.target))
        return tuple(found), tuple(unresolved)


def _named(virtual: Any, uri: str, generation: int, flags: _Flags) -> _Domain:
    uuid = virtual.UUIDString()
    return _Domain(uri, virtual.name(), uuid, uuid in flags.persistent, uuid in flags.autostart, generation)


def _is_alive(uri: str, own: OwnConnections) -> None:
    """Ask libvirtd for something that no domain's lock can hold up."""
    own[uri].handle().getLibVersion()


def _is_gone(error: Exception | None) -> bool:
    return isinstance(error, libvirt.libvirtError) and error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN
