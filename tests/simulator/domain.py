"""A domain of libvirt on one host, and the guest in it, which writes numbered records and reads them at its boot."""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tests.simulator.drbd import PRIMARY, Record
from tests.simulator.network import MANAGEMENT

if TYPE_CHECKING:
    from tests.simulator.drbd import Node
    from tests.simulator.drbd9 import Replica
    from tests.simulator.host import Host

RUNNING, SHUTOFF, PAUSED, CRASHED = "running", "shutoff", "paused", "crashed"
DOWN = {SHUTOFF, CRASHED}
ACTIVE, WRONG_MEDIUM = "domain is already active", "Wrong medium type"
CODES = {ACTIVE: 55, WRONG_MEDIUM: 1}
"""libvirt's number of what it says."""
GUEST_BOOT_SECONDS = (2.0, 6.0)
WRITE_SECONDS = (0.3, 2.0)
DESTROY_SECONDS = (0.1, 1.5)
MEMORY_KIB = 1048576
LIBVIRT_KEEPALIVE_SECONDS = 30.0
"""Between two libvirtd: five questions, five seconds apart, and none is answered (docs/moves.md)."""
WATCH_SECONDS = 5.0

XML = """\
<domain type='{kind}'><name>{name}</name><uuid>{uuid}</uuid><memory unit='KiB'>{memory}</memory>
<os><type>{os}</type></os><devices><disk type='block' device='disk'><driver name='raw'/>
<source dev='/dev/drbd{minor}'/><target dev='xvda'/></disk></devices></domain>"""


@dataclass(frozen=True)
class Guest:
    """One run of a VM's guest."""

    vm: str
    boot: int
    host: str
    by_hand: bool = False
    """Started by a person: that it may run elsewhere is theirs to know."""


class Domain:
    """As defined on one host."""

    def __init__(self, host: "Host", name: str, uuid: str, minor: int) -> None:
        self.host = host
        self.name = name
        self.uuid = uuid
        self.minor = minor
        self.xml = XML.format(
            kind="xen" if host.world.xen else "kvm", os="linux" if host.world.xen else "hvm",
            name=name, uuid=uuid, minor=minor, memory=MEMORY_KIB,
        )  # fmt: skip
        self.state = SHUTOFF
        self.reason = "unknown"
        self.id: int | None = None
        self.guest: Guest | None = None
        self.left: Guest | None = None
        """One that has crashed, and is preserved."""
        self.has_disk = False
        self.defined = True
        self.crashes = 0
        self.deaf = False
        """Its guest does not listen when it is told to shut down."""
        self.number = 0
        self.writing = False
        self.ended_unseen = False
        """While there was no libvirtd: for the next one it has crashed."""
        self.comes: int | None = None
        """A live migration brings it here, and libvirt has it paused already: its id."""

    @property
    def node(self) -> "Node | Replica":
        return self.host.nodes[self.name]

    @property
    def seen(self) -> str:
        """Its state, as libvirt says it."""
        return self.state if self.comes is None else PAUSED

    @property
    def minors(self) -> list[int]:
        """Of the devices that it is defined with."""
        return [int(it) for it in re.findall(r"/dev/drbd(\d+)", self.xml)]

    def start(self, *, by_hand: bool = False) -> str:
        """Open the device and run the guest; what libvirt says against it."""
        if self.id is not None or self.comes is not None:
            return ACTIVE
        can_open = self.node.role == PRIMARY
        if not can_open and not self.host.world.xen:
            self.reason = "failed"
            return WRONG_MEDIUM
        self._opens_anothers()
        self.id = next(self.host.ids)
        self.state, self.reason = RUNNING, "booted"
        self.writing = False
        self.has_disk = can_open
        self.deaf = False
        self.guest = Guest(self.name, self.host.world.next_boot(), self.host.name, by_hand)
        if can_open:
            self.node.holders.add(self.guest)
            self.host.world.oracle.started(self.guest)
        process = self.host.process
        guest = self.guest
        self.host.loop.spawn(process, lambda: self._runs(guest), f"guest {self.name} {guest.boot}")
        return ""

    def _opens_anothers(self) -> None:
        for vm, node in self.host.nodes.items():
            if vm != self.name and node.pair.minor in self.minors:
                what = f"{self.name} is started on {self.host.name} with the disk of {vm}"
                self.host.world.oracle.broken(what, "another's disk", vm)

    def end(self, reason: str) -> None:
        """The guest is no more; its device is closed once nothing of it waits in DRBD."""
        guest = self.guest
        self.gone(reason)
        if guest is not None:
            self.host.loop.spawn(self.host.process, lambda: self._close(guest), f"close {self.name}")

    def crash(self) -> None:
        """The guest panics; ``on_crash`` is destroy, or preserve: then what is left of it holds its device."""
        guest = self.guest
        if guest is None:
            return
        self.crashes += 1
        if not self.host.world.preserve:
            self.end("crashed")
            return
        left = self.id
        self.gone("crashed")
        if not self.host.world.xen:  # for libvirt a Xen guest is off, whatever is left of it
            self.state, self.reason = CRASHED, "panicked"
        self.id, self.left = left, guest

    def destroy(self) -> None:
        """End it, or what is left of it."""
        if self.left is None:
            self.end("destroyed")
            return
        guest, self.left = self.left, None
        self.state, self.reason, self.id = SHUTOFF, "destroyed", None
        self.host.loop.spawn(self.host.process, lambda: self._close(guest), f"close {self.name}")

    def gone(self, reason: str) -> None:
        if self.guest is not None:
            self.host.world.oracle.ended(self.guest)
        self.state, self.reason, self.id, self.guest, self.left = SHUTOFF, reason, None, None, None
        self.comes = None
        if not self.host.libvirt_works:
            self.reason, self.ended_unseen = "crashed", True

    def found_again(self) -> None:
        """By a libvirtd that has just started: it knows no more than what is gone since it ended."""
        if (self.id is None or self.host.world.xen) and not self.ended_unseen:
            self.reason = "unknown"  # Xen's does not know why it runs either
        self.ended_unseen = False

    def _close(self, guest: Guest) -> None:
        node = self.node
        while node.suspended and node.up:
            node.wait_change()
        node.holders.discard(guest)
        node.settle()

    def expect(self, source: "Host") -> None:
        """A live migration begins to bring it here: it is there, paused, and holds its device."""
        number = self.comes = next(self.host.ids)
        self.node.holders.add(self)

        def watch() -> None:
            silent_seconds = 0.0
            while self.comes == number and silent_seconds < LIBVIRT_KEEPALIVE_SECONDS:
                self.host.loop.sleep(WATCH_SECONDS)
                reached = source.works and self.host.net.both_ways(MANAGEMENT, source.name, self.host.name)
                silent_seconds = 0.0 if reached else silent_seconds + WATCH_SECONDS
            if self.comes == number:
                self.expect_no_more()

        self.host.loop.spawn(self.host.process, watch, f"{self.name} comes")

    def expect_no_more(self) -> None:
        """What was to come has come, or never will."""
        self.comes = None
        self.node.holders.discard(self)
        self.node.settle()

    def move_to(self, target: "Domain") -> None:
        """The guest goes on there, as after a live migration; it waits for no write now."""
        guest = self.guest
        assert guest is not None, "a running guest"
        assert not self.writing, "between two writes"
        self.node.holders.discard(guest)
        self.state, self.reason, self.id, self.guest = SHUTOFF, "migrated", None, None
        moved = replace(guest, host=target.host.name)
        target.id = target.comes
        target.expect_no_more()
        target.state, target.reason, target.guest, target.has_disk = RUNNING, "migrated", moved, True
        target.node.holders.add(moved)
        self.host.world.oracle.moved(moved)
        target.number = self.number
        target.host.loop.spawn(target.host.process, lambda: target._goes_on(moved), f"guest {self.name}")

    def _runs(self, guest: Guest) -> None:
        loop, world = self.host.loop, self.host.world
        loop.sleep(loop.random.uniform(*GUEST_BOOT_SECONDS))
        if self.guest is not guest or not self.has_disk:
            return
        found = self.node.read()
        while found is None or self.node.suspended:
            self.node.wait_change(1.0)
            if self.guest is not guest:
                return
            found = self.node.read()
        world.oracle.found(guest, found)
        self.number = max((it.number for it in found), default=0)
        self._goes_on(guest)

    def _goes_on(self, guest: Guest) -> None:
        loop = self.host.loop
        while self.guest is guest:
            self.number += 1
            record = Record(guest.boot, self.number)
            self.writing = True
            written = self.node.write(record)
            if self.guest is not guest:
                return
            self.writing = False
            if not written:
                self.state, self.reason = PAUSED, "ioerror"
                return
            self.host.world.oracle.acknowledged(guest, record)
            loop.sleep(loop.random.uniform(*WRITE_SECONDS))
