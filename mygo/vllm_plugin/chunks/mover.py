"""The workers' half of chunk reuse: keeps chunks in host memory, and moves them to and from the device."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.forward_context import get_forward_context
from vllm.utils.torch_utils import async_tensor_h2d

from mygo.blend.variants import Ranking, VariantKey
from mygo.vllm_plugin.chunks.deviations import Deviations
from mygo.vllm_plugin.chunks.disk import ChunkDisk, ChunkReport
from mygo.vllm_plugin.chunks.layers import VALUES, Layers, Tap
from mygo.vllm_plugin.chunks.layout import Load, Positions
from mygo.vllm_plugin.chunks.link import HostLink
from mygo.vllm_plugin.chunks.loading import Loading
from mygo.vllm_plugin.chunks.scatter import ScatteredSteps
from mygo.vllm_plugin.chunks.sensitivity import order
from mygo.vllm_plugin.chunks.step import Capture, ChunkStep

logger = logging.getLogger(__name__)


class ChunkMover:
    """One per worker process. Each step calls ``begin``, ``load``, ``wait_for_layer`` of each layer, and
    ``finish``, in this order. ``layerwise``: a layer's part of what is loaded is put in its place when the
    layer needs it, rather than all of it before the first one computes."""

    def __init__(self, *, layerwise: bool = True) -> None:
        self._layerwise = layerwise
        self._chunks: dict[VariantKey, torch.Tensor] = {}
        """[layers, 2, tokens, width] each, keys before the rotary embedding first."""
        self._step = ChunkStep()
        self._tap: Tap | None = None
        self._places: list[tuple[slice, torch.Tensor]] = []
        """Of the rows that are tapped, those that are kept, and where; first of all."""
        self._captured_rows = 0
        self._compared: list[torch.Tensor] = []
        """The values of the other rows, by layer."""
        self._loading: Loading | None = None
        """Of the step under way, if it loads anything."""
        self._resorts: set[int] = set()
        """Blocks from which on its prompts can be recomputed."""
        self._failed_blocks: set[int] = set()
        self._missing: set[VariantKey] = set()
        self._deviations = Deviations()
        self._rankings: dict[VariantKey, Ranking] = {}
        self._disk: ChunkDisk | None = None

    def attach(self, runner: Any) -> None:
        """``runner``: the model runner, with its model loaded and its cache allocated.

        Raises ConfigError for a model whose keys cannot be moved.
        """
        self._runner = runner
        self._link = HostLink(runner.device)
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
            files = step.home.files(get_tensor_model_parallel_rank())
            self._disk = ChunkDisk(files, self._link.own)
        if self._disk is not None:
            self._disk.erase(step.erased)
            self._disk.read(step.reads)

    def load(self) -> None:
        """Begin to fill the step's blocks from chunks. Needs the runner's batch as this step computes it."""
        if not self._step.loads:
            return
        self._loading = Loading(self._layers, self._link, self._runner.device)
        for request_id, loads in self._step.loads.items():
            block_ids, computed = self._block_ids(request_id), self._computed(request_id)
            for load in loads:
                self._begin_load(load, block_ids, computed)
        if not self._layerwise:
            for layer in range(len(self._layers)):
                self._loading.place(layer)

    def wait_for_layer(self, name: str) -> None:
        """The model is about to read a layer's KV: put there what this step loads."""
        if self._loading is not None and self._layerwise:
            self._loading.place(self._layers.number(name))

    def _begin_load(self, load: Load, block_ids: Positions, computed: Positions) -> None:
        assert self._loading is not None
        block_tokens = self._runner.cache_config.block_size
        # where computing begins again should this fail: vLLM looks for failures among the blocks that it
        # counts as computed, where the chunk's own may not be, but this one always is
        resort = int(block_ids[load.cached_tokens // block_tokens])
        chunk = self._chunks.get(load.variant)
        if chunk is None:
            self._missing.add(load.variant)
            self._failed_blocks.add(resort)
            return
        positions = np.arange(load.start_tokens, load.end_tokens)
        # what the step computes of it is written by the layer itself, before it asks for the rest
        positions = positions[~np.isin(positions, computed)]
        if not len(positions):
            return
        slots = block_ids[positions // block_tokens] * block_tokens + positions % block_tokens
        arrival = self._link.load(chunk, load.end_tokens - load.start_tokens)
        self._loading.add(arrival, positions - load.start_tokens + load.chunk_start, positions, slots)
        self._resorts.add(resort)

    def _computed(self, request_id: str) -> Positions:
        """True positions of the tokens that this step computes."""
        scattered = self._step.positions.get(request_id)
        if scattered is not None:
            return scattered
        batch, starts = self._runner.input_batch, self._scattered.row_starts
        row = batch.req_id_to_index[request_id]
        first = int(batch.num_computed_tokens_cpu[row])
        return np.arange(first, first + int(starts[row + 1] - starts[row]))

    def _end_loading(self) -> None:
        if self._loading is None:
            return
        if not self._loading.is_done:
            logger.error(
                "a model's layers have not asked for all that was loaded: its prompts are recomputed"
            )
            self._failed_blocks |= self._resorts
        self._link.loaded()
        self._loading = None
        self._resorts = set()

    def _block_ids(self, request_id: str) -> Positions:
        batch = self._runner.input_batch
        row = batch.req_id_to_index[request_id]
        ids: Positions = batch.block_table[0].get_numpy_array()[row].astype(np.int64)
        return ids

    def failed_blocks(self) -> set[int]:
        """Device blocks that could not be filled since the last call: their tokens must be computed."""
        failed, self._failed_blocks = self._failed_blocks, set()
        return failed

    def _open_tap(self) -> None:
        """Take the KV of what is captured or compared while the model computes it."""
        rows: list[Positions] = []
        taken = 0
        for request_id, captures in self._step.captures.items():
            for capture in captures:
                rows.append(self._rows(request_id, np.arange(capture.start_tokens, capture.end_tokens)))
                self._places.append((slice(taken, taken + len(rows[-1])), self._place(capture)))
                taken += len(rows[-1])
        self._captured_rows = taken
        rows += [
            self._rows(request_id, comparison.positions)
            for request_id, comparisons in self._step.comparisons.items()
            for comparison in comparisons
        ]
        self._tap = self._layers.tap(async_tensor_h2d(np.concatenate(rows), self._runner.device), self._take)

    def _place(self, capture: Capture) -> torch.Tensor:
        """Where this part of a chunk is kept."""
        chunk = self._chunks.get(capture.variant)
        if chunk is None:
            shape = len(self._layers), 2, capture.chunk_tokens, self._layers.width
            chunk = self._chunks[capture.variant] = self._link.new(shape, self._layers.dtype)
        end = capture.chunk_start + capture.end_tokens - capture.start_tokens
        return chunk[:, :, capture.chunk_start : end]

    def _take(self, layer: int, part: int, kv: torch.Tensor) -> None:
        for rows, place in self._places:
            self._link.keep(kv[rows], place[layer, part])
        if part == VALUES and self._step.comparisons:
            self._compared.append(kv[self._captured_rows :])

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
        self._end_loading()
        if self._tap is not None:
            self._tap.close()
            self._tap = None
            self._places = []
            self._link.kept()
            self._compare()
        self._rank()
        for variant in self._step.writes:
            assert self._disk is not None
            ranked = replace(variant, ranking=self._rankings.get(variant.key, variant.ranking))
            self._disk.write(ranked, self._chunks[variant.key], self._link.kept_so_far())
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
        report.rankings, self._rankings = self._rankings, {}
        report.loaded_bytes, report.load_s = self._link.take()
        return report

    def close(self) -> None:
        """End what was begun on disk."""
        if self._disk is not None:
            self._disk.close()

    def _rank(self) -> None:
        """Only the first rank does, by its heads: all must recompute the same tokens."""
        if not self._step.rankings or get_tensor_model_parallel_rank() != 0:
            return
        self._link.kept_so_far()()
        for variant, other_key in self._step.rankings:
            chunk, other = self._chunks.get(variant.key), self._chunks.get(other_key)
            if chunk is not None and other is not None and variant.ranking is not None:
                self._rankings[variant.key] = replace(variant.ranking, order=order(chunk, other))

    def _compare(self) -> None:
        if not self._step.comparisons:
            return
        exact = torch.stack(self._compared).to("cpu")
        self._compared = []
        self._link.kept_so_far()()
        start = 0
        for comparison in (each for those in self._step.comparisons.values() for each in those):
            end = start + len(comparison.positions)
            chunk = self._chunks.get(comparison.variant)
            if chunk is not None:
                stored = chunk[:, VALUES, comparison.positions - comparison.start_tokens]
                self._deviations.add(comparison.ticket, comparison.document, stored, exact[:, start:end])
            start = end
