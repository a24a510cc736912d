"""What one user of a tenant sends inline is never shown to another who happens to begin alike."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import MODEL, Cluster, mygo_of

pytestmark = pytest.mark.ray


def _chat(cluster: Cluster, messages: list[Any], document: str) -> Any:
    return cluster.client().chat.completions.create(
        model=MODEL,
        messages=messages,
        temperature=0,
        max_tokens=8,
        extra_body={"documents": [{"id": "d", "text": document, "title": document[:12]}]},
    )


def test_next_turn_repeats_no_document_that_came_with_somebody_elses(cluster: Cluster) -> None:
    opening = [{"role": "user", "content": "Say yes."}]
    # a conversation with equal words over another document
    first = _chat(cluster, opening, "Alpha report: the reactor is green. " * 8)
    answer = first.choices[0].message.content
    turn = [*opening, {"role": "assistant", "content": answer}, {"role": "user", "content": "Go on."}]
    second = _chat(cluster, turn, "Beta report: the garden is blue. " * 8)
    titles = [citation["filename"] for citation in mygo_of(second)["citations"]]
    assert titles == ["Beta report:"]
    again = _chat(cluster, turn, "Alpha report: the reactor is green. " * 8)
    assert [citation["filename"] for citation in mygo_of(again)["citations"]] == ["Alpha report"]
