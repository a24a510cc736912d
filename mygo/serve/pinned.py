"""A Ray Serve request router that sends a call to the replica that the caller names.

MyGO decides in the ingress, from its own view of caches and queues (``dispatch.py``); this class only
obeys. It stands alone because Ray marks the interface as alpha.
"""

from __future__ import annotations

import random
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from mygo.errors import Misdirected
from mygo.types import WorkerId


class PinnedRouter(RequestRouter):  # type: ignore[misc]
    """Routes ``handle.method.remote(..., worker=ID)`` to the replica with that id.

    If Serve does not list it (any more, or yet), another one gets the call and refuses it (``check_asked``):
    so whoever chose it learns that and chooses anew, and no answer names a worker that did not give it. Calls
    without ``worker`` go anywhere.
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


def check_asked(asked: WorkerId, own: WorkerId) -> None:
    """For a worker to call first: raises Misdirected if the call was for another one."""
    if asked != own:
        raise Misdirected(f"worker {asked} is gone, or not up yet")
