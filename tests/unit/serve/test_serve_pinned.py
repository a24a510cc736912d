"""A call reaches the worker that it names, or is refused."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from mygo.errors import Misdirected
from mygo.serve.emulated_worker import EmulatedWorker
from mygo.serve.pinned import PinnedRouter
from mygo.serve.worker import Worker
from mygo.types import GenerateRequest, RequestId, Sampling, WorkerId

REQUEST = GenerateRequest(RequestId("r"), [1], (), Sampling(max_tokens=1))


def routed(worker: str | None, *replicas: str) -> list[str]:
    """Where a call goes, best first."""
    candidates: Any = [SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in replicas]
    pending: Any = SimpleNamespace(
        kwargs={} if worker is None else {"worker": worker},
        routing_context=SimpleNamespace(should_backoff=False),
    )
    router: Any = PinnedRouter.__new__(PinnedRouter)
    ranks = asyncio.run(router.choose_replicas(candidates, pending))
    return [replica.replica_id.unique_id for (replica,) in ranks]


def test_call_goes_to_the_worker_that_it_names_and_elsewhere_only_when_that_is_gone() -> None:
    assert routed("b", "a", "b", "c") == ["b"]
    assert sorted(routed("d", "a", "b", "c")) == ["a", "b", "c"]
    assert sorted(routed(None, "a", "b")) == ["a", "b"]


@pytest.mark.parametrize("kind", [Worker, EmulatedWorker])
def test_worker_refuses_a_request_that_was_sent_to_another_one(kind: Any) -> None:
    worker = kind.__new__(kind)
    worker._worker = WorkerId("a")
    with pytest.raises(Misdirected, match="worker b is gone"):
        asyncio.run(anext(worker.generate(REQUEST, worker=WorkerId("b"))))
