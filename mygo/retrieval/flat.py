"""Exact search: every vector is compared. What every store begins as."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from mygo.retrieval.index import IndexKind, Partial, Rows, Scores, Structure, Vectors, best


class FlatIndex:
    """All vectors in memory, [vectors, dimensions] float32; a removal moves what lies behind it."""

    kind = IndexKind.FLAT

    def __init__(self, dimensions: int, *, outgrown_from: int | None) -> None:
        """``outgrown_from``: vectors from which another kind is due; None for never."""
        self._dimensions = dimensions
        self._outgrown_from = outgrown_from
        # Any: FAISS's stubs lack what its Python layer adds (arrays of ids in remove_ids)
        self._faiss: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(dimensions))

    def __len__(self) -> int:
        return int(self._faiss.ntotal)

    def __repr__(self) -> str:
        return f"FlatIndex(vectors={len(self)})"

    def add(self, rows: Rows, vectors: Vectors) -> None:
        self._faiss.add_with_ids(vectors, rows)

    def remove(self, rows: Rows) -> None:
        removed = self._faiss.remove_ids(rows)
        assert removed == len(rows), f"{len(rows) - removed} of {len(rows)} rows were not in {self!r}"

    def vectors(self, rows: Rows) -> Vectors:
        if len(rows) == 0:
            return np.empty((0, self._dimensions), np.float32)
        return np.asarray(self._faiss.reconstruct_batch(rows), np.float32)

    def search(self, vector: Vectors, k: int) -> tuple[Scores, Rows]:
        scores, rows = self._faiss.search(vector[np.newaxis, :], k)
        return best(scores[0], rows[0], k)

    def search_staged(self, vector: Vectors, k: int, stage_s: float) -> Iterator[Partial]:
        yield Partial(*self.search(vector, k), is_last=True)

    @property
    def outgrown(self) -> bool:
        return self._outgrown_from is not None and len(self) >= self._outgrown_from

    def structure(self) -> Structure | None:
        return None
