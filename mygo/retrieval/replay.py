"""Bring a shard up to date with the journal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mygo.retrieval.index import Vectors
from mygo.retrieval.shard import Shard
from mygo.types import ContentHash, DocId, Passage, StoreId


class Entry(Protocol):
    """A journal entry that puts one document in place, or takes it away: its class says which."""

    @property
    def position(self) -> int:
        """Grows along the journal, from 1; gaps are allowed."""
        ...

    @property
    def store_id(self) -> StoreId: ...

    @property
    def doc_id(self) -> DocId: ...

    @property
    def passages(self) -> Sequence[Passage]:
        """All that the document is made of from here on; those of a delete are not read."""
        ...


@dataclass(frozen=True, slots=True)
class Applied:
    """What one batch did to a shard."""

    upserted: int
    """Documents put in place."""
    deleted: int
    """Documents whose last entry in the batch was a delete."""
    embedded_texts: int
    reused_texts: int
    """Distinct texts whose vectors the shard already had."""


class Replayer:
    """Applies journal entries to one shard and remembers how far it came. One thread at a time.

    In two steps, because embedding may be a remote call: ``texts_to_embed`` decides, ``apply`` acts.
    If anything fails in between, nothing has changed and the batch can be tried again.
    """

    def __init__(self, shard: Shard, position: int = 0, *, delete_type: type[Entry]) -> None:
        """``position``: of the last entry that the shard reflects (from its snapshot), or 0.

        ``delete_type``: the class of the journal's entries that take a document away (this room does
        not know the journal's).
        """
        self._shard = shard
        self._delete_type = delete_type
        self._position = position

    @property
    def position(self) -> int:
        """Position of the last applied entry, other shards' entries included."""
        return self._position

    def texts_to_embed(self, entries: Iterable[Entry]) -> list[str]:
        """The texts of a batch that the shard has no vector for, each once.

        Texts of other shards, of entries that are already applied, and of documents that the same
        batch later replaces or deletes are left out.
        """
        texts = _texts(self._net(entries)[0])
        known = self._shard.known_vectors(texts)
        return [text for content_hash, text in texts.items() if content_hash not in known]

    def apply(self, entries: Sequence[Entry], vectors: Vectors | None = None) -> Applied:
        """Apply a batch. ``vectors``: one row for each of ``texts_to_embed``; None if it was empty.

        Entries up to ``position`` and those of other shards change nothing. Each document changes
        at once, the batch as a whole does not: a search meanwhile may see some of its documents new
        and others old.
        """
        upserts, deletes = self._net(entries)
        texts = _texts(upserts)
        vector_of = self._shard.known_vectors(texts)
        reused = len(vector_of)
        unknown = [content_hash for content_hash in texts if content_hash not in vector_of]
        given = 0 if vectors is None else len(vectors)
        assert given == len(unknown), f"{given} vectors for {len(unknown)} texts of the batch"
        if vectors is not None:
            vector_of.update(zip(unknown, vectors, strict=True))

        # any order will do: the net effect has one entry per document
        for entry in deletes:
            self._shard.delete(entry.store_id, entry.doc_id)
        for entry in upserts:
            rows = [vector_of[passage.content_hash] for passage in entry.passages]
            matrix = np.stack(rows) if rows else np.empty((0, self._shard.dimensions), np.float32)
            self._shard.upsert(entry.store_id, entry.doc_id, entry.passages, matrix)
        self._position = max([self._position, *(entry.position for entry in entries)])
        return Applied(len(upserts), len(deletes), embedded_texts=given, reused_texts=reused)

    def _net(self, entries: Iterable[Entry]) -> tuple[list[Entry], list[Entry]]:
        """(upserts, deletes): the last unapplied entry of each document of this shard."""
        last: dict[tuple[StoreId, DocId], Entry] = {}
        for entry in sorted(entries, key=lambda entry: entry.position):
            if entry.position > self._position and self._shard.owns(entry.store_id, entry.doc_id):
                last[entry.store_id, entry.doc_id] = entry
        upserts = [entry for entry in last.values() if not isinstance(entry, self._delete_type)]
        deletes = [entry for entry in last.values() if isinstance(entry, self._delete_type)]
        return upserts, deletes


def _texts(upserts: Iterable[Entry]) -> dict[ContentHash, str]:
    """Distinct texts in a fixed order."""
    return {passage.content_hash: passage.text for entry in upserts for passage in entry.passages}
