"""On libvirt's test:/// driver, whose domains live in this process."""

import contextlib
import threading
import time
import uuid as uuids

import libvirt
import pytest

from exporter import libvirt_connection
from exporter.collector import CollectorError
from exporter.collectors import libvirt_state
from exporter.collectors.libvirt_state import EVENTS_FROM_ZERO, LibvirtState
from exporter.collectors.libvirt_stats import LibvirtStats
from exporter.libvirt_connection import Connections, OwnConnections, start_event_loop
from exporter.libvirt_domain import STATES
from tests.exporter.pages import SECONDS, collect, ones, series, value

URI = "test:///default"

XML = """<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>8192</memory><title>A title</title>
<os><type>hvm</type></os><on_crash>{on_crash}</on_crash><devices>{devices}</devices></domain>"""


def disk(source, target="vda"):
    return f"<disk type='block' device='disk'><source dev='{source}'/><target dev='{target}'/></disk>"


@pytest.fixture
def handle():
    start_event_loop()
    handle = libvirt.open(URI)
    yield handle
    handle.close()


@pytest.fixture
def define(handle):
    """Define domains, which go when the test ends."""
    defined = []

    def define(devices="", *, name=None, on_crash="destroy"):
        name = name or f"vm{uuids.uuid4().hex[:8]}"
        identity = str(uuids.uuid5(uuids.NAMESPACE_DNS, name))
        domain = handle.defineXML(XML.format(name=name, uuid=identity, devices=devices, on_crash=on_crash))
        defined.append(domain)
        return domain

    yield define
    for domain in defined:
        for end in (domain.destroy, domain.undefine):
            with contextlib.suppress(libvirt.libvirtError):
                end()


@pytest.fixture
def state():
    return LibvirtState((URI,), {0: ("voms01", "0")}.get)


def until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_every_defined_domain_has_each_state_and_is_in_one(state, define):
    stopped, running = define(), define()
    running.create()
    page = collect(state)
    assert value(page, "libvirt_up") == 1
    for domain, expected in ((stopped, "shutoff"), (running, "running")):
        labels = {"domain": domain.name(), "uuid": domain.UUIDString()}
        states = [
            dict(have)["state"]
            for (name, have) in page
            if name == "libvirt_domain_state" and labels.items() <= dict(have).items()
        ]
        assert sorted(states) == sorted(STATES)
        assert ones(page, "libvirt_domain_state", "state", **labels) == {expected}
        assert value(page, "libvirt_domain_answers", **labels) == 1
        assert len(ones(page, "libvirt_domain_state_reason", "reason", **labels)) == 1


def test_a_domain_through_its_life(state, define):
    domain = define()
    name = domain.name()

    def now():
        page = collect(state)
        return ones(page, "libvirt_domain_state", "state", domain=name), ones(
            page, "libvirt_domain_state_reason", "reason", domain=name
        )

    assert now() == ({"shutoff"}, {"unknown"})
    domain.create()
    assert now() == ({"running"}, {"booted"})
    domain.suspend()
    assert now() == ({"paused"}, {"user"})
    domain.resume()
    assert now() == ({"running"}, {"unpaused"})
    domain.destroy()
    assert now() == ({"shutoff"}, {"destroyed"})
    domain.undefine()
    assert now() == (set(), set())


def test_a_crashed_domain(state, define, tmp_path):
    domain = define(on_crash="preserve")
    domain.create()
    domain.coreDump(str(tmp_path / "core"), libvirt.VIR_DUMP_CRASH)
    page = collect(state)
    assert ones(page, "libvirt_domain_state", "state", domain=domain.name()) <= {"crashed", "shutoff"}
    assert ones(page, "libvirt_domain_state_reason", "reason", domain=domain.name()) <= {
        "crashed",
        "panicked",
    }


def test_information(state, define, monkeypatch):
    domain = define()
    page = collect(state)
    labels = {
        "domain": domain.name(),
        "uuid": domain.UUIDString(),
        "title": "A title",
        "type": "test",
        "os_type": "hvm",
        "machine": "",
        "persistent": "true",
        "autostart": "false",
    }
    assert page["libvirt_domain_info", frozenset(labels.items())] == 1
    domain.setAutostart(1)
    monkeypatch.setattr(libvirt_state, "FLAGS_SECONDS", 0.0)  # no event tells of it
    assert value(collect(state), "libvirt_domain_info", domain=domain.name(), autostart="true") == 1


def test_events_start_at_zero_and_are_counted(state, define):
    domain = define()
    name = domain.name()
    page = collect(state)
    for event, detail in EVENTS_FROM_ZERO:
        assert (
            value(page, "libvirt_domain_lifecycle_events_total", domain=name, event=event, detail=detail) == 0
        )

    def count(event, detail):
        return value(
            collect(state), "libvirt_domain_lifecycle_events_total", domain=name, event=event, detail=detail
        )

    for times in (1, 2):
        domain.create()
        domain.destroy()
        until(lambda times=times: count("stopped", "destroyed") == times)
        assert count("started", "booted") == times
    assert count("stopped", "crashed") == 0


def test_the_event_that_ended_a_domain_is_kept_for_a_while(state, define, monkeypatch):
    domain = define()
    name = domain.name()
    collect(state)
    domain.undefine()
    until(
        lambda: value(collect(state), "libvirt_domain_lifecycle_events_total", domain=name, event="undefined")
    )
    monkeypatch.setattr(libvirt_state, "GONE_SECONDS", -1)
    page = collect(state)
    assert value(page, "libvirt_domain_lifecycle_events_total", domain=name, event="undefined") is None


def test_drbd_volumes_of_disks(state, define):
    domain = define(disk("/dev/drbd0") + disk("/dev/drbd/by-res/ce01/1", "vdb") + disk("/dev/null", "vdc"))
    page = collect(state)
    found = {
        tuple(dict(have)[label] for label in ("resource", "volume", "target_device"))
        for (name, have) in page
        if name == "libvirt_domain_drbd_resource" and dict(have)["domain"] == domain.name()
    }
    assert found == {("voms01", "0", "vda"), ("ce01", "1", "vdb")}


def test_a_disk_whose_resource_is_down_is_said_and_found_when_it_is_up(define):
    volumes: dict[int, tuple[str, str]] = {}
    state = LibvirtState((URI,), volumes.get)
    domain = define(disk("/dev/drbd5"))
    told = {"domain": domain.name(), "event": "defined", "detail": "updated"}
    collect(state)
    define(name=domain.name(), devices=disk("/dev/drbd5"))  # told, now that we listen
    until(lambda: (value(collect(state), "libvirt_domain_lifecycle_events_total", **told) or 0) >= 1)
    page = collect(state)
    assert value(page, "libvirt_domain_drbd_unresolved", domain=domain.name(), source="/dev/drbd5") == 1
    volumes[5] = ("late", "0")
    page = collect(state)
    assert value(page, "libvirt_domain_drbd_unresolved", domain=domain.name()) is None
    assert value(page, "libvirt_domain_drbd_resource", domain=domain.name(), resource="late") == 1


def test_a_changed_definition_is_read_again(state, define):
    domain = define(disk("/dev/drbd0"))
    assert value(collect(state), "libvirt_domain_drbd_resource", domain=domain.name(), resource="voms01") == 1
    define(disk("/dev/drbd/by-res/other/0"), name=domain.name())
    until(
        lambda: value(collect(state), "libvirt_domain_drbd_resource", domain=domain.name(), resource="other")
    )
    assert (
        value(collect(state), "libvirt_domain_drbd_resource", domain=domain.name(), resource="voms01") is None
    )


def test_definitions_are_not_read_at_each_scrape(state, define, monkeypatch):
    collect(state)
    defined = {"domain": define().name(), "event": "defined", "detail": "added"}
    until(lambda: value(collect(state), "libvirt_domain_lifecycle_events_total", **defined) == 1)
    collect(state)
    monkeypatch.setattr(libvirt_state, "parse_definition", lambda _: pytest.fail("read again"))
    collect(state)


def test_without_libvirt_it_says_down_and_nothing_else():
    state = LibvirtState(("test:///no/such/file.xml",), lambda _: None)
    with pytest.raises(CollectorError, match="no/such/file"):
        collect(state)
    assert series(state.down()) == {("libvirt_up", frozenset()): 0}


def test_one_of_two_libvirts_down(define):
    domain = define()
    page = collect(LibvirtState((URI, "test:///no/such/file.xml"), lambda _: None))
    assert value(page, "libvirt_up") == 0
    assert value(page, "libvirt_connection_up", uri=URI) == 1
    assert value(page, "libvirt_connection_up", uri="test:///no/such/file.xml") == 0
    assert ones(page, "libvirt_domain_state", "state", domain=domain.name()) == {"shutoff"}


def test_of_the_hosts_own_drivers_one_must_answer(monkeypatch):
    monkeypatch.setattr(libvirt_connection, "default_uris", lambda: ("test:///no/such.xml", URI))
    found = list(Connections(()))
    assert [connection.uri for connection, _ in found] == [URI]
    monkeypatch.setattr(libvirt_connection, "default_uris", lambda: ("test:///no.xml", "test:///neither.xml"))
    found = list(Connections(()))
    assert [connection.uri for connection, _ in found] == ["test:///no.xml", "test:///neither.xml"]
    assert all(isinstance(error, libvirt.libvirtError) for _, error in found)


def test_kept_handles_are_bounded(define, monkeypatch):
    monkeypatch.setattr(libvirt_connection, "MAX_DOMAINS", 3)
    own = OwnConnections()
    for _ in range(10):
        own[URI].domain(define().UUIDString())
    assert len(own[URI]._domains) <= 3


def test_statistics_by_single_calls(define):
    """The test driver has bulk statistics of state only, and the calls that Xen and LXC have."""
    domain = define(
        disk("/dev/drbd0") + "<interface type='bridge'><source bridge='br0'/><target dev='tap0'/></interface>"
    )
    define()  # stopped: has no statistics
    domain.create()
    page = collect(LibvirtStats((URI,)))
    name = domain.name()
    assert value(page, "libvirt_domain_info_state", domain=name, state_desc="the domain is running") == 1
    assert value(page, "libvirt_domain_info_maximum_memory_bytes", domain=name) == 8192 * 1024
    assert value(page, "libvirt_domain_info_virtual_cpus", domain=name) == 1
    assert value(page, "libvirt_domain_info_cpu_time_seconds_total", domain=name) > 0
    assert value(page, "libvirt_domain_block_stats_info", domain=name, source_file="/dev/drbd0") == 1
    assert value(page, "libvirt_domain_interface_stats_info", domain=name, source_bridge="br0") == 1
    running = {dict(have)["domain"] for (metric, have) in page if metric == "libvirt_domain_stats_complete"}
    assert name in running
