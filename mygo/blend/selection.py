"""Which of a variant's tokens are recomputed, once it is known how many.

Only what is known before a step is scheduled can be recomputed within it, in its token budget: a token's
place in its document, and how far its values are apart in copies of it that were born in different contexts.
Methods that rank tokens by what a prompt makes of them were left out:

- Key or value deviation from what the new place gives (CacheBlend, arXiv 2405.16444) is known once an early
  layer of *all* tokens has been computed there, in the middle of the step that was to compute a part of them.
- Attention to what was before at birth (Cache-Craft, arXiv 2502.15734, Eq. 14) could be stored with a
  variant. But paged attention returns no weights, and keys of earlier steps lie in the backend's own packing:
  it takes a second attention, beside the model's, on every prompt that something is kept of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice


class Method(StrEnum):
    FIRST_TOKENS = "first_tokens"
    """The first ones (EPIC, arXiv 2410.15332): they take up attention that belongs to what is before them."""
    SPREAD = "spread"
    """Evenly spaced ones: what others have to beat for their choice to mean something."""
    DEVIATION = "deviation"
    """Those whose values are farthest apart in two variants of the document (``variants.Ranking``); the first
    ones until there are two."""


@dataclass(frozen=True, slots=True)
class Repair:
    """How much of a reused document is recomputed, and which part of it."""

    share: float
    """Alpha: of its tokens, where it shares no context with its birth; in [0, 1]."""
    floor_tokens: int
    """At least so many, the first ones, whatever the method."""
    method: Method = Method.FIRST_TOKENS


def select(
    method: Method, tokens: int, count: int, first_tokens: int, order: Sequence[int] = ()
) -> list[int]:
    """The indices in [0, tokens) of ``count`` tokens to recompute, in ascending order.

    The ``first_tokens`` first ones are always among them; the method chooses the others. ``order``: all
    tokens as ``variants.Ranking`` has them, if they are ranked. Raises ValueError for counts that cannot be
    had.
    """
    if not 0 <= first_tokens <= count <= tokens:
        raise ValueError(f"cannot select {count} of {tokens} tokens, and the first {first_tokens} among them")
    match method:
        case Method.DEVIATION if order:
            behind = (index for index in order if index >= first_tokens)
            return [*range(first_tokens), *sorted(islice(behind, count - first_tokens))]
        case Method.FIRST_TOKENS | Method.DEVIATION:
            return list(range(count))
        case Method.SPREAD:
            others, chosen = tokens - first_tokens, count - first_tokens
            middles = [(2 * number + 1) * others // (2 * chosen) for number in range(chosen)]
            return [*range(first_tokens), *(first_tokens + middle for middle in middles)]
