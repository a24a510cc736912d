"""Staged and hybrid retrieval over real shards, with engines that only take time."""

from __future__ import annotations

import io
from collections.abc import Iterator

import openai
import pytest
from conftest import MODEL, mygo_of
from openai import OpenAI

from benchmarks.cluster import running_cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RETRIEVAL = {"approximate_from_vectors": 20, "ivf_probes": 100, "stage_s": 1e-9}
# vectors order only what words leave open: the texts here are all alike to an embedder
HYBRID = {"hybrid_search": {"embedding_weight": 0.01, "text_weight": 1.0}}
FILES = 60


def text_of(number: int) -> str:
    return f"Spare part QX{7000 + number * 13} fits the pump of model {number % 7}. " * 3


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    folder = tmp_path_factory.mktemp("cluster")
    workers = {"device": "emulated", "replicas": 1}
    with running_cluster(folder, workers=workers, retrieval=RETRIEVAL) as running:
        yield running.client()


@pytest.fixture(scope="module")
def store(client: OpenAI) -> str:
    """Parts lists, alike but for a number that says nothing to an embedder."""
    store = client.vector_stores.create(name="parts")
    for number in range(FILES):
        text = text_of(number)
        client.vector_stores.files.upload_and_poll(
            vector_store_id=store.id, file=(f"{number}.txt", io.BytesIO(text.encode())), poll_interval_ms=100
        )
    return store.id


def names(client: OpenAI, store: str, query: str, **options: object) -> list[str]:
    found = client.vector_stores.search(store, query=query, max_num_results=5, **options)  # type: ignore[arg-type]
    return [hit.filename for hit in found.data]


def test_answers_over_searches_in_stages_cite_the_document(client: OpenAI, store: str) -> None:
    stages = []
    for number in range(20, 32):
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": text_of(number)}],
            max_tokens=2,
            extra_body={"vector_store_ids": [store], "top_k": 5},
        )
        account = mygo_of(answer)
        nearest = max(account["citations"], key=lambda citation: citation["score"])
        assert nearest["filename"] == f"{number}.txt"
        stages.append(account["overlap"]["stages"])
    # the first search is in one go, and stages that come at the same time count once
    assert max(stages[1:]) > 1, stages


def test_hybrid_search_finds_a_word_that_vectors_blur(client: OpenAI, store: str) -> None:
    for number in (3, 17, 44):
        question = f"which pump does qx{7000 + number * 13} fit"
        found = client.vector_stores.search(
            store, query=question, max_num_results=5, extra_body={"ranking_options": HYBRID}
        )
        assert found.data[0].filename == f"{number}.txt"
        assert 0 < found.data[0].score <= 1


def test_deleted_document_is_found_neither_by_vectors_nor_by_words(client: OpenAI, store: str) -> None:
    file = next(each for each in client.files.list() if each.filename == "5.txt")
    question = f"which pump does qx{7000 + 5 * 13} fit"
    hybrid = {"ranking_options": HYBRID}
    assert "5.txt" in names(client, store, question, extra_body=hybrid)
    client.files.delete(file.id)
    assert "5.txt" not in names(client, store, question, extra_body=hybrid)
    assert "5.txt" not in names(client, store, question)


def test_weights_below_nothing_are_refused(client: OpenAI, store: str) -> None:
    with pytest.raises(openai.BadRequestError):
        client.vector_stores.search(
            store,
            query="pump",
            extra_body={"ranking_options": {"hybrid_search": {"embedding_weight": 0, "text_weight": 0}}},
        )
