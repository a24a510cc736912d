"""Segment keys and sharing domains: the two things that decide who may hit what.

A key names a segment in its path. The engine plugin, the prompt room and the directory compute it
with this one function, so that they can never disagree.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence

from mygo.types import PUBLIC, ContentHash, DomainTag, SegmentKey

_SEPARATOR = "+"


def root_key(*, model: str, kv_dtype: str, tokenizer: str = "", lora: str = "") -> SegmentKey:
    """The key above every path: KV is never comparable across these."""
    identity = "\x00".join((model, lora, tokenizer, kv_dtype))
    return SegmentKey(hashlib.blake2b(identity.encode(), digest_size=16).hexdigest())


def segment_key(parent: SegmentKey, domain: DomainTag, token_ids: Sequence[int]) -> SegmentKey:
    """H(parent key, tag, token ids), 32 hex digits.

    ``domain`` is the path's domain at this segment, so equal text below a narrower domain has
    another key. The tag is length-prefixed: no two different inputs share an encoding.
    """
    tag = domain.encode()
    digest = hashlib.blake2b(digest_size=16)
    digest.update(bytes.fromhex(parent))
    digest.update(struct.pack("<I", len(tag)))
    digest.update(tag)
    digest.update(struct.pack(f"<{len(token_ids)}I", *token_ids))
    return SegmentKey(digest.hexdigest())


def narrow(path: DomainTag, segment: DomainTag) -> DomainTag:
    """The domain of a path after a segment joins it: the narrowest that covers both.

    ``public`` is the widest. Two different tenants' domains combine to ``a+b``, which neither of
    them reaches alone.
    """
    members = _members(path) | _members(segment)
    return DomainTag(_SEPARATOR.join(sorted(members))) if members else PUBLIC


def _members(domain: DomainTag) -> frozenset[str]:
    return frozenset() if domain == PUBLIC else frozenset(domain.split(_SEPARATOR))


def passage_tag(secret: bytes, domain: DomainTag, content_hash: ContentHash) -> str:
    """What names a passage to an engine, 32 hex digits: it cannot be guessed from the text.

    ``domain`` is the passage's own, whatever the path before it narrowed to: a deletion must find its KV
    on every path.
    """
    named = f"{len(domain)}:{domain}{content_hash}"
    return hmac.new(secret, named.encode(), hashlib.sha256).hexdigest()[:32]


def domain_salt(secret: bytes, domain: DomainTag) -> str:
    """What enters the engine's block hashes for a domain: an HMAC, so that nobody can guess it."""
    return hmac.new(secret, domain.encode(), hashlib.sha256).hexdigest()
