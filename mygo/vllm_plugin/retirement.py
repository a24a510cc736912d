"""Deleted passages: their KV leaves every tier, and nobody hits it any more from the moment of the purge.

What was computed in sight of a passage goes with it. Prompts that hold one may still be on their way when it
is purged: they are served, but share nothing of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence

from vllm.v1.request import Request

from mygo.types import SegmentSpan
from mygo.vllm_plugin.device_cache import DeviceCache
from mygo.vllm_plugin.ledger import Ledger
from mygo.vllm_plugin.tiers.tiers import Tiers

LATE_S = 300.0
"""A prompt that was built before the deletion arrives within so many seconds after the purge. A passage that
comes back sooner is not cached until then."""


class Retirement:
    """One per engine."""

    def __init__(self, ledger: Ledger, cache: DeviceCache, tiers: Tiers, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._cache = cache
        self._tiers = tiers
        self._clock = clock
        self._retired: OrderedDict[str, float] = OrderedDict()
        """Tags that were purged, and when; latest last."""
        self._live: dict[str, tuple[Request, Sequence[SegmentSpan]]] = {}
        """Requests with a segment map."""
        self._doomed: dict[str, int] = {}
        """Live requests that have seen a purged passage, and their first block with some of it."""

    def purge(self, tags: Collection[str]) -> None:
        """Let go of everything that was computed in sight of passages with these tags."""
        now_s = self._clock()
        for tag in tags:
            self._retired[tag] = now_s
            self._retired.move_to_end(tag)
        blocks = self._ledger.in_sight_of(tags)
        self._cache.evict(blocks)
        self._tiers.purge(blocks, tags)
        wanted = frozenset(tags)
        for request_id, (_, spans) in self._live.items():
            first = next((i for i, span in enumerate(spans) if span.tag in wanted), None)
            if first is not None:
                self._doom(request_id, self._block_at(spans, first))

    def doom(self, requests: Mapping[str, int]) -> None:
        """Live requests that reuse something computed in sight of what was purged, from these tokens on."""
        for request_id, start_tokens in requests.items():
            self._doom(request_id, start_tokens // self._cache.block_tokens)

    def begin(self, request: Request, spans: Sequence[SegmentSpan]) -> int:
        """A request came. Returns how many of its leading segments it may share with others: all of them,
        unless it holds a passage that was purged lately."""
        while self._retired:
            tag, purged_s = next(iter(self._retired.items()))
            if self._clock() - purged_s <= LATE_S:
                break
            del self._retired[tag]
        self._live[request.request_id] = request, spans
        if not self._retired:
            return len(spans)
        shared = next((i for i, span in enumerate(spans) if span.tag in self._retired), len(spans))
        if shared < len(spans):
            self._doom(request.request_id, self._block_at(spans, shared))
        return shared

    def _doom(self, request_id: str, block: int) -> None:
        self._doomed[request_id] = min(block, self._doomed.get(request_id, block))
        self._tiers.keep_out(request_id)

    def lonely_block(self, request_id: str) -> int:
        """The first block that a live request may not share, if ``begin`` said that there is one."""
        return self._doomed[request_id]

    def finished(self, request_id: str) -> None:
        """A request is over; its blocks are freed next. What it cached since the purge goes, too."""
        live = self._live.pop(request_id, None)
        block = self._doomed.pop(request_id, None)
        if live is not None and block is not None:
            blocks = self._cache.hashes(live[0])[block:]
            self._cache.evict(blocks)
            self._tiers.purge(blocks, ())

    def _block_at(self, spans: Sequence[SegmentSpan], index: int) -> int:
        """The block in which a segment begins."""
        start_tokens = spans[index - 1].end_tokens if index else 0
        return start_tokens // self._cache.block_tokens
