"""Which documents of a prompt lack a copy that all may use who may read them: told with its answer."""

from __future__ import annotations

from mygo.blend.cfo import repair_tokens
from mygo.blend.fillers import Copy, Demand
from mygo.blend.variants import BirthKind
from mygo.vllm_plugin.chunks.holdings import HALF_LIFE_REQUESTS, Holdings
from mygo.vllm_plugin.chunks.live import NO_FILLERS, Live
from mygo.vllm_plugin.chunks.quality import Quality
from mygo.vllm_plugin.filling import FillerNews
from mygo.vllm_plugin.settings import ChunkSettings
from mygo.vllm_plugin.spans import Reuse


class Wants:
    """One per engine. Prompts that may not be blended want nothing."""

    def __init__(self, settings: ChunkSettings, holdings: Holdings, quality: Quality) -> None:
        self._settings = settings
        self._holdings = holdings
        self._quality = quality
        self._demand = Demand(HALF_LIFE_REQUESTS)

    def of(self, live: Live) -> FillerNews:
        """Of a request that was admitted, and captures what it will."""
        segments = live.segments
        measures = segments.filler or segments.ticket is not None or segments.repair is not None
        if segments.reuse is not Reuse.BLEND or measures or live.retired:
            return NO_FILLERS
        loaded = live.layout.variants if live.layout is not None else ()
        used_tokens = sum(
            variant.tokens
            for _, variant in live.reuses()
            if variant.key in loaded and variant.birth.kind is BirthKind.FILLER
        )
        lacking: dict[Copy, float] = {}
        numbers: dict[Copy, int] = {}
        for slot in live.slots:
            if slot.own_domain is None:
                continue
            copy = slot.document, slot.own_domain
            if self._is_there(live, copy):
                self._demand.met(copy)
            elif not self._quality.is_off(slot.document):
                lacking[copy] = self._saved_share(slot.end_tokens - slot.start_tokens)
                numbers[copy] = next(
                    number
                    for number, span in enumerate(segments.spans)
                    if span.tag and span.end_tokens == slot.end_tokens
                )
        head = live.slots[0]
        first = (head.document, head.own_domain) if head.own_domain is not None else None
        worth = self._demand.used(lacking, first)
        return FillerNews(used_tokens, tuple((numbers[copy], each) for copy, each in worth.items()))

    def _is_there(self, live: Live, copy: Copy) -> bool:
        """It is held, or this very request leaves one."""
        document, domain = copy
        held = [each.variant for each in self._holdings.held(live.namespace, document, {domain})]
        coming = [each.variant for each in live.capturing]
        return any(
            variant.birth.kind is not BirthKind.FIRST and (variant.document, variant.domain) == copy
            for variant in [*held, *coming]
        )

    def _saved_share(self, tokens: int) -> float:
        """Where it has no neighbour in common with its birth, as is always so behind neutral ones."""
        return 1 - repair_tokens(self._settings.repair_share, tokens, self._settings.floor_tokens) / tokens
