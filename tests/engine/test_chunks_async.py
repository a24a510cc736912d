"""Chunk reuse where the next step is scheduled before it is known what became of the last, as GPUs do it.

vLLM does so on GPUs alone; here it is told to on a CPU, with streams and events that wait for nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
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
    preempted_prompts,
    repair_any,
    same,
    some_asks,
)
from vllm.config import VllmConfig
from vllm.platforms.cpu import CpuPlatform

from mygo.blend import plan

pytestmark = pytest.mark.engine

_as_a_cpu_does = CpuPlatform.check_and_update_config.__func__


def _schedule_ahead(platform: Any, config: VllmConfig) -> None:
    _as_a_cpu_does(platform, config)
    config.scheduler_config.async_scheduling = True


def _nothing(*_: Any, **__: Any) -> SimpleNamespace:
    """A stream or an event."""
    return SimpleNamespace(wait_stream=lambda *_: None, record=lambda *_: None, synchronize=lambda: None)


@pytest.fixture(scope="module")
def asks() -> list[Asked]:
    return some_asks(4)


@pytest.fixture(scope="module")
def plain(engines: Engines, asks: list[Asked]) -> dict[Asked, Answer]:
    """What vLLM answers without a cache, one step after the other."""
    engine = engines.get(None, device_blocks=64)
    return {ask: engine.one_answer(ask, 24) for ask in asks}


@pytest.fixture(autouse=True, scope="module")
def ahead(plain: dict[Asked, Answer], engines: Engines) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CpuPlatform, "check_and_update_config", classmethod(_schedule_ahead))
        for name in ("Stream", "Event", "current_stream"):
            patch.setattr(torch.cuda, name, _nothing)
        patch.setattr(torch.cuda, "stream", lambda _: nullcontext())
        yield
        engines.close()


@pytest.fixture
def engine(engines: Engines) -> ChunkEngine:
    engine = engines.get(CHUNKS, device_blocks=96, step_tokens=64)
    assert engine.core.batch_queue_size == 2
    return engine


def test_answers_are_plain_vllms_when_any_tokens_are_repaired_in_place(
    engine: ChunkEngine,
    asks: list[Asked],
    plain: dict[Asked, Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(5)
    capture(engine, asks)
    repair_any(monkeypatch, rng)
    cached_tokens = 0
    for _ in range(4):
        batch = [rng.choice([ask, blended(ask), blended(ask)]) for ask in rng.choices(asks, k=5)]
        for ask, answer in zip(batch, engine.answer(batch, 24), strict=True):
            assert same(answer, plain[replace(ask, reuse="exact")]), ask
            cached_tokens += answer.cached_tokens
        engine.reset()
    assert cached_tokens > 0


def test_answers_are_plain_vllms_when_requests_are_preempted_in_mid_repair(
    engines: Engines, asks: list[Asked], plain: dict[Asked, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines.get(CHUNKS, device_blocks=26, step_tokens=64, scheduler_reserve_full_isl=False)
    capture(engine, asks)
    repair_any(monkeypatch, random.Random(4))
    preempted = preempted_prompts(engine, monkeypatch)
    for _ in range(4):
        for ask, answer in zip(asks, engine.answer([blended(ask) for ask in asks], 24), strict=True):
            assert same(answer, plain[ask])
        engine.reset()
    assert preempted


@pytest.mark.parametrize("lost", [(0, 1, 2, 3), (1,), (3,)])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_answer_is_plain_vllms_when_a_chunk_is_lost_in_mid_use(
    lost: tuple[int, ...],
    steps: int,
    engine: ChunkEngine,
    asks: list[Asked],
    plain: dict[Asked, Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask = asks[0]
    capture(engine, [ask])
    monkeypatch.setattr(plan, "select", lambda method, tokens, *_: list(range(0, tokens, 2)))
    keys = list(engine.mover._chunks)  # in the order of the documents
    request_id = engine.ask(blended(ask), 24)
    for _ in range(steps):
        engine.step_answers()
    for number in lost:
        del engine.mover._chunks[keys[number]]
    follower = engine.ask(blended(ask), 24)  # hits what the first one shares, so it must be right
    answers: dict[str, Answer] = {}
    while engine.engine.has_unfinished_requests():
        answers |= engine.step_answers()
    assert same(answers[request_id], plain[ask])
    assert same(answers[follower], plain[ask])


def test_exact_answers_are_plain_vllms_when_approximate_ones_went_before(
    engine: ChunkEngine, asks: list[Asked], plain: dict[Asked, Answer]
) -> None:
    ask = asks[1]
    moved = replace(ask, documents=ask.documents[1:] + ask.documents[:1])
    capture(engine, [moved])
    engine.answer([blended(ask), blended(ask), blended(moved)])
    answer = engine.one_answer(ask, 24)
    assert same(answer, plain[ask])
    assert answer.cached_tokens <= len(ask.system) + len(ask.documents[0])
