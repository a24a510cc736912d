"""Emulated engines with small tiers, and what drives them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from mygo.emulation import profile as profiles
from mygo.emulation.engine import EmulatedCore, StepOutcome
from mygo.emulation.settings import EngineSettings
from mygo.tree.keys import root_key, segment_key
from mygo.types import (
    PUBLIC,
    GenerateRequest,
    PrefillStats,
    RequestId,
    Sampling,
    SegmentSpan,
    Tier,
    WorkerId,
)
from mygo.vllm_plugin.settings import TierSettings

BLOCK = 16
H100 = profiles.load("llama-3-8b-h100")
ROOT = root_key(model="m", kv_dtype="bf16")


def text(name: int, tokens: int) -> list[int]:
    rng = random.Random(name)
    return [rng.randrange(32_000) for _ in range(tokens)]


def request(name: str, segments: Sequence[list[int]], max_tokens: int = 1) -> GenerateRequest:
    key, token_ids, spans = ROOT, [], []
    for segment in segments:
        key = segment_key(key, PUBLIC, segment)
        token_ids += segment
        spans.append(SegmentSpan(key, len(token_ids), "salt"))
    return GenerateRequest(RequestId(name), token_ids, tuple(spans), Sampling(max_tokens=max_tokens))


def engine(
    device_tokens: int = 1024,
    host_tokens: int = 0,
    disk_tokens: int = 0,
    *,
    vllm_offloading: bool = False,
    max_running: int = 256,
    step_tokens: int = 8192,
    max_context_tokens: int = 32_768,
    **options: object,
) -> EmulatedCore:
    """An H100 whose tiers hold so many tokens; ``options`` of TierSettings."""
    tiers = TierSettings(
        host_bytes=host_tokens * H100.kv_bytes_per_token,
        disk_bytes=disk_tokens * H100.kv_bytes_per_token,
        **options,  # type: ignore[arg-type]
    )
    settings = EngineSettings(
        device_tokens,
        BLOCK,
        max_context_tokens,
        step_tokens,
        max_running=max_running,
        tiers=tiers,
        vllm_offloading=vllm_offloading,
    )
    return EmulatedCore(settings, H100, WorkerId("w"))


def drain(core: EmulatedCore, passes: int = 20_000) -> list[StepOutcome]:
    outcomes: list[StepOutcome] = []
    for _ in range(passes):
        next_s = core.next_event_s
        if next_s is None:
            return outcomes
        outcomes += core.advance(next_s)
    raise AssertionError(f"{core} does not come to an end")


def ask(core: EmulatedCore, name: str, segments: Sequence[list[int]], at_s: float) -> PrefillStats:
    """One request, and everything that it leaves behind. Its answer's steps teach the engine what an empty
    step costs; its KV fits into one block."""
    core.add(request(name, segments, 4), at_s)
    return stats(drain(core))[RequestId(name)]


def stats(outcomes: Sequence[StepOutcome]) -> Mapping[RequestId, PrefillStats]:
    return {name: one for outcome in outcomes for name, one in outcome.prefills.items()}


def tiers(told: PrefillStats) -> tuple[int, int, int]:
    """Cached tokens on the device, in host memory and on disk."""
    return tuple(told.cached_tokens.get(tier, 0) for tier in Tier)  # type: ignore[return-value]
