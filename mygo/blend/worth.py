"""What it is worth to keep a variant: what it saves, against its next best stand-in, per byte.

A variant saves the tokens that would be repaired under the next best variant of its document, or computed if
there is none, less those that are repaired under it. So of two equal copies one is worth nothing and the
other, once it is alone, everything: a document does not fill a tier with its own variants. Cache-Craft (arXiv
2502.15734) keeps what is used often and needs little repair, and publishes no formula; this one is ours:

    value = uses * mean over its last uses of (tokens repaired under the next best - under it) / bytes

in tokens per byte, which orders variants as seconds per byte would: a token costs about the same in all.
Uses fade with a half-life in requests. An exponential fades for all alike, so ranks hold until a variant of
the same document comes, goes or is used (LRFU, Lee et al., IEEE Trans. Computers 50(12), 2001).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from math import inf, log2

from mygo.blend.variants import Variant, VariantKey
from mygo.types import Tier

RECENT_USES = 8
"""Uses of a variant over which its saving is averaged."""

Repairs = Mapping[VariantKey, int]
"""Tokens to repair in one document's place in one prompt, under each variant that may be used there."""


class Entry:
    """A variant in a catalog: where it is held, and how it was used."""

    def __init__(self, variant: Variant, number: int, now: int, repairs: Repairs) -> None:
        self.variant = variant
        self.tiers: set[Tier] = set()
        self.uses = 1.0
        """As of ``used_at``."""
        self.used_at = now
        self.recent = deque([repairs], RECENT_USES)
        self.number = number

    def use(self, now: int, half_life_requests: float, repairs: Repairs) -> None:
        """Request number ``now`` could use it."""
        self.uses = self.uses * 2 ** ((self.used_at - now) / half_life_requests) + 1
        self.used_at = now
        self.recent.append(repairs)

    def rank(self, others: Collection[VariantKey], half_life_requests: float) -> tuple[float, int, int]:
        """Least leaves first: log2 of the value as of request 0; equals in the order of their last use, then
        of their coming. ``others`` are what is held of the same document."""
        saved_tokens = self._saved_tokens(others)
        worth = -inf
        if saved_tokens:
            worth = log2(self.uses * saved_tokens / self.variant.kv_bytes) + self.used_at / half_life_requests
        return worth, self.used_at, self.number

    def _saved_tokens(self, others: Collection[VariantKey]) -> float:
        """By one use, on average."""
        key, tokens = self.variant.key, self.variant.tokens
        saved = sum(
            max(0, min((repairs.get(other, tokens) for other in others), default=tokens) - repairs[key])
            for repairs in self.recent
        )
        return saved / len(self.recent)
