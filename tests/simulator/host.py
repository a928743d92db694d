"""A hypervisor: its power, its libvirt, and the programs that run on it, drbdadm, virsh and vmheal's hooks.

The hooks are the product's own code (``exporter.fence_peer``, ``exporter.release``); what they touch of a real
host is replaced in ``hooks_on_simulated_hosts``.
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from unittest import mock

from exporter import fence_peer, release
from exporter.fence_peer import Done, HookError
from tests.simulator.domain import DESTROY_SECONDS, DOWN, Domain
from tests.simulator.drbd import Node
from tests.simulator.drbd9 import Replica
from tests.simulator.fibers import Loop, Process, Threading, Time
from tests.simulator.liar import Liar
from tests.simulator.network import GATEWAY, MANAGEMENT, MONITOR

if TYPE_CHECKING:
    from tests.simulator.world import World

BOOT_SECONDS = (8.0, 20.0)
PROGRAM_SECONDS = (0.01, 0.15)
"""What starting a program costs."""

CONFIG = """\
actuator 127.0.0.1:10811
{witness}token_file /etc/vmheal/token
libvirt_uri sim:///system
isolation_timeout_seconds {isolation}
hard_timeout_seconds {hard}
"""

OFF = Process("off")
OFF.alive = False


class Host:
    """One host.

    Attributes:
        on: it has power, and has booted.
    """

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.loop: Loop = world.loop
        self.net = world.net
        self.name = name
        self.on = True
        self.woke_at = float("-inf")
        self.boots = itertools.count(1)
        self.nodes: dict[str, Node | Replica] = {}
        self.domains: dict[str, Domain] = {}
        self.libvirt_works = True
        self.libvirt_since = float("-inf")
        self.exporter_works = True
        self.drbd_answers = True
        """drbdadm and drbdsetup come back."""
        self.mishap = "", ""
        """What becomes of the next call that changes something here (ports.MISHAPS); of this one, if one is said."""
        self.dies_at_grant = False
        """Its power ends once it is granted something, before it hears of it."""
        self.liar: Liar | None = None
        """It has been taken over."""
        self.clock_rate = 1.0
        """How fast its clock runs."""
        self._start()

    def _start(self) -> None:
        self.boot = next(self.boots)
        self.process = Process(f"{self.name} boot {self.boot}")
        self.ids = itertools.count(1)
        self.releasing: set[str] = set()

    @property
    def answering(self) -> Process:
        """What takes a call from outside: nothing before it has booted."""
        return self.process if self.on else OFF

    @property
    def works(self) -> bool:
        """Its processors run."""
        return self.on and not self.process.frozen

    @property
    def busy(self) -> bool:
        """Something runs on it besides its guests: a program, or a call."""
        return not all(it.name.startswith("guest ") for it in self.process.fibers)

    @property
    def _pairs(self) -> list[Node]:
        """What is DRBD 8.4's, and asks the arbiter."""
        return [it for it in self.nodes.values() if isinstance(it, Node)]

    # ---- what happens to it

    def power_off(self) -> None:
        if not self.on:
            return
        self.on = False
        self.world.log(f"{self.name}: power off")
        for domain in self.domains.values():
            domain.gone("unknown")
        for node in self.nodes.values():
            node.settle()
            node.dead()
        self.loop.kill(self.process)

    def power_on(self) -> None:
        """It boots; then its resources are brought up as the unit vmheal-fence-peer does; DRBD 9's by its own."""
        if self.on:
            return
        self._start()
        self.world.log(f"{self.name}: power on")
        process = self.process
        self.loop.spawn(process, self._booted, "boot")

    def _booted(self) -> None:
        self.loop.sleep(self.loop.random.uniform(*BOOT_SECONDS))
        self.on = True
        self.world.log(f"{self.name}: has booted")
        for node in self.nodes.values():
            if isinstance(node, Replica):
                self.drbdadm("up", node.pair.name)
        if self._pairs:
            self._program(["up"], {}, lambda status: None)

    def freeze(self) -> None:
        if self.on and not self.process.frozen:
            self.process.frozen = True
            self.world.log(f"{self.name}: stands still")

    def wake(self) -> None:
        if self.process.frozen:
            self.world.log(f"{self.name}: wakes")
            self.woke_at = self.loop.now
            self.process.thaw(self.loop)

    def start_libvirtd(self) -> None:
        """It has forgotten why a domain ended before, and counts on from the ids that it finds."""
        if self.libvirt_works:
            return
        self.libvirt_works = True
        self.libvirt_since = self.loop.now
        active = [it.id for it in self.domains.values() if it.id is not None]
        self.ids = itertools.count(max(active, default=0) + 1)
        for domain in self.domains.values():
            domain.found_again()

    # ---- hooks

    def hook(self, hook: str, node: Node, then: Callable[[int], None]) -> None:
        """What DRBD runs as a handler."""
        arguments = [] if hook == "fence-peer" else [hook]
        self._program(arguments, self.environment(node), then)

    def environment(self, node: Node) -> dict[str, str]:
        return {
            "DRBD_RESOURCE": node.pair.name,
            "DRBD_MINOR": str(node.pair.minor),
            "DRBD_PEER": node.peer.host.name,
        }

    def _program(
        self, arguments: Sequence[str], environment: Mapping[str, str], then: Callable[[int], None]
    ) -> None:
        """Run ``vmheal-fence-peer`` to its end (its ``main``)."""

        def run() -> None:
            self.loop.sleep(self.loop.random.uniform(*PROGRAM_SECONDS))
            try:
                status = fence_peer.run(arguments, environment)
            except (HookError, OSError) as error:
                fence_peer.say(str(error))
                status = fence_peer.DENIED
            then(status)

        self.loop.spawn(self.process, run, f"fence-peer {' '.join(arguments)}")

    def begin_release(self, resource: str, environment: Mapping[str, str]) -> None:
        self._program(["release", resource], environment, lambda status: None)

    # ---- programs

    def command(self, argv: Sequence[str]) -> Done:
        self.loop.sleep(self.loop.random.uniform(*PROGRAM_SECONDS))
        match list(argv):
            case ["drbdadm", *words]:
                return self._drbdadm(words)
            case ["virsh", "--quiet", "--connect", _, *words]:
                return self._virsh(words)
        raise AssertionError(f"the simulator knows no {' '.join(argv)}")

    def _drbdadm(self, words: list[str]) -> Done:
        match words:
            case ["sh-resources"]:
                return Done(0, " ".join(it.pair.name for it in self._pairs), "")
            case ["dump-xml", name]:
                return Done(0, self._dump_xml(self.nodes[name]), "")
            case [verb, *options, name]:
                result = self.drbdadm(verb, name, options)
                return Done(result.status, "", result.error)
        raise AssertionError(f"the simulator knows no drbdadm {' '.join(words)}")

    def drbdadm(self, verb: str, name: str, options: Sequence[str] = ()) -> Any:
        """Do it, in a fiber of this host."""
        node = self.nodes[name]
        calls = {
            "primary": node.primary,
            "secondary": node.secondary,
            "connect": node.connect,
            "outdate": node.outdate,
            "disconnect": node.disconnect,
            "attach": node.attach,
            "detach": lambda: node.detach(force="--force" in options),
            "resume-io": node.resume_io,
            "down": node.down,
            "up": node.bring_up,
        }
        before = str(node)
        result = calls[verb]()
        self.world.log(f"{self.name}: drbdadm {verb} {name}: {result.error or 'done'} ({before} -> {node})")
        return result

    def _dump_xml(self, node: Node | Replica) -> str:
        hosts = "".join(
            f'<host name="{it.host.name}"><volume vnr="0"><device minor="{node.pair.minor}"/></volume></host>'
            for it in node.pair.nodes
        )
        return f'<config><resource name="{node.pair.name}">{hosts}</resource></config>'

    def _virsh(self, words: list[str]) -> Done:
        if not self.libvirt_works:
            return Done(1, "", "error: failed to connect to the hypervisor")
        match words:
            case ["list", "--uuid"]:
                active = [it for it in self.domains.values() if it.id is not None]
                return Done(0, "\n".join(it.uuid for it in active), "")
            case ["destroy", uuid]:
                domain = next((it for it in self.domains.values() if it.uuid == uuid), None)
                if domain is None or domain.id is None:
                    return Done(1, "", "error: Domain not found")
                self.loop.sleep(self.loop.random.uniform(*DESTROY_SECONDS))
                domain.destroy()
                return Done(0, "", "")
            case [text] if text.startswith("dumpxml "):
                wanted = [word.removeprefix("dumpxml ") for word in text.split("; ")]
                found = [it.xml for it in self.domains.values() if it.uuid in wanted and it.id is not None]
                return Done(0, "\n".join(found), "")
        raise AssertionError(f"the simulator knows no virsh {' '.join(words)}")

    def read_text(self, path: str) -> str:
        match path:
            case fence_peer.CONFIG:
                return CONFIG.format(
                    witness="witness 192.0.2.1:22\n" if self.world.witness else "",
                    isolation=self.world.isolation_seconds,
                    hard=self.world.hard_seconds,
                )
            case "/etc/vmheal/token":
                return f"token-of-{self.name}"
            case "/proc/sys/kernel/random/boot_id":
                return f"{self.boot:08x}-0000-0000-0000-{int(self.name[1:]):012x}\n"
            case fence_peer.PROC:
                lines = ["version: 8.4.11 (api:1/proto:86-101)", "srcversion: SIMULATED"]
                return "\n".join([*lines, *map(_proc_lines, self._pairs)]) + "\n"
        raise AssertionError(f"the simulator has no {path}")

    def ask_arbiter(self, token: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST /api/v1/arbitrate, in a fiber of this host."""

        def answer() -> dict[str, Any]:
            actuator = self.world.actuator
            if not actuator.runs:
                raise ConnectionRefusedError("Connection refused")
            return actuator.arbitrate(self.name, json.dumps(body).encode())

        assert token == f"token-of-{self.name}"
        return self.world.call(
            MANAGEMENT,
            self.name,
            MONITOR,
            lambda: self.world.actuator.process,
            answer,
            fence_peer.ASK_SECONDS,
            f"{body['hook']} of {self.name}",
        )

    def reaches_witness(self) -> bool:
        """A gateway that answers whoever reaches it."""
        self.loop.sleep(0.01)
        return self.net.both_ways(MANAGEMENT, self.name, GATEWAY)

    # ---- libvirt

    def running(self) -> Iterator[Domain]:
        return (it for it in self.domains.values() if it.state not in DOWN)


def _proc_lines(node: Node) -> str:
    if not node.shown:
        return f"{node.pair.minor:>2}: cs:Unconfigured"
    flags = f"{'s' if node.suspended else 'r'}-----"
    return (
        f"{node.pair.minor:>2}: cs:{node.connection_shown} ro:{node.role}/{node.peer_role}"
        f" ds:{node.disk}/{node.peer_disk} C {flags}\n"
        "    ns:0 nr:0 dw:0 dr:0 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0"
    )


@contextlib.contextmanager
def hooks_on_simulated_hosts(world: "World") -> Iterator[None]:
    """While this is open, the hooks' code runs on the host whose fiber calls it."""
    loop = world.loop

    def here() -> Host:
        assert loop.current is not None, "a hook runs in a fiber of a host"
        return world.host_of(loop.current.process)

    def hostname() -> str:
        return here().name

    def thread_start(self: Any) -> None:
        assert loop.current is not None
        loop.spawn(loop.current.process, self.run, type(self).__name__)

    @contextlib.contextmanager
    def alone(resource: str) -> Iterator[bool]:
        host = here()
        if resource in host.releasing:
            yield False
            return
        host.releasing.add(resource)
        try:
            yield True
        finally:
            host.releasing.discard(resource)

    replaced = {
        "time": Time(loop, lambda: here().clock_rate),
        "command": lambda argv, seconds: here().command(argv),
        "read_text": lambda path: here().read_text(path),
        "say": lambda sentence: world.log(f"{here().name}: vmheal-fence-peer: {sentence}"),
    }
    of_release = {
        "threading": Threading(loop),
        "_holders": lambda minor: [],
        "_alone": alone,
        "begin": lambda resource, environment: here().begin_release(resource, environment),
        "reaches": lambda address: here().reaches_witness(),
    }
    with contextlib.ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(mock.patch.object(fence_peer, name, value))
            stack.enter_context(mock.patch.object(release, name, value))
        for name, value in of_release.items():
            stack.enter_context(mock.patch.object(release, name, value))
        stack.enter_context(
            mock.patch.object(
                fence_peer, "exchange", lambda address, token, body: here().ask_arbiter(token, body)
            )
        )
        stack.enter_context(mock.patch.object(release.socket, "gethostname", hostname))
        for kind in (release.Isolation, release.Ending):
            stack.enter_context(mock.patch.object(kind, "start", thread_start))
        yield
