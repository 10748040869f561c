"""The SQLite file: opening, its format, and one transaction per call."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import aiosqlite

T = TypeVar("T")
P = ParamSpec("P")

FORMAT = 1
APPLICATION_ID = 0x466C7768  # "Flwh", identifies a file as ours before it is written to
BUSY_TIMEOUT_S = 5.0
OPEN_TIMEOUT_S = 1.0

SCHEMA = """
CREATE TABLE definitions (
    seq INTEGER PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL, digest BLOB NOT NULL,
    document TEXT NOT NULL, activity_count INTEGER NOT NULL, created_s REAL NOT NULL,
    UNIQUE (name, version), UNIQUE (name, digest));
CREATE TABLE workflows (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, definition_seq INTEGER NOT NULL,
    definition_name TEXT NOT NULL, definition_version TEXT NOT NULL, status TEXT NOT NULL,
    input TEXT NOT NULL, unique_key TEXT, error_message TEXT,
    open_count INTEGER NOT NULL, failed_count INTEGER NOT NULL DEFAULT 0,
    created_s REAL NOT NULL, updated_s REAL NOT NULL, completed_s REAL);
-- a failed workflow frees its key (protocol.md §12)
CREATE UNIQUE INDEX workflows_unique_key ON workflows (unique_key)
    WHERE unique_key IS NOT NULL AND status <> 'failed';
CREATE INDEX workflows_created ON workflows (created_s);
CREATE INDEX workflows_running ON workflows (created_s) WHERE status = 'running';
CREATE TABLE activities (
    seq INTEGER PRIMARY KEY, workflow_seq INTEGER NOT NULL, definition_seq INTEGER NOT NULL,
    key TEXT NOT NULL, id TEXT UNIQUE, worker TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'not_scheduled',
    open_dependencies INTEGER NOT NULL DEFAULT 0, claim_document TEXT,
    scheduled_for_s REAL, lease_s REAL NOT NULL, claimed_by TEXT, claimed_at_s REAL, lease_ends_s REAL,
    retry_count INTEGER NOT NULL DEFAULT 0, max_retries INTEGER NOT NULL,
    outputs TEXT, error TEXT, cost TEXT NOT NULL DEFAULT '0', usage TEXT,
    signal_event TEXT, signal_due_s REAL, started_s REAL, completed_s REAL,
    UNIQUE (workflow_seq, key));
CREATE INDEX activities_fresh ON activities (worker, scheduled_for_s, seq) WHERE status = 'pending';
CREATE INDEX activities_leased ON activities (worker, lease_ends_s) WHERE status = 'running';
CREATE INDEX activities_waiting ON activities (signal_due_s) WHERE status = 'waiting';
CREATE TABLE files (
    seq INTEGER PRIMARY KEY, workflow_id TEXT NOT NULL, activity_key TEXT NOT NULL, filename TEXT NOT NULL,
    complete INTEGER NOT NULL DEFAULT 0, size INTEGER NOT NULL DEFAULT 0, content_type TEXT,
    created_s REAL NOT NULL);
CREATE UNIQUE INDEX files_named ON files (workflow_id, activity_key, filename) WHERE complete = 1;
CREATE TABLE file_chunks (file_seq INTEGER NOT NULL, n INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (file_seq, n)) WITHOUT ROWID;
"""


class DatabaseUnusable(Exception):
    """The file cannot serve as the engine's store; the text is one line for the terminal."""


class Database(aiosqlite.Connection):
    """A connection with its own thread, the engine's only writer, so that claims are atomic."""

    async def transact(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Runs `work(connection, …)` on the database thread in one BEGIN IMMEDIATE transaction.

        A call changes threads once, whatever the number of statements. An exception rolls back and is raised to the
        caller.
        """
        result: T = await self._execute(  # type: ignore[no-untyped-call]  # aiosqlite has no types here
            _in_transaction, self._conn, work, *args, **kwargs
        )
        return result


def _in_transaction(
    connection: sqlite3.Connection,
    work: Callable[Concatenate[sqlite3.Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection, *args, **kwargs)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return result


async def open_database(path: str) -> Database:
    """Opens or creates the database at `path` (or `:memory:`).

    Raises:
        DatabaseUnusable: the file is corrupt, locked, foreign, of a newer format, or cannot be created
            (faults.md S5).

    """
    unusable: list[DatabaseUnusable] = []

    def connect() -> sqlite3.Connection:
        try:
            return _connect(path)
        except DatabaseUnusable as error:
            # an exception here would leak aiosqlite's thread, so it gets a connection to close
            unusable.append(error)
            return sqlite3.connect(":memory:")

    database = Database(connect, 64)
    await database
    if unusable:
        await database.close()
        raise unusable[0]
    return database


def _connect(path: str) -> sqlite3.Connection:
    if sqlite3.sqlite_version_info < (3, 35):
        raise DatabaseUnusable(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or newer is needed")
    try:
        connection = sqlite3.connect(
            path, isolation_level=None, timeout=OPEN_TIMEOUT_S, cached_statements=256
        )
    except sqlite3.Error as error:
        raise DatabaseUnusable(f"cannot open the database {path}: {error}") from error
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise DatabaseUnusable(f"cannot use the database {path}: {_cause(error)}") from error
    except DatabaseUnusable:
        connection.close()
        raise
    return connection


def _cause(error: sqlite3.Error) -> str:
    text = str(error)
    if "locked" in text:
        return "it is locked by another program"
    if "malformed" in text or "not a database" in text:
        return f"it is damaged or no SQLite file ({text})"
    return text


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    application, format_, tables = (
        connection.execute("PRAGMA application_id").fetchone()[0],
        connection.execute("PRAGMA user_version").fetchone()[0],
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0],
    )
    if tables and application != APPLICATION_ID:
        raise DatabaseUnusable(f"cannot use the database {path}: it belongs to another program")
    if format_ > FORMAT:
        raise DatabaseUnusable(
            f"cannot use the database {path}: a newer flowherd wrote it"
            f" (format {format_}, this one reads {FORMAT})"
        )
    if path != ":memory:" and Path(path).exists():
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise DatabaseUnusable(f"cannot use the database {path}: it is damaged ({verdict})")
    connection.execute("PRAGMA journal_mode = WAL").fetchone()
    # NORMAL survives kill -9; only a power cut may lose the last commits, and this is no store for production
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
    if not tables:
        _in_transaction(connection, _create)


def _create(connection: sqlite3.Connection) -> None:
    # checked again in the transaction: another process may have created the file
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    for statement in SCHEMA.split(";\n"):
        connection.execute(statement)
