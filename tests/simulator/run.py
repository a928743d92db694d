"""`python -m tests.simulator.run`: schedules by chance, each checked; of one that fails the shortest is printed."""

import gc
import os
import shutil
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random

import click

from tests.simulator import events, pointed
from tests.simulator import site as sites
from tests.simulator.events import Happening
from tests.simulator.reach import missing, report
from tests.simulator.site import Site
from tests.simulator.teeth import TEETH, taken_out
from tests.simulator.world import World

MOST = 6
"""Faults in one schedule."""
LIAR_EVERY = 12
"""One site in so many has a host that was taken over, and lies."""
BATCH = 20
"""Runs that a process does at a time."""
GARBAGE = 1_000_000
"""So many new objects are kept before those of no use any more are looked for."""
TELL_SECONDS = 10.0
END_SECONDS = 480.0
"""After all faults have ended; the longest wait of vmheal's own is release_timeout_seconds."""
QUIET_SECONDS, QUIET_TIMES = 4.0, 2
"""For so long all must be in order, and each VM write, for a run to end before that."""
BEGIN_TIMES = 1
"""Before anything has happened once is enough: nothing comes back."""
STILL_SECONDS = 64.0
"""Or for so long nothing may have changed, a warning standing: what vmheal does again by itself it does each minute."""


@dataclass
class Outcome:
    """Of one run."""

    seed: int
    schedule: tuple[Happening, ...]
    """With the times at which it happened, to where the promise was broken."""
    violations: list[str]
    excused: list[str] = field(default_factory=list)
    """What a fence agent has brought about that lied."""
    by_liars: Counter[str] = field(default_factory=Counter)
    """What a host that was taken over has brought about, of VMs with a replica on it."""
    story: list[str] = field(default_factory=list)
    reached: Counter[str] = field(default_factory=Counter)


def simulate(
    seed: int, schedule: Sequence[Happening] | None = None, *, most: int = MOST, tell: bool = False
) -> Outcome:
    """Run one schedule to its end; without one, one by chance. The site is the seed's."""
    site = sites.by_chance(Random(f"site {seed}"))
    chance = Random(f"schedule {seed}")
    if aim := pointed.aim(seed):
        site = pointed.site_for(aim, site)
    elif seed % LIAR_EVERY == 1:
        site = sites.with_a_liar(Random(f"liar {seed}"), site)
    if schedule is None:
        schedule = pointed.schedule(aim, chance, site) if aim else events.by_chance(chance, site, most)
    outcome = play(Random(seed), site, schedule, tell=tell, begin_times=BEGIN_TIMES, hurry=True)
    return replace(outcome, seed=seed)


def play(
    random: Random,
    site: Site,
    schedule: Sequence[Happening],
    *,
    tell: bool = True,
    begin_times: int = QUIET_TIMES,
    hurry: bool = False,
) -> Outcome:
    """Run a schedule on a site, have all be mended, and see to what comes of it.

    Args:
        tell: what was seen is told, not only where the promise was broken.
        begin_times: how often all must have been in order before it begins.
        hurry: what happens next does so at once when all is in order: the times are the latest ones.
    """
    folder = Path(tempfile.mkdtemp(prefix="vmheal-simulator-", dir=_memory()))
    try:
        world = World(random, folder, site)
        with world:
            come_to_rest(world, begin_times)
            begin, at, played = world.loop.now, 0.0, []
            for it in schedule:
                wait(world, it.at - at, hurry=hurry)
                at = it.at
                played.append(replace(it, at=world.loop.now - begin))
                if world.oracle.violations:
                    break
                it.do(world)
            if not world.oracle.violations:
                world.log("-- all is mended")
                events.mend_everything(world)
                come_to_rest(world)
            world.reach.scheduled(played)
            broken = world.oracle.violations
            story = world.told() if tell or broken else []
            by_liars = Counter({it.split(":")[0] for it in world.oracle.by_liars})
            outcome = Outcome(0, tuple(played), broken, [], by_liars, story, world.reach.seen)
            if world.oracle.agents_that_lied:
                outcome.violations, outcome.excused = [], outcome.violations
            return outcome
    finally:
        shutil.rmtree(folder)


def wait(world: World, seconds: float, *, hurry: bool) -> None:
    """Let so much time pass; in a hurry only until nothing is left to be done."""
    end = world.loop.now + seconds
    while hurry and end - world.loop.now > QUIET_SECONDS:
        before = world.acknowledged()
        world.run(QUIET_SECONDS)
        if world.oracle.violations or world.in_order(before):
            return
    world.run(end - world.loop.now)


def come_to_rest(world: World, times: int = QUIET_TIMES) -> None:
    """Let time pass until all is in order, so often in a row; or a warning stands, and nothing changes any more.

    At the latest until the bound is reached: then a warning must stand.
    """
    end = world.loop.now + END_SECONDS
    quiet = 0
    seen, seen_at = world.seen(), world.loop.now
    while quiet < times:
        before = world.acknowledged()
        world.run(QUIET_SECONDS)
        if world.oracle.violations:
            return
        now, seen_before, seen = world.loop.now, seen, world.seen()
        if seen is None or seen != seen_before:
            seen_at = now
        if now > end or now - seen_at >= STILL_SECONDS:
            unwarned = list(_unwarned(world, before))
            if now > end:
                for vm, sentence in unwarned:
                    world.oracle.broken(sentence, "silent", vm)
            if now > end or not unwarned:
                return
        quiet = quiet + 1 if world.in_order(before) else 0


def _unwarned(world: World, before: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """VMs that do not run once and write, and no warning stands: vmheal's, or of VMPaused or ReplicationLinkDown."""
    records, after = world.records(), world.acknowledged()
    for vm in world.protected:
        where, record = world.where(vm), records.get(vm)
        if len(where) == 1 and after[vm] > before[vm]:
            continue
        if world.paused(vm) or (len(where) == 1 and world.parted(vm)):
            continue
        if record is None or record.escalation is None or len(where) > 1:
            nodes = "; ".join(map(str, world.pairs[vm].nodes))
            yield vm, f"{vm} runs on {where or 'no host'}, and no warning stands ({nodes})"


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


@dataclass
class Batch:
    """What came of several runs."""

    runs: int = 0
    broken: list[Outcome] = field(default_factory=list)
    excused: int = 0
    """Runs that broke the promise because a fence agent lied."""
    reached: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Batch") -> None:
        self.runs += other.runs
        self.broken += other.broken
        self.excused += other.excused
        self.reached += other.reached

    def line(self, seconds: float) -> str:
        return (
            f"{self.runs} schedules, {len(self.broken)} broke the promise; {self.excused} more did because a fence"
            f" agent lied ({seconds:.0f} s, {self.runs / max(seconds, 0.001):.1f} a second)"
        )


@click.command(help=__doc__)
@click.option("--seed", "first", type=int, default=1, show_default=True, help="The first one.")
@click.option("--runs", type=int, default=100, show_default=True)
@click.option("--seconds", type=float, help="As many as fit into this, instead.")
@click.option("--most", type=int, default=MOST, show_default=True, help="Faults in one run.")
@click.option("--workers", type=int, default=os.cpu_count() or 1, show_default=True)
@click.option("--story", is_flag=True, help="Tell all of each run.")
@click.option("--reach", is_flag=True, help="Tell what was reached; what never was is a failure.")
@click.option(
    "--without", type=click.Choice(sorted(TEETH)), help="A part of vmheal that is taken out: who notices?"
)
@click.option("--schedule", type=click.Path(exists=True, path_type=Path), help="This one instead of chance.")
def main(
    first: int,
    runs: int,
    seconds: float | None,
    most: int,
    workers: int,
    story: bool,
    reach: bool,
    without: str | None,
    schedule: Path | None,
) -> None:
    """Run them."""
    given = events.read(schedule.read_text()) if schedule else None
    begun = told = time.monotonic()
    all_of_them = Batch()
    seeds = range(first, sys.maxsize if seconds else first + runs)
    with ProcessPoolExecutor(workers, initializer=_settle) as pool:
        for batch in _in_turn(pool, partial(_several, given, most, without, story), seeds, 2 * workers):
            all_of_them.add(batch)
            for outcome in batch.broken:
                click.echo(f"seed {outcome.seed}: {outcome.violations[0]}")
                click.echo("".join(f"    {line}\n" for line in outcome.schedule), nl=False)
            now = time.monotonic()
            if now - told > TELL_SECONDS:
                told = now
                click.echo(all_of_them.line(now - begun), err=True)
            if seconds and now - begun > seconds:
                break
    click.echo(all_of_them.line(time.monotonic() - begun))
    never = missing(all_of_them.reached) if reach else []
    if reach:
        click.echo("".join(report(all_of_them.reached)), nl=False)
        click.echo("".join(f"never reached: {name}\n" for name in never), nl=False)
    sys.exit(1 if all_of_them.broken or never else 0)


def _in_turn(pool: Executor, work: Callable[[range], Batch], seeds: range, ahead: int) -> Iterator[Batch]:
    """Do the work for all seeds, some batches ahead of who takes the outcome, in order."""
    underway: deque[Future[Batch]] = deque()
    for start in range(seeds.start, seeds.stop, BATCH):
        underway.append(pool.submit(work, range(start, min(start + BATCH, seeds.stop))))
        if len(underway) >= ahead:
            yield underway.popleft().result()
    for future in underway:
        yield future.result()


def _settle() -> None:
    """What is imported stays; of one run so much is garbage that it is looked for seldom, and much at once."""
    gc.freeze()
    gc.set_threshold(GARBAGE)


def _several(
    given: tuple[Happening, ...] | None, most: int, without: str | None, story: bool, seeds: range
) -> Batch:
    batch = Batch()
    with taken_out(without) if without else nullcontext():
        for seed in seeds:
            outcome = simulate(seed, given, most=most, tell=story)
            if story:
                click.echo("\n".join(outcome.story))
            batch.runs += 1
            batch.excused += bool(outcome.excused)
            batch.reached += outcome.reached
            if outcome.violations:
                batch.broken.append(shortest(outcome) if given is None else outcome)
    return batch


if __name__ == "__main__":
    main()
