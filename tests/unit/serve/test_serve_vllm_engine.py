"""Closing a generation aborts it in the engine at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from mygo.serve.vllm_engine import VllmEngine
from mygo.types import GenerateRequest, RequestId, Sampling


class Client:
    """As much of AsyncLLM as a generation needs: tokens without end."""

    aborted = False

    async def generate(self, prompt: Any, sampling: Any, request_id: str) -> AsyncIterator[Any]:
        completion = SimpleNamespace(text="x", token_ids=[1], finish_reason=None, logprobs=None)
        try:
            while True:
                yield SimpleNamespace(outputs=[completion], num_cached_tokens=0, metrics=None)
        finally:
            self.aborted = True


def test_engine_request_is_aborted_when_the_generation_is_closed() -> None:
    async def run() -> None:
        client = Client()
        request = GenerateRequest(RequestId("r"), [1, 2, 3], (), Sampling(max_tokens=4))
        deltas: Any = VllmEngine(client, max_context_tokens=64).generate(request)
        assert (await anext(deltas)).text == "x"
        await deltas.aclose()
        assert client.aborted  # without another turn of the event loop

    asyncio.run(run())
