"""PURE. Ours against the baselines of a cell, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.bootstrap import Ratio, ratio
from benchmarks.cluster_routing.plan import OURS, UNTUNED, rays_own
from benchmarks.cluster_routing.store import Row
from benchmarks.cluster_routing.study import CellRuns

SECONDS = ("ttft_mean_s", "ttft_p50_s", "ttft_p95_s", "ttft_p99_s")


@dataclass(frozen=True, slots=True)
class Line:
    """One router in one cell: means over its seeds."""

    label: str
    seeds: int
    values: Mapping[str, float]
    mean_ratio: Ratio | None
    """Its mean TTFT over ours, on the seeds that both have: above 1, ours is quicker. None for ours."""
    p99_ratio: Ratio | None


def lines(runs: CellRuns) -> list[Line]:
    """Ours, then the baselines that it is compared with."""
    tuned = (rays_own(runs.affinity).label, runs.affinity.label)
    return [line(runs, label) for label in (OURS, *UNTUNED, *tuned)]


def line(runs: CellRuns, label: str) -> Line:
    rows = runs.rows[label]
    return Line(
        label,
        len(rows),
        {name: float(np.mean([row[name] for row in rows])) for name in rows[0]},
        None if label == OURS else against_ours(runs, label, "ttft_mean_s"),
        None if label == OURS else against_ours(runs, label, "ttft_p99_s"),
    )


def against_ours(runs: CellRuns, label: str, name: str) -> Ratio:
    """Theirs over ours; the interval resamples seeds, both sides together."""
    theirs = runs.rows[label]
    return ratio(np.mean, _rounds(runs.rows[OURS][: len(theirs)], name), _rounds(theirs, name))


def best_baseline(compared: Sequence[Line]) -> Line:
    """The baseline with the least mean TTFT."""
    return min((each for each in compared if each.mean_ratio), key=lambda each: each.values["ttft_mean_s"])


def worse(compared: Sequence[Line]) -> list[Line]:
    """Baselines that beat ours by more than the interval."""
    return [each for each in compared if each.mean_ratio is not None and each.mean_ratio.high < 1]


def _rounds(rows: Sequence[Row], name: str) -> list[list[float]]:
    return [[row[name]] for row in rows]
