"""The keeper over what real DRBD said of a pair, moment after moment, and the real journal."""

import re
from dataclasses import replace

import pytest

from actuator import keep
from actuator.adapters.sqlite import SqliteJournal
from actuator.connections import AGAIN_SECONDS
from actuator.contact import Contacts
from actuator.core.progress import claimed
from actuator.keep import GENERATIONS_SECONDS, Keeper
from actuator.model import Authority, DomainRecord, Done, Failed, HostRecord, Order, Parting, Plan, Promote
from actuator.ports import Conflict, Ports, Unanswered
from exporter.drbd import Role, parse_events2
from exporter.drbd_configuration import parse_get_gi
from tests.actuator.world import Clock, Serial, settings
from tests.exporter.drbd_samples import command, drbd9, drbd84

BOTH = frozenset({"v01", "v02"})
DONE = Done()


def snapshot(label, host):
    """What a host said in a capture; 8.4's nameless peer has its name, as the adapter gives it."""
    text = command(drbd84(f"{label}.{host}"), "drbdsetup events2")
    return parse_events2(text.replace("conn-name:peer", f"conn-name:{'v02' if host == 'v01' else 'v01'}"))


class Hosts:
    """``ports.Storage``: what each host says now, or what a function makes of it."""

    def __init__(self):
        self.said = {}
        self.asked = []
        self.is_armed = {}
        self.on_ask = lambda host: None
        self.identified = []
        self.get_gi = {}

    def says(self, label):
        self.get_gi = {host: command(drbd84(f"{label}.{host}"), "drbdadm get-gi") for host in BOTH}
        self.said = {host: snapshot(label, host) for host in BOTH}

    def armed(self, host, *, timeout_seconds):
        if host not in self.said:
            raise Unanswered(f"{host} does not answer")
        return self.is_armed

    def generations(self, host, resource, *, timeout_seconds):
        self.identified.append((host, resource))
        if host not in self.get_gi:
            raise Unanswered(f"{host} does not answer")
        return parse_get_gi(self.get_gi[host])

    def status(self, host, *, timeout_seconds):
        self.asked.append(host)
        self.on_ask(host)
        if host not in self.said:
            raise Unanswered(f"{host} does not answer")
        return self.said[host]


@pytest.fixture
def journal(tmp_path):
    journal = SqliteJournal(tmp_path / "journal")
    yield journal
    journal.close()


@pytest.fixture
def hosts():
    return Hosts()


@pytest.fixture
def keeper(journal, hosts, tmp_path):
    return keeper_of(journal, hosts, tmp_path)


def keeper_of(journal, hosts, tmp_path, **more):
    host = {"address": "localhost", "libvirt_uri": "test:///default", "arbiter_token_file": "/nonexistent"}
    config = settings(tmp_path / "journal", hosts={"v01": host, "v02": host}, **more)
    clock = Clock()
    ports = Ports(None, hosts, None, None, None, None, journal, clock, Serial())
    hosts.clock = clock
    return Keeper(ports, config, Contacts(clock.monotonic()))


def put(journal, **fields):
    it = replace(Authority("voms01", ("v01", "v02"), 1, "v01", BOTH), **fields)
    journal.commit(authorities=[it])
    return it


def test_a_resource_in_order_is_adopted(keeper, hosts, journal):
    hosts.says("14-connected-primary-secondary")
    keeper.turn()
    assert journal.authority("voms01") == Authority("voms01", ("v01", "v02"), 1, "v01", BOTH)
    ((_, event),) = journal.timeline()
    assert (event.kind, event.sentence) == ("authority", "voms01: v01 holds it, admitted: v01, v02")
    for _ in range(3):
        keeper.turn()
    assert journal.authority("voms01").version == 2  # with the generation identifiers


@pytest.mark.parametrize(
    "label", ["08-syncing-mid", "31-both-links-cut", "37-two-primaries", "19-standalone-v02"]
)
def test_a_resource_in_disorder_is_not_adopted(keeper, hosts, journal, label):
    hosts.says(label)
    keeper.turn()
    assert journal.authorities() == {}


def test_one_side_alone_is_not_believed(keeper, hosts, journal):
    hosts.says("14-connected-primary-secondary")
    del hosts.said["v02"]
    keeper.turn()
    assert journal.authorities() == {}


def test_a_peer_without_its_disk_is_excluded_and_readmitted(keeper, hosts, journal):
    """Hole H1: it lost its disk, not its link, and no hook told."""
    put(journal, holder="v02")
    hosts.says("41-diskless-secondary")
    keeper.turn()
    assert journal.authority("voms01").admitted == {"v02"}
    hosts.says("40-diskless-primary")
    keeper.turn()
    assert journal.authority("voms01").admitted == BOTH


def test_a_grant_is_over_when_the_primary_sees_its_peer_up_to_date(keeper, hosts, journal):
    put(journal, admitted=frozenset({"v01"}), granted=True, newest=True)
    hosts.says("08-syncing-mid")
    keeper.turn()
    assert journal.authority("voms01").granted
    hosts.says("14-connected-primary-secondary")
    keeper.turn()
    it = journal.authority("voms01")
    assert (it.admitted, it.granted, it.newest) == (BOTH, False, False)


def test_a_holder_that_lost_its_disk_is_excluded_and_its_peer_is_what_counts(keeper, hosts, journal):
    put(journal, holder="v02")
    hosts.says("14-connected-primary-secondary")
    hosts.said = {"v02": diskless_primary()}
    keeper.turn()
    it = journal.authority("voms01")
    assert (it.admitted, it.granted, it.newest) == ({"v01"}, False, False)


def test_a_holder_that_wrote_alone_and_lost_its_disk_admits_nobody(keeper, hosts, journal):
    """It may have met its peer in order, unheard; or take for UpToDate one that lacks what it wrote."""
    put(journal, holder="v02", admitted=frozenset({"v02"}), granted=True, newest=True)
    hosts.says("14-connected-primary-secondary")
    hosts.said = {"v02": diskless_primary()}
    keeper.turn()
    it = journal.authority("voms01")
    assert (it.admitted, it.granted, it.newest) == (frozenset(), True, False)


def diskless_primary():
    """v02 as in the capture of a Primary whose peer is Diskless, the other way round."""
    text = command(drbd84("41-diskless-secondary.v02"), "drbdsetup events2").replace(
        "conn-name:peer", "conn-name:v01"
    )
    text = text.replace(" disk:UpToDate", " disk:Diskless").replace(
        "peer-disk:Diskless", "peer-disk:UpToDate"
    )
    return parse_events2(text)


def test_an_excluded_holder_lets_go(keeper, hosts, journal):
    """L1: it booted and excluded itself; its peer, admitted, gets the authority."""
    put(journal, holder="v02", admitted=frozenset({"v01"}))
    hosts.says("19-standalone-v02")
    hosts.said = {"v01": replace_role(hosts.said["v01"])}
    keeper.turn()
    it = journal.authority("voms01")
    assert (it.holder, it.admitted) == ("v01", {"v01"})


def replace_role(snapshot):
    """The same with the resource Secondary."""
    resources = tuple(replace(resource, role=Role.SECONDARY) for resource in snapshot.resources)
    return replace(snapshot, resources=resources)


def test_two_secondaries_that_have_met_are_admitted(keeper, hosts, journal):
    put(journal, admitted=frozenset())
    hosts.says("15-connected-both-secondary")
    keeper.turn()
    assert journal.authority("voms01").admitted == BOTH


def test_the_authority_goes_to_a_primary_that_was_looked_at_after_its_holder(keeper, hosts, journal):
    put(journal, holder="v02")
    hosts.says("14-connected-primary-secondary")
    keeper.turn()
    assert journal.authority("voms01").holder == "v01"
    assert hosts.asked[-1] == "v01"
    assert hosts.asked.count("v01") == 2


def test_a_primary_that_is_gone_at_the_second_look_gets_nothing(keeper, hosts, journal):
    put(journal, holder="v02")
    hosts.says("14-connected-primary-secondary")

    def leave(host):
        if hosts.asked.count("v01") == 2:
            hosts.says("15-connected-both-secondary")

    hosts.on_ask = leave
    keeper.turn()
    assert journal.authority("voms01").holder == "v02"


def test_the_authority_stays_where_an_open_plan_moved_it(keeper, hosts, journal):
    put(journal, holder="v02")
    plan = Plan("restart", "voms01", "v02", "moved", (Promote("v02", "voms01"),))
    journal.commit(record=claimed(DomainRecord("voms01", version=0, host="v02"), plan, now=1.0))
    hosts.says("14-connected-primary-secondary")
    keeper.turn()
    assert journal.authority("voms01").holder == "v02"


def test_what_changed_after_the_record_was_read_is_not_written_over(keeper, hosts, journal):
    """R2: a hook is granted while the keeper looks."""
    before = put(journal, admitted=frozenset({"v01"}))
    hosts.says("14-connected-primary-secondary")
    granted = replace(before, version=2, granted=True, newest=True)

    def grant(host):
        if journal.authority("voms01").version == 1:
            journal.commit(authorities=[granted])

    hosts.on_ask = grant
    keeper.turn()
    assert journal.authority("voms01") == granted


def test_what_is_not_understood_changes_nothing(keeper, hosts, journal):
    before = put(journal, holder="v02")
    hosts.says("14-connected-primary-secondary")
    text = re.sub(
        "disk:UpToDate",
        "disk:Novel",
        command(drbd84("14-connected-primary-secondary.v01"), "drbdsetup events2"),
    )
    hosts.said["v01"] = parse_events2(text.replace("conn-name:peer", "conn-name:v02"))
    keeper.turn()
    assert journal.authority("voms01") == before


def test_a_journal_that_fails_is_said_and_survived(keeper, hosts, journal, monkeypatch):
    hosts.says("14-connected-primary-secondary")

    def fail(**change):
        raise Conflict("voms01")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "commit", fail)
        keeper.turn()
    assert journal.authorities() == {}
    keeper.turn()
    assert journal.authority("voms01") is not None


# ---- who freezes and asks, and who was given up -----------------------------------------------------------


def test_whose_drbd_freezes_and_asks_is_written_down(keeper, hosts, journal):
    put(journal)
    hosts.says("14-connected-primary-secondary")
    hosts.is_armed = {"voms01": Parting.ASKS}
    for _ in range(3):
        keeper.turn()
    assert journal.authority("voms01").armed == BOTH
    hosts.is_armed = {}  # nothing is known: nothing changes
    keeper._armed_at.clear()
    for _ in range(3):
        keeper.turn()
    assert journal.authority("voms01").armed == BOTH
    hosts.is_armed = {"voms01": Parting.LOSES}
    keeper._armed_at.clear()
    for _ in range(4):
        keeper.turn()
    assert journal.authority("voms01").armed == frozenset()
    assert journal.authority("voms01").lossy == BOTH


def in_order(keeper, hosts, journal):
    put(journal)
    hosts.says("14-connected-primary-secondary")
    hosts.is_armed = {"voms01": Parting.ASKS}
    for _ in range(4):
        keeper.turn()
    it = journal.authority("voms01")
    assert (it.armed, it.generations, it.granted) == (BOTH, FIRST, False)
    return it


def test_what_is_in_order_as_it_was_is_not_gone_through_again(keeper, hosts, journal, monkeypatch):
    it = in_order(keeper, hosts, journal)
    gone_through = []
    monkeypatch.setattr(keep, "looked_at", lambda it, sides: gone_through.append(sides) or it)
    keeper.turn()
    assert not gone_through
    hosts.says("30-mgmt-partition")  # all is as it was here too
    hosts.said["v02"] = replace(hosts.said["v02"], resources=())
    keeper.turn()
    assert gone_through
    assert journal.authority("voms01") == it


@pytest.mark.parametrize("change", ["written", "seen", "armed"])
def test_of_what_was_in_order_each_change_is_noticed(keeper, hosts, journal, change):
    it = in_order(keeper, hosts, journal)
    match change:
        case "written":
            journal.commit(authorities=[replace(it, version=it.version + 1, admitted=frozenset({"v01"}))])
        case "seen":
            hosts.says("19-standalone-v02")
        case "armed":
            hosts.is_armed = {"voms01": Parting.GOES_ON}
            keeper._armed_at.clear()
    for _ in range(2):
        keeper.turn()
    after = journal.authority("voms01")
    match change:
        case "written":
            assert after.admitted == BOTH
        case "seen":
            assert after.admitted == {"v01"}
        case "armed":
            assert after.armed != BOTH


def test_of_what_was_in_order_a_plan_has_none_read_that_moves_it(keeper, hosts, journal):
    in_order(keeper, hosts, journal)
    plan = Plan("restart", "voms01", "v02", "moved", (Promote("v02", "voms01"),))
    journal.commit(record=claimed(DomainRecord("voms01", version=0, host="v02"), plan, now=1.0))
    hosts.identified.clear()
    hosts.clock.now += GENERATIONS_SECONDS
    keeper.turn()
    assert not hosts.identified


def given_up(hosts, *, role="Secondary", peer_role="Secondary", peer_disk="UpToDate"):
    """v02 has given up the connection, as after it was granted and its peer came back; v01 waits for it."""
    texts = {host: command(drbd84(f"19-standalone-v02.{host}"), "drbdsetup events2") for host in BOTH}
    texts["v02"] = texts["v02"].replace("role:Secondary", f"role:{role}", 1)
    texts["v01"] = (
        texts["v01"]
        .replace("role:Primary", f"role:{peer_role}")
        .replace(" disk:UpToDate", f" disk:{peer_disk}")
    )
    peers = {"v01": "v02", "v02": "v01"}
    hosts.said = {
        host: parse_events2(
            text.replace("conn-name:peer ", "").replace(
                "peer-node-id:0", f"peer-node-id:0 conn-name:{peers[host]}"
            )
        )
        for host, text in texts.items()
    }


def connects(hosts):
    hosts.connected = []

    def connect(host, resource, *, timeout_seconds):
        hosts.connected.append((host, resource))
        return Done()

    hosts.connect = connect


def test_a_holder_that_was_granted_alone_connects_again(keeper, hosts, journal):
    put(journal, holder="v02", admitted=frozenset({"v02"}), granted=True)
    given_up(hosts)
    connects(hosts)
    keeper.turn()
    assert hosts.connected == [("v02", "voms01")]
    keeper.turn()
    assert len(hosts.connected) == 1, "not again and again at once"


def idle(journal, hosts):
    """Two Secondaries that ask; v02 is StandAlone."""
    put(journal, holder="v01", armed=BOTH)
    given_up(hosts)
    connects(hosts)


def test_one_of_two_secondaries_connects_again(keeper, hosts, journal):
    """Nobody writes, and a VM that is down stays so until they have met (L1)."""
    idle(journal, hosts)
    keeper.turn()
    assert hosts.connected == [("v02", "voms01")]
    ((_, event),) = journal.timeline()
    assert (event.kind, event.host) == ("connection", "v02")
    assert event.sentence == "voms01 on v02 was StandAlone; connect: done"


def test_what_a_plan_has_in_hand_is_not_connected(keeper, hosts, journal):
    idle(journal, hosts)
    plan = Plan("restart", "voms01", "v01", "crashed", (Promote("v01", "voms01"),))
    journal.commit(record=claimed(DomainRecord("voms01", version=0, host="v01"), plan, now=1.0))
    keeper.turn()
    assert hosts.connected == []


def test_what_refuses_each_connection_is_tried_less_and_less(keeper, hosts, journal):
    """A split brain, of which DRBD tells its own handler each time."""
    idle(journal, hosts)
    for _ in range(1300):
        keeper.turn()
        hosts.clock.now += 10.0
    # After 0, 10, 30, 70, 150, 310, 630, 1270, 2550, 5110 s, and then each hour.
    assert len(hosts.connected) == 12
    hosts.says("15-connected-both-secondary")
    keeper.turn()
    given_up(hosts)
    keeper.turn()
    assert len(hosts.connected) == 13, "connected in between: another matter"


@pytest.mark.parametrize(
    ("more", "peer"),
    [
        ({"granted": False}, {"role": "Primary"}),  # a person may have disconnected it
        ({"holder": "v01", "admitted": frozenset({"v01"})}, {"role": "Primary"}),
        ({}, {"peer_role": "Primary"}),
        ({"granted": False}, {"peer_role": "Primary"}),
        ({}, {"peer_disk": "Diskless"}),
        ({}, {"peer_disk": "Failed"}),
        ({"hosts": ()}, {}),
        ({"granted": False, "armed": frozenset({"v01"})}, {}),
    ],
)
def test_what_else_is_standalone_stays_so(keeper, hosts, journal, more, peer):
    put(journal, **({"holder": "v02", "admitted": frozenset({"v02"}), "granted": True} | more))
    given_up(hosts, **peer)
    connects(hosts)
    keeper.turn()
    assert hosts.connected == []


@pytest.mark.parametrize("host", ["", "v01", "v02"])
def test_what_a_person_has_in_hand_is_not_connected(keeper, hosts, journal, host):
    idle(journal, hosts)
    order = Order(by="me", at=0.0, reason="", until_at=hosts.clock.wall() + 60)
    journal.commit(hosts=[HostRecord(host, 1, paused=order)])
    keeper.turn()
    assert hosts.connected == []
    hosts.clock.now += 61
    keeper.turn()
    assert hosts.connected == [("v02", "voms01")]


def disconnects(hosts, outcome=DONE):
    """v01 has lost its disk, and its peer too; what is disconnected is kept."""
    text = command(drbd84("41b-diskless-alone.v01"), "drbdsetup events2")
    hosts.said = {"v01": parse_events2(text.replace("conn-name:peer", "conn-name:v02"))}
    hosts.disconnected = []

    def disconnect(host, resource, *, timeout_seconds):
        hosts.disconnected.append((host, resource))
        return outcome

    hosts.disconnect = disconnect


@pytest.mark.parametrize(("outcome", "said"), [(DONE, "done"), (Failed("no"), "failed: no")])
def test_who_has_lost_disk_and_peer_is_disconnected(keeper, hosts, journal, outcome, said):
    """DRBD would take the meeting for a reconnect, and a frozen peer would go on (R4)."""
    put(journal, holder="v02", armed=BOTH)
    disconnects(hosts, outcome)
    keeper.turn()
    keeper.turn()
    assert hosts.disconnected == [("v01", "voms01")], "not again and again at once"
    ((_, event),) = journal.timeline()
    assert (event.kind, event.host) == ("connection", "v01")
    assert event.sentence == f"voms01 on v01 has no disk and no peer; disconnect: {said}"
    hosts.clock.now += AGAIN_SECONDS
    keeper.turn()
    assert len(hosts.disconnected) == 2, "what has had no effect is tried again"


def test_who_has_neither_is_disconnected_again_also_while_its_peer_sees_all_in_order(keeper, hosts, journal):
    put(journal, armed=BOTH)
    disconnects(hosts)
    text = command(drbd84("41b-diskless-alone.v01"), "drbdsetup events2")
    hosts.said = {
        "v01": snapshot("14-connected-primary-secondary", "v01"),
        "v02": parse_events2(text.replace("conn-name:peer", "conn-name:v01")),
    }
    for _ in range(3):
        keeper.turn()
        hosts.clock.now += AGAIN_SECONDS
    assert hosts.disconnected == 2 * [("v02", "voms01")]


def test_who_loses_them_later_or_again_is_disconnected_at_once(keeper, hosts, journal):
    put(journal, holder="v02", armed=BOTH)
    not_disconnected(" disk:Diskless", " disk:UpToDate")(hosts)
    for _ in range(3):
        keeper.turn()
        hosts.clock.now += AGAIN_SECONDS
    for _ in range(2):
        disconnects(hosts)
        keeper.turn()
        assert hosts.disconnected == [("v01", "voms01")]
        hosts.says("15-connected-both-secondary")
        keeper.turn()


@pytest.mark.parametrize("hand", ["a person", "a plan"])
def test_who_has_neither_is_disconnected_whoever_has_it_in_hand(keeper, hosts, journal, hand):
    """An old disk that counts as UpToDate is worse than a plan that is in the way of."""
    put(journal, holder="v02", armed=BOTH)
    if hand == "a person":
        journal.commit(hosts=[HostRecord("", 1, paused=Order(by="me", at=0.0))])
    else:
        plan = Plan("restart", "voms01", "v02", "crashed", (Promote("v02", "voms01"),))
        journal.commit(record=claimed(DomainRecord("voms01", version=0, host="v02"), plan, now=1.0))
    disconnects(hosts)
    keeper.turn()
    assert hosts.disconnected == [("v01", "voms01")]


def not_disconnected(replaced, by):
    def change(hosts):
        text = command(drbd84("41b-diskless-alone.v01"), "drbdsetup events2")
        assert replaced in text
        text = text.replace(replaced, by).replace("conn-name:peer", "conn-name:v02")
        hosts.said = {"v01": parse_events2(text)}

    return change


@pytest.mark.parametrize(
    ("more", "change"),
    [
        ({}, not_disconnected("role:Secondary", "role:Primary")),
        ({}, not_disconnected("role:Secondary", "role:Marvellous")),
        ({}, not_disconnected(" disk:Diskless", " disk:UpToDate")),
        ({}, not_disconnected(" disk:Diskless", " disk:Marvellous")),
        ({}, not_disconnected("connection:Connecting", "connection:Connected")),
        ({}, not_disconnected("connection:Connecting", "connection:StandAlone")),
        ({"armed": frozenset()}, lambda hosts: None),  # nobody freezes
        ({"hosts": (), "holder": "", "admitted": frozenset()}, lambda hosts: None),
        ({"hosts": ("v02", "v03"), "holder": "v02"}, lambda hosts: None),
    ],
)
def test_who_else_has_no_disk_or_no_peer_stays_as_it_is(keeper, hosts, journal, more, change):
    put(journal, **({"holder": "v02", "armed": BOTH} | more))
    disconnects(hosts)
    change(hosts)
    keeper.turn()
    assert hosts.disconnected == []


def test_only_where_vmheal_is_let_act_is_anybody_disconnected(journal, hosts, tmp_path):
    put(journal, holder="v02", armed=BOTH)
    disconnects(hosts)
    keeper = keeper_of(journal, hosts, tmp_path, mode="observe")
    keeper.turn()
    assert hosts.disconnected == []


def votes_of(hosts, *, label="08b-connected-uptodate-primary-secondary"):
    """Three hosts of DRBD 9; the third, a tiebreaker, runs no VMs and is not asked."""
    hosts.said = {host: parse_events2(drbd9(label, host, "events2-now-statistics.txt")) for host in BOTH}
    hosts.is_armed = {"voms01": Parting.VOTES}


def test_who_stops_without_a_quorum_is_written_down_and_nobody_holds_it(keeper, hosts, journal):
    votes_of(hosts)
    for _ in range(4):
        keeper.turn()
    it = journal.authority("voms01")
    assert (it.hosts, it.holder, it.admitted) == ((), "", frozenset())
    assert (it.voters, it.voting) == ({"v01", "v02", "v03"}, BOTH)
    said = [event.sentence for _, event in journal.timeline() if event.detail.get("resource") == "voms01"]
    assert said[-1] == "voms01: quorum of v01, v02, v03, seen on v01, v02"
    del hosts.said["v01"]
    keeper._armed_at.clear()
    for _ in range(4):
        keeper.turn()
    assert journal.authority("voms01") == it, "what a lost host did is what counts"
    votes_of(hosts)
    hosts.is_armed = {"voms01": Parting.GOES_ON}
    keeper._armed_at.clear()
    for _ in range(4):
        keeper.turn()
    assert journal.authority("voms01").voting == frozenset()


# ---- whose data they are -----------------------------------------------------------------------------------

FIRST, SECOND = ("E25DF6057BB32DC0",), ("947D4405532AA018",)


def test_the_identifiers_of_the_holders_data_are_written_down_while_all_is_in_order(keeper, hosts, journal):
    put(journal)
    hosts.says("14-connected-primary-secondary")
    keeper.turn()
    assert journal.authority("voms01").generations == FIRST
    assert hosts.identified == [("v01", "voms01")]
    hosts.says("19-standalone-v02")
    keeper.turn()
    it = journal.authority("voms01")
    assert (it.admitted, it.generations) == ({"v01"}, ())
    hosts.says("23-after-resolve")
    keeper.turn()  # v02 is admitted again
    assert journal.authority("voms01").generations == ()
    keeper.turn()
    assert journal.authority("voms01").generations == SECOND


def test_they_are_read_again_now_and_then(keeper, hosts, journal):
    put(journal)
    hosts.says("14-connected-primary-secondary")
    turns = 3 * int(GENERATIONS_SECONDS)
    for _ in range(turns):
        keeper.turn()
        hosts.clock.now += 1
    assert len(hosts.identified) == 3
    hosts.says("30-mgmt-partition")
    for _ in range(int(GENERATIONS_SECONDS)):
        keeper.turn()
        hosts.clock.now += 1
    assert journal.authority("voms01").generations == SECOND


def test_of_many_resources_one_is_read_in_a_turn_those_first_that_are_not_known(keeper, hosts, journal):
    hosts.says("14-connected-primary-secondary")
    names = [f"data{number}" for number in range(4)]
    for host, seen in hosts.said.items():
        resources = tuple(replace(seen.resources[0], name=name) for name in names)
        hosts.said[host] = replace(seen, resources=resources)
    for name in names:
        put(journal, resource=name, generations=FIRST if name == "data0" else ())
    for _ in range(len(names) + 2):
        before = len(hosts.identified)
        keeper.turn()
        assert len(hosts.identified) - before <= 1
    assert [name for _, name in hosts.identified] == ["data1", "data2", "data3", "data0"]


@pytest.mark.parametrize("label", ["15-connected-both-secondary", "08-syncing-mid", "41-diskless-secondary"])
def test_of_what_is_not_in_order_they_are_not_read(keeper, hosts, journal, label):
    put(journal)
    hosts.says(label)
    for _ in range(3):
        keeper.turn()
    assert journal.authority("voms01").generations == ()
    assert hosts.identified == []


def test_identifiers_that_cannot_be_read_are_not_asked_for_all_the_time(keeper, hosts, journal):
    before = put(journal)
    hosts.says("14-connected-primary-secondary")
    hosts.get_gi = {}
    for _ in range(5):
        keeper.turn()
    assert journal.authority("voms01") == before
    assert len(hosts.identified) == 1


@pytest.mark.parametrize("change", [{"granted": True, "admitted": frozenset({"v01"})}, {}])
def test_identifiers_are_not_written_over_what_changed_while_they_were_read(keeper, hosts, journal, change):
    """R2: the holder lost its peer and was granted, or was about to be promoted."""
    before = put(journal)
    hosts.says("14-connected-primary-secondary")
    changed = replace(before, version=2, **change)
    read = hosts.generations

    def late(host, resource, *, timeout_seconds):
        journal.commit(authorities=[changed])
        return read(host, resource, timeout_seconds=timeout_seconds)

    hosts.generations = late
    keeper.turn()
    assert journal.authority("voms01") == changed
