"""How sure a difference or a ratio is, from rounds that were measured in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Difference:
    """``median(ours) - median(theirs)`` with its 95 % bootstrap interval."""

    ours: float
    theirs: float
    low: float
    high: float

    @property
    def estimate(self) -> float:
        return self.ours - self.theirs


def difference_of_medians(
    ours: Sequence[Sequence[float]],
    theirs: Sequence[Sequence[float]],
    *,
    samples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Compare two sides, round by round; ``ours[i]`` and ``theirs[i]`` were measured one after the other.

    Whole rounds are resampled, both sides together (a block bootstrap): values of one round share the
    machine's mood, so single values would make the interval too narrow. Rounds of one side must all
    have the same length. Raises ValueError if there are no rounds or the sides have different numbers.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"needs equally many rounds of both sides, got {len(ours)} and {len(theirs)}")
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(a), size=(samples, len(a)))
    differences = [np.median(a[pick]) - np.median(b[pick]) for pick in picks]
    low, high = np.percentile(differences, [2.5, 97.5])
    return Difference(float(np.median(a)), float(np.median(b)), float(low), float(high))


@dataclass(frozen=True, slots=True)
class Ratio:
    """``statistic(theirs) / statistic(ours)`` with its 95 % bootstrap interval: above 1, ours is less."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def half_width(self) -> float:
        """Of the interval, as a share of the estimate."""
        return (self.high - self.low) / 2 / self.estimate


def ratio(
    statistic: Callable[[npt.NDArray[np.float64]], np.floating[Any]],
    ours: Sequence[Sequence[float]],
    theirs: Sequence[Sequence[float]],
    *,
    samples: int = 2000,
    seed: int = 0,
) -> Ratio:
    """Compare two sides, round by round, as ``difference_of_medians``; rounds may differ in length.

    ``statistic`` is ``np.mean`` or the like. Raises ValueError if there are no rounds, or not equally many.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"needs equally many rounds of both sides, got {len(ours)} and {len(theirs)}")
    a = [np.asarray(each, dtype=np.float64) for each in ours]
    b = [np.asarray(each, dtype=np.float64) for each in theirs]

    def of(pick: Iterable[int]) -> float:
        chosen = list(pick)
        ours_now = statistic(np.concatenate([a[index] for index in chosen]))
        return float(statistic(np.concatenate([b[index] for index in chosen])) / ours_now)

    picks = np.random.default_rng(seed).integers(0, len(a), size=(samples, len(a)))
    low, high = np.percentile([of(pick) for pick in picks], [2.5, 97.5])
    return Ratio(of(range(len(a))), float(low), float(high))
