"""When requests arrive."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from mygo.errors import BadTrace

_DAY_S = 86_400.0
_BINS = 1_440
"""Bins of a day in which the rate is taken as constant."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A renewal process with Gamma gaps, whose clock runs faster by day than by night.

    ``cv`` 1 and ``peak_factor`` 1 is a Poisson process. Each arrival may be the first of a burst of
    siblings, which ask the same at nearly the same time: they expose routers that learn of a placement
    too late. The mean rate counts siblings.
    """

    rate_per_s: float
    """Mean over whole days."""
    cv: float = 1.0
    """Coefficient of variation of the gaps before the day's rhythm stretches them."""
    peak_factor: float = 1.0
    """Rate at the day's peak over the mean rate; 1 for no rhythm."""
    burst_probability: float = 0.0
    """That an arrival brings siblings."""
    burst_requests: int = 4
    """Requests of a burst, the first included."""
    burst_span_s: float = 0.05
    """Within which they all arrive."""

    def __post_init__(self) -> None:
        for name in ("rate_per_s", "cv"):
            if not 0 < getattr(self, name) < math.inf:
                raise BadTrace(f"{name}: must be above 0 and finite, not {getattr(self, name)}")
        if not 1 <= self.peak_factor <= 20:
            raise BadTrace(f"peak_factor: must be between 1 (no rhythm) and 20, not {self.peak_factor}")
        if not 0 <= self.burst_probability <= 1:
            raise BadTrace(f"burst_probability: must be between 0 and 1, not {self.burst_probability}")
        if self.burst_requests < 1:
            raise BadTrace(f"burst_requests: must be at least 1, not {self.burst_requests}")
        if not self.burst_span_s >= 0:
            raise BadTrace(f"burst_span_s: must not be negative, not {self.burst_span_s}")


@dataclass(frozen=True, slots=True)
class Arrival:
    at_s: float
    siblings_s: tuple[float, ...]
    """When the rest of its burst arrives; empty for most."""


def arrive(law: Arrivals, rng: Random) -> Iterator[Arrival]:
    """Arrivals from 0 on, without end, by the time of each burst's first."""
    per_arrival = 1 + law.burst_probability * (law.burst_requests - 1)
    shape = 1 / law.cv**2
    mean_gap = per_arrival / law.rate_per_s
    day = _Day(law.peak_factor)
    operational_s = 0.0
    while True:
        operational_s += rng.gammavariate(shape, mean_gap / shape)
        at_s = day.wall_s(operational_s)
        siblings: tuple[float, ...] = ()
        if law.burst_probability and rng.random() < law.burst_probability:
            siblings = tuple(
                sorted(at_s + rng.random() * law.burst_span_s for _ in range(law.burst_requests - 1))
            )
        yield Arrival(at_s, siblings)


class _Day:
    """Maps time at a constant rate to time of day: rate(t) ~ exp(kappa cos(t - noon)), von Mises's form,
    whose one parameter makes the peak as high as wanted and never negative at night."""

    def __init__(self, peak_factor: float) -> None:
        low, high = 0.0, 100.0 * peak_factor**2
        for _ in range(60):
            kappa = (low + high) / 2
            low, high = (kappa, high) if _peak(kappa) < peak_factor else (low, kappa)
        rates = _rates(low)
        total = math.fsum(rates)
        self._passed_s = [0.0, *accumulate(_DAY_S * rate / total for rate in rates)]
        self._passed_s[-1] = _DAY_S

    def wall_s(self, operational_s: float) -> float:
        days, rest_s = divmod(operational_s, _DAY_S)
        index = min(bisect_right(self._passed_s, rest_s) - 1, _BINS - 1)
        begin_s, end_s = self._passed_s[index], self._passed_s[index + 1]
        return days * _DAY_S + (index + (rest_s - begin_s) / (end_s - begin_s)) * _DAY_S / _BINS


def _rates(kappa: float) -> list[float]:
    """The day's rates over the peak's, by bin, midnight first."""
    return [math.exp(kappa * (-math.cos(2 * math.pi * (index + 0.5) / _BINS) - 1)) for index in range(_BINS)]


def _peak(kappa: float) -> float:
    return _BINS / math.fsum(_rates(kappa))
