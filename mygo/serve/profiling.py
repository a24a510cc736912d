"""Measures a worker's prefill profile T(cached, new) once per model, engine settings and machine.

The profile prices routing (and later eviction and loading) in seconds. It is kept in the cache
directory, so only the first start on a machine pays for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from mygo.config import ModelConfig
from mygo.errors import MygoError
from mygo.tree import profile as profiles
from mygo.types import GenerateRequest, ProfileGrid, RequestId, Sampling, TokenDelta

logger = logging.getLogger(__name__)

Generate = Callable[[GenerateRequest], AsyncIterator[TokenDelta]]


def fingerprint(model: ModelConfig, cores: int, device: str) -> str:
    """Names what a profile depends on; a change of any of it asks for a new measurement."""
    facts = {
        "model": model.model_dump(mode="json"),
        "cores": cores,
        "device": device,
        "machine": platform.machine(),
        "cpu": _cpu_model(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def grid_points(max_context_tokens: int, step_tokens: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(cached, new) points: few on purpose, since T is near bilinear and every point delays the start."""
    longest = max_context_tokens - 64
    cached = tuple(t for t in (0, 2048) if t + step_tokens < longest)
    new = tuple(t for t in (32, 256, 1024) if t + cached[-1] < longest)
    return cached or (0,), new or (32,)


async def measure(
    generate: Generate, *, vocabulary: int, max_context_tokens: int, step_tokens: int, rng: random.Random
) -> ProfileGrid:
    """Time real prefills of random ids. Leaves the measured ids in the engine's cache."""
    cached_grid, new_grid = grid_points(max_context_tokens, step_tokens)

    async def prefill_s(name: str, token_ids: list[int]) -> float:
        request = GenerateRequest(
            request_id=RequestId(f"profile-{name}"),
            token_ids=token_ids,
            spans=(),
            sampling=Sampling(max_tokens=1, temperature=0.0, ignore_eos=True),
        )
        started = time.perf_counter()
        async for _ in generate(request):
            pass
        return time.perf_counter() - started

    def random_ids(count: int) -> list[int]:
        return [rng.randrange(vocabulary) for _ in range(count)]

    await prefill_s("warm-up", random_ids(new_grid[0]))
    rows: list[tuple[float, ...]] = []
    for cached_tokens in cached_grid:
        prefix = random_ids(cached_tokens)
        if prefix:
            await prefill_s(f"prefix-{cached_tokens}", [*prefix, *random_ids(1)])
        row: list[float] = []
        for new_tokens in new_grid:
            seconds = await prefill_s(f"{cached_tokens}-{new_tokens}", [*prefix, *random_ids(new_tokens)])
            # one sample on a shared machine: keep the row monotone, a longer prefill cannot cost less
            row.append(max(seconds, row[-1]) if row else seconds)
        rows.append(tuple(row))
    return ProfileGrid(cached_grid, new_grid, tuple(rows))


async def self_test(generate: Generate, vocabulary: int, tokens: int) -> None:
    """Send the same prompt twice; raises MygoError unless the second is served from the cache.

    A cache that silently never hits (a hash that varies, a setting that turns it off) costs all that
    MyGO is for, and nothing else would say so.
    """
    token_ids = [number % vocabulary for number in range(1, tokens + 1)]
    cached_tokens = 0
    for attempt in ("first", "second"):
        request = GenerateRequest(
            request_id=RequestId(f"self-test-{attempt}"),
            token_ids=token_ids,
            spans=(),
            sampling=Sampling(max_tokens=1, temperature=0.0, ignore_eos=True),
        )
        async for delta in generate(request):
            if delta.prefill is not None:
                cached_tokens = sum(delta.prefill.cached_tokens.values())
    if cached_tokens == 0:
        raise MygoError(
            f"self-test failed: a prompt of {tokens} tokens, sent twice, was not served from the cache; "
            "check model.engine for settings that disable prefix caching"
        )


def load(path: Path) -> ProfileGrid | None:
    """A stored profile; None if there is none or it cannot be used (it is then measured again)."""
    try:
        return profiles.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("ignoring the stored profile %s: %s", path, error)
        return None


def store(path: Path, grid: ProfileGrid) -> None:
    """Write atomically; a profile that cannot be written is only a slower next start."""
    data: dict[str, Any] = profiles.to_dict(grid)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(data), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        logger.warning("could not store the profile %s: %s", path, error)
