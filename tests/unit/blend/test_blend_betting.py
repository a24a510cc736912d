"""What makes the tests valid at any time: wealth does not grow on average while the claim holds."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.blend.betting import MeanTest, kept, portion

bounds = st.floats(0.02, 0.98)
values = st.floats(0, 1)
histories = st.lists(values, max_size=30)


def after(bound: float, history: list[float]) -> MeanTest:
    test = MeanTest(bound)
    for value in history:
        test.observe(value)
    return test


@given(bounds, histories, values, values)
def test_evidence_is_expected_to_stay_when_the_mean_is_the_bound(
    bound: float, history: list[float], low_share: float, high_share: float
) -> None:
    """After any history, and for any two values around the bound, taken so often that their mean is it."""
    low, high = bound * low_share, bound + (1 - bound) * high_share
    often = (bound - low) / (high - low) if high > low else 0.5
    expected = (1 - often) * after(bound, [*history, low]).evidence
    expected += often * after(bound, [*history, high]).evidence
    assert expected == pytest.approx(after(bound, history).evidence)


@given(bounds, histories, values, values)
def test_evidence_grows_with_what_is_observed(
    bound: float, history: list[float], one: float, other: float
) -> None:
    low, high = sorted((one, other))
    assert after(bound, [*history, low]).evidence <= after(bound, [*history, high]).evidence


@given(bounds, histories)
def test_evidence_is_never_negative_and_begins_with_one(bound: float, history: list[float]) -> None:
    assert MeanTest(bound).evidence == 1
    test = after(bound, history)
    assert test.evidence > 0
    assert test.count == len(history)
    assert min(test.staked) >= 0


@given(st.integers(1, 1000))
def test_portions_and_what_is_kept_make_one(count: int) -> None:
    assert sum(portion(number) for number in range(1, count + 1)) + kept(count) == pytest.approx(1)
    assert portion(count) > portion(count + 1) > 0


def shown_after(test: MeanTest, rng: Random, mean: float, least: float) -> int | None:
    """Observations, each 0 or 1, until the evidence is ``least``; None if 2,000 do not show it."""
    for number in range(1, 2001):
        test.observe(float(rng.random() < mean))
        if test.evidence >= least:
            return number
    return None


def test_claim_is_given_up_soon_when_it_is_false() -> None:
    found = sorted(shown_after(MeanTest(0.1), Random(seed), 0.5, 1000) or 2000 for seed in range(50))
    assert found[25] < 20
    assert found[-1] < 60


def test_claim_is_given_up_when_it_held_for_long() -> None:
    """Scenario: a thousand good observations lose all that was staked at first."""
    for seed in range(20):
        test = after(0.1, [0.0] * 1000)
        late = shown_after(test, Random(seed), 0.5, 1000)
        assert late is not None
        assert late < 100


def test_claim_is_seldom_given_up_when_it_holds() -> None:
    """Ville: in at most a tenth of all lives, here of 2,000 observations with the mean at the bound."""
    given_up = [shown_after(MeanTest(0.1), Random(seed), 0.1, 10) for seed in range(150)]
    assert sum(number is not None for number in given_up) <= 0.1 * 150
