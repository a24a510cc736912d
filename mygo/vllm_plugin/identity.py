"""Block hashes that carry a sharing domain which narrows in mid-prompt.

vLLM hashes ``cache_salt`` into block 0 only, so it carries the domain of the first segment. Where
the salt changes later, the first block that holds a token of the new segment gets another hash:
SHA-256 over vLLM's own hash and the new salt. Every later block is hashed by vLLM itself on top of
that, so nothing after it can be hit from another domain, while blocks before it stay shared.

Because only the blocks at a change differ from vLLM's own chain, a token run has the same hashes
whether it was generated or comes back as part of a later prompt.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NewType

from mygo.types import SegmentSpan

BlockHash = NewType("BlockHash", bytes)
Hasher = Callable[[Any], list[BlockHash]]
"""vLLM's: appended blocks of a request -> their hashes, chained on ``request.block_hashes[-1]``."""


def salt_changes(spans: Sequence[SegmentSpan], block_tokens: int) -> dict[int, list[str]]:
    """Block index -> salts that begin in that block, in order.

    A span without tokens changes nothing, unless it is the last: generated tokens are its.
    """
    changes: dict[int, list[str]] = {}
    salt = spans[0].salt
    start_tokens = 0
    for span in spans:
        owns_tokens = span.end_tokens > start_tokens or span is spans[-1]
        if owns_tokens and span.salt != salt:
            changes.setdefault(start_tokens // block_tokens, []).append(span.salt)
            salt = span.salt
        start_tokens = span.end_tokens
    return changes


def narrow(
    request: Any, spans: Sequence[SegmentSpan], block_tokens: int, lonely_tokens: int | None = None
) -> None:
    """Rewrite ``request.block_hashes`` in place, and those of blocks that are filled later.

    ``request`` is a vLLM Request that was just added; ``block_tokens`` the size of its hashed
    blocks. The result depends on token ids, salts and vLLM's hash function alone, but from the token
    ``lonely_tokens`` on the request shares no block with any other.
    """
    changes = salt_changes(spans, block_tokens)
    if lonely_tokens is not None:
        changes.setdefault(lonely_tokens // block_tokens, []).append(secrets.token_hex(32))
    if changes:
        _rehash(request, changes)


def isolate(request: Any, first_block: int = 0) -> None:
    """Give a request an identity of its own, so that it shares no block with any other from this one on."""
    _rehash(request, {first_block: [secrets.token_hex(32)]})


def approximate(request: Any, hasher: Hasher, tags: Sequence[tuple[int, str]], block_tokens: int) -> None:
    """Share the blocks in which a tag begins, and all behind them, with those only that carry the same tags.

    ``hasher`` is the one that the request had for exact blocks: whatever tags it got before are forgotten.
    ``tags``: the token at which each begins.
    """
    changes: dict[int, list[str]] = {}
    for start_tokens, tag in tags:
        changes.setdefault(start_tokens // block_tokens, []).append(tag)
    request._block_hasher = _salting(hasher, changes)
    request.block_hashes.clear()
    request.update_block_hashes()


def _rehash(request: Any, changes: Mapping[int, Sequence[str]]) -> None:
    # A change may lie in the prompt's last, unfilled block, which generated tokens complete: so the
    # hasher is replaced, not only its results so far.
    request._block_hasher = _salting(request._block_hasher, changes)
    del request.block_hashes[min(changes) :]
    request.update_block_hashes()


def _salting(native: Hasher, changes: Mapping[int, Sequence[str]]) -> Hasher:
    def hash_blocks(request: Any) -> list[BlockHash]:
        hashes: list[BlockHash] = request.block_hashes
        known = len(hashes)
        hashes.extend(native(request))
        for index in sorted(changes):
            if known <= index < len(hashes):
                hashes[index] = _salted(hashes[index], changes[index])
                del hashes[index + 1 :]
                hashes.extend(native(request))
        fresh = hashes[known:]
        del hashes[known:]
        return fresh

    return hash_blocks


def _salted(block_hash: BlockHash, salts: Sequence[str]) -> BlockHash:
    digest = hashlib.sha256(block_hash)
    for salt in salts:
        encoded = salt.encode()
        digest.update(len(encoded).to_bytes(4, "little"))
        digest.update(encoded)
    return BlockHash(digest.digest())
