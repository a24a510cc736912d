"""How far a document's stored values are from those that an exact computation gives it, where it is compared.

Answers alone do not show a damaged chunk (``blend/guard.py``). So the request that computes a prompt exactly,
of the two that a comparison takes, also tells how far the values are that the blended one loads. Only values:
they carry no position. After the deviation by which CacheBlend (arXiv 2405.16444) finds tokens to recompute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mygo.blend.variants import DocumentTag
from mygo.vllm_plugin.chunks.layout import Piece, Positions
from mygo.vllm_plugin.chunks.step import Comparison


@dataclass(frozen=True, slots=True)
class Comparing:
    """A document of a prompt that is computed exactly, and the chunk that the ticket's blend loads for it."""

    ticket: int
    document: DocumentTag
    piece: Piece

    def within(self, computed: Positions) -> Comparison | None:
        """Its tokens among those that a step computes (rising); repaired ones tell nothing of the chunk."""
        piece = self.piece
        inside = computed[(computed >= piece.start_tokens) & (computed < piece.end_tokens)]
        loaded = inside[~np.isin(inside - piece.start_tokens, piece.repaired)]
        if not len(loaded):
            return None
        return Comparison(self.ticket, self.document, piece.variant, loaded, piece.start_tokens)


def end_tokens(comparing: Sequence[Comparing]) -> int:
    """Where the last of them ends."""
    return max((each.piece.end_tokens for each in comparing), default=0)
