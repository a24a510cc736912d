"""One prompt at a time, in an engine within this process: CPU seconds and seconds to the first token."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chunk_prefill.prompts import Asked, Prompts
from mygo.vllm_plugin.settings import ChunkSettings, engine_arguments


@dataclass(frozen=True, slots=True)
class Sample:
    kind: str
    """chunks, capture, cold or device."""
    round: int
    cpu_s: float
    ttft_s: float
    prompt_tokens: int
    computed_tokens: int
    token: int
    logprob: float
    """Of the first token of the answer."""


class Alone:
    def __init__(self, model: Path, prompts: Prompts, repair_share: float, seed: int) -> None:
        # read when vLLM is first imported
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", str(sorted(os.sched_getaffinity(0))[-1]))
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        from vllm import LLM, SamplingParams

        self._params: Any = SamplingParams
        self._llm = LLM(
            str(model),
            dtype="bfloat16",
            enforce_eager=True,
            block_size=32,
            max_model_len=4096,
            kv_cache_memory_bytes=2**28,
            max_num_batched_tokens=4096,
            disable_log_stats=True,
            seed=seed,
            **engine_arguments(chunks=ChunkSettings(host_bytes=2**30, repair_share=repair_share)),
        )
        self._prompts = prompts

    def round(self, number: int, documents: list[list[int]]) -> list[Sample]:
        for document in documents:
            self._serve("keep", number, self._prompts.kept(document))
        self._forget_device()
        samples = [self._serve("chunks", number, self._prompts.asked(documents, reuse="blend"))]
        self._forget_device()
        samples.append(self._serve("capture", number, self._prompts.asked(documents)))
        self._forget_device()
        samples.append(self._serve("cold", number, self._prompts.asked(documents)))
        return [*samples, self._serve("device", number, self._prompts.asked(documents))]

    def _serve(self, kind: str, number: int, asked: Asked) -> Sample:
        sampling = self._params(
            max_tokens=1,
            temperature=0.0,
            logprobs=0,
            extra_args={"kv_transfer_params": asked.kv_transfer_params},
        )
        cpu_s, started = time.process_time(), time.perf_counter()
        (output,) = self._llm.generate([{"prompt_token_ids": asked.token_ids}], sampling, use_tqdm=False)
        ttft_s = time.perf_counter() - started
        cpu_s = time.process_time() - cpu_s
        (token,) = output.outputs[0].token_ids
        computed_tokens = len(asked.token_ids) - (output.num_cached_tokens or 0)
        logprob = output.outputs[0].logprobs[0][token].logprob
        return Sample(kind, number, cpu_s, ttft_s, len(asked.token_ids), computed_tokens, token, logprob)

    def _forget_device(self) -> None:
        assert self._llm.reset_prefix_cache()
