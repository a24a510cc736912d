"""What every index of one store's vectors can do, whatever its kind; inner product of unit vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Vectors: TypeAlias = npt.NDArray[np.float32]
"""float32, C-contiguous, [n, dimensions] or one vector [dimensions]; rows are L2-normalised."""
Rows: TypeAlias = npt.NDArray[np.int64]
"""Row ids, [n]. Chosen by the caller, unique within an index."""
Scores: TypeAlias = npt.NDArray[np.float32]
"""Inner products, [n]."""
Structure: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""What it took long to compute (centroids, lists, links), as arrays; never the only copy of a vector."""


class IndexKind(StrEnum):
    FLAT = "flat"
    IVF = "ivf"
    IVFPQ = "ivfpq"
    HNSW = "hnsw"
    GPU = "gpu"


class Partial(NamedTuple):
    """The best that a search has found so far, best first."""

    scores: Scores
    rows: Rows
    is_last: bool


class VectorIndex(Protocol):
    """Add, remove, search by row id.

    Searches may run at the same time as one another, but not as ``add`` or ``remove``. The kind never
    changes in place: when ``outgrown`` says so, ``kinds.IndexBuilder`` makes a successor.
    """

    @property
    def kind(self) -> IndexKind: ...

    def __len__(self) -> int:
        """Vectors that a search can find."""
        ...

    def add(self, rows: Rows, vectors: Vectors) -> None:
        """``rows`` [n] rise, and are greater than all that were ever added; ``vectors`` [n, dimensions]."""
        ...

    def remove(self, rows: Rows) -> None:
        """Every row must be there; a search that begins later does not find it."""
        ...

    def vectors(self, rows: Rows) -> Vectors:
        """The vectors of ``rows`` as they were added, bit for bit: [n, dimensions]."""
        ...

    def search(self, vector: Vectors, k: int) -> tuple[Scores, Rows]:
        """The ``k`` nearest that the index finds: (scores [m], rows [m]), m <= k, best first, ties in any
        order. Scores are exact to float32."""
        ...

    def search_staged(self, vector: Vectors, k: int, stage_s: float) -> Iterator[Partial]:
        """The best so far after each stage of about ``stage_s``; the last is what ``search`` gives,
        score for score. Of vectors that are equally near at the end of the ``k`` best (by their codes, of
        candidates), it may name others: ``Shard`` asks for all ties and orders them.

        Kinds that look at the most promising vectors first have several stages, others one. No update may
        come between the stages.
        """
        ...

    @property
    def outgrown(self) -> bool:
        """Whether an index built anew would fit the present vectors better."""
        ...

    def structure(self) -> Structure | None:
        """For a snapshot of the live vectors in the order of their rows; None if there is none to save."""
        ...


def best(scores: Scores, rows: Rows, k: int) -> tuple[Scores, Rows]:
    """The ``k`` best of [n] candidates, best first. FAISS pads with row -1: such are left out."""
    found = rows >= 0
    scores, rows = scores[found], rows[found]
    order = np.argsort(-scores, kind="stable")[:k]
    return scores[order], rows[order]
