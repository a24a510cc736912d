from __future__ import annotations

from random import Random
from statistics import fmean

import pytest

from mygo.blend.calibrate import LEAST_ROWS, Row, calibrate, mean_interval, upper_mean
from mygo.blend.selection import Method
from mygo.errors import BadRequest

FIRST = Method.FIRST_TOKENS


def rows(
    method: Method,
    alpha: float,
    kl: float,
    *,
    nats: float = 0.0,
    computed_share: float | None = None,
    count: int = 60,
) -> list[Row]:
    """Rows whose mean KL is ``kl``, spread as recorded ones are."""
    rng = Random(f"{method}{alpha}")
    drawn = [rng.lognormvariate(0, 1) for _ in range(count)]
    share = alpha if computed_share is None else computed_share
    return [Row(method, alpha, each * kl / fmean(drawn), nats, share) for each in drawn]


def chosen(measured: list[Row]) -> tuple[Method, float] | None:
    found = calibrate(measured, kl_bound=0.12, gold_nats_bound=0.1, rng=Random(0)).chosen
    return None if found is None else (found.method, found.alpha)


def test_calibrate_chooses_the_least_repair_that_keeps_the_bound() -> None:
    measured = [
        row for alpha, kl in ((0.0, 0.3), (0.15, 0.05), (0.3, 0.04)) for row in rows(FIRST, alpha, kl)
    ]
    assert chosen(measured) == (FIRST, 0.15)


def test_calibrate_leaves_a_setting_when_only_its_mean_keeps_the_bound() -> None:
    assert chosen(rows(FIRST, 0.15, 0.115) + rows(FIRST, 0.3, 0.05)) == (FIRST, 0.3)


def test_calibrate_leaves_a_setting_when_right_answers_became_less_likely() -> None:
    assert chosen(rows(FIRST, 0.15, 0.05, nats=0.11) + rows(FIRST, 0.3, 0.05, nats=0.09)) == (FIRST, 0.3)


def test_calibrate_compares_settings_by_what_they_computed() -> None:
    """Documents that share their context with their birth are repaired less."""
    measured = rows(FIRST, 0.15, 0.05, computed_share=0.3) + rows(FIRST, 0.3, 0.05, computed_share=0.2)
    assert chosen(measured) == (FIRST, 0.3)


def test_calibrate_chooses_nothing_when_nothing_keeps_the_bound() -> None:
    assert chosen(rows(FIRST, 0.15, 0.4) + rows(FIRST, 0.3, 0.2)) is None


def test_calibrate_reports_every_setting_in_the_order_of_computation() -> None:
    measured = rows(FIRST, 0.3, 0.05) + rows(FIRST, 0.0, 0.5, nats=0.25) + rows(FIRST, 0.15, 0.1)
    found = calibrate(measured, kl_bound=0.12, gold_nats_bound=0.1, rng=Random(0)).settings
    assert [(each.method, each.alpha, each.rows) for each in found] == [
        (FIRST, 0.0, 60),
        (FIRST, 0.15, 60),
        (FIRST, 0.3, 60),
    ]
    assert [each.kl for each in found] == pytest.approx([0.5, 0.1, 0.05])
    assert [each.gold_nats_upper for each in found] == pytest.approx([0.25, 0, 0])
    assert all(each.kl < each.kl_upper < 1.6 * each.kl for each in found)


def test_calibrate_refuses_when_there_is_too_little() -> None:
    with pytest.raises(BadRequest, match="no rows"):
        chosen([])
    with pytest.raises(BadRequest, match=r"19 questions for first_tokens at alpha 0\.15: give at least 20"):
        chosen(rows(FIRST, 0.15, 0.05, count=LEAST_ROWS - 1))


def test_upper_mean_is_above_the_true_mean_most_of_the_time() -> None:
    """95 of 100 by the method; a few less where tails are heavy, as is known of the percentile bootstrap."""
    rng = Random(0)
    above = sum(upper_mean([rng.expovariate(1.0) for _ in range(40)], rng) >= 1.0 for _ in range(100))
    assert 85 <= above <= 99


def test_mean_interval_holds_the_true_mean_most_of_the_time() -> None:
    rng = Random(0)
    drawn = [[rng.gauss(1, 2) for _ in range(40)] for _ in range(100)]
    intervals = [mean_interval(values, rng) for values in drawn]
    assert 88 <= sum(lower <= 1 <= upper for lower, upper in intervals) <= 99
    assert all(lower < fmean(values) < upper for (lower, upper), values in zip(intervals, drawn, strict=True))
