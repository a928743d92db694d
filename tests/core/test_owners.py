"""Whose a disk is, whatever a definition calls it."""

import pytest

from actuator.core.owners import Owners, same_words
from exporter.libvirt_domain import Disk
from tests.actuator.build import resource, snapshot

HERE = same_words(snapshot(resource("voms01")))


def _others(one: str, other: str, *, writes: tuple[bool, bool] = (True, True)) -> list[tuple[str, str]]:
    owners = Owners()
    owners.put("b", [Disk("xvda", other, writable=writes[1])])
    disks = [Disk("xvda", ""), Disk("xvdb", one, writable=writes[0])]
    return sorted({(disk.source, it) for disk, it in owners.others("a", disks, HERE)})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/dev/drbd0", "/dev/drbd0", True),
        ("/dev/drbd0", "/dev/drbd1", False),
        ("/dev/drbd0", "/dev/drbd/by-res/voms01/0", True),
        ("/dev/drbd/by-res/voms01/0", "/dev/drbd0", True),
        ("/dev/drbd0p1", "drbd:voms01", True),
        ("/dev/drbd1", "/dev/drbd/by-res/voms01/0", False),
        ("/dev/drbd7", "/dev/drbd7", True),  # no resource here; the same device all the same
        ("", "", False),
    ],
)
def test_two_definitions_have_the_same_disk(one, other, same):
    assert _others(one, other) == ([(one, "b")] if same else [])


@pytest.mark.parametrize("writes", [(False, False), (False, True), (True, False)])
def test_what_both_only_read_may_be_the_same(writes):
    assert bool(_others("/dev/drbd0", "/dev/drbd0", writes=writes)) is any(writes)


def test_a_domain_may_give_a_disk_up_to_another_one():
    owners = Owners()
    disk = Disk("xvda", "/dev/drbd0")
    owners.put("b", [disk])
    assert list(owners.others("b", [disk], HERE)) == [], "its own"
    owners.put("b", [Disk("xvda", "/dev/drbd1")])
    assert list(owners.others("a", [disk], HERE)) == []
