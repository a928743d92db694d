"""Backups of the journal, and what becomes of one: durable, whole, and never believed as it is."""

import contextlib
import shutil
import sqlite3
import threading

import pytest
from click.testing import CliRunner

from actuator.__main__ import main
from actuator.adapters import journal_backup as adapter
from actuator.adapters.journal_backup import back_up, restore
from actuator.adapters.sqlite import SqliteJournal
from actuator.core.restored import REASON
from actuator.model import Authority, Definition, DomainRecord, Event, HostRecord, Notification, Order
from actuator.ports import JournalError

AUTHORITY = Authority("voms01", ("v01", "v02"), 1, "v01", frozenset({"v01"}), granted=True, newest=True)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "backup"


def fill(path):
    with contextlib.closing(SqliteJournal(path)) as journal:
        journal.receive([Notification("f", 1.0, firing=True, labels={"domain": "voms01"})], at=1.0)
        journal.commit(
            record=DomainRecord("voms01", 1, "v02"),
            authorities=[AUTHORITY],
            hosts=[HostRecord("v01", 1, failed_at=5.0, down=Order("someone", 6.0))],
            definition=Definition("voms01", 1, "<domain/>", "v02", 3.0),
            events=[Event(1.0, "nothing", "before")],
        )


def everything(path):
    """Every byte of it, and of what belongs to it."""
    return {it.name: it.read_bytes() for it in path.parent.glob(f"{path.name}*") if it.name != "journal.lock"}


def test_a_backup_has_all_and_is_for_its_owner_alone(path, file):
    fill(path)
    back_up(path, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(it.name for it in file.parent.iterdir() if it.name.startswith("backup")) == ["backup"]
    with contextlib.closing(SqliteJournal(file, read_only=True, backup=True)) as journal:
        assert journal.authorities() == {"voms01": AUTHORITY}
        assert [it.sentence for _, it in journal.timeline()][-1] == "before"


def test_a_backup_beside_a_writer_is_of_one_moment(path, file):
    ended = threading.Event()
    with contextlib.closing(SqliteJournal(path)) as journal:

        def write() -> None:
            version = 0
            while not ended.is_set():
                version += 1
                changed = [Authority(name, version=version) for name in ("one", "two")]
                journal.commit(authorities=changed, events=[Event(version, "nothing", str(version))])

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(10):
                back_up(path, file.with_name(f"backup{number}"))
        finally:
            ended.set()
            writer.join()
    seen = set()
    for number in range(10):
        copy = SqliteJournal(file.with_name(f"backup{number}"), read_only=True, backup=True)
        with contextlib.closing(copy):
            versions = {it.version for it in copy.authorities().values()}
            assert len(versions) <= 1
            assert {int(it.sentence) for _, it in copy.timeline(newest=True, limit=1)} == versions
            seen |= versions
    assert len(seen) > 1, "it was written meanwhile"


def test_nothing_is_overwritten_by_a_backup(path, file):
    fill(path)
    file.write_text("mine")
    with pytest.raises(JournalError, match="there already"):
        back_up(path, file)
    assert file.read_text() == "mine"


def test_no_actuator_runs_on_a_backup(path, file):
    fill(path)
    back_up(path, file)
    shutil.copy(file, path)
    before = path.read_bytes()
    with pytest.raises(JournalError, match="journal restore"):
        SqliteJournal(path)
    assert path.read_bytes() == before


def test_what_is_restored_lets_nobody_act(path, file):
    fill(path)
    back_up(path, file)
    assert restore(file, path, by="me", at=9.0).name.startswith("journal.replaced-")
    with contextlib.closing(SqliteJournal(path)) as journal:
        assert journal.authority("voms01") == Authority("voms01", version=2)
        assert journal.record("voms01") == DomainRecord("voms01", 2, "v02")
        assert {it.host: it for it in journal.hosts()} == {
            "": HostRecord("", 1, paused=Order("me", 9.0, REASON)),
            "v01": HostRecord("v01", 2),
        }
        assert journal.definition("voms01") is None
        assert journal.inbox(after=0, limit=9) == ()
        assert [it.kind for _, it in journal.timeline()] == ["received", "nothing", "restored"]
    assert not list(path.parent.glob("journal.restoring*"))


def test_what_is_replaced_is_kept_and_leaves_nothing_in_what_replaces_it(path, file, tmp_path):
    """Also when its actuator was killed, and SQLite's own journal is still beside it."""
    fill(path)
    back_up(path, file)
    killed = tmp_path / "killed"
    killed.mkdir()
    with contextlib.closing(SqliteJournal(path)) as journal:
        journal.commit(record=DomainRecord("voms01", 2, "v01"))
        for it in everything(path):
            shutil.copy(path.with_name(it), killed)
    moved = killed / "journal"
    assert (killed / "journal-wal").stat().st_size
    aside = restore(file, moved, by="me", at=9.0)
    with contextlib.closing(SqliteJournal(moved)) as journal:
        assert journal.record("voms01").host == "v02"
    with contextlib.closing(SqliteJournal(aside)) as journal:
        assert journal.record("voms01") == DomainRecord("voms01", 2, "v01")


def test_a_journal_can_be_made_where_there_is_none(path, file, tmp_path):
    fill(path)
    back_up(path, file)
    assert restore(file, tmp_path / "other", by="me", at=9.0) is None
    with contextlib.closing(SqliteJournal(tmp_path / "other")) as journal:
        assert journal.record("voms01") is not None


def test_nothing_is_restored_under_a_running_actuator(path, file):
    fill(path)
    back_up(path, file)
    with contextlib.closing(SqliteJournal(path)):
        before = everything(path)
        with pytest.raises(JournalError, match="another vmheal-actuator"):
            restore(file, path, by="me", at=9.0)
        assert everything(path) == before


def damaged(file):
    content = bytearray(file.read_bytes())
    content[5000:-100] = b"\xa5" * (len(content) - 5100)
    file.write_bytes(content)


def newer(file):
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")


def foreign(file):
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE record (kind)")


def cut(file):
    file.write_bytes(file.read_bytes()[:6000])


def not_understood(file):
    """As a disk spoils it that answers all the same."""
    content = file.read_bytes()
    assert b'"granted":true' in content
    file.write_bytes(content.replace(b'"granted":true', b'"granted":tr\x00e'))


@pytest.mark.parametrize("spoil", [damaged, newer, foreign, cut, not_understood])
def test_a_backup_that_is_none_changes_nothing(path, file, spoil):
    fill(path)
    back_up(path, file)
    spoil(file)
    before = everything(path)
    with pytest.raises(JournalError):
        restore(file, path, by="me", at=9.0)
    assert everything(path) == before


def test_a_full_disk_changes_nothing(path, file, monkeypatch):
    fill(path)
    back_up(path, file)
    before = everything(path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adapter, "_make_safe", full)
    with pytest.raises(JournalError, match="No space"):
        restore(file, path, by="me", at=9.0)
    assert everything(path) == before


def test_an_older_backup_is_brought_up_to_date(path, file):
    fill(path)
    back_up(path, file)
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.executescript("""
            CREATE TABLE old (domain TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
            INSERT INTO old SELECT name, version, body FROM record WHERE kind = 'domain';
            DROP TABLE record;
            ALTER TABLE old RENAME TO record;
            PRAGMA user_version = 1;
        """)
    restore(file, path, by="me", at=9.0)
    with contextlib.closing(SqliteJournal(path)) as journal:
        assert journal.record("voms01") == DomainRecord("voms01", 2, "v02")


def test_the_commands(path, file):
    fill(path)
    run = CliRunner().invoke
    done = run(main, ["journal", "--path", str(path), "backup", str(file)])
    assert (done.exit_code, done.output) == (0, f"{file}: written\n")
    assert run(main, ["journal", "backup", "--path", str(path), str(file)]).exit_code == 1
    assert "before" in run(main, ["journal", "--path", str(file)]).output, "a backup can be read"
    done = run(main, ["journal", "restore", "--path", str(path), "--by", "me", str(file)])
    assert done.exit_code == 0
    assert "resume all" in done.output
    assert "restored" in run(main, ["journal", "--path", str(path)]).output
