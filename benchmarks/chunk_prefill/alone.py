"""One prompt at a time, in an engine within its process: CPU seconds and seconds to the first token."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from benchmarks.chunk_prefill.prompts import Asked, Prompts
from mygo.vllm_plugin.settings import ChunkSettings, engine_arguments


@dataclass(frozen=True, slots=True)
class Sample:
    kind: str
    """chunks, capture, cold, device; miss, or without."""
    round: int
    cpu_s: float
    ttft_s: float
    prompt_tokens: int
    computed_tokens: int
    token: int
    logprob: float
    """Of the first token of the answer."""


class Engine:
    """In this process: vLLM has one KV connector per process."""

    def __init__(self, model: Path, chunks: ChunkSettings, seed: int) -> None:
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
            **engine_arguments(chunks=chunks),
        )

    def serve(self, kind: str, number: int, asked: Asked) -> Sample:
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

    def forget_device(self) -> None:
        assert self._llm.reset_prefix_cache()


class Alone:
    """Two engines, of which one never keeps a chunk. A context manager."""

    def __init__(self, model: Path, prompts: Prompts, repair_share: float, seed: int) -> None:
        self._prompts = prompts
        self._engine = Engine(model, ChunkSettings(host_bytes=2**30, repair_share=repair_share), seed)
        spawning = multiprocessing.get_context("spawn")
        self._without, theirs = spawning.Pipe()
        self._child = spawning.Process(target=_serve_without_chunks, args=(theirs, model, seed), daemon=True)
        self._child.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._without.close()
        self._child.join()

    def round(self, number: int, documents: list[list[int]]) -> list[Sample]:
        engine, prompts = self._engine, self._prompts
        for document in documents:
            engine.serve("keep", number, prompts.kept(document))
        engine.forget_device()
        samples = [engine.serve("chunks", number, prompts.asked(documents, reuse="blend"))]
        engine.forget_device()
        samples.append(engine.serve("capture", number, prompts.asked(documents)))
        engine.forget_device()
        samples.append(engine.serve("cold", number, prompts.asked(documents)))
        samples.append(engine.serve("device", number, prompts.asked(documents)))
        return [*samples, *self._missed(number, [prompts.document(len(each)) for each in documents])]

    def _missed(self, number: int, documents: list[list[int]]) -> list[Sample]:
        """Documents that nobody has seen, where they may be blended and in an engine that never does."""
        asked = self._prompts.asked(documents, reuse="blend")
        turns = [
            partial(self._engine.serve, "miss", number, asked),
            partial(self._ask_without, number, asked),
        ]
        return [serve() for serve in (turns if number % 2 else turns[::-1])]

    def _ask_without(self, number: int, asked: Asked) -> Sample:
        self._without.send((number, asked))
        sample: Sample = self._without.recv()
        return sample


def _serve_without_chunks(questions: Connection, model: Path, seed: int) -> None:
    engine = Engine(model, ChunkSettings(), seed)
    with contextlib.suppress(EOFError):
        while True:
            number, asked = questions.recv()
            questions.send(engine.serve("without", number, asked))
