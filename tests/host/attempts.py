"""What somebody tries who has stolen the actuator's key, and what comes of it: the table of docs/security.md.

Every attempt is made on a real host (`tests.host.site`), and says what it saw. That is held when what was expected
is in it, and when DRBD's programs were run just as was expected: as a rule not at all.
"""

import contextlib
import json
import os
import re
import select
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import paramiko
import requests

from actuator.adapters.libvirt_hypervisor import strict_uri
from actuator.adapters.ssh import SshAccess
from actuator.core.arbiter import MAX_RUNS
from actuator.model import Authority
from actuator.receive import ALERTS, ARBITRATE
from tests.actuator.deliveries import TOKENS, patient_journal, served
from tests.attempt import Attempt as AnyAttempt
from tests.host.site import ALLOWED, OTHER, TARGET, USER, Site, children_of, environment_of
from tests.lab.waiting import wait_until
from tests.proc import stat_of
from tests.sshd import free_port, make_key

SOON = 40
Attempt = AnyAttempt[Site]


# ---- ways to try -----------------------------------------------------------------------------------------


def ssh(
    *command: str, options: Sequence[str] = (), user: str = USER, given: bytes = b""
) -> Callable[[Site], str]:
    """Run OpenSSH's client."""

    def try_it(site: Site) -> str:
        done = subprocess.run(
            [*site.argv(options, user), *command], input=given, capture_output=True, timeout=SOON, check=False
        )
        return f"exit status {done.returncode}: {_last(done.stdout + done.stderr)}"

    return try_it


def _last(output: bytes) -> str:
    lines = [
        line
        for line in output.decode(errors="replace").split("\n")
        if line.strip() and "Pseudo-term" not in line
    ]
    return lines[-1][:200] if lines else "nothing"


class Client:
    """vmheal-host's protocol, spoken by hand."""

    def __init__(self, site: Site) -> None:
        self.process = subprocess.Popen(
            [*site.argv(), "vmheal-host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._buffer = b""
        if (said := self.line()) != {"vmheal-host": 1}:
            self.close()
            raise ConnectionRefusedError(f"vmheal-host begins with {said}")

    def say(self, content: bytes) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(content)
            self.process.stdin.flush()

    def line(self, seconds: float = SOON) -> Any:
        """The next answer; None: the end."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if not select.select([self.process.stdout], [], [], max(0.0, left))[0]:
                raise TimeoutError("no answer")
            chunk = os.read(self.process.stdout.fileno(), 1 << 16)
            if not chunk:
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self.process.kill()
        self.process.wait(SOON)


@contextlib.contextmanager
def client(site: Site) -> Iterator[Client]:
    """Connect."""
    it = Client(site)
    try:
        yield it
    finally:
        it.close()


def _kept(site: Site) -> Client:
    """A connection that several attempts share; one that was ended is replaced."""
    it = _CLIENTS.get(site.base)
    if it is None or it.process.poll() is not None:
        it = _CLIENTS[site.base] = site.kept.enter_context(client(site))
    return it


_CLIENTS: dict[Path, Client] = {}


def lines(*content: bytes) -> Callable[[Site], str]:
    """Send lines; what the last is answered with."""

    def try_it(site: Site) -> str:
        it = _kept(site)
        it.say(b"".join(line + b"\n" for line in content))
        return _told([it.line() for _ in content][-1])

    return try_it


def asks(*words: object, **more: object) -> Callable[[Site], str]:
    """Ask to run something."""
    return lines(json.dumps({"id": 1, "seconds": 5, "run": list(words), **more}).encode())


def asks_read(path: object) -> Callable[[Site], str]:
    """Ask to read something."""
    return lines(json.dumps({"id": 1, "seconds": 5, "read": path}).encode())


def _told(answer: Mapping[str, Any] | None) -> str:
    if answer is None:
        return "the connection ended"
    return "; ".join(f"{key}: {value}" for key, value in answer.items() if key != "id") or "answered"


def on_libvirt(call: Callable[[Any, Site], object]) -> Callable[[Site], str]:
    """Call libvirt through the key."""

    def try_it(site: Site) -> str:
        handle = libvirt.open(uri(site))
        try:
            return f"done: {type(call(handle, site)).__name__}"
        except libvirt.libvirtError as error:
            return str(error)
        finally:
            handle.close()

    return try_it


def uri(site: Site) -> str:
    """How the actuator reaches libvirt."""
    server = site.sshd
    access = SshAccess(server.address, server.user_key, server.known_hosts, server.port, USER, "vmheal-host")
    return strict_uri("qemu+ssh://127.0.0.1/system", access)


def bytes_to_libvirt(content: bytes) -> Callable[[Site], str]:
    """Send no libvirt message at all."""

    def try_it(site: Site) -> str:
        command = "sh -c 'virt-ssh-helper 'qemu:///system''"
        with subprocess.Popen(
            [*site.argv(), command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(content)
                process.stdin.flush()
            answer = process.stdout.read()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        return f"answered {len(answer)} bytes; the connection ended"

    return try_it


@contextlib.contextmanager
def transport(site: Site) -> Iterator[paramiko.Transport]:
    """Log in with another client than OpenSSH's."""
    it = paramiko.Transport((site.sshd.address, site.sshd.port))
    try:
        it.connect(username=USER, pkey=paramiko.Ed25519Key.from_private_key_file(str(site.sshd.user_key)))
        yield it
    finally:
        it.close()


def channel(ask: Callable[[paramiko.Transport], object]) -> Callable[[Site], str]:
    """Ask sshd for something beside a command."""

    def try_it(site: Site) -> str:
        with transport(site) as it:
            try:
                ask(it)
            except (paramiko.SSHException, EOFError, OSError) as error:
                return f"refused by sshd: {error or type(error).__name__}"
            return "given"

    return try_it


# ---- single attempts -------------------------------------------------------------------------------------


def _environment(site: Site) -> str:
    """What the programs see of what a client sends along."""
    sent = ["LD_PRELOAD=/tmp/x.so", "PYTHONPATH=/tmp", "PYTHONINSPECT=1", "PATH=/tmp", "BASH_ENV=/tmp/x"]
    options = ["-o", "ForwardAgent=yes", "-o", "SetEnv=" + " ".join(sent)]
    argv = ["ssh-agent", *site.argv(options), "vmheal-host"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        found = [environment_of(pid) for pid in children_of(site.sshd.process.pid)]
        names = {
            key
            for it in found
            for key, value in it.items()
            if "/tmp" in value and key not in {"HOME", "PYTHONPATH"}
        }
        names |= {"PYTHONPATH" for it in found if it.get("PYTHONPATH") == "/tmp"}
        names |= {
            key for it in found for key in it if key in {"SSH_AUTH_SOCK", "DISPLAY", "LD_PRELOAD", "BASH_ENV"}
        }
        return f"of these and an agent the programs have: {', '.join(sorted(names - {'PWD'})) or 'nothing'}"
    finally:
        process.kill()
        process.communicate()


def _places(site: Site) -> str:
    shared = _CLIENTS.get(site.base)
    free = 8 if shared is None or shared.process.poll() is not None else 7
    deadline = time.monotonic() + SOON
    with contextlib.ExitStack() as held:
        while free:
            try:
                held.enter_context(client(site))
                free -= 1
            except ConnectionRefusedError:  # one of an earlier attempt is just ending
                if time.monotonic() >= deadline:
                    raise
                threading.Event().wait(0.1)
        return ssh("vmheal-host")(site)


def _flood(site: Site) -> str:
    number = 10_000
    asked = b"".join(
        json.dumps({"id": it, "seconds": 0.5, "run": ["drbdadm", "get-gi", "slow"]}).encode() + b"\n"
        for it in range(number)
    )
    with client(site) as it:
        threading.Thread(target=it.say, args=(asked,), daemon=True).start()
        answers = [it.line() for _ in range(number)]
        pid = _server(site)
        memory = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) // 1024
    told = {next(key for key in ("late", "busy", "status", "refused") if key in it) for it in answers}
    small = "less than 64 MiB" if memory < 64 else f"{memory} MiB"
    whole = len({it["id"] for it in answers}) == number
    return f"{'all' if whole else 'not all'} answered ({', '.join(sorted(told))}), with {small} of memory"


def _server(site: Site) -> int:
    """The process of the last vmheal-host that was started, as root."""
    found = []
    for pid in children_of(site.sshd.process.pid):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[-2:] == [b"serve", b""] and b"exporter.host.command" in words:
                found.append((_started(pid), pid))
    return max(found)[1]


def _started(pid: int) -> int:
    """In clock ticks since boot (proc(5)): numbers of processes begin again at some point."""
    return int(stat_of(pid)[19])


def _gone(site: Site, pid: int) -> str:
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its end", SOON)
    return "vmheal-host ended"


def _deaf(site: Site) -> str:
    """Ask for megabytes and never read one."""
    with transport(site) as it:
        session = it.open_session(window_size=1 << 15)
        session.exec_command("vmheal-host")
        wait_until(session.recv_ready, "its first line", SOON)
        pid = _server(site)
        line = json.dumps({"id": 1, "seconds": 5, "run": ["drbdadm", "x" * 3000]}).encode() + b"\n"
        session.settimeout(1)
        with contextlib.suppress(OSError):
            for _ in range(100_000):
                session.sendall(line)
        return _gone(site, pid)


def _slow_line(site: Site) -> str:
    with client(site) as it:
        pid = _server(site)
        it.say(b'{"id": 1')
        answer = _told(it.line())
        return f"{answer}; {_gone(site, pid)}"


def _long_line(site: Site) -> str:
    with client(site) as it:  # of its own, for it is ended by that
        it.say(b"x" * 5000 + b"\n")
        return _told(it.line())


def _endless_line(site: Site) -> str:
    with client(site) as it:
        pid = _server(site)
        for _ in range(100):
            it.say(b"x" * (1 << 16))
        return _gone(site, pid)


def _half_closed(site: Site) -> str:
    """A change goes on when the connection does not."""
    with client(site) as it:
        pid = _server(site)
        it.say(json.dumps({"id": 1, "seconds": 60, "run": ["drbdadm", "primary", "slow"]}).encode() + b"\n")
        wait_until(site.ran, "the program", SOON)
        it.process.stdin.close()
        said = _gone(site, pid)
    there = _sleepers(site)
    _kill(there)
    return f"{said}; the program {'goes on' if there else 'is gone'}"


def _sleepers(site: Site) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if str(site.base / "bin").encode() in b" ".join(words) and b"slow" in words:
                    found.append(int(entry.name))
    return found


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.killpg(pid, 9)


def _late(words: Sequence[str]) -> Callable[[Site], str]:
    def try_it(site: Site) -> str:
        with client(site) as it:
            it.say(json.dumps({"id": 1, "seconds": 0.5, "run": list(words)}).encode() + b"\n")
            answer = _told(it.line())
            deadline = time.monotonic() + 3
            while (left := _sleepers(site)) and time.monotonic() < deadline:
                time.sleep(0.05)  # noqa: TID251  between two looks, bounded by the deadline
            _kill(left)
        return f"{answer}; the program {'goes on' if left else 'was killed'}"

    return try_it


def _hanging(site: Site) -> str:
    """As many changes that hang as one likes."""
    with client(site) as it:
        for number in range(60):
            line = {"id": number, "seconds": 0.1, "run": ["drbdadm", "primary", "slow"]}
            it.say(json.dumps(line).encode() + b"\n")
            it.line()
        left = _sleepers(site)
        _kill(left)
        return f"{'at most 33' if 30 <= len(left) <= 33 else len(left)} are left behind"


def _twice(site: Site) -> str:
    with client(site) as it:
        line = json.dumps({"id": 7, "seconds": 5, "run": ["drbdadm", "get-gi", ALLOWED]}).encode() + b"\n"
        it.say(line + line)
        answers = [it.line(), it.line()]
    return f"answered {len(answers)} times, to {len({it['id'] for it in answers})} id"


def _other_key(site: Site) -> str:
    key = site.base / "stranger"
    if not key.exists():
        make_key(key)
    return ssh("vmheal-host", options=["-o", "IdentitiesOnly=yes"])(_with_key(site, key))


def _with_key(site: Site, key: Path) -> Site:
    return replace(site, sshd=replace(site.sshd, user_key=key))


def _socket_forward(site: Site) -> str:
    """libvirtd's socket, past the list of calls."""
    port = free_port()
    argv = [*site.argv(["-N", "-L", f"127.0.0.1:{port}:/run/libvirt/libvirt-sock"])]
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + SOON
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as wire:
                wire.settimeout(SOON)
                return "given" if wire.recv(1) else "the connection ended"
            assert time.monotonic() < deadline
            time.sleep(0.05)  # noqa: TID251  between two looks, bounded by the deadline
    finally:
        process.kill()
        process.communicate()


def _foreign_domain(call: str) -> Callable[[Site], str]:
    """An unlisted domain's UUID under a name of the list."""

    def try_it(site: Site) -> str:
        direct = libvirt.open(site.libvirtd.uri)
        real = direct.lookupByName(OTHER)
        there = f"{real.UUIDString()}"
        handle = libvirt.open(uri(site))
        listed = {it.name(): it for it in handle.listAllDomains()}
        assert listed[OTHER].UUIDString() == there
        try:
            getattr(listed[OTHER], call)()
        except libvirt.libvirtError as error:
            return f"{error}; it is {'running' if real.isActive() else 'off'}"
        else:
            return "done"
        finally:
            handle.close()
            del real
            direct.close()

    return try_it


def _forged_domain(site: Site) -> str:
    """The same by hand, past libvirt's own client: destroy (12), the allowed name, the other's UUID."""
    direct = libvirt.open(site.libvirtd.uri)
    real = direct.lookupByName(OTHER)
    name = ALLOWED.encode()
    arguments = (
        struct.pack(">I", len(name))
        + name
        + bytes(-len(name) % 4)
        + real.UUID()
        + struct.pack(">i", real.ID())
    )
    opening = struct.pack(">II", 1, 14) + b"qemu:///system" + b"\0\0" + struct.pack(">I", 0)

    def message(procedure: int, serial: int, content: bytes) -> bytes:
        return struct.pack(">IIIIIII", 28 + len(content), 0x20008086, 1, procedure, 0, serial, 0) + content

    command = "sh -c 'virt-ssh-helper 'qemu:///system''"
    process = subprocess.Popen([*site.argv(), command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(message(66, 0, b"") + message(1, 1, opening) + message(12, 2, arguments))
        process.stdin.flush()
        answers = []
        for _ in range(3):
            (size,) = struct.unpack(">I", process.stdout.read(4))
            answers.append(process.stdout.read(size - 4))
        (denied,) = (it for it in answers if struct.unpack(">I", it[16:20]) == (2,))
        said = re.sub(rb"[^ -~]+", b" ", denied[24:]).decode()
        return f"{said}; it is {'running' if real.isActive() else 'off'}"
    finally:
        process.kill()
        process.communicate()
        del real
        direct.close()


def _define(change: Callable[[str], str], name: str = ALLOWED) -> Callable[[Site], str]:
    return on_libvirt(lambda handle, site: handle.defineXML(change(site.libvirtd.guest(name))))


def _domain(call: Callable[[Any], object]) -> Callable[[Site], str]:
    return on_libvirt(lambda handle, _site: call(handle.lookupByName(ALLOWED)))


def _monitor(handle: Any, _site: Site) -> object:
    return libvirt_qemu.qemuMonitorCommand(handle.lookupByName(ALLOWED), '{"execute":"query-status"}', 0)


def _console(handle: Any, _site: Site) -> object:
    return handle.lookupByName(ALLOWED).openConsole(None, handle.newStream(0), 0)


def _file_disk(path: str) -> Callable[[str], str]:
    disk = f"<disk type='file' device='disk'><source file='{path}'/><target dev='vdb' bus='virtio'/></disk></devices>"
    return lambda xml: xml.replace("</devices>", disk)


def _move(target: str, parameters: Mapping[str, object], flags: int) -> Callable[[Site], str]:
    return _domain(lambda it: it.migrateToURI3(target, dict(parameters), flags))


def _device(site: Site) -> str:
    return f"<disk type='file' device='disk'><source file='{site.base}/x'/><target dev='vdc'/></disk>"


def arbiter(ask: Callable[["Token"], str]) -> Callable[[Site], str]:
    """Ask a real arbiter with a host's token; voms01 is on v01, which holds it, and on v02."""

    def try_it(_: Site) -> str:
        with tempfile.TemporaryDirectory() as folder:
            journal = patient_journal(Path(folder) / "journal")
            journal.commit(
                authorities=[Authority("voms01", ("v01", "v02"), 1, "v01", frozenset({"v01", "v02"}))]
            )
            try:
                with served(journal) as server:
                    said = ask(Token(server.url, journal))
                after = journal.authority("voms01")
            finally:
                journal.close()
        return f"{said}; admitted: {', '.join(sorted(after.admitted)) or 'nobody'}; holder: {after.holder}"

    return try_it


@dataclass(frozen=True)
class Token:
    """What a host says with its token."""

    url: str
    journal: Any

    def post(
        self, host: str, body: object, path: str = ARBITRATE, token: str | None = None
    ) -> requests.Response:
        headers = {"Authorization": f"Bearer {token or TOKENS[host]}", "Content-Type": "application/json"}
        data = body if isinstance(body, bytes) else json.dumps(body)
        return requests.post(f"{self.url}{path}", data=data, headers=headers, timeout=SOON)

    def ask(self, token: str, /, **more: object) -> str:
        """Both questions of a hook."""
        body = {"hook": "fence-peer", "resource": "voms01", "boot_id": "a-1", "began_ns": 1000, **more}
        first = self.post(token, body)
        if first.status_code != 200:
            return f"{first.status_code}: {first.text}"
        reply = self.post(token, {"version": first.json()["version"], **body}).json()
        return f"{reply['verdict']}: {reply['sentence']}"


def _many_volumes(it: Token) -> str:
    for number in range(MAX_RUNS + 50):
        it.ask("v02", **LIES, minors=str(number))
    return f"{len(it.journal.authority('voms01').runs)} of {MAX_RUNS + 50} are written down"


def _frozen_by_the_peer(it: Token) -> str:
    it.ask("v02", hook="before-resync-source", peer="v01")
    return f"v01 {it.ask('v01', **FROZEN)}; v02 {it.ask('v02', **LIES)}"


def _after_a_grant(it: Token, **more: object) -> str:
    return f"v01 {it.ask('v01', **FROZEN)}; v02 {it.ask('v02', **more)}"


# ---- all of them -----------------------------------------------------------------------------------------

SHELL, WIRE, DRBD, VMS = "The key and sshd", "The protocol", "DRBD", "libvirt"
ARBITER = "A host's token for the arbiter"
UNCHANGED = "admitted: v01, v02; holder: v01"
FROZEN = {"peer": "v02", "role": "Primary", "up_to_date": True}
LIES = {"peer": "v01", "role": "Primary", "up_to_date": True}
NOT_LISTED = "is not in the list"
NO_NAME = "is not the name of a resource"
MAY_NOT = "may not be run with this key"
DENIED = "vmheal-host:"
ARGUMENTS = (
    "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
    "<qemu:arg value='-version'/></qemu:commandline></domain>"
)


def _names() -> Iterator[Attempt]:
    for name, what in {
        "../x": "a path",
        "/dev/drbd0": "a device",
        "-f": "an option",
        "--force": "a long option",
        "$(id)": "a substitution",
        "`id`": "another one",
        "vm1;id": "a second command",
        "vm1 vm9": "two names",
        "vm1\n": "a line end",
        "vm1\0": "a NUL",
        "vm1/0": "a volume",
        "minor-0": "drbdadm's word for a minor",
        "all": "drbdadm's word for all",
        "\uff56m1": "a look-alike letter",
        "*": "the configuration's own word",
        "": "no name",
        "x" * 500: "500 letters",
    }.items():
        yield Attempt(
            DRBD, f"`primary`, and as the resource {what}", NO_NAME, asks("drbdadm", "primary", name)
        )


def _programs() -> Iterator[Attempt]:
    for words in (
        ("drbdadm", "primary", "--force", ALLOWED),
        ("drbdadm", "--force", "primary", ALLOWED),
        ("drbdadm", "primary", ALLOWED, "--force"),
        ("drbdsetup", "primary", ALLOWED, "--force"),
        ("drbdadm", "invalidate", ALLOWED),
        ("drbdadm", "invalidate-remote", ALLOWED),
        ("drbdadm", "create-md", ALLOWED),
        ("drbdadm", "new-current-uuid", "--clear-bitmap", ALLOWED),
        ("drbdadm", "detach", "--force", ALLOWED),
        ("drbdadm", "attach", ALLOWED),
        ("drbdadm", "resume-io", ALLOWED),
        ("drbdadm", "down", ALLOWED),
        ("drbdadm", "connect", "--discard-my-data", ALLOWED),
        ("drbdadm", "-c", "/tmp/x.conf", "primary", ALLOWED),
        ("drbdadm", "net-options", "--protocol=A", ALLOWED),
        ("/bin/sh", "-c", "id"),
    ):
        yield Attempt(DRBD, f"`{' '.join(words)}`", NOT_LISTED, asks(*words))


ATTEMPTS: tuple[Attempt, ...] = (
    Attempt(SHELL, "a shell", "no shell", ssh()),
    Attempt(SHELL, "a terminal", "PTY allocation request failed", ssh(options=["-tt"])),
    Attempt(SHELL, "`id`", MAY_NOT, ssh("id")),
    Attempt(SHELL, "`vmheal-host; id`", MAY_NOT, ssh("vmheal-host; id")),
    Attempt(SHELL, "`vmheal-host`, a line end, `id`", MAY_NOT, ssh("vmheal-host\nid")),
    Attempt(SHELL, "`vmheal-host serve`", MAY_NOT, ssh("vmheal-host serve")),
    Attempt(SHELL, "`sudo -n id`", MAY_NOT, ssh("sudo -n id")),
    Attempt(
        SHELL,
        "libvirt's command with `; id` in it",
        MAY_NOT,
        ssh("sh -c 'virt-ssh-helper 'qemu:///system'; id'"),
    ),
    Attempt(SHELL, "libvirt's netcat on another socket", MAY_NOT, ssh("sh -c 'nc -U /run/docker.sock'")),
    Attempt(SHELL, "SFTP", "exit status 126", ssh("sftp", options=["-s"])),
    Attempt(SHELL, "`scp -f /etc/shadow`", MAY_NOT, ssh("scp -f /etc/shadow")),
    Attempt(SHELL, "rsync's server", MAY_NOT, ssh("rsync --server . /etc")),
    Attempt(
        SHELL,
        "a connection forwarded (-W)",
        "exit status 255: stdio forwarding failed",
        lambda site: ssh(options=["-W", f"127.0.0.1:{site.sshd.port}"])(site),
    ),
    Attempt(
        SHELL,
        "a connection forwarded, by another client",
        "Administratively prohibited",
        lambda site: channel(
            lambda it: it.open_channel(
                "direct-tcpip", ("127.0.0.1", site.sshd.port), ("127.0.0.1", 1), timeout=SOON
            )
        )(site),
    ),
    Attempt(SHELL, "libvirtd's socket forwarded", "the connection ended", _socket_forward),
    Attempt(
        SHELL,
        "a port of the host forwarded back (-R)",
        "refused by sshd",
        channel(lambda it: it.request_port_forward("127.0.0.1", 0)),
    ),
    Attempt(
        SHELL,
        "X11",
        "refused by sshd",
        channel(lambda it: it.open_session().request_x11()),
    ),
    Attempt(
        SHELL, "an agent, LD_PRELOAD, PYTHONPATH, PATH, BASH_ENV sent along", "have: nothing", _environment
    ),
    Attempt(SHELL, "another key", "Permission denied", _other_key),
    Attempt(SHELL, "a password", "Permission denied", ssh("id", options=["-o", "PubkeyAuthentication=no"])),
    Attempt(SHELL, "a ninth connection at the same time", "too many connections", _places),
    *_programs(),
    *_names(),
    Attempt(
        DRBD,
        "`primary` of a resource that is not in host.conf",
        "host's configuration",
        asks("drbdadm", "primary", OTHER),
    ),
    Attempt(DRBD, "`secondary` of it", "host's configuration", asks("drbdadm", "secondary", OTHER)),
    Attempt(
        DRBD, "`connect vm1:--force`", "is not the name of a peer", asks("drbdadm", "connect", "vm1:--force")
    ),
    Attempt(
        DRBD, "`connect vm1:../v02`", "is not the name of a peer", asks("drbdadm", "connect", "vm1:../v02")
    ),
    Attempt(DRBD, "`primary vm1:v02`", NO_NAME, asks("drbdadm", "primary", "vm1:v02")),
    Attempt(DRBD, "to read /etc/shadow", NOT_LISTED, asks_read("/etc/shadow")),
    Attempt(
        DRBD, "to read /proc/drbd/../../etc/shadow", NOT_LISTED, asks_read("/proc/drbd/../../etc/shadow")
    ),
    Attempt(DRBD, "to read /proc/self/environ", NOT_LISTED, asks_read("/proc/self/environ")),
    Attempt(
        DRBD,
        "allowed: `primary` of a resource in host.conf",
        "status: 0",
        asks("drbdadm", "primary", ALLOWED),
        (f"drbdadm primary {ALLOWED}",),
    ),
    Attempt(
        DRBD,
        "`vmheal-fence-peer release vm1`",
        NOT_LISTED,
        asks("vmheal-fence-peer", "release", ALLOWED),
    ),
    Attempt(
        DRBD,
        "allowed: `vmheal-fence-peer check --json`",
        "status: 0",
        asks("vmheal-fence-peer", "check", "--json"),
        ("vmheal-fence-peer check --json",),
    ),
    Attempt(WIRE, "binary garbage", "not JSON", lines(bytes(range(10)) + b"\x80\xff" * 50)),
    Attempt(WIRE, "UTF-16", "not JSON", lines('{"id":1}'.encode("utf-16-be"))),
    Attempt(WIRE, "an empty line", "not JSON", lines(b"")),
    Attempt(WIRE, "JSON, 4,000 deep", "not JSON", lines(b"[" * 4000)),
    Attempt(WIRE, "a number of 4,000 digits", "refused", lines(b'{"id": ' + b"9" * 4000 + b"}")),
    Attempt(WIRE, "a list for a request", "not an object", lines(b"[1]")),
    Attempt(WIRE, "no id", "id: must be", lines(b'{"seconds": 5}')),
    Attempt(WIRE, "an id that is true", "id: must be", lines(b'{"id": true, "seconds": 5}')),
    Attempt(WIRE, "NaN seconds", "seconds: must be", lines(b'{"id": 1, "seconds": NaN}')),
    Attempt(WIRE, "endless seconds", "seconds: must be", lines(b'{"id": 1, "seconds": 1e999}')),
    Attempt(WIRE, "seconds below 0", "seconds: must be", lines(b'{"id": 1, "seconds": -1}')),
    Attempt(WIRE, "a word that is a list", "must be a list of words", asks("drbdadm", ["primary"], ALLOWED)),
    Attempt(
        WIRE,
        "words in one text",
        "must be a list of words",
        lines(b'{"id":1,"seconds":5,"run":"drbdadm primary vm1"}'),
    ),
    Attempt(
        WIRE,
        "an environment with it",
        "and nothing else",
        asks("drbdadm", "primary", ALLOWED, env={"A": "b"}),
    ),
    Attempt(
        WIRE,
        "two commands under the same key",
        NOT_LISTED,
        lines(b'{"id":1,"seconds":5,"run":["drbdadm","primary","vm1"],"run":["drbdadm","down","vm1"]}'),
    ),
    Attempt(WIRE, "a line of 5,000 bytes", "longer than 4096", _long_line),
    Attempt(WIRE, "6 MB without a line end", "vmheal-host ended", _endless_line),
    Attempt(WIRE, "half a line, and no more", "not ended within 10 s; vmheal-host ended", _slow_line),
    Attempt(
        WIRE,
        "10,000 requests at once",
        "all answered (busy, late), with less than 64 MiB",
        _flood,
        ("drbdadm get-gi slow*",),
    ),
    Attempt(WIRE, "answers that are never read", "vmheal-host ended", _deaf),
    Attempt(
        WIRE,
        "the same request again",
        "answered 2 times, to 1 id",
        _twice,
        (f"drbdadm get-gi {ALLOWED}",) * 2,
    ),
    Attempt(
        WIRE,
        "a program that prints without end",
        "too_large",
        asks("drbdadm", "get-gi", "endless"),
        ("drbdadm get-gi endless",),
    ),
    Attempt(
        WIRE,
        "a question that hangs",
        "late: True; the program was killed",
        _late(["drbdadm", "get-gi", "slow"]),
        ("drbdadm get-gi slow",),
    ),
    Attempt(
        WIRE,
        "a change that hangs",
        "late: True; the program goes on",
        _late(["drbdadm", "primary", "slow"]),
        ("drbdadm primary slow",),
    ),
    Attempt(WIRE, "60 changes that hang", "at most 33 are left behind", _hanging, ("drbdadm primary slow*",)),
    Attempt(
        WIRE,
        "hanging up within a change",
        "vmheal-host ended; the program goes on",
        _half_closed,
        ("drbdadm primary slow",),
    ),
    Attempt(
        VMS,
        "garbage",
        "answered 0 bytes; the connection ended",
        bytes_to_libvirt(b"GET / HTTP/1.0\r\n\r\n" * 10),
    ),
    Attempt(
        VMS, "a message of 4 GiB", "answered 0 bytes; the connection ended", bytes_to_libvirt(b"\xff" * 64)
    ),
    Attempt(
        VMS,
        "to look at a domain that is not in host.conf",
        DENIED,
        on_libvirt(lambda it, _: it.lookupByName(OTHER)),
    ),
    Attempt(
        VMS,
        "to destroy one that was found in the list of all",
        f"{DENIED} destroy",
        _foreign_domain("destroy"),
    ),
    Attempt(VMS, "to read its definition", f"{DENIED} XMLDesc", _foreign_domain("XMLDesc")),
    Attempt(VMS, "to destroy it under an allowed name", "libvirt has not said", _forged_domain),
    Attempt(VMS, "QEMU's monitor", f"{DENIED} procedure", on_libvirt(_monitor)),
    Attempt(
        VMS,
        "a definition with its secrets",
        "not told with its secrets",
        _domain(lambda it: it.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)),
    ),
    Attempt(VMS, "a console", DENIED, on_libvirt(_console)),
    Attempt(
        VMS,
        "a screenshot",
        DENIED,
        on_libvirt(lambda it, _: it.lookupByName(ALLOWED).screenshot(it.newStream(0), 0)),
    ),
    Attempt(VMS, "its memory in a file", DENIED, _domain(lambda it: it.coreDump("/etc/cron.d/x"))),
    Attempt(VMS, "to save it into a file", DENIED, _domain(lambda it: it.save("/etc/cron.d/x"))),
    Attempt(
        VMS,
        "a file of the host attached",
        DENIED,
        on_libvirt(lambda it, site: it.lookupByName(ALLOWED).attachDevice(_device(site))),
    ),
    Attempt(VMS, "to undefine it", DENIED, _domain(lambda it: it.undefine())),
    Attempt(
        VMS, "to have it started at boot", "autostart is not set", _domain(lambda it: it.setAutostart(1))
    ),
    Attempt(
        VMS,
        "one that runs without a definition",
        DENIED,
        on_libvirt(lambda it, site: it.createXML(site.libvirtd.guest(ALLOWED))),
    ),
    Attempt(VMS, "to define a domain that is not in host.conf", "host's configuration", _define(str, OTHER)),
    Attempt(
        VMS, "a definition with /etc/shadow as a disk", "is not allowed", _define(_file_disk("/etc/shadow"))
    ),
    Attempt(VMS, "with /dev/drbd/../sda", "is not allowed", _define(_file_disk("/dev/drbd/../sda"))),
    Attempt(VMS, "with a relative path", "is not allowed", _define(_file_disk("vmlinuz"))),
    Attempt(
        VMS,
        "with another emulator",
        "is not allowed",
        _define(lambda it: it.replace("/usr/bin/qemu-system-x86_64", "/bin/sh")),
    ),
    Attempt(
        VMS,
        "with arguments for QEMU",
        "another namespace",
        _define(lambda it: it.replace("</domain>", ARGUMENTS)),
    ),
    Attempt(VMS, "with a document type", "prolog", _define(lambda it: "<!DOCTYPE x>" + it)),
    Attempt(
        VMS,
        "with a device of the host",
        "<hostdev",
        _define(lambda it: it.replace("</devices>", "<hostdev mode='subsystem' type='pci'/></devices>")),
    ),
    Attempt(
        VMS,
        "with a script for its network",
        "is not allowed",
        _define(
            lambda it: it.replace(
                "</devices>", "<interface type='ethernet'><script path='reboot'/></interface></devices>"
            )
        ),
    ),
    Attempt(
        VMS, "to send it to a stranger", "is no migrate_uri", _move("qemu+tcp://10.9.9.9/system", {}, 1 | 2)
    ),
    Attempt(
        VMS,
        "to send its memory to a stranger",
        "is no migrate_uri",
        _move(TARGET, {"migrate_uri": "tcp://10.9.9.9"}, 1 | 2),
    ),
    Attempt(
        VMS,
        "to send it in another definition",
        f"{DENIED} migrateToURI3: the parameter destination_xml",
        _move(TARGET, {"destination_xml": "<domain/>"}, 1 | 2),
    ),
    Attempt(VMS, "to send it and undefine it", "the flags", _move(TARGET, {}, 1 | 2 | 16)),
    Attempt(VMS, "the secrets of libvirt", DENIED, on_libvirt(lambda it, _: it.listAllSecrets())),
    Attempt(VMS, "its storage pools", DENIED, on_libvirt(lambda it, _: it.listAllStoragePools())),
    Attempt(
        VMS,
        "a network of its own",
        DENIED,
        on_libvirt(lambda it, _: it.networkDefineXML("<network><name>x</name></network>")),
    ),
    Attempt(VMS, "libvirt's capabilities", DENIED, on_libvirt(lambda it, _: it.getCapabilities())),
    Attempt(VMS, "allowed: a domain in host.conf, defined", "done: virDomain", _define(str)),
    Attempt(VMS, "allowed: read without its secrets", "done: str", _domain(lambda it: it.XMLDesc())),
    Attempt(
        VMS, "allowed: started and destroyed", "done: int", _domain(lambda it: it.create() + it.destroy())
    ),
    Attempt(
        ARBITER,
        "a guessed token",
        "401",
        arbiter(lambda it: str(it.post("v01", {}, token="a-token-of-v0").status_code)),
    ),
    Attempt(ARBITER, "to ask as another host", "400", arbiter(lambda it: it.ask("v02", **LIES, host="v01"))),
    Attempt(
        ARBITER,
        "an alert",
        "401",
        arbiter(lambda it: str(it.post("v02", {"alerts": []}, ALERTS).status_code)),
    ),
    Attempt(
        ARBITER,
        "a question of 1 MB",
        "413",
        arbiter(lambda it: str(it.post("v02", b"x" * (1 << 20)).status_code)),
    ),
    Attempt(
        ARBITER,
        "to go on with what another host holds",
        f"wait: v01 holds the authority over voms01; {UNCHANGED}",
        arbiter(lambda it: it.ask("v02", **LIES)),
    ),
    Attempt(
        ARBITER,
        "to admit a peer as if it were the Primary",
        f"refuse: v02 is not the Primary that sees v01 connected and UpToDate; {UNCHANGED}",
        arbiter(lambda it: it.ask("v02", **LIES, hook="unfence-peer", connected=True, peer_up_to_date=True)),
    ),
    Attempt(
        ARBITER,
        "to resync a host that was granted",
        "its data are newer than those of v02; admitted: v01; holder: v01",
        arbiter(lambda it: _after_a_grant(it, hook="before-resync-source", peer="v01")),
    ),
    Attempt(
        ARBITER,
        "to admit itself again after another host was granted",
        "v02 refuse: v02 is not the Primary that sees v01 connected and UpToDate; admitted: v01; holder: v01",
        arbiter(
            lambda it: _after_a_grant(it, **LIES, hook="unfence-peer", connected=True, peer_up_to_date=True)
        ),
    ),
    Attempt(
        ARBITER,
        "to go on with a resource that is on other hosts",
        "wait: voms01 is on v01, v02; this asks about v02 and v03",
        arbiter(lambda it: it.ask("v02", peer="v03", role="Primary", up_to_date=True)),
    ),
    Attempt(
        ARBITER,
        "to go on with a resource that nobody has seen",
        f"wait: other has not been seen in order yet: connected, and UpToDate on both sides; {UNCHANGED}",
        arbiter(lambda it: it.ask("v02", **LIES, resource="other")),
    ),
    Attempt(
        ARBITER,
        "a question of an earlier boot's version",
        "wait",
        arbiter(
            lambda it: it.post(
                "v02",
                {
                    "hook": "fence-peer",
                    "resource": "voms01",
                    "boot_id": "a",
                    "began_ns": 1,
                    "version": 0,
                    **LIES,
                },
            ).json()["verdict"]
        ),
    ),
    Attempt(
        ARBITER,
        f"hooks of {MAX_RUNS + 50} volumes",
        f"{MAX_RUNS} of {MAX_RUNS + 50} are written down; {UNCHANGED}",
        arbiter(_many_volumes),
    ),
    Attempt(
        ARBITER,
        "worst case: a replica's host says that it resyncs the holder",
        "it may lack what another one wrote; v02 wait: v01 holds the authority over voms01; admitted: v02; holder: v01",
        arbiter(_frozen_by_the_peer),
    ),
)
