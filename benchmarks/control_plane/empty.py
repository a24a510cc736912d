"""The yardstick: the least that a two-deployment Ray Serve application does for a streamed answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from ray import serve
from ray.serve.deployment import Application
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import StreamingResponse

from benchmarks.control_plane.workload import TOKENS

CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":" word"}}]}\n\n'
MANY = 10_000


class EmptyWorker:
    """Deployment: yields chunks at once."""

    async def generate(self, chunks: int) -> AsyncIterator[bytes]:
        for _ in range(chunks):
            yield CHUNK
        yield b"data: [DONE]\n\n"


class EmptyIngress:
    """Deployment: reads a JSON body, passes the worker's chunks on."""

    def __init__(self, worker: DeploymentHandle) -> None:
        self._worker = worker.options(stream=True)

    async def __call__(self, request: Request) -> StreamingResponse:
        body: dict[str, Any] = json.loads(await request.body())
        chunks = self._worker.generate.remote(body.get("max_tokens", TOKENS))
        return StreamingResponse(chunks, media_type="text/event-stream")


def application() -> Application:
    options: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0}, "max_ongoing_requests": MANY}
    worker = serve.deployment(EmptyWorker, name="empty-worker", **options).bind()
    return serve.deployment(EmptyIngress, name="empty-ingress", **options).bind(worker)
