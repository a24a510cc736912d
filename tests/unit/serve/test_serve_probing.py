"""Prompts for comparisons: what the engine is sent, and what is read from its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from mygo.errors import Unavailable
from mygo.serve.probing import ANSWER_TOKENS, TOP, EngineProbe
from mygo.types import GenerateRequest, RequestId, Reuse, Sampling, SegmentKey, SegmentSpan

REQUEST = GenerateRequest(
    RequestId("r"),
    [1, 2, 3],
    (SegmentSpan(SegmentKey("k1"), 2, "public salt", "tag"), SegmentSpan(SegmentKey("k2"), 3, "own salt")),
    Sampling(max_tokens=500, temperature=0.9),
)
TOLD = {
    "cached": {"device": 32},
    "uncached": {"never_seen": 60, "prompt_end": 8},
    "chunks": {"loaded_tokens": 40, "repaired_tokens": 6, "approximate": True},
}


class Client:
    def __init__(self, *outputs: Any) -> None:
        self._outputs = outputs
        self.sent: list[tuple[Any, Any, str]] = []

    async def generate(self, prompt: Any, sampling: Any, request_id: str) -> AsyncIterator[Any]:
        self.sent.append((prompt, sampling, request_id))
        for output in self._outputs:
            yield output


def _output(told: dict[str, Any] | None) -> Any:
    logprobs = [{4: SimpleNamespace(logprob=-0.5), 9: SimpleNamespace(logprob=-2.0)}, {}]
    completion = SimpleNamespace(token_ids=[4, 5], logprobs=logprobs)
    return SimpleNamespace(outputs=[completion], kv_transfer_params=told and {"mygo": told})


def test_prompt_keeps_its_spans_and_salts_and_is_answered_greedily() -> None:
    client = Client(_output(TOLD))
    probed = asyncio.run(EngineProbe(client)(REQUEST, Reuse.BLEND, 3))
    ((prompt, sampling, request_id),) = client.sent
    assert (prompt["prompt_token_ids"], prompt["cache_salt"]) == ([1, 2, 3], "public salt")
    assert sampling.extra_args["kv_transfer_params"]["mygo"] == {
        "spans": [["k1", 2, "public salt", "tag", ""], ["k2", 3, "own salt", "", ""]],
        "reuse": "blend",
        "ticket": 3,
    }
    assert (sampling.temperature, sampling.max_tokens, sampling.logprobs) == (0.0, ANSWER_TOKENS, TOP)
    assert request_id != REQUEST.request_id
    assert (probed.token_ids, probed.first, probed.approximate) == ((4, 5), {4: -0.5, 9: -2.0}, True)
    assert probed.computed_tokens == 28


def test_answer_is_exact_when_the_engine_tells_of_no_chunks() -> None:
    told = {name: value for name, value in TOLD.items() if name != "chunks"}
    probed = asyncio.run(EngineProbe(Client(_output(told)))(REQUEST, Reuse.EXACT, 3))
    assert (probed.approximate, probed.computed_tokens) == (False, 68)


@pytest.mark.parametrize("outputs", [(), (_output(None),)])
def test_comparison_fails_when_the_engine_tells_nothing(outputs: tuple[Any, ...]) -> None:
    with pytest.raises(Unavailable):
        asyncio.run(EngineProbe(Client(*outputs))(REQUEST, Reuse.EXACT, 3))
