"""A changed configuration file is taken up as a whole, or not at all."""

import contextlib
import signal
import threading
from contextlib import closing
from dataclasses import dataclass, replace
from unittest.mock import Mock

import pytest
import requests
import yaml
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from actuator.__main__ import _Serving
from actuator.adapters.sqlite import SqliteJournal
from actuator.config import ConfigError, load
from actuator.core.progress import claimed
from actuator.model import DomainRecord, Plan, PlanStatus, Start
from actuator.ports import JournalError
from actuator.reload import NotAtRestError, Reloader, fixed, orphans
from actuator.report import Report, WatchedJournal
from actuator.serve import Actuator
from actuator.worker import _Case
from tests.actuator.test_program import OPERATOR, config, operated, run, serve, url_of  # noqa: F401  fixtures
from tests.actuator.world import Clock, Machine, World, settings
from tests.lab.waiting import wait_until

SOON = 30.0


def change(path, **changes):
    document = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        document[key] = {**document.get(key, {}), **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(document))


def mode(program) -> str:
    return requests.get(f"{program.url}/api/v1/status", timeout=10).json()["mode"]


def metric(program, name) -> float:
    page = requests.get(f"{program.url}/metrics", timeout=10).text
    (line,) = (it for it in page.splitlines() if it.startswith(f"{name} "))
    return float(line.split()[1])


@dataclass
class Here:
    """The program's inside, in this process."""

    url: str
    serving: _Serving
    registry: CollectorRegistry


@pytest.fixture
def here(operated, tmp_path):  # noqa: F811
    settings = load(operated)
    report = Report(settings)
    with closing(SqliteJournal(tmp_path / "journal")) as file:
        serving = _Serving(operated, settings, WatchedJournal(file, report), report)
        try:
            with serving.server:
                yield Here(url_of(operated), serving, report.registry)
        finally:
            serving.stop()


def test_what_has_changed_counts_and_the_rest_goes_on(serve, operated, tmp_path):  # noqa: F811
    program = serve(operated)
    program.wait_ready()
    assert program.deliver() == 200
    first = metric(program, "vmheal_config_last_reload_success_timestamp_seconds")
    (tmp_path / "operator").write_text("a-new-one")
    change(operated, mode="observe")
    new = yaml.safe_load(operated.read_text())["hosts"]["v02"]
    change(operated, hosts={"v03": new}, domains={"voms07": {"host": "v03", "hosts": ["v03"]}})
    program.process.send_signal(signal.SIGHUP)
    wait_until(lambda: mode(program) == "observe", "the new mode", SOON)
    wait_until(
        lambda: metric(program, "vmheal_config_last_reload_success_timestamp_seconds") > first,
        "its end",
        SOON,
    )
    page = requests.get(f"{program.url}/metrics", timeout=10).text
    assert 'vmheal_mode{mode="observe"} 1.0' in page
    assert 'vmheal_mode{mode="enforce"} 0.0' in page
    assert 'vmheal_domain_expected{domain="voms07",host="v03"} 1.0' in page
    assert 'vmheal_notifications_received_total{status="firing"} 1.0' in page, "counters go on"
    told = requests.get(f"{program.url}/api/v1/targets", timeout=10).json()
    assert [it["labels"]["host"] for it in told] == ["v01", "v02", "v03"]
    assert program.deliver(2) == 200
    old = requests.post(
        f"{program.url}/-/reload", headers={"Authorization": f"Bearer {OPERATOR}"}, timeout=SOON
    )
    assert old.status_code == 401
    change(operated, mode="approve")
    assert run("reload", "--config", operated) == (0, "reloaded\n", "")
    assert mode(program) == "approve"
    status, errors = program.end(signal.SIGTERM)
    assert status == 0
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mode": "brave"}, "mode"),
        ({"listen": ":1"}, "listen has changed: that takes a restart"),
        ({"journal": {"path": "/tmp/another"}}, "journal has changed: that takes a restart"),
        ({"webhook": {"token_file": "/nowhere/token"}}, "/nowhere/token"),
        ({"ssh": {"key_file": "/nowhere/key"}}, "/nowhere/key"),
        ({"hosts": {"v02": {"address": "x", "libvirt_uri": "qemu+ssh://h/?no_verify=1"}}}, "no_verify"),
    ],
)
def test_what_cannot_be_used_changes_nothing(here, operated, changes, said):  # noqa: F811
    change(operated, mode="observe")
    change(operated, **changes)
    with capture_logs() as logs:
        answer = requests.post(
            f"{here.url}/-/reload", headers={"Authorization": f"Bearer {OPERATOR}"}, timeout=SOON
        )
    assert answer.status_code == 400
    assert said in answer.text
    assert mode(here) == "enforce"
    assert metric(here, "vmheal_config_last_reload_successful") == 0
    assert any(said in it.get("reason", "") for it in logs), "it is logged"


@pytest.mark.parametrize("token", ["", "Bearer ", "Bearer s3cret", "Basic x"])
def test_a_stranger_reloads_nothing(here, operated, token):  # noqa: F811
    change(operated, mode="observe")
    answer = requests.post(f"{here.url}/-/reload", headers={"Authorization": token}, timeout=10)
    assert answer.status_code == 401
    assert mode(here) == "enforce"


def record(status: PlanStatus) -> DomainRecord:
    before = DomainRecord("voms01", 0, "v01")
    after = claimed(before, Plan("restart", "voms01", "v01", "it", (Start("v01", "voms01"),)), now=1.0)
    return replace(after, plan=replace(after.plan, status=status))


@pytest.mark.parametrize("status", PlanStatus)
@pytest.mark.parametrize("stays", [True, False])
def test_a_vm_is_not_left_out_before_its_plan_has_ended(tmp_path, status, stays):
    kept = settings(tmp_path / "journal")
    after = kept if stays else kept.model_copy(update={"domains": {}})
    ended = status in {PlanStatus.SUCCEEDED, PlanStatus.FAILED}
    assert bool(orphans([record(status)], after)) is not (ended or stays)


def test_nothing_is_fixed_that_did_not_change(tmp_path):
    assert fixed(settings(tmp_path / "journal"), settings(tmp_path / "journal")) == ()


def test_while_a_plan_is_under_way_nothing_is_reloaded(folders, machines):
    machine = Machine(World(), folders() / "journal", Clock())
    machines.append(machine)
    actuator = Actuator(machine.ports, machine.config, Report(machine.config), threading.Event())
    case = actuator.worker._cases["voms01"] = _Case(busy=True)
    with pytest.raises(NotAtRestError, match="1 VMs are under way"):
        actuator.rest(0.05)
    assert not actuator.worker._rests
    ending = threading.Timer(0.1, lambda: setattr(case, "busy", False))
    ending.start()
    actuator.rest(SOON)
    actuator.worker.suspect("voms01", "a test")
    actuator.worker.turn()
    assert not actuator.worker.busy, "it begins nothing at rest"
    actuator.worker.go_on()
    actuator.worker.turn()
    assert actuator.worker._cases["voms01"].suspicion == "", "and goes on"


@pytest.mark.parametrize(
    ("method", "fault"),
    [("rest", NotAtRestError("plans are under way")), ("start", JournalError("it cannot be read"))],
)
def test_what_comes_in_between_leaves_the_old_site_at_work(here, operated, monkeypatch, method, fault):  # noqa: F811
    before, registry = here.serving._site, here.registry
    change(operated, mode="observe")
    monkeypatch.setattr(Actuator, method, Mock(side_effect=fault))
    with pytest.raises(type(fault)):
        here.serving.reloader.reload()
    assert here.serving._site is before
    assert not before.actuator.worker._rests
    assert registry.get_sample_value("vmheal_mode", {"mode": "enforce"}) == 1
    expected = {"domain": "voms01", "host": "v01"}
    assert registry.get_sample_value("vmheal_domain_expected", expected) == 1
    monkeypatch.undo()
    here.serving.reloader.reload()
    assert registry.get_sample_value("vmheal_mode", {"mode": "observe"}) == 1


def test_a_failure_is_shown_until_a_reload_succeeds(tmp_path):
    registry = CollectorRegistry()
    outcomes = [ConfigError(("no",)), NotAtRestError("no"), None]

    def take(_):
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    reloader = Reloader(lambda: settings(tmp_path / "journal"), take, registry)
    shown = [registry.get_sample_value("vmheal_config_last_reload_successful")]
    for _ in range(3):
        with contextlib.suppress(ConfigError, NotAtRestError):
            reloader.reload()
        shown.append(registry.get_sample_value("vmheal_config_last_reload_successful"))
    assert shown == [1, 0, 0, 1]
