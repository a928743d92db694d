import libvirt
import pytest

from exporter.libvirt_domain import (
    CONTROL_STATES,
    EVENTS,
    REASONS,
    STATES,
    Disk,
    Interface,
    drbd_volume,
    event_name,
    parse_definition,
    reason_name,
    state_name,
)

# Constants that begin like a reason and are none: flags of other calls, and an alias.
NO_REASONS = {
    *(
        f"SHUTDOWN_{word}"
        for word in ("DEFAULT", "ACPI_POWER_BTN", "GUEST_AGENT", "INITCTL", "SIGNAL", "PARAVIRT")
    ),
    "PMSUSPENDED_DISK_UNKNOWN",
}


def constants(prefix):
    return {
        name.removeprefix("VIR_DOMAIN_"): value
        for name, value in vars(libvirt).items()
        if name.startswith(f"VIR_DOMAIN_{prefix}_")
    }


def test_every_state_and_reason_of_libvirt_has_its_word():
    for number, state in enumerate(STATES):
        assert getattr(libvirt, f"VIR_DOMAIN_{state.upper()}") == number
        for name, reason in constants(state.upper()).items():
            if name not in NO_REASONS:
                assert reason_name(number, reason) == name.removeprefix(f"{state.upper()}_").lower()
    assert sum(map(len, REASONS.values())) == 12 + 14 + 9 + 2 + 2 + 4 - 1


def test_every_event_of_libvirt_has_its_word():
    for number, (event, details) in enumerate(EVENTS):
        assert getattr(libvirt, f"VIR_DOMAIN_EVENT_{event.upper()}") == number
        known = constants(f"EVENT_{event.upper()}")
        for name, detail in known.items():
            assert event_name(number, detail) == (event, name.removeprefix(f"EVENT_{event.upper()}_").lower())
        assert len(details) == len(known)


def test_control_states_are_libvirts():
    for number, word in enumerate(CONTROL_STATES):
        assert getattr(libvirt, f"VIR_DOMAIN_CONTROL_{word.upper()}") == number


@pytest.mark.parametrize("number", [-1, 99])
def test_numbers_of_a_newer_libvirt_are_unknown(number):
    assert state_name(number) == "nostate"
    assert reason_name(1, number) == "unknown"
    assert event_name(number, 0) == ("unknown", "unknown")
    assert event_name(5, number) == ("stopped", "unknown")


def test_a_qemu_definition():
    definition = parse_definition("""
        <domain type='kvm' id='3'>
          <name>voms01</name><title> Grid &amp; VO </title>
          <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
          <devices>
            <disk type='block' device='disk'>
              <driver name='qemu' type='raw' cache='none' discard='unmap'/>
              <source dev='/dev/drbd0' index='1'/><target dev='vda' bus='virtio'/><serial>abc</serial>
            </disk>
            <disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
            <disk type='network' device='disk'>
              <source protocol='rbd' name='pool/image'/><target dev='vdb'/>
            </disk>
            <interface type='bridge'>
              <mac address='52:54:00:00:00:01'/><source bridge='br0'/><target dev='vnet0'/>
              <model type='virtio'/><mtu size='9000'/>
            </interface>
          </devices>
        </domain>""")
    assert (definition.kind, definition.title, definition.os_type, definition.machine) == (
        "kvm",
        "Grid & VO",
        "hvm",
        "pc-q35-7.2",
    )
    assert definition.disks == (
        Disk("vda", "/dev/drbd0", "block", "virtio", "abc", "qemu", "raw", "none", "unmap"),
        Disk("sda", "", "file", "sata"),
        Disk("vdb", "pool/image", "network"),
    )
    assert definition.interfaces == (
        Interface("vnet0", "br0", "bridge", "52:54:00:00:00:01", "virtio", "9000"),
    )


def test_a_container_and_a_xen_guest():
    container = parse_definition("""
        <domain type='lxc'><os><type arch='x86_64'>exe</type></os><devices>
          <filesystem type='block'><source dev='/dev/drbd1'/><target dir='/'/></filesystem>
          <filesystem type='mount'><source dir='/srv'/><target dir='/srv'/></filesystem>
          <hostdev mode='capabilities' type='storage'><source><block>/dev/drbd2</block></source></hostdev>
          <hostdev mode='capabilities' type='misc'><source><char>/dev/tty5</char></source></hostdev>
        </devices></domain>""")
    assert container.disks == (Disk("/", "/dev/drbd1"), Disk("/dev/drbd2", "/dev/drbd2"))
    xen = parse_definition("""
        <domain type='xen'><os><type arch='x86_64' machine='xenpv'>linux</type></os><devices>
          <disk type='block' device='disk'><driver name='phy'/><source dev='voms01'/>
            <target dev='xvda' bus='xen'/><script path='/etc/xen/scripts/block-drbd'/></disk>
        </devices></domain>""")
    assert xen.disks == (Disk("xvda", "drbd:voms01", "block", "xen", driver="phy"),)


def test_a_definition_without_anything():
    definition = parse_definition("<domain/>")
    assert (definition.kind, definition.os_type, definition.disks) == ("", "", ())
    assert definition.memory_bytes is None


@pytest.mark.parametrize(
    ("memory", "size_bytes"),
    [
        ("<memory unit='KiB'>1048576</memory><currentMemory unit='KiB'>4</currentMemory>", 1 << 30),
        ("<memory>1</memory>", 1024),
        ("<memory unit='MiB'>1</memory>", None),
        ("<memory unit='KiB'>much</memory>", None),
        ("<memory/>", None),
    ],
)
def test_the_most_memory_that_it_may_use(memory, size_bytes):
    assert parse_definition(f"<domain>{memory}</domain>").memory_bytes == size_bytes


VOLUMES = {0: ("voms01", "0"), 7: ("ce01", "2")}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("/dev/drbd0", ("voms01", "0")),
        ("/dev/drbd7p1", ("ce01", "2")),
        ("/dev/drbd/by-res/ce01/2", ("ce01", "2")),
        ("/dev/drbd/by-res/voms01", ("voms01", "0")),
        ("drbd:voms01", ("voms01", "0")),
        ("drbd:voms01/3", ("voms01", "3")),
        ("/dev/vg0/plain", None),
        ("/dev/drbd_like", None),
        ("pool/image", None),
        ("", None),
        ("drbd:", None),
    ],
)
def test_the_volume_of_a_disk(source, expected):
    assert drbd_volume(source, VOLUMES.get) == expected


@pytest.mark.parametrize("source", ["/dev/drbd99", "/dev/drbd99p2", "/dev/drbd/by-disk/vg0/gone"])
def test_a_drbd_device_that_nobody_knows_is_said(source):
    with pytest.raises(LookupError):
        drbd_volume(source, VOLUMES.get)


def test_symlinks_are_followed(tmp_path):
    (tmp_path / "by-minor").symlink_to("/dev/drbd7")
    (tmp_path / "twice").symlink_to(tmp_path / "by-minor")
    (tmp_path / "down").symlink_to("/dev/drbd/by-res/voms01/0")  # no such file while the resource is down
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "elsewhere").symlink_to("/dev/null")
    found = {link.name: drbd_volume(str(link), VOLUMES.get) for link in tmp_path.iterdir()}
    assert found == {
        "by-minor": ("ce01", "2"),
        "twice": ("ce01", "2"),
        "down": ("voms01", "0"),
        "loop": None,
        "elsewhere": None,
    }
