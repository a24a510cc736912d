"""The cost profile against analytic functions: exact where it should be, sane everywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mygo.tree.profile import check, from_dict, prefill_s, to_dict
from mygo.types import ProfileGrid

axes = st.lists(st.integers(1, 5000), min_size=1, max_size=6, unique=True).map(
    lambda axis: tuple(sorted(axis))
)
cached_axes = axes.map(lambda axis: (0, *axis))
times = st.floats(1e-6, 100.0)
coefficients = st.floats(1e-6, 1e-2)


@st.composite
def grids(draw: st.DrawFn, *, rising: bool = False) -> ProfileGrid:
    cached, new = draw(cached_axes), draw(axes)
    rows = st.lists(times, min_size=len(new), max_size=len(new)).map(sorted if rising else list)
    seconds = tuple(tuple(draw(rows)) for _ in cached)
    return ProfileGrid(cached, new, seconds)


@given(grids())
def test_prefill_s_is_exact_when_the_point_was_measured(grid: ProfileGrid) -> None:
    for cached, row in zip(grid.cached_tokens, grid.seconds, strict=True):
        for new, seconds in zip(grid.new_tokens, row, strict=True):
            assert prefill_s(grid, cached, new) == pytest.approx(seconds, rel=1e-9)


@given(cached_axes, axes, st.tuples(*[coefficients] * 4), st.integers(0, 20_000), st.integers(1, 20_000))
def test_prefill_s_equals_the_function_when_it_is_bilinear(
    cached_axis: tuple[int, ...],
    new_axis: tuple[int, ...],
    c: tuple[float, float, float, float],
    cached: int,
    new: int,
) -> None:
    assume(len(new_axis) > 1)

    def seconds(x: int, y: int) -> float:
        return c[0] + c[1] * x + c[2] * y + c[3] * x * y / 1000

    grid = ProfileGrid(
        cached_axis, new_axis, tuple(tuple(seconds(x, y) for y in new_axis) for x in cached_axis)
    )
    assert prefill_s(grid, cached, new) == pytest.approx(seconds(cached, new), rel=1e-6)


def test_prefill_s_follows_the_published_formula_inside_a_cell() -> None:
    grid = ProfileGrid((0, 100), (10, 30), ((1.0, 3.0), (2.0, 8.0)))
    low = 1.0 + (15 - 10) / 20 * (3.0 - 1.0)
    high = 2.0 + (15 - 10) / 20 * (8.0 - 2.0)
    assert prefill_s(grid, 25, 15) == pytest.approx(low + 25 / 100 * (high - low))


@given(grids(), st.integers(0, 50_000), st.integers(0, 50_000))
def test_prefill_s_is_never_negative(grid: ProfileGrid, cached: int, new: int) -> None:
    assert prefill_s(grid, cached, new) >= 0.0


@given(grids(rising=True), st.integers(0, 20_000), st.lists(st.integers(0, 20_000), min_size=2, max_size=12))
def test_prefill_s_never_falls_with_new_tokens_when_no_row_does(
    grid: ProfileGrid, cached: int, new: list[int]
) -> None:
    seconds = [prefill_s(grid, cached, tokens) for tokens in sorted(new)]
    assert all(a <= b or a == pytest.approx(b, rel=1e-9) for a, b in pairwise(seconds))


def test_prefill_s_is_zero_when_nothing_is_new() -> None:
    assert prefill_s(ProfileGrid((0,), (64,), ((0.5,),)), 1000, 0) == 0.0


def test_prefill_s_is_proportional_when_one_point_was_measured() -> None:
    grid = ProfileGrid((0,), (100,), ((2.0,),))
    assert prefill_s(grid, 0, 50) == pytest.approx(1.0)
    assert prefill_s(grid, 700, 300) == pytest.approx(6.0)


def test_prefill_s_stays_above_proportional_when_noise_bends_the_line_below_zero() -> None:
    grid = ProfileGrid((0,), (100, 200), ((1.0, 5.0),))
    assert prefill_s(grid, 0, 10) == pytest.approx(0.1)


def test_prefill_s_refuses_negative_counts() -> None:
    grid = ProfileGrid((0,), (100,), ((2.0,),))
    with pytest.raises(ValueError, match="cached -1"):
        prefill_s(grid, -1, 5)
    with pytest.raises(ValueError, match="new -5"):
        prefill_s(grid, 1, -5)


GOOD = ProfileGrid((0, 10), (1, 5), ((0.1, 0.2), (0.3, 0.4)))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (replace(GOOD, cached_tokens=()), "cached_tokens is empty"),
        (replace(GOOD, new_tokens=()), "new_tokens is empty"),
        (replace(GOOD, cached_tokens=(-1, 10)), "cached_tokens must begin at 0"),
        (replace(GOOD, new_tokens=(0, 5)), "new_tokens must begin at 1"),
        (replace(GOOD, new_tokens=(5, 5)), "5 follows 5"),
        (replace(GOOD, cached_tokens=(10, 0)), "0 follows 10"),
        (replace(GOOD, seconds=((0.1, 0.2),)), "1 rows for 2"),
        (replace(GOOD, seconds=((0.1, 0.2), (0.3,))), "cached_tokens 10 has 1 values"),
        (replace(GOOD, seconds=((0.1, 0.2), (0.3, float("nan")))), "cached_tokens 10, new_tokens 5"),
        (replace(GOOD, seconds=((0.1, 0.0), (0.3, 0.4))), "cached_tokens 0, new_tokens 5"),
    ],
)
def test_check_names_what_is_wrong_when_a_grid_is_bad(bad: ProfileGrid, message: str) -> None:
    check(GOOD)
    with pytest.raises(ValueError, match=message):
        check(bad)


@given(grids())
def test_grid_is_the_same_when_it_went_through_json(grid: ProfileGrid) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(grid)))) == grid


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"cached_tokens": [0], "new_tokens": [1]}, "lacks 'seconds'"),
        ({"cached_tokens": [0], "new_tokens": [1], "seconds": 3}, "lists of numbers"),
        ({"cached_tokens": [0], "new_tokens": [1], "seconds": [[-1]]}, "positive and finite"),
    ],
)
def test_from_dict_names_what_is_wrong_when_a_file_is_bad(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(data)
