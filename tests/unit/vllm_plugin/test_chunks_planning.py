"""What of a chunk is computed where it is used."""

from __future__ import annotations

import pytest

from mygo.blend.plan import Match, Piece
from mygo.blend.selection import Repair
from mygo.blend.variants import Birth, BirthKind, DocumentTag, Held, Variant, VariantKey
from mygo.types import DomainTag, Tier
from mygo.vllm_plugin.chunks.planning import _placed

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
    match = _match(exact_tokens, Birth(BirthKind.FILLER))
    repaired = match.repaired(Repair(1.0, floor_tokens=0))
    assert len(repaired) == repair_tokens
    piece = _placed(Piece(match.start_tokens, match.end_tokens, match, repaired), match)
    assert (piece.start_tokens, piece.end_tokens) == (START, START + TOKENS)
    assert piece.repaired == tuple(range(exact_tokens + repair_tokens))


def test_nothing_is_computed_of_a_document_in_the_place_where_it_was_born() -> None:
    match = _match(30, Birth(BirthKind.FIRST))
    repaired = match.repaired(Repair(1.0, floor_tokens=0))
    assert _placed(Piece(match.start_tokens, match.end_tokens, match, repaired), match).repaired == ()
