"""What it changes to choose tokens in another way, question by question.

Questions differ far more from each other than ways to choose tokens do. So ways are compared on the questions
that were answered by both, by the mean of the differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from mygo.blend.calibrate import mean_interval
from mygo.blend.selection import Method
from mygo.calibration.records import Outcome

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Pair:
    """A method less ``first_tokens``, at one share; intervals hold the mean with 95 % (bootstrap)."""

    method: str
    share: float
    questions: int
    kl: float
    kl_interval: Interval
    gold_nats: float
    gold_nats_interval: Interval


def pairs(outcomes: Sequence[Outcome]) -> tuple[Pair, ...]:
    """By share, then by method; none where nothing was answered in both ways."""
    rng = Random(0)
    first = {(each.share, each.question): each for each in outcomes if each.method == Method.FIRST_TOKENS}
    both: dict[tuple[float, str], list[tuple[Outcome, Outcome]]] = {}
    for each in outcomes:
        base = first.get((each.share, each.question))
        if base is not None and each.method in set(Method) - {Method.FIRST_TOKENS}:
            both.setdefault((each.share, each.method), []).append((each, base))
    found: list[Pair] = []
    for (share, method), answered in sorted(both.items()):
        kl = [each.first_token_kl - base.first_token_kl for each, base in answered]
        nats = [each.gold_nats - base.gold_nats for each, base in answered]
        intervals = mean_interval(kl, rng), mean_interval(nats, rng)
        found.append(Pair(method, share, len(answered), fmean(kl), intervals[0], fmean(nats), intervals[1]))
    return tuple(found)
