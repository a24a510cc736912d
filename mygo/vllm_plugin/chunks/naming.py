"""What a request's segments are called, as the ledger knows them: approximate ones by names of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mygo.types import SegmentKey, SegmentSpan
from mygo.vllm_plugin.chunks.live import Live


@dataclass(frozen=True, slots=True)
class Named:
    spans: Sequence[SegmentSpan]
    seen: Sequence[frozenset[str]]
    """By segment: tags of the passages that have left something in what is reused in it or before it."""


def named(live: Live) -> Named:
    """Segments that own approximate blocks get keys that no exact prompt asks for."""
    spans: list[SegmentSpan] = []
    for span in live.segments.spans:
        tags = [tag for start_tokens, tag in live.tags if start_tokens < span.end_tokens]
        if tags:
            digest = hashlib.blake2b((span.key + "".join(tags)).encode(), digest_size=16)
            span = replace(span, key=SegmentKey(digest.hexdigest()))
        spans.append(span)
    reused = live.seen()
    seen = [
        frozenset[str]().union(*(tags for start_tokens, tags in reused if start_tokens < span.end_tokens))
        for span in spans
    ]
    return Named(spans, seen)
