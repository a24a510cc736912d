"""What each baseline does by its own rules."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mygo.routing import ConsistentHash, PowerOfTwo, PrefixAffinity, RoundRobin, Router, RouteRequest
from mygo.routing.prefix_affinity import PrefixTree
from mygo.types import Candidate, ProfileGrid, Residency, WorkerId

PROFILE = ProfileGrid((0,), (1000,), ((1.0,),))
A, B = WorkerId("a"), WorkerId("b")


def worker(name: str, *, running: int = 0, accepting: bool = True) -> Candidate:
    return Candidate(WorkerId(name), Residency(), 0.0, running, PROFILE, accepting)


def send(router: Router, text: str, *workers: Candidate, seed: int = 0) -> WorkerId:
    return router.route(RouteRequest(100, text, text), workers, random.Random(seed), 0.0).worker


def test_round_robin_takes_turns_when_a_worker_is_full_or_new() -> None:
    router = RoundRobin()
    a, b, c = worker("a"), worker("b"), worker("c")
    assert [send(router, "x", a, b, c) for _ in range(4)] == ["a", "b", "c", "a"]
    assert send(router, "x", a, worker("b", accepting=False), c) == "c"
    assert send(router, "x", b, c) == "b"


def test_power_of_two_avoids_the_busiest_when_any_two_are_compared() -> None:
    workers = [worker("a", running=1), worker("b", running=2), worker("c", running=3)]
    picked = Counter(send(PowerOfTwo(), "x", *workers, seed=seed) for seed in range(300))
    assert picked["c"] == 0
    assert picked["a"] > picked["b"] > 50


# --- consistent hashing ------------------------------------------------------------------------


def homes(router: Router, *workers: Candidate) -> dict[str, WorkerId]:
    return {str(key): send(router, str(key), *workers) for key in range(1000)}


def test_consistent_hash_moves_few_keys_when_a_worker_joins() -> None:
    router = ConsistentHash()
    four = [worker(name) for name in "abcd"]
    before = homes(router, *four)
    after = homes(router, *four, worker("e"))
    moved = [key for key in before if before[key] != after[key]]
    assert 100 < len(moved) < 300  # a fifth, give or take
    assert {after[key] for key in moved} == {"e"}
    assert min(Counter(before.values()).values()) > 150


def test_consistent_hash_moves_only_its_keys_when_a_worker_is_full() -> None:
    router = ConsistentHash()
    before = homes(router, worker("a"), worker("b"), worker("c"))
    after = homes(router, worker("a"), worker("b"), worker("c", accepting=False))
    assert all(after[key] == home for key, home in before.items() if home != "c")
    assert {after[key] for key, home in before.items() if home == "c"} == {"a", "b"}


def test_consistent_hash_passes_keys_on_when_the_load_bound_is_reached() -> None:
    router = ConsistentHash(load_factor=1.25)
    assert set(homes(router, worker("a", running=8), worker("b"), worker("c")).values()) == {"b", "c"}


# --- prefix affinity ---------------------------------------------------------------------------


def test_prefix_affinity_follows_the_longest_prefix_when_load_is_even() -> None:
    router = PrefixAffinity(imbalance=8, min_match=0.1)
    first = send(router, "system: " + "x" * 50, worker("a"), worker("b"))
    for seed in range(10):
        assert send(router, "system: " + "x" * 40 + "?", worker("a"), worker("b"), seed=seed) == first


def test_prefix_affinity_picks_the_smallest_tree_when_the_match_is_poor() -> None:
    router = PrefixAffinity(imbalance=8, min_match=0.5)
    first = send(router, "abcdef" * 10, worker("a"), worker("b"))
    other = send(router, "ghijkl" * 5, worker("a"), worker("b"))
    assert {first, other} == {"a", "b"}
    assert send(router, "mnopqr" * 5, worker("a"), worker("b")) == other


def test_prefix_affinity_falls_back_to_load_when_it_is_uneven() -> None:
    router = PrefixAffinity(imbalance=3, min_match=0.1)
    home = send(router, "document " * 9, worker("a"), worker("b"))
    away = "a" if home == "b" else "b"
    assert send(router, "document " * 9, worker(home, running=3), worker(away)) == home
    assert send(router, "document " * 9, worker(home, running=4), worker(away)) == away


def test_prefix_affinity_forgets_the_oldest_when_its_tree_is_full() -> None:
    router = PrefixAffinity(imbalance=8, min_match=0.9, tree_chars=300)
    send(router, "o" * 100, worker("a"))
    for letter in "xyz":
        send(router, letter * 99, worker("a"))
    # b has the smaller tree: unknown prompts go there, remembered ones to a
    assert send(router, "z" * 99, worker("a"), worker("b")) == "a"
    assert send(router, "o" * 100, worker("a"), worker("b")) == "b"


# few letters, so that prefixes are shared; long enough that edges split
texts = st.text("ab", min_size=1, max_size=12)
step = st.tuples(st.sampled_from(["insert", "remove"]), texts, st.sampled_from([A, B]))


@settings(deadline=None)
@given(steps=st.lists(step, max_size=25), asked=texts)
def test_prefix_tree_equals_sets_of_prefixes_when_texts_are_random(
    steps: list[tuple[str, str, WorkerId]], asked: str
) -> None:
    tree = PrefixTree()
    naive: dict[WorkerId, set[str]] = {}
    for action, text, name in steps:
        if action == "insert":
            tree.insert(text, name)
            naive.setdefault(name, set()).update(text[: i + 1] for i in range(len(text)))
        else:
            tree.remove(name)
            naive.pop(name, None)
    assert tree.workers() == naive.keys()
    lengths: dict[WorkerId, int] = {}
    for name in (A, B):
        known = naive.get(name, set())
        assert tree.chars(name) == len(known)
        lengths[name] = max((i + 1 for i in range(len(asked)) if asked[: i + 1] in known), default=0)
    best = max(lengths.values())
    holders = {name for name in lengths if lengths[name] == best} if best else set()
    assert tree.match(asked, {A, B}) == (best, holders)


@settings(deadline=None)
@given(inserted=st.lists(texts, min_size=1, max_size=15), target=st.integers(0, 40))
def test_prefix_tree_keeps_the_latest_prefixes_when_shrunk(inserted: list[str], target: int) -> None:
    tree = PrefixTree()
    for text in inserted:
        tree.insert(text, A)
        tree.insert(text, B)
    before = tree.chars(A)
    tree.shrink(A, target)
    assert tree.chars(A) <= target or tree.chars(A) == before <= target
    assert tree.chars(B) == before
    known = {text[: i + 1] for text in inserted for i in range(len(text))}
    kept = {prefix for prefix in known if tree.match(prefix, {A})[0] == len(prefix)}
    assert len(kept) == tree.chars(A)
    if len(inserted[-1]) <= target:
        assert inserted[-1] in kept


def test_route_says_what_the_picked_worker_will_take_when_a_baseline_picks() -> None:
    warm = Candidate(A, Residency(60), 0.5, 0, PROFILE)
    route = RoundRobin().route(RouteRequest(100, "x", "x"), [warm], random.Random(0), 0.0)
    assert (route.predicted_cached_tokens, route.queue_s) == (60, 0.5)
    assert route.prefill_s == pytest.approx(0.04)
