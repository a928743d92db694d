"""`make demo`: the main job on real parts, to the end, told line by line."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import click
import requests
from rich.console import Console
from rich.table import Table

from tests.lab.lab import Lab
from tests.lab.recovery import Recovery, wait_recovered
from tests.lab.site import PORTS, Site, actuator_program, parse_event
from tests.lab.vm import Vm
from tests.lab.waiting import LabError

POLL_SECONDS = 0.05
COLOURS = {"lab": "magenta", "Prometheus": "yellow", "actuator": "cyan", "guest": "green"}


@dataclass
class Timeline:
    """Prints what happened, when, and who says so. Seconds count from the last `zero`."""

    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    _zero: float = field(default_factory=time.time)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def zero(self) -> None:
        """Count from now on."""
        self._zero = time.time()

    def say(self, who: str, what: str, at: float | None = None) -> None:
        """Print one line; `at` is wall clock, now when left out."""
        seconds = (time.time() if at is None else at) - self._zero
        colour = COLOURS.get(who, "white")
        with self._lock:
            self.console.print(f"[dim]{seconds:8.2f} s[/]  [{colour}]{who:<10}[/]  ", end="")
            self.console.print(what, markup=False)


class Watchers:
    """Follow Prometheus, the actuator's journal and the guests, and tell the timeline."""

    def __init__(self, site: Site, timeline: Timeline) -> None:
        self._site = site
        self._timeline = timeline
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._journal: subprocess.Popen[str] | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch until the block ends."""
        argv = [*actuator_program(), "journal", "--config", str(self._site.config), "--follow", "--json"]
        self._journal = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        for watch in (self._follow_journal, self._follow_prometheus, self._follow_guests):
            thread = threading.Thread(target=watch, daemon=True)
            thread.start()
            self._threads.append(thread)
        try:
            yield
        finally:
            self._stopping.set()
            self._journal.terminate()
            self._journal.wait(timeout=20)
            for thread in self._threads:
                thread.join(timeout=20)

    def _follow_journal(self) -> None:
        assert self._journal is not None
        assert self._journal.stdout is not None
        began = time.time()
        for line in self._journal.stdout:
            event = parse_event(line)
            if event.at >= began:
                self._timeline.say("actuator", f"{event.kind}: {event.sentence}", event.at)

    def _follow_prometheus(self) -> None:
        standing: set[tuple[str, str, str]] = set()
        while not self._stopping.wait(POLL_SECONDS):
            try:
                alerts = self._site.alerts()
            except requests.RequestException:
                continue
            now = {_identity(alert) for alert in alerts}
            for name, domain, host in sorted(now - standing):
                self._timeline.say("Prometheus", f"{name} fires for {domain or host} on {host}")
            for name, domain, host in sorted(standing - now):
                self._timeline.say("Prometheus", f"{name} for {domain or host} on {host} is over")
            standing = now

    def _follow_guests(self) -> None:
        witness = self._site.lab.witness
        seen = {boot.boot for vm in self._site.lab.vms.values() for boot in witness.boots(vm)}
        writing = set(seen)
        while not self._stopping.wait(POLL_SECONDS):
            for vm in self._site.lab.vms.values():
                for boot in witness.boots(vm):
                    if boot.boot not in seen:
                        seen.add(boot.boot)
                        self._timeline.say(
                            "guest", f"{vm.name} boots on {boot.host}; last record on disk: {boot.found}"
                        )
                    if boot.boot not in writing and boot.records:
                        writing.add(boot.boot)
                        self._timeline.say("guest", f"{vm.name} writes again, from record {boot.first}")


def _identity(alert: dict[str, Any]) -> tuple[str, str, str]:
    labels = alert["labels"]
    return labels["alertname"], labels.get("domain", ""), labels.get("host", "")


def act_crash(site: Site, timeline: Timeline, vm: Vm) -> Recovery:
    """Crash a VM's kernel and wait until its guest writes again."""
    last = site.lab.witness.last_record(vm)
    assert last is not None
    timeline.zero()
    since = time.time()
    timeline.say(
        "lab", f"{vm.name}: kernel panic in the guest on {vm.hosts[0]} (last record so far: {last.number})"
    )
    site.lab.host(vm.hosts[0]).crash_guest(vm)
    return wait_recovered(site, vm, since)


def show(console: Console, recovery: Recovery) -> None:
    """Print the table that the demo ends with."""
    table = Table(title="What happened")
    for heading in ("VM", *recovery.parts(), "records lost"):
        table.add_column(heading, justify="right")
    seconds = [f"{value:.2f} s" for value in recovery.parts().values()]
    table.add_row(recovery.vm, *seconds, str(recovery.lost))
    console.print(table)


def run(timeline: Timeline, *, keep: bool) -> None:
    """Build the lab, run the acts, show the table."""
    timeline.say("lab", "two Xen hosts with DRBD between them, under QEMU; progress is on standard error")
    with Lab(hosts=2, flavour="xen", name="demo") as lab:
        vms = [lab.add_vm("voms01", on=("v01", "v02")), lab.add_vm("ce01", on=("v02", "v01"))]
        for vm, line in zip(vms, lab.start_vms(vms), strict=True):
            timeline.say("guest", f"{vm.name} writes on {line.host}, record {line.number}")
        with Site(lab, vms) as site:
            site.wait_watching()
            timeline.say("Prometheus", "sees both VMs running, on their hosts")
            with Watchers(site, timeline).running():
                recovery = act_crash(site, timeline, vms[0])
                time_to_settle(site, vms)
            for vm in vms:
                lab.witness.assert_nothing_lost(vm)
            show(timeline.console, recovery)
            timeline.console.print(lab.witness.table(vms), markup=False)
            if keep:
                wait_for_person(lab, timeline.console)


def time_to_settle(site: Site, vms: list[Vm]) -> None:
    """Wait until the alert is over and every guest goes on writing."""
    moment = time.monotonic()
    for vm in vms:
        site.lab.witness.wait_for_record(vm, after=moment)
    site.wait_watching()


def wait_for_person(lab: Lab, console: Console) -> None:
    """Leave all running until Ctrl-C, and say where to look."""
    console.print("\nAll is running; Ctrl-C ends it and takes it away.")
    for name, port in PORTS.items():
        console.print(f"  {name:<13} http://{lab.door}:{port}/", markup=False)
    console.print(f"  a host        ip netns exec {lab.network.namespace} ssh -F {lab.folder}/ssh_config v01")
    console.print("  crash a VM    ... v01 xl sysrq voms01 c")
    threading.Event().wait()


@click.command(help=__doc__)
@click.option(
    "--keep", is_flag=True, envvar="KEEP", help="Leave all running at the end, and say where to look."
)
def main(keep: bool) -> None:
    """Run the demo."""
    timeline = Timeline()
    try:
        run(timeline, keep=keep)
    except KeyboardInterrupt:
        timeline.console.print("Ended.")
    except LabError as error:
        sys.exit(f"demo: {error}")


if __name__ == "__main__":
    main()
