"""DRBD on every host, behind `actuator.ports.Storage`: drbdadm and drbdsetup over warm SSH connections.

Both DRBD 8.4 and 9. What the programs say and with which exit status: tests/samples. The exit status tells
refusals not apart (11 stands for five of them), the number in brackets does. Whether a change had its effect
is judged by reading the role afterwards, never by the exit status alone.

A program on a host costs a few milliseconds, and 100 on an emulated one, when a VM is down and waits. On 8.4
/proc/drbd holds every state of every minor and is read over SFTP without a program: as long as it reads the
same as around the last `drbdsetup events2`, and that agreed with it, what that said still holds. On 9 it says
nothing.
"""

import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from actuator.adapters.ssh import Completed, SshAccess, SshHost
from actuator.adapters.warm import NotConnectedError
from actuator.model import CallOutcome, Done, Failed, Indeterminate
from actuator.ports import Unanswered
from exporter.drbd import (
    Connection,
    DrbdOutputError,
    MalformedLine,
    Problem,
    Resource,
    Role,
    Snapshot,
    UnknownWord,
    parse_events2,
)
from exporter.drbd_configuration import ConfiguredResource, parse_dump_xml
from exporter.drbd_proc import Proc, agrees, overlay, parse_proc, proves

log = structlog.get_logger(__name__)

NAMES_SECONDS = 30.0
"""How old the host names from DRBD's configuration may be; then they are read again, in the background."""
REREAD_SECONDS = 60.0
"""How old may be, on 8.4, what /proc/drbd does not show (congestion, resources without a minor)."""
NAMELESS_PEER = "peer"
"""What DRBD 8.4 calls every peer."""
USAGE_ERROR_STATUS = 20

_REFUSAL = re.compile(r"(?:State change failed|Failure): \((?P<number>-?\d+)\) ")
_STILL_RUNNING = "did not terminate within"
"""drbdadm gave up waiting for the drbdsetup that it started; that one goes on."""
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

    def promote(self, host: str, resource: str, *, timeout_seconds: float) -> CallOutcome:
        """See `actuator.ports.Storage.promote`."""
        return self._hosts[host].change_role("primary", Role.PRIMARY, resource, timeout_seconds)

    def demote(self, host: str, resource: str, *, timeout_seconds: float) -> CallOutcome:
        """See `actuator.ports.Storage.demote`."""
        return self._hosts[host].change_role("secondary", Role.SECONDARY, resource, timeout_seconds)

    def close(self) -> None:
        """End all connections."""
        for host in self._hosts.values():
            host.ssh.close()


@dataclass(frozen=True)
class _Names:
    """DRBD's configuration of a host, for the names of peers."""

    resources: Mapping[str, ConfiguredResource]
    read_at: float


@dataclass(frozen=True)
class _Events2:
    """The last answer of events2, and /proc/drbd, which had its states just before and after it."""

    proc: Proc
    snapshot: Snapshot
    at: float


class _Host:
    def __init__(self, host: str, access: SshAccess, prefix: tuple[str, ...]) -> None:
        self._host = host
        self._prefix = prefix
        self.ssh = SshHost(host, access)
        self._last: _Events2 | None = None
        self._names: _Names | None = None
        self._reading_names = threading.Lock()

    def status(self, timeout_seconds: float) -> Snapshot:
        deadline = time.monotonic() + timeout_seconds
        snapshot = self._snapshot(timeout_seconds)
        if not any(_has_nameless_peer(resource) for resource in snapshot.resources):
            return snapshot
        return _with_names(snapshot, self._resource_names(deadline), self._host)

    def change_role(self, verb: str, role: Role, resource: str, timeout_seconds: float) -> CallOutcome:
        if not _RESOURCE_NAME.fullmatch(resource):
            return Failed(f"{resource!r} is not the name of a resource; nothing was run")
        deadline = time.monotonic() + timeout_seconds
        what = f"drbdadm {verb} {resource} on {self._host}"
        try:
            result = self._run(["drbdadm", verb, resource], timeout_seconds)
        except NotConnectedError as error:
            return Failed(f"{error}; nothing was run")
        except OSError as error:
            return Indeterminate(str(error))
        if result.exit_status is None or _STILL_RUNNING in result.stderr:
            return Indeterminate(f"{what} did not end by itself: {_said(result)}")
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
            return parse_proc(self.ssh.read("/proc/drbd", deadline - time.monotonic()))
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
            raise Unanswered(f"drbdsetup events2 on {self._host}: {_said(result)}")
        try:
            return parse_events2(result.stdout)
        except DrbdOutputError as error:
            raise Unanswered(f"{self._host}: {error}") from error

    def _run(self, argv: Sequence[str], timeout_seconds: float) -> Completed:
        return self.ssh.run([*self._prefix, *argv], timeout_seconds)

    def _resource_names(self, deadline: float) -> Mapping[str, ConfiguredResource]:
        """Return DRBD's configuration; only the first caller waits for it.

        Raises:
            Unanswered: it has never been read, and cannot be now.
        """
        names = self._names
        if names is None:
            return self._read_names(deadline).resources
        if time.monotonic() - names.read_at > NAMES_SECONDS and self._reading_names.acquire(blocking=False):
            threading.Thread(target=self._refresh_names, name=f"names {self._host}", daemon=True).start()
        return names.resources

    def _refresh_names(self) -> None:
        try:
            self._read_names(time.monotonic() + NAMES_SECONDS)
        except Unanswered as error:
            log.warning("names of DRBD's peers not read again", host=self._host, error=str(error))
        finally:
            self._reading_names.release()

    def _read_names(self, deadline: float) -> _Names:
        try:
            result = self._run(["drbdadm", "dump-xml"], deadline - time.monotonic())
        except OSError as error:
            raise Unanswered(str(error)) from error
        if result.exit_status != 0:
            raise Unanswered(f"drbdadm dump-xml on {self._host}: {_said(result)}")
        try:
            names = _Names(parse_dump_xml(result.stdout), time.monotonic())
        except DrbdOutputError as error:
            raise Unanswered(f"{self._host}: {error}") from error
        self._names = names
        return names


def _outcome(what: str, result: Completed, wanted: Role, resource: Resource | None) -> CallOutcome:
    """Judge a change of role by the role that was read after it."""
    role = "not up" if resource is None else str(resource.role)
    if result.exit_status == 0:
        return Done() if role == wanted else Indeterminate(f"{what} ended without an error, but it is {role}")
    if role == wanted or (resource and isinstance(resource.role, UnknownWord)):
        # On 8.4 perhaps only some of its volumes; or another hand was faster.
        return Indeterminate(f"{what}: {_said(result)}; but it is {role} after that")
    refusal = _REFUSAL.search(result.stderr)
    return Failed(_said(result), int(refusal["number"]) if refusal else None)


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
