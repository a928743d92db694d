"""`make bench-scale`: how the actuator grows, from 10 to 200 hosts of 20 VMs, when a tenth of them is lost at once.

The real actuator on its real journal, over hosts in memory (tests/actuator/mesh.py). First they answer at once, and all
is done in one thread: what the actuator computes and writes by itself. Then in real time, with its threads, while each
call takes 20 ms. Each size in a process of its own.
"""

import json
import logging
import math
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import structlog
from prometheus_client import generate_latest
from rich.console import Console
from rich.table import Table

from actuator.adapters.clock import SystemClock, ThreadTasks
from actuator.adapters.sqlite import SqliteJournal
from actuator.core.decide import decide
from actuator.core.place import place
from actuator.keep import Keeper
from actuator.model import Decision, HostRecord, Plan
from actuator.ports import Ports
from actuator.reconcile import Reconciler
from actuator.report import Report, WatchedJournal
from actuator.serve import Actuator
from tests.actuator.mesh import Mesh, fill, host_failures, mesh, settings_of
from tests.actuator.world import Clock, Serial

SIZES = (10, 25, 50, 100, 200)
ONE_MINUTE_SECONDS = 61.0


PARTS = {
    "vms": "VMs",
    "lost": "of them lost",
    "decide": "decide: each lost VM, s",
    "place": "place: all lost VMs once, s",
    "worker": "worker: one after the other, with fsyncs, s",
    "cpu": "of which processor time",
    "keeper": "keeper: one turn (each second), s",
    "reconcile": "reconcile: one turn (each 5 s), s",
    "definitions": "reading all definitions (each minute), s",
    "metrics": "metrics: one scrape, s",
    "peak_mib": "peak memory, MiB",
    "events_kib": "journal: events of one failover, KiB",
}
TIMES = ("decide", "place", "worker", "cpu", "keeper", "reconcile", "definitions", "metrics")


STORM = {
    "vms": "VMs lost",
    "first": "alerts to the first start call, s",
    "last": "alerts to the last start call, s",
    "cpu": "processor time meanwhile, s",
    "keeper": "keeper: the longest turn, s",
    "reconcile": "reconcile: the longest turn, s",
    "threads": "most threads",
    "most": "most changes on one host at once",
    "refused": "refusals",
    "peak_mib": "peak memory, MiB",
}
LATENCY_SECONDS = 0.02
REST_SECONDS = 8.0
"""Of the site at rest, before the rack is lost; all definitions are read then."""
NOTICED_SECONDS = 3.0
"""Between the loss and the alerts."""
DEADLINE_SECONDS = 300.0


@dataclass(frozen=True)
class Storm:
    """Of one size, in real time: see ``STORM``."""

    hosts: int
    agents: bool
    vms: int
    first: float
    last: float
    cpu: float
    keeper: float
    reconcile: float
    threads: int
    most: int
    refused: int
    peak_mib: float


@dataclass(frozen=True)
class Measured:
    """Of one size: see ``PARTS``."""

    hosts: int
    vms: int
    lost: int
    decide: float
    place: float
    worker: float
    cpu: float
    keeper: float
    reconcile: float
    definitions: float
    metrics: float
    peak_mib: float
    events_kib: float


class Run:
    """The actuator on a mesh, driven by hand."""

    def __init__(self, hosts: int, folder: Path) -> None:
        self.mesh: Mesh = mesh(hosts)
        self.clock, self.tasks = Clock(), Serial()
        settings = settings_of(self.mesh, folder / "journal", agents=True)
        self.journal = SqliteJournal(folder / "journal", timeout_seconds=60)
        self.mesh.journal = self.journal
        report = Report(settings)
        it, journal = self.mesh, WatchedJournal(self.journal, report)
        ports = Ports(it, it, it, it, it, it, journal, self.clock, self.tasks)
        self.registry = report.registry
        self.actuator = Actuator(ports, settings, report, threading.Event())
        report.show(self.actuator.protected)

    def settle(self) -> None:
        """Work until there is nothing left to do."""
        while True:
            self.actuator.worker.turn()
            if not self.tasks.queue:
                return
            while self.tasks.queue:
                self.tasks.queue.popleft()()


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Of the processor by default: other work on the machine does not count."""
    begin = clock()
    call()
    return clock() - begin


def measure(hosts: int, folder: Path) -> Measured:
    """Let a site of that size run, then lose a rack."""
    run = Run(hosts, folder)
    actuator, clock, site = run.actuator, run.clock, run.mesh
    with closing(run.journal):
        fill(run.journal, site)
        for _ in range(3):  # reconcile measures the hosts, and the keeper has read all that it keeps
            actuator.reconciler.turn()
            actuator._keeper.turn()
            clock.now += 1
        keeper = min(seconds(actuator._keeper.turn) for _ in range(5))
        reconcile = min(seconds(actuator.reconciler.turn) for _ in range(5))
        clock.now += ONE_MINUTE_SECONDS
        actuator._keeper.turn()  # all hosts are heard of
        definitions = max(0.0, seconds(actuator.reconciler.turn) - reconcile)
        metrics = min(seconds(lambda: generate_latest(run.registry)) for _ in range(5))

        site.lose_rack()
        clock.now += 6
        actuator._keeper.turn()
        failed = [HostRecord(it, 2, failed_at=clock.wall()) for it in site.rack]
        run.journal.commit(hosts=failed)
        questions = [actuator.worker.question(actuator.protected.record(domain)) for domain in site.leaving]
        decisions: list[Decision] = []
        decided = seconds(lambda: decisions.extend(map(decide, questions)))
        assert all(isinstance(it, Plan) for it in decisions)
        placement = questions[0].hosts.placement
        placed = min(
            seconds(lambda: list(place(placement.leaving.values(), placement.rooms))) for _ in range(5)
        )

        before = _events_bytes(run.journal)
        run.journal.receive(host_failures(site, clock.wall()), at=clock.wall())
        cpu = time.process_time()
        worker = seconds(run.settle, time.monotonic)
        cpu = time.process_time() - cpu
        assert len(site.starts) == len(site.leaving)
        events_kib = (_events_bytes(run.journal) - before) / 1024 / len(site.leaving)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Measured(
        hosts,
        len(site.vms),
        len(site.leaving),
        decided,
        placed,
        worker,
        cpu,
        keeper,
        reconcile,
        definitions,
        metrics,
        peak_mib,
        events_kib,
    )


def storm(hosts: int, folder: Path, *, agents: bool) -> Storm:
    """Let a site of that size run in real time, then lose a rack."""
    stopping = threading.Event()
    site = mesh(hosts, latency_seconds=LATENCY_SECONDS, pause=stopping.wait)
    settings = settings_of(site, folder / "journal", agents=agents)
    report, clock = Report(settings), SystemClock(stopping)
    with closing(SqliteJournal(folder / "journal")) as file:
        fill(file, site)
        site.journal = journal = WatchedJournal(file, report)
        ports = Ports(site, site, site, site, site, site, journal, clock, ThreadTasks())
        actuator = Actuator(ports, settings, report, stopping)
        turns = {part: _timed(getattr(actuator, part)) for part in ("_keeper", "reconciler")}
        actuator.start()
        try:
            clock.pause(REST_SECONDS)
            site.lose_rack()
            clock.pause(NOTICED_SECONDS)
            begin, cpu = time.monotonic(), time.process_time()
            journal.receive(host_failures(site, clock.wall()), at=clock.wall())
            actuator.wake()
            first, threads = math.inf, 0
            while len(site.starts) < len(site.leaving) and time.monotonic() - begin < DEADLINE_SECONDS:
                clock.pause(0.05)
                threads = max(threads, threading.active_count())
                if site.starts:
                    first = min(first, time.monotonic() - begin)
            last = time.monotonic() - begin
            assert len(site.starts) == len(site.leaving), "all are started in time"
            cpu = time.process_time() - cpu
            refused = sum(it.kind == "refused" for _, it in file.timeline(limit=1_000_000))
        finally:
            actuator.stop()
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    longest = [max(of) for of in turns.values()]
    most = max(site.most.values())
    return Storm(
        hosts, agents, len(site.leaving), first, last, cpu, *longest, threads, most, refused, peak_mib
    )


def _timed(part: Keeper | Reconciler) -> list[float]:
    """What each of its turns takes, from now on."""
    took: list[float] = []
    turn = part.turn
    part.turn = lambda: took.append(seconds(turn, time.monotonic))
    return took


def _events_bytes(journal: SqliteJournal) -> int:
    return journal._read("SELECT coalesce(sum(length(body)), 0) FROM event")[0][0]


def exponent(found: list[Measured], field: str) -> float:
    """The slope of a part's time over the hosts, both in logarithms, by least squares: n log n is about 1.2."""
    points = [(math.log(it.hosts), math.log(max(getattr(it, field), 1e-6))) for it in found]
    x_mean, y_mean = (sum(column) / len(points) for column in zip(*points, strict=True))
    over = sum((x - x_mean) * (y - y_mean) for x, y in points)
    return over / sum((x - x_mean) ** 2 for x, _ in points)


def table(found: list[Measured]) -> Table:
    """All sizes side by side, a part in each line, and how it grows."""
    shown = Table(
        title="The actuator alone, a tenth of the hosts lost at once; processor time, but for the worker"
    )
    shown.add_column("")
    for it in found:
        shown.add_column(f"{it.hosts} hosts", justify="right")
    shown.add_column("grows with n to the", justify="right")
    for name, label in PARTS.items():
        values = [getattr(it, name) for it in found]
        grows = f"{exponent(found, name):.2f}" if name in TIMES else ""
        shown.add_row(label, *(f"{it:.3f}" if name in TIMES else f"{it:.0f}" for it in values), grows)
    return shown


def storm_table(found: list[Storm]) -> Table:
    """In real time, by size and proof."""
    shown = Table(title=f"In real time, each call takes {LATENCY_SECONDS * 1000:.0f} ms")
    shown.add_column("")
    for it in found:
        shown.add_column(f"{it.hosts} hosts, {'agents' if it.agents else 'arbiter'}", justify="right")
    for name, label in STORM.items():
        values = [getattr(it, name) for it in found]
        shown.add_row(label, *(f"{it:.1f}" if isinstance(it, float) else str(it) for it in values))
    return shown


def _in_a_process(*options: str) -> dict[str, Any]:
    argv = [sys.executable, "-m", "tests.bench.scale", *options]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=1800)
    return json.loads(done.stdout)


@click.command(help=__doc__)
@click.option("--hosts", "sizes", type=click.IntRange(10, 1000), multiple=True, default=SIZES)
@click.option("--storms/--no-storms", default=True, help="Also in real time.")
@click.option(
    "--one", type=click.Choice(["alone", "agents", "arbiter"]), help="This, in this process, as JSON."
)
def main(sizes: tuple[int, ...], storms: bool, one: str | None) -> None:
    """Run the benchmark."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if one is not None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            found = (
                measure(sizes[0], folder)
                if one == "alone"
                else storm(sizes[0], folder, agents=one == "agents")
            )
        print(json.dumps(asdict(found)))
        return
    console = Console(width=120)
    alone = [Measured(**_in_a_process("--one", "alone", "--hosts", str(size))) for size in sizes]
    console.print(table(alone))
    if not storms:
        return
    real = [
        Storm(**_in_a_process("--one", proof, "--hosts", str(size)))
        for proof in ("agents", "arbiter")
        for size in sorted(sizes)[-2:]
    ]
    console.print(storm_table(real))


if __name__ == "__main__":
    main()
