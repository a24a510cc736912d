"""Rates over time, Poisson arrivals, and the ramp's search."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.profiles import RAMP_FACTOR, RAMP_STEPS, Step, arrivals, next_rate, steps


def _ramp(capacity: float, first: float) -> list[tuple[float, bool]]:
    """All rates that a ramp tries on a cluster that holds up to ``capacity``."""
    tried: list[tuple[float, bool]] = []
    while (rate := next_rate(tried, first)) is not None:
        tried.append((rate, rate <= capacity))
        assert len(tried) <= RAMP_STEPS
    return tried


@given(first=st.floats(0.01, 10), share=st.floats(1.0, 500.0))
def test_ramp_ends_close_below_the_capacity_when_it_is_in_reach(first: float, share: float) -> None:
    capacity = first * share
    tried = _ramp(capacity, first)
    best = max(rate for rate, held in tried if held)
    broken = min(rate for rate, held in tried if not held)
    assert best <= capacity < broken
    assert broken / best == pytest.approx(RAMP_FACTOR**0.25)


def test_ramp_stops_when_the_first_rate_breaks() -> None:
    assert _ramp(capacity=0.5, first=1.0) == [(1.0, False)]


def test_ramp_stops_when_nothing_ever_breaks() -> None:
    tried = _ramp(capacity=float("inf"), first=1.0)
    assert len(tried) == RAMP_STEPS
    assert all(held for _, held in tried)


def test_ramp_ignores_a_rate_that_held_above_one_that_broke() -> None:
    assert next_rate([(1.0, True), (2.0, False), (3.0, True)], 1.0) == pytest.approx(2.0**0.5)


@given(seed=st.integers(0, 1000), rates=st.lists(st.floats(0.5, 20), min_size=1, max_size=4))
def test_arrivals_lie_in_their_steps_in_order(seed: int, rates: list[float]) -> None:
    found = arrivals([Step(rate, 10.0) for rate in rates], Random(seed))
    assert found == sorted(found)
    assert all(10.0 * step <= due_s < 10.0 * (step + 1) for due_s, step in found)


def test_arrivals_come_at_the_steps_rates() -> None:
    found = arrivals([Step(5.0, 1000.0), Step(50.0, 1000.0)], Random(1))
    counts = [sum(step == number for _, step in found) for number in (0, 1)]
    assert counts == [pytest.approx(5_000, rel=0.05), pytest.approx(50_000, rel=0.02)]


def test_arrivals_repeat_when_the_seed_does() -> None:
    plan = [Step(3.0, 20.0)]
    assert arrivals(plan, Random(4)) == arrivals(plan, Random(4)) != arrivals(plan, Random(5))


def test_spike_lasts_a_fifth_and_is_framed_by_the_base_rate() -> None:
    found = steps("spike", rate=2.0, duration_s=100.0, spike_factor=6.0)
    assert found == [Step(2.0, 40.0), Step(12.0, 20.0), Step(2.0, 40.0)]
