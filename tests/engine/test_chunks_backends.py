"""Chunk reuse over the attention backends of GPUs, without a GPU.

All of their Python runs as it is: how they lay KV out, write it, and build metadata. Only their kernels are
replaced, by ones of torch. Triton's own are compared with these in its interpreter; FlashAttention has none.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chunk_prompts import (
    CHUNKS,
    Answer,
    Asked,
    ChunkEngine,
    Engines,
    blended,
    capture,
    repair_any,
    same,
    some_asks,
)
from torch_kernels import attend, write_cache
from vllm.platforms.cpu import CpuPlatform
from vllm.v1.attention import selector
from vllm.v1.attention.backends import flash_attn, triton_attn
from vllm.v1.attention.backends.registry import AttentionBackendEnum

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("engine_in_process")]


@pytest.fixture(scope="module")
def asks() -> list[Asked]:
    return some_asks(4)


@pytest.fixture(scope="module")
def plain(engines: Engines, asks: list[Asked]) -> dict[Asked, Answer]:
    """What vLLM answers without a cache, over the backend of CPUs."""
    engine = engines.get(None, device_blocks=64)
    return {ask: engine.one_answer(ask) for ask in asks}


@pytest.fixture(scope="module", params=["FLASH_ATTN", "TRITON_ATTN"])
def engine(
    request: pytest.FixtureRequest, engines: Engines, plain: dict[Asked, Answer]
) -> Iterator[ChunkEngine]:
    with pytest.MonkeyPatch.context() as patch:
        backend = AttentionBackendEnum[request.param]
        patch.setattr(CpuPlatform, "get_attn_backend_cls", classmethod(lambda *_, **__: backend.get_path()))
        # vLLM remembers what it chose
        patch.setattr(selector, "_cached_get_attn_backend", selector._cached_get_attn_backend.__wrapped__)
        patch.setattr(flash_attn, "get_flash_attn_version", lambda *_, **__: 2)
        patch.setattr(flash_attn, "flash_attn_supports_quant_query_input", lambda: False)
        patch.setattr(flash_attn, "flash_attn_varlen_func", attend, raising=False)
        patch.setattr(flash_attn, "reshape_and_cache_flash", write_cache, raising=False)
        patch.setattr(triton_attn, "unified_attention", attend)
        patch.setattr(triton_attn, "triton_reshape_and_cache_flash", write_cache)
        engine = engines.get(CHUNKS, device_blocks=96, step_tokens=64)
        assert engine.runner.attn_groups[0][0].backend.get_name() == request.param
        yield engine
        engines.close()


def test_answers_are_plain_vllms_when_any_tokens_are_repaired_in_place(
    engine: ChunkEngine,
    asks: list[Asked],
    plain: dict[Asked, Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(5)
    capture(engine, asks)
    steps = len(engine.mover_steps)
    for _ in range(4):
        repair_any(monkeypatch, rng)
        batch = [rng.choice([ask, blended(ask), blended(ask)]) for ask in rng.choices(asks, k=5)]
        for ask, answer in zip(batch, engine.answer(batch), strict=True):
            assert same(answer, plain[replace(ask, reuse="exact")]), ask
        engine.reset()
    told = engine.mover_steps[steps:]
    assert any(step.positions and step.loads for step in told)


def test_first_layers_kv_is_bit_equal_when_documents_are_moved(
    engine: ChunkEngine, asks: list[Asked]
) -> None:
    moved = replace(asks[1], documents=asks[1].documents[::-1])
    held: list[torch.Tensor] = []
    for ask in (moved, blended(moved)):
        engine.forget()
        if ask.reuse == "blend":
            capture(engine, asks[1:2])
        held.append(engine.prompt_kv(ask))
    exact, loaded = held
    assert torch.equal(exact[0], loaded[0])
    assert not torch.allclose(exact[-1], loaded[-1], atol=0.1)


def test_tritons_own_kernels_do_what_those_of_torch_do() -> None:
    """In a process of its own, because Triton chooses its interpreter when it is imported."""
    script = Path(__file__).with_name("triton_rows.py")
    interpreted = {**os.environ, "TRITON_INTERPRET": "1"}
    ran = subprocess.run([sys.executable, script], env=interpreted, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "3 batches agree"
