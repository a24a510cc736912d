"""What of a chunk is computed where it is used."""

from __future__ import annotations

from typing import Any

import pytest

from mygo.blend.plan import Match, Piece
from mygo.blend.selection import Method
from mygo.blend.variants import Birth, BirthKind, DocumentTag, Held, Variant, VariantKey
from mygo.types import DomainTag, Tier
from mygo.vllm_plugin.chunks.planning import Planner
from mygo.vllm_plugin.settings import ChunkSettings

TOKENS = 300
START = 800
"""The document's."""


def _match(exact_tokens: int, birth: Birth) -> Match:
    variant = Variant(VariantKey("v"), DocumentTag("d"), TOKENS, 1, DomainTag("p"), birth)
    return Match(START + exact_tokens, START + TOKENS, Held(variant, Tier.HOST), {variant.key: 0.15})


@pytest.mark.parametrize(("exact_tokens", "repair_tokens"), [(0, 45), (30, 15), (192, 0)])
def test_first_tokens_are_computed_when_they_were_to_come_exactly_and_do_not(
    exact_tokens: int, repair_tokens: int
) -> None:
    """Scenario: a slower tier has the document's first tokens exactly, and its load gate then declines. From
    the chunk they would be approximate, under the hashes of exact blocks."""
    nothing: Any = None
    planner = Planner(ChunkSettings(), nothing, nothing, nothing, nothing)
    match = _match(exact_tokens, Birth(BirthKind.FILLER))
    piece = planner._placed(
        Piece(match.start_tokens, match.end_tokens, match, repair_tokens), match, Method.FIRST_TOKENS
    )
    assert (piece.start_tokens, piece.end_tokens) == (START, START + TOKENS)
    assert piece.repaired == tuple(range(exact_tokens + repair_tokens))


def test_nothing_is_computed_of_a_document_in_the_place_where_it_was_born() -> None:
    nothing: Any = None
    planner = Planner(ChunkSettings(), nothing, nothing, nothing, nothing)
    match = _match(30, Birth(BirthKind.FIRST))
    assert (
        planner._placed(
            Piece(match.start_tokens, match.end_tokens, match, 0), match, Method.FIRST_TOKENS
        ).repaired
        == ()
    )
