"""What approximate blocks may be shared as: equal reuse shares, unequal reuse never does.

Block hashes are chained, so it is enough to mix a tag into the block in which each reused document begins:
everything behind it has seen it. A prompt that reuses the same first documents in the same way shares their
blocks, whatever it does behind them; an exact prompt has no tags and shares none. In the same way means: from
the same variant in the same place, with the same tokens recomputed, however they were chosen.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

from mygo.blend.plan import Piece


def tags(pieces: Sequence[Piece], generation: int) -> list[tuple[int, str]]:
    """(token at which a tag begins, tag of 32 hex digits) for each piece that is not exact, in order.

    ``generation`` is the guard's: what was blended before it lost trust is not hit afterwards.
    """
    return [(piece.start_tokens, _tag(piece, generation)) for piece in pieces if not piece.exact]


def _tag(piece: Piece, generation: int) -> str:
    assert piece.variant is not None, "a piece without a variant is exact"
    used = (piece.variant.key, piece.start_tokens, piece.end_tokens, generation)
    digest = hashlib.blake2b(":".join(map(str, used)).encode(), digest_size=16)
    digest.update(b"|" + array("Q", piece.repaired).tobytes())
    return digest.hexdigest()
