from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from retrieval_cases import DIMENSIONS, EXACT_ONLY, embed, naive_search, passages, shard_config

from mygo.retrieval import Shard, owner
from mygo.retrieval.contents import StoreContents
from mygo.retrieval.flat import FlatIndex
from mygo.retrieval.index import IndexKind, VectorIndex, Vectors
from mygo.retrieval.kinds import IndexBuilder
from mygo.retrieval.nearest import Chosen
from mygo.retrieval.texts import PassageTexts
from mygo.types import DocId, Passage, ScoredPassage, StoreId

A, B = StoreId("vs_a"), StoreId("vs_b")


def make_shard(**settings: Any) -> Shard:
    return Shard(DIMENSIONS, index=0, config=shard_config(**settings))


def put(shard: Shard, doc: str, *texts: str, store: StoreId = A) -> None:
    shard.upsert(store, DocId(doc), passages(doc, texts, store), embed(texts))


def found(shard: Shard, query: str, k: int, *stores: StoreId) -> list[tuple[str, int]]:
    results = shard.search(frozenset(stores or {A}), embed([query])[0], k)
    return [(scored.passage.doc_id, scored.passage.index) for scored in results]


def by_store(named: Iterable[tuple[StoreId, DocId]]) -> dict[StoreId, list[DocId]]:
    documents: dict[StoreId, list[DocId]] = {}
    for store, document in named:
        documents.setdefault(store, []).append(document)
    return documents


class ShardAgainstNaive(RuleBasedStateMachine):
    """Any history of updates gives what scoring everything would give, in the same order."""

    documents = st.sampled_from([DocId(f"file-{n}") for n in range(6)])
    stores = st.sampled_from([A, B])
    # few texts, some with equal vectors: duplicates and ties are the rule here
    texts = st.lists(st.sampled_from([f"{n}|{m}" for n in range(6) for m in range(3)]), max_size=6)

    @initialize(approximate_from_vectors=st.sampled_from([1, 4, 8, EXACT_ONLY]))
    def start(self, approximate_from_vectors: int) -> None:
        self.approximate_from_vectors = approximate_from_vectors
        self.shard = make_shard(approximate_from_vectors=approximate_from_vectors)
        self.held: dict[tuple[StoreId, DocId], list[Passage]] = {}

    @rule(store=stores, doc=documents, texts=texts)
    def upsert(self, store: StoreId, doc: DocId, texts: list[str]) -> None:
        put(self.shard, doc, *texts, store=store)
        self.held[store, doc] = passages(doc, texts, store)

    @rule(store=stores, doc=documents)
    def delete(self, store: StoreId, doc: DocId) -> None:
        self.shard.delete(store, doc)
        self.held.pop((store, doc), None)

    @rule(store=stores)
    def drop_store(self, store: StoreId) -> None:
        self.shard.drop_store(store)
        self.held = {key: value for key, value in self.held.items() if key[0] != store}

    @rule(stores=st.frozensets(stores), query=st.sampled_from("0123x"), k=st.integers(1, 40))
    def search(self, stores: frozenset[StoreId], query: str, k: int) -> None:
        vector = embed([query])[0]
        held = [p for (store, _), ps in self.held.items() if store in stores for p in ps]
        assert self.shard.search(stores, vector, k) == naive_search(held, vector, k)
        assert self.shard.count(stores) == len(held)

    @rule(
        named=st.frozensets(st.tuples(stores, documents)),
        stores=st.frozensets(stores),
        query=st.sampled_from("0123x"),
        k=st.integers(1, 40),
    )
    def search_among(
        self, named: frozenset[tuple[StoreId, DocId]], stores: frozenset[StoreId], query: str, k: int
    ) -> None:
        vector = embed([query])[0]
        held = [p for key, ps in self.held.items() if key in named and key[0] in stores for p in ps]
        (stage,) = self.shard.search_staged(stores, vector, k, 0.0, documents=by_store(named))
        assert list(stage.passages) == naive_search(held, vector, k)

    @invariant()
    def knows_only_vectors_of_held_texts(self) -> None:
        held = {p.content_hash: p.text for ps in self.held.values() for p in ps}
        known = self.shard.known_vectors([*held, *(p.content_hash for p in passages("x", ["never held"]))])
        assert known.keys() <= held.keys()
        for content_hash, vector in known.items():
            assert np.array_equal(vector, embed([held[content_hash]])[0])

    @rule()
    def rebuild(self) -> None:
        while self.shard.rebuild_outgrown():
            pass
        for store in (A, B):
            vectors = self.shard.count(frozenset({store}))
            if vectors >= self.approximate_from_vectors:
                assert self.shard.kind(store) is IndexKind.IVF
            if 2 * vectors < self.approximate_from_vectors:
                assert self.shard.kind(store) is IndexKind.FLAT


ShardAgainstNaive.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
test_shard_equals_naive_search_after_any_history = ShardAgainstNaive.TestCase


def test_search_finds_k_texts_when_a_document_repeats_the_best_one() -> None:
    shard = make_shard()
    put(shard, "file", *["best"] * 100, "second", "third")
    assert found(shard, "best", 3)[0] == ("file", 0)
    assert {index for _, index in found(shard, "best", 3)} == {0, 100, 101}


def test_search_finds_every_document_that_has_the_best_text() -> None:
    shard = make_shard()
    for number in reversed(range(100)):
        put(shard, f"copy-{number:03}", "best", "best")
    put(shard, "other", "second")
    assert found(shard, "best", 3) == [(f"copy-{number:03}", 0) for number in range(3)]
    assert len(found(shard, "best", 200)) == 101


def test_search_orders_ties_by_document_when_inserted_in_another_order() -> None:
    shard = make_shard()
    for number in reversed(range(60)):
        put(shard, f"tie-{number:02}", f"same|{number}")
    assert found(shard, "same", 5) == [(f"tie-{number:02}", 0) for number in range(5)]


def test_search_orders_by_exact_scores_when_float32_cannot_tell_vectors_apart() -> None:
    shard = make_shard()
    texts = [f"text {number}" for number in range(300)]
    base = embed(["base"])[0]
    noise = np.random.default_rng(1).standard_normal((300, DIMENSIONS)) * 5e-8
    vectors = (base + noise).astype(np.float32)
    shard.upsert(A, DocId("file"), passages("file", texts), vectors)
    for query in embed([f"query {number}" for number in range(50)]):
        exact = (vectors.astype(np.float64) * query).sum(axis=1)
        expected = np.lexsort((np.arange(300), -exact))[:5].tolist()
        assert [s.passage.index for s in shard.search({A}, query, 5)] == expected


def test_search_sees_no_other_store_when_one_is_named() -> None:
    shard = make_shard()
    put(shard, "secret", "question", store=B)
    put(shard, "mine", "something else")
    assert found(shard, "question", 10, A) == [("mine", 0)]
    assert found(shard, "question", 10, StoreId("vs_unknown")) == []


@pytest.mark.parametrize("vectors", [300, 3000])
def test_ivf_recall_is_total_when_all_lists_are_probed(vectors: int) -> None:
    shard = make_shard(approximate_from_vectors=100)
    texts = [f"text {number}" for number in range(vectors)]
    shard.fill(StoreContents(A, len(texts), passages("file", texts), [embed(texts)]))
    assert shard.rebuild_outgrown()
    assert shard.kind(A) is IndexKind.IVF
    query = embed(["query"])[0]
    expected = np.argsort(-(embed(texts) @ query))[:20].tolist()
    assert [s.passage.index for s in shard.search({A}, query, 20)] == expected


def test_ivf_search_misses_some_but_few_when_few_lists_are_probed() -> None:
    shard = make_shard(approximate_from_vectors=100, ivf_probes=16)
    texts = [f"text {number}" for number in range(2000)]
    shard.fill(StoreContents(A, len(texts), passages("file", texts), [embed(texts)]))
    assert shard.rebuild_outgrown()
    everything = embed(texts)
    hits = 0
    for number in range(20):
        query = embed([f"query {number}"])[0]
        best = set(np.argsort(-(everything @ query))[:10].tolist())
        hits += len(best & {s.passage.index for s in shard.search({A}, query, 10)})
    assert 0.5 < hits / 200 < 1.0


def test_ivf_is_trained_again_when_it_has_doubled() -> None:
    shard = make_shard(approximate_from_vectors=100)
    trained_on = []
    for number in range(400):
        put(shard, f"file-{number}", f"text {number}")
        shard.rebuild_outgrown()
        trained_on.append(repr(shard._stores[A].index).partition("trained_on=")[2])
    assert list(dict.fromkeys(trained_on)) == ["", "100)", "200)", "400)"]


@pytest.mark.parametrize("index", ["ivf", "ivfpq", "hnsw", "gpu"])
def test_rebuilt_index_has_the_updates_that_came_while_it_was_built(
    index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = make_shard(index=index, approximate_from_vectors=300, pq_bytes=8)
    for number in range(40):
        put(shard, f"old-{number:02}", *(f"old {number} {chunk}" for chunk in range(10)))
    real_built = IndexBuilder.built

    def built(builder: IndexBuilder, sample: Vectors, vectors: int) -> VectorIndex:
        """As long as this runs, an index is being built: nothing waits for it."""
        for number in range(10):
            shard.delete(A, DocId(f"old-{number:02}"))
            put(shard, f"old-{number + 10:02}", f"changed {number}")
            put(shard, f"new-{number:02}", f"new {number}")
        assert found(shard, "changed 3", 1) == [("old-13", 0)]
        return real_built(builder, sample, vectors)

    monkeypatch.setattr(IndexBuilder, "built", built)
    monkeypatch.setattr("mygo.retrieval.shard._COPIED_AT_ONCE", 16)
    monkeypatch.setattr("mygo.retrieval.shard._COPIED_LAST", 5)
    assert shard.rebuild_outgrown()
    assert shard.kind(A) == index
    assert len(shard) == 200 + 20
    for number in range(10):
        assert found(shard, f"changed {number}", 1) == [(f"old-{number + 10:02}", 0)]
        assert found(shard, f"new {number}", 1) == [(f"new-{number:02}", 0)]
        assert found(shard, f"old {number} 3", 1) != [(f"old-{number:02}", 3)]
    assert found(shard, "old 25 3", 1) == [("old-25", 3)]


def test_rebuild_is_given_up_when_its_store_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = make_shard(approximate_from_vectors=10)
    put(shard, "old", *(f"text {number}" for number in range(20)))
    real_built = IndexBuilder.built

    def built(builder: IndexBuilder, sample: Vectors, vectors: int) -> VectorIndex:
        shard.drop_store(A)
        put(shard, "new", "text 3")
        return real_built(builder, sample, vectors)

    monkeypatch.setattr(IndexBuilder, "built", built)
    assert shard.rebuild_outgrown()
    assert found(shard, "text 3", 5) == [("new", 0)]
    assert not shard.rebuild_outgrown()


def test_stores_are_rebuilt_in_turn_when_one_fails_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = make_shard(approximate_from_vectors=10)
    real_built = IndexBuilder.built
    attempts: list[int] = []

    def built(builder: IndexBuilder, sample: Vectors, vectors: int) -> VectorIndex:
        attempts.append(vectors)
        if vectors == 20:
            raise OSError("no room")
        return real_built(builder, sample, vectors)

    monkeypatch.setattr(IndexBuilder, "built", built)
    put(shard, "failing", *(f"text {number}" for number in range(20)))
    put(shard, "other", *(f"text {number}" for number in range(30)), store=B)
    for _ in range(2):
        with pytest.raises(OSError, match="no room"):
            shard.rebuild_outgrown()
        assert attempts[-1] == 20
        if len(attempts) == 1:
            assert shard.rebuild_outgrown()
    assert attempts == [20, 30, 20]
    assert (shard.kind(A), shard.kind(B)) == (IndexKind.FLAT, IndexKind.IVF)


def test_last_stage_is_the_search_in_one_go_when_stores_differ_in_size_and_kind() -> None:
    shard = make_shard(approximate_from_vectors=100, ivf_probes=20)
    put(shard, "large", *(f"{number % 50}|{number}" for number in range(2000)))
    put(shard, "small", *(f"{number % 5}|{number}" for number in range(60)), store=B)
    assert shard.rebuild_outgrown()
    for number in range(40):
        query = embed([f"query {number}"])[0]
        for stores in ({A}, {B}, {A, B}):
            once = shard.search(stores, query, 7)
            *earlier, last = shard.search_staged(stores, query, 7, stage_s=0.0)
            assert list(last.passages) == once
            assert last.is_final and not any(stage.is_final for stage in earlier)
            assert (len(earlier) > 0) == (A in stores)
    assert [stage.is_final for stage in shard.search_staged({StoreId("vs_x")}, query, 7, 0.0)] == [True]


@pytest.mark.parametrize("index", ["flat", "ivf", "ivfpq", "hnsw"])
def test_search_among_documents_is_exact_when_the_index_is_not(index: str) -> None:
    shard = make_shard(
        index=index, approximate_from_vectors=300, ivf_probes=1, pq_bytes=1, rerank_factor=1, hnsw_ef_search=1
    )
    held = {}
    for number in range(200):
        doc = DocId(f"file-{number:03}")
        # copies within a document and in others, and ties
        texts = [f"{number * chunk}|{number % 3}" for chunk in range(6)]
        put(shard, doc, *texts)
        held[doc] = passages(doc, texts, A)
    shard.rebuild_outgrown()
    assert shard.kind(A) == index
    for number in range(0, 200, 7):  # forgotten nodes of a graph, holes in lists
        shard.delete(A, DocId(f"file-{number:03}"))
        del held[DocId(f"file-{number:03}")]
    drawn = np.random.default_rng(0)
    missed = 0
    for number in range(60):
        query = embed([f"query {number}"])[0]
        chosen = [DocId(f"file-{n:03}") for n in drawn.choice(200, size=1 + number * 3, replace=False)]
        k = int(drawn.integers(1, 30))
        expected = naive_search([p for doc in chosen for p in held.get(doc, [])], query, k)
        (stage,) = shard.search_staged({A}, query, k, 0.0, documents={A: chosen, B: chosen})
        assert list(stage.passages) == expected
        whole = naive_search([p for each in held.values() for p in each], query, k)
        missed += shard.search({A}, query, k) != whole
    assert (missed > 0) == (index != "flat")


def test_words_among_documents_rank_as_in_the_whole_store() -> None:
    shard = make_shard()
    drawn = np.random.default_rng(0)
    words = ["lynx", "fox", "owl", "bear", "wolf"]
    for store in (A, B):
        for number in range(40):
            texts = [" ".join(drawn.choice(words, size=4)) for _ in range(5)]
            put(shard, f"file-{number:02}", *texts, store=store)
    query = embed(["query"])[0]

    def by_words(k: int, documents: dict[StoreId, list[DocId]] | None) -> list[ScoredPassage]:
        (stage,) = shard.search_staged({A, B}, query, k, 1.0, "lynx or wolf", documents)
        return list(stage.by_words)

    everything = by_words(10**4, None)
    for size in (0, 1, 5, 40):
        chosen = {store: [DocId(f"file-{n:02}") for n in drawn.permutation(40)[:size]] for store in (A, B)}
        expected = [s for s in everything if s.passage.doc_id in chosen[s.passage.store_id or A]]
        assert by_words(10**4, chosen) == expected
        # cut where no tie is cut
        for k in range(1, len(expected)):
            if expected[k - 1].score > expected[k].score:
                assert by_words(k, chosen) == expected[:k]


def test_update_goes_on_when_a_staged_search_is_given_up() -> None:
    shard = make_shard(approximate_from_vectors=100)
    put(shard, "large", *(f"text {number}" for number in range(200)))
    shard.rebuild_outgrown()
    search = shard.search_staged({A}, embed(["query"])[0], 5, stage_s=0.0)
    assert not next(search).is_final
    search.close()
    put(shard, "later", "query")
    assert found(shard, "query", 1) == [("later", 0)]


@pytest.mark.parametrize("documents", [None, {A: [DocId(f"file-{number}") for number in range(500)]}])
def test_search_ends_at_its_next_step_when_it_is_cancelled(
    documents: dict[StoreId, list[DocId]] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario: ties that take several look-ups, and more texts than are read at once."""
    shard = make_shard()
    for number in range(500):
        put(shard, f"file-{number}", "lynx")
    steps: list[str] = []

    def count(part: type, name: str) -> None:
        real = getattr(part, name)

        def counted(*arguments: Any) -> Any:
            steps.append(f"{part.__name__}.{name}")
            return real(*arguments)

        monkeypatch.setattr(part, name, counted)

    count(FlatIndex, "search")
    count(Chosen, "search")
    count(PassageTexts, "search")
    count(PassageTexts, "texts")

    class Cancelled(Exception):
        pass

    def search(most_steps: int) -> None:
        def check() -> None:
            if len(steps) >= most_steps:
                raise Cancelled

        steps.clear()
        query = embed(["lynx"])[0]
        list(shard.search_staged({A}, query, 200, 1.0, "lynx", documents, check))

    search(1000)
    whole = list(steps)
    assert len(whole) >= 7 and len(set(whole)) == 3, "words, vectors, texts"
    for most_steps in range(len(whole)):
        with pytest.raises(Cancelled):
            search(most_steps)
        assert steps == whole[:most_steps]
    put(shard, "later", "fox")


def test_words_follow_updates_and_stay_in_their_store() -> None:
    shard = make_shard()
    put(shard, "mine", "lynx and fox", "fox")
    put(shard, "other", "lynx", store=B)

    def by_words(question: str | None, store: StoreId = A) -> list[tuple[str, int]]:
        (stage,) = shard.search_staged({store}, embed(["query"])[0], 10, 1.0, question)
        return [(scored.passage.doc_id, scored.passage.index) for scored in stage.by_words]

    assert by_words("lynx") == [("mine", 0)]
    assert by_words("fox") == [("mine", 1), ("mine", 0)]
    assert by_words("lynx", B) == [("other", 0)]
    assert by_words(None) == []
    put(shard, "mine", "badger")
    assert by_words("fox") == []
    assert by_words("badger") == [("mine", 0)]
    shard.delete(A, DocId("mine"))
    assert by_words("badger") == []
    shard.drop_store(B)
    assert by_words("lynx", B) == []


def test_words_find_k_texts_when_a_document_repeats_the_best_one() -> None:
    shard = make_shard()
    put(shard, "copies", *["lynx"] * 100)
    put(shard, "other", "lynx and a fox in the snow")
    (stage,) = shard.search_staged({A}, embed(["query"])[0], 2, 1.0, "lynx")
    assert [scored.passage.doc_id for scored in stage.by_words] == ["copies", "other"]


@pytest.mark.parametrize("failing", ["add", "remove", "drop"])
def test_update_can_be_tried_again_when_its_texts_could_not_be_written(
    monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    shard = make_shard()
    put(shard, "first", "lynx")
    put(shard, "second", "fox")
    query = embed(["lynx"])[0]

    def searched() -> set[str]:
        (stage,) = shard.search_staged({A}, query, 5, 1.0, "lynx fox owl")
        found = {each.passage.text for each in stage.passages}
        assert {each.passage.text for each in stage.by_words} == found
        assert len(shard) == len(stage.passages)
        return found

    def update() -> None:
        if failing == "add":
            put(shard, "third", "owl")
        elif failing == "remove":
            shard.delete(A, DocId("first"))
        else:
            shard.drop_store(A)

    def no_room(*args: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(PassageTexts, failing, no_room)
        with pytest.raises(sqlite3.OperationalError):
            update()
        assert searched() == {"lynx", "fox"}
    update()
    assert searched() == {"add": {"lynx", "fox", "owl"}, "remove": {"fox"}, "drop": set()}[failing]


def test_words_are_not_found_in_rows_that_an_index_did_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = make_shard()
    put(shard, "first", "lynx")

    def no_room(*args: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(FlatIndex, "add", no_room)
        with pytest.raises(OSError, match="no space"):
            put(shard, "second", "lynx and fox")
    (stage,) = shard.search_staged({A}, embed(["lynx"])[0], 5, 1.0, "lynx")
    assert [each.passage.text for each in stage.by_words] == ["lynx"]
    put(shard, "second", "lynx and fox")
    (stage,) = shard.search_staged({A}, embed(["lynx"])[0], 5, 1.0, "lynx")
    assert [each.passage.text for each in stage.by_words] == ["lynx", "lynx and fox"]


def test_words_are_not_searched_when_there_is_no_index_of_them() -> None:
    shard = make_shard(words=False)
    put(shard, "file", "lynx")
    (stage,) = shard.search_staged({A}, embed(["query"])[0], 10, 1.0, "lynx")
    assert stage.by_words == ()


def test_owner_is_stable_and_spreads_documents() -> None:
    # another value here moves the documents of existing clusters
    assert [owner(A, DocId(f"file-{n}"), 4) for n in range(6)] == [0, 2, 3, 1, 0, 0]
    counts = np.bincount([owner(A, DocId(f"file-{n}"), 4) for n in range(4000)], minlength=4)
    assert counts.min() > 900
    # store and document are told apart, whatever their border
    assert len({owner(StoreId("ab"[:n]), DocId("ab"[n:]), 2**40) for n in range(3)}) == 3


def test_upsert_refuses_a_document_when_it_belongs_to_another_shard() -> None:
    doc = DocId("file-1")
    shard = Shard(DIMENSIONS, index=1 - owner(A, doc, 2), config=shard_config(2))
    with pytest.raises(AssertionError, match="file-1"):
        shard.upsert(A, doc, passages(doc, ["text"]), embed(["text"]))


def test_searches_see_whole_documents_when_updates_and_training_run_beside_them() -> None:
    """Each document has five chunks of one version; versions alternate while four threads search."""
    shard = make_shard(approximate_from_vectors=40)
    stop = threading.Event()
    problems: list[str] = []

    def search_until_stopped() -> None:
        try:
            search_repeatedly()
        except Exception as error:
            problems.append(repr(error))

    def search_repeatedly() -> None:
        while not stop.is_set():
            by_doc: dict[str, list[str]] = {}
            for scored in shard.search({A}, embed(["query"])[0], 10**6):
                by_doc.setdefault(scored.passage.doc_id, []).append(scored.passage.text.split()[0])
            problems.extend(
                f"{doc}: {texts}" for doc, texts in by_doc.items() if len(texts) != 5 or len(set(texts)) != 1
            )

    def rebuild_until_stopped() -> None:
        while not stop.is_set():
            shard.rebuild_outgrown()

    threads = [threading.Thread(target=search_until_stopped) for _ in range(4)]
    threads.append(threading.Thread(target=rebuild_until_stopped))
    switch_interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns everywhere, not only inside FAISS
    for thread in threads:
        thread.start()
    try:
        for step in range(150):
            doc = f"file-{step * 7 % 20}"
            if step % 10 == 9:
                shard.delete(A, DocId(doc))
            else:
                put(shard, doc, *(f"v{step} {doc} {chunk}" for chunk in range(5)))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(switch_interval_s)
    assert not problems
    assert len(shard) == 5 * len({s.passage.doc_id for s in shard.search({A}, embed(["q"])[0], 10**6)})
