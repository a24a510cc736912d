"""Prompts that are answered for a comparison, by the engine that serves users beside it."""

from __future__ import annotations

import contextlib
from typing import Any

from vllm import SamplingParams
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind

from mygo.errors import Unavailable
from mygo.serve.divergence import Probed
from mygo.types import GenerateRequest, Reuse
from mygo.vllm_plugin import spans
from mygo.vllm_plugin.tiers.account import Account

ANSWER_TOKENS = 16
TOP = 20
"""First tokens whose probability is told: vLLM's default limit."""


class EngineProbe:
    """A ``shadowing.Probe`` of one AsyncLLM."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def __call__(self, request: GenerateRequest, reuse: Reuse, ticket: int) -> Probed:
        segments = {
            "spans": spans.entries(request.spans),
            "reuse": reuse,
            "ticket": ticket,
        }
        params = SamplingParams(
            max_tokens=ANSWER_TOKENS,
            temperature=0.0,
            logprobs=TOP,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={"kv_transfer_params": {"mygo": segments}},
        )
        prompt = TokensPrompt(prompt_token_ids=request.token_ids, cache_salt=request.spans[0].salt)
        outputs = self._client.generate(prompt, params, f"{request.request_id}-{reuse}-{ticket}")
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                return probed(output)
        raise Unavailable("the engine ended a comparison without an answer")


def probed(output: Any) -> Probed:
    """A finished answer as a comparison needs it. Raises Unavailable if the engine does not say how it was
    served: a request without a segment map."""
    (completion,) = output.outputs
    account = Account.of_params(output.kv_transfer_params)
    if account is None:
        raise Unavailable("the engine did not say how it served a comparison")
    chunks = output.kv_transfer_params["mygo"].get("chunks", {})
    computed = account.without(int(chunks.get("loaded_tokens", 0)))
    return Probed(
        tuple(completion.token_ids),
        {token: entry.logprob for token, entry in completion.logprobs[0].items()},
        bool(chunks.get("approximate", False)),
        sum(computed.uncached_tokens.values()),
    )
