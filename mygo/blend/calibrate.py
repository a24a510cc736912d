"""Which method and how much repair a model needs: the least computation that keeps the quality bounds.

Cache-Craft (arXiv 2502.15734) chooses alpha so: least recomputation subject to a quality target on a
validation set. Ours also asks how sure that is: the bound must be kept by the upper 95 % end of a bootstrap
of the mean (percentile method; Efron and Tibshirani, 1993), not by the mean alone. The least of several
settings that pass is the one most likely to have passed by luck; the guard goes on measuring what is served.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from mygo.blend.selection import Method
from mygo.errors import BadRequest

RESAMPLES = 1000
CONFIDENCE = 0.95
LEAST_ROWS = 20
"""Questions per setting: fewer say too little for a bound on a mean."""


@dataclass(frozen=True, slots=True)
class Row:
    """One question, answered once by a blend and once exactly."""

    method: Method
    alpha: float
    first_token_kl: float
    """KL(exact || blended), nats."""
    gold_nats: float
    """Negative log likelihood of the right answer, blended less exact: above 0 if the blend likes it less."""
    computed_share: float
    """Of the documents' tokens, those that were computed, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Quality:
    """A setting, and how good it was."""

    method: Method
    alpha: float
    rows: int
    computed_share: float
    kl: float
    kl_upper: float
    gold_nats: float
    gold_nats_upper: float


@dataclass(frozen=True, slots=True)
class Calibration:
    chosen: Quality | None
    """None if no setting keeps the bounds: answer exactly."""
    settings: tuple[Quality, ...]
    """All of them, least computation first: the points of a plot of quality against computation."""


def calibrate(rows: Iterable[Row], *, kl_bound: float, gold_nats_bound: float, rng: Random) -> Calibration:
    """The setting that computes least of those whose upper bounds are at most these; ties go to the lower KL.

    Raises BadRequest if a setting has too few rows, or there are none.
    """
    groups: defaultdict[tuple[Method, float], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.method, row.alpha].append(row)
    if not groups:
        raise BadRequest("calibration has no rows: give questions whose documents occur in them")
    for (method, alpha), group in groups.items():
        if len(group) < LEAST_ROWS:
            raise BadRequest(
                f"calibration has {len(group)} questions for {method} at alpha {alpha:g}: "
                f"give at least {LEAST_ROWS}"
            )
    settings = sorted(
        (_quality(group, rng) for group in groups.values()), key=lambda each: (each.computed_share, each.kl)
    )
    good = (
        each for each in settings if each.kl_upper <= kl_bound and each.gold_nats_upper <= gold_nats_bound
    )
    return Calibration(next(good, None), tuple(settings))


def _quality(rows: Sequence[Row], rng: Random) -> Quality:
    kls = [row.first_token_kl for row in rows]
    nats = [row.gold_nats for row in rows]
    return Quality(
        rows[0].method,
        rows[0].alpha,
        len(rows),
        _mean([row.computed_share for row in rows]),
        _mean(kls),
        upper_mean(kls, rng),
        _mean(nats),
        upper_mean(nats, rng),
    )


def upper_mean(values: Sequence[float], rng: Random) -> float:
    """The upper end of the one-sided bootstrap interval of the mean."""
    return _resampled(values, rng)[round(CONFIDENCE * RESAMPLES) - 1]


def mean_interval(values: Sequence[float], rng: Random) -> tuple[float, float]:
    """Both ends of the two-sided one."""
    means = _resampled(values, rng)
    outside = round((1 - CONFIDENCE) / 2 * RESAMPLES)
    return means[outside], means[-1 - outside]


def _resampled(values: Sequence[float], rng: Random) -> list[float]:
    """Means of as many values drawn with replacement, in ascending order."""
    return sorted(_mean(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
