"""How much of a variant must be repaired where it is to be used: Cache-Craft's fix overhead.

Cache-Craft (arXiv 2502.15734, SIGMOD 2025), Eq. 6-12. A variant that looked much at what was before it
(CCI), and that has other documents before it now (overlap) or in another order (order penalty), needs more.

Where the paper leaves a case open, or a variant's attention was not measured:

- Born behind nothing that the paper counts (filler), or used where nothing that it saw is before it: the
  overlap is 0. Two re-implementations say 1 for an empty old prefix; then a document that never saw its new
  neighbours would not be repaired at all.
- Not measured: the CCI is taken as 1, its upper limit, and every document before it counts the same. Then
  alpha is the share of tokens that is repaired where no document is in common.
- Measured, but with no mass on the documents before it: it owes them nothing, and the overlap is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp, inf

from mygo.blend.variants import Attention, Birth, BirthKind, DocumentTag, Variant


def cci(attention: Attention | None, tokens: int) -> float:
    """Chunk context impact in [0.5, 1] (Eq. 9-11): how much a document of ``tokens`` looked at what was
    before it, per pair of tokens, against itself. 1 if it was not measured."""
    if attention is None:
        return 1.0
    outside = sum(
        mass / (tokens * before)
        for mass, before in zip(attention.inter, attention.before_tokens, strict=True)
    )
    inside = attention.intra / tokens**2
    ratio = outside / inside if inside else (inf if outside else 0.0)
    return 1 / (1 + exp(-ratio))


def overlap(birth: Birth, before: Sequence[DocumentTag]) -> float:
    """Share of what the variant saw at its birth that is before it now (beta, Eq. 6), in [0, 1]."""
    if not birth.before:
        return 0.0
    here = frozenset(before)
    masses = birth.attention.inter if birth.attention is not None else (1.0,) * len(birth.before)
    total = sum(masses)
    if not total:
        return 1.0
    return sum(mass for mass, document in zip(masses, birth.before, strict=True) if document in here) / total


def order_penalty(birth: Birth, before: Sequence[DocumentTag]) -> float:
    """Share of the pairs of common documents that have changed their order (gamma, Eq. 7), in [0, 1].

    A document that occurs twice counts where it comes first.
    """
    places: dict[DocumentTag, int] = {}
    for place, document in enumerate(before):
        places.setdefault(document, place)
    common = [places[document] for document in dict.fromkeys(birth.before) if document in places]
    pairs = len(common) * (len(common) - 1) // 2
    if not pairs:
        return 0.0
    swapped = sum(common[i] > common[j] for i in range(len(common)) for j in range(i + 1, len(common)))
    return swapped / pairs


def need(variant: Variant, before: Sequence[DocumentTag]) -> float:
    """The CFO at alpha 1, in [0, 1]: CCI * (1 - beta * (1 - gamma)) (Eq. 8, 12).

    ``before`` are the documents before it in the new prompt, in order. 0 for a first birth with nothing
    before it: it is in the place where it was born.
    """
    if variant.birth.kind is BirthKind.FIRST and not before:
        return 0.0
    kept = overlap(variant.birth, before) * (1 - order_penalty(variant.birth, before))
    return min(1.0, max(0.0, cci(variant.birth.attention, variant.tokens) * (1 - kept)))


def repair_tokens(cfo: float, tokens: int, floor_tokens: int) -> int:
    """Tokens of a variant to recompute: ceil(CFO * tokens), at least the floor and at most all.

    The floor is for a document's first tokens, which take up attention that belongs to what is before it
    (EPIC, arXiv 2410.15332, recomputes 16 to 32 of them).
    """
    return min(tokens, max(floor_tokens, ceil(min(1.0, cfo) * tokens)))
