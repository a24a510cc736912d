"""Seconds that an engine step takes, from what the scheduler put into it. Pure.

A step pays once for what every step costs (weights, launch), then for the prompt tokens that it
computes, by differences of T(cached, new), and for the sequences that it decodes. A prefill that is
cut into chunks costs in sum what T says of it whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mygo.emulation.profile import DecodeCost, EngineProfile
from mygo.tree.profile import prefill_s


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one prompt that a step computes."""

    cached_tokens: int
    """Held when the request was admitted."""
    done_tokens: int
    """Computed by earlier steps, behind the cached ones."""
    tokens: int
    """Computed by this step."""


def step_s(profile: EngineProfile, chunks: Sequence[Chunk], sequences: int, context_tokens: int) -> float:
    """Seconds of one step.

    ``sequences`` decode one token each and read ``context_tokens`` of KV together. T(cached, new)
    holds the fixed cost of a step once, in a prompt's first chunk, so of the prompts that begin in a
    step only one pays it; where a chunk continues, its difference covers the step.
    """
    fixed_s = profile.decode.step_s
    chunks_s = 0.0
    continues = False
    for chunk in chunks:
        if chunk.done_tokens:
            continues = True
            whole_s = prefill_s(profile.prefill, chunk.cached_tokens, chunk.done_tokens + chunk.tokens)
            chunks_s += max(0.0, whole_s - prefill_s(profile.prefill, chunk.cached_tokens, chunk.done_tokens))
        else:
            chunks_s += max(0.0, prefill_s(profile.prefill, chunk.cached_tokens, chunk.tokens) - fixed_s)
    if not continues:
        chunks_s += fixed_s
    decode = profile.decode
    tokens_s = sequences * decode.sequence_s + context_tokens * decode.context_token_s
    return max(fixed_s, chunks_s) + tokens_s


def beside_s(begins_s: float, compute_s: float, layers: int, loads: Sequence[tuple[float, float]]) -> float:
    """When a computation of ``compute_s`` from ``begins_s`` on ends if each of its ``layers`` must wait for
    its part of some loads. ``loads``: when they begin and end; each copies layer after layer.

    A layer begins when the one before it ends and its KV is there, so that the first layer's copy, or the
    last layer's computation, hides behind nothing.
    """
    layer_s = compute_s / layers
    ends_s = [begins_s + compute_s]
    for load_begins_s, load_ends_s in loads:
        ends_s.append(load_begins_s + (load_ends_s - load_begins_s) / layers + compute_s)
        ends_s.append(load_ends_s + layer_s)
    return max(ends_s)


def decode_steps_s(decode: DecodeCost, sequences: int, context_tokens: int, steps: int) -> float:
    """Seconds of ``steps`` steps in a row that decode the same ``sequences`` and nothing else.

    ``context_tokens`` is what they read together in the first one; it grows by one each per step.
    """
    growth_tokens = sequences * steps * (steps - 1) // 2
    per_step_s = decode.step_s + sequences * decode.sequence_s
    return steps * per_step_s + (steps * context_tokens + growth_tokens) * decode.context_token_s
