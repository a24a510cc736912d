"""The quality guards as one tenant may see and reset them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from mygo.blend.guard import Guard
from mygo.blend.variants import DocumentTag
from mygo.blend.verdicts import Action, Decision, Divergence, GuardSettings
from mygo.config import parse
from mygo.errors import Unauthorized
from mygo.serve.quality_report import QualityReport
from mygo.types import TenantId, WorkerId
from mygo.vllm_plugin.chunks.quality_view import QualityView, view

KEYS: dict[str, Any] = {"http": {"api_keys": {"sk-a": "a", "sk-b": "b"}}}
NAME = {"document_id": "file-1", "filename": "a.txt", "chunk": 3}


def _view() -> QualityView:
    guard = Guard(GuardSettings((0.15,)))
    guard.observe(Decision(Action.SHADOW, 2, 0.15), [], Divergence(1 / 3, 0.75, 0.5))
    guard.documents_off |= {DocumentTag("of a"), DocumentTag("of b")}
    return view(guard, {Action.EXACT: 9, Action.SHADOW: 1}, 1)


class Handle:
    def __init__(self, **methods: Any) -> None:
        for name, method in methods.items():
            setattr(self, name, SimpleNamespace(remote=method))


class Cluster:
    """Two workers: the first answers with ``view``, the second fails."""

    def __init__(self, sections: dict[str, Any], view: QualityView | None) -> None:
        self.resets: list[bool] = []
        self._view = view
        workers: Any = Handle(quality=self._quality)
        librarian: Any = Handle(name_passages=self._name)
        known = {WorkerId("w1"): None, WorkerId("w2"): None}
        dispatcher: Any = SimpleNamespace(directory=SimpleNamespace(workers=known))
        self.report = QualityReport(parse(sections), workers, librarian, dispatcher)

    async def _quality(self, reset: bool, *, worker: str) -> QualityView | None:
        self.resets.append(reset)
        if worker == "w2":
            raise RuntimeError("busy")
        return self._view

    async def _name(self, tenant: TenantId, tags: set[str]) -> dict[str, Any]:
        return {f"of {tenant}": NAME} if f"of {tenant}" in tags else {}


def _request(tenant: str) -> Any:
    return SimpleNamespace(state=SimpleNamespace(tenant=TenantId(tenant)))


def test_report_has_every_bucket_and_names_the_tenants_own_documents_alone() -> None:
    cluster = Cluster(KEYS, _view())
    first, second = asyncio.run(cluster.report.report(_request("a")))["workers"]
    assert first["buckets"] == [
        {
            "bucket": 2,
            "need": [0.5, 0.75],
            "state": "unproven",
            "alpha": 0.15,
            "mean_kl": 0.3333,
            "top1_agreement": 0.75,
            "overlap": 0.5,
            "observations": 1,
        }
    ]
    assert first["decisions"] == {"exact": 9, "shadow": 1, "blend": 0, "check": 0}
    assert (first["documents_off"], first["documents"]) == (2, [NAME])
    assert second == {"id": "w2", "answered": False}
    assert cluster.resets == [False, False]


def test_worker_without_a_guard_says_so() -> None:
    first = asyncio.run(Cluster({}, None).report.report(_request("default")))["workers"][0]
    assert first == {"id": "w1", "answered": True, "guarded": False}


def test_reset_reaches_every_worker_when_there_is_one_tenant() -> None:
    cluster = Cluster({}, _view())
    asyncio.run(cluster.report.reset(_request("default")))
    assert cluster.resets == [True, True]


def test_reset_is_refused_when_tenants_share_the_guard() -> None:
    cluster = Cluster(KEYS, _view())
    with pytest.raises(Unauthorized, match="several tenants"):
        asyncio.run(cluster.report.reset(_request("a")))
    assert not cluster.resets
