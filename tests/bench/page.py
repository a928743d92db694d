"""`make bench-page`: how soon the page and the API answer on a site of 200 hosts and 4,000 VMs.

The real actuator on its real journal with 200,000 events, over hosts in memory (tests/actuator/mesh.py). A rack of 20
hosts is lost, and a person is asked about each of its 400 VMs. One client on loopback asks one thing after the other; the
actuator does nothing else meanwhile. What is shown is worked out once a second at most: here anew for each question, unless
it says otherwise.
"""

import logging
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click
import requests
import structlog
from rich.console import Console
from rich.table import Table

from actuator.core.readiness import Check
from actuator.model import Escalation, EscalationKind, Event
from actuator.page.pages import SEEN_SECONDS, Page
from actuator.receive import Server
from actuator.rehearse import Rehearsal
from actuator.rehearse import table as readiness
from actuator.report import status
from tests.actuator.deliveries import parts, rights
from tests.actuator.mesh import fill
from tests.bench.scale import Run

EVENTS = 200_000
AT_ONCE = 20_000
QUESTIONS = {
    "the page": "/",
    "the page, of a host": "/?q=h123",
    "100 VMs, from the 2,000th on": "/vms?from=2000",
    "the evidence and story of a plan": "/plans/vm0123-1",
    "history": "/history",
    "history of a VM": "/history?vm=vm0123",
    "history, searched for a VM": "/history?q=vm0123",
    "history, searched for what is not there": "/history?q=no-such-thing",
    "/api/v1/status": "/api/v1/status",
    "/api/v1/ready": "/api/v1/ready",
}


@dataclass(frozen=True)
class Answers:
    """To one question, asked again and again."""

    seconds: tuple[float, ...]
    processor_seconds: float
    """For one of them, the client's part included: other work on the machine does not count."""
    kib: float

    def within_ms(self, share: float) -> float:
        """So many of the answers came within this time."""
        return sorted(self.seconds)[math.ceil(share * len(self.seconds)) - 1] * 1000


class Shown(Run):
    """A site that has run for a while, with a lost rack, and the server that shows it."""

    def __init__(self, hosts: int, folder: Path) -> None:
        super().__init__(hosts, folder)
        fill(self.journal, self.mesh)
        self._look()
        for name, vm in self.mesh.vms.items():
            there = (
                Check(vm.home, "restart", ()),
                Check(vm.mirror, "migrate", ()),
                Check(vm.mirror, "failover", ()),
            )
            self.actuator.rehearser._last[name] = Rehearsal(name, vm.home, self.clock.wall(), there, (name,))
        self._remember()
        self.mesh.lose_rack()
        self.clock.now += 60
        self._look()
        self._ask_a_person()

    def _look(self) -> None:
        for _ in range(2):
            self.actuator.reconciler.turn()
            self.actuator._keeper.turn()
            self.clock.now += 1

    def _remember(self) -> None:
        """Fill the timeline, as with plans of all VMs in turn."""
        vms = list(self.mesh.vms)
        kinds = ("received", "observed", "decided", "intent", "outcome", "finished")
        for first in range(0, EVENTS, AT_ONCE):
            self.journal.commit(
                events=[
                    self._event(
                        vms[number // len(kinds) % len(vms)],
                        kinds[number % len(kinds)],
                        1 + number // len(kinds) // len(vms),
                    )
                    for number in range(first, first + AT_ONCE)
                ]
            )

    def _event(self, vm: str, kind: str, plan: int) -> Event:
        home, mirror = self.mesh.vms[vm].home, self.mesh.vms[vm].mirror
        sentence = (
            f"{home}: shutoff (crashed, id 1), {vm} Primary UpToDate ({mirror} Connected Secondary);"
            f" {mirror}: shutoff (unknown), {vm} Secondary UpToDate ({home} Connected Primary)"
        )
        of = f"{vm}-{plan}" if kind in {"decided", "intent", "outcome", "finished"} else ""
        detail = {"seconds": 1.25, "labels": {"alertname": "VMFailure", "domain": vm, "severity": "critical"}}
        return Event(self.clock.wall(), kind, sentence, vm, home, of, detail)

    def _ask_a_person(self) -> None:
        for name in self.mesh.leaving:
            record = self.journal.record(name)
            sentence = f"see that {record.host} is off, then 'vmheal-actuator confirm-down {record.host}'"
            escalation = Escalation(
                EscalationKind.REFUSED, record.host, "there_is_a_proof", sentence, self.clock.wall()
            )
            self.journal.commit(record=replace(record, version=record.version + 1, escalation=escalation))

    def _status(self):
        actuator, journal = self.actuator, self.journal
        return status(
            actuator._settings,
            actuator.protected,
            [it for _, it in sorted(journal.authorities().items())],
            actuator.reconciler.last_at,
            0,
            hosts=journal.hosts(),
            paused=actuator.worker.pauses(),
            now=self.clock.wall(),
        )

    @contextmanager
    def served(self) -> Iterator[str]:
        """Its address."""
        actuator = self.actuator
        page = Page(actuator.site, self.journal, self.clock, rights("the-operators-token"), actuator.orders)
        ready = partial(readiness, actuator.rehearser.last(), actuator._settings.domains)
        given = replace(parts(self.journal), page=page, status=self._status, ready=ready)
        with Server("127.0.0.1:0", given) as server:
            yield f"http://127.0.0.1:{server.port}"

    def ask(self, url: str, times: int, *, anew: bool) -> Answers:
        """One question after the other; `anew`: so far apart that all is worked out for each."""
        took, cpu = [], time.process_time()
        with requests.Session() as session:
            session.trust_env = False
            for _ in range(times):
                if anew:
                    self.clock.now += SEEN_SECONDS
                begun = time.perf_counter()
                answer = session.get(url, timeout=60)
                took.append(time.perf_counter() - begun)
                answer.raise_for_status()
        return Answers(tuple(took), (time.process_time() - cpu) / times, len(answer.content) / 1024)


@click.command(help=__doc__)
@click.option(
    "--hosts", type=click.IntRange(10, 1000), default=200, show_default=True, help="With 20 VMs each."
)
@click.option(
    "--times", type=click.IntRange(1), default=200, show_default=True, help="So often each is asked."
)
def main(hosts: int, times: int) -> None:
    """Run the benchmark."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with tempfile.TemporaryDirectory() as folder:
        site = Shown(hosts, Path(folder))
        table = Table(title=f"{hosts} hosts, {len(site.mesh.vms)} VMs, {EVENTS} events; milliseconds")
        table.add_column("")
        for column in ("median", "99 of 100", "processor", "KiB"):
            table.add_column(column, justify="right")
        with closing(site.journal), site.served() as url:
            cases = [(what, path, True) for what, path in QUESTIONS.items()]
            for what, path, anew in [*cases, ("the page, others look too", "/", False)]:
                site.ask(url + path, 3, anew=anew)
                it = site.ask(url + path, times, anew=anew)
                figures = (it.within_ms(0.5), it.within_ms(0.99), it.processor_seconds * 1000, it.kib)
                table.add_row(what, *(f"{figure:.0f}" for figure in figures))
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
