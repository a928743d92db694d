"""Collector `libvirt.stats`: what the domains' disks, interfaces, memory and vCPUs did.

These figures come from QEMU's monitor, and a QEMU that hangs keeps whoever asks it waiting without end. So
domains are asked by workers with a connection of their own each: first several by one call, which is cheap,
then those of a call that does not come back one by one. A call that hangs costs one worker (`MOST_WORKERS` at
most) and nobody else's figures; while it lasts its domains are asked one by one, and libvirt leaves out the
one that it waits for.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import libvirt
import structlog
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from exporter.collector import CollectorError
from exporter.libvirt_connection import Connections, OwnConnections
from exporter.libvirt_domain import Definition, parse_definition
from exporter.libvirt_statistics import (
    Numbers,
    Statistics,
    has_no_bulk,
    is_stopped,
    read_block_jobs,
    read_bulk,
    read_by_calls,
)
from exporter.workers import Workers

log = structlog.get_logger()

# Most of a worker's time is waiting for QEMU: four took a sixth less time than two, six no less than four.
WORKERS = 4
MOST_WORKERS = 8
CHUNK = 5
# The part of the scrape's time that the calls for several domains get.
CHUNKS_SHARE = 0.5
# Read again after this time, or when the domain was started anew.
DEFINITION_SECONDS = 60.0
HANDBACK_SECONDS = 0.05  # kept for putting the page together
# Block jobs take a call for each disk, and are rare.
BLOCK_JOBS_SECONDS = 30.0

KIB = 1024.0
NANOSECOND = 1e-9


@dataclass(frozen=True)
class Figure:
    """One of libvirt's numbers and the metric it becomes. A counter's name gets `_total`."""

    key: str
    name: str
    about: str
    scale: float = 1.0
    counter: bool = True


# The keys are those of virConnectGetAllDomainStats; the names those of existing libvirt exporters.
BLOCK = (
    Figure("rd.bytes", "read_bytes", "Bytes read from the disk."),
    Figure("rd.reqs", "read_requests", "Read requests to the disk."),
    Figure("rd.times", "read_time_seconds", "Time spent on reads from the disk, in seconds.", NANOSECOND),
    Figure("wr.bytes", "write_bytes", "Bytes written to the disk."),
    Figure("wr.reqs", "write_requests", "Write requests to the disk."),
    Figure("wr.times", "write_time_seconds", "Time spent on writes to the disk, in seconds.", NANOSECOND),
    Figure("fl.reqs", "flush_requests", "Flush requests to the disk."),
    Figure("fl.times", "flush_time_seconds", "Time spent on flushes of the disk, in seconds.", NANOSECOND),
    Figure("errors", "errors", "Errors of the disk, where the driver counts them."),
    Figure("allocation", "allocation", "Offset of the highest byte written to the disk.", counter=False),
    Figure("capacity", "capacity_bytes", "Logical size of the disk, in bytes.", counter=False),
    Figure(
        "physical", "physicalsize_bytes", "Size of the disk's container on the host, in bytes.", counter=False
    ),
)
INTERFACE = (
    Figure("rx.bytes", "receive_bytes", "Bytes received by the domain on the interface."),
    Figure("rx.pkts", "receive_packets", "Packets received by the domain on the interface."),
    Figure("rx.errs", "receive_errors", "Errors of receiving on the interface."),
    Figure("rx.drop", "receive_drops", "Packets for the domain that were dropped on the interface."),
    Figure("tx.bytes", "transmit_bytes", "Bytes sent by the domain on the interface."),
    Figure("tx.pkts", "transmit_packets", "Packets sent by the domain on the interface."),
    Figure("tx.errs", "transmit_errors", "Errors of sending on the interface."),
    Figure("tx.drop", "transmit_drops", "Packets from the domain that were dropped on the interface."),
)
MEMORY = (
    Figure(
        "actual", "actual_balloon_bytes", "Present size of the memory balloon, in bytes.", KIB, counter=False
    ),
    Figure(
        "maximum", "maximum_bytes", "Memory that the domain may have at most, in bytes.", KIB, counter=False
    ),
    Figure(
        "available", "available_bytes", "Usable memory as the guest sees it, in bytes.", KIB, counter=False
    ),
    Figure(
        "unused", "unused_bytes", "Memory that the guest leaves wholly unused, in bytes.", KIB, counter=False
    ),
    Figure(
        "usable",
        "usable_bytes",
        "Memory that the guest could give back without swapping, in bytes.",
        KIB,
        counter=False,
    ),
    Figure(
        "disk_caches",
        "disk_cache_bytes",
        "Memory that the guest uses for disk caches, in bytes.",
        KIB,
        counter=False,
    ),
    Figure(
        "rss",
        "rss_bytes",
        "Resident memory of the domain's process on the host, in bytes.",
        KIB,
        counter=False,
    ),
    Figure("swap_in", "swap_in_bytes", "Memory that the guest read from swap, in bytes.", KIB, counter=False),
    Figure(
        "swap_out", "swap_out_bytes", "Memory that the guest wrote to swap, in bytes.", KIB, counter=False
    ),
    Figure("major_fault", "major_fault", "Page faults of the guest that needed I/O."),
    Figure("minor_fault", "minor_fault", "Page faults of the guest that needed no I/O."),
)
VCPU = (
    Figure("time", "time_seconds", "CPU time that the vCPU used, in seconds.", NANOSECOND),
    Figure("wait", "wait_seconds", "Time that the vCPU waited for I/O, in seconds.", NANOSECOND),
    Figure(
        "delay", "delay_seconds", "Time that the vCPU waited for a CPU of the host, in seconds.", NANOSECOND
    ),
    Figure("state", "state", "State of the vCPU: 0 offline, 1 running, 2 blocked.", counter=False),
)

CPU_TIME = Figure("cpu_time", "cpu_time_seconds", "CPU time of the domain, in seconds.", NANOSECOND)
VCPU_COUNTS = (
    Figure("current", "current", "Number of the domain's vCPUs that are online.", counter=False),
    Figure("maximum", "maximum", "Number of vCPUs that the domain may have at most.", counter=False),
)

# libvirt-exporter's sentences for the label state_desc.
STATE_SENTENCES = (
    "no state",
    "the domain is running",
    "the domain is blocked on resource",
    "the domain is paused by user",
    "the domain is being shut down",
    "the domain is shut off",
    "the domain is crashed",
    "the domain is suspended by guest power management",
)


@dataclass(frozen=True)
class _Domain:
    """A running domain to read."""

    uri: str
    name: str
    uuid: str
    number: int  # libvirt's ID: another one after each start


_Read = dict[str, tuple[Statistics, Definition]]  # by UUID


class _Page:
    """The metric families of one scrape."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}

    def _samples(self, name: str, about: str, *, counter: bool) -> list[Sample]:
        metric = self._families.get(name)
        if metric is None:
            metric = self._families[name] = Metric(name, about, "counter" if counter else "gauge")
        return metric.samples

    def figures(
        self, group: str, figures: Iterable[Figure], labels: dict[str, str], numbers: Numbers
    ) -> None:
        """Add those of the figures that are known."""
        for figure in figures:
            value = numbers.get(figure.key)
            if value is not None:
                name = f"libvirt_domain_{group}_{figure.name}"
                samples = self._samples(name, figure.about, counter=figure.counter)
                sample = f"{name}_total" if figure.counter else name
                samples.append(Sample(sample, labels, value * figure.scale))

    def gauge(self, name: str, about: str, labels: dict[str, str], value: float = 1.0) -> None:
        """Add one gauge."""
        self._samples(name, about, counter=False).append(Sample(name, labels, value))

    def domain(self, name: str, statistics: Statistics, definition: Definition) -> None:
        """Add all figures of a domain."""
        domain = {"domain": name}
        state, most_kib, kib, vcpus, nanoseconds = statistics.info
        sentence = STATE_SENTENCES[state] if state < len(STATE_SENTENCES) else STATE_SENTENCES[0]
        self.gauge(
            "libvirt_domain_info_state", "The number of the domain's state.",
            domain | {"state_desc": sentence}, state,
        )  # fmt: skip
        self.gauge(
            "libvirt_domain_info_maximum_memory_bytes", "Memory that the domain may have at most, in bytes.",
            domain, most_kib * KIB,
        )  # fmt: skip
        self.gauge(
            "libvirt_domain_info_memory_usage_bytes",
            "Memory that the domain has, in bytes.",
            domain,
            kib * KIB,
        )
        self.gauge("libvirt_domain_info_virtual_cpus", "Number of the domain's vCPUs.", domain, vcpus)
        self.figures("info", (CPU_TIME,), domain, {"cpu_time": nanoseconds})
        self._devices(domain, statistics, definition)
        self._memory(domain, statistics.memory)
        for number, numbers in statistics.vcpus.items():
            self.figures("vcpu", VCPU, domain | {"vcpu": number}, numbers)
        self.figures("vcpu", VCPU_COUNTS, domain, statistics.vcpu_counts)

    def _devices(self, domain: dict[str, str], statistics: Statistics, definition: Definition) -> None:
        for target, numbers in statistics.blocks.items():
            self.figures("block_stats", BLOCK, {**domain, "target_device": target}, numbers)
        for target, numbers in statistics.interfaces.items():
            self.figures("interface_stats", INTERFACE, {**domain, "target_device": target}, numbers)
        for target, kind, ratio in statistics.block_jobs:
            self.gauge(
                "libvirt_domain_block_job_done_ratio", "How much of the block job is done, 0 to 1.",
                {**domain, "target_device": target, "type": kind}, ratio,
            )  # fmt: skip
        for disk in definition.disks:
            about = {
                "target_device": disk.target, "source_file": disk.source, "disk_type": disk.kind,
                "target_bus": disk.bus, "serial": disk.serial, "driver_name": disk.driver,
                "driver_type": disk.driver_type, "driver_cache": disk.cache, "driver_discard": disk.discard,
            }  # fmt: skip
            self.gauge("libvirt_domain_block_stats_info", "What the disk is: always 1.", {**domain, **about})
        for interface in definition.interfaces:
            about = {
                "target_device": interface.target, "source_bridge": interface.bridge,
                "interface_type": interface.kind, "mac_address": interface.mac_address,
                "model_type": interface.model, "mtu_size": interface.mtu,
            }  # fmt: skip
            self.gauge(
                "libvirt_domain_interface_stats_info", "What the interface is: always 1.", {**domain, **about}
            )

    def _memory(self, domain: dict[str, str], memory: Numbers) -> None:
        self.figures("memory_stats", MEMORY, domain, memory)
        available, usable = memory.get("available"), memory.get("usable")
        if available and usable is not None:
            self.gauge(
                "libvirt_domain_memory_stats_used_percent", "Memory that the guest uses, in percent.",
                domain, 100.0 * (available - usable) / available,
            )  # fmt: skip

    def complete(self, name: str, uuid: str, reason: str | None) -> None:
        """Say whether all of the domain's statistics are here, and if not, why."""
        labels = {"domain": name, "uuid": uuid}
        self.gauge(
            "libvirt_domain_stats_complete",
            "Whether all statistics of the running domain are on this page: 1 or 0.",
            labels,
            float(reason is None),
        )
        if reason is not None:
            self.gauge(
                "libvirt_domain_stats_missing_info",
                "Why statistics of the domain are not on this page: always 1.",
                labels | {"reason": reason},
            )

    def all(self) -> list[Metric]:
        return list(self._families.values())


class LibvirtStats:
    """The statistics of every running domain, and for each whether and why they are missing."""

    name = "libvirt.stats"

    def __init__(self, uris: tuple[str, ...]) -> None:
        """Connect nothing yet; no URI means what this host has."""
        self._connections = Connections(uris)
        self._workers: Workers[OwnConnections, _Read] = Workers(
            "libvirt-stats", OwnConnections, usual=WORKERS, most=MOST_WORKERS
        )
        self._no_bulk: set[str] = set()  # URIs of drivers without bulk statistics
        self._definitions: dict[str, tuple[int, float, Definition]] = {}  # by UUID
        self._jobs_asked_again: dict[str, float] = {}  # by UUID, when

    def collect(self, deadline: float) -> Iterable[Metric]:
        """Ask each running domain; see `Collector.collect`."""
        domains = {domain.uuid: domain for domain in self._running()}
        for uuid in self._definitions.keys() - domains.keys():
            self._definitions.pop(uuid, None)
            self._jobs_asked_again.pop(uuid, None)
        read, reasons, stopped = self._ask(domains, deadline - HANDBACK_SECONDS)
        page = _Page()
        for uuid, (statistics, definition) in read.items():
            page.domain(domains[uuid].name, statistics, definition)
            if statistics.missing is not None:
                reasons[uuid] = statistics.missing
        for uuid, domain in domains.items():
            if uuid not in stopped:
                page.complete(domain.name, uuid, reasons.get(uuid))
        return page.all()

    def _ask(self, domains: dict[str, _Domain], deadline: float) -> tuple[_Read, dict[str, str], set[str]]:
        """Return what was read, why the rest was not, and which domains stopped meanwhile; all by UUID."""
        jobs: dict[str, Callable[[OwnConnections], _Read]] = {}
        for uri in {domain.uri for domain in domains.values()} - self._no_bulk:
            same = [domain for domain in domains.values() if domain.uri == uri]
            for start in range(0, len(same), CHUNK):
                chunk = same[start : start + CHUNK]
                key = " ".join(domain.uuid for domain in chunk)
                jobs[key] = partial(self._read_chunk, chunk)
        now = time.monotonic()
        answers = self._workers.run(jobs, now + (deadline - now) * CHUNKS_SHARE)
        read: _Read = {uuid: found for part in answers.answered.values() for uuid, found in part.items()}
        stopped = {uuid for key in answers.answered for uuid in key.split()} - read.keys()

        left = {uuid: domain for uuid, domain in domains.items() if uuid not in read.keys() | stopped}
        answers = self._workers.run(
            {uuid: partial(self._read_one, domain) for uuid, domain in left.items()}, deadline
        )
        for part in answers.answered.values():
            read |= part
        stopped |= answers.answered.keys() - read.keys()
        reasons = dict.fromkeys(answers.hanging, "no_answer") | dict.fromkeys(answers.not_asked, "not_asked")
        for uuid, error in answers.failed.items():
            if is_stopped(error):
                stopped.add(uuid)
            else:
                log.warning("statistics cannot be read", domain=domains[uuid].name, error=str(error))
                reasons[uuid] = "error"
        return read, reasons, stopped

    def _running(self) -> list[_Domain]:
        """Return the running domains.

        Raises:
            CollectorError: no libvirt answers.
        """
        found: list[_Domain] = []
        errors: list[str] = []
        for connection, handle in self._connections:
            if isinstance(handle, libvirt.libvirtError):
                errors.append(f"{connection.uri}: {handle}")
                continue
            try:
                domains = handle.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            except libvirt.libvirtError as error:
                errors.append(f"{connection.uri}: {error}")
                continue
            found += [
                _Domain(connection.uri, domain.name(), domain.UUIDString(), domain.ID()) for domain in domains
            ]
        if errors and not found:
            raise CollectorError("; ".join(errors))
        return found

    def _read_chunk(self, chunk: list[_Domain], own: OwnConnections) -> _Read:
        """Read some domains of one libvirt by one call; called by a worker."""
        connection = own[chunk[0].uri]
        handles = {domain.uuid: connection.domain(domain.uuid) for domain in chunk}
        found = read_bulk(connection.handle(), list(handles.values()))
        read: _Read = {}
        for domain in chunk:
            statistics = found.get(domain.uuid)
            if statistics is not None:
                handle = handles[domain.uuid]
                self._add_block_jobs(domain, handle, statistics)
                read[domain.uuid] = statistics, self._definition(domain, handle)
        return read

    def _read_one(self, domain: _Domain, own: OwnConnections) -> _Read:
        """Read one domain, in whatever way its driver offers; called by a worker."""
        if domain.uri not in self._no_bulk:
            try:
                return self._read_chunk([domain], own)
            except libvirt.libvirtError as error:
                if not has_no_bulk(error):
                    raise
                self._no_bulk.add(domain.uri)
        handle = own[domain.uri].domain(domain.uuid)
        definition = self._definition(domain, handle)
        return {domain.uuid: (read_by_calls(handle, definition), definition)}

    def _add_block_jobs(self, domain: _Domain, handle: Any, statistics: Statistics) -> None:
        now = time.monotonic()
        if statistics.missing is None and now >= self._jobs_asked_again.get(domain.uuid, 0.0):
            read_block_jobs(handle, statistics)
            # Where one runs it is followed; elsewhere a new one is found a little later.
            self._jobs_asked_again[domain.uuid] = now if statistics.block_jobs else now + BLOCK_JOBS_SECONDS

    def _definition(self, domain: _Domain, handle: Any) -> Definition:
        now = time.monotonic()
        number, read_at, definition = self._definitions.get(domain.uuid, (None, 0.0, None))
        if definition is None or number != domain.number or now - read_at > DEFINITION_SECONDS:
            definition = parse_definition(handle.XMLDesc(0))
            self._definitions[domain.uuid] = (domain.number, now, definition)
        return definition

    def down(self) -> Iterable[Metric]:
        """Say nothing."""
        return ()

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()
