"""Which of a variant's tokens are recomputed, once it is known how many.

Every method takes the first tokens up to the floor; the rest it ranks. Ties go to the earlier token, so that
the same scores give the same tokens everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Method(StrEnum):
    FIRST_TOKENS = "first_tokens"
    """The first ones (EPIC, arXiv 2410.15332). Known before anything is computed."""
    INTER_ATTENTION = "inter_attention"
    """Those that looked most at what was before at birth (Cache-Craft, arXiv 2502.15734, Eq. 14): the
    variant's own scores."""
    KEY_DEVIATION = "key_deviation"
    """Those whose keys at an early layer are furthest from the stored ones (CacheBlend, arXiv 2405.15444;
    keys instead of values as in LMCache): scores that exist once that layer was computed. Where heads are
    spread over ranks, the scores must be summed over them, or ranks would choose differently."""


@dataclass(frozen=True, slots=True)
class Repair:
    """How much of a reused document is recomputed, and which part of it."""

    share: float
    """Alpha: of its tokens, where it shares no context with its birth; in [0, 1]."""
    floor_tokens: int
    """At least so many, the first ones."""
    method: Method


class Scores(Protocol):
    """One number per token, higher first: a list, a tuple or a 1-d array of floats."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> float: ...


def select(
    method: Method, tokens: int, count: int, *, floor_tokens: int = 0, scores: Scores | None = None
) -> list[int]:
    """The indices in [0, tokens) of ``count`` tokens to recompute, in ascending order.

    The first ``floor_tokens`` come first, then those of the highest scores; ``scores`` has ``tokens``
    numbers, and is not looked at by ``first_tokens``. Raises ValueError if there are none for a method that
    ranks, or not one per token, or a count that cannot be had.
    """
    if not 0 <= count <= tokens:
        raise ValueError(f"cannot select {count} of {tokens} tokens")
    if method is Method.FIRST_TOKENS:
        return list(range(count))
    if scores is None or len(scores) != tokens:
        given = "none" if scores is None else len(scores)
        raise ValueError(f"{method} needs a score for each of {tokens} tokens, not {given}")
    first = min(count, floor_tokens)
    ranked = sorted(range(first, tokens), key=lambda index: (-scores[index], index))
    return [*range(first), *sorted(ranked[: count - first])]


def runs(selected: Sequence[int]) -> list[range]:
    """Ascending indices as ranges without gaps: each can be computed as one stretch of a sequence."""
    found: list[range] = []
    for index in selected:
        if found and found[-1].stop == index:
            found[-1] = range(found[-1].start, index + 1)
        else:
            found.append(range(index, index + 1))
    return found
