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
        agents: by host: "works", "hangs" or "lies"; a host without one is not in it.
        settings: of the actuator's configuration, by section, what is otherwise.
    """

    vms: Mapping[str, tuple[str, str]]
    xen: bool = True
    agents: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

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
                "domains": {name: {"host": on[0], "hosts": list(on)} for name, on in self.vms.items()},
                **self.settings,
            }
        )


WORDS = {"vm", "libvirt", "agent", "set"}


def read(lines: list[list[str]]) -> Site:
    """Read lines such as `vm vm1 v01 v02`, `libvirt qemu`, `agent v01 works`, `set move cold true`."""
    vms: dict[str, tuple[str, str]] = {}
    agents: dict[str, str] = {}
    settings: dict[str, dict[str, Any]] = {}
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
            case _:
                raise ValueError(f"{' '.join(words)!r} is not understood")
    return Site(vms or {"vm1": ("v01", "v02")}, xen, agents, settings)


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
    agents = dict.fromkeys(("v01", "v02", "v03"), "works") if random.random() < 0.3 else {}
    return Site(vms, xen, agents, {"move": {"cold": random.random() < 0.5}})
