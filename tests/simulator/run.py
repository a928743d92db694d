"""`python -m tests.simulator.run`: schedules by chance, each checked; of one that fails the shortest is printed."""

import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import click

from tests.simulator import events
from tests.simulator import site as sites
from tests.simulator.events import Happening
from tests.simulator.site import Site
from tests.simulator.teeth import TEETH, taken_out
from tests.simulator.world import World

END_SECONDS = 480.0
"""After all faults have ended; the longest wait of vmheal's own is release_timeout_seconds."""
QUIET_SECONDS, QUIET_TIMES = 4.0, 2
"""For so long all must be in order, and each VM write, for a run to end before that."""


@dataclass
class Outcome:
    """Of one run."""

    seed: int
    schedule: tuple[Happening, ...]
    violations: list[str]
    excused: list[str] = field(default_factory=list)
    """What a fence agent has brought about that lied."""
    story: list[str] = field(default_factory=list)


def simulate(seed: int, schedule: Sequence[Happening] | None = None, *, most: int = 6) -> Outcome:
    """Run one schedule to its end; without one, one by chance. The site is the seed's."""
    site = sites.by_chance(Random(f"site {seed}"))
    if schedule is None:
        schedule = events.by_chance(Random(f"schedule {seed}"), site, most)
    return replace(play(Random(seed), site, schedule), seed=seed)


def play(random: Random, site: Site, schedule: Sequence[Happening]) -> Outcome:
    """Run a schedule on a site, have all be mended, and see to what comes of it."""
    folder = Path(tempfile.mkdtemp(prefix="vmheal-simulator-", dir=_memory()))
    try:
        world = World(random, folder, site)
        with world:
            come_to_rest(world)
            begin = world.loop.now
            for it in schedule:
                world.run(begin + it.at - world.loop.now)
                if world.oracle.violations:
                    break
                it.do(world)
            if not world.oracle.violations:
                world.log("-- all is mended")
                events.mend_everything(world)
                come_to_rest(world)
                world.seen()
            story = sorted([*world.story, *world.timeline()], key=lambda line: float(line.split()[0]))
            broken = world.oracle.violations
            if world.agents_that_lied:
                return Outcome(0, tuple(schedule), [], broken, story)
            return Outcome(0, tuple(schedule), broken, [], story)
    finally:
        shutil.rmtree(folder)


def come_to_rest(world: World) -> None:
    """Let time pass until all is in order, twice in a row, or the bound is reached: then a warning must stand."""
    end = world.loop.now + END_SECONDS
    quiet = 0
    while quiet < QUIET_TIMES:
        before = world.acknowledged()
        world.run(QUIET_SECONDS)
        if world.oracle.violations:
            return
        if world.loop.now > end:
            _warned(world, before)
            return
        quiet = quiet + 1 if world.in_order(before) else 0


def _warned(world: World, before: Mapping[str, int]) -> None:
    """Each VM runs once and writes, or a warning stands: vmheal's, or of VMPaused or ReplicationLinkDown."""
    records, after = world.records(), world.acknowledged()
    for vm in world.protected:
        where, record = world.where(vm), records.get(vm)
        if len(where) == 1 and after[vm] > before[vm]:
            continue
        if world.paused(vm) or (len(where) == 1 and world.parted(vm)):
            continue
        if record is None or record.escalation is None or len(where) > 1:
            nodes = "; ".join(map(str, world.pairs[vm].nodes))
            world.oracle.broken(f"{vm} runs on {where or 'no host'}, and no warning stands ({nodes})")


def shortest(outcome: Outcome) -> Outcome:
    """Leave out what is not needed to fail in the same way."""
    kind = _kind(outcome)
    best = outcome
    number = 0
    while number < len(best.schedule):
        fewer = (*best.schedule[:number], *best.schedule[number + 1 :])
        again = simulate(best.seed, fewer)
        if again.violations and _kind(again) == kind:
            best = again
        else:
            number += 1
    return best


def _kind(outcome: Outcome) -> str:
    words = outcome.violations[0].split()
    return " ".join(word for word in words if word.isalpha())[:40]


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


@click.command(help=__doc__)
@click.option("--seed", "first", type=int, default=1, show_default=True, help="The first one.")
@click.option("--runs", type=int, default=100, show_default=True)
@click.option("--most", type=int, default=6, show_default=True, help="Faults in one run.")
@click.option("--workers", type=int, default=2, show_default=True)
@click.option("--story", is_flag=True, help="Tell all of each run.")
@click.option(
    "--without", type=click.Choice(sorted(TEETH)), help="A part of vmheal that is taken out: who notices?"
)
@click.option("--schedule", type=click.Path(exists=True, path_type=Path), help="This one instead of chance.")
def main(
    first: int, runs: int, most: int, workers: int, story: bool, without: str | None, schedule: Path | None
) -> None:
    """Run them."""
    seeds = range(first, first + runs)
    given = events.read(schedule.read_text()) if schedule else None
    bad = excused = 0
    with ProcessPoolExecutor(workers) as pool:
        for outcome in pool.map(_one, ((seed, given, most, without) for seed in seeds), chunksize=1):
            if story:
                click.echo("\n".join(outcome.story))
            excused += bool(outcome.excused)
            if outcome.violations:
                bad += 1
                click.echo(f"seed {outcome.seed}: {outcome.violations[0]}")
                for line in outcome.schedule:
                    click.echo(f"    {line}")
    click.echo(f"{runs} runs, {bad} broke the promise; {excused} more did because a fence agent lied")
    sys.exit(1 if bad else 0)


def _one(what: tuple[int, tuple[Happening, ...] | None, int, str | None]) -> Outcome:
    seed, schedule, most, without = what
    with taken_out(without) if without else nullcontext():
        outcome = simulate(seed, schedule, most=most)
        return shortest(outcome) if outcome.violations and schedule is None else outcome


if __name__ == "__main__":
    main()
