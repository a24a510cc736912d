"""Our ``prefix_affinity`` decides like Ray Serve LLM's own router on the prompts of a trace.

The real ``PrefixCacheAffinityRouter`` with its real tree actor; only the replicas are stand-ins, which
know their name and how many requests they have open: all that the router asks of them.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.cluster_routing.plan import NEVER, trace_of
from mygo.routing import PrefixAffinity, RouteRequest
from mygo.simulation.prompts import Prompts
from mygo.types import Candidate, ProfileGrid, Residency, WorkerId

REPLICAS = 4
MIN_MATCH = 0.3
IMBALANCE = 6
PROFILE = ProfileGrid((0, 8192), (1, 8192), ((0.1, 1.0), (0.1, 1.0)))


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@dataclass(eq=False)
class Replica:
    """As much of a RunningReplica as choosing asks for."""

    replica_id: Any
    open_requests: int = 0
    node_id: str = "node"
    availability_zone: str | None = None
    max_ongoing_requests: int = 1_000
    multiplexed_model_ids: frozenset[str] = frozenset()

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return self.open_requests


def texts() -> list[str]:
    trace = trace_of("burst", 150, 5, 0.1)
    prompts = Prompts(trace, 32_000)
    return [prompts.routing_text(prompts.prompt(request)) for request in trace.requests]


def our_choices(router: PrefixAffinity, asked: RouteRequest, workers: list[Candidate]) -> set[WorkerId]:
    """Everything that it could choose now."""
    return {
        copy.deepcopy(router).route(asked, workers, random.Random(seed), 0.0).worker for seed in range(30)
    }


@pytest.mark.ray
@pytest.mark.slow
def test_prefix_affinity_prefers_the_same_workers_as_rays_router(ray_cluster: Any) -> None:
    """Scenario: idle replicas, so that only texts decide; each prompt goes where ours sends it, and Ray's
    router is told. Before, both must have had the very same workers in view. Then load tips over, and
    Ray's falls back to any two replicas, ours to any."""
    from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router import (
        PrefixCacheAffinityRouter,
    )
    from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_tree import PrefixTreeActor
    from ray.serve._private.common import (
        DeploymentHandleSource,
        DeploymentID,
        ReplicaID,
        RequestMetadata,
    )
    from ray.serve._private.request_router.common import PendingRequest

    async def compare() -> list[int]:
        deployment = DeploymentID("workers", "app")
        theirs = PrefixCacheAffinityRouter(
            deployment_id=deployment, handle_source=DeploymentHandleSource.REPLICA, self_node_id="node"
        )
        theirs.initialize_state(
            imbalanced_threshold=IMBALANCE,
            match_rate_threshold=MIN_MATCH,
            tree_actor=PrefixTreeActor.remote(),
        )
        replicas = [Replica(ReplicaID(f"w{i}", deployment)) for i in range(REPLICAS)]
        theirs.update_replicas(replicas)
        ours = PrefixAffinity(imbalance=IMBALANCE, min_match=MIN_MATCH, tree_chars=NEVER)
        rng = random.Random(0)
        sizes = []

        def pending(text: str) -> PendingRequest:
            metadata = RequestMetadata(request_id="r", internal_request_id="r")
            return PendingRequest([SimpleNamespace(prompt=text)], {}, metadata)

        async def their_choices(text: str) -> set[WorkerId]:
            groups = await theirs.choose_replicas(replicas, pending(text))
            return {WorkerId(each.replica_id.unique_id) for each in groups[0]}

        def workers() -> list[Candidate]:
            return [
                Candidate(WorkerId(f"w{i}"), Residency(), 0.0, replica.open_requests, PROFILE, True)
                for i, replica in enumerate(replicas)
            ]

        recorded = texts()
        for text in recorded:
            asked = RouteRequest(len(text) // 4, text, "")
            allowed = our_choices(ours, asked, workers())
            assert allowed == await their_choices(text)
            chosen = ours.route(asked, workers(), rng, 0.0).worker
            theirs.on_request_routed(pending(text), ReplicaID(chosen, deployment), SimpleNamespace())
            sizes.append(len(allowed))

        # the last prompt again: one worker has it whole, unless that one is too busy beside the others
        last = RouteRequest(len(recorded[-1]) // 4, recorded[-1], "")
        (holder,) = our_choices(ours, last, workers())
        holding = next(each for each in replicas if each.replica_id.unique_id == holder)
        holding.open_requests = IMBALANCE
        assert our_choices(ours, last, workers()) == {holder} == await their_choices(recorded[-1])
        holding.open_requests = IMBALANCE + 1
        assert holder not in our_choices(ours, last, workers())
        found = [await their_choices(recorded[-1]) for _ in range(12)]
        assert all(len(each) == 2 for each in found) and len(set().union(*found)) > 2
        return sizes

    sizes = asyncio.run(compare())
    assert 1 in sizes and max(sizes) > 1  # both single holders and ties were met
