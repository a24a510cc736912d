"""S3-FIFO (Yang et al., SOSP'23): a small FIFO queue filters out what is used once."""

from __future__ import annotations

from mygo.tree.node import Node
from mygo.tree.policies.base import LazyHeap
from mygo.tree.policies.ghosts import GhostList

SMALL_SHARE = 0.1
HITS_TO_PROMOTE = 2
"""In the small queue; as libCacheSim has it."""
MAX_HITS = 3


class S3Fifo:
    """New nodes enter the small queue; what was hit there twice goes on to the main queue when its turn to
    leave comes. In the main queue each hit, three at most, buys another round. What left the small queue
    and comes back soon enters the main queue.

    A queue's order counts among exposed nodes only: one whose turn comes while it is hidden keeps it.
    """

    def __init__(self, capacity_tokens: int) -> None:
        self._main_capacity_tokens = capacity_tokens - int(SMALL_SHARE * capacity_tokens)
        self._small = LazyHeap()
        self._main = LazyHeap()
        self._arrivals: dict[Node, int] = {}
        """Of inserted nodes: when they entered their queue."""
        self._hits: dict[Node, int] = {}
        self._in_main: set[Node] = set()
        self._main_tokens = 0
        self._ghosts = GhostList()
        self._entered = 0

    def insert(self, node: Node) -> None:
        self._hits[node] = 0
        self._enter(node)
        if node in self._ghosts:
            self._ghosts.discard(node)
            self._in_main.add(node)

    def resize(self, node: Node, tokens: int) -> None:
        if node in self._in_main:
            self._main_tokens += tokens

    def access(self, node: Node, *, hit: bool) -> None:
        if hit:
            self._hits[node] += 1

    def expose(self, node: Node) -> None:
        self._queue(node).push(node, self._arrivals[node])

    def hide(self, node: Node) -> None:
        self._queue(node).discard(node)

    def victim(self) -> Node | None:
        while True:
            small = self._small.least()
            main = self._main.least()
            if small is not None and (main is None or self._main_tokens <= self._main_capacity_tokens):
                if self._hits[small] < HITS_TO_PROMOTE:
                    return small
                self._promote(small)
            elif main is not None:
                if not self._hits[main]:
                    return main
                self._hits[main] = min(self._hits[main], MAX_HITS) - 1
                self._enter(main)
                self._main.push(main, self._arrivals[main])
            else:
                return None

    def evicted(self, node: Node) -> None:
        if node not in self._in_main:
            self._ghosts.add(node)
            self._ghosts.trim(self._main_capacity_tokens)

    def remove(self, node: Node) -> None:
        del self._arrivals[node], self._hits[node]
        self._in_main.discard(node)

    def split(self, head: Node, tail: Node) -> None:
        self._arrivals[head] = self._arrivals[tail]
        self._hits[head] = self._hits[tail]
        if tail in self._in_main:
            self._in_main.add(head)

    def _queue(self, node: Node) -> LazyHeap:
        return self._main if node in self._in_main else self._small

    def _enter(self, node: Node) -> None:
        self._entered += 1
        self._arrivals[node] = self._entered

    def _promote(self, node: Node) -> None:
        self._small.discard(node)
        self._in_main.add(node)
        self._main_tokens += sum(node.held.values())
        self._enter(node)
        self._main.push(node, self._arrivals[node])
