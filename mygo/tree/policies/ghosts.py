"""Nodes that left a tier not long ago."""

from __future__ import annotations

from collections import OrderedDict

from mygo.tree.node import Block, Node


class GhostList:
    """What was evicted, oldest first, in tokens.

    Nodes go by their last block, which names their whole path: so they are known again after the tree
    has forgotten and relearned them, and when they were split.
    """

    def __init__(self) -> None:
        self._tokens: OrderedDict[Block, int] = OrderedDict()
        self.tokens = 0

    def __contains__(self, node: Node) -> bool:
        return node.blocks[-1] in self._tokens

    def add(self, node: Node) -> None:
        self.discard(node)
        self._tokens[node.blocks[-1]] = node.tokens
        self.tokens += node.tokens

    def discard(self, node: Node) -> None:
        self.tokens -= self._tokens.pop(node.blocks[-1], 0)

    def trim(self, tokens: float) -> None:
        """Forget the oldest until at most ``tokens`` are left."""
        while self._tokens and self.tokens > tokens:
            self.tokens -= self._tokens.popitem(last=False)[1]
