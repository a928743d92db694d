"""Folders for journals of tests that write much."""

import itertools
import tempfile
from pathlib import Path

import pytest


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
