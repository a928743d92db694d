"""When two definitions are one."""

import pytest

from actuator.core.definition import Needs, differ, missing_networks, needs, with_uuid
from actuator.model import GuestCpu, HostView

XML = """<domain type='kvm'>
  <name>voms01</name>
  <uuid>11111111-2222-3333-4444-555555555501</uuid>
  <memory unit='KiB'>4096</memory>
  <devices><disk type='block' device='disk'><target dev='vda' bus='virtio'/></disk></devices>
</domain>"""
UUID = "<uuid>11111111-2222-3333-4444-555555555501</uuid>"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("5501", "5502"),
        (UUID, ""),
        ("  ", ""),
        ("dev='vda' bus='virtio'", "bus='virtio' dev='vda'"),
    ],
)
def test_what_a_guest_cannot_tell_is_no_difference(old, new):
    assert not differ(XML, XML.replace(old, new) if old else XML)


@pytest.mark.parametrize(
    ("old", "new"),
    [("4096", "8192"), ("'vda'", "'vdb'"), ("<devices>", "<devices><hostdev/>"), ("kvm", "qemu")],
)
def test_what_it_can_is(old, new):
    assert differ(XML, XML.replace(old, new))


@pytest.mark.parametrize("xml", [XML, XML.replace(UUID, "")])
def test_a_definition_under_another_uuid(xml):
    other = with_uuid(xml, "22222222-2222-3333-4444-555555555501")
    assert other.count("22222222-2222-3333-4444-555555555501") == 1
    assert UUID not in other
    assert not differ(xml, other)


# ---- what a host must have for it --------------------------------------------------------------------------

EPYC = '<cpu mode="custom" match="exact" check="partial"><model fallback="forbid">EPYC</model></cpu>'


def domain_with(cpu="", interfaces=""):
    kind = "<os><type arch='x86_64' machine='pc'>hvm</type></os>"
    return f"<domain type='kvm'><name>voms01</name>{kind}{cpu}<devices>{interfaces}</devices></domain>"


def test_the_networks_that_a_domain_needs():
    found = needs(
        domain_with(
            interfaces="<interface type='network'><source network='default' portgroup='a'/></interface>"
            "<interface type='bridge'><source bridge='br0'/></interface>"
            "<interface type='direct'><source dev='eth0' mode='bridge'/></interface>"
            "<interface type='hostdev'><source/></interface><interface type='user'/>"
        )
    )
    assert found == Needs(networks=frozenset({"default"}), links=frozenset({"br0", "eth0"}))
    assert needs(domain_with()) == Needs()


@pytest.mark.parametrize(
    ("cpu", "asked", "same"),
    [
        (EPYC, GuestCpu("kvm", "x86_64", EPYC), False),
        (EPYC.replace("partial", "none"), None, False),
        ("<cpu><topology sockets='1' cores='2' threads='1'/></cpu>", None, False),
        ("<cpu mode='host-model'/>", None, False),
        ("<cpu mode='host-passthrough' check='none'/>", None, True),
    ],
)
def test_the_processor_that_a_domain_needs(cpu, asked, same):
    found = needs(domain_with(cpu))
    assert (found.cpu, found.same_cpu) == (asked, same)


@pytest.mark.parametrize(
    ("networks", "links", "lacks"),
    [
        ({"default", "other"}, {"br0": True}, []),
        ({"default"}, None, []),
        ({"other"}, {"br0": True}, ["libvirt's network default is not active there"]),
        ({"default"}, {"br1": True}, ["there is no interface br0"]),
        (
            set(),
            {"br0": False},
            ["libvirt's network default is not active there", "its interface br0 is down"],
        ),
    ],
)
def test_what_a_host_lacks_of_the_networks(networks, links, lacks):
    wanted = Needs(networks=frozenset({"default"}), links=frozenset({"br0"}))
    assert list(missing_networks(wanted, HostView(networks=frozenset(networks)), links)) == lacks
