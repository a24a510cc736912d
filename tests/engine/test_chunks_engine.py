"""Chunk reuse in a real vLLM: loaded KV is right, repair is what prefill computes, and exact stays exact.

Chunks that come back to the very prompt that they were captured in hold what full prefill would compute. So
whatever is repaired of them, in whatever steps and whatever company, the answer must be plain vLLM's: that is
the oracle of most tests here. Others move documents, where the first layer's KV, which depends on a token and
its position alone, must be bit-equal.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
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
    tag_of,
)
from tiny_engine import BLOCK_TOKENS, KV_BYTES_PER_TOKEN, save_model, words

from mygo.blend import plan
from mygo.errors import ConfigError
from mygo.vllm_plugin import identity
from mygo.vllm_plugin.settings import ChunkSettings, TierSettings, engine_arguments

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("engine_in_process")]


@pytest.fixture(scope="module")
def asks() -> list[Asked]:
    return some_asks(8)


@pytest.fixture(scope="module")
def plain(engines: Engines, asks: list[Asked]) -> dict[Asked, Answer]:
    """What vLLM without any cache answers."""
    engine = engines.get(None, device_blocks=64)
    return {ask: engine.one_answer(ask) for ask in asks}


@pytest.fixture
def engine(engines: Engines, plain: dict[Asked, Answer]) -> ChunkEngine:
    return engines.get(CHUNKS, device_blocks=96, step_tokens=64)


# --- what is loaded ------------------------------------------------------------------------------


def test_first_layers_kv_is_bit_equal_when_documents_are_moved(
    engine: ChunkEngine, asks: list[Asked]
) -> None:
    ask = asks[0]
    moved = replace(ask, documents=ask.documents[::-1])
    exact = engine.prompt_kv(moved)
    engine.forget()
    capture(engine, [ask])
    loaded = engine.prompt_kv(blended(moved))
    assert torch.equal(exact[0], loaded[0])
    assert not torch.allclose(exact[-1], loaded[-1], atol=0.1)


def test_moved_documents_cost_their_repair_alone(engine: ChunkEngine, asks: list[Asked]) -> None:
    ask = asks[0]
    capture(engine, [ask])
    moved = blended(replace(ask, documents=ask.documents[::-1]))
    answer = engine.one_answer(moved)
    tokens = [len(document) for document in moved.documents]
    # the one that was first is not of use elsewhere
    repaired = sum(max(4, -(-count * 15 // 100)) for count in tokens[:-1])
    computed = len(ask.system) + repaired + tokens[-1] + len(ask.question)
    assert len(moved.ids) - answer.cached_tokens <= computed


# --- what is repaired ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_answers_are_plain_vllms_when_any_tokens_are_repaired_in_place(
    seed: int,
    engine: ChunkEngine,
    asks: list[Asked],
    plain: dict[Asked, Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(seed)
    some = rng.sample(asks, k=3)
    capture(engine, some)
    repair_any(monkeypatch, rng)
    cached_tokens = 0
    for _ in range(3):
        batch = [rng.choice([ask, blended(ask)]) for ask in rng.choices(some, k=5)]
        for ask, answer in zip(batch, engine.answer(batch), strict=True):
            assert same(answer, plain[replace(ask, reuse="exact")]), ask
            cached_tokens += answer.cached_tokens
        engine.reset()
    assert cached_tokens > 0


def test_wrong_kv_would_be_noticed(
    engine: ChunkEngine, asks: list[Asked], plain: dict[Asked, Answer]
) -> None:
    capture(engine, asks[:1])
    with torch.inference_mode():
        for chunk in engine.mover._chunks.values():
            chunk[:, 1] *= 1.05
    assert not same(engine.one_answer(blended(asks[0])), plain[asks[0]])


def test_blocks_do_not_change_once_they_are_shared(
    engine: ChunkEngine, asks: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(9)
    capture(engine, asks[:1])
    repair_any(monkeypatch, rng)
    moved = blended(replace(asks[0], documents=asks[0].documents[::-1]))
    request_id = engine.ask(moved)
    pool = engine.core.scheduler.kv_cache_manager.block_pool
    seen: dict[int, torch.Tensor] = {}
    steps = 0
    while engine.engine.has_unfinished_requests():
        engine.step_answers()
        steps += 1
        for block in engine.blocks(request_id):
            if pool.blocks[block].block_hash is not None and block not in seen:
                seen[block] = engine.kv([block])
    assert steps > 4 and len(seen) >= len(moved.ids) // BLOCK_TOKENS
    for block, kv in seen.items():
        assert torch.equal(engine.kv([block]), kv)


def test_answers_are_plain_vllms_when_requests_are_preempted_in_mid_repair(
    engines: Engines, asks: list[Asked], plain: dict[Asked, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines.get(CHUNKS, device_blocks=26, step_tokens=64, scheduler_reserve_full_isl=False)
    some = asks[:4]
    capture(engine, some)
    repair_any(monkeypatch, random.Random(4))
    preempted = preempted_prompts(engine, monkeypatch)
    for _ in range(4):
        for ask, answer in zip(some, engine.answer([blended(ask) for ask in some], 24), strict=True):
            assert same(answer, plain[ask])
        engine.reset()
    assert preempted


@pytest.mark.parametrize("lost", [(0, 1, 2, 3), (1,), (3,)])
@pytest.mark.parametrize("steps", [0, 1])
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
    request_id = engine.ask(blended(ask))
    for _ in range(steps):
        engine.step_answers()
    for number in lost:
        del engine.mover._chunks[keys[number]]
    follower = engine.ask(blended(ask))  # hits what the first one shares, so it must be right
    answers: dict[str, Answer] = {}
    while engine.engine.has_unfinished_requests():
        answers |= engine.step_answers()
    assert same(answers[request_id], plain[ask])
    assert same(answers[follower], plain[ask])
    assert engine.held_keys(ask.documents[lost[0]]) <= engine.mover._chunks.keys(), "nobody tries it again"


@pytest.mark.parametrize("layerwise", [True, False])
def test_what_host_memory_holds_exactly_comes_first_and_chunks_behind_it(
    layerwise: bool,
    engines: Engines,
    asks: list[Asked],
    plain: dict[Asked, Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiers = TierSettings(host_bytes=2000 * KV_BYTES_PER_TOKEN, load_gate=False, layerwise=layerwise)
    engine = engines.get(CHUNKS, tiers, device_blocks=96, step_tokens=64)
    hashes: list[bytes] = []
    begin = engine.connector._chunks.begin

    def listen(request: Any, segments: Any) -> None:
        hashes[:] = request.block_hashes
        begin(request, segments)

    monkeypatch.setattr(engine.connector._chunks, "begin", listen)
    for ask in asks[:3]:
        capture(engine, [ask])
        engine.settle()
        kept_blocks = ask.starts[2] // BLOCK_TOKENS
        engine.tiers.purge(hashes[kept_blocks:], ())
        engine.reset()
        repair_any(monkeypatch, random.Random(7))
        answer = engine.one_answer(blended(ask))
        assert same(answer, plain[ask])
        assert answer.cached_tokens > kept_blocks * BLOCK_TOKENS


@pytest.mark.parametrize("step_tokens", [16, 20])
def test_no_tier_keeps_what_is_counted_as_computed_before_it_is(
    step_tokens: int, engines: Engines, asks: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario: the first steps compute a few tokens before and behind a document that is loaded."""
    tiers = TierSettings(host_bytes=2000 * KV_BYTES_PER_TOKEN, load_gate=False)
    engine = engines.get(CHUNKS, tiers, device_blocks=96, step_tokens=step_tokens)
    hashes: list[bytes] = []
    begin = engine.connector._chunks.begin

    def listen(request: Any, segments: Any) -> None:
        hashes[:] = request.block_hashes
        begin(request, segments)

    monkeypatch.setattr(engine.connector._chunks, "begin", listen)
    for ask in asks[:4]:
        first = replace(ask, documents=ask.documents[:1])
        engine.reset()
        expected = engine.one_answer(first)  # cold, and keeps the document's chunk
        engine.settle()
        engine.tiers.purge(list(hashes), ())
        engine.reset()
        loaded = engine.one_answer(blended(first))
        assert loaded.cached_tokens and same(loaded, expected)
        engine.settle()
        engine.reset()
        assert same(engine.one_answer(first), expected), "from host memory"


def test_no_tier_keeps_what_exact_requests_share_of_a_chunk_that_was_lost(
    engines: Engines, asks: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario: they are scheduled in the very step in which another one was to load it."""
    tiers = TierSettings(host_bytes=2000 * KV_BYTES_PER_TOKEN, load_gate=False)
    engine = engines.get(CHUNKS, tiers, device_blocks=96, step_tokens=1024)
    first = replace(asks[0], documents=asks[0].documents[:1])
    other = replace(first, question=asks[1].question)
    expected = [engine.one_answer(each) for each in (first, other)]
    engine.settle()
    cached = engine.core.scheduler.kv_cache_manager.block_pool.cached_block_hash_to_block._cache
    engine.tiers.purge([key[:-4] for key in cached], ())
    engine.reset()
    keys = list(engine.mover._chunks)
    leader, follower = engine.ask(blended(first)), engine.ask(other, max_tokens=1)
    assert len(keys) == 1
    engine.mover._chunks.clear()
    loaded = len(engine.mover_steps)
    answers: dict[str, Answer] = {}
    while engine.engine.has_unfinished_requests():
        answers |= engine.step_answers()
    assert engine.mover_steps[loaded].loads
    assert same(answers[leader], expected[0])
    assert answers[follower].ids == expected[1].ids[:1]
    engine.settle()
    engine.reset()
    again = [engine.one_answer(each) for each in (first, other)]
    assert again[0].cached_tokens
    assert all(same(answer, before) for answer, before in zip(again, expected, strict=True)), "from host"


# --- what is shared ------------------------------------------------------------------------------


def _disturb(engine: ChunkEngine, ask: Asked) -> list[Answer]:
    """Approximate answers on the documents of ``ask``, in its order and another."""
    moved = replace(ask, documents=ask.documents[1:] + ask.documents[:1])
    capture(engine, [moved])
    return engine.answer([blended(ask), blended(ask), blended(moved)])


def test_exact_answers_are_a_fresh_engines_when_approximate_ones_went_before(
    engine: ChunkEngine, asks: list[Asked], plain: dict[Asked, Answer]
) -> None:
    for ask in asks[:4]:
        _disturb(engine, ask)
        answer = engine.one_answer(ask)
        assert same(answer, plain[ask])
        # the first document was computed exactly each time
        assert answer.cached_tokens <= len(ask.system) + len(ask.documents[0])


def test_exact_answers_are_wrong_when_approximate_blocks_have_no_identity_of_their_own(
    engine: ChunkEngine, asks: list[Asked], plain: dict[Asked, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "approximate", lambda *arguments: None)
    _disturb(engine, asks[0])
    answer = engine.one_answer(asks[0])
    assert answer.cached_tokens > len(asks[0].system)
    assert not same(answer, plain[asks[0]])


def test_equal_reuse_shares_blocks(engine: ChunkEngine, asks: list[Asked]) -> None:
    first, second, _ = _disturb(engine, asks[0])
    assert second.ids == first.ids
    again = engine.one_answer(blended(asks[0]))
    assert again.ids == first.ids
    assert again.cached_tokens >= (len(asks[0].ids) - 1) // BLOCK_TOKENS * BLOCK_TOKENS


def test_another_tenant_uses_no_chunk_of_a_tenants(engine: ChunkEngine, asks: list[Asked]) -> None:
    capture(engine, [replace(asks[0], salt="tenant-a")])
    moved = replace(asks[0], documents=asks[0].documents[::-1], reuse="blend")
    assert engine.one_answer(replace(moved, salt="tenant-b")).cached_tokens == 0
    assert engine.one_answer(replace(moved, salt="tenant-a")).cached_tokens > 0


def test_request_that_does_not_ask_for_it_gets_no_chunk(engine: ChunkEngine, asks: list[Asked]) -> None:
    capture(engine, asks[:1])
    assert engine.one_answer(asks[0]).cached_tokens == 0


# --- what is kept --------------------------------------------------------------------------------


def test_filler_request_keeps_its_last_document_alone(engine: ChunkEngine, asks: list[Asked]) -> None:
    ask = asks[0]
    neutral = words(random.Random(8), 40), words(random.Random(9), 40)
    for document in ask.documents[1:]:
        engine.one_answer(replace(ask, documents=(*neutral, document), filler=True), 1)
    assert len(engine.mover._chunks) == len(ask.documents) - 1
    tokens = [max(4, -(-len(document) * 15 // 100)) for document in ask.documents[1:]]
    computed = len(ask.ids) - engine.one_answer(blended(ask)).cached_tokens
    exact = len(ask.system) + len(ask.documents[0]) + len(ask.question)
    assert exact + sum(tokens) - BLOCK_TOKENS - 1 <= computed <= exact + sum(tokens)


@pytest.mark.parametrize("step_tokens", [64, 1024])
def test_document_is_kept_when_others_before_it_are_reused(
    step_tokens: int, engines: Engines, asks: list[Asked], plain: dict[Asked, Answer]
) -> None:
    """What is reused lies where it was born, so that what is computed in sight of it is right, too."""
    engine = engines.get(CHUNKS, device_blocks=96, step_tokens=step_tokens)
    capture(engine, asks[:1])
    ask = replace(asks[0], documents=(*asks[0].documents[:-1], asks[1].documents[0]))
    steps = len(engine.mover_steps)
    first = engine.one_answer(blended(ask))
    assert any(step.positions and step.captures for step in engine.mover_steps[steps:])
    engine.reset()
    second = engine.one_answer(blended(ask))
    assert second.cached_tokens > first.cached_tokens
    engine.reset()
    exact = engine.one_answer(ask)
    assert same(first, exact)
    assert same(second, exact)


def test_chunks_are_right_when_one_step_loads_some_and_captures_others(
    engines: Engines, asks: list[Asked], plain: dict[Asked, Answer]
) -> None:
    # the order of admission goes by seconds, which differ
    in_turn = TierSettings(admission_window=0, protect_short=False)
    engine = engines.get(CHUNKS, in_turn, device_blocks=96, step_tokens=1024)
    capture(engine, asks[:1])
    steps = len(engine.mover_steps)
    batch = [blended(asks[0]), asks[1], blended(asks[0])]
    for ask, answer in zip(batch, engine.answer(batch), strict=True):
        assert same(answer, plain[replace(ask, reuse="exact")])
    assert any(step.loads and step.captures for step in engine.mover_steps[steps:])
    engine.reset()
    answer = engine.one_answer(blended(asks[1]))
    assert same(answer, plain[asks[1]])
    assert answer.cached_tokens > 0


def test_chunks_stay_within_their_memory_and_answers_stay_right(
    engines: Engines, asks: list[Asked], plain: dict[Asked, Answer]
) -> None:
    chunks = replace(CHUNKS, host_bytes=500 * KV_BYTES_PER_TOKEN)
    engine = engines.get(chunks, device_blocks=64, step_tokens=64)
    rng = random.Random(6)
    hits = 0
    for _ in range(12):
        some = rng.choices(asks, k=3)
        capture(engine, some)
        held_bytes = sum(chunk.numel() * chunk.element_size() for chunk in engine.mover._chunks.values())
        assert held_bytes <= chunks.host_bytes
        for ask in some:
            answer = engine.one_answer(blended(ask))
            hits += answer.cached_tokens > 0
            engine.reset()
    assert hits


def test_purged_document_is_in_no_chunk_any_more(
    engine: ChunkEngine, asks: list[Asked], plain: dict[Asked, Answer]
) -> None:
    ask = asks[0]
    capture(engine, [ask])
    request_id = engine.ask(blended(ask))
    engine.step_answers()
    engine.connector._chunks.purge({tag_of(ask.documents[1])})
    answers: dict[str, Answer] = {}
    while engine.engine.has_unfinished_requests():
        answers |= engine.step_answers()
    assert same(answers[request_id], plain[ask])  # what was under way ends as it began
    engine.one_answer(asks[1])
    # the first one has not seen it, those behind it have
    assert [engine.held(document) for document in ask.documents] == [1, 0, 0, 0]
    assert [engine.held(document) for document in asks[1].documents] == [1, 1, 1, 1]
    assert len(engine.mover._chunks) == 5


# --- what is on disk -----------------------------------------------------------------------------


def _on_disk(folder: Path) -> ChunkSettings:
    return replace(CHUNKS, disk_path=str(folder), disk_bytes=2**26)


def test_chunks_outlive_the_engine(
    engines: Engines, asks: list[Asked], plain: dict[Asked, Answer], tmp_path: Path
) -> None:
    first = engines.get(_on_disk(tmp_path), device_blocks=96, step_tokens=64)
    capture(first, asks[:3])
    engines.close()
    second = engines.get(_on_disk(tmp_path), device_blocks=96, step_tokens=64)
    for ask, answer in zip(asks[:3], second.answer([blended(ask) for ask in asks[:3]]), strict=True):
        assert same(answer, plain[ask])
        assert answer.cached_tokens > len(ask.ids) // 2
    second.forget()  # what is read is kept in memory, and comes again when that has gone
    assert second.one_answer(blended(asks[0])).cached_tokens > 0


@pytest.mark.parametrize("harm", ["truncate", "flip", "delete"])
def test_chunks_that_are_damaged_on_disk_are_computed_anew(
    harm: str, engines: Engines, asks: list[Asked], plain: dict[Asked, Answer], tmp_path: Path
) -> None:
    engine = engines.get(_on_disk(tmp_path), device_blocks=96, step_tokens=64)
    capture(engine, asks[:1])
    engine.mover._disk._thread.submit(lambda: None).result()  # all is written
    files = sorted(tmp_path.rglob("*.kv"))
    assert len(files) == 4
    for path in files[:2]:
        if harm == "truncate":
            os.truncate(path, path.stat().st_size // 2)
        elif harm == "flip":
            with path.open("r+b") as file:
                file.seek(path.stat().st_size // 2)
                file.write(b"\x55" * 64)
        else:
            path.unlink()
    engine.forget()
    answer = engine.one_answer(blended(asks[0]))
    assert same(answer, plain[asks[0]])
    assert 0 < answer.cached_tokens < len(asks[0].ids) - len(asks[0].question) - len(asks[0].system)


# --- who is refused ------------------------------------------------------------------------------


def test_hybrid_model_is_refused_when_chunks_are_on(engines: Engines, tmp_path: Path) -> None:
    engines.close()
    hybrid = save_model(tmp_path / "hybrid", hybrid=True)
    with pytest.raises(ConfigError, match="Gemma3ForCausalLM is none of"):
        ChunkEngine(hybrid, device_blocks=64, **engine_arguments(chunks=CHUNKS))
