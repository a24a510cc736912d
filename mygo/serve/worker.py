"""A worker: one vLLM engine in a Ray Serve replica, with its core, its profile and its reports.

Subclass of Ray Serve LLM's server, so that placement, tensor and pipeline parallelism stay theirs.
The worker is the truth about its cache: everything that the directory knows of it, it said itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.serve.handle import DeploymentHandle
from ray.serve.llm import LLMConfig, LLMServer, build_llm_deployment

from mygo import metrics
from mygo.blend.verdicts import Divergence
from mygo.config import Config
from mygo.errors import Unavailable
from mygo.prompt import neutral
from mygo.serve import fillers, profiling, quality_metrics, tier_metrics
from mygo.serve.calls import pack
from mygo.serve.deletions import DeletionFollower
from mygo.serve.fillers import Fillers
from mygo.serve.instruments import Instruments
from mygo.serve.pinned import check_asked
from mygo.serve.placement import cores_of
from mygo.serve.reporting import keep_reporting
from mygo.serve.shadowing import Outcome, Shadows
from mygo.serve.shared_memory import unname
from mygo.serve.socket_folder import socket_folder
from mygo.serve.stall import StallWatch
from mygo.serve.tier_metrics import Recorder
from mygo.serve.transport import runtime_env
from mygo.types import GenerateRequest, WorkerId, WorkerInfo
from mygo.vllm_plugin.chunks.quality_view import QualityView
from mygo.vllm_plugin.receiver import ReportReceiver
from mygo.vllm_plugin.settings import ChunkSettings, TierSettings, engine_arguments
from mygo.vllm_plugin.tiers.view import CacheView

logger = logging.getLogger(__name__)

ENGINE_CHECK_S = 0.1
HELLO_S = 60.0
METRICS_S = 5.0


class Worker(LLMServer):  # type: ignore[misc]
    """Deployment; every method below is called through Ray Serve handles."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits constructors
        self,
        llm_config: LLMConfig,
        *,
        config: Config,
        directory: DeploymentHandle,
        librarian: DeploymentHandle,
    ) -> None:
        context = serve.get_replica_context()
        self._worker = WorkerId(context.replica_id.unique_id)
        self._config = config
        usable = sorted(config.workers.cores or os.sched_getaffinity(0))
        cores = cores_of(context.rank.local_rank, config.workers.replicas, usable)
        os.environ.update(engine_environment(config, cores))
        socket = socket_folder() / "engine.sock"  # private: it carries token ids
        self._receiver = ReportReceiver(socket, self._worker)
        await self._receiver.start()
        # one engine's own, here and on this machine
        state_path = config.cluster.cache_dir / "guard" / f"{os.uname().nodename}-{context.rank.local_rank}"
        chunks = replace(chunk_settings(config), guard_state_path=str(state_path))
        llm_config.update_engine_kwargs(
            **engine_arguments(str(socket), tiers=tier_settings(config), chunks=chunks)
        )
        await super().__init__(llm_config)
        # after the engine's own imports: vLLM reads its environment when it is first imported
        from mygo.serve.probing import EngineProbe
        from mygo.serve.vllm_engine import VllmEngine

        client = self.engine._engine_client
        self._instruments = Instruments()
        self._shadows = Shadows(EngineProbe(client), self._observe, lambda: self._receiver.load, self._count)
        self._fillers = Fillers(
            lambda asked: self._vllm.generate(asked),
            [client.get_tokenizer().encode(text, add_special_tokens=False) for text in neutral.TEXTS],
            lambda: self._receiver.load,
            self._count_filler,
            lambda tokens: self._instruments.add(metrics.FILLER_USED_TOKENS, tokens, worker=self._worker),
        )
        self._vllm: VllmEngine = VllmEngine(
            client, config.model.max_context_tokens, self._shadows.offer, self._fillers.offer
        )
        self._awaiting = 0
        """Requests that wait for the engine, and not for whoever reads their answer."""
        self._deltas = 0
        self._watch = asyncio.create_task(self._exit_when_engine_ends())
        self._info = await self._describe(len(cores))
        unname((await self._receiver.hello()).pid)  # it has served, so all its processes have what they share
        deletions = DeletionFollower(
            librarian, self._worker, self._purge, from_start=config.cache.disk_path is not None
        )
        await deletions.catch_up()
        self._deletions = asyncio.create_task(deletions.follow())
        self._reports = asyncio.create_task(keep_reporting(directory, self._info, self._receiver))
        self._metrics = asyncio.create_task(self._keep_counting())
        self._comparing = asyncio.create_task(self._shadows.run())
        self._filling = asyncio.create_task(self._fillers.run())

    async def _describe(self, cores: int) -> WorkerInfo:
        model = self._config.model
        name = profiling.fingerprint(model, cores, self._config.workers.device)
        path = self._config.cluster.cache_dir / "profiles" / f"{name}.json"
        grid = profiling.load(path)
        if grid is None:
            grid = await profiling.measure(
                self._vllm.generate,
                vocabulary=self._vllm.vocabulary,
                max_context_tokens=model.max_context_tokens,
                step_tokens=model.step_tokens,
                rng=random.Random(),  # ids that no earlier run has left on disk
            )
            profiling.store(path, grid)
        await profiling.self_test(self._vllm.generate, self._vllm.vocabulary, 3 * model.block_tokens)
        await self._vllm.reset_cache()
        try:
            hello = await asyncio.wait_for(self._receiver.hello(), HELLO_S)
        except TimeoutError:
            raise Unavailable(
                f"the engine started without MyGO's plugin: it said nothing in {HELLO_S:.0f} s; "
                "check model.engine for a kv_transfer_config that replaces it"
            ) from None
        return WorkerInfo(
            worker=self._worker,
            epoch=hello.epoch,
            model=model.name,
            block_tokens=hello.block_tokens,
            device_tokens=hello.device_tokens,
            max_context_tokens=model.max_context_tokens,
            profile=grid,
            node=os.uname().nodename,
        )

    async def generate(self, request: GenerateRequest, *, worker: WorkerId) -> AsyncIterator[bytes]:
        """Stream a completion, each delta packed. ``worker`` is for the router; raises Misdirected if that is
        another one."""
        check_asked(worker, self._worker)
        self._awaiting += 1
        try:
            with self._fillers.serving():
                async for delta in self._vllm.generate(request):
                    self._deltas += 1
                    self._awaiting -= 1
                    try:
                        yield pack(delta)
                    finally:
                        self._awaiting += 1
        finally:
            self._awaiting -= 1

    async def cache(self, top: int, *, worker: WorkerId) -> CacheView:
        """The most valuable nodes of the engine's knowledge tree. ``worker`` as for ``generate``."""
        check_asked(worker, self._worker)
        return await self._receiver.look(top, self._vllm.wake)

    async def _purge(self, tags: tuple[str, ...]) -> None:
        await self._receiver.purge(tags, self._vllm.wake)

    async def quality(self, reset: bool, *, worker: WorkerId) -> QualityView | None:
        """What the engine's quality guard knows; with ``reset``, after it has forgotten everything. None: it
        has none. ``worker`` as for ``generate``."""
        check_asked(worker, self._worker)
        return await self._receiver.assess(self._vllm.wake, reset=reset)

    async def _observe(self, ticket: int, divergence: Divergence) -> None:
        await self._receiver.observe(ticket, divergence, self._vllm.wake)

    def _count(self, outcome: Outcome, computed_tokens: int) -> None:
        self._instruments.add(metrics.COMPARISONS, worker=self._worker, outcome=outcome)
        self._instruments.add(metrics.COMPARISON_TOKENS, computed_tokens, worker=self._worker)

    def _count_filler(self, outcome: fillers.Outcome, computed_tokens: int) -> None:
        self._instruments.add(metrics.FILLERS, worker=self._worker, outcome=outcome)
        self._instruments.add(metrics.FILLER_COMPUTED_TOKENS, computed_tokens, worker=self._worker)

    async def _keep_counting(self) -> None:
        recorder = Recorder(self._instruments, self._worker)
        guarded = self._config.reuse.mode == "blend"
        while True:
            recorder.record(tier_metrics.samples(self._receiver.counters))
            if guarded:
                with contextlib.suppress(Unavailable):  # it is busy, or being replaced
                    recorder.record(quality_metrics.samples(await self._receiver.assess(self._vllm.wake)))
            await asyncio.sleep(METRICS_S)

    async def _exit_when_engine_ends(self) -> None:
        """A worker whose engine is dead or hung would swallow requests until somebody noticed."""
        limit_s = self._config.workers.stall_timeout_s
        watch = StallWatch(limit_s, ENGINE_CHECK_S)
        while not self._vllm.dead:  # vLLM offers no event to wait for
            await asyncio.sleep(ENGINE_CHECK_S)
            # every step changes what is cached or queued, or yields a token
            if watch.stalled(self._awaiting, self._deltas + self._receiver.received):
                hello = await self._receiver.hello()
                logger.error("the engine (pid %d) has requests, but did nothing for %g s", hello.pid, limit_s)
                os.kill(hello.pid, signal.SIGKILL)  # it may not be able to notice that its worker is gone
                break
        logger.error("the engine died: leaving, so that the cluster replaces this worker at once")
        os._exit(1)


def engine_environment(config: Config, cores: Sequence[int]) -> dict[str, str]:
    """What an engine that is about to start must find in its environment, on whatever machine: its share of
    the cores, and what its settings depend on."""
    environment: dict[str, str] = {}
    if config.workers.device == "cpu":
        environment["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    if config.reuse.mode == "blend":
        environment["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # chunks are reused in vLLM's first one only
    return environment


def tier_settings(config: Config) -> TierSettings:
    """The plugin's settings: the same names, without a size for a disk that is not there, and without what
    chunks get."""
    cache, chunks = config.cache, chunk_settings(config)
    values = cache.model_dump() | {"host_bytes": cache.host_bytes - chunks.host_bytes}
    if cache.disk_path is None or chunks.host_bytes == cache.host_bytes:
        return TierSettings(**values | {"disk_path": None, "disk_bytes": 0})
    disk_bytes = cache.disk_bytes - chunks.disk_bytes
    return TierSettings(**values | {"disk_path": str(cache.disk_path), "disk_bytes": disk_bytes})


def chunk_settings(config: Config) -> ChunkSettings:
    """The plugin's settings: no memory where nothing is blended."""
    reuse, cache = config.reuse, config.cache
    if reuse.mode == "exact":
        return ChunkSettings()
    settings = ChunkSettings(
        host_bytes=config.chunk_host_bytes,
        repair_share=reuse.repair_share,
        floor_tokens=reuse.floor_tokens,
        method=reuse.method,
        layerwise=cache.layerwise,
        kl_bound=reuse.kl_bound,
        fillers=neutral.VERSION if reuse.fillers else "",
    )
    if cache.disk_path is None:
        return settings
    return replace(settings, disk_path=str(cache.disk_path / "chunks"), disk_bytes=config.chunk_disk_bytes)


class LocalModel(CallbackBase):  # type: ignore[misc]
    """The model is a local path already: skip the download tasks that Ray Serve LLM runs per node."""

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


def deployment(
    config: Config, model_path: Path, directory: DeploymentHandle, librarian: DeploymentHandle
) -> Any:
    """The worker deployment, bound and ready to run."""
    model = config.model
    on_cpu = config.workers.device == "cpu"
    engine: dict[str, Any] = {
        "dtype": model.dtype,
        "max_model_len": model.max_context_tokens,
        "kv_cache_memory_bytes": model.kv_cache_bytes,
        "tensor_parallel_size": model.tensor_parallel,
        "block_size": model.block_tokens,
        "max_num_batched_tokens": model.step_tokens,
        "long_prefill_token_threshold": model.long_prefill_tokens,
        "max_num_seqs": model.max_running,
        "enforce_eager": model.enforce_eager,
        **model.engine,
    }
    llm_config = LLMConfig(
        model_loading_config={"model_id": model.name, "model_source": str(model_path)},
        engine_kwargs=engine,
        accelerator_config={"kind": "cpu" if on_cpu else "gpu"},
        deployment_config={
            "num_replicas": config.workers.replicas,
            "max_ongoing_requests": config.workers.max_ongoing,
            "health_check_period_s": 2.0,
            "health_check_timeout_s": 30.0,
            "graceful_shutdown_timeout_s": 5.0,
            "request_router_config": {"request_router_class": "mygo.serve.pinned:PinnedRouter"},
            # the engine's own bundle reserves a CPU or the GPUs; the replica around it only waits
            "ray_actor_options": {"num_cpus": 0, "runtime_env": runtime_env()},
        },
        callback_config={"callback_class": LocalModel},
        log_engine_metrics=True,
    )
    return build_llm_deployment(
        llm_config,
        name_prefix="worker:",
        deployment_cls=Worker,
        bind_kwargs={"config": config, "directory": directory, "librarian": librarian},
    )
