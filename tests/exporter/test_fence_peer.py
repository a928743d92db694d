"""DRBD's handler: what it sees, what it asks, and how it ends, against the arbiter over HTTP."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from actuator.core.arbiter import side_of
from exporter import fence_peer
from exporter.drbd import parse_events2
from exporter.drbd_proc import agrees, parse_proc
from tests.actuator.deliveries import TOKENS, arbitrating_journal, served
from tests.exporter.drbd_samples import command, drbd9, drbd84, snaps9, snaps84

PROC = command(drbd84("14-connected-primary-secondary.v01"), "cat /proc/drbd")
LOST = PROC.replace(
    "cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate",
    "cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown",
)
PROMOTING = LOST.replace("ro:Primary", "ro:Secondary")
SOON = 20.0
PATIENCE = 0.3

# ---- what it sees ------------------------------------------------------------------------------------------


def is_of_one_moment(label):
    """Nothing changed in this capture between its two commands."""
    capture = drbd84(label)
    snapshot = parse_events2(command(capture, "drbdsetup events2 --now"))
    return agrees(snapshot, parse_proc(command(capture, "cat /proc/drbd")))


@pytest.mark.parametrize("label", [label for label in snaps84() if is_of_one_moment(label)])
def test_proc_drbd_is_read_as_events2_is(label):
    capture = drbd84(label)
    for resource in parse_events2(command(capture, "drbdsetup events2 --now")).resources:
        side = side_of("v01", resource, "peer")
        state = fence_peer._of_proc(
            command(capture, "cat /proc/drbd"), [str(it.minor) for it in resource.devices]
        )
        assert state == seen(side)


@pytest.mark.parametrize(("label", "host"), tuple(snaps9()))
def test_events2_of_drbd_9_is_read_as_the_exporter_reads_it(label, host):
    text = drbd9(label, host, "events2-now-statistics.txt")
    for resource in parse_events2(text).resources:
        own = "".join(f"{line}\n" for line in text.splitlines() if f" name:{resource.name} " in f"{line} ")
        for peer in ("v01", "v02", "v03", "v09"):
            assert fence_peer._of_events2(own, peer) == seen(side_of(host, resource, peer))


def seen(side):
    return fence_peer.State(side.role.value, side.up_to_date, side.connected, side.peer_up_to_date)


@pytest.mark.parametrize(
    "text", ["", "version: 9.2.18 (api:2)\n", " 0: cs:Unconfigured\n", "\0\xff 0:", " 7: cs:Connected"]
)
def test_what_proc_drbd_does_not_say_is_no_good_news(text):
    state = fence_peer._of_proc(text, ["0"])
    assert state is None or not (state.connected or state.up_to_date or state.peer_up_to_date)


def test_one_that_is_down_is_no_frozen_primary(tmp_path):
    """8.4 does not list it any more: a handler that still asks for it must end."""
    proc = tmp_path / "proc"
    for text in (
        "version: 8.4.11 (api:1)\nsrcversion: A\n",
        f"version: 8.4.11\n{LOST}".replace(" 0: ", "10: "),
    ):
        proc.write_text(text)
        state = fence_peer.read_state({"DRBD_MINOR": "0", "DRBD_PEER": "v02"}, str(proc), "voms01")
        assert state == fence_peer.State("Secondary", False, False, False)
    proc.write_text(f"version: 8.4.11\n{LOST}")
    assert fence_peer.read_state({"DRBD_MINOR": "0"}, str(proc), "voms01").role == "Primary"


def test_all_volumes_count():
    two = LOST + LOST.replace(" 0: ", " 1: ").replace("ds:UpToDate", "ds:Inconsistent")
    assert fence_peer._of_proc(two, ["0"]).up_to_date
    assert not fence_peer._of_proc(two, ["0", "1"]).up_to_date
    assert fence_peer._of_proc(two, ["0", "2"]) is None


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"DRBD_PEER": "v02"}, "v02"),
        ({"DRBD_PEER_NODE_ID": "1", "DRBD_NODE_ID_0": "v01", "DRBD_NODE_ID_1": "v02"}, "v02"),
    ],
)
def test_the_peer_has_its_host_name(environment, name):
    assert fence_peer.peer_name(environment) == name


# ---- how it asks -------------------------------------------------------------------------------------------


class Host:
    """What the handler finds on its host."""

    def __init__(self, folder, name, port):
        self.proc = folder / f"{name}.proc"
        self.proc.write_text(LOST)
        token = folder / f"{name}.token"
        token.write_text(f"{TOKENS[name]}\n")
        self.config = folder / f"{name}.conf"
        self.config.write_text(f"# of a test\nactuator 127.0.0.1:{port}\ntoken_file {token}\n")
        self.environment = {
            "DRBD_RESOURCE": "voms01",
            "DRBD_MINOR": "0",
            "DRBD_PEER": "v02" if name == "v01" else "v01",
            "PATH": os.environ["PATH"],
        }

    def run(self, *arguments):
        return fence_peer.run(arguments, self.environment, str(self.config), str(self.proc))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(fence_peer, "PATIENCE_SECONDS", dict.fromkeys(fence_peer.HOOKS, PATIENCE))
    monkeypatch.setattr(fence_peer, "UNKNOWN_ROLE_SECONDS", 4 * PATIENCE)
    monkeypatch.setattr(fence_peer, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(fence_peer, "ASK_SECONDS", SOON)
    monkeypatch.setattr(fence_peer, "say", lambda sentence: None)


@pytest.fixture
def journal(tmp_path):
    with arbitrating_journal(tmp_path / "journal") as journal:
        yield journal


@pytest.fixture
def port(journal):
    with served(journal) as receiver:
        yield receiver.port


@pytest.fixture
def v01(tmp_path, port):
    return Host(tmp_path, "v01", port)


@pytest.fixture
def v02(tmp_path, port):
    return Host(tmp_path, "v02", port)


def test_the_holder_goes_on_and_the_loser_does_not(v01, v02, journal):
    assert v01.run() == fence_peer.GRANTED
    assert journal.authority("voms01").admitted == {"v01"}
    assert v02.run() == fence_peer.DENIED
    assert journal.authority("voms01").holder == "v01"


def test_a_holder_whose_disk_is_not_up_to_date_is_not_granted(v01, journal):
    v01.proc.write_text(PROMOTING.replace("ds:UpToDate", "ds:Consistent"))
    assert v01.run() == fence_peer.DENIED
    assert not journal.authority("voms01").granted


def test_a_secondary_gives_up_after_its_patience(v02, journal):
    v02.proc.write_text(PROMOTING)
    assert v02.run() == fence_peer.DENIED
    assert not journal.authority("voms01").granted


def test_a_frozen_primary_asks_until_it_is_answered(tmp_path, journal):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    host, statuses = Host(tmp_path, "v01", port), []
    handler = threading.Thread(target=lambda: statuses.append(host.run()))
    handler.start()
    handler.join(5 * PATIENCE)
    assert handler.is_alive()
    with served(journal, port):
        handler.join(SOON)
    assert statuses == [fence_peer.GRANTED]


def test_a_frozen_primary_ends_when_it_is_connected_again(v02):
    statuses = []
    handler = threading.Thread(target=lambda: statuses.append(v02.run()))
    handler.start()
    handler.join(3 * PATIENCE)
    assert handler.is_alive()  # v01 holds the authority: it waits
    v02.proc.write_text(PROC)
    handler.join(SOON)
    assert statuses == [fence_peer.DENIED]


def test_a_promoting_holder_is_granted_too(v01, journal):
    v01.proc.write_text(PROMOTING)
    assert v01.run() == fence_peer.GRANTED
    assert journal.authority("voms01").admitted == {"v01"}


def test_a_connected_peer_is_not_asked_about(v01, v02, journal):
    """It came back while the handler started: to exclude it, or to release this side, would be wrong."""
    for host in (v01, v02):
        host.proc.write_text(PROC)
        assert host.run() == fence_peer.DENIED
    assert journal.authority("voms01").admitted == {"v01", "v02"}


def test_a_primary_that_cannot_be_looked_at_is_asked_for_longer(v01, monkeypatch):
    looks = []

    def look(*_):
        looks.append(time.monotonic())
        raise OSError("drbdsetup hangs")

    monkeypatch.setattr(fence_peer, "read_state", look)
    assert v01.run() == fence_peer.DENIED
    assert looks[-1] - looks[0] > 3 * PATIENCE


def test_a_configuration_that_changes_while_it_asks_is_read_again(v01, journal):
    right = v01.config.read_text()
    v01.config.write_text(right.replace(".token", ".old"))
    v01.config.with_suffix(".old").write_text("another token\n")
    statuses = []
    handler = threading.Thread(target=lambda: statuses.append(v01.run()))
    handler.start()
    handler.join(2 * PATIENCE)
    v01.config.write_text("half a li")
    handler.join(2 * PATIENCE)
    assert handler.is_alive()
    v01.config.write_text(right)
    handler.join(SOON)
    assert statuses == [fence_peer.GRANTED]


def test_drbd_9_is_asked_through_drbdsetup_and_heard_to_the_end(v01, journal, tmp_path):
    """An answer that ends after the first volume, or with an error, is none."""
    v01.proc.write_text("version: 9.2.18 (api:2/proto:86-122)\n")
    lines = drbd9("08b-connected-uptodate-primary-secondary", "v01", "events2-now-statistics.txt")
    name = parse_events2(lines).resources[0].name
    lines = lines.replace(f"name:{name} ", "name:voms01 ").replace(
        "connection:Connected", "connection:Connecting"
    )
    program = tmp_path / "bin" / "drbdsetup"
    program.parent.mkdir()
    v01.environment |= {"DRBD_PEER_NODE_ID": "1", "DRBD_NODE_ID_1": "v02"}
    for text, status, granted in (
        (lines.removesuffix("exists -\n"), 0, False),
        (lines, 1, False),
        ("", 0, False),
        (lines, 0, True),
    ):
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\nexit {status}\n")
        program.chmod(0o755)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
            assert v01.run() == (fence_peer.GRANTED if granted else fence_peer.DENIED), (text, status)
        assert journal.authority("voms01").granted == granted


def test_the_first_address_that_answers_will_do(v01):
    dead = "actuator 127.0.0.1:1\nactuator [::1]:1\n"
    v01.config.write_text(dead + v01.config.read_text())
    assert v01.run() == fence_peer.GRANTED


def test_the_other_hooks(v01, journal):
    assert v01.run("before-resync-source") == 0
    assert journal.authority("voms01").admitted == {"v01"}
    assert v01.run("unfence-peer") == 0  # it does not see its peer UpToDate: nothing is admitted
    assert journal.authority("voms01").admitted == {"v01"}
    v01.proc.write_text(PROC)
    assert v01.run("unfence-peer") == 0
    assert journal.authority("voms01").admitted == {"v01", "v02"}
    v01.proc.write_text(PROC.replace("ro:Primary/Secondary", "ro:Secondary/Secondary"))
    assert v01.run("attach", "voms01") == 0
    assert journal.authority("voms01").admitted == {"v02"}


def test_nothing_is_attached_while_the_peer_has_no_disk(v01, journal, monkeypatch):
    said = []
    monkeypatch.setattr(fence_peer, "say", said.append)
    v01.proc.write_text(PROC.replace("ds:UpToDate/UpToDate", "ds:Diskless/Diskless"))
    assert v01.run("attach", "voms01") == fence_peer.DENIED
    assert journal.authority("voms01").admitted == {"v01", "v02"}
    assert "its peer is connected and has no disk" in "".join(said)
    v01.proc.write_text(PROMOTING.replace("ds:UpToDate/DUnknown", "ds:Diskless/DUnknown"))
    assert v01.run("attach", "voms01") == 0


def test_nothing_is_attached_under_a_primary(v01, journal, monkeypatch):
    said = []
    monkeypatch.setattr(fence_peer, "say", said.append)
    v01.proc.write_text(LOST.replace("ds:UpToDate/DUnknown", "ds:Diskless/DUnknown"))
    assert v01.run("attach", "voms01") == fence_peer.DENIED
    assert journal.authority("voms01").admitted == {"v01", "v02"}
    assert "may run elsewhere" in "".join(said)
    v01.proc.write_text(PROC.replace("ds:UpToDate/UpToDate", "ds:Diskless/UpToDate"))
    assert v01.run("attach", "voms01") == fence_peer.DENIED
    assert "the last writes of its VM can be acknowledged and lost" in said[-1]
    secondary = PROC.replace("ro:Primary/Secondary", "ro:Secondary/Secondary")
    v01.proc.write_text(secondary.replace("ds:UpToDate/UpToDate", "ds:Diskless/UpToDate"))
    assert v01.run("attach", "voms01") == 0


@pytest.mark.parametrize("hook", ["before-resync-source", "attach"])
def test_without_an_answer_nothing_is_overwritten_or_attached(v01, hook):
    v01.config.write_text(v01.config.read_text().replace("actuator 127.0.0.1:", "actuator 127.0.0.1:1 #"))
    assert v01.run(hook) == fence_peer.DENIED
    assert v01.run("unfence-peer") == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 500 Oh\r\n\r\n{}",
        b"HTTP/1.1 401 No\r\n\r\nthe bearer token is not the right one\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n[]",
        b'HTTP/1.1 200 OK\r\n\r\n{"verdict": "grant"',
        b'HTTP/1.1 200 OK\r\n\r\n{"version": 1}',
        b'HTTP/1.1 200 OK\r\n\r\n{"verdict": "grant"}',
        b'{"verdict": "grant", "sentence": "", "version": 1}',
        b"\xff" * 100,
        b"x" * (fence_peer.MAX_ANSWER_BYTES + 100_000),
        None,
    ],
)
def test_what_is_no_answer_grants_nothing(v01, monkeypatch, answer):
    monkeypatch.setattr(fence_peer, "ASK_SECONDS", 0.2)
    v01.proc.write_text(PROMOTING)
    with answering(answer) as port:
        v01.config.write_text(f"actuator 127.0.0.1:{port}\ntoken_file {v01.config.with_suffix('.token')}\n")
        begun = time.monotonic()
        assert v01.run() == fence_peer.DENIED
        assert time.monotonic() - begun < SOON
        v01.proc.write_text(LOST)
        statuses = []
        handler = threading.Thread(target=lambda: statuses.append(v01.run()))
        handler.start()
        handler.join(2 * PATIENCE)
        assert handler.is_alive()  # a frozen Primary asks on
        v01.proc.write_text(PROC)
        handler.join(SOON)
        assert statuses == [fence_peer.DENIED]


@contextlib.contextmanager
def answering(answer):
    """A server that says this to everybody; None: it says nothing and hangs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        stop, held = threading.Event(), []

        def serve():
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = server.accept()
                    held.append(connection)
                    if answer is not None:
                        connection.recv(65536)
                        connection.sendall(answer)
                        connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            thread.join()
            for connection in held:
                connection.close()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("", "must have 'actuator HOST:PORT' and 'token_file PATH'"),
        ("actuator 10.0.0.1:1", "must have"),
        ("token_file /t", "must have"),
        ("actuator 10.0.0.1", r"conf:1: must be one of 'actuator \[https://\]HOST:PORT', 'token_file PATH'"),
        ("actuator https://10.0.0.1:1/\ntoken_file {token}", "conf:1: must be one of"),
        (
            "actuator https://10.0.0.1:1\nca_file /ca",
            "must have .*; by https 'client_cert_file PATH' will do",
        ),
        ("actuator https://10.0.0.1:1\ntoken_file {token}\nclient_key_file /k", "go together"),
        ("actuator 10.0.0.1:1\ntoken_file {token}\nca_file /ca", "need 'actuator https://HOST:PORT'"),
        ("\nactuatr 10.0.0.1:1", "conf:2: must be"),
        ("witness gateway:22", "conf:1: must be .* 'witness IP:PORT'"),
        ("witness .:22", "conf:1: must be"),
        ("witness a..b:22", "conf:1: must be"),
        ("witness 10.0.0.1:0", "conf:1: must be"),
        ("witness 10.0.0.1:65536", "conf:1: must be"),
        ("witness 10.0.0.1:\u0661", "conf:1: must be"),
        pytest.param(f"actuator v01:{'9' * 5000}", "conf:1: must be", id="a port of 5,000 digits"),
        ("actuator []:1", "conf:1: must be"),
        ("token_file /a\0b", "conf:1: has a NUL"),
        ("isolation_timeout_seconds soon", "conf:1: must be"),
        ("hard_timeout_seconds 0", "conf:1: must be"),
        ("hard_timeout_seconds nan", "conf:1: must be"),
        ("actuator [::1]:1\ntoken_file {token}\nhard_timeout_seconds 4", "must not be below"),
    ],
)
def test_a_configuration_that_is_wrong(v01, config, said):
    v01.config.write_text(config.format(token=v01.config.with_suffix(".token")))
    with pytest.raises(fence_peer.HookError, match=said):
        v01.run()


def test_all_that_can_be_configured(v01):
    v01.config.write_text(
        f"actuator [fd00::9]:1\nactuator mon:2\ntoken_file {v01.config.with_suffix('.token')}\n"
        "libvirt_uri xen:///system\nlibvirt_uri lxc:///system  # both\nwitness 10.0.0.1:22\nwitness [fd00::1]:53\n"
        "isolation_timeout_seconds 7.5\nhard_timeout_seconds 90\n"
    )
    assert fence_peer.read_config(str(v01.config)) == fence_peer.Config(
        (fence_peer.Actuator("fd00::9", 1), fence_peer.Actuator("mon", 2)),
        TOKENS["v01"],
        ("xen:///system", "lxc:///system"),
        (("10.0.0.1", 22), ("fd00::1", 53)),
        7.5,
        90,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        *(("primary",), ("fence-peer", "voms01"), ("attach", "a", "b")),
        *(("release",), ("release", "a", "b"), ("up", "voms01")),
    ],
)
def test_usage(v01, arguments):
    with pytest.raises(fence_peer.HookError, match="usage"):
        v01.run(*arguments)


def test_as_a_program_it_fails_closed(tmp_path):
    program = [sys.executable, "-m", "exporter.fence_peer"]
    for environment in ({}, {"DRBD_RESOURCE": "voms01"}, {"DRBD_RESOURCE": "voms01", "DRBD_PEER": "v02"}):
        done = subprocess.run(program, env=environment, capture_output=True, timeout=SOON, check=False)
        assert (done.returncode, done.stderr) == (fence_peer.DENIED, b""), environment


def test_it_needs_the_standard_library_alone_and_little_of_it():
    """DRBD keeps a VM's I/O frozen while it starts."""
    code = "import sys, exporter.fence_peer, exporter.release; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=SOON, check=True
    )
    loaded = set(done.stdout.split())
    assert loaded & {"http", "email", "urllib", "pathlib", "logging", "asyncio", "structlog", "xml"} == set()


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(flag, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["vmheal-fence-peer", flag])
    with pytest.raises(SystemExit) as ended:
        fence_peer.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: vmheal-fence-peer ")
