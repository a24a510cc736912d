"""Who may ask for blending, what the service is asked, and what answers are labelled with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mygo.api.record import Record
from mygo.api.service import AnswerHead, DocumentOrder
from mygo.config import Config
from mygo.types import ChunkUse, PrefillStats, Reuse, Route, Tier, TokenDelta, WorkerId

if TYPE_CHECKING:
    from conftest import Face

CHAT = {"model": Config().model.name, "messages": [{"role": "user", "content": "Which?"}], "max_tokens": 2}


@pytest.mark.parametrize(
    ("asked", "passed_on"), [(None, Reuse.BLEND), ("blend", Reuse.BLEND), ("exact", Reuse.EXACT)]
)
def test_request_gets_what_the_deployment_allows_unless_it_asks_for_less(
    blending: Face, asked: str | None, passed_on: Reuse
) -> None:
    with blending.http() as http:
        answer = http.post("/v1/chat/completions", json=CHAT | ({"reuse": asked} if asked else {}))
    assert answer.status_code == 200
    assert blending.service.requests[-1][1].reuse is passed_on
    assert answer.json()["mygo"]["reuse"] == passed_on


def test_exact_deployment_passes_on_exact(face: Face) -> None:
    with face.http() as http:
        assert http.post("/v1/chat/completions", json=CHAT).json()["mygo"]["reuse"] == "exact"
    assert face.service.requests[-1][1].reuse is Reuse.EXACT


def test_store_says_what_it_allows_and_can_change_it(blending: Face) -> None:
    with blending.http() as http:
        made = http.post("/v1/vector_stores", json={"name": "law", "reuse": "exact"}).json()
        assert made["reuse"] == "exact"
        changed = http.post(f"/v1/vector_stores/{made['id']}", json={"reuse": "blend"}).json()
        assert changed["reuse"] == "blend"
        assert http.post("/v1/vector_stores", json={}).json()["reuse"] is None


def test_store_cannot_allow_more_than_the_deployment(face: Face) -> None:
    with face.http() as http:
        answer = http.post("/v1/vector_stores", json={"reuse": "blend"})
    assert answer.status_code == 400
    assert "exact only" in answer.json()["error"]["message"]


def _record(allowed: Reuse, chunks: ChunkUse | None) -> Record:
    route = Route(WorkerId("w"), predicted_s=0.0, predicted_cached_tokens=0)
    order: DocumentOrder = "retrieval"
    record = Record(AnswerHead(range(100), route, 0.0, reuse=allowed), order, 0.0)
    record.add(TokenDelta("a", (1,), "stop", PrefillStats({Tier.DEVICE: 20}, 0.0, 0.0, chunks=chunks)))
    return record


def test_answer_is_labelled_by_what_the_engine_did() -> None:
    approximate = _record(Reuse.BLEND, ChunkUse(50, 10, approximate=True)).mygo()
    assert approximate["reuse"] == "blend"
    assert approximate["usage"]["chunk_tokens"] == {"loaded": 50, "repaired": 10}
    assert approximate["usage"]["computed_tokens"] == 30
    assert _record(Reuse.BLEND, ChunkUse(50, 0, approximate=False)).mygo()["reuse"] == "exact"


def test_answer_is_not_called_exact_when_the_engine_did_not_tell() -> None:
    assert _record(Reuse.BLEND, None).mygo()["reuse"] == "blend"
    assert _record(Reuse.EXACT, None).mygo()["reuse"] == "exact"
