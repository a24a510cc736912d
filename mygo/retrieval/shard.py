"""One shard: the passages of the documents that hash to it, searchable by store."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from mygo.config_retrieval import RetrievalConfig
from mygo.retrieval.contents import StoreContents, batches
from mygo.retrieval.found import Places, places_of, rows_by_words, with_texts
from mygo.retrieval.index import IndexKind, Rows, VectorIndex, Vectors
from mygo.retrieval.kinds import IndexBuilder
from mygo.retrieval.lock import ReadWriteLock
from mygo.retrieval.merge import Stage, merge
from mygo.retrieval.nearest import CheckCancelled, Chosen, nearest_staged
from mygo.retrieval.texts import PassageTexts
from mygo.types import ContentHash, DocId, Passage, ScoredPassage, StoreId

_COPIED_AT_ONCE = 10_000
"""Vectors that go into a new index between two looks at what has changed, or into a snapshot: 15 MB of 384
dimensions."""
_COPIED_LAST = 500
"""The same while updates wait: it takes half a second at most."""
_SAMPLE_SEED = 1
_TEXTS_AT_ONCE = 1_000
Documents: TypeAlias = Mapping[StoreId, Collection[DocId]]
"""Some documents of some stores."""


def owner(store_id: StoreId, doc_id: DocId, shards: int) -> int:
    """The shard (0 .. shards - 1) that holds a document: the same in every process and release."""
    store = store_id.encode()
    digest = hashlib.blake2b(len(store).to_bytes(4, "little") + store + doc_id.encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little") % shards


@dataclass(slots=True)
class _Store:
    index: VectorIndex
    passages: dict[int, Passage] = field(default_factory=dict)
    """By row id, in rising order; without their texts, which lie on disk."""
    documents: dict[DocId, list[int]] = field(default_factory=dict)
    """Row ids of each document."""
    rebuild_attempts: int = 0
    """Since one succeeded."""


class Shard:
    """Passages and vectors of the documents that ``owner`` gives to shard ``index`` of ``shards``.

    Thread-safe. Searches run side by side; an update excludes them only while it changes the index.
    Neither waits while an index is trained or built. Each update is seen whole or not at all.
    """

    def __init__(
        self, dimensions: int, *, index: int, config: RetrievalConfig, folder: Path | None = None
    ) -> None:
        """``folder``: for the files of memory-mapped indexes; None for the system's temporary folder.

        Raises ConfigError if the embedder's vectors cannot be indexed as configured.
        """
        assert 0 <= index < config.shards, f"shard index {index} must lie in 0..{config.shards - 1}"
        self.dimensions = dimensions
        self.index = index
        self.shards = config.shards
        self._builder = IndexBuilder(dimensions, config, folder)
        self._texts = PassageTexts(folder, by_words=config.words)
        self._stores: dict[StoreId, _Store] = {}
        self._next_row = 0
        self._row_of_text: dict[ContentHash, tuple[StoreId, int]] = {}
        """Where one copy of a text lies. May forget a text that still has other copies."""
        self._updating = threading.Lock()
        """Held by an update from start to end; taken before ``_searchable``, never after."""
        self._rebuilding = threading.Lock()
        """Held while an index is built anew; taken before both."""
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
        with self._updating, self._searchable.exclusive():
            self._remove(store_id, doc_id)
            self._add(store_id, passages, vectors)

    def delete(self, store_id: StoreId, doc_id: DocId) -> None:
        """Forget a document; one that is not there is ignored."""
        with self._updating, self._searchable.exclusive():
            self._remove(store_id, doc_id)

    def drop_store(self, store_id: StoreId) -> None:
        """Forget a store and all its documents; one that is not there is ignored."""
        with self._updating, self._searchable.exclusive():
            if store := self._stores.get(store_id):
                self._texts.drop(store_id)
                self._forget_texts(store_id, store.passages)
                del self._stores[store_id]

    def fill(self, contents: StoreContents) -> None:
        """Add a whole store, of which nothing may be there yet."""
        store_id = contents.store_id
        with self._updating, self._searchable.exclusive():
            assert store_id not in self._stores, f"{store_id} is already in {self!r}"
            rows = _row_array(self._new_rows(contents.count))
            restored = contents.structure and self._builder.restored(
                contents.structure, rows, contents.vectors
            )
            store = _Store(restored or self._builder.flat())
            if not restored:
                for part in contents.vectors:
                    end = len(store.index) + len(part)
                    store.index.add(rows[end - len(part) : end], part)
            for batch in batches(zip(rows.tolist(), contents.passages, strict=True), _TEXTS_AT_ONCE):
                self._texts.add(store_id, ((row, passage.text) for row, passage in batch))
                _record(store, batch)
            if contents.count:
                self._stores[store_id] = store
            for row, passage in store.passages.items():
                self._row_of_text[passage.content_hash] = (store_id, row)

    def rebuild_outgrown(self) -> bool:
        """Build the index of one store anew if it has outgrown its own; False if none has.

        Takes seconds to minutes, while searches and updates go on in the old index; what they change is
        carried over in the end.
        """
        with self._rebuilding:
            with self._updating:
                outgrown = [key for key, store in self._stores.items() if store.index.outgrown]
                if not outgrown:
                    return False
                # one that fails every time must not keep the others from it
                store_id = min(outgrown, key=lambda key: self._stores[key].rebuild_attempts)
                store = self._stores[store_id]
                store.rebuild_attempts += 1
                rows = _row_array(store.passages)
                sampled = self._builder.training_vectors(len(rows))
                chosen = np.random.default_rng(_SAMPLE_SEED).permutation(len(rows))[:sampled]
                sample = store.index.vectors(rows[np.sort(chosen)])
            successor = self._builder.built(sample, len(rows))
            self._replace(store_id, store, successor)
            store.rebuild_attempts = 0
        return True

    def _replace(self, store_id: StoreId, store: _Store, successor: VectorIndex) -> None:
        """Copy the store's vectors into the successor, then put it in place of the index."""
        copied = [np.empty(0, np.int64)]
        last = -1
        while True:
            with self._updating:
                if self._stores.get(store_id) is not store:  # dropped meanwhile
                    return
                held = _row_array(store.passages)
                missing = held[np.searchsorted(held, last, side="right") :]  # rows rise
                part = missing[:_COPIED_AT_ONCE]
                vectors = store.index.vectors(part)
                if len(missing) <= _COPIED_LAST:
                    gone = np.setdiff1d(np.concatenate(copied), held, assume_unique=True)
                    successor.remove(gone)
                    successor.add(part, vectors)
                    with self._searchable.exclusive():
                        store.index = successor
                    return
            successor.add(part, vectors)
            copied.append(part)
            last = int(part[-1])

    # --- look-ups ------------------------------------------------------------------------------

    def search(self, store_ids: Set[StoreId], vector: Vectors, k: int) -> list[ScoredPassage]:
        """The best ``k`` passages in the given stores, best first; fewer if there are fewer.

        A text counts once per document, however often the document repeats it.

        ``vector``: float32 [dimensions], L2-normalised. Scores are recomputed from the vectors in
        double precision, so equal vectors score equally in every shard and index kind, and
        ``merge`` orders ties. Unknown stores hold nothing. A store with an approximate index may miss some.
        """
        (stage,) = self.search_staged(store_ids, vector, k, stage_s=math.inf)
        return list(stage.passages)

    def search_staged(
        self,
        store_ids: Set[StoreId],
        vector: Vectors,
        k: int,
        stage_s: float,
        question: str | None = None,
        documents: Documents | None = None,
        check_cancelled: CheckCancelled = lambda: None,
    ) -> Generator[Stage, None, None]:
        """``search`` in stages of about ``stage_s`` seconds: the last one is the same passages and scores.

        ``question``: also search for its words, if the shard has an index of them. ``documents``: search only
        these of the stores, exactly whatever the index's kind, in one stage; those that are not here are
        ignored. ``check_cancelled``: called between steps; what it raises ends the search. Updates wait until
        the iterator has ended or is closed, so take the stages as fast as they come.
        """
        assert vector.shape == (self.dimensions,), f"query {vector.shape}, shard has {self.dimensions}"
        assert k >= 1, f"k is {k}"
        with self._searchable.shared():
            held = sorted(self._stores.keys() & store_ids)
            stores = [self._stores[store_id] for store_id in held]
            chosen = None if documents is None else self._rows(held, documents)
            by_words = (
                self._by_words(held, question, k, chosen, check_cancelled) if question is not None else ()
            )
            searches = [
                nearest_staged(
                    store.index
                    if chosen is None
                    else Chosen(store.index, _row_array(chosen[store_id]), check_cancelled),
                    store.passages,
                    vector,
                    k,
                    stage_s / len(stores),
                    check_cancelled,
                )
                for store_id, store in zip(held, stores, strict=True)
            ]
            rankings: list[list[ScoredPassage]] = [[] for _ in stores]
            places: Places = {}
            searching = dict(enumerate(searches))
            while searching:
                for number, search in list(searching.items()):
                    rows, rankings[number], is_last = next(search)
                    places.update(places_of(held[number], rows, rankings[number]))
                    if is_last:
                        del searching[number]
                whole = with_texts(self._texts, merge(rankings, k), places, check_cancelled)
                yield Stage(whole, not searching, by_words)
            if not stores:
                yield Stage((), is_final=True)

    def __len__(self) -> int:
        """Vectors in all stores."""
        with self._searchable.shared():
            return sum(len(store.index) for store in self._stores.values())

    def count(self, store_ids: Set[StoreId]) -> int:
        """Vectors in the given stores."""
        with self._searchable.shared():
            return sum(len(self._stores[store_id].index) for store_id in self._stores.keys() & store_ids)

    def kind(self, store_id: StoreId) -> IndexKind:
        """How a store is searched now; an unknown one counts as flat."""
        with self._searchable.shared():
            store = self._stores.get(store_id)
            return store.index.kind if store else IndexKind.FLAT

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
                    len(store.passages),
                    self._passages(store_id, store),
                    map(store.index.vectors, map(_row_array, batches(store.passages, _COPIED_AT_ONCE))),
                    self._builder.saved(store.index),
                )
                for store_id, store in sorted(self._stores.items())
            )

    # --- under the locks -----------------------------------------------------------------------
    # Texts are written first: should that fail (say, a full disk), the update can be tried again.

    def _add(self, store_id: StoreId, passages: Sequence[Passage], vectors: Vectors) -> None:
        expected = (len(passages), self.dimensions)
        assert vectors.shape == expected, f"vectors {vectors.shape} for passages {expected}"
        if not passages:
            return
        rows = self._new_rows(len(passages))
        self._texts.add(store_id, zip(rows, (passage.text for passage in passages), strict=True))
        store = self._stores.get(store_id) or _Store(self._builder.flat())
        store.index.add(_row_array(rows), np.ascontiguousarray(vectors, np.float32))
        self._stores[store_id] = store
        _record(store, zip(rows, passages, strict=True))
        for row, passage in zip(rows, passages, strict=True):
            self._row_of_text[passage.content_hash] = (store_id, row)

    def _new_rows(self, count: int) -> range:
        rows = range(self._next_row, self._next_row + count)
        self._next_row = rows.stop
        return rows

    def _remove(self, store_id: StoreId, doc_id: DocId) -> None:
        store = self._stores.get(store_id)
        if store is None or doc_id not in store.documents:
            return
        rows = store.documents[doc_id]
        if len(store.documents) == 1:
            self._texts.drop(store_id)
            del self._stores[store_id]
        else:
            self._texts.remove(store_id, rows)
            store.index.remove(_row_array(rows))
            del store.documents[doc_id]
        self._forget_texts(store_id, {row: store.passages.pop(row) for row in rows})

    def _rows(self, store_ids: Sequence[StoreId], documents: Documents) -> dict[StoreId, list[int]]:
        rows: dict[StoreId, list[int]] = {}
        for store_id in store_ids:
            held = self._stores[store_id].documents
            named = documents.get(store_id, ())
            rows[store_id] = [row for document in named for row in held.get(document, ())]
        return rows

    def _by_words(
        self,
        store_ids: Sequence[StoreId],
        question: str,
        k: int,
        chosen: dict[StoreId, list[int]] | None,
        check_cancelled: CheckCancelled,
    ) -> tuple[ScoredPassage, ...]:
        """``chosen``: by store, the rows that are searched; None for all."""
        rankings: list[list[ScoredPassage]] = []
        places: Places = {}
        for store_id in store_ids:
            passages = self._stores[store_id].passages
            among = None if chosen is None else chosen[store_id]
            found = rows_by_words(self._texts, store_id, passages, question, k, among, check_cancelled)
            rankings.append([ScoredPassage(passages[row], score) for row, score in found])
            places.update(places_of(store_id, [row for row, _ in found], rankings[-1]))
        return with_texts(self._texts, merge(rankings, k), places, check_cancelled)

    def _passages(self, store_id: StoreId, store: _Store) -> Iterator[Passage]:
        """With their texts, some at a time."""
        for part in batches(store.passages, _TEXTS_AT_ONCE):
            texts = self._texts.texts(store_id, part)
            yield from (replace(store.passages[row], text=texts[row]) for row in part)

    def _forget_texts(self, store_id: StoreId, passages: dict[int, Passage]) -> None:
        for row, passage in passages.items():
            if self._row_of_text.get(passage.content_hash) == (store_id, row):
                del self._row_of_text[passage.content_hash]


def _record(store: _Store, passages: Iterable[tuple[int, Passage]]) -> None:
    """(row, passage) each."""
    for row, passage in passages:
        store.passages[row] = replace(passage, text="")
        store.documents.setdefault(passage.doc_id, []).append(row)


def _row_array(rows: Collection[int]) -> Rows:
    return np.fromiter(rows, np.int64, len(rows))
