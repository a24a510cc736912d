"""GDSF, Greedy-Dual-Size-Frequency (Cherkasova, HPL-98-69R1), with a cost of 1 for each node."""

from __future__ import annotations

from mygo.tree.node import Node
from mygo.tree.policies.base import CountingPolicy


class Gdsf(CountingPolicy):
    """Rank = clock + uses since it came to the tier / tokens. The clock is the rank of the last victim.

    With the usual cost of 1 it counts hits, not tokens: small documents stay.
    """

    def __init__(self) -> None:
        super().__init__()
        self._clock = 0.0

    def rank(self, node: Node) -> float:
        return self._clock + self.uses(node) / node.tokens

    def evicted(self, node: Node) -> None:
        self._clock = max(self._clock, self._ranks[node])
