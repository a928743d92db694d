"""What the benchmark of the pause makes of the kernel's, the journal's and the guest's words."""

import pytest

from tests.bench.pause import Mark, pause_of, with_our_times
from tests.lab.moves import Moment
from tests.lab.site import Event
from tests.lab.vm import Resource, Vm
from tests.lab.waiting import LabError
from tests.lab.witness import Line

HOSTS = ("v01", "v02")
VM = Vm("vm01", HOSTS, "xen", (Resource("vm01", 0, HOSTS, fenced=True),), port=0)
CUT = Moment(wall=1_700_000_000.0, monotonic=5000.0)

# As DRBD 8.4 says it (tests/samples/drbd84); another resource, an earlier cut, and the marks. It was cut at 601.
DMESG = """\
[  300.000000] drbd vm01: peer( Secondary -> Unknown ) conn( Connected -> NetworkFailure ) pdsk( UpToDate -> DUnknown )
[  601.200000] drbd vm02: peer( Secondary -> Unknown ) conn( Connected -> NetworkFailure ) pdsk( UpToDate -> DUnknown )
[  601.300000] block drbd0: conn( Connected -> VerifyS )
[  602.500000] drbd vm01: PingAck did not arrive in time.
[  602.501000] drbd vm01: peer( Secondary -> Unknown ) conn( Connected -> NetworkFailure ) pdsk( UpToDate -> DUnknown )
[  602.600000] drbd vm01: helper command: /sbin/drbdadm fence-peer vm01
[  603.100000] drbd vm01: helper command: /sbin/drbdadm fence-peer vm01 exit code 4 (0x400)
[  603.101000] drbd vm01: fence-peer helper returned 4 (peer was fenced)
[  605.000000] mark 1
[  605.500000] mark 2
"""
MARKS = [Mark("mark 1", 5003.0, 5004.5), Mark("mark 2", 5004.48, 5004.52)]


@pytest.fixture(autouse=True)
def marked(monkeypatch):
    monkeypatch.setattr("tests.bench.pause._MARK", "mark")


def granted(at, verdict="grant", resource="vm01"):
    detail = {"resource": resource, "verdict": verdict, "version": 7}
    return Event(CUT.wall + at, "arbitrated", "", "", "v01", None, detail)


def records(*seconds):
    return [Line(CUT.monotonic + at, "v01", "b" * 16, "record", number) for number, at in enumerate(seconds)]


EVENTS = [granted(1.5, "wait"), granted(1.6, resource="vm02"), granted(1.9), granted(2.5)]
# One gap before the cut is longer.
RECORDS = records(-9.0, -0.2, -0.1, 2.3, 2.4, 3.4)


def test_the_quickest_mark_says_how_the_clocks_differ():
    log, within = with_our_times(DMESG, MARKS)
    assert within == pytest.approx(0.02)
    assert log[-1].at == pytest.approx(5004.5)
    with pytest.raises(LabError, match="not in it"):
        with_our_times("", MARKS)


def test_each_part_counts_from_the_cut_on_one_clock():
    log, within = with_our_times(DMESG, MARKS)
    pause = pause_of(CUT, VM, log, EVENTS, RECORDS, within)
    assert (pause.drbd_noticed, pause.handler_began, pause.granted) == (1.5, 1.6, 1.9)
    assert (pause.handler_ended, pause.first_record) == (2.1, 2.3)
    assert (pause.longest_gap, pause.gap_beyond_drbd_noticed, pause.clocks_agree_within) == (2.4, 0.9, 0.02)


@pytest.mark.parametrize(
    ("dmesg", "events", "lines", "words"),
    [
        (DMESG.replace("Connected ->", "WFConnection ->"), EVENTS, RECORDS, "Connected -> "),
        (DMESG.replace("exit code 4", "exit code 1"), EVENTS, RECORDS, "exit code 4"),
        (DMESG, EVENTS[:2], RECORDS, "not granted"),
        (DMESG, EVENTS, RECORDS[:3], "not written"),
    ],
)
def test_what_was_not_said_is_no_figure(dmesg, events, lines, words):
    log, within = with_our_times(dmesg, MARKS)
    with pytest.raises(LabError, match=words):
        pause_of(CUT, VM, log, events, lines, within)
