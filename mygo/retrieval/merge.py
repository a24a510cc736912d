"""Merge rankings into one: of the stores within a shard, and of the shards of a cluster."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mygo.types import ContentHash, DocId, ScoredPassage, StoreId


@dataclass(frozen=True, slots=True)
class Stage:
    """What a search in one shard has found so far."""

    passages: tuple[ScoredPassage, ...]
    """Best first."""
    is_final: bool
    """Of the last stage, whose passages are those of a search in one go."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer of all shards to one search."""

    passages: tuple[ScoredPassage, ...]
    """Best first, every text at most once per document."""
    missing_shards: tuple[int, ...] = ()
    """Shards that did not answer in time: what they hold is not considered."""


def merge(rankings: Iterable[Iterable[ScoredPassage]], k: int) -> list[ScoredPassage]:
    """The best ``k`` of several rankings, best score first; the input order does not matter.

    Equal passages (by content hash) of one document count once, with their best score. Copies in other
    documents stay: which of them may be shown, only the caller knows. Equal scores are ordered by
    document, chunk and store. If every input holds the best ``k`` of its part, the result is the best
    ``k`` of the whole.
    """
    ranked = sorted((scored for ranking in rankings for scored in ranking), key=_rank)
    best: dict[tuple[StoreId | None, DocId, ContentHash], ScoredPassage] = {}
    for scored in ranked:
        if len(best) >= k:
            break
        passage = scored.passage
        best.setdefault((passage.store_id, passage.doc_id, passage.content_hash), scored)
    return list(best.values())


def _rank(scored: ScoredPassage) -> tuple[float, str, int, str, str]:
    passage = scored.passage
    return -scored.score, passage.doc_id, passage.index, passage.store_id or "", passage.content_hash
