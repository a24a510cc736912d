"""Systems beside each other: ratios to the baseline, equal answers, throughput within an objective. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.bootstrap import Ratio, ratio
from benchmarks.harness.records import Record

SLO_FACTOR = 5.0
"""The objective is this many times the mean TTFT at the lowest rate (RAGCache, section 7.1)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A system beside the baseline of its group, over the requests that both answered.

    Ratios are baseline / system: 2 means half the seconds.
    """

    ttft_mean: Ratio
    ttft_median: Ratio
    e2e_mean: Ratio
    rounds: int


def compare(system: Sequence[Record], baseline: Sequence[Record]) -> Comparison | None:
    """None if they have answered no request in common."""
    ours = {each.request: each for each in system if each.error is None}
    theirs = {each.request: each for each in baseline if each.error is None}
    by_round: dict[int, list[int]] = {}
    for request in sorted(ours.keys() & theirs.keys()):
        by_round.setdefault(ours[request].round, []).append(request)
    if not by_round:
        return None
    blocks = list(by_round.values())

    def ttft_s(side: Mapping[int, Record]) -> list[list[float]]:
        return [[side[request].ttft_s or 0.0 for request in block] for block in blocks]

    def e2e_s(side: Mapping[int, Record]) -> list[list[float]]:
        return [[side[request].e2e_s or 0.0 for request in block] for block in blocks]

    return Comparison(
        ttft_mean=ratio(np.mean, ttft_s(ours), ttft_s(theirs)),
        ttft_median=ratio(np.median, ttft_s(ours), ttft_s(theirs)),
        e2e_mean=ratio(np.mean, e2e_s(ours), e2e_s(theirs)),
        rounds=len(blocks),
    )


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far greedy answers equal those of the system that reuses nothing."""

    requests: int
    identical: int
    first_divergence: float | None
    """Mean number of equal tokens before the first other one, of answers that differ."""


def agreement(system: Sequence[Record], reference: Sequence[Record]) -> Agreement:
    """Over the requests that both answered."""
    theirs = {each.request: each.output_ids for each in reference if each.error is None}
    pairs = [
        (each.output_ids, theirs[each.request])
        for each in system
        if not each.error and each.request in theirs
    ]
    equal_tokens = [_common(a, b) for a, b in pairs if a != b]
    mean = sum(equal_tokens) / len(equal_tokens) if equal_tokens else None
    return Agreement(len(pairs), len(pairs) - len(equal_tokens), mean)


def slo_s(ttft_by_rate: Mapping[float, float]) -> float:
    """The objective in seconds, from mean TTFT by offered rate."""
    return SLO_FACTOR * ttft_by_rate[min(ttft_by_rate)]


def throughput_at_slo(ttft_by_rate: Mapping[float, float], objective_s: float) -> float | None:
    """The highest rate up to which the mean TTFT at every measured rate is below the objective; None if
    the lowest rate is above it."""
    best: float | None = None
    for rate in sorted(ttft_by_rate):
        if ttft_by_rate[rate] >= objective_s:
            break
        best = rate
    return best


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next(
        (index for index, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
