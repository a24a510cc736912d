"""Copies between device and host that take virtual seconds and copy nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vllm.v1.kv_offload.base import BlockIDsLoadStoreSpec, GPULoadStoreSpec, TransferResult

from mygo.vllm_plugin.tiers.copier import PROBE_BYTES, Copier


class Copy(NamedTuple):
    """A transfer of one job. Times are virtual seconds."""

    begins_s: float
    ends_s: float
    moved_bytes: int


class VirtualCopier(Copier):
    """One transfer at a time in each direction, in the order of submission, at the link's speed."""

    def __init__(self, chunk_bytes: int, s_per_byte: float, clock: Callable[[], float]) -> None:
        self._chunk_bytes = chunk_bytes
        self._s_per_byte = s_per_byte
        self._clock = clock
        self._copies: dict[int, Copy] = {}
        self._loads_end_s = 0.0
        self._stores_end_s = 0.0
        self.waited_until_s = 0.0
        """``wait`` would have come back by then, the last time that it was called."""

    # --- what the emulated engine asks -------------------------------------------------------------

    @property
    def next_end_s(self) -> float | None:
        """When the next transfer ends that nobody has heard of; None while there is none."""
        return min((copy.ends_s for copy in self._copies.values()), default=None)

    def copy_of(self, job_id: int) -> Copy:
        """A transfer that was submitted and not yet reported."""
        return self._copies[job_id]

    # --- vLLM's interface --------------------------------------------------------------------------

    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: BlockIDsLoadStoreSpec) -> bool:
        self._copies[job_id] = copy = self._after(self._stores_end_s, src_spec)
        self._stores_end_s = copy.ends_s
        return True

    def submit_load(self, job_id: int, src_spec: BlockIDsLoadStoreSpec, dst_spec: GPULoadStoreSpec) -> bool:
        self._copies[job_id] = copy = self._after(self._loads_end_s, dst_spec)
        self._loads_end_s = copy.ends_s
        return True

    def submit_layerwise_load(
        self, job_id: int, src_spec: BlockIDsLoadStoreSpec, dst_spec: GPULoadStoreSpec
    ) -> None:
        self.submit_load(job_id, src_spec, dst_spec)

    def get_finished(self) -> list[TransferResult]:
        now_s = self._clock()
        ended = [job_id for job_id, copy in self._copies.items() if copy.ends_s <= now_s]
        return [_result(job_id, self._copies.pop(job_id)) for job_id in ended]

    def wait(self, job_ids: set[int]) -> None:
        ends_s = (self._copies[job_id].ends_s for job_id in job_ids & self._copies.keys())
        self.waited_until_s = max(ends_s, default=0.0)

    def wait_for_layer(self, name: str) -> None:
        """No layer is computed; the engine adds the time that they would wait (``timing.beside_s``)."""

    def probe(self) -> tuple[int, float]:
        return PROBE_BYTES, PROBE_BYTES * self._s_per_byte

    def shutdown(self) -> None:
        self._copies.clear()

    def _after(self, end_s: float, device: GPULoadStoreSpec) -> Copy:
        moved_bytes = len(device.block_ids) * self._chunk_bytes
        begins_s = max(end_s, self._clock())
        return Copy(begins_s, begins_s + moved_bytes * self._s_per_byte, moved_bytes)


def _result(job_id: int, copy: Copy) -> TransferResult:
    return TransferResult(job_id, True, copy.moved_bytes, copy.ends_s - copy.begins_s)
