"""A rack of a large site is lost at once: what the actuator does grows no faster than the site, and keeps its limits.

What is counted are calls of functions (``sys.setprofile``), the same on every machine; seconds are for `make
bench-scale`.
"""

import sys
import threading
from collections import defaultdict
from dataclasses import replace

import pytest
from prometheus_client import generate_latest

from actuator.adapters.sqlite import SqliteJournal
from actuator.model import EscalationKind
from actuator.ports import Ports
from actuator.report import Report, WatchedJournal
from actuator.serve import Actuator
from tests.actuator.mesh import MIB, fill, host_failures, mesh, settings_of
from tests.actuator.world import Clock, Serial

SMALL, LARGE = 10, 50
N_LOG_N = 1.4
"""Between 200 and 1,000 VMs the logarithm makes 1.30 of it."""


class Site:
    """The actuator on a mesh, driven by hand."""

    def __init__(self, path, hosts, *, agents=True, arbiter=True, tasks=None, free_mib=None, **more):
        self.mesh = mesh(hosts)
        self.clock, self.tasks = Clock(), tasks or Serial()
        if free_mib is not None:
            self.mesh._free_bytes = lambda host: free_mib * MIB
        self.journal = SqliteJournal(path)
        self.mesh.journal = self.journal
        self.settings = settings_of(self.mesh, path, agents=agents, arbiter=arbiter, **more)
        report = Report(self.settings)
        it, journal = self.mesh, WatchedJournal(self.journal, report)
        ports = Ports(it, it, it, it, it, it, journal, self.clock, self.tasks)
        self.actuator = Actuator(ports, self.settings, report, threading.Event())
        self.worker, self.keeper = self.actuator.worker, self.actuator._keeper
        self.reconciler, self.protected = self.actuator.reconciler, self.actuator.protected
        report.show(self.protected)
        self.registry = report.registry

    def warm(self):
        """It has run for a while: hosts are measured, definitions kept."""
        fill(self.journal, self.mesh)
        for _ in range(2):
            self.reconciler.turn()
            self.keeper.turn()
            self.clock.now += 1

    def lose_rack(self):
        """Its hosts are dark, and each has its alert."""
        self.mesh.lose_rack()
        self.clock.now += 6
        self.keeper.turn()
        self.journal.receive(host_failures(self.mesh, self.clock.wall()), at=self.clock.wall())

    def settle(self):
        for _ in range(1000):
            self.worker.turn()
            if not self.tasks.queue:
                return
            while self.tasks.queue:
                self.tasks.queue.popleft()()
        raise AssertionError("the worker never comes to rest")

    @property
    def refused(self):
        """Guards, by VM."""
        return {it.domain: it.escalation.guard for it in self.protected.records() if it.escalation}


@pytest.fixture
def start(folders):
    started = []

    def begin(hosts, **more):
        started.append(Site(folders() / "journal", hosts, **more))
        started[-1].warm()
        return started[-1]

    yield begin
    for site in started:
        site.journal.close()


def calls_of(what) -> int:
    """How many functions it calls; a generator counts for each thing that it gives."""
    count = 0

    def on_event(frame, event, argument):
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(on_event)
    try:
        what()
    finally:
        sys.setprofile(None)
    return count


# ---- growth ------------------------------------------------------------------------------------------------


def storm(site):
    site.lose_rack()
    return site.settle


def keeper(site):
    return site.keeper.turn


def reconcile(site):
    return site.reconciler.turn


def definitions(site):
    site.clock.now += 61
    site.keeper.turn()
    return site.reconciler.turn


def scrape(site):
    return lambda: generate_latest(site.registry)


@pytest.mark.parametrize("part", [storm, keeper, reconcile, definitions, scrape])
def test_what_it_does_grows_no_faster_than_the_site(start, part):
    small, large = (calls_of(part(start(hosts))) for hosts in (SMALL, LARGE))
    assert large / small < N_LOG_N * LARGE / SMALL


@pytest.mark.parametrize("why", ["no_storm", "there_is_a_proof", "has_memory"])
def test_nor_does_a_storm_in_which_every_vm_is_refused(start, why):
    more = {
        "no_storm": {"failover": {"max_dark_hosts": 1}},
        "there_is_a_proof": {"agents": False, "arbiter": False},
        "has_memory": {"free_mib": 512},
    }[why]
    counted = []
    for hosts in (SMALL, LARGE):
        site = start(2 * hosts, **more)
        counted.append(calls_of(storm(site)))
        assert site.refused == dict.fromkeys(site.mesh.leaving, why)
    assert counted[1] / counted[0] < N_LOG_N * LARGE / SMALL


# ---- the whole rack, within the limits ---------------------------------------------------------------------


def test_a_lost_rack_comes_up_and_every_vm_where_its_mirror_is(start):
    site = start(50)
    site.lose_rack()
    site.settle()
    lost = site.mesh.leaving
    assert len(lost) == 100
    assert sorted(site.mesh.starts) == sorted((name, site.mesh.vms[name].mirror) for name in lost)
    assert site.refused == {}


def test_no_host_is_given_more_plans_than_its_places_the_most_important_first(start):
    site = start(50, limits={"plans_per_host": 2, "plans": 1000})
    site.lose_rack()
    site.worker.turn()
    vms, coming = site.mesh.vms, defaultdict(list)
    for name in site.mesh.leaving:
        coming[vms[name].mirror].append(vms[name].priority)
    begun = defaultdict(list)
    for name, case in site.worker._cases.items():
        if case.busy:
            begun[vms[name].mirror].append(vms[name].priority)
    best = {host: sorted(of, reverse=True)[:2] for host, of in coming.items()}
    assert {host: sorted(of, reverse=True) for host, of in begun.items()} == best
    assert max(map(len, coming.values())) > 2, "else no host is short of places"


def test_nor_are_there_more_in_all_than_places_the_most_important_first(start):
    site = start(50, limits={"plans": 12})
    site.lose_rack()
    site.worker.turn()
    begun = [site.mesh.vms[name].priority for name, case in site.worker._cases.items() if case.busy]
    lost = [site.mesh.vms[name].priority for name in site.mesh.leaving]
    assert sorted(begun) == sorted(lost)[-12:]
    site.settle()
    assert len(site.mesh.starts) == len(lost)


def test_on_each_host_the_most_important_start_first(start):
    site = start(50, limits={"plans_per_host": 1})
    site.lose_rack()
    site.settle()
    started = defaultdict(list)
    for name, host in site.mesh.starts:
        started[host].append(site.mesh.vms[name].priority)
    assert all(of == sorted(of, reverse=True) for of in started.values())


def test_where_there_is_not_room_for_all_the_most_important_have_it(start):
    free_mib = 8192
    site = start(20, free_mib=free_mib)
    site.lose_rack()
    site.settle()
    vms, starts = site.mesh.vms, dict(site.mesh.starts)
    assert set(site.refused.values()) == {"has_memory"}
    assert starts.keys() | site.refused.keys() == set(site.mesh.leaving)

    def order(name):
        return -vms[name].priority, -vms[name].memory_mib, name

    for name in site.refused:
        before = [it for it, host in starts.items() if host == vms[name].mirror and order(it) < order(name)]
        assert sum(vms[it].memory_mib for it in before) + vms[name].memory_mib > free_mib


# ---- a rack is a storm, unless the site says otherwise -----------------------------------------------------


@pytest.mark.parametrize(("allowed", "goes"), [(1, False), (4, False), (5, True)])
def test_a_lost_rack_is_a_storm_for_a_site_that_does_not_allow_for_it(start, allowed, goes):
    site = start(50, failover={"max_dark_hosts": allowed})
    site.lose_rack()
    site.settle()
    lost = set(site.mesh.leaving)
    assert len(site.mesh.rack) == 5
    assert {name for name, _ in site.mesh.starts} == (lost if goes else set())
    assert site.refused == ({} if goes else dict.fromkeys(lost, "no_storm"))
    assert site.mesh.calls["power_off"] == (100 if goes else 0)
    told = {it.labels["domain"] for it in site.mesh.sent if it.labels["alertname"] == EscalationKind.REFUSED}
    assert told == (set() if goes else lost)


# ---- definitions -------------------------------------------------------------------------------------------


class Widths(Serial):
    """Notes how many calls are asked side by side."""

    def __init__(self):
        super().__init__()
        self.widest = 0

    def gather(self, calls, *, timeout_seconds):
        self.widest = max(self.widest, len(calls))
        return super().gather(calls, timeout_seconds=timeout_seconds)


def test_each_host_is_asked_for_one_definition_after_the_other(start):
    tasks = Widths()
    site = start(SMALL, tasks=tasks)
    site.mesh.calls.clear()
    definitions(site)()
    assert site.mesh.calls["definition"] == 2 * len(site.mesh.vms), "of each VM on its two hosts"
    assert tasks.widest <= SMALL + 4, "the servers are asked beside them"


def test_a_slow_host_is_asked_first_for_what_was_not_read_for_the_longest(start):
    site = start(10)
    slow, asked = site.mesh.hosts[5], []
    read = site.mesh.definition

    def slowly(host, domain, **more):
        if host == slow:
            asked.append(domain)
            site.clock.now += 1.0
        return read(host, domain, **more)

    site.mesh.definition = slowly
    on_it = len(site.mesh.on[slow])
    assert on_it > 10
    for _ in range(-(-on_it // 5)):
        definitions(site)()
    assert set(asked) == set(site.mesh.on[slow])
    assert asked[:on_it] == list(dict.fromkeys(asked)), "none twice before each was read"


# ---- the keeper --------------------------------------------------------------------------------------------


def test_all_hosts_are_asked_about_fencing_and_all_resources_for_their_data_in_time(start):
    site = start(100)
    calls = defaultdict(list)
    for call in ("armed", "generations"):
        read = getattr(site.mesh, call)

        def noting(*what, call=call, read=read, **more):
            calls[call].append(what)
            return read(*what, **more)

        setattr(site.mesh, call, noting)
    for _ in range(61):
        site.clock.now += 1
        site.keeper.turn()
    assert {name for _, name in calls["generations"]} == site.mesh.vms.keys()
    assert len(calls["generations"]) < 1.2 * len(site.mesh.vms)
    assert {calls["armed"].count((host,)) for host in site.mesh.hosts} <= {3, 4}, "each 20 s"


def test_what_a_lost_rack_changes_is_written_together(start, monkeypatch):
    site = start(50)
    site.mesh.lose_rack()
    site.clock.now += 2
    writes, commit = [], site.journal.commit

    def counted(**change):
        writes.append(len(change["authorities"]))
        commit(**change)

    monkeypatch.setattr(site.journal, "commit", counted)
    site.keeper.turn()
    mirrored = [name for name, vm in site.mesh.vms.items() if vm.mirror in site.mesh.rack]
    assert sum(writes) == len(mirrored) > 80
    assert len(writes) == -(-len(mirrored) // 100)
    assert all(it.admitted == {it.holder} for it in map(site.journal.authority, mirrored))


def test_one_that_was_overtaken_does_not_keep_the_others_from_being_written(start, monkeypatch):
    site = start(20)
    site.mesh.lose_rack()
    site.clock.now += 2
    mirrored = [name for name, vm in site.mesh.vms.items() if vm.mirror in site.mesh.rack]
    overtaken = site.journal.authority(mirrored[0])
    commit = site.journal.commit

    def late(**change):
        monkeypatch.setattr(site.journal, "commit", commit)
        commit(authorities=[replace(overtaken, version=overtaken.version + 1)])
        commit(**change)

    monkeypatch.setattr(site.journal, "commit", late)
    site.keeper.turn()
    excluded = {name for name in mirrored if len(site.journal.authority(name).admitted) == 1}
    assert excluded == set(mirrored[1:])


def test_a_host_that_is_dark_is_not_waited_for_by_reconcile(start):
    site = start(20)
    asked, read = {}, site.mesh.states

    def noting(host, *, timeout_seconds):
        asked[host] = timeout_seconds
        return read(host, timeout_seconds=timeout_seconds)

    site.mesh.states = noting
    site.lose_rack()
    site.reconciler.turn()
    assert asked == {host: 1.0 if host in site.mesh.rack else 5.0 for host in site.mesh.hosts}
