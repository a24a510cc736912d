"""Bring a shard up to date with the journal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from mygo.retrieval.index import Vectors
from mygo.retrieval.shard import Shard
from mygo.types import ContentHash, DocId, Passage, StoreId


class Entry(Protocol):
    """A journal entry about one document. Without ``passages`` it is a delete."""

    @property
    def position(self) -> int:
        """Grows along the journal, from 1; gaps are allowed."""
        ...

    @property
    def store_id(self) -> StoreId: ...

    @property
    def doc_id(self) -> DocId: ...


@runtime_checkable
class UpsertEntry(Entry, Protocol):
    """The document is now made of these passages, whatever it was before."""

    @property
    def passages(self) -> Sequence[Passage]: ...


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

    def __init__(self, shard: Shard, position: int = 0) -> None:
        """``position``: of the last entry that the shard reflects (from its snapshot), or 0."""
        self._shard = shard
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
        texts = _texts(self._net(entries))
        known = self._shard.known_vectors(texts)
        return [text for content_hash, text in texts.items() if content_hash not in known]

    def apply(self, entries: Sequence[Entry], vectors: Vectors | None = None) -> Applied:
        """Apply a batch. ``vectors``: one row for each of ``texts_to_embed``; None if it was empty.

        Entries up to ``position`` and those of other shards change nothing. Each document changes
        at once, the batch as a whole does not: a search meanwhile may see some of its documents new
        and others old.
        """
        net = self._net(entries)
        texts = _texts(net)
        vector_of = self._shard.known_vectors(texts)
        reused = len(vector_of)
        unknown = [content_hash for content_hash in texts if content_hash not in vector_of]
        given = 0 if vectors is None else len(vectors)
        assert given == len(unknown), f"{given} vectors for {len(unknown)} texts of the batch"
        if vectors is not None:
            vector_of.update(zip(unknown, vectors, strict=True))

        upserted = 0
        for entry in net:
            if isinstance(entry, UpsertEntry):
                rows = [vector_of[passage.content_hash] for passage in entry.passages]
                matrix = np.stack(rows) if rows else np.empty((0, self._shard.dimensions), np.float32)
                self._shard.upsert(entry.store_id, entry.doc_id, entry.passages, matrix)
                upserted += 1
            else:
                self._shard.delete(entry.store_id, entry.doc_id)
        self._position = max([self._position, *(entry.position for entry in entries)])
        return Applied(upserted, len(net) - upserted, embedded_texts=given, reused_texts=reused)

    def _net(self, entries: Iterable[Entry]) -> list[Entry]:
        """The last unapplied entry of each document of this shard: the batch's net effect."""
        last: dict[tuple[StoreId, DocId], Entry] = {}
        for entry in sorted(entries, key=lambda entry: entry.position):
            if entry.position > self._position and self._shard.owns(entry.store_id, entry.doc_id):
                last[entry.store_id, entry.doc_id] = entry
        return list(last.values())


def _texts(entries: Iterable[Entry]) -> dict[ContentHash, str]:
    """Distinct texts in a fixed order."""
    upserts = (entry for entry in entries if isinstance(entry, UpsertEntry))
    return {passage.content_hash: passage.text for entry in upserts for passage in entry.passages}
