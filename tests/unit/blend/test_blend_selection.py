from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.blend.selection import Method, runs, select

RANKING = [Method.INTER_ATTENTION, Method.KEY_DEVIATION]
scored = st.lists(st.integers(0, 5), min_size=1, max_size=40)


@given(st.sampled_from(RANKING), scored, st.data())
def test_select_takes_the_floor_and_then_the_highest(
    method: Method, scores: list[int], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(scores)))
    floor_tokens = data.draw(st.integers(0, 10))
    chosen = select(method, len(scores), count, floor_tokens=floor_tokens, scores=scores)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == count
    first = min(count, floor_tokens)
    assert chosen[:first] == list(range(first))
    left = set(range(first, len(scores))) - set(chosen)
    for index in chosen[first:]:
        # nothing left behind beats what was chosen, and among equals the earlier one was chosen
        assert all((scores[index], -index) > (scores[other], -other) for other in left)


@given(st.sampled_from(RANKING), st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40), st.data())
def test_select_gives_the_same_when_scores_are_an_array(
    method: Method, scores: list[float], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(scores)))
    array = np.array(scores, dtype=np.float32)
    assert select(method, len(scores), count, scores=array) == select(
        method, len(scores), count, scores=scores
    )


def test_select_takes_the_first_when_scores_are_not_looked_at() -> None:
    assert select(Method.FIRST_TOKENS, 10, 3) == [0, 1, 2]
    assert select(Method.FIRST_TOKENS, 10, 3, floor_tokens=8, scores=[9.0] * 10) == [0, 1, 2]


def test_select_refuses_when_scores_or_tokens_are_missing() -> None:
    with pytest.raises(ValueError, match="each of 3 tokens, not none"):
        select(Method.KEY_DEVIATION, 3, 1)
    with pytest.raises(ValueError, match="each of 3 tokens, not 2"):
        select(Method.INTER_ATTENTION, 3, 1, scores=[1.0, 2.0])
    with pytest.raises(ValueError, match="cannot select 4 of 3"):
        select(Method.FIRST_TOKENS, 3, 4)


@given(st.sets(st.integers(0, 30)))
def test_runs_cover_the_indices_without_touching(indices: set[int]) -> None:
    selected = sorted(indices)
    found = runs(selected)
    assert [index for run in found for index in run] == selected
    assert all(before.stop < after.start for before, after in pairwise(found))
