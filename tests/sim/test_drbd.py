"""What DRBD 8.4 refuses and what it does by itself, as its source says."""

from tests.sim import drbd
from tests.sim.arbiter import Arbiter, Rules
from tests.sim.world import (
    ALONE,
    ASKS_TARGET,
    CONSISTENT,
    DISKLESS,
    INCONSISTENT,
    OUTDATED,
    START,
    TOGETHER,
    UP,
    WAITING,
    World,
    with_host,
)

ARBITER = Arbiter(Rules())


def parted(*, disk: str, ahead: bool = True) -> World:
    """The Primary with such a disk, and a peer whose data are newer; both wait for each other."""
    w = with_host(START, 0, disk=disk, connection=WAITING)
    return with_host(w, 1, connection=WAITING, ahead=ahead)


def test_a_primary_that_may_have_read_from_its_disk_becomes_no_target():
    for disk in (UP, CONSISTENT):
        w = drbd.connect(parted(disk=disk))
        assert [x.connection for x in w.hosts] == [ALONE, ALONE]


def test_a_primary_whose_disk_is_known_to_be_old_becomes_a_target():
    for disk in (OUTDATED, INCONSISTENT):
        assert drbd.connect(parted(disk=disk)).hosts[0].connection == ASKS_TARGET


def test_a_primary_whose_disk_is_known_to_be_old_neither_freezes_nor_asks():
    for disk in (OUTDATED, INCONSISTENT, DISKLESS):
        x = drbd.lose(ARBITER, with_host(START, 0, disk=disk), 0).hosts[0]
        assert not x.frozen
        assert not x.fence


def test_two_outdated_disks_with_the_same_data_are_up_to_date_once_connected():
    w = with_host(parted(disk=OUTDATED, ahead=False), 1, disk=OUTDATED)
    assert [x.disk for x in drbd.connect(w).hosts] == [UP, UP]


def test_a_primary_that_lost_its_disk_and_then_its_peer_takes_no_older_disk_and_meets_that_peer():
    w = drbd.detach(ARBITER, START, 0)
    w = drbd.lose(ARBITER, drbd.lose(ARBITER, w, 0), 1)
    assert drbd.attach(w, 0).hosts[0].disk == DISKLESS
    assert all(x.connection in TOGETHER for x in drbd.connect(w).hosts)


def test_a_primary_is_not_disconnected_from_the_only_current_disk():
    assert drbd.may_disconnect(START)
    assert not drbd.may_disconnect(drbd.detach(ARBITER, START, 0))


def test_stand_alone_forgets_that_two_primaries_were_allowed():
    w = with_host(START, 0, two=True)
    assert not drbd.stand_alone(w, 0).hosts[0].two


def test_after_a_crash_the_primary_that_is_there_now_is_the_source():
    w = with_host(parted(disk=UP, ahead=False), 1, disk=CONSISTENT, crashed=True)
    assert drbd.connect(w).hosts[1].connection == ASKS_TARGET
