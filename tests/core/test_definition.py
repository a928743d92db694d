"""When two definitions are one."""

import pytest

from actuator.core.definition import differ, with_uuid

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
