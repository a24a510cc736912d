"""What is kept of what requests compute: documents behind the system prompt, whole, in one go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from mygo.blend.plan import Slot
from mygo.blend.variants import Birth, BirthKind, Ranking, Variant, VariantKey, variant_key
from mygo.types import DomainTag
from mygo.vllm_plugin.chunks import documents
from mygo.vllm_plugin.chunks.holdings import Holdings
from mygo.vllm_plugin.chunks.layout import Positions
from mygo.vllm_plugin.chunks.live import Capturing, Live
from mygo.vllm_plugin.chunks.quality import Quality
from mygo.vllm_plugin.chunks.step import Capture

MOST_SEEN = 256
"""Documents besides its neighbours that have left something in a chunk: it goes with any of them."""


class Captures:
    """``births``: which copies of real prompts' documents are kept, besides those that lie first.
    ``chunk_bytes``: what a chunk of so many tokens takes of the workers' memory. ``ranks``: find out which
    of a document's tokens depend most on their context."""

    def __init__(
        self,
        holdings: Holdings,
        quality: Quality,
        births: BirthKind,
        chunk_bytes: Callable[[int], int],
        *,
        ranks: bool,
    ) -> None:
        self._holdings = holdings
        self._quality = quality
        self._births = births
        self._chunk_bytes = chunk_bytes
        self._ranks = ranks
        self._under_way: set[VariantKey] = set()

    def begin(self, live: Live) -> None:
        """A request is admitted: keep the documents behind its ``cached_tokens`` that it computes."""
        run = documents.leading(live.slots)
        for index, slot in enumerate(run):
            if slot.start_tokens < live.cached_tokens or self._quality.is_off(slot.document):
                continue
            if live.layout is not None and live.layout.reuses(slot.start_tokens):
                continue
            birth = self._birth(live, run[:index], slot.start_tokens)
            if birth.kind not in self._of_use(live, is_last=index + 1 == len(run)):
                continue
            if len(birth.seen) > MOST_SEEN:
                continue
            tokens = slot.end_tokens - slot.start_tokens
            domain = DomainTag(live.segments.salt_at(slot.end_tokens))
            key = variant_key(live.namespace, slot.document, domain, birth)
            variant = Variant(key, slot.document, tokens, self._chunk_bytes(tokens), domain, birth)
            if key not in self._under_way and self._holdings.wants(variant):
                self._under_way.add(key)
                self._holdings.filling(key)
                live.capturing.append(Capturing(variant, slot.start_tokens, slot.end_tokens))

    def _birth(self, live: Live, before: Sequence[Slot], start_tokens: int) -> Birth:
        return documents.birth(
            before,
            filler=live.segments.filler,
            tags=[tag for at_tokens, tag in live.tags if at_tokens < start_tokens],
            reused=[variant for at_tokens, variant in live.reuses() if at_tokens < start_tokens],
            ranked_by=[each for at_tokens, each in live.ranked_by() if at_tokens < start_tokens],
        )

    def _of_use(self, live: Live, *, is_last: bool) -> Collection[BirthKind]:
        if live.segments.filler:
            return {BirthKind.FILLER} if is_last else ()
        return {BirthKind.FIRST, self._births}

    def plan(self, live: Live, positions: Positions) -> list[Capture]:
        """What to keep of the tokens that a step computes; ``positions``: their true ones, rising."""
        captures: list[Capture] = []
        for capturing in list(live.capturing):
            first, last = np.searchsorted(positions, (capturing.start_tokens, capturing.end_tokens))
            if first == last:
                continue
            start, end = int(positions[first]), int(positions[last - 1]) + 1
            variant = capturing.variant
            chunk_start = start - capturing.start_tokens
            captures.append(Capture(variant.key, variant.tokens, chunk_start, start, end))
            if end == capturing.end_tokens:
                self._end(live, capturing)
                self._put(live, variant)
        return captures

    def _put(self, live: Live, variant: Variant) -> None:
        """Ranked from a variant that is shared as widely, and leaves no sooner where blends lose trust."""
        held = self._holdings.held(live.namespace, variant.document, {variant.domain}) if self._ranks else []
        others = [
            each.variant
            for each in held
            if each.variant.tokens == variant.tokens
            and (variant.birth.blend or not each.variant.birth.blend)
            and self._holdings.has([each.variant])
        ]
        # one that is first has seen nothing but the system prompt, which tells less of what others will do
        other = min(others, key=lambda each: each.birth.kind is BirthKind.FIRST, default=None)
        if other is not None:
            variant = replace(variant, ranking=Ranking((), other.birth.before + other.birth.seen))
        self._holdings.put(variant, other)

    def give_up(self, live: Live) -> None:
        """What is not whole yet never will be."""
        for capturing in list(live.capturing):
            self._end(live, capturing)
            self._holdings.drop(capturing.variant.key)

    def _end(self, live: Live, capturing: Capturing) -> None:
        live.capturing.remove(capturing)
        self._under_way.remove(capturing.variant.key)
