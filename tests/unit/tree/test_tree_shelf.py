from __future__ import annotations

import pytest
from tree_cases import BLOCK_TOKENS, begin, node_of, path, serve, shelf_of, tree_of

from mygo.tree.exits import Mirrors
from mygo.tree.policies.base import LazyHeap
from mygo.types import Tier


def names(blocks: list[bytes] | None) -> list[str] | None:
    return None if blocks is None else [block.decode() for block in blocks]


def test_eviction_takes_a_leaf_from_tail_to_head_and_then_its_parent_in_one_call() -> None:
    tree = tree_of()
    shelf = shelf_of(tree)
    serve(tree, shelf, "r", "ss|ab")
    assert names(shelf.evict(3)) == ["ssab", "ssa", "ss"]
    assert names(shelf.evict(1)) == ["s"]


def test_parent_stays_when_another_child_is_held() -> None:
    tree = tree_of()
    shelf = shelf_of(tree)
    serve(tree, shelf, "r1", "s|a")
    serve(tree, shelf, "r2", "s|b")
    assert names(shelf.evict(1)) == ["sa"]
    assert names(shelf.evict(2)) == ["sb", "s"]


def test_eviction_changes_nothing_when_too_little_can_go() -> None:
    tree = tree_of()
    shelf = shelf_of(tree)
    serve(tree, shelf, "r", "s|ab")
    shelf.lock(b"s")
    assert shelf.evict(3) is None
    assert shelf.evict(2, frozenset([b"sab"])) is None
    assert shelf.held_tokens == 30 and node_of(tree, "sab").held == {Tier.DEVICE: 20}
    assert names(shelf.evict(2)) == ["sab", "sa"]


def test_protected_block_keeps_what_lies_before_it() -> None:
    tree = tree_of()
    shelf = shelf_of(tree)
    serve(tree, shelf, "r1", "s|ab")
    serve(tree, shelf, "r2", "s|c")
    assert names(shelf.evict(1, frozenset([b"sab"]))) == ["sc"]
    assert shelf.evict(1, frozenset([b"sab"])) is None
    assert names(shelf.evict(1)) == ["sab"], "protection lasts for one call"


def test_block_has_as_many_users_as_locked_it() -> None:
    tree = tree_of()
    shelf = shelf_of(tree)
    serve(tree, shelf, "r", "a")
    shelf.lock(b"a")
    shelf.put(b"a")
    shelf.unlock(b"a")
    assert shelf.evict(1) is None
    shelf.unlock(b"a")
    with pytest.raises(ValueError, match="no user"):
        shelf.unlock(b"a")
    assert names(shelf.evict(1)) == ["a"]


def test_unknown_blocks_leave_first_and_become_known_when_a_request_names_them() -> None:
    """Scenario: after a restart the disk holds blocks that the new tree has never seen."""
    tree = tree_of()
    shelf = shelf_of(tree)
    for block in path("abc"):
        shelf.put(block)
        shelf.unlock(block)
    serve(tree, shelf, "r", "x")
    assert names(shelf.evict(1)) == ["a"]
    assert shelf.held_tokens == 10
    begin(tree, "r2", "abc")
    assert node_of(tree, "abc").held == {Tier.DEVICE: 20}
    tree.finished("r2")
    assert names(shelf.evict(2)) == ["abc", "ab"], "behind a hole they are still the first to go"


def test_what_lies_behind_a_hole_leaves_first_and_is_kept_again_when_the_hole_is_filled() -> None:
    """Scenario: a file in the middle of a path was corrupt."""
    tree = tree_of()
    shelf = shelf_of(tree)
    serve(tree, shelf, "old", "x")
    serve(tree, shelf, "new", "s|a|b|c")
    shelf.drop(b"sa")
    assert names(shelf.evict(1)) == ["sabc"]
    shelf.put(b"sa")
    shelf.unlock(b"sa")
    assert names(shelf.evict(1)) == ["x"]


def test_hole_inside_a_node_costs_only_what_lies_behind_it() -> None:
    tree = tree_of()
    shelf = shelf_of(tree)
    serve(tree, shelf, "old", "x")
    serve(tree, shelf, "new", "abcde")
    shelf.drop(b"abc")
    assert names(shelf.evict(3)) == ["abcde", "abcd", "x"]


def test_mirrors_leave_first_when_the_shelf_is_told_so() -> None:
    tree = tree_of()
    device, host = shelf_of(tree), shelf_of(tree, tier=Tier.HOST, mirrors=Mirrors(Tier.DEVICE))
    serve(tree, host, "r1", "a")
    serve(tree, host, "r2", "b")
    device.put(b"b")
    assert names(host.evict(1)) == ["b"]
    host.put(b"b")
    host.unlock(b"b")
    device.drop(b"b")
    assert names(host.evict(1)) == ["a"], "nothing mirrors b any more, and a is older"


def test_latest_mirrors_stay_when_some_are_spared() -> None:
    tree = tree_of()
    spared = Mirrors(Tier.DEVICE, 2 * BLOCK_TOKENS)
    device, host = shelf_of(tree), shelf_of(tree, tier=Tier.HOST, mirrors=spared)
    for text in "abcd":
        serve(tree, host, text, text)
    for block in (b"d", b"c", b"b"):
        device.put(block)
    assert names(host.leaving(4)) == ["d", "a", "c", "b"], "the last two leave when nothing else is left"


def test_mirrored_parent_leaves_before_its_child_when_the_faster_tier_gives_it_back() -> None:
    tree = tree_of()
    for come_back, expected in ((False, ["x"]), (True, ["p"])):
        mirrors = Mirrors(Tier.DEVICE, come_back=come_back)
        device, host = shelf_of(tree), shelf_of(tree, tier=Tier.HOST, mirrors=mirrors)
        serve(tree, host, "old", "x")
        serve(tree, host, "new", "p|c")
        device.put(b"p")
        assert names(host.evict(1)) == expected
        for shelf in (host, device):
            shelf.clear()


def test_blocks_stay_when_it_is_asked_which_leave_next() -> None:
    tree = tree_of()
    shelf = shelf_of(tree)
    serve(tree, shelf, "r1", "ab|c")
    serve(tree, shelf, "r2", "d")
    shelf.lock(b"d")
    assert names(shelf.leaving(2)) == ["abc", "ab"]
    assert names(shelf.leaving(9)) == ["abc", "ab", "a"], "as many as may leave"
    assert len(shelf) == 4 and shelf.held_tokens == 4 * BLOCK_TOKENS
    assert names(shelf.evict(2)) == ["abc", "ab"]


def test_child_is_not_lost_when_a_faster_tier_holds_its_parent() -> None:
    tree = tree_of()
    device, host = shelf_of(tree), shelf_of(tree, tier=Tier.HOST)
    serve(tree, host, "r1", "x")
    serve(tree, host, "r2", "y")
    serve(tree, device, "r3", "s|a")
    for block in path("sa"):
        host.put(block)
        host.unlock(block)
    host.drop(b"s")
    assert names(host.evict(1)) == ["x"]
    device.drop(b"s")
    assert names(host.evict(1)) == ["sa"]


def test_waiting_requests_keep_their_nodes_until_nothing_else_is_left() -> None:
    tree = tree_of(lookahead_tokens=1_000)
    shelf = shelf_of(tree)
    for text in "abcd":
        serve(tree, shelf, text, text)
    begin(tree, "first", "a")
    begin(tree, "second", "b")
    assert names(shelf.evict(2)) == ["c", "d"]
    assert names(shelf.evict(2)) == ["b", "a"], "the latest to be admitted loses first"


def test_node_leaves_when_its_request_is_expected_last_although_it_came_first() -> None:
    tree = tree_of(lookahead_tokens=1_000)
    shelf = shelf_of(tree)
    for text in "abc":
        serve(tree, shelf, text, text)
    for text in "abc":
        begin(tree, f"wants {text}", text)
    for text, rank in (("a", 9.0), ("b", 5.0), ("c", 7.0)):
        tree.waiting.expect(f"wants {text}", rank)
    assert names(shelf.evict(1)) == ["a"]
    tree.waiting.expect("wants b", 8.0)
    assert names(shelf.evict(2)) == ["b", "c"]


def test_node_is_unprotected_when_its_request_is_aborted() -> None:
    tree = tree_of(lookahead_tokens=1_000)
    shelf = shelf_of(tree)
    for text in "ab":
        serve(tree, shelf, text, text)
    begin(tree, "r", "a")
    tree.finished("r")
    assert names(shelf.evict(2)) == ["a", "b"]


def test_node_goes_with_the_next_request_that_waits_for_it_when_the_first_leaves() -> None:
    tree = tree_of(lookahead_tokens=1_000)
    shelf = shelf_of(tree)
    for text in "ab":
        serve(tree, shelf, text, text)
    for name, text in (("first", "a"), ("second", "b"), ("third", "a")):
        begin(tree, name, text)
    tree.finished("first")
    assert names(shelf.evict(2)) == ["a", "b"], "now the second comes before the third"


def test_parent_may_leave_when_the_child_that_hid_it_was_split_at_a_hole() -> None:
    tree = tree_of()
    shelf = shelf_of(tree)
    serve(tree, shelf, "r", "s|ab")
    shelf.drop(b"sa")
    begin(tree, "splitter", "s|a|x")
    tree.finished("splitter")
    assert names(shelf.evict(2)) == ["sab", "s"]


def test_eviction_work_per_block_does_not_grow_with_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heap entries touched per evicted block, with 100 and with 3,000 nodes held."""
    touched = 0
    push, least = LazyHeap.push, LazyHeap.least

    def counted_push(self: LazyHeap, *arguments: object) -> None:
        nonlocal touched
        touched += 1
        push(self, *arguments)  # type: ignore[arg-type]

    def counted_least(self: LazyHeap) -> object:
        nonlocal touched
        before = len(self._heap)
        found = least(self)
        touched += 1 + before - len(self._heap)
        return found

    monkeypatch.setattr(LazyHeap, "push", counted_push)
    monkeypatch.setattr(LazyHeap, "least", counted_least)
    per_block = []
    for nodes in (100, 3_000):
        tree = tree_of()
        shelf = shelf_of(tree, "pgdsf")
        for number in range(nodes):
            serve(tree, shelf, str(number), f"s|{chr(200 + number)}")
        touched = 0
        for number in range(100):
            serve(tree, shelf, f"again{number}", f"s|{chr(200 + number % nodes)}")
            assert shelf.evict(1) is not None
        per_block.append(touched / 100)
    assert max(per_block) < 8


def test_mirrors_leave_in_the_same_order_when_somebody_has_looked_who_leaves_next() -> None:
    """Scenario: whoever looked sent the oldest copy to the end of the line."""
    tree = tree_of()
    device = shelf_of(tree)
    host = shelf_of(tree, tier=Tier.HOST, mirrors=Mirrors(Tier.DEVICE))
    for text in "abc":
        begin(tree, text, text)
        for shelf in (device, host):
            shelf.put(text.encode())
            shelf.unlock(text.encode())
    assert names(host.leaving(1)) == names(host.leaving(1)) == ["a"]
    assert names(host.leaving(2)) == ["a", "b"]
    assert names(host.evict(3)) == ["a", "b", "c"]
