"""The verdict of the chunk exactness benchmark, without an engine."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.chunk_exactness import ALL, HIT, MOST, Sample, show


@pytest.mark.parametrize(
    ("kl", "most_kl", "same", "holds"),
    [
        (0.009, 0.009, 9, True),
        (0.011, 0.009, 9, False),
        (0.009, 0.011, 9, False),
        (0.009, 0.009, 8, False),
        (0.0, 0.0, 10, True),
    ],
)
def test_bounds_hold_only_if_all_do(kl: float, most_kl: float, same: int, holds: bool) -> None:
    """A prefix hit has 9 of 10 answers alike; how often others are, what is left out may change."""
    samples = [
        Sample(way, way_kl, number < alike, 0)
        for way, way_kl, alike in ((HIT, 0.001, 9), (ALL, kl, same), (MOST, most_kl, 0))
        for number in range(10)
    ]
    assert show(Console(file=io.StringIO(), width=120), samples) is holds
