"""The cost profile T(cached, new): seconds to prefill ``new`` tokens behind ``cached`` ones.

Between measured points it is the bilinear interpolation of RAGCache (arXiv 2404.12457).
Outside them it continues in straight lines, so that a prompt longer than any measured one still gets
a sensible price.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from mygo.types import ProfileGrid


def prefill_s(grid: ProfileGrid, cached_tokens: int, new_tokens: int) -> float:
    """Predicted seconds to prefill ``new_tokens`` when ``cached_tokens`` before them are held.

    Exact at the measured points; never negative; 0.0 for no new tokens. Never falls as ``new_tokens``
    grows if no row of the grid does. ``grid`` must have passed ``check``. Raises ValueError for a
    negative count.
    """
    if cached_tokens < 0 or new_tokens < 0:
        raise ValueError(f"token counts must not be negative: cached {cached_tokens}, new {new_tokens}")
    if new_tokens == 0:
        return 0.0
    row = _row(grid, cached_tokens)
    line = _linear(grid.new_tokens, row, new_tokens)
    smallest = grid.new_tokens[0]
    if new_tokens < smallest or len(row) == 1:
        # Below the first point the line ends in the cost of an empty step. Noise may put that below
        # zero, and one point alone gives no line: then cost is proportional to tokens.
        proportional = row[0] * new_tokens / smallest
        line = proportional if len(row) == 1 else max(line, proportional)
    return max(0.0, line)


def check(grid: ProfileGrid) -> None:
    """Raise ValueError that names what is wrong: an empty or unordered axis, a wrong shape, a bad time."""
    _check_axis("cached_tokens", grid.cached_tokens, least=0)
    _check_axis("new_tokens", grid.new_tokens, least=1)
    if len(grid.seconds) != len(grid.cached_tokens):
        raise ValueError(
            f"profile seconds has {len(grid.seconds)} rows for {len(grid.cached_tokens)} cached_tokens"
        )
    for cached_tokens, row in zip(grid.cached_tokens, grid.seconds, strict=True):
        if len(row) != len(grid.new_tokens):
            raise ValueError(
                f"profile seconds at cached_tokens {cached_tokens} has {len(row)} values "
                f"for {len(grid.new_tokens)} new_tokens"
            )
        for new_tokens, seconds in zip(grid.new_tokens, row, strict=True):
            if not math.isfinite(seconds) or seconds <= 0:
                raise ValueError(
                    f"profile seconds at cached_tokens {cached_tokens}, new_tokens {new_tokens} "
                    f"must be positive and finite, not {seconds}; measure again"
                )


def to_dict(grid: ProfileGrid) -> dict[str, Any]:
    """The grid as plain lists and numbers, for JSON."""
    return {
        "cached_tokens": list(grid.cached_tokens),
        "new_tokens": list(grid.new_tokens),
        "seconds": [list(row) for row in grid.seconds],
    }


def from_dict(data: Mapping[str, Any]) -> ProfileGrid:
    """The checked inverse of ``to_dict``. Raises ValueError that names what is missing or wrong."""
    try:
        grid = ProfileGrid(
            cached_tokens=tuple(int(tokens) for tokens in data["cached_tokens"]),
            new_tokens=tuple(int(tokens) for tokens in data["new_tokens"]),
            seconds=tuple(tuple(float(seconds) for seconds in row) for row in data["seconds"]),
        )
    except KeyError as error:
        raise ValueError(f"profile lacks {error}") from error
    except TypeError as error:
        raise ValueError(f"profile does not hold lists of numbers: {error}") from error
    check(grid)
    return grid


def _row(grid: ProfileGrid, cached_tokens: int) -> Sequence[float]:
    """T(cached_tokens, .) at every measured count of new tokens."""
    axis = grid.cached_tokens
    columns = zip(*grid.seconds, strict=True)
    row = [_linear(axis, column, cached_tokens) for column in columns]
    outside = not axis[0] <= cached_tokens <= axis[-1]
    if outside and all(a <= b for seconds in grid.seconds for a, b in pairwise(seconds)):
        # Columns with noisy slopes may cross out there; more tokens must still never cost less.
        return list(accumulate(row, max))
    return row


def _linear(axis: Sequence[int], values: Sequence[float], at: int) -> float:
    """The piecewise line through (axis, values); its first and last piece go on for ever."""
    if len(axis) == 1:
        return values[0]
    high = min(max(bisect_right(axis, at), 1), len(axis) - 1)
    low = high - 1
    share = (at - axis[low]) / (axis[high] - axis[low])
    return values[low] * (1 - share) + values[high] * share


def _check_axis(name: str, axis: Sequence[int], *, least: int) -> None:
    if not axis:
        raise ValueError(f"profile {name} is empty")
    if axis[0] < least:
        raise ValueError(f"profile {name} must begin at {least} or more, not {axis[0]}")
    for before, after in pairwise(axis):
        if after <= before:
            raise ValueError(f"profile {name} must increase, but {after} follows {before}")
