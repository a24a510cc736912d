"""PURE. What is run: workloads, loads, routers with their settings, and the sizes of caches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from mygo.config import RoutingConfig
from mygo.errors import ConfigError
from mygo.routing import Router
from mygo.simulation.prompts import CHARS_PER_TOKEN
from mygo.workloads import Preset, preset
from mygo.workloads.trace import TextId, Trace

OURS = "predicted_seconds"
AFFINITY = "prefix_affinity"
RAYS = "PrefixCacheAffinityRouter"
"""Ray Serve LLM's own class."""
UNTUNED = ("round_robin", "power_of_two", "consistent_hash")
"""Baselines without thresholds."""
NEVER = 1_000_000_000
"""A threshold that is never reached."""
LARGEST_PROMPTS = 4
"""A worker's cache holds at least so many of the largest prompt, or requests would wait for memory
whatever the router did."""


@dataclass(frozen=True, slots=True)
class Size:
    """How long a run takes. ``--full`` and the smoke size are two of these; options change single fields."""

    presets: tuple[str, ...]
    workers: tuple[int, ...]
    loads: tuple[float, ...]
    """Shares of the saturation rate."""
    seeds: int
    requests_per_worker: int
    min_matches: tuple[float, ...]
    imbalances: tuple[int, ...]
    """Open requests. With ``min_matches``: the grid from which the best ``prefix_affinity`` is taken."""
    recompute_weights: tuple[float, ...]
    """Beside the default; at the middle load only."""
    tuning_seeds: int
    """Seeds on which the grid and the weights are run; what wins is then run on all."""

    def __post_init__(self) -> None:
        for name in ("presets", "workers", "loads", "min_matches", "imbalances"):
            if not getattr(self, name):
                raise ConfigError(f"{name}: needs at least one value")
        for name in ("seeds", "requests_per_worker", "tuning_seeds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, not {getattr(self, name)}")
        for load in self.loads:
            if not 0 < load < 2:
                raise ConfigError(f"loads: must be between 0 and 2 times saturation, not {load}")
        for count in self.workers:
            if count < 2:
                raise ConfigError(f"workers: routing needs at least 2, not {count}")
        for name in self.presets:
            preset(name)
        for match in self.min_matches:
            if not 0 <= match <= 1:
                raise ConfigError(f"min_matches: must be between 0 and 1, not {match}")
        for imbalance in self.imbalances:
            if imbalance < 1:
                raise ConfigError(f"imbalances: must be at least 1, not {imbalance}")
        for weight in self.recompute_weights:
            if not 0 <= weight < math.inf:
                raise ConfigError(f"recompute_weights: must be 0 or more and finite, not {weight}")


SMOKE = Size(
    presets=("ragpulse", "cachecraft", "burst"),
    workers=(8,),
    loads=(0.6,),
    seeds=5,
    requests_per_worker=30,
    min_matches=(0.1, 0.4),
    imbalances=(8,),
    recompute_weights=(0.0,),
    tuning_seeds=1,
)
FULL = Size(
    presets=("ragpulse", "cachecraft", "burst"),
    workers=(16, 64),
    loads=(0.3, 0.6, 0.9),
    seeds=5,
    requests_per_worker=110,
    min_matches=(0.1, 0.3, 0.6),
    imbalances=(4, 8, 16, NEVER),
    recompute_weights=(0.0, 1.0, 2.0, 8.0, 16.0),
    tuning_seeds=2,
)


@dataclass(frozen=True, slots=True)
class Variant:
    """A router with its settings."""

    policy: str
    overrides: Mapping[str, float] = field(default_factory=dict)
    """Of ``mygo.config.RoutingConfig``."""

    @property
    def label(self) -> str:
        """Short and unique within a cell; thresholds that are off say so."""
        shown = {name.removeprefix("affinity_"): value for name, value in self.overrides.items()}
        parts = [f"{name}={'off' if value == NEVER else f'{value:g}'}" for name, value in shown.items()]
        return " ".join([self.policy, *parts])

    def routing(self, device_tokens: int) -> RoutingConfig:
        """The configuration, which Ray's router ignores; a prefix tree remembers as many characters as a
        worker's cache holds, unless the variant says otherwise."""
        if self.policy == RAYS:
            return RoutingConfig()
        values = {"affinity_tree_chars": CHARS_PER_TOKEN * device_tokens, **self.overrides}
        return RoutingConfig.model_validate({"policy": self.policy, **values})

    def router(self) -> Callable[[], Router] | None:
        """What makes the router, if it is not one of MyGO's."""
        if self.policy != RAYS:
            return None
        from benchmarks.cluster_routing.ray_router import RayPrefixAffinity  # brings Ray, which takes seconds

        names = {"affinity_min_match": "match_rate_threshold", "affinity_imbalance": "imbalanced_threshold"}
        return partial(RayPrefixAffinity, {names[name]: value for name, value in self.overrides.items()})


@dataclass(frozen=True, slots=True)
class Cell:
    """What all routers of one comparison share."""

    preset: str
    workers: int
    load: float
    """Share of the saturation rate."""

    @property
    def name(self) -> str:
        return f"{self.preset}, {self.workers} workers, load {self.load:g}"


def cells(size: Size) -> list[Cell]:
    return [Cell(name, count, load) for name in size.presets for count in size.workers for load in size.loads]


def affinity_grid(size: Size) -> list[Variant]:
    """All thresholds, and what Ray Serve LLM ships: no fallback on imbalance, a tree that only grows."""
    shipped = {"affinity_min_match": 0.1, "affinity_imbalance": NEVER, "affinity_tree_chars": NEVER}
    return [
        Variant(AFFINITY, {"affinity_min_match": match, "affinity_imbalance": imbalance})
        for match in size.min_matches
        for imbalance in size.imbalances
    ] + [Variant(AFFINITY, shipped)]


def rays_own(best: Variant) -> Variant:
    """Ray's class with the thresholds of the best ``prefix_affinity``; its tree takes no bound."""
    kept = ("affinity_min_match", "affinity_imbalance")
    return Variant(RAYS, {name: best.overrides[name] for name in kept})


def fixed_variants() -> list[Variant]:
    """Ours as it is shipped, and the baselines that have nothing to tune."""
    return [Variant(OURS), *(Variant(policy) for policy in UNTUNED)]


def weight_variants(size: Size, cell: Cell) -> list[Variant]:
    """Ours with other weights, for the sensitivity table."""
    middle = sorted(size.loads)[len(size.loads) // 2]
    if cell.load != middle:
        return []
    return [Variant(OURS, {"recompute_weight": weight}) for weight in size.recompute_weights]


def trace_of(name: str, requests: int, seed: int, output_scale: float) -> Trace:
    """A preset's trace at a constant mean rate.

    The day's rhythm is left out: a day that is squeezed into minutes would be minutes of overload, which
    no router can help. Gaps stay as irregular as the preset has them.
    """
    found: Preset = preset(name)
    flat = replace(found.recipe, arrivals=replace(found.recipe.arrivals, peak_factor=1.0))
    return replace(found, recipe=flat).trace(seed, requests=requests, output_scale=output_scale)


def working_set_tokens(trace: Trace) -> int:
    """Tokens of what a prefix cache can hit: system prompt and documents that stand behind the same ones
    in at least two requests. A document that comes twice behind different ones counts for neither."""
    touched: Counter[tuple[TextId, ...]] = Counter()
    for request in trace.requests:
        path = (request.system, *request.documents)
        touched.update(path[: end + 1] for end in range(len(path)))
    return sum(trace.texts[path[-1]].tokens for path, times in touched.items() if times > 1)


def device_tokens(trace: Trace, share: float) -> int:
    """KV tokens of one worker: ``share`` of the working set, but never less than ``LARGEST_PROMPTS``."""
    largest = max(trace.prompt_tokens(request) + request.output_tokens for request in trace.requests)
    return max(round(share * working_set_tokens(trace)), LARGEST_PROMPTS * largest)


def best_variant(mean_ttft_s: Mapping[str, Sequence[float]], variants: Sequence[Variant]) -> Variant:
    """The variant with the least mean over the seeds that were run; ties go to the first."""
    return min(variants, key=lambda each: sum(mean_ttft_s[each.label]) / len(mean_ttft_s[each.label]))
