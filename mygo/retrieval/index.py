"""The vectors of one store under inner product: exact while few, inverted lists (IVF) when many."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any, TypeAlias

import faiss
import numpy as np
import numpy.typing as npt

Vectors: TypeAlias = npt.NDArray[np.float32]
"""float32, C-contiguous, [n, dimensions] or one vector [dimensions]; rows are L2-normalised."""
Rows: TypeAlias = npt.NDArray[np.int64]
"""Row ids, [n]. Chosen by the caller, unique within an index."""

_LISTS_PER_SQRT = 4
"""IVF lists = 4 * sqrt(vectors), the low end of what FAISS's guidelines advise below 10^6 vectors."""
_TRAINING_VECTORS_PER_LIST = 64
"""k-means needs about 39 per list; FAISS's default of 256 makes training several times slower."""


class IndexKind(StrEnum):
    EXACT = "exact"
    IVF = "ivf"


class VectorIndex:
    """Add, remove, search by row id.

    Searches may run at the same time as one another, but not as ``add`` or ``remove``. The kind
    never changes in place: when ``outgrown`` says so, ``rebuilt`` makes the successor.
    """

    def __init__(self, dimensions: int, *, ivf_from_vectors: int, ivf_probes: int) -> None:
        self._dimensions = dimensions
        self._ivf_from_vectors = ivf_from_vectors
        self._ivf_probes = ivf_probes
        # Any: FAISS's stubs lack what its Python layer adds (arrays of ids in remove_ids, DirectMap)
        self._faiss: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(dimensions))
        self._kind = IndexKind.EXACT
        self._trained_on = 0
        self._added_since_training = 0

    def __len__(self) -> int:
        return int(self._faiss.ntotal)

    def __repr__(self) -> str:
        return f"VectorIndex({self._kind}, vectors={len(self)}, trained_on={self._trained_on})"

    @property
    def kind(self) -> IndexKind:
        return self._kind

    def add(self, rows: Rows, vectors: Vectors) -> None:
        """``rows`` must be new. [n], [n, dimensions]."""
        self._faiss.add_with_ids(vectors, rows)
        self._added_since_training += len(rows)

    def remove(self, rows: Rows) -> None:
        """Every row must be there. O(vectors) when exact, O(rows) when IVF."""
        removed = self._faiss.remove_ids(rows)
        assert removed == len(rows), f"{len(rows) - removed} of {len(rows)} rows were not in {self!r}"

    def vectors(self, rows: Rows) -> Vectors:
        """The vectors of ``rows`` as they were added, bit for bit: [n, dimensions]."""
        if len(rows) == 0:
            return np.empty((0, self._dimensions), np.float32)
        return np.asarray(self._faiss.reconstruct_batch(rows), np.float32)

    def search(self, vector: Vectors, k: int) -> tuple[npt.NDArray[np.float32], Rows]:
        """The ``k`` nearest: (scores [m], rows [m]), m <= k, best first, ties in any order."""
        scores, rows = self._faiss.search(vector[np.newaxis, :], k)
        found = rows[0] >= 0  # FAISS pads with -1
        return scores[0][found], rows[0][found]

    @property
    def outgrown(self) -> bool:
        """Whether ``rebuilt`` would give an index that fits the present vectors better.

        An IVF index is due once as many vectors were added as it was trained on (it has doubled, or
        its contents were replaced), or when it has shrunk to half the size at which IVF begins.
        """
        if self._kind is IndexKind.EXACT:
            return len(self) >= self._ivf_from_vectors
        return self._added_since_training >= self._trained_on or 2 * len(self) < self._ivf_from_vectors

    def rebuilt(self, rows: Rows) -> VectorIndex:
        """A new index over ``rows`` (all that this one holds), of the kind that their number asks for.

        This index is only read, so it can be searched meanwhile; training takes seconds to minutes.
        """
        successor = VectorIndex(
            self._dimensions, ivf_from_vectors=self._ivf_from_vectors, ivf_probes=self._ivf_probes
        )
        vectors = self.vectors(rows)
        if len(rows) >= self._ivf_from_vectors:
            successor._become_ivf(vectors)
        if len(rows):
            successor._faiss.add_with_ids(vectors, rows)
        return successor

    def _become_ivf(self, vectors: Vectors) -> None:
        lists = min(len(vectors), round(_LISTS_PER_SQRT * math.sqrt(len(vectors))))
        ivf: Any = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(self._dimensions), self._dimensions, lists, faiss.METRIC_INNER_PRODUCT
        )
        ivf.cp.min_points_per_centroid = 1  # else FAISS prints a warning for stores of a few thousand
        ivf.cp.max_points_per_centroid = _TRAINING_VECTORS_PER_LIST
        ivf.train(vectors)
        # row id -> place in its list, so that removals and reconstruction need no scan
        ivf.set_direct_map_type(faiss.DirectMap.Hashtable)  # type: ignore[attr-defined]
        ivf.nprobe = min(self._ivf_probes, lists)
        self._faiss = ivf
        self._kind = IndexKind.IVF
        self._trained_on = len(vectors)
