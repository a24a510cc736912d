"""Chunk reuse in compiled models, as GPUs run them.

Hooks of modules do not run in compiled code, so steps that keep KV, and no others, are computed without it.

``whole``: the model is one graph, as vLLM compiles on CPUs. ``pieces``: it is cut at every attention, as on
GPUs. Dynamo's own backend runs either, because inductor takes minutes and sees the same graphs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

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
from tiny_engine import LAYERS
from vllm.compilation.counter import compilation_counter
from vllm.config import CompilationMode, VllmConfig
from vllm.platforms.cpu import CpuPlatform

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("engine_in_process")]


@pytest.fixture(scope="module")
def asks() -> list[Asked]:
    return some_asks(4)


@pytest.fixture(scope="module")
def plain(engines: Engines, asks: list[Asked]) -> dict[Asked, Answer]:
    """What vLLM answers without a cache, eagerly."""
    engine = engines.get(None, device_blocks=64)
    return {ask: engine.one_answer(ask) for ask in asks}


@pytest.fixture(scope="module", params=["whole", "pieces"])
def engine(
    request: pytest.FixtureRequest, engines: Engines, plain: dict[Asked, Answer]
) -> Iterator[ChunkEngine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_DISABLE_COMPILE_CACHE", "1")
        if request.param == "pieces":
            patch.setattr(CpuPlatform, "check_and_update_config", classmethod(_cut_at_attention))
        whole = {"mode": CompilationMode.DYNAMO_TRACE_ONCE, "backend": "eager"}
        before = compilation_counter.num_piecewise_graphs_seen
        engine = engines.get(
            CHUNKS,
            device_blocks=96,
            step_tokens=64,
            enforce_eager=False,
            compilation_config=whole if request.param == "whole" else {},
        )
        assert (compilation_counter.num_piecewise_graphs_seen - before > LAYERS) is (
            request.param == "pieces"
        )
        yield engine
        engines.close()


_as_a_cpu_does = CpuPlatform.check_and_update_config.__func__


def _cut_at_attention(platform: Any, config: VllmConfig) -> None:
    """vLLM compiles in pieces on GPUs alone; here it is told to on a CPU."""
    _as_a_cpu_does(platform, config)
    compilation = config.compilation_config
    compilation.mode = CompilationMode.VLLM_COMPILE
    compilation.backend = "eager"
    compilation.compile_sizes = []
    compilation.splitting_ops = list(compilation._attention_ops)


def test_answers_are_plain_vllms_when_any_tokens_are_repaired_in_place(
    engine: ChunkEngine,
    asks: list[Asked],
    plain: dict[Asked, Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine.forget()
    capture(engine, asks)
    rng = random.Random(5)
    cached_tokens = 0
    for _ in range(4):
        repair_any(monkeypatch, rng)
        batch = [rng.choice([ask, blended(ask), blended(ask)]) for ask in rng.choices(asks, k=5)]
        for ask, answer in zip(batch, engine.answer(batch), strict=True):
            assert same(answer, plain[replace(ask, reuse="exact")]), ask
            cached_tokens += answer.cached_tokens
        engine.reset()
    assert cached_tokens > 0


def test_only_steps_that_keep_kv_are_computed_without_compiled_code(
    engine: ChunkEngine, asks: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.forget()
    model = engine.runner.model.model
    ran: list[bool] = []
    compiled = type(model).__call__

    def listen(self: Any, *arguments: Any, **rest: Any) -> Any:
        eagerly: list[bool] = []
        hook = model.layers[0].register_forward_pre_hook(lambda *_: eagerly.append(True))
        output = compiled(self, *arguments, **rest)
        hook.remove()
        ran.append(not eagerly)
        return output

    monkeypatch.setattr(type(model), "__call__", listen)
    steps = len(engine.mover_steps)
    capture(engine, asks[:1])
    engine.answer([blended(asks[0]), blended(replace(asks[0], documents=asks[0].documents[::-1]))])
    told = engine.mover_steps[steps:]
    computed = [step for step in told if step.positions or step.captures or step.loads]
    assert any(step.positions for step in computed) and any(step.captures for step in computed)
    assert ran.count(False) == sum(bool(step.captures) for step in told)
    assert ran.count(True) > sum(bool(step.positions) and not step.captures for step in told) > 0


def test_moved_keys_are_those_that_the_compiled_model_computes(
    engine: ChunkEngine, asks: list[Asked]
) -> None:
    """The first layer's KV depends on a token and its position alone."""
    moved = replace(asks[1], documents=asks[1].documents[::-1])
    held: list[torch.Tensor] = []
    for ask in (moved, blended(moved)):
        engine.forget()
        if ask.reuse == "blend":
            capture(engine, asks[1:2])
        held.append(engine.prompt_kv(ask))
    exact, loaded = held
    assert torch.allclose(exact[0], loaded[0], atol=1e-5)
    assert not torch.allclose(exact[-1], loaded[-1], atol=0.1)
