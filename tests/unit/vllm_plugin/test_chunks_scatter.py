"""Rows of attention for scattered tokens: each token sees all before it, whatever lies beside it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mygo.vllm_plugin.chunks.scatter import ScatteredSteps

ROWS = st.lists(
    st.one_of(
        st.tuples(st.just(True), st.sets(st.integers(0, 40), min_size=1).map(sorted)),
        st.tuples(
            st.just(False),
            st.tuples(st.integers(0, 30), st.integers(1, 9)).map(lambda run: list(range(run[0], sum(run)))),
        ),
    ),
    min_size=1,
    max_size=5,
)


@given(ROWS)
def test_each_token_sees_as_many_as_lie_up_to_its_position(rows: list[tuple[bool, list[int]]]) -> None:
    """Rows of a step: whether tokens are scattered, and their true positions."""
    ids = [f"r{number}" for number in range(len(rows))]
    runner = SimpleNamespace(
        _prepare_inputs=None,
        _build_attention_metadata=None,
        input_batch=SimpleNamespace(req_ids=ids),
        optimistic_seq_lens_cpu=torch.tensor([positions[-1] + 1 for _, positions in rows]),
    )
    steps = ScatteredSteps(runner)
    steps.row_starts = np.concatenate(([0], np.cumsum([len(positions) for _, positions in rows])))
    steps.positions = {
        name: np.array(positions) for name, (scattered, positions) in zip(ids, rows, strict=True) if scattered
    }
    of_row, starts, seq_lens = steps._runs(len(rows))
    seen: list[tuple[int, int]] = []
    for row, start, end, seq_len in zip(
        of_row, starts, [*starts[1:], int(steps.row_starts[-1])], seq_lens, strict=True
    ):
        assert start < end
        # causal attention: a run's last token sees seq_len, each one before it one less
        seen += [(row, seq_len - (end - 1 - token)) for token in range(start, end)]
    assert seen == [
        (number, position + 1) for number, (_, positions) in enumerate(rows) for position in positions
    ]
