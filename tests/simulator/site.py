"""What a simulated site is: its VMs and hosts, and how it is configured."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from actuator.config import Settings
from tests.simulator.drbd9 import IO_ERROR, SUSPEND_IO


@dataclass(frozen=True)
class Site:
    """As the first lines of a scenario say it.

    Attributes:
        vms: by name: the host where it runs, and those with its mirrors: one; of DRBD 9 also two.
        agents: by host: "works", "fails", "hangs" or "lies"; a host without one is not in it.
        clocks: by host, how fast its clock runs, where that is not 1.
        preserve: ``on_crash`` is preserve, and not destroy.
        witness: each host asks a gateway too, before it ends a VM that is cut off.
        alone: the VMs of which vmheal's configuration says nothing.
        settings: of the actuator's configuration, by section, what is otherwise.
        nine: VMs whose disk is a resource of DRBD 9 with a quorum: its ``on-no-quorum``.
        ties: of those with two replicas, the host of the tie-breaker.
        liar: the host that is taken over, if one is: then a schedule by chance has lies of it.
    """

    vms: Mapping[str, tuple[str, ...]]
    xen: bool = True
    agents: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    clocks: Mapping[str, float] = field(default_factory=dict)
    alone: frozenset[str] = frozenset()
    preserve: bool = False
    witness: bool = False
    nine: Mapping[str, str] = field(default_factory=dict)
    ties: Mapping[str, str] = field(default_factory=dict)
    liar: str = ""

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(sorted({host for vm in self.vms for host in self.replicas(vm)}))

    def replicas(self, vm: str) -> tuple[str, ...]:
        """The hosts of its resource: the tie-breaker's last."""
        return (*self.vms[vm], *([self.ties[vm]] if vm in self.ties else []))

    def configuration(self, folder: Path) -> Settings:
        """The actuator's, with its files in a folder."""
        for name in ("token", "key", "known_hosts", *(f"token-{host}" for host in self.hosts)):
            (folder / name).write_text(f"{name}\n")
        scheme = "xen+ssh" if self.xen else "qemu+ssh"
        fence = {"fence": {"agent": "fence_dummy"}}
        return Settings.model_validate(
            {
                "mode": "enforce",
                "journal": {"path": str(folder / "journal.db")},
                "webhook": {"token_file": str(folder / "token")},
                "alertmanager": {"url": "http://127.0.0.1:9093"},
                "prometheus": {"url": "http://127.0.0.1:9090"},
                "ssh": {"key_file": str(folder / "key"), "known_hosts_file": str(folder / "known_hosts")},
                "hosts": {
                    host: {
                        "address": "127.0.0.1",
                        "libvirt_uri": f"{scheme}://127.0.0.1/system",
                        "arbiter_token_file": str(folder / f"token-{host}"),
                        **(fence if host in self.agents else {}),
                    }
                    for host in self.hosts
                },
                "domains": {
                    name: {"host": on[0], "hosts": list(on)}
                    for name, on in self.vms.items()
                    if name not in self.alone
                },
                # Their looks would only take the loop's time: tests/actuator/test_readiness.py has them.
                "readiness": {"interval_seconds": 0},
                **self.settings,
            }
        )


NINE = 0.1
"""So many sites have DRBD 9."""
HARD_SECONDS = 20.0
"""After so long a host that is cut off ends its VMs, whatever a witness says."""
LOOK_SECONDS = (1.0, 1.0, 2.0, 3.0)
"""How often the actuator looks at DRBD; at all else it looks a fifth as often."""
WORDS = {"vm", "nine", "libvirt", "agent", "set", "clock", "alone", "with"}


def read(lines: list[list[str]]) -> Site:
    """Read lines such as `vm vm1 v01 v02`, `libvirt qemu`, `agent v01 works`, `set move cold true`.

    Of DRBD 9: `nine vm1 v01 v02 v03`, or with a tie-breaker `nine vm1 v01 v02 tie v03`; `io-error` at the end.
    """
    vms: dict[str, tuple[str, ...]] = {}
    nine: dict[str, str] = {}
    ties: dict[str, str] = {}
    agents: dict[str, str] = {}
    settings: dict[str, dict[str, Any]] = {}
    clocks: dict[str, float] = {}
    alone: set[str] = set()
    more: dict[str, bool] = {}
    xen = True
    for words in lines:
        match words:
            case ["vm", name, home, mirror]:
                vms[name] = (home, mirror)
            case ["nine", name, *on]:
                nine[name] = IO_ERROR if on[-1] == IO_ERROR else SUSPEND_IO
                on = on[:-1] if on[-1] == IO_ERROR else on
                if "tie" in on:
                    ties[name] = on[-1]
                vms[name] = tuple(on[: on.index("tie")] if "tie" in on else on)
            case ["libvirt", kind]:
                xen = kind == "xen"
            case ["agent", host, how]:
                agents[host] = how
            case ["set", section, key, value]:
                settings.setdefault(section, {})[key] = json.loads(value)
            case ["clock", host, rate]:
                clocks[host] = float(rate)
            case ["with", "preserve" | "witness" as what]:
                more[what] = True
            case ["alone", name]:
                alone.add(name)
            case _:
                raise ValueError(f"{' '.join(words)!r} is not understood")
    if nine:
        settings.setdefault("failover", {}).setdefault("quorum", True)
    vms = vms or {"vm1": ("v01", "v02")}
    return Site(vms, xen, agents, settings, clocks, frozenset(alone), **more, nine=nine, ties=ties)


MESH: Mapping[str, tuple[str, ...]] = {"vm1": ("v01", "v02"), "vm2": ("v01", "v03"), "vm3": ("v02", "v03")}


def with_a_liar(random: Random, by_chance: Site) -> Site:
    """A site with VMs that have a replica on the host that lies, and one that has none."""
    settings = {section: dict(said) for section, said in by_chance.settings.items()}
    settings.get("failover", {}).pop("quorum", None)
    liar = random.choice(["v01", "v02", "v03"])
    return replace(by_chance, vms=MESH, settings=settings, alone=frozenset(), nine={}, ties={}, liar=liar)


def by_chance(random: Random) -> Site:
    """One of several, mostly the smallest."""
    vms: Mapping[str, tuple[str, ...]] = random.choices(
        (
            {"vm1": ("v01", "v02")},
            {"vm1": ("v01", "v02"), "vm2": ("v02", "v01")},
            MESH,
        ),
        weights=(3, 1, 1),
    )[0]
    xen = random.random() < 0.5
    hosts = ("v01", "v02", "v03")
    kinds = random.choices(("works", "fails", "hangs", "lies"), weights=(6, 1, 1, 1), k=len(hosts))
    agents = dict(zip(hosts, kinds, strict=True)) if random.random() < 0.35 else {}
    drift = random.choice((0.0, 0.0, 0.01))
    clocks = {host: 1 + random.uniform(-drift, drift) for host in hosts} if drift else {}
    alone = frozenset({"vm2"} & set(vms)) if random.random() < 0.3 else frozenset()
    settings: dict[str, dict[str, Any]] = {"move": {"cold": random.random() < 0.5}}
    if witness := random.random() < 0.2:
        settings["failover"] = {"witnesses": True, "hard_timeout_seconds": HARD_SECONDS}
    look = random.choice(LOOK_SECONDS)
    settings["reconcile"] = {"drbd_interval_seconds": look, "interval_seconds": 5 * look}
    preserve = random.random() < 0.3
    if random.random() < NINE:
        settings.setdefault("failover", {})["quorum"] = random.random() < 0.9
        on_no_quorum = random.choice((SUSPEND_IO, SUSPEND_IO, IO_ERROR))
        tie = random.random() < 0.5
        vms = {vm: on if tie else (*on, *(set(hosts) - set(on))) for vm, on in vms.items()}
        ties = {vm: next(iter(set(hosts) - set(on))) for vm, on in vms.items()} if tie else {}
        nine = dict.fromkeys(vms, on_no_quorum)
        return Site(vms, xen, agents, settings, clocks, alone, preserve, witness, nine, ties)
    return Site(vms, xen, agents, settings, clocks, alone, preserve, witness)
