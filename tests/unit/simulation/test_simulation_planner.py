"""The least number of workers, found with few simulations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.simulation.outcome import Summary
from mygo.simulation.planner import Slo, least_workers
from mygo.simulation.sweep import Point, Row

SLO = Slo(1.0, 95)


def row(workers: int, needed: int) -> Row:
    """A cluster that keeps the promise from ``needed`` workers on."""
    ttft_s = 0.5 if workers >= needed else 2.0
    summary = Summary(1, 1.0, *[ttft_s] * 4, 1.0, 1.0, 0.01, 0.01, 100, 50, 50, 1, 1.0, 1.0)
    return Row(Point(workers, 1.0, None, "p"), summary, 0, 0.0)


@given(st.integers(1, 300))
def test_planner_finds_the_least_number_when_more_never_hurts(needed: int) -> None:
    asked: list[int] = []

    def try_workers(workers: int) -> Row:
        asked.append(workers)
        return row(workers, needed)

    plan = least_workers(try_workers, SLO, 256)
    assert plan.workers == (needed if needed <= 256 else None)
    assert len(asked) == len(set(asked)) <= 2 * 8 + 2
    assert [each.point.workers for each in plan.tried] == sorted(asked)


@pytest.mark.parametrize("percentile", [50, 95, 99])
def test_slo_looks_at_the_percentile_it_names(percentile: int) -> None:
    summary = Summary(1, 1.0, 0.0, 50.0, 95.0, 99.0, 1.0, 1.0, 0.01, 0.01, 1, 1, 1, 1, 1.0, 1.0)
    assert Slo(1.0, percentile).seconds(summary) == percentile
    assert not Slo(percentile - 1.0, percentile).met(summary)
