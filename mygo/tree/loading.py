"""Load or recompute? How much of a prompt to fetch from slower tiers, by predicted seconds.

A prompt's KV lies on the device up to some token, then in host memory or on disk, then nowhere. Every
token that is fetched need not be computed, but a slow link can cost more than the computation. Cost of
fetching up to token x: the seconds of every link on the way, one after the other, plus the prefill of
the rest. Host copies that overlap the computation layer by layer cost the longer of the two instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mygo.types import Tier

PrefillSeconds = Callable[[int, int], float]
"""T(cached_tokens, new_tokens) in seconds."""


@dataclass(frozen=True, slots=True)
class Link:
    """The way from a tier to the next faster one, as it is now."""

    bytes_per_s: float
    queued_bytes: int = 0
    """Bytes that are on their way already and go first."""

    def seconds(self, kv_bytes: int) -> float:
        return (self.queued_bytes + kv_bytes) / self.bytes_per_s if kv_bytes else 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive tokens of a prompt that lie in one tier."""

    tier: Tier
    tokens: int


@dataclass(frozen=True, slots=True)
class LoadPlan:
    tokens: int
    """Tokens to fetch behind those on the device; 0 to fetch nothing."""
    predicted_s: float
    """Seconds until the prompt is computed: fetching and prefill."""
    overlapped: bool = False
    """Host copies run beside the computation, layer by layer, instead of before it."""


def plan_load(
    prefill_s: PrefillSeconds,
    *,
    device_tokens: int,
    prompt_tokens: int,
    runs: Sequence[Run],
    links: Mapping[Tier, Link],
    bytes_per_token: float,
    overlap: bool,
    layers: int = 1,
    step_s: float = 0.0,
) -> LoadPlan:
    """The cheapest way to serve a prompt of which ``device_tokens`` are on the device.

    ``runs`` lie behind them, in prompt order, without gaps; their ends are the places where fetching may
    stop. ``links[HOST]`` leads to the device, ``links[DISK]`` to host memory. With ``overlap``, host
    copies may run beside the computation; else fetching ends before the computation begins, in an extra
    engine step of ``step_s``. A tie goes to fetching less.
    """
    best = LoadPlan(0, prefill_s(device_tokens, prompt_tokens - device_tokens))
    host_bytes = disk_bytes = fetched_tokens = 0
    for run in runs:
        fetched_tokens += run.tokens
        run_bytes = int(run.tokens * bytes_per_token)
        host_bytes += run_bytes  # what lies on disk passes through host memory
        if run.tier is Tier.DISK:
            disk_bytes += run_bytes
        cached_tokens = device_tokens + fetched_tokens
        compute_s = prefill_s(cached_tokens, max(1, prompt_tokens - cached_tokens))
        disk_s = links[Tier.DISK].seconds(disk_bytes) if disk_bytes else 0.0
        host_s = links[Tier.HOST].seconds(host_bytes)
        before = LoadPlan(fetched_tokens, disk_s + host_s + step_s + compute_s)
        if before.predicted_s < best.predicted_s:
            best = before
        if overlap:
            # the first layer's copy hides behind nothing
            beside_s = disk_s + host_s / layers + max(host_s, compute_s)
            beside = LoadPlan(fetched_tokens, beside_s, overlapped=True)
            if beside.predicted_s < best.predicted_s:
                best = beside
    return best
