"""One simulated run: a trace through one engine with one system's tiers."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.cluster_routing.plan import trace_of
from benchmarks.tiers.plan import NATIVE, Cell, Setting, System, engine_settings
from mygo.config import RoutingConfig
from mygo.emulation import profile as profiles
from mygo.emulation.vllm_scheduler import settle_process
from mygo.simulation.cluster import ClusterShape, Simulation
from mygo.simulation.outcome import summarize
from mygo.simulation.working_set import working_set_tokens
from mygo.tree.profile import prefill_s
from mygo.types import Tier
from mygo.workloads import describe, scaled
from mygo.workloads.trace import Trace

EASE = 3.0
CLIENTS = 16
"""Of the closed loop that finds saturation."""
SLO_FACTOR = 5
"""Of the mean TTFT of an engine that computes each prompt alone: RAGCache's promise (arXiv 2404.12457)."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What the cells of one preset share; from the trace of seed 0."""

    requests: int
    """That count, behind ``warmup`` others that fill the caches."""
    warmup: int
    working_set_tokens: int
    device_tokens: int
    reusable_share: float
    """Of the prompts' tokens, those that a cache without bounds would hold."""
    saturation_per_s: float
    slo_s: float


@dataclass(frozen=True, slots=True)
class Task:
    """One run; picklable."""

    setting: Setting
    ground: Ground
    cell: Cell
    system: System
    seed: int

    @property
    def key(self) -> str:
        return f"{self.cell.preset} {self.cell.load:g} {self.system.name} seed={self.seed}"


def settle() -> None:
    """Once in each process that measures."""
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"  # each emulated engine would tell of its start
    settle_process()


def settled_pool(jobs: int = 1) -> ProcessPoolExecutor:
    """Processes of their own, as this one's block hashes and order of sets would differ from run to run."""
    os.environ["PYTHONHASHSEED"] = "0"
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, mp_context=spawn, initializer=settle)


def survey(setting: Setting, name: str, requests: int, warmup: int, system: System = NATIVE[0]) -> Ground:
    """Sizes, promise and saturation of one preset. Saturation is the rate at which a closed loop of
    ``CLIENTS`` ends the requests that count under ``system``, by default vLLM's native offloading with LRU,
    without the tenth of them at either end."""
    profile = profiles.load(setting.profile)
    trace = trace_of(name, warmup + requests, 0, setting.output_scale)
    shape = _shape(setting, system, trace, concurrency=CLIENTS)
    ended_s = sorted(each.arrived_s + each.e2e_s for each in Simulation(shape, trace).run())[warmup:]
    tenth = len(ended_s) // 10
    alone_s = [prefill_s(profile.prefill, 0, trace.prompt_tokens(request)) for request in trace.requests]
    return Ground(
        requests,
        warmup,
        working_set_tokens(trace),
        shape.engine.device_tokens,
        describe(trace).prompt_prefix_hit,
        (len(ended_s) - 2 * tenth - 1) / (ended_s[-tenth - 1] - ended_s[tenth]),
        SLO_FACTOR * float(np.mean(alone_s)),
    )


def run(task: Task) -> dict[str, Any]:
    """The row of one run. ``ttft_s`` is by request, in the order of the trace."""
    ground = task.ground
    rate_per_s = task.cell.load * ground.saturation_per_s
    trace = trace_of(task.cell.preset, ground.warmup + ground.requests, task.seed, task.setting.output_scale)
    trace = eased(scaled(trace, rate_per_s=rate_per_s), ground.warmup)
    served = Simulation(_shape(task.setting, task.system, trace), trace, task.seed).run()
    counted = sorted(served, key=lambda one: one.number)[ground.warmup :]
    summary = summarize(counted, 1)
    ttft_s = [each.ttft_s for each in counted]
    within = sum(one <= ground.slo_s for one in ttft_s)
    return {
        "rate_per_s": rate_per_s,
        "goodput_per_s": within / summary.duration_s,
        "ttft_s": [round(one, 6) for one in ttft_s],
        "itl_p99_s": summary.itl_p99_s,
        "computed_tokens": summary.computed_tokens,
        "hits": {tier.value: summary.hit_share(tier) for tier in Tier},
    }


def eased(trace: Trace, warmup: int) -> Trace:
    """The first ``warmup`` requests come more slowly: with empty caches the others' rate would overload an
    engine, and what counts would begin behind a long queue."""
    begins_s = trace.requests[warmup].arrival_s
    requests = [
        replace(
            request,
            arrival_s=EASE * min(request.arrival_s, begins_s) + max(0.0, request.arrival_s - begins_s),
        )
        for request in trace.requests
    ]
    return replace(trace, requests=tuple(requests))


def _shape(setting: Setting, system: System, trace: Trace, concurrency: int | None = None) -> ClusterShape:
    profile = profiles.load(setting.profile)
    return ClusterShape(
        profile=profile,
        engine=engine_settings(system, setting, trace, profile.kv_bytes_per_token),
        workers=1,
        routing=RoutingConfig(policy="round_robin"),
        # requests wait in the engine, where look-ahead and prefetch see them
        max_ongoing=len(trace.requests),
        concurrency=concurrency,
    )
