"""The fakes below the rules' tests."""

import os

import pytest

from exporter import drbdsetup
from exporter.collectors import drbd
from tests.exporter.fake_drbd import FakeDrbd
from tests.rules.replay import Replay


@pytest.fixture
def fake(tmp_path, monkeypatch):
    fake = FakeDrbd(tmp_path / "drbd")
    monkeypatch.setenv("PATH", f"{fake.base}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(drbdsetup, "DETAILS_PAUSE_SECONDS", 0.0)
    return fake


@pytest.fixture
def replay(tmp_path, fake, monkeypatch):
    def node(host: str) -> None:
        monkeypatch.setattr(drbd.platform, "node", lambda: host)

    replay = Replay(tmp_path, fake, node)
    yield replay
    assert replay.asked, "nothing was asked"
