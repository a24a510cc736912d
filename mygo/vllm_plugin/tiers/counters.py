"""What the tiers of an engine did: plain numbers that travel with its reports. Imports no vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field

from mygo.types import Tier, Uncached
from mygo.vllm_plugin.disk.records import DiskStats

REGRET_S = 60.0
"""An eviction is regretted if what left is computed again within so many seconds."""


def _tokens_by_tier() -> dict[Tier, int]:
    return dict.fromkeys(Tier, 0)


@dataclass(slots=True)
class TierCounters:
    """Totals since the engine began, and how full its tiers are.

    Written by the engine's thread and read by another while it goes on: numbers may be a step apart, which
    totals do not mind. Every dict has all its keys from the beginning.
    """

    hit_tokens: dict[Tier, int] = field(default_factory=_tokens_by_tier)
    """Cached prompt tokens of admitted requests, by the tier that they came from."""
    uncached_tokens: dict[Uncached, int] = field(default_factory=lambda: dict.fromkeys(Uncached, 0))
    """The other prompt tokens, by why they were computed."""
    evicted_tokens: dict[Tier, int] = field(default_factory=_tokens_by_tier)
    """Left a tier to make room, whether or not another one has them still."""
    regretted_tokens: dict[Tier, int] = field(default_factory=_tokens_by_tier)
    """Computed within REGRET_S after they left this tier. What vLLM's own policy evicts from the device is
    not followed."""
    evicted_while_queued_tokens: int = 0
    """Some tier held them when a request came, and none when it was admitted."""
    prefetch_used_tokens: int = 0
    prefetch_wasted_tokens: int = 0
    """Read ahead for a request that then did not load them, or went away."""
    refused_loads: int = 0
    """Requests that computed what a slower tier held, as that was predicted to be sooner."""
    loaded_bytes: dict[Tier, int] = field(default_factory=_tokens_by_tier)
    """Over the link from this tier to the next faster one."""
    load_s: dict[Tier, float] = field(default_factory=lambda: dict.fromkeys(Tier, 0.0))
    """Seconds in which that link was busy."""
    held_tokens: dict[Tier, int] = field(default_factory=_tokens_by_tier)
    """Now."""
    capacity_tokens: dict[Tier, int] = field(default_factory=_tokens_by_tier)
    disk: DiskStats = field(default_factory=DiskStats)
