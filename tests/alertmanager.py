"""Debian's Alertmanager, started for a test."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.netns import Netns
from tests.program import Server, configured_server


@dataclass(frozen=True)
class Cluster:
    """Where it listens for the others of its cluster, and where they listen; no address: it is alone."""

    listen: str = ""
    peers: tuple[str, ...] = ()


ALONE = Cluster()


def alertmanager(
    config: Path | str,
    folder: Path,
    *,
    port: int | None = None,
    netns: Netns | None = None,
    cluster: Cluster = ALONE,
) -> AbstractContextManager[Server]:
    """Run Alertmanager; its storage is in the folder. See `configured_server`."""
    return configured_server(
        "prometheus-alertmanager",
        f"--storage.path={folder / 'alertmanager'}",
        f"--cluster.listen-address={cluster.listen}",
        *(f"--cluster.peer={peer}" for peer in cluster.peers),
        config=config,
        folder=folder,
        port=port,
        netns=netns,
    )
