"""Who of a tier's nodes may leave, in which order of precedence."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum, auto

from mygo.tree.node import Node
from mygo.tree.policies.base import Policy
from mygo.types import Tier


class Standing(Enum):
    """Why a node may leave, or may not."""

    STAYS = auto()
    """It is in use, or the tier holds something below it."""
    LOST = auto()
    """Something before it is gone from this tier and all faster ones: nobody can reach it."""
    MIRROR = auto()
    """A faster tier holds all of it, and the shelf gives such copies up first."""
    EXPOSED = auto()
    """The policy decides."""


@dataclass(frozen=True, slots=True)
class Mirrors:
    """Nodes that a faster tier holds wholly, too: a shelf may give its own copies up before all others."""

    tier: Tier
    """The faster one."""
    spared_tokens: int = 0
    """So many tokens of them, the latest, stay: what has just come may soon leave the faster tier again."""
    come_back: bool = False
    """That tier gives them back before it gives them up. So they may leave although the shelf holds something
    below them."""


@dataclass(slots=True)
class Holding:
    """What the tier holds of a node."""

    blocks: int = 0
    last: int = -1
    """Depth of its last held block: the one that leaves first."""
    children: int = 0
    """Children of which the tier holds something."""
    lost: bool = False
    """Something before the node is gone."""
    standing: Standing = Standing.STAYS


class Exits:
    """Nodes that may leave: lost ones first, then mirrors, then as the policy says."""

    def __init__(self, policy: Policy, spared_tokens: int) -> None:
        """``spared_tokens``: of mirrors; these leave only when nothing else is left."""
        self._policy = policy
        self._spared_tokens = spared_tokens
        self._lost: OrderedDict[Node, None] = OrderedDict()
        self._mirrors: OrderedDict[Node, int] = OrderedDict()
        """Oldest first, with their tokens."""
        self._mirror_tokens = 0

    def move(self, node: Node, holding: Holding, standing: Standing, *, back: bool = False) -> None:
        """Change the standing of a node. ``back``: it was the first of those that leave, and is so again."""
        if standing is holding.standing:
            return
        match holding.standing:
            case Standing.LOST:
                del self._lost[node]
            case Standing.MIRROR:
                self._mirror_tokens -= self._mirrors.pop(node)
            case Standing.EXPOSED:
                self._policy.hide(node)
        match standing:
            case Standing.LOST:
                self._lost[node] = None
                self._lost.move_to_end(node, last=not back)
            case Standing.MIRROR:
                self._mirrors[node] = node.tokens
                self._mirrors.move_to_end(node, last=not back)
                self._mirror_tokens += node.tokens
            case Standing.EXPOSED:
                self._policy.expose(node)
        holding.standing = standing

    def first(self) -> Node | None:
        """The node that should leave next; it stays where it is."""
        if self._lost:
            return next(iter(self._lost))
        if self._mirror_tokens > self._spared_tokens:
            return next(iter(self._mirrors))
        return self._policy.victim() or next(iter(self._mirrors), None)
