"""A warm request beside a long cold one, in a real engine.

The engine runs as in a worker: a process of its own, steps and arrivals at their own times. A warm request
has a document that the device holds, and a question that it does not.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mygo.config import ModelConfig
from mygo.vllm_plugin.settings import TierSettings, engine_arguments

LONG_TOKENS = 4_000
DOCUMENT_TOKENS = 2_000
QUESTION_TOKENS = 64
WORDS = range(1_000, 40_000)
WARM_PER_LONG = 2


@dataclass
class Beside:
    """Seconds to the first token."""

    idle_s: list[float] = field(default_factory=list)
    beside_s: list[float] = field(default_factory=list)
    """Of warm requests that came while a long one was computed."""
    long_s: list[float] = field(default_factory=list)
    """Of the long ones."""


def measure(model: Path, tiers: TierSettings, rounds: int, seed: int = 0) -> Beside:
    """Start an engine as MyGO ships for a CPU, and ask."""
    return asyncio.run(_measure(model, tiers, rounds, random.Random(seed)))


async def _measure(model: Path, tiers: TierSettings, rounds: int, rng: random.Random) -> Beside:
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
            **engine_arguments(tiers=tiers),
        )
    )
    try:
        return await _ask(llm, rounds, rng)
    finally:
        llm.shutdown()


async def _ask(llm: Any, rounds: int, rng: random.Random) -> Beside:
    found = Beside()
    document = _words(rng, DOCUMENT_TOKENS)
    cold_s = await _ttft_s(llm, "document", document)
    for number in range(rounds):
        question = _words(rng, QUESTION_TOKENS)
        found.idle_s.append(await _ttft_s(llm, f"idle{number}", document + question))
    for number in range(rounds):
        long = asyncio.create_task(_ttft_s(llm, f"long{number}", _words(rng, LONG_TOKENS)))
        for turn in range(WARM_PER_LONG):
            # anywhere in a step, while the long one takes at least twice as long as the document did
            await asyncio.sleep(cold_s * rng.uniform(0.1, 0.6))
            if not long.done():
                warm = document + _words(rng, QUESTION_TOKENS)
                found.beside_s.append(await _ttft_s(llm, f"warm{number}-{turn}", warm))
        found.long_s.append(await long)
    return found


async def _ttft_s(llm: Any, request_id: str, token_ids: list[int]) -> float:
    from vllm import SamplingParams

    began = time.perf_counter()
    one = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True, detokenize=False)
    async for _ in llm.generate({"prompt_token_ids": token_ids}, one, request_id=request_id):
        pass
    return time.perf_counter() - began


def _words(rng: random.Random, tokens: int) -> list[int]:
    return rng.choices(WORDS, k=tokens)
