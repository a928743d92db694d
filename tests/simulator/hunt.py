"""`python -m tests.simulator.hunt`: what keeps the promise is taken out, part by part; which schedule breaks it then?

Each scenario is tried, then schedules by chance up to a budget. Where none breaks the promise a scenario whose log
changes will do: what that part does is seen, and others keep the promise in its place. What is found is written
down in ``teeth.KILLS``, and tested.
"""

import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import click

from tests.simulator.run import simulate
from tests.simulator.scenario import names, outcome_of, seen
from tests.simulator.teeth import TEETH, taken_out

BUDGET = 500


@click.command(help=__doc__)
@click.argument("teeth", nargs=-1, type=click.Choice(sorted(TEETH)))
@click.option("--budget", default=BUDGET, show_default=True, help="Schedules by chance for each part.")
@click.option("--seed", "first", type=int, default=1, show_default=True, help="The first one.")
@click.option("--workers", type=int, default=2, show_default=True)
def main(teeth: tuple[str, ...], budget: int, first: int, workers: int) -> None:
    """Hunt."""
    survivors = 0
    with ProcessPoolExecutor(workers) as pool:
        logs = dict(zip(names(), pool.map(_log, names()), strict=True))
        search = partial(_search, logs, range(first, first + budget))
        for name, found in zip(teeth or TEETH, pool.map(search, teeth or TEETH), strict=True):
            click.echo(f"{name}: {found or 'SURVIVES'}")
            survivors += not found
    sys.exit(1 if survivors else 0)


def _log(scenario: str) -> str:
    return seen(outcome_of(scenario))


def _search(logs: Mapping[str, str], seeds: range, name: str) -> str:
    changed = ""
    with taken_out(name):
        for scenario, log in logs.items():
            outcome = outcome_of(scenario)
            if outcome.violations:
                return f"scenario {scenario} breaks the promise: {outcome.violations[0]}"
            if not changed and seen(outcome) != log:
                changed = f"scenario {scenario} goes otherwise"
        for seed in seeds:
            if violations := simulate(seed).violations:
                return f"seed {seed} breaks the promise: {violations[0]}"
    return changed


if __name__ == "__main__":
    main()
