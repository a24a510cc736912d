"""LFU: the node with the fewest hits since it came to the tier leaves; among equals, the least recent."""

from __future__ import annotations

from mygo.tree.node import Node
from mygo.tree.policies.base import CountingPolicy


class Lfu(CountingPolicy):
    def rank(self, node: Node) -> float:
        return self.uses(node)
