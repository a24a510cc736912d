"""PURE. Which orders are compared, and what they must reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.bootstrap import Ratio, ratio
from benchmarks.tiers.plan import System

LEAST_MEAN_RATIO = 1.2
MOST_BESIDE_IDLE = 3.0

FIRST_COME = System(
    "first come", "first come, first served, as in vLLM", has_tiers=False, overrides={"admission_window": 0}
)
SHIPPED = System("mygo", "as MyGO ships: who is due first", has_tiers=False)
SYSTEMS = (
    FIRST_COME,
    SHIPPED,
    System(
        "ratio",
        "RAGCache's order: of which most is cached",
        has_tiers=False,
        overrides={"admission": "ratio"},
    ),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One order, over all seeds."""

    system: System
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    itl_p99_s: float
    hits: float
    """Share of prompt tokens that the device held."""
    mean_ratio: Ratio
    """First come's mean TTFT over its: above 1, this one is quicker."""
    p99_ratio: Ratio


Row = Mapping[str, Any]


def lines(rows: Mapping[str, Sequence[Row]]) -> list[Line]:
    """``rows`` by order, then by seed. Whole seeds are resampled, both sides together."""
    base = [row["ttft_s"] for row in rows[FIRST_COME.name]]
    found: list[Line] = []
    for system in SYSTEMS:
        own = [row["ttft_s"] for row in rows[system.name]]
        ttft_s = np.concatenate(own)
        found.append(
            Line(
                system,
                float(ttft_s.mean()),
                float(np.percentile(ttft_s, 50)),
                float(np.percentile(ttft_s, 99)),
                float(np.mean([row["itl_p99_s"] for row in rows[system.name]])),
                float(np.mean([row["hits"]["device"] for row in rows[system.name]])),
                ratio(np.mean, own, base),
                ratio(lambda values: np.percentile(values, 99), own, base),
            )
        )
    return found


def broken(found: Sequence[Line]) -> list[str]:
    """Which targets the shipped order misses."""
    shipped = next(line for line in found if line.system is SHIPPED)
    problems: list[str] = []
    if shipped.mean_ratio.estimate < LEAST_MEAN_RATIO:
        problems.append(
            f"mean TTFT is {shipped.mean_ratio.estimate:.3f} times better than first come, first served; "
            f"{LEAST_MEAN_RATIO} are wanted"
        )
    if shipped.p99_ratio.high < 1:
        problems.append(f"p99 of TTFT is worse: {1 / shipped.p99_ratio.estimate:.3f} times")
    return problems
