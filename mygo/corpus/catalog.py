"""Vector stores, files, and which file is in which store, per tenant."""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from mygo.corpus.blobs import Blobs
from mygo.corpus.database import Database
from mygo.corpus.journal import Journal
from mygo.corpus.matching import attributes_of, files_matching, index_attributes
from mygo.corpus.pages import Listing, PageRequest
from mygo.corpus.records import (
    Attributes,
    File,
    Store,
    StoreFile,
    StoreFileStatus,
    StoreUsage,
    file_of,
    no_files,
    store_file_of,
    store_of,
)
from mygo.errors import BadRequest, Conflict, MygoError, NotFound
from mygo.filters import Filter
from mygo.types import PUBLIC, DocId, DomainTag, Reuse, StoreId, TenantId

_FIRST_PAGE: Final = PageRequest()
_STORES: Final = Listing("stores", "id", "tenant", store_of)
_FILES: Final = Listing("files", "id", "tenant", file_of)


def random_id() -> str:
    """24 hex digits: nobody can guess another tenant's id."""
    return secrets.token_hex(12)


def no_limit() -> int:
    """Behind every position of a journal."""
    return 2**62


class Catalog:
    """Every method takes the tenant that asks; another tenant's id is as unknown as one never given.

    The exceptions: ``get_store``, ``store_usages`` and ``matching`` show a ``public`` store to all, who can
    search it, and ``attributes_of`` describes what a search has found. A file in the journal that searches do
    not find yet is shown as in progress.
    What takes a document out of a store also appends to the journal, in the same transaction.
    Besides NotFound, methods raise what ``Database`` raises.
    """

    def __init__(
        self,
        database: Database,
        journal: Journal,
        blobs: Blobs,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str] = random_id,
        searchable: Callable[[], int] = no_limit,
    ) -> None:
        """``searchable``: journal position up to which searches find documents; called from any thread."""
        self._database = database
        self._journal = journal
        self._blobs = blobs
        self._clock = clock
        self._new_id = new_id
        self._searchable = searchable

    # --- stores --------------------------------------------------------------------------------

    def create_store(
        self,
        tenant: TenantId,
        *,
        name: str = "",
        domain: DomainTag | None = None,
        metadata: Mapping[str, str] | None = None,
        reuse: Reuse | None = None,
        file_ids: Sequence[DocId] = (),
    ) -> Store:
        """Create a store and attach files to it, all or none.

        ``domain`` is the tenant's own (the default) or ``public``; BadRequest for any other.
        """
        own = DomainTag(tenant)
        if domain not in (None, own, PUBLIC):
            raise BadRequest(
                f"domain must be {own!r} or {PUBLIC!r} (got {domain!r})",
                param="domain",
            )
        store_id = StoreId(f"vs_{self._new_id()}")
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO stores (id, tenant, name, domain, metadata, reuse, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    store_id,
                    tenant,
                    name,
                    domain or own,
                    json.dumps(dict(metadata or {})),
                    reuse,
                    self._clock(),
                ),
            )
            for file_id in file_ids:
                self.attach(tenant, store_id, file_id)
            return self.owned_store(tenant, store_id)

    def get_store(self, tenant: TenantId, store_id: StoreId) -> Store:
        """The tenant's own store, or a public one."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT * FROM stores WHERE id = ? AND (tenant = ? OR domain = ?)", (store_id, tenant, PUBLIC)
            ).fetchone()
        if row is None:
            raise _no_store(store_id)
        return store_of(row)

    def owned_store(self, tenant: TenantId, store_id: StoreId) -> Store:
        """The tenant's own store; NotFound for a public one of another."""
        store = self.get_store(tenant, store_id)
        if store.tenant != tenant:
            raise _no_store(store_id)
        return store

    def list_stores(self, tenant: TenantId, page: PageRequest = _FIRST_PAGE) -> tuple[list[Store], bool]:
        """The tenant's own stores, and whether there are more."""
        with self._database.reading() as connection:
            return _STORES.page(connection, tenant, page)

    def update_store(
        self,
        tenant: TenantId,
        store_id: StoreId,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        reuse: Reuse | None = None,
    ) -> Store:
        """Replace what is not None. A store's domain never changes: cached KV is keyed by it."""
        with self._database.transaction() as connection:
            store = self.owned_store(tenant, store_id)
            connection.execute(
                "UPDATE stores SET name = ?, metadata = ?, reuse = ? WHERE id = ?",
                (
                    store.name if name is None else name,
                    json.dumps(dict(store.metadata if metadata is None else metadata)),
                    store.reuse if reuse is None else reuse,
                    store_id,
                ),
            )
            return self.owned_store(tenant, store_id)

    def delete_store(self, tenant: TenantId, store_id: StoreId) -> None:
        """Delete a store and its documents, not the files."""
        with self._database.transaction() as connection:
            self.owned_store(tenant, store_id)
            for document in self._journal.documents(store_id):
                self._journal.delete(store_id, document.doc_id, now=self._clock())
            connection.execute("DELETE FROM store_files WHERE store_id = ?", (store_id,))
            connection.execute("DELETE FROM stores WHERE id = ?", (store_id,))

    def store_usages(self, tenant: TenantId, store_ids: Sequence[StoreId]) -> dict[StoreId, StoreUsage]:
        """Of those stores that there are: file counts by status, and the bytes of what is completed."""
        with self._database.reading() as connection:
            found = self._visible(connection, tenant, store_ids)
            rows = connection.execute(
                "SELECT store_id, shown_status, count(*) AS files, sum(bytes) AS bytes"
                f" FROM {self.attached_files()} WHERE store_id IN (SELECT value FROM json_each(?))"
                " GROUP BY 1, 2",
                (json.dumps(found),),
            ).fetchall()
        counts = {store_id: no_files() for store_id in found}
        bytes_ = dict.fromkeys(found, 0)
        for row in rows:
            status = StoreFileStatus(row["shown_status"])
            counts[row["store_id"]][status] = row["files"]
            if status is StoreFileStatus.COMPLETED:
                bytes_[row["store_id"]] = row["bytes"]
        return {store_id: StoreUsage(counts[store_id], bytes_[store_id]) for store_id in found}

    # --- files ---------------------------------------------------------------------------------

    def add_file(self, tenant: TenantId, filename: str, data: bytes, *, purpose: str = "assistants") -> File:
        """Keep a file; durable on return. Its content is not looked at before it is attached."""
        if not filename:
            raise BadRequest("the file has no name; upload it with one", param="file")
        sha256 = hashlib.sha256(data).hexdigest()
        file_id = DocId(f"file-{self._new_id()}")
        try:
            with self._blobs.staged(data) as staged, self._database.transaction() as connection:
                self._blobs.publish(staged, sha256)
                connection.execute(
                    "INSERT INTO files (id, tenant, filename, bytes, sha256, purpose, created_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (file_id, tenant, filename, len(data), sha256, purpose, self._clock()),
                )
                return self.get_file(tenant, file_id)
        except BaseException:
            self._collect(sha256)
            raise

    def get_file(self, tenant: TenantId, file_id: DocId) -> File:
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT * FROM files WHERE id = ? AND tenant = ?", (file_id, tenant)
            ).fetchone()
        if row is None:
            raise NotFound(f"no file {file_id[:80]!r}; list the files to see their ids", param="file_id")
        return file_of(row)

    def list_files(
        self, tenant: TenantId, page: PageRequest = _FIRST_PAGE, *, purpose: str | None = None
    ) -> tuple[list[File], bool]:
        """The tenant's files, and whether there are more."""
        with self._database.reading() as connection:
            return _FILES.page(connection, tenant, page, purpose=purpose)

    def content(self, tenant: TenantId, file_id: DocId) -> bytes:
        """The bytes that were uploaded."""
        file = self.get_file(tenant, file_id)
        try:
            return self._blobs.read(file.sha256)
        except MygoError:
            self.get_file(tenant, file_id)  # it may have been deleted meanwhile
            raise

    def delete_file(self, tenant: TenantId, file_id: DocId) -> None:
        """Delete a file, and its document from every store that has it."""
        with self._database.transaction() as connection:
            file = self.get_file(tenant, file_id)
            rows = connection.execute(
                "SELECT store_id FROM store_files WHERE file_id = ? ORDER BY sequence", (file_id,)
            ).fetchall()
            for row in rows:
                self._remove(connection, row["store_id"], file_id)
            connection.execute("DELETE FROM files WHERE id = ?", (file_id,))
        self._collect(file.sha256)

    def collect_garbage(self) -> None:
        """Remove what a crash left of uploads and deletions. Call it before anything is uploaded."""
        with self._database.transaction() as connection:
            rows = connection.execute("SELECT DISTINCT sha256 FROM files").fetchall()
            self._blobs.keep_only({row["sha256"] for row in rows})

    # --- files of a store ----------------------------------------------------------------------

    def attach(
        self,
        tenant: TenantId,
        store_id: StoreId,
        file_id: DocId,
        *,
        attributes: Attributes | None = None,
    ) -> StoreFile:
        """Promise, durably, that the file will be searchable in the store.

        Attaching again is harmless: it sets the attributes if they are given, and begins anew what
        had failed or was cancelled.
        """
        with self._database.transaction() as connection:
            self.owned_store(tenant, store_id)
            self.get_file(tenant, file_id)
            encoded = None if attributes is None else json.dumps(dict(attributes))
            connection.execute(
                "INSERT INTO store_files (store_id, file_id, status, chunks, attributes, created_at)"
                " VALUES (?, ?, 'in_progress', 0, coalesce(?, '{}'), ?)"
                " ON CONFLICT (store_id, file_id) DO UPDATE SET"
                " status = CASE WHEN status = 'completed' THEN status ELSE 'in_progress' END,"
                " error_code = NULL, error_message = NULL, attributes = coalesce(?, attributes)",
                (store_id, file_id, encoded, self._clock(), encoded),
            )
            if attributes is not None:
                index_attributes(connection, store_id, file_id, attributes)
            return self.get_store_file(tenant, store_id, file_id)

    def get_store_file(self, tenant: TenantId, store_id: StoreId, file_id: DocId) -> StoreFile:
        with self._database.reading() as connection:
            self.owned_store(tenant, store_id)
            row = connection.execute(
                f"SELECT * FROM {self.attached_files()} WHERE store_id = ? AND file_id = ?",
                (store_id, file_id),
            ).fetchone()
        if row is None:
            raise NotFound(
                f"no file {file_id[:80]!r} in vector store {store_id!r}; attach it first",
                param="file_id",
            )
        return store_file_of(row)

    def attributes_of(self, documents: Sequence[tuple[StoreId, DocId]]) -> list[Attributes | None]:
        """For each (store, document): the attributes of its file; None if it is not there any more."""
        with self._database.reading() as connection:
            return [attributes_of(connection, *pair) for pair in documents]

    def matching(
        self,
        tenant: TenantId,
        store_ids: Sequence[StoreId],
        condition: Filter,
        most_files: int,
        most_passages: int,
    ) -> dict[StoreId, list[DocId]] | None:
        """The files of stores that the tenant may search whose attributes pass, by store.

        None if more than ``most_files`` pass, or these have more than ``most_passages``, or it would take
        reading much more to tell.
        """
        with self._database.reading() as connection:
            visible = self._visible(connection, tenant, store_ids)
            return files_matching(connection, visible, condition, most_files, most_passages)

    def list_store_files(
        self,
        tenant: TenantId,
        store_id: StoreId,
        page: PageRequest = _FIRST_PAGE,
        *,
        status: StoreFileStatus | None = None,
    ) -> tuple[list[StoreFile], bool]:
        """The files of a store, and whether there are more."""
        with self._database.reading() as connection:
            self.owned_store(tenant, store_id)
            members = Listing(self.attached_files(), "file_id", "store_id", store_file_of)
            return members.page(connection, store_id, page, shown_status=status)

    def set_attributes(
        self, tenant: TenantId, store_id: StoreId, file_id: DocId, attributes: Attributes
    ) -> StoreFile:
        """Replace all attributes of a file in a store; the next search goes by them."""
        with self._database.transaction() as connection:
            self.get_store_file(tenant, store_id, file_id)
            connection.execute(
                "UPDATE store_files SET attributes = ? WHERE store_id = ? AND file_id = ?",
                (json.dumps(dict(attributes)), store_id, file_id),
            )
            index_attributes(connection, store_id, file_id, attributes)
            return self.get_store_file(tenant, store_id, file_id)

    def passages(self, tenant: TenantId, store_id: StoreId, file_id: DocId) -> list[str]:
        """The texts that searches find of a file, in reading order; Conflict unless it is completed."""
        with self._database.reading():
            file = self.get_store_file(tenant, store_id, file_id)
            if file.status is not StoreFileStatus.COMPLETED:
                raise Conflict(
                    f"file {file_id!r} in vector store {store_id!r} is {file.status}: its text is there once"
                    " it is completed",
                    param="file_id",
                )
            return [passage.text for passage in self._journal.passages(store_id, file_id)]

    def detach(self, tenant: TenantId, store_id: StoreId, file_id: DocId) -> None:
        """Take a file's document out of a store; the file stays."""
        with self._database.transaction() as connection:
            self.get_store_file(tenant, store_id, file_id)
            self._remove(connection, store_id, file_id)

    def attached_files(self) -> str:
        """The attached files with their status as it is shown, as a table for FROM."""
        return (
            "(SELECT *, CASE WHEN status = 'completed' AND position > "
            f"{self._searchable():d} THEN 'in_progress' ELSE status END AS shown_status FROM attached_files)"
        )

    def _visible(
        self, connection: sqlite3.Connection, tenant: TenantId, store_ids: Sequence[StoreId]
    ) -> list[StoreId]:
        """Those of the stores that the tenant may search."""
        rows = connection.execute(
            "SELECT id FROM stores"
            " WHERE id IN (SELECT value FROM json_each(?)) AND (tenant = ? OR domain = ?)",
            (json.dumps(list(store_ids)), tenant, PUBLIC),
        )
        return [row["id"] for row in rows]

    def _remove(self, connection: sqlite3.Connection, store_id: StoreId, file_id: DocId) -> None:
        self._journal.delete(store_id, file_id, now=self._clock())
        connection.execute("DELETE FROM store_files WHERE store_id = ? AND file_id = ?", (store_id, file_id))

    def _collect(self, sha256: str) -> None:
        """Remove a blob that no file refers to. In a transaction, so that no upload can interleave."""
        with self._database.transaction() as connection:
            used = connection.execute("SELECT 1 FROM files WHERE sha256 = ? LIMIT 1", (sha256,)).fetchone()
            if used is None:
                self._blobs.remove(sha256)


def _no_store(store_id: StoreId) -> NotFound:
    return NotFound(
        f"no vector store {store_id[:80]!r}; list the vector stores to see their ids", param="vector_store_id"
    )
