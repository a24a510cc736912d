"""How sure a difference of medians is, from rounds that were measured in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
