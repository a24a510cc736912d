"""Computing tokens that do not lie side by side, within vLLM's own step.

vLLM's runner computes, for each request, a run of tokens behind those that are computed. For some requests of
a step this puts scattered ones in their place: true positions, token ids and cache slots, and, for attention,
one row for each contiguous run of them, where all rows of a request share its block table. So every token
attends to all keys up to its own position, whatever the model, in the one forward of the step, and within
its token budget.

After EPIC (arXiv 2410.15332) and CacheBlend (arXiv 2405.16444), which compute scattered tokens beside the
engine; the attention rows are what lets any paged causal backend do it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.attention.backend import CommonAttentionMetadata

from mygo.vllm_plugin.chunks.layout import Positions


class ScatteredSteps:
    """Wraps a vLLM model runner (its first version)."""

    def __init__(self, runner: Any) -> None:
        self.positions: Mapping[str, Positions] = {}
        """True positions in the step under way, by request; of those only where they are scattered."""
        self._runner = runner
        self._prepare = runner._prepare_inputs
        self._build = runner._build_attention_metadata
        runner._prepare_inputs = self._prepare_inputs
        runner._build_attention_metadata = self._build_attention_metadata
        self.row_starts = np.zeros(1, dtype=np.int64)
        """Where each row of the batch begins in the step, and where the last ends."""

    def _prepare_inputs(self, scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
        prepared = self._prepare(scheduler_output, num_scheduled_tokens)
        self.row_starts = np.concatenate(([0], np.cumsum(num_scheduled_tokens)))
        if self.positions:
            self._put_in_place()
        return prepared

    def _put_in_place(self) -> None:
        runner, batch = self._runner, self._runner.input_batch
        for request_id, positions in self.positions.items():
            row = batch.req_id_to_index[request_id]
            tokens = slice(int(self.row_starts[row]), int(self.row_starts[row + 1]))
            async_tensor_h2d(positions, out=runner.positions[tokens])
            async_tensor_h2d(batch.token_ids_cpu[row, positions], out=runner.input_ids.gpu[tokens])
        rows = batch.num_reqs
        batch.block_table.compute_slot_mapping(
            rows, runner.query_start_loc.gpu[: rows + 1], runner.positions[: int(self.row_starts[-1])]
        )

    def _build_attention_metadata(self, num_tokens: int, num_reqs: int, **rest: Any) -> Any:
        if not self.positions:
            return self._build(num_tokens=num_tokens, num_reqs=num_reqs, **rest)
        runner = self._runner
        of_row, starts, seq_lens = self._runs(num_reqs)
        starts_cpu = torch.tensor([*starts, num_tokens], dtype=torch.int32)
        seq_lens_cpu = torch.tensor(seq_lens, dtype=torch.int32)
        rows = torch.tensor(of_row, dtype=torch.int64)
        table = runner.input_batch.block_table[0].get_device_tensor(num_reqs)
        prefilling = (
            runner.input_batch.num_computed_tokens_cpu_tensor[rows]
            < runner.input_batch.num_prompt_tokens_cpu_tensor[rows]
        )
        device = runner.device
        common = CommonAttentionMetadata(
            query_start_loc=async_tensor_h2d(starts_cpu, device),
            query_start_loc_cpu=starts_cpu,
            seq_lens=async_tensor_h2d(seq_lens_cpu, device),
            seq_lens_cpu_upper_bound=seq_lens_cpu,
            num_reqs=len(of_row),
            num_actual_tokens=num_tokens,
            max_query_len=int(starts_cpu.diff().max()),
            max_seq_len=max(seq_lens),
            block_table_tensor=table[async_tensor_h2d(rows, device)],
            slot_mapping=rest["slot_mappings"][0],
            causal=True,
            is_prefilling=prefilling,
            positions=runner.positions[:num_tokens],
        )
        metadata = {}
        for group in runner.attn_groups[0]:
            built = group.build_metadata(common)
            metadata.update(dict.fromkeys(group.layer_names, built))
        return metadata, None

    def _runs(self, num_reqs: int) -> tuple[list[int], list[int], list[int]]:
        """Contiguous runs: row of the batch, first token in the step, and tokens that its last one sees."""
        batch = self._runner.input_batch
        seen = self._runner.optimistic_seq_lens_cpu
        of_row: list[int] = []
        starts: list[int] = []
        seq_lens: list[int] = []
        for row in range(num_reqs):
            start = int(self.row_starts[row])
            positions = self.positions.get(batch.req_ids[row])
            if positions is None:
                of_row.append(row)
                starts.append(start)
                seq_lens.append(int(seen[row]))
                continue
            last_of_run = np.flatnonzero(np.diff(positions) != 1)
            of_row += [row] * (len(last_of_run) + 1)
            starts += [start, *(start + last_of_run + 1).tolist()]
            seq_lens += [*(positions[last_of_run] + 1).tolist(), int(positions[-1]) + 1]
        return of_row, starts, seq_lens
