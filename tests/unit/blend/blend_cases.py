"""Variants and births for tests, and Hypothesis strategies for them."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from mygo.blend.variants import (
    Attention,
    Birth,
    BirthKind,
    DocumentTag,
    Held,
    Namespace,
    Variant,
    variant_key,
)
from mygo.types import PUBLIC, DomainTag, Tier

NAMESPACE = Namespace("model", "", "tokenizer", "bfloat16", "system", "1")
FILLER = Birth(BirthKind.FILLER)
FIRST = Birth(BirthKind.FIRST)


def behind(*documents: str, attention: Attention | None = None) -> Birth:
    return Birth(BirthKind.CONTEXTUAL, tuple(map(DocumentTag, documents)), attention)


def variant(
    document: str,
    birth: Birth = FILLER,
    *,
    tokens: int = 100,
    kv_bytes: int = 1000,
    domain: DomainTag = PUBLIC,
) -> Variant:
    tag = DocumentTag(document)
    return Variant(variant_key(NAMESPACE, tag, domain, birth), tag, tokens, kv_bytes, domain, birth)


def on_host(each: Variant) -> Held:
    return Held(each, Tier.HOST)


documents = st.sampled_from("ABCDE").map(DocumentTag)
paths = st.lists(documents, max_size=5, unique=True)
masses = st.just(0.0) | st.floats(1e-3, 1e3)


@st.composite
def contextual_births(draw: st.DrawFn) -> Birth:
    before: Sequence[DocumentTag] = draw(st.lists(documents, min_size=1, max_size=5, unique=True))
    each = {"min_size": len(before), "max_size": len(before)}
    attention = draw(
        st.none()
        | st.builds(
            Attention,
            st.lists(masses, **each).map(tuple),
            st.lists(st.integers(1, 500), **each).map(tuple),
            masses,
        )
    )
    return Birth(BirthKind.CONTEXTUAL, tuple(before), attention)


births = st.sampled_from([FILLER, FIRST]) | contextual_births()
