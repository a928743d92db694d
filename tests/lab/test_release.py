"""Drills of the loser's side under real DRBD and Xen: a host that is cut off, frozen, or boots.

Authority is moved by hand, in the journal, as a failover does it; the actuator only observes. In each drill
the host that loses frees itself: nobody logs in to it. What the guest printed is on both disks at the end.
"""

import contextlib
import time

import pytest

from actuator.adapters.sqlite import SqliteJournal
from actuator.core.arbiter import taken
from tests.lab.lab import Lab
from tests.lab.site import Site
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1200)]

ISOLATION_SECONDS = 5.0
"""vmheal-fence-peer's default."""
LOG = ["journalctl", "--quiet", "--output", "short-precise", "--identifier", "vmheal-fence-peer"]


@pytest.fixture(scope="module")
def lab(progress):
    with Lab(hosts=2, flavour="xen", name="release", progress=progress) as lab:
        yield lab


@pytest.fixture(scope="module")
def vm(lab):
    vm = lab.add_vm("rel01", on=("v01", "v02"), fenced=True)
    lab.start_vms([vm])
    return vm


@pytest.fixture(scope="module")
def site(lab, vm):
    with Site(lab, [vm], {"mode": "observe"}) as site:
        yield site


@pytest.fixture
def holder(lab, vm, site):
    """Who has the resource and runs the VM; both replicas are admitted."""
    wait_until(lambda: both_admitted(site, vm), "both replicas to be admitted", 180, 1)
    holder = site.resource(vm.name)["holder"]
    lab.witness.wait_for_record(vm, after=time.monotonic(), on=holder, timeout_seconds=120)
    yield holder
    for cable in ("replication", "management"):
        lab.plug(holder, cable)
    for host in vm.hosts:
        said = "\n".join([*lab.host(host).run(LOG, check=False).text.splitlines()[-60:], drbd_log(lab, host)])
        (lab.logs / f"{host}.release.txt").write_text(said, encoding="utf-8")
        lab.progress(f"{host} said:\n{said}")


def both_admitted(site, vm):
    said = site.resource(vm.name)
    return bool(said) and said["admitted"] == [*vm.hosts] and not said["granted"]


def drbd_log(lab, host):
    lines = lab.host(host).run(["dmesg"]).text.splitlines()
    return "\n".join([line for line in lines if "drbd" in line or "xen" in line.lower()][-60:])


def other_than(vm, host):
    return next(name for name in vm.hosts if name != host)


def runs(lab, vm, host):
    return vm.name in lab.host(host).virsh(vm.uri, "list", "--name").split()


def give_to(lab, site, vm, host):
    """What a failover does: the authority first, then the promotion, whose DRBD asks once more."""
    site.stop("actuator")
    with contextlib.closing(SqliteJournal(site.folder / "journal.sqlite")) as journal:
        after = taken(journal.authority(vm.name), host, None)
        assert not isinstance(after, str), after
        journal.commit(authorities=[after])
    site.start("actuator")
    site.wait_ready("actuator")
    for _ in range(2):
        done = lab.host(host).run(["drbdadm", "primary", vm.name], check=False, timeout_seconds=90)
        lab.progress(f"drbdadm primary on {host}: {done.returncode} {done.stderr.decode().strip()}")
        if done.returncode != 11:
            break
    assert done.returncode == 0, done.stderr
    said = site.resource(vm.name)
    assert (said["holder"], said["admitted"], said["granted"]) == (host, [host], True)


def wait_freed(lab, vm, loser, winner):
    """The loser is a Secondary that the winner resynced. The winner's reconnect is the actuator's part."""
    begun = time.monotonic()
    seen = []

    def is_back():
        state = lab.host(loser).drbd_state(vm.resources[0])
        if seen[-1:] != [state]:
            seen.append(state)
            lab.progress(f"{time.monotonic() - begun:6.1f} s {loser}: {' '.join(state)}")
        if lab.host(winner).drbd_state(vm.resources[0])[0] == "StandAlone":
            lab.progress(f"{time.monotonic() - begun:6.1f} s {winner}: StandAlone, connected by the drill")
            lab.host(winner).run(["drbdadm", "connect", vm.name], check=False)
        return state == ("Connected", "Secondary/Primary", "UpToDate/UpToDate")

    wait_until(is_back, f"{vm.name} on {loser} to be resynced from {winner}", 400, 0.3)
    assert not runs(lab, vm, loser)
    for host in vm.hosts:
        log = lab.host(host).run(["dmesg"]).text
        assert "Split-Brain detected" not in log
        assert "helper command: /sbin/drbdadm split-brain" not in log


def go_on(lab, site, vm, host):
    """The VM runs on its new host, and finds what it wrote before; both disks have all of it."""
    lab.start_vm(vm, on=host)
    lab.witness.wait_for_record(vm, after=time.monotonic(), on=host, timeout_seconds=180)
    lab.assert_nothing_lost(vm)


def test_a_host_that_is_cut_off_ends_its_vm_and_frees_itself_when_it_has_lost(lab, vm, site, holder):
    loser, winner = holder, other_than(vm, holder)
    lab.unplug(loser, "management")
    lab.unplug(loser, "replication")
    cut = time.monotonic()
    lab.host(loser).wait_for_drbd(vm.resources[0], connection="WFConnection", timeout_seconds=15)
    noticed = time.monotonic()
    wait_until(lambda: not runs(lab, vm, loser), f"{vm.name} on {loser} to be ended", 150, 0.2)
    ended = time.monotonic()
    last = lab.witness.last_record(vm)
    lab.progress(
        f"seconds after the cut: last record {last.at - cut:.1f}, peer lost {noticed - cut:.1f}, VM gone"
        f" {ended - cut:.1f}"
    )
    assert last.at - noticed < 1
    assert ended - cut < ISOLATION_SECONDS + 30  # of which most is the emulated host's slowness
    state = lab.host(loser).run(["cat", "/proc/drbd"]).text
    lab.progress(f"{loser}, isolated:\n{state}")
    assert "cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown C s" in state  # frozen, and nothing else

    give_to(lab, site, vm, winner)
    lab.plug(loser, "replication")
    lab.plug(loser, "management")
    wait_freed(lab, vm, loser, winner)
    assert lab.witness.last_record(vm) == last
    go_on(lab, site, vm, winner)


def test_a_host_that_stood_still_frees_itself_when_it_has_lost(lab, vm, site, holder):
    loser, winner = holder, other_than(vm, holder)
    lab.host(loser).freeze()
    begun = time.monotonic()
    try:
        lab.host(winner).wait_for_drbd(vm.resources[0], connection="WFConnection", timeout_seconds=15)
        give_to(lab, site, vm, winner)
        wait_until(lambda: time.monotonic() > begun + 20, "20 s to pass", 30, 0.1)
    finally:
        lab.host(loser).thaw()
    woke = time.monotonic()
    wait_until(lambda: not runs(lab, vm, loser), f"{vm.name} on {loser} to be ended", 150, 0.2)
    last = lab.witness.last_record(vm)
    lab.progress(
        f"stood still for {woke - begun:.1f} s; VM gone {time.monotonic() - woke:.1f} s after that, its last"
        f" record {last.at - woke:+.1f} s"
    )
    wait_freed(lab, vm, loser, winner)
    go_on(lab, site, vm, winner)


def test_a_host_that_boots_attaches_nothing_before_the_arbiter_allows_it(lab, vm, site, holder):
    booting = other_than(vm, holder)
    lab.host(booting).kill()
    wait_until(lambda: site.resource(vm.name)["granted"], "the grant", 60, 0.2)
    site.stop("actuator")
    lab.host(booting).boot()
    lab.host(booting).run(["vgchange", "--quiet", "--quiet", "--activate", "y", "vg0"], timeout_seconds=120)
    lab.host(booting).run(["systemctl", "start", "vmheal-drbd.service"], timeout_seconds=120)
    wait_until(
        lambda: f"up {vm.name}: " in lab.host(booting).run(LOG, check=False).text, "it to have asked", 60, 0.5
    )
    assert lab.host(booting).drbd_state(vm.resources[0])[0] == "Unconfigured"
    site.start("actuator")
    resource = vm.resources[0]
    lab.host(booting).wait_for_drbd(
        resource,
        connection="Connected",
        roles="Secondary/Primary",
        disks="UpToDate/UpToDate",
        timeout_seconds=120,
    )
    wait_until(lambda: both_admitted(site, vm), "both replicas to be admitted", 120, 1)
    status = lab.host(booting).run(["systemctl", "is-active", "vmheal-drbd.service"], check=False).text
    assert status.strip() == "active"
    lab.assert_nothing_lost(vm)
