"""PURE. The rate that a system sustains: RAGCache's definition of throughput (arXiv 2404.12457), by which an
operator buys devices: the highest rate at which the mean TTFT keeps a promise.

RAGCache promises 5 times a system's own TTFT at the lowest rate. A cache that makes that one shorter would be
held to a harder promise, so here the promise is the study's, the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np

from benchmarks.bootstrap import Ratio, ratio
from benchmarks.tiers.plan import MYGO, System

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sustained:
    """One system on one workload."""

    system: System
    rate_per_s: float
    """Mean over the seeds."""
    bounded_seeds: int
    """Seeds in which the promise was kept at every rate, or at none: the highest or the lowest one counts."""
    ratio: Ratio
    """Our rate over its."""


def sustained(
    rows: Mapping[str, Sequence[Sequence[Row]]], systems: Sequence[System], promise_s: float
) -> list[Sustained]:
    """``rows[system][seed]``: one row for each load, lowest first; all systems have the same ones."""
    rates = {system.name: [rate_per_s(seed, promise_s) for seed in rows[system.name]] for system in systems}
    ours = rates[MYGO.name]
    return [
        Sustained(
            system,
            float(np.mean([rate for rate, _ in theirs])),
            sum(is_bound for _, is_bound in theirs),
            ratio(np.mean, [[rate] for rate, _ in theirs], [[rate] for rate, _ in ours]),
        )
        for system in systems
        for theirs in (rates[system.name],)
    ]


def rate_per_s(by_load: Sequence[Row], promise_s: float) -> tuple[float, bool]:
    """The rate at which the mean TTFT first exceeds the promise, and whether it lies beyond those measured.

    Between two rates, the TTFT's logarithm is taken to grow evenly.
    """
    means_s = [sum(row["ttft_s"]) / len(row["ttft_s"]) for row in by_load]
    for place, mean_s in enumerate(means_s):
        if mean_s <= promise_s:
            continue
        high = by_load[place]["rate_per_s"]
        if place == 0:
            return high, True
        low, before_s = by_load[place - 1]["rate_per_s"], means_s[place - 1]
        return low + (high - low) * log(promise_s / before_s) / log(mean_s / before_s), False
    return by_load[-1]["rate_per_s"], True
