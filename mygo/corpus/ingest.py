"""The room's front: one data directory, opened, with the work of turning files into journal entries."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from mygo.corpus.batches import Batches
from mygo.corpus.blobs import Blobs
from mygo.corpus.catalog import Catalog, no_limit, random_id
from mygo.corpus.database import Database
from mygo.corpus.journal import Journal
from mygo.corpus.records import (
    Failure,
    File,
    Store,
    StoreFile,
    StoreFileStatus,
    file_of,
    store_of,
)
from mygo.errors import ConfigError, MygoError, Unavailable, UnparsableDocument
from mygo.types import ContentHash, DocId, StoreId

_log = logging.getLogger(__name__)


class Library:
    """Owns a data directory; give it to one process at a time.

    ``catalog`` and ``batches`` take uploads and attachments, ``journal`` is for followers, all from as many
    threads as you like; ``process_next``, called by one of them, moves what was attached into the journal.
    Opening cleans up after a crash; files that were in progress still are, so calling ``process_next``
    until it returns None completes each exactly once.
    """

    def __init__(
        self,
        data_dir: Path,
        file_chunks: Callable[[str, bytes], list[str]],
        *,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = random_id,
        searchable: Callable[[], int] = no_limit,
    ) -> None:
        """Raises ConfigError if the directory or its database cannot be used.

        ``file_chunks``: (file name, bytes) -> chunks. Unavailable from it leaves the file pending, any
        other error fails it. ``searchable``: see ``Catalog``.
        """
        self._file_chunks = file_chunks
        self._clock = clock
        try:
            blobs = Blobs(data_dir / "blobs")
        except OSError as error:
            raise ConfigError(
                f"cluster.data_dir: {str(data_dir)!r} cannot be used ({error.strerror});"
                " choose another directory"
            ) from error
        self._database = Database(data_dir / "corpus.sqlite3")
        self._blobs = blobs
        self.journal = Journal(self._database)
        self.catalog = Catalog(
            self._database, self.journal, blobs, clock=clock, new_id=new_id, searchable=searchable
        )
        self.catalog.collect_garbage()
        self.batches = Batches(self._database, self.catalog, clock=clock, new_id=new_id)

    def pending(self, limit: int | None = None) -> list[tuple[StoreId, DocId]]:
        """The files in progress, of all tenants, in the order in which they were attached."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT store_id, file_id FROM store_files WHERE status = 'in_progress'"
                " ORDER BY sequence LIMIT ?",
                (-1 if limit is None else limit,),
            ).fetchall()
        return [(row["store_id"], row["file_id"]) for row in rows]

    def process_next(self) -> StoreFile | None:
        """Process the oldest pending file; None if there is none. Raises what ``process`` raises."""
        while oldest := self.pending(limit=1):
            if done := self.process(*oldest[0]):
                return done
        return None

    def process(self, store_id: StoreId, file_id: DocId) -> StoreFile | None:
        """Parse and chunk a pending file and append it to the journal; returns how that ended.

        The journal entry and the status change are one transaction. A file that cannot be parsed
        ends as failed, with the reason. None if it is not pending, or was detached or cancelled
        meanwhile: nothing changes then. Raises OutOfSpace or Unavailable, which leave it pending.
        """
        if (job := self._job(store_id, file_id)) is None:
            return None
        outcome = self._chunks(job[1])
        with self._database.transaction() as connection:
            if (job := self._job(store_id, file_id)) is None:
                return None
            store, file = job
            if isinstance(outcome, Failure):
                status, failure, chunks = StoreFileStatus.FAILED, outcome, 0
            else:
                self.journal.upsert(
                    store_id=store_id,
                    doc_id=file_id,
                    tenant=file.tenant,
                    domain=store.domain,
                    filename=file.filename,
                    content_hash=ContentHash(file.sha256),
                    chunks=outcome,
                    now=self._clock(),
                )
                status, failure, chunks = StoreFileStatus.COMPLETED, None, len(outcome)
            connection.execute(
                "UPDATE store_files SET status = ?, error_code = ?, error_message = ?, chunks = ?"
                " WHERE store_id = ? AND file_id = ?",
                (
                    status,
                    failure and failure.code,
                    failure and failure.message,
                    chunks,
                    store_id,
                    file_id,
                ),
            )
            return self.catalog.get_store_file(store.tenant, store_id, file_id)

    def close(self) -> None:
        self._database.close()

    def _job(self, store_id: StoreId, file_id: DocId) -> tuple[Store, File] | None:
        """The store and the file, if the file is in progress there."""
        with self._database.reading() as connection:
            pending = connection.execute(
                "SELECT 1 FROM store_files WHERE store_id = ? AND file_id = ? AND status = 'in_progress'",
                (store_id, file_id),
            ).fetchone()
            if pending is None:
                return None
            store = connection.execute("SELECT * FROM stores WHERE id = ?", (store_id,)).fetchone()
            file = connection.execute("SELECT * FROM files WHERE id = ?", (file_id,)).fetchone()
        return store_of(store), file_of(file)

    def _chunks(self, file: File) -> list[str] | Failure:
        try:
            return self._file_chunks(file.filename, self._blobs.read(file.sha256))
        except Unavailable:
            raise
        except UnparsableDocument as error:
            return Failure(error.code or "unsupported_file", str(error))
        except MygoError as error:
            return Failure("server_error", str(error))
        except Exception as error:  # a bug, but one document must not hold up all those behind it
            _log.exception("%s (%r) could not be ingested", file.id, file.filename)
            return Failure("server_error", f"{file.filename!r}: {type(error).__name__}: {error}; report this")
