"""Requests go where their documents are cached, and siblings in a burst share one computation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import MODEL, Cluster, mygo_of

pytestmark = pytest.mark.ray


def _document(name: str, sentences: int) -> dict[str, str]:
    text = " ".join(
        f"Fact {number} about {name}: it weighs {number * 7} grams." for number in range(sentences)
    )
    return {"id": name, "text": text}


def _ask(cluster: Cluster, document: dict[str, str], question: str) -> dict[str, Any]:
    answer = cluster.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        max_tokens=2,
        temperature=0,
        extra_body={"documents": [document]},
    )
    return mygo_of(answer)


def test_second_question_goes_to_the_worker_that_holds_the_document(cluster: Cluster) -> None:
    for name in ("amber", "basalt", "chalk", "dolomite"):
        document = _document(name, 40)
        first = _ask(cluster, document, "What is it?")
        second = _ask(cluster, document, "How heavy is fact 3?")
        assert second["worker"] == first["worker"]
        cached = sum(second["usage"]["cached_tokens"].values())
        assert cached >= 0.8 * second["usage"]["prompt_tokens"] - 64


def test_burst_computes_a_new_document_once_per_worker(cluster: Cluster) -> None:
    document = _document("granite", 130)
    with ThreadPoolExecutor(20) as threads:
        answers = list(
            threads.map(lambda number: _ask(cluster, document, f"What about fact {number}?"), range(20))
        )
    workers = {answer["worker"] for answer in answers}
    computed = sum(answer["usage"]["computed_tokens"] for answer in answers)
    document_tokens = answers[0]["usage"]["prompt_tokens"]
    # every request computes its own question and the block that it begins in; the document only once
    questions = 20 * 64
    assert computed <= 1.1 * document_tokens * len(workers) + questions
