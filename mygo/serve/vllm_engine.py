"""vLLM behind the Engine protocol: ids and spans in, token deltas out.

Uses vLLM's public AsyncLLM interface only. What runs inside the engine process is the plugin
(``mygo/vllm_plugin``); this adapter hands it the segment map with each request.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

from vllm import SamplingParams
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError

from mygo.errors import BadRequest, Unavailable
from mygo.types import ChunkUse, GenerateRequest, PrefillStats, Sampling, Tier, TokenDelta, TokenLogprob
from mygo.vllm_plugin import spans
from mygo.vllm_plugin.filling import FillerNews
from mygo.vllm_plugin.tiers.account import Account


class VllmEngine:
    """Streams completions from one AsyncLLM."""

    def __init__(
        self,
        client: Any,
        max_context_tokens: int,
        on_ticket: Callable[[GenerateRequest, int], None] | None = None,
        on_fillers: Callable[[GenerateRequest, FillerNews], None] | None = None,
    ) -> None:
        """``on_ticket`` is told of each answer that the engine's quality guard wants compared, with the
        number of its ticket; ``on_fillers`` of each that used copies behind neutral documents, or should
        have."""
        self._client = client
        self._max_context_tokens = max_context_tokens
        self._on_ticket = on_ticket
        self._on_fillers = on_fillers

    @property
    def vocabulary(self) -> int:
        return int(self._client.model_config.get_vocab_size())

    @property
    def dead(self) -> bool:
        return bool(self._client.errored)

    async def wake(self) -> None:
        """Let an idle engine look at what else there is to do. Raises Unavailable if it is dead."""
        try:
            await self._client.is_sleeping()  # any call ends its wait
        except EngineDeadError as error:
            raise Unavailable("the engine died; its successor begins with an empty cache") from error

    async def reset_cache(self) -> None:
        await self._client.reset_prefix_cache(reset_connector=True)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenDelta]:
        """Stream a completion; closing the iterator aborts it in the engine.

        Raises BadRequest if the prompt does not fit, Unavailable if the engine is dead.
        """
        if len(request.token_ids) >= self._max_context_tokens:
            raise BadRequest(
                f"the prompt has {len(request.token_ids)} tokens, the model takes "
                f"{self._max_context_tokens - 1}: send fewer or shorter documents",
                param="messages",
                code="context_length_exceeded",
            )
        prompt = TokensPrompt(prompt_token_ids=request.token_ids)
        if request.spans:
            prompt["cache_salt"] = request.spans[0].salt
        prefill: PrefillStats | None = None
        try:
            outputs = self._client.generate(prompt, _sampling_params(request), request.request_id)
            async with contextlib.aclosing(outputs):  # at once, not when it happens to be collected
                async for output in outputs:
                    self._tell(request, (output.kv_transfer_params or {}).get("mygo", {}))
                    completion = output.outputs[0]
                    if completion.token_ids or completion.text or completion.finish_reason:
                        known = prefill
                        prefill = _prefill_stats(output, known)
                        yield TokenDelta(
                            text=completion.text,
                            token_ids=tuple(completion.token_ids),
                            finish_reason=completion.finish_reason,
                            prefill=None if prefill is known else prefill,
                            logprobs=_logprobs(completion, request.sampling.logprobs),
                        )
        except EngineDeadError as error:
            raise Unavailable("the engine died; the request can be sent again") from error
        except ValueError as error:
            raise BadRequest(str(error)) from error

    def _tell(self, request: GenerateRequest, told: Mapping[str, Any]) -> None:
        if "ticket" in told and self._on_ticket is not None:
            self._on_ticket(request, told["ticket"])
        if "fillers" in told and self._on_fillers is not None:
            self._on_fillers(request, FillerNews(**told["fillers"]))


def _sampling_params(request: GenerateRequest) -> SamplingParams:
    sampling: Sampling = request.sampling
    params = spans.params(request)
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        stop=list(sampling.stop),
        seed=sampling.seed,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logprobs=sampling.logprobs,
        ignore_eos=sampling.ignore_eos,
        output_kind=RequestOutputKind.DELTA,
        extra_args={"kv_transfer_params": params} if params else None,
    )


def _prefill_stats(output: Any, known: PrefillStats | None) -> PrefillStats:
    """``known``, if the output adds nothing to it."""
    stats = known
    if stats is None:
        stats = PrefillStats({Tier.DEVICE: int(output.num_cached_tokens or 0)}, *_waits_s(output.metrics))
    account = Account.of_params(output.kv_transfer_params)
    if account is None:
        return stats
    told = output.kv_transfer_params["mygo"].get("chunks")
    chunks = ChunkUse(**told) if told is not None else None
    if chunks is not None:
        account = account.without(chunks.loaded_tokens)
    return replace(
        stats,
        cached_tokens=account.cached_tokens,
        uncached_tokens=account.uncached_tokens,
        chunks=chunks,
    )


def _waits_s(times: Any) -> tuple[float, float]:
    """Seconds in the queue, and of prefill."""
    if times is None or not times.first_token_ts or not times.scheduled_ts:
        return 0.0, 0.0
    return max(0.0, times.scheduled_ts - times.queued_ts), max(0.0, times.first_token_ts - times.scheduled_ts)


def _logprobs(completion: Any, top: int | None) -> tuple[TokenLogprob, ...]:
    if top is None or not completion.logprobs:
        return ()
    result: list[TokenLogprob] = []
    for token_id, alternatives in zip(completion.token_ids, completion.logprobs, strict=True):
        ranked = sorted(alternatives.values(), key=lambda entry: entry.rank)[:top]
        chosen = alternatives[token_id]
        result.append(
            TokenLogprob(
                token=chosen.decoded_token or "",
                logprob=chosen.logprob,
                top=tuple((entry.decoded_token or "", entry.logprob) for entry in ranked),
            )
        )
    return tuple(result)
