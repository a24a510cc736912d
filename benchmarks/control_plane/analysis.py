"""From measured blocks to figures: medians, their difference and how sure it is, CPU by process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.bootstrap import Difference, difference_of_medians

Block = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """MyGO beside the empty application, on one proxy."""

    proxy: str
    latency_ms: Difference
    """Median from sending to the last byte."""
    first_byte_ms: Difference
    cpu_ms: Difference
    """CPU milliseconds per request of all Ray processes, idle cost taken off; median of rounds."""
    idle_cpu_ms_per_s: Mapping[str, float]
    """Process -> CPU milliseconds per second while nothing is asked."""
    cpu_ms_by_process: Mapping[str, tuple[float, float]]
    """Process -> mean CPU milliseconds per request (MyGO, empty), idle cost taken off."""


def compare(measured: Mapping[str, Any], ours: str, theirs: str) -> Comparison:
    """``measured`` is what ``measure`` wrote; ``ours`` and ``theirs`` name two applications in it."""
    blocks: Sequence[Block] = measured["blocks"]
    idle = idle_rates(measured["idle"])

    def series(app: str, key: str) -> list[list[float]]:
        return [[1e3 * value for value in block[key]] for block in blocks if block["app"] == app]

    def cpu(app: str) -> list[list[float]]:
        return [[cpu_ms(block, sum(idle.values()))] for block in blocks if block["app"] == app]

    return Comparison(
        proxy=measured["proxy"],
        latency_ms=difference_of_medians(series(ours, "total_s"), series(theirs, "total_s")),
        first_byte_ms=difference_of_medians(series(ours, "first_s"), series(theirs, "first_s")),
        cpu_ms=difference_of_medians(cpu(ours), cpu(theirs)),
        idle_cpu_ms_per_s={name: 1e3 * rate for name, rate in sorted(idle.items(), key=lambda row: -row[1])},
        cpu_ms_by_process=_by_process(blocks, idle, ours, theirs),
    )


def idle_rates(pauses: Sequence[Block]) -> dict[str, float]:
    """CPU seconds per second by process while nothing is asked, over all pauses."""
    wall_s = sum(pause["wall_s"] for pause in pauses)
    return {name: seconds / wall_s for name, seconds in _spent(pauses).items()}


def cpu_ms(block: Block, idle_rate: float) -> float:
    """CPU milliseconds per request of one block, without what would have been spent idly."""
    spent_s: float = sum(block["cpu_s"].values()) - idle_rate * block["wall_s"]
    requests = len(block["total_s"])
    return 1e3 * spent_s / requests


def _by_process(
    blocks: Sequence[Block], idle: Mapping[str, float], ours: str, theirs: str
) -> dict[str, tuple[float, float]]:
    def means(app: str) -> dict[str, float]:
        own = [block for block in blocks if block["app"] == app]
        requests = sum(len(block["total_s"]) for block in own)
        wall_s = sum(block["wall_s"] for block in own)
        return {
            name: 1e3 * (seconds - idle.get(name, 0.0) * wall_s) / requests
            for name, seconds in _spent(own).items()
        }

    a, b = means(ours), means(theirs)
    rows = {name: (a.get(name, 0.0), b.get(name, 0.0)) for name in a.keys() | b.keys()}
    return dict(sorted(rows.items(), key=lambda row: -max(row[1])))


def _spent(blocks: Sequence[Block]) -> Counter[str]:
    total: Counter[str] = Counter()
    for block in blocks:
        total.update(block["cpu_s"])
    return total
