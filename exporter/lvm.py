"""LVM's volume groups and logical volumes, from one `lvm fullreport`; pure, no I/O."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# One child for all: pv, pvseg and seg cannot be left out of a full report, so they are kept short.
FULLREPORT = (
    "fullreport", "--reportformat", "json", "--units", "b", "--nosuffix",
    "--configreport", "vg", "-o", "vg_name,vg_size,vg_free,pv_count,vg_missing_pv_count",
    "--configreport", "lv", "-o",
    "lv_name,lv_path,lv_dm_path,lv_size,lv_active,lv_health_status,pool_lv,data_percent,metadata_percent",
    "--configreport", "pv", "-o", "pv_name",
    "--configreport", "pvseg", "-o", "pv_name",
    "--configreport", "seg", "-o", "lv_name",
)  # fmt: skip


class LvmOutputError(ValueError):
    """What lvm printed is not a full report."""


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """One logical volume.

    Attributes:
        paths: the names of its device, `/dev/vg0/voms01` and `/dev/mapper/vg0-voms01`.
        active: None when LVM cannot tell.
        health: "" when it is well, else LVM's words: "partial" (a physical volume is missing),
            "refresh needed", "out_of_data", ... (lvs(8), lv_health_status).
        pool: the thin pool that it takes its space from, "" for none.
        data_used_ratio, metadata_used_ratio: of a thin pool, a thin volume or a snapshot, 0 to 1.
    """

    name: str
    paths: tuple[str, ...]
    size_bytes: int
    active: bool | None
    health: str
    pool: str
    data_used_ratio: float | None
    metadata_used_ratio: float | None


@dataclass(frozen=True, slots=True)
class VolumeGroup:
    """One volume group."""

    name: str
    size_bytes: int
    free_bytes: int
    physical_volumes: int
    missing_physical_volumes: int
    logical_volumes: tuple[LogicalVolume, ...]


def parse_fullreport(text: str) -> tuple[VolumeGroup, ...]:
    """Parse what `lvm` prints for `FULLREPORT`. Physical volumes without a volume group are left out.

    Raises:
        LvmOutputError: it is not what lvm prints.
    """
    try:
        return tuple(_volume_groups(json.loads(text)["report"]))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise LvmOutputError(f"the output of 'lvm fullreport' is not understood: {error!r}") from error


def _volume_groups(reports: Iterable[Mapping[str, Any]]) -> Iterator[VolumeGroup]:
    for report in reports:
        for group in report.get("vg", []):
            yield VolumeGroup(
                name=group["vg_name"],
                size_bytes=int(group["vg_size"]),
                free_bytes=int(group["vg_free"]),
                physical_volumes=int(group["pv_count"]),
                missing_physical_volumes=int(group["vg_missing_pv_count"]),
                logical_volumes=tuple(_logical_volume(volume) for volume in report.get("lv", [])),
            )


_ACTIVE = {"active": True, "": False}


def _logical_volume(volume: Mapping[str, str]) -> LogicalVolume:
    return LogicalVolume(
        name=volume["lv_name"],
        paths=tuple(path for path in (volume["lv_path"], volume["lv_dm_path"]) if path),
        size_bytes=int(volume["lv_size"]),
        active=_ACTIVE.get(volume["lv_active"]),
        health=volume["lv_health_status"],
        pool=volume["pool_lv"],
        data_used_ratio=_ratio(volume["data_percent"]),
        metadata_used_ratio=_ratio(volume["metadata_percent"]),
    )


def _ratio(percent: str) -> float | None:
    return float(percent) / 100 if percent else None
