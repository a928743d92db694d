"""vmheal-fence-peer: asks vmheal's arbiter on behalf of DRBD, which runs it as a handler and waits for it.

    handlers {
        fence-peer           "/usr/bin/vmheal-fence-peer";
        unfence-peer         "/usr/bin/vmheal-fence-peer unfence-peer";
        before-resync-source "/usr/bin/vmheal-fence-peer before-resync-source";
    }

and `vmheal-fence-peer attach RESOURCE` before a disk is attached; `up` attaches all of them at boot. A VM's
I/O stands still meanwhile: only the standard library, only what is needed of it, and no other program on
DRBD 8.4. A host that has lost, or is cut off from everybody, has more to do: see ``exporter.release``, where
`release RESOURCE` is too.

Exit status of fence-peer, in DRBD's words: 4, the peer is outdated: go on; 1: do not. Of the others: 0, go
on; 1, do not. Whatever goes wrong is a 1: DRBD then keeps the I/O frozen, refuses the promotion, or drops the
connection, and nothing is lost. In syslog as vmheal-fence-peer.

`check` says whether all that would work now: see ``exporter.fence_check``.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import syslog
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import ssl

CONFIG = "/etc/vmheal/fence-peer.conf"
PROC = "/proc/drbd"
GRANTED, DENIED = 4, 1
HOOKS = ("fence-peer", "unfence-peer", "before-resync-source", "attach")
USAGE = (
    f"usage: vmheal-fence-peer [{' | '.join(HOOKS[:-1])} | attach RESOURCE | release RESOURCE | up"
    " | check [--json]]"
)

ASK_SECONDS = 2.0
"""For one question to one address, from the connection to the last byte."""
PAUSE_SECONDS = 0.5
"""Between two rounds of questions."""
PATIENCE_SECONDS = {"fence-peer": 2.0, "unfence-peer": 0.0, "before-resync-source": 8.0, "attach": 8.0}
"""How long is asked. A Secondary that wants to be promoted has DRBD run this up to four times; whether an
unfence-peer is heard is all the same to DRBD, which waits for it. A frozen Primary asks until it is answered
or connected again."""
UNKNOWN_ROLE_SECONDS = 60.0
"""How long fence-peer asks when DRBD does not say whether this is a frozen Primary."""
MAX_ANSWER_BYTES = 65536
MAX_SECONDS = 86400.0
MAX_PORT = 65535
HTTPS = "https://"
NOT_CONNECTED = {
    *("StandAlone", "Disconnecting", "Unconnected", "Timeout", "BrokenPipe", "NetworkFailure"),
    *("ProtocolError", "TearDown", "WFConnection", "WFReportParams", "Unconfigured"),
}
"""8.4's connection states in which the peer is not heard."""


class HookError(Exception):
    """It cannot be asked; the message is a sentence for syslog."""


class Tls(NamedTuple):
    """How an actuator is asked by https. Its certificate and its name are always verified."""

    ca_file: str = ""
    """By these authorities; empty: by the system's."""
    client_cert_file: str = ""
    client_key_file: str = ""


class Actuator(NamedTuple):
    """Whom to ask."""

    host: str
    port: int
    tls: Tls | None = None
    """None: plain HTTP."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Config(NamedTuple):
    """`key value` lines; `actuator`, `libvirt_uri` and `witness` may be there several times."""

    actuators: tuple[Actuator, ...]
    token: str
    """Empty: the client's certificate says who this is."""
    libvirt_uris: tuple[str, ...] = ()
    """Where the VMs of this host are found, to be ended."""
    witnesses: tuple[tuple[str, int], ...] = ()
    """Who answers when it is the actuator that is gone, and not this host that is cut off."""
    isolation_timeout_seconds: float = 5.0
    """A frozen VM is ended after so long without an answer, when no witness is reached either."""
    hard_timeout_seconds: float = 60.0
    """And after so long whatever a witness says."""

    @property
    def isolation_seconds(self) -> float:
        """After so long at most a host that is cut off ends its frozen VMs."""
        return self.hard_timeout_seconds if self.witnesses else self.isolation_timeout_seconds


class Done(NamedTuple):
    """What a program left behind."""

    status: int
    output: str
    error: str


class State(NamedTuple):
    """How this host sees the resource and its peer; of several volumes the worst."""

    role: str
    up_to_date: bool
    connected: bool
    peer_up_to_date: bool


def main() -> None:
    """Run as DRBD's handler."""
    if sys.argv[1:] in (["--help"], ["-h"]):
        sys.stdout.write(f"{USAGE}\n\n{__doc__}")
        sys.exit(0)
    syslog.openlog("vmheal-fence-peer", syslog.LOG_PID, syslog.LOG_DAEMON)
    try:
        status = run(sys.argv[1:], os.environ)
    except (HookError, OSError) as error:
        say(f"{error}")
        status = DENIED
    except Exception as error:  # noqa: BLE001  whatever it is: do not go on, and say so
        say(f"{type(error).__name__}: {error}")
        status = DENIED
    sys.exit(status)


def run(
    arguments: Sequence[str], environment: Mapping[str, str], config: str = CONFIG, proc: str = PROC
) -> int:
    """Ask and wait; the exit status.

    Raises:
        HookError: the configuration or the environment is not as it must be.
        OSError: a file cannot be read.
    """
    hook = arguments[0] if arguments else "fence-peer"
    if hook == "check" and arguments[1:] in ([], ["--json"]):
        from exporter import fence_check  # noqa: PLC0415  the hooks do not wait for it

        return fence_check.check(config, as_json=bool(arguments[1:]))
    if (hook, len(arguments)) in {("release", 2), ("up", 1)}:
        from exporter import release  # noqa: PLC0415  the hooks do not wait for it

        if hook == "up":
            return release.up(config, proc)
        return release.release(arguments[1], environment, config, proc)
    if hook not in HOOKS or len(arguments) > (2 if hook == "attach" else 1):
        raise HookError(USAGE)
    resource = (
        arguments[1] if hook == "attach" and len(arguments) > 1 else environment.get("DRBD_RESOURCE", "")
    )
    if not resource:
        raise HookError("DRBD_RESOURCE is not set: it is DRBD that runs this as a handler")
    if hook != "attach":
        peer_name(environment)
    read_config(config)
    if hook == "fence-peer":
        return fence(resource, environment, config, proc)
    if hook == "attach":
        from exporter import release  # noqa: PLC0415  the hooks do not wait for it

        if refusal := release.refuses_attach(resource, environment, proc):
            say(f"attach {resource}: refused: {refusal}")
            return DENIED
    question = question_of(hook, resource, environment)
    verdict = wait_for_verdict(
        lambda: read_config(config), question, lambda: read_state(environment, proc, resource)
    )
    return 0 if verdict == "allow" or hook == "unfence-peer" else DENIED


def fence(resource: str, environment: Mapping[str, str], config: str, proc: str) -> int:
    """Ask whether to go on without the peer. Who is told to give the resource up never goes on."""
    from exporter import release  # noqa: PLC0415  it needs this module

    question = question_of("fence-peer", resource, environment)
    verdict = release.wait_as_loser_may(question, environment, config, proc)
    if verdict == "release":
        release.begin(resource, environment)
    return GRANTED if verdict == "grant" else DENIED


def question_of(hook: str, resource: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what a run of a hook asks, before it has looked at anything.

    Raises:
        HookError: nobody says who the peer is.
        OSError: a file cannot be read.
    """
    return {
        "hook": hook,
        "resource": resource,
        **({} if hook == "attach" else {"peer": peer_name(environment)}),
        "minors": environment.get("DRBD_MINOR", ""),
        "boot_id": read_text("/proc/sys/kernel/random/boot_id").strip(),
        "began_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    }


def boot_time() -> float:
    """Seconds since the boot; those of a suspended host count too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wait_for_verdict(
    configure: Callable[[], Config],
    question: Mapping[str, Any],
    look: Callable[[], State],
    heard: Callable[[float], None] | None = None,
) -> str:
    """Ask round after round until there is a verdict other than "wait"; "" when there was none in time.

    A Primary that lost its peer is frozen, and asks until it is answered or connected again. The
    configuration is read for each round: a token or an address may change meanwhile. ``heard`` is told of
    each verdict, with the ``boot_time`` before it was asked for.
    """
    begun = time.monotonic()
    hook = question["hook"]
    role, said = "Unknown", ""
    while True:
        verdict, sentence = ask_anyone(configure, question, look, heard)
        if sentence != said:
            say(f"{hook} {question['resource']}: {sentence}")
        said = sentence
        if verdict not in {"", "wait"}:
            return verdict
        patience = PATIENCE_SECONDS[hook]
        if hook == "fence-peer":
            state = look_or_not(look)
            if state.connected:
                say(f"{hook} {question['resource']}: connected again")
                return ""
            role = state.role if state.role != "Unknown" else role
            patience = {"Primary": float("inf"), "Unknown": UNKNOWN_ROLE_SECONDS}.get(role, patience)
        if time.monotonic() >= begun + patience:
            return ""
        time.sleep(PAUSE_SECONDS)  # noqa: TID251  there is nothing else to wait for


def look_or_not(look: Callable[[], State]) -> State:
    """Look; nothing is known when that fails."""
    try:
        return look()
    except OSError as error:
        say(f"{error}")
        return State("Unknown", False, False, False)


def ask_anyone(
    configure: Callable[[], Config],
    question: Mapping[str, Any],
    look: Callable[[], State],
    heard: Callable[[float], None] | None = None,
) -> tuple[str, str]:
    """Ask one address after the other until there is a verdict; it ("" without one), and a sentence."""
    try:
        config = configure()
    except (HookError, OSError) as error:
        return "", str(error)
    verdict, sentence = "", ""
    for actuator in config.actuators:
        asked_at = boot_time()
        verdict, sentence = ask(actuator, config.token, question, look)
        if verdict:
            if heard is not None:
                heard(asked_at)
            break
    return verdict, sentence


def ask(
    actuator: Actuator, token: str, question: Mapping[str, Any], look: Callable[[], State]
) -> tuple[str, str]:
    """Say who asks, look, and ask; the verdict ("" without one), and a sentence."""
    try:
        reply = exchange(actuator, token, question)
        seen = {} if question["hook"] == "attach" else look()._asdict()
        if question["hook"] == "fence-peer" and seen["connected"]:
            return "", "connected again"
        reply = exchange(actuator, token, {**question, "version": reply["version"], **seen})
        return str(reply["verdict"]), f"{reply['verdict']}: {reply['sentence']}"
    except Exception as error:  # noqa: BLE001  an answer may be anything: a frozen VM waits for the next one
        return "", f"{actuator}: {str(error) or type(error).__name__}"


def exchange(actuator: Actuator, token: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
    """One question over HTTP; without a body only who is asking.

    Raises:
        OSError: no answer in time, or by https not from the actuator.
        ValueError: another answer than 200 with JSON in it.
    """
    deadline = time.monotonic() + ASK_SECONDS
    method, content = ("GET", b"") if body is None else ("POST", json.dumps(body).encode())
    head = (
        f"{method} /api/v1/arbitrate HTTP/1.0\r\nHost: {actuator.host}\r\n"
        + (f"Authorization: Bearer {token}\r\n" if token else "")
        + f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    received = b""
    with _connect(actuator, deadline) as connection:
        connection.sendall(head.encode() + content)
        while chunk := _receive(connection, deadline):
            received += chunk
            if len(received) > MAX_ANSWER_BYTES:
                raise ValueError("the answer does not end")
    head_bytes, _, answer = received.partition(b"\r\n\r\n")
    status_line = head_bytes.partition(b"\r\n")[0].decode("latin-1")
    if status_line.split(" ")[1:2] != ["200"]:
        raise ValueError(f"answered {status_line!r}: {answer[:200].decode(errors='replace').strip()}")
    reply: dict[str, Any] = json.loads(answer)
    return reply


def _connect(actuator: Actuator, deadline: float) -> socket.socket:
    plain = socket.create_connection((actuator.host, actuator.port), timeout=ASK_SECONDS)
    if actuator.tls is None:
        return plain
    try:
        context = _context(actuator.tls)
        plain.settimeout(max(0.001, deadline - time.monotonic()))
        return context.wrap_socket(plain, server_hostname=actuator.host)
    except BaseException:
        plain.close()
        raise


def _context(tls: Tls) -> "ssl.SSLContext":
    """Read anew each time: certificates are renewed while a frozen Primary asks."""
    import ssl  # noqa: PLC0415  plain HTTP does not wait for it

    for file in filter(None, tls):
        read_text(file)  # OpenSSL does not say which file is missing
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if tls.ca_file:
            context.load_verify_locations(tls.ca_file)
        else:
            context.load_default_certs()
        if tls.client_cert_file:
            # An empty password, so that an encrypted key is an error and not a question on a terminal.
            context.load_cert_chain(tls.client_cert_file, tls.client_key_file, password="")
    except ssl.SSLError as error:
        raise OSError(f"{', '.join(filter(None, tls))}: {error}") from error
    return context


def _receive(connection: socket.socket, deadline: float) -> bytes:
    connection.settimeout(max(0.001, deadline - time.monotonic()))
    return connection.recv(65536)


def read_config(path: str) -> Config:
    """Read the configuration.

    Raises:
        HookError: a line is not understood, or something is missing.
        OSError: it cannot be read.
    """
    said: dict[str, list[str]] = {key: [] for key in _KEYS}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        key, _, value = line.partition("#")[0].strip().partition(" ")
        value = value.strip()
        if "\0" in line:
            raise HookError(f"{path}:{number}: has a NUL")
        if key in _KEYS and _is_good(key, value):
            said[key].append(value)
        elif key:
            known = ", ".join(f"'{key} {words}'" for key, words in _KEYS.items())
            raise HookError(f"{path}:{number}: must be one of {known}; not {line!r}")
    last = {key: values[-1] for key, values in said.items() if values}
    tls = Tls(*(last.get(key, "") for key in Tls._fields))
    actuators = tuple(
        Actuator(*address, tls if value.startswith(HTTPS) else None)
        for value in said["actuator"]
        if (address := _address(value.removeprefix(HTTPS)))
    )
    if bool(tls.client_cert_file) != bool(tls.client_key_file):
        raise HookError(f"{path}: client_cert_file and client_key_file go together")
    if any(tls) and not any(it.tls for it in actuators):
        raise HookError(f"{path}: ca_file and client_cert_file need 'actuator {HTTPS}HOST:PORT'")
    if not actuators or not (tls.client_cert_file or "token_file" in last):
        raise HookError(
            f"{path}: must have 'actuator HOST:PORT' and 'token_file PATH'; by https 'client_cert_file PATH'"
            " will do for it"
        )
    config = Config(
        actuators,
        read_text(last["token_file"]).strip() if "token_file" in last else "",
        tuple(said["libvirt_uri"]),
        tuple(address for it in said["witness"] if (address := _address(it))),
        **{key: float(last[key]) for key in _SECONDS if key in last},
    )
    if config.hard_timeout_seconds < config.isolation_timeout_seconds:
        raise HookError(f"{path}: hard_timeout_seconds must not be below isolation_timeout_seconds")
    return config


_SECONDS = ("isolation_timeout_seconds", "hard_timeout_seconds")
_KEYS = {
    "actuator": f"[{HTTPS}]HOST:PORT",
    "token_file": "PATH",
    "ca_file": "PATH",
    "client_cert_file": "PATH",
    "client_key_file": "PATH",
    "libvirt_uri": "URI",
    "witness": "IP:PORT",
    **dict.fromkeys(_SECONDS, "N"),
}


def _is_good(key: str, value: str) -> bool:
    if key == "actuator":
        return _address(value.removeprefix(HTTPS)) is not None
    if key == "witness":
        address = _address(value)
        return address is not None and _is_number(address[0])
    return _seconds(value) is not None if key in _SECONDS else bool(value)


def _address(value: str) -> tuple[str, int] | None:
    name, _, port = value.rpartition(":")
    host, is_number = name.strip("[]"), port.isascii() and port.isdecimal() and len(port) <= 5  # noqa: PLR2004
    return (host, int(port)) if host and is_number and 0 < int(port) <= MAX_PORT else None


def _is_number(host: str) -> bool:
    """An address, not a name: a cut-off host would wait long for its name server."""
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):  # the latter: no name either
        return False
    return True


def _seconds(value: str) -> float | None:
    try:
        duration = float(value)
    except ValueError:
        return None
    return duration if 0 < duration <= MAX_SECONDS else None


def peer_name(environment: Mapping[str, str]) -> str:
    """Return the peer's host name: DRBD 9 gives the names of node ids, 8.4 the name itself.

    Raises:
        HookError: the environment has neither.
    """
    node_id = environment.get("DRBD_PEER_NODE_ID", "")
    peer = environment.get(f"DRBD_NODE_ID_{node_id}") or environment.get("DRBD_PEER")
    if not peer:
        raise HookError("neither DRBD_PEER_NODE_ID nor DRBD_PEER names the peer")
    return peer


def read_state(environment: Mapping[str, str], proc: str, resource: str) -> State:
    """Look at the resource: /proc/drbd has all of it on 8.4; on 9 drbdsetup is asked.

    One that is down meanwhile (8.4 does not list it any more) is no frozen Primary.

    Raises:
        OSError: it cannot be read, or not in time.
    """
    minors = environment.get("DRBD_MINOR", "").split()
    text = read_text(proc)
    if state := _of_proc(text, minors):
        return state
    if text.startswith("version: 8") and minors and not any(f"\n{minor:>2}: " in text for minor in minors):
        return State("Secondary", up_to_date=False, connected=False, peer_up_to_date=False)
    return _of_events2(events2(resource), peer_name(environment))


def _of_proc(text: str, minors: Sequence[str]) -> State | None:
    """Read 8.4's /proc/drbd; None when it does not have these minors."""
    wanted = [f"{minor}:" for minor in minors]
    lines = [line.split() for line in text.splitlines()]
    of_minors = {
        words[0]: dict(word.split(":", 1) for word in words[1:] if ":" in word)
        for words in lines
        if words and words[0] in wanted
    }
    fields = [of_minors.get(it, {}) for it in wanted]
    if not fields or not all("cs" in it for it in fields):
        return None
    disks = [it.get("ds", "").partition("/") for it in fields]
    return State(
        role=fields[0].get("ro", "").partition("/")[0] if "ro" in fields[0] else "Unknown",
        up_to_date=all(here == "UpToDate" for here, _, _ in disks),
        connected=all(it["cs"] not in NOT_CONNECTED for it in fields),
        peer_up_to_date=all(there == "UpToDate" for _, _, there in disks),
    )


def _of_events2(text: str, peer: str) -> State:
    """Read what `drbdsetup events2 --now` says of one resource."""
    lines = [line.split() for line in text.splitlines()]
    said = [
        (words[1], dict(word.split(":", 1) for word in words[2:] if ":" in word))
        for words in lines
        if words[1:]
    ]
    disks = [it.get("disk") for kind, it in said if kind == "device"]
    theirs = [it for _, it in said if it.get("conn-name") == peer]
    peer_disks = [it["peer-disk"] for it in theirs if "peer-disk" in it]
    return State(
        role=next((it["role"] for kind, it in said if kind == "resource" and "role" in it), "Unknown"),
        up_to_date=bool(disks) and set(disks) == {"UpToDate"},
        connected=any(it.get("connection") == "Connected" for it in theirs),
        peer_up_to_date=len(peer_disks) == len(disks) and set(peer_disks) == {"UpToDate"},
    )


def events2(resource: str) -> str:
    """Ask `drbdsetup events2 --now` about one resource.

    Raises:
        OSError: it is not told to its end, or not in time.
    """
    done = command(["drbdsetup", "events2", "--now", resource], ASK_SECONDS)
    if done.status or done.output.splitlines()[-1:] != ["exists -"]:
        raise OSError(f"drbdsetup events2: not told to its end (exit status {done.status})")
    return done.output


def command(argv: Sequence[str], seconds: float) -> Done:
    """Run a program in a session of its own. One that does not even die is left behind, and not waited for.

    Raises:
        OSError: it cannot be run, or not in time (``TimeoutError``).
    """
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        output, error = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        _LEFT_BEHIND.append(process)
        raise TimeoutError(f"{' '.join(argv)}: not done within {seconds:g} s") from None
    return Done(process.returncode, output, error.strip())


_LEFT_BEHIND: list[subprocess.Popen[str]] = []


def read_text(path: str) -> str:
    """Read a file.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123  pathlib takes time to import
        return file.read()


def say(sentence: str) -> None:
    """Write one line to syslog."""
    syslog.syslog(syslog.LOG_NOTICE, sentence[:1000].encode("ascii", "backslashreplace").decode())


if __name__ == "__main__":
    main()
