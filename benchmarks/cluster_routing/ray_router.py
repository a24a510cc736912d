"""Ray Serve LLM's own ``PrefixCacheAffinityRouter`` as a router of a simulated cluster.

Ray's class chooses, in a Ray instance of this process, with its real tree actor, which only grows, as Ray
ships it. Its replicas are names with the open requests that the simulated ingress counts. Ray breaks ties by
the order of a set of names, which Python shuffles per process, and of answers to its probes: with this router
alone, a seed does not give the very same run again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import ray
from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router import (
    PrefixCacheAffinityRouter,
)
from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_tree import PrefixTreeActor
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve._private.request_router.common import PendingRequest

from mygo.errors import Unavailable
from mygo.routing.router import RouteRequest, accepting, route_to
from mygo.types import Candidate, Route, WorkerId

_DEPLOYMENT = DeploymentID("workers", "simulated")


@dataclass(eq=False)
class _Replica:
    """As much of a RunningReplica as choosing asks for."""

    replica_id: ReplicaID
    node_id: str = "node"
    availability_zone: str | None = None
    max_ongoing_requests: int = 1
    multiplexed_model_ids: frozenset[str] = frozenset()
    open_requests: int = 0

    def shows(self, candidate: Candidate) -> None:
        self.open_requests = candidate.running
        # full exactly where the ingress says so
        self.max_ongoing_requests = candidate.running + candidate.accepting

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return self.open_requests


class RayPrefixAffinity:
    """A ``mygo.routing.Router``; starts Ray if this process has none."""

    needs_all_workers: ClassVar[bool] = True

    def __init__(self, thresholds: Mapping[str, float]) -> None:
        """``thresholds``: of Ray's ``initialize_state``; what Ray ships where it has none."""
        if not ray.is_initialized():
            ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        self._loop = asyncio.new_event_loop()
        self._router = self._loop.run_until_complete(_started(thresholds))
        self._replicas: dict[WorkerId, _Replica] = {}

    def route(
        self, request: RouteRequest, workers: Sequence[Candidate], rng: random.Random, now_s: float
    ) -> Route:
        accepting(workers)
        random.seed(rng.getrandbits(64))  # Ray draws from the global generator
        chosen = self._loop.run_until_complete(self._choose(request.text, workers))
        return route_to(next(each for each in workers if each.worker == chosen), request.prompt_tokens)

    async def _choose(self, text: str, workers: Sequence[Candidate]) -> WorkerId:
        """One round of Ray's loop over choices; raises Unavailable where Ray would wait for its next one."""
        if self._replicas.keys() != {each.worker for each in workers}:
            self._replicas = {
                each.worker: self._replicas.get(each.worker, _Replica(ReplicaID(each.worker, _DEPLOYMENT)))
                for each in workers
            }
            self._router.update_replicas(list(self._replicas.values()))
        for each in workers:
            self._replicas[each.worker].shows(each)
        metadata = RequestMetadata(request_id="r", internal_request_id="r")
        pending = PendingRequest([SimpleNamespace(prompt=text)], {}, metadata)
        for group in await self._router.choose_replicas(list(self._replicas.values()), pending):
            chosen = await self._router._select_from_candidate_replicas(group, 0)
            if chosen is not None:
                self._router.on_request_routed(pending, chosen.replica_id, SimpleNamespace())
                return WorkerId(chosen.replica_id.unique_id)
        raise Unavailable("the replicas that Ray's router prefers are full; retry shortly")


async def _started(thresholds: Mapping[str, float]) -> Any:
    """Ray's router, which wants a running loop."""
    router = PrefixCacheAffinityRouter(
        deployment_id=_DEPLOYMENT, handle_source=DeploymentHandleSource.REPLICA, self_node_id="node"
    )
    router.initialize_state(tree_actor=PrefixTreeActor.remote(), **thresholds)
    return router
