"""Search asks for more while filters thin the result out, and stops when more cannot help."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mygo.api.filters import Comparison
from mygo.api.service import Attributes, Retrieval
from mygo.config import Config
from mygo.serve.search import Found, Searcher
from mygo.types import ContentHash, DocId, Passage, Reuse, ScoredPassage, StoreId, TenantId

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
    """Documents 0, 1, ... with falling scores; ``asked`` has the number of passages of each search.

    ``attributes`` of a deleted document are None. ``texts``: all different unless given.
    """

    def __init__(
        self,
        scores: Sequence[float],
        attributes: Sequence[Attributes | None],
        texts: Sequence[str] | None = None,
    ) -> None:
        self.asked: list[int] = []
        passages = [
            ScoredPassage(Passage(DocId(str(i)), 0, text, ContentHash(text), STORE), score)
            for i, (score, text) in enumerate(zip(scores, texts or map(str, range(len(scores))), strict=True))
        ]

        def search(stores: Sequence[StoreId], vector: Any, k: int) -> list[ScoredPassage]:
            self.asked.append(k)
            return passages[:k]

        def describe(documents: Sequence[tuple[StoreId, DocId]]) -> list[Attributes | None]:
            return [attributes[int(document)] for _, document in documents]

        librarian = Part(authorize=lambda tenant, stores: [Reuse.EXACT for _ in stores], describe=describe)
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


def test_search_says_what_the_stores_allow() -> None:
    assert Corpus([0.9], [{}]).search().reuse == (Reuse.EXACT,)


def test_search_goes_on_when_a_filter_leaves_too_few() -> None:
    corpus = Corpus([1 - i / 100 for i in range(100)], [{"odd": i % 8 == 7} for i in range(100)])
    assert ids(corpus.search(filters=Comparison("odd", "eq", True))) == ["7", "15", "23", "31"]
    assert corpus.asked == [4, 16, 64]


def test_search_ends_when_there_is_no_more() -> None:
    corpus = Corpus([0.9] * 10, [{}] * 10)
    assert ids(corpus.search(filters=Comparison("odd", "eq", True))) == []
    assert corpus.asked == [4, 16]


def test_search_finds_the_copy_that_the_filter_wants_when_another_file_has_the_same_text() -> None:
    corpus = Corpus([0.9, 0.9], [{"user": "x"}, {"user": "y"}], ["same", "same"])
    assert ids(corpus.search(filters=Comparison("user", "eq", "y"))) == ["1"]
    assert ids(corpus.search(filters=Comparison("user", "eq", "x"))) == ["0"]
    assert ids(corpus.search()) == ["0"]


def test_search_finds_the_live_copy_when_another_was_deleted() -> None:
    corpus = Corpus([0.9, 0.9], [None, {}], ["same", "same"])
    assert ids(corpus.search()) == ["1"]


def test_search_is_not_filled_by_copies_of_one_text() -> None:
    corpus = Corpus([0.9] * 50 + [0.5, 0.4, 0.3], [{}] * 53, ["same"] * 50 + ["b", "c", "d"])
    assert ids(corpus.search()) == ["0", "50", "51", "52"]
    assert corpus.asked == [4, 16, 64]


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdefgh"),
            st.sampled_from([None, {}, {"user": "x"}, {"user": "y"}]),
        ),
        max_size=60,
    ),
    st.booleans(),
    st.sampled_from([None, 0.3, 0.8]),
)
def test_search_is_the_best_of_what_may_be_shown(
    documents: list[tuple[str, Attributes | None]], filtered: bool, min_score: float | None
) -> None:
    """The naive model: filter everything there is, then keep the first of each text."""
    scores = [1 - i / 100 for i in range(len(documents))]
    best: dict[str, str] = {}
    for i, (text, attributes) in enumerate(documents):
        wanted = not filtered or (attributes or {}).get("user") == "y"
        if attributes is not None and wanted and scores[i] >= (min_score or 0):
            best.setdefault(text, str(i))
    corpus = Corpus(scores, [attributes for _, attributes in documents], [text for text, _ in documents])
    found = corpus.search(filters=Comparison("user", "eq", "y") if filtered else None, min_score=min_score)
    assert ids(found) == list(best.values())[:4]
