"""PGDSF, RAGCache's prefix-aware Greedy-Dual-Size-Frequency (arXiv 2404.12457), as the paper has it."""

from __future__ import annotations

from mygo.tree.knowledge import KnowledgeTree
from mygo.tree.node import Node
from mygo.tree.policies.base import RankedPolicy


class Pgdsf(RankedPolicy):
    """Rank = clock + frequency x average seconds per token when the node was computed.

    The clock is the largest rank of all that was evicted, so old heat fades. Frequency and cost are the
    tree's: they outlive a node's stay in the tier for as long as the tree remembers it.
    """

    def __init__(self, tree: KnowledgeTree) -> None:
        super().__init__()
        self._tree = tree
        self.clock_s_per_token = 0.0

    def rank(self, node: Node) -> float:
        return self.clock_s_per_token + node.frequency * self._tree.cost_s_per_token(node)

    def evicted(self, node: Node) -> None:
        self.clock_s_per_token = max(self.clock_s_per_token, self._ranks[node])
