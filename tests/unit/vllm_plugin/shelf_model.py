"""Who may leave a tier, found by looking at everything: the naive model of the adaptors' tests."""

from __future__ import annotations

from collections.abc import Collection, Set

from mygo.tree.knowledge import KnowledgeTree
from mygo.tree.node import Node


def path(text: Collection[int]) -> list[bytes]:
    """Block hashes: each names all that is before it."""
    numbers = list(text)
    return [bytes([9, *numbers[: end + 1]]) for end in range(len(numbers))]


def knowledge_tree() -> KnowledgeTree:
    return KnowledgeTree(block_tokens=4, prefill_s=lambda cached, new: 0.01 + 0.001 * new)


def willing(tree: KnowledgeTree, held: Set[bytes], free: Set[bytes]) -> set[bytes]:
    """Free blocks behind which nothing held is in use; those that the tree does not know are all."""
    found = {block for block in free if tree.place(block) is None}

    def leaves(node: Node) -> bool:
        """Whether all of it can leave."""
        below = [(child, leaves(child)) for child in node.children.values()]
        can = all(all_of_it for child, all_of_it in below if held & set(child.blocks))
        for block in reversed(node.blocks):
            if block in held:
                can = can and block in free
                if can:
                    found.add(block)
        return can

    for child in tree.root.children.values():
        leaves(child)
    return found


def check_order(tree: KnowledgeTree, gone: Collection[bytes], held: Set[bytes]) -> None:
    """``held`` stayed when ``gone`` left: nothing left before what lies behind it."""
    for block in gone:
        place = tree.place(block)
        if place is not None:
            after = place.node.blocks[place.depth - place.node.first_block + 1 :]
            assert not held & set(after), "a block left before one behind it"
            assert not any(held & set(child.blocks) for child in place.node.children.values())
