"""The simulator's model of DRBD, as a subject of the clauses."""

from collections.abc import Callable
from random import Random
from typing import Any

from exporter import fence_peer
from exporter.drbd_configuration import Generations, parse_get_gi
from tests.contract.clause import DENIED, HANGS, HOOKS, HOSTS, Outcome
from tests.simulator.drbd import Node, Pair, Record, Result
from tests.simulator.fibers import Loop
from tests.simulator.host import PROGRAM_SECONDS, Host
from tests.simulator.network import REPLICATION, Network

STEP_SECONDS = 0.05


class _Host(Host):
    """Its handlers end as they are told."""

    def __init__(self, world: "Model", name: str) -> None:
        super().__init__(world, name)  # type: ignore[arg-type]
        self.answers = {hook: (DENIED if hook == "fence-peer" else "0", 0) for hook in HOOKS}
        self.ran: list[str] = []

    def hook(self, hook: str, node: Node, then: Callable[[int], None]) -> None:
        def run() -> None:
            self.loop.sleep(self.loop.random.uniform(*PROGRAM_SECONDS))
            self.ran.append(hook)
            status, seconds = self.answers[hook]
            self.loop.sleep(seconds)
            while status == HANGS:
                self.loop.sleep(STEP_SECONDS)
                status, _ = self.answers[hook]
            then(int(status))

        self.loop.spawn(self.process, run, hook)

    def _booted(self) -> None:
        self.loop.sleep(STEP_SECONDS)
        self.on = True


class _Pending:
    def __init__(self, model: "Model", host: _Host, call: Callable[[], Outcome]) -> None:
        self._model = model
        self._ended: list[Outcome] = []
        model.loop.spawn(host.process, lambda: self._ended.append(call()), "step")

    def outcome(self, seconds: float) -> Outcome | None:
        end = self._model.loop.now + seconds
        while not self._ended and self._model.loop.now < end:
            self._model.loop.run(STEP_SECONDS)
        return self._ended[0] if self._ended else None


class Model:
    """Two hosts of the simulator and nothing else of it; a `tests.contract.clause.Subject`."""

    minor = 0

    def __init__(self, seed: int, *, fencing: bool) -> None:
        self.fencing = fencing
        self.loop = Loop(Random(seed))
        self.net = Network(self.loop.random)
        self.story: list[str] = []
        self.hosts = {name: _Host(self, name) for name in HOSTS}
        pair = Pair(self.loop, "r0", self.minor, tuple(self.hosts.values()), fencing=fencing)  # type: ignore[arg-type]
        self.nodes = dict(zip(HOSTS, pair.nodes, strict=True))
        for node in pair.nodes:
            node.up = True
            node.attach()
            node.connection = "WFConnection"
        pair.meet()
        for host in self.hosts.values():
            host.ran.clear()

    def log(self, sentence: str) -> None:
        self.story.append(f"{self.loop.now:9.3f} {sentence}")

    def wait(self, seconds: float) -> None:
        self.loop.run(seconds)

    def proc(self, host: str) -> str:
        return self.hosts[host].read_text(fence_peer.PROC)

    def begin(self, host: str, verb: str) -> _Pending:
        def call() -> Outcome:
            result = self._run(host, verb)
            outcome = Outcome(result.status, result.error)
            assert str(outcome).endswith(f"({result.code})") or result.code is None, (
                f"{result} is read {outcome}"
            )
            return outcome

        return _Pending(self, self.hosts[host], call)

    def _run(self, host: str, verb: str) -> Result:
        match verb:
            case "allow-two-primaries" | "forbid-two-primaries":
                return self.nodes[host].allow_two(allowed=verb.startswith("allow"))
            case "pause-sync" | "resume-sync":
                self.nodes[host].pauses = verb == "pause-sync"
                return Result(0)
            case _:
                verb, *options = verb.split()
                result: Any = self.hosts[host].drbdadm(verb, "r0", options)
                return Result(*result)

    def begin_write(self, host: str, number: int) -> _Pending:
        def call() -> Outcome:
            return Outcome(0 if self.nodes[host].write(Record(1, number)) else 1)

        return _Pending(self, self.hosts[host], call)

    def blocks(self, host: str) -> set[int]:
        return {record.number for record in self.nodes[host].md.data}

    def generations(self, host: str) -> Generations:
        md = self.nodes[host].md
        uuids = [md.current, md.bitmap, *md.history, 0, 0][:4]
        flags = "1:1:0:1:0:0:0"
        (found,) = parse_get_gi(f"{':'.join(f'{it << 4:016X}' for it in uuids)}:{flags}")
        return found

    def answer(self, host: str, hook: str, status: str, seconds: int) -> None:
        self.hosts[host].answers[hook] = status, seconds

    def ran(self, host: str) -> list[str]:
        ran, self.hosts[host].ran = self.hosts[host].ran, []
        return ran

    def cut(self, source: str, target: str) -> None:
        self.net.cut.add((REPLICATION, source, target))

    def heal(self) -> None:
        self.net.heal()

    def power_off(self, host: str) -> None:
        self.hosts[host].power_off()

    def boot(self, host: str) -> None:
        self.hosts[host].power_on()
        self.wait(2 * STEP_SECONDS)

    def freeze(self, host: str) -> None:
        self.hosts[host].freeze()

    def wake(self, host: str) -> None:
        self.hosts[host].wake()

    def open(self, host: str) -> None:
        self.nodes[host].holders.add("a person")

    def close(self, host: str) -> None:
        self.nodes[host].holders.discard("a person")

    def break_disk(self, host: str) -> None:
        self.nodes[host].md.broken = True

    def mend_disk(self, host: str) -> None:
        self.nodes[host].md.broken = False
