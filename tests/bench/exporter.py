"""What a scrape costs, beside Debian's exporters: `python -m tests.bench.exporter`, as root.

In one run and on one libvirtd, with as many DRBD resources as domains: our page of state
(`collect[]=drbd&collect[]=libvirt`), our full page, prometheus-libvirt-exporter and
prometheus-hacluster-exporter. The domains are real, paused QEMU processes with one disk and one interface each.
DRBD is a program `drbdsetup` that prints what DRBD 9 printed (tests/samples), once for each resource, for both
who ask it. They take turns, so that whatever else the machine does falls on all of them. CPU time is the
processes' own, with the children they waited for. At last one QEMU process is stopped.
"""

import argparse
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import libvirt
from rich.console import Console
from rich.table import Table

from tests.exporter.drbd_samples import drbd9
from tests.exporter.fake_drbd import PROC9, FakeDrbd
from tests.libvirtd import Libvirtd
from tests.proc import stat_of

SAMPLE = ("08b-connected-uptodate-primary-secondary", "v01")
RESOURCE = "ce01"  # two nodes, one volume
NIC = "<interface type='ethernet'><model type='virtio'/></interface>"
PATIENCE_SECONDS = 60.0
SCRAPE_TIMEOUT = "10"  # what our exporter is told, as Prometheus does

STATE, FULL, LIBVIRT, HACLUSTER = "vmheal, state", "vmheal, full", "libvirt-exporter", "hacluster-exporter"


@dataclass(frozen=True)
class Target:
    """One page of one program."""

    name: str
    pid: int
    port: int
    path: str


@dataclass
class Samples:
    """What the scrapes of one target cost, each."""

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    libvirtd_cpu_ms: list[float] = field(default_factory=list)
    resident_mb: float = 0.0
    series: int = 0
    kilobytes: float = 0.0


@dataclass(frozen=True)
class Row:
    """One line of the table; times are medians."""

    domains: int
    stopped: bool
    target: str
    wall_ms: float
    wall_p90_ms: float
    cpu_ms: float
    libvirtd_cpu_ms: float
    resident_mb: float
    series: int
    kilobytes: float


def cpu_seconds(pid: int) -> float:
    """Return a process's CPU time, with the children that it waited for."""
    words = stat_of(pid)
    children = (int(words[13]) + int(words[14])) / os.sysconf("SC_CLK_TCK")
    return (
        time.clock_gettime(~pid << 3 | 2) + children
    )  # the process's own CPU clock, see clock_getcpuclockid(3)


def resident_mb(pid: int) -> float:
    """Return a process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(pid)


def scrape(target: Target) -> bytes:
    """Ask for the page, as Prometheus does but for the compression."""
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=PATIENCE_SECONDS)
    with contextlib.closing(connection):
        connection.request(
            "GET", target.path, headers={"X-Prometheus-Scrape-Timeout-Seconds": SCRAPE_TIMEOUT}
        )
        response = connection.getresponse()
        page = response.read()
        assert response.status == 200, (target.name, response.status, page[:500])
        return page


def measure(target: Target, libvirtd: Libvirtd, samples: Samples) -> bytes:
    """Scrape once and add what it cost."""
    cpu, libvirtd_cpu = cpu_seconds(target.pid), cpu_seconds(libvirtd.pid)
    began = time.monotonic()
    page = scrape(target)
    samples.wall_ms.append((time.monotonic() - began) * 1000)
    samples.cpu_ms.append((cpu_seconds(target.pid) - cpu) * 1000)
    samples.libvirtd_cpu_ms.append((cpu_seconds(libvirtd.pid) - libvirtd_cpu) * 1000)
    samples.resident_mb = max(samples.resident_mb, resident_mb(target.pid))
    samples.series = sum(1 for line in page.splitlines() if line and not line.startswith(b"#"))
    samples.kilobytes = len(page) / 1024
    return page


def rows(domains: int, *, stopped: bool, found: dict[str, Samples]) -> list[Row]:
    """Sum the samples up."""
    return [
        Row(
            domains,
            stopped,
            name,
            statistics.median(one.wall_ms),
            sorted(one.wall_ms)[int(len(one.wall_ms) * 0.9)],
            # A mean: children's time comes in ticks of 10 ms.
            statistics.mean(one.cpu_ms),
            statistics.median(one.libvirtd_cpu_ms),
            one.resident_mb,
            one.series,
            one.kilobytes,
        )
        for name, one in found.items()
        if one.wall_ms
    ]


def replicate(drbd: FakeDrbd, count: int) -> None:
    """Let the fake have this many resources."""
    events = [
        line
        for line in drbd9(*SAMPLE, "events2-now-statistics.txt").splitlines()
        if f"name:{RESOURCE} " in line
    ]
    status, show = (
        next(
            element
            for element in json.loads(drbd9(*SAMPLE, name))
            if element.get("name", element.get("resource")) == RESOURCE
        )
        for name in ("status.json", "show.json")
    )

    def rename(text: str, number: int) -> str:
        text = text.replace(f"name:{RESOURCE} ", f"name:r{number:03} ").replace(
            f'"{RESOURCE}"', f'"r{number:03}"'
        )
        return text.replace(" minor:10 ", f" minor:{number} ").replace('"minor": 10', f'"minor": {number}')

    lines = [rename(line, number) for number in range(count) for line in events]
    drbd.prints("events2", "\n".join([*lines, "exists -"]) + "\n")
    for command, element in (("status", status), ("show", show)):
        text = json.dumps(element)
        drbd.prints(command, "[" + ",\n".join(rename(text, number) for number in range(count)) + "]\n")
    drbd.proc(PROC9)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(log: Path, argv: Sequence[str], port: int, **options: object) -> Iterator[int]:
    """Start a program and wait until it listens."""
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, **options)  # type: ignore[call-overload]
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            threading.Event().wait(0.05)
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def targets(base: Path, drbd: FakeDrbd, libvirtd: Libvirtd) -> Iterator[list[Target]]:
    """Start all three programs."""
    splitbrain = base / "splitbrain"
    splitbrain.mkdir(exist_ok=True)
    ours, theirs, cluster = free_port(), free_port(), free_port()
    with contextlib.ExitStack() as stack:
        pid = stack.enter_context(
            started(
                base / "vmheal.log",
                [
                    sys.executable, "-m", "tests.replaying_exporter", str(drbd.base),
                    f"--web.listen-address=127.0.0.1:{ours}", f"--libvirt.uri={libvirtd.uri}",
                ],
                ours,
            )
        )  # fmt: skip
        found = [
            Target(STATE, pid, ours, "/metrics?collect[]=drbd&collect[]=libvirt"),
            Target(FULL, pid, ours, "/metrics"),
        ]
        pid = stack.enter_context(
            started(
                base / "libvirt-exporter.log",
                [
                    "prometheus-libvirt-exporter", f"--web.listen-address=127.0.0.1:{theirs}",
                    f"--libvirt.uri={libvirtd.uri}",
                ],
                theirs,
            )
        )  # fmt: skip
        found.append(Target(LIBVIRT, pid, theirs, "/metrics"))
        pid = stack.enter_context(
            started(
                base / "hacluster-exporter.log",
                [
                    "ha_cluster_exporter", f"--web.listen-address=127.0.0.1:{cluster}",
                    f"--drbdsetup-path={drbd.base / 'bin' / 'drbdsetup'}", f"--drbdsplitbrain-path={splitbrain}",
                ],
                cluster,
            )
        )  # fmt: skip
        found.append(Target(HACLUSTER, pid, cluster, "/metrics"))
        yield found


def add_domains(handle: libvirt.virConnect, libvirtd: Libvirtd, count: int) -> None:
    """Start paused guests until there are this many."""
    have = handle.numOfDomains()
    for number in range(have, count):
        handle.defineXML(libvirtd.guest(f"vm{number:03}", NIC))
    with ThreadPoolExecutor(3) as pool:
        list(
            pool.map(
                lambda number: handle.lookupByName(f"vm{number:03}").createWithFlags(
                    libvirt.VIR_DOMAIN_START_PAUSED
                ),
                range(have, count),
            )
        )


def take_turns(found: list[Target], libvirtd: Libvirtd, rounds: int) -> dict[str, Samples]:
    """Scrape all in turn, after one scrape each that is not counted."""
    for target in found:
        measure(target, libvirtd, Samples())
    samples = {target.name: Samples() for target in found}
    for _ in range(rounds):
        for target in found:
            measure(target, libvirtd, samples[target.name])
    return samples


def stopped(found: list[Target], libvirtd: Libvirtd, rounds: int, console: Console) -> dict[str, Samples]:
    """The same with one QEMU stopped; the libvirt exporter is asked once, as it waits for half a minute."""
    by_name = {target.name: target for target in found}
    samples = {target.name: Samples() for target in found}
    victim = libvirtd.qemu_pid("vm000")
    os.kill(victim, signal.SIGSTOP)
    try:
        began = time.monotonic()
        page = scrape(by_name[FULL])
        console.print(
            f"first full page after the stop: {time.monotonic() - began:.2f} s of {SCRAPE_TIMEOUT} s"
        )
        for _ in range(rounds):
            for name in (STATE, FULL, HACLUSTER):
                page = measure(by_name[name], libvirtd, samples[name])
                if name == FULL:
                    check_nothing_stale(page.decode())
        try:
            measure(by_name[LIBVIRT], libvirtd, samples[LIBVIRT])
        except (OSError, http.client.HTTPException) as error:
            console.print(f"{LIBVIRT} with a stopped QEMU: {error!r}")
    finally:
        os.kill(victim, signal.SIGCONT)
    return samples


def check_nothing_stale(page: str) -> None:
    """The stopped domain has its state, says that its statistics are missing, and has none."""
    assert 'libvirt_domain_state{domain="vm000"' in page
    assert 'libvirt_domain_stats_missing_info{domain="vm000"' in page
    assert 'libvirt_domain_block_stats_read_bytes_total{domain="vm000"' not in page
    assert 'libvirt_domain_block_stats_read_bytes_total{domain="vm001"' in page or "vm001" not in page


def bars(table: list[Row], console: Console) -> dict[str, bool]:
    """Compare with what was asked for."""
    largest = max((row.domains for row in table if row.domains <= 100), default=0)
    one = {row.target: row for row in table if row.domains == largest and not row.stopped}
    hung = {row.target: row for row in table if row.stopped}
    peers = one[LIBVIRT].wall_ms + one[HACLUSTER].wall_ms
    peers_cpu = sum(one[name].cpu_ms + one[name].libvirtd_cpu_ms for name in (LIBVIRT, HACLUSTER))
    full_cpu = one[FULL].cpu_ms + one[FULL].libvirtd_cpu_ms
    noise = max(one[STATE].wall_p90_ms, 1.5 * one[STATE].wall_ms)
    memory = max(row.resident_mb for row in table if row.target in {STATE, FULL})
    checks = {
        f"state page at {largest} + {largest}: {peers / one[STATE].wall_ms:.1f} times as fast as the two "
        f"(bar: 5)": peers >= 5 * one[STATE].wall_ms,
        f"full page at {largest} + {largest}: {one[FULL].wall_ms:.0f} ms, the two together {peers:.0f} ms "
        f"(CPU with libvirtd's: {full_cpu:.0f} and {peers_cpu:.0f} ms)": one[FULL].wall_ms <= peers,
        f"memory: {memory:.0f} MB at most (bar: 80)": memory < 80,
    }
    if hung:
        checks[
            f"state page with a stopped QEMU: {hung[STATE].wall_ms:.1f} ms, without {one[STATE].wall_ms:.1f} ms "
            f"(90 % below {one[STATE].wall_p90_ms:.1f})"
        ] = hung[STATE].wall_ms <= noise
    for sentence, met in checks.items():
        console.print(f"[{'green' if met else 'red'}]{'met' if met else 'NOT MET'}[/]  {sentence}")
    return checks


def show(table: list[Row], console: Console) -> None:
    """Print the table."""
    printed = Table(title="One scrape: medians")
    for column in (
        "domains + resources",
        "page",
        "wall ms",
        "90 %",
        "CPU ms",
        "libvirtd CPU ms",
        "MB",
        "series",
        "kB",
    ):
        printed.add_column(column, justify="left" if column == "page" else "right")
    for row in table:
        printed.add_row(
            f"{row.domains}{' (1 stopped)' if row.stopped else ''}",
            row.target,
            f"{row.wall_ms:.1f}",
            f"{row.wall_p90_ms:.1f}",
            f"{row.cpu_ms:.1f}",
            f"{row.libvirtd_cpu_ms:.1f}",
            f"{row.resident_mb:.0f}",
            str(row.series),
            f"{row.kilobytes:.0f}",
        )
    console.print(printed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="1,10,50,100,200", help="domains, and as many DRBD resources")
    parser.add_argument("--stopped-at", type=int, default=100, help="size at which one QEMU is stopped")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    sizes = sorted(int(size) for size in arguments.sizes.split(","))
    console = Console()
    table: list[Row] = []
    base = Path(tempfile.mkdtemp(prefix="vmheal-bench-"))
    try:
        with Libvirtd() as libvirtd, contextlib.closing(libvirt.open(libvirtd.uri)) as handle:
            drbd = FakeDrbd(base / "drbd")
            replicate(drbd, sizes[0])
            with targets(base, drbd, libvirtd) as found:
                for size in sizes:
                    console.print(f"starting guests: {size}")
                    add_domains(handle, libvirtd, size)
                    replicate(drbd, size)
                    console.print(f"scraping, load average {os.getloadavg()[0]:.1f}")
                    table += rows(size, stopped=False, found=take_turns(found, libvirtd, arguments.rounds))
                    if size == arguments.stopped_at:
                        hung = stopped(found, libvirtd, arguments.rounds, console)
                        table += rows(size, stopped=True, found=hung)
        show(table, console)
        checks = bars(table, console)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    if arguments.json:
        figures = {"rows": [asdict(row) for row in table], "bars": checks, "cpus": os.cpu_count()}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
