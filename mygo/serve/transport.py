"""How calls between parts travel: gRPC from replica to replica, not Ray's streamed objects.

Ray Serve, by default, streams every answer to its caller as objects, and a replica that has ended one waits,
with its whole event loop, until the caller has acknowledged them all. So one process that stands still (a
node that swaps or has lost its network, for as long as nobody has declared it dead) stops every part that
it calls, and through the librarian, all questions. Over gRPC only that call waits.
"""

from __future__ import annotations

from typing import Any

_LONGEST_MESSAGE_BYTES = 2**31 - 1
"""What gRPC can: a file travels in one message, and so does a journal entry with all of its passages."""
ENVIRONMENT = {
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(_LONGEST_MESSAGE_BYTES),
}


def runtime_env() -> dict[str, Any]:
    """For the ``ray_actor_options`` of each deployment: Serve reads these when a replica's process starts, on
    whatever node. The process that deploys needs them too: its handles go to the replicas as it made them.

    On top of the job's own, which Serve passes on only to deployments that have none.
    """
    import ray  # reads the environment, which may be in preparation where this module is imported

    jobs: dict[str, Any] = dict(ray.get_runtime_context().runtime_env) if ray.is_initialized() else {}
    return jobs | {"env_vars": jobs.get("env_vars", {}) | ENVIRONMENT}
