"""Which variants are held where, and which leaves a full tier first: the one that saves least per byte."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from mygo.blend.variants import DocumentTag, Held, Ranking, Variant, VariantKey
from mygo.blend.worth import Entry, Repairs
from mygo.types import DomainTag, Tier

REMEMBERED = 4096
"""Variants that left, whose use is not forgotten: one that moves to a slower tier or is captured again does
not begin anew."""


class VariantCatalog:
    """Holds facts, not KV: who owns the bytes tells it what happens and does what it says.

    At most ``budget_bytes`` of variants per tier, and at most ``max_variants`` of one document in all tiers.
    Uses count half after ``half_life_requests``.
    """

    def __init__(
        self, budget_bytes: Mapping[Tier, int], *, max_variants: int, half_life_requests: float
    ) -> None:
        self._budget_bytes = dict(budget_bytes)
        self._max_variants = max_variants
        self._half_life_requests = half_life_requests
        self._tiers: dict[Tier, dict[VariantKey, Entry]] = {tier: {} for tier in Tier if tier in budget_bytes}
        """Fastest first."""
        self._used_bytes = dict.fromkeys(self._tiers, 0)
        self._of: dict[DocumentTag, dict[VariantKey, Entry]] = {}
        """What is held of each document, in any tier."""
        self._departed: OrderedDict[VariantKey, Entry] = OrderedDict()
        """Latest last."""
        self._ranks: dict[VariantKey, tuple[float, int, int]] = {}
        """Of what is held."""
        self._requests = 0
        self._entries = 0

    def __repr__(self) -> str:
        tiers = ", ".join(
            f"{tier} {len(held)} in {self._used_bytes[tier]}/{self._budget_bytes[tier]} bytes"
            for tier, held in self._tiers.items()
        )
        return f"VariantCatalog({tiers})"

    def used_bytes(self, tier: Tier) -> int:
        return self._used_bytes[tier]

    def held(self, document: DocumentTag, domains: Collection[DomainTag]) -> list[Held]:
        """The variants of a document that a path through ``domains`` may use, each in its fastest tier."""
        return [
            Held(entry.variant, next(tier for tier in self._tiers if tier in entry.tiers))
            for entry in self._of.get(document, {}).values()
            if entry.variant.domain in domains
        ]

    def record(self, documents: Mapping[DocumentTag, Repairs]) -> None:
        """A request came in which these documents could have been reused."""
        self._requests += 1
        for document, repairs in documents.items():
            held = self._of.get(document, {})
            for key in repairs:
                if entry := held.get(key):
                    entry.use(self._requests, self._half_life_requests, repairs)
            self._rank(document)

    def put(self, variant: Variant, tier: Tier, repairs: Repairs | None = None) -> list[Held] | None:
        """A copy is to be stored in a tier. Returns the copies that must leave for it; None, and nothing
        changes, if it is worth less than they are, or larger than the tier.

        ``repairs``, for a variant that is new, are those in the prompt for which it is stored, its own
        included; without them it counts as used once, with nothing to repair. What is known of it since it
        left, or from another tier, counts instead.
        """
        if variant.kv_bytes > self._budget_bytes[tier]:
            return None
        if variant.key in self._tiers[tier]:
            return []
        entry = self._entry(variant, {variant.key: 0, **(repairs or {})})
        self._add(entry, tier)
        leaving: list[tuple[Entry, Tier]] = []
        while victims := self._victims(variant.document, tier):
            for victim in victims:
                self._remove(*victim)
            leaving += victims
        if (entry, tier) in leaving:
            for victim in leaving:
                if victim != (entry, tier):
                    self._add(*victim)
            return None
        return [Held(victim.variant, left) for victim, left in leaving]

    def rank(self, key: VariantKey, ranking: Ranking) -> None:
        """How a variant's tokens are ranked has become known, if it still waits for this very ranking."""
        for held in self._tiers.values():
            entry = held.get(key)
            if entry is not None and entry.variant.ranking == replace(ranking, order=()):
                entry.variant = replace(entry.variant, ranking=ranking)

    def drop(self, key: VariantKey, tier: Tier) -> None:
        """A tier has lost its copy, if it had one."""
        if entry := self._tiers[tier].get(key):
            self._remove(entry, tier)

    def purge(self, documents: Collection[DocumentTag]) -> list[Held]:
        """Forget all variants of these documents, and all that were born behind them: they have seen them.
        The copies that are returned must leave."""
        gone = frozenset(documents)
        return self._forget(lambda each: each.has_seen(gone))

    def distrust(self) -> list[Held]:
        """Forget all variants that were born in sight of reused ones. What is returned must leave."""
        return self._forget(lambda each: bool(each.birth.blend))

    def _forget(self, doomed: Callable[[Variant], bool]) -> list[Held]:
        leaving = [
            (entry, tier)
            for tier, held in self._tiers.items()
            for entry in held.values()
            if doomed(entry.variant)
        ]
        for entry, tier in leaving:
            self._remove(entry, tier)
        for key in [key for key, entry in self._departed.items() if doomed(entry.variant)]:
            del self._departed[key]
        return [Held(entry.variant, tier) for entry, tier in leaving]

    def _entry(self, variant: Variant, repairs: Repairs) -> Entry:
        held = self._of.get(variant.document, {}).get(variant.key)
        if held is not None:
            return held
        if departed := self._departed.get(variant.key):
            departed.variant = variant  # captured again: what was measured at its birth may be new
            return departed
        self._entries += 1
        return Entry(variant, self._entries, self._requests, repairs)

    def _victims(self, document: DocumentTag, tier: Tier) -> list[tuple[Entry, Tier]]:
        """What must leave next for the limits to hold; empty if they do."""
        siblings = self._of.get(document, {}).values()
        if len(siblings) > self._max_variants:
            least = self._least(siblings)
            return [(least, each) for each in self._tiers if each in least.tiers]
        if self._used_bytes[tier] > self._budget_bytes[tier]:
            return [(self._least(self._tiers[tier].values()), tier)]
        return []

    def _add(self, entry: Entry, tier: Tier) -> None:
        variant = entry.variant
        self._departed.pop(variant.key, None)
        self._tiers[tier][variant.key] = entry
        self._of.setdefault(variant.document, {})[variant.key] = entry
        entry.tiers.add(tier)
        self._used_bytes[tier] += variant.kv_bytes
        self._rank(variant.document)

    def _remove(self, entry: Entry, tier: Tier) -> None:
        variant = entry.variant
        del self._tiers[tier][variant.key]
        entry.tiers.remove(tier)
        self._used_bytes[tier] -= variant.kv_bytes
        if entry.tiers:
            return
        del self._ranks[variant.key]
        siblings = self._of[variant.document]
        del siblings[variant.key]
        if not siblings:
            del self._of[variant.document]
        self._departed[variant.key] = entry
        if len(self._departed) > REMEMBERED:
            self._departed.popitem(last=False)
        self._rank(variant.document)

    def _rank(self, document: DocumentTag) -> None:
        """What a document's variants are worth depends on which others there are."""
        held = self._of.get(document, {})
        for key, entry in held.items():
            self._ranks[key] = entry.rank(held.keys() - {key}, self._half_life_requests)

    def _least(self, entries: Iterable[Entry]) -> Entry:
        return min(entries, key=lambda entry: self._ranks[entry.variant.key])
