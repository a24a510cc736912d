"""Calibration recovers what an engine really costs: here an emulated one, whose costs are known."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.emulation import profile as profiles
from mygo.emulation.calibration import (
    DecodePoint,
    fit,
    measure_decode,
    typical_decode,
    typical_grid,
)
from mygo.emulation.engine import EmulatedCore
from mygo.emulation.profile import DecodeCost
from mygo.emulation.settings import EngineSettings
from mygo.types import GenerateRequest, ProfileGrid, RequestId, TokenDelta, WorkerId

COSTS = st.floats(1e-4, 1.0)


@given(COSTS, COSTS, COSTS)
def test_fit_recovers_the_cost_of_exact_points(step_s: float, sequence_s: float, token_s: float) -> None:
    def point(sequences: int, context_tokens: float) -> DecodePoint:
        total_s = step_s + sequences * sequence_s + context_tokens * token_s
        return DecodePoint(sequences, context_tokens, total_s)

    cost = fit(point(1, 48.0), point(1, 1040.0), point(8, 8 * 48.0))
    assert cost.context_token_s == pytest.approx(token_s, rel=1e-6)
    assert cost.sequence_s == pytest.approx(sequence_s, rel=1e-3)
    assert cost.step_s == pytest.approx(step_s, rel=1e-2)


def test_fit_gives_no_negative_cost_when_the_points_are_noisy() -> None:
    cost = fit(DecodePoint(1, 48.0, 0.05), DecodePoint(1, 1040.0, 0.04), DecodePoint(8, 384.0, 0.03))
    assert (cost.sequence_s, cost.context_token_s) == (0.0, 0.0)
    assert cost.step_s == 0.05


class VirtualEngine:
    """An emulated core whose clock moves from event to event, for whoever awaits it."""

    def __init__(self, core: EmulatedCore) -> None:
        self._core = core
        self._streams: dict[RequestId, asyncio.Queue[TokenDelta]] = {}
        self.now_s = 0.0

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenDelta]:
        self._core.add(request, self.now_s)
        deltas = self._streams[request.request_id] = asyncio.Queue()
        await asyncio.sleep(0)  # the others of a burst come too
        while True:
            while deltas.empty():
                self._advance()
                await asyncio.sleep(0)
            delta = deltas.get_nowait()
            yield delta
            if delta.finish_reason:
                return

    def _advance(self) -> None:
        if any(not deltas.empty() for deltas in self._streams.values()):
            return  # somebody has not yet looked at the clock
        next_s = self._core.next_event_s
        assert next_s is not None
        self.now_s = next_s
        for outcome in self._core.advance(next_s):
            for name, ids in outcome.token_ids.items():
                finish = "length" if name in outcome.finished else None
                self._streams[name].put_nowait(TokenDelta("", tuple(ids), finish))


def test_measured_decode_is_what_the_engine_takes() -> None:
    known = profiles.load("llama-3-8b-h100").slowed(10)
    settings = EngineSettings(device_tokens=16_384)
    engine = VirtualEngine(EmulatedCore(settings, known, WorkerId("w"), leap=False))
    measured = asyncio.run(
        measure_decode(engine.generate, vocabulary=32_000, rng=random.Random(0), clock=lambda: engine.now_s)
    )
    assert measured.step_s == pytest.approx(known.decode.step_s, rel=0.02)
    assert measured.context_token_s == pytest.approx(known.decode.context_token_s, rel=0.05)
    assert measured.sequence_s == pytest.approx(known.decode.sequence_s, rel=0.2)


def test_typical_profile_is_the_median_of_each_point() -> None:
    grids = [ProfileGrid((0,), (32, 64), ((seconds, 2 * seconds),)) for seconds in (0.3, 0.1, 0.9)]
    assert typical_grid(grids) == ProfileGrid((0,), (32, 64), ((0.3, 0.6),))
    costs = [DecodeCost(0.1, 0.5, 0.3), DecodeCost(0.2, 0.4, 0.1), DecodeCost(0.3, 0.6, 0.2)]
    assert typical_decode(costs) == DecodeCost(0.2, 0.5, 0.2)


def test_grids_are_refused_when_they_were_measured_at_different_points() -> None:
    with pytest.raises(ValueError, match="different points"):
        typical_grid([ProfileGrid((0,), (32,), ((1.0,),)), ProfileGrid((0,), (64,), ((1.0,),))])
