"""A request is to load a chunk behind what comes from host memory, and never runs."""

from __future__ import annotations

import random
from typing import Any

from tier_engines import BLOCK, H100

from mygo.emulation.reports import InProcessReports
from mygo.emulation.settings import EngineSettings
from mygo.emulation.vllm_scheduler import VllmScheduler
from mygo.tree.keys import passage_tag, root_key, segment_key
from mygo.types import PUBLIC, ContentHash, GenerateRequest, RequestId, Reuse, Sampling, SegmentSpan, WorkerId
from mygo.vllm_plugin.settings import ChunkSettings, TierSettings

TOKENS = 2 * H100.kv_bytes_per_token * 65_536
SIZES = {"system": 2048, "document": 2048}


class Served:
    def __init__(self, **options: Any) -> None:
        tiers = TierSettings(host_bytes=TOKENS, load_gate=False, layerwise=False)
        settings = EngineSettings(
            8192, BLOCK, tiers=tiers, chunks=ChunkSettings(host_bytes=TOKENS, load_gate=False), **options
        )
        self.engine = VllmScheduler(settings, H100, InProcessReports(WorkerId("w"), "0"))
        self.vllm: Any = self.engine._scheduler
        self.connector: Any = self.vllm.connector
        self.tiers: Any = self.connector._tiers
        self.requests: dict[str, Any] = {}
        self.now_s = 0.0

    def add(self, name: str, segments: list[str], reuse: Reuse, max_tokens: int = 4) -> None:
        key, ids, spans = root_key(model="m", kv_dtype="none"), [], []
        for segment in segments:
            part = random.Random(segment).choices(
                range(32_000), k=SIZES.get(segment, 64 if "long" not in segment else 5200)
            )
            key = segment_key(key, PUBLIC, part)
            ids += part
            tag = passage_tag(b"", PUBLIC, ContentHash(segment)) if "document" in segment else ""
            spans.append(SegmentSpan(key, len(ids), "salt", tag))
        self.engine.add(
            GenerateRequest(RequestId(name), ids, tuple(spans), Sampling(max_tokens=max_tokens), reuse=reuse)
        )
        self.requests[name] = self.vllm.requests[name]

    def schedule(self, dt: float = 1.0) -> Any:
        self.now_s += dt
        return self.engine.schedule(self.now_s)

    def complete(self, scheduled: Any, dt: float = 1.0) -> Any:
        self.now_s += dt
        return self.engine.complete(scheduled, self.now_s)

    def drain(self) -> None:
        for _ in range(300):
            if not self.engine.has_work:
                return
            self.complete(self.schedule())
        raise AssertionError


def prepared(**options: Any) -> Served:
    served = Served(**options)
    served.add("first", ["system", "document", "question 1"], Reuse.EXACT)
    served.drain()
    hashes = list(served.requests["first"].block_hashes)
    served.tiers.purge(hashes[2048 // BLOCK :], ())
    assert served.vllm.reset_prefix_cache()
    return served


def test_blocks_that_a_chunk_was_to_fill_are_found_by_nobody_before_a_step_loads_it() -> None:
    """Scenario: the device is full when its prefix has come from host memory, and its client goes."""
    served = prepared()
    document = served.requests["first"].block_hashes[2048 // BLOCK : 4096 // BLOCK]
    cache, pool = served.connector._cache, served.vllm.kv_cache_manager.block_pool
    served.add("leader", ["system", "document", "question 2"], Reuse.BLEND)
    scheduled = served.schedule()
    taken = pool.get_new_blocks(pool.get_num_free_blocks())
    served.complete(scheduled)
    for _ in range(3):
        scheduled = served.schedule()
        assert not scheduled.output.kv_connector_metadata.chunks.loads
        served.complete(scheduled)
    assert served.requests["leader"].num_computed_tokens >= 4096, "host memory and the chunk, as counted"
    assert not any(map(cache.is_resident, document))
    served.engine.abort(RequestId("leader"))
    pool.free_blocks(taken)
    served.drain()
    assert not any(map(cache.is_resident, document))
