"""What a simulated site is: its VMs and hosts, and how it is configured."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from actuator.config import Settings


@dataclass(frozen=True)
class Site:
    """As the first lines of a scenario say it.

    Attributes:
        vms: by name: the host where it runs, and the one with its mirror.
        agents: by host: "works", "fails", "hangs" or "lies"; a host without one is not in it.
        clocks: by host, how fast its clock runs, where that is not 1.
        preserve: ``on_crash`` is preserve, and not destroy.
        witness: each host asks a gateway too, before it ends a VM that is cut off.
        alone: the VMs of which vmheal's configuration says nothing.
        settings: of the actuator's configuration, by section, what is otherwise.
    """

    vms: Mapping[str, tuple[str, str]]
    xen: bool = True
    agents: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    clocks: Mapping[str, float] = field(default_factory=dict)
    alone: frozenset[str] = frozenset()
    preserve: bool = False
    witness: bool = False

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(sorted({host for on in self.vms.values() for host in on}))

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


HARD_SECONDS = 20.0
"""After so long a host that is cut off ends its VMs, whatever a witness says."""
WORDS = {"vm", "libvirt", "agent", "set", "clock", "alone", "with"}


def read(lines: list[list[str]]) -> Site:
    """Read lines such as `vm vm1 v01 v02`, `libvirt qemu`, `agent v01 works`, `set move cold true`."""
    vms: dict[str, tuple[str, str]] = {}
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
    return Site(vms or {"vm1": ("v01", "v02")}, xen, agents, settings, clocks, frozenset(alone), **more)


def by_chance(random: Random) -> Site:
    """One of several, mostly the smallest."""
    vms: Mapping[str, tuple[str, str]] = random.choices(
        (
            {"vm1": ("v01", "v02")},
            {"vm1": ("v01", "v02"), "vm2": ("v02", "v01")},
            {"vm1": ("v01", "v02"), "vm2": ("v01", "v03"), "vm3": ("v02", "v03")},
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
    preserve = random.random() < 0.3
    return Site(vms, xen, agents, settings, clocks, alone, preserve, witness)
