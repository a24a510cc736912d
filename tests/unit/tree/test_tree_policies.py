from __future__ import annotations

from math import log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_cases import BLOCK_TOKENS, node_of, path, prefill_s, serve, shelf_of, tree_of

from mygo.errors import ConfigError
from mygo.tree.knowledge import KnowledgeTree
from mygo.tree.policies import DEFAULT_POLICY, POLICIES, make
from mygo.tree.policies.base import LazyHeap
from mygo.tree.policies.forecast import DISCOUNT
from mygo.tree.shelf import Shelf
from mygo.types import Tier


class NaiveModel:
    """What PGDSF and Forecast think of documents of one block each, recomputed by brute force."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.clock = 0.0
        self.uses: dict[str, int] = {}
        self.costs: dict[str, list[float]] = {}
        self.held: dict[str, float] = {}
        """Ranks by path."""

    def access(self, text: str) -> int:
        """A request; returns how many documents are cached."""
        paths = [text[: end + 1] for end in range(len(text))]
        cached = 0
        while cached < len(paths) and paths[cached] in self.held:
            cached += 1
        new_tokens = (len(paths) - cached) * BLOCK_TOKENS
        for each in paths:
            self.uses[each] = self.uses.get(each, 0) + 1
        for each in paths[cached:]:
            cost = prefill_s(cached * BLOCK_TOKENS, new_tokens) / new_tokens
            self.costs.setdefault(each, []).append(cost)
        for each in paths[:cached]:
            self.hold(each)
        return cached

    def hold(self, each: str) -> None:
        self.held[each] = self.rank(each)

    def evict(self, victim: str, used: str) -> None:
        """Assert that the victim is a right one: a leaf of least rank that the request does not use."""
        leaves = {
            each: rank
            for each, rank in self.held.items()
            if not used.startswith(each) and not any(o != each and o.startswith(each) for o in self.held)
        }
        assert leaves[victim] == pytest.approx(min(leaves.values()), rel=1e-9)
        self.clock = max(self.clock, self.held.pop(victim))

    def rank(self, each: str) -> float:
        if self.policy == "pgdsf":
            return self.clock + self.uses[each] * sum(self.costs[each]) / len(self.costs[each])
        start_tokens = (len(each) - 1) * BLOCK_TOKENS
        spared_s = prefill_s(start_tokens, BLOCK_TOKENS + 512) - prefill_s(start_tokens + BLOCK_TOKENS, 512)
        uses = self.uses[each] - DISCOUNT
        for end in range(1, len(each)):
            uses *= 1 - DISCOUNT / self.uses[each[:end]]
        return log2(uses * spared_s / BLOCK_TOKENS)


@pytest.mark.parametrize("policy", ["pgdsf", "forecast"])
@given(texts=st.lists(st.text("abc", min_size=1, max_size=3), max_size=50), room=st.integers(3, 6))
@settings(max_examples=100, deadline=None)
def test_victims_are_the_naive_models(policy: str, texts: list[str], room: int) -> None:
    model = NaiveModel(policy)
    tree = tree_of()
    shelf = shelf_of(tree, policy)
    for number, text in enumerate(texts):
        blocks = path(text)
        tree.begin(str(number), blocks, range(BLOCK_TOKENS, len(blocks) * BLOCK_TOKENS + 1, BLOCK_TOKENS))
        cached = model.access(text)
        assert [shelf.holds(block) for block in blocks[: cached + 1]][:cached] == [True] * cached
        for block in blocks[:cached]:
            shelf.lock(block)
        tree.admitted(str(number), cached * BLOCK_TOKENS)
        while len(shelf) + len(blocks) - cached > room:
            gone = shelf.evict(1)
            assert gone is not None
            model.evict(gone[0].decode(), used=text)
        for block in blocks[cached:]:
            model.hold(block.decode())
            shelf.put(block)
        for block in reversed(blocks):
            shelf.unlock(block)
        tree.finished(str(number))
        assert {block.decode() for block in shelf} == set(model.held)


@pytest.mark.parametrize("policy", POLICIES)
def test_used_again_outlives_used_once(policy: str) -> None:
    tree = tree_of()
    shelf = shelf_of(tree, policy)
    for number in range(4):
        serve(tree, shelf, f"hot{number}", "a")
    for letter in "bcd":
        serve(tree, shelf, letter, letter)
    serve(tree, shelf, "again", "a")
    gone = shelf.evict(3)
    assert gone is not None and set(gone) == {b"b", b"c", b"d"}


def test_forecast_prefers_what_follows_a_popular_document() -> None:
    """Scenario: ax and by were each asked for once, by last; but a is popular."""
    tree = tree_of()
    shelf = shelf_of(tree, "forecast")
    for number in range(5):
        serve(tree, shelf, f"a{number}", "a")
    serve(tree, shelf, "ax", "a|x")
    serve(tree, shelf, "by", "b|y")
    assert shelf.evict(1) == [b"by"]


def test_forecast_remembers_uses_from_before_an_eviction() -> None:
    tree = tree_of()
    shelf = shelf_of(tree, "forecast")
    for number in range(3):
        serve(tree, shelf, f"a{number}", "a")
    shelf.clear()
    serve(tree, shelf, "a again", "a")
    for number in range(2):
        serve(tree, shelf, f"b{number}", "b")
    assert shelf.evict(1) == [b"b"]


def test_forecast_gives_up_old_heat_when_half_lives_have_passed() -> None:
    tree = tree_of(half_life_requests=10.0)
    shelf = shelf_of(tree, "forecast")
    for number in range(4):
        serve(tree, shelf, f"old{number}", "a")
    for number in range(40):
        serve(tree, shelf, f"other{number}", "c")
    serve(tree, shelf, "new", "b")
    assert shelf.evict(1) == [b"a"]


def test_pgdsf_clock_lets_what_is_new_pass_old_heat() -> None:
    tree = tree_of()
    shelf = shelf_of(tree, "pgdsf")
    for number in range(3):
        serve(tree, shelf, f"hot{number}", "a")
    for number in range(10):
        serve(tree, shelf, f"cold{number}", chr(200 + number))
        assert shelf.evict(1) is not None
    assert not shelf.holds(b"a")


@pytest.mark.parametrize("policy", POLICIES)
def test_split_halves_leave_like_the_whole(policy: str) -> None:
    tree = tree_of()
    shelf = shelf_of(tree, policy)
    for number in range(4):
        serve(tree, shelf, f"hot{number}", "abcd")
    serve(tree, shelf, "cold", "x")
    serve(tree, shelf, "hot again", "abcd")
    tree.begin("splitter", path("abz"))
    tree.finished("splitter")
    assert len(node_of(tree, "ab").blocks) == 2
    assert shelf.evict(5) == [b"x", b"abcd", b"abc", b"ab", b"a"]


def test_unknown_policy_is_refused_with_its_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean s3fifo"):
        make("s3-fifo", tree_of(), 100)
    with pytest.raises(ConfigError, match="use one of lru"):
        make("?", tree_of(), 100)
    assert DEFAULT_POLICY in POLICIES


def test_lazy_heap_forgets_old_ranks_and_does_not_grow() -> None:
    tree = tree_of()
    for text in "abc":
        tree.begin(text, path(text))
    a, b, c = (node_of(tree, text) for text in "abc")
    heap = LazyHeap()
    for rank in range(1_000):
        heap.push(a, rank)
    heap.push(b, 500)
    heap.push(c, 1)
    heap.discard(c)
    assert heap.least() is b and len(heap) == 2 and c not in heap
    assert len(heap._heap) < 100
    heap.push(b, 2_000)
    assert heap.least() is a


@pytest.mark.parametrize("policy", list(POLICIES))
def test_policies_rank_all_the_same_when_nothing_is_known_to_cost_anything(policy: str) -> None:
    tree = KnowledgeTree(block_tokens=BLOCK_TOKENS, prefill_s=lambda cached_tokens, new_tokens: 0.0)
    shelf = Shelf(tree, Tier.HOST, make(policy, tree, 10 * BLOCK_TOKENS))
    for number, text in enumerate(["abc", "abd", "x", "abc"]):
        serve(tree, shelf, f"r{number}", text)
    assert len(shelf.evict(5) or []) == 5
