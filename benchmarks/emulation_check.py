"""Does the emulated engine tell the truth? One trace through a real engine and through an emulated one.

    python -m benchmarks.emulation_check [--rounds N] [--requests N] [--seed N] [--out FILE]

The real one is vLLM on this machine's CPU with MyGO's plugin. Before, between and after the rounds its
T(cached, new) and decode rate are measured, as a worker measures them; from those that enclose a round the
emulated engine is calibrated for it. The trace has Zipf reuse, a cache smaller than its documents, and
arrivals that keep the engine half busy. Prints a table, writes JSON; exit status 1 if mean TTFT differs
by more than 15 % or the token hit ratio by more than 2 points.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.machine import cpu_name, kv_bytes_per_token, usable_cores
from mygo import models
from mygo.config import Config
from mygo.emulation import calibration
from mygo.emulation.engine import EmulatedCore
from mygo.emulation.profile import DecodeCost, EngineProfile
from mygo.emulation.settings import EngineSettings
from mygo.errors import MygoError
from mygo.simulation.prompts import Prompts
from mygo.types import Engine, GenerateRequest, ProfileGrid, WorkerId
from mygo.vllm_plugin.settings import engine_arguments
from mygo.workloads.arrivals import Arrivals
from mygo.workloads.cut import scaled
from mygo.workloads.generate import generate
from mygo.workloads.lengths import Lengths
from mygo.workloads.recipe import Recipe
from mygo.workloads.topics import Retrieval, Zipf

TTFT_BOUND = 0.15
HIT_BOUND = 0.02
UTILIZATION = 0.5
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


@dataclass(frozen=True)
class Round:
    """The same requests through both engines."""

    real: list[Served]
    emulated: list[Served]

    @property
    def ttft_error(self) -> float:
        """Relative error of the emulated mean TTFT."""
        return mean_ttft_s(self.emulated) / mean_ttft_s(self.real) - 1

    @property
    def hit_error(self) -> float:
        """Difference of the token hit ratios."""
        return hit_ratio(self.emulated) - hit_ratio(self.real)


def mean_ttft_s(served: Sequence[Served]) -> float:
    return statistics.fmean(one.ttft_s for one in served)


def hit_ratio(served: Sequence[Served]) -> float:
    """Cached tokens over prompt tokens."""
    return sum(one.cached_tokens for one in served) / sum(one.prompt_tokens for one in served)


def within_bounds(run: Round) -> bool:
    return abs(run.ttft_error) <= TTFT_BOUND and abs(run.hit_error) <= HIT_BOUND


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
    outcomes = []
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
    """In real time, open loop."""
    started_s = time.perf_counter()

    async def serve(at_s: float, request: GenerateRequest) -> Served:
        await asyncio.sleep(max(0.0, started_s + at_s - time.perf_counter()))
        renamed = GenerateRequest(
            request_id=type(request.request_id)(f"{name}-{request.request_id}"),
            token_ids=request.token_ids,
            spans=request.spans,
            sampling=request.sampling,
            answer_domain=request.answer_domain,
        )
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


async def check(model_path: Path, rounds: int, requests: int, seed: int, console: Console) -> list[Round]:
    """Alternate calibration and rounds; each round draws a trace of its own."""
    kv_bytes = kv_bytes_per_token(model_path, "bfloat16")
    client, engine = start_engine(model_path)
    try:
        with console.status("calibrating"):
            before = await calibrate(engine, seed)
        guess = profile_between(before, before, kv_bytes)
        work_s = busy_s(guess, requests_of(requests, seed, 1.0))
        rate_per_s = UTILIZATION * requests / work_s
        minutes = rounds * requests / rate_per_s / 60
        console.print(
            f"{rounds} rounds of {requests} requests at {rate_per_s:.2f}/s: about {minutes:.0f} minutes"
        )
        done: list[Round] = []
        for number in range(rounds):
            arriving = requests_of(requests, seed + number, rate_per_s)
            with console.status(f"round {number + 1} of {rounds}"):
                real = await drive(engine, arriving, str(number))
                await engine.reset_cache()
                after = await calibrate(engine, seed + number + 1)
            done.append(Round(real, emulate(profile_between(before, after, kv_bytes), arriving)))
            console.print(
                f"round {number + 1}: TTFT {done[-1].ttft_error:+.1%}, hits {done[-1].hit_error:+.2%}"
            )
            before = after
        return done
    finally:
        client.shutdown()


def pooled(rounds: Sequence[Round]) -> Round:
    return Round([one for run in rounds for one in run.real], [one for run in rounds for one in run.emulated])


def print_table(console: Console, total: Round) -> None:
    table = Table("", "real engine", "emulated", "difference", "bound", box=None)
    real, emulated = total.real, total.emulated
    table.add_row(
        "mean TTFT",
        f"{mean_ttft_s(real):.3f} s",
        f"{mean_ttft_s(emulated):.3f} s",
        f"{total.ttft_error:+.1%}",
        f"{TTFT_BOUND:.0%}",
    )
    for name, rank in (("p50 TTFT", 50), ("p95 TTFT", 95)):
        values = [
            statistics.quantiles([one.ttft_s for one in side], n=100)[rank - 1] for side in (real, emulated)
        ]
        table.add_row(
            name, f"{values[0]:.3f} s", f"{values[1]:.3f} s", f"{values[1] / values[0] - 1:+.1%}", ""
        )
    table.add_row(
        "token hit ratio",
        f"{hit_ratio(real):.1%}",
        f"{hit_ratio(emulated):.1%}",
        f"{total.hit_error * 100:+.2f} points",
        f"{HIT_BOUND * 100:.0f} points",
    )
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.emulation_check", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=3)
    add("--requests", type=int, default=60, help="per round")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("results/emulation_check.json"))
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.requests < 2:
        parser.error("--rounds must be at least 1 and --requests at least 2")
    console = Console()
    config = Config()
    try:
        model_path = models.resolve(config.model.source, config.cluster.cache_dir, progress=True)
        rounds = asyncio.run(check(model_path, options.rounds, options.requests, options.seed, console))
    except MygoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    total = pooled(rounds)
    print_table(console, total)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps(
            {
                "machine": cpu_name(),
                "settings": asdict(SETTINGS),
                "seed": options.seed,
                "ttft_error": total.ttft_error,
                "hit_error": total.hit_error,
                "within_bounds": within_bounds(total),
                "rounds": [asdict(run) for run in rounds],
            },
            indent=1,
        )
        + "\n"
    )
    console.print(f"{'within' if within_bounds(total) else 'OUT OF'} bounds; every request: {options.out}")
    return 0 if within_bounds(total) else 1


if __name__ == "__main__":
    sys.exit(main())
