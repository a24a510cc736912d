"""Which documents want a copy, and which copy is made next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.blend.fillers import FIRST_PLACE, MINUTE_S, Backlog, Copy, Demand, Wanted
from mygo.blend.variants import DocumentTag
from mygo.types import DomainTag


def copy(document: str, domain: str = "public") -> Copy:
    return DocumentTag(document), DomainTag(domain)


A, B = copy("a"), copy("b")


def test_document_wants_a_copy_from_its_second_use_on() -> None:
    demand = Demand(half_life_requests=1.0)
    assert demand.used({A: 0.8}) == {}
    assert demand.used({A: 0.8, B: 0.5}) == {A: 1.5 * 0.8}, "the first use has faded to a half"
    assert demand.used({}) == {}
    assert demand.used({B: 0.5}) == {B: 1.25 * 0.5}


def test_document_that_lost_its_copy_begins_anew() -> None:
    demand = Demand(half_life_requests=1000)
    demand.used({A: 1})
    demand.met(A)
    assert demand.used({A: 1}) == {}
    assert list(demand.used({A: 1})) == [A]


def test_use_in_the_first_place_counts_less_and_only_until_a_copy_was_there() -> None:
    demand = Demand(half_life_requests=1e9)
    assert demand.used({A: 1, B: 1}, first=A) == {}
    assert demand.used({A: 1, B: 1}, first=A) == pytest.approx({A: 2 * FIRST_PLACE, B: 2})
    demand.met(A)
    for _ in range(3):
        assert demand.used({A: 1}, first=A) == {}, "it was lost again, as nobody used it"
    assert demand.used({A: 1}) == {}
    assert demand.used({A: 1}) == pytest.approx({A: 2})


def test_uses_in_one_domain_say_nothing_of_another() -> None:
    demand = Demand(half_life_requests=1000)
    demand.used({copy("a", "tenant-1"): 1})
    assert demand.used({copy("a", "tenant-2"): 1}) == {}


uses = st.lists(st.lists(st.sampled_from("abcdef").map(copy), max_size=3, unique=True), max_size=40)


@given(uses, st.integers(1, 5))
def test_demand_remembers_the_latest_and_ranks_by_faded_uses(requests: list[list[Copy]], most: int) -> None:
    demand = Demand(half_life_requests=4.0, remembered=most)
    times: dict[Copy, list[int]] = {}
    """Of what should be remembered, latest last."""
    for now, documents in enumerate(requests):
        expected = {
            each: 1 + sum(2 ** ((at - now) / 4) for at in times[each]) for each in documents if each in times
        }
        found = demand.used(dict.fromkeys(documents, 1.0))
        assert found.keys() == expected.keys()
        assert all(abs(found[each] - expected[each]) < 1e-9 for each in found)
        for each in documents:
            times[each] = [*times.pop(each, []), now]
        for forgotten in list(times)[: max(0, len(times) - most)]:
            del times[forgotten]


def backlog(**more: float) -> Backlog[str]:
    limits = {"capacity": 2, "patience_s": 100.0, "per_minute": 3} | more
    return Backlog(**limits)  # type: ignore[arg-type]


def wanted(name: str, worth: float, offered_s: float = 0.0) -> Wanted[str]:
    return Wanted(name, worth, f"how to make {name}", offered_s)


def taken(waiting: Backlog[str], now_s: float = 0.0) -> str | None:
    found = waiting.take(now_s)
    return None if found is None else str(found.name)


def test_most_valuable_is_taken_first_and_the_least_gives_way() -> None:
    waiting = backlog()
    for name, worth in (("low", 1.0), ("high", 3.0), ("middle", 2.0)):
        waiting.offer(wanted(name, worth))
    assert [taken(waiting) for _ in range(3)] == ["high", "middle", None]


def test_offer_that_comes_again_replaces_the_first() -> None:
    waiting = backlog()
    for worth in (1.0, 5.0):
        waiting.offer(wanted("a", worth))
    waiting.offer(wanted("b", 3.0))
    assert [taken(waiting) for _ in range(3)] == ["a", "b", None]


def test_offer_is_forgotten_when_nobody_had_time_for_it() -> None:
    waiting = backlog()
    waiting.offer(wanted("old", 9.0, offered_s=0.0))
    waiting.offer(wanted("new", 1.0, offered_s=50.0))
    assert taken(waiting, now_s=101.0) == "new" and not len(waiting)


def test_no_more_are_taken_in_any_minute_than_allowed() -> None:
    waiting = backlog(capacity=9)
    for number in range(6):
        waiting.offer(wanted(f"{number}", 9.0 - number))
    assert [taken(waiting, now_s) for now_s in (0.0, 10.0, 20.0, 30.0)] == ["0", "1", "2", None]
    assert [taken(waiting, MINUTE_S + late_s) for late_s in (0.0, 1.0, 10.0)] == ["3", None, "4"]
