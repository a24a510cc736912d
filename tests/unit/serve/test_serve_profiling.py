"""The profile is measured in the right order and kept on disk; the cache is put to the test."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mygo.config import ModelConfig
from mygo.errors import MygoError
from mygo.serve import profiling
from mygo.types import GenerateRequest, PrefillStats, ProfileGrid, Tier, TokenDelta

GRID = ProfileGrid((0, 1024), (32, 256), ((0.1, 0.5), (0.2, 0.6)))


class Prefixes:
    """Answers with how many leading tokens it saw before, like a prefix cache of 32-token blocks."""

    def __init__(self, *, caches: bool = True) -> None:
        self.requests: list[GenerateRequest] = []
        self._caches = caches

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenDelta]:
        seen = 0
        for earlier in self.requests:
            pairs = zip(earlier.token_ids, request.token_ids, strict=False)
            same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(request.token_ids) - 1)
            seen = max(seen, same // 32 * 32)
        self.requests.append(request)
        cached = {Tier.DEVICE: seen if self._caches else 0}
        yield TokenDelta("x", (1,), "length", PrefillStats(cached, 0.0, 0.0))


def test_profile_measures_new_tokens_behind_a_cached_prefix() -> None:
    engine = Prefixes()
    grid = asyncio.run(
        profiling.measure(
            engine.generate, vocabulary=1000, max_context_tokens=8192, step_tokens=288, rng=random.Random(1)
        )
    )
    lengths = [len(request.token_ids) for request in engine.requests]
    assert lengths == [32, 32, 256, 1024, 2049, 2080, 2304, 3072]
    prefix = engine.requests[4].token_ids[:2048]
    assert all(request.token_ids[:2048] == prefix for request in engine.requests[5:])
    assert grid.cached_tokens == (0, 2048)
    assert all(row == tuple(sorted(row)) for row in grid.seconds)


def test_profile_fits_a_short_context() -> None:
    cached, new = profiling.grid_points(512, 288)
    assert cached == (0,)
    assert max(new) < 512


def test_profile_is_read_back_when_it_was_stored(tmp_path: Path) -> None:
    path = tmp_path / "profiles" / "a.json"
    assert profiling.load(path) is None
    profiling.store(path, GRID)
    assert profiling.load(path) == GRID


def test_profile_is_measured_again_when_the_file_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"cached_tokens": [0')
    assert profiling.load(path) is None


def test_fingerprint_changes_when_the_model_or_the_cores_do() -> None:
    model = ModelConfig()
    names = {
        profiling.fingerprint(model, 1, "cpu"),
        profiling.fingerprint(model, 2, "cpu"),
        profiling.fingerprint(ModelConfig(step_tokens=512), 1, "cpu"),
    }
    assert len(names) == 3


def test_self_test_passes_when_the_cache_hits() -> None:
    asyncio.run(profiling.self_test(Prefixes().generate, 1000, 96))


def test_self_test_fails_loudly_when_the_cache_never_hits() -> None:
    with pytest.raises(MygoError, match="prefix caching"):
        asyncio.run(profiling.self_test(Prefixes(caches=False).generate, 1000, 96))
