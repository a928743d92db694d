"""Labs that tests share: booted once, by the first test that asks, and ended with the session."""

from collections.abc import Iterator

import pytest

from tests.lab.lab import Lab
from tests.lab.moves import wait_at_rest
from tests.lab.site import Site
from tests.lab.vm import Vm
from tests.lab.waiting import Progress, print_progress


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
