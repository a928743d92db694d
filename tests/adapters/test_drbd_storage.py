"""DRBD's answers, as real DRBD 8.4 and 9 gave them, and what becomes of them."""

import contextlib
import json
import re
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from actuator.adapters import drbd_storage
from actuator.adapters.drbd_storage import DrbdStorage
from actuator.adapters.host_command import RefusedError
from actuator.adapters.ssh import Completed, OutputTooLargeError, SshAccess
from actuator.adapters.warm import NotConnectedError
from actuator.model import Allowed, Done, Failed, Indeterminate, Parting, ResourceSetup, Unknown
from actuator.ports import Unanswered
from exporter.drbd import ConnectionState, DiskState, Role
from exporter.drbd_configuration import parse_current_uuid
from tests.exporter.drbd_samples import SAMPLES, command, drbd9, drbd84, snaps9, snaps84
from tests.sshd import sshd

EVENTS2 = ("drbdsetup", "events2", "--now", "--statistics")
DUMP_XML = ("drbdadm", "dump-xml")
CONNECTED = command(drbd84("14-connected-primary-secondary.v01"), "drbdsetup events2")
SECONDARY = command(drbd84("14-connected-primary-secondary.v02"), "drbdsetup events2")
NOT_UP = "exists -\n"
CONFIGURATION = """\
<config file="/etc/drbd.conf">
    <resource name="voms01">
        <host name="v01"><address family="ipv4" port="7789">10.20.0.1</address></host>
        <host name="v02"><address family="ipv4" port="7789">10.20.0.2</address></host>
    </resource>
</config>
"""


def said(stdout="", stderr="", exit_status=0):
    return Completed(exit_status, stdout, stderr)


class Programs:
    """What the programs on a host answer, each asked for by its whole argument list; and its /proc/drbd."""

    def __init__(self, answers):
        self.answers = answers
        self.proc = FileNotFoundError("/proc/drbd")
        self.may = Allowed()
        self.run_argvs = []
        self.had_seconds = []

    def __call__(self, host, access):
        return self

    def read(self, path, timeout_seconds):
        assert path == "/proc/drbd"
        answer = self.proc.pop(0) if isinstance(self.proc, list) else self.proc
        if isinstance(answer, Exception):
            raise answer
        return answer

    def allowed(self, timeout_seconds):
        if isinstance(self.may, Exception):
            raise self.may
        return self.may

    def run(self, argv, timeout_seconds):
        self.run_argvs.append(tuple(argv))
        self.had_seconds.append(timeout_seconds)
        answer = self.answers[tuple(argv)]
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    def close(self):
        pass


@pytest.fixture
def answering(monkeypatch):
    def make(answers, prefix=()):
        programs = Programs({DUMP_XML: said(CONFIGURATION), **answers})
        monkeypatch.setattr(drbd_storage, "SshHost", programs)
        hosts = {host: SshAccess(host, Path("key"), Path("known_hosts")) for host in ("v01", "v02")}
        return DrbdStorage(hosts, prefix=prefix), programs

    return make


# ---- reading ---------------------------------------------------------------------------------------------


def test_the_peer_has_its_host_name_also_on_84(answering):
    storage, _ = answering({EVENTS2: said(CONNECTED)})
    resource = storage.status("v01", timeout_seconds=5).resource("voms01")
    assert resource.role is Role.PRIMARY
    (connection,) = resource.connections
    assert (connection.name, connection.peer_role) == ("v02", Role.SECONDARY)
    assert connection.connection_state is ConnectionState.CONNECTED
    assert connection.peer_devices[0].peer_disk_state is DiskState.UP_TO_DATE
    other = storage.status("v02", timeout_seconds=5).resource("voms01")
    assert other.connections[0].name == "v01"


def test_the_configuration_is_read_once_and_again_ahead(answering, monkeypatch):
    storage, programs = answering({EVENTS2: said(CONNECTED)})
    for _ in range(3):
        storage.status("v01", timeout_seconds=5)
    assert programs.run_argvs.count(DUMP_XML) == 1
    programs.answers[DUMP_XML] = said(CONFIGURATION.replace("v02", "v03"))
    with reading_ahead(storage, monkeypatch):
        wait_until(lambda: peer_seen(storage) == "v03")


def test_a_configuration_that_cannot_be_read_any_more_is_believed_for_a_limited_time(answering, monkeypatch):
    storage, programs = answering({EVENTS2: said(CONNECTED)})
    assert peer_seen(storage) == "v02"
    programs.answers[DUMP_XML] = said("", "Parse error", 10)
    assert peer_seen(storage) == "v02"
    monkeypatch.setattr(drbd_storage, "NAMES_SECONDS", 0)
    with pytest.raises(Unanswered, match="Parse error"):
        peer_seen(storage)


def test_reading_ahead_leaves_nothing_to_run_for_a_look(answering, monkeypatch):
    storage, programs = answering({EVENTS2: said(CONNECTED)})
    programs.proc = PROC
    with reading_ahead(storage, monkeypatch):
        wait_until(lambda: programs.run_argvs.count(EVENTS2) >= 2 * len(("v01", "v02")))
    wait_until(lambda: not any(thread.name.startswith("reads ahead") for thread in threading.enumerate()))
    assert asked(storage, programs)[0] == 0
    assert programs.run_argvs == []


def test_reading_ahead_goes_on_after_a_failure(answering, monkeypatch):
    storage, programs = answering({EVENTS2: said(CONNECTED), DUMP_XML: said("", "Parse error", 10)})
    with reading_ahead(storage, monkeypatch):
        wait_until(lambda: programs.run_argvs.count(DUMP_XML) >= 4)
        programs.answers[DUMP_XML] = said(CONFIGURATION)
        wait_until(lambda: all(host._names for host in storage._hosts.values()))


@contextlib.contextmanager
def reading_ahead(storage, monkeypatch):
    monkeypatch.setattr(drbd_storage, "READ_AHEAD_SECONDS", 0.01)
    storage.read_ahead()
    try:
        yield
    finally:
        storage.close()


def peer_seen(storage):
    return storage.status("v01", timeout_seconds=5).resource("voms01").connections[0].name


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


@pytest.mark.parametrize(
    "configuration", [CONFIGURATION.replace('"voms01"', '"other"'), CONFIGURATION.replace('"v01"', '"v09"')]
)
def test_a_peer_whose_name_cannot_be_told_is_a_problem_of_its_resource(answering, configuration):
    storage, _ = answering({EVENTS2: said(CONNECTED), DUMP_XML: said(configuration)})
    snapshot = storage.status("v01", timeout_seconds=5)
    (problem,) = snapshot.problems_of("voms01")
    assert "peer's host name" in str(problem)


def test_without_the_configuration_nothing_is_known_of_84(answering):
    answers = {EVENTS2: said(CONNECTED), DUMP_XML: said("", "/etc/drbd.conf:1: Parse error", 10)}
    storage, _ = answering(answers)
    with pytest.raises(Unanswered, match=r"drbdadm dump-xml on v01: .*Parse error \(exit status 10\)"):
        storage.status("v01", timeout_seconds=5)


@pytest.mark.parametrize("label", tuple(snaps84()))
def test_every_84_sample_is_read(answering, label):
    text = command(drbd84(label), "drbdsetup events2")
    storage, _ = answering({EVENTS2: said(text)})
    assert not storage.status("v01", timeout_seconds=5).problems


@pytest.mark.parametrize(("label", "host"), tuple(snaps9()))
def test_every_9_sample_is_read_without_asking_for_names(answering, label, host):
    storage, programs = answering({EVENTS2: said(drbd9(label, host, "events2-now-statistics.txt"))})
    assert not storage.status("v01", timeout_seconds=5).problems
    assert programs.run_argvs == [EVENTS2]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (TimeoutError("drbdsetup on v01: not ended in time"), "not ended in time"),
        (ConnectionError("drbdsetup on v01: the connection broke while it ran"), "broke"),
        (NotConnectedError("ssh to v01: Connection refused"), "ssh to v01: Connection refused"),
        (OutputTooLargeError("drbdsetup on v01: more than 1048576 bytes of output"), "1048576"),
        (
            said("", "events2: unrecognized option\n\nUSAGE: drbdsetup ...", 20),
            "v01: usage error .*unrecognized",
        ),
        (said("", "bash: line 1: drbdsetup: command not found", 127), "v01: .*not found"),
        (said(CONNECTED, "", None), "v01: .*signal"),
        (said(CONNECTED.replace("exists -\n", "")), "v01: .*ends before its last line"),
        (said("\0\1\2"), "v01: "),
        (said(""), "v01: "),
    ],
)
def test_what_is_no_answer_is_told_with_the_host(answering, answer, words):
    storage, _ = answering({EVENTS2: answer})
    with pytest.raises(Unanswered, match=words):
        storage.status("v01", timeout_seconds=5)


def test_a_word_that_is_not_known_is_a_problem_of_its_resource(answering):
    storage, _ = answering({EVENTS2: said(CONNECTED.replace("disk:UpToDate", "disk:Marvellous"))})
    assert storage.status("v01", timeout_seconds=5).problems_of("voms01")


PROC = command(drbd84("14-connected-primary-secondary.v01"), "cat /proc/drbd")
WRITTEN = PROC.replace("dw:0", "dw:5").replace("oos:0", "oos:3")
DISCONNECTED = PROC.replace("cs:Connected ro:Primary/Secondary", "cs:WFConnection ro:Primary/Unknown")
DISCONNECTED_EVENTS2 = CONNECTED.replace(":Connected", ":Connecting").replace(
    "role:Secondary", "role:Unknown"
)


def asked(storage, programs, times=3):
    """How often events2 was run in so many looks, and the last snapshot."""
    programs.run_argvs.clear()
    snapshots = [storage.status("v01", timeout_seconds=5) for _ in range(times)]
    return programs.run_argvs.count(EVENTS2), snapshots[-1]


def test_on_84_nothing_is_run_while_proc_drbd_says_the_same(answering):
    storage, programs = answering({EVENTS2: said(CONNECTED)})
    programs.proc = PROC
    assert asked(storage, programs)[0] == 1
    programs.proc = WRITTEN
    runs, snapshot = asked(storage, programs)
    assert runs == 0
    resource = snapshot.resource("voms01")
    assert resource.devices[0].written_bytes == 5 * 1024
    assert resource.connections[0].peer_devices[0].out_of_sync_bytes == 3 * 1024
    assert resource.connections[0].name == "v02"


def test_on_84_a_changed_state_is_read_at_once(answering):
    storage, programs = answering({EVENTS2: said(CONNECTED)})
    programs.proc = PROC
    asked(storage, programs)
    programs.proc, programs.answers[EVENTS2] = (
        DISCONNECTED,
        said(DISCONNECTED_EVENTS2),
    )
    runs, snapshot = asked(storage, programs)
    assert runs == 1
    connection = snapshot.resource("voms01").connections[0]
    assert connection.connection_state is ConnectionState.CONNECTING


def test_on_84_what_changed_while_it_was_read_is_not_kept(answering):
    storage, programs = answering({EVENTS2: said(CONNECTED)})
    programs.proc = [PROC, DISCONNECTED, DISCONNECTED, DISCONNECTED, DISCONNECTED]
    assert asked(storage, programs, times=1)[0] == 1
    programs.answers[EVENTS2] = said(DISCONNECTED_EVENTS2)
    assert asked(storage, programs, times=1)[0] == 1
    assert asked(storage, programs, times=1)[0] == 0


def test_on_84_a_state_that_came_and_went_while_it_was_read_is_not_kept(answering):
    """Equal readings before and after do not show it."""
    storage, programs = answering({EVENTS2: said(DISCONNECTED_EVENTS2)})
    programs.proc = PROC
    assert asked(storage, programs)[0] == 3
    programs.answers[EVENTS2] = said(CONNECTED)
    assert asked(storage, programs)[0] == 1


def test_on_84_what_proc_drbd_does_not_show_is_read_again(answering, monkeypatch):
    monkeypatch.setattr(drbd_storage, "REREAD_SECONDS", 0)
    storage, programs = answering({EVENTS2: said(CONNECTED)})
    programs.proc = PROC
    assert asked(storage, programs)[0] == 3


@pytest.mark.parametrize(
    "proc",
    [
        PROC.replace("C r-----", "C s-----"),  # frozen, and it does not say why
        "version: 9.2.18 (api:2/proto:118-122)\n",
        "",
        PermissionError("/proc/drbd"),
        OSError("sshd offers no SFTP"),
    ],
)
def test_where_proc_drbd_proves_nothing_events2_is_asked_each_time(answering, proc):
    storage, programs = answering({EVENTS2: said(CONNECTED)})
    programs.proc = proc
    assert asked(storage, programs)[0] == 3


@pytest.mark.parametrize(
    "error", [TimeoutError("/proc/drbd on v01: not read in time"), ConnectionError("v01")]
)
def test_a_host_that_does_not_answer_is_not_known_from_memory(answering, error):
    storage, programs = answering({EVENTS2: said(CONNECTED)})
    programs.proc = PROC
    asked(storage, programs)
    programs.proc = error
    with pytest.raises(Unanswered, match="v01"):
        storage.status("v01", timeout_seconds=5)


# ---- changing --------------------------------------------------------------------------------------------


CAPTURED = re.compile(
    r"\$ drbdadm (?P<verb>primary|secondary) (?P<resource>\w+)\n"
    r"(?:rc=(?P<status9>\d+) [^\n]*\n)?--stdout\n(?P<stdout>.*?)--stderr\n(?P<stderr>.*?)"
    r"--(?:rc=(?P<status84>\d+)|kernel log)",
    re.DOTALL,
)


def captured():
    """Every plain promotion and demotion that was captured from real DRBD."""
    for path in sorted([*SAMPLES.glob("drbd84/act-*.txt"), *SAMPLES.glob("drbd9/*/act*.txt")]):
        match = CAPTURED.search(path.read_text())
        if match:
            status = int(match["status84"] or match["status9"])
            label = str(path.relative_to(SAMPLES))
            yield pytest.param(
                match["verb"], match["resource"], said(match["stdout"], match["stderr"], status), id=label
            )


# (-10) and (158) were captured only of `down` and `status`.
NUMBERS = {
    "Multiple primaries": -1,
    "Need access to UpToDate data": -2,
    "peer is not outdated": -7,
    "held open": -12,
    "No quorum": -25,
    "Device minor not allocated": 127,
}


@pytest.mark.parametrize(("verb", "resource", "answer"), tuple(captured()))
def test_every_captured_promotion_and_demotion(answering, verb, resource, answer):
    """The role that is read afterwards stands in for the host: reached when drbdadm said so."""
    reached = (verb == "primary") == (answer.exit_status == 0)
    after = f"exists resource name:{resource} role:{'Primary' if reached else 'Secondary'} suspended:no\nexists -\n"
    storage, programs = answering({("drbdadm", verb, resource): answer, EVENTS2: said(after)})
    change = storage.promote if verb == "primary" else storage.demote
    outcome = change("v01", resource, timeout_seconds=5)
    if answer.exit_status == 0:
        assert outcome == Done()
    else:
        assert isinstance(outcome, Failed)
        known = {number for words, number in NUMBERS.items() if words in answer.stderr}
        assert {outcome.code} == (known or {None})
        assert f"exit status {answer.exit_status}" in outcome.reason
    assert programs.run_argvs == [("drbdadm", verb, resource), EVENTS2]


def test_the_samples_have_every_refusal():
    stderrs = " ".join(parameter.values[2].stderr for parameter in captured())
    assert [words for words in NUMBERS if words not in stderrs] == []


PROMOTE = ("drbdadm", "primary", "voms01")
REFUSED = said("", "0: State change failed: (-1) Multiple primaries not allowed by config", 11)


@pytest.mark.parametrize(
    ("answer", "after", "words"),
    [
        (TimeoutError("drbdadm on v01: not ended in time"), None, "not ended in time"),
        (ConnectionError("drbdadm on v01: broke"), None, "broke"),
        (OutputTooLargeError("drbdadm on v01: more"), None, "more"),
        (said("", "", None), None, "drbdadm primary voms01 on v01 did not end by itself"),
        (
            said("", "Command 'drbdsetup primary 0' did not terminate within 121 seconds", 5),
            None,
            "did not end",
        ),
        (said(), said(SECONDARY), "ended without an error, but it is Secondary"),
        (said(), said(NOT_UP), "ended without an error, but it is not up"),
        (said(), said("", "", 20), "the role after it is unknown"),
        (said(), TimeoutError("late"), "the role after it is unknown: late"),
        (REFUSED, said(CONNECTED), r"\(-1\) Multiple primaries.*but it is Primary after that"),
        (REFUSED, TimeoutError("late"), r"\(-1\) Multiple .*the role after it is unknown: late"),
        (REFUSED, said(SECONDARY.replace("role:Secondary", "role:Grand")), "role:'Grand' is not known"),
    ],
)
def test_what_is_not_certain_is_said_to_be_so(answering, answer, after, words):
    storage, programs = answering({PROMOTE: answer, EVENTS2: after})
    outcome = storage.promote("v01", "voms01", timeout_seconds=5)
    assert isinstance(outcome, Indeterminate)
    assert re.search(words, outcome.reason)
    assert programs.run_argvs.count(PROMOTE) == 1


def test_a_host_that_is_not_connected_has_not_been_asked(answering):
    storage, _ = answering({PROMOTE: NotConnectedError("ssh to v01: Connection refused")})
    outcome = storage.promote("v01", "voms01", timeout_seconds=5)
    assert outcome == Failed("ssh to v01: Connection refused; nothing was run")


@pytest.mark.parametrize("name", ["all", "--force", "-f", "", "a b", "voms01;reboot", "../x"])
def test_only_the_name_of_one_resource_is_handed_to_drbdadm(answering, name):
    storage, programs = answering({})
    assert isinstance(storage.promote("v01", name, timeout_seconds=5), Failed)
    assert isinstance(storage.demote("v01", name, timeout_seconds=5), Failed)
    assert programs.run_argvs == []


# ---- over a real SSH server ------------------------------------------------------------------------------


def install(folder, name, script):
    path = folder / name
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)


@pytest.mark.daemons
def test_over_ssh_with_sudo(tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    install(programs, "sudo", 'test "$1" = -n || exit 99\nshift\nexec "$@"\n')
    install(programs, "drbdsetup", f"test \"$*\" = 'events2 --now --statistics' && cat {tmp_path}/state\n")
    install(
        programs,
        "drbdadm",
        f'case "$*" in\n dump-xml) cat {tmp_path}/dump ;;\n'
        f' "primary voms01") sed -i s/role:Secondary/role:Primary/ {tmp_path}/state ;;\n'
        " *) echo '0: State change failed: (-12) Device is held open by someone' >&2; exit 11 ;;\nesac\n",
    )
    (tmp_path / "dump").write_text(CONFIGURATION)
    (tmp_path / "state").write_text("exists resource name:voms01 role:Secondary suspended:no\nexists -\n")
    environment = {"HOME": str(tmp_path), "PATH": f"{programs}:/usr/bin:/bin"}
    with sshd(tmp_path, environment=environment) as server:
        access = SshAccess(server.address, server.user_key, server.known_hosts, server.port, server.user)
        storage = DrbdStorage({"v02": access}, prefix=["sudo", "-n"])
        try:
            assert storage.status("v02", timeout_seconds=10).resource("voms01").role is Role.SECONDARY
            assert storage.promote("v02", "voms01", timeout_seconds=10) == Done()
            assert storage.status("v02", timeout_seconds=10).resource("voms01").role is Role.PRIMARY
            outcome = storage.demote("v02", "voms01", timeout_seconds=10)
            assert isinstance(outcome, Failed)
            assert outcome.code == -12
            install(programs, "drbdsetup", "sleep 60\n")
            begun = time.monotonic()
            with pytest.raises(Unanswered, match="sudo on v02: not ended in time"):
                storage.status("v02", timeout_seconds=0.5)
            assert time.monotonic() - begun < 10
        finally:
            storage.close()


SHOW9, SHOW84 = ("drbdsetup", "show", "--json"), ("drbdsetup", "show")
USAGE = said(stderr="drbdsetup: unrecognized option '--json'", exit_status=20)


ONLY = command(drbd84("54f-after-refused.v02"), "drbdsetup show")  # fencing resource-only
ARMED = ONLY.replace("resource-only", "resource-and-stonith")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            command(drbd84("14-connected-primary-secondary.v01"), "drbdsetup show"),
            {"voms01": Parting.GOES_ON},
        ),
        (ONLY, {"voms01": Parting.GOES_ON}),
        (ARMED, {"voms01": Parting.ASKS}),
        (ARMED.replace("net {", "net {\n        protocol B;"), {"voms01": Parting.LOSES}),
        (command(drbd84("19-standalone-v02.v02"), "drbdsetup show"), {}),
    ],
)
def test_a_host_is_armed_when_its_kernel_freezes_what_lost_its_peer(answering, text, expected):
    storage, programs = answering({SHOW9: USAGE, SHOW84: said(text)})
    assert storage.armed("v01", timeout_seconds=5) == expected
    storage.armed("v01", timeout_seconds=5)
    assert programs.run_argvs == [SHOW9, SHOW84, SHOW84], "asked for JSON once"


def test_a_host_with_drbd_9_is_asked_for_json(answering):
    folder = SAMPLES / "drbd9" / "50-fencing-resource-and-stonith-handler-exit-4" / "v01"
    storage, _ = answering({SHOW9: said((folder / "show.json").read_text())})
    assert Parting.ASKS in storage.armed("v01", timeout_seconds=5).values()


@pytest.mark.parametrize("host", ["v01", "v02"])
def test_of_three_hosts_drbd_9_stops_without_a_quorum(answering, host):
    text = drbd9("08b-connected-uptodate-primary-secondary", host, "show.json")
    storage, _ = answering({SHOW9: said(text)})
    assert storage.armed("v01", timeout_seconds=5)["voms01"] is Parting.VOTES
    (voms01,) = (it for it in json.loads(text) if it["resource"] == "voms01")
    for change in (
        lambda it: it["options"].pop("quorum"),
        lambda it: it["options"].update({"quorum": "all"}),
        lambda it: it["options"].update({"quorum": 1}),
        lambda it: it["options"].update({"on-no-quorum": "novel"}),
        lambda it: it["connections"][0]["net"].update({"allow-remote-read": False}),
        lambda it: it["connections"].pop(),
        lambda it: it["connections"][1]["net"].update({"protocol": "A"}),
    ):
        changed = json.loads(json.dumps(voms01))
        change(changed)
        storage, _ = answering({SHOW9: said(json.dumps([changed]))})
        assert storage.armed("v01", timeout_seconds=5)["voms01"] in {Parting.GOES_ON, Parting.LOSES}


def test_what_is_armed_is_not_known_without_an_answer(answering):
    storage, _ = answering({SHOW9: said(stderr="no", exit_status=10)})
    with pytest.raises(Unanswered, match="drbdsetup show on v01: no"):
        storage.armed("v01", timeout_seconds=5)


# ---- how a host is set up ----------------------------------------------------------------------------------

HANDLED = CONFIGURATION.replace(
    "    </resource>",
    """        <section name="handlers">
            <option name="fence-peer" value="/opt/vmheal-fence-peer"/>
        </section>
    </resource>""",
)
CHECK = ("vmheal-fence-peer", "check", "--json")
REPORT = {
    "time": 0.0,
    "host": "v01",
    "isolation_seconds": 5.0,
    "links": {"br0": True},
    "cpu": "x",
    "problems": [],
}


def report(ahead_seconds=0.0, **more):
    return said(json.dumps(REPORT | {"time": time.time() + ahead_seconds} | more))


def test_how_a_host_is_set_up_on_84(answering):
    storage, programs = answering(
        {SHOW9: USAGE, SHOW84: said(ARMED), DUMP_XML: said(HANDLED), CHECK: report(problems=["no"])}
    )
    setup = storage.setup("v01", timeout_seconds=5)
    # ping-int 5; ping-timeout 10; 8.4 has no auto-promote
    assert setup.resources == {"voms01": ResourceSetup(6.0, False, "/opt/vmheal-fence-peer")}
    assert (setup.handler.host, setup.handler.isolation_seconds) == ("v01", 5.0)
    assert (setup.handler.links, setup.handler.problems) == ({"br0": True}, ("no",))
    assert programs.run_argvs == [SHOW9, SHOW84, DUMP_XML, CHECK]
    programs.answers[CHECK] = report()
    programs.may = Allowed(frozenset({"voms01"}), None)
    assert storage.setup("v01", timeout_seconds=5).allowed == programs.may
    assert programs.run_argvs[4:] == [SHOW84, CHECK], "the files were read a moment ago"


def test_how_a_host_is_set_up_on_9(answering):
    """Another handler than vmheal's: its own program is asked all the same, for what the host alone knows."""
    text = json.loads(drbd9("08b-connected-uptodate-primary-secondary", "v01", "show.json"))
    own = ("vmheal-fence-peer", "check", "--json")
    storage, programs = answering({SHOW9: said(json.dumps(text)), own: report()})
    assert storage.setup("v01", timeout_seconds=5).resources["voms01"] == ResourceSetup(10.5, False, "")
    for it in text:
        it["options"].pop("auto-promote")  # on, unless it is said
    programs.answers[SHOW9] = said(json.dumps(text))
    assert storage.setup("v01", timeout_seconds=5).resources["voms01"].auto_promote


@pytest.mark.parametrize(("ahead", "expected"), [(0.0, 0.0), (93.0, 93.0), (-93.0, -93.0)])
def test_a_clock_is_wrong_by_what_the_answers_time_cannot_explain(answering, ahead, expected):
    check = partial(report, ahead)  # the host says what time it is when it is asked
    storage, _ = answering({SHOW9: USAGE, SHOW84: said(ARMED), DUMP_XML: said(HANDLED), CHECK: check})
    found = storage.setup("v01", timeout_seconds=5).handler.ahead_seconds
    assert found == pytest.approx(expected, abs=30)  # however busy this machine is
    assert (found == 0.0) is (expected == 0.0)


@pytest.mark.parametrize(
    "answer", [said(stderr="sh: 1: not found", exit_status=127), said("[]"), TimeoutError("no answer")]
)
def test_a_handler_that_cannot_be_asked(answering, answer):
    storage, _ = answering({SHOW9: USAGE, SHOW84: said(ARMED), DUMP_XML: said(HANDLED), CHECK: answer})
    setup = storage.setup("v01", timeout_seconds=5)
    assert "voms01" in setup.resources
    assert isinstance(setup.handler, Unknown)
    words = "no answer" if isinstance(answer, TimeoutError) else "vmheal-fence-peer check on v01: "
    assert words in setup.handler.reason


def test_a_vmheal_host_that_cannot_say_what_it_allows(answering):
    storage, programs = answering(
        {SHOW9: USAGE, SHOW84: said(ARMED), DUMP_XML: said(HANDLED), CHECK: report()}
    )
    programs.may = RefusedError("must have 'run' or 'read', and nothing else")
    assert storage.setup("v01", timeout_seconds=5).allowed == Allowed()


@pytest.mark.parametrize("program", [SHOW9, DUMP_XML])
def test_a_setup_is_not_known_without_drbds_word(answering, program):
    answers = {SHOW9: USAGE, SHOW84: said(ARMED), DUMP_XML: said(HANDLED), CHECK: report()}
    storage, _ = answering(answers | {program: said(stderr="no", exit_status=10)})
    with pytest.raises(Unanswered, match="on v01: no"):
        storage.setup("v01", timeout_seconds=5)


# ---- whose data a replica has ------------------------------------------------------------------------------

GET_GI = ("drbdadm", "get-gi", "voms01")


@pytest.mark.parametrize("label", [label for label in snaps84() if label.endswith("v01")])
def test_the_generations_of_a_replica(answering, label):
    text = command(drbd84(label), "drbdadm get-gi")
    storage, programs = answering({GET_GI: said(text)})
    (volume,) = storage.generations("v01", "voms01", timeout_seconds=5)
    assert volume.current == parse_current_uuid(text)
    assert programs.run_argvs == [GET_GI]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (said(stderr="'voms01' not defined in your config (for this host).", exit_status=10), "not defined"),
        (said(), "voms01 on v01: the output of 'drbdadm get-gi' is empty"),
        (said("2 of 3\n"), "voms01 on v01: the output of 'drbdadm get-gi' is not understood: '2 of 3'"),
        (TimeoutError("drbdadm on v01: not ended in time"), "not ended in time"),
        (NotConnectedError("no way to v01"), "no way to v01"),
    ],
)
def test_generations_that_are_not_had(answering, answer, error):
    storage, _ = answering({GET_GI: answer})
    with pytest.raises(Unanswered, match=re.escape(error)):
        storage.generations("v01", "voms01", timeout_seconds=5)


def test_generations_of_what_is_no_name_are_not_asked_for(answering):
    storage, programs = answering({})
    with pytest.raises(Unanswered, match="is not the name of a resource"):
        storage.generations("v01", "all", timeout_seconds=5)
    assert programs.run_argvs == []


# ---- the window for two Primaries, and connections -------------------------------------------------------

YES = ("drbdadm", "net-options", "--allow-two-primaries=yes", "voms01")
NO = ("drbdadm", "net-options", "--allow-two-primaries=no", "voms01")
CONNECT = ("drbdadm", "connect", "voms01")
DISCONNECT = ("drbdadm", "disconnect", "voms01")
ALONE = command(drbd84("19-standalone-v02.v02"), "drbdsetup events2")
ALLOWED = ARMED.replace("net {", "net {\n        allow-two-primaries yes;")
BOTH_PRIMARY = said("", "ce01: Failure: (164) Cannot clear allow_two_primaries", 10)


@pytest.mark.parametrize(
    ("argv", "answer", "shown", "outcome"),
    [
        (YES, said(), ALLOWED, Done()),
        (NO, said(), ARMED, Done()),
        (NO, said(), command(drbd84("19-standalone-v02.v02"), "drbdsetup show"), Done()),
        (NO, BOTH_PRIMARY, ALLOWED, 164),
        (YES, said("", "voms01: Failure: (162) unknown connection", 10), "", 162),
        (YES, said(), ARMED, Indeterminate),
        (YES, TimeoutError("late"), ARMED, Indeterminate),
        (YES, NotConnectedError("no way"), ARMED, None),
    ],
)
def test_whether_two_may_be_primary_is_read_back(answering, argv, answer, shown, outcome):
    storage, _ = answering({argv: answer, SHOW9: USAGE, SHOW84: said(shown)})
    seen = storage.allow_two_primaries("v01", "voms01", allowed=argv is YES, timeout_seconds=5)
    if isinstance(outcome, Done):
        assert seen == outcome
    elif outcome is Indeterminate:
        assert isinstance(seen, Indeterminate)
    else:
        assert isinstance(seen, Failed)
        assert seen.code == outcome


@pytest.mark.parametrize("text", [CONNECTED, DISCONNECTED_EVENTS2])
def test_only_a_connection_that_was_given_up_is_connected(answering, text):
    storage, programs = answering({EVENTS2: said(text)})
    assert storage.connect("v01", "voms01", timeout_seconds=5) == Done()
    assert CONNECT not in programs.run_argvs


@pytest.mark.parametrize(
    "state", ["Diskless", "Failed", "Attaching", "Detaching", "Negotiating", "DUnknown", "Marvellous"]
)
def test_what_has_no_disk_is_not_connected(answering, state):
    text = ALONE.replace("disk:UpToDate", f"disk:{state}")
    storage, programs = answering({EVENTS2: said(text)})
    outcome = storage.connect("v02", "voms01", timeout_seconds=5)
    assert isinstance(outcome, Failed)
    assert "no disk attached" in outcome.reason
    assert CONNECT not in programs.run_argvs


def test_a_connection_that_was_given_up_is_connected(answering):
    storage, programs = answering({EVENTS2: said(ALONE), CONNECT: said()})
    assert storage.connect("v02", "voms01", timeout_seconds=5) == Done()
    assert CONNECT in programs.run_argvs


@pytest.mark.parametrize("text", [NOT_UP, re.sub(r"(?m)^exists (peer-)?device .*\n", "", ALONE)])
def test_what_is_not_up_or_has_no_volume_is_not_connected(answering, text):
    storage, programs = answering({EVENTS2: said(text)})
    assert isinstance(storage.connect("v02", "voms01", timeout_seconds=5), Failed)
    assert CONNECT not in programs.run_argvs


@pytest.mark.parametrize("name", ["all", "--force", "", "a b", "../x"])
def test_only_the_name_of_one_resource_is_connected_or_opened(answering, name):
    storage, programs = answering({})
    assert isinstance(storage.connect("v01", name, timeout_seconds=5), Failed)
    assert isinstance(storage.disconnect("v01", name, timeout_seconds=5), Failed)
    assert isinstance(storage.allow_two_primaries("v01", name, allowed=True, timeout_seconds=5), Failed)
    assert programs.run_argvs == []


def test_on_9_only_the_peer_that_was_given_up_is_named(answering):
    """`drbdadm connect RESOURCE` stops at the first peer that is connected."""
    text = drbd9("10d-standalone-v02-to-v01-only", "v02", "events2-now-statistics.txt")
    one = ("drbdadm", "connect", "voms01:v01")
    storage, programs = answering({EVENTS2: said(text), one: said()})
    assert storage.connect("v02", "voms01", timeout_seconds=5) == Done()
    assert programs.run_argvs == [EVENTS2, one]


def test_on_9_each_peer_that_was_given_up_is_connected(answering):
    text = drbd9("10d-standalone-v02-to-v01-only", "v02", "events2-now-statistics.txt")
    text = text.replace("conn-name:v03 connection:Connected", "conn-name:v03 connection:StandAlone")
    both = [("drbdadm", "connect", f"voms01:{peer}") for peer in ("v03", "v01")]
    storage, programs = answering({EVENTS2: said(text), **dict.fromkeys(both, said())})
    assert storage.connect("v02", "voms01", timeout_seconds=5) == Done()
    assert programs.run_argvs == [EVENTS2, *both]
    assert all(seconds <= 5 for seconds in programs.had_seconds)


def test_of_several_volumes_each_must_have_its_disk(answering):
    (volume,) = re.findall(r"(?m)^exists device .*\n", ALONE)
    other = volume.replace("volume:0", "volume:1").replace("disk:UpToDate", "disk:Diskless")
    storage, programs = answering({EVENTS2: said(ALONE.replace(volume, volume + other))})
    outcome = storage.connect("v02", "voms01", timeout_seconds=5)
    assert isinstance(outcome, Failed)
    assert "no disk attached" in outcome.reason
    assert CONNECT not in programs.run_argvs


@pytest.mark.parametrize("silence", [TimeoutError("late"), NotConnectedError("no way")])
@pytest.mark.parametrize("call", [DrbdStorage.connect, DrbdStorage.disconnect])
def test_who_does_not_say_how_it_is_is_left_so(answering, call, silence):
    storage, programs = answering({EVENTS2: silence})
    assert call(storage, "v01", "voms01", timeout_seconds=5) == Failed(f"{silence}; nothing was run")
    assert not {CONNECT, DISCONNECT} & set(programs.run_argvs)


LOST = command(drbd84("41b-diskless-alone.v01"), "drbdsetup events2")


@pytest.mark.parametrize("role", ["Secondary", "Primary"])
@pytest.mark.parametrize("state", ["Connecting", "Unconnected", "NetworkFailure", "Marvellous"])
def test_who_has_lost_disk_and_peer_is_disconnected(answering, state, role):
    text = LOST.replace("connection:Connecting", f"connection:{state}").replace(
        "role:Secondary", f"role:{role}"
    )
    storage, programs = answering({EVENTS2: said(text), DISCONNECT: said()})
    assert storage.disconnect("v01", "voms01", timeout_seconds=5) == Done()
    assert programs.run_argvs[-1] == DISCONNECT


def test_who_is_disconnected_already_is_left_so(answering):
    text = LOST.replace("connection:Connecting", "connection:StandAlone")
    storage, programs = answering({EVENTS2: said(text)})
    assert storage.disconnect("v01", "voms01", timeout_seconds=5) == Done()
    assert DISCONNECT not in programs.run_argvs


@pytest.mark.parametrize(
    ("seen", "instead"),
    [
        ("role:Secondary", "role:Marvellous"),
        ("disk:Diskless", "disk:UpToDate"),
        ("connection:Connecting", "connection:Connected"),
    ],
)
def test_from_no_other_is_a_connection_taken(answering, seen, instead):
    assert seen in LOST
    storage, programs = answering({EVENTS2: said(LOST.replace(seen, instead))})
    outcome = storage.disconnect("v01", "voms01", timeout_seconds=5)
    assert isinstance(outcome, Failed)
    assert "is not disconnected" in outcome.reason
    assert DISCONNECT not in programs.run_argvs


STILL = "voms01: Failure: (125) Device has a net-config (use disconnect first)"


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [(said("", STILL, 10), 125), (TimeoutError("late"), Indeterminate), (NotConnectedError("no way"), None)],
)
def test_a_connect_that_is_not_done(answering, answer, outcome):
    storage, _ = answering({EVENTS2: said(ALONE), CONNECT: answer})
    seen = storage.connect("v02", "voms01", timeout_seconds=5)
    if outcome is Indeterminate:
        assert isinstance(seen, Indeterminate)
    else:
        assert isinstance(seen, Failed)
        assert seen.code == outcome


@pytest.mark.parametrize(
    ("argv", "label", "outcome"),
    [
        (YES, "60b-both-primary-option-off", Done),
        (NO, "60d-dual-primary-close", Done),
        (YES, "60d-dual-primary-close", Indeterminate),
        (NO, "60b-both-primary-option-off", Indeterminate),
    ],
)
def test_the_window_as_9_shows_it(answering, argv, label, outcome):
    of_ce01 = (*argv[:3], "ce01")
    storage, _ = answering({of_ce01: said(), SHOW9: said(drbd9(label, "v01", "show.json"))})
    seen = storage.allow_two_primaries("v01", "ce01", allowed=argv is YES, timeout_seconds=5)
    assert isinstance(seen, outcome)


@pytest.mark.parametrize(("argv", "outcome"), [(YES, Indeterminate), (NO, Failed)])
def test_a_window_that_is_open_to_one_of_two_peers(answering, argv, outcome):
    shown = json.loads(drbd9("60d-dual-primary-close", "v01", "show.json"))
    voms01 = next(resource for resource in shown if resource["resource"] == "voms01")
    voms01["connections"][0]["net"]["allow-two-primaries"] = True
    storage, _ = answering({argv: BOTH_PRIMARY, SHOW9: said(json.dumps(shown))})
    seen = storage.allow_two_primaries("v01", "voms01", allowed=argv is YES, timeout_seconds=5)
    assert isinstance(seen, outcome)


def test_a_window_that_cannot_be_read_back(answering):
    storage, _ = answering({YES: said(), SHOW9: TimeoutError("late")})
    seen = storage.allow_two_primaries("v01", "voms01", allowed=True, timeout_seconds=5)
    assert isinstance(seen, Indeterminate)
    assert "late" in seen.reason
