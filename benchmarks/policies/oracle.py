"""A Belady-style yardstick: replacement that knows the rest of the trace."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from benchmarks.policies.paths import Access
from mygo.tree.node import Block, Node
from mygo.tree.policies.base import RankedPolicy

NEVER = float("inf")


class Future:
    """When each block is asked for."""

    def __init__(self, accesses: Sequence[Access]) -> None:
        self._uses: dict[Block, list[int]] = {}
        for at, access in enumerate(accesses):
            for block in access.blocks:
                self._uses.setdefault(block, []).append(at)
        self.now = 0
        """The access that is being served."""

    def move_to(self, access: int) -> None:
        self.now = access

    def next_use(self, node: Node) -> float:
        """The first access after this one that wants the node; ``NEVER`` if none does."""
        uses = self._uses.get(node.blocks[0], [])
        index = bisect_right(uses, self.now)
        return uses[index] if index < len(uses) else NEVER


class FarthestNextUse(RankedPolicy):
    """Belady's rule on exposed nodes: the one that is wanted last leaves.

    Optimal for independent objects of one size and one cost. On a tree, where a parent stays as long as
    its children, and with unequal sizes it is a heuristic: a strong yardstick, not an upper bound. What a
    node saves is nearly proportional to its tokens, so value over size times distance is this rule again;
    stretching distances by the root of the size was tried, and saves less.
    """

    def __init__(self, future: Future) -> None:
        super().__init__()
        self._future = future

    def rank(self, node: Node) -> float:
        return -self._future.next_use(node)
