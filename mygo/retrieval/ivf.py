"""Inverted lists (IVF): only the lists nearest to the question are compared; as they are, or as PQ codes."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
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
_NO_LIST = -1
"""FAISS passes it by."""
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
        # each search names its lists; for those that it finds itself, FAISS wants this many names
        trained.nprobe = trained.nlist

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
        return self._filled(vector, k, self._searched(vector, k, self._probes(k)))

    def search_staged(self, vector: Vectors, k: int, stage_s: float) -> Iterator[Partial]:
        """Finds the nearest lists once, then searches them in groups, nearest first (as RAGCache does)."""
        probes = self._probes(k)
        ends = stage_ends(probes, self._usual_vectors(probes) * self._s_per_vector, stage_s)
        if len(ends) == 1:
            yield Partial(*self.search(vector, k), is_last=True)
            return
        query = vector[np.newaxis, :]
        nearness = np.zeros((1, self._faiss.nlist), np.float32)
        nearness[:, :probes], lists = self._faiss.quantizer.search(query, probes)
        found = _Found(self._candidates(k), are_coded=self._stored is not None)
        for start, end in zip([0, *ends], ends, strict=False):
            began_s = time.perf_counter()
            stage_lists = np.full_like(nearness, _NO_LIST, np.int64)
            stage_lists[0, start:end] = lists[0, start:end]
            new = found.add(*self._faiss.search_preassigned(query, found.most, stage_lists, nearness))
            if self._stored is None:
                scores, rows = found.scores[:k], found.rows[:k]
            else:
                found.true_scores[new] = self._true_scores(vector, found.rows[new])
                scores, rows = best(found.true_scores, found.rows, k)
            self._measured(time.perf_counter() - began_s, self._usual_vectors(end - start))
            if is_last := end == probes:
                scores, rows = self._filled(vector, k, (scores, rows))
            yield Partial(scores, rows, is_last)

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

    def _probes(self, k: int) -> int:
        """Lists to search for ``k`` results."""
        per_list = max(1, len(self)) / self._faiss.nlist
        needed = math.ceil(_CANDIDATES_PER_RESULT * k / per_list)
        return int(min(max(self._settings.probes, needed), self._faiss.nlist))

    def _searched(self, vector: Vectors, k: int, probes: int) -> tuple[Scores, Rows]:
        began_s = time.perf_counter()
        parameters = _FAISS.SearchParametersIVF(nprobe=probes)
        scores, rows = self._faiss.search(vector[np.newaxis, :], self._candidates(k), params=parameters)
        if self._stored is not None:
            rows = rows[:, rows[0] >= 0]
            scores = self._true_scores(vector, rows[0])[np.newaxis, :]
        self._measured(time.perf_counter() - began_s, self._usual_vectors(probes))
        return best(scores[0], rows[0], k)

    def _filled(self, vector: Vectors, k: int, found: tuple[Scores, Rows]) -> tuple[Scores, Rows]:
        """What was found, or if that is less than there is because the nearest lists are small, the best of
        all lists: who asks for ``k`` and gets fewer takes it that there are no more."""
        if len(found[1]) >= min(k, len(self)):
            return found
        return self._searched(vector, k, self._faiss.nlist)

    def _candidates(self, k: int) -> int:
        return k if self._stored is None else min(k * self._settings.rerank_factor, max(k, len(self)))

    def _true_scores(self, vector: Vectors, rows: Rows) -> Scores:
        """Row by row: a matrix product may round a row differently beside other rows."""
        assert self._stored is not None
        scores: Scores = np.einsum("ij,j->i", self._stored[rows], vector)
        return scores

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


class _Found:
    """The best candidates of the stages so far, by the scores of the lists, best first."""

    def __init__(self, most: int, *, are_coded: bool) -> None:
        self.most = most
        self._are_coded = are_coded
        self.scores = np.empty(0, np.float32)
        self.rows = np.empty(0, np.int64)
        self.true_scores = np.empty(0, np.float32)
        """Of coded candidates: what the caller has computed of them."""

    def add(self, scores: Scores, rows: Rows) -> Rows:
        """[1, most] each, as FAISS gives them: best first, row -1 where it found fewer. Returns the places
        of those that are new among the best."""
        count = int(np.count_nonzero(rows[0] >= 0))
        before = len(self.scores)
        if not before:
            self.scores, self.rows = scores[0, :count], rows[0, :count]
            self.true_scores = self.scores.copy()
            return np.arange(count)
        both = np.concatenate([self.scores, scores[0, :count]])
        order = np.argsort(-both, kind="stable")[: self.most]
        self.scores = both[order]
        self.rows = np.concatenate([self.rows, rows[0, :count]])[order]
        if self._are_coded:
            self.true_scores = np.concatenate([self.true_scores, scores[0, :count]])[order]
        return np.flatnonzero(order >= before)
