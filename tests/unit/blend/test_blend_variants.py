"""Keys of variants as algebra, and births that make no sense."""

from __future__ import annotations

from dataclasses import replace

import pytest
from blend_cases import variant
from hypothesis import given
from hypothesis import strategies as st

from mygo.blend.variants import (
    Attention,
    Birth,
    BirthKind,
    DocumentTag,
    Namespace,
    Ranking,
    variant_key,
)
from mygo.types import DomainTag

NAMESPACE = Namespace("model", "", "tokenizer", "bfloat16", "system", "1")
names = st.text("ab:+", max_size=3)
tags = names.map(DocumentTag)
births = st.one_of(
    st.sampled_from([Birth(BirthKind.FIRST), Birth(BirthKind.FILLER)]),
    st.lists(tags, min_size=1, max_size=3).map(lambda before: Birth(BirthKind.CONTEXTUAL, tuple(before))),
)
namespaces = st.builds(Namespace, names, names, names, names, names, st.just("1"))
identities = st.tuples(namespaces, tags, names.map(DomainTag), births)


@given(identities, identities)
def test_variant_key_is_equal_only_when_everything_is(
    one: tuple[Namespace, DocumentTag, DomainTag, Birth],
    other: tuple[Namespace, DocumentTag, DomainTag, Birth],
) -> None:
    assert (variant_key(*one) == variant_key(*other)) == (one == other)


@given(births)
def test_variant_key_depends_on_the_neutral_documents_where_they_were_seen(birth: Birth) -> None:
    other = replace(NAMESPACE, filler="2")
    keys = {variant_key(each, DocumentTag("d"), DomainTag("a"), birth) for each in (NAMESPACE, other)}
    assert len(keys) == (2 if birth.kind is BirthKind.FILLER else 1)


@given(births)
def test_variant_key_differs_when_the_same_birth_was_in_another_domain(birth: Birth) -> None:
    key = variant_key(NAMESPACE, DocumentTag("d"), DomainTag("a"), birth)
    assert key != variant_key(NAMESPACE, DocumentTag("d"), DomainTag("b"), birth)


def test_variant_key_stays_when_attention_was_measured() -> None:
    birth = Birth(BirthKind.CONTEXTUAL, (DocumentTag("x"),))
    measured = replace(birth, attention=Attention((1.0,), (10,), 2.0))
    document, domain = DocumentTag("d"), DomainTag("a")
    assert variant_key(NAMESPACE, document, domain, birth) == variant_key(
        NAMESPACE, document, domain, measured
    )


def test_birth_is_refused_when_it_contradicts_itself() -> None:
    with pytest.raises(ValueError, match="contextual birth cannot have 0 documents"):
        Birth(BirthKind.CONTEXTUAL)
    with pytest.raises(ValueError, match="filler birth cannot have 1 documents"):
        Birth(BirthKind.FILLER, (DocumentTag("x"),))
    with pytest.raises(ValueError, match="each of the 1 documents"):
        Birth(BirthKind.CONTEXTUAL, (DocumentTag("x"),), Attention((), (), 1.0))
    with pytest.raises(ValueError, match="first birth has no reused documents"):
        Birth(BirthKind.FIRST, blend="f" * 32)


@pytest.mark.parametrize("order", [(0, 1), (0, 1, 1), (1, 2, 3), (0, 1, 2, 3)])
def test_ranking_is_refused_when_it_is_not_of_all_tokens(order: tuple[int, ...]) -> None:
    plain = variant("d", tokens=3)
    assert replace(plain, ranking=Ranking((2, 0, 1), ())).has_seen([DocumentTag("d")])
    with pytest.raises(ValueError, match="each of 3 tokens once"):
        replace(plain, ranking=Ranking(order, ()))
