"""What a host does when it has lost a resource, when it is cut off from everybody, and when it boots.

Release: another host was granted the resource. Here its Primary is frozen, and a VM hangs on it. Nothing but
the following order frees it without a write that the VM is told of and nobody has (on DRBD 8.4): the VM is
destroyed, and beside that `disconnect`; `detach --force`, until Diskless; once the VM is gone, not before,
`resume-io`; `secondary` as soon as nobody has the device; `down`. Then the arbiter is asked whether the disk
may be attached (R6), and the resource comes up as a Secondary that is resynced.

Isolation (R7): a frozen disk does not stop a VM's processors. A host whose frozen Primary is not answered
destroys its VM, so that another host may start it; the disk stays frozen, and asking goes on.

R4 and R6 of the arbiter's rules: nothing is connected without its disk; each attach is asked for.
"""

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from exporter import fence_peer
from exporter.fence_peer import (
    CONFIG,
    NOT_CONNECTED,
    PROC,
    Config,
    Done,
    HookError,
    State,
    ask_anyone,
    boot_time,
    command,
    events2,
    question_of,
    read_config,
    read_text,
    say,
    wait_for_verdict,
)

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET

LOCKS = "/run/lock"
SYS_BLOCK = "/sys/block"
POLL_SECONDS = 0.3
STEP_SECONDS = 30.0
"""For one call of drbdadm, or of virsh where it only asks."""
DESTROY_SECONDS = 120.0
"""For one `virsh destroy`; 82 s were seen for a QEMU whose disk was frozen. It is called again after that."""
RELEASE_SECONDS = 3600.0
"""From the arbiter's word until the resource is down."""
WITNESS_SECONDS = 1.0
BACKOFF_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Between two rounds of asking for what is to be attached; the last one for ever."""
MAX_FAILURES = 10
"""What was refused, or could not be attached, is tried so often; what was not answered for ever."""


class Local(NamedTuple):
    """A resource here, as far as its release goes; nothing is true of one that is down."""

    up: bool = False
    role: str = "Unknown"
    stand_alone: bool = False
    disks: tuple[str, ...] = ()
    suspended: bool = False
    """Its I/O is frozen."""
    connected: bool = False
    """To a peer at least."""
    meets_diskless: bool = False
    """It is connected to a peer that has no disk (DRBD 9: none any more, as it is no diskless client)."""


class Step(IntEnum):
    """The release, in its order."""

    DISCONNECT = 1
    DETACH = 2
    RESUME = 3
    DEMOTE = 4
    TAKE_DOWN = 5


WORDS = {
    Step.DISCONNECT: ("disconnect",),
    Step.DETACH: ("detach", "--force"),
    Step.RESUME: ("resume-io",),
    Step.DEMOTE: ("secondary",),
    Step.TAKE_DOWN: ("down",),
}
"""Of drbdadm. Nothing else here or anywhere says `resume-io`: in another order it makes a split brain."""


# ---- what this host sees -----------------------------------------------------------------------------------


def local_of(environment: Mapping[str, str], proc: str, resource: str) -> Local:
    """Look at a resource.

    Raises:
        OSError: it cannot be read, or not in time.
    """
    text = read_text(proc)
    if text.startswith("version: 8"):
        return _local_of_proc(text, environment.get("DRBD_MINOR", "").split())
    return _local_of_events2(events2(resource))


def _local_of_proc(text: str, minors: Sequence[str]) -> Local:
    """Read 8.4's /proc/drbd; the first of the flags that end a line is `s` while I/O is suspended."""
    lines = [line.split() for line in text.splitlines()]
    volumes = [words for words in lines if words and words[0].removesuffix(":") in minors and words[1:]]
    said = [
        (dict(word.split(":", 1) for word in words[1:] if ":" in word), words[-1].startswith("s"))
        for words in volumes
    ]
    said = [(fields, suspended) for fields, suspended in said if fields.get("cs") != "Unconfigured"]
    if not said:
        return Local()
    return Local(
        up=True,
        role=said[0][0].get("ro", "").partition("/")[0] or "Unknown",
        stand_alone=all(fields.get("cs") == "StandAlone" for fields, _ in said),
        disks=tuple(fields.get("ds", "").partition("/")[0] for fields, _ in said),
        suspended=any(suspended for _, suspended in said),
        connected=all(fields.get("cs") not in NOT_CONNECTED for fields, _ in said),
        meets_diskless=any(
            fields.get("cs") not in NOT_CONNECTED and fields.get("ds", "").endswith("/Diskless")
            for fields, _ in said
        ),
    )


def _local_of_events2(text: str) -> Local:
    """Read `drbdsetup events2 --now` of one resource."""
    lines = [line.split() for line in text.splitlines()]
    said = [
        (words[1], dict(word.split(":", 1) for word in words[2:] if ":" in word))
        for words in lines
        if words[1:]
    ]
    resource = next((fields for kind, fields in said if kind == "resource"), None)
    if resource is None:
        return Local()
    connections = [fields.get("connection") for kind, fields in said if kind == "connection"]
    return Local(
        up=True,
        role=resource.get("role", "Unknown"),
        stand_alone=all(connection == "StandAlone" for connection in connections),
        disks=tuple(fields.get("disk", "") for kind, fields in said if kind == "device"),
        suspended=resource.get("suspended", "no") != "no",
        connected="Connected" in connections,
        meets_diskless=any(
            fields.get("peer-disk") == "Diskless" and fields.get("peer-client") != "yes" for _, fields in said
        ),
    )


def refuses_attach(resource: str, environment: Mapping[str, str], proc: str) -> str:
    """Why the resource's disk must not be attached here now; "": nothing is against it.

    DRBD takes a disk that is attached while its peer is connected without one for UpToDate, however old it is
    (the arbiter's R4; seen on 8.4, of two Secondaries). Disconnected it compares what it would have to. A
    Primary that has lost both disks has had I/O errors; with its own disk back it would go on beside another.
    And one whose disk is resynced has a write acknowledged that this disk alone has, when the source is lost
    in that moment; the next resync overwrites it (seen on 8.4, tests/contract/clauses/resync.txt).

    Raises:
        HookError: drbdadm does not know the resource.
        OSError: it cannot be looked at, or not in time.
    """
    known = environment if environment.get("DRBD_MINOR") or not _is_8(proc) else configured(resource)
    local = local_of(known, proc, resource)
    if local.meets_diskless:
        return (
            "its peer is connected and has no disk: the disk here would read UpToDate, however old it is; end"
            f" its VM, 'drbdadm secondary {resource}' and 'drbdadm disconnect {resource}' on both hosts, ask"
            f" and attach on both, then 'drbdadm connect {resource}'"
        )
    if local.role == "Primary" and not local.connected:
        return (
            "it is Primary here, without its disk and its peer: its VM has had I/O errors, and may run"
            f" elsewhere; end it here and 'drbdadm secondary {resource}', then ask and attach"
        )
    if local.role == "Primary":
        return (
            "it is Primary here: if its peer fails before the resync has ended, the last writes of its VM can"
            " be acknowledged and lost; move the VM to the other host, or end it and 'drbdadm secondary"
            f" {resource}', then ask and attach"
        )
    return ""


def _is_8(proc: str) -> bool:
    return read_text(proc).startswith("version: 8")


def configured(resource: str) -> dict[str, str]:
    """Return what DRBD would tell a handler of a resource, for who is not started by it.

    Raises:
        HookError: drbdadm does not know it.
        OSError: drbdadm does not answer.
    """
    import xml.etree.ElementTree as ET  # noqa: PLC0415  takes longer to import than all the rest

    done = command(["drbdadm", "dump-xml", resource], STEP_SECONDS)
    try:
        root = ET.fromstring(done.output)  # noqa: S314  printed by drbdadm, from files that only root writes
    except ET.ParseError as error:
        raise HookError(f"drbdadm dump-xml {resource}: {done.error or error}") from error
    here = socket.gethostname()
    hosts = {host.get("name", ""): host for host in root.iter("host")}
    ours = hosts.pop(here, None) or hosts.pop(here.partition(".")[0], None)
    minors = [] if ours is None else [device.get("minor", "") for device in ours.iter("device")]
    if not minors or len(hosts) != 1:
        raise HookError(f"{resource} is not on {here} and one other host: {done.error or 'see drbdadm dump'}")
    return {"DRBD_RESOURCE": resource, "DRBD_MINOR": " ".join(minors), "DRBD_PEER": next(iter(hosts))}


# ---- the VM ------------------------------------------------------------------------------------------------


def end_users(uris: Iterable[str], resource: str, minors: Sequence[str]) -> bool:
    """Destroy the VMs that use a resource; whether there is none, on the word of every libvirt."""
    asked = tuple(uris)
    unused = bool(asked)
    if not asked:
        say(f"{resource}: no libvirt_uri is configured: no VM can be ended")
    for uri in asked:
        try:
            for domain, name in users(uri, resource, minors):
                unused = False
                say(f"{resource}: {name} is destroyed ({uri})")
                begun = time.monotonic()
                done = _virsh(uri, DESTROY_SECONDS, "destroy", domain)
                say(f"{resource}: {name}: {done.error or 'ended'}, after {time.monotonic() - begun:.1f} s")
        except (HookError, OSError) as error:
            unused = False
            say(f"{resource}: {error}")
    return unused and not any(_holders(minor) for minor in minors)


def _holders(minor: str) -> list[str]:
    """What lies on a device, such as a logical volume: whose VMs are not found."""
    try:
        return os.listdir(f"{SYS_BLOCK}/drbd{minor}/holders")  # noqa: PTH208  pathlib takes time to import
    except FileNotFoundError:
        return []


def users(uri: str, resource: str, minors: Sequence[str]) -> list[tuple[str, str]]:
    """Return the UUID and the name of each running VM that has the resource as a disk.

    Raises:
        HookError: libvirt's answer is not understood.
        OSError: libvirt does not answer.
    """
    listed = _virsh(uri, STEP_SECONDS, "list", "--uuid")
    if listed.status:
        raise HookError(f"virsh --connect {uri} list: {listed.error}")
    if not (uuids := listed.output.split()):
        return []
    import xml.etree.ElementTree as ET  # noqa: PLC0415  takes longer to import than all the rest

    # One virsh for all of them; one that ended meanwhile is left out.
    dumped = _virsh(uri, STEP_SECONDS, "; ".join(f"dumpxml {uuid}" for uuid in uuids))
    try:
        root = ET.fromstring(f"<all>{dumped.output}</all>")  # noqa: S314  libvirtd's own output
    except ET.ParseError as error:
        raise HookError(f"virsh --connect {uri} dumpxml: {error}: {dumped.error}") from error
    return [
        (domain.findtext("uuid", ""), domain.findtext("name", ""))
        for domain in root.iter("domain")
        if any(_is_of(path, resource, minors) for path in _sources(domain))
    ]


def _sources(domain: "ET.Element") -> Iterator[str]:
    for disk in domain.iterfind("./devices/disk"):
        script = disk.find("script")
        for source in disk.iter("source"):
            path = source.get("dev") or source.get("file") or source.get("name") or ""
            # Xen's own script for DRBD is given the resource's name.
            bare = script is not None and script.get("path", "").endswith("block-drbd") and path[:1] != "/"
            yield f"drbd:{path.removeprefix('drbd:')}" if bare else path
    for source in domain.iterfind("./devices/filesystem/source"):
        yield source.get("dev", "")
    for block in domain.iterfind("./devices/hostdev/source/block"):
        yield (block.text or "").strip()


def _is_of(path: str, resource: str, minors: Sequence[str]) -> bool:
    if path.partition("/")[0] == f"drbd:{resource}":
        return True
    devices = {f"/dev/drbd{minor}" for minor in minors}
    real = os.path.realpath(path)
    return (
        f"{path}/".startswith(f"/dev/drbd/by-res/{resource}/")
        or real in devices
        or real.rstrip("0123456789") in {f"{device}p" for device in devices}
    )


def _virsh(uri: str, seconds: float, *words: str) -> Done:
    return command(["virsh", "--quiet", "--connect", uri, *words], seconds)


# ---- isolation ---------------------------------------------------------------------------------------------


def wait_as_loser_may(
    question: Mapping[str, Any], environment: Mapping[str, str], config: str = CONFIG, proc: str = PROC
) -> str:
    """Ask as fence-peer, and end the VM meanwhile once this host is isolated; the verdict, "" without one."""

    def configure() -> Config:
        return read_config(config)

    def look() -> State:
        return fence_peer.read_state(environment, proc, resource)

    resource = question["resource"]
    watch = Isolation(configure, look, lambda: local_of(environment, proc, resource), resource, environment)
    watch.start()
    try:
        return wait_for_verdict(configure, question, look, watch.heard)
    finally:
        watch.stop()


class Isolation(threading.Thread):
    """Destroys the VM of a frozen Primary that nobody answers (R7). Asking goes on beside it.

    It counts from the moment at which the last question that was answered was sent, or from its own start.
    """

    def __init__(
        self,
        configure: Callable[[], Config],
        look: Callable[[], State],
        look_closer: Callable[[], Local],
        resource: str,
        environment: Mapping[str, str],
    ) -> None:
        super().__init__(name="isolation", daemon=True)
        self._configure = configure
        self._look = look
        self._look_closer = look_closer
        self._resource = resource
        self._minors = environment.get("DRBD_MINOR", "").split()
        self._heard_at = boot_time()
        self._stopping = threading.Event()
        self._said = ""

    def heard(self, at: float) -> None:
        """An actuator has answered a question that was sent then."""
        self._heard_at = max(self._heard_at, at)

    def stop(self) -> None:
        """Begin nothing any more."""
        self._stopping.set()

    def run(self) -> None:
        """Watch until it is stopped."""
        config: Config | None = None
        while not self._stopping.wait(POLL_SECONDS):
            with contextlib.suppress(Exception):  # asking says so; the one before counts, whatever it is
                config = self._configure()
            try:
                if config is not None and self._is_to_end(config):
                    self._say("isolated: nobody answers. Its VM is ended; its disk stays frozen")
                    end_users(config.libvirt_uris, self._resource, self._minors)
            except Exception as error:  # noqa: BLE001  whatever it is: the next turn tries again
                self._say(f"isolation: {type(error).__name__}: {error}")

    def _silence(self) -> float:
        return boot_time() - self._heard_at

    def _is_to_end(self, config: Config) -> bool:
        if self._silence() < config.isolation_timeout_seconds or not self._is_frozen():
            return False
        for witness in config.witnesses:
            if self._silence() >= config.hard_timeout_seconds or not reaches(witness):
                continue
            self._say(f"no actuator answers, but {witness[0]}:{witness[1]} does: its VM stays frozen")
            return False
        return self._silence() >= config.isolation_timeout_seconds and not self._stopping.is_set()

    def _is_frozen(self) -> bool:
        """A Primary without its peer; frozen, as far as DRBD says."""
        state = self._look()
        return state.role == "Primary" and not state.connected and self._look_closer().suspended

    def _say(self, sentence: str) -> None:
        if sentence != self._said:
            say(f"fence-peer {self._resource}: {sentence}")
        self._said = sentence


def reaches(address: tuple[str, int]) -> bool:
    """Whether a host is there: it accepts a connection, or refuses it itself."""
    try:
        socket.create_connection(address, timeout=WITNESS_SECONDS).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


# ---- the release -------------------------------------------------------------------------------------------


def begin(resource: str, environment: Mapping[str, str]) -> None:
    """Start the release in a session of its own: DRBD waits for its handler, but not for this.

    Raises:
        OSError: it cannot be started.
    """
    program = (
        [sys.argv[0]] if os.access(sys.argv[0], os.X_OK) else [sys.executable, "-m", "exporter.fence_peer"]
    )
    process = subprocess.Popen(
        [*program, "release", resource],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(environment),
        start_new_session=True,
    )
    _STARTED.append(process)


_STARTED: list[subprocess.Popen[bytes]] = []
"""They outlive this process, and nobody waits for them."""


def release(resource: str, environment: Mapping[str, str], config: str = CONFIG, proc: str = PROC) -> int:
    """Give a resource up, when the arbiter says so, and bring it up again; the exit status.

    One that runs already goes on alone. One that was cut short may be started again, also by hand.

    Raises:
        HookError: it stopped half-way; the message says where.
        OSError: a file cannot be read, or a program not run.
    """
    if environment.get("DRBD_RESOURCE") != resource or not environment.get("DRBD_MINOR"):
        environment = {**environment, **configured(resource)}
    with _alone(resource) as alone:
        if not alone:
            say(f"release {resource}: runs already")
            return 0
        # The word that started this came to another process, and what it led to cannot be taken back.
        # It asks beside DRBD's handlers, in no volume's name: of those only the latest is heard (R9), and
        # `disconnect` starts another.
        question = question_of("fence-peer", resource, environment) | {"minors": ""}
        verdict = wait_as_loser_may(question, environment, config, proc)
        if verdict != "release":
            say(f"release {resource}: the arbiter does not say so (any more): {verdict or 'no answer'}")
            return 1
        free(resource, environment, config, proc)
        return bring_up([resource], lambda: read_config(config), proc)


@contextlib.contextmanager
def _alone(resource: str) -> Iterator[bool]:
    with open(os.path.join(LOCKS, f"vmheal-release-{resource}"), "w", encoding="utf-8") as lock:  # noqa: PTH118, PTH123
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def free(resource: str, environment: Mapping[str, str], config: str, proc: str) -> None:
    """Destroy what uses the resource, and take the resource down beside it. The arbiter has said "release".

    Raises:
        HookError: not within ``RELEASE_SECONDS``, or it goes on, or somebody else acts on the resource too.
    """
    ending = Ending(lambda: read_config(config), resource, environment)
    ending.start()
    deadline = time.monotonic() + RELEASE_SECONDS
    furthest, said = Step.DISCONNECT, ""
    try:
        while True:
            try:
                local = local_of(environment, proc, resource)
                if not local.up:
                    break
                step, may = next_step(local, unused=ending.unused.is_set())
                if step < furthest:
                    raise HookError(f"release {resource}: stopped: somebody else acts on it too ({local})")
                if goes_on(step, local):
                    raise HookError(f"release {resource}: stopped: it met its peer and goes on ({local})")
                furthest = step
                sentence = _take(step, resource) if may else f"waits before {WORDS[step][0]} ({local})"
            except OSError as error:
                sentence = str(error)
            if sentence != said:
                say(f"release {resource}: {sentence}")
            said = sentence
            if time.monotonic() > deadline:
                raise HookError(
                    f"release {resource}: stopped after {RELEASE_SECONDS:g} s: {sentence}; when that is"
                    f" mended: vmheal-fence-peer release {resource}"
                )
            time.sleep(POLL_SECONDS)  # noqa: TID251  for DRBD, which tells nobody here
    finally:
        ending.stop()
    say(f"release {resource}: it is down")


def goes_on(step: Step, local: Local) -> bool:
    """Whether it thawed before its disk was given up: it met its peer again before that was promoted.

    Then its writes count, and `disconnect` would make the peer's replica, which the arbiter has admitted, an
    old one.
    """
    return step <= Step.DETACH and not local.suspended


def next_step(local: Local, *, unused: bool) -> tuple[Step, bool]:
    """What comes next, and whether it may be done now; looked at anew before each.

    In `Failed`, on its way to Diskless, resume-io would write a new UUID and make this loser a source. And a
    write that waits only for the lost peer, its own disk having it already, is reported as done by resume-io
    (seen: a record that was printed, and that the winner never got): the VM must not be there to hear it.
    """
    if not local.stand_alone:
        return Step.DISCONNECT, True
    if set(local.disks) - {"Diskless"}:
        return Step.DETACH, not {"Failed", "Detaching"} & set(local.disks)
    if local.suspended:
        return Step.RESUME, unused
    if local.role != "Secondary":
        return Step.DEMOTE, unused
    return Step.TAKE_DOWN, True


def _take(step: Step, resource: str) -> str:
    done = drbdadm(*WORDS[step], resource)
    return f"{' '.join(WORDS[step])}: {done.error or done.status or 'done'}"


class Ending(threading.Thread):
    """Destroys what uses a resource, until nothing does."""

    def __init__(
        self, configure: Callable[[], Config], resource: str, environment: Mapping[str, str]
    ) -> None:
        super().__init__(name="ending", daemon=True)
        self._configure = configure
        self._resource = resource
        self._minors = environment.get("DRBD_MINOR", "").split()
        self._stopping = threading.Event()
        self.unused = threading.Event()
        """No VM runs on it. Whether its device is free is for DRBD to say: a process dies slowly."""

    def stop(self) -> None:
        """Begin nothing any more."""
        self._stopping.set()

    def run(self) -> None:
        """Look and destroy until it is stopped."""
        while not self._stopping.is_set():
            try:
                unused = end_users(self._configure().libvirt_uris, self._resource, self._minors)
            except (HookError, OSError) as error:
                say(f"release {self._resource}: {error}")
                unused = False
            if unused:
                self.unused.set()
            else:
                self.unused.clear()
            self._stopping.wait(POLL_SECONDS)


# ---- coming up ---------------------------------------------------------------------------------------------


def up(config: str, proc: str) -> int:
    """Bring all resources of the local configuration up, as Secondaries, at boot; the exit status.

    Raises:
        HookError: the configuration is not as it must be, or drbdadm does not understand its own.
        OSError: a file cannot be read, or drbdadm not run.
    """
    read_config(config)
    listed = drbdadm("sh-resources")
    if listed.status:
        raise HookError(f"drbdadm sh-resources: {listed.error}")
    return bring_up(listed.output.split(), lambda: read_config(config), proc)


def bring_up(resources: Iterable[str], configure: Callable[[], Config], proc: str) -> int:
    """Attach and connect resources, each when the arbiter allows it; 1 when one could not be.

    Without an answer nothing is attached (R6): asking goes on for as long as that takes.
    """
    waiting, rounds = dict.fromkeys(resources, 0), 0
    while waiting:
        for resource in tuple(waiting):
            try:
                is_up = _bring_up(resource, configure, proc)
            except (HookError, OSError) as error:
                say(f"up {resource}: {error}")
                is_up = False
            if is_up is None:
                break  # nobody answers: neither for the others
            waiting[resource] += 1
            if is_up:
                del waiting[resource]
        if waiting and min(waiting.values()) >= MAX_FAILURES:
            return 1
        if waiting:
            time.sleep(BACKOFF_SECONDS[min(rounds, len(BACKOFF_SECONDS) - 1)])  # noqa: TID251  nothing else to do
            rounds += 1
    return 0


def _bring_up(resource: str, configure: Callable[[], Config], proc: str) -> bool | None:
    """Whether the resource is up; None when nobody has said whether it may be.

    One that is up is left alone: asking excludes its disk, though it may be the newest one.
    """
    environment = configured(resource)
    if local_of(environment, proc, resource).up:
        say(f"up {resource}: is up already, and left alone")
        return True
    question = question_of("attach", resource, environment)
    verdict, sentence = ask_anyone(configure, question, lambda: State("Unknown", False, False, False))
    say(f"up {resource}: {sentence}")
    if verdict != "allow":
        return None if verdict in {"", "wait"} else False
    done = drbdadm("up", resource)
    disks = local_of(environment, proc, resource).disks
    if done.status or not disks or {"Diskless", "Failed", "Detaching"} & set(disks):  # R4
        taken_down = drbdadm("down", resource)
        say(f"up {resource}: not attached ({done.error}); down: {taken_down.error or 'done'}")
        return False
    return True


def drbdadm(*words: str) -> Done:
    """Run drbdadm; one that does not end in time has failed.

    Raises:
        OSError: it cannot be run.
    """
    try:
        return command(["drbdadm", *words], STEP_SECONDS)
    except TimeoutError as error:
        return Done(-1, "", str(error))
