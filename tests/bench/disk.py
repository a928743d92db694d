"""`make bench-disk`: what does mirroring cost a guest, by what it does and by how large a file is?

fio runs in one Xen guest, on whole hosts that QEMU emulates: on a logical volume alone, and on volumes that DRBD mirrors
with its protocols A, B and C. They take turns, each round begins with another one, and what counts is each one's share of
what LVM alone did in the same round: the hosts are slow and busy, the shares are not.

Everything goes through the guest's page cache, as files do, but for the last job. "Flushed" counts the flush at the end
in: what was written is on the disks then, and not only in the guest's memory.
"""

import gzip
import json
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table

from tests.bench.bars import Bar, Panel, picture
from tests.lab.image import Image, build, pack_cpio
from tests.lab.lab import Lab, in_parallel
from tests.lab.vm import Resource, Vm
from tests.lab.waiting import LabError, stage, wait_until

MEMORY_MIB = 320
"""Of the guest; fio and its libraries take 90 of them, as they lie in its initramfs."""
SIZES_MIB = (64, 128, 256)
"""Of the files: around what is left of its memory."""
DISK_MIB = max(SIZES_MIB) + 16
MOST_SECONDS = 8
"""A job ends when it has been through its file, or after so long."""
STARTS_WITHIN_SECONDS = 300
JOB_WITHIN_SECONDS = 180
"""One job on all disks, with fio's own start and end."""
ALONE, PROTOCOLS = "LVM alone", ("A", "B", "C")
SERIES = (ALONE, *PROTOCOLS)
HOSTS = ("v01", "v02")


class Job(NamedTuple):
    """What is done with a file."""

    name: str
    options: tuple[str, ...]


JOBS = (
    Job("sequential read", ("rw=read", "bs=1M")),
    Job("random read", ("rw=randread", "bs=4k")),
    Job("sequential write", ("rw=write", "bs=1M")),
    Job("random write", ("rw=randwrite", "bs=4k")),
    Job("sequential write, flushed", ("rw=write", "bs=1M", "end_fsync=1")),
    Job("random write, flushed", ("rw=randwrite", "bs=4k", "end_fsync=1")),
    Job("random write, each one waited for", ("rw=randwrite", "bs=4k", "direct=1", "sync=1")),
)


class Turn(NamedTuple):
    """One job with a file of one size, on all disks one after the other."""

    round: int
    size_mib: int
    job: Job

    @property
    def order(self) -> tuple[str, ...]:
        first = self.round % len(SERIES)
        return SERIES[first:] + SERIES[:first]


class Volume(Resource):
    """A logical volume on the first host alone."""

    @property
    def device(self) -> str:
        return self.backing


Throughputs = dict[tuple[int, str], list[dict[str, float]]]
"""MB/s of each series, for each size in MiB and name of a job, round by round."""


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(1, 20), default=3, show_default=True)
@click.option("--picture", "svg", type=click.Path(path_type=Path), help="Draw the shares into this SVG file.")
def main(rounds: int, svg: Path | None) -> None:
    """Run the benchmark."""
    todo = turns(rounds)
    with Lab(hosts=len(HOSTS), flavour="xen", name="bench") as lab:
        vm = furnish(lab, todo)
        lab.start_vm(vm)
        found, available_mib = measure(lab, vm, todo)
    title = (
        f"{rounds} rounds; guest with {MEMORY_MIB} MiB, of which {available_mib} were available; "
        f"MB/s of LVM alone, and shares of it: median (lowest to highest)"
    )
    Console().print(table(title, found))
    if svg is not None:
        svg.write_text(picture(panels(found)), encoding="utf-8")


def turns(rounds: int) -> list[Turn]:
    """All that is measured, in this order."""
    return [Turn(number, size, job) for number in range(rounds) for size in SIZES_MIB for job in JOBS]


# ---- before


def furnish(lab: Lab, todo: Sequence[Turn]) -> Vm:
    """Make the disks and define the guest that runs fio on them, on the first host."""
    first = lab.host(HOSTS[0])
    alone = Volume("alone", len(PROTOCOLS), HOSTS, size_mib=DISK_MIB)
    mirrored = [
        Resource(f"protocol-{name.lower()}", minor, HOSTS, protocol=name, size_mib=DISK_MIB)
        for minor, name in enumerate(PROTOCOLS)
    ]
    with stage(lab.progress, "volumes, DRBD"):
        first.make_volume(alone)
        for resource in mirrored:
            in_parallel(lambda name, resource=resource: lab.host(name).make_half(resource), HOSTS)
            lab.mirror(resource)
    vm = Vm("fio", HOSTS, "xen", (alone, *mirrored), port=0, memory_mib=MEMORY_MIB)
    with stage(lab.progress, "a guest with fio"), tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "guest.cpio"
        pack_cpio(guest_tree(build(lab.progress), Path(folder) / "tree", script(todo)), archive)
        packed = gzip.compress(archive.read_bytes(), compresslevel=1)
        first.run(
            ["dd", f"of={vm.initramfs}", "bs=1M", "iflag=fullblock", "status=none"],
            stdin=packed,
            timeout_seconds=300,
        )
        first.define(vm)
    return vm


def guest_tree(image: Image, tree: Path, jobs: str) -> Path:
    """Write the guest's whole file system: busybox, this machine's fio with its libraries, kernel modules."""
    for name in ("dev", "proc", "sys", "tmp", "modules"):
        (tree / name).mkdir(parents=True)
    fio = shutil.which("fio")
    if fio is None:
        raise LabError("There is no fio here; tests/install-debian.sh bench installs it")
    for file in ("/bin/busybox", fio, *libraries(fio)):
        target = tree / file.removeprefix("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    for module in image.guest_modules:
        shutil.copy(module, tree / "modules")
    shutil.copy(Path(__file__).with_name("disk-init"), tree / "init")
    (tree / "jobs").write_text(jobs, encoding="utf-8")
    return tree


def libraries(program: str) -> list[str]:
    """The shared libraries of a program and the loader that finds them, by the paths under which they are looked for."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True, timeout=30).stdout
    return re.findall(r"(/\S+) \(0x", said)


def script(todo: Sequence[Turn]) -> str:
    """What the guest runs: fio for each turn, between two marks."""
    lines = ["grep MemAvailable /proc/meminfo"]
    for number, turn in enumerate(todo):
        lines += [f"echo vmheal-fio begin {number}", " ".join(fio(turn)), f"echo vmheal-fio end {number} $?"]
    return "".join(f"{line}\n" for line in lines)


def fio(turn: Turn) -> list[str]:
    """One job after the other on all disks, which are $1, $2, ... in the order of `SERIES`."""
    options = [f"size={turn.size_mib}M", f"runtime={MOST_SECONDS}", *turn.job.options]
    argv = ["fio", "--output-format=json", "--name=global", "--ioengine=psync", "--thread", "--disk_util=0"]
    argv += [f"--{option}" for option in options]
    for name in turn.order:
        argv += [f"'--name={name}'", f"--filename=${SERIES.index(name) + 1}", "--stonewall"]
    return argv


# ---- after


def measure(lab: Lab, vm: Vm, todo: Sequence[Turn]) -> tuple[Throughputs, int]:
    """Wait for each turn's end and say what it found; also how many MiB the guest had available."""
    console = lab.host(HOSTS[0]).machine.guest_log(vm.port)
    found: Throughputs = {}

    def said(pattern: str, what: str, seconds: float) -> re.Match[str]:
        regex = re.compile(pattern, re.DOTALL)
        return wait_until(
            lambda: regex.search(console.read_text(encoding="utf-8", errors="replace")), what, seconds, 0.5
        )

    available = said(r"MemAvailable: +(\d+) kB", "the guest to start", STARTS_WITHIN_SECONDS)
    for number, turn in enumerate(todo):
        marks = rf"vmheal-fio begin {number}\r?\n(.*?)vmheal-fio end {number} (\d+)\r?\n"
        ended = said(marks, f"{turn.job.name}, {turn.size_mib} MiB", JOB_WITHIN_SECONDS)
        if ended[2] != "0":
            raise LabError(f"fio ended with {ended[2]}: {ended[1][-500:]}")
        speeds = throughputs(ended[1])
        found.setdefault((turn.size_mib, turn.job.name), []).append(speeds)
        shown = ", ".join(f"{name} {speeds[name]:.3g}" for name in SERIES)
        lab.progress(f"{number + 1} of {len(todo)}: {turn.job.name}, {turn.size_mib} MiB: {shown} MB/s")
    return found, int(available[1]) // 1024


def throughputs(said: str) -> dict[str, float]:
    """MB/s of each series, from what fio printed.

    Raises:
        LabError: fio says of an error, or something is missing.
    """
    try:
        jobs = {job["jobname"]: job for job in json.loads(said[said.index("{") :])["jobs"]}
        failed = {name: job["error"] for name, job in jobs.items() if job["error"]}
        speeds = {
            name: max(jobs[name][way]["bw_bytes"] for way in ("read", "write")) / 1e6 for name in SERIES
        }
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"fio's output is not understood ({error!r}): {said[-500:]}") from error
    if failed or not all(speeds.values()):
        raise LabError(f"fio has failed (errno {failed}), or has read and written nothing: {speeds}")
    return speeds


def share(rounds: Iterable[dict[str, float]], name: str) -> Bar:
    """What a protocol has of LVM's throughput in the same round."""
    found = [speeds[name] / speeds[ALONE] for speeds in rounds]
    return Bar(min(found), statistics.median(found), max(found))


def table(title: str, found: Throughputs) -> Table:
    """Return what was measured."""
    shown = Table(title=title)
    for heading in ("job", "MiB", ALONE, *PROTOCOLS):
        shown.add_column(heading, justify="left" if heading == "job" else "right")
    for job, sizes in by_job(found):
        for size, rounds in sizes:
            alone = statistics.median(speeds[ALONE] for speeds in rounds)
            cells = (
                f"{it.median:.2f} ({it.lowest:.2f} to {it.highest:.2f})"
                for it in (share(rounds, name) for name in PROTOCOLS)
            )
            shown.add_row(job, str(size), f"{alone:.3g}", *cells)
        shown.add_section()
    return shown


def panels(found: Throughputs) -> list[Panel]:
    """The same, to be drawn."""
    return [
        Panel(
            job,
            {
                f"{size} MiB": {f"protocol {name}": share(rounds, name) for name in PROTOCOLS}
                for size, rounds in sizes
            },
        )
        for job, sizes in by_job(found)
    ]


def by_job(found: Throughputs) -> Iterator[tuple[str, list[tuple[int, list[dict[str, float]]]]]]:
    """Job by job, the sizes in each."""
    for job in JOBS:
        yield job.name, [(size, found[size, job.name]) for size in SIZES_MIB]


if __name__ == "__main__":
    main()
