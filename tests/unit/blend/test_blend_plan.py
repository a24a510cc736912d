"""The decision for one prompt, against every other decision that could have been made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import pytest
from blend_cases import FILLER, FIRST, behind, births, on_host, variant
from hypothesis import given
from hypothesis import strategies as st

from mygo.blend.identity import tags
from mygo.blend.plan import BlendPlan, Find, Match, Slot, match, plan
from mygo.blend.selection import Method, Repair
from mygo.blend.variants import Attention, DocumentTag, Held, Ranking, Variant, VariantKey
from mygo.types import PUBLIC, DomainTag, Tier

SYSTEM_TOKENS = 40
QUESTION_TOKENS = 30


def prefill_s(cached_tokens: int, new_tokens: int) -> float:
    """A step's overhead, a cost per token and one per pair, as engines have."""
    return 0.01 + 1e-3 * new_tokens + 1e-7 * new_tokens * (cached_tokens + (new_tokens + 1) / 2)


def linear_s(cached_tokens: int, new_tokens: int) -> float:
    return 1e-3 * new_tokens


@dataclass(frozen=True)
class Links:
    s_per_byte: Mapping[Tier, float]

    def __call__(self, tier: Tier, kv_bytes: int) -> float:
        return self.s_per_byte[tier] * kv_bytes


FAST = Links({Tier.HOST: 1e-9, Tier.DISK: 1e-7})


def finder(held: Sequence[Held]) -> Find:
    def find(document: DocumentTag, domains: Collection[DomainTag]) -> list[Held]:
        return [each for each in held if each.variant.document == document and each.variant.domain in domains]

    return find


def slots(documents: str, tokens: int = 100, domain: DomainTag = PUBLIC) -> list[Slot]:
    return [
        Slot(
            DocumentTag(name),
            SYSTEM_TOKENS + tokens * place,
            SYSTEM_TOKENS + tokens * (place + 1),
            frozenset({domain}),
        )
        for place, name in enumerate(documents)
    ]


def matches(documents: str, held: Sequence[Held], cached_tokens: int = SYSTEM_TOKENS) -> list[Match]:
    return match(
        slots(documents),
        prompt_tokens=SYSTEM_TOKENS + 100 * len(documents) + QUESTION_TOKENS,
        cached_tokens=cached_tokens,
        find=finder(held),
    )


def planned(
    documents: str,
    held: Sequence[Held],
    cached_tokens: int = SYSTEM_TOKENS,
    load_s: Links = FAST,
    alpha: float = 0.15,
    method: Method = Method.FIRST_TOKENS,
) -> BlendPlan | None:
    return plan(
        matches(documents, held, cached_tokens),
        prompt_tokens=SYSTEM_TOKENS + 100 * len(documents) + QUESTION_TOKENS,
        cached_tokens=cached_tokens,
        repair=Repair(alpha, floor_tokens=8, method=method),
        prefill_s=prefill_s,
        load_s=load_s,
    )


def test_match_takes_the_variant_of_least_need() -> None:
    near, far = variant("C", behind("A", "B")), variant("C", behind("D"))
    [found] = matches("ABC", [on_host(far), on_host(near)])
    assert found.held.variant == near
    assert found.need == 0
    assert found.needs == {near.key: 0, far.key: 1}


def test_match_prefers_the_faster_tier_when_needs_are_equal() -> None:
    disk, host = Held(variant("B", behind("C")), Tier.DISK), on_host(variant("B", behind("D")))
    [found] = matches("AB", [disk, host])
    assert found.held == host


def test_match_uses_a_first_birth_only_in_the_first_place() -> None:
    first, filler = on_host(variant("A", FIRST)), on_host(variant("A", FILLER))
    assert [each.held for each in matches("AB", [filler, first])] == [first]
    assert [each.held for each in matches("BA", [filler, first])] == [filler]
    assert matches("BA", [first]) == []


def test_match_prefers_an_exact_copy_when_another_variant_needs_as_little() -> None:
    ignorant = behind("B", attention=Attention((0.0,), (50,), 1.0))
    exact = Held(variant("A", FIRST), Tier.DISK)
    [found] = matches("A", [on_host(variant("A", ignorant)), exact])
    assert found.held == exact
    assert set(found.repairs(0.15, 8).values()) == {0, 8}
    assert found.repair_tokens(0.15, 8) == 0


def test_match_leaves_variants_of_other_domains() -> None:
    private = on_host(variant("A", FILLER, domain=DomainTag("tenant")))
    assert matches("A", [private]) == []


def test_match_leaves_a_document_when_its_length_is_another() -> None:
    assert matches("A", [on_host(variant("A", tokens=99))]) == []


def test_match_leaves_a_document_that_ends_the_prompt() -> None:
    held = finder([on_host(variant("A"))])
    assert not match(slots("A"), prompt_tokens=SYSTEM_TOKENS + 100, cached_tokens=0, find=held)
    assert match(slots("A"), prompt_tokens=SYSTEM_TOKENS + 101, cached_tokens=0, find=held)


def test_match_begins_behind_the_exact_prefix_when_it_ends_within_a_document() -> None:
    held = [on_host(variant(name)) for name in "AB"]
    [rest, whole] = matches("AB", held, cached_tokens=SYSTEM_TOKENS + 10)
    assert (rest.start_tokens, rest.end_tokens, rest.offset_tokens) == (50, 140, 10)
    assert (whole.start_tokens, whole.end_tokens, whole.offset_tokens) == (140, 240, 0)
    # the ten exact tokens are the first of the fifteen to repair
    assert (rest.repair_tokens(0.15, 8), whole.repair_tokens(0.15, 8)) == (5, 15)
    assert matches("AB", held, cached_tokens=240) == []


def test_plan_has_pieces_in_order_and_computes_the_rest() -> None:
    found = planned("ABC", [on_host(variant("A")), on_host(variant("C"))])
    assert found is not None
    assert [(each.start_tokens, each.end_tokens, each.repair_tokens) for each in found.pieces] == [
        (40, 140, 15),
        (140, 240, 100),
        (240, 340, 15),
        (340, 370, 30),
    ]
    assert [each.variant and each.variant.document for each in found.pieces] == ["A", None, "C", None]
    assert found.computed_tokens == 160
    assert found.approximate_from_tokens == 40


def test_plan_is_exact_up_to_the_first_approximate_piece() -> None:
    found = planned("AB", [on_host(variant("A", FIRST)), on_host(variant("B"))])
    assert found is not None
    assert found.pieces[0].repair_tokens == 0
    assert found.approximate_from_tokens == 140
    only_first = planned("AB", [on_host(variant("A", FIRST))])
    assert only_first is not None
    assert only_first.approximate_from_tokens is None
    assert tags(only_first.pieces, 0) == []


def test_plan_is_exact_prefill_when_loading_costs_more_than_it_spares() -> None:
    held = [on_host(variant("A")), Held(variant("B"), Tier.DISK)]
    slow_disk = Links({Tier.HOST: 1e-9, Tier.DISK: 1.0})
    found = planned("AB", held, load_s=slow_disk)
    assert found is not None
    assert [each.variant and each.variant.document for each in found.pieces] == ["A", None]
    assert planned("AB", held, load_s=Links({Tier.HOST: 1.0, Tier.DISK: 1.0})) is None


def test_plan_is_exact_prefill_when_everything_would_be_repaired() -> None:
    assert planned("AB", [on_host(variant("A")), on_host(variant("B"))], alpha=1.0) is None


@st.composite
def situations(draw: st.DrawFn) -> tuple[str, list[Held], int]:
    documents = "".join(draw(st.lists(st.sampled_from("ABCDE"), max_size=5, unique=True)))
    held: list[Held] = []
    for document in documents:
        for birth in draw(st.lists(births, max_size=3)):
            kv_bytes = draw(st.sampled_from([10, 10_000, 100_000, 10_000_000]))
            held.append(
                Held(
                    variant(document, birth, kv_bytes=kv_bytes), draw(st.sampled_from([Tier.HOST, Tier.DISK]))
                )
            )
    cached_tokens = draw(st.integers(0, SYSTEM_TOKENS + 100 * len(documents)))
    return documents, held, cached_tokens


links = st.sampled_from([1e-9, 1e-7, 1e-6]).map(lambda s: Links({Tier.HOST: s, Tier.DISK: 10 * s}))
alphas = st.sampled_from([0.0, 0.15, 0.5, 1.0])


def seconds(chosen: Sequence[Match], total: int, cached: int, alpha: float, load_s: Links) -> float:
    """What a choice of documents to reuse costs by the plan's own account."""
    computed = total - cached
    loading = 0.0
    for each in chosen:
        used = each.end_tokens - each.start_tokens
        computed -= used - each.repair_tokens(alpha, 8)
        loading += load_s(each.held.tier, each.held.variant.kv_bytes * used // each.held.variant.tokens)
    return loading + linear_s(total - computed, computed)


@given(situations(), links, alphas)
def test_plan_is_the_cheapest_of_all_choices_when_computing_is_linear(
    situation: tuple[str, list[Held], int], load_s: Links, alpha: float
) -> None:
    documents, held, cached = situation
    total = SYSTEM_TOKENS + 100 * len(documents) + QUESTION_TOKENS
    found = matches(documents, held, cached)
    best = plan(
        found,
        prompt_tokens=total,
        cached_tokens=cached,
        repair=Repair(alpha, floor_tokens=8),
        prefill_s=linear_s,
        load_s=load_s,
    )
    choices = [chosen for size in range(len(found) + 1) for chosen in combinations(found, size)]
    cheapest = min(seconds(chosen, total, cached, alpha, load_s) for chosen in choices)
    got = seconds((), total, cached, alpha, load_s) if best is None else best.predicted_s
    assert got == pytest.approx(cheapest)


@given(situations(), links, alphas, st.sampled_from(list(Method)))
def test_plan_covers_the_prompt_and_is_never_worse_than_exact_prefill(
    situation: tuple[str, list[Held], int], load_s: Links, alpha: float, method: Method
) -> None:
    documents, held, cached = situation
    total = SYSTEM_TOKENS + 100 * len(documents) + QUESTION_TOKENS
    found = planned(documents, held, cached, load_s, alpha, method)
    if found is None:
        return
    assert found.predicted_s < found.exact_s == prefill_s(cached, total - cached)
    assert found.computed_tokens < total - cached
    assert found.pieces[0].start_tokens == cached
    assert found.pieces[-1].end_tokens == total
    assert found.pieces[-1].match is None
    for before, after in pairwise(found.pieces):
        assert before.end_tokens == after.start_tokens
        assert before.match is not None or after.match is not None
    for piece in found.pieces:
        assert piece.match is not None or piece.repair_tokens == piece.tokens
        if piece.match is not None:
            assert len(piece.repaired) == piece.match.repair_tokens(alpha, 8)
            assert set(piece.repaired) <= set(range(piece.tokens))
            # the document's first eight tokens are computed, or the prompt has them exactly
            offset = piece.match.offset_tokens
            assert piece.match.exact or set(range(8 - offset)) <= set(piece.repaired)
        if piece.variant is not None:
            assert piece.variant.birth != FIRST or piece.end_tokens == SYSTEM_TOKENS + 100


def reused(found: BlendPlan) -> list[tuple[VariantKey, int, int, tuple[int, ...]]]:
    return [
        (piece.variant.key, piece.start_tokens, piece.end_tokens, piece.repaired)
        for piece in found.pieces
        if piece.variant is not None and not piece.exact
    ]


methods = st.sampled_from(list(Method))


def ranked(each: Variant, order: Sequence[int]) -> Variant:
    return replace(each, ranking=Ranking(tuple(order), ()))


def test_tags_differ_when_only_the_ranking_does() -> None:
    order = list(range(100))
    found = [
        planned("BA", [on_host(ranked(variant("A"), each))], method=Method.DEVIATION)
        for each in (order[::-1], order[1:] + order[:1])
    ]
    chosen = [each.pieces[1].repaired for each in found if each is not None]
    assert chosen == [(*range(8), *range(93, 100)), tuple(range(15))]
    one, other = (tags(each.pieces, 0) for each in found if each is not None)
    assert one != other and [at for at, _ in one] == [at for at, _ in other]


def test_match_takes_the_ranking_of_another_variant_when_its_own_has_none() -> None:
    order, backwards = tuple(range(100)), tuple(range(99, -1, -1))
    near, far = variant("C", behind("A", "B")), variant("C", behind("D"))
    first, other_tenants = variant("C", FIRST), variant("C", FILLER, domain=DomainTag("tenant"))
    for held, expected in (
        ([near, ranked(far, order)], order),
        ([ranked(near, backwards), ranked(far, order)], backwards),
        ([near, ranked(first, order)], order),
        ([near, far, ranked(other_tenants, order)], ()),
        ([near, ranked(far, ())], ()),
    ):
        [found] = matches("ABC", [on_host(each) for each in held])
        assert found.held.variant.key == near.key and found.order == expected


@given(situations(), situations(), alphas, alphas, methods, methods, st.integers(0, 1))
def test_tags_are_equal_only_when_the_reuse_is(
    one: tuple[str, list[Held], int],
    other: tuple[str, list[Held], int],
    alpha: float,
    other_alpha: float,
    method: Method,
    other_method: Method,
    generation: int,
) -> None:
    first = planned(*one, alpha=alpha, method=method)
    second = planned(*other, alpha=other_alpha, method=other_method)
    if first is None or second is None:
        return
    left = tags(first.pieces, 0)
    right = tags(second.pieces, generation)
    equal = reused(first) == reused(second) and (not reused(first) or generation == 0)
    assert (left == right) == equal
    assert (left[0][0] if left else None) == first.approximate_from_tokens


def test_tags_begin_alike_when_only_later_documents_differ() -> None:
    held = [on_host(variant("A")), on_host(variant("B"))]
    other = [on_host(variant("A")), on_host(variant("B", behind("C")))]
    left, right = planned("AB", held), planned("AB", other)
    assert left is not None
    assert right is not None
    one, two = (tags(each.pieces, 0) for each in (left, right))
    assert one[0] == two[0]
    assert one[1] != two[1]
