"""Search asks for more while filters thin the result out, and stops when more cannot help."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mygo.api.filters import Comparison
from mygo.api.service import Attributes, Retrieval
from mygo.config import Config
from mygo.serve.search import Found, Searcher
from mygo.types import ContentHash, DocId, Passage, ScoredPassage, StoreId, TenantId

STORE = StoreId("vs_1")


class Part:
    """A deployment handle whose methods run here."""

    def __init__(self, **methods: Callable[..., Any]) -> None:
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        method = self._methods[name]

        async def answer(*args: Any) -> Any:
            return method(*args)

        return type("Method", (), {"remote": staticmethod(answer)})


class Corpus:
    """Documents 0, 1, ... with falling scores; ``asked`` has the number of passages of each search."""

    def __init__(self, scores: Sequence[float], attributes: Sequence[Attributes]) -> None:
        self.asked: list[int] = []
        passages = [
            ScoredPassage(Passage(DocId(str(i)), 0, str(i), ContentHash(str(i)), STORE), score)
            for i, score in enumerate(scores)
        ]

        def search(stores: Sequence[StoreId], vector: Any, k: int) -> list[ScoredPassage]:
            self.asked.append(k)
            return passages[:k]

        def describe(documents: Sequence[tuple[StoreId, DocId]]) -> list[Attributes]:
            return [attributes[int(document)] for _, document in documents]

        librarian = Part(authorize=lambda tenant, stores: None, describe=describe)
        embedder = Part(embed_query=lambda text: np.ones(2, np.float32))
        self._searcher = Searcher(Config(), librarian, embedder, [Part(search=search)])  # type: ignore[arg-type,list-item]

    def search(self, **wanted: Any) -> Found:
        retrieval = Retrieval(store_ids=(STORE,), top_k=4, **wanted)
        return asyncio.run(self._searcher.search(TenantId("t"), "question", retrieval))


def ids(found: Found) -> list[str]:
    return [scored.passage.doc_id for scored in found.passages]


def test_search_asks_once_when_the_rest_scores_below_the_threshold() -> None:
    corpus = Corpus([0.9, 0.8] + [0.1] * 998, [{}] * 1000)
    assert ids(corpus.search(min_score=0.5)) == ["0", "1"]
    assert corpus.asked == [4]


def test_search_goes_on_when_a_filter_leaves_too_few() -> None:
    corpus = Corpus([1 - i / 100 for i in range(100)], [{"odd": i % 8 == 7} for i in range(100)])
    assert ids(corpus.search(filters=Comparison("odd", "eq", True))) == ["7", "15", "23", "31"]
    assert corpus.asked == [4, 16, 64]


def test_search_ends_when_there_is_no_more() -> None:
    corpus = Corpus([0.9] * 10, [{}] * 10)
    assert ids(corpus.search(filters=Comparison("odd", "eq", True))) == []
    assert corpus.asked == [4, 16]
