from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.acceptance.accounting import (
    Served,
    Touch,
    computed_tokens,
    recomputed_tokens,
    shares,
    zipf_trace,
)

BLOCK = 32
A = Touch(("a",), 45, 645)
B_BEHIND_A = Touch(("a", "b"), 645, 1245)


def test_computed_tokens_is_the_document_in_whole_blocks_when_nothing_of_it_is_cached() -> None:
    assert computed_tokens(A, 0, BLOCK) == 640 - 45
    assert computed_tokens(A, 32, BLOCK) == 640 - 45


def test_computed_tokens_is_zero_when_all_whole_blocks_are_cached() -> None:
    assert computed_tokens(A, 640, BLOCK) == 0
    assert computed_tokens(A, 1000, BLOCK) == 0


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 1500), st.sampled_from([1, 16, 32]))
def test_computed_tokens_equals_a_count_of_tokens(start: int, length: int, cached: int, block: int) -> None:
    touch = Touch(("x",), start, start + length)
    in_whole_blocks = (start + length) // block * block
    counted = sum(start <= token < in_whole_blocks and token >= cached for token in range(start + length))
    assert computed_tokens(touch, cached, block) == counted


def test_recomputed_tokens_leaves_out_the_first_touch_when_a_document_is_new() -> None:
    cold = Served("w0", 32, (A,))
    warm = Served("w0", 640, (A,))
    elsewhere = Served("w1", 32, (A,))
    assert recomputed_tokens([cold], BLOCK) == 0
    assert recomputed_tokens([cold, warm], BLOCK) == 0
    assert recomputed_tokens([cold, warm, elsewhere], BLOCK) == 595


def test_recomputed_tokens_tells_paths_apart_when_a_document_stands_behind_another() -> None:
    alone = Touch(("b",), 45, 645)
    first = Served("w0", 0, (A, B_BEHIND_A))
    # b is new at the front, although it was computed behind a
    assert recomputed_tokens([first, Served("w0", 32, (alone,))], BLOCK) == 0
    # of a and b only b is lost
    assert recomputed_tokens([first, Served("w0", 640, (A, B_BEHIND_A))], BLOCK) == 1216 - 645


def test_shares_names_workers_when_they_got_nothing() -> None:
    served = [Served("w0", 0, ()), Served("w0", 0, ())]
    assert shares(served, ["w0", "w1"]) == {"w0": 1.0, "w1": 0.0}


def test_zipf_trace_is_skewed_and_repeatable() -> None:
    trace = zipf_trace(random.Random(3), 24, 20_000, 0.9)
    assert trace == zipf_trace(random.Random(3), 24, 20_000, 0.9)
    counts = sorted((trace.count(item) for item in range(24)), reverse=True)
    weights = [rank**-0.9 for rank in range(1, 25)]
    for count, weight in zip(counts[:4], weights, strict=False):
        assert abs(count / len(trace) - weight / sum(weights)) < 0.015
    # popularity does not follow the number
    assert counts[0] != trace.count(0) or counts[1] != trace.count(1)
