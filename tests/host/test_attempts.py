"""The key in a stranger's hands, on a real host."""

import pytest

from tests.attempt import make
from tests.host.attempts import ATTEMPTS
from tests.host.site import site


@pytest.fixture(scope="module")
def host():
    with site() as it:
        it.prepare()
        yield it


@pytest.mark.daemons
@pytest.mark.parametrize("attempt", ATTEMPTS, ids=[f"{number}" for number, _ in enumerate(ATTEMPTS)])
def test_it_is_held(host, attempt):
    row = make(attempt, host)
    assert row.held, f"{attempt.group}: {attempt.name}: {row.seen}"


def test_each_is_another_one_and_there_are_enough():
    assert len({(it.group, it.name) for it in ATTEMPTS}) == len(ATTEMPTS) >= 100
