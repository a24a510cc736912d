"""Filtered searches through the real catalog and real shards are what filtering everything would give."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from mygo.api.service import Retrieval
from mygo.config import parse
from mygo.corpus import Delete, Library, PageRequest
from mygo.filters import Comparison, Compound, Filter, matches
from mygo.retrieval import Replayer, Shard, Stage
from mygo.serve.search import Found, Searcher
from mygo.types import PUBLIC, DocId, StoreId, TenantId

ACME, RIVAL = TenantId("acme"), TenantId("rival")
DIMENSIONS, SHARDS, FILES, TOP_K = 16, 2, 300, 5
PAGE = PageRequest(limit=10**4)


class Remote:
    """A deployment handle over functions."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        for name, function in functions.items():

            async def remote(*arguments: Any, function: Callable[..., Any] = function) -> Any:
                return function(*arguments)

            setattr(self, name, type("Method", (), {"remote": staticmethod(remote)}))


class Corpus:
    """Files of 40 users in a public store; some texts are in the files of several."""

    def __init__(self, folder: Path, index: str) -> None:
        faiss.omp_set_num_threads(1)
        settings = {
            "shards": SHARDS, "index": index, "approximate_from_vectors": 100, "ivf_probes": 1,
            "hnsw_ef_search": 4, "stage_s": 0,
        }  # fmt: skip
        config = parse({"retrieval": settings})
        self.library = Library(folder, lambda name, data: data.decode().split("\n"))
        self.catalog = self.library.catalog
        self.store = self.catalog.create_store(ACME, domain=PUBLIC).id
        self.users: dict[DocId, str] = {}
        with self.catalog._database.transaction():  # one wait for the disk
            for number in range(FILES):
                texts = f"{number}\nshared {number // 3}"
                file = self.catalog.add_file(ACME, "a.txt", texts.encode()).id
                self.users[file] = f"user-{number * 7 % 40}"
                attributes = {"user": self.users[file], "year": 2000 + number % 10}
                self.catalog.attach(ACME, self.store, file, attributes=attributes)
            while self.library.process_next():
                pass
        self.shards = [Shard(DIMENSIONS, index=i, config=config.retrieval) for i in range(SHARDS)]
        self.replayers = [Replayer(shard, delete_type=Delete) for shard in self.shards]
        self.rounds: list[bool] = []
        """Of each search in a shard: whether it was among given documents."""
        self.follow()
        for shard in self.shards:
            assert shard.rebuild_outgrown() == (index != "flat")
        librarian = Remote(
            authorize=lambda tenant, stores: (
                [self.catalog.get_store(tenant, store).reuse for store in stores],
                self.library.journal.position(),
            ),
            describe=self.catalog.attributes_of,
            matching=lambda tenant, stores, condition: self.catalog.matching(
                tenant, stores, condition, 20, 1000
            ),
        )
        handles = [
            Remote(search=self.searching(number), search_among=self.searching_among(number))
            for number in range(SHARDS)
        ]
        embedder = Remote(embed_query=lambda text: embedded([text])[0])
        self.searcher = Searcher(config, librarian, embedder, handles)  # type: ignore[arg-type]

    def follow(self) -> None:
        for replayer in self.replayers:
            entries = self.library.journal.read(replayer.position, 10**6)
            texts = replayer.texts_to_embed(entries)
            replayer.apply(entries, embedded(texts) if texts else None)

    def searching(self, number: int) -> Callable[..., Stage]:
        def search(stores: Sequence[StoreId], vector: Any, k: int, question: str | None) -> Stage:
            self.rounds.append(False)
            (stage,) = self.shards[number].search_staged(frozenset(stores), vector, k, 1.0, question)
            return stage

        return search

    def searching_among(self, number: int) -> Callable[..., Stage]:
        def search(documents: Any, vector: Any, k: int, question: str | None) -> Stage:
            self.rounds.append(True)
            stores = frozenset(documents)
            (stage,) = self.shards[number].search_staged(stores, vector, k, 1.0, question, documents)
            return stage

        return search

    def search(self, question: str, condition: Filter, tenant: TenantId = ACME) -> list[str]:
        wanted = Retrieval(store_ids=(self.store,), top_k=TOP_K, filters=condition)
        found: Found = asyncio.run(self.searcher.search(tenant, question, wanted))
        for scored in found.passages:
            assert matches(condition, found.attributes_of(scored))
        return [scored.passage.text for scored in found.passages]

    def naive(self, question: str, condition: Filter) -> list[str]:
        files, _ = self.catalog.list_store_files(ACME, self.store, PAGE)
        texts: dict[str, None] = {}
        for file in files:
            if matches(condition, file.attributes):
                texts.update(dict.fromkeys(self.catalog.passages(ACME, self.store, file.file_id)))
        scores = embedded(list(texts)) @ embedded([question])[0] if texts else np.empty(0)
        return [list(texts)[i] for i in np.argsort(-scores, kind="stable")[:TOP_K]]


def embedded(texts: Sequence[str]) -> Any:
    """[texts, DIMENSIONS], the same for the same text."""
    drawn = np.stack(
        [np.random.default_rng(list(text.encode())).standard_normal(DIMENSIONS) for text in texts]
    )
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def user_is(number: int) -> Comparison:
    return Comparison("user", "eq", f"user-{number}")


@pytest.fixture(params=["flat", "ivf", "hnsw"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Corpus]:
    corpus = Corpus(tmp_path, request.param)
    yield corpus
    corpus.library.close()


def test_narrow_filter_finds_all_that_passes_in_two_rounds_in_every_kind_of_index(corpus: Corpus) -> None:
    conditions: list[Filter] = [
        user_is(3),
        Compound("and", (user_is(5), Comparison("year", "ne", 2003))),
        Compound("or", (user_is(5), user_is(6))),
        Comparison("user", "in", ("user-1", "user-9", "nobody")),
        Comparison("user", "eq", "nobody"),
    ]
    for number in range(8):
        for condition in conditions:
            corpus.rounds.clear()
            question = f"question {number}"
            assert corpus.search(question, condition, RIVAL) == corpus.naive(question, condition)
            assert corpus.rounds == [False] * SHARDS + [True] * SHARDS or (
                corpus.rounds == [True] * SHARDS  # the first round was known
            )


def test_narrow_filter_follows_what_was_acknowledged(corpus: Corpus) -> None:
    catalog, condition = corpus.catalog, user_is(3)
    mine = [file for file, user in corpus.users.items() if user == "user-3"]
    other = next(file for file, user in corpus.users.items() if user == "user-4")
    assert corpus.search("question", condition) == corpus.naive("question", condition)
    catalog.set_attributes(ACME, corpus.store, mine[0], {"user": "user-4"})
    catalog.set_attributes(ACME, corpus.store, other, {"user": "user-3"})
    catalog.detach(ACME, corpus.store, mine[1])  # the shards do not know it yet
    for _ in range(2):
        expected = corpus.naive("question", condition)
        assert corpus.search("question", condition) == expected
        corpus.follow()
