"""Copies KV blocks between the engine's tensors and host memory, layer by layer.

vLLM's own copier refuses its CPU platform, and copies a request whole. This one runs on any device: a
thread per direction copies, on CUDA on a stream of its own. Layers are copied in the order in which the
model runs them, so that a layer's attention need only wait for its own part.
"""

from __future__ import annotations

import contextlib
import threading
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from vllm.v1.kv_offload.base import (
    BlockIDsLoadStoreSpec,
    CanonicalKVCaches,
    GPULoadStoreSpec,
    OffloadingWorker,
    TransferResult,
)
from vllm.v1.kv_offload.cpu.common import CPULoadStoreSpec
from vllm.v1.kv_offload.cpu.gpu_worker import pin_mmap_region
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion

# Too much for a CPU's caches, little enough not to delay the start.
PROBE_BYTES = 64 * 2**20


class Piece(NamedTuple):
    """Pages that lie one after the other on both sides."""

    device: slice
    host: slice


def pieces(blocks: Sequence[int], chunks: Sequence[int]) -> list[Piece]:
    """As few copies as move each device block to or from the host chunk at the same place."""
    places = list(zip(blocks, chunks, strict=True))
    starts = [
        number
        for number, (block, chunk) in enumerate(places)
        if not number or places[number - 1] != (block - 1, chunk - 1)
    ]
    found: list[Piece] = []
    for start, end in pairwise([*starts, len(places)]):
        (block, chunk), count = places[start], end - start
        found.append(Piece(slice(block, block + count), slice(chunk, chunk + count)))
    return found


@dataclass(slots=True)
class _LayerCopied:
    copied: threading.Event = field(default_factory=threading.Event)
    on_stream: torch.cuda.Event | None = None
    """CUDA: the copy is only queued; it ends with this event."""

    def wait(self) -> None:
        self.copied.wait()
        if self.on_stream is not None:
            torch.cuda.current_stream().wait_event(self.on_stream)


class Copier(OffloadingWorker):  # type: ignore[misc]
    """vLLM's transfers, and loads whose layers can be waited for one by one."""

    @abstractmethod
    def submit_layerwise_load(
        self, job_id: int, src_spec: BlockIDsLoadStoreSpec, dst_spec: GPULoadStoreSpec
    ) -> None:
        """A load whose layers ``wait_for_layer`` waits for one by one."""

    @abstractmethod
    def wait_for_layer(self, name: str) -> None:
        """Every layer-wise load has copied this layer when the computation goes on."""

    @abstractmethod
    def probe(self) -> tuple[int, float]:
        """Bytes and seconds of a load, measured before the first request."""


class LayerCopier(Copier):
    """vLLM's transfers, whole or layer by layer. Not yet run on CUDA.

    ``layer_names[group]`` name the layers of ``kv_caches.group_data_refs[group]`` in the model's order. A
    host chunk holds one block. ``load_s_per_byte`` slows loads down to a link of that speed.
    """

    def __init__(
        self,
        kv_caches: CanonicalKVCaches,
        layer_names: Sequence[Sequence[str]],
        region: SharedOffloadRegion,
        load_s_per_byte: float = 0.0,
    ) -> None:
        self._region = region
        self._load_s_per_byte = load_s_per_byte
        self._device: list[torch.Tensor] = []
        self._host: list[torch.Tensor] = []
        for each in kv_caches.tensors:
            page_bytes = each.page_size_bytes
            self._device.append(each.tensor.view(torch.int8).view((-1, page_bytes)))
            self._host.append(region.create_next_worker_view(page_bytes))
        self._layers = [
            list(zip(names, (ref.tensor_idx for ref in refs), strict=True))
            for names, refs in zip(layer_names, kv_caches.group_data_refs, strict=True)
        ]
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None
        if self._device[0].is_cuda:
            pin_mmap_region(region)
            self._streams = torch.cuda.Stream(), torch.cuda.Stream()
        self._stores = ThreadPoolExecutor(1, thread_name_prefix="kv-store")
        self._loads = ThreadPoolExecutor(1, thread_name_prefix="kv-load")
        self._jobs: dict[int, Future[TransferResult]] = {}
        self._awaited: dict[str, list[_LayerCopied]] = {}

    # --- vLLM's interface ------------------------------------------------------------------------

    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: BlockIDsLoadStoreSpec) -> bool:
        self._jobs[job_id] = self._stores.submit(self._store, job_id, src_spec, dst_spec, self._mark())
        return True

    def submit_load(self, job_id: int, src_spec: BlockIDsLoadStoreSpec, dst_spec: GPULoadStoreSpec) -> bool:
        self._jobs[job_id] = self._loads.submit(self._load, job_id, src_spec, dst_spec, {}, self._mark())
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

    # --- layer by layer --------------------------------------------------------------------------

    def submit_layerwise_load(
        self, job_id: int, src_spec: BlockIDsLoadStoreSpec, dst_spec: GPULoadStoreSpec
    ) -> None:
        layers = {name: _LayerCopied() for group in self._layers for name, _ in group}
        for name, layer in layers.items():
            self._awaited.setdefault(name, []).append(layer)
        self._jobs[job_id] = self._loads.submit(self._load, job_id, src_spec, dst_spec, layers, self._mark())

    def wait_for_layer(self, name: str) -> None:
        for layer in self._awaited.pop(name, ()):
            layer.wait()

    def probe(self) -> tuple[int, float]:
        """Blocks travel to the host and back."""
        page_bytes = sum(tensor.shape[1] for tensor in self._device)
        blocks = min(len(self._device[0]), len(self._host[0]), max(1, PROBE_BYTES // page_bytes))
        others = [0] * (len(self._layers) - 1)
        device = GPULoadStoreSpec(list(range(blocks)), [blocks, *others], [0, *others])
        host = CPULoadStoreSpec(list(range(blocks)))
        self._store(-1, device, host, None)
        self._load(-1, host, device, {}, None)  # touches pages for the first time, which takes longer
        result = self._load(-1, host, device, {}, None)
        return int(result.transfer_size or 0), float(result.transfer_time or 0.0)

    # --- parts -----------------------------------------------------------------------------------

    def _mark(self) -> torch.cuda.Event | None:
        """On CUDA: what the engine has queued so far, which a copy must come after."""
        if self._streams is None:
            return None
        event = torch.cuda.Event()
        event.record()
        return event

    def _store(
        self,
        job_id: int,
        device: GPULoadStoreSpec,
        host: BlockIDsLoadStoreSpec,
        after: torch.cuda.Event | None,
    ) -> TransferResult:
        started = time.perf_counter()
        copied = 0
        with self._on_stream(0, after):
            for _, tensor, piece in self._work(device, host):
                source = self._device[tensor][piece.device]
                self._host[tensor][piece.host].copy_(source, non_blocking=True)
                copied += source.numel()
        return TransferResult(job_id, True, copied, time.perf_counter() - started)

    def _load(
        self,
        job_id: int,
        host: BlockIDsLoadStoreSpec,
        device: GPULoadStoreSpec,
        layers: dict[str, _LayerCopied],
        after: torch.cuda.Event | None,
    ) -> TransferResult:
        started = time.perf_counter()
        copied = 0
        current: str | None = None
        try:
            with self._on_stream(1, after):
                for name, tensor, piece in self._work(device, host):
                    if name != current:
                        self._pace(copied, started)
                        self._release(layers.pop(current or "", None))
                        current = name
                    source = self._host[tensor][piece.host]
                    self._device[tensor][piece.device].copy_(source, non_blocking=True)
                    copied += source.numel()
                self._pace(copied, started)
        finally:
            # also those without pages, and all of them if a copy failed: nobody may wait for ever
            for layer in layers.values():
                self._release(layer)
        return TransferResult(job_id, True, copied, time.perf_counter() - started)

    def _pace(self, copied: int, started: float) -> None:
        if self._load_s_per_byte:
            time.sleep(max(0.0, copied * self._load_s_per_byte - (time.perf_counter() - started)))

    def _release(self, layer: _LayerCopied | None) -> None:
        if layer is None:
            return
        if self._streams is not None:
            layer.on_stream = torch.cuda.Event()
            layer.on_stream.record(self._streams[1])
        layer.copied.set()

    @contextlib.contextmanager
    def _on_stream(self, direction: int, after: torch.cuda.Event | None) -> Iterator[None]:
        if self._streams is None:
            yield
            return
        stream = self._streams[direction]
        with torch.cuda.stream(stream):
            if after is not None:
                stream.wait_event(after)
            yield
        stream.synchronize()

    def _work(
        self, device: GPULoadStoreSpec, host: BlockIDsLoadStoreSpec
    ) -> Iterator[tuple[str, int, Piece]]:
        """(layer, tensor, pages) of a job, layer after layer of each group."""
        blocks, chunks = device.block_ids.tolist(), host.block_ids.tolist()
        first = 0
        for count, layers in zip(device.group_sizes, self._layers, strict=True):
            todo = pieces(blocks[first : first + count], chunks[first : first + count])
            for name, tensor in layers:
                for piece in todo:
                    yield name, tensor, piece
            first += count
