"""PURE. One line per way, load and length of retrieval, and what they must reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.bootstrap import Ratio, ratio
from benchmarks.speculation.measure import OFF, SHIPPED, Way

LOW_LOAD = 0.3
"""Up to here most of what can be hidden must be."""
LEAST_HIDDEN = 0.6

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """Over all seeds."""

    load: float
    share: float
    way: str
    ttft_mean_s: float
    itl_p99_s: float
    mean_ratio: Ratio
    """Off's mean TTFT over its: above 1, this one is quicker."""
    p99_ratio: Ratio
    hidden_share: float
    """By how much mean TTFT falls, of what could be hidden: of each request, what is left of its search when
    its documents are known, or the rest of its TTFT if that is less."""
    left_share: float
    """The same of what is left of the searches, whatever the rest takes."""
    adopted: float
    wrong: float
    wasted: float
    """Prefill seconds that served nothing, of all."""


def line(load: float, share: float, way: Way, rows: Mapping[str, Sequence[Row]]) -> Line:
    """``rows`` by way, then by seed. Whole seeds are resampled, both sides together."""
    own_rows, off_rows = rows[way.name], rows[OFF.name]
    own, off = [row["ttft_s"] for row in own_rows], [row["ttft_s"] for row in off_rows]
    fell_s = float(np.concatenate(off).mean() - np.concatenate(own).mean())
    left_s = np.concatenate([row["left_s"] for row in own_rows])
    rest_s = np.concatenate(off) - np.repeat(
        [row["retrieval_s"] for row in off_rows], [len(each) for each in off]
    )
    could_s = float(np.minimum(left_s, rest_s).mean())
    requests = len(left_s)

    def total(key: str) -> float:
        return float(sum(row[key] for row in own_rows))

    return Line(
        load,
        share,
        way.name,
        float(np.concatenate(own).mean()),
        float(np.mean([row["itl_p99_s"] for row in own_rows])),
        ratio(np.mean, own, off),
        ratio(lambda values: np.percentile(values, 99), own, off),
        fell_s / could_s if could_s else 0.0,
        fell_s / float(left_s.mean()) if left_s.any() else 0.0,
        total("adopted") / requests,
        total("wrong") / requests,
        total("wasted_s") / (total("prefill_s") + total("wasted_s")),
    )


def broken(lines: Sequence[Line]) -> list[str]:
    """Which targets the shipped way misses."""
    problems: list[str] = []
    for each in lines:
        if each.way != SHIPPED.name:
            continue
        place = f"load {each.load:g}, retrieval {each.share:g} of a cold prefill"
        if each.load <= LOW_LOAD and each.hidden_share < LEAST_HIDDEN:
            problems.append(
                f"{place}: {each.hidden_share:.0%} of what could be hidden is; {LEAST_HIDDEN:.0%} are wanted"
            )
        if each.load > LOW_LOAD and each.mean_ratio.high < 1:
            problems.append(f"{place}: mean TTFT is {1 / each.mean_ratio.estimate:.3f} times as long")
    return problems


def broken_pairs(pairs: Mapping[str, Any]) -> list[str]:
    """Which targets the questions of one length miss in a real engine."""
    place = f"real engine, retrieval {pairs['share']:g} of a cold prefill"
    problems: list[str] = []
    if pairs["hidden_share"] < LEAST_HIDDEN:
        problems.append(f"{place}: {pairs['hidden_share']:.0%} is hidden; {LEAST_HIDDEN:.0%} are wanted")
    if pairs["differing"]:
        problems.append(f"{place}: {pairs['differing']} answers are not the same")
    return problems
