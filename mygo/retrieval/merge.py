"""Merge rankings into one: of the stores within a shard, and of the shards of a cluster."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mygo.retrieval.fusion import Weights, fuse
from mygo.types import ContentHash, DocId, ScoredPassage, StoreId


@dataclass(frozen=True, slots=True)
class Stage:
    """What a search in one shard has found so far."""

    passages: tuple[ScoredPassage, ...]
    """Nearest first."""
    is_final: bool
    """Of the last stage, whose passages are those of a search in one go."""
    by_words: tuple[ScoredPassage, ...] = ()
    """Best by BM25 first, with its scores; the same in every stage."""
    position: int = 0
    """Of the journal, that the shard had come to at least."""
    is_replaying: bool = False
    """The shard has started, and does not know yet all that was in the corpus by then."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer of all shards to one search, so far or in the end."""

    passages: tuple[ScoredPassage, ...]
    """Best first, every text at most once per document."""
    missing_shards: tuple[int, ...] = ()
    """Shards that did not answer in time, whose passages are not considered; and those that have started and
    do not know all of theirs yet."""
    is_final: bool = True
    position: int = 0
    """Of the journal, that all these shards had come to at least."""
    is_recent: bool = False
    """Kept of an earlier search: nothing was searched."""
    lost_shards: tuple[int, ...] = ()
    """Those of the missing ones that did not answer."""


class ShardStages:
    """Puts the stages of several shards together: one result whenever all have come a stage further.

    Shards that have ended, or are lost, hold up nobody. What a lost shard had found is left out.
    """

    def __init__(self, shards: int, k: int, weights: Weights) -> None:
        self._k = k
        self._weights = weights
        self._latest: dict[int, Stage] = {}
        self._stages = dict.fromkeys(range(shards), 0)
        """Of the shards that go on."""
        self._missing: set[int] = set()
        self._lost: set[int] = set()
        self._given = 0

    def add(self, shard: int, stage: Stage) -> None:
        self._latest[shard] = stage
        if stage.is_replaying:
            self._missing.add(shard)
        if stage.is_final:
            del self._stages[shard]
        else:
            self._stages[shard] += 1

    def lose(self, shard: int) -> None:
        self._latest.pop(shard, None)
        if self._stages.pop(shard, None) is not None:
            self._missing.add(shard)
            self._lost.add(shard)

    @property
    def is_final(self) -> bool:
        return not self._stages

    @property
    def found_by_none(self) -> bool:
        """Whether every shard is lost."""
        return self.is_final and not self._latest

    def result(self) -> SearchResult | None:
        """None until all shards that go on have come further than at the last result."""
        complete = min(self._stages.values(), default=self._given + 1)
        if complete <= self._given:
            return None
        self._given = complete
        depth = self._weights.depth(self._k)
        ranked = merge((stage.passages for stage in self._latest.values()), depth)
        if self._weights.words:
            by_words = merge((stage.by_words for stage in self._latest.values()), depth)
            ranked = fuse(ranked, by_words, self._weights)[: self._k]
        position = min((stage.position for stage in self._latest.values()), default=0)
        missing, lost = (tuple(sorted(shards)) for shards in (self._missing, self._lost))
        return SearchResult(tuple(ranked), missing, self.is_final, position, lost_shards=lost)


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
