"""All routers by the name that ``routing.policy`` gives them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from mygo.config import RoutingConfig
from mygo.routing.baselines import ConsistentHash, PowerOfTwo, RoundRobin
from mygo.routing.choose import choose
from mygo.routing.prefix_affinity import PrefixAffinity
from mygo.routing.router import Router, RouteRequest
from mygo.types import Candidate, Route


class PredictedSeconds:
    """``choose`` as a router: the one that this project is about."""

    def __init__(self, *, decode_delay_weight: float) -> None:
        self._decode_delay_weight = decode_delay_weight

    def route(
        self, request: RouteRequest, workers: Sequence[Candidate], rng: random.Random, now_s: float
    ) -> Route:
        return choose(workers, request.prompt_tokens, decode_delay_weight=self._decode_delay_weight, rng=rng)


ROUTERS: dict[str, Callable[[RoutingConfig], Router]] = {
    "predicted_seconds": lambda config: PredictedSeconds(decode_delay_weight=config.decode_delay_weight),
    "round_robin": lambda config: RoundRobin(),
    "power_of_two": lambda config: PowerOfTwo(),
    "prefix_affinity": lambda config: PrefixAffinity(
        imbalance=config.affinity_imbalance, min_match=config.affinity_min_match
    ),
    "consistent_hash": lambda config: ConsistentHash(),
}
