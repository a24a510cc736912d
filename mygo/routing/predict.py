"""What a worker would do with a prompt: how much it would load, how much compute, and how long that takes.

The same rule as the worker's own gate (``mygo.tree.loading``), over what it last reported of its links: KV
that takes longer to load than to compute counts as not cached.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import inf

from mygo.tree.loading import Link, Run, plan_load
from mygo.tree.profile import prefill_s
from mygo.types import Candidate, Tier


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds add up: what is loaded comes before the computation."""

    cached_tokens: int
    """On the device or worth loading."""
    load_s: float
    prefill_s: float


def predict(candidate: Candidate, prompt_tokens: int, shared_tokens: int = 0) -> Prediction:
    """How the worker would serve a prompt once it is its turn.

    ``shared_tokens``: leading tokens that count as on its device in any case.
    """
    held = candidate.residency
    # leading tokens up to and including each tier: what lies in slower ones comes later in the prompt
    device_end = min(max(held.device_tokens, shared_tokens), prompt_tokens)
    host_end = min(max(held.device_tokens + held.host_tokens, device_end), prompt_tokens)
    disk_end = min(max(held.cached_tokens, host_end), prompt_tokens)
    cached_tokens, load_s = device_end, 0.0
    if disk_end > device_end:
        runs = [Run(Tier.HOST, host_end - device_end), Run(Tier.DISK, disk_end - host_end)]
        plan = plan_load(
            partial(prefill_s, candidate.profile),
            device_tokens=device_end,
            prompt_tokens=prompt_tokens,
            runs=[run for run in runs if run.tokens],
            links={
                Tier.HOST: Link(candidate.host_tokens_per_s or inf),
                Tier.DISK: Link(candidate.disk_tokens_per_s or inf),
            },
            bytes_per_token=1.0,  # links count in tokens here
            overlap=False,
        )
        cached_tokens += plan.tokens
        if plan.tokens:
            least_tokens = max(1, prompt_tokens - cached_tokens)
            load_s = plan.predicted_s - prefill_s(candidate.profile, cached_tokens, least_tokens)
    new_tokens = prompt_tokens - cached_tokens
    return Prediction(
        cached_tokens, max(0.0, load_s), prefill_s(candidate.profile, cached_tokens, new_tokens)
    )
