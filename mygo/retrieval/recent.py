"""Results of recent questions, for equal and, if wanted, nearly equal ones, while the corpus is the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from mygo.retrieval.index import Vectors
from mygo.retrieval.merge import SearchResult

LONGEST_KEPT_CHARS = 4_000
"""Of a question that is remembered; longer ones are hardly asked again."""
_MOST_CHARS = 50_000_000
"""Of all questions and results that are kept."""
_MOST_PASSAGES = 256
"""Of a result that is kept: a search behind a narrow filter may go through a whole store."""


@dataclass(frozen=True, slots=True)
class _Known:
    vector: Vectors
    result: SearchResult
    chars: int


class RecentResults:
    """The last ``capacity`` results at one position of the journal; a later position forgets them all.

    An update or a delete is therefore honoured by the first search that begins after its acknowledgement.
    Fewer than ``capacity`` are kept when they are long. Not thread-safe.
    """

    def __init__(self, capacity: int, similarity: float) -> None:
        """``similarity``: cosine from which a question's result serves another one; 1: equal texts only."""
        self._capacity = capacity
        self._similarity = similarity
        self._position = 0
        self._known: OrderedDict[tuple[Hashable, str], _Known] = OrderedDict()
        """By (what else decides the result, question); the longest unused first."""
        self._chars = 0

    def __len__(self) -> int:
        return len(self._known)

    def find(self, position: int, scope: Hashable, question: str, vector: Vectors) -> SearchResult | None:
        """``position``: of the journal, read after the search began. ``scope``: all that decides a result
        besides the question. Of several questions that are near enough, the nearest."""
        if position != self._position:
            return None
        key = (scope, question)
        if key not in self._known and self._similarity < 1:
            key = self._nearest(scope, vector) or key
        if key not in self._known:
            return None
        self._known.move_to_end(key)
        return self._known[key].result

    def remember(
        self, position: int, scope: Hashable, question: str, vector: Vectors, result: SearchResult
    ) -> None:
        """``position``: as of ``find`` for the same search. A result that lacks a shard, or in which one had
        not come so far, is not kept, nor one that is long or of a long question."""
        is_whole = result.is_final and not result.missing_shards and result.position >= position
        is_long = len(question) > LONGEST_KEPT_CHARS or len(result.passages) > _MOST_PASSAGES
        if not self._capacity or not is_whole or is_long:
            return
        if position < self._position:
            return
        if position > self._position:
            self._known.clear()
            self._chars = 0
            self._position = position
        if former := self._known.pop((scope, question), None):
            self._chars -= former.chars
        chars = len(question) + sum(len(scored.passage.text) for scored in result.passages)
        self._known[scope, question] = _Known(vector, result, chars)
        self._chars += chars
        while len(self._known) > self._capacity or self._chars > _MOST_CHARS:
            _, unused = self._known.popitem(last=False)
            self._chars -= unused.chars

    def _nearest(self, scope: Hashable, vector: Vectors) -> tuple[Hashable, str] | None:
        keys = [key for key in self._known if key[0] == scope]
        if not keys:
            return None
        likeness = np.stack([self._known[key].vector for key in keys]) @ vector
        nearest = int(np.argmax(likeness))
        return keys[nearest] if likeness[nearest] >= self._similarity else None
