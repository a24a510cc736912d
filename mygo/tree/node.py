"""What the knowledge tree knows of one run of blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from mygo.types import Tier

Block = bytes
"""Names a block of KV *and everything before it*, as vLLM's block hashes do: equal blocks, equal paths."""

Turn = tuple[float, int]
"""When a waiting request is expected to be admitted, the least first: its rank, and when it came."""


@dataclass(eq=False, slots=True)
class Node:
    """A maximal run of consecutive blocks that no path leaves in the middle.

    Read-only for everybody but the tree and its shelves.
    """

    blocks: list[Block]
    """In path order; empty for the root only."""
    first_block: int
    """Number of blocks before it on its path."""
    start_tokens: int
    """Position of its first token."""
    tokens: int
    parent: Node | None
    """None for the root only."""
    children: dict[Block, Node] = field(default_factory=dict)
    """By their first block."""
    live: int = 0
    """Requests that wait or run now and have it on their path."""
    held: dict[Tier, int] = field(default_factory=dict)
    """Tokens of it that a tier holds; a tier that holds none is not in it."""
    frequency: float = 0.0
    """Requests that had it on their path, older ones counting less, as of the last of them."""
    accessed_at: int = 0
    """Number of the admission that last had it on its path, from 1; 0 for none."""
    computed: int = 0
    """Admissions for which it was not, or not wholly, cached."""
    computed_s_per_token: float = 0.0
    """Sum over those of the request's prefill seconds per newly computed token."""
    awaited_by: list[Turn] = field(default_factory=list)
    """Waiting requests for which it is protected, the one that is expected first at the front."""
    awaited_tokens: int = 0
    """What it takes of the look-ahead budget."""

    @property
    def end_tokens(self) -> int:
        return self.start_tokens + self.tokens

    def holds_all(self, tier: Tier) -> bool:
        return self.held.get(tier) == self.tokens

    def held_by(self, tiers: Iterable[Tier]) -> bool:
        """One of these tiers holds all of it."""
        return self.tokens in map(self.held.get, tiers)

    def upward(self) -> Iterator[Node]:
        """Itself, its parent and so on, without the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent

    def __repr__(self) -> str:
        held = ", ".join(f"{tier} {tokens}" for tier, tokens in self.held.items()) or "nothing held"
        return f"Node({self.start_tokens}+{self.tokens} tokens, {held}, live {self.live})"


class Place(NamedTuple):
    """Where a block stands."""

    node: Node
    depth: int
    """Number of blocks before it on its path."""
    tokens: int


class Holder(Protocol):
    """What a tier must be told by the tree; ``mygo.tree.shelf.Shelf`` is one."""

    tier: Tier

    def added(self, node: Node, blocks: Sequence[Block]) -> None:
        """The tree learned these last blocks of a node; the tier may hold some already."""

    def tokens_of(self, blocks: Sequence[Block]) -> int:
        """Tokens of those among these known blocks that the tier holds."""

    def split(self, head: Node, tail: Node) -> None:
        """The first blocks of ``tail`` became a node of their own, ``head``, its new parent; ``held`` of
        both is right already."""

    def accessed(self, node: Node, *, hit: bool) -> None:
        """A request that uses the node was admitted; ``hit``: at least some of it was cached."""

    def awaited(self, node: Node) -> None:
        """Which waiting request needs the node first has changed."""

    def held_elsewhere(self, node: Node, tier: Tier) -> None:
        """Another tier began or ceased to hold all of it."""
