"""The SQLite file that the journal and the catalog share: durability, locking, its errors."""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mygo.corpus.matching import create_index
from mygo.errors import BadRequest, ConfigError, OutOfSpace, Unavailable

_BUSY_TIMEOUT_S = 30.0

_JOURNAL_AND_CATALOG = """
CREATE TABLE journal (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('upsert', 'delete')),
    store_id TEXT NOT NULL,
    doc_id TEXT NOT NULL,
    tenant TEXT NOT NULL,
    domain TEXT NOT NULL,
    filename TEXT NOT NULL,
    content_hash TEXT NOT NULL,
    ended_position INTEGER REFERENCES journal (position),  -- of a delete: the upsert that it ends
    created_at REAL NOT NULL
);
CREATE TABLE passages (
    position INTEGER NOT NULL REFERENCES journal (position),
    passage_index INTEGER NOT NULL,
    content_hash TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE UNIQUE INDEX passages_by_position ON passages (position, passage_index);
CREATE INDEX passages_by_hash ON passages (content_hash);
CREATE TABLE live (  -- the journal, folded: which upsert holds for each document
    store_id TEXT NOT NULL,
    doc_id TEXT NOT NULL,
    position INTEGER NOT NULL UNIQUE REFERENCES journal (position),
    PRIMARY KEY (store_id, doc_id)
) WITHOUT ROWID;

CREATE TABLE stores (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    domain TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created_at REAL NOT NULL
);
CREATE INDEX stores_by_tenant ON stores (tenant, created_at, sequence);
CREATE TABLE files (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    filename TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    purpose TEXT NOT NULL,
    created_at REAL NOT NULL
);
CREATE INDEX files_by_tenant ON files (tenant, created_at, sequence);
CREATE INDEX files_by_name ON files (tenant, filename);
CREATE INDEX files_by_hash ON files (sha256);
CREATE TABLE store_files (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    store_id TEXT NOT NULL REFERENCES stores (id),
    file_id TEXT NOT NULL REFERENCES files (id),
    status TEXT NOT NULL,
    error_code TEXT,
    error_message TEXT,
    chunks INTEGER NOT NULL,
    attributes TEXT NOT NULL,
    created_at REAL NOT NULL,
    UNIQUE (store_id, file_id)
);
CREATE INDEX store_files_by_store ON store_files (store_id, created_at, sequence);
CREATE INDEX store_files_by_file ON store_files (file_id);
CREATE INDEX store_files_pending ON store_files (sequence) WHERE status = 'in_progress';
CREATE VIEW attached_files AS
    SELECT store_files.*, files.bytes, coalesce(live.position, 0) AS position
    FROM store_files JOIN files ON files.id = file_id
    LEFT JOIN live ON live.store_id = store_files.store_id AND live.doc_id = file_id;
"""
_BATCHES = """
CREATE TABLE batches (
    id TEXT PRIMARY KEY,
    store_id TEXT NOT NULL REFERENCES stores (id) ON DELETE CASCADE,
    cancelled INTEGER NOT NULL,
    created_at REAL NOT NULL
);
CREATE INDEX batches_by_store ON batches (store_id);
CREATE TABLE batch_files (
    batch_id TEXT NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
    file_id TEXT NOT NULL,  -- stays when the file goes
    PRIMARY KEY (batch_id, file_id)
) WITHOUT ROWID;
"""
_REUSE = "ALTER TABLE stores ADD COLUMN reuse TEXT CHECK (reuse IN ('exact', 'blend'))"
_SCHEMA: tuple[str | Callable[[sqlite3.Connection], None], ...] = (
    _JOURNAL_AND_CATALOG,
    _BATCHES,
    _REUSE,
    create_index,
)
"""Each step brings a file from the version that is its index to the next one; never change a step."""
SCHEMA_VERSION = len(_SCHEMA)


class _Thread(threading.local):
    connection: sqlite3.Connection | None = None
    """Of the transaction or the reading that this thread is in; the innermost one."""


class Database:
    """One connection that writes, behind a lock, and as many that read as threads read at once.

    Several threads may use it, and several processes the file. A reading waits for no writer, neither
    of this process nor of another: in WAL mode it sees what was committed when it began.
    WAL with ``synchronous=FULL``: what a transaction committed survives a killed process and a lost
    power supply. SQLite's errors leave here as MygoErrors: OutOfSpace when the disk is full (the
    transaction left no trace), Unavailable when another process holds the file for too long or the
    disk fails, ConfigError when the file is damaged, unwritable or not ours, BadRequest when a text
    cannot be stored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread = _Thread()
        self._writing = threading.RLock()
        self._idle_readers: list[sqlite3.Connection] = []
        self._closed = False
        with self._explained():
            self._writer = _connected(str(path))
        try:
            with self._explained():
                self._writer.execute("PRAGMA journal_mode = WAL")
                self._writer.execute("PRAGMA synchronous = FULL")
                self._writer.execute("PRAGMA foreign_keys = ON")
            self._ensure_schema()
        except BaseException:
            self._writer.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing. Inside another transaction of this thread it becomes part of that one."""
        with self._writing, self._explained():
            if self._writer.in_transaction:
                yield self._writer
                return
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                with self._in_use(self._writer):
                    yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # a full disk has rolled back by itself
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """For queries, which all see the same state; in a transaction of this thread, what it has written."""
        with self._explained():
            if self._thread.connection is not None:
                yield self._thread.connection
                return
            reader = self._take_reader()
            try:
                reader.execute("BEGIN")
                with self._in_use(reader):
                    yield reader
            finally:
                self._give_back(reader)

    def close(self) -> None:
        """Waits for a transaction to end; what is being read is still read to its end."""
        with self._writing:
            self._closed = True
            while self._idle_readers:
                self._idle_readers.pop().close()
            self._writer.close()  # the last one, as it alone can fold the WAL into the file

    @contextmanager
    def _in_use(self, connection: sqlite3.Connection) -> Iterator[None]:
        around, self._thread.connection = self._thread.connection, connection
        try:
            yield
        finally:
            self._thread.connection = around

    def _take_reader(self) -> sqlite3.Connection:
        assert not self._closed, f"{self.path} was closed"
        try:
            return self._idle_readers.pop()
        except IndexError:
            return _connected(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)

    def _give_back(self, reader: sqlite3.Connection) -> None:
        if reader.in_transaction:
            reader.execute("ROLLBACK")
        if self._closed:
            reader.close()
        else:
            self._idle_readers.append(reader)

    def _ensure_schema(self) -> None:
        with self.transaction() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if version > SCHEMA_VERSION or (version == 0 and tables > 0):
                raise ConfigError(
                    f"{self.path}: has corpus schema version {version}, this MyGO reads versions up to"
                    f" {SCHEMA_VERSION}; use the MyGO that wrote it, or another cluster.data_dir"
                )
            for step in _SCHEMA[version:]:
                if callable(step):
                    step(connection)
                    continue
                for statement in step.split(";\n"):
                    connection.execute(statement)
            if version < SCHEMA_VERSION:  # else nothing is written: it opens on a full disk, too
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            raise BadRequest(f"{error.object!r} is not valid Unicode text (a lone surrogate)") from error
        except sqlite3.DatabaseError as error:
            match getattr(error, "sqlite_errorcode", 0) & 0xFF:  # the low byte: the primary code
                case sqlite3.SQLITE_FULL:
                    raise out_of_space(self.path) from error
                case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                    raise Unavailable(
                        f"{self.path}: another process has been writing for {_BUSY_TIMEOUT_S:.0f} s; retry,"
                        " and make sure that only one cluster uses this cluster.data_dir"
                    ) from error
                case sqlite3.SQLITE_IOERR:
                    raise Unavailable(
                        f"{self.path}: the disk failed ({error}); check it and retry"
                    ) from error
                case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
                    raise ConfigError(
                        f"{self.path}: is not a MyGO corpus or is damaged ({error});"
                        " restore a backup or choose another cluster.data_dir"
                    ) from error
                case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
                    raise ConfigError(
                        f"{self.path}: cannot be written ({error});"
                        " mend its permissions or choose another cluster.data_dir"
                    ) from error
            raise


def _connected(database: str, *, uri: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(
        database, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, uri=uri
    )
    connection.row_factory = sqlite3.Row
    return connection


def is_out_of_space(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def out_of_space(path: Path) -> OutOfSpace:
    return OutOfSpace(
        f"{path}: the disk is full, nothing was written; free some space and retry", retry_after_s=30.0
    )
