"""The append-only truth: every document that came and went, in one order.

Followers (retrieval shards, the directory, the workers) read it from a position on and are pure
functions of what they read.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mygo.corpus.database import Database
from mygo.types import ContentHash, DocId, DomainTag, Passage, StoreId, TenantId

_READ_CHARS = 4_000_000
"""Text from which a read ends early."""


@dataclass(frozen=True, slots=True)
class Document:
    """A live document, without its text."""

    position: int
    """Of the upsert that holds."""
    store_id: StoreId
    doc_id: DocId
    tenant: TenantId
    domain: DomainTag
    filename: str
    content_hash: ContentHash
    """Hex SHA-256 of the document's bytes, as given to ``upsert``."""
    passages: int
    created_at: float
    """Seconds since the epoch at which the upsert was appended."""


@dataclass(frozen=True, slots=True)
class _Entry:
    position: int
    """1, 2, ...: never reused."""
    store_id: StoreId
    doc_id: DocId
    tenant: TenantId
    domain: DomainTag
    filename: str
    content_hash: ContentHash
    """Hex SHA-256 of the document's bytes. A passage's own hash is that of its text."""
    passages: tuple[Passage, ...]
    created_at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Upsert(_Entry):
    """A document that was not live is, with these passages."""


@dataclass(frozen=True, slots=True)
class Delete(_Entry):
    """A live document is gone; ``passages`` are those that it had."""


Entry = Upsert | Delete


class Journal:
    """Appends, reads, and the live view that the entries add up to.

    A changed document is a Delete followed by an Upsert, appended together: in every prefix of the
    journal an upserted document was not live before, and a deleted one was. All methods raise as
    ``Database`` says; an append that raises has appended nothing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def upsert(
        self,
        *,
        store_id: StoreId,
        doc_id: DocId,
        tenant: TenantId,
        domain: DomainTag,
        filename: str,
        content_hash: ContentHash,
        chunks: Sequence[str],
        now: float,
    ) -> int:
        """Append a document and return its position, once it is durable.

        If exactly this is live already (all but ``now`` equal), nothing is appended and the position
        of the entry that says so is returned.
        """
        hashes = [passage_hash(chunk) for chunk in chunks]
        with self._database.transaction() as connection:
            live = self._live_row(connection, store_id, doc_id)
            if live is not None:
                said = (live["tenant"], live["domain"], live["filename"], live["content_hash"])
                if said == (tenant, domain, filename, content_hash) and hashes == [
                    row["content_hash"] for row in _passage_rows(connection, live["position"])
                ]:
                    return int(live["position"])
                self.delete(store_id, doc_id, now=now)
            position = connection.execute(
                "INSERT INTO journal (kind, store_id, doc_id, tenant, domain, filename, content_hash,"
                " created_at) VALUES ('upsert', ?, ?, ?, ?, ?, ?, ?)",
                (store_id, doc_id, tenant, domain, filename, content_hash, now),
            ).lastrowid
            assert position is not None
            connection.executemany(
                "INSERT INTO passages (position, passage_index, content_hash, text) VALUES (?, ?, ?, ?)",
                [(position, i, hashes[i], chunk) for i, chunk in enumerate(chunks)],
            )
            connection.execute(
                "INSERT INTO live (store_id, doc_id, position) VALUES (?, ?, ?)", (store_id, doc_id, position)
            )
            return position

    def delete(self, store_id: StoreId, doc_id: DocId, *, now: float) -> int | None:
        """Append a Delete and return its position; None, and nothing appended, if it is not live."""
        with self._database.transaction() as connection:
            live = self._live_row(connection, store_id, doc_id)
            if live is None:
                return None
            connection.execute("DELETE FROM live WHERE store_id = ? AND doc_id = ?", (store_id, doc_id))
            return connection.execute(
                "INSERT INTO journal (kind, store_id, doc_id, tenant, domain, filename, content_hash,"
                " ended_position, created_at)"
                " SELECT 'delete', store_id, doc_id, tenant, domain, filename, content_hash, position, ?"
                " FROM journal WHERE position = ?",
                (now, live["position"]),
            ).lastrowid

    def read(self, after: int = 0, limit: int = 1000) -> list[Entry]:
        """The entries behind position ``after``, oldest first, at most ``limit`` of them.

        Fewer where their texts are long, but none only if there are none: what a follower takes in
        one step must fit its memory, whatever was uploaded.
        """
        entries: list[Entry] = []
        chars = 0
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT * FROM journal WHERE position > ? ORDER BY position LIMIT ?", (after, max(limit, 0))
            ).fetchall()
            for row in rows:
                passages = _passages(row, _passage_rows(connection, row["ended_position"] or row["position"]))
                entries.append(_entry(row, passages))
                chars += sum(len(passage.text) for passage in passages)
                if chars >= _READ_CHARS:
                    break
        return entries

    def position(self) -> int:
        """Of the newest entry; 0 while there is none."""
        with self._database.reading() as connection:
            return int(connection.execute("SELECT coalesce(max(position), 0) FROM journal").fetchone()[0])

    def documents(self, store_id: StoreId) -> list[Document]:
        """The live documents of a store, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT journal.*, (SELECT count(*) FROM passages"
                " WHERE passages.position = journal.position) AS passages"
                " FROM live JOIN journal USING (position) WHERE live.store_id = ? ORDER BY position",
                (store_id,),
            ).fetchall()
        return [
            Document(
                position=row["position"],
                store_id=row["store_id"],
                doc_id=row["doc_id"],
                tenant=row["tenant"],
                domain=row["domain"],
                filename=row["filename"],
                content_hash=row["content_hash"],
                passages=row["passages"],
                created_at=row["created_at"],
            )
            for row in rows
        ]

    def passages(self, store_id: StoreId, doc_id: DocId) -> tuple[Passage, ...]:
        """Of a live document, in reading order; empty if it is not live."""
        with self._database.reading() as connection:
            live = self._live_row(connection, store_id, doc_id)
            return () if live is None else _passages(live, _passage_rows(connection, live["position"]))

    def references(self, domain: DomainTag, hashes: Iterable[ContentHash]) -> dict[ContentHash, int]:
        """How many live passages of a domain have each of these hashes.

        At zero, no live document gives a right to that text's KV in that domain any more.
        """
        with self._database.reading() as connection:
            return {
                content_hash: connection.execute(
                    "SELECT count(*) FROM passages JOIN live USING (position) JOIN journal USING (position)"
                    " WHERE passages.content_hash = ? AND domain = ?",
                    (content_hash, domain),
                ).fetchone()[0]
                for content_hash in hashes
            }

    def deletions(self, after: int, limit: int) -> tuple[int, list[tuple[DomainTag, ContentHash]]]:
        """Passages (domain, hash of the text) of documents that were deleted behind position ``after`` and
        that no live document of the domain has any more; and the position up to which these are all.

        At most ``limit`` deleted documents are looked at.
        """
        with self._database.reading() as connection:
            newest = int(connection.execute("SELECT coalesce(max(position), 0) FROM journal").fetchone()[0])
            rows = connection.execute(
                "SELECT position, domain, ended_position FROM journal"
                " WHERE kind = 'delete' AND position > ? ORDER BY position LIMIT ?",
                (after, limit),
            ).fetchall()
            passages = {
                (DomainTag(row["domain"]), ContentHash(passage["content_hash"]))
                for row in rows
                for passage in _passage_rows(connection, row["ended_position"])
            }
            gone = [
                (domain, content_hash)
                for domain, content_hash in sorted(passages)
                if not self.references(domain, [content_hash])[content_hash]
            ]
        return (rows[-1]["position"] if len(rows) == limit else newest), gone

    def live_passages(self, tenant: TenantId) -> list[Passage]:
        """All of a tenant's live documents, without their texts."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT store_id, doc_id, domain, filename, passages.passage_index, passages.content_hash"
                " FROM live JOIN journal USING (position, store_id, doc_id) JOIN passages USING (position)"
                " WHERE tenant = ? ORDER BY position, passage_index",
                (tenant,),
            ).fetchall()
        return [
            Passage(
                doc_id=row["doc_id"],
                index=row["passage_index"],
                text="",
                content_hash=row["content_hash"],
                store_id=row["store_id"],
                filename=row["filename"],
                domain=row["domain"],
            )
            for row in rows
        ]

    def _live_row(
        self, connection: sqlite3.Connection, store_id: StoreId, doc_id: DocId
    ) -> sqlite3.Row | None:
        row: sqlite3.Row | None = connection.execute(
            "SELECT journal.* FROM live JOIN journal USING (position)"
            " WHERE live.store_id = ? AND live.doc_id = ?",
            (store_id, doc_id),
        ).fetchone()
        return row


def passage_hash(text: str) -> ContentHash:
    """Hex SHA-256 of a passage's text in UTF-8."""
    return ContentHash(hashlib.sha256(text.encode()).hexdigest())


def _passage_rows(connection: sqlite3.Connection, position: int) -> list[sqlite3.Row]:
    return connection.execute(
        "SELECT * FROM passages WHERE position = ? ORDER BY passage_index", (position,)
    ).fetchall()


def _passages(entry: sqlite3.Row, rows: Iterable[sqlite3.Row]) -> tuple[Passage, ...]:
    return tuple(
        Passage(
            doc_id=entry["doc_id"],
            index=row["passage_index"],
            text=row["text"],
            content_hash=row["content_hash"],
            store_id=entry["store_id"],
            filename=entry["filename"],
            domain=entry["domain"],
        )
        for row in rows
    )


def _entry(row: sqlite3.Row, passages: tuple[Passage, ...]) -> Entry:
    kind = Upsert if row["kind"] == "upsert" else Delete
    return kind(
        position=row["position"],
        store_id=row["store_id"],
        doc_id=row["doc_id"],
        tenant=row["tenant"],
        domain=row["domain"],
        filename=row["filename"],
        content_hash=row["content_hash"],
        passages=passages,
        created_at=row["created_at"],
    )
