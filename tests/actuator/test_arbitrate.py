"""The arbiter's questions over HTTP, with the real journal: durable, bounded, one host a token."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import requests

from actuator.adapters.sqlite import SqliteJournal
from actuator.model import Authority
from actuator.ports import JournalError
from actuator.receive import ARBITRATE, MAX_QUESTION_BYTES
from tests.actuator.deliveries import HOOKS, TOKEN, patient_journal, served

TOKENS = {host: token for token, host in HOOKS.items()}
BOOT = "0a1b2c3d-0000-4000-8000-000000000000"


@pytest.fixture
def journal(tmp_path):
    journal = patient_journal(tmp_path / "journal")
    journal.commit(authorities=[Authority("voms01", ("v01", "v02"), 1, "v01", frozenset({"v01", "v02"}))])
    yield journal
    journal.close()


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
        ("arbitrated", "v01", "grant")
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


def test_an_unknown_resource_waits(receiver):
    reply = post(receiver, "v01", question(resource="other")).json()
    assert reply["verdict"] == "wait"
    assert "does not know other" in reply["sentence"]


def test_a_token_is_its_hosts_own(receiver, journal):
    """The host is who brings the token; the body names none."""
    before = journal.authority("voms01")
    for token in (TOKEN, "a-token-of-v0", "a-token-of-v01x", ""):
        answer = post(receiver, "v01", question(), token=token or " ")
        assert answer.status_code == 401, token
    assert ask(receiver, "v02", **frozen("v01"))["verdict"] == "wait"  # v01 holds it
    assert journal.authority("voms01").admitted == before.admitted


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
        question(version=0),
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


def test_no_verdict_is_given_that_is_not_durable(tmp_path, journal):
    class Failing:
        def __getattr__(self, name):
            return getattr(journal, name)

        def commit(self, **change):
            raise JournalError("disk full")

    with served(Failing()) as receiver:
        answer = post(receiver, "v01", question(**frozen("v02")))
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert journal.authority("voms01").version == 1


def test_the_race_has_one_winner(receiver, journal):
    """Both ask at the same time, again and again, while the authority is moved back and forth."""
    stop = threading.Event()
    grants = {"v01": 0, "v02": 0}

    def hook(host, peer):
        began_ns = 10_000
        while not stop.is_set():
            began_ns += 1
            reply = ask(receiver, host, **frozen(peer), began_ns=began_ns)
            if reply["verdict"] == "grant":
                grants[host] += 1
                return reply["version"]
        return None

    for _ in range(20):
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(hook, *pair) for pair in (("v01", "v02"), ("v02", "v01"))]
            while not any(it.done() for it in asked):
                threading.Event().wait(0.001)
            stop.set()
            versions = [it.result() for it in asked]
        assert versions.count(None) == 1
        stop.clear()
        it = journal.authority("voms01")
        assert (it.granted, it.version) == (True, max(it.version, *filter(None, versions)))
        other = "v02" if it.holder == "v01" else "v01"
        again = {"holder": other, "admitted": frozenset(it.hosts), "granted": False, "newest": False}
        journal.commit(authorities=[replace(it, version=it.version + 1, **again)])
    assert grants == {"v01": 10, "v02": 10}


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
