"""Inverted lists (IVF): only the lists nearest to the question are compared; as they are, or as PQ codes."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mygo.retrieval.index import IndexKind, Partial, Rows, Scores, Structure, Vectors, best
from mygo.retrieval.stages import stage_ends
from mygo.retrieval.stored import StoredVectors

_FAISS: Any = faiss  # its stubs lack what its Python layer adds
_CANDIDATES_PER_RESULT = 4
"""Vectors that the lists of a search hold on average, at least: few lists cannot have many results."""
_FIRST_S_PER_VECTOR = 1e-7
"""Of comparing one vector, until it was measured."""
_MEASURED_WEIGHT = 0.1
"""Of the latest measurement."""


@dataclass(frozen=True, slots=True)
class IvfSettings:
    probes: int
    """Lists that a query looks into, unless it asks for so many results that these have too few."""
    outgrown_below: int
    """Vectors below which an exact search is due."""
    rerank_factor: int = 1
    """For codes: candidates per result whose true scores are computed."""
    on_disk: bool = False
    """Keep the lists in a memory-mapped file."""
    folder: Path | None = None
    """Where files are made; None for the system's temporary folder."""


class IvfIndex:
    """A trained IVF index, of whole vectors or, if ``trained`` is an IndexIVFPQ, of codes.

    Codes are searched for ``rerank_factor`` times as many as are asked for, of which the true scores are
    then computed from vectors in a memory-mapped file.
    """

    def __init__(self, trained: Any, settings: IvfSettings, *, trained_on: int) -> None:
        """``trained``: an IndexIVFFlat or IndexIVFPQ that holds nothing yet. ``trained_on``: vectors of
        the store when it was trained: with twice as many, it should be trained again."""
        self._trained = faiss.serialize_index(trained)
        self._faiss: Any = trained
        self._settings = settings
        self._trained_on = trained_on
        self._added = 0
        self._s_per_vector = _FIRST_S_PER_VECTOR
        is_coded = isinstance(trained, faiss.IndexIVFPQ)
        self.kind = IndexKind.IVFPQ if is_coded else IndexKind.IVF
        self._stored = StoredVectors(trained.d, settings.folder) if is_coded else None
        if settings.on_disk and not is_coded:
            self._keep_lists_on_disk()
        # row id -> place in its list, so that removals and reconstruction need no scan
        trained.set_direct_map_type(faiss.DirectMap.Hashtable)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return int(self._faiss.ntotal)

    def __repr__(self) -> str:
        return f"IvfIndex({self.kind}, vectors={len(self)}, trained_on={self._trained_on})"

    def add(self, rows: Rows, vectors: Vectors) -> None:
        self._add(rows, vectors, lists=None)

    def add_to_lists(self, rows: Rows, vectors: Vectors, lists: Rows) -> None:
        """As ``add``, to lists [n] that are known from before, which saves finding them."""
        self._add(rows, vectors, lists=np.ascontiguousarray(lists, np.int64))

    def _add(self, rows: Rows, vectors: Vectors, *, lists: Rows | None) -> None:
        if self._stored is not None:
            self._stored.append(rows, vectors)  # first: its drive may be full
        if lists is None:
            self._faiss.add_with_ids(vectors, rows)
        else:
            pointers = (faiss.swig_ptr(array) for array in (vectors, rows, lists))
            self._faiss.add_core(len(rows), *pointers)
        self._added += len(rows)

    def remove(self, rows: Rows) -> None:
        removed = self._faiss.remove_ids(rows)
        assert removed == len(rows), f"{len(rows) - removed} of {len(rows)} rows were not in {self!r}"

    def vectors(self, rows: Rows) -> Vectors:
        if len(rows) == 0:
            return np.empty((0, self._faiss.d), np.float32)
        if self._stored is not None:
            return self._stored[rows]
        return np.asarray(self._faiss.reconstruct_batch(rows), np.float32)

    def search(self, vector: Vectors, k: int) -> tuple[Scores, Rows]:
        (found,) = self.search_by_plan(vector, k, [self.probes(k)])
        return found.scores, found.rows

    def search_staged(self, vector: Vectors, k: int, stage_s: float) -> Iterator[Partial]:
        probes = self.probes(k)
        predicted_s = self._usual_vectors(probes) * self._s_per_vector
        return self.search_by_plan(vector, k, stage_ends(probes, predicted_s, stage_s))

    def search_by_plan(self, vector: Vectors, k: int, ends: Sequence[int]) -> Iterator[Partial]:
        """Finds the nearest lists once, then searches them in groups, nearest first (as RAGCache does).

        ``ends``: where each stage ends among the nearest lists, rising. Only the last one decides what is
        found in the end.
        """
        began_s = time.perf_counter()
        query, probes = np.ascontiguousarray(vector[np.newaxis, :], np.float32), ends[-1]
        nearness, lists = self._faiss.quantizer.search(query, probes)
        self._faiss.invlists.prefetch_lists(faiss.swig_ptr(lists), probes)
        most = self._candidates(k)
        found = (
            _Found(len(ends), most)
            if self._stored is None
            else _FoundByCode(len(ends), most, k, self._stored, vector)
        )
        searches = [
            (
                1,
                faiss.swig_ptr(query),
                most,
                faiss.swig_ptr(lists[0, start:end]),
                faiss.swig_ptr(nearness[0, start:end]),
                *room,
                False,
                _probing(end - start),
            )
            for start, end, room in zip([0, *ends], ends, found.of_stages, strict=False)
        ]
        took_s = 0.0
        for stage, search in enumerate(searches):
            # the C++ method: the Python one wants as many lists as the index has
            self._faiss.search_preassigned_c(*search)
            scores, rows = found.best(stage)
            took_s += time.perf_counter() - began_s
            if is_last := stage == len(ends) - 1:
                self._measured(took_s, self._usual_vectors(probes))
                scores, rows = self._filled(vector, k, probes, (scores, rows))
            yield Partial(scores, rows, is_last)
            began_s = time.perf_counter()

    def probes(self, k: int) -> int:
        """Lists that a search for ``k`` results looks into."""
        per_list = max(1, len(self)) / self._faiss.nlist
        needed = math.ceil(_CANDIDATES_PER_RESULT * k / per_list)
        return int(min(max(self._settings.probes, needed), self._faiss.nlist))

    @property
    def outgrown(self) -> bool:
        """Once as many vectors were added as it was trained on (it has doubled, or its contents were
        replaced), or when it has shrunk to half the size from which it is worth it."""
        return self._added >= 2 * self._trained_on or 2 * len(self) < self._settings.outgrown_below

    def structure(self) -> Structure | None:
        rows, lists = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
        inverted = self._faiss.invlists
        for number in range(self._faiss.nlist):
            if size := inverted.list_size(number):
                ids = inverted.get_ids(number)
                rows.append(faiss.rev_swig_ptr(ids, size).copy())
                inverted.release_ids(number, ids)
                lists.append(np.full(size, number, np.int32))
        order = np.argsort(np.concatenate(rows))
        return {
            "trained": self._trained,
            "lists": np.concatenate(lists)[order],
            "trained_on": np.array([self._trained_on]),
        }

    def _filled(
        self, vector: Vectors, k: int, probes: int, found: tuple[Scores, Rows]
    ) -> tuple[Scores, Rows]:
        """What was found, or if that is less than there is because the nearest lists are small, the best of
        all lists: who asks for ``k`` and gets fewer takes it that there are no more."""
        if len(found[1]) >= min(k, len(self)) or probes == self._faiss.nlist:
            return found
        (of_all,) = self.search_by_plan(vector, k, [self._faiss.nlist])
        return of_all.scores, of_all.rows

    def _candidates(self, k: int) -> int:
        return k if self._stored is None else min(k * self._settings.rerank_factor, max(k, len(self)))

    def _usual_vectors(self, lists: int) -> float:
        """That a search of so many lists compares, if all were of a size."""
        return float(len(self) * lists / self._faiss.nlist)

    def _measured(self, took_s: float, vectors: float) -> None:
        if vectors:
            self._s_per_vector += _MEASURED_WEIGHT * (took_s / vectors - self._s_per_vector)

    def _keep_lists_on_disk(self) -> None:
        folder = tempfile.mkdtemp(prefix="lists-", dir=self._settings.folder)
        lists = faiss.OnDiskInvertedLists(self._faiss.nlist, self._faiss.code_size, f"{folder}/lists")
        self._faiss.replace_invlists(lists, False)
        self._on_disk = lists  # FAISS does not own it
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)


@lru_cache(maxsize=1024)
def _probing(lists: int) -> Any:
    return _FAISS.SearchParametersIVF(nprobe=lists)


class _Found:
    """The best of each stage, and of all stages so far: by the scores of the lists, best first.

    FAISS writes and merges them, through pointers that are taken beforehand. A stage drives megabytes through
    the processor's caches, and whatever Python does after it takes several times as long as usual.
    """

    def __init__(self, stages: int, most: int) -> None:
        self.most = most
        self._scores = np.empty((2, stages, most), np.float32)
        self._labels = np.empty((2, stages, most), np.int64)
        self.of_stages, self._so_far = (
            [
                (faiss.swig_ptr(self._scores[part, stage]), faiss.swig_ptr(self._labels[part, stage]))
                for stage in range(stages)
            ]
            for part in (0, 1)
        )
        """Where scores and rows go: ``most``, row -1 where there are fewer."""

    def best(self, stage: int) -> tuple[Scores, Rows]:
        """[n], n <= most, of the stages until this one."""
        part = min(stage, 1)
        if stage:
            _FAISS.merge_knn_results_CMax(1, self.most, stage + 1, *self.of_stages[0], *self._so_far[stage])
        scores, labels = self._scores[part, stage], self._labels[part, stage]
        found = self.most if labels[-1] >= 0 else int(np.count_nonzero(labels >= 0))
        return scores[:found], labels[:found]


class _FoundByCode(_Found):
    """Compares what the codes say is best by the whole vectors, each once."""

    def __init__(self, stages: int, most: int, k: int, stored: StoredVectors, vector: Vectors) -> None:
        super().__init__(stages, most)
        self._k = k
        self._stored = stored
        self._vector = vector
        self._rows = np.empty(stages * most, np.int64)
        self._true_scores = np.full(stages * most, np.nan, np.float32)

    def best(self, stage: int) -> tuple[Scores, Rows]:
        """[n], n <= k."""
        # what is merged are places, by which true scores are found again
        places = np.arange(stage * self.most, (stage + 1) * self.most)
        labels = self._labels[0, stage]
        self._rows[places] = labels
        labels[:] = np.where(labels >= 0, places, -1)
        _, places = super().best(stage)
        new = places[np.isnan(self._true_scores[places])]
        # row by row: a matrix product may round a row differently beside other rows
        self._true_scores[new] = np.einsum("ij,j->i", self._stored[self._rows[new]], self._vector)
        return best(self._true_scores[places], self._rows[places], self._k)
