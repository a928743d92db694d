"""Labs that tests share: booted once, by the first test that asks, and ended with the session."""

from collections.abc import Iterator

import pytest

from tests.lab.lab import Lab
from tests.lab.waiting import Progress, print_progress


@pytest.fixture(scope="session")
def progress(request: pytest.FixtureRequest) -> Progress:
    """Progress lines that are shown while pytest captures output."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def show(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print_progress(line)

    return show


@pytest.fixture(scope="session")
def lab(progress: Progress) -> Iterator[Lab]:
    """Two Xen hosts. A test that takes it leaves both running, cables in, and its own VMs destroyed."""
    with Lab(hosts=2, flavour="xen", name="test", progress=progress) as lab:
        yield lab
