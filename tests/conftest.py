"""What every test finds as it was."""

import pytest
import structlog


@pytest.fixture(autouse=True)
def logging_as_before():
    """Commands that a test runs in this process configure logging for the whole of it."""
    yield
    structlog.reset_defaults()
