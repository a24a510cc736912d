from __future__ import annotations

import pytest
from tree_cases import begin, node_of, path, prefill_s, segments, serve, shelf_of, tree_of

from mygo.types import Tier


def test_nodes_end_where_segments_end() -> None:
    tree = tree_of()
    begin(tree, "r", "ss|aaa|bb|q")
    assert segments(tree, "ssaaabbq") == ["ss", "aaa", "bb", "q"]
    middle = node_of(tree, "ssaaa")
    assert (middle.start_tokens, middle.tokens, middle.end_tokens) == (20, 30, 50)


def test_block_belongs_to_the_segment_of_its_last_token() -> None:
    tree = tree_of()
    tree.begin("r", path("abcde"), [19, 30, 50])  # the first segment lacks one token of block b
    assert segments(tree, "abcde") == ["a", "bc", "de"]


def test_segment_without_a_block_of_its_own_makes_no_node() -> None:
    tree = tree_of()
    tree.begin("r", path("abc"), [10, 15, 19, 30])
    assert segments(tree, "abc") == ["a", "bc"]


def test_nodes_split_at_branches_when_there_are_no_segments() -> None:
    tree = tree_of()
    tree.begin("r1", path("abcd"))
    assert segments(tree, "abcd") == ["abcd"]
    tree.begin("r2", path("abxy"))
    assert segments(tree, "abcd") == ["ab", "cd"]
    assert segments(tree, "abxy") == ["ab", "xy"]
    tree.begin("r3", path("a"))
    assert segments(tree, "abxy") == ["a", "b", "xy"]


def test_block_sizes_may_differ() -> None:
    tree = tree_of()
    tree.begin("r", path("abc"), [7, 107], sizes=[7, 100, 3])
    assert segments(tree, "abc") == ["a", "b", "c"]
    assert [node.tokens for node in tree.nodes()] == [7, 100, 3]


def test_split_node_keeps_what_was_known_of_it() -> None:
    tree = tree_of(lookahead_tokens=1_000)
    shelf = shelf_of(tree)
    serve(tree, shelf, "r1", "abcd")
    begin(tree, "r2", "abcd")
    begin(tree, "r3", "abx")
    head, tail = node_of(tree, "ab"), node_of(tree, "abcd")
    assert (head.frequency, tail.frequency) == (1, 1)
    assert (head.live, tail.live) == (2, 1)
    assert head.held == tail.held == {Tier.DEVICE: 20}
    assert tree.cost_s_per_token(head) == tree.cost_s_per_token(tail) == prefill_s(0, 40) / 40
    tree.finished("r2")
    tree.finished("r3")
    assert (head.live, tail.live, head.awaited_by, tail.awaited_by) == (0, 0, [], [])


def test_access_counts_once_when_a_request_is_preempted_and_resumed() -> None:
    tree = tree_of()
    begin(tree, "r", "ab")
    tree.admitted("r", 0)
    tree.admitted("r", 20)
    assert (node_of(tree, "ab").frequency, node_of(tree, "ab").computed) == (1, 1)


def test_frequency_halves_when_half_life_has_passed() -> None:
    tree = tree_of(half_life_requests=4)
    for number in range(3):
        begin(tree, f"r{number}", "a")
        tree.admitted(f"r{number}", 0)
    before = node_of(tree, "a").frequency
    for number in range(3, 6):
        begin(tree, f"r{number}", "b")
        tree.admitted(f"r{number}", 0)
    begin(tree, "last", "a")
    tree.admitted("last", 0)
    assert node_of(tree, "a").frequency == pytest.approx(before / 2 + 1)


def test_cost_is_learned_only_when_the_node_is_computed() -> None:
    """Scenario: document b is computed behind a cold a, then behind a cached a, then hit."""
    tree = tree_of()
    for name, cached_tokens in (("cold", 0), ("behind a", 10), ("hit", 20)):
        begin(tree, name, "a|b|q")
        tree.admitted(name, cached_tokens)
    a, b = node_of(tree, "a"), node_of(tree, "ab")
    assert (a.computed, b.computed) == (1, 2)
    cold, behind = prefill_s(0, 30) / 30, prefill_s(10, 20) / 20
    assert tree.cost_s_per_token(a) == cold
    assert tree.cost_s_per_token(b) == pytest.approx((cold + behind) / 2)


def test_cost_is_predicted_when_the_node_was_never_computed() -> None:
    tree = tree_of()
    begin(tree, "r", "ab|c")
    assert tree.cost_s_per_token(node_of(tree, "abc")) == prefill_s(20, 10) / 10


def test_answer_grows_one_node_when_blocks_come_one_by_one() -> None:
    tree = tree_of()
    begin(tree, "r", "ab|q")
    tree.admitted("r", 0)
    blocks = path("abqxyz")
    for block in blocks[3:]:
        tree.extend("r", [block])
    assert segments(tree, "abqxyz") == ["ab", "q", "xyz"]
    tree.finished("r")
    begin(tree, "next turn", "ab|q|xyz|p")
    assert segments(tree, "abqxyzp") == ["ab", "q", "xyz", "p"]


def test_unknown_ids_are_ignored() -> None:
    tree = tree_of()
    tree.admitted("nobody", 10)
    tree.extend("nobody", path("a"))
    tree.finished("nobody")
    assert len(tree) == 0 and tree.admissions == 0


def test_node_is_remembered_when_nothing_of_it_is_held_any_more() -> None:
    tree = tree_of(ghosts=2)
    shelf = shelf_of(tree)
    serve(tree, shelf, "r1", "a|b")
    shelf.clear()
    assert node_of(tree, "ab").held == {}
    serve(tree, shelf, "r2", "a|b")
    assert node_of(tree, "ab").frequency == 2


def test_oldest_ghosts_are_forgotten_when_there_are_too_many() -> None:
    tree = tree_of(ghosts=2)
    for number, text in enumerate(("a|b", "c", "d", "e")):
        begin(tree, str(number), text)
        tree.finished(str(number))
    assert tree.place(b"ab") is None and tree.place(b"a") is None and tree.place(b"c") is None
    assert {node.blocks[0] for node in tree.nodes()} == {b"d", b"e"}


def test_what_a_split_leaves_idle_is_forgotten_too() -> None:
    tree = tree_of(ghosts=0)
    shelf = shelf_of(tree)
    begin(tree, "r1", "ab")
    shelf.put(b"a")
    tree.finished("r1")
    begin(tree, "r2", "a")
    assert tree.place(b"ab") is None and len(tree) == 1


def test_look_ahead_protects_the_earliest_when_the_budget_is_short() -> None:
    tree = tree_of(lookahead_tokens=30)
    shelf = shelf_of(tree)
    for number, text in enumerate(("aa", "bb", "cc")):
        serve(tree, shelf, f"old{number}", text)
    for text in ("aa", "bb", "cc"):
        begin(tree, text, text)
    assert [bool(node_of(tree, text).awaited_by) for text in ("aa", "bb", "cc")] == [True, False, False]
    tree.admitted("aa", 20)
    assert [bool(node_of(tree, text).awaited_by) for text in ("aa", "bb", "cc")] == [False, True, False]
    tree.finished("bb")
    assert [bool(node_of(tree, text).awaited_by) for text in ("aa", "bb", "cc")] == [False, False, True]


def test_look_ahead_protects_who_is_expected_first_when_that_is_not_who_came_first() -> None:
    tree = tree_of(lookahead_tokens=30)
    shelf = shelf_of(tree)
    for number, text in enumerate(("aa", "bb", "cc")):
        serve(tree, shelf, f"old{number}", text)
    for text in ("aa", "bb", "cc"):
        begin(tree, text, text)

    def protected() -> list[str]:
        return [text for text in ("aa", "bb", "cc") if node_of(tree, text).awaited_by]

    tree.waiting.expect("cc", 2.0)
    assert protected() == ["cc"] and [name for name, _ in tree.waiting] == ["cc", "aa", "bb"]
    tree.waiting.expect("bb", 1.0)
    assert protected() == ["bb"] and tree.waiting.protected_tokens == 20
    tree.waiting.expect("bb", 3.0)
    assert protected() == ["cc"] and [name for name, _ in tree.waiting] == ["cc", "bb", "aa"]
    tree.waiting.expect("nobody", 0.0)
    tree.admitted("cc", 20)
    tree.waiting.expect("cc", 0.0)  # waits no more
    assert protected() == ["bb"] and [name for name, _ in tree.waiting] == ["bb", "aa"]


def test_look_ahead_counts_shared_documents_once() -> None:
    tree = tree_of(lookahead_tokens=30)
    shelf = shelf_of(tree)
    serve(tree, shelf, "old", "aaa")
    for number in range(3):
        begin(tree, f"r{number}", "aaa")
    assert [came for _, came in node_of(tree, "aaa").awaited_by] == [2, 3, 4]
    assert tree.waiting.protected_tokens == 30
    assert [name for name, _ in tree.waiting] == ["r0", "r1", "r2"]


def test_look_ahead_counts_what_is_still_awaited_when_a_node_was_split() -> None:
    """Scenario: two requests wait for a beginning, and whoever waited for the rest, too, is gone."""
    tree = tree_of(lookahead_tokens=1_000)
    shelf = shelf_of(tree)
    serve(tree, shelf, "old", "aaaa")
    begin(tree, "long", "aaaa")
    begin(tree, "short", "aab")  # splits the node
    assert tree.waiting.protected_tokens == 40
    tree.finished("long")
    assert tree.waiting.protected_tokens == 20
    tree.finished("short")
    assert tree.waiting.protected_tokens == 0


def test_earliest_waiting_request_is_protected_when_it_alone_exceeds_the_budget() -> None:
    tree = tree_of(lookahead_tokens=10)
    shelf = shelf_of(tree)
    serve(tree, shelf, "old", "aaaa")
    begin(tree, "big", "aaaa")
    assert node_of(tree, "aaaa").awaited_by
