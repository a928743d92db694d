"""Reading /dev/kmsg: a pipe in packet mode behaves as it does, one record a read."""

import errno
import os
from pathlib import Path

import pytest

from exporter import kernel_log
from exporter.kernel_log import KernelLog, Record


@pytest.fixture
def kmsg():
    """A log, and what writes a raw record to it."""
    reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
    log = KernelLog(Path(f"/proc/self/fd/{reader}"))
    yield log, lambda raw: os.write(writer, raw)
    log.close()
    log.close()
    os.close(reader)
    os.close(writer)


def test_each_record_comes_once(kmsg):
    log, write = kmsg
    assert list(log.read()) == []
    write(b"6,339,5140900,-;NET: Registered PF_INET6\n SUBSYSTEM=net\n DEVICE=+x\n")
    write(b"3,340,5140901,-,caller=T1;block drbd0: a; b\n")
    assert list(log.read()) == [
        Record(5.1409, "NET: Registered PF_INET6"),
        Record(5.140901, "block drbd0: a; b"),
    ]
    assert list(log.read()) == []


def test_records_that_are_none_are_left_out(kmsg):
    log, write = kmsg
    for raw in (b"\n", b";", b"6,1;x", b"6,1,soon,-;x", b"\xff\xfe,1,2,-;\xff", b"6,2,1000000,-;\xff!"):
        write(raw)
    assert list(log.read()) == [Record(2e-06, "\ufffd"), Record(1.0, "\ufffd!")]


def test_overwritten_records_are_skipped(kmsg, monkeypatch):
    log, write = kmsg
    write(b"6,2,1000000,-;x\n")
    raises = [BrokenPipeError(errno.EPIPE, "overwritten")]
    read = os.read
    monkeypatch.setattr(
        kernel_log.os, "read", lambda *of: (_ for _ in ()).throw(raises.pop()) if raises else read(*of)
    )
    assert list(log.read()) == [Record(1.0, "x")]


def test_a_flood_is_read_in_pieces(kmsg, monkeypatch):
    monkeypatch.setattr(kernel_log, "RECORDS_PER_READ", 3)
    log, write = kmsg
    for number in range(4):
        write(b"6,2,%d,-;x\n" % number)
    assert [len(list(log.read())), len(list(log.read()))] == [3, 1]


def test_no_log():
    with pytest.raises(OSError, match="No such file"):
        KernelLog(Path("/nonexistent"))
