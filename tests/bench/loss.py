"""`make bench-loss`: lose a host with twenty VMs again and again, and say how long each part took.

On one machine (tests/line): real libvirtd with QEMU guests, exporter, sshd, Prometheus, Alertmanager with the
files of rules/, and actuator; DRBD is replayed. First a site with a fence agent, then one that rests on the
arbiter, where a VM is started only when the lost host has ended it by itself (isolation timeout and margin).
The host that was lost comes back, and the other one is lost next.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from actuator.model import Proof
from tests.bench.parts import table
from tests.lab.moves import Failover
from tests.lab.waiting import print_progress
from tests.line.loss import DRBD_NOTICES_SECONDS, LosableLine

BAR_SECONDS = 8.0
"""From the loss to the last start call, in the median, where nothing has to be waited for."""
PROOFS = (Proof.POWER.value, Proof.ARBITRATED.value)


@click.command(help=__doc__)
@click.option("--runs", type=click.IntRange(1, 100), default=10, show_default=True, help="With each proof.")
@click.option("--vms", "count", type=click.IntRange(1, 50), default=20, show_default=True)
@click.option(
    "--proof", "proofs", type=click.Choice(PROOFS), multiple=True, default=PROOFS, show_default=True
)
@click.option(
    "--add-to",
    "kept",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file of earlier runs' figures.",
)
@click.option(
    "--journals",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="A folder for what the actuator wrote down of each loss.",
)
def main(runs: int, count: int, proofs: tuple[str, ...], kept: Path | None, journals: Path | None) -> None:
    """Run the benchmark."""
    figures: dict[str, list[Failover]] = {proof: [] for proof in proofs}
    if kept and kept.exists():
        earlier = json.loads(kept.read_text())
        figures = {proof: [Failover(**it) for it in found] for proof, found in earlier.items()} | figures
        figures |= {proof: [Failover(**it) for it in earlier.get(proof, [])] for proof in proofs}
    for proof in map(Proof, proofs):
        for took in losses(runs, count, proof, journals):
            figures[proof].append(took)
            if kept:
                kept.write_text(json.dumps({it: [asdict(one) for one in of] for it, of in figures.items()}))
    title = (
        f"A host lost with {count} VMs; seconds from the loss. {os.cpu_count()} CPUs; DRBD's own detection"
        f" {DRBD_NOTICES_SECONDS:g} s"
    )
    series = {f"proof {proof}, {len(found)} losses": found for proof, found in figures.items() if found}
    Console().print(table(title, series))
    if found := figures.get(Proof.POWER):
        median = statistics.median(it.last_start for it in found)
        verdict = "met" if median <= BAR_SECONDS else "MISSED"
        print(f"bar: proof power, last start call within {BAR_SECONDS:g} s: {verdict} ({median:.2f} s)")


def losses(runs: int, count: int, proof: Proof, journals: Path | None) -> Iterator[Failover]:
    """Lose a host so many times, from a site at rest each time."""
    domains = tuple(f"vm{number:02d}" for number in range(1, count + 1))
    with (
        tempfile.TemporaryDirectory(prefix="vmheal-bench-") as folder,
        LosableLine(Path(folder), domains, proof) as line,
    ):
        for number in range(1, runs + 1):
            line.wait_at_rest()
            assert (line.running(line.home), line.running(line.other)) == (set(domains), set())
            took = line.lose()
            print_progress(f"proof {proof}, loss {number} of {runs}: {took}")
            if journals:
                name = f"{proof}-{round(time.time())}.json"
                (journals / name).write_text("".join(f"{event}\n" for event in line.journal()))
            yield took
            if number < runs:
                line.bring_back()


if __name__ == "__main__":
    main()
