"""Scattered tokens as the scheduler counts them, against a prompt that is filled token by token."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from mygo.blend.variants import VariantKey
from mygo.vllm_plugin.chunks.layout import Layout, Piece


@dataclass(frozen=True)
class Case:
    cached_tokens: int
    prompt_tokens: int
    pieces: tuple[Piece, ...]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Pieces side by side or apart, some of them behind what is cached, and a question."""
    at = draw(st.integers(0, 5))
    pieces: list[Piece] = []
    for number in range(draw(st.integers(1, 4))):
        tokens = draw(st.integers(1, 12))
        repaired = draw(st.sets(st.integers(0, tokens - 1)))
        pieces.append(Piece(VariantKey(str(number)), at, at + tokens, tuple(sorted(repaired))))
        at += tokens + draw(st.sampled_from([0, 0, 3]))
    prompt_tokens = at + draw(st.integers(1, 5))
    return Case(draw(st.integers(0, prompt_tokens - 1)), prompt_tokens, tuple(pieces))


def _from_chunks(case: Case) -> set[int]:
    return {
        position
        for piece in case.pieces
        for position in range(piece.start_tokens, piece.end_tokens)
        if position >= case.cached_tokens and position - piece.start_tokens not in piece.repaired
    }


@given(cases(), st.data())
def test_every_token_sees_all_before_it_when_steps_are_of_any_size(case: Case, data: st.DataObject) -> None:
    layout = Layout(case.cached_tokens, case.prompt_tokens, case.pieces)
    assert layout.loaded_tokens == len(_from_chunks(case))
    final = set(range(case.cached_tokens))
    """Tokens whose KV is as it stays."""
    loaded: set[int] = set()
    counted = layout.first_scheduled
    assert counted < case.prompt_tokens, "the question is computed"
    while counted < case.prompt_tokens:
        assert layout.covers(counted)
        new_tokens = data.draw(st.integers(1, case.prompt_tokens - counted))
        for load in layout.loads(counted, new_tokens):
            piece = next(piece for piece in case.pieces if piece.variant == load.variant)
            assert load.chunk_start == load.start_tokens - piece.start_tokens
            run = set(range(load.start_tokens, load.end_tokens))
            assert run.isdisjoint(final) and run.isdisjoint(loaded), "nothing is written twice"
            loaded |= run
        positions = layout.positions(counted, new_tokens).tolist()
        assert len(positions) == new_tokens
        for count, position in enumerate(positions, start=counted):
            assert position <= count, "its block is allocated"
        final |= (loaded & _from_chunks(case)) | set(positions)
        counted += new_tokens
        for position in positions:
            assert final >= set(range(position))
        complete = layout.complete_tokens(counted)
        assert final >= set(range(complete))
        assert complete == case.prompt_tokens or complete not in final
    assert final == set(range(case.prompt_tokens))
    assert not layout.covers(counted)


@given(cases())
def test_count_means_what_vllm_says_when_nothing_is_scattered_any_more(case: Case) -> None:
    layout = Layout(case.cached_tokens, case.prompt_tokens, case.pieces)
    assert layout.complete_tokens(case.prompt_tokens + 7) == case.prompt_tokens + 7
    if layout.first_scheduled:  # a load failed, and vLLM went back
        assert layout.complete_tokens(layout.first_scheduled - 1) == layout.first_scheduled - 1
