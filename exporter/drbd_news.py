"""What DRBD said in the kernel's log, and nowhere else, about split brains and verifies."""

import time
from pathlib import Path

import structlog

from exporter.drbd import Connection, ConnectionState, Resource, Snapshot
from exporter.drbd_proc import PeerMet, SplitBrainSeen, VerifyFinished, parse_kernel_message
from exporter.kernel_log import KernelLog

log = structlog.get_logger()


class KernelNews:
    """Reads the log and remembers what still matters; for one thread."""

    def __init__(self, path: Path) -> None:
        self._split: set[tuple[int, str | None]] = set()  # minor and peer
        self._verified: dict[tuple[int, str | None], float] = {}
        self._log: KernelLog | None = None
        try:
            self._log = KernelLog(path)
        except OSError as error:
            log.warning(
                "split brains and verifies are not seen: no access to the kernel's log", error=str(error)
            )

    def read(self, snapshot: Snapshot) -> None:
        """Take in what is new."""
        if self._log is None:
            return
        resources = {resource.name: resource for resource in snapshot.resources}
        for record in self._log.read():
            match parse_kernel_message(record.text):
                case SplitBrainSeen(minor, peer):
                    self._split.add((minor, peer))
                case PeerMet(int(minor), _, _):
                    self._split.discard((minor, None))
                case PeerMet(None, str(name), peer) if name in resources:
                    self._split -= {(device.minor, peer) for device in resources[name].devices}
                case VerifyFinished(minor, peer):
                    self._verified[minor, peer] = record.seconds
                case _:
                    pass

    def split_brain(self, connection: Connection, resource: Resource) -> bool | None:
        """Whether DRBD found a split brain with this peer and has not met it since; None: cannot be told."""
        if self._log is None:
            return None
        return connection.connection_state is not ConnectionState.CONNECTED and any(
            (device.minor, peer) in self._split
            for device in resource.devices
            for peer in (None, connection.name)
        )

    def verified_at(self, volume: int, connection: Connection, resource: Resource) -> float | None:
        """When a verify of the volume with this peer last came to its end, in seconds since the epoch."""
        for device in resource.devices:
            for peer in (None, connection.name):
                seconds = self._verified.get((device.minor, peer))
                if seconds is not None and device.volume == volume:
                    return time.time() - time.monotonic() + seconds
        return None

    def close(self) -> None:
        """Close the log."""
        if self._log:
            self._log.close()
