"""The catalog against a model that counts every use anew, and what its values mean, by example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from blend_cases import FILLER, behind, births, variant
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mygo.blend.catalog import VariantCatalog
from mygo.blend.variants import Birth, BirthKind, DocumentTag, Held, Ranking, Variant, VariantKey
from mygo.blend.worth import RECENT_USES, Repairs
from mygo.types import PUBLIC, DomainTag, Tier

A, B = DocumentTag("A"), DocumentTag("B")
BUDGET_BYTES = {Tier.HOST: 1000, Tier.DISK: 2000}
HALF_LIFE_REQUESTS = 5.0


def catalog(host_bytes: int = 1000, *, max_variants: int = 3) -> VariantCatalog:
    return VariantCatalog(
        {Tier.HOST: host_bytes, Tier.DISK: 2000},
        max_variants=max_variants,
        half_life_requests=HALF_LIFE_REQUESTS,
    )


def tenants_variant(document: str, domain: str) -> Variant:
    return variant(document, domain=DomainTag(domain), kv_bytes=100)


def test_catalog_lets_the_document_go_that_is_used_least() -> None:
    store = catalog()
    once, often = variant("A", kv_bytes=500), variant("B", kv_bytes=500)
    assert store.put(often, Tier.HOST, {often.key: 15}) == []
    assert store.put(once, Tier.HOST, {once.key: 15}) == []
    for _ in range(3):
        store.record({B: {often.key: 15}})
    new = variant("C", kv_bytes=500)
    assert store.put(new, Tier.HOST, {new.key: 15}) == [Held(once, Tier.HOST)]
    assert store.held(B, [PUBLIC]) == [Held(often, Tier.HOST)]


def test_catalog_lets_the_larger_go_when_both_save_as_much() -> None:
    store = catalog()
    large, small = variant("A", kv_bytes=600), variant("B", kv_bytes=300)
    for each in (small, large):
        assert store.put(each, Tier.HOST, {each.key: 15}) == []
    new = variant("C", kv_bytes=300)
    assert store.put(new, Tier.HOST, {new.key: 15}) == [Held(large, Tier.HOST)]


def test_catalog_refuses_what_is_worth_less_than_what_must_leave() -> None:
    store = catalog()
    held = variant("A", kv_bytes=800)
    store.put(held, Tier.HOST, {held.key: 15})
    poor = variant("B", kv_bytes=800)
    assert store.put(poor, Tier.HOST, {poor.key: 99}) is None
    assert store.held(B, [PUBLIC]) == []
    assert store.used_bytes(Tier.HOST) == 800
    assert store.put(variant("B", kv_bytes=1001), Tier.HOST) is None


def test_catalog_keeps_the_last_copy_when_its_equal_has_left() -> None:
    """Scenario: two variants of a hot document repair the same. One is worth nothing, both are not."""
    store = catalog()
    one, equal, cold = variant("A", kv_bytes=400), variant("A", behind("B"), kv_bytes=400), variant("B")
    repairs = {one.key: 15, equal.key: 15}
    store.put(one, Tier.HOST, repairs)
    store.put(equal, Tier.HOST, repairs)
    for _ in range(RECENT_USES):
        store.record({A: repairs})
    assert store.put(variant("C", kv_bytes=400), Tier.HOST) == [Held(one, Tier.HOST)]
    store.put(variant("D", kv_bytes=200), Tier.HOST)
    assert store.put(cold, Tier.HOST, {cold.key: 100}) is None
    assert store.held(A, [PUBLIC]) == [Held(equal, Tier.HOST)]


def test_catalog_lets_the_least_variant_go_when_a_document_has_too_many() -> None:
    store = catalog(max_variants=2)
    many = [variant("A", behind(name), kv_bytes=100) for name in "BCD"]
    repairs = {each.key: count for each, count in zip(many, (30, 50, 10), strict=True)}
    for each in many[:2]:
        assert store.put(each, Tier.HOST, repairs) == []
    store.put(many[1], Tier.DISK)
    assert store.put(many[2], Tier.HOST, repairs) == [Held(many[0], Tier.HOST)]


def test_catalog_serves_a_variant_only_to_paths_through_its_domain() -> None:
    store = catalog()
    public, mine, theirs = (tenants_variant("A", name) for name in (PUBLIC, "mine", "theirs"))
    for each in (public, mine, theirs):
        store.put(each, Tier.HOST)
    assert {held.variant for held in store.held(A, {PUBLIC, DomainTag("mine")})} == {public, mine}
    assert store.held(A, set()) == []


def test_catalog_names_the_fastest_tier() -> None:
    store = catalog()
    each = variant("A", kv_bytes=100)
    store.put(each, Tier.DISK)
    assert store.held(A, [PUBLIC]) == [Held(each, Tier.DISK)]
    store.put(each, Tier.HOST)
    assert store.held(A, [PUBLIC]) == [Held(each, Tier.HOST)]
    store.drop(each.key, Tier.HOST)
    store.drop(each.key, Tier.HOST)
    assert store.held(A, [PUBLIC]) == [Held(each, Tier.DISK)]
    assert repr(store) == "VariantCatalog(host 0 in 0/1000 bytes, disk 1 in 100/2000 bytes)"


def test_purge_takes_what_was_born_behind_the_document() -> None:
    store = catalog()
    saw_a, free = variant("B", behind("A"), kv_bytes=100), variant("B", FILLER, kv_bytes=100)
    own = variant("A", kv_bytes=100)
    for each in (saw_a, free, own):
        store.put(each, Tier.HOST)
    store.put(saw_a, Tier.DISK)
    assert set(store.purge([A])) == {Held(saw_a, Tier.HOST), Held(saw_a, Tier.DISK), Held(own, Tier.HOST)}
    assert store.held(B, [PUBLIC]) == [Held(free, Tier.HOST)]
    assert store.purge([A]) == []


def test_ranking_is_kept_only_by_the_variant_that_waits_for_it() -> None:
    store = catalog()
    each = replace(variant("B", kv_bytes=100), ranking=Ranking((), (A,)))
    store.put(each, Tier.HOST)
    store.put(each, Tier.DISK)
    known = Ranking(tuple(range(100)), (A,))
    store.rank(each.key, replace(known, seen=(B,)))
    assert store.held(B, [PUBLIC]) == [Held(each, Tier.HOST)]
    store.rank(each.key, known)
    store.rank(each.key, replace(known, order=known.order[::-1]))
    store.rank(VariantKey("another"), known)
    store.drop(each.key, Tier.HOST)
    assert store.held(B, [PUBLIC]) == [Held(replace(each, ranking=known), Tier.DISK)]


def test_purge_takes_what_was_ranked_by_what_has_seen_the_document() -> None:
    store = catalog()
    waiting, plain = variant("B", behind("C"), kv_bytes=100), variant("B", behind("D"), kv_bytes=100)
    waiting = replace(waiting, ranking=Ranking((), (A,)))
    for each in (waiting, plain):
        store.put(each, Tier.HOST)
    assert store.purge([A]) == [Held(waiting, Tier.HOST)]
    store.rank(waiting.key, Ranking(tuple(range(100)), (A,)))
    assert store.held(B, [PUBLIC]) == [Held(plain, Tier.HOST)]


def test_purge_and_distrust_take_what_was_born_in_sight_of_reuse() -> None:
    store = catalog()
    birth = Birth(BirthKind.CONTEXTUAL, (B,), blend="f" * 32, seen=(A,))
    blended, exact = variant("C", birth, kv_bytes=100), variant("C", behind("B"), kv_bytes=100)
    assert blended.key != exact.key
    for each in (blended, exact):
        store.put(each, Tier.HOST)
    assert store.purge([A]) == [Held(blended, Tier.HOST)]
    store.put(blended, Tier.HOST)
    assert store.distrust() == [Held(blended, Tier.HOST)]
    assert store.held(DocumentTag("C"), [PUBLIC]) == [Held(exact, Tier.HOST)]


def test_use_is_remembered_when_a_variant_left_for_a_slower_tier() -> None:
    store = catalog()
    hot, other = variant("A", kv_bytes=1000), variant("B", kv_bytes=1000)
    store.put(hot, Tier.HOST, {hot.key: 0})
    for _ in range(4):
        store.record({A: {hot.key: 0}})
    store.drop(hot.key, Tier.HOST)
    store.put(other, Tier.HOST, {other.key: 0})
    assert store.put(hot, Tier.HOST) == [Held(other, Tier.HOST)]


def test_use_is_forgotten_when_the_document_is_purged() -> None:
    store = catalog()
    hot, other = variant("A", kv_bytes=1000), variant("B", kv_bytes=1000)
    store.put(hot, Tier.HOST, {hot.key: 0})
    for _ in range(4):
        store.record({A: {hot.key: 0}})
    store.purge([A])
    store.put(other, Tier.HOST, {other.key: 0})
    store.record({B: {other.key: 0}})
    assert store.put(hot, Tier.HOST) is None


class NaiveWorth:
    """One variant's uses, all of them, and the formula as it is written."""

    def __init__(self, each: Variant, request: int, repairs: Repairs) -> None:
        self.variant = each
        self.at = [request]
        self.repairs = [repairs]

    def value(self, now: int, others: set[VariantKey]) -> float:
        uses = sum(0.5 ** ((now - at) / HALF_LIFE_REQUESTS) for at in self.at)
        recent = self.repairs[-RECENT_USES:]
        saved = 0
        for repairs in recent:
            next_best = min(
                [repairs.get(other, self.variant.tokens) for other in others] or [self.variant.tokens]
            )
            saved += max(0, next_best - repairs[self.variant.key])
        return uses * saved / len(recent) / self.variant.kv_bytes


domains = st.sampled_from([PUBLIC, DomainTag("a"), DomainTag("b")])
SIZES_BYTES = {"A": 150, "B": 200, "C": 250, "D": 300, "E": 350}
# attention is no part of a key, so it stays out: one key, one variant
variants = st.builds(
    lambda document, birth, domain: variant(
        document, replace(birth, attention=None), domain=domain, kv_bytes=SIZES_BYTES[document]
    ),
    st.sampled_from("ABCDE"),
    births,
    domains,
)
tiers = st.sampled_from([Tier.HOST, Tier.DISK])
counts = st.integers(0, 100)


class CatalogMachine(RuleBasedStateMachine):
    MAX_VARIANTS = 2

    def __init__(self) -> None:
        super().__init__()
        self.catalog = catalog(max_variants=self.MAX_VARIANTS)
        self.held: dict[Tier, dict[VariantKey, Variant]] = {Tier.HOST: {}, Tier.DISK: {}}
        self.worth: dict[VariantKey, NaiveWorth] = {}
        self.requests = 0

    def siblings(self, document: DocumentTag) -> set[VariantKey]:
        return {key for held in self.held.values() for key, each in held.items() if each.document == document}

    def value(self, key: VariantKey) -> float:
        others = self.siblings(self.worth[key].variant.document) - {key}
        return self.worth[key].value(self.requests, others)

    @rule(each=variants, tier=tiers, data=st.data())
    def put(self, each: Variant, tier: Tier, data: st.DataObject) -> None:
        repairs = {key: data.draw(counts) for key in self.siblings(each.document) | {each.key}}
        before = {kind: dict(held) for kind, held in self.held.items()}
        known = each.key in self.held[tier]
        if each.key not in self.worth:
            self.worth[each.key] = NaiveWorth(each, self.requests, repairs)
        self.held[tier][each.key] = each
        leaving = self.catalog.put(each, tier, repairs)
        if leaving is None:
            self.check_refused(each, tier)
            self.held = before
            return
        assert not (known and leaving)
        assert each.key not in [held.variant.key for held in leaving if held.tier is tier]
        for held in leaving:
            self.check_least(held, each, tier)
            del self.held[held.tier][held.variant.key]

    def check_least(self, leaving: Held, each: Variant, tier: Tier) -> None:
        key = leaving.variant.key
        if len(self.siblings(each.document)) > self.MAX_VARIANTS or leaving.tier is not tier:
            rivals = self.siblings(each.document)
        else:
            assert sum(one.kv_bytes for one in self.held[tier].values()) > BUDGET_BYTES[tier]
            rivals = set(self.held[tier])
        if key in rivals:
            assert self.value(key) <= min(map(self.value, rivals)) * (1 + 1e-9)

    def check_refused(self, each: Variant, tier: Tier) -> None:
        """It would have been the least once the lesser ones had left."""
        while True:
            siblings = self.siblings(each.document)
            crowded = len(siblings) > self.MAX_VARIANTS
            over = sum(one.kv_bytes for one in self.held[tier].values()) > BUDGET_BYTES[tier]
            assert crowded or over
            rivals = siblings if crowded else set(self.held[tier])
            least = min(map(self.value, rivals))
            if self.value(each.key) <= least * (1 + 1e-9):
                return
            # ties among others: whichever leaves, it is worth no more
            victim = min(rivals - {each.key}, key=self.value)
            for held in self.held.values() if crowded else [self.held[tier]]:
                held.pop(victim, None)

    @rule(data=st.data(), seen=st.sets(domains, min_size=1))
    def record(self, data: st.DataObject, seen: set[DomainTag]) -> None:
        self.requests += 1
        uses: dict[DocumentTag, Mapping[VariantKey, int]] = {}
        for name in data.draw(st.sets(st.sampled_from("ABCDE"), max_size=3)):
            found = self.catalog.held(DocumentTag(name), seen)
            uses[DocumentTag(name)] = {held.variant.key: data.draw(counts) for held in found}
        self.catalog.record(uses)
        for repairs in uses.values():
            for key in repairs:
                self.worth[key].at.append(self.requests)
                self.worth[key].repairs.append(repairs)

    @rule(document=st.sampled_from("ABCDE"))
    def purge(self, document: str) -> None:
        gone = DocumentTag(document)
        leaving = self.catalog.purge([gone])
        expected = {
            Held(each, tier)
            for tier, held in self.held.items()
            for each in held.values()
            if gone == each.document or gone in each.birth.before
        }
        assert len(leaving) == len(expected)
        assert set(leaving) == expected
        for held in leaving:
            del self.held[held.tier][held.variant.key]
        for key in [
            key
            for key, worth in self.worth.items()
            if gone == worth.variant.document or gone in worth.variant.birth.before
        ]:
            del self.worth[key]

    @rule(tier=tiers, data=st.data())
    def drop(self, tier: Tier, data: st.DataObject) -> None:
        if self.held[tier]:
            key = data.draw(st.sampled_from(sorted(self.held[tier])))
            self.catalog.drop(key, tier)
            del self.held[tier][key]

    @invariant()
    def check(self) -> None:
        for tier, held in self.held.items():
            used = sum(each.kv_bytes for each in held.values())
            assert used == self.catalog.used_bytes(tier) <= BUDGET_BYTES[tier]
        for document in map(DocumentTag, "ABCDE"):
            assert len(self.siblings(document)) <= self.MAX_VARIANTS
            for seen in ({PUBLIC}, {DomainTag("a")}, {PUBLIC, DomainTag("b")}):
                expected = {
                    key: Held(each, tier)
                    for tier in (Tier.DISK, Tier.HOST)
                    for key, each in self.held[tier].items()
                    if each.document == document and each.domain in seen
                }
                found = self.catalog.held(document, seen)
                assert {held.variant.key: held for held in found} == expected
                assert len(found) == len(expected)


TestCatalog = CatalogMachine.TestCase
TestCatalog.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("tier", [Tier.HOST, Tier.DISK])
def test_catalog_changes_nothing_when_a_copy_is_put_again(tier: Tier) -> None:
    store = catalog()
    each = variant("A", kv_bytes=600)
    assert store.put(each, tier) == []
    assert store.put(each, tier) == []
    assert store.used_bytes(tier) == 600
