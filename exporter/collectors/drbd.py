"""Collector `drbd`: every resource, connection, device and peer device of DRBD 8.4 or 9.

Which series these have says `exporter.drbd_series`; how they are read, `exporter.drbdsetup`.
"""

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress

import structlog
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from exporter.collector import CollectorError
from exporter.drbd import Connection, Device, PeerDevice, Problem, Resource, Snapshot, UnknownWord
from exporter.drbd_configuration import ResourceConfiguration
from exporter.drbd_news import KernelNews
from exporter.drbd_series import (
    CONFIGURATION,
    CONNECTION,
    CONNECTION_CONFIGURATION,
    DEVICE,
    PEER_DEVICE,
    RESOURCE,
)
from exporter.drbdsetup import (
    DETAIL_SOURCES,
    DRBD9,
    Details,
    DetailsReader,
    DrbdError,
    Paths,
    State,
    StateReader,
)
from exporter.series import gauge, info

log = structlog.get_logger()

# How long the first scrape waits for the names of peers on 8.4, so that no series begins under another name.
FIRST_DETAILS_SECONDS = 2.0
# Options that were read longer ago are not published.
CONFIGURATION_SECONDS = 60.0
# Unknown words are logged once each; this many are remembered.
LOGGED_LIMIT = 1000
# Where an unknown word may stand; "other" is any other key of events2.
WORD_KINDS = (
    "role", "disk", "peer-disk", "connection", "replication", "suspended", "resync-suspended", "blocked",
    "fencing", "protocol", "other",
)  # fmt: skip


class ProblemCounts:
    """Counts what could not be understood of DRBD's output, and logs each thing once."""

    def __init__(self) -> None:
        self._words: Counter[str] = Counter(dict.fromkeys(WORD_KINDS, 0))
        self._malformed = 0
        self._logged: set[Problem] = set()

    def count(self, problems: Iterable[Problem]) -> None:
        """Take the problems of one reading."""
        for problem in problems:
            if isinstance(problem, UnknownWord):
                self._words[problem.kind if problem.kind in WORD_KINDS else "other"] += 1
            else:
                self._malformed += 1
            if problem not in self._logged and len(self._logged) < LOGGED_LIMIT:
                self._logged.add(problem)
                log.warning(
                    "DRBD says something unknown",
                    host=platform.node(),
                    resource=problem.resource,
                    problem=str(problem),
                )

    def families(self) -> Iterator[Metric]:
        """Return the counters."""
        words = CounterMetricFamily(
            "vmheal_exporter_drbd_unknown_words",
            "Words in DRBD's output that this exporter does not know, by what they should have been.",
            labels=["kind"],
        )
        for kind, count in self._words.items():
            words.add_metric([kind], count)
        yield words
        yield CounterMetricFamily(
            "vmheal_exporter_drbd_malformed_lines",
            "Lines in DRBD's output that could not be read and were left out.",
            value=self._malformed,
        )


Labels = dict[str, str]


class _Labelled:
    """Everything in a snapshot with its labels."""

    def __init__(self, snapshot: Snapshot, peer_name: Callable[[Resource, Connection], str]) -> None:
        self.resources: list[tuple[Labels, Resource]] = []
        self.devices: list[tuple[Labels, Device]] = []
        self.connections: list[tuple[Labels, Connection, Resource]] = []
        self.peer_devices: list[tuple[Labels, PeerDevice, Connection, Resource]] = []
        for resource in snapshot.resources:
            name = {"name": resource.name}
            self.resources.append((name, resource))
            self.devices += [
                ({**name, "volume": str(device.volume), "minor": str(device.minor)}, device)
                for device in resource.devices
            ]
            for connection in resource.connections:
                peer = {
                    **name,
                    "conn_name": peer_name(resource, connection),
                    "peer_node_id": str(connection.peer_node_id),
                }
                self.connections.append((peer, connection, resource))
                self.peer_devices += [
                    ({**peer, "volume": str(device.volume)}, device, connection, resource)
                    for device in connection.peer_devices
                ]


class Drbd:
    """Publishes DRBD's state as it is at the scrape, and the details that were last read."""

    name = "drbd"

    def __init__(self, paths: Paths | None = None) -> None:
        self._paths = paths or Paths()
        self._state_reader = StateReader(self._paths)
        self._details_reader = DetailsReader(self._paths)
        self._kernel = KernelNews(self._paths.kernel_log)
        self._problems = ProblemCounts()
        self._counted_configuration: float | None = None
        self._absence_said = False
        self._own_name = platform.node()
        self._peer_names: dict[str, str] = {}  # by resource, on 8.4
        self._volumes: Mapping[int, tuple[str, str]] = {}
        self._backing_disks: Mapping[tuple[str, str], str] = {}

    def volume_of_minor(self, minor: int) -> tuple[str, str] | None:
        """Return the (resource, volume) that had this minor at the last scrape; never waits."""
        return self._volumes.get(minor)

    def backing_disks(self) -> Mapping[tuple[str, str], str]:
        """Return the disk below each (resource, volume) at the last scrape; never waits."""
        return self._backing_disks

    def collect(self, deadline: float) -> Iterable[Metric]:
        """Read DRBD and return its metrics.

        Raises:
            CollectorError: drbdsetup hangs, fails or prints nonsense. A host without DRBD is no failure: it
                says `drbd_up 0`.
        """
        try:
            state = self._state_reader.read(deadline)
        except DrbdError as error:
            raise CollectorError(str(error)) from error
        if state is None:
            if not self._absence_said:
                log.info("no DRBD on this host: its kernel module is not loaded")
            self._absence_said = True
            self._volumes, self._backing_disks = {}, {}
            return self.down()
        self._absence_said = False
        self._kernel.read(state.snapshot)
        self._details_reader.show(state)
        now = time.monotonic()
        self._details_reader.wait_first(min(now + FIRST_DETAILS_SECONDS, now + (deadline - now) / 2))
        details = self._details_reader.latest
        self._count_problems(state, details)
        configuration = details.configuration_of(time.monotonic() - CONFIGURATION_SECONDS)
        labelled = _Labelled(state.snapshot, lambda of, to: self._peer_name(of, to, state, details))
        self._remember(labelled, configuration)
        return [
            *_up(1),
            gauge(
                "drbd_version",
                "Versions of DRBD's kernel module and of drbd-utils; always 1.",
                [({"kmod": state.proc.version, "utils": details.utils_version}, 1)],
            ),
            *_states(labelled),
            *self._configuration(labelled, configuration, details),
            *self._uuids(labelled),
            *self._news(labelled),
            *self._problems.families(),
            *_health(details),
        ]

    def down(self) -> Iterable[Metric]:
        """Say that DRBD could not be read."""
        return _up(0)

    def close(self) -> None:
        """End the thread and close the files."""
        self._details_reader.close()
        self._state_reader.close()
        self._kernel.close()

    def _count_problems(self, state: State, details: Details) -> None:
        if state.parsed:
            self._problems.count(state.snapshot.problems)
        if details.configuration_at != self._counted_configuration:
            self._counted_configuration = details.configuration_at
            self._problems.count(
                word for resource in details.configuration.values() for word in resource.unknown_words
            )

    def _peer_name(self, resource: Resource, connection: Connection, state: State, details: Details) -> str:
        """Return the peer's host name: on 8.4, which does not know it, the one in the configuration files.

        Without those its address; what was said before while even that is not known; else 8.4's "peer".
        """
        if state.proc.major >= DRBD9:
            return connection.name
        kernel, files = details.configuration.get(resource.name), details.files.get(resource.name)
        address = kernel.connections[0].peer_address if kernel and kernel.connections else None
        name = files.peer_name(address, self._own_name) if files else address
        if name:
            self._peer_names[resource.name] = name
        return self._peer_names.get(resource.name, connection.name)

    def _remember(self, labelled: _Labelled, configuration: Mapping[str, ResourceConfiguration]) -> None:
        """Keep what other collectors ask for."""
        self._volumes = {
            device.minor: (labels["name"], labels["volume"]) for labels, device in labelled.devices
        }
        self._backing_disks = {
            (labels["name"], labels["volume"]): disk
            for labels, device in labelled.devices
            if (disk := _backing_disk(labels, device, configuration))
        }

    def _configuration(
        self, labelled: _Labelled, configuration: Mapping[str, ResourceConfiguration], details: Details
    ) -> Iterator[Metric]:
        resources = [
            (labels, configuration[resource.name])
            for labels, resource in labelled.resources
            if resource.name in configuration
        ]
        connections = [
            (labels, options)
            for labels, connection, resource in labelled.connections
            if resource.name in configuration
            for options in configuration[resource.name].connections
            if options.peer == connection.name
        ]
        yield from (series.family(resources) for series in CONFIGURATION)
        yield from (series.family(connections) for series in CONNECTION_CONFIGURATION)
        yield info(
            "vmheal_drbd_resource",
            "Options of the resource in the kernel (DRBD 9); quorum is off, majority, all or a number.",
            [
                {**labels, "quorum": it.quorum, "on_no_quorum": it.on_no_quorum or ""}
                for labels, it in resources
                if it.quorum is not None
            ],
        )
        yield info(
            "vmheal_drbd_resource_handler",
            "What the configuration files name as handlers. They are not in the kernel: it calls its "
            "usermode helper, which looks them up in the files at that moment.",
            [
                {**labels, "handler": handler, "command": command}
                for labels, resource in labelled.resources
                if resource.name in details.files
                for handler, command in details.files[resource.name].handlers.items()
            ],
        )
        with suppress(OSError):
            yield info(
                "vmheal_drbd_usermode_helper",
                "The program that the kernel calls for every handler; /bin/true disables them all.",
                [{"path": self._paths.usermode_helper.read_text(encoding="utf-8").strip()}],
            )
        yield info(
            "vmheal_drbd_device",
            "The device's path, and the disk below it; empty when it has none, or it is not known.",
            [
                {
                    **labels,
                    "device": f"/dev/drbd{device.minor}",
                    "backing_disk": self._backing_disks.get((labels["name"], labels["volume"]), ""),
                }
                for labels, device in labelled.devices
            ],
        )

    def _uuids(self, labelled: _Labelled) -> Iterator[Metric]:
        uuids = self._details_reader.uuids()
        yield info(
            "vmheal_drbd_device_current_uuid",
            "The identity of the data: DRBD's current UUID without its Primary bit. Replicas of the same "
            "generation have the same.",
            [
                {**labels, "uuid": uuids[labels["name"], device.volume]}
                for labels, device in labelled.devices
                if (labels["name"], device.volume) in uuids
            ],
        )

    def _news(self, labelled: _Labelled) -> Iterator[Metric]:
        yield gauge(
            "vmheal_drbd_connection_split_brain",
            "Whether the kernel has reported a split brain with this peer and the two have not met since.",
            [(labels, self._kernel.split_brain(it, of)) for labels, it, of in labelled.connections],
        )
        yield gauge(
            "vmheal_drbd_peerdevice_verify_finished_timestamp_seconds",
            "When an online verify with this peer last came to its end, since this host booted.",
            [
                (labels, self._kernel.verified_at(it.volume, connection, resource))
                for labels, it, connection, resource in labelled.peer_devices
            ],
        )


def _up(value: int) -> tuple[Metric, ...]:
    return (
        gauge("drbd_up", "Whether DRBD's kernel module is loaded and could be read.", [({}, value)]),
        gauge("drbdreactor_up", "The same as drbd_up, for dashboards made for drbd-reactor.", [({}, value)]),
    )


def _states(labelled: _Labelled) -> Iterator[Metric]:
    yield gauge("drbd_resource_resources", "Number of resources.", [({}, len(labelled.resources))])
    yield from (series.family(labelled.resources) for series in RESOURCE)
    yield from (series.family(labelled.devices) for series in DEVICE)
    connections = [(labels, connection) for labels, connection, _ in labelled.connections]
    yield from (series.family(connections) for series in CONNECTION)
    peer_devices = [(labels, device) for labels, device, _, _ in labelled.peer_devices]
    yield from (series.family(peer_devices) for series in PEER_DEVICE)
    yield gauge(
        "vmheal_drbd_path_established",
        "Whether this path of the connection is established (DRBD 9).",
        [
            ({**labels, "local": path.local, "peer": path.peer}, path.established)
            for labels, connection in connections
            for path in connection.paths
        ],
    )


def _backing_disk(
    labels: Labels, device: Device, configuration: Mapping[str, ResourceConfiguration]
) -> str | None:
    """The disk below: events2 names it on DRBD 9, `show` on 8.4."""
    if device.backing_disk or labels["name"] not in configuration:
        return device.backing_disk
    return configuration[labels["name"]].backing_disks.get(device.volume)


def _health(details: Details) -> Iterator[Metric]:
    yield gauge(
        "vmheal_exporter_drbd_details_success",
        "Whether the details beside the state could last be read from this source.",
        [({"source": source}, source not in details.errors) for source in DETAIL_SOURCES],
    )
