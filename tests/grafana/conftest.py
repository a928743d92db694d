"""One play for all tests of the dashboards."""

import pytest

from tests.grafana.pictures import played as prometheus_of
from tests.grafana.play import play
from tests.grafana.recorded import recorded as recorded_in


@pytest.fixture(scope="session")
def played(tmp_path_factory):
    """Prometheus, with what it kept of the play."""
    kept = tmp_path_factory.mktemp("kept")
    play(tmp_path_factory.mktemp("play"), kept)
    with prometheus_of(kept, tmp_path_factory.mktemp("prometheus")) as of:
        yield of


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """Prometheus, with what the play cannot show."""
    with recorded_in(tmp_path_factory.mktemp("recorded")) as of:
        yield of
