"""A chunk is gone when a step is to load it: what others built on it meanwhile is kept nowhere."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from tier_engines import BLOCK, H100
from vllm.v1.outputs import KVConnectorOutput

from mygo.emulation.reports import InProcessReports
from mygo.emulation.settings import EngineSettings
from mygo.emulation.vllm_scheduler import VllmScheduler
from mygo.tree.keys import passage_tag, root_key, segment_key
from mygo.types import (
    PUBLIC,
    ContentHash,
    GenerateRequest,
    RequestId,
    Reuse,
    Sampling,
    SegmentSpan,
    Tier,
    WorkerId,
)
from mygo.vllm_plugin.beside_model import StepReport
from mygo.vllm_plugin.chunks.disk import ChunkReport
from mygo.vllm_plugin.settings import ChunkSettings, TierSettings

TOKENS = 2 * H100.kv_bytes_per_token * 65_536
DOCUMENT = "document"


class Served:
    """Steps of an engine, each of which may fail to load what it was to load."""

    def __init__(self) -> None:
        settings = EngineSettings(
            65_536, BLOCK, tiers=TierSettings(host_bytes=TOKENS), chunks=ChunkSettings(host_bytes=TOKENS)
        )
        self.engine = VllmScheduler(settings, H100, InProcessReports(WorkerId("w"), "0"))
        self.vllm: Any = self.engine._scheduler
        self.tiers: Any = self.vllm.connector._tiers
        self.requests: dict[str, Any] = {}
        self.now_s = 0.0

    def add(self, name: str, segments: Sequence[str], reuse: Reuse, max_tokens: int = 4) -> None:
        key, token_ids, spans = root_key(model="m", kv_dtype="none"), [], []
        for segment in segments:
            ids = random.Random(segment).choices(range(32_000), k=2048 if segment == DOCUMENT else 64)
            key = segment_key(key, PUBLIC, ids)
            token_ids += ids
            tag = passage_tag(b"", PUBLIC, ContentHash(segment)) if segment == DOCUMENT else ""
            spans.append(SegmentSpan(key, len(token_ids), "salt", tag))
        sampling = Sampling(max_tokens=max_tokens)
        self.engine.add(GenerateRequest(RequestId(name), token_ids, tuple(spans), sampling, reuse=reuse))
        self.requests[name] = self.vllm.requests[name]

    def schedule(self) -> Any:
        self.now_s += 1.0
        return self.engine.schedule(self.now_s)

    def complete(self, scheduled: Any, lost_blocks: Sequence[int] = ()) -> None:
        told = self.engine._moved

        def moved(scheduled: Any) -> KVConnectorOutput:
            output = told(scheduled) or KVConnectorOutput()
            if lost_blocks:
                output.invalid_block_ids = set(lost_blocks)
                loads = scheduled.output.kv_connector_metadata.chunks.loads.values()
                missing = ChunkReport(missing={load.variant for each in loads for load in each})
                report = output.kv_connector_worker_meta
                output.kv_connector_worker_meta = StepReport(report.tiers if report else None, missing)
            return output

        self.engine._moved = moved  # type: ignore[method-assign]
        self.now_s += 1.0
        self.engine.complete(scheduled, self.now_s)
        self.engine._moved = told  # type: ignore[method-assign]

    def drain(self) -> None:
        for _ in range(200):
            if not self.engine.has_work:
                return
            self.complete(self.schedule())
        raise AssertionError("does not come to an end")

    def blocks(self, name: str) -> list[int]:
        return list(self.vllm.kv_cache_manager.get_block_ids(name)[0])

    def stored(self, name: str) -> int:
        """Blocks of a request that host memory holds, or is given."""
        return sum(self.tiers.tier_of(each) is Tier.HOST for each in self.requests[name].block_hashes)


@pytest.fixture
def served() -> Served:
    """A document's chunk is all that is left of it."""
    served = Served()
    served.add("first", ["system", DOCUMENT, "question 1"], Reuse.EXACT)
    served.drain()
    served.tiers.purge(list(served.requests["first"].block_hashes), ())
    assert served.engine._scheduler.reset_prefix_cache()
    assert not served.stored("first")
    return served


def loading_step(served: Served, others: Sequence[str]) -> Any:
    """A request loads the document, and in the same step ``others`` share its blocks."""
    served.add("leader", ["system", DOCUMENT, "question 2"], Reuse.BLEND)
    for name in others:
        served.add(name, ["system", DOCUMENT, f"question of {name}"], Reuse.EXACT)
    scheduled = served.schedule()
    assert scheduled.output.kv_connector_metadata.chunks.loads.keys() == {"leader"}
    for name in others:
        assert served.blocks(name)[:100] == served.blocks("leader")[:100]
    return scheduled


@pytest.mark.parametrize("max_tokens", [1, 4])
def test_nothing_of_requests_that_share_its_blocks_is_stored_when_a_chunk_was_lost(
    max_tokens: int, served: Served
) -> None:
    served.add("apart", ["system", "question 9"], Reuse.EXACT, max_tokens)
    scheduled = loading_step(served, ["follower", "other"])
    system_blocks = 64 // BLOCK
    lost = served.blocks("leader")[system_blocks + 10]
    served.complete(scheduled, [lost])
    for name in ("leader", "follower", "other"):
        assert served.stored(name) <= system_blocks, name
    assert served.stored("apart")
    for each in served.requests["follower"].block_hashes[system_blocks:]:
        assert not served.vllm.connector._cache.is_resident(each)


def test_requests_that_shared_a_lost_chunks_blocks_are_computed_anew(served: Served) -> None:
    scheduled = loading_step(served, ["follower"])
    served.complete(scheduled, [served.blocks("leader")[20]])
    computed: dict[str, int] = dict.fromkeys(("leader", "follower"), 0)
    while served.engine.has_work:
        scheduled = served.schedule()
        for name, tokens in scheduled.output.num_scheduled_tokens.items():
            computed[name] += tokens
        served.complete(scheduled)
    # one of them computes the document, and the other shares it then
    assert sum(computed.values()) >= 2048 + 2 * 64
    assert served.stored("leader") == len(served.requests["leader"].block_hashes)


def test_all_is_stored_once_it_is_known_that_chunks_were_loaded(served: Served) -> None:
    scheduled = loading_step(served, ["follower"])
    assert not served.stored("leader") and not served.stored("follower")
    served.complete(scheduled)
    served.drain()
    for name in ("leader", "follower"):
        assert served.stored(name) == len(served.requests[name].block_hashes)
    assert not len(served.vllm.connector._chunks._unheard)


def test_what_an_aborted_request_was_loading_is_not_shared_when_its_chunk_was_lost(served: Served) -> None:
    """Scenario: steps are scheduled ahead, and the abort comes while one of them loads."""
    scheduled = loading_step(served, ["follower"])
    lost = served.blocks("leader")[20]
    served.engine.abort(RequestId("leader"))
    served.complete(scheduled, [lost])
    served.drain()
    assert served.stored("follower") <= 64 // BLOCK
    assert not len(served.vllm.connector._chunks._unheard)
