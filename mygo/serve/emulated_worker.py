"""A worker whose engine takes time instead of computing: for load tests of everything around it.

Joins the directory and reports as a real worker does, and says wherever it can that it is emulated. It
reserves no CPU: many share a core, as long as the time scale leaves them enough of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from mygo.config import Config
from mygo.emulation import profile as profiles
from mygo.emulation.profile import EngineProfile
from mygo.emulation.settings import EngineSettings
from mygo.serve.calls import pack
from mygo.serve.pinned import check_asked
from mygo.serve.reporting import keep_reporting
from mygo.serve.transport import runtime_env
from mygo.types import GenerateRequest, WorkerId

logger = logging.getLogger(__name__)

ENGINE_CHECK_S = 0.1


class EmulatedWorker:
    """Deployment; called as ``worker.Worker`` is."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits constructors
        self, settings: EngineSettings, profile: EngineProfile, time_scale: float, directory: DeploymentHandle
    ) -> None:
        # only in the replica: this imports vLLM
        from mygo.emulation.engine import EmulatedCore
        from mygo.emulation.serving import EmulatedEngine
        from mygo.emulation.vllm_scheduler import settle_process

        self._worker = worker = WorkerId(serve.get_replica_context().replica_id.unique_id)
        slowed = profile.slowed(time_scale)
        core = EmulatedCore(settings, slowed, worker, secrets.token_hex(8), leap=False)
        settle_process()
        self._engine = EmulatedEngine(core)
        info = replace(core.info, node=f"{os.uname().nodename} (emulated, time x{time_scale:g})")
        logger.warning("%s: %s, time x%g: answers are no language", worker, info.model, time_scale)
        self._reports = asyncio.create_task(keep_reporting(directory, info, self._engine))
        self._watch = asyncio.create_task(self._exit_when_engine_ends())

    async def generate(self, request: GenerateRequest, *, worker: WorkerId) -> AsyncIterator[bytes]:
        """Stream a completion, each delta packed. ``worker`` is for the router; raises Misdirected if that is
        another one."""
        check_asked(worker, self._worker)
        async for delta in self._engine.generate(request):
            yield pack(delta)

    async def _exit_when_engine_ends(self) -> None:
        while not self._engine.dead:  # noqa: ASYNC110  as for a real engine
            await asyncio.sleep(ENGINE_CHECK_S)
        logger.error("the emulated engine failed: leaving, so that the cluster replaces this worker")
        os._exit(1)


def deployment(config: Config, directory: DeploymentHandle) -> Any:
    """The worker deployment, bound and ready to run, with the real one's options for routing.

    Raises ConfigError if the profile does not exist or does not fit the model's settings.
    """
    profile = profiles.load(config.workers.emulated_profile)
    settings = EngineSettings.of(config.model, profile)
    return serve.deployment(
        EmulatedWorker,
        name="worker:emulated",
        num_replicas=config.workers.replicas,
        max_ongoing_requests=config.workers.max_ongoing,
        ray_actor_options={"num_cpus": 0, "runtime_env": runtime_env()},
        graceful_shutdown_timeout_s=5.0,
        request_router_config=RequestRouterConfig(request_router_class="mygo.serve.pinned:PinnedRouter"),
    ).bind(settings, profile, config.workers.emulated_time_scale, directory)
