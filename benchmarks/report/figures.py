"""What one system did under one load, in figures. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.records import Record, RoundRecord

DEVICE = "device"
STAGES = ("embed", "search", "queue", "load", "prefill", "other", "decode")
"""Where a request's seconds go, in order. ``other``: HTTP, prompt building, routing, and waiting for the
embedder, which is none of the engine's."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds."""

    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Figures:
    """One system under one load. Failed requests count in ``failed`` only."""

    requests: int
    failed: int
    rate: float | None
    """Requests/s offered; None for a closed loop."""
    served_rate: float
    """Requests/s answered while it was being asked."""
    ttft: Spread
    e2e: Spread
    itl: Spread
    prompt_tokens: int
    computed_tokens: int
    cached_ratio: dict[str, float]
    """Share of the prompt tokens that came from each tier."""
    stages_s: dict[str, float]
    """Mean seconds per request, by ``STAGES``."""
    cpu_s: float
    """CPU seconds per request, of all the system's processes."""
    others_cores: float
    """Cores that the idle systems took meanwhile."""
    refilled: bool
    """True if the run was interrupted and caches were filled by a replay."""


def figures(records: Sequence[Record], rounds: Sequence[RoundRecord]) -> Figures:
    """Raises ValueError if no request succeeded."""
    good = [each for each in records if each.error is None]
    if not good:
        raise ValueError("no request succeeded")
    wall_s = sum(each.wall_s for each in rounds)
    prompt_tokens = sum(each.prompt_tokens for each in good)
    cached_tokens = sum(each.cached_tokens for each in good)
    return Figures(
        requests=len(good),
        failed=len(records) - len(good),
        rate=rounds[0].rate,
        served_rate=len(good) / wall_s,
        ttft=spread([each.ttft_s or 0.0 for each in good]),
        e2e=spread([each.e2e_s or 0.0 for each in good]),
        itl=spread([gap for each in good for gap in each.itl_s]),
        prompt_tokens=prompt_tokens,
        computed_tokens=prompt_tokens - cached_tokens,
        cached_ratio=_by_tier(cached_tokens / prompt_tokens, rounds),
        stages_s=_stages(good, rounds),
        cpu_s=sum(each.cpu_s for each in rounds) / len(records),
        others_cores=sum(each.others_cpu_s for each in rounds) / wall_s,
        refilled=any(each.refilled for each in rounds),
    )


def spread(seconds: Sequence[float]) -> Spread:
    """Zeros for no values, as there are no gaps between the tokens of one-token answers."""
    if not seconds:
        return Spread(0.0, 0.0, 0.0, 0.0)
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99])
    return Spread(float(np.mean(seconds)), float(p50), float(p95), float(p99))


def _by_tier(cached_ratio: float, rounds: Sequence[RoundRecord]) -> dict[str, float]:
    """The ratio that requests report, divided over the tiers as the system's own counters say.

    The counters also hold what is looked up again after a preemption, so only their proportions are used.
    """
    totals: dict[str, float] = {}
    for each in rounds:
        for tier, tokens in each.cached_tokens.items():
            totals[tier] = totals.get(tier, 0.0) + tokens
    whole = sum(totals.values())
    if not whole:
        return {DEVICE: cached_ratio}
    return {tier: cached_ratio * tokens / whole for tier, tokens in totals.items() if tokens}


def _stages(good: Sequence[Record], rounds: Sequence[RoundRecord]) -> dict[str, float]:
    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values))

    embed_s = mean([each.embed_s for each in good])
    search_s = mean([each.search_s for each in good])
    waited_s = mean([each.queue_s for each in good])
    # engines load while a request waits for its first step
    load_s = min(waited_s, sum(each.load_s for each in rounds) / len(good))
    prefill_s = mean([each.prefill_s for each in good])
    ttft_s = mean([each.ttft_s or 0.0 for each in good])
    seconds = {
        "embed": embed_s,
        "search": search_s,
        "queue": waited_s - load_s,
        "load": load_s,
        "prefill": prefill_s,
        "other": max(0.0, ttft_s - embed_s - search_s - waited_s - prefill_s),
        "decode": mean([(each.e2e_s or 0.0) - (each.ttft_s or 0.0) for each in good]),
    }
    return {stage: seconds[stage] for stage in STAGES}
