"""What a replacement policy is: it orders the nodes that a tier could let go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Protocol

from mygo.tree.node import Node


class Policy(Protocol):
    """Chooses among the *exposed* nodes of one tier: those that hold something, that nobody uses, and
    below which the tier holds nothing.

    The shelf calls ``insert`` first and ``remove`` last for each stay of a node in the tier; in between
    ``expose`` and ``hide`` alternate, beginning with ``expose``. A node is hidden when it is removed.
    """

    def insert(self, node: Node) -> None:
        """The tier begins to hold the node: its first block came."""

    def resize(self, node: Node, tokens: int) -> None:
        """The tier holds ``tokens`` more of an inserted node (fewer, if negative)."""

    def access(self, node: Node, *, hit: bool) -> None:
        """A request that uses an inserted node was admitted; ``hit``: at least some of it was cached.
        Without a hit it is the request for which the node was inserted, or will be completed."""

    def expose(self, node: Node) -> None:
        """The node may leave."""

    def hide(self, node: Node) -> None:
        """The node may not leave any more."""

    def victim(self) -> Node | None:
        """The exposed node that should leave next; None if none is exposed. It stays exposed."""

    def evicted(self, node: Node) -> None:
        """A victim lost some or all of what the tier held of it; called before ``remove``."""

    def remove(self, node: Node) -> None:
        """The tier holds nothing of the node any more, evicted or not."""

    def split(self, head: Node, tail: Node, head_tokens: int) -> None:
        """An inserted, hidden node lost its first blocks, ``head_tokens`` of which the tier holds, to
        ``head``, which is inserted by this call. ``tail`` may be left with nothing and removed next."""


Rank = float | tuple[float, ...]
"""One heap has ranks of one of these kinds."""


class LazyHeap:
    """Nodes by rank, least first, equal ranks in the order of their pushes.

    A push or discard leaves the node's old entry in the heap, to be dropped when it comes up, so each
    operation takes O(log n) amortised.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[Rank, int, Node]] = []
        self._current: dict[Node, tuple[Rank, int, Node]] = {}
        self._pushes = 0

    def __len__(self) -> int:
        return len(self._current)

    def __contains__(self, node: Node) -> bool:
        return node in self._current

    def __iter__(self) -> Iterator[Node]:
        return iter(self._current)

    def push(self, node: Node, rank: Rank) -> None:
        """Add the node, or move it to another rank."""
        self._pushes += 1
        entry = self._current[node] = (rank, self._pushes, node)
        if len(self._heap) > 2 * len(self._current) + 64:
            self._heap = list(self._current.values())
            heapify(self._heap)
        else:
            heappush(self._heap, entry)

    def discard(self, node: Node) -> None:
        self._current.pop(node, None)

    def least(self) -> Node | None:
        while self._heap:
            entry = self._heap[0]
            if self._current.get(entry[2]) is entry:
                return entry[2]
            heappop(self._heap)
        return None


class RankedPolicy(ABC):
    """A policy that gives each node one rank: the exposed node of least rank leaves."""

    def __init__(self) -> None:
        self._ranks: dict[Node, float] = {}
        self._exposed = LazyHeap()

    @abstractmethod
    def rank(self, node: Node) -> float:
        """The node's rank from now on; asked when it comes to the tier and at each access."""

    def insert(self, node: Node) -> None:
        self._ranks[node] = self.rank(node)

    def resize(self, node: Node, tokens: int) -> None:
        return

    def access(self, node: Node, *, hit: bool) -> None:
        self._ranks[node] = rank = self.rank(node)
        if node in self._exposed:
            self._exposed.push(node, rank)

    def expose(self, node: Node) -> None:
        self._exposed.push(node, self._ranks[node])

    def hide(self, node: Node) -> None:
        self._exposed.discard(node)

    def victim(self) -> Node | None:
        return self._exposed.least()

    def evicted(self, node: Node) -> None:
        return

    def remove(self, node: Node) -> None:
        del self._ranks[node]

    def split(self, head: Node, tail: Node, head_tokens: int) -> None:
        self._ranks[head] = self._ranks[tail]


class CountingPolicy(RankedPolicy):
    """A ranked policy that counts a node's uses while it is in the tier, beginning with 1."""

    def __init__(self) -> None:
        super().__init__()
        self._uses: dict[Node, int] = {}

    def uses(self, node: Node) -> int:
        return self._uses[node]

    def insert(self, node: Node) -> None:
        self._uses[node] = 1
        super().insert(node)

    def access(self, node: Node, *, hit: bool) -> None:
        self._uses[node] += hit
        super().access(node, hit=hit)

    def remove(self, node: Node) -> None:
        super().remove(node)
        del self._uses[node]

    def split(self, head: Node, tail: Node, head_tokens: int) -> None:
        super().split(head, tail, head_tokens)
        self._uses[head] = self._uses[tail]
