"""Which definitions are taken: those that guests have, and none with more of the host in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.host.definition import MAX_DEPTH, PATHS, read

QEMU = """<domain type='kvm'>
  <name>vm1</name><title>a/b</title><description>see http://example.org/x</description>
  <metadata><os:x xmlns:os='http://libosinfo.org/xmlns'><os:y id='http://debian.org/12'/></os:x></metadata>
  <memory unit='MiB'>16</memory><clock offset='timezone' timezone='Europe/Rome'/>
  <os><type machine='pc-q35-7.2'>hvm</type><loader type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>
    <nvram>/var/lib/libvirt/qemu/nvram/vm1.fd</nvram><cmdline>root=/dev/vda1</cmdline></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='block' device='disk'><driver name='qemu'/><source dev='/dev/drbd/by-res/vm1/0'/><target dev='vda'/></disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
    <interface type='bridge'><source bridge='br0'/></interface>
    <interface type='direct'><source dev='eth0' mode='bridge'/></interface>
    <channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channel/target/x'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng></devices></domain>"""
XEN = """<domain type='xen'><name>vm1</name><bootloader>/usr/lib/xen-4.17/bin/pygrub</bootloader><os><type>linux</type></os>
  <devices><emulator>/usr/libexec/qemu-kvm</emulator><disk type='block' device='disk'><source dev='/dev/drbd1'/><target dev='xvda'/></disk>
  <interface type='bridge'><source bridge='xenbr0'/><script path='vif-bridge'/></interface></devices></domain>"""


@pytest.mark.parametrize("xml", [QEMU, XEN])
def test_what_guests_have_is_taken(xml):
    assert read(xml) == ("vm1", None)


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH, 5000])
def test_one_that_is_nested_without_end_is_not(depth):
    refused = read(f"<domain><name>vm1</name>{'<a>' * depth}{'</a>' * depth}</domain>")[1]
    assert (refused is None) is (depth < MAX_DEPTH)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/dev/sda",
        "/dev/drbd/../sda",
        "/dev/drbd//x",
        "drbd1",
        "",
        "/",
        "/dev/mem",
        "../dev/drbd1",
        "/dev/./drbd1",
    ],
)
@pytest.mark.parametrize("xml", [QEMU, XEN])
def test_another_path_is_not(xml, path):
    for device in ("/dev/drbd/by-res/vm1/0", "/dev/drbd1"):
        changed = xml.replace(f"dev='{device}'", f"dev='{path}'")
        if changed != xml:
            assert read(changed)[1]
    with_file = xml.replace("</devices>", f"<serial type='file'><source path='{path}'/></serial></devices>")
    assert read(with_file)[1]


@pytest.mark.parametrize(
    "device",
    [
        "<hostdev mode='subsystem' type='usb'/>",
        "<redirdev bus='usb' type='spicevmc'/>",
        "<shmem name='x'/>",
        "<interface type='hostdev'/>",
        "<interface/>",
        "<interface type='bridge'><script path='reboot'/></interface>",
        "<interface type='bridge'><script path='/bin/sh'/></interface>",
        "<disk type='volume' device='disk'><source pool='default' volume='x'/></disk>",
        "<disk type='network' device='disk'/>",
        "<disk type='dir' device='disk'><source dir='/dev/drbd'/></disk>",
        "<disk device='disk'><source file='/dev/drbd1'/></disk>",
        "<filesystem type='mount'><source dir='/'/><target dir='x'/></filesystem>",
        "<sysinfo type='fwcfg'><entry name='x' file='/etc/shadow'/></sysinfo>",
        "<x:commandline xmlns:x='http://libvirt.org/schemas/domain/qemu/1.0'><x:arg value='-S'/></x:commandline>",
        "<x xmlns:q='http://x' q:y='1'/>",
        "<emulator>/bin/sh</emulator>",
        "<a/>/etc/shadow",
    ],
)
def test_the_hosts_own_is_not(device):
    assert read(QEMU.replace("</devices>", device + "</devices>"))[1]


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<domain>",
        "<network><name>vm1</name></network>",
        "<domain/>",
        "<domain><name>vm1</name><name>vm9</name></domain>",
        "<?xml version='1.0' encoding='UTF-7'?>" + QEMU,
        "<!DOCTYPE x [<!ENTITY a '/etc/shadow'>]>" + QEMU,
        QEMU + "<!-- -->",
        QEMU.replace("vm1</name>", "<![CDATA[vm1]]></name>"),
    ],
)
def test_what_could_be_read_in_two_ways_is_not(xml):
    assert read(xml)[1]


def test_a_host_may_allow_more():
    xml = QEMU.replace("<target dev='sda' bus='sata'/>", "<source file='/srv/iso/x.iso'/><target dev='sda'/>")
    assert read(xml)[1]
    assert read(xml, ("/srv/iso/",)) == ("vm1", None)


@given(st.text(max_size=30))
def test_no_text_gets_a_path_in(text):
    xml = QEMU.replace("/usr/share/OVMF/OVMF_CODE.fd", "{}").format(text.replace("<", "").replace("&", ""))
    _, fault = read(xml)
    if fault is None:
        assert "/" not in text or text.strip().startswith(PATHS)


@given(st.text(max_size=100))
def test_any_text_is_answered(text):
    read(text)
