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
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import libvirt

from actuator.adapters import libvirt_changes as changes
from actuator.adapters.deadline import DeadlineThreads
from actuator.adapters.libvirt_changes import ALIVE, Change, Gate, find, id_of
from actuator.adapters.ssh import LOGIN_SECONDS, Logins, SshAccess
from actuator.adapters.ssh_program import ssh_program
from actuator.adapters.warm import NotConnectedError, Warm
from actuator.model import (
    CallOutcome,
    Capacity,
    Disk,
    DomainState,
    DomainView,
    Done,
    Failed,
    GuestCpu,
    HostView,
    Indeterminate,
    LiveMigration,
)
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
OPEN_SECONDS = LOGIN_SECONDS
REACH_SECONDS = 3.0

SHORT_SECONDS = 5.0
"""For the single calls that a long change is made of."""
POLL_SECONDS = 0.2
END_SECONDS = 20.0
"""For a destroy at the end of a shutdown: libvirt gives QEMU some 10 s after SIGTERM, then kills it."""
ABORT_SECONDS = 20.0
"""A migration that is aborted is back within so long, both sides read, or left behind."""

_SSH_TRANSPORTS = {"ssh", "libssh", "libssh2"}
_DEFAULT_PORTS = {"ssh": 22, "libssh": 22, "libssh2": 22, "tls": 16514, "tcp": 16509, "": 16514}


def strict_uri(uri: str, access: SshAccess) -> str:
    """Complete an SSH URI (`xen+ssh://v01/system`) with our key and known_hosts file; leave others alone.

    It becomes a `+ssh` one, whose program we give it: see `actuator.adapters.ssh_program`.

    Raises:
        ValueError: the URI asks not to verify host keys, or names files that OpenSSH cannot be told.
    """
    parts = urlsplit(uri)
    driver, _, transport = parts.scheme.partition("+")
    if transport not in _SSH_TRANSPORTS:
        return uri
    given = dict(parse_qsl(parts.query))
    if given.pop("known_hosts_verify", "normal") != "normal" or given.pop("no_verify", "0") != "0":
        raise ValueError(f"{uri}: host keys are always verified; remove known_hosts_verify and no_verify")
    key_file = Path(given.pop("keyfile", access.key_file))
    known_hosts_file = Path(given.pop("known_hosts", access.known_hosts_file))
    given = {name: value for name, value in given.items() if name not in {"command", "no_tty", "sshauth"}}
    parameters = {
        "command": str(ssh_program(key_file, known_hosts_file)),
        "no_tty": "1",
        **({} if access.command is None else {"proxy": "native"}),  # what vmheal-host understands
        **given,
    }
    user = quote(parts.username or access.user)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    place = f"{user}@{host}:{parts.port or access.port}"
    return f"{driver}+ssh://{place}{parts.path}?{urlencode(parameters, quote_via=quote, safe='')}"


class LibvirtHypervisor:
    """`actuator.ports.Hypervisor` over libvirt-python."""

    def __init__(self, uris: Mapping[str, str], logins: Mapping[str, Logins] | None = None) -> None:
        """Open connections to all hosts, in the background.

        Args:
            uris: libvirt URI by host name; complete, see `strict_uri`.
            logins: by host name, what is shared with the other connections to it.
        """
        libvirt.registerErrorHandler(lambda *_: None, None)  # errors are exceptions; the default prints them
        turns = logins or {host: Logins() for host in uris}
        self._hosts = {host: _Host(host, uri, turns[host]) for host, uri in uris.items()}
        self._closed = threading.Event()

    def look(self, host: str, domain: str, *, timeout_seconds: float) -> DomainView | None:
        """See `actuator.ports.Hypervisor.look`: three round trips, and on Xen one more for each disk."""
        return self._hosts[host].ask(lambda handle: _look(handle, domain), timeout_seconds)

    def states(self, host: str, *, timeout_seconds: float) -> Mapping[str, DomainState]:
        """See `actuator.ports.Hypervisor.states`: one round trip on QEMU, else one more for each domain."""
        return self._hosts[host].ask(_states, timeout_seconds)

    def destroy(self, host: str, domain: str, domain_id: int, *, timeout_seconds: float) -> CallOutcome:
        """See `actuator.ports.Hypervisor.destroy`."""
        return self._hosts[host].change(
            partial(changes.destroy, name=domain, domain_id=domain_id), timeout_seconds
        )

    def start(self, host: str, domain: str, *, timeout_seconds: float) -> CallOutcome:
        """See `actuator.ports.Hypervisor.start`."""
        return self._hosts[host].change(partial(changes.start, name=domain), timeout_seconds)

    def shut_down(self, host: str, domain: str, domain_id: int, *, timeout_seconds: float) -> CallOutcome:
        """See `actuator.ports.Hypervisor.shut_down`. It holds no connection while it waits."""
        libvirtd = self._hosts[host]
        deadline = time.monotonic() + timeout_seconds
        asked = libvirtd.change(
            partial(changes.ask_to_shut_down, name=domain, domain_id=domain_id), timeout_seconds
        )
        if not isinstance(asked, Indeterminate):
            return asked
        while (remaining := deadline - time.monotonic()) > 0:
            with contextlib.suppress(Unanswered):
                found = libvirtd.ask(partial(changes.active, name=domain), min(SHORT_SECONDS, remaining))
                if found is None:
                    return Done()
                if found.id != domain_id:
                    break
            if self._closed.wait(min(POLL_SECONDS, remaining)):
                return asked
        ended = libvirtd.change(partial(changes.end, name=domain, domain_id=domain_id), END_SECONDS)
        # What it was asked for may still come: never "no effect".
        return Indeterminate(f"{asked.reason}; {ended.reason}") if isinstance(ended, Failed) else ended

    def definition(self, host: str, domain: str, *, timeout_seconds: float) -> str | None:
        """See `actuator.ports.Hypervisor.definition`."""
        return self._hosts[host].ask(partial(_definition, name=domain), timeout_seconds)

    def define(self, host: str, domain: str, xml: str, *, anew: bool, timeout_seconds: float) -> CallOutcome:
        """See `actuator.ports.Hypervisor.define`."""
        change = partial(changes.define, name=domain, xml=xml, anew=anew)
        return self._hosts[host].change(change, timeout_seconds)

    def capacity(self, host: str, *, timeout_seconds: float) -> Capacity:
        """See `actuator.ports.Hypervisor.capacity`."""
        return self._hosts[host].ask(_capacity, timeout_seconds)

    def host_view(self, host: str, *, timeout_seconds: float) -> HostView:
        """See `actuator.ports.Hypervisor.host_view`: two round trips on QEMU and Xen."""
        return self._hosts[host].ask(_host_view, timeout_seconds)

    def cpu_misses(self, host: str, cpu: GuestCpu, *, timeout_seconds: float) -> str:
        """See `actuator.ports.Hypervisor.cpu_misses`: one round trip."""
        return self._hosts[host].ask(partial(_cpu_misses, cpu=cpu), timeout_seconds)

    def migrate(
        self,
        source: str,
        target: str,
        domain: str,
        domain_id: int,
        options: LiveMigration,
        *,
        timeout_seconds: float,
        lost: Callable[[], bool],
    ) -> CallOutcome:
        """See `actuator.ports.Hypervisor.migrate`.

        At the deadline it is aborted, or with ``post_copy`` switched to that and given as long again, since
        then it can only go on. One whose call got no answer is aborted at once: nobody follows it any more.
        """
        here, there = self._hosts[source], self._hosts[target]
        at_target = partial(there.ask, partial(changes.active, name=domain), SHORT_SECONDS)
        try:
            found = at_target()
        except Unanswered as error:
            return Failed(f"{error}; nothing was changed")
        if found is not None:  # an earlier call may still be moving it
            return Indeterminate(f"on {target} it is {found} already: not moved")
        change = partial(
            changes.migrate, name=domain, domain_id=domain_id, options=options, at_target=at_target
        )
        switch, abort = (
            partial(here.ask, partial(remedy, name=domain, domain_id=domain_id), SHORT_SECONDS)
            for remedy in (changes.switch_to_post_copy, changes.abort)
        )
        patience_seconds = timeout_seconds * (2 if options.post_copy else 1) + ABORT_SECONDS
        with _Overdue(timeout_seconds, [switch, abort] if options.post_copy else [abort]) as overdue:
            outcome = here.change_apart(change, patience_seconds, give_up=abort, lost=lost)
        if isinstance(outcome, Failed) and overdue.struck:
            return Failed(f"not done within {timeout_seconds:g} s: {outcome.reason}", outcome.code)
        return outcome

    def close(self) -> None:
        """End all connections."""
        self._closed.set()
        for host in self._hosts.values():
            host.close()


class _Overdue:
    """Does something about a call that is under way for too long, from a thread of its own."""

    def __init__(self, after_seconds: float, remedies: Sequence[Callable[[], None]]) -> None:
        """Tried in order until one does not raise Unanswered, every second again until the call is back."""
        self.struck = False
        self._after_seconds = after_seconds
        self._remedies = remedies
        self._back = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="libvirt deadline", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._back.set()
        self._thread.join(len(self._remedies) * SHORT_SECONDS)

    def _watch(self) -> None:
        pause_seconds = self._after_seconds
        while not self._back.wait(pause_seconds):
            self.struck, pause_seconds = True, 1.0
            for remedy in self._remedies:
                with contextlib.suppress(Unanswered):
                    remedy()
                    return


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

    def __init__(self, host: str, uri: str, logins: Logins) -> None:
        self.name = f"libvirt on {host}"
        self._uri = uri
        self._threads = DeadlineThreads(self.name, MAX_THREADS)
        self._idle: queue.SimpleQueue[Warm[_Connection]] = queue.SimpleQueue()
        self._all: list[Warm[_Connection]] = []
        self._growing = threading.Lock()
        self._logins = logins
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

    def change(self, change: Change, timeout_seconds: float) -> CallOutcome:
        """Change something; only what has not passed its gate is tried again."""

        def attempt(seconds: float) -> CallOutcome:
            gate = Gate()
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

    def change_apart(
        self, change: Change, timeout_seconds: float, give_up: Callable[[], None], lost: Callable[[], bool]
    ) -> CallOutcome:
        """Change something that takes long, on a connection of its own: the others stay free for all else.

        Args:
            change: what is done.
            timeout_seconds: for it, without opening the connection.
            give_up: called when it has begun and got no answer; may raise Unanswered.
            lost: true when no answer is to be waited for.
        """
        gate = Gate()

        def run() -> CallOutcome:
            connection = self._open()
            try:
                return change(connection.handle, gate=gate)
            finally:
                connection.close()

        try:
            return self._threads.run(run, OPEN_SECONDS + timeout_seconds, lost=lost)
        except (libvirt.libvirtError, OSError) as error:
            words = str(error) if isinstance(error, OSError) else f"{self.name}: {error}"
            if not gate.close():
                return Failed(f"{words}; nothing was changed")
            with contextlib.suppress(Unanswered):
                give_up()
            return Indeterminate(words)

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
                    warm.late(connection)
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
        with self._logins.turn():
            if self._closed.is_set():
                raise ConnectionError(f"{self.name}: closed, because this program ends")
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


def _look(handle: Any, name: str) -> DomainView | None:
    domain = find(handle, name)
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
    running = DomainState(state_name(state)) in ALIVE
    return DomainView(
        name=name,
        uuid=domain.UUIDString(),
        state=DomainState(state_name(state)),
        reason=reason_name(state, reason),
        id=id_of(domain),
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


def _definition(handle: Any, name: str) -> str | None:
    domain = find(handle, name)
    if domain is None or not domain.isPersistent():
        return None
    return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


def _capacity(handle: Any) -> Capacity:
    _, memory_mib, cpus, *_ = handle.getInfo()
    if handle.getType() == "Xen":  # dom0's own figures say nothing of what the hypervisor has left
        return Capacity(handle.getFreeMemory(), memory_mib << 20, cpus)
    kib = handle.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
    free_kib = kib["free"] + kib["buffers"] + kib["cached"]
    return Capacity(free_kib * 1024, kib["total"] * 1024, cpus)


def _host_view(handle: Any) -> HostView:
    domains = handle.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART)
    networks: list[Any] = _if_supported(
        partial(handle.listAllNetworks, libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE), []
    )
    return HostView(
        autostarted=frozenset(domain.name() for domain in domains),
        networks=frozenset(network.name() for network in networks),
    )


def _cpu_misses(handle: Any, cpu: GuestCpu) -> str:
    ask = partial(
        handle.compareHypervisorCPU,
        *(None, cpu.arch, None, cpu.kind, cpu.xml),
        libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE,
    )
    try:
        _if_supported(ask, None)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_CPU_INCOMPATIBLE:
            raise
        return str(error)
    return ""


def _if_supported(call: Callable[[], Any], otherwise: T) -> T | Any:
    """What the driver answers, or what holds where it does not know the question."""
    try:
        return call()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in {
            libvirt.VIR_ERR_NO_SUPPORT,
            libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
        }:
            raise
        return otherwise
