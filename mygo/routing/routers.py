"""All routers by the name that ``routing.policy`` gives them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import ClassVar

from mygo.config import RoutingConfig
from mygo.routing.baselines import ConsistentHash, PowerOfTwo, RoundRobin
from mygo.routing.choose import choose
from mygo.routing.prefix_affinity import PrefixAffinity
from mygo.routing.router import Router, RouteRequest
from mygo.types import Candidate, Route, WorkerId

_FADE = 0.99
"""Per request: placements count for about the last hundred requests."""


class PredictedSeconds:
    """``choose`` as a router: it remembers how many new tokens it has lately placed on each worker."""

    needs_all_workers: ClassVar[bool] = False

    def __init__(self, *, decode_delay_weight: float, recompute_weight: float) -> None:
        self._decode_delay_weight = decode_delay_weight
        self._recompute_weight = recompute_weight
        self._placed: dict[WorkerId, float] = {}

    def route(
        self, request: RouteRequest, workers: Sequence[Candidate], rng: random.Random, now_s: float
    ) -> Route:
        route = choose(
            workers,
            request.prompt_tokens,
            decode_delay_weight=self._decode_delay_weight,
            recompute_weight=self._recompute_weight,
            shared_tokens=request.shared_tokens,
            placed=self._placed,
            rng=rng,
        )
        self._remember(route, request)
        return route

    def _remember(self, route: Route, request: RouteRequest) -> None:
        held_tokens = max(route.predicted_cached_tokens, request.shared_tokens)
        new_tokens = max(request.prompt_tokens - held_tokens, 0)
        faded = {name: tokens * _FADE for name, tokens in self._placed.items()}
        faded[route.worker] = faded.get(route.worker, 0.0) + new_tokens
        # A worker that left fades below a token and out of the book.
        self._placed = {name: tokens for name, tokens in faded.items() if tokens >= 1.0}


ROUTERS: dict[str, Callable[[RoutingConfig], Router]] = {
    "predicted_seconds": lambda config: PredictedSeconds(
        decode_delay_weight=config.decode_delay_weight, recompute_weight=config.recompute_weight
    ),
    "round_robin": lambda config: RoundRobin(),
    "power_of_two": lambda config: PowerOfTwo(),
    "prefix_affinity": lambda config: PrefixAffinity(
        imbalance=config.affinity_imbalance, min_match=config.affinity_min_match
    ),
    "consistent_hash": lambda config: ConsistentHash(),
}
