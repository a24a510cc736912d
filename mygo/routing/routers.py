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
from mygo.routing.working_set import WorkingSets
from mygo.types import Candidate, Route

_WINDOW = 200
"""Requests per worker over which its working set counts."""


class PredictedSeconds:
    """``choose`` as a router: it remembers what it has lately sent to each worker."""

    needs_all_workers: ClassVar[bool] = False

    def __init__(self, *, decode_delay_weight: float, recompute_weight: float) -> None:
        self._decode_delay_weight = decode_delay_weight
        self._recompute_weight = recompute_weight
        self._working_sets = WorkingSets(_WINDOW)

    def route(
        self, request: RouteRequest, workers: Sequence[Candidate], rng: random.Random, now_s: float
    ) -> Route:
        route = choose(
            workers,
            request.prompt_tokens,
            decode_delay_weight=self._decode_delay_weight,
            recompute_weight=self._recompute_weight,
            shared_tokens=request.shared_tokens,
            working_set_tokens={
                each.worker: self._working_sets.tokens_with(each.worker, request.reusable) for each in workers
            },
            rng=rng,
        )
        self._working_sets.sent(route.worker, request.reusable)
        return route


ROUTERS: dict[str, Callable[[RoutingConfig], Router]] = {
    "predicted_seconds": lambda config: PredictedSeconds(
        decode_delay_weight=config.decode_delay_weight, recompute_weight=config.recompute_weight
    ),
    "round_robin": lambda config: RoundRobin(),
    "power_of_two": lambda config: PowerOfTwo(),
    "prefix_affinity": lambda config: PrefixAffinity(
        imbalance=config.affinity_imbalance,
        min_match=config.affinity_min_match,
        tree_chars=config.affinity_tree_chars,
    ),
    "consistent_hash": lambda config: ConsistentHash(),
}
