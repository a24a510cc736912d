"""Which chunks the workers hold, as the scheduler knows it; and what they must let go of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from mygo.blend.catalog import VariantCatalog
from mygo.blend.plan import Match
from mygo.blend.variants import DocumentTag, Held, Namespace, Variant, VariantKey, variant_key
from mygo.types import DomainTag, Tier
from mygo.vllm_plugin.settings import ChunkSettings

HALF_LIFE_REQUESTS = 1000.0
"""A use of a chunk counts half after so many requests."""


class Holdings:
    """Workers carry out steps in order, so what a step stores may be loaded by the next."""

    def __init__(self, settings: ChunkSettings) -> None:
        self._settings = settings
        self._catalog = self._empty()
        self._in_use: Counter[VariantKey] = Counter()
        self._dropped: dict[VariantKey, None] = {}
        """Known to workers, and of no use to new requests."""
        self._forgotten = False

    def __repr__(self) -> str:
        return f"Holdings({self._catalog!r}, {len(self._dropped)} to be dropped)"

    def _empty(self) -> VariantCatalog:
        return VariantCatalog(
            {Tier.HOST: self._settings.host_bytes},
            max_variants=self._settings.max_variants,
            half_life_requests=HALF_LIFE_REQUESTS,
        )

    # --- what is there ---------------------------------------------------------------------------

    def held(self, namespace: Namespace, document: DocumentTag, domains: Collection[DomainTag]) -> list[Held]:
        """Variants of a document that a path through ``domains`` may use, of one model, adapter and system
        prompt."""
        return [
            held
            for held in self._catalog.held(document, domains)
            if held.variant.key == variant_key(namespace, document, held.variant.domain, held.variant.birth)
        ]

    def wants(self, variant: Variant) -> bool:
        """Whether it is worth keeping: it is new, and there are not enough of its document already."""
        held = self._catalog.held(variant.document, {variant.domain})
        known = any(each.variant.key == variant.key for each in held)
        return not known and len(held) < self._settings.max_variants

    def used(self, matches: Iterable[Match]) -> None:
        """A request was admitted that could reuse these documents."""
        share, floor_tokens = self._settings.repair_share, self._settings.floor_tokens
        self._catalog.record(
            {match.held.variant.document: match.repairs(share, floor_tokens) for match in matches}
        )

    # --- what comes and goes ---------------------------------------------------------------------

    def filling(self, key: VariantKey) -> None:
        """Workers begin to fill a chunk. They may have an older one of this name, with the same content."""
        self._dropped.pop(key, None)

    def put(self, variant: Variant) -> None:
        """Workers have a whole chunk once this step is computed."""
        leaving = self._catalog.put(variant, Tier.HOST)
        for key in [variant.key] if leaving is None else [held.variant.key for held in leaving]:
            self.drop(key)

    def drop(self, key: VariantKey) -> None:
        """A chunk is of no use to new requests. Those that load it still may."""
        self._dropped[key] = None

    def pin(self, keys: Iterable[VariantKey]) -> None:
        """A request is going to load these chunks, in this step and later ones."""
        self._in_use.update(keys)

    def release(self, keys: Iterable[VariantKey]) -> None:
        """It will not load them any more."""
        self._in_use.subtract(keys)
        self._in_use += Counter()  # forget those that nobody uses

    def purge(self, documents: Collection[DocumentTag]) -> None:
        """Let go of these documents, and of all that was computed behind them."""
        for held in self._catalog.purge(documents):
            self.drop(held.variant.key)

    def forget(self) -> None:
        """Let go of everything at once."""
        self._catalog = self._empty()
        self._dropped.clear()
        self._forgotten = True

    def take_dropped(self) -> list[VariantKey]:
        """What workers can let go of now."""
        idle = [key for key in self._dropped if not self._in_use[key]]
        for key in idle:
            del self._dropped[key]
        return idle

    def take_forgotten(self) -> bool:
        """Whether workers must first let go of everything."""
        forgotten, self._forgotten = self._forgotten, False
        return forgotten
