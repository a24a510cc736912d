"""A chunk is lost of which some blocks are shared by requests that still wait for host memory."""

from __future__ import annotations

from typing import Any

import pytest
import test_emulation_unfilled_blocks as cases
from test_emulation_unfilled_blocks import BLOCK, Reuse, Served
from vllm.v1.outputs import KVConnectorOutput
from vllm.v1.request import RequestStatus

from mygo.vllm_plugin.beside_model import StepReport
from mygo.vllm_plugin.chunks.disk import ChunkReport


def lose(served: Served, scheduled: Any, blocks: list[int]) -> None:
    told = served.engine._moved

    def moved(scheduled: Any) -> Any:
        output = told(scheduled) or KVConnectorOutput()
        output.invalid_block_ids = set(blocks)
        loads = scheduled.output.kv_connector_metadata.chunks.loads.values()
        report = output.kv_connector_worker_meta
        output.kv_connector_worker_meta = StepReport(
            report.tiers if report else None,
            ChunkReport(missing={load.variant for each in loads for load in each}),
        )
        return output

    served.engine._moved = moved
    served.complete(scheduled, 0.0)
    served.engine._moved = told


def prepared(monkeypatch: pytest.MonkeyPatch, system_tokens: int, tokens: int, **options: Any) -> Served:
    """Of two prompts, host memory has their second documents alone."""
    monkeypatch.setattr(
        cases, "SIZES", {"system": system_tokens, "document": tokens, "document 2": 1024, "document 3": 1024}
    )
    served = Served(**options)
    for name, other in (("first", "document 2"), ("second", "document 3")):
        served.add(name, ["system", "document", other, "question 1"], Reuse.EXACT)
        served.drain()
    served.tiers.purge(served.requests["first"].block_hashes[: (system_tokens + tokens) // BLOCK], ())
    assert served.vllm.reset_prefix_cache()
    return served


def waiting_behind(served: Served) -> int:
    """Two wait for host memory behind what another one was to load. The block that is lost."""
    served.add("leader", ["system", "document", "question 2"], Reuse.BLEND)
    for name, other in (("d", "document 2"), ("e", "document 3")):
        served.add(name, ["system", "document", other, f"question {name}"], Reuse.EXACT)
    scheduled = served.schedule(0.0)
    (load,) = scheduled.output.kv_connector_metadata.chunks.loads["leader"]
    blocks = served.vllm.kv_cache_manager.get_block_ids("leader")[0]
    lost: int = blocks[load.cached_tokens // BLOCK]
    for name in ("d", "e"):
        assert served.requests[name].status == RequestStatus.WAITING_FOR_REMOTE_KVS
        assert lost in served.vllm.kv_cache_manager.get_block_ids(name)[0]
    lose(served, scheduled, [lost])
    return lost


def test_all_who_wait_for_host_memory_compute_what_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    served = prepared(monkeypatch, 2048, 2048, step_tokens=1024, long_prefill_tokens=512)
    served.add("warm", ["system", "question 3"], Reuse.EXACT)
    served.drain()
    lost = waiting_behind(served)
    filled = 2048  # tokens, in the blocks that were lost
    while served.engine.has_work:
        scheduled = served.schedule()
        for name, tokens in scheduled.output.num_scheduled_tokens.items():
            if lost in served.vllm.kv_cache_manager.get_block_ids(name)[0]:
                counted = served.requests[name].num_computed_tokens
                filled = max(filled, counted) if counted - tokens <= filled else filled
                assert counted <= filled, f"{name} reads what nobody has computed"
        served.complete(scheduled)
