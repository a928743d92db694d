"""The arbiter's questions over HTTP, with the real journal: durable, bounded, one host a token."""

import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import requests

from actuator import arbitrate
from actuator.adapters.clock import SystemClock
from actuator.adapters.sqlite import SqliteJournal
from actuator.arbitrate import Arbiter, parse
from actuator.contact import Contacts
from actuator.model import Authority
from actuator.ports import Conflict, JournalError
from actuator.receive import ARBITRATE, MAX_QUESTION_BYTES
from tests.actuator.deliveries import TOKEN, TOKENS, arbitrating_journal, served

BOOT = "0a1b2c3d-0000-4000-8000-000000000000"


@pytest.fixture
def journal(tmp_path):
    with arbitrating_journal(tmp_path / "journal") as journal:
        yield journal


@pytest.fixture
def receiver(journal):
    with served(journal) as receiver:
        yield receiver


def question(**more):
    asked = {"hook": "fence-peer", "resource": "voms01", "peer": "v02", "boot_id": BOOT, "began_ns": 1000}
    return {key: value for key, value in (asked | more).items() if value is not None}


def post(receiver, host, body, token=None):
    headers = {"Authorization": f"Bearer {token or TOKENS.get(host)}", "Content-Type": "application/json"}
    data = body if isinstance(body, bytes) else json.dumps(body)
    return requests.post(f"{receiver.url}{ARBITRATE}", data=data, headers=headers, timeout=30)


def ask(receiver, host, **more):
    """Both questions of a hook; the last reply."""
    first = post(receiver, host, question(**more)).json()
    assert first["verdict"] is None
    return post(receiver, host, question(version=first["version"], **more)).json()


def frozen(peer, **more):
    return {"peer": peer, "role": "Primary", "up_to_date": True} | more


def test_the_holder_is_granted_and_the_loser_released(receiver, journal):
    granted = ask(receiver, "v01", **frozen("v02"))
    assert granted["verdict"] == "grant"
    it = journal.authority("voms01")
    assert (it.version, it.holder, it.admitted, it.granted) == (granted["version"], "v01", {"v01"}, True)
    assert ask(receiver, "v02", **frozen("v01"))["verdict"] == "release"
    events = [event for _, event in journal.timeline()]
    assert [(event.kind, event.host, event.detail["verdict"]) for event in events] == [
        ("arbitrated", "v01", "grant"),
        ("arbitrated", "v02", "release"),
    ]


def test_a_resync_and_its_end(receiver, journal):
    allowed = ask(receiver, "v01", hook="before-resync-source", peer="v02")
    assert allowed["verdict"] == "allow"
    assert journal.authority("voms01").admitted == {"v01"}
    early = ask(receiver, "v01", hook="unfence-peer", **frozen("v02"), connected=True, began_ns=2000)
    assert early["verdict"] == "refuse"
    end = frozen("v02") | {"connected": True, "peer_up_to_date": True, "began_ns": 3000}
    assert ask(receiver, "v01", hook="unfence-peer", **end)["verdict"] == "allow"
    assert journal.authority("voms01").admitted == {"v01", "v02"}


def test_an_attach_excludes_its_own_host(receiver, journal):
    assert ask(receiver, "v02", hook="attach", peer=None)["verdict"] == "allow"
    assert journal.authority("voms01").admitted == {"v01"}


def test_of_an_unknown_resource_nobody_is_granted_and_nothing_is_held_up(receiver, journal):
    assert ask(receiver, "v01", **frozen("v02"), resource="other")["verdict"] == "wait"
    assert journal.authority("other") is None
    for hook, peer in (("before-resync-source", "v02"), ("attach", None)):
        reply = ask(receiver, "v01", hook=hook, peer=peer, resource="other")
        assert reply["verdict"] == "allow"
        assert journal.authority("other") == Authority("other", version=reply["version"])
    assert journal.authority("other").version == 2


def test_resources_that_do_not_exist_are_not_written_down_without_end(receiver, journal, monkeypatch):
    monkeypatch.setattr(arbitrate, "MAX_RESOURCES", 4)
    asked = {"hook": "attach", "peer": None}
    for number in range(3):
        assert ask(receiver, "v01", **asked, resource=f"other{number}")["verdict"] == "allow"
    assert post(receiver, "v01", question(**asked, resource="other3")).status_code == 503
    assert len(journal.authorities()) == 4
    assert ask(receiver, "v02", **asked)["verdict"] == "allow"  # what is known is answered all the same


def test_one_host_does_not_take_the_room_of_the_others(receiver, journal, monkeypatch):
    monkeypatch.setattr(arbitrate, "MAX_NAMED", 2)
    asked = {"hook": "attach", "peer": None}
    for name in ("one", "two", "one"):
        assert ask(receiver, "v01", **asked, resource=name)["verdict"] == "allow"
    refused = post(receiver, "v01", question(**asked, resource="three"))
    assert refused.status_code == 503
    assert "as were 2 that v01 has named before" in refused.text
    assert ask(receiver, "v01", **asked)["verdict"] == "allow"  # what is known
    assert ask(receiver, "v02", **asked, resource="three")["verdict"] == "allow"


def test_what_finds_no_room_does_not_take_its_hosts(receiver, monkeypatch):
    monkeypatch.setattr(arbitrate, "MAX_RESOURCES", 1)
    monkeypatch.setattr(arbitrate, "MAX_NAMED", 1)
    asked = {"hook": "attach", "peer": None}
    assert "1 resources are known already" in post(receiver, "v01", question(**asked, resource="one")).text
    monkeypatch.setattr(arbitrate, "MAX_RESOURCES", 4)
    assert ask(receiver, "v01", **asked, resource="two")["verdict"] == "allow"


def test_every_verdict_is_told_once(receiver, journal):
    for began_ns in (1, 2, 3):
        assert ask(receiver, "v02", **frozen("v01"), began_ns=began_ns)["verdict"] == "wait"
    ((_, event),) = journal.timeline()
    assert event.sentence == "fence-peer of voms01 on v02: wait, v01 holds the authority over voms01"


def test_a_token_is_its_hosts_own(receiver, journal):
    """The host is who brings the token; the body names none."""
    before = journal.authority("voms01")
    for token in (TOKEN, "a-token-of-v0", "a-token-of-v01x", ""):
        answer = post(receiver, "v01", question(), token=token or " ")
        assert answer.status_code == 401, token
    assert ask(receiver, "v02", **frozen("v01"))["verdict"] == "wait"  # v01 holds it
    assert journal.authority("voms01").admitted == before.admitted


def test_a_hook_may_ask_whose_token_it_has_and_nothing_is_written(receiver, journal):
    def who(token):
        headers = {"Authorization": f"Bearer {token}"}
        return requests.get(f"{receiver.url}{ARBITRATE}", headers=headers, timeout=30)

    before = (journal.authorities(), journal.timeline())
    assert [who(TOKENS[host]).json() for host in ("v01", "v02")] == [{"host": "v01"}, {"host": "v02"}]
    assert who(TOKEN).status_code == 401
    assert (journal.authorities(), journal.timeline()) == before


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{" * 1000,
        question(hook="primary"),
        question(resource="../etc"),
        question(resource="--all"),
        question(peer=None),
        question(hook="attach"),
        question(boot_id=None),
        question(boot_id="x" * 65),
        question(began_ns=-1),
        question(began_ns=2**63),
        question(began_ns="1"),
        question(version=-1),
        question(version=True),
        question(role="primary"),
        question(up_to_date=1),
        question(host="v01"),
    ],
)
def test_what_is_no_question_is_400_and_changes_nothing(receiver, journal, body):
    before = journal.authorities()
    answer = post(receiver, "v01", body)
    assert answer.status_code == 400, answer.text
    assert len(answer.text.splitlines()) == 1
    assert journal.authorities() == before


def test_a_huge_question_is_413(receiver):
    assert post(receiver, "v01", b" " * (MAX_QUESTION_BYTES + 1)).status_code == 413


@pytest.mark.parametrize("failing", [1, 2])
def test_no_verdict_is_given_that_is_not_durable(journal, failing):
    """The first write is that the hook has begun, the second its grant."""
    writes = []

    class Failing:
        def __getattr__(self, name):
            return getattr(journal, name)

        def commit(self, **change):
            writes.append(change)
            if len(writes) == failing:
                raise JournalError("disk full")
            journal.commit(**change)

    with served(Failing()) as receiver:
        first = post(receiver, "v01", question(**frozen("v02")))
        answers = [first]
        if first.status_code == 200:
            answers.append(post(receiver, "v01", question(**frozen("v02"), version=first.json()["version"])))
        assert [it.status_code for it in answers] == [*[200] * (failing - 1), 503]
        assert answers[-1].headers["Retry-After"] == "1"
        assert not journal.authority("voms01").granted
        assert ask(receiver, "v01", **frozen("v02"))["verdict"] == "grant"
    assert journal.authority("voms01").granted


def test_the_race_has_one_winner(receiver, journal):
    """Both hosts ask again and again while the authority is taken back and forth: each grant is of one version."""
    stop = threading.Event()
    granted = {}

    def hook(host, peer, began_ns):
        while not stop.is_set():
            began_ns += 1
            first = post(receiver, host, question(**frozen(peer), began_ns=began_ns)).json()
            reply = post(
                receiver, host, question(**frozen(peer), began_ns=began_ns, version=first["version"])
            ).json()
            if reply["verdict"] == "grant":
                assert granted.setdefault(reply["version"], host) == host
                it = journal.authority("voms01")
                assert (it.holder, it.granted) == (host, True) or it.version > reply["version"]

    def take(number):
        """As an operator would: the authority moves, and both are admitted."""
        it = journal.authority("voms01")
        after = replace(it, version=it.version + 1, holder=it.hosts[number % 2], granted=False, newest=False)
        with contextlib.suppress(Conflict):
            journal.commit(authorities=[replace(after, admitted=frozenset(it.hosts))])

    with ThreadPoolExecutor(4) as pool:
        pairs = (("v01", "v02"), ("v02", "v01"))
        hooks = [pool.submit(hook, *pair, 10_000 * number) for pair in pairs for number in (1, 2)]
        deadline, number = time.monotonic() + 60, 0
        while (number < 60 or len(set(granted.values())) < 2) and time.monotonic() < deadline:
            take(number := number + 1)
            threading.Event().wait(0.02)
        stop.set()
        for it in hooks:
            it.result()
    assert set(granted.values()) == {"v01", "v02"}


def test_two_changes_made_from_one_version_are_not_both_written(journal):
    """Whoever comes second looks at what the first has written."""
    read, arbiter = threading.Barrier(2), []

    class Slow:
        def __getattr__(self, name):
            return getattr(journal, name)

        def authority(self, resource):
            it = journal.authority(resource)
            with contextlib.suppress(threading.BrokenBarrierError):
                read.wait(1)
            return it

    arbiter = Arbiter(Slow(), SystemClock(threading.Event()), Contacts(0.0))
    asks = [
        ("v01", {"hook": "before-resync-source", "peer": "v02"}),
        ("v02", {"hook": "attach", "peer": None}),
    ]
    with ThreadPoolExecutor(2) as pool:
        replies = list(
            pool.map(lambda it: arbiter.reply(it[0], parse(json.dumps(question(**it[1])).encode())), asks)
        )
    assert sorted(reply.version for reply in replies) == [2, 3]
    assert len(journal.authority("voms01").runs) == 2


def test_what_was_granted_is_there_after_a_restart(tmp_path):
    path = tmp_path / "other"
    journal = SqliteJournal(path)
    journal.commit(authorities=[Authority("voms01", ("v01", "v02"), 1, "v01", frozenset({"v01", "v02"}))])
    with served(journal) as receiver:
        assert ask(receiver, "v01", **frozen("v02"))["verdict"] == "grant"
    journal.close()
    journal = SqliteJournal(path)
    with served(journal) as receiver:
        assert ask(receiver, "v02", **frozen("v01"))["verdict"] == "release"
        assert ask(receiver, "v01", **frozen("v02"), began_ns=2000)["verdict"] == "grant"
    journal.close()
