"""``choose``: the worker with the lowest price, in seconds (one currency for every decision)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mygo.routing.predict import predict
from mygo.routing.router import accepting, route_to
from mygo.types import Candidate, Route, WorkerId

_TIE = 1e-9
"""Relative difference below which two prices are the same, so that rounding breaks no tie."""
_BUSY = 4.0
"""Open requests per worker that double ``recompute_weight``. Where clients wait for answers, each
second of needless prefill delays all that are open, so its price must grow with them."""


def choose(
    candidates: Sequence[Candidate],
    prompt_tokens: int,
    *,
    decode_delay_weight: float,
    rng: random.Random,
    recompute_weight: float = 0.0,
    shared_tokens: int = 0,
    working_set_tokens: Mapping[WorkerId, int] | None = None,
) -> Route:
    """Argmin over accepting workers of ``queue_s + load_s + prefill_s * (1 + what that costs others)``.

    With both weights 0 this is the worker that answers this request soonest. But a prefill costs
    later requests too, and a router that forgets them spreads copies of every document over all
    workers until their caches thrash. So a second of prefill counts again

    - ``recompute_weight`` times, for the cached documents that its blocks displace and the requests
      that will come while it runs; the busier the cluster, the more of these (see ``_BUSY``);
    - up to twice that on a worker whose working set would become larger than the least of them
      (``working_set_tokens``: its size with this prompt in it), so that what is cold everywhere goes
      where it displaces little, and what was evicted goes back to where it was;
    - ``decode_delay_weight`` times for each running request, whose next tokens it delays.

    ``shared_tokens`` are the leading tokens that all prompts share (the system prompt). Every worker
    has them in the long run, so they are priced as held everywhere: otherwise the first worker that
    computed them would win every cold request for ever.

    Loading from slower tiers (``predict``) costs others nothing: links are idle most of the time.

    ``Route.predicted_s`` is what this request will wait (queue, load and prefill, nothing else);
    ``Route.considered`` has the prices. Ties are broken by ``rng``. Raises Unavailable if no worker
    accepts.
    """
    able = accepting(candidates)
    asked_tokens = {each.worker: (working_set_tokens or {}).get(each.worker, 0) for each in able}
    least_tokens, most_tokens = min(asked_tokens.values()), max(asked_tokens.values())
    open_per_worker = sum(each.running for each in able) / len(able)

    def price_s(candidate: Candidate) -> float:
        own = predict(candidate, prompt_tokens, shared_tokens)
        more_tokens = asked_tokens[candidate.worker] - least_tokens
        crowding = more_tokens / most_tokens if more_tokens else 0.0
        later = recompute_weight * (1 + open_per_worker / _BUSY) * (1 + crowding)
        decodes = decode_delay_weight * candidate.running
        return candidate.queue_s + own.load_s + own.prefill_s * (1 + later + decodes)

    prices_s = {each.worker: price_s(each) for each in able}
    lowest_s = min(prices_s.values())
    ties = [each for each in able if prices_s[each.worker] <= lowest_s * (1 + _TIE)]
    return replace(route_to(rng.choice(ties), prompt_tokens), considered=prices_s)
