"""Scenarios: a site, what happens to it, and what is to be seen of it, in files that a person reads.

    tests/scenarios/NAME/README.md     one sentence: what is shown
                         schedule      the site, and what happens when
                         expected      what was seen, in seconds of virtual time

    python -m tests.simulator.scenario NAME            print what is seen now
    python -m tests.simulator.scenario NAME --keep     take it for the expected; read it before

Nothing is left to chance here: each duration is the middle of what it may be. So what is expected changes only
with what vmheal does.
"""

import sys
from collections.abc import Iterator, MutableSequence, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import click

from tests.simulator import events
from tests.simulator import site as sites
from tests.simulator.run import Outcome, play

SCENARIOS = Path(__file__).parent.parent / "scenarios"
T = TypeVar("T")
NOISE = (": observed: ", ": definition: ", ": suspected: ", ": intent: ", ": received: ", ": arbitrated: ")
"""Of the journal: what is said before and after it too."""


class Middle(Random):
    """Chance that is none."""

    def random(self) -> float:
        return 0.05

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2

    def choice(self, seq: Sequence[T]) -> T:
        return seq[0]

    def shuffle(self, x: MutableSequence[Any]) -> None:
        """Leave it as it is."""


def names() -> list[str]:
    return sorted(it.name for it in SCENARIOS.iterdir() if (it / "schedule").is_file())


def outcome_of(name: str) -> Outcome:
    """Play a scenario."""
    lines = (SCENARIOS / name / "schedule").read_text().splitlines()
    of_site = [line.split() for line in lines if line.split()[:1] and line.split()[0] in sites.WORDS]
    rest = "\n".join(line for line in lines if line.split()[:1] and line.split()[0] not in sites.WORDS)
    return play(Middle(), sites.read(of_site), events.read(rest))


def seen(outcome: Outcome) -> str:
    """What happened, from the schedule's beginning, for people."""
    return "".join(f"{line}\n" for line in _lines(outcome))


def _lines(outcome: Outcome) -> Iterator[str]:
    story = [(float(line.split()[0]), line.strip().split(" ", 1)[1]) for line in outcome.story]
    begin = next(at for at, said in story if said.startswith("--")) - outcome.schedule[0].at
    for at, said in story:
        if at >= begin and not any(noise in said for noise in NOISE):
            yield f"{at - begin:7.1f} {said}"
    for violation in outcome.violations:
        yield f"BROKEN: {violation}"


@click.command(help=__doc__)
@click.argument("name", type=click.Choice(names()))
@click.option("--keep", is_flag=True, help="Take what is seen for what is expected.")
def main(name: str, keep: bool) -> None:
    """Play it."""
    outcome = outcome_of(name)
    text = seen(outcome)
    if keep and not outcome.violations:
        (SCENARIOS / name / "expected").write_text(text)
    click.echo(text, nl=False)
    sys.exit(1 if outcome.violations else 0)


if __name__ == "__main__":
    main()
