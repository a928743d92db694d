"""A network namespace of a test's own, where fixed ports and hosts' names are free to use. Needs root."""

import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.lab.waiting import wait_until

LINKED = ("10.99.7.1", "10.99.7.2")
"""The addresses of two namespaces with a link between them."""

_CLONE_NEWNET = 0x40000000
_PREFIX = "vmheal-test-"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Netns:
    """`name` is its name for `ip netns`."""

    name: str

    @property
    def prefix(self) -> list[str]:
        """What an argv begins with to run inside, with the names of `/etc/hosts` that were given."""
        return ["ip", "netns", "exec", self.name]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have the calling thread inside, and threads that it starts: sockets made then stay there.

        Names are still those of the machine outside.
        """
        with (
            Path(f"/proc/self/task/{threading.get_native_id()}/ns/net").open("rb") as outside,
            Path(f"/run/netns/{self.name}").open("rb") as inside,
        ):
            _enter(inside.fileno())
            try:
                yield
            finally:
                _enter(outside.fileno())


@dataclass(frozen=True)
class Link:
    """A cable between two namespaces, which have the addresses `LINKED` on it. It goes with them."""

    ends: tuple[Netns, Netns]

    def lay(self) -> None:
        """Connect them."""
        one, other = (each.name for each in self.ends)
        ends = ["link0", "netns", one, "type", "veth", "peer", "name", "link0", "netns", other]
        _ip("link", "add", *ends)
        for end, address in zip(self.ends, LINKED, strict=True):
            _ip("-n", end.name, "addr", "add", f"{address}/24", "dev", "link0")
        self.mend()

    def cut(self) -> None:
        """Let nothing pass any more; who has sent something hears nothing of it."""
        _ip("-n", self.ends[0].name, "link", "set", "link0", "down")

    def mend(self) -> None:
        """Let all pass; without effect when it does."""
        for end in self.ends:
            _ip("-n", end.name, "link", "set", "link0", "up")


@contextlib.contextmanager
def network_namespace(hosts: Mapping[str, str]) -> Iterator[Netns]:
    """Make a namespace with loopback alone; at the end kill what runs in it, and take it away.

    Args:
        hosts: addresses within 127.0.0.0/8 by name, for what runs inside.
    """
    _remove_leftovers()
    name = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
    names = Path("/etc/netns") / name
    lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in hosts.items())]
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        names.mkdir(parents=True)
        (names / "hosts").write_text("".join(f"{line}\n" for line in lines))
        yield Netns(name)
    finally:
        _remove(name)


def _remove_leftovers() -> None:
    """Take away what tests left behind that were killed."""
    for found in Path("/run/netns").glob(f"{_PREFIX}*-*"):
        owner = found.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", owner).exists():
            _remove(found.name)


def _remove(name: str) -> None:
    wait_until(lambda: not _kill_all(name), f"the end of what runs in {name}", 20, 0.05)
    _ip("netns", "delete", name)
    shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)


def _kill_all(name: str) -> list[int]:
    found = [int(line) for line in _ip("netns", "pids", name).split()]
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return found


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"
    return done.stdout


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns: " + os.strerror(ctypes.get_errno()))
