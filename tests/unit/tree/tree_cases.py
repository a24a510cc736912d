"""Trees and paths for the tests of this room."""

from __future__ import annotations

from typing import Any

from mygo.tree.knowledge import KnowledgeTree
from mygo.tree.node import Block, Node
from mygo.tree.policies import make
from mygo.tree.shelf import Shelf
from mygo.types import Tier

BLOCK_TOKENS = 10


def prefill_s(cached_tokens: int, new_tokens: int) -> float:
    """A step's fixed cost, and a token's, which grows with what is before it."""
    return 0.01 + new_tokens * (1e-4 + 1e-8 * cached_tokens) if new_tokens else 0.0


def tree_of(**options: object) -> KnowledgeTree:
    """With frequencies that do not fade, so that they are whole numbers."""
    fixed = {"block_tokens": BLOCK_TOKENS, "prefill_s": prefill_s, "half_life_requests": None}
    return KnowledgeTree(**{**fixed, **options})  # type: ignore[arg-type]


def shelf_of(tree: KnowledgeTree, policy: str = "lru", tier: Tier = Tier.DEVICE, **options: Any) -> Shelf:
    return Shelf(tree, tier, make(policy, tree, 10_000), **options)


def path(text: str) -> list[Block]:
    """One block per letter; a block names all letters up to its own."""
    return [text[: end + 1].encode() for end in range(len(text))]


def ends(text: str) -> list[int]:
    """Where the segments of ``"ab|c|de"`` end, in tokens."""
    found, letters = [], 0
    for segment in text.split("|"):
        letters += len(segment)
        found.append(letters * BLOCK_TOKENS)
    return found


def begin(tree: KnowledgeTree, name: str, text: str) -> list[Block]:
    """A request for segments such as ``"ab|c|de"``; returns its blocks."""
    blocks = path(text.replace("|", ""))
    tree.begin(name, blocks, ends(text))
    return blocks


def serve(tree: KnowledgeTree, shelf: Shelf, name: str, text: str) -> int:
    """A whole request with one shelf, as an engine does it; returns how many blocks were cached."""
    blocks = begin(tree, name, text)
    cached = 0
    while cached < len(blocks) and shelf.holds(blocks[cached]):
        shelf.lock(blocks[cached])
        cached += 1
    tree.admitted(name, cached * BLOCK_TOKENS)
    for block in blocks[cached:]:
        shelf.put(block)
    for block in reversed(blocks):
        shelf.unlock(block)
    tree.finished(name)
    return cached


def node_of(tree: KnowledgeTree, text: str) -> Node:
    """The node that holds the last letter of ``text``."""
    place = tree.place(text.encode())
    assert place is not None, f"{text} is not known"
    return place.node


def segments(tree: KnowledgeTree, text: str) -> list[str]:
    """How the path of ``text`` is cut into nodes."""
    nodes = list(node_of(tree, text).upward())[::-1]
    return [text[node.first_block : node.first_block + len(node.blocks)] for node in nodes]
