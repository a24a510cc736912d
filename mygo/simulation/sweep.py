"""Every combination of a few settings, simulated on the same trace: rows for a table and for plots."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from mygo.config import RoutingConfig
from mygo.emulation.profile import EngineProfile
from mygo.emulation.settings import EngineSettings
from mygo.errors import ConfigError
from mygo.routing import ROUTERS
from mygo.simulation.cluster import ClusterShape, Simulation
from mygo.simulation.outcome import Served, Summary, summarize
from mygo.types import Tier
from mygo.vllm_plugin.settings import TierSettings
from mygo.workloads import scaled
from mygo.workloads.trace import Trace

BYTES_PER_GB = 1e9


@dataclass(frozen=True, slots=True)
class Grid:
    """What is swept; a row for each combination."""

    workers: Sequence[int]
    kv_gb: Sequence[float]
    """Device KV per worker, in 10^9 bytes."""
    rates_per_s: Sequence[float | None]
    """Requests per second of the whole cluster; None: as the trace has it."""
    policies: Sequence[str]
    document_orders: Sequence[str] = ("retrieval",)
    host_gb: Sequence[float] = (0.0,)
    """KV in host memory per worker, in 10^9 bytes; 0 for none."""
    disk_gb: Sequence[float] = (0.0,)
    """KV on disk per worker, in 10^9 bytes; 0 for none."""

    def __len__(self) -> int:
        return math.prod(len(axis) for axis in self._axes)

    def points(self) -> Iterator[Point]:
        for point in itertools.product(*self._axes):
            yield Point(*point)

    @property
    def _axes(self) -> tuple[Sequence[Any], ...]:
        return (
            self.workers,
            self.kv_gb,
            self.rates_per_s,
            self.policies,
            self.document_orders,
            self.host_gb,
            self.disk_gb,
        )


class Memory(NamedTuple):
    """KV per worker, in 10^9 bytes."""

    device_gb: float
    host_gb: float = 0.0
    disk_gb: float = 0.0

    def __str__(self) -> str:
        slower = [(self.host_gb, "in host memory"), (self.disk_gb, "on disk")]
        parts = [f"{size_gb:g} GB {where}" for size_gb, where in slower if size_gb]
        return ", ".join([f"{self.device_gb:g} GB of device KV", *parts])


@dataclass(frozen=True, slots=True)
class Point:
    workers: int
    kv_gb: float
    rate_per_s: float | None
    policy: str
    document_order: str = "retrieval"
    host_gb: float = 0.0
    disk_gb: float = 0.0

    @property
    def memory(self) -> Memory:
        return Memory(self.kv_gb, self.host_gb, self.disk_gb)


@dataclass(frozen=True, slots=True)
class Row:
    point: Point
    summary: Summary
    refused: int
    """Requests that no engine of this shape could take."""
    wall_s: float
    """What the simulation took."""

    def as_dict(self) -> dict[str, Any]:
        derived = {
            "hit_ratio": self.summary.hit_ratio,
            "hit_by_tier": {tier.value: self.summary.hit_share(tier) for tier in Tier},
            "requests_per_s": self.summary.requests_per_s,
            "refused": self.refused,
            "wall_s": round(self.wall_s, 3),
        }
        return asdict(self.point) | asdict(self.summary) | derived


@dataclass(frozen=True, slots=True)
class Setting:
    """What all points share."""

    profile: EngineProfile
    trace: Trace
    seed: int = 0
    block_tokens: int = 16
    max_context_tokens: int = 32_768
    step_tokens: int = 8192
    max_running: int = 256
    ingresses: int = 1
    tiers: TierSettings = field(default_factory=TierSettings)
    """What rules the tiers; their sizes are the points'."""

    def shape(self, point: Point) -> ClusterShape:
        """Raises ConfigError that names the option that cannot be."""
        if point.policy not in ROUTERS:
            raise ConfigError(f"policy {point.policy!r} does not exist: use {', '.join(ROUTERS)}")
        if not point.kv_gb > 0:
            raise ConfigError(f"kv_gb: must be above 0, not {point.kv_gb}")
        if point.disk_gb and not point.host_gb:
            raise ConfigError("disk_gb: what lies on disk passes through host memory: give host_gb, too")
        tiers = replace(
            self.tiers,
            host_bytes=round(point.host_gb * BYTES_PER_GB),
            disk_bytes=round(point.disk_gb * BYTES_PER_GB),
        )
        return ClusterShape(
            profile=self.profile,
            engine=EngineSettings(
                device_tokens=self.profile.device_tokens(round(point.kv_gb * BYTES_PER_GB)),
                block_tokens=self.block_tokens,
                max_context_tokens=self.max_context_tokens,
                step_tokens=self.step_tokens,
                max_running=self.max_running,
                tiers=tiers,
            ),
            workers=point.workers,
            routing=RoutingConfig.model_validate({"policy": point.policy}),
            document_order=point.document_order,
            max_ongoing=self.max_running,
            ingresses=self.ingresses,
        )


def simulate(
    setting: Setting, point: Point, progress: Callable[[int], None] = lambda done: None
) -> tuple[Row, list[Served]]:
    """One point. Raises ConfigError if nothing of the trace fits an engine of this shape."""
    shape = setting.shape(point)
    trace = setting.trace
    if point.rate_per_s is not None:
        trace = scaled(trace, rate_per_s=point.rate_per_s)
    began_s = time.perf_counter()
    simulation = Simulation(shape, trace, setting.seed)
    served = simulation.run(progress)
    if not served:
        raise ConfigError(
            f"no request of {trace.name} fits a worker with {point.kv_gb:g} GB of KV "
            f"({shape.engine.device_tokens} tokens): raise --kv-gb, or shrink the trace with --token-scale"
        )
    wall_s = time.perf_counter() - began_s
    return Row(point, summarize(served, point.workers), simulation.refused, wall_s), served
