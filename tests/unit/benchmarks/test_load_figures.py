"""What samples add up to, and when a ramp's step holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_samples import sample

from benchmarks.load.figures import figures, holds, intervals, objective
from benchmarks.load.samples import Outcome


def test_figures_count_every_outcome_and_only_what_was_due() -> None:
    samples = [
        sample(0, 0.0),
        sample(1, 1.0, Outcome.SHED, status=503),
        sample(2, 2.0, Outcome.CUT, ttft_s=0.5),
        sample(3, 10.0),
    ]
    found = figures(samples, 0.0, 10.0)
    assert found.outcomes == {"ok": 1, "shed": 1, "cut": 1}
    assert (found.requests, found.served) == (3, 1)
    assert found.lost_share == pytest.approx(2 / 3)
    assert found.offered_rate == pytest.approx(0.3)


def test_served_rate_counts_the_seconds_until_the_last_answer() -> None:
    samples = [sample(0, 0.0), sample(1, 9.0, ended_s=40.0)]
    assert figures(samples, 0.0, 10.0).served_rate == pytest.approx(2 / 40)


def test_cached_ratio_and_worker_share_are_of_served_requests_only() -> None:
    samples = [
        sample(0, 0.0, prompt_tokens=100, cached_tokens={"device": 40, "host": 10}, worker="a"),
        sample(1, 1.0, prompt_tokens=300, cached_tokens={"device": 60}, worker="b"),
        sample(2, 2.0, prompt_tokens=100, worker="b"),
        sample(3, 3.0, Outcome.CUT, prompt_tokens=999, cached_tokens={"device": 999}, worker="c"),
    ]
    found = figures(samples, 0.0, 10.0)
    assert found.cached_ratio == {"device": pytest.approx(0.2), "host": pytest.approx(0.02)}
    assert found.worker_share == {"b": pytest.approx(2 / 3), "a": pytest.approx(1 / 3)}
    assert next(iter(found.worker_share)) == "b"


def test_lag_is_the_clients_own_lateness() -> None:
    samples = [sample(number, float(number), sent_s=number + 0.2) for number in range(5)]
    assert figures(samples, 0.0, 10.0).lag_p99_s == pytest.approx(0.2)


@given(st.lists(st.floats(0, 99), max_size=40), st.floats(0.7, 30))
def test_intervals_hold_each_request_once(due: list[float], interval_s: float) -> None:
    samples = [sample(number, due_s) for number, due_s in enumerate(due)]
    assert sum(each.requests for each in intervals(samples, interval_s, 100.0)) == len(due)


def test_step_holds_below_five_times_the_first_ttft() -> None:
    def step(ttft_s: float, lost: int = 0) -> bool:
        samples = [sample(number, 0.1, ttft_s=ttft_s) for number in range(100 - lost)]
        samples += [sample(100 + number, 0.1, Outcome.SHED) for number in range(lost)]
        return holds(figures(samples, 0.0, 1.0), limit_s)

    limit_s = objective(figures([sample(0, 0.0, ttft_s=0.2)], 0.0, 1.0))
    assert limit_s == pytest.approx(1.0)
    assert step(0.99)
    assert not step(1.01)
    assert step(0.5, lost=1)
    assert not step(0.5, lost=2)


def test_step_without_requests_does_not_hold() -> None:
    assert not holds(figures([], 0.0, 1.0), None)
