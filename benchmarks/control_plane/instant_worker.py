"""A worker without an engine: it joins the directory, reports what it was sent, and answers at once.

Everything around the engine is as in ``mygo.serve.worker``; the profile is declared, not measured.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from mygo.config import Config
from mygo.serve.calls import pack
from mygo.serve.reporting import HEARTBEAT_S, REPORT_INTERVAL_S
from mygo.serve.transport import runtime_env
from mygo.types import (
    GenerateRequest,
    PrefillStats,
    ProfileGrid,
    ResidencyEvent,
    SegmentKey,
    Tier,
    TokenDelta,
    WorkerId,
    WorkerInfo,
    WorkerLoad,
    WorkerReport,
)

DEVICE_TOKENS = 1_000_000
PROFILE = ProfileGrid((0, 4096), (32, 1024), ((0.01, 0.3), (0.02, 0.4)))


class InstantWorker:
    """Deployment. Holds every segment that it was ever sent."""

    def __init__(self, config: Config, directory: DeploymentHandle) -> None:
        self._directory = directory
        self._info = WorkerInfo(
            worker=WorkerId(serve.get_replica_context().replica_id.unique_id),
            epoch=secrets.token_hex(4),
            model=config.model.name,
            block_tokens=config.model.block_tokens,
            device_tokens=DEVICE_TOKENS,
            max_context_tokens=config.model.max_context_tokens,
            profile=PROFILE,
        )
        self._known: set[SegmentKey] = set()
        self._news: list[ResidencyEvent] = []
        self._changed = asyncio.Event()
        self._reports = asyncio.create_task(self._report())

    async def generate(self, request: GenerateRequest, *, worker: WorkerId) -> AsyncIterator[bytes]:
        self._hold(request)
        cached = PrefillStats({Tier.DEVICE: len(request.token_ids)}, queue_s=0.0, prefill_s=0.0)
        tokens = request.sampling.max_tokens
        for position in range(tokens):
            last = position == tokens - 1
            yield pack(
                TokenDelta(
                    text=" word",
                    token_ids=(1000 + position,),
                    finish_reason="length" if last else None,
                    prefill=cached if position == 0 else None,
                )
            )

    def _hold(self, request: GenerateRequest) -> None:
        """Note the segments that are new, as the plugin does when their blocks are full."""
        parent, start_tokens = None, 0
        for span in request.spans:
            if span.key not in self._known:
                self._known.add(span.key)
                self._news.append(
                    ResidencyEvent(
                        span.key, parent, start_tokens, span.end_tokens, span.end_tokens, complete=True
                    )
                )
            parent, start_tokens = span.key, span.end_tokens
        if self._news:
            self._changed.set()

    async def _report(self) -> None:
        await self._directory.join.remote(self._info)
        sequence = 0
        while True:
            events, self._news = tuple(self._news), []
            self._changed.clear()
            await self._directory.report.remote(
                WorkerReport(
                    worker=self._info.worker,
                    epoch=self._info.epoch,
                    sequence=sequence,
                    events=events,
                    load=WorkerLoad(free_tokens=DEVICE_TOKENS),
                    snapshot=sequence == 0,
                )
            )
            sequence += 1
            await asyncio.sleep(REPORT_INTERVAL_S)
            try:
                await asyncio.wait_for(self._changed.wait(), HEARTBEAT_S)
            except TimeoutError:
                continue


def deployment(config: Config, directory: Any) -> Any:
    """Bound, with the options of the real worker that routing depends on."""
    return serve.deployment(
        InstantWorker,
        name="worker:instant",
        num_replicas=config.workers.replicas,
        max_ongoing_requests=config.workers.max_ongoing,
        ray_actor_options={"num_cpus": 0, "runtime_env": runtime_env()},
        request_router_config=RequestRouterConfig(request_router_class="mygo.serve.pinned:PinnedRouter"),
    ).bind(config, directory)
