"""``choose``: the worker with the fewest predicted seconds (design: one currency for every decision)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from mygo.routing.router import accepting, route_to
from mygo.types import Candidate, Route

_TIE = 1e-9
"""Relative difference below which two prices are the same, so that rounding breaks no tie."""


def choose(
    candidates: Sequence[Candidate], prompt_tokens: int, *, decode_delay_weight: float, rng: random.Random
) -> Route:
    """Argmin over accepting workers of queue + prefill + what the prefill costs others, in seconds.

    A prefill also slows every running decode down: each counts ``decode_delay_weight`` of its
    seconds. ``Route.predicted_s`` is without that, the seconds this request will wait;
    ``Route.considered`` has the full prices. Ties are broken by ``rng``. Raises Unavailable if no
    worker accepts.
    """
    routes = [(route_to(each, prompt_tokens), each) for each in accepting(candidates)]
    price_s = {
        route.worker: route.predicted_s + decode_delay_weight * each.running * route.prefill_s
        for route, each in routes
    }
    lowest_s = min(price_s.values())
    ties = [route for route, _ in routes if price_s[route.worker] <= lowest_s * (1 + _TIE)]
    return replace(rng.choice(ties), considered=price_s)
