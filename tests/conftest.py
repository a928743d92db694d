"""What every test finds as it was."""

import pytest
import structlog
from hypothesis import HealthCheck, settings

# How long an input takes depends on what else the machine does, and says nothing of the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def logging_as_before():
    """Commands that a test runs in this process configure logging for the whole of it."""
    yield
    structlog.reset_defaults()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits for whole sites comes first: two at a time, the short ones fill up the end."""
    items.sort(key=lambda it: "line" not in it.path.parts)
