"""LVM: real reports of LVM 2.03, and an lvm that is ill."""

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from exporter.collector import CollectorError
from exporter.collectors.lvm import Lvm
from exporter.lvm import FULLREPORT, LogicalVolume, LvmOutputError, VolumeGroup, parse_fullreport

REPORTS = Path(__file__).parent.parent / "samples" / "lvm"
WAIT_SECONDS = 20.0


def report(name: str) -> str:
    return (REPORTS / f"{name}.json").read_text()


def volume(name: str, mebibytes: int, health: str) -> LogicalVolume:
    paths = f"/dev/vg0/{name}", f"/dev/mapper/vg0-{name}"
    return LogicalVolume(name, paths, mebibytes * 1024**2, None, health, "", None, None)


def test_two_volumes():
    assert parse_fullreport(report("two-volumes")) == (
        VolumeGroup(
            "vg0", 120 * 1024**2, 20 * 1024**2, 2, 0, (volume("big", 80, ""), volume("voms01", 20, ""))
        ),
    )


def test_a_missing_physical_volume():
    (group,) = parse_fullreport(report("missing-physical-volume"))
    assert group.missing_physical_volumes == 1
    assert group.logical_volumes == (volume("big", 80, "partial"), volume("voms01", 20, ""))


def test_an_active_volume():
    (group,) = parse_fullreport(report("active"))
    assert [(it.name, it.active, it.health) for it in group.logical_volumes] == [("vm01", True, "")]


def test_nothing():
    assert parse_fullreport(report("nothing")) == ()


def test_a_thin_volume_and_activity():
    text = (
        report("two-volumes")
        .replace('"lv_active":"unknown"', '"lv_active":"active"', 1)
        .replace('"lv_active":"unknown"', '"lv_active":""', 1)
    )
    text = text.replace(
        '"pool_lv":"", "data_percent":"", "metadata_percent":""',
        '"pool_lv":"pool", "data_percent":"12.50", "metadata_percent":"0.00"',
        1,
    )
    big, voms01 = parse_fullreport(text)[0].logical_volumes
    assert (big.pool, big.data_used_ratio, big.metadata_used_ratio) == ("pool", 0.125, 0.0)
    assert (big.active, voms01.active) == (True, False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "1",
        '{"report": 1}',
        '{"report": [1]}',
        '{"report": [{"vg": [{}]}]}',
        report("two-volumes")[:-40],
        report("two-volumes").replace("125829120", "many"),
    ],
)
def test_something_else_is_refused(text):
    with pytest.raises(LvmOutputError):
        parse_fullreport(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["report", "vg", "lv", "vg_name", "vg_size", "lv_name"]), inner)
        ),
    )
)
def test_any_json_parses_or_is_refused(value):
    try:
        parse_fullreport(json.dumps(value))
    except LvmOutputError:
        return
    assert isinstance(value["report"], list | dict | str)


@pytest.fixture
def lvm(tmp_path, monkeypatch):
    """An `lvm` in PATH that does what it is told."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def tell(script: str) -> None:
        (tmp_path / "lvm").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n{script}\n')
        (tmp_path / "lvm").chmod(0o755)

    return tell


def page(collector: Lvm, seconds: float = WAIT_SECONDS) -> dict:
    return {
        (sample.name, *(f"{name}={value}" for name, value in sample.labels.items())): sample.value
        for metric in collector.collect(time.monotonic() + seconds)
        for sample in metric.samples
    }


def test_the_page(lvm, tmp_path):
    lvm(f"cat {REPORTS}/missing-physical-volume.json; echo '  WARNING: VG vg0 is missing PV' >&2")
    same_device = {
        "/dev/mapper/vg0-voms01": "/dev/dm-1",
        "/dev/vg0/voms01": "/dev/dm-1",
        "/dev/disk/by-id/x": "/dev/dm-1",
    }
    disks = {("voms01", "0"): "/dev/disk/by-id/x", ("ce01", "0"): "/dev/sdb", ("big", "1"): "/dev/vg0/big"}
    collector = Lvm(lambda: disks, lambda path: same_device.get(path, path))
    assert page(collector) == {
        ("vmheal_lvm_up",): 1,
        ("vmheal_lvm_volume_group_size_bytes", "vg=vg0"): 125829120,
        ("vmheal_lvm_volume_group_free_bytes", "vg=vg0"): 20971520,
        ("vmheal_lvm_volume_group_physical_volumes", "vg=vg0"): 2,
        ("vmheal_lvm_volume_group_missing_physical_volumes", "vg=vg0"): 1,
        ("vmheal_lvm_logical_volume_size_bytes", "vg=vg0", "lv=big"): 83886080,
        ("vmheal_lvm_logical_volume_size_bytes", "vg=vg0", "lv=voms01"): 20971520,
        ("vmheal_lvm_logical_volume_healthy", "vg=vg0", "lv=big"): 0,
        ("vmheal_lvm_logical_volume_healthy", "vg=vg0", "lv=voms01"): 1,
        ("vmheal_lvm_logical_volume_info", "vg=vg0", "lv=big", "pool=", "health=partial"): 1,
        ("vmheal_lvm_logical_volume_info", "vg=vg0", "lv=voms01", "pool=", "health="): 1,
        ("vmheal_lvm_drbd_volume_info", "name=voms01", "volume=0", "vg=vg0", "lv=voms01"): 1,
        ("vmheal_lvm_drbd_volume_info", "name=big", "volume=1", "vg=vg0", "lv=big"): 1,
    }
    assert (tmp_path / "arguments").read_text().split() == list(FULLREPORT)
    collector.close()


def test_a_host_without_lvm_says_so_once(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    collector = Lvm(dict)
    with capture_logs() as logs:
        assert page(collector) == page(collector) == {("vmheal_lvm_up",): 0}
    assert [entry["event"] for entry in logs] == ["no LVM on this host: there is no program lvm"]


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("sleep 1000", "did not end in time"),
        ("trap '' TERM; while :; do sleep 1000; done", "did not end in time"),
        ("exec cat /dev/zero", "printed more than"),
        ("head -c 1000 /dev/urandom", "is not understood"),
        ("exit 0", "is not understood"),
        ("echo '  Volume group locked' >&2; exit 5", "lvm failed with exit status 5: Volume group locked"),
    ],
)
def test_an_lvm_that_is_ill(lvm, script, error):
    lvm(script)
    collector = Lvm(dict)
    begin = time.monotonic()
    limit = 1.5 if "did not end" in error else WAIT_SECONDS
    with pytest.raises(CollectorError, match=error):
        collector.collect(begin + limit)
    assert time.monotonic() - begin < limit
    assert [sample.value for metric in collector.down() for sample in metric.samples] == [0]
