"""What is known of one stored copy of a document's KV: the nouns of chunk reuse.

A document computed behind other text has other KV, because its tokens attended to that text. So a copy is a
*variant*: the document, and the context in which it was born. Born first behind the system prompt, a document
takes up the attention that a prompt's first document gets, and is of use in that place only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from mygo.types import DomainTag, Tier

DocumentTag = NewType("DocumentTag", str)
"""Names a document's content within its own sharing domain (``SegmentSpan.tag``). Equal tags mean equal
token ids; a deletion names what must go by it."""
VariantKey = NewType("VariantKey", str)
"""32 hex digits; made by ``variant_key``."""


class BirthKind(StrEnum):
    CONTEXTUAL = "contextual"
    """In a prompt, behind at least one other document."""
    FILLER = "filler"
    """Behind fixed neutral documents that occur in no prompt."""
    FIRST = "first"
    """Directly behind the system prompt: exact there, and of no use anywhere else."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Where a document's tokens looked when it was born: attention weights, heads summed, mean over layers.

    Cache-Craft (arXiv 2502.15734), Eq. 3 and 4. The system prompt is not among the documents before.
    """

    inter: tuple[float, ...]
    """Mass from the document's tokens to each document before it, in their order."""
    before_tokens: tuple[int, ...]
    """Length of each document before it, in their order."""
    intra: float
    """Mass from the document's tokens to itself."""


@dataclass(frozen=True, slots=True)
class Birth:
    kind: BirthKind
    before: tuple[DocumentTag, ...] = ()
    """The documents before it in its prompt, in order; empty unless contextual."""
    attention: Attention | None = None
    """None if it was not measured."""
    blend: str = ""
    """Names what was reused before it, and how; empty if all before it was computed exactly."""
    seen: tuple[DocumentTag, ...] = ()
    """What the reused ones had seen at their own births, besides ``before``."""

    def __post_init__(self) -> None:
        if bool(self.before) != (self.kind is BirthKind.CONTEXTUAL):
            raise ValueError(f"a {self.kind} birth cannot have {len(self.before)} documents before it")
        if self.attention is not None and not (
            len(self.before) == len(self.attention.inter) == len(self.attention.before_tokens)
        ):
            raise ValueError(f"attention must be given for each of the {len(self.before)} documents before")
        if (self.blend or self.seen) and not self.before:
            raise ValueError(f"a {self.kind} birth has no reused documents before it")


@dataclass(frozen=True, slots=True)
class Ranking:
    """Which of a document's tokens depend most on what is before the document: by how far their values are
    apart in two of its variants."""

    order: tuple[int, ...]
    """All tokens, those that depend most first; empty until it is known."""
    seen: tuple[DocumentTag, ...]
    """What the other variant has seen: the order tells something of it."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One copy of a document's KV: keys before rotary embedding, and values. All of it was computed in its
    birth context; a document that was reused itself is never stored again. What lay before it may have been
    reused. Its errors do not add up from copy to copy: a document gives most of its attention to itself and
    to the prompt's first tokens, so of an error before it, only a part arrives in it."""

    key: VariantKey
    document: DocumentTag
    tokens: int
    kv_bytes: int
    domain: DomainTag
    """The domain of the path at the document's end when it was born, thus the narrowest of everything before
    it and its own. Any name that is equal for equal domains will do, such as the path's salt."""
    birth: Birth
    ranking: Ranking | None = None
    """None if it is compared with no other variant."""

    def __post_init__(self) -> None:
        order = self.ranking.order if self.ranking is not None else ()
        if order and sorted(order) != list(range(self.tokens)):
            raise ValueError(f"a ranking must name each of {self.tokens} tokens once")

    @property
    def sources(self) -> frozenset[DocumentTag]:
        """Its document, and all that have left something in it, if only in its ranking."""
        ranked_by = self.ranking.seen if self.ranking is not None else ()
        return frozenset((self.document, *self.birth.before, *self.birth.seen, *ranked_by))

    def has_seen(self, documents: Collection[DocumentTag]) -> bool:
        """Whether it is of one of them, or one of them has left something in it."""
        return not self.sources.isdisjoint(documents)


@dataclass(frozen=True, slots=True)
class Held:
    """A variant, and the fastest tier that has it."""

    variant: Variant
    tier: Tier


@dataclass(frozen=True, slots=True)
class Namespace:
    """KV is never comparable across these."""

    model: str
    """Names the weights."""
    lora: str
    tokenizer: str
    kv_dtype: str
    system: str
    """Names the token ids of the system prompt, which every variant has seen."""
    filler: str
    """Version of the neutral documents of ``filler`` births; other births do not depend on it."""


def variant_key(namespace: Namespace, document: DocumentTag, domain: DomainTag, birth: Birth) -> VariantKey:
    """H(namespace, document, domain, birth). What attention was measured at birth changes nothing.

    The domain is part of it: two tenants' copies of one variant are two, or one would find the other's.
    Every part is length-prefixed: no two different inputs share an encoding.
    """
    digest = hashlib.blake2b(digest_size=16)
    parts = (
        namespace.model,
        namespace.lora,
        namespace.tokenizer,
        namespace.kv_dtype,
        namespace.system,
        namespace.filler if birth.kind is BirthKind.FILLER else "",
        document,
        domain,
        birth.kind,
        *birth.before,
        *([f"blend {birth.blend}"] if birth.blend else []),
    )
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "little"))
        digest.update(encoded)
    return VariantKey(digest.hexdigest())
