"""Debian's Prometheus, started for a test."""

from contextlib import AbstractContextManager
from pathlib import Path

from tests.netns import Netns
from tests.program import Server, configured_server


def prometheus(
    config: Path | str, folder: Path, *, port: int | None = None, netns: Netns | None = None
) -> AbstractContextManager[Server]:
    """Run Prometheus; its storage is in the folder. See `configured_server`."""
    return configured_server(
        "prometheus",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        config=config,
        folder=folder,
        port=port,
        netns=netns,
    )
