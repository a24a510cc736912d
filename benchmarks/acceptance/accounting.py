"""PURE. Which document tokens a request computed, and which of them had been computed before."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Touch:
    """One document in one prompt: tokens ``start_tokens`` to ``end_tokens`` of it."""

    path: tuple[str, ...]
    """Names the document and those before it: KV is that of a document *behind* others."""
    start_tokens: int
    end_tokens: int


@dataclass(frozen=True, slots=True)
class Served:
    """One answered request, as far as accounting needs it."""

    worker: str
    cached_tokens: int
    """Leading tokens of the prompt that the worker held."""
    touches: tuple[Touch, ...]


def computed_tokens(touch: Touch, cached_tokens: int, block_tokens: int) -> int:
    """Tokens of the document that were computed, in whole blocks.

    The engine caches whole blocks, and a document's last tokens share one with what follows: where that
    differs they are computed anew, whoever routes. They are not counted.
    """
    reusable_end = touch.end_tokens - touch.end_tokens % block_tokens
    return max(0, reusable_end - max(cached_tokens, touch.start_tokens))


def recomputed_tokens(requests: Sequence[Served], block_tokens: int) -> int:
    """Document tokens computed although an earlier request had them computed, on whatever worker.

    ``requests`` in the order in which they were sent. The first touch of a path is no waste and does
    not count; two requests that meet a new document at the same time are first and second.
    """
    seen: set[tuple[str, ...]] = set()
    total = 0
    for request in requests:
        for touch in request.touches:
            if touch.path in seen:
                total += computed_tokens(touch, request.cached_tokens, block_tokens)
            seen.add(touch.path)
    return total


def shares(requests: Sequence[Served], workers: Sequence[str]) -> dict[str, float]:
    """Worker -> its share of the requests; of all ``workers``, also those that got none."""
    return {name: sum(each.worker == name for each in requests) / len(requests) for name in workers}


def zipf_trace(rng: random.Random, items: int, requests: int, exponent: float) -> list[int]:
    """``requests`` draws from ``range(items)``; the item of rank r weighs ``r ** -exponent``.

    Ranks are shuffled, so that an item's number says nothing about its popularity.
    """
    ranked = list(range(items))
    rng.shuffle(ranked)
    weights = [rank**-exponent for rank in range(1, items + 1)]
    return rng.choices(ranked, weights, k=requests)
