"""A Ray Serve request router that sends a call to the replica that the caller names.

MyGO decides in the ingress, from its own view of caches and queues (``dispatch.py``); this class only
obeys. It stands alone because Ray marks the interface as alpha.
"""

from __future__ import annotations

import random
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class PinnedRouter(RequestRouter):  # type: ignore[misc]
    """Routes ``handle.method.remote(..., worker=ID)`` to the replica with that id.

    If it is gone, any other replica serves: the residency that chose it was a hint, and a stale hint
    costs time only. Calls without ``worker`` go anywhere.
    """

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        wanted: Any = pending_request.kwargs.get("worker") if pending_request else None
        others: list[RunningReplica] = []
        for replica in candidate_replicas:
            if replica.replica_id.unique_id == wanted:
                # the worker admits what it is sent: waiting here would hide its queue from our router
                return [[replica]]
            others.append(replica)
        random.shuffle(others)
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        return [[replica] for replica in others]
