"""The fakes below the rules' tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exporter.fake_drbd import FakeDrbd
from tests.rules.replay import Replay, fake_drbd, replay_of


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDrbd:
    return fake_drbd(tmp_path, monkeypatch)


@pytest.fixture
def replay(tmp_path: Path, fake: FakeDrbd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replay]:
    replay = replay_of(tmp_path, fake, monkeypatch)
    yield replay
    assert replay.asked, "nothing was asked"
