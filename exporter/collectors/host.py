"""Collector `host`: what placing a domain on this host needs to know, and the host's own clock and boot.

Memory, load and boot come from /proc. On a Xen host that is the control domain's view, so what domains can
have comes from the hypervisor, through libvirt.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path

import libvirt
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from exporter.collector import CollectorError
from exporter.libvirt_connection import Connection, default_uris

KIB = 1024
MIB = 1024 * 1024


class Host:
    """Memory, CPUs, load, boot and clock of this host."""

    name = "host"

    def __init__(self, uris: tuple[str, ...], proc: Path = Path("/proc")) -> None:
        """Connect nothing yet; no URI means what this host has."""
        xen = next((uri for uri in uris or default_uris() if uri.startswith("xen")), None)
        self._hypervisor = Connection(xen) if xen else None
        self._proc = proc

    def collect(self, deadline: float) -> Iterable[Metric]:  # noqa: ARG002  libvirt takes none
        """Read /proc, and Xen's figures where it is Xen."""
        try:
            memory = self._memory_bytes()
            loads = self._read("loadavg").split()[:3]
            boot_id = self._read("sys/kernel/random/boot_id").strip()
            boot_time = next(
                float(line.split()[1])
                for line in self._read("stat").splitlines()
                if line.startswith("btime ")
            )
            total, free, cpus = memory["MemTotal"], memory["MemAvailable"], os.cpu_count() or 1
            if self._hypervisor is not None:
                handle = self._hypervisor.handle()
                information = handle.getInfo()  # model, MiB, CPUs, MHz, NUMA cells, sockets, cores, threads
                total, free, cpus = information[1] * MIB, handle.getFreeMemory(), information[2]
        except (OSError, ValueError, LookupError, StopIteration) as error:
            raise CollectorError(f"/proc cannot be read: {error!r}") from error
        except libvirt.libvirtError as error:
            raise CollectorError(f"the hypervisor's memory cannot be read: {error}") from error
        boot = GaugeMetricFamily(
            "vmheal_host_boot_info", "Which boot of the host this is: always 1.", labels=["boot_id"]
        )
        boot.add_metric([boot_id], 1.0)
        return [
            _gauge("memory_total_bytes", "Memory of the whole host, in bytes.", total),
            _gauge("memory_free_bytes", "Memory that new domains can get, in bytes.", free),
            _gauge(
                "memory_own_total_bytes",
                "Memory that the host's own Linux sees, in bytes.",
                memory["MemTotal"],
            ),
            _gauge(
                "memory_own_available_bytes",
                "Memory that programs of the host's own Linux can get without swapping, in bytes.",
                memory["MemAvailable"],
            ),
            _gauge("swap_total_bytes", "Swap of the host's own Linux, in bytes.", memory["SwapTotal"]),
            _gauge("swap_free_bytes", "Free swap of the host's own Linux, in bytes.", memory["SwapFree"]),
            _gauge("cpus", "Logical CPUs of the whole host.", cpus),
            _gauge("load1", "Load average of the host's own Linux over 1 minute.", float(loads[0])),
            _gauge("load5", "Load average of the host's own Linux over 5 minutes.", float(loads[1])),
            _gauge("load15", "Load average of the host's own Linux over 15 minutes.", float(loads[2])),
            _gauge("boot_time_seconds", "When the host booted, in seconds since the epoch.", boot_time),
            boot,
            _gauge("time_seconds", "The host's clock, in seconds since the epoch.", time.time()),
        ]

    def down(self) -> Iterable[Metric]:
        """Say nothing."""
        return ()

    def close(self) -> None:
        """Close the connection."""
        if self._hypervisor is not None:
            self._hypervisor.close()

    def _read(self, name: str) -> str:
        return (self._proc / name).read_text(encoding="ascii")

    def _memory_bytes(self) -> dict[str, int]:
        lines = (line.split() for line in self._read("meminfo").splitlines())
        return {words[0].rstrip(":"): int(words[1]) * KIB for words in lines}


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"vmheal_host_{name}", about, value=value)
