"""The real actuator as a process of the simulator: everything behind its HTTP side, on its real journal."""

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from actuator import serve
from actuator.adapters.sqlite import SqliteJournal
from actuator.arbitrate import Arbiter
from actuator.arbitrate import parse as parse_question
from actuator.config import Settings
from actuator.core.arbiter import Verdict
from actuator.core.progress import next_index
from actuator.model import DomainRecord, Event
from actuator.orders import parse as parse_order
from actuator.ports import JournalError, Ports
from actuator.webhook import parse as parse_delivery
from tests.simulator import ports
from tests.simulator.fibers import Process
from tests.simulator.intents import Intended

if TYPE_CHECKING:
    from tests.simulator.world import World

WRITES = {"receive", "commit"}
RESTART_SECONDS = (0.5, 3.0)


class Journal:
    """The journal, and where the actuator may be killed: before and after each of its writes."""

    def __init__(self, journal: SqliteJournal, world: "World", process: Process) -> None:
        self._journal = journal
        self._world = world
        self._process = process
        self.writes = 0
        self.dies_at: float | None = None
        """At this write: n before it, n + 0.5 after it."""
        self.dies_at_step = ""
        """After the write that intends a step of this kind."""
        self.full = False

    def __getattr__(self, name: str) -> Any:
        # Asked for once: it is an attribute then.
        method = getattr(self._journal, name)
        self.__dict__[name] = found = self._write(method) if name in WRITES else self._alive(method)
        return found

    def _alive(self, method: Callable[..., Any]) -> Callable[..., Any]:
        process = self._process

        def read(*arguments: Any, **more: Any) -> Any:
            if not process.alive:
                self._check()
            return method(*arguments, **more)

        return read

    def _write(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any, **more: Any) -> Any:
            self._check()
            if self.full:
                raise JournalError("database or disk is full")
            self.writes += 1
            events = more.get("events", ())
            if self.dies_at == self.writes:
                self._die("before", events)
            method(*arguments, **more)
            self._world.oracle.written(more.get("authorities", ()), events)
            self._world.reach.wrote(self._world.actuator.starts, events)
            if self.dies_at == self.writes + 0.5 or self._intends(more.get("record")):
                self._die("after", events)

        return write

    def _intends(self, record: DomainRecord | None) -> bool:
        """Whether the step at which it dies is now the next one of a plan."""
        plan = record.open_plan if record is not None and self.dies_at_step else None
        index = None if plan is None else next_index(plan)
        return plan is not None and index is not None and plan.steps[index].step.kind == self.dies_at_step

    def _die(self, when: str, events: Sequence[Event]) -> None:
        """Its unit starts it again."""
        self.dies_at_step = ""
        self._world.reach.died(when, events)
        loop = self._world.loop
        loop.call_in(loop.random.uniform(*RESTART_SECONDS), self._world.actuator.start)
        self._world.actuator.kill()

    def _check(self) -> None:
        if not self._process.alive:
            raise JournalError("the process is gone")


@cache
def _empty_journal() -> bytes:
    """The file as it was made for an actuator that started for the first time: to make it costs more than to open it."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "journal.db")
        SqliteJournal(path).close()
        return path.read_bytes()


class SimulatedActuator:
    """Started and killed again and again on one journal.

    Attributes:
        runs: it has begun to answer.
    """

    def __init__(self, world: "World", settings: Settings) -> None:
        self._world = world
        self._settings = settings
        settings.journal.path.write_bytes(_empty_journal())
        self.process = Process("actuator")
        self.runs = False
        self.starts = 0
        self._file: SqliteJournal | None = None
        self.journal: Journal | None = None
        self._actuator: serve.Actuator | None = None
        self._expected: tuple[tuple[int, int], dict[str, str]] = (0, 0), {}
        """After which start and write of it, and what it was then."""
        self._arbiter: Arbiter | None = None

    # ---- its life

    def start(self) -> None:
        if self._file is not None:
            return
        world = self._world
        self.starts += 1
        self.process = process = Process(f"actuator {self.starts}")
        self._file = SqliteJournal(self._settings.journal.path)
        self.journal = journal = Journal(self._file, world, process)
        stopping = world.threading.Event()
        clock = ports.Clock(world, stopping)
        watched = partial(Intended, journal=journal, oracle=world.oracle, underway=[])
        its_ports = Ports(
            hypervisor=watched(ports.Hypervisor(world)),
            storage=watched(ports.Storage(world)),
            fencing=watched(ports.Fencing(world)),
            programs=ports.NoPrograms(),
            alerts=ports.Alerts(world),
            metrics=ports.Metrics(world),
            journal=journal,
            clock=clock,
            tasks=ports.Tasks(world.loop, process),
        )

        def main() -> None:
            self._actuator = serve.Actuator(its_ports, self._settings, _Report(), stopping)
            self._arbiter = Arbiter(journal, clock, self._actuator.contacts)
            self._actuator.start()
            self.runs = True
            world.log("actuator: runs")

        world.loop.spawn(process, main, "main")

    def kill(self) -> None:
        """As by SIGKILL; what it has asked others to do goes on."""
        if self._file is None:
            return
        self._world.log("actuator: killed")
        self.runs = False
        file, self._file = self._file, None
        self.process.alive = False
        file.close()
        self._world.loop.kill(self.process)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    # ---- its HTTP side

    def deliver(self, body: bytes) -> bool:
        """Alertmanager's POST; false: no 200."""
        if not self.runs or self._actuator is None:
            return False
        delivery = parse_delivery(body, max_alerts=100)
        journal = self.journal
        assert journal is not None
        try:
            journal.receive(delivery.notifications, at=ports.EPOCH + self._world.loop.now)
        except JournalError:
            return False
        self._actuator.wake()
        return True

    def arbitrate(self, host: str, body: bytes) -> dict[str, Any]:
        assert self._arbiter is not None
        try:
            reply = self._arbiter.reply(host, parse_question(body))
        except JournalError as error:
            raise ValueError(f"answered 503: {error}") from None
        if reply.verdict is Verdict.GRANT and self._world.hosts[host].dies_at_grant:
            self._world.hosts[host].power_off()
        return {
            "version": reply.version,
            "sentence": reply.sentence,
            "verdict": None if reply.verdict is None else reply.verdict.value,
        }

    def order(self, body: bytes) -> None:
        """POST /api/v1/orders, by whoever types `vmheal-actuator ...`."""
        world, actuator = self._world, self._actuator

        def give() -> None:
            assert actuator is not None
            try:
                answer = actuator.orders.take(parse_order(body))
            except JournalError as error:
                world.log(f"order: not taken: {error}")
            else:
                world.log(f"order: {answer.sentence}")

        if self.runs and actuator is not None:
            world.loop.spawn(self.process, give, "order")
        else:
            world.log("order: the actuator does not answer")

    # ---- what is seen of it

    def expected(self) -> dict[str, str]:
        """Its metric vmheal_domain_expected; nothing while it does not run."""
        if not self.runs or self._actuator is None or self.journal is None:
            return {}
        at = self.starts, self.journal.writes
        if self._expected[0] != at:
            self._expected = at, {it.domain: it.host for it in self._actuator.protected.records()}
        return self._expected[1]

    def read(self) -> SqliteJournal:
        assert self._file is not None, "it runs"
        return self._file

    def events(self) -> list[Event]:
        """All that its journal tells, of one that was killed too."""
        left = closing(SqliteJournal(self._settings.journal.path)) if self._file is None else None
        with left or nullcontext(self.read()) as file:
            return [event for _, event in file.timeline(limit=100_000)]


class _Report:
    """What reconcile tells; a fault of the product's own shows in its log."""

    faults = type("Counter", (), {"labels": lambda self, *_: self, "inc": lambda self: None})()

    def reconciled(self, *_: object) -> None:
        pass
