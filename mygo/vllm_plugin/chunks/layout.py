"""Which tokens of a prompt are computed and which come from stored chunks, as the scheduler counts them.

vLLM counts a request's tokens from the left: so many are computed, the rest are not. Where the first tokens
of chunks are repaired, computed and loaded ones lie in turns. So the scheduler is told that all loaded tokens
come first, and computes the others behind them. Its count is translated here: the k-th token that it
schedules is ``computed[k]``. No token's true position is behind the one that the scheduler has in mind, so
every block that a step writes to or reads is allocated by then.

No I/O, no vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mygo.blend.variants import VariantKey

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of prompt tokens whose KV lies in a stored chunk."""

    variant: VariantKey
    start_tokens: int
    end_tokens: int
    repaired: tuple[int, ...]
    """Tokens, counted from ``start_tokens``, that are computed all the same; rising."""


@dataclass(frozen=True, slots=True)
class Load:
    """Prompt tokens to be filled from a chunk before a step computes."""

    variant: VariantKey
    chunk_start: int
    """The first of them, counted from the chunk's beginning."""
    start_tokens: int
    end_tokens: int
    cached_tokens: int
    """Leading tokens of the prompt that are in place without any chunk."""


class Layout:
    """One admission of a request. ``cached_tokens`` leading tokens are in place; of the others up to
    ``prompt_tokens``, those of the pieces are loaded unless they are repaired."""

    def __init__(self, cached_tokens: int, prompt_tokens: int, pieces: Sequence[Piece]) -> None:
        self.cached_tokens = cached_tokens
        self._pieces = [piece for piece in pieces if piece.end_tokens > cached_tokens]
        computed = np.ones(prompt_tokens, dtype=bool)
        for piece in self._pieces:
            computed[piece.start_tokens : piece.end_tokens] = False
            computed[piece.start_tokens + np.array(piece.repaired, dtype=np.int64)] = True
        computed[:cached_tokens] = False
        self.computed: Positions = np.flatnonzero(computed)
        """Positions that are computed, rising."""
        self.loaded_tokens = prompt_tokens - cached_tokens - len(self.computed)
        self.variants = tuple(piece.variant for piece in self._pieces)
        self.repaired_tokens = sum(
            piece.start_tokens + index >= cached_tokens for piece in self._pieces for index in piece.repaired
        )
        self.first_scheduled = cached_tokens + self.loaded_tokens
        """The scheduler's count when it begins."""

    def reuses(self, position: int) -> bool:
        """Whether the token there belongs to a chunk."""
        return any(piece.start_tokens <= position < piece.end_tokens for piece in self._pieces)

    def covers(self, counted_tokens: int) -> bool:
        """Whether the scheduler still counts as told here: something is left to be computed."""
        return 0 <= counted_tokens - self.first_scheduled < len(self.computed)

    def positions(self, counted_tokens: int, new_tokens: int) -> Positions:
        """True positions of the ``new_tokens`` that the scheduler computes behind ``counted_tokens``."""
        first = counted_tokens - self.first_scheduled
        return self.computed[first : first + new_tokens]

    def complete_tokens(self, counted_tokens: int) -> int:
        """Leading tokens that need neither loading nor computing once the scheduler counts so many."""
        if not self.covers(counted_tokens):
            return counted_tokens
        if counted_tokens == self.first_scheduled:  # no step has loaded anything yet
            return self.cached_tokens
        return int(self.computed[counted_tokens - self.first_scheduled])

    def loads(self, counted_tokens: int, new_tokens: int) -> Iterator[Load]:
        """What must be in place before a step computes ``new_tokens`` behind ``counted_tokens``.

        The steps of a request together load every token that they do not compute once, and none twice.
        """
        start = self.complete_tokens(counted_tokens)
        end = self.complete_tokens(counted_tokens + new_tokens)
        for piece in self._pieces:
            first, last = max(piece.start_tokens, start), min(piece.end_tokens, end)
            if first < last:
                chunk_start = first - piece.start_tokens
                yield Load(piece.variant, chunk_start, first, last, self.cached_tokens)
