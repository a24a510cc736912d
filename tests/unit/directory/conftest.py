"""Small builders for directory tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mygo.types import PathStep, ProfileGrid, SegmentKey, WorkerId, WorkerInfo

PROFILE = ProfileGrid((0, 1024), (0, 1024), ((0.0, 1.0), (0.0, 1.0)))


@pytest.fixture
def worker_info() -> Callable[..., WorkerInfo]:
    def make(worker: str = "w0", epoch: str = "e0", block_tokens: int = 4) -> WorkerInfo:
        return WorkerInfo(
            worker=WorkerId(worker),
            epoch=epoch,
            model="m",
            block_tokens=block_tokens,
            device_tokens=1024,
            max_context_tokens=1024,
            profile=PROFILE,
        )

    return make


@pytest.fixture
def path_of() -> Callable[..., tuple[PathStep, ...]]:
    def make(*segments: tuple[str, int]) -> tuple[PathStep, ...]:
        """(name, tokens) per segment; a key spells its whole path, as real keys hash theirs."""
        steps: list[PathStep] = []
        start, key = 0, ""
        for name, tokens in segments:
            key = f"{key}/{name}"
            steps.append(PathStep(SegmentKey(key), start, start + tokens))
            start += tokens
        return tuple(steps)

    return make
