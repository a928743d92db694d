"""Connections to libvirt: opened when needed, watched by keepalive, dropped when dead.

No call of libvirt's takes a deadline. A call to a libvirtd that hangs ends when keepalive gives the
connection up (`KEEPALIVE_SECONDS` x `KEEPALIVE_COUNT`), when libvirtd goes on, or when it dies; until then
the thread that made it is the only one that waits (`exporter.scrape` and `exporter.workers` see to that).

A handle is used by one thread at a time. libvirt allows more, but its client library loses the answer of one
thread while another one's call hangs: seen with libvirt 9.0, two threads waited for a reply that libvirtd had
sent long ago, as long as a third one's call for a hung domain did not return.
"""

import functools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import structlog

log = structlog.get_logger()

KEEPALIVE_SECONDS = 5
KEEPALIVE_COUNT = 3
# An autodetected driver that this host does not have is asked for again after this time.
ABSENT_SECONDS = 30.0
MAX_DOMAINS = 4096


@functools.cache
def start_event_loop() -> None:
    """Start libvirt's event loop in a thread of its own; it serves all connections opened afterwards.

    Without it there are neither events nor keepalive. It ends with the process.
    """
    libvirt.registerErrorHandler(lambda *_: None, None)  # errors are exceptions; the default prints them too
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_run_event_loop, name="libvirt-events", daemon=True).start()


def _run_event_loop() -> None:
    pause = threading.Event()
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            log.exception("libvirt's event loop failed")
            pause.wait(1)


def default_uris() -> tuple[str, ...]:
    """Return the URIs of the drivers that this host may have.

    Xen's control domain runs Xen guests and nothing else; every other host may run QEMU and LXC side by side.
    The control domain is the one whose UUID is all zeros (Linux: ABI/stable/sysfs-hypervisor-xen).
    sysfs, not /proc/xen: that is a mount of its own, and a hardened unit's view of /proc lacks it.
    """
    try:
        uuid = Path("/sys/hypervisor/uuid").read_text(encoding="ascii").strip()
    except OSError:
        uuid = ""
    control_domain = uuid == "00000000-0000-0000-0000-000000000000"
    return ("xen:///system",) if control_domain else ("qemu:///system", "lxc:///system")


class Connection:
    """One read-only connection that is opened again whenever it has died."""

    def __init__(self, uri: str, on_open: Callable[[Any], None] | None = None) -> None:
        """Connect nothing yet; `on_open` is called with each new handle, to register for events."""
        self.uri = uri
        self.opened = 0  # how often it was opened: what was cached from an earlier handle is worth nothing
        self._on_open = on_open
        self._handle: Any = None
        self._domains: dict[str, Any] = {}  # by UUID

    def handle(self) -> Any:
        """Return the live `virConnect`.

        Raises:
            libvirt.libvirtError: libvirtd is not there, refuses, or does not serve this URI.
        """
        if self._handle is not None and not self._handle.isAlive():
            log.info("the connection to libvirt died", uri=self.uri)
            self.close()
        if self._handle is None:
            start_event_loop()
            handle = libvirt.openReadOnly(self.uri)
            try:
                handle.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
            except libvirt.libvirtError as error:
                if (
                    error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT
                ):  # drivers inside this process have none
                    raise
            if self._on_open is not None:
                self._on_open(handle)
            self._handle = handle
            self.opened += 1
            log.debug("connected to libvirt", uri=self.uri, times=self.opened)
        return self._handle

    def domain(self, uuid: str) -> Any:
        """Return the domain's handle on this connection.

        Raises:
            libvirt.libvirtError: there is no such domain, or no libvirt.
        """
        handle = self.handle()
        domain = self._domains.get(uuid)
        if domain is None:
            domain = handle.lookupByUUIDString(uuid)
            if len(self._domains) >= MAX_DOMAINS:
                self._domains.clear()
            self._domains[uuid] = domain
        return domain

    def close(self) -> None:
        """Drop the handle; on a live connection this asks libvirtd and may wait for it."""
        handle, self._handle = self._handle, None
        self._domains.clear()
        if handle is not None:
            try:
                handle.close()
            except libvirt.libvirtError as error:
                log.debug("closing a connection to libvirt failed", uri=self.uri, error=str(error))


class OwnConnections:
    """The connections of one thread, one for each URI that it asks."""

    def __init__(self) -> None:
        """Connect nothing yet."""
        self._connections: dict[str, Connection] = {}

    def __getitem__(self, uri: str) -> Connection:
        """Return the connection, which opens when it is used."""
        return self._connections.setdefault(uri, Connection(uri))


class Connections:
    """The connections of one collector: those that were asked for, or those that this host has."""

    def __init__(self, uris: tuple[str, ...], on_open: Callable[[Any], None] | None = None) -> None:
        """Take the URIs to keep connected; none means `default_uris()`, of which at least one must answer."""
        self._all = [Connection(uri, on_open) for uri in uris or default_uris()]
        self._required = bool(uris) or len(self._all) == 1
        self._ask_again_at = {connection.uri: 0.0 for connection in self._all}

    def __iter__(self) -> Iterator[tuple[Connection, Any | libvirt.libvirtError]]:
        """Yield each connection with its live handle, or with the error that says why there is none."""
        absent: list[tuple[Connection, libvirt.libvirtError]] = []
        answered = False
        for connection in self._all:
            optional = not self._required and not connection.opened
            if optional and answered and time.monotonic() < self._ask_again_at[connection.uri]:
                continue
            try:
                handle = connection.handle()
            except libvirt.libvirtError as error:
                if optional:
                    self._ask_again_at[connection.uri] = time.monotonic() + ABSENT_SECONDS
                    absent.append((connection, error))
                else:
                    yield connection, error
                continue
            answered = True
            yield connection, handle
        if not answered:
            yield from absent

    def close(self) -> None:
        """Drop all connections."""
        for connection in self._all:
            connection.close()
