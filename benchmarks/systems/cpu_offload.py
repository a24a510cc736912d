"""vLLM's native offloading on its CPU platform, which vLLM itself refuses there.

Everything that decides (what is stored, looked up, evicted, promoted) is vLLM's; only the copies between
"device" and host memory are ours, by numpy, one thread per direction as a GPU has one stream per direction.
``load_s_per_byte`` slows loads down to a link of that speed. Written against vLLM 0.32, loaded inside the
engine's processes through ``spec_module_path``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from vllm.v1.kv_offload.base import (
    BlockIDsLoadStoreSpec,
    CanonicalKVCaches,
    GPULoadStoreSpec,
    OffloadingWorker,
    TransferResult,
)
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.base import JobId, JobResult, TransferJob
from vllm.v1.kv_offload.tiering.fs.manager import FileSystemTierManager
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

Bytes2d = npt.NDArray[np.int8]


class CpuPlatformTieringSpec(TieringOffloadingSpec):  # type: ignore[misc]
    """vLLM's tiers, with a worker that copies on any platform."""

    _copier: OffloadingWorker | None = None

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        worker: OffloadingWorker | None = self._copier
        if worker is None:
            region = SharedOffloadRegion(
                engine_id=self._engine_id,
                num_chunks=self.num_chunks,
                rank=self.config.parallel.rank,
                kv_bytes_per_chunk=self.kv_bytes_per_chunk,
                cpu_page_size=self.cpu_page_size_per_worker,
            )
            speed = float(self.extra_config.get("load_s_per_byte", 0.0))
            worker = self._copier = NumpyOffloadingWorker(kv_caches, self.blocks_per_chunk, region, speed)
        return worker


class NumpyOffloadingWorker(OffloadingWorker):  # type: ignore[misc]
    """Copies blocks between the engine's KV tensors and the shared host region.

    A chunk is ``blocks_per_chunk`` consecutive blocks of a request; a host row holds a chunk of one tensor,
    block after block.
    """

    def __init__(
        self,
        kv_caches: CanonicalKVCaches,
        blocks_per_chunk: int,
        region: SharedOffloadRegion,
        load_s_per_byte: float,
    ) -> None:
        self._blocks_per_chunk = blocks_per_chunk
        self._region = region
        self._load_s_per_byte = load_s_per_byte
        self._device: list[Bytes2d] = []
        self._host: list[Bytes2d] = []
        for each in kv_caches.tensors:
            page_bytes = each.page_size_bytes
            self._device.append(each.tensor.view(torch.int8).view((-1, page_bytes)).numpy())
            self._host.append(region.create_next_worker_view(page_bytes * blocks_per_chunk).numpy())
        self._tensors_of_group = [[ref.tensor_idx for ref in refs] for refs in kv_caches.group_data_refs]
        self._stores = ThreadPoolExecutor(1, thread_name_prefix="kv-store")
        self._loads = ThreadPoolExecutor(1, thread_name_prefix="kv-load")
        self._jobs: dict[int, Future[TransferResult]] = {}

    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: BlockIDsLoadStoreSpec) -> bool:
        self._jobs[job_id] = self._stores.submit(self._store, job_id, src_spec, dst_spec)
        return True

    def submit_load(self, job_id: int, src_spec: BlockIDsLoadStoreSpec, dst_spec: GPULoadStoreSpec) -> bool:
        self._jobs[job_id] = self._loads.submit(self._load, job_id, src_spec, dst_spec)
        return True

    def get_finished(self) -> list[TransferResult]:
        done = [job_id for job_id, future in self._jobs.items() if future.done()]
        return [self._jobs.pop(job_id).result() for job_id in done]

    def wait(self, job_ids: set[int]) -> None:
        for job_id in job_ids & self._jobs.keys():
            self._jobs[job_id].result()

    def shutdown(self) -> None:
        self._stores.shutdown(wait=True)
        self._loads.shutdown(wait=True)
        self._device.clear()
        self._host.clear()
        self._region.cleanup()

    def _store(self, job_id: int, device: GPULoadStoreSpec, host: BlockIDsLoadStoreSpec) -> TransferResult:
        started = time.perf_counter()
        copied = 0
        for on_device, on_host in self._pages(device, host):
            np.copyto(on_host, on_device)
            copied += on_host.nbytes
        return TransferResult(job_id, True, copied, time.perf_counter() - started)

    def _load(self, job_id: int, host: BlockIDsLoadStoreSpec, device: GPULoadStoreSpec) -> TransferResult:
        started = time.perf_counter()
        copied = 0
        for on_device, on_host in self._pages(device, host):
            np.copyto(on_device, on_host)
            copied += on_host.nbytes
        # jobs of a direction follow each other on one thread, so a slow link is shared, not multiplied
        time.sleep(max(0.0, copied * self._load_s_per_byte - (time.perf_counter() - started)))
        return TransferResult(job_id, True, copied, time.perf_counter() - started)

    def _pages(
        self, device: GPULoadStoreSpec, host: BlockIDsLoadStoreSpec
    ) -> Iterable[tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]]:
        """Every (page on the device, its place in host memory) of a job.

        A group's blocks are consecutive in their request, from block ``block_indices[group]`` on; the first
        of them may lie in the middle of its chunk.
        """
        per_chunk = self._blocks_per_chunk
        first_block = first_chunk = 0
        groups = zip(device.group_sizes, device.block_indices, self._tensors_of_group, strict=True)
        for blocks, start, tensors in groups:
            skipped = start % per_chunk
            for number in range(blocks):
                block = int(device.block_ids[first_block + number])
                chunk = int(host.block_ids[first_chunk + (skipped + number) // per_chunk])
                slot = (skipped + number) % per_chunk
                for tensor in tensors:
                    on_device = self._device[tensor][block]
                    page_bytes = on_device.shape[0]
                    yield on_device, self._host[tensor][chunk, slot * page_bytes : (slot + 1) * page_bytes]
            first_block += blocks
            first_chunk += -(-(skipped + blocks) // per_chunk) if blocks else 0


class ThrottledFileSystemTier(FileSystemTierManager):  # type: ignore[misc]
    """vLLM's file system tier whose reads end no sooner than a drive of a given speed would have them."""

    def __init__(self, *args: Any, load_s_per_byte: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._load_s_per_byte = load_s_per_byte
        self._drive_free_s = 0.0
        self._due_s: dict[JobId, float] = {}
        self._held: list[JobResult] = []

    def submit_load(self, job_metadata: TransferJob) -> None:
        seconds = len(job_metadata.keys) * self._block_size * self._load_s_per_byte
        self._drive_free_s = max(time.monotonic(), self._drive_free_s) + seconds
        self._due_s[job_metadata.job_id] = self._drive_free_s
        super().submit_load(job_metadata)

    def get_finished_jobs(self) -> Iterable[JobResult]:
        now_s = time.monotonic()
        ended = [*self._held, *super().get_finished_jobs()]
        self._held = [each for each in ended if self._due_s.get(each.job_id, 0.0) > now_s]
        ready = [each for each in ended if self._due_s.get(each.job_id, 0.0) <= now_s]
        for each in ready:
            self._due_s.pop(each.job_id, None)
        return ready

    def drain_jobs(self) -> None:
        super().drain_jobs()
        time.sleep(max(0.0, self._drive_free_s - time.monotonic()))
