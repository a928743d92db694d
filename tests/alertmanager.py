"""Debian's Alertmanager, started for a test."""

from contextlib import AbstractContextManager
from pathlib import Path

from tests.netns import Netns
from tests.program import Server, configured_server


def alertmanager(
    config: Path | str, folder: Path, *, port: int | None = None, netns: Netns | None = None
) -> AbstractContextManager[Server]:
    """Run Alertmanager, in no cluster; its storage is in the folder. See `configured_server`."""
    return configured_server(
        "prometheus-alertmanager",
        f"--storage.path={folder / 'alertmanager'}",
        "--cluster.listen-address=",
        config=config,
        folder=folder,
        port=port,
        netns=netns,
    )
