"""LRU: the node that was used longest ago leaves."""

from __future__ import annotations

from mygo.tree.node import Node
from mygo.tree.policies.base import RankedPolicy


class Lru(RankedPolicy):
    def __init__(self) -> None:
        super().__init__()
        self._uses = 0

    def rank(self, node: Node) -> float:
        self._uses += 1
        return self._uses
