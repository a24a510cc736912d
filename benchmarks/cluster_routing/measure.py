"""One simulated run: a trace through a cluster with one router."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.acceptance import accounting
from benchmarks.cluster_routing.plan import Cell, Variant, device_tokens, trace_of, working_set_tokens
from mygo.config import ModelConfig, RoutingConfig, WorkersConfig
from mygo.emulation import profile as profiles
from mygo.emulation.settings import EngineSettings
from mygo.simulation.cluster import ClusterShape, Simulation
from mygo.simulation.outcome import Served, summarize
from mygo.workloads import scaled
from mygo.workloads.trace import Trace

CLIENTS_PER_WORKER = 16
"""Of the closed loop that finds saturation."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all runs of a study share."""

    profile: str
    output_scale: float
    device_share: float
    """One worker's KV as a share of the working set."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What the cells of one preset and one number of workers share; from the trace of seed 0."""

    requests: int
    device_tokens: int
    working_set_tokens: int
    saturation_per_s: float


@dataclass(frozen=True, slots=True)
class Task:
    """One run; picklable."""

    setting: Setting
    ground: Ground
    cell: Cell
    variant: Variant
    seed: int

    @property
    def key(self) -> str:
        cell = self.cell
        return f"{cell.preset} {cell.workers} {cell.load:g} {self.variant.label} seed={self.seed}"


def survey(setting: Setting, name: str, workers: int, requests: int) -> Ground:
    """Cache size and saturation of one preset on so many workers.

    Saturation is the rate at which a closed loop of ``CLIENTS_PER_WORKER`` ends requests under power of
    two choices, without the tenth of them at either end: what the cluster serves if nobody looks at
    caches. A router that does can go beyond it.
    """
    trace = trace_of(name, requests, 0, setting.output_scale)
    tokens = device_tokens(trace, setting.device_share)
    shape = _shape(
        setting,
        tokens,
        workers,
        RoutingConfig(policy="power_of_two"),
        concurrency=CLIENTS_PER_WORKER * workers,
    )
    ended_s = sorted(each.arrived_s + each.e2e_s for each in Simulation(shape, trace).run())
    tenth = len(ended_s) // 10
    rate_per_s = (len(ended_s) - 2 * tenth - 1) / (ended_s[-tenth - 1] - ended_s[tenth])
    return Ground(requests, tokens, working_set_tokens(trace), rate_per_s)


def run(task: Task, raw: Path) -> dict[str, Any]:
    """The row of one run, and its requests in ``raw`` as gzipped CSV."""
    ground, cell = task.ground, task.cell
    trace = scaled(
        trace_of(cell.preset, ground.requests, task.seed, task.setting.output_scale),
        rate_per_s=cell.load * ground.saturation_per_s,
    )
    routing = task.variant.routing(ground.device_tokens)
    shape = replace(
        _shape(task.setting, ground.device_tokens, cell.workers, routing), router=task.variant.router()
    )
    served = Simulation(shape, trace, task.seed).run()
    summary = summarize(served, cell.workers)
    _keep(served, raw)
    return {
        "ttft_mean_s": summary.ttft_mean_s,
        "ttft_p50_s": summary.ttft_p50_s,
        "ttft_p95_s": summary.ttft_p95_s,
        "ttft_p99_s": summary.ttft_p99_s,
        "e2e_mean_s": float(np.mean([each.e2e_s for each in served])),
        "hit_ratio": summary.hit_ratio,
        "recomputed_tokens": recomputed_tokens(served, trace, shape.engine.block_tokens),
        "document_tokens": sum(each.document_tokens for each in served),
        "least_share": summary.least_share,
        "largest_share": summary.largest_share,
        "requests": summary.requests,
        "rate_per_s": cell.load * ground.saturation_per_s,
    }


def recomputed_tokens(served: Sequence[Served], trace: Trace, block_tokens: int) -> int:
    """Document tokens that were computed although an earlier request brought them behind the same ones."""
    requests = []
    for each in sorted(served, key=lambda one: one.number):
        request = trace.requests[each.number]
        names: tuple[str, ...] = (request.system,)
        at, touches = trace.texts[request.system].tokens, []
        for document in request.documents:
            names, start = (*names, document), at
            at += trace.texts[document].tokens
            touches.append(accounting.Touch(names, start, at))
        requests.append(accounting.Served(each.worker, each.cached_tokens, tuple(touches)))
    return accounting.recomputed_tokens(requests, block_tokens)


def _shape(
    setting: Setting, tokens: int, workers: int, routing: RoutingConfig, concurrency: int | None = None
) -> ClusterShape:
    return ClusterShape(
        profile=profiles.load(setting.profile),
        engine=EngineSettings(device_tokens=tokens, block_tokens=ModelConfig().block_tokens),
        workers=workers,
        routing=routing,
        max_ongoing=WorkersConfig().max_ongoing,
        concurrency=concurrency,
    )


def _keep(served: Sequence[Served], path: Path) -> None:
    names = ("number", "worker", "arrived_s", "ttft_s", "e2e_s", "prompt_tokens", "cached_tokens")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    for each in sorted(served, key=lambda one: one.number):
        cells = (getattr(each, name) for name in names)
        writer.writerow(f"{cell:.6f}" if isinstance(cell, float) else cell for cell in cells)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
