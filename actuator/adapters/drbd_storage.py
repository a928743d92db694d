"""DRBD on every host, behind `actuator.ports.Storage`: drbdadm and drbdsetup over warm SSH connections.

Both DRBD 8.4 and 9. What the programs say and with which exit status: tests/samples. The exit status tells
refusals not apart (11 stands for five of them), the number in brackets does. Whether a change had its effect
is judged by reading the role afterwards, never by the exit status alone.

A program on a host costs a few milliseconds, and 100 on an emulated one, when a VM is down and waits. On 8.4
/proc/drbd holds every state of every minor and is read over SFTP without a program: as long as it reads the
same as around the last `drbdsetup events2`, and that agreed with it, what that said still holds. On 9 it says
nothing.
"""

import math
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog
from pydantic import FiniteFloat, TypeAdapter, ValidationError

from actuator.adapters.host_command import Completed, RefusedError
from actuator.adapters.ssh import SshAccess, SshHost
from actuator.adapters.warm import NotConnectedError
from actuator.model import (
    Allowed,
    CallOutcome,
    Done,
    Failed,
    HandlerReport,
    HostSetup,
    Indeterminate,
    Parting,
    ResourceSetup,
    Unknown,
)
from actuator.ports import Unanswered
from exporter.drbd import (
    Connection,
    ConnectionState,
    DiskState,
    DrbdOutputError,
    MalformedLine,
    Problem,
    Resource,
    Role,
    Snapshot,
    UnknownWord,
    parse_events2,
)
from exporter.drbd_configuration import (
    ConfiguredResource,
    ConnectionConfiguration,
    Fencing,
    Generations,
    Protocol,
    ResourceConfiguration,
    parse_dump_xml,
    parse_get_gi,
    parse_show9,
    parse_show84,
)
from exporter.drbd_proc import Proc, agrees, overlay, parse_proc, proves

log = structlog.get_logger(__name__)

READ_AHEAD_SECONDS = 20.0
"""How often the programs are run that a look needs now and then, so that the look of a failure needs none."""
REREAD_SECONDS = 60.0
"""How old may be, on 8.4, what /proc/drbd does not show (congestion, resources without a minor)."""
NAMES_SECONDS = 600.0
"""How old may be what DRBD's configuration said of the peers' names, when it cannot be read any more."""
NAMELESS_PEER = "peer"
"""What DRBD 8.4 calls every peer."""
USAGE_ERROR_STATUS = 20
HANDLER = "vmheal-fence-peer"

_REFUSAL = re.compile(r"(?:State change failed|Failure): \((?P<number>-?[0-9]{1,9})\) ")
_WITH_DISK = {DiskState.INCONSISTENT, DiskState.OUTDATED, DiskState.CONSISTENT, DiskState.UP_TO_DATE}
"""All others, and what is not understood, count as not attached."""
_STILL_RUNNING = "did not terminate within"
"""drbdadm gave up waiting for the drbdsetup that it started; that one goes on."""
_STOPS = {"suspend-io", "io-error"}
"""What ``on-no-quorum`` may be."""
_RESOURCE_NAME = re.compile(r"(?!all$)[A-Za-z0-9_.][A-Za-z0-9_.+-]*")
"""Not an option, and not the word with which drbdadm means every resource."""


class DrbdStorage:
    """`actuator.ports.Storage` over SSH."""

    def __init__(self, hosts: Mapping[str, SshAccess], *, prefix: Sequence[str] = ()) -> None:
        """Open connections to all hosts, in the background.

        Args:
            hosts: by host name, as in DRBD's configuration.
            prefix: put before each command, such as `sudo -n` for a user that is not root.
        """
        self._hosts = {host: _Host(host, access, tuple(prefix)) for host, access in hosts.items()}

    def status(self, host: str, *, timeout_seconds: float) -> Snapshot:
        """See `actuator.ports.Storage.status`: one program on the host."""
        return self._hosts[host].status(timeout_seconds)

    def armed(self, host: str, *, timeout_seconds: float) -> Mapping[str, Parting]:
        """See `actuator.ports.Storage.armed`: one program on the host."""
        return self._hosts[host].armed(timeout_seconds)

    def setup(self, host: str, *, timeout_seconds: float) -> HostSetup:
        """See `actuator.ports.Storage.setup`: two programs on the host."""
        return self._hosts[host].setup(timeout_seconds)

    def generations(self, host: str, resource: str, *, timeout_seconds: float) -> tuple[Generations, ...]:
        """See `actuator.ports.Storage.generations`: one program on the host."""
        return self._hosts[host].generations(resource, timeout_seconds)

    def promote(self, host: str, resource: str, *, timeout_seconds: float) -> CallOutcome:
        """See `actuator.ports.Storage.promote`."""
        return self._hosts[host].change_role("primary", Role.PRIMARY, resource, timeout_seconds)

    def demote(self, host: str, resource: str, *, timeout_seconds: float) -> CallOutcome:
        """See `actuator.ports.Storage.demote`."""
        return self._hosts[host].change_role("secondary", Role.SECONDARY, resource, timeout_seconds)

    def allow_two_primaries(
        self, host: str, resource: str, *, allowed: bool, timeout_seconds: float
    ) -> CallOutcome:
        """See `actuator.ports.Storage.allow_two_primaries`."""
        return self._hosts[host].allow_two_primaries(
            resource, allowed=allowed, timeout_seconds=timeout_seconds
        )

    def connect(self, host: str, resource: str, *, timeout_seconds: float) -> CallOutcome:
        """See `actuator.ports.Storage.connect`."""
        return self._hosts[host].connect(resource, timeout_seconds)

    def disconnect(self, host: str, resource: str, *, timeout_seconds: float) -> CallOutcome:
        """See `actuator.ports.Storage.disconnect`."""
        return self._hosts[host].disconnect(resource, timeout_seconds)

    def read_ahead(self) -> None:
        """From now on read in the background what changes rarely, until `close`."""
        for host in self._hosts.values():
            threading.Thread(target=host.read_ahead, name=f"reads ahead {host.name}", daemon=True).start()

    def close(self) -> None:
        """End all connections."""
        for host in self._hosts.values():
            host.close()


@dataclass(frozen=True)
class _Events2:
    """The last answer of events2, and /proc/drbd, which had its states just before and after it."""

    proc: Proc
    snapshot: Snapshot
    at: float


class _Host:
    def __init__(self, host: str, access: SshAccess, prefix: tuple[str, ...]) -> None:
        self.name = host
        self._prefix = prefix
        self._ssh = SshHost(host, access)
        self._last: _Events2 | None = None
        self._names: Mapping[str, ConfiguredResource] = {}
        self._names_at = -math.inf
        self._has_json = True
        """DRBD 9; found out when it is first asked."""
        self._closed = threading.Event()

    def read_ahead(self) -> None:
        said = ""
        while not self._closed.is_set():
            deadline = time.monotonic() + READ_AHEAD_SECONDS
            try:
                self._read_names(deadline)
                proc = self._read_proc(deadline)
                if proc and proc.minors:
                    self._read_anew(proc, deadline)
                said = ""
            except Unanswered as error:
                if not said:
                    log.warning("DRBD not read ahead", host=self.name, error=str(error))
                said = str(error)
            self._closed.wait(READ_AHEAD_SECONDS)

    def close(self) -> None:
        self._closed.set()
        self._ssh.close()

    def status(self, timeout_seconds: float) -> Snapshot:
        deadline = time.monotonic() + timeout_seconds
        snapshot = self._snapshot(timeout_seconds)
        if not any(_has_nameless_peer(resource) for resource in snapshot.resources):
            return snapshot
        if time.monotonic() - self._names_at >= NAMES_SECONDS:
            self._read_names(deadline)
        return _with_names(snapshot, self._names, self.name)

    def armed(self, timeout_seconds: float) -> Mapping[str, Parting]:
        found = self._show(timeout_seconds)
        # Without its disk or its connection the kernel does not say (8.4): then nothing is known.
        return {it.name: _parting(it) for it in found if it.fencing is not None and it.connections}

    def setup(self, timeout_seconds: float) -> HostSetup:
        deadline = time.monotonic() + timeout_seconds
        shown = self._show(timeout_seconds)
        if time.monotonic() - self._names_at >= NAMES_SECONDS:
            self._read_names(deadline)
        commands = {name: it.handlers.get("fence-peer", "") for name, it in self._names.items()}
        # As for armed: what the kernel does not say is not known.
        resources = {
            it.name: ResourceSetup(
                notices_seconds=max(connection.notices_seconds for connection in it.connections),
                auto_promote=it.auto_promote is True,
                handler=commands.get(it.name, ""),
            )
            for it in shown
            if it.connections
        }
        return HostSetup(resources, self._check_handler(deadline), self._allowed(deadline))

    def _allowed(self, deadline: float) -> Allowed:
        """What is not known is found out when it is wanted: then vmheal-host refuses, and nothing is run."""
        try:
            return self._ssh.allowed(max(0.0, deadline - time.monotonic()))
        except OSError:
            return Allowed()

    def _check_handler(self, deadline: float) -> HandlerReport | Unknown:
        """Have DRBD's handler say whether it would work, and the time, which lies in that of the call."""
        asked_at = time.time()
        try:
            result = self._run([HANDLER, "check", "--json"], deadline - time.monotonic())
        except OSError as error:
            return Unknown(str(error))
        answered_at = time.time()
        try:
            said = _Report.validate_json(result.stdout)
        except ValidationError:
            return Unknown(f"{HANDLER} check on {self.name}: {_said(result)}")
        return HandlerReport(
            problems=said.problems,
            host=said.host,
            isolation_seconds=said.isolation_seconds,
            links=said.links,
            cpu=said.cpu,
            ahead_seconds=said.time - min(max(said.time, asked_at), answered_at),
        )

    def generations(self, resource: str, timeout_seconds: float) -> tuple[Generations, ...]:
        if not _RESOURCE_NAME.fullmatch(resource):
            raise Unanswered(f"{resource!r} is not the name of a resource; nothing was run")
        try:
            result = self._run(["drbdadm", "get-gi", resource], timeout_seconds)
        except OSError as error:
            raise Unanswered(str(error)) from error
        if result.exit_status != 0:
            raise Unanswered(f"drbdadm get-gi {resource} on {self.name}: {_said(result)}")
        try:
            return parse_get_gi(result.stdout)
        except DrbdOutputError as error:
            raise Unanswered(f"{resource} on {self.name}: {error}") from error

    def allow_two_primaries(self, resource: str, *, allowed: bool, timeout_seconds: float) -> CallOutcome:
        if misnamed := _misnamed(resource):
            return misnamed
        deadline = time.monotonic() + timeout_seconds
        option = f"--allow-two-primaries={'yes' if allowed else 'no'}"
        what = f"drbdadm net-options {option} {resource} on {self.name}"
        result = self._change(what, ["drbdadm", "net-options", option, resource], timeout_seconds)
        if not isinstance(result, Completed):
            return result
        try:
            found = next((it for it in self._show(deadline - time.monotonic()) if it.name == resource), None)
        except Unanswered as error:
            return Indeterminate(f"{what}: {_said(result)}; what holds after it is unknown: {error}")
        return _window(what, result, allowed, found.connections if found else ())

    def connect(self, resource: str, timeout_seconds: float) -> CallOutcome:
        deadline = time.monotonic() + timeout_seconds
        seen = self._named_resource(resource, deadline)
        if isinstance(seen, Failed):
            return seen
        if not _has_its_disks(seen):
            return Failed(f"{resource} on {self.name} has no disk attached: it is not connected (rule R4)")
        given_up = [it for it in seen.connections if it.connection_state is ConnectionState.STAND_ALONE]
        return self._to_each("connect", resource, given_up, deadline)

    def disconnect(self, resource: str, timeout_seconds: float) -> CallOutcome:
        deadline = time.monotonic() + timeout_seconds
        seen = self._named_resource(resource, deadline)
        if isinstance(seen, Failed):
            return seen
        states = {it.connection_state for it in seen.connections}
        if not isinstance(seen.role, Role) or _has_its_disks(seen) or ConnectionState.CONNECTED in states:
            return Failed(
                f"{resource} on {self.name} has not lost both its disk and its peer: it is not disconnected"
            )
        looking = [it for it in seen.connections if it.connection_state is not ConnectionState.STAND_ALONE]
        return self._to_each("disconnect", resource, looking, deadline)

    def _named_resource(self, name: str, deadline: float) -> Resource | Failed:
        """The resource as it is now, or why nothing can be done to it."""
        if misnamed := _misnamed(name):
            return misnamed
        try:
            seen = self._snapshot(deadline - time.monotonic()).resource(name)
        except Unanswered as error:
            return Failed(f"{error}; nothing was run")
        return seen or Failed(f"{name} is not up on {self.name}; nothing was run")

    def _to_each(
        self, verb: str, resource: str, connections: Sequence[Connection], deadline: float
    ) -> CallOutcome:
        """Run ``drbdadm VERB`` for each of the resource's connections, until one fails."""
        for connection in connections:
            nameless = connection.name == NAMELESS_PEER  # 8.4 has one peer, and no name for it
            target = resource if nameless else f"{resource}:{connection.name}"
            what = f"drbdadm {verb} {target} on {self.name}"
            result = self._change(what, ["drbdadm", verb, target], deadline - time.monotonic())
            if not isinstance(result, Completed):
                return result
            if result.exit_status:
                return _refused(result)
        return Done()

    def _change(self, what: str, argv: Sequence[str], timeout_seconds: float) -> Completed | CallOutcome:
        """Run a program that changes something; its result, or the outcome when it has none."""
        try:
            result = self._run(argv, timeout_seconds)
        except (NotConnectedError, RefusedError) as error:
            return Failed(f"{error}; nothing was run")
        except OSError as error:
            return Indeterminate(str(error))
        if result.exit_status is None or _STILL_RUNNING in result.stderr:
            return Indeterminate(f"{what} did not end by itself: {_said(result)}")
        return result

    def _show(self, timeout_seconds: float) -> tuple[ResourceConfiguration, ...]:
        """Read DRBD's configuration in the kernel.

        Raises:
            Unanswered: it cannot be read.
        """
        deadline = time.monotonic() + timeout_seconds
        show = ["drbdsetup", "show"]
        try:
            result = self._run([*show, "--json"] if self._has_json else show, timeout_seconds)
            if self._has_json and result.exit_status == USAGE_ERROR_STATUS:
                self._has_json = False
                result = self._run(show, deadline - time.monotonic())
        except OSError as error:
            raise Unanswered(str(error)) from error
        if result.exit_status != 0:
            raise Unanswered(f"drbdsetup show on {self.name}: {_said(result)}")
        try:
            return (parse_show9 if self._has_json else parse_show84)(result.stdout)
        except DrbdOutputError as error:
            raise Unanswered(f"{self.name}: {error}") from error

    def change_role(self, verb: str, role: Role, resource: str, timeout_seconds: float) -> CallOutcome:
        if misnamed := _misnamed(resource):
            return misnamed
        deadline = time.monotonic() + timeout_seconds
        what = f"drbdadm {verb} {resource} on {self.name}"
        result = self._change(what, ["drbdadm", verb, resource], timeout_seconds)
        if not isinstance(result, Completed):
            return result
        try:
            seen = self._snapshot(deadline - time.monotonic())
        except Unanswered as error:
            return Indeterminate(f"{what}: {_said(result)}; the role after it is unknown: {error}")
        return _outcome(what, result, role, seen.resource(resource))

    def _snapshot(self, timeout_seconds: float) -> Snapshot:
        now = time.monotonic()
        deadline = now + timeout_seconds
        before, last = self._read_proc(deadline), self._last
        if before and last and now - last.at < REREAD_SECONDS and proves(before, last.proc):
            return overlay(last.snapshot, before)
        return self._read_anew(before, deadline)

    def _read_anew(self, before: Proc | None, deadline: float) -> Snapshot:
        now = time.monotonic()
        snapshot = self._read_events2(deadline)
        after = self._read_proc(deadline) if before and before.minors else None
        held = before and after and proves(after, before) and agrees(snapshot, after)
        self._last = _Events2(after, snapshot, now) if held and after else None
        return snapshot

    def _read_proc(self, deadline: float) -> Proc | None:
        """Read /proc/drbd; None when it cannot be had or says nothing, so that events2 must be asked.

        Raises:
            Unanswered: the host does not answer.
        """
        try:
            return parse_proc(self._ssh.read("/proc/drbd", deadline - time.monotonic()))
        except (TimeoutError, ConnectionError) as error:
            raise Unanswered(str(error)) from error
        except (OSError, DrbdOutputError):
            return None

    def _read_events2(self, deadline: float) -> Snapshot:
        argv = ["drbdsetup", "events2", "--now", "--statistics"]
        try:
            result = self._run(argv, deadline - time.monotonic())
        except OSError as error:
            raise Unanswered(str(error)) from error
        if result.exit_status != 0:
            raise Unanswered(f"drbdsetup events2 on {self.name}: {_said(result)}")
        try:
            return parse_events2(result.stdout)
        except DrbdOutputError as error:
            raise Unanswered(f"{self.name}: {error}") from error

    def _run(self, argv: Sequence[str], timeout_seconds: float) -> Completed:
        return self._ssh.run([*self._prefix, *argv], timeout_seconds)

    def _read_names(self, deadline: float) -> None:
        """Read DRBD's configuration, for the host names of peers.

        Raises:
            Unanswered: it cannot be read.
        """
        now = time.monotonic()
        try:
            result = self._run(["drbdadm", "dump-xml"], deadline - time.monotonic())
        except OSError as error:
            raise Unanswered(str(error)) from error
        if result.exit_status != 0:
            raise Unanswered(f"drbdadm dump-xml on {self.name}: {_said(result)}")
        try:
            self._names = parse_dump_xml(result.stdout)
        except DrbdOutputError as error:
            raise Unanswered(f"{self.name}: {error}") from error
        self._names_at = now


@dataclass(frozen=True)
class _Said:
    """What `vmheal-fence-peer check --json` prints, see exporter.fence_check."""

    time: FiniteFloat
    host: str
    isolation_seconds: FiniteFloat | None
    links: dict[str, bool]
    cpu: str
    problems: tuple[str, ...]


_Report = TypeAdapter(_Said)


def _outcome(what: str, result: Completed, wanted: Role, resource: Resource | None) -> CallOutcome:
    """Judge a change of role by the role that was read after it."""
    role = "not up" if resource is None else str(resource.role)
    if result.exit_status == 0:
        return Done() if role == wanted else Indeterminate(f"{what} ended without an error, but it is {role}")
    if role == wanted or (resource and isinstance(resource.role, UnknownWord)):
        # On 8.4 perhaps only some of its volumes; or another hand was faster.
        return Indeterminate(f"{what}: {_said(result)}; but it is {role} after that")
    return _refused(result)


def _window(
    what: str, result: Completed, allowed: bool, connections: Sequence[ConnectionConfiguration]
) -> CallOutcome:
    """Judge whether two may be Primary by what the connections' options were after it."""
    # Without a connection the kernel has no options for it, and nothing is allowed.
    if all(it.allow_two_primaries is allowed for it in connections) and (connections or not allowed):
        return Done()
    if not result.exit_status:
        return Indeterminate(f"{what}: has had no effect")
    if allowed and any(it.allow_two_primaries for it in connections):
        return Indeterminate(f"{what}: {_said(result)}; but some of its connections allow it after that")
    return _refused(result)


def _misnamed(name: str) -> Failed | None:
    if _RESOURCE_NAME.fullmatch(name):
        return None
    return Failed(f"{name!r} is not the name of a resource; nothing was run")


def _has_its_disks(it: Resource) -> bool:
    states = {device.disk_state for device in it.devices}
    return bool(states) and states <= _WITH_DISK


def _refused(result: Completed) -> Failed:
    refusal = _REFUSAL.search(result.stderr)
    return Failed(_said(result), int(refusal["number"]) if refusal else None)


def _parting(it: ResourceConfiguration) -> Parting:
    if any(connection.protocol is not Protocol.C for connection in it.connections):
        return Parting.LOSES
    if len(it.connections) > 1 and it.quorum == "majority" and it.on_no_quorum in _STOPS:
        everyone_counts = all(connection.allow_remote_read for connection in it.connections)
        return Parting.VOTES if everyone_counts else Parting.GOES_ON
    return Parting.ASKS if it.fencing is Fencing.RESOURCE_AND_STONITH else Parting.GOES_ON


def _said(result: Completed) -> str:
    """What a program said that failed, on one line."""
    if result.exit_status == USAGE_ERROR_STATUS:
        first = result.stderr.strip().partition("\n")[0]
        return f"usage error (exit status 20): {first[:500]}"
    words = " ".join((result.stderr.strip() or result.stdout.strip()).split())
    ended = "ended by a signal" if result.exit_status is None else f"exit status {result.exit_status}"
    return f"{words[:500]} ({ended})".lstrip()


def _with_names(snapshot: Snapshot, names: Mapping[str, ConfiguredResource], host: str) -> Snapshot:
    """Put the peers' host names where 8.4 says `peer`; one that cannot be told is a problem."""
    problems: list[Problem] = list(snapshot.problems)
    resources = []
    for resource in snapshot.resources:
        if not _has_nameless_peer(resource):
            resources.append(resource)
            continue
        configured = names.get(resource.name)
        peer = configured.peer_name(None, host) if configured else None
        if peer is None:
            problems.append(
                MalformedLine("DRBD's configuration does not tell the peer's host name", "", resource.name)
            )
        connections = tuple(_named(connection, peer) for connection in resource.connections)
        resources.append(replace(resource, connections=connections))
    return Snapshot(tuple(resources), tuple(problems))


def _has_nameless_peer(resource: Resource) -> bool:
    return any(connection.name == NAMELESS_PEER for connection in resource.connections)


def _named(connection: Connection, peer: str | None) -> Connection:
    if peer is None or connection.name != NAMELESS_PEER:
        return connection
    return replace(connection, name=peer)
