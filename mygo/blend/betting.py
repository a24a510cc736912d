"""Tests of a mean that may be looked at after every observation, for ever.

Testing by betting (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS-B
86(1), 2024): a player who starts with 1 bets against the claim that the mean of observations in [0, 1] is at
most ``bound``. With a stake l in [0, 1/bound], an observation x multiplies what was staked by
1 + l * (x - bound), which under the claim does not grow on average, whatever came before. So wealth is a
supermartingale, and by Ville's inequality the probability that it *ever* reaches 1/e is at most e.
Observations need not be independent or alike: each must have a mean of at most ``bound``, given those before.

The best stake depends on how badly the claim is broken, so wealth is spread over a few (the paper's "grid
Kelly"). And since a claim may be broken only after it held for long, when all that was staked at first is
lost, part of the wealth is kept and staked bit by bit, as in a mixture over the times of change (Shin, Ramdas
and Rinaldo, "E-detectors", New England J. Stat. Data Sci. 2(2), 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2

STAKES = (0.1, 0.3, 0.6, 0.9)
"""Shares of the largest stake that cannot lose more than all."""


def kept(count: int) -> float:
    """The share that is not yet spent after ``count`` portions: 1, then less, towards 0 so slowly that a
    late portion is worth little less than one over how late it is, with logarithms."""
    return 1 / log2(count + 2)


def portion(number: int) -> float:
    """The share that goes to portion ``number`` = 1, 2, ...; all of them together make 1."""
    return kept(number - 1) - kept(number)


class MeanTest:
    """Evidence against: the mean is at most ``bound``, in (0, 1)."""

    def __init__(self, bound: float, staked: Sequence[float] = (0.0,) * len(STAKES), count: int = 0) -> None:
        self.bound = bound
        self.staked = list(staked)
        """Wealth by stake."""
        self.count = count
        """Observations."""

    @property
    def evidence(self) -> float:
        """The player's wealth: 1 at first; reaches 1/e with a probability of at most e if the claim holds."""
        return kept(self.count) + sum(self.staked) / len(STAKES)

    def observe(self, value: float) -> None:
        """``value`` in [0, 1]."""
        self.count += 1
        fresh = portion(self.count)
        odds = value / self.bound - 1
        self.staked = [
            (wealth + fresh) * (1 + share * odds) for wealth, share in zip(self.staked, STAKES, strict=True)
        ]
