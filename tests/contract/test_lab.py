"""The clauses, played on real DRBD 8.4 between two whole hosts; `test_model.py` plays the same ones on the model."""

import itertools
from collections.abc import Iterator

import pytest

from tests.contract.clause import Clause, play, read_clauses
from tests.contract.real import Real
from tests.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    """Of resources that no clause has left behind."""
    return itertools.count(20)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Lab]:
    """Two plain hosts: they boot faster than Xen's, and DRBD does not care."""
    with Lab(hosts=2, flavour="plain", name="contract") as lab:
        yield lab


@pytest.mark.parametrize("clause", read_clauses(), ids=lambda clause: f"{clause.file}: {clause.sentence}")
def test_drbd_keeps_a_clause(hosts: Lab, numbers: Iterator[int], clause: Clause) -> None:
    with Real(hosts, next(numbers), fencing=clause.fencing) as real:
        play(clause, real)
