"""One shard: the passages of the documents that hash to it, searchable by store."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from mygo.retrieval.index import IndexKind, Rows, VectorIndex, Vectors
from mygo.retrieval.lock import ReadWriteLock
from mygo.retrieval.merge import merge
from mygo.types import ContentHash, DocId, Passage, ScoredPassage, StoreId

_SPARE_CANDIDATES = 16
"""Fetched beyond k, so that a few duplicates or ties do not cost a second look-up."""
_SCORE_NOISE = 1e-5
"""More than float32 rounding moves an inner product of unit vectors, less than a real difference."""


def owner(store_id: StoreId, doc_id: DocId, shards: int) -> int:
    """The shard (0 .. shards - 1) that holds a document: the same in every process and release."""
    store = store_id.encode()
    digest = hashlib.blake2b(len(store).to_bytes(4, "little") + store + doc_id.encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little") % shards


@dataclass(slots=True)
class _Store:
    index: VectorIndex
    passages: dict[int, Passage] = field(default_factory=dict)
    """By row id."""
    documents: dict[DocId, list[int]] = field(default_factory=dict)
    """Row ids of each document."""


@dataclass(frozen=True, slots=True)
class StoreContents:
    """All that a shard holds of one store; ``vectors`` is [len(passages), dimensions]."""

    store_id: StoreId
    passages: list[Passage]
    vectors: Vectors


class Shard:
    """Passages and vectors of the documents that ``owner`` gives to shard ``index`` of ``shards``.

    Thread-safe. Searches run side by side; an update excludes them only while it changes the index,
    never while an index is trained. Each update is seen whole or not at all.
    """

    def __init__(
        self, dimensions: int, *, index: int, shards: int, ivf_from_vectors: int, ivf_probes: int
    ) -> None:
        """``ivf_from_vectors``: size of a store in this shard from which its search is approximate."""
        assert 0 <= index < shards, f"shard index {index} must lie in 0..{shards - 1}"
        self.dimensions = dimensions
        self.index = index
        self.shards = shards
        self._ivf_from_vectors = ivf_from_vectors
        self._ivf_probes = ivf_probes
        self._stores: dict[StoreId, _Store] = {}
        self._next_row = 0
        self._row_of_text: dict[ContentHash, tuple[StoreId, int]] = {}
        """Where one copy of a text lies. May forget a text that still has other copies."""
        self._updating = threading.Lock()
        """Held by an update from start to end; taken before ``_searchable``, never after."""
        self._searchable = ReadWriteLock()

    def __repr__(self) -> str:
        with self._searchable.shared():
            documents = sum(len(store.documents) for store in self._stores.values())
            vectors = sum(len(store.index) for store in self._stores.values())
            return (
                f"Shard({self.index}/{self.shards}, stores={len(self._stores)}, "
                f"documents={documents}, vectors={vectors})"
            )

    def owns(self, store_id: StoreId, doc_id: DocId) -> bool:
        return owner(store_id, doc_id, self.shards) == self.index

    # --- updates -------------------------------------------------------------------------------

    def upsert(self, store_id: StoreId, doc_id: DocId, passages: Sequence[Passage], vectors: Vectors) -> None:
        """Put a document in place of any earlier version of it; no passages means that it is gone.

        ``vectors``: float32 [len(passages), dimensions], L2-normalised. The document must belong to
        this shard and the passages to the document.
        """
        assert self.owns(store_id, doc_id), f"{doc_id} of {store_id} does not belong to {self!r}"
        for passage in passages:
            assert passage.doc_id == doc_id, f"passage of {passage.doc_id} given as part of {doc_id}"
        with self._updating:
            with self._searchable.exclusive():
                self._remove(store_id, doc_id)
                self._add(store_id, passages, vectors)
            self._rebuild_if_outgrown(store_id)

    def delete(self, store_id: StoreId, doc_id: DocId) -> None:
        """Forget a document; one that is not there is ignored."""
        with self._updating:
            with self._searchable.exclusive():
                self._remove(store_id, doc_id)
            self._rebuild_if_outgrown(store_id)

    def drop_store(self, store_id: StoreId) -> None:
        """Forget a store and all its documents; one that is not there is ignored."""
        with self._updating, self._searchable.exclusive():
            if store := self._stores.pop(store_id, None):
                self._forget_texts(store_id, store.passages)

    def fill(self, contents: StoreContents) -> None:
        """Add a whole store, of which nothing may be there yet, with one training at most."""
        with self._updating:
            assert contents.store_id not in self._stores, f"{contents.store_id} is already in {self!r}"
            with self._searchable.exclusive():
                self._add(contents.store_id, contents.passages, contents.vectors)
            self._rebuild_if_outgrown(contents.store_id)

    # --- look-ups ------------------------------------------------------------------------------

    def search(self, store_ids: Set[StoreId], vector: Vectors, k: int) -> list[ScoredPassage]:
        """The best ``k`` passages in the given stores, best first; fewer if there are fewer.

        A text counts once per document, however often the document repeats it.

        ``vector``: float32 [dimensions], L2-normalised. Scores are recomputed from the vectors in
        double precision, so equal vectors score equally in every shard and index kind, and
        ``merge`` orders ties. Unknown stores hold nothing. In an IVF store only ``ivf_probes``
        lists are searched.
        """
        assert vector.shape == (self.dimensions,), f"query {vector.shape}, shard has {self.dimensions}"
        assert k >= 1, f"k is {k}"
        with self._searchable.shared():
            stores = [self._stores[store_id] for store_id in self._stores.keys() & store_ids]
            return merge((_nearest(store, vector, k) for store in stores), k)

    def __len__(self) -> int:
        """Vectors in all stores."""
        with self._searchable.shared():
            return sum(len(store.index) for store in self._stores.values())

    def count(self, store_ids: Set[StoreId]) -> int:
        """Vectors in the given stores."""
        with self._searchable.shared():
            return sum(len(self._stores[store_id].index) for store_id in self._stores.keys() & store_ids)

    def kind(self, store_id: StoreId) -> IndexKind:
        """How a store is searched now; an unknown one counts as exact."""
        with self._searchable.shared():
            store = self._stores.get(store_id)
            return store.index.kind if store else IndexKind.EXACT

    def known_vectors(self, texts: Iterable[ContentHash]) -> dict[ContentHash, Vectors]:
        """Vectors [dimensions] of the texts that the shard holds somewhere, in any store.

        A cache: a text may be missing here although a copy of it is held.
        """
        known: dict[ContentHash, Vectors] = {}
        with self._searchable.shared():
            for text in texts:
                if place := self._row_of_text.get(text):
                    store_id, row = place
                    known[text] = self._stores[store_id].index.vectors(np.array([row], np.int64))[0]
        return known

    @contextmanager
    def frozen(self) -> Iterator[Iterator[StoreContents]]:
        """All contents, store by store in a fixed order; updates (not searches) wait meanwhile."""
        with self._updating:
            yield (
                StoreContents(
                    store_id,
                    list(store.passages.values()),
                    store.index.vectors(_row_array(store.passages)),
                )
                for store_id, store in sorted(self._stores.items())
            )

    # --- under the locks -----------------------------------------------------------------------

    def _add(self, store_id: StoreId, passages: Sequence[Passage], vectors: Vectors) -> None:
        expected = (len(passages), self.dimensions)
        assert vectors.shape == expected, f"vectors {vectors.shape} for passages {expected}"
        if not passages:
            return
        store = self._stores.get(store_id)
        if store is None:
            store = self._stores[store_id] = _Store(
                VectorIndex(
                    self.dimensions, ivf_from_vectors=self._ivf_from_vectors, ivf_probes=self._ivf_probes
                )
            )
        rows = range(self._next_row, self._next_row + len(passages))
        self._next_row = rows.stop
        store.index.add(_row_array(rows), np.ascontiguousarray(vectors, np.float32))
        for row, passage in zip(rows, passages, strict=True):
            store.passages[row] = passage
            store.documents.setdefault(passage.doc_id, []).append(row)
            self._row_of_text[passage.content_hash] = (store_id, row)

    def _remove(self, store_id: StoreId, doc_id: DocId) -> None:
        store = self._stores.get(store_id)
        if store is None or doc_id not in store.documents:
            return
        rows = store.documents.pop(doc_id)
        store.index.remove(_row_array(rows))
        self._forget_texts(store_id, {row: store.passages.pop(row) for row in rows})
        if not store.documents:
            del self._stores[store_id]

    def _forget_texts(self, store_id: StoreId, passages: dict[int, Passage]) -> None:
        for row, passage in passages.items():
            if self._row_of_text.get(passage.content_hash) == (store_id, row):
                del self._row_of_text[passage.content_hash]

    def _rebuild_if_outgrown(self, store_id: StoreId) -> None:
        """Called with ``_updating`` held, so nothing changes while searches go on in the old index."""
        store = self._stores.get(store_id)
        if store is None or not store.index.outgrown:
            return
        successor = store.index.rebuilt(_row_array(store.passages))
        with self._searchable.exclusive():
            store.index = successor


def _nearest(store: _Store, vector: Vectors, k: int) -> list[ScoredPassage]:
    """A superset of the store's best ``k`` texts of documents (of the probed lists), all ties included."""
    fetched = min(k + _SPARE_CANDIDATES, len(store.index))
    while True:
        scores, rows = store.index.search(vector, fetched)
        if len(rows) < fetched or fetched == len(store.index):
            break
        # what was not fetched scores at most scores[-1], give or take rounding
        clear = rows[scores > scores[-1] + _SCORE_NOISE]
        candidates = (store.passages[row] for row in clear.tolist())
        if len({(passage.doc_id, passage.content_hash) for passage in candidates}) >= k:
            break
        fetched = min(4 * fetched, len(store.index))
    # row by row: a matrix product may round equal rows differently
    exact = (store.index.vectors(rows).astype(np.float64) * vector).sum(axis=1).clip(-1.0, 1.0)
    return [
        ScoredPassage(store.passages[row], score)
        for row, score in zip(rows.tolist(), exact.tolist(), strict=True)
    ]


def _row_array(rows: Collection[int]) -> Rows:
    return np.fromiter(rows, np.int64, len(rows))
