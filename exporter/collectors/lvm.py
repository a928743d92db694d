"""Collector `lvm`: volume groups and logical volumes, and which of them lie below DRBD."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import structlog
from prometheus_client.metrics_core import Metric

from exporter.child import ChildError, Program, ProgramNotFoundError
from exporter.collector import CollectorError
from exporter.lvm import FULLREPORT, LogicalVolume, LvmOutputError, VolumeGroup, parse_fullreport
from exporter.series import Figure, gauge, info

log = structlog.get_logger()

# Part of the time until the deadline that lvm may take: something is left to say what went wrong.
LVM_SHARE = 0.8

# The disk below each (resource, volume) of DRBD.
BackingDisks = Callable[[], Mapping[tuple[str, str], str]]

VOLUME_GROUP: tuple[Figure[VolumeGroup], ...] = (
    Figure("vmheal_lvm_volume_group_size_bytes", "Size of the volume group.", lambda it: it.size_bytes),
    Figure(
        "vmheal_lvm_volume_group_free_bytes",
        "Space of the volume group that no logical volume has.",
        lambda it: it.free_bytes,
    ),
    Figure(
        "vmheal_lvm_volume_group_physical_volumes",
        "Physical volumes that belong to the volume group.",
        lambda it: it.physical_volumes,
    ),
    Figure(
        "vmheal_lvm_volume_group_missing_physical_volumes",
        "Physical volumes that belong to the volume group and are not there.",
        lambda it: it.missing_physical_volumes,
    ),
)

LOGICAL_VOLUME: tuple[Figure[LogicalVolume], ...] = (
    Figure("vmheal_lvm_logical_volume_size_bytes", "Size of the logical volume.", lambda it: it.size_bytes),
    Figure("vmheal_lvm_logical_volume_active", "Whether it is active.", lambda it: it.active),
    Figure(
        "vmheal_lvm_logical_volume_healthy",
        "Whether LVM finds nothing wrong with it; what it found is in vmheal_lvm_logical_volume_info.",
        lambda it: not it.health,
    ),
    Figure(
        "vmheal_lvm_logical_volume_data_used_ratio",
        "How full a thin pool, thin volume or snapshot is, 0 to 1.",
        lambda it: it.data_used_ratio,
    ),
    Figure(
        "vmheal_lvm_logical_volume_metadata_used_ratio",
        "How full the metadata of a thin pool is, 0 to 1.",
        lambda it: it.metadata_used_ratio,
    ),
)


class Lvm:
    """Publishes LVM's state, read by one child."""

    name = "lvm"

    def __init__(
        self, backing_disks: BackingDisks, realpath: Callable[[str], str] = os.path.realpath
    ) -> None:
        """Take where DRBD's disks are asked for.

        Args:
            backing_disks: never waits.
            realpath: resolves the names of devices.
        """
        self._backing_disks = backing_disks
        self._realpath = realpath
        self._lvm = Program("lvm")
        self._absence_said = False

    def collect(self, deadline: float) -> Iterable[Metric]:
        """Run lvm and return its metrics.

        Raises:
            CollectorError: it hangs, fails or prints nonsense. A host without LVM is no failure: it says
                `vmheal_lvm_up 0`.
        """
        now = time.monotonic()
        try:
            output = self._lvm.run(FULLREPORT, now + (deadline - now) * LVM_SHARE)
            if output.status:
                raise CollectorError(
                    f"lvm failed with exit status {output.status}: {output.stderr.strip()[-300:]}"
                )
            groups = parse_fullreport(output.stdout)
        except ProgramNotFoundError:
            if not self._absence_said:
                log.info("no LVM on this host: there is no program lvm")
            self._absence_said = True
            return self.down()
        except (ChildError, LvmOutputError) as error:
            raise CollectorError(str(error)) from error
        self._absence_said = False
        return [_up(1), *_families(groups), self._below_drbd(groups)]

    def down(self) -> Iterable[Metric]:
        """Say that LVM could not be read."""
        return [_up(0)]

    def close(self) -> None:
        """Reap what is left."""
        self._lvm.close()

    def _below_drbd(self, groups: Sequence[VolumeGroup]) -> Metric:
        """Find DRBD's disks among the logical volumes, whatever names the two use for a device."""
        volumes = {
            self._realpath(path): {"vg": group.name, "lv": volume.name}
            for group in groups
            for volume in group.logical_volumes
            for path in volume.paths
        }
        return info(
            "vmheal_lvm_drbd_volume",
            "The logical volume below a volume of a DRBD resource.",
            [
                {"name": resource, "volume": number, **volumes[disk]}
                for (resource, number), path in self._backing_disks().items()
                if (disk := self._realpath(path)) in volumes
            ],
        )


def _up(value: int) -> Metric:
    return gauge("vmheal_lvm_up", "Whether LVM is installed and could be read.", [({}, value)])


def _families(groups: Sequence[VolumeGroup]) -> Iterator[Metric]:
    named = [({"vg": group.name}, group) for group in groups]
    volumes = [
        ({**labels, "lv": volume.name}, volume) for labels, group in named for volume in group.logical_volumes
    ]
    yield from (series.family(named) for series in VOLUME_GROUP)
    yield from (series.family(volumes) for series in LOGICAL_VOLUME)
    yield info(
        "vmheal_lvm_logical_volume",
        'The thin pool it takes its space from, and what is wrong with it in LVM\'s words: "partial" is a '
        "missing physical volume; empty is well.",
        [{**labels, "pool": volume.pool, "health": volume.health} for labels, volume in volumes],
    )
