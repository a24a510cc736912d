"""Which chunks the workers hold, as the scheduler knows it; and what they must fetch, write and let go of."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable

from mygo.blend.catalog import VariantCatalog
from mygo.blend.plan import Match
from mygo.blend.variants import DocumentTag, Held, Namespace, Variant, VariantKey, variant_key
from mygo.types import DomainTag, Tier
from mygo.vllm_plugin.chunks.disk import ChunkHome, ChunkReport
from mygo.vllm_plugin.chunks.step import ChunkStep
from mygo.vllm_plugin.settings import ChunkSettings

HALF_LIFE_REQUESTS = 1000.0
"""A use of a chunk counts half after so many requests."""
UNHEARD_STEPS = 2
"""Planned before it is heard what became of the first, at most: one computes, the next may be scheduled."""


class Holdings:
    """The catalog decides what is worth keeping; here it is known what really lies in the workers' memory.

    Workers carry out steps in order, so what a step stores may be loaded by the next. ``ranks`` workers each
    have their part of every chunk. ``home``: where chunks lie on disk, if they do; what is there is found at
    once.
    """

    def __init__(self, settings: ChunkSettings, home: ChunkHome | None, ranks: int) -> None:
        self._settings = settings
        budget_bytes = {Tier.HOST: settings.host_bytes}
        if home is not None:
            budget_bytes[Tier.DISK] = settings.disk_bytes
        self._catalog = VariantCatalog(
            budget_bytes, max_variants=settings.max_variants, half_life_requests=HALF_LIFE_REQUESTS
        )
        self._home = home
        self._ranks = ranks
        self._in_memory: set[VariantKey] = set()
        self._in_use: Counter[VariantKey] = Counter()
        self._dropped: dict[VariantKey, None] = {}
        """In memory, and of no use to new requests."""
        self._filling: set[VariantKey] = set()
        """Begun, and not whole yet."""
        self._fetching: dict[VariantKey, tuple[Variant, int]] = {}
        """And how many ranks have read their part."""
        self._completed: deque[list[VariantKey]] = deque([[]], maxlen=UNHEARD_STEPS + 1)
        """By the step that is being planned, last, and those before it."""
        self.next_step = ChunkStep(home=home)
        """What the workers are told with the next step; whoever plans it fills in the rest."""
        if home is not None:
            self._find(home)

    def __repr__(self) -> str:
        return f"Holdings({self._catalog!r}, {len(self._in_memory)} in memory, {len(self._fetching)} coming)"

    def _find(self, home: ChunkHome) -> None:
        """Take over what an earlier engine left on disk. What nobody would know of is deleted: it would stay
        when its document is."""
        found = home.files(rank=0).variants()
        for variant in found:
            if not self._keep_on_disk(variant):
                self.next_step.erased.append(variant.key)
        known = {variant.key for variant in found}
        for rank in range(1, self._ranks):
            left = (variant.key for variant in home.files(rank).variants())
            self.next_step.erased += [key for key in left if key not in known]

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

    # --- what comes ------------------------------------------------------------------------------

    def filling(self, key: VariantKey) -> None:
        """Workers begin to fill a chunk. They may have an older one of this name, with the same content."""
        self._dropped.pop(key, None)
        self._filling.add(key)

    def put(self, variant: Variant, other: Variant | None = None) -> None:
        """Workers have a whole chunk once the step that is being planned is computed. ``other``: in memory,
        and what it is ranked from; then its ranking says what that has seen."""
        self._filling.discard(variant.key)
        self._completed[-1].append(variant.key)
        if other is not None:
            self.next_step.rankings.append((variant, other.key))
        if self._home is not None and self._keep_on_disk(variant):
            self.next_step.writes.append(variant)
        self._keep_in_memory(variant)

    def has(self, variants: Iterable[Variant]) -> bool:
        """Whether all of them are in memory."""
        return all(variant.key in self._in_memory for variant in variants)

    def fetch(self, variants: Iterable[Variant]) -> None:
        """Bring into memory what is not there."""
        for variant in variants:
            if variant.key not in self._in_memory and variant.key not in self._fetching:
                self._dropped.pop(variant.key, None)  # what some ranks still have of it is read anew
                self._fetching[variant.key] = variant, 0
                self.next_step.reads.append(variant.key)

    def heard(self, report: ChunkReport) -> None:
        """What the workers found."""
        for key in report.missing:
            self._catalog.drop(key, Tier.HOST)
            self._in_memory.discard(key)
            self._outdated(key)  # other ranks may have their part
        for key in report.lost:
            # other ranks may have their part, on disk as in memory
            self._catalog.drop(key, Tier.DISK)
            self.next_step.erased.append(key)
            if self._fetching.pop(key, None) is not None:
                self._outdated(key)
        for key, ranking in report.rankings.items():
            self._catalog.rank(key, ranking)
        for key, ranks in report.read.items():
            if key not in self._fetching:
                self._outdated(key)
                continue
            variant, before = self._fetching[key]
            self._fetching[key] = variant, before + ranks
            if before + ranks == self._ranks:
                del self._fetching[key]
                self._keep_in_memory(variant)

    def _keep_in_memory(self, variant: Variant) -> None:
        self._in_memory.add(variant.key)
        self._dropped.pop(variant.key, None)
        leaving = self._catalog.put(variant, Tier.HOST)
        if leaving is None:
            self.drop(variant.key)
        else:
            self._leave(leaving)

    def _keep_on_disk(self, variant: Variant) -> bool:
        leaving = self._catalog.put(variant, Tier.DISK)
        if leaving is None:
            return False
        self._leave(leaving)
        return True

    # --- what goes -------------------------------------------------------------------------------

    def _leave(self, leaving: Iterable[Held]) -> None:
        for held in leaving:
            if held.tier is Tier.HOST:
                self.drop(held.variant.key)
            else:
                self.next_step.erased.append(held.variant.key)

    def drop(self, key: VariantKey) -> None:
        """A chunk in memory is of no use to new requests. Those that load it still may."""
        self._filling.discard(key)
        self._dropped[key] = None

    def _outdated(self, key: VariantKey) -> None:
        """Drop it, unless what is there now is just being filled: then this is of an earlier one."""
        if key not in self._filling:
            self.drop(key)

    def pin(self, keys: Iterable[VariantKey]) -> None:
        """A request is going to load these chunks, in this step and later ones."""
        self._in_use.update(keys)

    def release(self, keys: Iterable[VariantKey]) -> None:
        """It will not load them any more."""
        self._in_use.subtract(keys)
        self._in_use += Counter()  # forget those that nobody uses

    def purge(self, documents: Collection[DocumentTag]) -> None:
        """Let go of these documents, and of all that was computed behind them."""
        gone = frozenset(documents)
        self._leave(self._catalog.purge(gone))
        self._stop_fetching(lambda each: each.has_seen(gone))

    def distrust(self) -> None:
        """Let go of all that was computed in sight of what was reused."""
        self._leave(self._catalog.distrust())
        self._stop_fetching(lambda each: bool(each.birth.blend))

    def _stop_fetching(self, doomed: Callable[[Variant], bool]) -> None:
        """What still comes from disk is dropped when it is there."""
        for key, (variant, _) in list(self._fetching.items()):
            if doomed(variant):
                del self._fetching[key]

    def distrust_latest(self) -> None:
        """What the last steps completed may have seen what was not there."""
        for key in {key for keys in self._completed for key in keys}:
            self._catalog.drop(key, Tier.HOST)
            self._outdated(key)
            if self._home is not None:
                self._catalog.drop(key, Tier.DISK)
                self.next_step.erased.append(key)

    @property
    def is_leaving(self) -> bool:
        """Workers have yet to be told to let go of something."""
        return bool(self.next_step.erased) or any(not self._in_use[key] for key in self._dropped)

    def forget(self) -> None:
        """Let go of everything in memory at once."""
        for key in self._in_memory:
            self._catalog.drop(key, Tier.HOST)
        self._in_memory.clear()
        self._dropped.clear()
        self.next_step.forget = True

    def take_step(self) -> ChunkStep:
        """What is to come and go with the step that has been planned."""
        step, self.next_step = self.next_step, ChunkStep()
        self._completed.append([])
        step.dropped = [key for key in self._dropped if not self._in_use[key]]
        for key in step.dropped:
            del self._dropped[key]
            self._in_memory.discard(key)
        return step
