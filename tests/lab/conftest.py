"""Labs that tests share: booted once, by the first test that asks, and ended with the session."""

import subprocess
from collections.abc import Generator, Iterator

import pytest

from tests.lab.lab import Lab
from tests.lab.moves import wait_at_rest
from tests.lab.site import Site
from tests.lab.vm import Vm
from tests.lab.waiting import LabError, Progress, print_progress

JOURNAL_LINES = 60
"""Of the actuator's journal, with the report of a drill that failed: the lab is gone when it is read."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the site's journal said last to the report of a failure."""
    report = yield
    site = getattr(item, "funcargs", {}).get("site")
    if report.failed and isinstance(site, Site):
        try:
            events = site.events()[-JOURNAL_LINES:]
            said = "\n".join(f"{event.at:.2f} {event.kind}: {event.sentence}" for event in events)
        except (LabError, OSError, ValueError, subprocess.SubprocessError) as error:
            said = str(error)
        report.sections.append((f"the actuator's journal, {call.when}", said))
    return report


@pytest.fixture(scope="session")
def progress(request: pytest.FixtureRequest) -> Progress:
    """Progress lines that are shown while pytest captures output."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def show(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print_progress(line)

    return show


@pytest.fixture(scope="session")
def lab(progress: Progress) -> Iterator[Lab]:
    """Two Xen hosts. A test that takes it leaves both running, cables in, and its own VMs destroyed."""
    with Lab(hosts=2, flavour="xen", name="test", progress=progress) as lab:
        yield lab


# ---- one VM that is watched, whose DRBD asks the arbiter: what most drills begin with ------------------------


@pytest.fixture(scope="module")
def vm(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Vm]:
    """A VM of the module's own, mirrored on both hosts."""
    name = request.module.__name__.rpartition("_")[2][:5] + "01"
    vm = lab.add_vm(name, on=("v01", "v02"), fenced=True)
    lab.start_vms([vm])
    yield vm
    lab.end_vm(vm)


@pytest.fixture(scope="module")
def running_site(lab: Lab, vm: Vm, request: pytest.FixtureRequest) -> Iterator[Site]:
    """What watches over it, with the module's `SETTINGS`."""
    with Site(lab, [vm], getattr(request.module, "SETTINGS", {})) as site:
        yield site


@pytest.fixture
def site(lab: Lab, vm: Vm, running_site: Site) -> Iterator[Site]:
    """At rest before and after: watched, writing, both replicas current, nothing lost on either disk."""
    wait_at_rest(lab, running_site, [vm])
    yield running_site
    wait_at_rest(lab, running_site, [vm])
    lab.assert_nothing_lost(vm)
