"""Who of a tier's nodes may leave, in which order of precedence."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum, auto

from mygo.tree.node import Node
from mygo.tree.policies.base import Policy


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

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._lost: OrderedDict[Node, None] = OrderedDict()
        self._mirrors: OrderedDict[Node, None] = OrderedDict()

    def move(self, node: Node, holding: Holding, standing: Standing) -> None:
        """Change the standing of a node."""
        if standing is holding.standing:
            return
        match holding.standing:
            case Standing.LOST:
                del self._lost[node]
            case Standing.MIRROR:
                del self._mirrors[node]
            case Standing.EXPOSED:
                self._policy.hide(node)
        match standing:
            case Standing.LOST:
                self._lost[node] = None
            case Standing.MIRROR:
                self._mirrors[node] = None
            case Standing.EXPOSED:
                self._policy.expose(node)
        holding.standing = standing

    def first(self) -> Node | None:
        """The node that should leave next; it stays where it is."""
        for queue in (self._lost, self._mirrors):
            if queue:
                return next(iter(queue))
        return self._policy.victim()
