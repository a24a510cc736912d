"""What a step costs: prompts in chunks cost what they cost whole, and fixed costs are paid once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.emulation import profile as profiles
from mygo.emulation.timing import Chunk, decode_steps_s, step_s
from mygo.tree.profile import prefill_s

H100 = profiles.load("llama-3-8b-h100")


def _prefill_in_chunks_s(cached_tokens: int, chunks: list[int]) -> float:
    total_s, done = 0.0, 0
    for tokens in chunks:
        total_s += step_s(H100, [Chunk(cached_tokens, done, tokens)], 0, 0)
        done += tokens
    return total_s


def test_prefill_costs_what_the_profile_says_when_it_is_alone() -> None:
    for cached_tokens, row in zip(H100.prefill.cached_tokens, H100.prefill.seconds, strict=True):
        for new_tokens, seconds in zip(H100.prefill.new_tokens, row, strict=True):
            assert step_s(H100, [Chunk(cached_tokens, 0, new_tokens)], 0, 0) == pytest.approx(seconds)


@given(
    st.integers(0, 20_000), st.lists(st.integers(512, 4096), min_size=1, max_size=8).filter(lambda c: sum(c))
)
def test_prefill_costs_the_same_when_it_is_cut_into_chunks(cached_tokens: int, chunks: list[int]) -> None:
    whole_s = prefill_s(H100.prefill, cached_tokens, sum(chunks))
    assert _prefill_in_chunks_s(cached_tokens, chunks) == pytest.approx(whole_s)


def test_fixed_cost_is_paid_once_when_two_prompts_begin_in_one_step() -> None:
    chunk = Chunk(0, 0, 2048)
    alone_s = step_s(H100, [chunk], 0, 0)
    assert step_s(H100, [chunk, chunk], 0, 0) == pytest.approx(2 * alone_s - H100.decode.step_s)


def test_decoding_adds_its_sequences_when_a_prompt_shares_the_step() -> None:
    chunk = Chunk(0, 0, 2048)
    added_s = step_s(H100, [chunk], 3, 9000) - step_s(H100, [chunk], 0, 0)
    assert added_s == pytest.approx(3 * H100.decode.sequence_s + 9000 * H100.decode.context_token_s)


def test_no_step_is_shorter_than_its_fixed_cost_when_it_holds_almost_nothing() -> None:
    assert step_s(H100, [], 0, 0) == H100.decode.step_s
    assert step_s(H100, [Chunk(2048, 4000, 1)], 0, 0) >= H100.decode.step_s


@given(st.integers(1, 64), st.integers(1, 100_000), st.integers(1, 200))
def test_decode_steps_cost_the_sum_of_single_steps(sequences: int, context: int, steps: int) -> None:
    one_by_one_s = sum(step_s(H100, [], sequences, context + step * sequences) for step in range(steps))
    assert decode_steps_s(H100.decode, sequences, context, steps) == pytest.approx(one_by_one_s)
