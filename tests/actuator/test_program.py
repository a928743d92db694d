"""The program itself: its commands, its exit statuses, its signals. No host answers here."""

import json
import os
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
import structlog
import yaml
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from actuator.__main__ import main
from actuator.adapters.sqlite import SqliteJournal
from actuator.model import Authority
from exporter import fence_peer
from tests.actuator.world import settings

TOKEN = "s3cret"
READY_SECONDS = 30


@pytest.fixture(autouse=True)
def logging_as_before():
    """The commands that run in this process configure logging for the whole of it."""
    yield
    structlog.reset_defaults()


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


def url_of(config) -> str:
    return f"http://{yaml.safe_load(config.read_text())['listen']}"


class Program:
    def __init__(self, config) -> None:
        self.url = url_of(config)
        argv = [sys.executable, "-m", "actuator", "serve", "--config", str(config), "--log-format", "json"]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                if requests.get(f"{self.url}/-/ready", timeout=5).ok:
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
    document = yaml.safe_load(config.read_text())
    for host in ("v01", "v02"):
        document["hosts"][host]["arbiter_token_file"] = str(tmp_path / "token")
    config.write_text(yaml.safe_dump(document))
    status, _, errors = run("check", "--config", config)
    assert status == 2
    assert f"hosts.v02.arbiter_token_file: {tmp_path / 'token'}: the same token as that of v01" in errors
    assert TOKEN not in errors


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


def test_check_says_what_is_wrong(config):
    assert run("check", "--config", config)[0] == 0
    config.write_text(config.read_text().replace("mode:", "mod:", 1))
    status, _, err = run("check", "--config", config)
    assert status == 2
    assert "mod: unknown key; did you mean 'mode'?" in err


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


@pytest.mark.parametrize("command", ["", "serve", "check", "status", "journal"])
def test_help(command):
    status, out, _ = run(*command.split(), "--help")
    assert status == 0
    assert "Usage:" in out
    assert os.linesep in out
