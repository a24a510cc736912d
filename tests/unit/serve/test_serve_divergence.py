"""Two answers' divergence, against whole distributions and all that their likeliest tokens leave open."""

from __future__ import annotations

import random
from collections.abc import Mapping
from math import exp, inf, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.serve.divergence import Probed, compare, first_token_kl, token_f1

Distribution = Mapping[int, float]

distributions = st.lists(st.floats(0.001, 1.0), min_size=6, max_size=6).map(
    lambda weights: {token: weight / sum(weights) for token, weight in enumerate(weights)}
)


def _kl(p: Distribution, q: Distribution) -> float:
    return sum(p[token] * log(p[token] / q[token]) for token in p)


def _likeliest(distribution: Distribution, count: int) -> dict[int, float]:
    best = sorted(distribution, key=lambda token: -distribution[token])[:count]
    return {token: log(distribution[token]) for token in best}


@given(distributions, distributions, st.integers(1, 6))
def test_kl_is_never_more_than_that_of_the_whole_distributions(
    p: Distribution, q: Distribution, count: int
) -> None:
    assert first_token_kl(_likeliest(p, count), _likeliest(q, count)) <= _kl(p, q) + 1e-5


@given(distributions, distributions)
def test_kl_is_exact_when_all_tokens_are_named(p: Distribution, q: Distribution) -> None:
    assert first_token_kl(_likeliest(p, 6), _likeliest(q, 6)) == pytest.approx(_kl(p, q), abs=1e-5)


@given(distributions, distributions, st.integers(1, 5), st.randoms(use_true_random=False))
def test_kl_is_the_least_that_the_named_tokens_leave_open(
    p: Distribution, q: Distribution, count: int, rng: random.Random
) -> None:
    """Whatever the tokens that the blend does not name may have, all others as one, it is no less."""
    exact, blended = _likeliest(p, count), _likeliest(q, count)
    found = first_token_kl(exact, blended)
    most = exp(min(blended.values()))
    common = exact.keys() & blended.keys()
    unnamed = exact.keys() - common
    rest_p = 1 - sum(exp(exact[token]) for token in exact)
    known = sum(exp(exact[t]) * (exact[t] - blended[t]) for t in common)
    for _ in range(50):
        shares = {token: rng.random() * most for token in unnamed}
        left = 1 - sum(exp(blended[token]) for token in common) - sum(shares.values())
        if left > 1e-4:
            kl = known + sum(exp(exact[t]) * (exact[t] - log(shares[t] or 1e-300)) for t in unnamed)
            kl += rest_p * log(rest_p / left) if rest_p > 1e-9 else 0.0
            assert found <= kl + 1e-5


def test_kl_is_large_when_the_answers_have_no_token_in_common() -> None:
    exact = {1: log(0.9), 2: log(0.05)}
    blended = {3: log(0.9), 4: log(0.001)}
    assert first_token_kl(exact, blended) > 0.9 * log(0.9 / 0.001)


@pytest.mark.parametrize("other", [{}, {1: 0.0}, {2: -inf}, {2: 0.0}])
def test_kl_is_a_number_when_an_engine_tells_little(other: dict[int, float]) -> None:
    assert 0 <= first_token_kl({1: -1e-7}, other) < 50
    assert 0 <= first_token_kl(other, {1: -1e-7}) < 50


def _answer(*token_ids: int) -> Probed:
    return Probed(token_ids, {token_ids[0]: -0.1}, approximate=True, computed_tokens=1)


def test_divergence_counts_agreement_by_place_and_overlap_without() -> None:
    divergence = compare(_answer(1, 2, 3, 4), _answer(1, 3, 2))
    assert divergence.first_token_kl == pytest.approx(0.0, abs=1e-6)
    assert divergence.top1_agreement == 0.25
    assert divergence.overlap == pytest.approx(6 / 7)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [((), (), 1.0), ((1,), (), 0.0), ((1, 1, 2), (1, 2, 2), 2 / 3), ((1, 2), (2, 1), 1.0)],
)
def test_f1_counts_tokens_as_often_as_both_have_them(
    a: tuple[int, ...], b: tuple[int, ...], expected: float
) -> None:
    assert token_f1(a, b) == pytest.approx(expected)
