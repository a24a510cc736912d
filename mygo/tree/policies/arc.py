"""ARC, Adaptive Replacement Cache (Megiddo and Modha, FAST'03), in tokens instead of pages."""

from __future__ import annotations

from mygo.tree.node import Node
from mygo.tree.policies.base import LazyHeap
from mygo.tree.policies.ghosts import GhostList


class Arc:
    """Two LRU lists, of what was used once and of what was used again. Hits on the ghosts of either move
    the target size of the first."""

    def __init__(self, capacity_tokens: int) -> None:
        self._capacity_tokens = capacity_tokens
        self._target_tokens = 0.0
        self._once = LazyHeap()
        self._again = LazyHeap()
        self._once_tokens = 0
        self._again_tokens = 0
        self._stamps: dict[Node, int] = {}
        self._tokens: dict[Node, int] = {}
        self._repeated: set[Node] = set()
        self._once_ghosts = GhostList()
        self._again_ghosts = GhostList()
        self._uses = 0

    def insert(self, node: Node) -> None:
        self._stamp(node)
        self._tokens[node] = 0
        if node in self._once_ghosts:
            weight = max(1.0, self._again_ghosts.tokens / self._once_ghosts.tokens)
            self._target_tokens = min(self._capacity_tokens, self._target_tokens + weight * node.tokens)
            self._once_ghosts.discard(node)
            self._repeated.add(node)
        elif node in self._again_ghosts:
            weight = max(1.0, self._once_ghosts.tokens / self._again_ghosts.tokens)
            self._target_tokens = max(0.0, self._target_tokens - weight * node.tokens)
            self._again_ghosts.discard(node)
            self._repeated.add(node)
        # only now: those who made room for this node must not push its own ghost out
        self._once_ghosts.trim(max(0, self._capacity_tokens - self._once_tokens))
        known_tokens = self._once_tokens + self._again_tokens + self._once_ghosts.tokens
        self._again_ghosts.trim(max(0, 2 * self._capacity_tokens - known_tokens))

    def resize(self, node: Node, tokens: int) -> None:
        self._tokens[node] += tokens
        if node in self._repeated:
            self._again_tokens += tokens
        else:
            self._once_tokens += tokens

    def access(self, node: Node, *, hit: bool) -> None:
        exposed = node in self._list(node)
        if exposed:
            self.hide(node)
        self._stamp(node)
        if hit and node not in self._repeated:
            self._repeated.add(node)
            self._once_tokens -= self._tokens[node]
            self._again_tokens += self._tokens[node]
        if exposed:
            self.expose(node)

    def expose(self, node: Node) -> None:
        self._list(node).push(node, self._stamps[node])

    def hide(self, node: Node) -> None:
        self._list(node).discard(node)

    def victim(self) -> Node | None:
        once, again = self._once.least(), self._again.least()
        if once is not None and (again is None or self._once_tokens > self._target_tokens):
            return once
        return again

    def evicted(self, node: Node) -> None:
        (self._again_ghosts if node in self._repeated else self._once_ghosts).add(node)

    def remove(self, node: Node) -> None:
        del self._stamps[node], self._tokens[node]
        self._repeated.discard(node)

    def split(self, head: Node, tail: Node, head_tokens: int) -> None:
        self._tokens[head] = head_tokens
        self._tokens[tail] -= head_tokens
        self._stamps[head] = self._stamps[tail]
        if tail in self._repeated:
            self._repeated.add(head)

    def _list(self, node: Node) -> LazyHeap:
        return self._again if node in self._repeated else self._once

    def _stamp(self, node: Node) -> None:
        self._uses += 1
        self._stamps[node] = self._uses
