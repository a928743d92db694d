"""One network namespace per lab: three bridges, a tap for each host on each, names, and cables to pull.

Everything lives inside the namespace, so that taking it away takes all of it away. The monitoring machine
(Prometheus, Alertmanager, the actuator) is the namespace itself: it has the address 10.10.0.254 on the
management network, behind a cable of its own.
"""

import ctypes
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.lab.waiting import LabError

Cable = Literal["management", "replication"]
MONITOR = "monitor"
"""The monitoring machine's name on the management network."""

PREFIXES = {"management": "10.10.0", "replication": "10.20.0", "oob": "10.30.0"}
DEVICES = {"management": "mgmt", "replication": "repl", "oob": "oob"}
MONITOR_NUMBER = 254
_CLONE_NEWNET = 0x40000000


def host_number(name: str) -> int:
    """Return the last byte of a machine's addresses: 1 for v01, 254 for the monitoring machine."""
    return MONITOR_NUMBER if name == MONITOR else int(name.removeprefix("v"))


def address(name: str, network: str = "management") -> str:
    """Return the IPv4 address of a machine on one of the three networks."""
    return f"{PREFIXES[network]}.{host_number(name)}"


def hosts_file(names: Iterable[str]) -> str:
    """Return /etc/hosts as it is on every machine of the lab: names are management addresses."""
    lines = ["127.0.0.1 localhost", *(f"{address(name)} {name}" for name in (*names, MONITOR))]
    return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class Network:
    """The lab's networks. `namespace` is its name for `ip netns`."""

    namespace: str
    hosts: Sequence[str]

    def create(self) -> None:
        """Make the namespace with bridges, taps and names.

        Raises:
            LabError: `ip` refused.
        """
        ip("netns", "add", self.namespace)
        # IPv6 would put router solicitations and multicast reports on cables that should be quiet; a
        # bridge must not hand frames to the machine's firewall.
        for setting in ("net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"):
            self.run(["sysctl", "-q", "-w", setting])
        self.run(["sysctl", "-q", "-e", "-w", "net.bridge.bridge-nf-call-iptables=0"])
        lines = ["link set lo up"]
        for network, device in DEVICES.items():
            bridge = f"br-{device}"
            lines += [
                f"link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                f"link set {bridge} up",
            ]
            for host in self.hosts:
                lines += [
                    f"tuntap add dev {tap(host, network)} mode tap",
                    f"link set {tap(host, network)} master {bridge} up",
                ]
        lines += [
            f"link add mon-mgmt type veth peer name {tap(MONITOR, 'management')}",
            f"link set {tap(MONITOR, 'management')} master br-mgmt up",
            f"addr add {address(MONITOR)}/24 dev mon-mgmt",
            "link set mon-mgmt up",
            f"addr add {address(MONITOR, 'oob')}/24 dev br-oob",
        ]
        ip("-n", self.namespace, "-batch", "-", stdin="".join(f"{line}\n" for line in lines))
        names = Path("/etc/netns") / self.namespace
        names.mkdir(parents=True, exist_ok=True)
        (names / "hosts").write_text(hosts_file(self.hosts), encoding="utf-8")

    def open_door(self) -> str:
        """Link the bare machine with the namespace, for a person's browser; return the namespace's address.

        A veth pair with the first free pair of addresses in 198.18.0.0/15 (RFC 2544: for test networks).
        """
        taken = {
            info["local"]
            for link in json.loads(ip("-json", "addr", "show"))
            for info in link.get("addr_info", ())
        }
        for pair in ipaddress.ip_network("198.18.0.0/24").subnets(new_prefix=30):
            outside, inside = (str(host) for host in pair.hosts())
            if outside not in taken:
                break
        else:
            raise LabError("No free address in 198.18.0.0/24 for the way into the lab")
        door = door_device(self.namespace)
        ip("link", "add", door, "type", "veth", "peer", "name", "door", "netns", self.namespace)
        ip("addr", "add", f"{outside}/30", "dev", door)
        ip("link", "set", door, "up")
        ip("-n", self.namespace, "addr", "add", f"{inside}/30", "dev", "door")
        ip("-n", self.namespace, "link", "set", "door", "up")
        return inside

    def unplug(self, name: str, cable: Cable) -> None:
        """Pull a machine's cable: nothing passes in either direction, also while the machine is frozen."""
        ip("-n", self.namespace, "link", "set", tap(name, cable), "nomaster")

    def plug(self, name: str, cable: Cable) -> None:
        """Put the cable back; without effect when it is in."""
        ip("-n", self.namespace, "link", "set", tap(name, cable), "master", f"br-{DEVICES[cable]}")

    def deafen(self, name: str, cable: Cable) -> None:
        """Cut one way: nothing that others send arrives at a machine any more; what it sends does.

        Its port of the bridge is not flooded to, and nobody learns who is behind it.
        """
        self._flood(name, cable, "off")

    def undeafen(self, name: str, cable: Cable) -> None:
        """Have both ways again; without effect when they are there."""
        self._flood(name, cable, "on")

    def _flood(self, name: str, cable: Cable, word: str) -> None:
        settings = [it for kind in ("flood", "mcast_flood", "bcast_flood", "learning") for it in (kind, word)]
        port = ["dev", tap(name, cable), "type", "bridge_slave", *settings, "fdb_flush"]
        ip("-n", self.namespace, "link", "set", *port)

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the argv that runs a program inside the namespace."""
        return ["ip", "netns", "exec", self.namespace, *argv]

    def run(self, argv: Sequence[str]) -> str:
        """Run a short program inside the namespace and return what it printed."""
        return ip("netns", "exec", self.namespace, *argv)

    def connect(self, destination: str, port: int, timeout_seconds: float) -> socket.socket:
        """Open a TCP connection from inside the namespace; it stays there when handed to other threads.

        Args:
            destination: an address, or a host's name.
            port: on it.
            timeout_seconds: for the connection, and for each later call on the socket.

        Raises:
            OSError: refused, or no answer in time.
        """
        if destination in self.hosts:
            destination = address(destination)
        with self._entered():
            return socket.create_connection((destination, port), timeout=timeout_seconds)

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """Have the calling thread alone inside the namespace (network namespaces belong to threads)."""
        with (
            Path(f"/proc/self/task/{threading.get_native_id()}/ns/net").open("rb") as outside,
            Path(f"/run/netns/{self.namespace}").open("rb") as inside,
        ):
            _setns(inside.fileno())
            try:
                yield
            finally:
                _setns(outside.fileno())


def tap(name: str, network: str) -> str:
    """Return the bridge port that a machine's cable ends in."""
    return f"{name}-{DEVICES[network]}"


def door_device(namespace: str) -> str:
    """Return the bare machine's end of the way into a namespace (a device name has at most 15 letters)."""
    return f"door-{namespace.removeprefix('vmheal-')}"


def remove(namespace: str) -> None:
    """Take a lab's network away with all that runs in it; nothing happens when there is none."""
    if Path(f"/run/netns/{namespace}").exists():
        ip("netns", "delete", namespace)
    if Path(f"/sys/class/net/{door_device(namespace)}").exists():
        ip("link", "delete", door_device(namespace))
    shutil.rmtree(Path("/etc/netns") / namespace, ignore_errors=True)


def ip(*arguments: str, stdin: str | None = None) -> str:
    """Run iproute2's `ip` and return what it printed.

    Raises:
        LabError: it refused; the message is its own.
    """
    done = subprocess.run(
        ["ip", *arguments], input=stdin or "", capture_output=True, text=True, check=False, timeout=20
    )
    if done.returncode:
        raise LabError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _setns(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns: " + os.strerror(ctypes.get_errno()))
