"""One simulated run: a trace whose documents take their time to be found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.cluster_routing.plan import trace_of
from benchmarks.speculation.patterns import Patterns, documents_of
from benchmarks.tiers.measure import Ground, eased
from benchmarks.tiers.plan import MYGO, Setting, engine_settings
from mygo.config import RoutingConfig
from mygo.emulation import profile as profiles
from mygo.simulation.cluster import ClusterShape, Simulation
from mygo.simulation.overlapping import RetrievalShape
from mygo.speculation import Speculated
from mygo.tree.profile import prefill_s
from mygo.workloads import scaled


@dataclass(frozen=True, slots=True)
class Way:
    """How an ingress uses provisional results."""

    name: str
    meaning: str
    speculations: int
    gated: bool = True


OFF = Way("off", "prefill begins when the search has ended", 0)
SHIPPED = Way("mygo", "as MyGO ships: whenever predicted seconds say that it pays", 8)
UNGATED = Way("ungated", "whenever the documents have changed: RAGCache's rule", 8, gated=False)
WAYS = (OFF, SHIPPED, UNGATED)


@dataclass(frozen=True, slots=True)
class Task:
    setting: Setting
    ground: Ground
    preset: str
    load: float
    share: float
    """Retrieval's seconds, of those that the mean prompt takes to compute when nothing is cached."""
    staged_cost: float
    """Of a search in stages, beside one in one go."""
    step_tokens: int
    way: Way
    seed: int
    patterns: Patterns


def run(task: Task) -> dict[str, Any]:
    """The row of one run, by request in the order of the trace."""
    ground = task.ground
    profile = profiles.load(task.setting.profile)
    trace = trace_of(task.preset, ground.warmup + ground.requests, task.seed, task.setting.output_scale)
    trace = eased(scaled(trace, rate_per_s=task.load * ground.saturation_per_s), ground.warmup)
    cold_s = float(
        np.mean([prefill_s(profile.prefill, 0, trace.prompt_tokens(each)) for each in trace.requests])
    )
    retrieval_s = task.share * cold_s
    stages = partial(
        task.patterns.stages,
        others=documents_of(trace),
        retrieval_s=retrieval_s,
        staged_cost=task.staged_cost,
    )
    shape = ClusterShape(
        profile=profile,
        engine=replace(
            engine_settings(MYGO, task.setting, trace, profile.kv_bytes_per_token),
            step_tokens=task.step_tokens,
        ),
        workers=1,
        routing=RoutingConfig(policy="round_robin"),
        max_ongoing=len(trace.requests),
        retrieval=RetrievalShape(stages, retrieval_s, task.way.speculations, task.way.gated),
    )
    simulation = Simulation(shape, trace, task.seed)
    served = sorted(simulation.run(), key=lambda one: one.number)[ground.warmup :]
    served = [each for each in served if trace.requests[each.number].documents]  # others search nothing
    assert simulation.searches is not None
    overlaps = [
        simulation.searches.ended[each.number].overlap(each.arrived_s + each.ttft_s) for each in served
    ]
    plans = [stages(trace.requests[each.number]) for each in served]
    outcomes = [overlap.outcome for overlap in overlaps]
    return {
        "retrieval_s": retrieval_s,
        "ttft_s": [round(each.ttft_s, 6) for each in served],
        # no gaps where answers have one token
        "itl_p99_s": float(np.percentile([gap for each in served for gap in each.gaps_s] or [0.0], 99)),
        # of a search in one go: what was left of it when its documents were known
        "left_s": [round(retrieval_s * (1 - settled(plan) / len(plan)), 6) for plan in plans],
        "wasted_s": sum(overlap.wasted_s for overlap in overlaps),
        "prefill_s": sum(each.prefill_s for each in served),
        "speculations": sum(overlap.speculations for overlap in overlaps),
        **{outcome.value: outcomes.count(outcome) for outcome in Speculated},
    }


def settled(plan: list[tuple[float, Any]]) -> int:
    """From which stage on, counted from 1, the final documents were shown."""
    final = plan[-1][1]
    first = len(plan)
    while first > 1 and plan[first - 2][1] == final:
        first -= 1
    return first
