"""Look-ahead: what waiting requests will use leaves last (PCR, arXiv 2603.23049, with a better order)."""

from __future__ import annotations

from mygo.tree.node import Node
from mygo.tree.policies.base import LazyHeap, Policy


class LookAhead:
    """Wraps any policy: nodes that a waiting request protects leave only when nothing else is left, those
    of the latest-admitted request first.

    PCR refreshes the recency of what waits, in queue order; then the request that is admitted next has
    the oldest stamps, and loses first. Which requests may protect anything is the tree's budget.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._awaited = LazyHeap()
        self.insert = policy.insert
        self.resize = policy.resize
        self.access = policy.access
        self.evicted = policy.evicted
        self.remove = policy.remove
        self.split = policy.split

    def expose(self, node: Node) -> None:
        if node.awaited_by:
            rank, came = node.awaited_by[0]
            self._awaited.push(node, (-rank, -came))
        else:
            self._policy.expose(node)

    def hide(self, node: Node) -> None:
        if node in self._awaited:
            self._awaited.discard(node)
        else:
            self._policy.hide(node)

    def victim(self) -> Node | None:
        return self._policy.victim() or self._awaited.least()
