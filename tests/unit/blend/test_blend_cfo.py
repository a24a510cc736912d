"""Cache-Craft's fix overhead against a transcription of its equations, and its edge cases one by one."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from blend_cases import FILLER, FIRST, behind, births, contextual_births, paths, variant
from hypothesis import given
from hypothesis import strategies as st

from mygo.blend.cfo import cci, need, order_penalty, overlap, repair_tokens
from mygo.blend.variants import Attention, Birth, DocumentTag

A, B, C, D = (DocumentTag(name) for name in "ABCD")


def naive_need(birth: Birth, tokens: int, new: list[DocumentTag]) -> float:
    """Eq. 6-12, term by term, for a contextual birth."""
    attention = birth.attention
    inter = dict.fromkeys(birth.before, 1.0)
    impact = 1.0
    if attention is not None:
        inter = dict(zip(birth.before, attention.inter, strict=True))
        lengths = dict(zip(birth.before, attention.before_tokens, strict=True))
        a = sum(inter[j] / (tokens * lengths[j]) for j in birth.before)
        b = attention.intra / (tokens * tokens)
        impact = 1 / (1 + math.exp(-a / b)) if b > 0 else 1.0 if a > 0 else 0.5
    both = [j for j in birth.before if j in new]
    whole = sum(inter.values())
    beta = sum(inter[j] for j in both) / whole if whole > 0 else 1.0
    pairs = list(combinations(both, 2))
    discordant = [1 for x, y in pairs if new.index(x) > new.index(y)]
    gamma = len(discordant) / len(pairs) if len(both) >= 2 else 0.0
    return impact * (1 - beta * (1 - gamma))


@given(contextual_births(), st.integers(1, 500), paths)
def test_need_is_what_the_equations_say(birth: Birth, tokens: int, new: list[DocumentTag]) -> None:
    found = need(variant("X", birth, tokens=tokens), new)
    assert found == pytest.approx(naive_need(birth, tokens, new), abs=1e-9)


@given(births, st.integers(1, 500), paths)
def test_need_is_a_share(birth: Birth, tokens: int, new: list[DocumentTag]) -> None:
    assert 0 <= need(variant("X", birth, tokens=tokens), new) <= 1


@given(contextual_births(), st.integers(1, 500))
def test_need_is_nothing_when_the_prompt_is_the_one_of_birth(birth: Birth, tokens: int) -> None:
    assert need(variant("X", birth, tokens=tokens), birth.before) == pytest.approx(0, abs=1e-9)


def test_cci_is_a_half_when_it_looked_only_at_itself_and_one_when_not_measured() -> None:
    assert cci(Attention((0.0,), (50,), 7.0), 100) == 0.5
    assert cci(Attention((1.0,), (50,), 0.0), 100) == 1.0
    assert cci(None, 100) == 1.0


def test_cci_counts_attention_per_pair_of_tokens() -> None:
    """100 tokens that look as much at each of 50 tokens before as at each of their own."""
    attention = Attention((100 * 50 * 0.01,), (50,), 100 * 100 * 0.01)
    assert cci(attention, 100) == pytest.approx(1 / (1 + math.exp(-1)))


def test_overlap_weighs_by_attention_when_it_was_measured() -> None:
    measured = behind("A", "B", attention=Attention((3.0, 1.0), (10, 10), 1.0))
    assert overlap(measured, [A]) == 0.75
    assert overlap(behind("A", "B"), [A]) == 0.5


def test_order_penalty_counts_discordant_pairs() -> None:
    birth = behind("A", "B", "C")
    assert order_penalty(birth, [A, D, B, C]) == 0
    assert order_penalty(birth, [B, A, C]) == pytest.approx(1 / 3)
    assert order_penalty(birth, [C, B, A]) == 1
    assert order_penalty(birth, [D, C]) == 0


def test_need_is_the_whole_cci_when_nothing_that_it_saw_is_there() -> None:
    assert need(variant("X", behind("A")), [B]) == 1
    assert need(variant("X", FILLER), [A]) == 1
    assert need(variant("X", FILLER), []) == 1
    assert need(variant("X", FIRST), [A]) == 1


def test_need_is_nothing_when_a_first_document_is_first_again() -> None:
    assert need(variant("X", FIRST), []) == 0


@given(st.floats(0, 2), st.integers(1, 1000), st.integers(0, 64))
def test_repair_tokens_lie_between_floor_and_all(cfo: float, tokens: int, floor_tokens: int) -> None:
    count = repair_tokens(cfo, tokens, floor_tokens)
    assert min(tokens, floor_tokens) <= count <= tokens
    assert count >= min(1.0, cfo) * tokens
    assert count == min(tokens, floor_tokens) or count - 1 < cfo * tokens


def test_repair_tokens_is_the_floor_when_nothing_is_needed() -> None:
    assert repair_tokens(0.0, 400, 16) == 16
    assert repair_tokens(0.15, 400, 16) == 60
    assert repair_tokens(0.151, 400, 16) == 61
    assert repair_tokens(0.0, 10, 16) == 10
