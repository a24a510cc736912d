"""One ranking of two: by meaning (vectors) and by words (BM25)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mygo.types import ContentHash, DocId, Passage, ScoredPassage, StoreId

_RANK_OFFSET = 60
"""Of Cormack, Clarke and Buettcher, "Reciprocal rank fusion", SIGIR 2009."""
_FUSED_DEPTH = 50
"""Each ranking is at least so long, however few passages are wanted: what both have in their tails counts."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What each ranking counts; one at least is above 0."""

    vectors: float = 1.0
    words: float = 0.0

    def depth(self, k: int) -> int:
        """How long each ranking must be for the best ``k``."""
        return max(k, _FUSED_DEPTH) if self.words else k


def fuse(
    by_vector: Sequence[ScoredPassage], by_words: Sequence[ScoredPassage], weights: Weights
) -> list[ScoredPassage]:
    """Reciprocal rank fusion, best first; the scores of the rankings themselves do not matter.

    A passage scores the sum of weight / (60 + rank) over the rankings that have it, as a share of what the
    first of both would: 1 is the most. Ties are in the order of the first ranking, then the second.
    """
    shares: dict[tuple[StoreId | None, DocId, ContentHash], float] = {}
    passages: dict[tuple[StoreId | None, DocId, ContentHash], Passage] = {}
    best = (weights.vectors + weights.words) / (_RANK_OFFSET + 1)
    for ranking, weight in ((by_vector, weights.vectors), (by_words, weights.words)):
        for rank, scored in enumerate(ranking, 1):
            passage = scored.passage
            text_of_document = (passage.store_id, passage.doc_id, passage.content_hash)
            passages.setdefault(text_of_document, passage)
            share = weight / (_RANK_OFFSET + rank) / best
            shares[text_of_document] = shares.get(text_of_document, 0.0) + share
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    return [ScoredPassage(passages[key], min(1.0, share)) for key, share in ranked if share > 0]
