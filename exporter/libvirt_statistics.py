"""What one running domain's disks, interfaces, memory and vCPUs did, read from libvirt.

QEMU's driver has virConnectGetAllDomainStats; Xen's and LXC's have not, and are asked call by call for what
they offer. Both end in the same `Statistics`, whose keys are those of virConnectGetAllDomainStats.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import libvirt

from exporter.libvirt_domain import Definition

CONTROL_OK = 0  # virDomainControlState

GROUPS = (
    libvirt.VIR_DOMAIN_STATS_INTERFACE
    | libvirt.VIR_DOMAIN_STATS_BLOCK
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_VCPU
)

BLOCK_JOBS = ("unknown", "pull", "copy", "commit", "active_commit", "backup")  # virDomainBlockJobType

Numbers = dict[str, float]


@dataclass
class Statistics:
    """What was read of one domain; `missing` says in a word why the rest is not here."""

    info: tuple[int, int, int, int, int]  # state, most KiB, KiB, vCPUs, CPU nanoseconds
    blocks: dict[str, Numbers] = field(default_factory=dict)  # by target device
    interfaces: dict[str, Numbers] = field(default_factory=dict)  # by target device
    memory: Numbers = field(default_factory=dict)  # in KiB, as libvirt counts
    vcpus: dict[str, Numbers] = field(default_factory=dict)  # by number
    vcpu_counts: Numbers = field(default_factory=dict)  # current, maximum
    block_jobs: list[tuple[str, str, float]] = field(default_factory=list)  # target device, type, part done
    missing: str | None = None


def read_bulk(handle: Any, domains: Sequence[Any]) -> dict[str, Statistics]:
    """Read running domains by one call, and return those that still are, by UUID.

    A domain whose monitor somebody else waits for is left without what comes from there, and named; one
    whose monitor hangs without anybody having noticed keeps the call waiting without end.

    Raises:
        libvirt.libvirtError: the driver has no bulk statistics (`has_no_bulk`), or libvirt failed.
    """
    read: dict[str, Statistics] = {}
    for domain, values in handle.domainListGetStats(
        list(domains), GROUPS, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    ):
        try:
            statistics = Statistics(info=tuple(domain.info()))
            _from_bulk(values, statistics)
            if any("rd.reqs" not in numbers for numbers in statistics.blocks.values()):
                statistics.missing = "job" if domain.controlInfo()[0] == CONTROL_OK else "monitor_busy"
        except libvirt.libvirtError as error:
            if not is_stopped(error):
                raise
        else:
            read[domain.UUIDString()] = statistics
    return read


def read_by_calls(domain: Any, definition: Definition) -> Statistics:
    """Read one running domain of a driver without bulk statistics.

    Raises:
        libvirt.libvirtError: it is not running any more, or libvirt failed.
    """
    statistics = Statistics(info=tuple(domain.info()))
    _call_by_call(domain, definition, statistics)
    return statistics


def has_no_bulk(error: Exception) -> bool:
    """Whether the error says that the driver has no bulk statistics."""
    return isinstance(error, libvirt.libvirtError) and error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT


def is_stopped(error: Exception) -> bool:
    """Whether the error says that the domain is not running, or not there."""
    return isinstance(error, libvirt.libvirtError) and error.get_error_code() in {
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_OPERATION_INVALID,
    }


def read_block_jobs(domain: Any, statistics: Statistics) -> None:
    """Add the domain's block jobs, by one call for each of its disks; nothing where the driver has none.

    Raises:
        libvirt.libvirtError: the domain is not running any more, or libvirt failed.
    """
    for target in statistics.blocks:
        job = _offered(domain.blockJobInfo, target, 0)
        if job and job["end"]:
            kind = BLOCK_JOBS[job["type"]] if job["type"] < len(BLOCK_JOBS) else "unknown"
            statistics.block_jobs.append((target, kind, job["cur"] / job["end"]))


_INDEXED = re.compile(r"(block|net|vcpu)\.(\d+)\.(.+)")
_MEMORY_NAMES = {"current": "actual"}


def _from_bulk(values: dict[str, Any], statistics: Statistics) -> None:
    for key, value in values.items():
        indexed = _INDEXED.fullmatch(key)
        if indexed:
            kind, index, name = indexed.groups()
            if not isinstance(value, int):
                continue
            if kind == "vcpu":
                statistics.vcpus.setdefault(index, {})[name] = value
            else:
                target = values.get(f"{kind}.{index}.name", "")
                devices = statistics.blocks if kind == "block" else statistics.interfaces
                devices.setdefault(target, {})[name] = value
            continue
        group, _, name = key.partition(".")
        if group == "balloon":
            statistics.memory[_MEMORY_NAMES.get(name, name)] = value
        elif group == "vcpu":
            statistics.vcpu_counts[name] = value


_BLOCK_KEYS = ("rd.reqs", "rd.bytes", "wr.reqs", "wr.bytes", "errors")
_INTERFACE_KEYS = (
    "rx.bytes", "rx.pkts", "rx.errs", "rx.drop", "tx.bytes", "tx.pkts", "tx.errs", "tx.drop",
)  # fmt: skip


def _call_by_call(domain: Any, definition: Definition, statistics: Statistics) -> None:
    """Read what drivers without bulk statistics offer; what one does not know is left out."""
    for disk in definition.disks:
        numbers = _offered(domain.blockStats, disk.target) if disk.source else None
        if numbers is not None:
            statistics.blocks[disk.target] = _known(zip(_BLOCK_KEYS, numbers, strict=True))
    for interface in definition.interfaces:
        numbers = _offered(domain.interfaceStats, interface.target) if interface.target else None
        if numbers is not None:
            statistics.interfaces[interface.target] = _known(zip(_INTERFACE_KEYS, numbers, strict=True))
    memory = _offered(domain.memoryStats)
    if memory is not None:
        statistics.memory = _known(memory.items())
    vcpus = _offered(domain.vcpus)
    if vcpus is not None:
        statistics.vcpus = {
            str(number): {"state": state, "time": used} for number, state, used, _cpu in vcpus[0]
        }


def _offered(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the call's answer, or None when this driver, or this device of it, has none."""
    try:
        return call(*arguments)
    except libvirt.libvirtError as error:
        if error.get_error_code() in {
            libvirt.VIR_ERR_NO_SUPPORT,
            libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
            libvirt.VIR_ERR_INVALID_ARG,
            libvirt.VIR_ERR_INTERNAL_ERROR,
        }:
            return None
        raise


def _known(numbers: Any) -> Numbers:
    """Leave out the numbers that libvirt does not know: it says -1."""
    return {key: value for key, value in numbers if value >= 0}
