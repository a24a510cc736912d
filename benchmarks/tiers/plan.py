"""PURE. What is compared: systems with the same memory, ablations of ours, workloads and loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.cluster_routing.plan import LARGEST_PROMPTS
from mygo.emulation.settings import EngineSettings
from mygo.errors import ConfigError
from mygo.simulation.working_set import working_set_tokens
from mygo.tree.policies import DEFAULT_POLICY
from mygo.vllm_plugin.settings import TierSettings
from mygo.workloads import preset
from mygo.workloads.trace import Trace


@dataclass(frozen=True, slots=True)
class System:
    """One engine's way to treat its memory."""

    name: str
    meaning: str
    has_tiers: bool = True
    """Host memory and disk, besides the device."""
    has_bounds: bool = True
    """False: host memory holds all that was ever computed."""
    is_ours: bool = True
    """False: vLLM as it is."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Of ``TierSettings``."""


MYGO = System(
    "mygo",
    f"MyGO as it ships: {DEFAULT_POLICY}, look-ahead, prefetch, layer-wise loads, gate, who is due first",
)
PREFIX_ONLY = System("vllm-prefix", "vLLM with prefix caching only", has_tiers=False, is_ours=False)
NATIVE = tuple(
    System(
        f"vllm-offload-{policy}",
        f"vLLM's native offloading: {policy.upper()} in host memory, LRU on disk (its file system tier "
        "deletes nothing; here it gets the same bytes)",
        is_ours=False,
        overrides={"policy": policy},
    )
    for policy in ("lru", "arc")
)
UNBOUNDED = System(
    "mygo-unbounded",
    "the limit of all of these: MyGO with host memory for everything that was ever computed",
    has_bounds=False,
)
SYSTEMS = (MYGO, *NATIVE, PREFIX_ONLY, UNBOUNDED)
ABLATIONS = (
    *(
        System(f"policy {name}", f"host memory and disk by {name}", overrides={"policy": name})
        for name in ("lru", "pgdsf")  # the others: benchmarks.policies
    ),
    System("no look-ahead", "waiting requests protect nothing", overrides={"lookahead_share": 0.0}),
    System("no prefetch", "disk is read when a request's turn has come", overrides={"prefetch": False}),
    System("no layer-wise", "all loads come before the computation", overrides={"layerwise": False}),
    System("no gate", "all that is held is loaded", overrides={"load_gate": False}),
    System("first come", "requests are admitted as they come", overrides={"admission_window": 0}),
    System(
        "ratio",
        "of which most is cached is admitted first: RAGCache's order",
        overrides={"admission": "ratio"},
    ),
    System(
        f"device {DEFAULT_POLICY}",
        f"the device too evicts by {DEFAULT_POLICY}",
        overrides={"device_policy": DEFAULT_POLICY},
    ),
)


@dataclass(frozen=True, slots=True)
class Size:
    """How long a run takes. ``--full`` and the smoke size are two of these; options change single fields."""

    presets: tuple[str, ...]
    requests: int
    loads: tuple[float, ...]
    """Shares of the rate at which vLLM's native offloading (LRU) saturates."""
    seeds: int
    ablations: bool
    """At the middle load."""
    warmup: int = 0
    """Requests before those that count. In a short trace most texts come for the first time, and no cache can
    have them; in service, caches are full."""

    def __post_init__(self) -> None:
        for name in ("presets", "loads"):
            if not getattr(self, name):
                raise ConfigError(f"{name}: needs at least one value")
        for load in self.loads:
            if not 0 < load < 3:
                raise ConfigError(f"loads: must be between 0 and 3 times saturation, not {load}")
        for name in self.presets:
            preset(name)

    @property
    def middle_load(self) -> float:
        return sorted(self.loads)[len(self.loads) // 2]


# In ragpulse most of what comes again does so while the device still holds it, and half of a prompt is
# question and history. In pcr documents are most of a prompt, and come again later: replacement matters.
SMOKE = Size(("ragpulse", "pcr"), 100, (0.6, 0.9), 2, ablations=False)
FULL = Size(("ragpulse", "pcr"), 600, (0.3, 0.6, 0.9, 1.05), 3, ablations=True)


@dataclass(frozen=True, slots=True)
class Setting:
    """What all runs of a study share."""

    profile: str
    output_scale: float
    step_tokens: int = 2_048
    """As MyGO ships for GPUs."""
    device_share: float = 0.05
    """Of the working set, as the next two."""
    host_share: float = 0.10
    disk_share: float = 0.50


@dataclass(frozen=True, slots=True)
class Cell:
    """What all systems of one comparison share."""

    preset: str
    load: float

    @property
    def name(self) -> str:
        return f"{self.preset}, load {self.load:g}"


def cells(size: Size) -> list[Cell]:
    return [Cell(name, load) for name in size.presets for load in sorted(size.loads)]


def systems(size: Size, cell: Cell) -> list[System]:
    """Ours first."""
    extra = ABLATIONS if size.ablations and cell.load == size.middle_load else ()
    return [*SYSTEMS, *extra]


def engine_settings(
    system: System, setting: Setting, trace: Trace, kv_bytes_per_token: int
) -> EngineSettings:
    """Memory is the same for all systems but ``UNBOUNDED``. The device holds at least ``LARGEST_PROMPTS`` of
    the largest request, or requests would wait for memory whatever else happened."""
    working_set = working_set_tokens(trace)
    requests_tokens = [trace.prompt_tokens(request) + request.output_tokens for request in trace.requests]
    largest = max(requests_tokens)
    overrides = dict(system.overrides)
    if not system.is_ours:
        overrides["admission_window"] = 0
    tiers = TierSettings(**overrides)
    if system.has_tiers:
        host_tokens = round(setting.host_share * working_set)
        disk_tokens = round(setting.disk_share * working_set)
        if not system.has_bounds:
            host_tokens, disk_tokens = sum(requests_tokens), 0
        tiers = replace(
            tiers,
            host_bytes=host_tokens * kv_bytes_per_token,
            disk_bytes=disk_tokens * kv_bytes_per_token,
        )
    return EngineSettings(
        device_tokens=max(round(setting.device_share * working_set), LARGEST_PROMPTS * largest),
        step_tokens=setting.step_tokens,
        tiers=tiers,
        sibling_hold=system.is_ours,
        vllm_offloading=system.has_tiers and not system.is_ours,
    )
