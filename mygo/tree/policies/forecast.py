"""Forecast: PGDSF's value with a better forecast of use, and without its clock. The shipped default.

What a node is worth is what it saves: how often it will be used, times the seconds per token that it
spares. PGDSF takes past frequency for future use, above a clock that lets old heat fade. On traces of
documents that loses to S3-FIFO, because most of what comes is used once (questions, answers, and orders of
documents that never come again), and each of those that leaves moves the clock: after a few cache fulls
of them, a document that was used five times is worth no more than a question. Two changes:

- Use is forecast as in a Pitman-Yor model of sequences (Teh, ACL 2006; Wood et al., ICML 2009), which is
  this very tree: of the ``f`` uses of a node, ``f - discount`` foretell others, for the first use of anything
  says little; and a request that comes as far as a node goes on along a known path only so often. So a
  node is used at the rate (f - d) * product over its ancestors of (f_a - d) / f_a. A document seen once
  behind a popular one is worth more than one seen once at the end of a chain of novelties.
- Old heat fades by the age of accesses (``half_life_requests`` of the tree), not by what is evicted. An
  exponential fades for all nodes alike, so ranks are constants and one heap serves (LRFU, Lee et al., 2001).

Both need the tree's memory of what was evicted: frequency outlives a node's stay in the tier.
"""

from __future__ import annotations

from math import log2

from mygo.tree.knowledge import KnowledgeTree
from mygo.tree.node import Node
from mygo.tree.policies.base import RankedPolicy

DISCOUNT = 0.7


class Forecast(RankedPolicy):
    """Rank = log2 of predicted uses per admission x seconds per token, as of admission 0."""

    def __init__(self, tree: KnowledgeTree) -> None:
        super().__init__()
        self._tree = tree

    def rank(self, node: Node) -> float:
        uses = max(node.frequency, 1.0) - DISCOUNT
        above = node.parent
        while above is not None and above.parent is not None:
            uses *= 1 - DISCOUNT / max(above.frequency, 1.0)
            above = above.parent
        age = node.accessed_at / self._tree.half_life_requests if self._tree.half_life_requests else 0.0
        return log2(uses * self._tree.saved_s_per_token(node)) + age
