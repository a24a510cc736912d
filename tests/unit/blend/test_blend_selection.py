"""Which tokens are chosen: as many as asked for, the first ones always among them."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.blend.selection import Method, select


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int, int]:
    """Tokens, how many of them, and how many first ones."""
    tokens = draw(st.integers(0, 600))
    count = draw(st.integers(0, tokens))
    return tokens, count, draw(st.integers(0, count))


@given(st.sampled_from(list(Method)), counts())
def test_select_gives_as_many_as_asked_for_with_the_first_ones(
    method: Method, asked: tuple[int, int, int]
) -> None:
    tokens, count, first_tokens = asked
    chosen = select(method, tokens, count, first_tokens)
    assert len(chosen) == count
    assert chosen == sorted(set(chosen)) and set(chosen) <= set(range(tokens))
    assert chosen[:first_tokens] == list(range(first_tokens))
    assert chosen == select(method, tokens, count, first_tokens)


@given(counts())
def test_first_tokens_are_the_first(asked: tuple[int, int, int]) -> None:
    assert select(Method.FIRST_TOKENS, *asked) == list(range(asked[1]))


@given(counts())
def test_spread_leaves_gaps_that_differ_by_one_at_most(asked: tuple[int, int, int]) -> None:
    tokens, count, first_tokens = asked
    behind = select(Method.SPREAD, tokens, count, first_tokens)[first_tokens:]
    gaps = [after - before for before, after in pairwise(behind)]
    assert max(gaps, default=0) - min(gaps, default=0) <= 1
    if behind:  # half a gap before the first, and behind the last
        gap = (tokens - first_tokens) / len(behind)
        assert abs(behind[0] - first_tokens - (gap - 1) / 2) <= 1
        assert abs(tokens - 1 - behind[-1] - (gap - 1) / 2) <= 1


@given(counts(), st.randoms(use_true_random=False))
def test_deviation_takes_those_that_are_ranked_first(asked: tuple[int, int, int], rng: Random) -> None:
    tokens, count, first_tokens = asked
    order = rng.sample(range(tokens), k=tokens)
    chosen = select(Method.DEVIATION, *asked, order)
    assert len(chosen) == count and chosen == sorted(set(chosen))
    assert chosen[:first_tokens] == list(range(first_tokens))
    places = [order.index(index) for index in chosen[first_tokens:]]
    left = [order.index(index) for index in set(range(tokens)) - set(chosen)]
    assert max(places, default=-1) < min(left, default=tokens)
    assert select(Method.DEVIATION, *asked) == select(Method.FIRST_TOKENS, *asked, order)


@pytest.mark.parametrize("asked", [(3, -1, 0), (3, 4, 0), (3, 2, 3), (3, 2, -1)])
def test_select_refuses_counts_that_cannot_be_had(asked: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"cannot select {asked[1]} of 3"):
        select(Method.FIRST_TOKENS, *asked)
