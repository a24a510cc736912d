"""PURE. What the runs of one cell amount to: figures by system, and ratios with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.bootstrap import Ratio, ratio
from benchmarks.tiers.plan import MYGO, NATIVE, PREFIX_ONLY, UNBOUNDED, Cell, System

Row = Mapping[str, Any]
LEAST_GOODPUT_RATIO = 1.3
LEAST_TTFT_RATIO = 0.98
MOST_ITL_RATIO = 1.05
LEAST_TTFT_RATIO_TO_PREFIX = 2.0


@dataclass(frozen=True, slots=True)
class Line:
    """One system in one cell, over all seeds."""

    system: System
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    itl_p99_s: float
    """Mean over the seeds."""
    goodput_per_s: float
    """Requests per second that had their first token within the promise."""
    hits: Mapping[str, float]
    """Share of prompt tokens by tier."""
    ttft_ratio: Ratio
    """Its mean TTFT over ours: above 1, ours is quicker."""
    goodput_ratio: Ratio
    """Ours over its."""
    itl_ratio: Ratio
    """Ours over its, of the p99: above 1, ours is slower."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target in one cell."""

    cell: Cell
    target: str
    found: str
    limit: float
    """What host memory for everything that was ever computed reaches in our place."""
    met: bool


def lines(rows: Mapping[str, Sequence[Row]], systems: Sequence[System]) -> list[Line]:
    """``rows`` by system, then by seed; all systems have the same seeds. Whole seeds are resampled, both
    sides together."""
    ours = rows[MYGO.name]
    return [_line(system, ours, rows[system.name]) for system in systems]


def verdicts(cell: Cell, found: Sequence[Line]) -> list[Verdict]:
    """The targets, against the best of the native policies where one is named. ``found`` has a system without
    bounds, too, as the limit."""
    by_name = {each.system.name: each for each in found}
    native = [by_name[system.name] for system in NATIVE]
    best = max(native, key=lambda each: each.goodput_per_s)
    slowest = min(native, key=lambda each: each.ttft_ratio.low)
    jerkiest = max(native, key=lambda each: each.itl_ratio.estimate)
    prefix = by_name[PREFIX_ONLY.name]
    limit = by_name[UNBOUNDED.name]
    return [
        Verdict(
            cell,
            f"goodput >= {LEAST_GOODPUT_RATIO} x the best native policy's",
            str(best.goodput_ratio),
            best.goodput_ratio.estimate / limit.goodput_ratio.estimate,
            best.goodput_ratio.estimate >= LEAST_GOODPUT_RATIO,
        ),
        Verdict(
            cell,
            f"lower bound of native TTFT over ours >= {LEAST_TTFT_RATIO}",
            str(slowest.ttft_ratio),
            slowest.ttft_ratio.estimate / limit.ttft_ratio.estimate,
            slowest.ttft_ratio.low >= LEAST_TTFT_RATIO,
        ),
        Verdict(
            cell,
            f"p99 inter-token latency <= {MOST_ITL_RATIO} x native",
            str(jerkiest.itl_ratio),
            jerkiest.itl_ratio.estimate / limit.itl_ratio.estimate,
            jerkiest.itl_ratio.estimate <= MOST_ITL_RATIO,
        ),
        Verdict(
            cell,
            f"mean TTFT >= {LEAST_TTFT_RATIO_TO_PREFIX:g} x better than prefix caching only",
            str(prefix.ttft_ratio),
            prefix.ttft_ratio.estimate / limit.ttft_ratio.estimate,
            prefix.ttft_ratio.estimate >= LEAST_TTFT_RATIO_TO_PREFIX,
        ),
    ]


def _line(system: System, ours: Sequence[Row], theirs: Sequence[Row]) -> Line:
    ttft_s = np.concatenate([row["ttft_s"] for row in theirs])
    return Line(
        system,
        float(ttft_s.mean()),
        float(np.percentile(ttft_s, 50)),
        float(np.percentile(ttft_s, 99)),
        float(np.mean([row["itl_p99_s"] for row in theirs])),
        float(np.mean([row["goodput_per_s"] for row in theirs])),
        {tier: float(np.mean([row["hits"][tier] for row in theirs])) for tier in theirs[0]["hits"]},
        ratio(np.mean, [row["ttft_s"] for row in ours], [row["ttft_s"] for row in theirs]),
        _ours_over_theirs("goodput_per_s", ours, theirs),
        _ours_over_theirs("itl_p99_s", ours, theirs),
    )


def _ours_over_theirs(name: str, ours: Sequence[Row], theirs: Sequence[Row]) -> Ratio:
    return ratio(np.mean, [[row[name]] for row in theirs], [[row[name]] for row in ours])
