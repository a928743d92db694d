"""libvirt on every host, behind `actuator.ports.Hypervisor`.

libvirt's calls know no deadline, so each runs in a thread that is left behind when it does not come back, and
the connection with it: a connection on which a call timed out is never used again.

**One call at a time on a connection.** libvirt's client up to 10.2 (Debian bookworm has 9.0) crashes the
whole process when threads share one (CVE-2024-4418; seen within some thousand calls). So every host has
several connections, each lent to one call, and there is no event loop, whose keepalive would be a second
user: instead, every idle connection is asked for its version every `PING_SECONDS`, through to libvirtd.
"""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import libvirt

from actuator.adapters.deadline import DeadlineThreads
from actuator.adapters.ssh import SshAccess
from actuator.adapters.warm import NotConnectedError, Warm
from actuator.model import CallOutcome, Disk, DomainState, DomainView, Done, Failed, Indeterminate
from actuator.ports import Unanswered
from exporter.libvirt_domain import parse_definition, reason_name, state_name

T = TypeVar("T")

WARM_CONNECTIONS = 2
"""Opened ahead, for each host."""
MAX_CONNECTIONS = 8
"""For each host; those beyond the warm ones are opened when so many calls run at the same time, and closed
again one by one when they rest. None is opened while another one does not come about: a login costs a busy
host more than anything that is asked afterwards."""
GROW_SECONDS = 0.05
"""How often a call that waits for a connection asks whether another one may be opened."""
MAX_THREADS = 24
"""For each host: calls that run, or that have not come back."""
PING_SECONDS = 5.0
OPEN_SECONDS = 15.0
REACH_SECONDS = 3.0

_SSH_TRANSPORTS = {"ssh", "libssh", "libssh2"}
_DEFAULT_PORTS = {"ssh": 22, "libssh": 22, "libssh2": 22, "tls": 16514, "tcp": 16509, "": 16514}
_ALIVE = {DomainState.RUNNING, DomainState.BLOCKED, DomainState.PAUSED}


def strict_uri(uri: str, access: SshAccess) -> str:
    """Complete an SSH URI (`xen+ssh://v01/system`) with our key and known_hosts file; leave others alone.

    It becomes a `+libssh` one: with `+ssh`, libvirt runs the `ssh` program and has no parameter for its
    known_hosts file; libssh checks the host's key against ours, knows ed25519 keys, and needs no fork.

    Raises:
        ValueError: the URI asks not to verify host keys.
    """
    parts = urlsplit(uri)
    driver, _, transport = parts.scheme.partition("+")
    if transport not in _SSH_TRANSPORTS:
        return uri
    given = dict(parse_qsl(parts.query))
    if given.get("known_hosts_verify", "normal") != "normal" or given.get("no_verify", "0") != "0":
        raise ValueError(f"{uri}: host keys are always verified; remove known_hosts_verify and no_verify")
    parameters = {
        "keyfile": str(access.key_file),
        "known_hosts": str(access.known_hosts_file),
        "known_hosts_verify": "normal",
        "sshauth": "privkey",
        "no_tty": "1",
        **given,
    }
    user = quote(parts.username or access.user)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    place = f"{user}@{host}:{parts.port or access.port}"
    return f"{driver}+libssh://{place}{parts.path}?{urlencode(parameters, quote_via=quote, safe='')}"


class LibvirtHypervisor:
    """`actuator.ports.Hypervisor` over libvirt-python."""

    def __init__(self, uris: Mapping[str, str], logins: Mapping[str, threading.Lock] | None = None) -> None:
        """Open connections to all hosts, in the background.

        Args:
            uris: libvirt URI by host name; complete, see `strict_uri`.
            logins: by host name, what is held while a connection is opened, see `SshAccess.login`.
        """
        libvirt.registerErrorHandler(lambda *_: None, None)  # errors are exceptions; the default prints them
        locks = logins or {host: threading.Lock() for host in uris}
        self._hosts = {host: _Host(host, uri, locks[host]) for host, uri in uris.items()}

    def look(self, host: str, domain: str, *, timeout_seconds: float) -> DomainView | None:
        """See `actuator.ports.Hypervisor.look`: three round trips, and on Xen one more for each disk."""
        return self._hosts[host].ask(lambda handle: _look(handle, domain), timeout_seconds)

    def states(self, host: str, *, timeout_seconds: float) -> Mapping[str, DomainState]:
        """See `actuator.ports.Hypervisor.states`: one round trip on QEMU, else one more for each domain."""
        return self._hosts[host].ask(_states, timeout_seconds)

    def destroy(self, host: str, domain: str, domain_id: int, *, timeout_seconds: float) -> CallOutcome:
        """See `actuator.ports.Hypervisor.destroy`."""
        return self._hosts[host].change(partial(_destroy, name=domain, domain_id=domain_id), timeout_seconds)

    def start(self, host: str, domain: str, *, timeout_seconds: float) -> CallOutcome:
        """See `actuator.ports.Hypervisor.start`."""
        return self._hosts[host].change(partial(_start, name=domain), timeout_seconds)

    def close(self) -> None:
        """End all connections."""
        for host in self._hosts.values():
            host.close()


class _Gate:
    """Lets a change begin, or forbids it for good: none begins after its caller was told that it did not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._passed = False

    def enter(self) -> None:
        """Go on to the change.

        Raises:
            TimeoutError: the caller is gone.
        """
        with self._lock:
            if self._closed:
                raise TimeoutError("too late to begin")
            self._passed = True

    def close(self) -> bool:
        """Let nobody in any more; True when somebody went in before."""
        with self._lock:
            self._closed = True
            return self._passed


class _Change(Protocol):
    def __call__(self, handle: Any, *, gate: _Gate) -> CallOutcome: ...


class _Connection:
    """One libvirt connection, for one call at a time."""

    def __init__(self, uri: str) -> None:
        """Connect; raises ConnectionError."""
        try:
            self.handle = libvirt.open(uri)
        except libvirt.libvirtError as error:
            raise ConnectionError(str(error)) from error

    def alive(self) -> bool:
        """What libvirt knows without asking: a connection breaks when it is used."""
        return bool(self.handle.isAlive())

    def close(self) -> None:
        # It says goodbye to libvirtd and waits for the answer: not here.
        threading.Thread(target=self._close, name="libvirt goodbye", daemon=True).start()

    def _close(self) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            self.handle.close()


class _Host:
    """The connections to one host, and the threads that use them."""

    def __init__(self, host: str, uri: str, login: threading.Lock) -> None:
        self.name = f"libvirt on {host}"
        self._uri = uri
        self._threads = DeadlineThreads(self.name, MAX_THREADS)
        self._idle: queue.SimpleQueue[Warm[_Connection]] = queue.SimpleQueue()
        self._all: list[Warm[_Connection]] = []
        self._growing = threading.Lock()
        self._login = login
        self._closed = threading.Event()
        for _ in range(WARM_CONNECTIONS):
            self._grow()
        threading.Thread(target=self._ping_all, name=f"pings {self.name}", daemon=True).start()

    def ask(self, question: Callable[[Any], T], timeout_seconds: float) -> T:
        """Ask something that changes nothing.

        Raises:
            Unanswered: no answer in time, or an error.
        """
        try:
            return self._repeat(lambda seconds: self._call(question, seconds), timeout_seconds)
        except libvirt.libvirtError as error:
            raise Unanswered(f"{self.name}: {error}") from error
        except OSError as error:
            raise Unanswered(str(error)) from error

    def change(self, change: "_Change", timeout_seconds: float) -> CallOutcome:
        """Change something; only what has not passed its gate is tried again."""

        def attempt(seconds: float) -> CallOutcome:
            gate = _Gate()
            try:
                return self._call(partial(change, gate=gate), seconds)
            except libvirt.libvirtError as error:
                if gate.close():
                    return Indeterminate(f"{self.name}: {error}")
                return Failed(f"{self.name}: {error}", error.get_error_code())
            except OSError as error:
                if gate.close():
                    return Indeterminate(str(error))
                raise

        try:
            return self._repeat(attempt, timeout_seconds)
        except OSError as error:
            return Failed(f"{error}; nothing was changed")

    @staticmethod
    def _repeat(attempt: Callable[[float], T], timeout_seconds: float) -> T:
        """Try again on another connection when one turns out to be broken.

        After a restart of libvirtd all of them are, and nobody has noticed yet.
        """
        deadline = time.monotonic() + timeout_seconds
        broken = ConnectionError()
        for _ in range(MAX_CONNECTIONS + 1):
            try:
                return attempt(deadline - time.monotonic())
            except NotConnectedError:
                raise
            except ConnectionError as error:
                broken = error
        raise broken

    def close(self) -> None:
        self._closed.set()
        for warm in tuple(self._all):
            warm.stop()

    def _call(self, call: Callable[[Any], T], timeout_seconds: float) -> T:
        """Lend a connection to a call that runs in a thread.

        Raises:
            NotConnectedError: there is no connection.
            ConnectionError: it broke meanwhile.
            TimeoutError: the call is not back in time.
            libvirt.libvirtError: what libvirt answered.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._lent(timeout_seconds) as warm:
            used: list[_Connection] = []

            def run() -> T:
                with warm.use(deadline - time.monotonic()) as connection:
                    used.append(connection)
                    if time.monotonic() >= deadline:
                        raise TimeoutError(f"{self.name}: no connection in time")
                    try:
                        return call(connection.handle)
                    except libvirt.libvirtError as error:
                        if connection.alive():
                            raise
                        raise ConnectionError(f"{self.name}: {error}") from error

            try:
                return self._threads.run(run, deadline - time.monotonic())
            except TimeoutError:
                for connection in used:
                    warm.retire(connection)
                raise

    @contextlib.contextmanager
    def _lent(self, timeout_seconds: float) -> Iterator[Warm[_Connection]]:
        warm = self._take(time.monotonic() + timeout_seconds)
        try:
            yield warm
        finally:
            self._idle.put(warm)

    def _take(self, deadline: float) -> Warm[_Connection]:
        while True:
            if self._idle.empty() and self._all_connected():
                self._grow()
            remaining = deadline - time.monotonic()
            try:
                return self._idle.get(timeout=max(0.0, min(remaining, GROW_SECONDS)))
            except queue.Empty:
                if remaining <= 0:
                    raise NotConnectedError(f"{self.name}: all connections are busy") from None

    def _all_connected(self) -> bool:
        return all(warm.connected for warm in tuple(self._all))

    def _grow(self) -> None:
        with self._growing:
            if len(self._all) < MAX_CONNECTIONS and not self._closed.is_set():
                warm = Warm(self.name, self._open)
                self._all.append(warm)
                self._idle.put(warm)

    def _shrink(self) -> None:
        """Close one of the connections that only a busy time needed, when one rests."""
        with self._growing:
            if len(self._all) <= WARM_CONNECTIONS or not self._all_connected():
                return
            try:
                warm = self._idle.get_nowait()
            except queue.Empty:
                return
            self._all.remove(warm)
        warm.stop()

    def _open(self) -> _Connection:
        """Connect, within `OPEN_SECONDS`, one after the other; a host that is off costs `REACH_SECONDS`."""
        parts = urlsplit(self._uri)
        with self._login:
            if parts.hostname:
                port = parts.port or _DEFAULT_PORTS[parts.scheme.partition("+")[2]]
                socket.create_connection((parts.hostname, port), REACH_SECONDS).close()
            return self._threads.run(lambda: _Connection(self._uri), OPEN_SECONDS)

    def _ping_all(self) -> None:
        """Use each idle connection now and then, so that a broken one is replaced before it is needed."""
        while not self._closed.wait(PING_SECONDS):
            self._shrink()
            for _ in range(self._idle.qsize()):
                with contextlib.suppress(OSError, libvirt.libvirtError):
                    self._call(lambda handle: handle.getLibVersion(), PING_SECONDS)


def _find(handle: Any, name: str) -> Any | None:
    try:
        return handle.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _id(domain: Any) -> int | None:
    """The id at the moment of the lookup."""
    number = domain.ID()
    return number if number >= 0 else None


def _look(handle: Any, name: str) -> DomainView | None:
    domain = _find(handle, name)
    if domain is None:
        return None
    try:
        state, reason = domain.state()
        xml = domain.XMLDesc()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:  # undefined since
            return None
        raise
    definition = parse_definition(xml)
    running = DomainState(state_name(state)) in _ALIVE
    return DomainView(
        name=name,
        uuid=domain.UUIDString(),
        state=DomainState(state_name(state)),
        reason=reason_name(state, reason),
        id=_id(domain),
        disks=tuple(
            Disk(
                disk.target,
                disk.source,
                disk.writable,
                _attached(domain, definition.kind, disk.target) if running else None,
            )
            for disk in definition.disks
            if disk.source
        ),
    )


def _attached(domain: Any, kind: str, target: str) -> bool | None:
    """Say whether a running domain really has the disk.

    QEMU and LXC do not start without one, and what is unplugged leaves the XML: no question, as theirs would
    enter a monitor that may hang. Xen starts without; its statistics are read from the back end in the kernel
    (libxl_driver.c), which has none for a device that could not be opened.
    """
    if kind != "xen":
        return True
    try:
        domain.blockStats(target)
    except libvirt.libvirtError as error:
        if not domain.connect().isAlive():
            raise
        unsupported = {libvirt.VIR_ERR_OPERATION_UNSUPPORTED, libvirt.VIR_ERR_NO_SUPPORT}
        return None if error.get_error_code() in unsupported else False
    return True


def _states(handle: Any) -> dict[str, DomainState]:
    try:
        answers = handle.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:  # libxl and LXC have no bulk statistics
            raise
    else:
        return {
            domain.name(): DomainState(state_name(stats["state.state"]))
            for domain, stats in answers
            if "state.state" in stats
        }
    states = {}
    for domain in handle.listAllDomains():
        try:
            states[domain.name()] = DomainState(state_name(domain.state()[0]))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:  # undefined since the list was made
                raise
    return states


def _destroy(handle: Any, *, name: str, domain_id: int, gate: _Gate) -> CallOutcome:
    domain = _find(handle, name)
    if domain is None or _id(domain) is None:
        return Done("it was gone already")
    if _id(domain) != domain_id:
        return Failed(f"its id is {_id(domain)} now, not {domain_id}: it was started again meanwhile")
    state = DomainState(state_name(domain.state()[0]))
    if state in _ALIVE:
        return Failed(f"its state is {state}: not destroyed")
    gate.enter()
    refusal = ""
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        if not handle.isAlive():
            raise
        refusal = str(error)
    after = _find(handle, name)
    if after is None or _id(after) != domain_id:
        return Done()
    # It may still end: a process in the kernel's hands takes its signal later.
    return Indeterminate(f"after the call it is still there. {refusal}".rstrip())


def _start(handle: Any, *, name: str, gate: _Gate) -> CallOutcome:
    domain = _find(handle, name)
    if domain is None:
        return Failed("no such domain is defined on this host", libvirt.VIR_ERR_NO_DOMAIN)
    if _id(domain) is not None:
        return Failed(f"it is active already, with id {_id(domain)}", libvirt.VIR_ERR_OPERATION_INVALID)
    gate.enter()
    try:
        domain.create()
    except libvirt.libvirtError as error:
        after = _find(handle, name)
        if after is not None and _id(after) is not None:
            return Indeterminate(f"{error}; but it is active, with id {_id(after)}")
        return Failed(str(error), error.get_error_code())
    return Done()
