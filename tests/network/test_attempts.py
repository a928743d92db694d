"""The network in a stranger's hands, and the tokens, on a real site."""

import pytest

from tests.attempt import make
from tests.network.attempts import ATTEMPTS, HEAVY
from tests.network.site import site


@pytest.fixture(scope="module")
def the_site(tmp_path_factory):
    with site(tmp_path_factory.mktemp("network")) as it:
        yield it


LIGHT = [pytest.param(it, id=f"{number}", marks=pytest.mark.daemons) for number, it in enumerate(ATTEMPTS)]
MORE = [pytest.param(it, id=f"heavy {number}", marks=pytest.mark.abuse) for number, it in enumerate(HEAVY)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("attempt", [*LIGHT, *MORE])
def test_it_is_held(the_site, attempt):
    row = make(attempt, the_site)
    assert row.held, f"{attempt.group}: {attempt.name}: {row.seen}"


def test_each_is_another_one_and_there_are_enough():
    assert len({(it.group, it.name) for it in (*ATTEMPTS, *HEAVY)}) == len(ATTEMPTS) + len(HEAVY) >= 80
