"""The passages of a store that are nearest to a question, all ties included; of the whole store or a part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeAlias

import numpy as np

from mygo.retrieval.index import Partial, Rows, Scores, VectorIndex, Vectors, best
from mygo.types import Passage, ScoredPassage

SPARE_CANDIDATES = 16
"""Fetched beyond k, so that a few duplicates or ties do not cost a second look-up."""
_SCORE_NOISE = 1e-5
"""More than float32 rounding moves an inner product of unit vectors, less than a real difference."""
_COMPARED_AT_ONCE = 4_096
"""Vectors, copied out of an index: 6 MB of 384 dimensions."""
CheckCancelled: TypeAlias = Callable[[], None]
"""Raises if nobody waits for the search any more."""


class Searched(Protocol):
    """What is asked of a ``VectorIndex`` here."""

    def __len__(self) -> int: ...

    def vectors(self, rows: Rows) -> Vectors: ...

    def search(self, vector: Vectors, k: int) -> tuple[Scores, Rows]: ...

    def search_staged(self, vector: Vectors, k: int, stage_s: float) -> Iterator[Partial]: ...


class Chosen:
    """Some rows of an index, of which every one is compared, whatever the index's kind."""

    def __init__(self, index: VectorIndex, rows: Rows, check_cancelled: CheckCancelled) -> None:
        """``rows`` [n] must be there."""
        self._index = index
        self._rows = rows
        self._check_cancelled = check_cancelled

    def __len__(self) -> int:
        return len(self._rows)

    def vectors(self, rows: Rows) -> Vectors:
        return self._index.vectors(rows)

    def search(self, vector: Vectors, k: int) -> tuple[Scores, Rows]:
        scores = np.empty(len(self._rows), np.float32)
        for start in range(0, len(self._rows), _COMPARED_AT_ONCE):
            self._check_cancelled()
            part = slice(start, start + _COMPARED_AT_ONCE)
            scores[part] = self._index.vectors(self._rows[part]) @ vector
        return best(scores, self._rows, k)

    def search_staged(self, vector: Vectors, k: int, stage_s: float) -> Iterator[Partial]:
        yield Partial(*self.search(vector, k), is_last=True)


def nearest_staged(
    index: Searched,
    passages: Mapping[int, Passage],
    vector: Vectors,
    k: int,
    stage_s: float,
    check_cancelled: CheckCancelled,
) -> Iterator[tuple[list[int], list[ScoredPassage], bool]]:
    """(rows and passages of the best so far, whether that was the last stage). The last is a superset of the
    best ``k`` texts of documents that the index finds, all ties included.

    ``passages``: by row, of all that the index holds.
    """
    fetched = min(k + SPARE_CANDIDATES, len(index))
    check_cancelled()
    for scores, rows, is_last in index.search_staged(vector, fetched, stage_s):
        if is_last:
            rows = _with_all_ties(index, passages, vector, k, scores, rows, fetched, check_cancelled)
        yield rows.tolist(), _scored(index, passages, vector, rows), is_last


def _with_all_ties(
    index: Searched,
    passages: Mapping[int, Passage],
    vector: Vectors,
    k: int,
    scores: Scores,
    rows: Rows,
    fetched: int,
    check_cancelled: CheckCancelled,
) -> Rows:
    """Fetch more until ``k`` distinct texts are clear of what was not fetched."""
    while len(rows) == fetched and fetched < len(index):
        # what was not fetched scores at most scores[-1], give or take rounding
        clear = rows[scores > scores[-1] + _SCORE_NOISE]
        candidates = (passages[row] for row in clear.tolist())
        if len({(passage.doc_id, passage.content_hash) for passage in candidates}) >= k:
            break
        check_cancelled()
        fetched = min(4 * fetched, len(index))
        scores, rows = index.search(vector, fetched)
    return rows


def _scored(
    index: Searched, passages: Mapping[int, Passage], vector: Vectors, rows: Rows
) -> list[ScoredPassage]:
    # row by row: a matrix product may round equal rows differently
    exact = (index.vectors(rows).astype(np.float64) * vector).sum(axis=1).clip(-1.0, 1.0)
    return [
        ScoredPassage(passages[row], score) for row, score in zip(rows.tolist(), exact.tolist(), strict=True)
    ]
