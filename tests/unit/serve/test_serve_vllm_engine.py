"""vLLM's outputs as deltas: aborted at once, and what the plugin told with the last one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from mygo.serve.vllm_engine import VllmEngine
from mygo.types import GenerateRequest, PrefillStats, RequestId, Sampling, Tier, TokenDelta, Uncached
from mygo.vllm_plugin.filling import FillerNews
from mygo.vllm_plugin.tiers.account import Account


class Client:
    """As much of AsyncLLM as a generation needs: tokens without end."""

    aborted = False

    async def generate(self, prompt: Any, sampling: Any, request_id: str) -> AsyncIterator[Any]:
        try:
            while True:
                yield _output()
        finally:
            self.aborted = True


class Scripted:
    """Yields what it was given."""

    def __init__(self, *outputs: Any) -> None:
        self._outputs = outputs

    async def generate(self, prompt: Any, sampling: Any, request_id: str) -> AsyncIterator[Any]:
        for output in self._outputs:
            yield output


def _output(finish_reason: str | None = None, account: Account | None = None) -> Any:
    completion = SimpleNamespace(text="x", token_ids=[1], finish_reason=finish_reason, logprobs=None)
    return SimpleNamespace(
        outputs=[completion],
        num_cached_tokens=64,
        metrics=SimpleNamespace(queued_ts=1.0, scheduled_ts=1.5, first_token_ts=2.5),
        kv_transfer_params=account.as_params() if account is not None else None,
    )


def _deltas(*outputs: Any) -> list[TokenDelta]:
    async def run() -> list[TokenDelta]:
        request = GenerateRequest(RequestId("r"), [1] * 99, (), Sampling(max_tokens=4))
        engine = VllmEngine(Scripted(*outputs), max_context_tokens=128)
        return [delta async for delta in engine.generate(request)]

    return asyncio.run(run())


def test_engine_request_is_aborted_when_the_generation_is_closed() -> None:
    async def run() -> None:
        client = Client()
        request = GenerateRequest(RequestId("r"), [1, 2, 3], (), Sampling(max_tokens=4))
        deltas: Any = VllmEngine(client, max_context_tokens=64).generate(request)
        assert (await anext(deltas)).text == "x"
        await deltas.aclose()
        assert client.aborted  # without another turn of the event loop

    asyncio.run(run())


ACCOUNT = Account({Tier.DEVICE: 32, Tier.DISK: 32}, {Uncached.NEVER_SEEN: 32, Uncached.PROMPT_END: 3})
KNOWN = PrefillStats({Tier.DEVICE: 64}, queue_s=0.5, prefill_s=1.0)
TOLD = PrefillStats(ACCOUNT.cached_tokens, 0.5, 1.0, ACCOUNT.uncached_tokens)


def test_tiers_come_with_the_last_delta_when_the_engine_told_them() -> None:
    deltas = _deltas(_output(), _output(), _output("length", ACCOUNT))
    assert [delta.prefill for delta in deltas] == [KNOWN, None, TOLD]


def test_tiers_come_at_once_when_an_answer_is_one_delta() -> None:
    assert [delta.prefill for delta in _deltas(_output("stop", ACCOUNT))] == [TOLD]


def test_tiers_stay_unknown_when_a_stop_string_ends_the_answer() -> None:
    """Scenario: vLLM's front end finds stop strings, and the engine never gets to tell."""
    assert [delta.prefill for delta in _deltas(_output(), _output("stop"))] == [KNOWN, None]


def test_ticket_and_news_of_copies_are_taken_when_the_engine_tells_them() -> None:
    output = _output("length", ACCOUNT)
    output.kv_transfer_params["mygo"] |= {"ticket": 5, "fillers": {"used_tokens": 7, "wanted": [[1, 0.5]]}}
    request = GenerateRequest(RequestId("r"), [1] * 99, (), Sampling(max_tokens=4))
    taken: list[tuple[GenerateRequest, int]] = []
    heard: list[tuple[GenerateRequest, FillerNews]] = []

    async def run() -> None:
        client = Scripted(_output(), output)
        engine = VllmEngine(
            client, 128, lambda *ticket: taken.append(ticket), lambda *news: heard.append(news)
        )
        assert len([delta async for delta in engine.generate(request)]) == 2

    asyncio.run(run())
    assert taken == [(request, 5)]
    assert heard == [(request, FillerNews(7, [[1, 0.5]]))]  # type: ignore[arg-type]
