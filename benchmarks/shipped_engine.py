"""A real engine with the settings that MyGO ships for a CPU, as in a worker: a process of its own, with steps
and arrivals at their own times."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from mygo.config import ModelConfig
from mygo.vllm_plugin.settings import engine_arguments


@contextlib.asynccontextmanager
async def shipped_engine(model: Path, **plugin: Any) -> AsyncIterator[Any]:
    """vLLM's AsyncLLM; ``plugin``: what ``engine_arguments`` takes."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    shipped = ModelConfig()
    llm = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=str(model),
            skip_tokenizer_init=True,
            dtype=shipped.dtype,
            enforce_eager=True,
            block_size=shipped.block_tokens,
            kv_cache_memory_bytes=shipped.kv_cache_bytes,
            max_model_len=shipped.max_context_tokens,
            max_num_batched_tokens=shipped.step_tokens,
            long_prefill_token_threshold=shipped.long_prefill_tokens,
            max_num_seqs=shipped.max_running,
            disable_log_stats=True,
            **engine_arguments(**plugin),
        )
    )
    try:
        yield llm
    finally:
        llm.shutdown()


def generated(
    llm: Any,
    request_id: str,
    token_ids: list[int],
    tokens: int,
    kv_transfer_params: dict[str, Any] | None = None,
) -> AsyncIterator[Any]:
    """The greedy answer, of just so many tokens, as it comes."""
    from vllm import SamplingParams

    sampling = SamplingParams(
        max_tokens=tokens,
        temperature=0.0,
        ignore_eos=True,
        detokenize=False,
        extra_args={"kv_transfer_params": kv_transfer_params} if kv_transfer_params else None,
    )
    answer: AsyncIterator[Any] = llm.generate(
        {"prompt_token_ids": token_ids}, sampling, request_id=request_id
    )
    return answer


async def ttft_s(
    llm: Any, request_id: str, token_ids: list[int], kv_transfer_params: dict[str, Any] | None = None
) -> float:
    """Seconds until the first token, the only one."""
    began_s = time.perf_counter()
    async for _ in generated(llm, request_id, token_ids, 1, kv_transfer_params):
        pass
    return time.perf_counter() - began_s
