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
    and comes back soon enters the main queue, and so does what comes before anything had to leave, once
    the small queue is full.

    A queue's order counts among exposed nodes only: one whose turn comes while it is hidden keeps it.
    """

    def __init__(self, capacity_tokens: int) -> None:
        self._small_capacity_tokens = int(SMALL_SHARE * capacity_tokens)
        self._main_capacity_tokens = capacity_tokens - self._small_capacity_tokens
        self._small = LazyHeap()
        self._main = LazyHeap()
        self._arrivals: dict[Node, int] = {}
        """Of inserted nodes: when they entered their queue."""
        self._hits: dict[Node, int] = {}
        self._tokens: dict[Node, int] = {}
        self._in_main: set[Node] = set()
        self._small_tokens = 0
        self._main_tokens = 0
        self._ghosts = GhostList()
        self._entered = 0
        self._has_evicted = False

    def insert(self, node: Node) -> None:
        self._hits[node] = self._tokens[node] = 0
        self._enter(node)
        filling = not self._has_evicted and self._small_tokens >= self._small_capacity_tokens
        if node in self._ghosts or filling:
            self._ghosts.discard(node)
            self._in_main.add(node)
        # only now: those who made room for this node must not push its own ghost out
        self._ghosts.trim(self._main_capacity_tokens)

    def resize(self, node: Node, tokens: int) -> None:
        self._tokens[node] += tokens
        if node in self._in_main:
            self._main_tokens += tokens
        else:
            self._small_tokens += tokens

    def access(self, node: Node, *, hit: bool) -> None:
        if hit:
            self._hits[node] += 1

    def expose(self, node: Node) -> None:
        self._queue(node).push(node, self._arrivals[node])

    def hide(self, node: Node) -> None:
        self._queue(node).discard(node)

    def victim(self) -> Node | None:
        if self._main_tokens > self._main_capacity_tokens:
            return self._main_victim() or self._small_victim() or self._main_victim()
        return self._small_victim() or self._main_victim()

    def evicted(self, node: Node) -> None:
        self._has_evicted = True
        if node not in self._in_main:
            self._ghosts.add(node)

    def remove(self, node: Node) -> None:
        del self._arrivals[node], self._hits[node], self._tokens[node]
        self._in_main.discard(node)

    def split(self, head: Node, tail: Node, head_tokens: int) -> None:
        self._tokens[head] = head_tokens
        self._tokens[tail] -= head_tokens
        self._arrivals[head] = self._arrivals[tail]
        self._hits[head] = self._hits[tail]
        if tail in self._in_main:
            self._in_main.add(head)

    def _queue(self, node: Node) -> LazyHeap:
        return self._main if node in self._in_main else self._small

    def _enter(self, node: Node) -> None:
        self._entered += 1
        self._arrivals[node] = self._entered

    def _small_victim(self) -> Node | None:
        while (node := self._small.least()) is not None and self._hits[node] >= HITS_TO_PROMOTE:
            self._small.discard(node)
            self._in_main.add(node)
            self._small_tokens -= self._tokens[node]
            self._main_tokens += self._tokens[node]
            self._hits[node] = 0
            self._enter(node)
            self._main.push(node, self._arrivals[node])
        return node

    def _main_victim(self) -> Node | None:
        while (node := self._main.least()) is not None and self._hits[node]:
            self._hits[node] = min(self._hits[node], MAX_HITS) - 1
            self._enter(node)
            self._main.push(node, self._arrivals[node])
        return node
