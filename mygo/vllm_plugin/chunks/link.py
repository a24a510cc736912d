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
LAYERS_PER_COPY = 4
"""Each copy costs the host time to queue it, and what the first one brings hides behind nothing."""


def held_bytes(kv_bytes: int) -> int:
    """What so much of a chunk takes of a worker's memory: PyTorch pins powers of two."""
    return 1 << (kv_bytes - 1).bit_length() if is_pin_memory_available() else kv_bytes


_Span = tuple[torch.cuda.Event, torch.cuda.Event]


class Arrival:
    """A chunk on its way to the device, [layers, 2, tokens, width]. This one is there already."""

    def __init__(self, chunk: torch.Tensor) -> None:
        self._chunk = chunk

    def layer(self, number: int) -> torch.Tensor:
        """[2, tokens, width] on the device, for what is queued from now on."""
        return self._chunk[number]


class _CopiedBeside(Arrival):
    """All of it is queued at once, on a stream of its own."""

    def __init__(self, chunk: torch.Tensor, device: torch.device, beside: torch.cuda.Stream) -> None:
        super().__init__(chunk)
        self._parts: list[tuple[torch.Tensor, torch.cuda.Event]] = []
        with torch.cuda.stream(beside):
            # of all tokens, for only what is contiguous is copied without a detour
            for layers in chunk.split(LAYERS_PER_COPY):
                self._parts.append((layers.to(device, non_blocking=True), beside.record_event()))

    def layer(self, number: int) -> torch.Tensor:
        part, copied = self._parts[number // LAYERS_PER_COPY]
        computing = torch.cuda.current_stream()
        computing.wait_event(copied)
        part.record_stream(computing)
        return part[number % LAYERS_PER_COPY]


class _CopiedWhenNeeded(Arrival):
    """A layer at a time, on the stream that computes: takes next to no memory of the device."""

    def __init__(self, chunk: torch.Tensor, device: torch.device) -> None:
        super().__init__(chunk)
        self._device = device

    def layer(self, number: int) -> torch.Tensor:
        return self._chunk[number].to(self._device, non_blocking=True)


class HostLink:
    """One per worker. Without CUDA, nothing is copied that is not stored, and all is done on return."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._beside = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._kept: torch.cuda.Event | None = None
        """The last copy to the host."""
        self._loads: deque[tuple[int, list[_Span]]] = deque()
        """Bytes, and when they held the computation up; of steps that may still be queued."""
        self._spans: list[_Span] = []
        self._held_up_s = 0.0
        """Of the step under way: the first on CUDA, the other one else."""
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

    def load(self, chunk: torch.Tensor, used_tokens: int) -> Arrival:
        """Begin to bring a chunk to the device, for a step that uses so many tokens of it."""
        self._step_bytes += held_bytes(chunk.nbytes) * used_tokens // chunk.shape[2]
        if self._beside is None:
            return Arrival(chunk)
        self._staged_bytes += chunk.nbytes
        if self._staged_bytes > STAGED_BYTES:
            return _CopiedWhenNeeded(chunk, self._device)
        if self._kept is not None:
            self._beside.wait_event(self._kept)
        return _CopiedBeside(chunk, self._device, self._beside)

    @contextmanager
    def holding_up(self) -> Iterator[None]:
        """Around what the computation of a step waits for: measures for how long."""
        if self._beside is None:
            began_s = time.perf_counter()
            yield
            self._held_up_s += time.perf_counter() - began_s
            return
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began.record()
        yield
        ended.record()
        self._spans.append((began, ended))

    def loaded(self) -> None:
        """All that a step loads is in its place."""
        if self._beside is None:
            self._count(self._step_bytes, self._held_up_s)
        else:
            self._loads.append((self._step_bytes, self._spans))
        self._staged_bytes = self._step_bytes = 0
        self._spans, self._held_up_s = [], 0.0

    def take(self) -> tuple[int, float]:
        """Bytes that came to the device since the last call, and seconds by which computation was held up."""
        while self._loads and all(ended.query() for _, ended in self._loads[0][1][-1:]):
            loaded_bytes, spans = self._loads.popleft()
            self._count(loaded_bytes, sum(began.elapsed_time(ended) for began, ended in spans) / 1e3)
        loaded, self._loaded = self._loaded, (0, 0.0)
        return loaded

    def _count(self, loaded_bytes: int, load_s: float) -> None:
        self._loaded = self._loaded[0] + loaded_bytes, self._loaded[1] + load_s
