"""Folders for journals of tests that write much; a clock; actuators that are closed at the end."""

import itertools
import tempfile
from pathlib import Path

import pytest

from tests.actuator.world import Clock, Machine


@pytest.fixture(scope="session")
def folders():
    """Makes empty folders, in memory where there is such a place: thousands of fsyncs are waited for."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as parent:
        numbers = itertools.count()

        def make_folder() -> Path:
            folder = Path(parent) / str(next(numbers))
            folder.mkdir()
            return folder

        yield make_folder


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def machines():
    """Every actuator that a test starts goes in here."""
    started: list[Machine] = []
    yield started
    for machine in started:
        machine.close()
