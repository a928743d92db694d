"""No secret that is given is ever told: not in a sentence, a log line, a page, the process list or a metric."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import yaml

from actuator.config import Settings
from tests.actuator.test_program import Program, config, operated, run, secured, serve  # noqa: F401  fixtures

SECRETS = {
    "webhook": "s3cret-of-alertmanager",
    "operator": "s3cret-of-operators",
    "read": "s3cret-of-readers",
    "v01": "s3cret-of-v01",
    "prometheus": "s3cret-for-prometheus",
    "alertmanager": "s3cret-for-alertmanager",
    "fence": "s3cret-of-the-bmc",
}
WORD = "s3cret"


def keys() -> set[str]:
    """What the settings call a file with a secret in it."""
    sections = Settings.model_json_schema()["$defs"].values()
    named = {key for section in sections for key in section.get("properties", ())}
    return {key for key in named if key.endswith(("token_file", "password_file"))}


@pytest.fixture
def laden(secured, tmp_path):  # noqa: F811  the fixture
    """A configuration in which everything that may carry a secret does."""
    for name, secret in SECRETS.items():
        (tmp_path / f"{name}.secret").write_text(f"{secret}\n")
    document = yaml.safe_load(secured.read_text())

    def file(name):
        return str(tmp_path / f"{name}.secret")

    document["webhook"]["token_file"] = file("webhook")
    document["operator"] = {"token_file": file("operator")}
    document["read"] = {"token_file": file("read")}
    document["prometheus"] |= {"token_file": file("prometheus")}
    document["alertmanager"] |= {"user": "vmheal", "password_file": file("alertmanager")}
    document["hosts"]["v01"] |= {
        "arbiter_token_file": file("v01"),
        "fence": {"agent": "fence_dummy", "password_file": file("fence")},
    }
    secured.write_text(yaml.safe_dump(document))
    return secured


def test_all_that_carry_a_secret_are_here(laden):
    """A new key that names a file with a secret must be given one above."""
    text = laden.read_text()
    assert {key for key in keys() if f"{key}: /" not in text} == set()


def test_the_running_actuator_tells_none(serve, laden, tmp_path):  # noqa: F811
    program = serve(laden)
    program.url = program.url.replace("http:", "https:")
    program.verify = str(tmp_path / "ca.pem")
    program.wait_ready()
    said = [Path(f"/proc/{program.process.pid}/cmdline").read_bytes().decode()]
    said.append(Path(f"/proc/{program.process.pid}/environ").read_bytes().decode())

    def ask(path, token, data=None):
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        method = "GET" if data is None else "POST"
        reply = requests.request(
            method, program.url + path, headers=headers, data=data, verify=program.verify, timeout=60
        )
        said.append(f"{reply.headers} {reply.text}")
        return reply.status_code

    read = SECRETS["read"]
    for path in ("/", "/login", "/metrics", *(f"/api/v1/{it}" for it in ("status", "ready", "targets"))):
        assert ask(path, read) == 200
    assert ask("/api/v1/explain/voms01", read) == 200
    assert ask("/api/v1/arbitrate", SECRETS["v01"]) == 200
    for token in SECRETS.values():  # each where it opens nothing, and with what is no question
        ask("/alerts", token, b"{")
        ask("/api/v1/orders", token, b"{")
        ask("/api/v1/arbitrate", token, b"{")
    for name in SECRETS:  # rotated to something that cannot be used
        (tmp_path / f"{name}.secret").write_text(f"{WORD} of two words\n")
    for path in ("/metrics", "/api/v1/status"):
        assert ask(path, read) == 200
    assert ask("/alerts", SECRETS["webhook"], b"{") == 400
    code, errors = program.end(signal.SIGTERM)
    assert code == 0
    assert "the old tokens stay" in errors
    said.append(errors)
    said += [it.read_bytes().decode("latin-1") for it in tmp_path.glob("journal*")]
    assert [it for it in said if WORD in it] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["check", "--live"],
        ["pause", "all"],
        ["reload"],
        ["journal"],
        ["--help"],
        ["check", "--help"],
    ],
)
def test_no_command_tells_one(laden, arguments):
    """Nobody answers them: each says so."""
    more = [] if "--help" in arguments else ["--config", laden]
    status, out, err = run(*arguments, *more)
    assert WORD not in f"{status} {out} {err}"


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("webhook", "token_file", WORD),
        ("webhook", "token_file", [WORD]),
        ("webhook", "token", WORD),
        ("operator", "token_file", WORD),
        ("read", "token_file", 17),
        ("prometheus", "password_file", WORD),
        ("prometheus", "url", f"htp://me:{WORD}@monitor:9090"),
        ("prometheus", "url", f"https://me:{WORD}@monitor:9090/ x"),
        ("web", "url", f"https://me:{WORD}@monitor:9090"),
    ],
)
def test_a_secret_in_the_wrong_place_is_not_told(laden, section, key, value):
    document = yaml.safe_load(laden.read_text())
    document[section][key] = value
    laden.write_text(yaml.safe_dump(document))
    status, out, err = run("check", "--config", laden)
    assert (status, WORD in f"{out} {err}") == (2, False), err
    assert f"{section}.{key}" in err


def test_the_handler_tells_none(tmp_path):
    """Nobody answers it; its sentences go to syslog, here to standard output."""
    (tmp_path / "token").write_text(f"{WORD}\n")
    (tmp_path / "conf").write_text(
        f"actuator 127.0.0.1:1\ntoken_file {tmp_path / 'token'}\nlibvirt_uri test:///default\n"
    )
    code = f"from exporter import fence_check; fence_check.check({str(tmp_path / 'conf')!r}, as_json=True)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=60, check=False
    )
    assert "no actuator answers" in done.stdout
    assert WORD not in done.stdout + done.stderr
