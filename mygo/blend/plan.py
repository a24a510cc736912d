"""The decision for one prompt: which documents to reuse, how much to repair, or to compute it exactly.

In order of preference: the exact prefix that is cached; then, per document, the variant that needs least
repair; then computation. What is chosen must be predicted to be sooner than exact prefill, as a whole and for
each document, so that reuse never costs more than it saves.

Two steps, because how much to repair may be decided in between, by how much is needed (``guard``): ``match``
finds the variants, ``plan`` prices them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mygo.blend import cfo
from mygo.blend.selection import Repair, select
from mygo.blend.variants import BirthKind, DocumentTag, Held, Ranking, Variant, VariantKey
from mygo.types import DomainTag, Tier

PrefillSeconds = Callable[[int, int], float]
"""T(cached_tokens, new_tokens) in seconds."""
LoadSeconds = Callable[[Tier, int], float]
"""Seconds to bring so many bytes from a tier to the device and to rotate their keys."""
Find = Callable[[DocumentTag, Collection[DomainTag]], Sequence[Held]]
"""The variants of a document that a path through these domains may use. ``VariantCatalog.held`` is one."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A document's place in a prompt."""

    document: DocumentTag
    start_tokens: int
    end_tokens: int
    domains: frozenset[DomainTag]
    """Every domain that the path has had up to the document's end, and those of its documents alone: who is
    here may read all of them."""
    own_domain: DomainTag | None = None
    """What the path's would be, were the document behind the system prompt alone; None if nobody said."""


@dataclass(frozen=True, slots=True)
class Match:
    """A document of a prompt, and the variant of it that needs least repair there."""

    start_tokens: int
    """Where reuse begins: behind the document's start if its first tokens are cached exactly."""
    end_tokens: int
    held: Held
    needs: Mapping[VariantKey, float]
    """The CFO at alpha 1 of every variant that may be used there."""
    order: tuple[int, ...] = ()
    """The document's tokens as a ``Ranking`` has them; empty if they are not ranked."""
    ranked_by: tuple[DocumentTag, ...] = ()
    """What that ranking tells something of."""

    @property
    def need(self) -> float:
        return self.needs[self.held.variant.key]

    @property
    def exact(self) -> bool:
        """The variant is in the place where it was born: it needs no repair and approximates nothing."""
        return self.held.variant.birth.kind is BirthKind.FIRST

    @property
    def offset_tokens(self) -> int:
        """Tokens of the variant that are not used, because the prompt has them exactly."""
        return self.held.variant.tokens - (self.end_tokens - self.start_tokens)

    def repairs(self, alpha: float, floor_tokens: int) -> dict[VariantKey, int]:
        """Tokens of the document to recompute under each variant that may be used there."""
        tokens = self.held.variant.tokens
        counts = {
            key: cfo.repair_tokens(alpha * need, tokens, floor_tokens) for key, need in self.needs.items()
        }
        if self.exact:
            counts[self.held.variant.key] = 0
        return counts

    def repair_tokens(self, alpha: float, floor_tokens: int) -> int:
        """Tokens to recompute from ``start_tokens`` on; exact ones before count as repaired."""
        return max(0, self.repairs(alpha, floor_tokens)[self.held.variant.key] - self.offset_tokens)

    def repaired(self, repair: Repair) -> tuple[int, ...]:
        """Which ones, counted from ``start_tokens``; rising."""
        offset = self.offset_tokens
        count = offset + self.repair_tokens(repair.share, repair.floor_tokens)
        first_tokens = min(count, max(offset, repair.floor_tokens))
        chosen = select(repair.method, self.held.variant.tokens, count, first_tokens, self.order)
        return tuple(index - offset for index in chosen if index >= offset)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a prompt, [start_tokens, end_tokens)."""

    start_tokens: int
    end_tokens: int
    match: Match | None
    """None: compute it in full."""
    repaired: tuple[int, ...] = ()
    """Those of a variant's tokens that are computed, counted from ``start_tokens``; rising."""

    @property
    def tokens(self) -> int:
        return self.end_tokens - self.start_tokens

    @property
    def repair_tokens(self) -> int:
        """How many of its tokens are computed."""
        return self.tokens if self.match is None else len(self.repaired)

    @property
    def variant(self) -> Variant | None:
        return None if self.match is None else self.match.held.variant

    @property
    def exact(self) -> bool:
        """Its KV equals what exact computation would give, if that before it does."""
        return self.match is None or self.match.exact


@dataclass(frozen=True, slots=True)
class BlendPlan:
    pieces: tuple[Piece, ...]
    """In order, without gaps, from the end of the cached prefix to the end of the prompt. The last one is
    computed in full."""
    predicted_s: float
    """Seconds until the prompt is computed: loading, repair and the rest."""
    exact_s: float
    """The same for exact prefill; more than ``predicted_s``."""

    @property
    def computed_tokens(self) -> int:
        return sum(piece.repair_tokens for piece in self.pieces)

    @property
    def approximate_from_tokens(self) -> int | None:
        """Where the first piece begins that is not exact; everything behind it has seen approximate KV. None
        if there is none."""
        return next((piece.start_tokens for piece in self.pieces if not piece.exact), None)


def match(slots: Sequence[Slot], *, prompt_tokens: int, cached_tokens: int, find: Find) -> list[Match]:
    """The documents that could be reused, in prompt order, each by the variant that needs least repair.

    ``slots`` are all documents of the prompt in order, the first one directly behind the system prompt.
    ``cached_tokens`` leading tokens are cached exactly. Ties go to the faster tier, then to the lesser key. A
    document that ends the prompt is computed: the engine needs a last token to compute. So is one whose
    variants have another length, whatever its tag says: reusing them would give a wrong answer in silence.
    """
    found: list[Match] = []
    for index, slot in enumerate(slots):
        start_tokens = max(slot.start_tokens, cached_tokens)
        if start_tokens >= slot.end_tokens or slot.end_tokens >= prompt_tokens:
            continue
        before = [each.document for each in slots[:index]]
        tokens = slot.end_tokens - slot.start_tokens
        copies = [held for held in find(slot.document, slot.domains) if held.variant.tokens == tokens]
        usable = [held for held in copies if held.variant.birth.kind is not BirthKind.FIRST or index == 0]
        if usable:
            needs = {held.variant.key: cfo.need(held.variant, before) for held in usable}
            best = min(usable, key=lambda held: _preference(held, needs))
            ranking = _ranking(best.variant, (held.variant for held in copies))
            found.append(Match(start_tokens, slot.end_tokens, best, needs, ranking.order, ranking.seen))
    return found


def _ranking(variant: Variant, copies: Iterable[Variant]) -> Ranking:
    """Its own, or else that of another variant: it is about the document. Empty if there is none."""
    known = [(each.key != variant.key, each.key, each.ranking) for each in copies if each.ranking is not None]
    ranked = [each for each in known if each[2].order]
    return min(ranked, key=lambda each: each[:2])[2] if ranked else Ranking((), ())


_SPEED = {tier: place for place, tier in enumerate(Tier)}


def _preference(held: Held, needs: Mapping[VariantKey, float]) -> tuple[bool, float, int, VariantKey]:
    variant = held.variant
    in_place = variant.birth.kind is BirthKind.FIRST
    return not in_place, needs[variant.key], _SPEED[held.tier], variant.key


def plan(
    matches: Sequence[Match],
    *,
    prompt_tokens: int,
    cached_tokens: int,
    repair: Repair,
    prefill_s: PrefillSeconds,
    load_s: LoadSeconds,
) -> BlendPlan | None:
    """The matches that pay, with what is to be repaired; None if exact prefill is predicted to be as fast.

    Documents join in the order of what a token that they spare costs to load, and the best number of them is
    kept. Computed tokens are priced as if all of them came last, where each attends to the most: reuse is
    never made to look cheaper than it is. Loading and computing are added up.
    """
    exact_s = prefill_s(cached_tokens, prompt_tokens - cached_tokens)
    offers = sorted(
        (_Offer(each, repair, load_s) for each in matches),
        key=lambda offer: offer.load_s / offer.spared_tokens if offer.spared_tokens else float("inf"),
    )
    best_s, chosen = exact_s, 0
    loading_s, computed_tokens = 0.0, prompt_tokens - cached_tokens
    for count, offer in enumerate(offers, start=1):
        loading_s += offer.load_s
        computed_tokens -= offer.spared_tokens
        total_s = loading_s + prefill_s(prompt_tokens - computed_tokens, computed_tokens)
        if total_s < best_s:
            best_s, chosen = total_s, count
    if not chosen:
        return None
    reused = sorted((offer.match for offer in offers[:chosen]), key=lambda each: each.start_tokens)
    return BlendPlan(_pieces(reused, repair, cached_tokens, prompt_tokens), best_s, exact_s)


class _Offer:
    def __init__(self, each: Match, repair: Repair, load_s: LoadSeconds) -> None:
        variant = each.held.variant
        used_tokens = each.end_tokens - each.start_tokens
        self.match = each
        self.spared_tokens = used_tokens - each.repair_tokens(repair.share, repair.floor_tokens)
        self.load_s = load_s(each.held.tier, variant.kv_bytes * used_tokens // variant.tokens)


def _pieces(
    reused: Sequence[Match], repair: Repair, cached_tokens: int, prompt_tokens: int
) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    at = cached_tokens
    for each in reused:
        if at < each.start_tokens:
            pieces.append(Piece(at, each.start_tokens, None))
        pieces.append(Piece(each.start_tokens, each.end_tokens, each, each.repaired(repair)))
        at = each.end_tokens
    pieces.append(Piece(at, prompt_tokens, None))
    return tuple(pieces)
