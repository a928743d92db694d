"""Copies of the journal's file: a backup beside a running actuator, and a journal made from a backup.

A backup is marked, and no actuator runs on it: put back as it is, it would be believed. ``restore`` makes a
journal of it that is safe to run on; what that means is in ``actuator.core.restored``.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from actuator.adapters.sqlite import (
    APPLICATION_ID,
    BACKUP_ID,
    DEFINITION,
    MAX_INBOX,
    SqliteJournal,
    take_lock,
)
from actuator.core.arbiter import forgotten
from actuator.core.restored import REASON, restored_domain, restored_host
from actuator.model import Event, HostRecord
from actuator.ports import JournalError

BUSY_SECONDS = 5.0
_BESIDE = ("", "-wal", "-shm")
"""What a database consists of."""


def back_up(path: Path, file: Path) -> None:
    """Write a backup of the journal as it is at one moment; the actuator may run meanwhile.

    Raises:
        JournalError: it cannot be read or written, or the file is there already.
    """
    SqliteJournal(path, read_only=True).close()
    with _named(file):
        if file.exists():
            raise JournalError(f"{file}: is there already")
        made = file.with_name(f"{file.name}.part")
        try:
            _copy(path, made, BACKUP_ID)
            os.link(made, file)  # fails where another was quicker
        finally:
            made.unlink(missing_ok=True)
        _sync(file.parent)


def restore(file: Path, path: Path, *, by: str, at: float) -> Path | None:
    """Make a journal of a backup, while no actuator runs.

    Args:
        file: the backup; or another journal, such as one that was replaced.
        path: the journal.
        by: who does it; a name for the journal.
        at: wall clock.

    Returns:
        Where the journal that it replaces is kept; None when there was none.

    Raises:
        JournalError: an actuator runs, the backup is none or a newer version's; nothing has been changed.
    """
    with _named(path), contextlib.ExitStack() as held:
        held.callback(os.close, take_lock(path))
        made = path.with_name(f"{path.name}.restoring")
        _remove(made)
        held.callback(_remove, made)
        _copy(file, made, APPLICATION_ID)
        with contextlib.closing(SqliteJournal(made)) as journal:
            _make_safe(journal, by, at)
        with contextlib.closing(_connect(made)) as connection:
            connection.execute("DELETE FROM record WHERE kind = ?", (DEFINITION,))
        owner = path.parent.stat()
        if os.geteuid() == 0:
            for it in (made, path.with_name(f"{path.name}.lock")):
                os.chown(it, owner.st_uid, owner.st_gid)
        aside = _put_aside(path, at)
        made.rename(path)
        _sync(path.parent)
        return aside


def _make_safe(journal: SqliteJournal, by: str, at: float) -> None:
    settled = journal.inbox(after=0, limit=MAX_INBOX)
    everywhere = {"": HostRecord("")} | {it.host: it for it in journal.hosts()}
    for record in journal.records():
        journal.commit(record=restored_domain(record))
    journal.commit(
        authorities=[forgotten(it) for it in journal.authorities().values()],
        hosts=[restored_host(it, by, at) for it in everywhere.values()],
        events=[Event(at, "restored", f"by {by}: {REASON}")],
        settled=settled,
    )


def _copy(source: Path, target: Path, application_id: int) -> None:
    """Copy a database as it is at one moment, in one file that is whole and durable."""
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    with (
        contextlib.closing(_connect(source)) as there,
        contextlib.closing(_connect(target)) as here,
    ):
        there.execute("PRAGMA query_only = ON")
        if there.execute("PRAGMA application_id").fetchone()[0] not in {APPLICATION_ID, BACKUP_ID}:
            raise JournalError(f"{source}: is not a journal of vmheal, nor a backup of one")
        there.backup(here)
        here.execute("PRAGMA journal_mode = DELETE")
        here.execute(f"PRAGMA application_id = {application_id}")
        (said,) = here.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            raise JournalError(f"{source}: is damaged: {said}")
    _sync(target)


def _connect(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS)


def _put_aside(path: Path, at: float) -> Path | None:
    """Keep what is replaced, the database first: without it the rest of it is not believed."""
    aside = path.with_name(f"{path.name}.replaced-{datetime.fromtimestamp(at, UTC):%Y%m%dT%H%M%S.%fZ}")
    found = None
    for end in _BESIDE:
        it = path.with_name(path.name + end)
        if it.exists():
            it.rename(aside.with_name(aside.name + end))
            found = aside
    return found


def _remove(path: Path) -> None:
    for end in (*_BESIDE, ".lock"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """A file, or a folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:  # the last: damage that SQLite quotes
        raise JournalError(f"{path}: {error}") from error
