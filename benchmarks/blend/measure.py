"""One simulated run: a trace through one engine that blends, or does not."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.blend.bound import least_computed_tokens
from benchmarks.cluster_routing.plan import trace_of
from benchmarks.tiers.measure import CLIENTS, eased
from benchmarks.tiers.plan import MYGO, engine_settings
from benchmarks.tiers.plan import Setting as Memory
from mygo.config import RoutingConfig
from mygo.emulation import profile as profiles
from mygo.emulation.settings import EngineSettings
from mygo.simulation.cluster import ClusterShape, Simulation
from mygo.simulation.outcome import Served, summarize
from mygo.types import DomainTag, Reuse, TenantId
from mygo.vllm_plugin.settings import ChunkSettings
from mygo.workloads import scaled
from mygo.workloads.trace import Text, TextId, Trace

PRIVATE_TOKENS = 200


@dataclass(frozen=True, slots=True)
class Setting:
    """What all runs of a study share. Memory is in shares of the working set."""

    memory: Memory
    requests: int
    warmup: int
    """Requests before those that count: in service, caches are full."""
    chunk_share: float
    """Of host memory and disk, what chunks get where requests are blended."""
    repair_share: float
    tenants: int = 0
    """Every prompt begins with a document of its own of one of so many tenants; 0: none does."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run; picklable. ``rate_per_s`` None: a closed loop of ``CLIENTS``."""

    setting: Setting
    preset: str
    seed: int
    blends: bool
    fills: bool = False
    """Whether idle engines compute documents behind neutral ones, too."""
    load: float | None = None
    rate_per_s: float | None = None

    @property
    def key(self) -> str:
        how = "closed loop" if self.load is None else f"load {self.load:g}"
        side = "fill" if self.fills else "blend" if self.blends else "exact"
        return f"{self.preset} seed={self.seed} {side} {how}"


def run(task: Task) -> dict[str, Any]:
    """The row of one run. ``ttft_s`` is by request, in the order of the trace."""
    setting = task.setting
    total = setting.warmup + setting.requests
    trace = trace_of(task.preset, total, task.seed, setting.memory.output_scale)
    if setting.tenants:
        trace = with_private_documents(trace, setting.tenants)
    if task.rate_per_s is not None:
        trace = eased(scaled(trace, rate_per_s=task.rate_per_s), setting.warmup)
    profile = profiles.load(setting.memory.profile)
    engine = engine_settings(MYGO, setting.memory, trace, profile.kv_bytes_per_token)
    if task.blends:
        engine = with_chunks(engine, setting, "neutral" if task.fills else "")
    shape = ClusterShape(
        profile=profile,
        engine=engine,
        workers=1,
        routing=RoutingConfig(policy="round_robin"),
        max_ongoing=total,
        reuse=Reuse.BLEND if task.blends else Reuse.EXACT,
        concurrency=CLIENTS if task.rate_per_s is None else None,
    )
    simulation = Simulation(shape, trace, task.seed)
    served = sorted(simulation.run(), key=lambda one: one.number)[setting.warmup :]
    ended_s = sorted(each.arrived_s + each.e2e_s for each in served)
    tenth = len(ended_s) // 10
    summary = summarize(served, 1)
    copies = simulation.copies
    made = [each for each in copies.made if each.at_s >= served[0].arrived_s] if copies is not None else []
    filling_tokens = sum(each.computed_tokens for each in made)
    return {
        "requests_per_s": (len(ended_s) - 2 * tenth - 1) / (ended_s[-tenth - 1] - ended_s[tenth]),
        "ttft_s": [round(each.ttft_s, 6) for each in served],
        "e2e_s": float(np.mean([each.e2e_s for each in served])),
        "itl_p99_s": summary.itl_p99_s,
        "prompt_tokens": summary.prompt_tokens,
        "computed_tokens": summary.computed_tokens + filling_tokens,
        "copies": sum(each.is_whole for each in made),
        "interrupted_copies": sum(not each.is_whole for each in made),
        "filling_tokens": filling_tokens,
        "filler_used_tokens": copies.used_tokens if copies is not None else 0,
        "document_tokens": sum(each.document_tokens for each in served),
        "computed_document_tokens": sum(_computed_document_tokens(trace, each) for each in served),
        "repaired_tokens": sum(each.repaired_tokens for each in served),
        "bound_tokens": _bound(trace, setting, engine, profile.kv_bytes_per_token) if task.blends else 0,
    }


def with_private_documents(trace: Trace, tenants: int) -> Trace:
    """The same requests, each behind a document that one tenant alone may read: what its user may see and
    nobody else, or the tenant's house rules. Copies that prompts leave behind it are that tenant's, too."""
    names = [TextId(f"private {tenant}") for tenant in range(tenants)]
    texts = {name: Text(PRIVATE_TOKENS, DomainTag(f"tenant-{tenant}")) for tenant, name in enumerate(names)}
    rng = random.Random(0)
    requests = []
    for request in trace.requests:
        tenant = rng.randrange(tenants)
        documents = (names[tenant], *request.documents) if request.documents else ()
        requests.append(replace(request, documents=documents, tenant=TenantId(f"tenant-{tenant}")))
    return replace(trace, texts={**trace.texts, **texts}, requests=tuple(requests))


def with_chunks(engine: EngineSettings, setting: Setting, fillers: str = "") -> EngineSettings:
    """The same memory, a part of which holds chunks."""
    share, tiers = setting.chunk_share, engine.tiers
    chunks = ChunkSettings(
        host_bytes=int(share * tiers.host_bytes),
        disk_bytes=int(share * tiers.disk_bytes),
        repair_share=setting.repair_share,
        fillers=fillers,
    )
    tiers = replace(
        tiers,
        host_bytes=tiers.host_bytes - chunks.host_bytes,
        disk_bytes=tiers.disk_bytes - chunks.disk_bytes,
    )
    return replace(engine, tiers=tiers, chunks=chunks)


def _bound(trace: Trace, setting: Setting, engine: EngineSettings, kv_bytes_per_token: int) -> int:
    chunks = engine.chunks
    return least_computed_tokens(
        trace,
        trace.requests[setting.warmup :],
        chunk_tokens=(chunks.host_bytes + chunks.disk_bytes) / kv_bytes_per_token,
        alpha=chunks.repair_share,
        floor_tokens=chunks.floor_tokens,
    )


def _computed_document_tokens(trace: Trace, served: Served) -> int:
    """A prompt is its system prompt, its documents and the rest; what is cached exactly leads it."""
    system_tokens = trace.texts[trace.requests[served.number].system].tokens
    exact_tokens = served.cached_tokens - served.chunk_tokens - system_tokens
    cached_tokens = min(max(0, exact_tokens), served.document_tokens)
    return served.document_tokens - cached_tokens - served.chunk_tokens
