"""The way between chunks in host memory and the device.

On CUDA chunks lie in pinned memory and copies are only queued, so that a step can be prepared while the one
before it computes: to the host on the stream that computes, behind what they copy; to the device on a stream
of their own, beside it. Not yet run on CUDA.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from vllm.utils.platform_utils import is_pin_memory_available

STAGED_BYTES = 2**29
"""Copied beside the computation per step, at most: it takes so much of the device's memory for a while."""


def held_bytes(kv_bytes: int) -> int:
    """What so much of a chunk takes of a worker's memory: PyTorch pins powers of two."""
    return 1 << (kv_bytes - 1).bit_length() if is_pin_memory_available() else kv_bytes


class HostLink:
    """One per worker. Without CUDA, nothing is copied that is not stored, and all is done on return."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._beside = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._kept: torch.cuda.Event | None = None
        """The last copy to the host."""
        self._loads: deque[tuple[int, torch.cuda.Event, torch.cuda.Event]] = deque()
        """Bytes, and between what they hold the computation up; of loads that may still be queued."""
        self._staged_bytes = 0
        self._step_bytes = 0
        self._loaded = 0, 0.0

    # --- to the host -----------------------------------------------------------------------------

    def new(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Host memory for a chunk."""
        return torch.empty(shape, dtype=dtype, pin_memory=self._beside is not None)

    def own(self, chunk: torch.Tensor) -> torch.Tensor:
        """The same in memory that is copied from as fast as any. From any thread."""
        return chunk if self._beside is None else chunk.pin_memory()

    def keep(self, kv: torch.Tensor, place: torch.Tensor) -> None:
        """Copy from the device to a place of a chunk, both contiguous, for what is queued from now on."""
        place.copy_(kv, non_blocking=True)

    def kept(self) -> None:
        """A step has kept what it was to."""
        if self._beside is not None:
            self._kept = torch.cuda.current_stream().record_event()

    def kept_so_far(self) -> Callable[[], None]:
        """What waits, in any thread, until the host may read what has been kept by now."""
        kept = self._kept
        return kept.synchronize if kept is not None else lambda: None

    # --- to the device ---------------------------------------------------------------------------

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Around the loads of a step and their use: measures for how long they hold the computation up."""
        self._staged_bytes = self._step_bytes = 0
        if self._beside is None:
            began_s = time.perf_counter()
            yield
            self._count(self._step_bytes, time.perf_counter() - began_s)
            return
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began.record()
        yield
        ended.record()
        self._loads.append((self._step_bytes, began, ended))

    def load(self, chunk: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """These tokens of a chunk on the device, for what is queued from now on."""
        self._step_bytes += held_bytes(chunk.nbytes) * (end - start) // chunk.shape[2]
        if self._beside is None:
            return chunk[:, :, start:end]
        computing = torch.cuda.current_stream()
        self._staged_bytes += chunk.nbytes
        copying = self._beside if self._staged_bytes <= STAGED_BYTES else computing
        if self._kept is not None:
            copying.wait_event(self._kept)
        with torch.cuda.stream(copying):
            # all of it, for only what is contiguous is copied without a detour
            kv = chunk.to(self._device, non_blocking=True)
        computing.wait_stream(copying)
        kv.record_stream(computing)
        return kv[:, :, start:end]

    def take(self) -> tuple[int, float]:
        """Bytes that came to the device since the last call, and seconds that this took."""
        while self._loads and self._loads[0][2].query():
            loaded_bytes, began, ended = self._loads.popleft()
            self._count(loaded_bytes, began.elapsed_time(ended) / 1e3)
        loaded, self._loaded = self._loaded, (0, 0.0)
        return loaded

    def _count(self, loaded_bytes: int, load_s: float) -> None:
        self._loaded = self._loaded[0] + loaded_bytes, self._loaded[1] + load_s
