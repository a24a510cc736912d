"""Batches: several files attached to a store together, looked at and given up together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mygo.corpus.catalog import Catalog, random_id
from mygo.corpus.database import Database
from mygo.corpus.pages import Listing, PageRequest
from mygo.corpus.records import (
    Attributes,
    Batch,
    StoreFile,
    StoreFileStatus,
    no_files,
    store_file_of,
)
from mygo.errors import NotFound
from mygo.types import DocId, StoreId, TenantId

_FIRST_PAGE = PageRequest()


class Batches:
    """Belongs to the catalog: the same rules for tenants and for what is shown as in progress.

    A batch lives as long as its store.
    """

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str] = random_id,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._clock = clock
        self._new_id = new_id

    def create(
        self, tenant: TenantId, store_id: StoreId, files: Sequence[tuple[DocId, Attributes | None]]
    ) -> Batch:
        """Attach files, each with its attributes, as ``Catalog.attach`` does; all or none."""
        batch_id = f"vsfb_{self._new_id()}"
        with self._database.transaction() as connection:
            self._catalog.owned_store(tenant, store_id)
            connection.execute(
                "INSERT INTO batches (id, store_id, cancelled, created_at) VALUES (?, ?, 0, ?)",
                (batch_id, store_id, self._clock()),
            )
            for file_id, attributes in files:
                self._catalog.attach(tenant, store_id, file_id, attributes=attributes)
                connection.execute("INSERT OR IGNORE INTO batch_files VALUES (?, ?)", (batch_id, file_id))
            return self.get(tenant, store_id, batch_id)

    def get(self, tenant: TenantId, store_id: StoreId, batch_id: str) -> Batch:
        with self._database.reading() as connection:
            self._catalog.owned_store(tenant, store_id)
            row = connection.execute(
                "SELECT *, (SELECT count(*) FROM batch_files WHERE batch_id = id) AS files"
                " FROM batches WHERE id = ? AND store_id = ?",
                (batch_id, store_id),
            ).fetchone()
            if row is None:
                raise NotFound(
                    f"no file batch {batch_id[:80]!r} in vector store {store_id!r}; list the store's files"
                    " to see how they are",
                    param="batch_id",
                )
            statuses = connection.execute(
                f"SELECT shown_status, count(*) AS files FROM {self._files()} WHERE batch_id = ? GROUP BY 1",
                (batch_id,),
            ).fetchall()
        counts = no_files() | {StoreFileStatus(each["shown_status"]): each["files"] for each in statuses}
        counts[StoreFileStatus.CANCELLED] += row["files"] - sum(counts.values())
        return Batch(batch_id, store_id, bool(row["cancelled"]), counts, row["created_at"])

    def list_files(
        self,
        tenant: TenantId,
        store_id: StoreId,
        batch_id: str,
        page: PageRequest = _FIRST_PAGE,
        *,
        status: StoreFileStatus | None = None,
    ) -> tuple[list[StoreFile], bool]:
        """The files of a batch that are still in the store, and whether there are more."""
        with self._database.reading() as connection:
            self.get(tenant, store_id, batch_id)
            files = Listing(self._files(), "file_id", "batch_id", store_file_of)
            return files.page(connection, batch_id, page, shown_status=status)

    def cancel(self, tenant: TenantId, store_id: StoreId, batch_id: str) -> Batch:
        """Give up what is not in the journal yet; what is done stays. Attaching it again begins anew."""
        with self._database.transaction() as connection:
            self.get(tenant, store_id, batch_id)
            connection.execute("UPDATE batches SET cancelled = 1 WHERE id = ?", (batch_id,))
            connection.execute(
                "UPDATE store_files SET status = 'cancelled' WHERE status = 'in_progress' AND store_id = ?"
                " AND file_id IN (SELECT file_id FROM batch_files WHERE batch_id = ?)",
                (store_id, batch_id),
            )
            return self.get(tenant, store_id, batch_id)

    def _files(self) -> str:
        """The attached files of batches, as a table for FROM."""
        return (
            "(SELECT batch_id, attached.* FROM batch_files JOIN batches ON batches.id = batch_id"
            f" JOIN {self._catalog.attached_files()} AS attached"
            " ON attached.store_id = batches.store_id AND attached.file_id = batch_files.file_id)"
        )
