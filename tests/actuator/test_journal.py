"""The SQLite journal: durable, compare-and-swap, one writer, bounded, and clear about what it cannot do."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actuator.adapters import sqlite as adapter
from actuator.adapters.sqlite import SqliteJournal
from actuator.core.progress import claimed, concluded
from actuator.model import (
    Authority,
    Confirm,
    Demote,
    Destroy,
    DomainRecord,
    Done,
    Escalation,
    EscalationKind,
    Event,
    Failed,
    HookRun,
    Indeterminate,
    Notification,
    Plan,
    ProgramRun,
    Promote,
    Start,
)
from actuator.ports import Conflict, JournalError

LABELS = {"alertname": "VMFailure", "action": "restart", "domain": "voms01", "host": "v01"}


def notification(number=0, *, firing=True, starts_at=1.0):
    return Notification(f"f{number}", starts_at, firing, LABELS)


def event(number=0, domain="voms01"):
    return Event(float(number), "nothing", f"number {number}", domain)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


@pytest.fixture
def journal(path):
    journal = SqliteJournal(path)
    yield journal
    journal.close()


def full_record() -> DomainRecord:
    steps = (
        Destroy("v01", "voms01", 4),
        Promote("v01", "voms01"),
        Start("v01", "voms01"),
        Confirm("v01", "voms01"),
    )
    record = DomainRecord("voms01", 0, "v01")
    record = claimed(record, Plan("restart", "voms01", "v01", "it crashed", steps), now=10.0)
    record = concluded(record, 0, Done("gone"), ours=True, now=11.0, hold_seconds=0.0)
    record = concluded(record, 1, Done(), ours=True, now=12.0, hold_seconds=0.0)
    record = concluded(record, 2, Failed("no memory", 1), ours=True, now=13.0, hold_seconds=0.0)
    record = replace(record, version=1)
    assert isinstance(record.plan.steps[4].step, Demote)
    return record


def test_what_is_written_is_written_for_good(journal):
    ask = journal._connection.execute
    assert ask("PRAGMA journal_mode").fetchone() == ("wal",)
    assert ask("PRAGMA synchronous").fetchone() == (2,), "FULL: an fsync for each commit"


def test_sqlites_log_does_not_stay_as_long_as_it_was_once(journal, path):
    def bytes_of_log():
        return path.with_name(f"{path.name}-wal").stat().st_size

    journal._connection.execute("PRAGMA wal_autocheckpoint = 0")
    for _ in range(10):
        journal.commit(events=[replace(event(1), sentence="x" * 1_000_000)])
    assert bytes_of_log() > adapter.LOG_BYTES
    journal._connection.execute("PRAGMA wal_checkpoint(RESTART)")
    journal.commit(events=[event(1)])
    assert bytes_of_log() <= adapter.LOG_BYTES


def test_everything_comes_back_as_it_was(path):
    record = full_record()
    warning = Escalation(EscalationKind.GAVE_UP, "v01", "attempts", "no more", 3.0)
    other = DomainRecord("voms02", 1, "v02", attempts_at=(1.5, 2.5), escalation=warning)
    ended = concluded(record, 4, Indeterminate("lost"), ours=True, now=14.0, hold_seconds=0.0)
    journal = SqliteJournal(path)
    journal.receive([notification(), notification(1, firing=False)], at=5.0)
    journal.commit(record=record, events=[event(1)])
    journal.commit(record=other)
    journal.commit(record=ended)
    journal.close()
    journal = SqliteJournal(path)
    assert journal.records() == (ended, other)
    assert journal.record("voms01") == ended
    assert journal.record("absent") is None
    assert [it.notification for it in journal.inbox(after=0, limit=9)] == [
        notification(),
        notification(1, firing=False),
    ]
    assert [it.kind for _, it in journal.timeline()] == ["received", "received", "nothing"]
    journal.close()


@pytest.mark.parametrize("version", [0, 1, 3, 7])
def test_a_record_changes_only_from_the_version_it_was_made_from(journal, version):
    journal.commit(record=DomainRecord("voms01", 1, "v01"))
    journal.receive([notification()], at=1.0)
    waiting = journal.inbox(after=0, limit=9)
    before = journal.timeline()
    with pytest.raises(Conflict):
        journal.commit(record=DomainRecord("voms01", version, "v02"), events=[event()], settled=waiting)
    assert journal.record("voms01").host == "v01"
    assert journal.timeline() == before, "nothing of a refused change is there"
    assert journal.inbox(after=0, limit=9) == waiting
    journal.commit(record=DomainRecord("voms01", 2, "v02"))
    assert journal.record("voms01").host == "v02"


def test_of_many_who_change_a_record_one_succeeds(journal):
    journal.commit(record=DomainRecord("voms01", 1, "v01"))
    outcomes = []

    def change(host):
        try:
            journal.commit(record=DomainRecord("voms01", 2, host))
            outcomes.append(host)
        except Conflict:
            outcomes.append(None)

    threads = [threading.Thread(target=change, args=(f"v{number}",)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [host for host in outcomes if host]
    assert len(winners) == 1
    assert journal.record("voms01").host == winners[0]


def test_the_newer_notification_takes_the_place_of_the_older(journal):
    journal.receive([notification(), notification(starts_at=2.0)], at=1.0)
    (first, second) = journal.inbox(after=0, limit=9)
    journal.receive([notification(firing=False)], at=2.0)
    assert [it.notification.firing for it in journal.inbox(after=0, limit=9)] == [True, False]
    (resolved,) = journal.inbox(after=second.id, limit=9)
    assert resolved.notification == notification(firing=False)
    journal.commit(settled=[first, second])
    assert journal.inbox(after=0, limit=9) == (resolved,), (
        "received again, so it is not settled by the old one"
    )


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["receive", "settle"]), st.integers(0, 3), st.booleans()), max_size=25)
)
def test_the_inbox_is_what_was_received_last_and_not_settled(tmp_path_factory, steps):
    journal = SqliteJournal(tmp_path_factory.mktemp("inbox") / "journal")
    expected: dict[str, Notification] = {}  # in the order of arrival
    for what, number, firing in steps:
        if what == "receive":
            received = notification(number, firing=firing)
            journal.receive([received], at=1.0)
            expected.pop(received.fingerprint, None)
            expected[received.fingerprint] = received
        else:
            journal.commit(settled=journal.inbox(after=0, limit=1))
            if expected:
                expected.pop(next(iter(expected)))
        assert [it.notification for it in journal.inbox(after=0, limit=99)] == list(expected.values())
    journal.close()


def test_the_timeline_is_read_by_domain_from_both_ends(journal):
    journal.commit(events=[event(number, f"d{number % 2}") for number in range(10)])
    assert [it.at for _, it in journal.timeline(domain="d1", limit=2)] == [1.0, 3.0]
    assert [it.at for _, it in journal.timeline(domain="d1", limit=2, newest=True)] == [7.0, 9.0]
    (seq, _) = journal.timeline(limit=5)[-1]
    assert [it.at for _, it in journal.timeline(after=seq)] == [5.0, 6.0, 7.0, 8.0, 9.0]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, [6, 5, 4, 3, 2, 1]),
        ({"domain": "ce01"}, [5, 3]),
        ({"plan": "voms01-1"}, [2, 1]),
        ({"words": ["REFUSED"]}, [4]),
        ({"words": ["v02"]}, [5, 4]),
        ({"words": ["voms01-1"]}, [6, 2, 1]),
        ({"words": ["voms01", "started"]}, [6, 2]),
        ({"words": ["100%"]}, [3]),
        ({"words": ["_"]}, [4]),
        ({"words": ['"quoted\\']}, [6]),
        ({"words": ["secret"]}, []),
        ({"words": ["sentence"]}, []),
        ({"before": 4}, [3, 2, 1]),
        ({"before": 1}, []),
        ({"domain": "x' OR 1=1 --"}, []),
    ],
    ids=repr,
)
def test_what_happened_is_searched_the_newest_first(journal, asked, found):
    """Only what is shown is searched, not what stands behind it, and every character is itself."""
    hidden = {"labels": {"sentence": "secret"}}
    events = [
        Event(1.0, "decided", "it crashed", "voms01", "v01", "voms01-1", hidden),
        Event(2.0, "outcome", "started", "voms01", "v01", "voms01-1"),
        Event(3.0, "nothing", "100% well", "ce01", "v01"),
        Event(4.0, "refused", "is_down on v02", "", "v02"),
        Event(5.0, "nothing", "1000 well", "ce01", "v02"),
        Event(6.0, "outcome", 'started "quoted\\"', "voms01", "v01", "voms01-17"),
    ]
    journal.commit(events=events)
    past = journal.history(**asked)
    assert [sequence for sequence, _ in past.events] == found
    assert [it for _, it in past.events] == [events[it - 1] for it in found]
    assert past.before is None


def test_a_search_goes_on_where_it_ended(journal, monkeypatch):
    monkeypatch.setattr(adapter, "SEARCH_EVENTS", 7)
    journal.commit(events=[event(number, f"vm{number % 10}") for number in range(100)])
    found, before = [], None
    while True:
        past = journal.history(domain="vm3", before=before, limit=3)
        found += [it.at for _, it in past.events]
        before = past.before
        if before is None:
            break
    assert found == [93.0, 83.0, 73.0, 63.0, 53.0, 43.0, 33.0, 23.0, 13.0, 3.0]


def test_a_search_ends_when_its_time_is_over_and_says_where(journal, monkeypatch):
    journal.commit(events=[event(number) for number in range(100)])
    monkeypatch.setattr(adapter, "SEARCH_EVENTS", 10)
    monkeypatch.setattr(adapter, "SEARCH_SECONDS", 0.0)
    past = journal.history(words=["no such thing"])
    assert past.events == ()
    assert past.before == 91, "it comes on all the same"


def test_a_search_holds_up_nobody(journal):
    """One that lasts neither stops a write nor another read."""
    journal.commit(events=[event()])
    with journal._searching:
        journal._searcher.execute("BEGIN")
        journal._searcher.execute("SELECT * FROM event").fetchone()
        journal.commit(events=[event(1)])
        journal.receive([notification()], at=1.0)
        assert len(journal.inbox(after=0, limit=10)) == 1
        assert len(journal.timeline()) == 3
        journal._searcher.execute("ROLLBACK")


def test_the_timeline_is_bounded(path):
    journal = SqliteJournal(path, keep_events=1000)
    for start in range(0, 5000, 500):
        journal.commit(events=[event(number) for number in range(start, start + 500)])
    kept = journal.timeline(limit=10_000)
    assert 1000 <= len(kept) <= 2000
    assert kept[-1][1].at == 4999.0
    journal.close()


def test_the_inbox_is_bounded(journal, monkeypatch):
    monkeypatch.setattr("actuator.adapters.sqlite.MAX_INBOX", 10)
    journal.receive([notification(number) for number in range(10)], at=1.0)
    with pytest.raises(JournalError, match="10 notifications wait"):
        journal.receive([notification(99)], at=1.0)
    assert len(journal.inbox(after=0, limit=99)) == 10
    journal.receive([notification(3)], at=1.0)  # one that waits already


def test_a_full_disk_is_said_and_heals(journal):
    (pages,) = journal._connection.execute("PRAGMA page_count").fetchone()
    journal._connection.execute(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(JournalError, match="full"):
        journal.commit(events=[Event(1.0, "nothing", "x" * 100_000)])
    journal.commit(events=[event(1)])
    with pytest.raises(JournalError, match="full"):
        journal.receive([Notification("f", 1.0, True, {"x": "y" * 100_000})], at=1.0)
    assert journal.inbox(after=0, limit=9) == ()
    journal._connection.execute("PRAGMA max_page_count = 100000")
    journal.commit(events=[Event(1.0, "nothing", "x" * 100_000)])
    assert len(journal.timeline()) == 2


def test_a_writer_who_holds_it_for_too_long_is_said(path):
    journal = SqliteJournal(path, timeout_seconds=0.2)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    with pytest.raises(JournalError, match="locked"):
        journal.commit(events=[event()])
    assert time.monotonic() - begun < 5
    other.execute("ROLLBACK")
    other.close()
    journal.commit(events=[event(1)])
    assert [it.at for _, it in journal.timeline()] == [1.0]
    journal.close()


def test_waiting_behind_a_writer_is_bounded_and_leaves_nothing_behind(path):
    journal = SqliteJournal(path, timeout_seconds=0.2)
    with journal._writing, pytest.raises(JournalError, match="not written within"):
        journal.commit(events=[event()])
    assert journal.timeline() == ()
    journal.commit(events=[event(1)])
    assert [it.at for _, it in journal.timeline()] == [1.0]
    journal.close()


def test_writers_that_come_together_share_transactions(journal):
    statements = []
    journal._connection.set_trace_callback(statements.append)
    ready = threading.Barrier(33)

    def write(number):
        ready.wait()
        journal.commit(events=[event(number)])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    with journal._writing:  # the first writer is slow
        ready.wait()
        deadline = time.monotonic() + 10
        while len(journal._queue) < 32 and time.monotonic() < deadline:
            threading.Event().wait(0.01)
    for thread in threads:
        thread.join()
    assert statements.count("COMMIT") == 1
    assert {it.at for _, it in journal.timeline()} == {float(number) for number in range(32)}


def test_a_second_actuator_is_turned_away(path, journal):
    with pytest.raises(JournalError, match="another vmheal-actuator"):
        SqliteJournal(path)
    reader = SqliteJournal(path, read_only=True)
    assert reader.timeline() == ()
    with pytest.raises(JournalError):
        reader.commit(events=[event()])
    reader.close()


AUTHORITY = Authority(
    "voms01", ("v01", "v02"), 1, "v01", frozenset({"v01", "v02"}), runs={"v01": HookRun("boot", 2**62)},
    generations=("E25DF6057BB32DC0",),
)  # fmt: skip


def test_an_authority_is_changed_only_over_the_version_before(journal):
    assert journal.authority("voms01") is None
    journal.commit(authorities=[AUTHORITY])
    assert journal.authority("voms01") == AUTHORITY
    granted = replace(AUTHORITY, version=2, granted=True, newest=True, admitted=frozenset({"v01"}))
    journal.commit(authorities=[granted])
    assert tuple(journal.authorities().values()) == (granted,)
    for late in (granted, AUTHORITY, replace(granted, version=4)):
        with pytest.raises(Conflict, match="voms01"):
            journal.commit(authorities=[late])
    assert tuple(journal.authorities().values()) == (granted,)


def test_an_authority_that_was_written_before_identifiers_were_kept(path):
    with contextlib.closing(SqliteJournal(path)) as journal:
        journal.commit(authorities=[AUTHORITY])
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE record SET body = json_remove(body, '$.generations')")
    with contextlib.closing(SqliteJournal(path)) as journal:
        assert journal.authority("voms01") == replace(AUTHORITY, generations=())


def test_authorities_and_a_record_are_changed_together_or_not_at_all(journal):
    other = replace(AUTHORITY, resource="voms01-2")
    journal.commit(authorities=[other])
    record = DomainRecord("voms01", version=1, host="v01")
    with pytest.raises(Conflict, match="voms01-2"):
        journal.commit(record=record, authorities=[AUTHORITY, other], events=[event()])
    assert journal.record("voms01") is None
    assert tuple(journal.authorities().values()) == (other,)
    assert journal.timeline() == ()
    journal.commit(record=record, authorities=[AUTHORITY, replace(other, version=2)], events=[event()])
    assert journal.record("voms01") == record
    assert {name: it.version for name, it in journal.authorities().items()} == {"voms01": 1, "voms01-2": 2}


def test_an_older_journal_is_brought_up_to_date(path, journal):
    record = full_record()
    journal.commit(record=replace(record, version=1), events=[event()])
    journal.close()
    raw = sqlite3.connect(path)
    raw.executescript(
        "BEGIN; ALTER TABLE record RENAME TO two;"
        "CREATE TABLE record (domain TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL)"
        " STRICT, WITHOUT ROWID;"
        "INSERT INTO record SELECT name, version, body FROM two; DROP TABLE two;"
        "PRAGMA user_version = 1; COMMIT;"
    )
    raw.close()
    with pytest.raises(JournalError, match="older vmheal"):
        SqliteJournal(path, read_only=True)
    for _ in range(2):
        newer = SqliteJournal(path)
        assert newer.records() == (replace(record, version=1),)
        assert [it for _, it in newer.timeline()] == [event()]
        newer.close()


def test_a_newer_journal_is_refused_and_left_alone(path):
    SqliteJournal(path).close()
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA user_version = 99")
    raw.close()
    content = path.read_bytes()
    with pytest.raises(JournalError, match="newer vmheal"):
        SqliteJournal(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"not a database, but long enough to look like one" * 50, None])
def test_what_is_not_ours_is_refused_and_left_alone(path, content):
    if content is None:
        raw = sqlite3.connect(path)
        raw.execute("CREATE TABLE mine (x)")
        raw.commit()
        raw.close()
        content = path.read_bytes()
    else:
        path.write_bytes(content)
    with pytest.raises(JournalError):
        SqliteJournal(path)
    raw_tables = path.read_bytes()
    assert len(raw_tables) == len(content)


def test_a_folder_that_is_missing_is_said(tmp_path):
    with pytest.raises(JournalError, match="absent"):
        SqliteJournal(tmp_path / "absent" / "journal")


def _write_until_killed(path, told):
    journal = SqliteJournal(path)
    for number in itertools.count():
        journal.commit(events=[event(number)])
        told.send(number)


def test_what_was_written_survives_sigkill(path):
    """A process that is killed while it writes: all that it was told is durable is there, and nothing is broken."""
    context = multiprocessing.get_context("spawn")
    for _ in range(2):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_write_until_killed, args=(path, theirs))
        process.start()
        theirs.close()
        last = ours.recv()
        while last < 20:
            last = ours.recv()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        try:
            while True:
                last = ours.recv()
        except EOFError:
            pass
        journal = SqliteJournal(path)
        seen = [int(it.at) for _, it in journal.timeline(limit=100_000)]
        assert max(seen) in {last, last + 1}
        journal.close()


def test_a_surprise_in_a_batch_acknowledges_nobody(path, monkeypatch):
    journal = SqliteJournal(path)
    monkeypatch.setattr(journal, "_prune", lambda: 1 / 0)
    results = []

    def receive(number):
        try:
            journal.receive([notification(number)], at=1.0)
        except (JournalError, ZeroDivisionError) as error:
            results.append(error)
        else:
            results.append(None)

    threads = [threading.Thread(target=receive, args=(number,)) for number in range(5)]
    with journal._writing:
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 30
        while len(journal._queue) < 5 and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        assert len(journal._queue) == 5
    for thread in threads:
        thread.join(30)
    assert len(results) == 5
    assert None not in results
    assert journal.inbox(after=0, limit=10) == ()
    journal.close()


# ---- what is kept parsed -----------------------------------------------------------------------------------


@pytest.fixture
def parsed(monkeypatch):
    """What is parsed of the kinds that are kept."""
    bodies = []

    class Counting:
        def __init__(self, adapter):
            self.adapter = adapter

        def validate_json(self, body):
            bodies.append(body)
            return self.adapter.validate_json(body)

    monkeypatch.setattr(adapter, "_KEPT", {kind: Counting(it) for kind, it in adapter._KEPT.items()})
    return bodies


def test_a_record_is_parsed_once_for_each_time_that_it_changes(path, parsed):
    records = [DomainRecord(f"vm{number}", 1, "v01") for number in range(5)]
    with contextlib.closing(SqliteJournal(path)) as journal:
        for record in records:
            journal.commit(record=record)
    with contextlib.closing(SqliteJournal(path)) as journal:
        for _ in range(3):
            assert journal.records() == tuple(records)
            assert journal.record("vm3") == records[3]
        assert len(parsed) == 5
        changed = replace(records[3], version=2, host="v02")
        journal.commit(record=changed)
        assert journal.record("vm3") == changed
        assert journal.records() == (*records[:3], changed, records[4])
        assert len(parsed) == 6


def test_what_is_read_is_the_readers_own(journal):
    journal.commit(authorities=[AUTHORITY])
    journal.authorities().clear()
    assert journal.authorities() == {"voms01": AUTHORITY}


def test_what_was_refused_is_not_kept(journal):
    journal.commit(authorities=[AUTHORITY])
    assert journal.authority("voms01") == AUTHORITY
    with pytest.raises(Conflict):
        journal.commit(authorities=[replace(AUTHORITY, version=3, holder="v02")])
    assert journal.authority("voms01") == AUTHORITY


def test_after_a_failure_all_is_read_anew(path, journal, monkeypatch):
    """It may be durable although the write said that it failed."""
    record = DomainRecord("voms01", 1, "v01")
    journal.commit(record=record)
    assert journal.record("voms01") == record
    durable = replace(record, version=2, host="v02")
    prune = journal._prune

    def fail():
        journal._connection.execute("COMMIT")  # and then the disk does not answer
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(journal, "_prune", fail)
    with pytest.raises(JournalError):
        journal.commit(record=durable)
    monkeypatch.setattr(journal, "_prune", prune)
    assert journal.record("voms01") == durable
    journal.commit(record=replace(durable, version=3))


def test_who_only_reads_sees_what_the_writer_writes(path, journal):
    record = DomainRecord("voms01", 1, "v01")
    with contextlib.closing(SqliteJournal(path, read_only=True)) as reader:
        assert reader.records() == ()
        journal.commit(record=record)
        assert reader.records() == (record,)
        assert reader.record("voms01") == record


def test_a_write_that_ends_while_all_is_read_is_not_lost(path, journal, monkeypatch):
    first = DomainRecord("voms01", 1, "v01")
    journal.commit(record=first)
    journal._forget()
    second, read, writing = replace(first, version=2, host="v02"), journal._read, []

    def late(statement, *values):
        rows = read(statement, *values)
        if not writing:
            writing.append(threading.Thread(target=journal.commit, kwargs={"record": second}))
            writing[0].start()
            writing[0].join(0.3)  # it is durable, and waits to be kept
        return rows

    monkeypatch.setattr(journal, "_read", late)
    assert journal.records() == (first,)
    writing[0].join(30)
    assert journal.records() == (second,)


def test_the_file_is_bounded(path):
    journal = SqliteJournal(path, max_bytes=4 * 1024**2)
    for number in range(20):
        journal.commit(events=[Event(number, "nothing", "x" * 1000) for _ in range(1000)])
    assert path.stat().st_size < 8 * 1024**2
    kept = journal.timeline(limit=100_000)
    assert kept[-1][0] == 20_000
    assert len(kept) > 1000
    journal.close()


def test_the_file_is_bounded_also_when_its_events_are_large(path):
    journal = SqliteJournal(path, max_bytes=4 * 1024**2)
    for number in range(500):
        journal.commit(events=[Event(number, "received", "x" * 100_000)])
    assert path.stat().st_size < 5 * 1024**2
    journal.close()


def test_runs_of_programs_are_kept_for_longer_than_an_alert_is_admitted(path):
    journal = SqliteJournal(path)
    days = 86400.0
    for name, at in (("old", 0.0), ("young", 2 * days), ("last", 32 * days)):
        journal.commit(run=ProgramRun(name, 1, at, "mail", at))
    journal.commit(events=[event()] * 1000)
    assert [name for name in ("old", "young", "last") if journal.run(name)] == ["young", "last"]
    journal.close()
