"""The emulated engine decides as the real one: same requests, same cache, one after the other.

How well its seconds agree is measured by ``python -m benchmarks.emulation_check``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from benchmarks.engine_pair import SETTINGS, calibrate, requests_of, start_engine
from mygo.emulation import profile as profiles
from mygo.emulation.engine import EmulatedCore
from mygo.types import GenerateRequest, WorkerId

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def requests() -> list[GenerateRequest]:
    return [request for _, request in requests_of(25, seed=5, rate_per_s=1.0)]


def _emulated(requests: list[GenerateRequest]) -> list[tuple[int, int]]:
    """(cached tokens, answer tokens) of each request."""
    core = EmulatedCore(SETTINGS, profiles.load("llama-3-8b-h100"), WorkerId("w"))
    served, now_s = [], 0.0
    for request in requests:
        cached_tokens = answer_tokens = 0
        core.add(request, now_s)
        while (next_s := core.next_event_s) is not None:
            now_s = next_s
            for outcome in core.advance(now_s):
                for stats in outcome.prefills.values():
                    cached_tokens = sum(stats.cached_tokens.values())
                answer_tokens += len(outcome.token_ids.get(request.request_id, []))
        served.append((cached_tokens, answer_tokens))
    return served


def test_emulated_hits_equal_real_ones_when_requests_come_one_by_one(
    demo_model: Path, requests: list[GenerateRequest], one_thread: None
) -> None:
    """And a real engine can be calibrated: its profile is positive and grows with the prompt."""

    async def real() -> tuple[list[tuple[int, int]], Any]:
        client, engine = start_engine(demo_model)
        try:
            calibrated = await calibrate(engine, seed=0, repeats=1)
            served = []
            for request in requests:
                cached_tokens = answer_tokens = 0
                async for delta in engine.generate(request):
                    answer_tokens += len(delta.token_ids)
                    if delta.prefill is not None:
                        cached_tokens = sum(delta.prefill.cached_tokens.values())
                served.append((cached_tokens, answer_tokens))
            return served, calibrated
        finally:
            client.shutdown()

    served, (grid, decode) = asyncio.run(real())
    emulated = _emulated(requests)
    assert served == emulated
    assert 0 < sum(cached for cached, _ in served) < sum(len(request.token_ids) for request in requests)
    assert all(row[0] < row[-1] for row in grid.seconds)
    assert decode.step_s > 0
