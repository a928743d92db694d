"""One play for all tests of the dashboards."""

import pytest

from tests.grafana.pictures import played as prometheus_of
from tests.grafana.play import play


@pytest.fixture(scope="session")
def played(tmp_path_factory):
    """Prometheus, with what it kept of the play."""
    kept = tmp_path_factory.mktemp("kept")
    play(tmp_path_factory.mktemp("play"), kept)
    with prometheus_of(kept, tmp_path_factory.mktemp("prometheus")) as of:
        yield of
