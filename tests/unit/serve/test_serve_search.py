"""Search asks for more while filters thin the result out, and stops when more cannot help."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayError

from mygo.api.service import Attributes, Retrieval
from mygo.config import parse
from mygo.filters import Comparison, Filter, matches
from mygo.retrieval import Stage
from mygo.retrieval.shard import Documents
from mygo.serve import search
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
            answer = method(*args)
            return await answer if inspect.isawaitable(answer) else answer

        return type("Method", (), {"remote": staticmethod(answer)})


class Corpus:
    """Documents 0, 1, ... with falling scores; ``asked`` has the number of passages of each search, and
    ``among`` the documents that it is about (None: all).

    ``hanging_shards`` lie beside the shard that has them, which hangs itself when it is asked for
    ``hangs_from_k`` or more. ``attributes`` of a deleted document are None. ``texts``: all different unless
    given. ``most_matching``: if more documents match a filter, the librarian does not name them; None: never.
    """

    def __init__(
        self,
        scores: Sequence[float],
        attributes: Sequence[Attributes | None],
        texts: Sequence[str] | None = None,
        rerank: Callable[[str, list[str]], Any] | None = None,
        timeout_s: float = 5.0,
        most_matching: int | None = None,
        passages_each: int = 1,
        hangs_from_k: float = math.inf,
        hanging_shards: int = 0,
    ) -> None:
        self.asked: list[int] = []
        self.among: list[list[str] | None] = []
        self.matching_asked = 0
        self.hung = 0
        self.embedded: list[str] = []
        self.position = self.shard_position = 1
        self.attributes = list(attributes)
        passages = [
            ScoredPassage(
                Passage(DocId(str(i // passages_each)), i % passages_each, text, ContentHash(text), STORE),
                score,
            )
            for i, (score, text) in enumerate(zip(scores, texts or map(str, range(len(scores))), strict=True))
        ]

        def search(
            stores: Sequence[StoreId],
            vector: Any,
            k: int,
            question: str | None,
            documents: Documents | None = None,
        ) -> Stage:
            self.asked.append(k)
            self.among.append(None if documents is None else sorted(documents.get(STORE, ())))
            found = [
                each
                for each in passages
                if documents is None or each.passage.doc_id in documents.get(STORE, ())
            ]
            # by words, it is the other way round
            by_words = [ScoredPassage(each.passage, 1 - each.score) for each in reversed(found)]
            words = tuple(by_words[:k]) if question else ()
            return Stage(tuple(found[:k]), True, words, self.shard_position)

        def search_among(documents: Documents, vector: Any, k: int, question: str | None) -> Stage:
            return search([*documents], vector, k, question, documents)

        def matching(tenant: TenantId, stores: Sequence[StoreId], condition: Filter) -> Documents | None:
            assert list(stores) == [STORE]
            self.matching_asked += 1
            passing = [
                DocId(str(i))
                for i, held in enumerate(self.attributes)
                if held is not None and matches(condition, held)
            ]
            few = most_matching is not None and len(passing) <= most_matching
            return {STORE: passing} if few else None

        def describe(documents: Sequence[tuple[StoreId, DocId]]) -> list[Attributes | None]:
            return [self.attributes[int(document)] for _, document in documents]

        def embed_query(text: str) -> Any:
            self.embedded.append(text)
            return np.ones(2, np.float32)

        def authorize(tenant: TenantId, stores: Sequence[StoreId]) -> tuple[list[Reuse | None], int]:
            return [Reuse.EXACT for _ in stores], self.position

        librarian = Part(authorize=authorize, describe=describe, matching=matching)
        embedder = Part(embed_query=embed_query)
        reranker = Part(scores=rerank) if rerank else None
        config = parse({"retrieval": {"timeout_s": timeout_s}})

        async def search_or_hang(
            stores: Sequence[StoreId], vector: Any, k: int, question: str | None
        ) -> Stage:
            if k >= hangs_from_k:
                await asyncio.sleep(60)
            return search(stores, vector, k, question)

        async def hang(*_: Any) -> None:
            self.hung += 1
            await asyncio.sleep(60)

        shards = [Part(search=search_or_hang, search_among=search_among)]
        shards += [Part(search=hang, search_among=hang)] * hanging_shards
        self._searcher = Searcher(config, librarian, embedder, shards, reranker)  # type: ignore[arg-type]

    def search(self, question: str = "question", tenant: str = "t", **wanted: Any) -> Found:
        retrieval = Retrieval(store_ids=(STORE,), top_k=4, **wanted)
        return asyncio.run(self._searcher.search(TenantId(tenant), question, retrieval))


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


def test_what_was_found_is_shown_when_a_wider_look_is_late() -> None:
    few = [{"state": "kept" if i < 2 else "old"} for i in range(1000)]
    corpus = Corpus([1 - i / 1000 for i in range(1000)], few, timeout_s=0.1, hangs_from_k=100)
    found = corpus.search(filters=Comparison("state", "eq", "kept"))
    assert ids(found) == ["0", "1"] and found.is_final
    assert found.degraded == (search.LATE,)
    assert corpus.asked == [4, 16, 64]


def test_shard_that_hangs_is_waited_for_once_however_often_a_search_looks_further() -> None:
    last = [{"user": "x" if i >= 2000 else "y"} for i in range(3000)]
    corpus = Corpus([1 - i / 3000 for i in range(3000)], last, timeout_s=0.1, hanging_shards=1)
    found = corpus.search(filters=user_is("x"))
    assert ids(found) == ["2000", "2001", "2002", "2003"]
    assert len(corpus.asked) == 6 and corpus.hung == 1
    assert [each for each in found.degraded if "shard 1" in each]


def test_attributes_of_other_documents_are_told_where_they_are_asked_for() -> None:
    corpus = Corpus([0.9, 0.8, 0.1], [{"n": 0}, {"n": 1}, None, {"n": 3}])
    retrieval = Retrieval(store_ids=(STORE,), top_k=1)
    also = [(STORE, DocId("3")), (STORE, DocId("2")), (STORE, DocId("0"))]
    found = asyncio.run(corpus._searcher.search(TenantId("t"), "question", retrieval, also))
    assert ids(found) == ["0"]
    assert found.attributes == {(STORE, "0"): {"n": 0}, (STORE, "3"): {"n": 3}}


def test_filter_is_asked_once_per_document(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Attributes] = []

    def counted(condition: Filter, attributes: Attributes) -> bool:
        asked.append(attributes)
        return matches(condition, attributes)

    monkeypatch.setattr(search, "matches", counted)
    users: list[Attributes | None] = [{"user": "x"}, {"user": "y"}]
    corpus = Corpus([1 - i / 10 for i in range(8)], users, passages_each=4)
    assert ids(corpus.search(filters=user_is("x"))) == ["0"] * 4
    assert asked == [{"user": "x"}]


def user_is(user: str) -> Comparison:
    return Comparison("user", "eq", user)


def test_search_behind_a_narrow_filter_takes_two_rounds_however_large_the_store_is() -> None:
    users = [{"user": "x" if i in (700, 800, 900) else "y"} for i in range(1000)]
    corpus = Corpus([1 - i / 1000 for i in range(1000)], users, most_matching=5)
    assert ids(corpus.search(filters=user_is("x"))) == ["700", "800", "900"]
    assert (corpus.asked, corpus.matching_asked) == ([4, 4], 1)
    assert corpus.among == [None, ["700", "800", "900"]]
    assert ids(corpus.search(filters=user_is("z"))) == []
    assert corpus.among[2:] == [[]]  # the first round was known


def test_search_goes_through_the_store_when_too_many_match() -> None:
    users = [{"user": "x" if i >= 500 else "y"} for i in range(1000)]
    corpus = Corpus([1 - i / 1000 for i in range(1000)], users, most_matching=5)
    assert ids(corpus.search(filters=user_is("x"))) == ["500", "501", "502", "503"]
    assert (corpus.asked, corpus.matching_asked) == ([4, 16, 64, 256, 1024], 1)
    assert corpus.among == [None] * 5


def test_librarian_is_not_asked_what_matches_when_the_first_round_is_enough() -> None:
    corpus = Corpus([0.9] * 10, [{"user": "x"}] * 10, most_matching=100)
    assert len(ids(corpus.search(filters=user_is("x")))) == 4
    corpus.search()
    assert corpus.matching_asked == 0


def test_narrow_search_asks_for_more_when_copies_fill_it() -> None:
    texts = ["other"] * 20 + ["same"] * 10 + ["b", "c", "d"]
    users = [{"user": "y"}] * 20 + [{"user": "x"}] * 13
    corpus = Corpus([1 - i / 100 for i in range(33)], users, texts, most_matching=13)
    assert ids(corpus.search(filters=user_is("x"))) == ["20", "30", "31", "32"]
    assert corpus.asked == [4, 4, 16]


def test_narrow_search_shows_nothing_that_stopped_matching_meanwhile() -> None:
    """Scenario: a result is remembered; then a document is deleted and another changes its owner."""
    users: list[Attributes | None] = [{"user": "y"}] * 20 + [{"user": "x"}] * 4
    corpus = Corpus([1 - i / 100 for i in range(24)], users, most_matching=4)
    assert ids(corpus.search(filters=user_is("x"))) == ["20", "21", "22", "23"]
    corpus.attributes[20], corpus.attributes[21] = None, {"user": "y"}
    corpus.attributes[0] = {"user": "x"}
    assert ids(corpus.search(filters=user_is("x"))) == ["0", "22", "23"]


def test_narrow_result_is_known_again_for_the_same_documents_only() -> None:
    users: list[Attributes | None] = [{"user": "y"}] * 20 + [{"user": "x"}] * 2 + [{"user": "z"}] * 2
    corpus = Corpus([1 - i / 100 for i in range(24)], users, most_matching=4)
    for _ in range(2):
        assert ids(corpus.search(filters=user_is("x"))) == ["20", "21"]
        assert ids(corpus.search(filters=user_is("z"))) == ["22", "23"]
    assert corpus.asked == [4, 4, 4]


def test_words_rank_among_what_matches_when_that_is_little() -> None:
    users: list[Attributes | None] = [{"user": "y"}] * 200 + [{"user": "x"}] * 3
    corpus = Corpus([1 - i / 1000 for i in range(203)], users, most_matching=4)
    found = corpus.search(filters=user_is("x"), embedding_weight=0.0, text_weight=1.0)
    assert ids(found) == ["202", "201", "200"]
    found = corpus.search(filters=user_is("x"), embedding_weight=1.0, text_weight=1.0)
    assert ids(found) == ["200", "202", "201"]


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
    st.sampled_from([None, 5, 1000]),
)
def test_search_is_the_best_of_what_may_be_shown(
    documents: list[tuple[str, Attributes | None]],
    filtered: bool,
    min_score: float | None,
    most_matching: int | None,
) -> None:
    """The naive model: filter everything there is, then keep the first of each text."""
    scores = [1 - i / 100 for i in range(len(documents))]
    best: dict[str, str] = {}
    for i, (text, attributes) in enumerate(documents):
        wanted = not filtered or (attributes or {}).get("user") == "y"
        if attributes is not None and wanted and scores[i] >= (min_score or 0):
            best.setdefault(text, str(i))
    corpus = Corpus(
        scores,
        [attributes for _, attributes in documents],
        [text for text, _ in documents],
        most_matching=most_matching,
    )
    found = corpus.search(filters=Comparison("user", "eq", "y") if filtered else None, min_score=min_score)
    assert ids(found) == list(best.values())[:4]


def test_hybrid_search_ranks_by_words_too() -> None:
    corpus = Corpus([0.9, 0.8, 0.7], [{}] * 3)
    # the middle one is second in both rankings
    found = corpus.search(embedding_weight=1.0, text_weight=1.0)
    assert ids(found) == ["0", "2", "1"]
    assert corpus.asked == [50]
    assert all(0 < scored.score <= 1 for scored in found.passages)
    assert ids(corpus.search(embedding_weight=0.0, text_weight=1.0)) == ["2", "1", "0"]


class Stages:
    """Like ``Part``, of one shard that finds better passages stage by stage."""

    def __init__(self, passages: Sequence[ScoredPassage]) -> None:
        self._passages = passages

    def options(self, *, stream: bool) -> Any:
        async def stages(stores: Any, vector: Any, k: int, question: Any) -> Any:
            for found in (2, 3):
                yield Stage(tuple(self._passages[-found:][:k]), False)
            yield Stage(tuple(self._passages[:k]), True)

        class Stream:
            def __init__(self, *arguments: Any) -> None:
                self._stages = stages(*arguments)

            def __aiter__(self) -> Any:
                return self._stages

            def cancel(self) -> None: ...

        return type("Handle", (), {"stages": type("Method", (), {"remote": staticmethod(Stream)})})

    @property
    def search(self) -> Any:
        async def in_one_go(stores: Any, vector: Any, k: int, question: Any) -> Stage:
            return Stage(tuple(self._passages[:k]), True)

        return type("Method", (), {"remote": staticmethod(in_one_go)})

    @property
    def search_among(self) -> Any:
        async def among(documents: Documents, vector: Any, k: int, question: Any) -> Stage:
            found = [each for each in self._passages if each.passage.doc_id in documents[STORE]]
            return Stage(tuple(found[:k]), True)

        return type("Method", (), {"remote": staticmethod(among)})


@pytest.mark.parametrize("narrowed", [None, {STORE: [DocId("1"), DocId("3"), DocId("5"), DocId("7")]}])
def test_stages_show_only_what_may_be_shown_and_the_last_is_final(narrowed: Documents | None) -> None:
    """Scenario: a filter leaves too few of the first four, so that a wider search follows."""
    passages = [
        ScoredPassage(Passage(DocId(str(i)), 0, str(i), ContentHash(str(i)), STORE), 1 - i / 10)
        for i in range(8)
    ]
    attributes: list[Attributes | None] = [{"odd": i % 2 == 1} for i in range(8)]
    attributes[3] = None
    librarian = Part(
        authorize=lambda tenant, stores: ([None], 1),
        describe=lambda documents: [attributes[int(document)] for _, document in documents],
        matching=lambda tenant, stores, condition: narrowed,
    )
    config = parse({"retrieval": {"stage_s": 0.001}})
    embedder = Part(embed_query=lambda text: np.ones(2, np.float32))
    searcher = Searcher(config, librarian, embedder, [Stages(passages)])  # type: ignore[arg-type,list-item]
    wanted = Retrieval(store_ids=(STORE,), top_k=4, filters=Comparison("odd", "eq", True))

    async def collected() -> list[Found]:
        return [found async for found in searcher.stages(TenantId("t"), "question", wanted)]

    stages = asyncio.run(collected())
    assert [found.is_final for found in stages] == [False] * (len(stages) - 1) + [True]
    assert len(stages) > 1
    assert all(int(document) % 2 and document != "3" for found in stages for document in ids(found))
    assert ids(stages[-1]) == ["1", "5", "7"]
    assert ids(asyncio.run(searcher.search(TenantId("t"), "question", wanted))) == ["1", "5", "7"]


def test_equal_question_is_not_searched_again_until_the_journal_goes_on() -> None:
    corpus = Corpus([0.9, 0.8, 0.7, 0.6, 0.5], [{}] * 5)
    assert ids(corpus.search()) == ids(corpus.search()) == ["0", "1", "2", "3"]
    assert (corpus.asked, corpus.embedded) == ([4], ["question"])
    # what is deleted or has other attributes since is honoured all the same
    corpus.attributes[0] = None
    assert "0" not in ids(corpus.search())
    asked = len(corpus.asked)
    corpus.search("another question")
    corpus.search(text_weight=1.0)
    assert len(corpus.asked) > asked + 1
    asked = len(corpus.asked)
    corpus.position = corpus.shard_position = 2
    corpus.search()
    assert len(corpus.asked) > asked


def test_equal_question_is_searched_again_when_another_tenant_asks_it() -> None:
    corpus = Corpus([0.9, 0.8, 0.7, 0.6, 0.5], [{}] * 5)
    assert ids(corpus.search()) == ids(corpus.search(tenant="another"))
    assert (corpus.asked, corpus.embedded) == ([4, 4], ["question"] * 2)


def test_result_is_not_kept_when_the_shard_had_not_come_so_far() -> None:
    corpus = Corpus([0.9] * 9, [{}] * 9)
    corpus.position = 5
    corpus.search()
    corpus.search()
    assert corpus.asked == [4, 4]
    corpus.shard_position = 5
    corpus.search()
    corpus.search()
    assert corpus.asked == [4, 4, 4]


def test_reranker_has_the_last_word_on_more_candidates_than_are_asked_for() -> None:
    def last_is_best(question: str, texts: list[str]) -> list[float]:
        assert question == "question"
        return [int(text) / 100 for text in texts]

    corpus = Corpus([1 - i / 100 for i in range(100)], [{}] * 100, rerank=last_is_best)
    found = corpus.search()
    assert corpus.asked == [24]
    assert ids(found) == ["23", "22", "21", "20"]
    assert [scored.score for scored in found.passages] == [0.23, 0.22, 0.21, 0.2]
    # the threshold is of the reranker's scores
    assert ids(corpus.search(min_score=0.22)) == ["23", "22"]
    assert ids(corpus.search(rerank=False)) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("error", [RayError("gone"), ValueError("too long"), TimeoutError()])
def test_passages_keep_their_order_and_say_so_when_the_reranker_fails(error: Exception) -> None:
    def failing(question: str, texts: list[str]) -> list[float]:
        raise error

    corpus = Corpus([0.9, 0.8, 0.1], [{}] * 3, rerank=failing)
    found = corpus.search()
    assert ids(found) == ["0", "1", "2"]
    assert any("reranker" in each for each in found.degraded)
    assert ids(corpus.search(min_score=0.5)) == ["0", "1"]


def test_passages_keep_their_order_when_the_reranker_is_late() -> None:
    async def late(*args: Any) -> Any:
        await asyncio.sleep(60.0)

    corpus = Corpus([0.9, 0.8], [{}] * 2, rerank=late, timeout_s=0.01)
    found = corpus.search()
    assert ids(found) == ["0", "1"]
    assert any("reranker" in each for each in found.degraded)
