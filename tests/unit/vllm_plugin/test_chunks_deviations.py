"""How far stored values are from exact ones: over steps, ranks and tokens that were not repaired."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mygo.blend.variants import DocumentTag, VariantKey
from mygo.vllm_plugin.chunks.comparing import Comparing, end_tokens
from mygo.vllm_plugin.chunks.deviations import Deviations
from mygo.vllm_plugin.chunks.layout import Piece

A, B = DocumentTag("a"), DocumentTag("b")


def test_deviation_is_relative_and_of_all_that_was_added() -> None:
    generator = torch.Generator().manual_seed(1)
    exact = torch.randn(3, 8, 4, generator=generator)
    stored = exact + 0.1 * torch.randn(3, 8, 4, generator=generator)
    expected = float((stored - exact).norm() / exact.norm())
    parts = [Deviations() for _ in range(4)]
    # two steps of 3 and 5 tokens, each on two ranks of 2 of the 4 numbers
    for part, (tokens, width) in zip(
        parts,
        [(tokens, width) for tokens in (slice(3), slice(3, 8)) for width in (slice(2), slice(2, 4))],
        strict=True,
    ):
        part.add(7, A, stored[:, tokens, width], exact[:, tokens, width])
    total = parts[0] + parts[1] + parts[2] + parts[3]
    assert total.of(7) == pytest.approx({A: expected})
    assert total.tickets() == {7}
    assert total and not Deviations()


def test_deviation_of_scaled_values_is_how_much_they_were_scaled() -> None:
    deviations = Deviations()
    exact = torch.randn(2, 5, 4, dtype=torch.bfloat16)
    deviations.add(1, A, exact * 1.5, exact)
    deviations.add(1, B, exact, exact)
    deviations.add(2, A, exact, exact)
    assert deviations.of(1) == pytest.approx({A: 0.5, B: 0.0}, abs=0.01)
    assert deviations.of(3) == {}


def test_documents_without_exact_values_are_left_out() -> None:
    deviations = Deviations()
    deviations.add(1, A, torch.ones(1, 1, 1), torch.zeros(1, 1, 1))
    assert deviations.of(1) == {}


@given(
    start=st.integers(0, 20),
    tokens=st.integers(1, 20),
    repaired=st.sets(st.integers(0, 19)),
    computed=st.sets(st.integers(0, 45)),
)
def test_compared_tokens_are_those_that_are_computed_and_would_be_loaded(
    start: int, tokens: int, repaired: set[int], computed: set[int]
) -> None:
    repaired = {token for token in repaired if token < tokens}
    piece = Piece(VariantKey("0" * 32), start, start + tokens, tuple(sorted(repaired)))
    found = Comparing(3, A, piece).within(np.array(sorted(computed), dtype=np.int64))
    expected = [
        position
        for position in sorted(computed)
        if start <= position < start + tokens and position - start not in repaired
    ]
    assert ([] if found is None else found.positions.tolist()) == expected
    assert found is None or (found.ticket, found.start_tokens) == (3, start)


def test_comparing_ends_with_the_last_document() -> None:
    pieces = [Piece(VariantKey("0" * 32), start, end, ()) for start, end in ((5, 9), (9, 20), (2, 4))]
    assert end_tokens([Comparing(1, A, piece) for piece in pieces]) == 20
    assert end_tokens([]) == 0
