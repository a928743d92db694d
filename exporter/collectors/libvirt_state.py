"""Collector `libvirt`: the state of every defined domain, from calls that never enter a VM's monitor.

It asks libvirtd only for procedures that its reserved ("priority") workers serve, so it answers even when all
ordinary workers wait for hung monitors (`priority: high` in libvirt's src/remote/remote_protocol.x: list,
state, control info, XML). Bulk statistics are not among them, which is why each domain is asked by itself.
"""

import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import libvirt
import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from exporter.collector import CollectorError
from exporter.libvirt_connection import Connection, Connections
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

log = structlog.get_logger()

# A definition is read again when an event says that it changed, and in any case after this time: not every
# driver tells every change.
DEFINITION_SECONDS = 60.0
# The events of a domain that is gone are published this long, so that the one that ended it is seen.
GONE_SECONDS = 600.0

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
        log.info("lifecycle event", domain=domain.name(), event=words[0], detail=words[1])

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
            for domain in known:
                counts = self._counts.setdefault(domain, {})
                for words in EVENTS_FROM_ZERO:
                    counts.setdefault(words, 0)
                self._gone_since.pop(domain, None)
            for domain in self._counts.keys() - known:
                if now - self._gone_since.setdefault(domain, now) > GONE_SECONDS:
                    del self._counts[domain], self._gone_since[domain]
            for domain, counts in self._counts.items():
                for (event, detail), count in counts.items():
                    family.add_metric([domain, event, detail], count)
        return family


@dataclass(frozen=True)
class _Known:
    """A definition as it was read, and where its disks lay then."""

    definition: Definition
    drbd: tuple[tuple[str, str, str], ...]  # resource, volume, target device
    unresolved: tuple[tuple[str, str], ...]  # target device, source
    name: str
    read_at: float
    handle_number: int


class _Families:
    """The metric families of one scrape."""

    def __init__(self) -> None:
        domain = ["domain", "uuid"]
        self.state = GaugeMetricFamily(
            "libvirt_domain_state", "The domain's state: 1 for the one it is in, 0 for all others.",
            labels=[*domain, "state"],
        )  # fmt: skip
        self.reason = GaugeMetricFamily(
            "libvirt_domain_state_reason", "Why the domain is in its state, in libvirt's words: always 1.",
            labels=[*domain, "reason"],
        )  # fmt: skip
        self.info = GaugeMetricFamily(
            "libvirt_domain_info", "What the domain is, as its definition says: always 1.",
            labels=[*domain, "title", "type", "os_type", "machine", "persistent", "autostart"],
        )  # fmt: skip
        self.control = GaugeMetricFamily(
            "libvirt_domain_control_state",
            "State of the domain's control interface (QEMU's monitor): 1 for the one it is in. "
            "Occupied for long means that the monitor does not answer.",
            labels=[*domain, "state"],
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
        self._known: dict[str, _Known] = {}
        self._no_control_info: set[str] = set()  # URIs of drivers without it

    def collect(self, deadline: float) -> Iterable[Metric]:  # noqa: ARG002  libvirt takes none
        """Ask each libvirt; see `Collector.collect`."""
        families = _Families()
        up = GaugeMetricFamily(*UP)
        connection_up = GaugeMetricFamily(
            "libvirt_connection_up", "Whether this libvirt answered in this scrape: 1 or 0.", labels=["uri"]
        )
        connected = CounterMetricFamily(
            "libvirt_connection_opened",
            "How often the connection was opened; events between two connections are not counted.",
            labels=["uri"],
        )
        errors: list[str] = []
        seen: dict[str, str] = {}  # UUID to name
        changed = self._events.take_changed()
        for connection, handle in self._connections:
            error = handle if isinstance(handle, libvirt.libvirtError) else None
            if error is None:
                try:
                    seen |= self._domains(connection, handle, changed, families)
                except libvirt.libvirtError as failed:
                    error = failed
            if error is not None:
                errors.append(f"{connection.uri}: {error}")
            connection_up.add_metric([connection.uri], float(error is None))
            connected.add_metric([connection.uri], connection.opened)
        if errors and not seen:
            raise CollectorError("; ".join(errors))
        if errors:
            log.warning("a libvirt does not answer", errors=errors)
        self._known = {uuid: known for uuid, known in self._known.items() if uuid in seen}
        up.add_metric([], float(not errors))
        return [up, connection_up, connected, *families.all(), self._events.metric(seen.values())]

    def down(self) -> Iterable[Metric]:
        """Say `libvirt_up 0` and nothing of any domain: what was true earlier may not be."""
        return [GaugeMetricFamily(*UP, value=0.0)]

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _domains(
        self, connection: Connection, handle: Any, changed: set[str], families: _Families
    ) -> dict[str, str]:
        """Add one libvirt's domains to the families; nothing of a domain that went away meanwhile."""
        persistent = _uuids(handle, libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT)
        autostart = _uuids(handle, libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART)
        seen: dict[str, str] = {}
        for domain in handle.listAllDomains(0):
            uuid, name = domain.UUIDString(), domain.name()
            try:
                state, reason = domain.state()
                known = self._definition(connection, domain, changed)
                control = self._control(connection, domain)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                    raise
                continue
            seen[uuid] = name
            labels = [name, uuid]
            current = state_name(state)
            for word in STATES:
                families.state.add_metric([*labels, word], float(word == current))
            families.reason.add_metric([*labels, reason_name(state, reason)], 1.0)
            flags = ["true" if uuid in uuids else "false" for uuids in (persistent, autostart)]
            about = known.definition
            families.info.add_metric(
                [*labels, about.title, about.kind, about.os_type, about.machine, *flags],
                1.0,
            )
            for resource, volume, target in known.drbd:
                families.drbd.add_metric([*labels, resource, volume, target], 1.0)
            for target, source in known.unresolved:
                families.unresolved.add_metric([*labels, source, target], 1.0)
            if control is not None:
                control_state, milliseconds = control
                for number, word in enumerate(CONTROL_STATES):
                    families.control.add_metric([*labels, word], float(number == control_state))
                families.control_seconds.add_metric(labels, milliseconds / 1000)
        return seen

    def _control(self, connection: Connection, domain: Any) -> tuple[int, int] | None:
        """Return the control interface's state and its milliseconds; None when there is none."""
        if connection.uri in self._no_control_info or not domain.ID() > 0:
            return None
        try:
            state, _details, milliseconds = domain.controlInfo()
        except libvirt.libvirtError as error:
            match error.get_error_code():
                case libvirt.VIR_ERR_NO_SUPPORT:
                    self._no_control_info.add(connection.uri)
                    return None
                case libvirt.VIR_ERR_OPERATION_INVALID:  # it stopped meanwhile
                    return None
                case _:
                    raise
        return state, milliseconds

    def _definition(self, connection: Connection, domain: Any, changed: set[str]) -> _Known:
        uuid, name, now = domain.UUIDString(), domain.name(), time.monotonic()
        known = self._known.get(uuid)
        if (
            known is None
            or uuid in changed
            or known.name != name
            or known.handle_number != connection.opened
            or now - known.read_at > DEFINITION_SECONDS
        ):
            try:
                definition = parse_definition(domain.XMLDesc(0))
            except ET.ParseError as error:
                raise CollectorError(f"the definition of domain {name} cannot be read: {error}") from error
            drbd, unresolved = self._drbd(definition)
            known = _Known(definition, drbd, unresolved, name, now, connection.opened)
            self._known[uuid] = known
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


def _uuids(handle: Any, flag: int) -> set[str]:
    return {domain.UUIDString() for domain in handle.listAllDomains(flag)}
