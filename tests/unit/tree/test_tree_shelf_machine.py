"""Random use of a tree with two tiers, against a naive model that recomputes everything at each step."""

from __future__ import annotations

import hashlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mygo.tree.exits import Mirrors
from mygo.tree.knowledge import KnowledgeTree
from mygo.tree.node import Block, Node, Turn
from mygo.tree.policies import POLICIES, make
from mygo.tree.shelf import Shelf
from mygo.types import Tier

BLOCK_TOKENS = 4

texts = st.lists(st.integers(0, 1), min_size=1, max_size=7)
tiers = st.sampled_from([Tier.DEVICE, Tier.HOST])
picks = st.integers(0, 1_000)


def prefill_s(cached_tokens: int, new_tokens: int) -> float:
    return 0.01 + 0.001 * new_tokens


def path(text: list[int]) -> list[Block]:
    """Block hashes: each names all that is before it."""
    return [hashlib.md5(bytes(text[: end + 1])).digest() for end in range(len(text))]


class TreeMachine(RuleBasedStateMachine):
    @initialize(
        policy=st.sampled_from(sorted(POLICIES)),
        ghosts=st.sampled_from([0, 3, 100]),
        budget=st.sampled_from([0, 12, 1_000]),
        mirrors=st.sampled_from(
            [None, Mirrors(Tier.DEVICE), Mirrors(Tier.DEVICE, 12), Mirrors(Tier.DEVICE, 12, come_back=True)]
        ),
    )
    def start(self, policy: str, ghosts: int, budget: int, mirrors: Mirrors | None) -> None:
        self.tree = KnowledgeTree(
            block_tokens=BLOCK_TOKENS,
            prefill_s=prefill_s,
            half_life_requests=None,
            ghosts=ghosts,
            lookahead_tokens=budget,
        )
        self.mirrors = mirrors
        self.shelves = {
            tier: Shelf(self.tree, tier, make(policy, self.tree, 40), mirrors=mirrors_of_it)
            for tier, mirrors_of_it in ((Tier.DEVICE, None), (Tier.HOST, mirrors))
        }
        self.users: dict[Tier, dict[Block, int]] = {tier: {} for tier in self.shelves}
        self.paths: dict[str, list[Block]] = {}
        self.waiting: list[str] = []
        self.seen: dict[Block, list[int]] = {}
        self.begun = 0

    # --- requests ---

    @rule(text=texts, ends=st.lists(st.integers(0, 7 * BLOCK_TOKENS + 3), max_size=3))
    def begin(self, text: list[int], ends: list[int]) -> None:
        self.begun += 1
        name = f"r{self.begun}"
        self.paths[name] = path(text)
        self._see(text)
        self.waiting.append(name)
        self.tree.begin(name, self.paths[name], sorted(ends))
        cuts = {end // BLOCK_TOKENS for end in ends} | {len(text)}
        for cut in cuts:
            if 0 < cut <= len(text):
                place = self.tree.place(self.paths[name][cut - 1])
                assert place is not None and place.node.blocks[-1] == self.paths[name][cut - 1]

    @precondition(lambda self: self.waiting)
    @rule(pick=picks, cached=st.integers(0, 7))
    def admit(self, pick: int, cached: int) -> None:
        name = self.waiting.pop(pick % len(self.waiting))
        before = {node: (node.frequency, node.computed) for node in self._nodes_of(name)}
        cached_tokens = min(cached, len(self.paths[name])) * BLOCK_TOKENS
        self.tree.admitted(name, cached_tokens)
        self.tree.admitted(name, cached_tokens)  # resumed after preemption: the same access
        for node, (frequency, computed) in before.items():
            assert node.frequency == frequency + 1
            assert node.computed == computed + (node.end_tokens > cached_tokens)

    @precondition(lambda self: self.waiting)
    @rule(pick=picks, rank=st.integers(0, 3))
    def expect(self, pick: int, rank: int) -> None:
        name = self.waiting[pick % len(self.waiting)]
        self.tree.waiting.expect(name, rank)
        line = self.tree.waiting._line
        at = [each for _, each in line].index(name)
        turn = rank, line[at][0][1]
        assert all(before <= turn for before, _ in line[:at])
        assert all(turn <= behind for behind, _ in line[at + 1 :])

    @precondition(lambda self: set(self.paths) - set(self.waiting))
    @rule(pick=picks, more=st.lists(st.integers(0, 1), min_size=1, max_size=2))
    def extend(self, pick: int, more: list[int]) -> None:
        running = [name for name in self.paths if name not in self.waiting]
        name = running[pick % len(running)]
        text = [*self.seen[self.paths[name][-1]], *more]
        if len(text) < 12:
            blocks = path(text)
            self.tree.extend(name, blocks[len(self.paths[name]) :])
            self.paths[name] = blocks
            self._see(text)

    @precondition(lambda self: self.paths)
    @rule(pick=picks)
    def finish(self, pick: int) -> None:
        name = sorted(self.paths)[pick % len(self.paths)]
        self.tree.finished(name)
        self.tree.finished(name)
        del self.paths[name]
        if name in self.waiting:
            self.waiting.remove(name)

    # --- tiers ---

    @rule(tier=tiers, text=texts, count=st.integers(1, 7))
    def put_path(self, tier: Tier, text: list[int], count: int) -> None:
        """A computed prompt, known to the tree or not, and then freed, last block first."""
        self._see(text)
        blocks = path(text)[:count]
        for block in blocks:
            self.shelves[tier].put(block)
            self.users[tier][block] = self.users[tier].get(block, 0) + 1
        for block in reversed(blocks):
            self.shelves[tier].unlock(block)
            self.users[tier][block] -= 1

    @precondition(lambda self: self.seen)
    @rule(tier=tiers, pick=picks)
    def put(self, tier: Tier, pick: int) -> None:
        block = list(self.seen)[pick % len(self.seen)]
        self.shelves[tier].put(block)
        self.users[tier][block] = self.users[tier].get(block, 0) + 1

    @precondition(lambda self: self.seen)
    @rule(tier=tiers, pick=picks)
    def lock(self, tier: Tier, pick: int) -> None:
        block = list(self.seen)[pick % len(self.seen)]
        self.shelves[tier].lock(block)
        if block in self.users[tier]:
            self.users[tier][block] += 1

    @rule(tier=tiers, pick=picks)
    def unlock(self, tier: Tier, pick: int) -> None:
        used = [block for block, users in self.users[tier].items() if users]
        if used:
            block = used[pick % len(used)]
            self.shelves[tier].unlock(block)
            self.users[tier][block] -= 1

    @rule(tier=tiers, pick=picks)
    def drop(self, tier: Tier, pick: int) -> None:
        """Loss in the middle of a path included."""
        if self.users[tier]:
            block = list(self.users[tier])[pick % len(self.users[tier])]
            self.shelves[tier].drop(block)
            del self.users[tier][block]

    @rule(tier=tiers)
    def clear(self, tier: Tier) -> None:
        """The engine's cache was reset, or the tier restarted."""
        self.shelves[tier].clear()
        self.users[tier].clear()
        assert len(self.shelves[tier]) == self.shelves[tier].held_tokens == 0

    @rule(tier=tiers, count=st.integers(0, 6), pick=st.lists(picks, max_size=2))
    def evict(self, tier: Tier, count: int, pick: list[int]) -> None:
        shelf, users = self.shelves[tier], self.users[tier]
        protected = frozenset(list(users)[each % len(users)] for each in pick) if users else frozenset()
        possible = self._evictable(tier, protected)
        first_choice = self._best_choices(tier, protected)
        expected = shelf.leaving(count)
        gone = shelf.evict(count, protected)
        if not protected:
            assert len(expected) == min(count, len(possible))
            assert gone is None or gone == expected
        if count > len(possible):
            assert gone is None
            return
        assert gone is not None and len(gone) == len(set(gone)) == count
        assert set(gone) <= possible
        if gone:
            assert gone[0] in first_choice
        left = set(users) - set(gone)
        for block in gone:
            place = self.tree.place(block)
            if place is not None and not self._may_leave_children(place.node, tier):
                below = [child for child in place.node.children.values() if left & set(child.blocks)]
                assert not below, "a parent left before its child"
                after = place.node.blocks[place.depth - place.node.first_block + 1 :]
                assert not left & set(after), "a block left before one behind it"
            del users[block]

    # --- the naive model ---

    def _see(self, text: list[int]) -> None:
        for end, block in enumerate(path(text), 1):
            self.seen[block] = text[:end]

    def _nodes_of(self, name: str) -> list[Node]:
        nodes: list[Node] = []
        for block in self.paths[name]:
            place = self.tree.place(block)
            assert place is not None, f"a block of live request {name} was forgotten"
            if place.node not in nodes:
                nodes.append(place.node)
        return nodes

    def _held(self, node: Node, tier: Tier) -> list[Block]:
        return [block for block in node.blocks if block in self.users[tier]]

    def _is_mirror(self, node: Node, tier: Tier) -> bool:
        on_device = len(self._held(node, Tier.DEVICE)) == len(node.blocks)
        return self.mirrors is not None and tier is Tier.HOST and on_device

    def _may_leave_children(self, node: Node, tier: Tier) -> bool:
        return self.mirrors is not None and self.mirrors.come_back and self._is_mirror(node, tier)

    def _evictable(self, tier: Tier, protected: frozenset[Block]) -> set[Block]:
        """Blocks that nobody uses, and behind which nobody uses anything, in nodes held without a gap."""

        def walk(node: Node) -> bool:
            """Whether all of it can leave."""
            children = [walk(child) for child in node.children.values()]
            held_children = [
                free
                for child, free in zip(node.children.values(), children, strict=True)
                if self._held(child, tier)
            ]
            free = all(held_children) or self._may_leave_children(node, tier)
            for block in reversed(self._held(node, tier)):
                free = free and not self.users[tier][block] and block not in protected
                if free:
                    found.add(block)
            return free

        found = {
            block
            for block, users in self.users[tier].items()
            if not users and block not in protected and self.tree.place(block) is None
        }
        for child in self.tree.root.children.values():
            walk(child)
        return found

    def _whole(self, node: Node, tier: Tier) -> bool:
        upper = [Tier.DEVICE] if tier is Tier.DEVICE else [Tier.DEVICE, Tier.HOST]
        return any(len(self._held(node, each)) == len(node.blocks) for each in upper)

    def _lost(self, node: Node, tier: Tier) -> bool:
        held = self._held(node, tier)
        gap = held != node.blocks[: len(held)]
        return gap or any(not self._whole(above, tier) for above in list(node.upward())[1:])

    def _best_choices(self, tier: Tier, protected: frozenset[Block]) -> set[Block]:
        """What may leave first: strangers, else lost blocks, else mirrors, else all but the awaited."""
        free = self._evictable(tier, protected)
        strangers = {block for block in free if self.tree.place(block) is None}
        if strangers:
            return strangers
        leaves: dict[Block, Node] = {}
        for node in self.tree.nodes():
            held = self._held(node, tier)
            below = any(self._held(child, tier) for child in node.children.values())
            if held and held[-1] in free and (not below or self._may_leave_children(node, tier)):
                leaves[held[-1]] = node
        lost = {block for block, node in leaves.items() if self._lost(node, tier)}
        if lost:
            return lost
        mirrors = {block: node for block, node in leaves.items() if self._is_mirror(node, tier)}
        spared = self.mirrors.spared_tokens if self.mirrors is not None else 0
        if sum(node.tokens for node in mirrors.values()) > spared:
            return set(mirrors)
        others = {block: node for block, node in leaves.items() if block not in mirrors}
        if not others:
            return set(mirrors)
        leaves = others
        unawaited = {block for block, node in leaves.items() if not node.awaited_by}
        if unawaited or not leaves:
            return unawaited
        latest = max(node.awaited_by[0] for node in leaves.values())
        return {block for block, node in leaves.items() if node.awaited_by[0] == latest}

    @invariant()
    def tree_is_sound(self) -> None:
        if not hasattr(self, "tree"):
            return
        nodes = list(self.tree.nodes())
        assert len(nodes) == len(self.tree)
        on_paths: dict[Node, int] = {}
        for name in self.paths:
            for node in self._nodes_of(name):
                on_paths[node] = on_paths.get(node, 0) + 1
        ghosts = 0
        for node in nodes:
            assert node.blocks and node.parent is not None
            assert node.parent.children[node.blocks[0]] is node
            assert node.start_tokens == node.first_block * BLOCK_TOKENS == node.parent.end_tokens
            assert node.tokens == len(node.blocks) * BLOCK_TOKENS
            assert node.live == on_paths.get(node, 0)
            for depth, block in enumerate(node.blocks, node.first_block):
                assert self.tree.place(block) == (node, depth, BLOCK_TOKENS)
            for tier in self.shelves:
                assert node.held.get(tier, 0) == len(self._held(node, tier)) * BLOCK_TOKENS
                assert tier not in node.held or node.held[tier]
            ghosts += not (node.live or node.held or node.children)
        assert ghosts <= self.tree._max_ghosts

    @invariant()
    def shelves_are_sound(self) -> None:
        if not hasattr(self, "tree"):
            return
        for tier, shelf in self.shelves.items():
            assert set(shelf) == set(self.users[tier]) and len(shelf) == len(self.users[tier])
            known = [block for block in self.users[tier] if self.tree.place(block) is not None]
            assert shelf.held_tokens == len(known) * BLOCK_TOKENS

    @invariant()
    def look_ahead_keeps_its_budget(self) -> None:
        if not hasattr(self, "tree"):
            return
        line = self.tree.waiting._line
        assert line == sorted(line) and sorted(name for _, name in line) == sorted(self.waiting)
        protecting = line[: self.tree.waiting._protecting]
        awaited: dict[Node, list[Turn]] = {}
        for turn, name in protecting:
            for node in self._nodes_of(name):
                awaited.setdefault(node, []).append(turn)
        for node in self.tree.nodes():
            assert node.awaited_by == awaited.get(node, [])
        assert bool(protecting) == bool(line and self.tree.waiting._budget_tokens)
        marked = sum(node.awaited_tokens for node in self.tree.nodes() if node.awaited_by)
        assert self.tree.waiting.protected_tokens == marked
        if len(protecting) > 1:
            assert marked <= self.tree.waiting._budget_tokens or len(protecting) == 1


TestTree = TreeMachine.TestCase
TestTree.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
