"""The connector's worker side: everything that runs beside the model, behind one object.

It moves KV between tiers, and into and out of chunks, as the scheduler's side says in each step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorWorkerMetadata
from vllm.v1.kv_cache_interface import KVCacheConfig

from mygo.vllm_plugin.chunks.disk import ChunkReport
from mygo.vllm_plugin.chunks.mover import ChunkMover
from mygo.vllm_plugin.chunks.step import ChunkStep
from mygo.vllm_plugin.settings import PluginSettings
from mygo.vllm_plugin.tiers.tiers import make_worker
from mygo.vllm_plugin.tiers.worker import TierWorker


@dataclass(slots=True)
class StepMetadata(KVConnectorMetadata):  # type: ignore[misc]
    """What the scheduler's side says."""

    tiers: Any
    """Of the form that the tiers' two halves agree on."""
    chunks: ChunkStep


@dataclass(slots=True)
class StepReport(KVConnectorWorkerMetadata):  # type: ignore[misc]
    """What the workers' side answers."""

    tiers: KVConnectorWorkerMetadata | None
    chunks: ChunkReport = field(default_factory=ChunkReport)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> StepReport:
        """Of several ranks."""
        assert isinstance(other, StepReport)
        tiers = self.tiers or other.tiers
        if self.tiers is not None and other.tiers is not None:
            tiers = self.tiers.aggregate(other.tiers)
        return StepReport(tiers, self.chunks + other.chunks)


class BesideModel:
    """One per worker process. Without host memory it does nothing."""

    def __init__(
        self, vllm_config: VllmConfig, kv_cache_config: KVCacheConfig, settings: PluginSettings
    ) -> None:
        self._tiers: TierWorker | None = None
        if settings.tiers.host_bytes:
            self._tiers = make_worker(vllm_config, kv_cache_config, settings.tiers)
        self.chunks: ChunkMover | None = None
        if settings.chunks.host_bytes:
            self.chunks = ChunkMover(layerwise=settings.chunks.layerwise)

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        if self._tiers is not None:
            self._tiers.register_kv_caches(kv_caches)

    def attach_runner(self, runner: Any) -> None:
        """``runner``: vLLM's model runner, ready to compute. Chunks need it."""
        if self.chunks is not None:
            self.chunks.attach(runner)

    def begin(self, step: StepMetadata) -> None:
        """A step comes, before its inputs are prepared."""
        if self.chunks is not None:
            self.chunks.begin(step.chunks)
        if self._tiers is not None:
            self._tiers.handle_preemptions(step.tiers)

    def load(self, step: StepMetadata) -> None:
        """Its inputs are prepared; the model computes next."""
        if self.chunks is not None:
            self.chunks.load()
        if self._tiers is not None:
            self._tiers.start_kv_transfers(step.tiers)

    def wait_for_layer(self, name: str) -> None:
        """The model is about to read a layer's KV."""
        if self.chunks is not None:
            self.chunks.wait_for_layer(name)
        if self._tiers is not None:
            self._tiers.wait_for_layer(name)

    def save(self, step: StepMetadata) -> None:
        """The model has computed the step."""
        if self.chunks is not None:
            self.chunks.finish()
        if self._tiers is not None:
            self._tiers.finish_layerwise()
            self._tiers.prepare_store_kv(step.tiers)

    def finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Requests whose transfers ended, sent and received."""
        return self._tiers.get_finished(finished_req_ids) if self._tiers is not None else (None, None)

    def failed_blocks(self) -> set[int]:
        """Device blocks that could not be filled since the last call."""
        return self.chunks.failed_blocks() if self.chunks is not None else set()

    def report(self) -> StepReport | None:
        """What the scheduler's side is to hear."""
        tiers = self._tiers.build_connector_worker_meta() if self._tiers is not None else None
        chunks = self.chunks.report() if self.chunks is not None else ChunkReport()
        return StepReport(tiers, chunks) if tiers is not None or chunks else None

    def shutdown(self) -> None:
        if self.chunks is not None:
            self.chunks.close()
        if self._tiers is not None:
            self._tiers.shutdown()
