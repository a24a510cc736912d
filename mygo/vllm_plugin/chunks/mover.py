"""The workers' half of chunk reuse: keeps chunks in host memory, and moves them to and from the device."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.forward_context import get_forward_context

from mygo.blend.variants import VariantKey
from mygo.vllm_plugin.chunks.deviations import Deviations
from mygo.vllm_plugin.chunks.disk import ChunkDisk, ChunkReport
from mygo.vllm_plugin.chunks.layers import Layers, Tap
from mygo.vllm_plugin.chunks.layout import Load, Positions
from mygo.vllm_plugin.chunks.scatter import ScatteredSteps
from mygo.vllm_plugin.chunks.step import Capture, ChunkStep, Comparison


class ChunkMover:
    """One per worker process. Each step calls ``begin``, ``load`` and ``finish``, in this order."""

    def __init__(self) -> None:
        self._chunks: dict[VariantKey, torch.Tensor] = {}
        """[layers, 2, tokens, width] each, keys before the rotary embedding first."""
        self._step = ChunkStep()
        self._tap: Tap | None = None
        self._failed_blocks: set[int] = set()
        self._missing: set[VariantKey] = set()
        self._deviations = Deviations()
        self._loaded_bytes = 0
        self._load_s = 0.0
        self._disk: ChunkDisk | None = None

    def attach(self, runner: Any) -> None:
        """``runner``: the model runner, with its model loaded and its cache allocated.

        Raises ConfigError for a model whose keys cannot be moved.
        """
        self._runner = runner
        self._layers = Layers(runner.get_model())
        self._scattered = ScatteredSteps(runner)
        prepare = runner._prepare_inputs

        def prepare_and_tap(*arguments: Any) -> Any:
            prepared = prepare(*arguments)
            if self._step.captures or self._step.comparisons:
                self._open_tap()
            return prepared

        runner._prepare_inputs = prepare_and_tap
        compute = runner._model_forward

        def compute_tappable(*arguments: Any, **rest: Any) -> Any:
            # compiled code and CUDA graphs do not run the hooks of modules
            get_forward_context().skip_compiled = self._tap is not None
            return compute(*arguments, **rest)

        runner._model_forward = compute_tappable

    def begin(self, step: ChunkStep) -> None:
        """A step is about to be computed."""
        self._step = step
        self._scattered.positions = step.positions
        if step.forget:
            self._chunks.clear()
        if step.home is not None:
            self._disk = ChunkDisk(step.home.files(get_tensor_model_parallel_rank()))
        if self._disk is not None:
            self._disk.erase(step.erased)
            self._disk.read(step.reads)

    def load(self) -> None:
        """Fill the step's blocks from chunks. Needs the runner's batch as this step computes it."""
        began_s = time.perf_counter()
        for request_id, loads in self._step.loads.items():
            block_ids = self._block_ids(request_id)
            for load in loads:
                self._load(load, block_ids)
        if self._step.loads:
            self._load_s += time.perf_counter() - began_s

    def _load(self, load: Load, block_ids: torch.Tensor) -> None:
        positions = torch.arange(load.start_tokens, load.end_tokens)
        block_tokens = self._runner.cache_config.block_size
        blocks = block_ids[positions // block_tokens]
        chunk = self._chunks.get(load.variant)
        if chunk is None:
            # vLLM looks for failures among the blocks that it counts as computed, where the chunk's own may
            # not be: but this one always is, and computing begins again there
            self._missing.add(load.variant)
            self._failed_blocks.add(int(block_ids[load.cached_tokens // block_tokens]))
            return
        kv = chunk[:, :, load.chunk_start : load.chunk_start + len(positions)]
        slots = blocks * block_tokens + positions % block_tokens
        device = self._runner.device
        self._layers.write(kv.to(device), positions.to(device), slots.to(device))
        self._loaded_bytes += kv.nbytes

    def _block_ids(self, request_id: str) -> torch.Tensor:
        batch = self._runner.input_batch
        row = batch.req_id_to_index[request_id]
        return torch.from_numpy(batch.block_table[0].get_numpy_array()[row]).to(torch.int64)

    def failed_blocks(self) -> set[int]:
        """Device blocks that could not be filled since the last call: their tokens must be computed."""
        failed, self._failed_blocks = self._failed_blocks, set()
        return failed

    def _open_tap(self) -> None:
        """Take the KV of what is captured or compared while the model computes it."""
        rows = [
            self._rows(request_id, np.arange(capture.start_tokens, capture.end_tokens))
            for request_id, captures in self._step.captures.items()
            for capture in captures
        ]
        rows += [
            self._rows(request_id, comparison.positions)
            for request_id, comparisons in self._step.comparisons.items()
            for comparison in comparisons
        ]
        self._tap = self._layers.tap(torch.from_numpy(np.concatenate(rows)).to(self._runner.device))

    def _rows(self, request_id: str, positions: Positions) -> Positions:
        """Where the step computes these tokens of a prompt."""
        batch = self._runner.input_batch
        row = batch.req_id_to_index[request_id]
        scattered = self._step.positions.get(request_id)
        first = int(self._scattered.row_starts[row])
        if scattered is not None:
            return first + np.searchsorted(scattered, positions)
        return first + positions - int(batch.num_computed_tokens_cpu[row])

    def finish(self) -> None:
        """The step is computed."""
        if self._tap is not None:
            self._keep_taken(self._tap.close().to("cpu"))
            self._tap = None
        for variant in self._step.writes:
            assert self._disk is not None
            self._disk.write(variant, self._chunks[variant.key])
        # last, because a chunk may turn out to be of no use in the step that completes it
        for key in self._step.dropped:
            self._chunks.pop(key, None)

    def report(self) -> ChunkReport:
        """What has come from disk since the last call, and what was not where it was believed to be."""
        report = ChunkReport()
        if self._disk is not None:
            found, report = self._disk.take()
            self._chunks.update(found)
        report.missing, self._missing = self._missing, set()
        report.deviations, self._deviations = self._deviations, Deviations()
        report.loaded_bytes, self._loaded_bytes = self._loaded_bytes, 0
        report.load_s, self._load_s = self._load_s, 0.0
        return report

    def close(self) -> None:
        """End what was begun on disk."""
        if self._disk is not None:
            self._disk.close()

    def _keep_taken(self, taken: torch.Tensor) -> None:
        start = 0
        for captures in self._step.captures.values():
            for capture in captures:
                tokens = capture.end_tokens - capture.start_tokens
                self._keep(capture, taken[:, :, start : start + tokens])
                start += tokens
        for comparisons in self._step.comparisons.values():
            for comparison in comparisons:
                tokens = len(comparison.positions)
                self._compare(comparison, taken[:, 1, start : start + tokens])
                start += tokens

    def _compare(self, comparison: Comparison, exact: torch.Tensor) -> None:
        chunk = self._chunks.get(comparison.variant)
        if chunk is not None:
            stored = chunk[:, 1, comparison.positions - comparison.start_tokens]
            self._deviations.add(comparison.ticket, comparison.document, stored, exact)

    def _keep(self, capture: Capture, kv: torch.Tensor) -> None:
        chunk = self._chunks.get(capture.variant)
        if chunk is None:
            layers, parts, _, width = kv.shape
            chunk = kv.new_empty(layers, parts, capture.chunk_tokens, width)
            self._chunks[capture.variant] = chunk
        chunk[:, :, capture.chunk_start : capture.chunk_start + kv.shape[2]] = kv
