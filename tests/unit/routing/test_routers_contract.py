"""What every router keeps to, whatever it looks at."""

from __future__ import annotations

import random
from typing import get_args

import pytest

from mygo.config import RoutingConfig
from mygo.errors import Unavailable
from mygo.routing import ROUTERS, Router, RouteRequest
from mygo.types import Candidate, ProfileGrid, Residency, WorkerId

PROFILE = ProfileGrid((0, 4096), (1, 4096), ((0.01, 4.0), (0.02, 8.0)))

pytestmark = pytest.mark.parametrize("policy", sorted(ROUTERS))


def worker(name: str, *, accepting: bool = True, cached: int = 0, running: int = 0) -> Candidate:
    return Candidate(WorkerId(name), Residency(cached), 0.25, running, PROFILE, accepting)


def make(policy: str) -> Router:
    return ROUTERS[policy](RoutingConfig())


def asks(count: int, seed: int = 0) -> list[RouteRequest]:
    rng = random.Random(seed)
    documents = [f"document {rng.randrange(20)}" for _ in range(count)]
    return [RouteRequest(400, f"system {name * 30} question {i}", name) for i, name in enumerate(documents)]


def picks(router: Router, workers: list[Candidate], seed: int = 0, count: int = 60) -> list[WorkerId]:
    rng = random.Random(seed)
    return [router.route(ask, workers, rng, float(i)).worker for i, ask in enumerate(asks(count))]


def test_router_picks_only_accepting_workers_when_some_are_full(policy: str) -> None:
    workers = [worker("a"), worker("b", accepting=False, cached=384), worker("c")]
    assert set(picks(make(policy), workers)) <= {"a", "c"}


def test_router_raises_unavailable_when_all_workers_are_full(policy: str) -> None:
    with pytest.raises(Unavailable, match="every worker is at its limit"):
        picks(make(policy), [worker("a", accepting=False), worker("b", accepting=False)])


def test_router_raises_unavailable_when_there_is_no_worker(policy: str) -> None:
    with pytest.raises(Unavailable, match="no worker is up"):
        picks(make(policy), [])


def test_router_picks_the_only_worker_when_there_is_one(policy: str) -> None:
    assert set(picks(make(policy), [worker("a", running=50)])) == {"a"}


def test_router_uses_all_workers_when_documents_vary(policy: str) -> None:
    assert set(picks(make(policy), [worker("a"), worker("b"), worker("c")])) == {"a", "b", "c"}


def test_router_follows_when_workers_leave_and_arrive(policy: str) -> None:
    router = make(policy)
    picks(router, [worker("a"), worker("b")])
    assert set(picks(router, [worker("b"), worker("c")])) == {"b", "c"}
    assert set(picks(router, [worker("c")])) == {"c"}


def test_router_repeats_itself_when_seeded_alike(policy: str) -> None:
    workers = [worker("a"), worker("b", cached=32), worker("c")]
    assert picks(make(policy), workers, seed=7) == picks(make(policy), workers, seed=7)


def test_router_predicts_seconds_and_tokens_when_it_picks(policy: str) -> None:
    workers = [worker("a", cached=128)]
    route = make(policy).route(asks(1)[0], workers, random.Random(0), 0.0)
    assert route.predicted_cached_tokens == 128
    assert route.queue_s == 0.25
    assert route.predicted_s == pytest.approx(route.queue_s + route.prefill_s)
    assert 0 < route.prefill_s < 0.4


def test_routers_are_named_as_in_the_config_when_listed(policy: str) -> None:
    assert policy in get_args(RoutingConfig.model_fields["policy"].annotation)
    assert len(ROUTERS) == len(get_args(RoutingConfig.model_fields["policy"].annotation))
