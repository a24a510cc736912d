"""One engine process of ``benchmarks.tier_latency``: serves prompts from each tier in turn.

    python -m benchmarks.tier_latency.child JOB.json

Prints one JSON line per measured request. A process of its own, because what the disk keeps is only shown by
an engine that starts anew.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mygo.types import Tier
from mygo.vllm_plugin.settings import TierSettings, engine_arguments

BLOCK_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Job:
    """What a process is to do."""

    model: str
    tiers: dict[str, Any]
    """TierSettings."""
    prompts: int
    prompt_tokens: int
    device_blocks: int
    block_bytes: int
    seed: int
    from_disk: bool
    """The prompts were served by an earlier process: what is left of them is on disk."""


@dataclass(frozen=True, slots=True)
class Sample:
    kind: str
    """cold, device, host or disk: where the prompt's KV lay, before anything was decided."""
    prompt: int
    ttft_s: float
    cached_tokens: int
    token: int
    """The first token of the answer, and its probability: equal if KV is."""
    logprob: float


@dataclass(frozen=True, slots=True)
class Speeds:
    """As the engine itself measured them."""

    host_tokens_per_s: float
    disk_tokens_per_s: float


class Bench:
    def __init__(self, job: Job) -> None:
        # read when vLLM is first imported
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", str(sorted(os.sched_getaffinity(0))[-1]))
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        from vllm import LLM, SamplingParams

        self.llm = LLM(
            job.model,
            dtype="bfloat16",
            enforce_eager=True,
            block_size=BLOCK_TOKENS,
            max_model_len=job.device_blocks * BLOCK_TOKENS,
            # one block is vLLM's placeholder
            kv_cache_memory_bytes=(job.device_blocks + 1) * job.block_bytes,
            max_num_batched_tokens=2048,
            disable_log_stats=True,
            **engine_arguments(tiers=TierSettings(**job.tiers)),
        )
        self._sampling = SamplingParams(max_tokens=1, temperature=0.0, logprobs=0)
        self._core = self.llm.llm_engine.engine_core.engine_core
        self._connector = self._core.scheduler.connector

    def serve(self, kind: str, number: int, ids: list[int]) -> Sample:
        self.settle()
        started = time.perf_counter()
        (output,) = self.llm.generate([{"prompt_token_ids": ids}], self._sampling, use_tqdm=False)
        ttft_s = time.perf_counter() - started
        answer = output.outputs[0]
        (token,) = answer.token_ids
        return Sample(
            kind, number, ttft_s, output.num_cached_tokens or 0, token, answer.logprobs[0][token].logprob
        )

    def settle(self) -> None:
        """Copies and writes that are under way would be measured with the next request."""
        while self._connector.has_pending_push_work():
            self._core.step()
            time.sleep(0.002)

    def forget_device(self) -> None:
        self.settle()
        assert self.llm.reset_prefix_cache()

    def speeds(self) -> Speeds:
        tiers = self._connector._tiers
        return Speeds(tiers.tokens_per_s(Tier.HOST), tiers.tokens_per_s(Tier.DISK))


def prompt(seed: int, number: int, tokens: int) -> list[int]:
    """Token ids that no other prompt begins with."""
    rng = random.Random(f"{seed}/{number}")
    return [rng.randrange(100, 40_000) for _ in range(tokens)]


def main() -> None:
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    bench = Bench(job)
    bench.serve("warm-up", -1, prompt(job.seed, -1 - job.from_disk, job.prompt_tokens))
    for number in range(job.prompts):
        ids = prompt(job.seed, number, job.prompt_tokens)
        samples = [bench.serve("disk" if job.from_disk else "cold", number, ids)]
        samples.append(bench.serve("device", number, ids))
        bench.forget_device()
        samples.append(bench.serve("host", number, ids))
        if job.from_disk:
            other = prompt(job.seed + 1, number, job.prompt_tokens)
            samples.append(bench.serve("cold", number + 10_000, other))
        for sample in samples:
            print(json.dumps(asdict(sample)), flush=True)
    bench.settle()
    print(json.dumps(asdict(bench.speeds())), flush=True)
    bench.llm.llm_engine.engine_core.shutdown()


if __name__ == "__main__":
    main()
