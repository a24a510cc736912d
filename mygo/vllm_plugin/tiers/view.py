"""The knowledge tree as it is shown to people: its most valuable nodes and what lies before them.

Imports no vLLM.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mygo.tree.knowledge import KnowledgeTree
from mygo.tree.node import Node
from mygo.types import Tier
from mygo.vllm_plugin.tiers.counters import TierCounters


@dataclass(frozen=True, slots=True)
class CacheNode:
    """A run of tokens that a worker remembers: a document in its path, or part of one."""

    number: int
    parent: int | None
    """``number`` of the node before it; None for the first of a path."""
    start_tokens: int
    tokens: int
    held_tokens: Mapping[Tier, int]
    """By tier; what several of them hold counts for each."""
    frequency: float
    """Requests that had it, older ones counting less where the policy lets them age."""
    value_s: float
    """Seconds of prefill that these requests would have paid for it: frequency x tokens x seconds per
    token."""
    live: int
    """Requests that wait or run now and have it."""
    tag: str = ""
    """``SegmentSpan.tag`` of what it is part of; empty for what is no document, or not known."""
    salt: str = ""
    """``SegmentSpan.salt`` of what it is part of; empty if it came without a segment map."""


@dataclass(frozen=True, slots=True)
class CacheView:
    """A worker's knowledge tree, as far as it was asked for."""

    nodes: tuple[CacheNode, ...]
    """The most valuable ones and all before them, parents before children."""
    total_nodes: int
    held_tokens: Mapping[Tier, int]
    """Of the whole engine."""
    capacity_tokens: Mapping[Tier, int]


def view(
    tree: KnowledgeTree,
    top: int,
    held_tokens: Callable[[Node], dict[Tier, int]],
    describe: Callable[[bytes], tuple[str, str]],
    counters: TierCounters,
) -> CacheView:
    """The ``top`` most valuable nodes of those that a tier holds, and all nodes before them.

    ``held_tokens``: tokens of a node by tier. ``describe``: tag and salt of what a block belongs to.
    """
    values = {node: _value_s(tree, node) for node in tree.nodes() if held_tokens(node)}
    shown: dict[Node, None] = {}
    for best in heapq.nlargest(top, values, key=values.__getitem__):
        shown.update(dict.fromkeys(best.upward()))
    numbers: dict[Node, int] = {}
    nodes: list[CacheNode] = []
    for node in sorted(shown, key=lambda node: node.start_tokens):
        numbers[node] = len(nodes)
        tag, salt = describe(node.blocks[-1])
        nodes.append(
            CacheNode(
                number=len(nodes),
                parent=numbers.get(node.parent) if node.parent is not None else None,
                start_tokens=node.start_tokens,
                tokens=node.tokens,
                held_tokens=held_tokens(node),
                frequency=node.frequency,
                value_s=_value_s(tree, node),
                live=node.live,
                tag=tag,
                salt=salt,
            )
        )
    return CacheView(tuple(nodes), len(values), dict(counters.held_tokens), dict(counters.capacity_tokens))


def _value_s(tree: KnowledgeTree, node: Node) -> float:
    return node.frequency * node.tokens * tree.cost_s_per_token(node)
