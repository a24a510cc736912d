"""Replacement policies, one a file, each behind ``base.Policy``; ``make`` finds them by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from mygo.errors import ConfigError
from mygo.tree.knowledge import KnowledgeTree
from mygo.tree.policies.arc import Arc
from mygo.tree.policies.base import Policy
from mygo.tree.policies.forecast import Forecast
from mygo.tree.policies.gdsf import Gdsf
from mygo.tree.policies.lfu import Lfu
from mygo.tree.policies.look_ahead import LookAhead
from mygo.tree.policies.lru import Lru
from mygo.tree.policies.pgdsf import Pgdsf
from mygo.tree.policies.s3fifo import S3Fifo

DEFAULT_POLICY = "forecast"

MakePolicy = Callable[[KnowledgeTree, int], Policy]
"""For a tree and a tier's capacity in tokens."""

POLICIES: dict[str, MakePolicy] = {
    "lru": lambda tree, capacity_tokens: Lru(),
    "lfu": lambda tree, capacity_tokens: Lfu(),
    "gdsf": lambda tree, capacity_tokens: Gdsf(),
    "arc": lambda tree, capacity_tokens: Arc(capacity_tokens),
    "s3fifo": lambda tree, capacity_tokens: S3Fifo(capacity_tokens),
    "pgdsf": lambda tree, capacity_tokens: Pgdsf(tree),
    "forecast": lambda tree, capacity_tokens: Forecast(tree),
}


def find(name: str) -> MakePolicy:
    """Raises ConfigError that names the policies there are if there is none of this name."""
    if name in POLICIES:
        return POLICIES[name]
    near = difflib.get_close_matches(name, POLICIES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(POLICIES)}"
    raise ConfigError(f"policy: there is no {name!r}; {hint}")


def make(name: str, tree: KnowledgeTree, capacity_tokens: int, *, look_ahead: bool = True) -> Policy:
    """A new policy for one shelf of ``tree`` whose tier has room for ``capacity_tokens``.

    Raises ConfigError as ``find`` does.
    """
    policy = find(name)(tree, capacity_tokens)
    return LookAhead(policy) if look_ahead else policy


__all__ = ["DEFAULT_POLICY", "POLICIES", "LookAhead", "MakePolicy", "Policy", "find", "make"]
