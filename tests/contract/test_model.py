"""The clauses, played on the simulator's model. `test_lab.py` plays the same ones on real DRBD."""

import pytest

from tests.contract.clause import Clause, play, read_clauses
from tests.contract.model import Model

SEEDS = range(1, 6)
"""Chance says how long handlers, resyncs and detection take."""
CLAUSES = read_clauses()


@pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: f"{clause.file}: {clause.sentence}")
def test_the_model_keeps_a_clause(clause: Clause) -> None:
    for seed in SEEDS:
        play(clause, Model(seed, fencing=clause.fencing))
