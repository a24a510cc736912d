"""The caches as one tenant may see them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from mygo.config import parse
from mygo.errors import BadRequest
from mygo.serve.cache_report import CacheReport
from mygo.types import TenantId, Tier, WorkerId
from mygo.vllm_plugin.tiers.view import CacheNode, CacheView

KEYS: dict[str, Any] = {"http": {"api_keys": {"sk-a": "a", "sk-b": "b"}}}


def _node(number: int, parent: int | None, *, tag: str = "", salt: str) -> CacheNode:
    return CacheNode(number, parent, number * 10, 10, {Tier.DEVICE: 10}, 2.0, 0.5, 0, tag, salt)


VIEW = CacheView(
    (
        _node(0, None, salt="salt of public"),
        _node(1, 0, tag="t1", salt="salt of a"),
        _node(2, 0, tag="t2", salt="salt of b"),
        _node(3, None, salt=""),
    ),
    9,
    {Tier.DEVICE: 40},
    {Tier.DEVICE: 100},
)


class Handle:
    def __init__(self, **methods: Any) -> None:
        for name, method in methods.items():
            setattr(self, name, SimpleNamespace(remote=method))


def _report(sections: dict[str, Any], tenant: str, top: int = 5, failing: str = "") -> dict[str, Any]:
    asked: list[set[str]] = []

    async def cache(top: int, *, worker: str) -> CacheView:
        if worker == failing:
            raise RuntimeError("busy")
        return VIEW

    async def name_passages(tenant: TenantId, tags: set[str]) -> dict[str, Any]:
        asked.append(tags)
        return {"t1": {"document_id": "file-1", "filename": "a.txt", "chunk": 3}} if tenant == "a" else {}

    dispatcher: Any = SimpleNamespace(
        directory=SimpleNamespace(workers={WorkerId("w1"): None, WorkerId("w2"): None})
    )
    workers: Any = Handle(cache=cache)
    librarian: Any = Handle(name_passages=name_passages)
    report = CacheReport(parse(sections), workers, librarian, dispatcher, lambda domain: f"salt of {domain}")
    request: Any = SimpleNamespace(state=SimpleNamespace(tenant=TenantId(tenant)))
    return asyncio.run(report.report(request, top))


def test_tenant_sees_public_and_own_nodes_with_own_documents_named() -> None:
    worker = _report(KEYS, "a")["workers"][0]
    assert [(node["number"], node["document"]) for node in worker["nodes"]] == [
        (0, None),
        (1, {"document_id": "file-1", "filename": "a.txt", "chunk": 3}),
    ]
    assert (worker["hidden_nodes"], worker["total_nodes"]) == (2, 9)


def test_another_tenants_documents_are_neither_shown_nor_named() -> None:
    worker = _report(KEYS, "b")["workers"][0]
    assert [(node["number"], node["document"]) for node in worker["nodes"]] == [(0, None), (2, None)]


def test_everything_is_shown_when_there_is_one_tenant() -> None:
    worker = _report({}, "default")["workers"][0]
    assert [node["number"] for node in worker["nodes"]] == [0, 1, 2, 3]
    assert worker["hidden_nodes"] == 0


def test_worker_that_does_not_answer_is_said_to() -> None:
    first, second = _report(KEYS, "a", failing="w1")["workers"]
    assert first == {"id": "w1", "answered": False}
    assert second["answered"]


@pytest.mark.parametrize("top", [0, 1001])
def test_impossible_number_of_nodes_is_refused(top: int) -> None:
    with pytest.raises(BadRequest, match="top: must be between 1 and 1000"):
        _report({}, "default", top)
