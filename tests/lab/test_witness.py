"""The witness itself, on invented consoles: it must find each kind of lie, and nothing where none is."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.waiting import LabError, LabTimeoutError
from tests.lab.witness import BrokenError, DiskCopy, Line, Witness, read_records

A, B = "a" * 16, "b" * 16


@dataclass(frozen=True)
class NamedOnly:
    name: str = "vm01"


VM = NamedOnly()


def told(*lines: tuple[float, str, str, str, int]) -> Witness:
    witness = Witness()
    for line in lines:
        witness.take("vm01", Line(*line))
    return witness


def honest() -> Witness:
    """A on v01 writes 1 to 3; B on v02 finds 4 (written, not yet printed) and goes on."""
    return told(
        (1.0, "v01", A, "found", 0),
        (1.1, "v01", A, "record", 1),
        (1.2, "v01", A, "record", 2),
        (1.3, "v01", A, "record", 3),
        (5.0, "v02", B, "found", 4),
        (5.1, "v02", B, "record", 5),
    )


def copy(begun: float = 9.0, slots: int = 16, **changed: str) -> DiskCopy:
    records = {1: A, 2: A, 3: A, 4: A, 5: B} | {int(key[1:]): boot for key, boot in changed.items()}
    return DiskCopy("v02", begun, {number: boot for number, boot in records.items() if boot}, slots)


def test_an_honest_failover_passes():
    honest().assert_nothing_lost(VM, copy())


def test_a_lost_record_is_found():
    witness = told((1.0, "v01", A, "record", 7), (5.0, "v02", B, "found", 5), (5.1, "v02", B, "record", 6))
    with pytest.raises(BrokenError, match=r"printed up to 7.* found only 5: 2 lost"):
        witness.assert_nothing_lost(VM)


def test_a_record_printed_late_by_the_old_boot_counts_as_lost():
    witness = honest()
    witness.take("vm01", Line(6.0, "v01", A, "record", 6))
    assert "printed up to 6" in witness.lost(VM)[0]


def test_a_number_printed_by_two_boots_is_found():
    witness = honest()
    witness.take("vm01", Line(6.0, "v02", B, "record", 3))
    assert witness.lost(VM) == [f"record 3 was printed by {A} and by {B}"]


def test_two_boots_at_the_same_time_are_found():
    witness = honest()
    witness.take("vm01", Line(5.5, "v01", A, "failed", 4))
    assert witness.lost(VM) == []
    with pytest.raises(BrokenError, match=r"still printed 0\.50 s after boot b+ on v02 had begun"):
        witness.assert_nothing_lost(VM)


@pytest.mark.parametrize(
    ("disk", "missing"),
    [
        (copy(n2=""), "1 printed records .*: 2"),
        (copy(n3=B), "1 printed records .*: 3"),
        (copy(n1="", n2="", n5=""), "3 printed records .*: 1-2, 5"),
    ],
    ids=["absent", "overwritten by another boot", "several"],
)
def test_a_record_missing_on_disk_is_found(disk, missing):
    with pytest.raises(BrokenError, match=missing):
        honest().assert_nothing_lost(VM, disk)


def test_what_was_overwritten_or_came_after_the_reading_is_not_missed():
    assert honest().lost(VM, copy(n1="", n2="", slots=3)) == []
    assert honest().lost(VM, copy(begun=5.05, n5="")) == []


def test_lines_are_read_as_they_come_and_torn_ones_are_not_misread(tmp_path: Path):
    console = tmp_path / "v01.guest0"
    now = [10.0]
    witness = Witness(clock=lambda: now[0])
    witness.watch(VM, "v01", console)
    witness.read()
    console.write_bytes(
        b"[    1.0] Linux\r\nvmheal-guest boot=" + A.encode() + b" found=0 ok\r\nvmheal-guest boot="
    )
    witness.read()
    now[0] = 11.0
    with console.open("ab") as more:
        more.write(
            A.encode() + b" record=1 ok\r\nvmheal-guest boot=" + A.encode() + b" record=1[ 9.1] panic\r\n"
        )
        more.write(b"vmheal-guest boot=" + A.encode() + b" failed=2 errno=5 ok\r\n")
    witness.read()
    assert witness.lines(VM) == [
        Line(10.0, "v01", A, "found", 0),
        Line(11.0, "v01", A, "record", 1),
        Line(11.0, "v01", A, "failed", 2),
    ]


def test_waiting_for_a_record_heeds_time_number_and_host():
    witness = honest()
    assert witness.wait_for_record(VM, after=1.15, timeout_seconds=0).number == 2
    assert witness.wait_for_record(VM, above=2, timeout_seconds=0).number == 3
    assert witness.wait_for_record(VM, on="v02", timeout_seconds=0).number == 5
    with pytest.raises(LabTimeoutError, match="a record of vm01 on v03"):
        witness.wait_for_record(VM, on="v03", timeout_seconds=0)


def test_the_table_has_a_row_for_each_boot():
    rows = honest().table([VM]).splitlines()
    assert [row.split() for row in rows[1:]] == [
        ["vm01", A[:8], "v01", "0", "1", "3", "3", "0.00", "0.30"],
        ["vm01", B[:8], "v02", "4", "5", "5", "1", "4.00", "4.10"],
    ]


def slot(number: int, boot: str, damage: bytes = b"") -> bytes:
    text = f"vmheal-record {number} {boot}".encode()
    return (text + f" {zlib.crc32(text):08x}\n".encode() + damage).ljust(512, b"\0")


def test_records_are_read_from_a_disk_and_damage_is_said():
    assert read_records(slot(7, A) + bytes(512) + slot(8, B)) == {7: A, 8: B}
    with pytest.raises(LabError, match="Record 9 on disk is damaged"):
        read_records(slot(7, A) + slot(8, B).replace(b"record 8", b"record 9"))
