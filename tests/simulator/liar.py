"""A host that somebody has taken over: what it says is what they want, whatever is so on it.

It lies by its exporter, by its DRBD and libvirt as the actuator asks them, by what it says has become of calls, and
in questions to the arbiter with its own token; about its own VMs and resources, and about those that are not on it.
"""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from actuator.model import CallOutcome, Disk, DomainState, DomainView, Done, Failed
from exporter.drbd import ConnectionState, DiskState, Resource, Role, Snapshot
from exporter.drbd_configuration import Generations
from tests.actuator.build import connection, device, resource

if TYPE_CHECKING:
    from tests.simulator.host import Host

CLAIMS: Mapping[str, tuple[str, ...]] = {
    "metrics": ("running", "shutoff", "crashed", "gone", "diskless", "peers-here", "peers-lost"),
    "drbd": ("secondary", "primary", "source", "alone", "lost", "gone"),
    "libvirt": ("running", "shutoff", "crashed", "paused", "gone"),
    "data": ("other", "former"),
    "definition": ("with-anothers-disk",),
    "calls": ("done", "failed"),
}
"""By what it lies with, what it may say; ``former``: the data's generation before this one;
``with-anothers-disk``: with those of all other VMs."""
HOOKS = ("fence-peer", "unfence-peer", "before-resync-source", "attach")


class Liar:
    """What one host says that is not so.

    Args:
        host: that host.
    """

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._numbers = itertools.count(1_000_000)
        self._claims: dict[tuple[str, str], str] = {}
        """By what it lies with, and the VM."""

    def claim(self, where: str, vm: str, what: str) -> None:
        assert what in CLAIMS[where]
        self._claims[where, vm] = what

    def _said(self, where: str) -> dict[str, str]:
        return {vm: what for (how, vm), what in self._claims.items() if how == where}

    # ---- its exporter

    def scraped(self, it: Any) -> None:
        """Change what an exporter says (``monitoring._Scrape``)."""
        for vm, what in self._said("metrics").items():
            peers = [name for name in self._host.world.hosts if name != self._host.name]
            match what:
                case "gone":
                    it.domains.pop(vm, None)
                case "diskless":
                    it.diskless.add(vm)
                case "peers-here" | "peers-lost":
                    for peer in peers:
                        it.connected[vm, peer] = it.current[vm, peer] = what == "peers-here"
                case _:
                    it.domains[vm] = what
                    it.crashes[vm] = it.crashes.get(vm, 0) + (what == "crashed")

    @property
    def is_expected(self) -> frozenset[str]:
        """VMs of which it says itself that they should run on it."""
        return frozenset(self._said("metrics"))

    # ---- DRBD, as the actuator asks for it

    def snapshot(self, true: Snapshot) -> Snapshot:
        said = self._said("drbd")
        rest = tuple(it for it in true.resources if it.name not in said)
        return Snapshot((*rest, *(self._resource(vm, what) for vm, what in said.items() if what != "gone")))

    def _resource(self, vm: str, what: str) -> Resource:
        pair = self._host.world.pairs[vm]
        peers = [it.host.name for it in pair.nodes if it.host is not self._host]
        there = ConnectionState.CONNECTED if what not in {"alone", "lost"} else ConnectionState.CONNECTING
        # What it says of its peers: a source's are behind, and who is alone has written without them.
        disks = {"source": DiskState.INCONSISTENT, "alone": DiskState.OUTDATED, "lost": DiskState.D_UNKNOWN}
        disk = disks.get(what, DiskState.UP_TO_DATE)
        return resource(
            vm,
            Role.SECONDARY if what in {"secondary", "lost"} else Role.PRIMARY,
            devices=(device(pair.minor),),
            connections=tuple(connection(it, there, Role.SECONDARY, disk) for it in peers),
        )

    def generations(self, vm: str, true: tuple[Generations, ...]) -> tuple[Generations, ...]:
        match self._claims.get(("data", vm)):
            case "other":
                return (Generations(f"{next(self._numbers):016X}", frozenset()),)
            case "former":
                return tuple(Generations(min(it.former), frozenset()) if it.former else it for it in true)
        return true

    # ---- libvirt

    def view(self, vm: str, true: DomainView | None) -> DomainView | None:
        said = self._claims.get(("libvirt", vm))
        if said is None or said == "gone":
            return None if said else true
        minor = self._host.world.pairs[vm].minor
        down = said in {"shutoff", "crashed"}
        disk = Disk("xvda", f"/dev/drbd{minor}", attached=None if down else True)
        uuid = f"{minor:08x}-0000-0000-0000-000000000000"
        return DomainView(vm, uuid, DomainState(said), "unknown", None if down else 77, (disk,))

    def states(self, true: Mapping[str, DomainState]) -> Mapping[str, DomainState]:
        said = self._said("libvirt")
        rest = {vm: state for vm, state in true.items() if vm not in said}
        return rest | {vm: DomainState(what) for vm, what in said.items() if what != "gone"}

    def definition(self, vm: str, true: str) -> str:
        if ("definition", vm) not in self._claims:
            return true
        minors = {pair.minor for pair in self._host.world.pairs.values()} - {self._host.domains[vm].minor}
        disks = (
            f"<disk type='block' device='disk'><source dev='/dev/drbd{it}'/><target dev='xvd{it}'/></disk>"
            for it in sorted(minors)
        )
        return true.replace("</devices>", f"{''.join(disks)}</devices>")

    def outcome(self) -> CallOutcome | None:
        """What it says of a call that it does not do; None: it does it."""
        match next(iter(self._said("calls").values()), ""):
            case "done":
                return Done()
            case "failed":
                return Failed("an unexpected error")
        return None

    # ---- the arbiter

    def ask(self, hook: str, vm: str, peer: str, role: str) -> None:
        """As a hook would, in a fiber of the host: first for the version, then with it."""
        host, lost = self._host, hook == "fence-peer"
        body = {
            "hook": hook,
            "resource": vm,
            "boot_id": "0",
            "began_ns": next(self._numbers),
            **({} if hook == "attach" else {"peer": peer}),
        }
        try:
            version = host.ask_arbiter(f"token-of-{host.name}", body)["version"]
            said = host.ask_arbiter(
                f"token-of-{host.name}",
                body
                | {"version": version, "role": role, "up_to_date": True}
                | {"connected": not lost, "peer_up_to_date": not lost},
            )
        except (ValueError, OSError) as error:
            host.world.log(f"{host.name}: asks {hook} {vm} {peer} as {role}: {error}")
        else:
            host.world.log(
                f"{host.name}: asks {hook} {vm} {peer} as {role}: {said['verdict']}: {said['sentence']}"
            )
