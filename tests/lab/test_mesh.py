"""The drill of a mesh: three hosts, each VM mirrored on two of them; the host that runs them all is killed."""

import pytest

from tests.lab.lab import Lab
from tests.lab.moves import (
    Moment,
    boots_of,
    bring_back,
    failover_of,
    home,
    other,
    wait_at_rest,
    wait_writes_on,
)
from tests.lab.site import Site

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def mesh(progress):
    with Lab(hosts=3, flavour="xen", name="mesh", progress=progress) as lab:
        yield lab


def test_a_host_with_three_vms_is_killed_and_they_spread_over_the_others(mesh):
    vms = [
        mesh.add_vm("mesh01", on=("v01", "v02"), fenced=True),
        mesh.add_vm("mesh02", on=("v01", "v03"), fenced=True),
        mesh.add_vm("mesh03", on=("v01", "v02"), fenced=True),
    ]
    mesh.start_vms(vms, timeout_seconds=300)
    with Site(mesh, vms, {"restart": {"backoff_seconds": 0}}) as site:
        wait_at_rest(mesh, site, vms)
        before, fault = {vm.name: boots_of(mesh, vm) for vm in vms}, Moment.now()
        mesh.host("v01").kill()
        for vm in vms:
            wait_writes_on(mesh, site, vm, other(vm, "v01"), fault)
        mesh.progress(f"seconds from the kill: {failover_of(site, vms, fault)}")
        for vm in vms:
            mesh.assert_nothing_lost(vm, home(site, vm))
            assert len(set(boots_of(mesh, vm)) - set(before[vm.name])) == 1
        bring_back(mesh, "v01")
        wait_at_rest(mesh, site, vms)
        assert [home(site, vm) for vm in vms] == ["v02", "v03", "v02"]
    for vm in vms:
        mesh.assert_nothing_lost(vm)
