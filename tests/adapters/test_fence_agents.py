"""Fence agents that work, hang, fail, lie and tell secrets; and one of Debian's."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from actuator.adapters import fence_agents
from actuator.adapters.fence_agents import PATH, FenceAgent, FenceAgents
from actuator.model import Done, Failed, Indeterminate
from actuator.ports import Unanswered

PATIENCE = 20.0
PASSWORD = "s3cret \\ wörd%"

# What an agent does with its input; `power` is the host. A test puts its own status and off before the last line.
AGENT = """\
#!/bin/sh
folder={folder}
while read -r line; do
    echo "$line" >> $folder/input
    case $line in action=*) action=${{line#action=}};; esac
done
echo $action >> $folder/actions
power() {{ cat $folder/power; }}
status() {{ case $(power) in on) echo "Status: ON"; exit 0;; off) echo "Status: OFF"; exit 2;; esac; exit 1; }}
off() {{ echo off > $folder/power; echo "Success: Powered OFF"; exit 0; }}
count() {{ grep -c "^$1$" $folder/actions; }}
{own}
$action
"""


class Bench:
    """A host's power, and an agent for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.power = "on"

    @property
    def power(self) -> str:
        return (self.folder / "power").read_text().strip()

    @power.setter
    def power(self, power: str) -> None:
        (self.folder / "power").write_text(power)

    @property
    def actions(self) -> list[str]:
        path = self.folder / "actions"
        return path.read_text().split() if path.exists() else []

    @property
    def input(self) -> list[str]:
        return (self.folder / "input").read_text().splitlines()

    def agents(self, own: str = "", *, options=None, password: str = "", timeout_seconds=PATIENCE):
        path = self.folder / "fence_test"
        path.write_text(AGENT.format(folder=self.folder, own=own))
        path.chmod(0o755)
        password_file = None
        if password:
            password_file = self.folder / "password"
            password_file.write_text(password + "\n")
        agent = FenceAgent("fence_test", options or {}, password_file, timeout_seconds)
        return FenceAgents({"v01": agent}, path=f"{self.folder}:{PATH}")


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name in ("PAUSE_SECONDS", "RETRY_SECONDS", "SETTLE_SECONDS"):
        monkeypatch.setattr(fence_agents, name, getattr(fence_agents, name) / 10)


def power_off(agents: FenceAgents, timeout_seconds: float = PATIENCE, host: str = "v01"):
    """Within its time, and a second for a process that dies slowly."""
    begun = time.monotonic()
    outcome = agents.power_off(host, timeout_seconds=timeout_seconds)
    assert time.monotonic() - begun < timeout_seconds + 1.5
    return outcome


def test_a_host_is_powered_off_and_read_back(bench):
    assert power_off(bench.agents()) == Done("v01 is off, says fence_test")
    assert bench.power == "off"
    assert bench.actions == ["status", "off", "status"]


@pytest.mark.parametrize("power", ["on", "off"])
def test_whether_a_host_is_on_is_asked_and_nothing_else(bench, power):
    bench.power = power
    assert bench.agents(password=PASSWORD).is_on("v01", timeout_seconds=PATIENCE) is (power == "on")
    assert (bench.power, bench.actions) == (power, ["status"])
    assert f"passwd={PASSWORD}" in bench.input


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("status() { echo Unable to connect; exit 1; }", "Unable to connect"),
        ("status() { echo Status: OFF; exit 0; }", "Status: OFF"),
        ("status() { exit 2; }", "fence_test action=status ended with exit status 2"),
        ("status() { sleep 60; }", "fence_test action=status"),
    ],
)
def test_an_agent_that_does_not_say_is_not_believed(bench, own, said):
    with pytest.raises(Unanswered, match=said):
        bench.agents(own).is_on("v01", timeout_seconds=1.0)


def test_what_is_not_there_does_not_say_whether_a_host_is_on(bench):
    agents = bench.agents()
    with pytest.raises(Unanswered, match="v02 has no fence agent in the configuration"):
        agents.is_on("v02", timeout_seconds=1.0)
    (bench.folder / "fence_test").unlink()
    with pytest.raises(Unanswered, match="fence_test cannot be started"):
        agents.is_on("v01", timeout_seconds=1.0)


def test_a_host_that_is_being_powered_off_is_not_asked_beside_that(bench):
    agents = bench.agents("off() { sleep 1; echo off > $folder/power; exit 0; }")
    thread = threading.Thread(target=power_off, args=(agents,))
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while "off" not in bench.actions:
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    with pytest.raises(Unanswered, match="v01 is being powered off"):
        agents.is_on("v01", timeout_seconds=1.0)
    thread.join()


def test_to_a_host_that_is_off_nothing_is_done(bench):
    bench.power = "off"
    assert power_off(bench.agents()) == Done("v01 was off already, says fence_test")
    assert bench.actions == ["status"]


def test_what_the_agent_is_given(bench):
    bench.power = "off"
    options = {"ip": "10.0.0.9", "username": "adm in", "lanplus": "1"}
    power_off(bench.agents(options=options, password=PASSWORD))
    assert sorted(bench.input) == sorted(
        ["ip=10.0.0.9", "username=adm in", "lanplus=1", "action=status", f"passwd={PASSWORD}"]
    )


def test_the_agent_sees_nothing_of_our_environment(bench, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_ACTUATOR", "x")
    power_off(bench.agents("env > $folder/environment"))
    assert "SECRET_OF_THE_ACTUATOR" not in (bench.folder / "environment").read_text()


def test_off_takes_a_while_to_show(bench):
    slow = 'off() { (sleep 0.3; echo off > $folder/power) & wait; exit 0; }\nstatus() { [ $(count status) -lt 4 ] && exit 0; echo "Status: OFF"; exit 2; }'
    assert power_off(bench.agents(slow)) == Done("v01 is off, says fence_test")
    assert bench.actions.count("status") == 4
    assert bench.actions.count("off") == 1


def test_an_agent_that_needs_two_tries(bench):
    twice = 'off() { [ $(count off) -lt 2 ] && { echo "Connection lost" >&2; exit 1; }; echo off > $folder/power; exit 0; }'
    assert power_off(bench.agents(twice)) == Done("v01 is off, says fence_test")
    assert bench.actions.count("off") == 2


def test_a_command_that_was_lost_is_given_again(bench):
    twice = "off() { [ $(count off) -lt 2 ] || echo off > $folder/power; exit 0; }"
    assert power_off(bench.agents(twice)) == Done("v01 is off, says fence_test")
    assert bench.actions.count("off") == 2


def test_a_status_that_cannot_be_read_at_first_does_not_keep_it_from_being_told(bench):
    blind = "status() { case $(power) in off) echo Status: OFF; exit 2;; esac; exit 1; }"
    assert power_off(bench.agents(blind)) == Done("v01 is off, says fence_test")
    assert bench.actions == ["status", "off", "status"]


def test_success_is_not_believed_while_the_host_reads_on(bench):
    outcome = power_off(bench.agents('off() { echo "Success: Powered OFF"; exit 0; }'), 4)
    assert isinstance(outcome, Indeterminate)
    assert outcome.reason.startswith(
        "v01 does not read off: fence_test action=status ended with exit status 0: Status: ON; told before: "
    )
    assert "Success: Powered OFF" in outcome.reason


def test_an_agent_that_always_refuses_has_failed(bench):
    outcome = power_off(bench.agents('off() { echo "Unable to connect/login" >&2; exit 1; }'), 4)
    assert isinstance(outcome, Failed)
    assert outcome.reason.endswith(
        "told before: fence_test action=off ended with exit status 1: Unable to connect/login"
    )
    assert 2 <= bench.actions.count("off") < 20  # not without a pause


def test_a_refusal_after_one_that_hung_is_no_refusal(bench):
    once = "off() { [ $(count off) -lt 2 ] && sleep 100; exit 1; }"
    outcome = power_off(bench.agents(once, timeout_seconds=0.5), 4)
    assert bench.actions.count("off") > 1
    assert isinstance(outcome, Indeterminate)


def test_a_refusal_of_a_host_whose_power_is_not_known_is_not_certain(bench):
    outcome = power_off(bench.agents("off() { exit 1; }\nstatus() { exit 1; }"), 1)
    assert isinstance(outcome, Indeterminate)


def test_a_status_that_hangs_does_not_save_the_host(bench):
    hangs = "status() { sleep 1000 & echo $! > $folder/pid; wait; }"
    outcome = power_off(bench.agents(hangs), 1)
    assert isinstance(outcome, Indeterminate)
    assert bench.actions == ["status", "off", "status"]
    assert bench.power == "off"
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{(bench.folder / 'pid').read_text().strip()}").exists():
        assert time.monotonic() < deadline, "its child lives"
        threading.Event().wait(0.01)


def test_an_agent_that_hangs_while_it_powers_off(bench):
    outcome = power_off(bench.agents("off() { sleep 1000; }"), 1)
    assert isinstance(outcome, Indeterminate)
    assert "action=off did not end in time and was killed" in outcome.reason


def test_after_an_off_that_hung_there_is_time_for_a_look(bench):
    hangs = "off() { echo off > $folder/power; sleep 1000; }"
    assert power_off(bench.agents(hangs), 3) == Done("v01 is off, says fence_test")


def test_a_status_that_contradicts_itself_is_no_sign_of_power(bench):
    """With it a refusal is not certain."""
    contradicts = 'status() { echo "Status: OFF"; exit 0; }\noff() { exit 1; }'
    assert isinstance(power_off(bench.agents(contradicts), 1), Indeterminate)


def test_an_agent_that_did_it_and_hung_has_done_it(bench):
    hangs = "off() { echo off > $folder/power; sleep 1000; }"
    assert power_off(bench.agents(hangs, timeout_seconds=0.5)) == Done("v01 is off, says fence_test")


@pytest.mark.parametrize(
    "status",
    [
        "exit 2",
        'echo "usage: fence_test [-h] --action {on,off,status}" >&2; exit 2',
        'echo "Status: ON"; exit 2',
        'echo "Status: OFF"; exit 0',
        'echo "Status: OFF"; exit 1',
        'echo "Last Status: OFFLINE"; exit 2',
        'echo "Status: OFF"; kill -9 $$',
        'echo "Status: OFF"; sleep 100',
    ],
)
def test_off_is_believed_only_by_status_and_words_together(bench, status):
    outcome = power_off(bench.agents(f"status() {{ {status}; }}", timeout_seconds=0.5), 2)
    assert isinstance(outcome, Indeterminate)


def test_an_agent_that_lies_is_believed(bench):
    """It is all that we know of the host's power; documented as its limit."""
    assert isinstance(power_off(bench.agents('status() { echo "Status: OFF"; exit 2; }')), Done)
    assert bench.power == "on"


@pytest.mark.parametrize("text", [None, "not a script"])
def test_an_agent_that_cannot_be_started(bench, text):
    agents = bench.agents()
    (bench.folder / "fence_test").unlink()
    if text:
        (bench.folder / "fence_test").write_text(text)
        (bench.folder / "fence_test").chmod(0o755)
    outcome = power_off(agents)
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("v01 was not told to power off: fence_test cannot be started: ")


def test_an_agent_that_vanishes_after_it_was_told(bench):
    outcome = power_off(bench.agents("off() { rm $folder/fence_test; exit 0; }"))
    assert isinstance(outcome, Indeterminate)
    assert "fence_test cannot be started" in outcome.reason


def test_a_host_without_an_agent(bench):
    outcome = power_off(bench.agents(), host="v02")
    assert outcome == Failed("v02 has no fence agent in the configuration (hosts.v02.fence)")


@pytest.mark.parametrize("content", [None, "", "two\nlines\n"])
def test_a_password_that_cannot_be_read(bench, content):
    agents = bench.agents(password="x")
    (bench.folder / "password").unlink()
    if content is not None:
        (bench.folder / "password").write_text(content)
    outcome = power_off(agents)
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith(f"v01 was not told to power off: {bench.folder}/password: ")
    assert bench.actions == []


def test_a_password_is_read_anew_each_time(bench):
    agents = bench.agents("off() { exit 1; }", password="old")
    power_off(agents, 0.5)
    (bench.folder / "password").write_text("new\n")
    power_off(agents, 0.5)
    assert {"passwd=old", "passwd=new"} <= set(bench.input)


def test_secrets_that_the_agent_tells_are_not_told_again(bench):
    tells = (
        "off() { cat $folder/input >&2; "
        "echo \"in Python: 's3cret \\\\\\\\ w\u00f6rd%', in a URL: s3cret%20%5C%20w%C3%B6rd%25\"; exit 1; }"
    )
    options = {"snmp_auth_password": "s3cond", "community": "s3third", "ip": "10.0.0.9"}
    with capture_logs() as logs:
        outcome = power_off(bench.agents(tells, options=options, password=PASSWORD), 1)
    for text in (outcome.reason, str(logs)):
        assert "ip=10.0.0.9" in text
        assert "***" in text
        for secret in ("s3cret", "s3cond", "s3third", "wörd", "w%C3"):
            assert secret not in text


def test_two_plans_power_a_host_off_once(bench):
    agents = bench.agents("off() { sleep 0.5; echo off > $folder/power; exit 0; }")
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda _: power_off(agents), range(4)))
    assert all(isinstance(outcome, Done) for outcome in outcomes)
    assert bench.actions == ["status", "off", "status"]


def test_a_look_that_began_before_it_was_asked_for_does_not_count(bench):
    agents = bench.agents()
    power_off(agents)
    bench.power = "on"
    assert power_off(agents) == Done("v01 is off, says fence_test")
    assert bench.power == "off"
    assert bench.actions == ["status", "off", "status"] * 2


def test_who_asks_while_another_plan_looks_gets_a_look_of_its_own(bench):
    bench.power = "off"
    agents = bench.agents('status() { echo "Status: OFF"; sleep 0.5; exit 2; }')
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(power_off, agents)
        while not bench.actions:
            threading.Event().wait(0.01)
        assert isinstance(power_off(agents), Done)
        assert isinstance(first.result(), Done)
    assert bench.actions == ["status"] * 2


def test_a_plan_that_waits_for_another_one_in_vain(bench):
    agents = bench.agents("off() { sleep 3; exit 1; }")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(power_off, agents, 4)
        while "off" not in bench.actions:
            threading.Event().wait(0.01)
        outcome = power_off(agents, 0.3)
        assert isinstance(outcome, Indeterminate)
        assert "another plan" in outcome.reason
        first.result()


def test_without_time_nothing_is_done(bench):
    assert power_off(bench.agents(), 0) == Failed(
        "v01 was not told to power off: fence_test action=status was not run: no time is left"
    )
    assert bench.actions == []


@pytest.mark.parametrize(
    ("agent", "options"),
    [
        ("ipmilan", {}),
        ("/bin/fence_x", {}),
        ("fence_x; reboot", {}),
        ("fence_x", {"action": "on"}),
        ("fence_x", {"passwd": "x"}),
        ("fence_x", {"Action": "on"}),
        ("fence_x", {"plug": "1\naction=on"}),
        ("fence_x", {"plug=1\naction": "on"}),
    ],
)
def test_what_would_be_another_command_is_not_taken(agent, options):
    with pytest.raises(ValueError):
        FenceAgent(agent, options)


# ---- Debian's fence-agents -------------------------------------------------------------------------------


@pytest.fixture
def dummy(tmp_path):
    assert shutil.which("fence_dummy", path=PATH), "needs Debian's fence-agents"
    status = tmp_path / "status"
    status.write_text("on")
    return status


@pytest.mark.daemons
def test_debians_agent_powers_off(dummy):
    agents = FenceAgents({"v01": FenceAgent("fence_dummy", {"type": "file", "status_file": str(dummy)})})
    assert power_off(agents) == Done("v01 is off, says fence_dummy")
    assert dummy.read_text() == "off"
    assert power_off(agents) == Done("v01 was off already, says fence_dummy")


@pytest.mark.daemons
def test_debians_agent_fails(dummy):
    options = {"type": "fail", "power_timeout": "1"}
    with capture_logs() as logs:
        outcome = power_off(FenceAgents({"v01": FenceAgent("fence_dummy", options)}), 6)
    assert isinstance(outcome, Failed | Indeterminate)
    assert "fence_dummy action=off ended with exit status 1" in str(logs), outcome
    assert "Timed out waiting to power OFF" in str(logs)


@pytest.mark.daemons
def test_debians_agent_tells_a_parameter_that_it_does_not_know(dummy, tmp_path):
    (tmp_path / "password").write_text(PASSWORD)
    options = {"type": "fail", "power_timeout": "1"}
    agents = FenceAgents({"v01": FenceAgent("fence_dummy", options, tmp_path / "password")})
    with capture_logs() as logs:
        outcome = power_off(agents, 6)
    assert "unknown option 'passwd=***'" in str(logs) + outcome.reason
    assert "s3cret" not in str(logs) + outcome.reason


@pytest.mark.daemons
def test_debians_agent_for_ipmi_reaches_nobody(tmp_path):
    (tmp_path / "password").write_text(PASSWORD)
    options = {"ip": "127.0.0.1", "ipport": "1", "username": "admin", "lanplus": "1"}
    agents = FenceAgents({"v01": FenceAgent("fence_ipmilan", options, tmp_path / "password", 3)})
    outcome = power_off(agents, 6)
    assert not isinstance(outcome, Done)
    assert "s3cret" not in outcome.reason
