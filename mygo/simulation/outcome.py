"""What one simulated request saw, and what a run of them amounts to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mygo.types import Tier, WorkerId


@dataclass(frozen=True, slots=True)
class Served:
    """Times are virtual seconds."""

    number: int
    worker: WorkerId
    arrived_s: float
    queue_s: float
    prefill_s: float
    ttft_s: float
    """From its arrival to its first token."""
    e2e_s: float
    gaps_s: tuple[float, ...]
    """Between its tokens, one less than there are."""
    prompt_tokens: int
    document_tokens: int
    cached_tokens: int
    predicted_cached_tokens: int
    """What the router thought would be cached."""
    output_tokens: int
    host_tokens: int = 0
    """Of the cached ones: loaded from host memory."""
    disk_tokens: int = 0
    """Of the cached ones: read from disk."""
    chunk_tokens: int = 0
    """Of the cached ones: from documents' KV that is kept apart from their prompts."""
    repaired_tokens: int = 0
    """Of the same documents, computed."""


@dataclass(frozen=True, slots=True)
class Summary:
    requests: int
    duration_s: float
    """From the first arrival to the last token."""
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    e2e_p50_s: float
    e2e_p99_s: float
    itl_p50_s: float
    itl_p99_s: float
    prompt_tokens: int
    cached_tokens: int
    computed_tokens: int
    output_tokens: int
    least_share: float
    """Of the requests, on the worker with the fewest."""
    largest_share: float
    host_tokens: int = 0
    """Of the cached ones: loaded from host memory."""
    disk_tokens: int = 0
    """Of the cached ones: read from disk."""

    @property
    def hit_ratio(self) -> float:
        """Cached share of all prompt tokens."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    def hit_share(self, tier: Tier) -> float:
        """Share of all prompt tokens that came from ``tier``."""
        device_tokens = self.cached_tokens - self.host_tokens - self.disk_tokens
        tokens = {Tier.DEVICE: device_tokens, Tier.HOST: self.host_tokens, Tier.DISK: self.disk_tokens}
        return tokens[tier] / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.duration_s if self.duration_s else 0.0


def summarize(served: Sequence[Served], workers: int) -> Summary:
    """Raises ValueError if nothing was served."""
    if not served:
        raise ValueError("nothing was served")
    ttft_s = np.array([each.ttft_s for each in served])
    e2e_s = np.array([each.e2e_s for each in served])
    gaps_s = np.array([gap for each in served for gap in each.gaps_s] or [0.0])
    requests = Counter(each.worker for each in served)
    prompt_tokens = sum(each.prompt_tokens for each in served)
    cached_tokens = sum(each.cached_tokens for each in served)
    return Summary(
        requests=len(served),
        duration_s=max(each.arrived_s + each.e2e_s for each in served)
        - min(each.arrived_s for each in served),
        ttft_mean_s=float(ttft_s.mean()),
        ttft_p50_s=float(np.percentile(ttft_s, 50)),
        ttft_p95_s=float(np.percentile(ttft_s, 95)),
        ttft_p99_s=float(np.percentile(ttft_s, 99)),
        e2e_p50_s=float(np.percentile(e2e_s, 50)),
        e2e_p99_s=float(np.percentile(e2e_s, 99)),
        itl_p50_s=float(np.percentile(gaps_s, 50)),
        itl_p99_s=float(np.percentile(gaps_s, 99)),
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        computed_tokens=prompt_tokens - cached_tokens,
        output_tokens=sum(each.output_tokens for each in served),
        least_share=min(requests.values()) / len(served) if len(requests) == workers else 0.0,
        largest_share=max(requests.values()) / len(served),
        host_tokens=sum(each.host_tokens for each in served),
        disk_tokens=sum(each.disk_tokens for each in served),
    )
