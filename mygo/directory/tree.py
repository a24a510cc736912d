"""The segments that some worker holds, or is expected to hold, as a tree of path-dependent keys."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mygo.types import PathStep, Residency, ResidencyEvent, SegmentKey, Tier, WorkerId

# Reading a member off its enum class costs as much as the rest of a step of a walk.
_HOST, _DISK = Tier.HOST, Tier.DISK


@dataclass(slots=True)
class Node:
    """One segment in its path.

    A node may have no holder: the parent of a held segment that is itself shorter than a block is
    never reported, and known from its children only.
    """

    key: SegmentKey
    parent: SegmentKey | None = None
    """None for the first segment of a prompt, and for one known from its children only."""
    children: set[SegmentKey] = field(default_factory=set)
    holders: dict[WorkerId, ResidencyEvent] = field(default_factory=dict)
    """Each worker's last statement about this segment."""
    expected: dict[WorkerId, int] = field(default_factory=dict)
    """Dispatched requests per worker that will have left this segment there."""


@dataclass(frozen=True, slots=True)
class Link:
    key: SegmentKey
    parent: SegmentKey | None


class SegmentTree:
    """Holders per segment. A node lives while it has a holder, an expectation or a child.

    Keys are hashes over their whole path, so parent links can form no cycle.
    """

    def __init__(self, links: Iterable[Link] = ()) -> None:
        """``links`` restores the shape of a copied tree; follow with the copied holders."""
        self._nodes: dict[SegmentKey, Node] = {}
        for link in links:
            self._node(link.key, link.parent)

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def get(self, key: SegmentKey) -> Node | None:
        return self._nodes.get(key)

    def links(self) -> tuple[Link, ...]:
        return tuple(Link(node.key, node.parent) for node in self)

    def hold(self, worker: WorkerId, event: ResidencyEvent) -> None:
        """Record a statement that the worker holds something (``prefix_tokens`` > 0)."""
        node = self._nodes.get(event.key)
        if node is None or (node.parent is None and event.parent is not None):
            node = self._node(event.key, event.parent)
        node.holders[worker] = event

    def drop(self, worker: WorkerId, key: SegmentKey) -> None:
        """The worker holds nothing of the segment any more."""
        node = self._nodes[key]
        del node.holders[worker]
        self._prune(node)

    def expect(self, worker: WorkerId, path: Sequence[PathStep]) -> None:
        parent: SegmentKey | None = None
        for step in path:
            node = self._node(step.key, parent)
            node.expected[worker] = node.expected.get(worker, 0) + 1
            parent = step.key

    def unexpect(self, worker: WorkerId, path: Sequence[PathStep]) -> None:
        """Undo one ``expect`` with the same arguments."""
        for step in reversed(path):
            node = self._nodes[step.key]
            node.expected[worker] -= 1
            if not node.expected[worker]:
                del node.expected[worker]
            self._prune(node)

    def locate(
        self, path: Sequence[PathStep], block_tokens: int, workers: Collection[WorkerId]
    ) -> dict[WorkerId, Residency]:
        """Leading tokens that each of ``workers`` holds; those with none are left out.

        All of ``workers`` have blocks of ``block_tokens``. The last token of a prompt is always
        recomputed, so at most the blocks before it count.
        """
        limit_tokens = (path[-1].end_tokens - 1) // block_tokens * block_tokens
        owners: list[tuple[Node, int]] = []
        for step in path:
            end_tokens = step.end_tokens // block_tokens * block_tokens
            if end_tokens <= step.start_tokens:
                continue  # it ends before the next block border: owns no block, is never reported
            node = self._nodes.get(step.key)
            if node is None:
                break
            owners.append((node, min(end_tokens, limit_tokens)))
        if not owners or limit_tokens <= 0:
            return {}
        first = owners[0][0]
        located: dict[WorkerId, Residency] = {}
        for worker in first.holders.keys() | first.expected.keys():
            if worker in workers:
                residency = _walk(worker, owners)
                if residency.cached_tokens:
                    located[worker] = residency
        return located

    def check(self) -> None:
        """Assert the tree's invariants."""
        for node in self:
            assert node.holders or node.expected or node.children, f"{node.key} should be pruned"
            if node.parent is not None:
                assert node.key in self._nodes[node.parent].children, f"{node.key} misses its parent"
            for child in node.children:
                assert self._nodes[child].parent == node.key, f"{child} is not a child of {node.key}"
            for worker, event in node.holders.items():
                assert event.key == node.key and event.prefix_tokens > 0, (worker, event)
            assert all(count > 0 for count in node.expected.values()), node.expected

    def _node(self, key: SegmentKey, parent: SegmentKey | None) -> Node:
        """The node of ``key``, made if new, hung under ``parent`` if its own is not known yet."""
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = Node(key)
        if node.parent is None and parent is not None:
            node.parent = parent
            above = self._nodes.get(parent)
            if above is None:
                above = self._nodes[parent] = Node(parent)
            above.children.add(key)
        return node

    def _prune(self, node: Node) -> None:
        while not (node.holders or node.expected or node.children):
            del self._nodes[node.key]
            if node.parent is None:
                return
            parent = self._nodes[node.parent]
            parent.children.remove(node.key)
            node = parent


def _walk(worker: WorkerId, owners: Sequence[tuple[Node, int]]) -> Residency:
    """Follow one worker down the block-owning segments of a path until something is missing.

    ``owners`` gives each segment's node and the prompt tokens up to the end of its last block.
    """
    counted = host = disk = 0
    for node, end_tokens in owners:
        if node.expected and worker in node.expected:
            counted = end_tokens
            continue
        event = node.holders.get(worker)
        if event is None:
            break
        valid = end_tokens if event.complete else min(event.prefix_tokens, end_tokens)
        if valid > counted:
            tier = event.tier
            if tier is _HOST:
                host += valid - counted
            elif tier is _DISK:
                disk += valid - counted
            counted = valid
        if not event.complete:
            break
    return Residency(counted - host - disk, host, disk)
