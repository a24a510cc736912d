"""Routing by the longest text prefix that was sent before, after Ray Serve LLM's
PrefixCacheAffinityRouter: it sees text only, and remembers what it sent rather than what is held."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from typing import ClassVar

from mygo.routing.baselines import less_busy_of_two
from mygo.routing.router import RouteRequest, accepting, route_to
from mygo.types import Candidate, Route, WorkerId


class PrefixAffinity:
    """The worker that was sent the longest prefix of this prompt, unless load or match says otherwise.

    - Open requests differ by more than ``imbalance``: power of two choices.
    - The best match is below ``min_match`` of the prompt: the worker with the smallest tree.
    - Otherwise: one of the best-matching workers, the less busy of two.

    A worker's tree is cut to nine tenths when it exceeds ``tree_chars``, oldest leaves first. To tune
    it, set ``tree_chars`` to the characters whose KV fits one worker.
    """

    needs_all_workers: ClassVar[bool] = True

    def __init__(self, *, imbalance: float, min_match: float, tree_chars: int = 400_000) -> None:
        self._imbalance = imbalance
        self._min_match = min_match
        self._tree_chars = tree_chars
        self._tree = PrefixTree()

    def route(
        self, request: RouteRequest, workers: Sequence[Candidate], rng: random.Random, now_s: float
    ) -> Route:
        able = accepting(workers)
        for gone in self._tree.workers() - {each.worker for each in workers}:
            self._tree.remove(gone)
        chosen = less_busy_of_two(self._preferred(request, able), rng)
        self._tree.insert(request.text, chosen.worker)
        if self._tree.chars(chosen.worker) > self._tree_chars:
            self._tree.shrink(chosen.worker, self._tree_chars * 9 // 10)
        return route_to(chosen, request.prompt_tokens)

    def _preferred(self, request: RouteRequest, able: list[Candidate]) -> list[Candidate]:
        running = [each.running for each in able]
        if max(running) - min(running) > self._imbalance:
            return able
        matched, holders = self._tree.match(request.text, {each.worker for each in able})
        if matched >= self._min_match * len(request.text) and holders:
            return [each for each in able if each.worker in holders]
        smallest = min(self._tree.chars(each.worker) for each in able)
        return [each for each in able if self._tree.chars(each.worker) == smallest]


class _Node:
    __slots__ = ("children", "edge", "parent", "used")

    def __init__(self, edge: str, parent: _Node | None) -> None:
        self.edge = edge
        self.parent = parent
        self.children: dict[str, _Node] = {}
        self.used: dict[WorkerId, int] = {}
        """Workers that were sent this prefix, with the tick of the last time."""


class PrefixTree:
    """A radix tree over characters; every node knows the workers that were sent its prefix.

    A worker in a node is in all nodes above it, with ticks at least as late.
    """

    def __init__(self) -> None:
        self._root = _Node("", None)
        self._chars: dict[WorkerId, int] = {}
        self._tick = 0

    def workers(self) -> set[WorkerId]:
        return set(self._chars)

    def chars(self, worker: WorkerId) -> int:
        """Characters of all distinct prefixes that the worker was sent."""
        return self._chars.get(worker, 0)

    def insert(self, text: str, worker: WorkerId) -> None:
        self._tick += 1
        node, at = self._root, 0
        self._chars.setdefault(worker, 0)
        while at < len(text):
            child = node.children.get(text[at])
            if child is None:
                child = node.children[text[at]] = _Node(text[at:], node)
            shared = _shared_chars(child.edge, text, at)
            if shared < len(child.edge):
                child = self._split(child, shared)
            if worker not in child.used:
                self._chars[worker] += len(child.edge)
            child.used[worker] = self._tick
            node, at = child, at + shared

    def match(self, text: str, workers: Collection[WorkerId]) -> tuple[int, set[WorkerId]]:
        """Characters of the longest prefix that any of ``workers`` was sent, and which of them were."""
        node, at, holders = self._root, 0, set(workers)
        while at < len(text):
            child = node.children.get(text[at])
            if child is None or not (below := holders & child.used.keys()):
                break
            shared = _shared_chars(child.edge, text, at)
            node, at, holders = child, at + shared, below
            if shared < len(child.edge):
                break
        return (at, holders) if at else (0, set())

    def shrink(self, worker: WorkerId, target_chars: int) -> None:
        """Forget the worker's least recently sent prefixes, leaves first, down to ``target_chars``."""
        oldest_first = sorted(self._nodes_of(worker), key=lambda node: (node.used[worker], -_depth(node)))
        for node in oldest_first:
            if self._chars[worker] <= target_chars:
                return
            self._forget(node, worker)

    def remove(self, worker: WorkerId) -> None:
        """Forget a worker that left."""
        for node in sorted(self._nodes_of(worker), key=_depth, reverse=True):
            self._forget(node, worker)
        self._chars.pop(worker, None)

    def _split(self, node: _Node, at: int) -> _Node:
        """Cut a node's edge in two; returns the upper part."""
        assert node.parent is not None
        upper = _Node(node.edge[:at], node.parent)
        upper.used = dict(node.used)
        upper.children = {node.edge[at]: node}
        node.parent.children[node.edge[0]] = upper
        node.edge, node.parent = node.edge[at:], upper
        return upper

    def _forget(self, node: _Node, worker: WorkerId) -> None:
        del node.used[worker]
        self._chars[worker] -= len(node.edge)
        if not node.used:
            assert node.parent is not None and not node.children
            del node.parent.children[node.edge[0]]

    def _nodes_of(self, worker: WorkerId) -> Iterator[_Node]:
        stack = list(self._root.children.values())
        while stack:
            node = stack.pop()
            if worker in node.used:
                yield node
                stack.extend(node.children.values())


def _shared_chars(edge: str, text: str, at: int) -> int:
    """Length of the common prefix of ``edge`` and ``text[at:]``."""
    if text.startswith(edge, at):
        return len(edge)
    low, high = 0, min(len(edge), len(text) - at)
    while low < high:
        middle = (low + high + 1) // 2
        if text.startswith(edge[:middle], at):
            low = middle
        else:
            high = middle - 1
    return low


def _depth(node: _Node) -> int:
    depth = 0
    while node.parent is not None:
        depth, node = depth + 1, node.parent
    return depth
