"""One trace through a real engine and through an emulated one that is calibrated by it."""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.harness.machine import cpu_name, usable_cores
from mygo.config import Config
from mygo.emulation import calibration
from mygo.emulation.engine import EmulatedCore, StepOutcome
from mygo.emulation.profile import DecodeCost, EngineProfile
from mygo.emulation.settings import EngineSettings
from mygo.engine import Engine
from mygo.simulation.prompts import Prompts
from mygo.types import GenerateRequest, ProfileGrid, RequestId, WorkerId
from mygo.vllm_plugin.settings import engine_arguments
from mygo.workloads.arrivals import Arrivals
from mygo.workloads.cut import scaled
from mygo.workloads.generate import generate
from mygo.workloads.lengths import Lengths
from mygo.workloads.recipe import Recipe
from mygo.workloads.topics import Retrieval, Zipf

VOCABULARY = 32_000
SETTINGS = EngineSettings(
    device_tokens=4096,
    block_tokens=32,
    max_context_tokens=4096,
    step_tokens=288,
    long_prefill_tokens=256,
    max_running=32,
    vocabulary=VOCABULARY,
)


@dataclass(frozen=True)
class Served:
    """What a client saw of one request."""

    arrival_s: float
    prompt_tokens: int
    cached_tokens: int
    ttft_s: float
    """From its arrival."""


Arriving = list[tuple[float, GenerateRequest]]


def requests_of(requests: int, seed: int, rate_per_s: float) -> Arriving:
    """The trace: three documents of about 200 tokens out of 40 per request, behind 64 of system prompt."""
    recipe = Recipe(
        name="emulation-check",
        requests=requests,
        retrieval=Retrieval(corpus_documents=40, topics=12, documents=3, candidates=5, topic_law=Zipf(1.0)),
        arrivals=Arrivals(rate_per_s=1.0),
        document=Lengths(200, 0.3, 400),
        question=Lengths(30, 0.3, 80),
        output=Lengths(8),
    )
    trace = scaled(generate(recipe, seed), rate_per_s=rate_per_s)
    prompts = Prompts(trace, VOCABULARY)
    return [
        (request.arrival_s, prompts.generate_request(request, prompts.prompt(request)))
        for request in trace.requests
    ]


def emulate(profile: EngineProfile, arriving: Arriving) -> list[Served]:
    """In virtual time."""
    core = EmulatedCore(SETTINGS, profile, WorkerId("emulated"))
    outcomes: list[StepOutcome] = []
    for at_s, request in arriving:
        while (next_s := core.next_event_s) is not None and next_s <= at_s:
            outcomes += core.advance(next_s)
        core.add(request, at_s)
    while (next_s := core.next_event_s) is not None:
        outcomes += core.advance(next_s)
    first = {
        name: (outcome.ended_s, stats) for outcome in outcomes for name, stats in outcome.prefills.items()
    }
    served = []
    for at_s, request in arriving:
        ended_s, stats = first[request.request_id]
        cached_tokens = sum(stats.cached_tokens.values())
        served.append(Served(at_s, len(request.token_ids), cached_tokens, ended_s - at_s))
    return served


def busy_s(profile: EngineProfile, arriving: Arriving) -> float:
    """Seconds that the engine would work on these requests, one after the other."""
    core, now_s = EmulatedCore(SETTINGS, profile, WorkerId("alone")), 0.0
    for _, request in arriving:
        core.add(request, now_s)
        while (next_s := core.next_event_s) is not None:
            core.advance(next_s)
            now_s = next_s
    return now_s


async def drive(engine: Engine, arriving: Arriving, name: str) -> list[Served]:
    """In real time, open loop; ``name`` tells its requests from those of other rounds."""
    started_s = time.perf_counter()

    async def serve(at_s: float, request: GenerateRequest) -> Served:
        await asyncio.sleep(max(0.0, started_s + at_s - time.perf_counter()))
        renamed = replace(request, request_id=RequestId(f"{name}-{request.request_id}"))
        ttft_s, cached_tokens = 0.0, 0
        async for delta in engine.generate(renamed):
            if delta.prefill is not None:
                ttft_s = time.perf_counter() - started_s - at_s
                cached_tokens = sum(delta.prefill.cached_tokens.values())
        return Served(at_s, len(request.token_ids), cached_tokens, ttft_s)

    return list(await asyncio.gather(*(serve(at_s, request) for at_s, request in arriving)))


async def calibrate(engine: Engine, seed: int, repeats: int = 3) -> tuple[ProfileGrid, DecodeCost]:
    """Medians of ``repeats`` measurements; leaves the cache empty."""
    from mygo.serve import profiling

    rng = random.Random(f"calibration {seed}")
    grids, costs = [], []
    for _ in range(repeats):
        grids.append(
            await profiling.measure(
                engine.generate,
                vocabulary=VOCABULARY,
                max_context_tokens=SETTINGS.max_context_tokens,
                step_tokens=SETTINGS.step_tokens,
                rng=rng,
            )
        )
        costs.append(await calibration.measure_decode(engine.generate, vocabulary=VOCABULARY, rng=rng))
        await engine.reset_cache()
    return calibration.typical_grid(grids), calibration.typical_decode(costs)


def profile_between(
    before: tuple[ProfileGrid, DecodeCost], after: tuple[ProfileGrid, DecodeCost], kv_bytes: int
) -> EngineProfile:
    """The engine as it was on average during a round."""
    return EngineProfile(
        name="this-machine",
        model=Config().model.name,
        device=cpu_name(),
        source="measured by benchmarks/emulation_check.py; loads from tiers were not measured",
        prefill=calibration.typical_grid([before[0], after[0]]),
        decode=calibration.typical_decode([before[1], after[1]]),
        kv_bytes_per_token=kv_bytes,
        host_load_s_per_token=0.0,
        disk_load_s_per_token=0.0,
    )


def start_engine(model_path: Path) -> tuple[Any, Engine]:
    """vLLM's AsyncLLM as a worker starts it, on one core, and its adapter."""
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = str(usable_cores()[-1])
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # only now: vLLM reads its environment when it is first imported
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from mygo.serve.vllm_engine import VllmEngine

    client = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=str(model_path),
            dtype="bfloat16",
            enforce_eager=True,
            max_model_len=SETTINGS.max_context_tokens,
            block_size=SETTINGS.block_tokens,
            # one block is vLLM's placeholder
            num_gpu_blocks_override=SETTINGS.device_tokens // SETTINGS.block_tokens + 1,
            kv_cache_memory_bytes=2**28,
            max_num_batched_tokens=SETTINGS.step_tokens,
            long_prefill_token_threshold=SETTINGS.long_prefill_tokens,
            max_num_seqs=SETTINGS.max_running,
            **engine_arguments(),
        )
    )
    return client, VllmEngine(client, SETTINGS.max_context_tokens)
