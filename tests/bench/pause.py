"""`make bench-pause`: a Primary loses its peer again and again; how long does its VM's I/O stand still?

One VM on real DRBD that asks the arbiter, on Xen hosts that QEMU emulates; from a site at rest each time the peer's
replication cable is pulled while the guest writes. DRBD needs time of its own to notice, which is a matter of its
timers; what counts is how much longer the longest gap between two records is than that.

Two clocks. The cut, the records and the journal have this machine's. What DRBD noticed and when its handler ran is in
the kernel log of the Primary's host; lines that are written into that log, and whose moment is known here, say how
the two differ, as exactly as the quickest of them was written: that is the table's last row. The journal does not
tell of the handler's question, only of the answer: that it began to run is the kernel's word too.
"""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import click
from rich.console import Console

from tests.bench.parts import table
from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.lab.moves import Moment, home, other, wait_at_rest
from tests.lab.site import Event, Site
from tests.lab.vm import Vm
from tests.lab.waiting import LabError, wait_until
from tests.lab.witness import Line

MARKS = 5
GRANT_SECONDS = 60
_MARK = "vmheal bench-pause"
_LOGGED = re.compile(r"\[ *(\d+\.\d+)\] (.*)")


@dataclass(frozen=True, slots=True)
class Pause:
    """Seconds from the cut; then how long the pause was."""

    drbd_noticed: float
    """DRBD on the Primary held its peer for lost, and froze the I/O."""
    handler_began: float
    granted: float
    """The arbiter's word was durable in the actuator's journal."""
    handler_ended: float
    first_record: float
    """After the longest gap."""
    longest_gap: float
    """Between two records; it begins with the last record before the cut took hold."""
    gap_beyond_drbd_noticed: float
    clocks_agree_within: float


class Mark(NamedTuple):
    """A line in a host's kernel log, written between two moments of this machine's monotonic clock."""

    text: str
    before: float
    after: float


class Logged(NamedTuple):
    """A line of a host's kernel log; seconds of the host's clock, or of this machine's."""

    at: float
    text: str


@click.command(help=__doc__)
@click.option("--runs", type=click.IntRange(1, 100), default=10, show_default=True)
def main(runs: int) -> None:
    """Run the benchmark."""
    with Lab(hosts=2, flavour="xen", name="bench") as lab:
        vm = lab.add_vm("vm01", on=("v01", "v02"), fenced=True)
        lab.start_vms([vm], timeout_seconds=300)
        with Site(lab, [vm]) as site:
            found = []
            for number in range(1, runs + 1):
                found.append(cut(lab, site, vm))
                lab.progress(f"cut {number} of {runs}: {found[-1]}")
            wait_at_rest(lab, site, [vm])
        lab.assert_nothing_lost(vm)
    Console().print(
        table("records lost 0; seconds from the cut, and of the pause", {f"{len(found)} cuts": found})
    )


def cut(lab: Lab, site: Site, vm: Vm) -> Pause:
    """Cut the Primary's peer off when all is at rest, wait until the guest writes again, and plug it in."""
    wait_at_rest(lab, site, [vm])
    primary = home(site, vm)
    fault = Moment.now()
    lab.unplug(other(vm, primary), "replication")
    try:
        wait_until(lambda: site.resource(vm.resources[0].name)["granted"], "the grant", GRANT_SECONDS, 0.5)
        lab.witness.wait_for_record(vm, after=time.monotonic() + 1)
        log, within = kernel_log(lab.host(primary))
    finally:
        lab.plug(other(vm, primary), "replication")
    return pause_of(fault, vm, log, site.events(fault.wall), lab.witness.lines(vm), within)


def kernel_log(host: Host) -> tuple[list[Logged], float]:
    """The host's kernel log with this machine's monotonic times, and how many seconds they may be wrong."""
    marks = []
    for number in range(MARKS):
        before = time.monotonic()
        text = f"{_MARK} {before:.6f} {number}"
        host.run(["sh", "-c", f"echo '{text}' > /dev/kmsg"])
        marks.append(Mark(text, before, time.monotonic()))
    return with_our_times(host.run(["dmesg"]).text, marks)


def with_our_times(dmesg: str, marks: Sequence[Mark]) -> tuple[list[Logged], float]:
    """The lines that `dmesg` printed, with our times instead of the host's; see `kernel_log`.

    Raises:
        LabError: the marks are not in it.
    """
    matches = filter(None, map(_LOGGED.match, dmesg.splitlines()))
    logged = [Logged(float(match[1]), match[2]) for match in matches]
    written = {it.text: it.at for it in logged if it.text.startswith(_MARK)}
    found = [mark for mark in marks if mark.text in written]
    if not found:
        raise LabError("What was written into the kernel log is not in it")
    best = min(found, key=lambda mark: mark.after - mark.before)
    ahead = (best.before + best.after) / 2 - written[best.text]
    return [Logged(it.at + ahead, it.text) for it in logged], (best.after - best.before) / 2


def pause_of(
    fault: Moment,
    vm: Vm,
    log: Sequence[Logged],
    events: Iterable[Event],
    lines: Iterable[Line],
    within: float,
) -> Pause:
    """Put together what the kernel, the journal and the guest said of one cut.

    Raises:
        LabError: one of them did not.
    """
    since = [it for it in log if it.at >= fault.monotonic - within]
    resource = vm.resources[0].name
    name = re.escape(resource)
    noticed = _first(since, rf"drbd {name}: .*\bconn\( Connected -> ")
    began = _first(since, rf"drbd {name}: helper command: \S+ fence-peer {name}$")
    ended = _first(since, rf"drbd {name}: helper command: \S+ fence-peer {name} exit code 4 ")
    arbitrated = [event for event in events if event.kind == "arbitrated"]
    told = (resource, "grant")
    granted = [it.at for it in arbitrated if (it.detail["resource"], it.detail["verdict"]) == told]
    records = [line.at for line in lines if line.kind == "record"]
    gaps = [(later - earlier, later) for earlier, later in pairwise(records) if later > fault.monotonic]
    if not gaps or not granted:
        raise LabError(f"{vm.name} was not granted, or has not written since")
    gap, again = max(gaps)
    moments = (noticed, began, min(granted) - fault.wall + fault.monotonic, ended, again)
    parts = (*(at - fault.monotonic for at in moments), gap, gap - (noticed - fault.monotonic), within)
    return Pause(*(round(seconds, 2) for seconds in parts))


def _first(log: Iterable[Logged], pattern: str) -> float:
    for it in log:
        if re.match(pattern, it.text):
            return it.at
    raise LabError(f"The kernel log has no line {pattern!r}")


if __name__ == "__main__":
    main()
