"""Bursts in vLLM's real scheduler: one computes, the others wait, nobody waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mygo.vllm_plugin.siblings import PATIENCE_STEPS

DOCUMENT = list(range(1, 61)) * 2  # 120 tokens, 30 blocks
BURST = 20
BLOCK_TOKENS = 4  # the scheduler's, see conftest


def _burst(engine: Any, requests: int = BURST) -> None:
    for i in range(requests):
        engine.add(f"r{i}", [*DOCUMENT, i % 64, i % 64, i % 64])


@pytest.mark.parametrize("max_running", [1, 3, 8, 16])
def test_burst_computes_a_new_document_once_when_siblings_are_held(
    engine_factory: Callable[..., Any], max_running: int
) -> None:
    engine = engine_factory(max_running=max_running)
    _burst(engine)
    engine.drain()
    assert engine.computed_tokens == len(DOCUMENT) + BURST * 3


def test_burst_computes_a_new_document_repeatedly_when_siblings_are_not_held(
    engine_factory: Callable[..., Any],
) -> None:
    engine = engine_factory(sibling_hold=False)
    _burst(engine)
    engine.drain()
    assert engine.computed_tokens > 1.5 * len(DOCUMENT) + BURST * 3


def test_held_request_reports_what_it_really_found_cached_when_it_goes_on(
    engine_factory: Callable[..., Any],
) -> None:
    engine = engine_factory()
    engine.add("leader", [*DOCUMENT, 1, 2, 3])
    held = engine.add("held", [*DOCUMENT, 4, 5, 6])
    for _ in range(3):
        assert "held" not in engine.step()
    stats = held.prefill_stats
    engine.drain()
    assert stats.num_cached_tokens == len(DOCUMENT)


def test_stranger_is_served_at_once_when_it_waits_behind_held_siblings(
    engine_factory: Callable[..., Any],
) -> None:
    engine = engine_factory()
    _burst(engine, 3)
    engine.add("stranger", [63, 62, 61])
    assert "stranger" in engine.step() or "stranger" in engine.step()


def test_sibling_takes_over_when_the_leader_is_aborted(engine_factory: Callable[..., Any]) -> None:
    engine = engine_factory()
    _burst(engine, 4)
    assert set(engine.step()) == {"r0"}
    engine.abort("r0")
    assert "r1" in engine.step()
    engine.drain()
    # the whole blocks that the leader had computed are not computed again
    assert engine.computed_tokens <= len(DOCUMENT) + 4 * 3 - 3 + BLOCK_TOKENS


def test_sibling_goes_on_when_the_leader_is_passed_over_for_too_long(
    engine_factory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_factory()
    _burst(engine, 2)
    engine.step()
    # a leader that the scheduler serves no more, for whatever reason
    leader = engine.scheduler.requests["r0"]
    monkeypatch.setattr(leader, "next_decode_eligible_step", 10**9)
    steps = [set(engine.step()) for _ in range(PATIENCE_STEPS + 1)]
    assert steps == [set()] * PATIENCE_STEPS + [{"r1"}]


def test_prompts_of_one_length_share_a_last_block_when_they_are_equal(
    engine_factory: Callable[..., Any],
) -> None:
    """Scenario: equal prompts of whole blocks. The last block cannot be hit, so none waits for it."""
    engine = engine_factory()
    for i in range(4):
        engine.add(f"r{i}", DOCUMENT)
    engine.drain()
    assert engine.computed_tokens == len(DOCUMENT) + 3 * 4


@settings(max_examples=60, deadline=None)
@given(data=st.data(), blocks=st.integers(36, 120), max_running=st.integers(1, 6))
def test_every_request_ends_when_leaders_are_aborted_and_preempted_at_random(
    engine_factory: Callable[..., Any], data: st.DataObject, blocks: int, max_running: int
) -> None:
    engine = engine_factory(blocks=blocks, max_running=max_running)
    for i in range(data.draw(st.integers(1, 12))):
        document = data.draw(st.integers(0, 2))
        length = data.draw(st.integers(0, len(DOCUMENT)))
        engine.add(f"r{i}", [document, *DOCUMENT[:length], i % 64], max_tokens=data.draw(st.integers(1, 12)))
    for _ in range(data.draw(st.integers(0, 30))):
        engine.step()
        if data.draw(st.integers(0, 4)) == 0 and engine.scheduler.requests:
            engine.abort(data.draw(st.sampled_from(sorted(engine.scheduler.requests))))
        if data.draw(st.integers(0, 9)) == 0:
            engine.scheduler.reset_prefix_cache(reset_running_requests=True)
    engine.drain()
    assert not engine.connector._siblings._leaders or max(engine.step().values(), default=0) == 0


def test_leader_is_forgotten_when_its_prompt_is_computed(engine_factory: Callable[..., Any]) -> None:
    engine = engine_factory()
    engine.add("r", list(range(1, 30)), max_tokens=5)
    leaders = engine.connector._siblings._leaders
    engine.step()
    assert list(leaders) == ["r"]
    engine.step()
    assert not leaders
