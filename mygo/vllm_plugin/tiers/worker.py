"""The worker's half of the tiers: vLLM's transfers, and loads that overlap the computation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.common import OffloadingConnectorMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.worker import OffloadingConnectorWorker

from mygo.vllm_plugin.tiers.copier import Copier


@dataclass
class TierMetadata(OffloadingConnectorMetadata):  # type: ignore[misc]
    """What the scheduler's half tells this one in each step."""

    layerwise_jobs: set[int] = field(default_factory=set)
    """Loads that this step's own computation reads, layer by layer."""


class TierWorker(OffloadingConnectorWorker):  # type: ignore[misc]
    """One per worker process of an engine."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._beside: dict[int, str] = {}
        """Layer-wise loads in flight, and whose they are."""

    def _init_worker(self, kv_caches: object) -> None:
        super()._init_worker(kv_caches)
        # vLLM's statistics carry it to the scheduler, like the figures of real transfers
        self._connector_worker_meta.transfer_stats.load.record(*self._copier.probe())

    @property
    def _copier(self) -> Copier:
        copier = self.worker
        assert isinstance(copier, Copier)
        return copier

    def start_kv_transfers(self, metadata: TierMetadata) -> None:
        beside = {job_id: metadata.load_jobs[job_id] for job_id in metadata.layerwise_jobs}
        before = {job_id: job for job_id, job in metadata.load_jobs.items() if job_id not in beside}
        for job_id, job in beside.items():
            self._copier.submit_layerwise_load(job_id, job.src_spec, job.dst_spec)
            self._load_jobs[job_id] = self._beside[job_id] = job.req_id
        super().start_kv_transfers(
            OffloadingConnectorMetadata(before, metadata.store_jobs, metadata.jobs_to_flush)
        )

    def wait_for_layer(self, name: str) -> None:
        """Called by each layer before its attention reads KV."""
        if self._beside:
            self._copier.wait_for_layer(name)

    def finish_layerwise(self) -> None:
        """The computation is over: a layer that never asked must be loaded by now, too."""
        self._copier.wait(set(self._beside))

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str], set[str]]:
        """As vLLM's, but nobody waits for the end of a layer-wise load: its request runs already."""
        sent, received = super().get_finished(finished_req_ids)
        ended = [job_id for job_id in self._beside if job_id not in self._load_jobs]
        return sent, received - {self._beside.pop(job_id) for job_id in ended}
