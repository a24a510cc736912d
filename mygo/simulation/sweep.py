"""Every combination of a few settings, simulated on the same trace: rows for a table and for plots."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mygo.config import RoutingConfig
from mygo.emulation.profile import EngineProfile
from mygo.emulation.settings import EngineSettings
from mygo.errors import ConfigError
from mygo.routing import ROUTERS
from mygo.simulation.cluster import ClusterShape, Simulation
from mygo.simulation.outcome import Served, Summary, summarize
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

    def __len__(self) -> int:
        axes = (self.workers, self.kv_gb, self.rates_per_s, self.policies, self.document_orders)
        return len(list(itertools.product(*axes)))

    def points(self) -> Iterator[Point]:
        for point in itertools.product(
            self.workers, self.kv_gb, self.rates_per_s, self.policies, self.document_orders
        ):
            yield Point(*point)


@dataclass(frozen=True, slots=True)
class Point:
    workers: int
    kv_gb: float
    rate_per_s: float | None
    policy: str
    document_order: str = "retrieval"


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

    def shape(self, point: Point) -> ClusterShape:
        """Raises ConfigError that names the option that cannot be."""
        if point.policy not in ROUTERS:
            raise ConfigError(f"policy {point.policy!r} does not exist: use {', '.join(ROUTERS)}")
        if not point.kv_gb > 0:
            raise ConfigError(f"kv_gb: must be above 0, not {point.kv_gb}")
        return ClusterShape(
            profile=self.profile,
            engine=EngineSettings(
                device_tokens=self.profile.device_tokens(round(point.kv_gb * BYTES_PER_GB)),
                block_tokens=self.block_tokens,
                max_context_tokens=self.max_context_tokens,
                step_tokens=self.step_tokens,
                max_running=self.max_running,
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
