"""The witness: reads what guests print, live, and says whether a record was lost or two guests ran at once.

A guest prints a number only after its write returned (`guest/writer.c`), so what the witness has read is
what DRBD and the layers below it have promised. Times are the bare machine's monotonic clock, taken when
the line was read: within 20 ms of its arrival here.
"""

import re
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol

from tests.lab.waiting import LabError, wait_until

_LINE = re.compile(rb"vmheal-guest boot=([0-9a-f]{16}) (found|record|failed)=(\d+)(?: errno=\d+)? ok\b")
_RECORD_ON_DISK = re.compile(rb"vmheal-record (\d+) ([0-9a-f]{16}) ([0-9a-f]{8})\n")
_POLL_SECONDS = 0.02


class NamedVm(Protocol):
    """All that the witness wants to know of a VM."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Line:
    """One line that a guest printed.

    `found`: the last record it found on its disks when it booted. `record`: one that is written.
    `failed`: one whose write returned an error (it is tried again under the same number).
    """

    at: float
    host: str
    boot: str
    kind: Literal["found", "record", "failed"]
    number: int


@dataclass(frozen=True, slots=True)
class Boot:
    """One life of a guest, as far as it printed."""

    boot: str
    host: str
    found: int | None
    first: int | None
    last: int | None
    records: int
    begun: float
    ended: float


@dataclass(frozen=True, slots=True)
class DiskCopy:
    """The records that a host read from a VM's disks, after the fact or while the guest wrote on."""

    host: str
    begun: float
    """When the reading began: what was printed by then must be in it."""
    records: Mapping[int, str]
    """Number to the boot that wrote it."""
    slots: int
    """How many records there is room for; older ones have been overwritten."""


class BrokenError(AssertionError):
    """The promise was broken; the message says how, with the table of boots."""


@dataclass
class _Source:
    vm: str
    host: str
    path: Path
    offset: int = 0
    rest: bytes = b""


@dataclass
class Witness:
    """Watches the consoles of all VMs on all hosts. Ask it from any thread."""

    clock: Callable[[], float] = time.monotonic
    _sources: list[_Source] = field(default_factory=list)
    _lines: dict[str, list[Line]] = field(default_factory=lambda: defaultdict(list))
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def watch(self, vm: NamedVm, host: str, console: Path) -> None:
        """Read a VM's console on one host from now on; the file need not exist yet."""
        with self._lock:
            self._sources.append(_Source(vm.name, host, console))

    def start(self) -> None:
        """Begin to read, in a thread of its own."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._read_on, name="witness", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read what is there once more and end; what was read can still be asked for."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            thread.join()
            self.read()

    def read(self) -> None:
        """Take in what the consoles hold by now."""
        with self._lock:
            for source in self._sources:
                try:
                    with source.path.open("rb") as console:
                        console.seek(source.offset)
                        news = console.read()
                except FileNotFoundError:
                    continue
                if news:
                    source.offset += len(news)
                    self._take(source, news, self.clock())

    def take(self, vm: str, line: Line) -> None:
        """Add one line, in order of time."""
        with self._lock:
            self._lines[vm].append(line)

    def lines(self, vm: NamedVm) -> list[Line]:
        """Return all that the VM's guests printed so far, in order of time."""
        with self._lock:
            return list(self._lines[vm.name])

    def last_record(self, vm: NamedVm) -> Line | None:
        """Return the last record printed, by whichever of the VM's guests."""
        return next((line for line in reversed(self.lines(vm)) if line.kind == "record"), None)

    def wait_for_record(
        self,
        vm: NamedVm,
        *,
        after: float = 0.0,
        above: int = 0,
        on: str | None = None,
        timeout_seconds: float = 60,
    ) -> Line:
        """Wait until the VM has printed a record, and return the first that fits.

        Args:
            vm: whose.
            after: printed later than this, in seconds of the monotonic clock.
            above: with a higher number than this.
            on: on this host; any when left out.
            timeout_seconds: the deadline.

        Raises:
            LabTimeoutError: none came in time.
        """

        def fits(line: Line) -> bool:
            return (
                line.kind == "record" and line.at > after and line.number > above and on in {None, line.host}
            )

        def first() -> Line | None:
            return next((line for line in self.lines(vm) if fits(line)), None)

        where = f" on {on}" if on else ""
        line = wait_until(first, f"a record of {vm.name}{where}", timeout_seconds, _POLL_SECONDS)
        assert line is not None
        return line

    def wait_for_silence(self, vm: NamedVm, *, seconds: float, timeout_seconds: float = 60) -> None:
        """Wait until the VM has printed nothing for some seconds.

        Raises:
            LabTimeoutError: it goes on printing.
        """

        def silent() -> bool:
            last = self.last_record(vm)
            return last is None or self.clock() - last.at >= seconds

        wait_until(silent, f"{vm.name} to fall silent for {seconds:g} s", timeout_seconds)

    def boots(self, vm: NamedVm) -> list[Boot]:
        """Return the VM's lives in the order in which they began to print."""
        lives: dict[str, list[Line]] = defaultdict(list)
        for line in self.lines(vm):
            lives[line.boot].append(line)
        return [_summary(boot, lines) for boot, lines in lives.items()]

    def lost(self, vm: NamedVm, on_disk: DiskCopy | None = None) -> list[str]:
        """Say what is wrong with the VM's records; an empty list when nothing is.

        Every number that a boot printed must be at most what the next boot found, must not be printed by
        another boot, and must be on the disk with the boot that wrote it (not checked without a copy).
        """
        findings = []
        boots = self.boots(vm)
        for before, after in pairwise(boots):
            if before.last is not None and after.found is not None and before.last > after.found:
                findings.append(
                    f"boot {before.boot} on {before.host} printed up to {before.last}, "
                    f"but boot {after.boot} on {after.host} found only {after.found}: "
                    f"{before.last - after.found} lost"
                )
        printed: dict[int, Line] = {}
        for line in self.lines(vm):
            if line.kind != "record":
                continue
            if line.number in printed:
                first = printed[line.number]
                findings.append(f"record {line.number} was printed by {first.boot} and by {line.boot}")
            printed[line.number] = line
        if on_disk is not None:
            oldest = max([*printed, *on_disk.records, 0]) - on_disk.slots
            missing = [
                number
                for number, line in printed.items()
                if number > oldest and line.at <= on_disk.begun and on_disk.records.get(number) != line.boot
            ]
            if missing:
                findings.append(
                    f"{len(missing)} printed records are not on {on_disk.host}'s disk: {_ranges(missing)}"
                )
        return findings

    def overlaps(self, vm: NamedVm) -> list[str]:
        """Say which of the VM's boots printed while another did; an empty list when none."""
        boots = self.boots(vm)
        return [
            f"boot {earlier.boot} on {earlier.host} still printed {earlier.ended - later.begun:.2f} s "
            f"after boot {later.boot} on {later.host} had begun"
            for position, earlier in enumerate(boots)
            for later in boots[position + 1 :]
            if earlier.ended >= later.begun
        ]

    def assert_nothing_lost(self, vm: NamedVm, on_disk: DiskCopy | None = None) -> None:
        """Assert that no printed record was lost and that no two guests printed at overlapping times.

        Raises:
            BrokenError: one was, or they did.
        """
        findings = self.lost(vm, on_disk) + self.overlaps(vm)
        if findings:
            raise BrokenError(f"{vm.name}:\n  " + "\n  ".join(findings) + "\n" + self.table([vm]))

    def table(self, vms: Iterable[NamedVm]) -> str:
        """Return a table for people: one row for each boot; times count from the first line of all."""
        chosen = [(vm.name, boot) for vm in vms for boot in self.boots(vm)]
        zero = min((boot.begun for _, boot in chosen), default=0.0)
        rows = [("VM", "boot", "host", "found", "first", "last", "records", "from s", "to s")]
        for name, boot in chosen:
            numbers = [
                "-" if number is None else str(number) for number in (boot.found, boot.first, boot.last)
            ]
            times = [f"{moment - zero:.2f}" for moment in (boot.begun, boot.ended)]
            rows.append((name, boot.boot[:8], boot.host, *numbers, str(boot.records), *times))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        )

    def _read_on(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            self.read()

    def _take(self, source: _Source, news: bytes, at: float) -> None:
        *whole, source.rest = (source.rest + news).split(b"\n")
        for raw in whole:
            for boot, kind, number in _LINE.findall(raw):
                self.take(source.vm, Line(at, source.host, boot.decode(), kind.decode(), int(number)))


def read_records(raw: bytes) -> dict[int, str]:
    """Return the records in a copy of a guest's disk: number to the boot that wrote it.

    Raises:
        LabError: a record's checksum is wrong.
    """
    records = {}
    for match in _RECORD_ON_DISK.finditer(raw):
        number, boot, checksum = match.groups()
        text = match.group(0)[: -len(checksum) - 2]
        if zlib.crc32(text) != int(checksum, 16):
            raise LabError(f"Record {int(number)} on disk is damaged: {match.group(0)!r}")
        records[int(number)] = boot.decode()
    return records


def _summary(boot: str, lines: Sequence[Line]) -> Boot:
    records = [line.number for line in lines if line.kind == "record"]
    return Boot(
        boot=boot,
        host=lines[0].host,
        found=next((line.number for line in lines if line.kind == "found"), None),
        first=records[0] if records else None,
        last=max(records) if records else None,
        records=len(records),
        begun=lines[0].at,
        ended=lines[-1].at,
    )


def _ranges(numbers: Iterable[int]) -> str:
    """Return numbers as people write them: 3-7, 9."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][-1] == number - 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    return ", ".join("-".join(map(str, part)) for part in ranges)
