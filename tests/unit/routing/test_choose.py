"""The price of a route, term by term."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mygo.errors import Unavailable
from mygo.routing import choose
from mygo.types import Candidate, ProfileGrid, Residency, Route, WorkerId

PROFILE = ProfileGrid((0, 1000), (1000, 2000), ((1.0, 2.0), (1.0, 2.0)))
"""One millisecond per token, whatever is cached."""


def worker(
    name: str, *, cached: int = 0, queue_s: float = 0.0, running: int = 0, accepting: bool = True
) -> Candidate:
    return Candidate(WorkerId(name), Residency(cached), queue_s, running, PROFILE, accepting)


def pick(*workers: Candidate, decode_delay_weight: float = 0.0, seed: int = 0) -> Route:
    return choose(workers, 1000, decode_delay_weight=decode_delay_weight, rng=random.Random(seed))


def test_choose_follows_the_cache_when_queues_are_equal() -> None:
    route = pick(worker("a"), worker("b", cached=800))
    assert route.worker == "b"
    assert route.predicted_s == pytest.approx(0.2)
    assert route.predicted_cached_tokens == 800
    assert route.considered == {"a": pytest.approx(1.0), "b": pytest.approx(0.2)}


def test_choose_spreads_when_the_queue_costs_more_than_the_cache_saves() -> None:
    assert pick(worker("a"), worker("b", cached=800, queue_s=0.79)).worker == "b"
    assert pick(worker("a"), worker("b", cached=800, queue_s=0.81)).worker == "a"


def test_choose_spreads_later_when_recomputing_costs_others() -> None:
    def weighed(queue_s: float) -> WorkerId:
        workers = [worker("a"), worker("b", cached=800, queue_s=queue_s)]
        return choose(
            workers, 1000, decode_delay_weight=0.0, recompute_weight=4.0, rng=random.Random(0)
        ).worker

    assert weighed(3.9) == "b"
    assert weighed(4.1) == "a"


def test_choose_leaves_decodes_alone_when_a_prefill_would_delay_them() -> None:
    busy = worker("b", cached=100, running=10)
    assert pick(worker("a"), busy).worker == "b"
    route = pick(worker("a"), busy, decode_delay_weight=0.05)
    assert route.worker == "a"
    assert route.predicted_s == pytest.approx(1.0)


def weighed(workers: list[Candidate], *, shared_tokens: int = 0, seed: int = 0) -> Route:
    """With a working set on a half larger than on b."""
    return choose(
        workers,
        1000,
        decode_delay_weight=0.0,
        recompute_weight=4.0,
        shared_tokens=shared_tokens,
        working_set_tokens={WorkerId("a"): 300, WorkerId("b"): 200},
        rng=random.Random(seed),
    )


def test_choose_prices_shared_tokens_as_held_everywhere_when_told() -> None:
    workers = [worker("a", cached=600), worker("b")]
    assert weighed(workers).worker == "a"
    route = weighed(workers, shared_tokens=600)
    assert route.worker == "b"
    assert route.predicted_s == pytest.approx(1.0)  # what it really takes


def test_choose_places_cold_prompts_where_the_working_set_is_smaller_when_all_else_is_equal() -> None:
    assert {weighed([worker("a"), worker("b")], seed=seed).worker for seed in range(5)} == {"b"}


def test_choose_breaks_ties_at_random_when_prices_are_equal() -> None:
    picked = Counter(pick(worker("a"), worker("b"), worker("c"), seed=s).worker for s in range(300))
    assert min(picked.values()) > 60


def test_choose_raises_unavailable_when_no_worker_accepts() -> None:
    with pytest.raises(Unavailable, match=r"at its limit.*retry"):
        pick(worker("a", accepting=False))


candidates = st.lists(
    st.builds(
        worker,
        st.sampled_from("abcdef"),
        cached=st.integers(0, 1000),
        queue_s=st.floats(0, 10),
        running=st.integers(0, 9),
        accepting=st.booleans(),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda each: each.worker,
)


@settings(deadline=None)
@given(workers=candidates)
def test_choose_is_the_argmin_when_only_the_own_wait_counts(workers: list[Candidate]) -> None:
    able = [each for each in workers if each.accepting]
    if not able:
        return
    waits_s = [each.queue_s + (1000 - each.residency.cached_tokens) / 1000 for each in able]
    assert pick(*workers).predicted_s == pytest.approx(min(waits_s))
