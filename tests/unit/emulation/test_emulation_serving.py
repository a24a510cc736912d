"""The emulated engine in an event loop: the Engine protocol, on wall time, slowed or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mygo.emulation import profile as profiles
from mygo.emulation.engine import EmulatedCore
from mygo.emulation.serving import EmulatedEngine
from mygo.emulation.settings import EngineSettings
from mygo.engine import Engine
from mygo.errors import BadRequest
from mygo.tree.keys import root_key
from mygo.types import GenerateRequest, RequestId, Sampling, SegmentSpan, Tier, WorkerId

H100 = profiles.load("llama-3-8b-h100")
KEY = root_key(model="m", kv_dtype="bf16")


def _engine(scale: float = 1.0) -> EmulatedEngine:
    settings = EngineSettings(device_tokens=8192, max_context_tokens=4096)
    return EmulatedEngine(EmulatedCore(settings, H100.slowed(scale), WorkerId("w"), leap=False))


def _request(name: str, tokens: int = 320, max_tokens: int = 4) -> GenerateRequest:
    span = SegmentSpan(KEY, tokens, "salt")
    return GenerateRequest(RequestId(name), list(range(tokens)), (span,), Sampling(max_tokens=max_tokens))


def _run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


async def _answer(engine: Engine, request: GenerateRequest) -> list[Any]:
    return [delta async for delta in engine.generate(request)]


def test_answer_is_streamed_and_says_that_it_is_emulated() -> None:
    async def test() -> None:
        deltas = await _answer(_engine(), _request("a"))
        assert [len(delta.token_ids) for delta in deltas] == [1, 1, 1, 1]
        assert "".join(delta.text for delta in deltas) == " emulated" * 4
        assert [delta.finish_reason for delta in deltas] == [None, None, None, "length"]
        assert deltas[0].prefill.cached_tokens == {Tier.DEVICE: 0}
        assert all(delta.prefill is None for delta in deltas[1:])

    _run(test)


def test_second_answer_is_served_from_the_cache_until_it_is_reset() -> None:
    async def test() -> None:
        engine = _engine()
        cached: list[int] = []
        for name in ("a", "b", "c"):
            if name == "c":
                await engine.reset_cache()
            deltas = await _answer(engine, _request(name))
            cached.append(deltas[0].prefill.cached_tokens[Tier.DEVICE])
        assert cached == [0, 304, 0]

    _run(test)


def test_time_passes_as_often_as_the_scale_says() -> None:
    """Never faster; how much later a token is delivered depends on the machine."""

    async def test() -> None:
        engine = _engine(scale=20)
        started_s = time.monotonic()
        deltas = await _answer(engine, _request("a", max_tokens=3))
        elapsed_s = time.monotonic() - started_s
        expected_s = 20 * (H100.prefill.seconds[0][1] + 2 * H100.decode.step_s)
        assert elapsed_s >= expected_s
        assert deltas[0].prefill.prefill_s >= 20 * H100.decode.step_s

    _run(test)


def test_slowed_profile_scales_every_duration_and_nothing_else() -> None:
    slow = H100.slowed(10)
    assert slow.prefill.seconds[1][2] == pytest.approx(10 * H100.prefill.seconds[1][2])
    assert slow.decode.context_token_s == pytest.approx(10 * H100.decode.context_token_s)
    assert slow.host_load_s_per_token == pytest.approx(10 * H100.host_load_s_per_token)
    assert (slow.kv_bytes_per_token, slow.prefill.new_tokens) == (
        H100.kv_bytes_per_token,
        H100.prefill.new_tokens,
    )


def test_requests_share_the_engine_when_they_come_together() -> None:
    async def test() -> None:
        engine = _engine()
        answers = await asyncio.gather(*(_answer(engine, _request(str(i), 400 + i, 20)) for i in range(8)))
        assert [sum(len(delta.token_ids) for delta in deltas) for deltas in answers] == [20] * 8

    _run(test)


def test_request_is_aborted_when_its_stream_is_closed() -> None:
    async def test() -> None:
        engine = _engine()
        deltas: Any = engine.generate(_request("a", max_tokens=3000))
        await anext(deltas)
        await deltas.aclose()
        await asyncio.sleep(0.1)
        report = await engine.next_report(0.0)
        assert (report.load.running, report.load.waiting) == (0, 0)
        assert report.load.free_tokens == 8192

    _run(test)


def test_prompt_is_refused_when_it_does_not_fit_and_the_engine_lives_on() -> None:
    async def test() -> None:
        engine = _engine()
        with pytest.raises(BadRequest, match="5000 tokens"):
            await _answer(engine, _request("a", 5000))
        assert len(await _answer(engine, _request("b"))) == 4
        assert not engine.dead

    _run(test)


def test_reports_come_with_news_and_otherwise_with_the_heartbeat() -> None:
    async def test() -> None:
        engine = _engine()
        first = await engine.snapshot()
        assert (first.snapshot, first.sequence, first.events) == (True, 0, ())
        await _answer(engine, _request("a"))
        news = await engine.next_report(30.0)
        assert [event.prefix_tokens for event in news.events if event.key == KEY] == [320]
        silent = await engine.next_report(0.01)
        assert (silent.sequence, silent.events) == (2, ())

    _run(test)
