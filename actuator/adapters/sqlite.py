"""The journal in one SQLite file: WAL, synchronous FULL, one process that writes.

Writers that come together share one transaction and so one fsync: each queues its change, and whoever gets
the lock next writes all that wait. No thread of its own, no polling.

What stands about domains, hosts and resources is read whole again and again, and changes one by one. So the
process that writes keeps it parsed, as it reads back what it has just made durable.
"""

import contextlib
import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from actuator.faults import first_fault
from actuator.model import (
    Authority,
    Definition,
    DomainRecord,
    Event,
    HostRecord,
    Notification,
    ProgramRun,
    Received,
)
from actuator.ports import Conflict, JournalError, Past

SCHEMA_VERSION = 2
APPLICATION_ID = 0x766D686C  # "vmhl"
BACKUP_ID = 0x766D6862  # "vmhb"
LOG_BYTES = 8 << 20
"""SQLite's log is cut back to this when it begins again; a large transaction makes it longer for a while."""
MAX_BATCH = 500
MAX_INBOX = 100_000
SEARCH_SECONDS = 0.25
"""A search goes no further back after so long."""
SEARCH_EVENTS = 5000
"""So many events are searched before it looks at the clock."""
PRUNE_EVERY = 1000
RUNS_SECONDS = 31 * 86400
"""Longer than the oldest alert that is admitted: a program that was run for an older one is not run again."""

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE record (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE inbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    fingerprint TEXT NOT NULL,
    starts_at REAL NOT NULL,
    received_at REAL NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (fingerprint, starts_at)
) STRICT;
CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    domain TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX event_of_domain ON event (domain, seq);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

_MIGRATIONS = {
    1: """
BEGIN IMMEDIATE;
ALTER TABLE record RENAME TO record_1;
CREATE TABLE record (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
INSERT INTO record (kind, name, version, body) SELECT 'domain', domain, version, body FROM record_1;
DROP TABLE record_1;
PRAGMA user_version = 2;
COMMIT;
""",
}
"""From each older schema to the next."""

_ALL = "SELECT name, body FROM record WHERE kind = ? ORDER BY name"
_ONE = "SELECT body FROM record WHERE kind = ? AND name = ?"
_OLDEST = "SELECT seq, body FROM event WHERE seq > ?1 AND (?2 = '' OR domain = ?2) ORDER BY seq LIMIT ?3"
_NEWEST = "SELECT seq, body FROM event WHERE seq > ?1 AND (?2 = '' OR domain = ?2) ORDER BY seq DESC LIMIT ?3"
_ENDS = "SELECT (SELECT coalesce(min(seq), 0) FROM event), (SELECT coalesce(max(seq), -1) FROM event)"
"""Each for itself is read off the table's end; both in one would be looked for in all of it."""
_SAID = " || ' ' || ".join(
    ("domain", *(f"json_extract(body, '$.{it}')" for it in ("kind", "host", "plan", "sentence")))
)
"""What a search looks at."""

_OLD_RUNS = """
DELETE FROM record WHERE kind = ?1 AND json_extract(body, '$.at') <
    (SELECT max(json_extract(body, '$.at')) FROM record WHERE kind = ?1) - ?2
"""

_RECORD = TypeAdapter(DomainRecord)
_AUTHORITY = TypeAdapter(Authority)
_HOST = TypeAdapter(HostRecord)
_RUN = TypeAdapter(ProgramRun)
_DEFINITION = TypeAdapter(Definition)
_NOTIFICATION = TypeAdapter(Notification)
_EVENT = TypeAdapter(Event)

DOMAIN, RESOURCE, HOST, DEFINITION, RUN = "domain", "resource", "host", "definition", "run"
"""The kinds of records."""
_KEPT: Mapping[str, TypeAdapter[Any]] = {DOMAIN: _RECORD, RESOURCE: _AUTHORITY, HOST: _HOST}
"""Those that are kept parsed, and how to parse each."""

Change = Callable[[sqlite3.Connection], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Put:
    """A record to be written over the version before."""

    kind: str
    name: str
    version: int
    body: str


@dataclass(slots=True, eq=False)
class _Ticket:
    """One change that waits to be written, and what became of it."""

    change: Change
    puts: Sequence[_Put] = ()
    """The records that it writes."""
    written: bool = False
    error: JournalError | None = None


class SqliteJournal:
    """``ports.Journal`` on SQLite. Thread-safe. A second process that wants to write is turned away.

    Args:
        path: the database file; its folder exists.
        keep_events: so many of the timeline's events are kept, about.
        timeout_seconds: the longest that a write may take, waiting included.
        max_bytes: of events the oldest are dropped where the file would become larger, about.
        read_only: for a person who reads beside the running actuator.
        backup: the file may be a backup; to read it only.

    Raises:
        JournalError: it cannot be opened, is not ours, is a newer version's, or another process has it.
    """

    def __init__(
        self,
        path: Path,
        *,
        keep_events: int = 200_000,
        timeout_seconds: float = 2.0,
        max_bytes: int = 1024**3,
        read_only: bool = False,
        backup: bool = False,
    ) -> None:
        self._path = path
        self._ids = (APPLICATION_ID, BACKUP_ID) if backup else (APPLICATION_ID,)
        self._keep_events = keep_events
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds
        self._queue: list[_Ticket] = []
        self._queue_lock = threading.Lock()
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._searching = threading.Lock()
        self._keeping = threading.Lock()
        self._keeps = not read_only
        self._kept: dict[str, dict[str, Any]] = {}
        """By kind and name: what is durable. A kind is read when it is first asked for."""
        self._pruned_at = 0
        with contextlib.ExitStack() as opened, self._named("cannot be opened"):
            if not read_only:
                opened.callback(os.close, take_lock(path))
            self._connection = opened.enter_context(contextlib.closing(self._connect(read_only=read_only)))
            self._prepare(create=not read_only)
            if not read_only:
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
            (self._page_bytes,) = self._connection.execute("PRAGMA page_size").fetchone()
            self._reader = opened.enter_context(contextlib.closing(self._connect(read_only=True)))
            self._searcher = opened.enter_context(contextlib.closing(self._connect(read_only=True)))
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Close the file. What was written stays."""
        self._opened.close()

    # ---- the port ----------------------------------------------------------------------------------------

    def receive(self, notifications: Sequence[Notification], *, at: float) -> None:
        """See ``ports.Journal``. The inbox is bounded: beyond it nothing is accepted."""
        inbox = [
            (it.fingerprint, it.starts_at, at, _NOTIFICATION.dump_json(it).decode()) for it in notifications
        ]
        events = [_event_row(_received(it, at)) for it in notifications]

        def change(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT OR REPLACE INTO inbox (fingerprint, starts_at, received_at, body)"
                " VALUES (?, ?, ?, ?)",
                inbox,
            )
            (waiting,) = connection.execute("SELECT count(*) FROM inbox").fetchone()
            if waiting > MAX_INBOX:
                raise JournalError(f"{self._path}: {MAX_INBOX} notifications wait already")
            _append(connection, events)

        self._write(change)

    def inbox(self, *, after: int, limit: int) -> tuple[Received, ...]:
        """See ``ports.Journal``."""
        rows = self._read(
            "SELECT id, received_at, body FROM inbox WHERE id > ? ORDER BY id LIMIT ?", after, limit
        )
        return tuple(Received(row[0], row[1], self._understood(_NOTIFICATION, row[2])) for row in rows)

    def records(self) -> tuple[DomainRecord, ...]:
        """See ``ports.Journal``."""
        return tuple(self._all(DOMAIN).values())

    def record(self, domain: str) -> DomainRecord | None:
        """See ``ports.Journal``."""
        found: DomainRecord | None = self._one(DOMAIN, domain)
        return found

    def hosts(self) -> tuple[HostRecord, ...]:
        """See ``ports.Journal``."""
        return tuple(self._all(HOST).values())

    def run(self, fingerprint: str) -> ProgramRun | None:
        """See ``ports.Journal``."""
        rows = self._read(_ONE, RUN, fingerprint)
        return self._understood(_RUN, rows[0][0]) if rows else None

    def definition(self, domain: str) -> Definition | None:
        """See ``ports.Journal``."""
        rows = self._read(_ONE, DEFINITION, domain)
        return self._understood(_DEFINITION, rows[0][0]) if rows else None

    def authorities(self) -> Mapping[str, Authority]:
        """See ``ports.Journal``."""
        return self._all(RESOURCE)

    def authority(self, resource: str) -> Authority | None:
        """See ``ports.Journal``."""
        found: Authority | None = self._one(RESOURCE, resource)
        return found

    def commit(
        self,
        *,
        record: DomainRecord | None = None,
        authorities: Sequence[Authority] = (),
        hosts: Sequence[HostRecord] = (),
        definition: Definition | None = None,
        run: ProgramRun | None = None,
        events: Sequence[Event] = (),
        settled: Sequence[Received] = (),
    ) -> None:
        """See ``ports.Journal``."""
        puts = [
            _Put(RESOURCE, it.resource, it.version, _AUTHORITY.dump_json(it).decode()) for it in authorities
        ]
        puts += [_Put(HOST, it.host, it.version, _HOST.dump_json(it).decode()) for it in hosts]
        if run is not None:
            puts.append(_Put(RUN, run.fingerprint, run.version, _RUN.dump_json(run).decode()))
        if definition is not None:
            body = _DEFINITION.dump_json(definition).decode()
            puts.append(_Put(DEFINITION, definition.domain, definition.version, body))
        if record is not None:
            puts.append(_Put(DOMAIN, record.domain, record.version, _RECORD.dump_json(record).decode()))
        rows = [_event_row(event) for event in events]

        def change(connection: sqlite3.Connection) -> None:
            for put in puts:
                _swap(connection, put)
            connection.executemany("DELETE FROM inbox WHERE id = ?", [(it.id,) for it in settled])
            _append(connection, rows)

        self._write(change, puts)

    def timeline(
        self, *, domain: str = "", after: int = 0, limit: int = 1000, newest: bool = False
    ) -> tuple[tuple[int, Event], ...]:
        """See ``ports.Journal``."""
        rows = self._read(_NEWEST if newest else _OLDEST, after, domain, limit)
        events = tuple((row[0], self._understood(_EVENT, row[1])) for row in rows)
        return events[::-1] if newest else events

    def history(
        self,
        *,
        domain: str = "",
        plan: str = "",
        words: Sequence[str] = (),
        before: int | None = None,
        limit: int = 50,
    ) -> Past:
        """See ``ports.Journal``. On a connection of its own; it ends after ``SEARCH_SECONDS``, about."""
        statement, values = _search(domain, plan, words)
        found: list[tuple[int, str]] = []
        deadline = time.monotonic() + SEARCH_SECONDS
        with self._turn(self._searching), self._named("cannot be read"):
            first, last = self._searcher.execute(_ENDS).fetchone()
            high = last + 1 if before is None else min(before, last + 1)
            while high > first and len(found) < limit:
                low = high - SEARCH_EVENTS
                page = self._searcher.execute(statement, (*values, low, high, limit - len(found))).fetchall()
                found += page
                high = found[-1][0] if len(found) == limit else low
                if time.monotonic() >= deadline:
                    break
        events = tuple((sequence, self._understood(_EVENT, body)) for sequence, body in found)
        return Past(events, high if high > first else None)

    # ---- writing -----------------------------------------------------------------------------------------

    def _write(self, change: Change, puts: Sequence[_Put] = ()) -> None:
        ticket = _Ticket(change, puts)
        with self._queue_lock:
            self._queue.append(ticket)
        if not self._writing.acquire(timeout=self._timeout_seconds):
            with self._queue_lock:
                if ticket in self._queue:
                    self._queue.remove(ticket)
            raise JournalError(f"{self._path}: not written within {self._timeout_seconds:g} s")
        try:
            while not ticket.written:
                self._write_waiting()
        finally:
            self._writing.release()
        if ticket.error is not None:
            raise ticket.error

    def _write_waiting(self) -> None:
        with self._queue_lock:
            batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
        try:
            with self._named("cannot be written"), self._transaction():
                for ticket in batch:
                    self._apply(ticket)
                self._prune()
            self._keep(put for ticket in batch if ticket.error is None for put in ticket.puts)
        except JournalError as error:
            self._forget()
            for ticket in batch:
                ticket.error = error
        except BaseException as error:
            self._forget()
            # A surprise is raised to one of them; none of them has been written, and each is told so.
            for ticket in batch:
                ticket.error = JournalError(f"{self._path}: cannot be written: {error!r}")
            raise
        finally:
            for ticket in batch:
                ticket.written = True

    def _apply(self, ticket: _Ticket) -> None:
        """Make one change; one that is refused leaves the others of its batch alone."""
        self._connection.execute("SAVEPOINT change")
        try:
            ticket.change(self._connection)
        except JournalError as error:
            ticket.error = error
            self._connection.execute("ROLLBACK TO change")
        self._connection.execute("RELEASE change")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # A full disk has rolled back by itself already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _prune(self) -> None:
        ask = self._connection.execute
        (last,) = ask("SELECT coalesce(max(seq), 0) FROM event").fetchone()
        if last - self._pruned_at >= PRUNE_EVERY:
            ask("DELETE FROM event WHERE seq <= ?", (last - self._keep_events,))
            ask(_OLD_RUNS, (RUN, RUNS_SECONDS))
            self._pruned_at = last
        # Looked at with each write: a few events of somebody's choosing may be as large as thousands of ours.
        (pages,) = ask("PRAGMA page_count").fetchone()
        if pages * self._page_bytes <= self._max_bytes:
            return
        (free,) = ask("PRAGMA freelist_count").fetchone()
        if (pages - free) * self._page_bytes > self._max_bytes:
            # A quarter, so that this is seldom. The file keeps its size, and its room is used again.
            ask("DELETE FROM event WHERE seq <= ? - (SELECT count(*) * 3 / 4 FROM event)", (last,))

    def _read(self, statement: str, *values: Any) -> list[Any]:
        with self._turn(self._reading), self._named("cannot be read"):
            return self._reader.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _turn(self, lock: threading.Lock) -> Iterator[None]:
        """A connection is used by one thread at a time."""
        if not lock.acquire(timeout=self._timeout_seconds):
            raise JournalError(f"{self._path}: not read within {self._timeout_seconds:g} s")
        try:
            yield
        finally:
            lock.release()

    # ---- what is kept parsed -----------------------------------------------------------------------------

    def _all(self, kind: str) -> dict[str, Any]:
        """Every record of the kind, by name; the caller's own."""
        with self._keeping:
            return dict(self._of(kind))

    def _one(self, kind: str, name: str) -> Any:
        with self._keeping:
            return self._of(kind).get(name)

    def _of(self, kind: str) -> dict[str, Any]:
        """What stands of a kind. What is written while it is read is taken after that, by its version."""
        if kind in self._kept:
            return self._kept[kind]
        found = {name: self._understood(_KEPT[kind], body) for name, body in self._read(_ALL, kind)}
        if self._keeps:
            self._kept[kind] = found
        return found

    def _keep(self, puts: Iterator[_Put]) -> None:
        """Take what is durable now, as a restart would read it."""
        with self._keeping:
            for put in puts:
                kept = self._kept.get(put.kind)
                if kept is None:
                    continue
                before = kept.get(put.name)
                if before is None or before.version < put.version:
                    kept[put.name] = _KEPT[put.kind].validate_json(put.body)

    def _forget(self) -> None:
        """After a failure nobody knows what is durable: it is read anew."""
        with self._keeping:
            self._kept.clear()

    # ---- the file ----------------------------------------------------------------------------------------

    def _connect(self, *, read_only: bool) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode={'rw' if read_only else 'rwc'}",
            uri=True,
            isolation_level=None,
            timeout=self._timeout_seconds / 2,
            check_same_thread=False,
        )
        # One that only reads opens the file when it is first asked, and who searches is seldom asked.
        connection.execute(f"PRAGMA {'query_only = ON' if read_only else 'synchronous = FULL'}")
        return connection

    def _prepare(self, *, create: bool) -> None:
        application, version, tables = (
            self._connection.execute(question).fetchone()[0]
            for question in (
                "PRAGMA application_id",
                "PRAGMA user_version",
                "SELECT count(*) FROM sqlite_schema",
            )
        )
        if create and (application, version, tables) == (0, 0, 0):
            self._connection.executescript(_SCHEMA)
        elif application == BACKUP_ID and BACKUP_ID not in self._ids:
            raise JournalError(
                f"{self._path}: is a backup, and old: 'vmheal-actuator journal restore' makes a journal of it"
            )
        elif application not in self._ids:
            raise JournalError(f"{self._path}: is not a journal of vmheal")
        elif version > SCHEMA_VERSION:
            raise JournalError(
                f"{self._path}: was written by a newer vmheal (schema {version}, this one knows"
                f" {SCHEMA_VERSION}): run that version"
            )
        elif version < SCHEMA_VERSION and not create:
            raise JournalError(
                f"{self._path}: was written by an older vmheal: start the actuator once with it"
            )
        else:
            for older in range(version, SCHEMA_VERSION):
                self._connection.executescript(_MIGRATIONS[older])

    @contextlib.contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """Say every failure of SQLite or of the file as the port does."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"{self._path}: {what}: {error}") from error

    def _understood(self, kind: TypeAdapter[T], body: str | bytes) -> T:
        """Read what a row says.

        Raises:
            JournalError: it is damaged, or of a version that this one does not know.
        """
        try:
            return kind.validate_json(body)
        except ValidationError as error:
            raise JournalError(
                f"{self._path}: a record cannot be understood: {first_fault(error)}"
            ) from error


def take_lock(path: Path) -> int:
    """Take the lock that lasts as long as the descriptor: two actuators on one journal would both act."""
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + 1.0  # a predecessor that is just ending
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise JournalError(f"{path}: another vmheal-actuator is using it") from None
            threading.Event().wait(0.05)
        else:
            return descriptor


def _swap(connection: sqlite3.Connection, put: _Put) -> None:
    if put.version == 1:
        done = connection.execute(
            "INSERT OR IGNORE INTO record (kind, name, version, body) VALUES (?, ?, ?, ?)",
            (put.kind, put.name, put.version, put.body),
        )
    else:
        done = connection.execute(
            "UPDATE record SET version = ?, body = ? WHERE kind = ? AND name = ? AND version = ?",
            (put.version, put.body, put.kind, put.name, put.version - 1),
        )
    if done.rowcount != 1:
        raise Conflict(f"{put.name}: its record is no longer at version {put.version - 1}")


def _event_row(event: Event) -> tuple[str, str]:
    return event.domain, _EVENT.dump_json(event).decode()


def _search(domain: str, plan: str, words: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The statement and its first values; the lowest sequence, the one above, and the limit follow."""
    conditions, values = [], []
    if domain:
        conditions.append("domain = ?")
        values.append(domain)
    if plan:
        conditions.append("json_extract(body, '$.plan') = ?")
        values.append(plan)
    for word in words:
        # The first is cheap, and leaves few bodies to be parsed for the second.
        conditions += ["body LIKE ? ESCAPE '!'", f"{_SAID} LIKE ? ESCAPE '!'"]
        values += [_pattern(json.dumps(word, ensure_ascii=False)[1:-1]), _pattern(word)]
    conditions += ["seq >= ?", "seq < ?"]
    return (
        f"SELECT seq, body FROM event WHERE {' AND '.join(conditions)} ORDER BY seq DESC LIMIT ?",  # noqa: S608
        tuple(values),
    )


def _pattern(text: str) -> str:
    """What LIKE takes for exactly this text, anywhere."""
    for special in "!%_":
        text = text.replace(special, f"!{special}")
    return f"%{text}%"


def _append(connection: sqlite3.Connection, rows: Sequence[tuple[str, str]]) -> None:
    connection.executemany("INSERT INTO event (domain, body) VALUES (?, ?)", rows)


def _received(notification: Notification, at: float) -> Event:
    state = "firing" if notification.firing else "resolved"
    return Event(
        at=at,
        kind="received",
        sentence=f"{notification.labels.get('alertname', '?')} {state}, from {notification.source}",
        domain=notification.domain,
        host=notification.labels.get("host", ""),
        detail={"labels": dict(notification.labels), "starts_at": notification.starts_at},
    )
