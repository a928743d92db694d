"""Reading DRBD: the state at each scrape, its details beside it.

The state comes from `drbdsetup events2 --now`. Running it costs 3 ms on bare hardware, and 300 on a busy
emulated host, at one scrape a second; a stream (`events2` without `--now`) costs none, but must be proved
alive and complete each time, as a stalled stream looks like a host where nothing happens. On 8.4 the kernel
gives that proof for nothing: /proc/drbd holds every state of every minor. As long as it reads the same as
just before the last `events2`, and the two agree, that output still holds, and its counters are brought up
to date from there; only what it cannot show (congestion, resources without a minor) may be as old as
`REREAD_SECONDS`. On 9 /proc/drbd says nothing, so there `events2 --now` runs at each scrape. One that takes
longer than its scrape can wait goes on for the next: were it killed, a slow host would never get an answer.

What changes seldom or needs a child for each resource (options, names, UUIDs) is read by a thread of its own
when the state has changed or is due; the state never waits for it. drbdsetup loads DRBD's module when it is
missing, so nothing is run on a host without it.
"""

import itertools
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import which

import structlog

from exporter.child import ChildError, Output, Program
from exporter.drbd import (
    ConnectionState,
    Device,
    DiskState,
    DrbdOutputError,
    Resource,
    Snapshot,
    parse_events2,
)
from exporter.drbd_configuration import (
    ConfiguredResource,
    ResourceConfiguration,
    parse_current_uuid,
    parse_dump_xml,
    parse_show9,
    parse_show84,
)
from exporter.drbd_proc import Proc, agrees, overlay, parse_proc, proves

log = structlog.get_logger()

DRBD9 = 9

# How old may be, on 8.4, what /proc/drbd does not show.
REREAD_SECONDS = 15.0
EVENTS2_SECONDS = 5.0
# How long ago an answer that came too late for its own scrape may have been asked for.
LATE_SECONDS = 2.0
# Part of the time until the deadline that a scrape waits for events2; the rest is for the page.
WAIT_SHARE = 0.9

DETAILS_SECONDS = 30.0
DETAILS_PAUSE_SECONDS = 1.0
DETAILS_CHILD_SECONDS = 5.0
CLOSE_SECONDS = 1.0
DETAIL_SOURCES = ("drbdadm", "show", "get-gi")
FILES_SECONDS = 600.0
# A UUID can change without a state that shows it: the first write of a Primary without its peer makes one.
UUID_SECONDS = 60.0
UUID_DISCONNECTED_SECONDS = 15.0


class DrbdError(Exception):
    """DRBD's state could not be read; the message is a sentence for the operator."""


@dataclass(frozen=True)
class Paths:
    """Where DRBD's kernel module and its configuration are found."""

    proc: Path = Path("/proc/drbd")
    usermode_helper: Path = Path("/sys/module/drbd/parameters/usermode_helper")
    kernel_log: Path = Path("/dev/kmsg")
    configuration: tuple[Path, ...] = (Path("/etc/drbd.conf"), Path("/etc/drbd.d"))


@dataclass(frozen=True, slots=True)
class State:
    """DRBD's state as it is now.

    Attributes:
        parsed: this scrape has read events2; else the last one's output was proved to hold still.
    """

    proc: Proc
    snapshot: Snapshot
    parsed: bool


class _Events2:
    """One run of events2 in a thread of its own, and /proc/drbd just before it."""

    def __init__(self, drbdsetup: Program, proc: Proc) -> None:
        self.proc = proc
        self.began = time.monotonic()
        self.done = threading.Event()
        self.snapshot = Snapshot(())
        self.agrees = False
        self.error = ""
        threading.Thread(target=self._run, args=(drbdsetup,), name="drbd-events2", daemon=True).start()

    def _run(self, drbdsetup: Program) -> None:
        try:
            output = drbdsetup.run(["events2", "--now", "--statistics"], self.began + EVENTS2_SECONDS)
            self.snapshot = parse_events2(_succeeded(output, "drbdsetup events2").stdout)
            self.agrees = agrees(self.snapshot, self.proc)
        except (ChildError, DrbdOutputError) as error:
            self.error = str(error)
        self.done.set()


class StateReader:
    """Reads the state; for one thread."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._drbdsetup = Program("drbdsetup")
        self._running: _Events2 | None = None
        self._last: _Events2 | None = None

    def read(self, deadline: float) -> State | None:
        """Return DRBD's state, or None on a host where DRBD's module is not loaded.

        Args:
            deadline: in seconds of `time.monotonic()`.

        Raises:
            DrbdError: drbdsetup is missing, hangs or fails, or prints what nobody understands.
        """
        try:
            proc = parse_proc(self._paths.proc.read_text(encoding="utf-8", errors="replace"))
        except FileNotFoundError:
            self._last = None
            return None
        except (OSError, DrbdOutputError) as error:
            raise DrbdError(str(error)) from error
        last, now = self._last, time.monotonic()
        still = None
        if last and last.agrees and proves(proc, last.proc):
            still = State(proc, overlay(last.snapshot, proc), parsed=False)
            if now - last.began < REREAD_SECONDS:
                return still
        try:
            self._last = self._answer(proc, now, now + (deadline - now) * WAIT_SHARE)
        except DrbdError:
            if still:  # drbdsetup waits for the kernel, and the kernel vouches for what it said before
                return still
            raise
        snapshot = self._last.snapshot
        return State(proc, overlay(snapshot, proc) if agrees(snapshot, proc) else snapshot, parsed=True)

    def close(self) -> None:
        """End a child that still runs, and wait a moment for its thread."""
        self._drbdsetup.close()
        if self._running:
            self._running.done.wait(CLOSE_SECONDS)

    def _answer(self, proc: Proc, now: float, deadline: float) -> _Events2:
        """Wait for what events2 says of the moment when /proc/drbd read so.

        Raises:
            DrbdError: it failed, or has not answered by the deadline.
        """
        while True:
            run = self._running = self._running or _Events2(self._drbdsetup, proc)
            if not run.done.wait(max(0.0, deadline - time.monotonic())):
                raise DrbdError("drbdsetup events2 did not answer in time")
            self._running = None
            if run.error:
                raise DrbdError(run.error)
            if (
                run.began >= now
                or (run.agrees and proves(proc, run.proc))
                or (proc.states == run.proc.states and now - run.began < LATE_SECONDS)
            ):
                return run


def _succeeded(output: Output, command: str) -> Output:
    if output.status:
        said = output.stderr.strip().splitlines()
        raise ChildError(
            f"{command} failed with exit status {output.status}: {said[-1][:200] if said else ''}"
        )
    return output


@dataclass(frozen=True, slots=True)
class _Uuid:
    """The identity of a device's data, None when it has none.

    Attributes:
        version: of the resource's states when it was read.
        at: when that was, in seconds of `time.monotonic()`.
    """

    uuid: str | None
    version: int
    at: float


@dataclass(frozen=True)
class Details:
    """What is read beside the state.

    Attributes:
        configuration: options in the kernel, by resource.
        configuration_at: when they were read, in seconds of `time.monotonic()`; None: never.
        files: the configuration files, by resource.
        errors: what could not be read, by source.
    """

    utils_version: str = ""
    configuration: Mapping[str, ResourceConfiguration] = field(default_factory=dict)
    configuration_at: float | None = None
    files: Mapping[str, ConfiguredResource] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)

    def configuration_of(self, since: float) -> Mapping[str, ResourceConfiguration]:
        """Return the options in the kernel, none when they were read before `since`."""
        return self.configuration if (self.configuration_at or 0.0) >= since else {}


class DetailsReader:
    """Keeps the details, in a thread that begins with the first state it is shown."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._drbdsetup = Program("drbdsetup")
        self._drbdadm = Program("drbdadm")
        self._files_read: tuple[object, float] | None = None
        self._condition = threading.Condition()
        self._state: State | None = None
        self._version = itertools.count()
        self._versions: dict[str, tuple[_States, int]] = {}
        self._uuids: dict[tuple[str, int], _Uuid] = {}
        self._changed = False
        self._closed = False
        self._first = threading.Event()
        self._thread: threading.Thread | None = None
        self.latest = Details()

    def show(self, state: State) -> None:
        """Tell what the state is now, so that what depends on it is read again when it changed."""
        with self._condition:
            before, self._versions = self._versions, {}
            for resource in state.snapshot.resources:
                states = _states(resource)
                known = before.get(resource.name)
                self._versions[resource.name] = (
                    known if known and known[0] == states else (states, next(self._version))
                )
            first, self._state = self._state is None, state
            if first or self._versions != before:
                self._changed = True
                self._condition.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="drbd-details", daemon=True)
                self._thread.start()

    def uuids(self) -> dict[tuple[str, int], str]:
        """Return the identities of the data, by resource and volume, that no state has changed since."""
        with self._condition:
            return {
                key: known.uuid
                for key, known in self._uuids.items()
                if known.uuid and known.version == self._version_of(key[0])
            }

    def _version_of(self, resource: str) -> int:
        return self._versions[resource][1] if resource in self._versions else -1

    def wait_first(self, deadline: float) -> None:
        """Wait until the details have been read once; later calls return at once."""
        self._first.wait(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """End the thread and its child, and wait a moment; a child in the kernel is waited for by nobody."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        for program in (self._drbdsetup, self._drbdadm):
            program.close()
        if self._thread:
            self._thread.join(CLOSE_SECONDS)

    def _loop(self) -> None:
        pause_until = 0.0
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._closed, max(0.0, pause_until - time.monotonic()))
                self._condition.wait_for(lambda: self._closed or self._changed, DETAILS_SECONDS)
                if self._closed or self._state is None:
                    return
                state, self._changed = self._state, False
            self._refresh(state)
            self._first.set()
            pause_until = time.monotonic() + DETAILS_PAUSE_SECONDS

    def _refresh(self, state: State) -> None:
        """Read what is due; what cannot be read stays as it was, and is named in `errors`."""
        reads = (self._read_files, self._read_configuration, self._read_uuids)
        for source, read in zip(DETAIL_SOURCES, reads, strict=True):
            errors = {name: error for name, error in self.latest.errors.items() if name != source}
            try:
                self.latest = replace(read(state), errors=errors)
            except (ChildError, DrbdOutputError) as error:
                if self.latest.errors.get(source) != str(error) and not self._closed:
                    log.warning("details of DRBD cannot be read", source=source, error=str(error))
                self.latest = replace(self.latest, errors={**errors, source: str(error)})

    def _run(self, program: Program, *arguments: str) -> str:
        return _succeeded(self._output(program, *arguments), f"{program.name} {arguments[0]}").stdout

    def _output(self, program: Program, *arguments: str) -> Output:
        if self._closed:
            raise ChildError("the exporter ends")
        return program.run(arguments, time.monotonic() + DETAILS_CHILD_SECONDS)

    def _read_files(self, _state: State) -> Details:
        """Read the configuration files, when one of them or drbdadm itself has changed."""
        stamps, now = list(_stamps(self._paths.configuration)), time.monotonic()
        if self._files_read and self._files_read[0] == stamps and now - self._files_read[1] < FILES_SECONDS:
            return self.latest
        version = _UTILS_VERSION.search(self._run(self._drbdadm, "--version"))
        details = replace(
            self.latest,
            utils_version=version[1] if version else "",
            files=parse_dump_xml(self._run(self._drbdadm, "dump-xml")),
        )
        self._files_read = stamps, now
        return details

    def _read_configuration(self, state: State) -> Details:
        if state.proc.major >= DRBD9:
            resources = parse_show9(self._run(self._drbdsetup, "show", "--json"))
        elif state.snapshot.resources:
            resources = parse_show84(self._run(self._drbdsetup, "show"))
        else:  # "No such device", exit status 20
            resources = ()
        return replace(
            self.latest,
            configuration={resource.name: resource for resource in resources},
            configuration_at=time.monotonic(),
        )

    def _read_uuids(self, state: State) -> Details:
        """Read the UUIDs that are due, each by a child; those of devices that are gone are forgotten."""
        devices = {
            (resource.name, device.volume): (resource, device)
            for resource in state.snapshot.resources
            for device in resource.devices
            if device.disk_state is not DiskState.DISKLESS
        }
        with self._condition:
            self._uuids = {key: uuid for key, uuid in self._uuids.items() if key in devices}
        for key, (resource, device) in devices.items():
            with self._condition:
                known, version = self._uuids.get(key), self._version_of(resource.name)
            now = time.monotonic()
            if known and known.version == version and now - known.at < _uuid_seconds(resource):
                continue
            arguments = _get_gi_arguments(state.proc, resource, device)
            if arguments is None:
                continue
            output = self._output(self._drbdsetup, "get-gi", *arguments)
            uuid = None if output.status else parse_current_uuid(output.stdout)
            with self._condition:
                self._uuids[key] = _Uuid(uuid, version, now)
        return self.latest


_UTILS_VERSION = re.compile(r"^DRBDADM_VERSION=(\S+)$", re.MULTILINE)


_States = tuple[object, ...]


def _states(resource: Resource) -> _States:
    """Return the states of a resource at whose change its UUIDs and options are read again."""
    return (
        resource.role,
        *((device.volume, device.minor, device.disk_state) for device in resource.devices),
        *((connection.name, connection.connection_state) for connection in resource.connections),
        *(
            (peer.replication_state, peer.peer_disk_state)
            for connection in resource.connections
            for peer in connection.peer_devices
        ),
    )


def _uuid_seconds(resource: Resource) -> float:
    connected = all(
        connection.connection_state is ConnectionState.CONNECTED for connection in resource.connections
    )
    return UUID_SECONDS if connected else UUID_DISCONNECTED_SECONDS


def _get_gi_arguments(proc: Proc, resource: Resource, device: Device) -> tuple[str, ...] | None:
    """The arguments of get-gi: a minor on 8.4; on 9 any peer will do, as the current UUID is the same."""
    if proc.major < DRBD9:
        return (str(device.minor),)
    if not resource.connections:
        return None
    return (resource.name, str(resource.connections[0].peer_node_id), str(device.volume))


def _stamps(paths: Iterable[Path]) -> Iterator[tuple[str, int, int]]:
    """What shows that a configuration file, or drbdadm, is another one than before."""
    drbdadm = which("drbdadm")
    for path in (*paths, *([Path(drbdadm)] if drbdadm else [])):
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            with suppress(OSError):  # it went away: its stamp goes with it
                status = file.stat()
                yield str(file), status.st_mtime_ns, status.st_size
