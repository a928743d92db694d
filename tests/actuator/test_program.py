"""The program itself: its commands, its exit statuses, its signals. No host answers here."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
import requests
import yaml
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from actuator.__main__ import main
from actuator.adapters.sqlite import SqliteJournal
from actuator.model import Authority, Event
from exporter import fence_peer
from tests.actuator.world import settings
from tests.exporter.certificates import Authority as CertificateAuthority

TOKEN = "s3cret"
OPERATOR = "another-s3cret"
READY_SECONDS = 30


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def config(tmp_path):
    """A configuration whose hosts and servers are ports where nobody listens."""
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "known_hosts").touch()
    key = Ed25519PrivateKey.generate()
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    closed = free_port()
    listen = free_port()
    document = settings(tmp_path / "journal").model_dump(mode="json", exclude_defaults=True)
    document["listen"] = f"127.0.0.1:{listen}"
    document["webhook"]["token_file"] = str(tmp_path / "token")
    document["alertmanager"]["url"] = document["prometheus"]["url"] = f"http://127.0.0.1:{closed}"
    document["ssh"] = {
        "key_file": str(tmp_path / "key"),
        "known_hosts_file": str(tmp_path / "known_hosts"),
        "port": closed,
    }
    for host in document["hosts"].values():
        host["address"] = "127.0.0.1"
        host["libvirt_uri"] = f"qemu+tcp://127.0.0.1:{closed}/system"
    path = tmp_path / "actuator.yml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def operated(config, tmp_path):
    """The configuration with an operators' token."""
    (tmp_path / "operator").write_text(OPERATOR)
    document = yaml.safe_load(config.read_text())
    document["operator"] = {"token_file": str(tmp_path / "operator")}
    config.write_text(yaml.safe_dump(document))
    return config


def url_of(config) -> str:
    return f"http://{yaml.safe_load(config.read_text())['listen']}"


class Program:
    verify = True

    def __init__(self, config) -> None:
        self.url = url_of(config)
        argv = [sys.executable, "-m", "actuator", "serve", "--config", str(config), "--log-format", "json"]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                if requests.get(f"{self.url}/-/ready", timeout=5, verify=self.verify).ok:
                    return
            except requests.ConnectionError:
                assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)

    def deliver(self, number=0):
        body = {
            "version": "4",
            "alerts": [
                {
                    "status": "firing",
                    "labels": {
                        "alertname": "VMFailure",
                        "action": "restart",
                        "domain": "voms01",
                        "host": "v01",
                    },
                    "startsAt": "2099-01-01T00:00:00Z",
                    "fingerprint": f"f{number}",
                }
            ],
        }
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return requests.post(f"{self.url}/alerts", json=body, headers=headers, timeout=10).status_code

    def end(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=40)
        return self.process.returncode, errors


@pytest.fixture
def serve():
    programs = []

    def start(config) -> Program:
        programs.append(Program(config))
        return programs[-1]

    yield start
    for program in programs:
        if program.process.poll() is None:
            program.process.kill()
        program.process.communicate()


def run(*arguments) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_stop(serve, config, number):
    program = serve(config)
    program.wait_ready()
    assert program.deliver() == 200
    page = requests.get(f"{program.url}/metrics", timeout=10).text
    assert 'vmheal_domain_expected{domain="voms01",host="v01"} 1.0' in page
    assert 'vmheal_domain_expected{domain="voms01",host="v02"} 0.0' in page
    assert 'vmheal_mode{mode="enforce"} 1.0' in page
    status, out, _ = run("status", "--config", config)
    assert status == 0
    assert "voms01 on v01, may run on v01, v02" in out
    assert json.loads(run("status", "--config", config, "--json")[1])["mode"] == "enforce"
    code, errors = program.end(number)
    assert code == 0, errors
    assert "Traceback" not in errors
    assert TOKEN not in errors
    assert run("status", "--config", config)[0] == 1


def test_drbds_handler_asks_the_running_program(serve, config, tmp_path):
    """Each host by its own token; who holds what is shown."""
    document = yaml.safe_load(config.read_text())
    for host in ("v01", "v02"):
        (tmp_path / host).write_text(f"token-of-{host}")
        document["hosts"][host]["arbiter_token_file"] = str(tmp_path / host)
    config.write_text(yaml.safe_dump(document))
    with closing(SqliteJournal(tmp_path / "journal")) as journal:
        held = Authority("voms01", ("v01", "v02"), 1, "v01", frozenset({"v01", "v02"}))
        journal.commit(authorities=[held, Authority("other", version=1)])
    program = serve(config)
    program.wait_ready()
    proc = tmp_path / "proc"
    proc.write_text(" 0: cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown C r-----\n")
    statuses = {}
    for host, peer in (("v01", "v02"), ("v02", "v01")):
        asks = tmp_path / f"{host}.conf"
        asks.write_text(f"actuator {program.url.removeprefix('http://')}\ntoken_file {tmp_path / host}\n")
        environment = {"DRBD_RESOURCE": "voms01", "DRBD_MINOR": "0", "DRBD_PEER": peer}
        statuses[host] = fence_peer.run([], environment, str(asks), str(proc))
    assert statuses == {"v01": fence_peer.GRANTED, "v02": fence_peer.DENIED}
    _, out, _ = run("status", "--config", config)
    assert out.splitlines()[-2:] == [
        "other: nobody holds the authority, admitted: nobody",
        "voms01: v01 alone holds the authority, admitted: v01",
    ]
    code, errors = program.end(signal.SIGTERM)
    assert (code, "Traceback" in errors, "token-of-" in errors) == (0, False, False)


def test_two_hosts_with_the_same_token_are_refused(config, tmp_path):
    (tmp_path / "shared").write_text("of-both")
    document = yaml.safe_load(config.read_text())
    for host in ("v01", "v02"):
        document["hosts"][host]["arbiter_token_file"] = str(tmp_path / "shared")
    config.write_text(yaml.safe_dump(document))
    status, _, errors = run("check", "--config", config)
    assert status == 2
    assert (
        f"hosts.v02.arbiter_token_file: {tmp_path / 'shared'}: the same token as hosts.v01.arbiter_token_file"
        in errors
    )
    assert "of-both" not in errors


def test_killed_it_goes_on_where_it_was(serve, config, tmp_path):
    program = serve(config)
    program.wait_ready()
    for number in range(20):
        assert program.deliver(number) == 200
    code, _ = program.end(signal.SIGKILL)
    assert code == -signal.SIGKILL
    program = serve(config)
    program.wait_ready()
    deadline = time.monotonic() + READY_SECONDS
    while _waiting(tmp_path / "journal"):
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
    _, out, _ = run("journal", "--config", config, "--json", "--lines", 1000)
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["kind"] for event in events].count("received") == 20, (
        "nothing that was answered 200 is lost"
    )
    assert {"at", "kind", "sentence", "domain", "host", "plan", "detail"} == set(events[0])
    assert any(event["kind"] == "refused" for event in events)


def _waiting(path) -> int:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT count(*) FROM inbox").fetchone()[0]
    finally:
        connection.close()


def test_a_second_one_on_the_same_journal_is_turned_away(serve, config):
    serve(config).wait_ready()
    second = serve(config)
    _, errors = second.process.communicate(timeout=READY_SECONDS)
    assert second.process.returncode == 1
    assert "another vmheal-actuator is using it" in errors
    assert "Traceback" not in errors


def test_an_address_that_is_taken_is_said(serve, config):
    host, port = url_of(config).removeprefix("http://").split(":")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, int(port)))
        taken.listen()
        program = serve(config)
        _, errors = program.process.communicate(timeout=READY_SECONDS)
    assert program.process.returncode == 1
    assert "Traceback" not in errors
    assert "vmheal-actuator: " in errors


def test_follow_prints_what_comes(serve, config):
    program = serve(config)
    program.wait_ready()
    argv = [sys.executable, "-m", "actuator", "journal", "--config", str(config), "--follow", "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as follower:
        try:
            assert program.deliver() == 200
            kinds = [json.loads(follower.stdout.readline())["kind"] for _ in range(3)]
        finally:
            follower.kill()
    assert kinds[0] == "received"
    assert "observed" in kinds


def test_what_an_alert_says_does_not_steer_the_terminal(config, tmp_path):
    evil = "x\x1b]0;title\x07\x1b[2J\r\n2026-01-01 forged"
    with closing(SqliteJournal(tmp_path / "journal")) as journal:
        journal.commit(events=[Event(1.0, "refused", f"{evil} is unknown", domain=evil, host=evil)])
    status, out, _ = run("journal", "--config", config)
    assert (status, out.count("\n")) == (0, 1)
    assert not set(out) & set("\x1b\x07\r")
    assert "\\x1b]0;title\\x07\\x1b[2J\\r\\n2026-01-01 forged" in out
    assert json.loads(run("journal", "--config", config, "--json")[1])["domain"] == evil


def test_check_says_what_is_wrong(config):
    assert run("check", "--config", config)[0] == 0
    config.write_text(config.read_text().replace("mode:", "mod:", 1))
    status, _, err = run("check", "--config", config)
    assert status == 2
    assert "mod: unknown key; did you mean 'mode'?" in err


def test_check_tells_what_would_work_now(serve, config):
    """No host answers here: nothing would, and it is said why, and what mends it."""
    status, out, _ = run("check", "--config", config)
    assert status == 0
    assert "what would work now is not known: http://127.0.0.1:" in out
    assert run("check", "--config", config, "--url", url_of(config))[0] == 1
    program = serve(config)
    program.wait_ready()
    deadline = time.monotonic() + READY_SECONDS
    while json.loads(run("check", "--config", config, "--json")[1])["ready"]["not_rehearsed"]:
        assert time.monotonic() < deadline
        threading.Event().wait(0.1)
    status, out, errors = run("check", "--config", config, "voms01")
    assert (status, errors) == (1, "")
    lines = out.splitlines()
    assert lines[1].split() == ["VM", "ON", "RESTART", "MIGRATE", "TO", "/", "FAILOVER", "TO"]
    assert lines[2].split() == ["voms01", "v01", "no", "nowhere", "/", "nowhere"]
    assert lines[3] == "  restart on v01: libvirt_answers"
    assert lines[4].startswith("    libvirt on v01 does not answer (")
    assert lines[5] == "    mend: vmheal-actuator check --live"
    assert lines[-2] == "0 of 1 VMs are ready for all that vmheal may do"
    assert lines[-1].startswith("next: mend what stands against voms01")
    status, _, errors = run("check", "--config", config, "voms1")
    assert (status, "voms1: not in domains" in errors) == (2, True)


READY = {
    "domains": [
        {
            "domain": "voms01",
            "host": "v01",
            "checks": [
                {"host": "v01", "verb": "restart", "ready": True, "forecast_seconds": 1.24, "reasons": []},
                {"host": "v02", "verb": "migrate", "ready": True, "forecast_seconds": None, "reasons": []},
                {"host": "v02", "verb": "failover", "ready": True, "forecast_seconds": 12.06, "reasons": []},
                {"host": "v03", "verb": "failover", "ready": True, "forecast_seconds": 14.0, "reasons": []},
            ],
        }
    ],
    "not_rehearsed": [],
}


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_check_tells_how_long_it_would_take_in_colours_where_they_are_wanted(
    config, monkeypatch, environment, coloured
):
    monkeypatch.setattr("actuator.__main__.ask_readiness", lambda settings, url: READY)
    monkeypatch.delenv("NO_COLOR", raising=False)
    runner = CliRunner()
    # As on a terminal: click would leave them out by itself otherwise.
    out = runner.invoke(main, ["check", "--config", str(config)], env=environment, color=True).stdout
    assert ("\x1b[32m" in out) is coloured
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    assert plain[1] == "VM      ON   RESTART       MIGRATE TO / FAILOVER TO"
    assert plain[2] == "voms01  v01  ready 1.2 s   v02 / v02 12.1 s, v03 14.0 s"
    assert plain[3] == "1 of 1 VMs are ready for all that vmheal may do"
    piped = runner.invoke(main, ["check", "--config", str(config)], env=environment).stdout
    assert "\x1b" not in piped


def test_check_live_says_who_does_not_answer(config):
    status, out, _ = run("check", "--config", config, "--live", "--json")
    assert status == 1
    answers = json.loads(out)["live"]
    assert set(answers) == {
        "libvirt on v01", "libvirt on v02", "DRBD on v01", "DRBD on v02", "Alertmanager", "Prometheus",
    }  # fmt: skip
    assert all("refused" in answer for answer in answers.values()), answers


@pytest.mark.parametrize("command", ["serve", "check --live"])
@pytest.mark.parametrize("fault", ["no token", "no config", "no key", "insecure libvirt"])
def test_what_is_missing_ends_it_with_a_sentence(config, tmp_path, command, fault):
    match fault:
        case "no token":
            (tmp_path / "token").unlink()
        case "no config":
            config.unlink()
        case "no key":
            (tmp_path / "key").unlink()
        case "insecure libvirt":
            text = (
                config.read_text().replace("qemu+tcp", "qemu+ssh").replace("/system", "/system?no_verify=1")
            )
            config.write_text(text)
    argv = [sys.executable, "-m", "actuator", *command.split(), "--config", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=READY_SECONDS, check=False)
    assert done.returncode == 2, done
    assert done.stderr.splitlines()[-1].startswith("vmheal-actuator: ")
    assert "Traceback" not in done.stderr


def test_the_journal_of_a_host_that_left_is_said(serve, config, tmp_path):
    program = serve(config)
    program.wait_ready()
    program.deliver()
    deadline = time.monotonic() + READY_SECONDS
    while '"escalation":{' not in requests.get(f"{program.url}/api/v1/status", timeout=5).text:
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
    program.end(signal.SIGTERM)
    document = yaml.safe_load(config.read_text())
    document["hosts"]["v03"] = document["hosts"].pop("v01")
    document["domains"]["voms01"] = {"host": "v03", "hosts": ["v03", "v02"]}
    config.write_text(yaml.safe_dump(document))
    again = serve(config)
    _, errors = again.process.communicate(timeout=READY_SECONDS)
    assert again.process.returncode == 2
    assert "the journal says that voms01 should run on v01, which is not in hosts (v02, v03)" in errors


def test_a_journal_that_is_not_there_is_said(config, tmp_path):
    status, _, err = run("journal", "--path", tmp_path / "absent")
    assert status == 1
    assert "absent: does not exist" in err


COMMANDS = [
    "init", "serve", "check", "reload", "status", "explain", "journal", "pause", "resume", "drain", "undrain", "migrate",
    "approve", "retry", "confirm-down", "readmit", "forget",
]  # fmt: skip


@pytest.mark.parametrize("command", ["", "journal show", *COMMANDS])
def test_help(command):
    status, out, _ = run(*command.split(), "--help")
    assert status == 0
    assert "Usage:" in out
    assert os.linesep in out


def test_every_command_is_listed_with_a_whole_sentence():
    _, out, _ = run("--help")
    listed = {line.split()[0]: line for line in out.splitlines() if line[:2] == "  " and line[2:3].islower()}
    assert set(COMMANDS) <= set(listed)
    assert all(listed[command].endswith(".") and "..." not in listed[command] for command in COMMANDS)
    assert set(main.commands) == set(COMMANDS), "each has its section"


# ---- orders ----------------------------------------------------------------------------------------------


def test_an_operators_orders_from_the_command_line_to_the_journal(serve, operated, monkeypatch):
    """No host answers here: what is ordered is kept and shown, and what cannot be done is said."""
    monkeypatch.setenv("SUDO_USER", "ann")
    program = serve(operated)
    program.wait_ready()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # not to be used

    def give(*arguments):
        return run(*arguments, "--config", operated)

    status, out, err = give("pause", "voms01", "--for", "2h", "--reason", "new memory")
    assert (status, err) == (0, "")
    assert out.startswith("voms01 is paused until ")
    status, out, _ = give("pause", "all", "--by", "bob", "--json")
    assert json.loads(out) == {
        "taken": True,
        "sentence": "all is paused until it is resumed: nothing is begun for any VM",
    }
    assert give("drain", "v02") == (0, "v02 is drained: no VM is sent there, no VM is to leave it\n", "")
    status, out, _ = give("status")
    assert status == 0
    lines = out.splitlines()
    assert lines[1].startswith("all is paused by bob since ")
    assert lines[2] == "host v02"
    assert lines[3].startswith("  drained by ann since ")
    paused = next(line for line in lines if line.startswith("  voms01 is paused by ann until "))
    assert paused.endswith(": new memory; 'vmheal-actuator resume voms01' ends it")
    shown = json.loads(give("status", "--json")[1])
    assert shown["paused"]["by"] == "bob"
    assert [it["host"] for it in shown["hosts"] if it["drained"]] == ["v02"]
    assert shown["domains"][0]["paused"] is not None
    assert shown["domains"][0]["suspects"] == {}

    assert give("resume", "all")[0] == 0
    assert give("undrain", "v02")[:2] == (0, "v02 may be used again; what has left it stays where it is\n")
    status, out, err = give("drain", "v2")
    assert (status, out) == (1, "")
    assert err == "vmheal-actuator: refused: v2 is not a host: nothing is changed; did you mean v02?\n"
    status, out, _ = give("confirm-down", "v01", "--json")
    assert status == 1
    assert json.loads(out)["taken"] is False
    assert "was heard of" in json.loads(out)["sentence"]
    assert give("approve", "voms01", "0123456789")[0] == 1
    assert give("approve", "voms01", "yes")[0] == 1
    assert give("retry", "voms01")[1] == "voms01 was not given up: nothing is changed\n"
    status, _, err = give("readmit", "r0", "v01", "--i-accept-lost-writes")
    assert (status, "nothing is known of a resource r0" in err) == (1, True)
    assert "nothing is known of a resource r0" in give("forget", "r0")[2]
    assert give("migrate", "voms01", "--to", "v01")[0] == 1
    assert give("migrate", "voms01", "--to", "v02")[0] == 0
    assert give("resume", "voms01")[0] == 0

    _, out, _ = give("journal", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    said = [event["sentence"].partition(" until")[0] for event in events if event["kind"] == "ordered"]
    assert said == [
        "ann: pause voms01", "bob: pause all", "ann: drain v02", "ann: resume all", "ann: undrain v02",
        "ann: migrate voms01 to v02", "ann: resume voms01",
    ]  # fmt: skip
    status, out, err = give("explain", "voms01")
    assert status == 0, err
    assert out.startswith("voms01 on v01, mode enforce\n  seen: v01: unknown (")
    assert "  now: refused: " in out
    assert "  to v02: refused: " in out
    assert json.loads(give("explain", "v01", "--json")[1])["domains"][0]["domain"] == "voms01"
    lines = give("explain", "v01")[1].splitlines()
    assert lines[0].startswith("host v01: last heard of ")
    assert any(line.startswith("voms01 on v01, mode ") for line in lines)
    status, _, err = give("explain", "../status")
    assert (status, "Traceback" in err) == (1, False)
    code, errors = program.end(signal.SIGTERM)
    assert (code, "Traceback" in errors, OPERATOR in errors) == (0, False, False)
    status, _, err = give("pause", "all")
    assert (status, err.startswith("Error: http://127.0.0.1:")) == (1, True)


def test_orders_need_a_token_in_the_configuration(serve, config):
    program = serve(config)
    program.wait_ready()
    status, _, err = run("pause", "all", "--config", config)
    assert status == 2
    assert "no orders are taken without operator.token_file" in err
    reply = requests.post(f"{program.url}/api/v1/orders", json={}, timeout=10)
    assert reply.status_code == 404


def test_a_token_that_the_running_program_does_not_know(serve, operated, tmp_path):
    program = serve(operated)
    program.wait_ready()
    (tmp_path / "another").write_text("newer")
    document = yaml.safe_load(operated.read_text())
    document["operator"]["token_file"] = str(tmp_path / "another")
    (tmp_path / "another.yml").write_text(yaml.safe_dump(document))
    status, _, err = run("pause", "all", "--config", tmp_path / "another.yml")
    assert (status, "the bearer token is not the right one" in err) == (1, True)
    assert "newer" not in err


@pytest.fixture
def secured(operated, tmp_path):
    """Served by https, and read by those alone who have the token for it."""
    ca = CertificateAuthority(tmp_path)
    ca.issue("server", dns="monitor.example", ip="127.0.0.1")
    web = {"tls_server_config": {"cert_file": "server.pem", "key_file": "server.key"}}
    (tmp_path / "web.yml").write_text(yaml.safe_dump(web))
    (tmp_path / "read").write_text("to-read")
    document = yaml.safe_load(operated.read_text())
    document["web"] = {"config_file": str(tmp_path / "web.yml"), "ca_file": str(ca.file)}
    document["read"] = {"token_file": str(tmp_path / "read")}
    operated.write_text(yaml.safe_dump(document))
    return operated


def test_by_https_with_rights_apart(serve, secured, tmp_path):
    program = serve(secured)
    program.url = program.url.replace("http:", "https:")
    program.verify = str(tmp_path / "ca.pem")
    program.wait_ready()
    assert requests.get(f"{program.url}/metrics", verify=program.verify, timeout=10).status_code == 401
    assert run("status", "--config", secured)[0] == 0
    assert run("pause", "voms01", "--config", secured)[0] == 0
    assert run("reload", "--config", secured)[0] == 0
    (tmp_path / "read").write_text(
        "to-read\nnewer"
    )  # the running actuator takes both, the commands the first
    assert run("status", "--config", secured)[0] == 0
    (tmp_path / "read").unlink()  # and those who may not read that file have the operators' token
    assert run("status", "--config", secured)[0] == 0
    document = yaml.safe_load(secured.read_text())
    for key, value, said in (
        ("ca_file", str(tmp_path / "server.key"), ""),
        ("ca_file", None, "certificate verify failed"),
        ("ca_file", None, "web.ca_file who has signed that"),
        ("url", program.url.replace("127.0.0.1", "localhost"), "Hostname mismatch"),
    ):
        changed = document | {"web": document["web"] | {key: value}}
        (tmp_path / "changed.yml").write_text(yaml.safe_dump(changed))
        status, out, err = run("status", "--config", tmp_path / "changed.yml")
        assert (status, out) == (1, "")
        assert said in err
    _, errors = program.end(signal.SIGTERM)
    assert "Traceback" not in errors
    assert [it for it in (OPERATOR, "to-read", "newer") if it in errors] == []


@pytest.mark.parametrize(
    ("web", "more", "said"),
    [
        ({"basic_auth_users": {"a": f"$2y$10${'a' * 53}"}}, {}, "basic_auth_users is not for the actuator"),
        ({}, {"client_names": ["a.example"]}, "client_names needs client_auth_type and client_ca_file"),
        ({"tls_server_config": {"cert_file": "none"}}, {}, "web.config_file: .*web.yml: "),
    ],
)
def test_a_web_configuration_that_does_not_fit(secured, tmp_path, web, more, said):
    (tmp_path / "web.yml").write_text(yaml.safe_dump(web))
    document = yaml.safe_load(secured.read_text())
    document["read"] |= more
    secured.write_text(yaml.safe_dump(document))
    status, _, err = run("check", "--config", secured)
    assert (status, bool(re.search(said, err))) == (2, True), err


@pytest.mark.parametrize("same", ["webhook", "hook"])
def test_the_operators_token_is_nobody_elses(operated, tmp_path, same):
    document = yaml.safe_load(operated.read_text())
    if same == "webhook":
        (tmp_path / "operator").write_text(TOKEN)
    else:
        document["hosts"]["v01"]["arbiter_token_file"] = str(tmp_path / "operator")
        operated.write_text(yaml.safe_dump(document))
    status, _, err = run("check", "--config", operated)
    assert status == 2
    assert f"operator.token_file: {tmp_path / 'operator'}: the same token as" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pause"], "Missing argument"),
        (["pause", "all", "--for", "soon"], "'soon' is not a time like 90s, 15m, 2h or 1d"),
        (["pause", "all", "--for", "0h"], "is not a time"),
        (["pause", "all", "--for", "-5"], "is not a time"),
        (["readmit", "r0", "v01"], "give --i-accept-lost-writes if they are to be given up"),
        (["stop"], "No such command"),
        (["journal", "show"], "Missing argument"),
    ],
)
def test_bad_usage_is_said(operated, arguments, said):
    config = [] if arguments in (["stop"], ["journal", "show"]) else ["--config", operated]
    status, out, err = run(*arguments, *config)
    assert (status, out) == (2, "")
    assert said in err


@pytest.mark.parametrize(
    ("given", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400)]
)
def test_how_long_a_pause_is(operated, monkeypatch, given, seconds):
    sent = []
    monkeypatch.setattr("actuator.commands._give", lambda order, *_: sent.append(order))
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setenv("LOGNAME", "carl")
    assert run("pause", "all", "--for", given, "--config", operated)[0] == 0
    assert sent == [{"order": "pause", "by": "carl", "reason": "", "what": "all", "seconds": seconds}]


# ---- the story of a plan ---------------------------------------------------------------------------------


CHOICE = {"chosen": "v01 has 4096 MiB of memory free", "rejected": {"v02": "it has 3 protected domains"}}


@pytest.fixture
def told(tmp_path):
    """A journal with two plans of a domain whose name has a dash, one of them after a crash of the actuator."""
    events = [
        Event(1.0, "observed", "v01: running", "web-1", "v01"),
        Event(2.0, "observed", "v01: shutoff", "web-1", "v01"),
        Event(2.0, "decided", "web-1 is shutoff: start", "web-1", "v01", "web-1-2"),
        Event(2.0, "intent", "make r0 Primary on v01", "web-1", "v01", "web-1-2"),
        Event(3.0, "outcome", "make r0 Primary on v01: done", "web-1", "v01", "web-1-2", {"seconds": 0.5}),
        Event(3.0, "intent", "start web-1 on v01", "web-1", "v01", "web-1-2"),
        Event(4.0, "observed", "v01: later", "web-1", "v01"),
        Event(4.5, "outcome", "start web-1 on v01: failed: no", "web-1", "v01", "web-1-2", {"seconds": 1.5}),
        Event(5.0, "finished", "plan failed: no", "web-1", "v01", "web-1-2", {"seconds": 3.0}),
        Event(6.0, "decided", "it moves", "web-1", "v01", "web-1-9", CHOICE),
        Event(6.0, "intent", "start web-1 on v01", "web-1", "v01", "web-1-9"),
    ]
    with closing(SqliteJournal(tmp_path / "journal")) as journal:
        for event in events:
            journal.commit(events=[event])
    return tmp_path / "journal"


def test_the_story_of_a_plan(told):
    status, out, _ = run("journal", "show", "web-1-2", "--path", told, "--json")
    assert status == 0
    story = json.loads(out)
    assert story["evidence"]["sentence"] == "v01: shutoff"
    assert story["decision"]["sentence"] == "web-1 is shutoff: start"
    assert story["steps"] == [
        {"step": "make r0 Primary on v01", "intended_at": 2.0, "concluded_at": 3.0, "seconds": 0.5,
         "outcome": "done"},
        {"step": "start web-1 on v01", "intended_at": 3.0, "concluded_at": 4.5, "seconds": 1.5,
         "outcome": "failed: no"},
    ]  # fmt: skip
    assert story["end"]["sentence"] == "plan failed: no"
    assert run("journal", "--path", told, "show", "web-1-2", "--json")[1] == out
    text = run("journal", "show", "web-1-2", "--path", told)[1].splitlines()
    assert [line[24:] for line in text[1:]] == [
        "seen      v01: shutoff",
        "decided   web-1 is shutoff: start",
        "step 1    make r0 Primary on v01: done (0.500 s)",
        "step 2    start web-1 on v01: failed: no (1.500 s)",
        "ended     plan failed: no, after 3.000 s",
    ]


def test_a_plan_that_has_not_ended_and_one_that_is_not_there(told):
    status, out, _ = run("journal", "show", "web-1-9", "--path", told)
    assert status == 0
    assert out.splitlines()[-4:-2] == [
        "    there because v01 has 4096 MiB of memory free",
        "    not v02: it has 3 protected domains",
    ]
    assert out.splitlines()[-2:] == [
        out.splitlines()[-2][:24] + "step 1    start web-1 on v01: no outcome yet: it is under way, or vmheal"
        " ended there",
        "it has not ended",
    ]
    for plan in ("web-1-3", "web", "-", ""):
        status, out, err = run("journal", "show", plan, "--path", told)
        assert (status, out) == (1, "")
        assert "there is nothing of a plan" in err
