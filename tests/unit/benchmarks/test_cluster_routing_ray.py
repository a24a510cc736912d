"""Ray Serve LLM's own router behind the interface of ours."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from benchmarks.cluster_routing.plan import RAYS, Variant
from mygo.errors import Unavailable
from mygo.routing import Router, RouteRequest
from mygo.types import Candidate, ProfileGrid, Residency, WorkerId

PROFILE = ProfileGrid((0, 8192), (1, 8192), ((0.1, 1.0), (0.1, 1.0)))


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    import ray

    make = Variant(RAYS, {"affinity_min_match": 0.5, "affinity_imbalance": 4}).router()
    assert make is not None
    yield make()
    ray.shutdown()


def asked(text: str) -> RouteRequest:
    return RouteRequest(len(text) // 4, text, "")


def workers(*open_requests: int, full: int | None = None) -> list[Candidate]:
    return [
        Candidate(WorkerId(f"w{i}"), Residency(), 0.0, count, PROFILE, accepting=i != full)
        for i, count in enumerate(open_requests)
    ]


@pytest.mark.ray
def test_rays_router_follows_prefixes_until_its_thresholds_say_otherwise(router: Router) -> None:
    """Scenario: a prompt is sent somewhere; prompts that share most of it follow, also while the holder is a
    little busier, and not when it is too busy. One that shares less than the threshold goes to the smallest
    tree."""
    rng = random.Random(0)
    first = router.route(asked("document " * 50 + "why?"), workers(0, 0, 0), rng, 0.0).worker
    holder = int(first[1:])
    similar = asked("document " * 50 + "how?")
    assert router.route(similar, workers(0, 0, 0), rng, 0.0).worker == first
    busier = [4 if i == holder else 0 for i in range(3)]
    assert router.route(similar, workers(*busier), rng, 0.0).worker == first
    with pytest.raises(Unavailable):
        router.route(similar, workers(*busier, full=holder), rng, 0.0)
    busiest = [5 if i == holder else 0 for i in range(3)]
    assert router.route(similar, workers(*busiest), rng, 0.0).worker != first
    assert router.route(asked("another " * 50), workers(0, 0, 0), rng, 0.0).worker != first
