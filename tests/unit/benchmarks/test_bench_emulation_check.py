"""The check of the emulated engine, without a real one: it must notice what it is there to notice."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.emulation_check import Comparison, hit_ratio, mean_ttft_s, pooled
from benchmarks.engine_pair import SETTINGS, Served, busy_s, drive, emulate, requests_of
from mygo.emulation import profile as profiles
from mygo.emulation.engine import EmulatedCore
from mygo.emulation.serving import EmulatedEngine
from mygo.types import WorkerId

H100 = profiles.load("llama-3-8b-h100")


def test_trace_reuses_documents_and_overflows_the_cache() -> None:
    served = emulate(H100, requests_of(60, 0, 1.0))
    assert 0.2 < hit_ratio(served) < 0.8
    keys = {span.key for _, request in requests_of(60, 0, 1.0) for span in request.spans}
    tokens = sum(one.prompt_tokens - one.cached_tokens for one in served)
    assert tokens > 2 * SETTINGS.device_tokens
    assert len(keys) > 60


def test_requests_are_the_same_at_every_rate_but_for_their_times() -> None:
    slow, fast = requests_of(20, 1, 1.0), requests_of(20, 1, 4.0)
    assert [request for _, request in slow] == [request for _, request in fast]
    assert slow[-1][0] == pytest.approx(4 * fast[-1][0])


def test_busy_seconds_are_those_of_the_requests_one_by_one() -> None:
    arriving = requests_of(20, 1, 1.0)
    lonely = [(1000.0 * index, request) for index, (_, request) in enumerate(arriving)]
    prefills_s = sum(one.ttft_s for one in emulate(H100, lonely))
    decodes_s = 20 * 7 * H100.decode.step_s
    assert busy_s(H100, arriving) == pytest.approx(prefills_s + decodes_s, rel=0.02)


def test_same_hits_come_from_an_engine_on_wall_time_as_on_virtual_time() -> None:
    arriving = [(0.02 * index, request) for index, (_, request) in enumerate(requests_of(20, 2, 1.0))]
    core = EmulatedCore(SETTINGS, H100.slowed(0.1), WorkerId("w"), leap=False)
    on_wall_time = asyncio.run(drive(EmulatedEngine(core), arriving, "test"))
    assert [one.prompt_tokens for one in on_wall_time] == [
        one.prompt_tokens for one in emulate(H100, arriving)
    ]
    assert hit_ratio(on_wall_time) == pytest.approx(hit_ratio(emulate(H100.slowed(0.1), arriving)), abs=0.02)
    assert all(one.ttft_s > 0 for one in on_wall_time)


def _served(ttft_s: float, cached_tokens: int) -> list[Served]:
    return [Served(0.0, 1000, cached_tokens, ttft_s)]


@pytest.mark.parametrize(
    ("ttft_s", "cached_tokens", "good"),
    [(1.0, 500, True), (1.14, 519, True), (0.86, 481, True), (1.16, 500, False), (1.0, 521, False)],
)
def test_bounds_are_fifteen_per_cent_and_two_points(ttft_s: float, cached_tokens: int, good: bool) -> None:
    found = Comparison(_served(1.0, 500), _served(ttft_s, cached_tokens))
    assert found.within_bounds is good


def test_rounds_pool_their_requests() -> None:
    rounds = [Comparison(_served(1.0, 0), _served(2.0, 100)), Comparison(_served(3.0, 0), _served(4.0, 300))]
    total = pooled(rounds)
    assert mean_ttft_s(total.real) == 2.0
    assert total.ttft_error == pytest.approx(0.5)
    assert total.hit_error == pytest.approx(0.2)


def test_slower_profile_is_noticed() -> None:
    arriving = requests_of(20, 3, 1.0)
    honest = emulate(H100, arriving)
    slow = emulate(H100.slowed(1.3), arriving)
    assert not Comparison(honest, slow).within_bounds
