"""The least number of workers that keeps a promise: "how many GPUs for this trace and this SLO?" """

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mygo.simulation.outcome import Summary
from mygo.simulation.sweep import Row


@dataclass(frozen=True, slots=True)
class Slo:
    """What is promised to users."""

    ttft_s: float
    percentile: int = 95
    """Of the requests whose first token must come within ``ttft_s``: 50, 95 or 99."""

    def seconds(self, summary: Summary) -> float:
        """What was reached, to compare with ``ttft_s``."""
        return {50: summary.ttft_p50_s, 95: summary.ttft_p95_s, 99: summary.ttft_p99_s}[self.percentile]

    def met(self, summary: Summary) -> bool:
        return self.seconds(summary) <= self.ttft_s


@dataclass(frozen=True, slots=True)
class Plan:
    workers: int | None
    """None if ``most_workers`` do not suffice."""
    tried: tuple[Row, ...]
    """By number of workers."""


def least_workers(try_workers: Callable[[int], Row], slo: Slo, most_workers: int) -> Plan:
    """Double until the promise is kept, then halve the gap.

    Takes it that more workers never serve worse, which is true but for noise near the bound; what was
    tried is in the plan for all to see. At most ``2 log2(most_workers)`` simulations.
    """
    tried: dict[int, Row] = {}

    def met(workers: int) -> bool:
        if workers not in tried:
            tried[workers] = try_workers(workers)
        return slo.met(tried[workers].summary)

    low, high = 0, 1
    while not met(high):
        if high >= most_workers:
            return Plan(None, _by_workers(tried))
        low, high = high, min(2 * high, most_workers)
    while high - low > 1:
        middle = (low + high) // 2
        if met(middle):
            high = middle
        else:
            low = middle
    return Plan(high, _by_workers(tried))


def _by_workers(tried: dict[int, Row]) -> tuple[Row, ...]:
    return tuple(tried[workers] for workers in sorted(tried))
