"""Counts what happens to admitted requests and evicted nodes, for the metrics."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from mygo.tree.node import Node
from mygo.types import Tier, Uncached
from mygo.vllm_plugin.tiers.account import Account
from mygo.vllm_plugin.tiers.counters import REGRET_S, TierCounters


class Watch:
    """Work per request and per evicted node, never per block."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.counters = TierCounters()
        self._clock = clock
        self._evicted: OrderedDict[Node, tuple[float, Tier]] = OrderedDict()
        """Of the last REGRET_S, latest last: when a node last left a tier, wholly or in part, and which."""

    def evicted(self, tier: Tier, node: Node, tokens: int) -> None:
        """A tier gave up some tokens of a node."""
        now_s = self._clock()
        self.counters.evicted_tokens[tier] += tokens
        self._evicted[node] = now_s, tier
        self._evicted.move_to_end(node)
        self._forget(now_s)

    def admitted(
        self,
        account: Account,
        path: Iterable[Node],
        *,
        held_at_arrival_tokens: int,
        held_tokens: int,
        prefetched_tokens: int,
    ) -> None:
        """A request was admitted for the first time.

        ``path``: its nodes, last one first. ``held_at_arrival_tokens``, ``held_tokens``: usable leading
        tokens that the tiers held together when it came, and when it was admitted.
        """
        counters = self.counters
        for tier, tokens in account.cached_tokens.items():
            counters.hit_tokens[tier] += tokens
        for reason, tokens in account.uncached_tokens.items():
            counters.uncached_tokens[reason] += tokens
        counters.refused_loads += Uncached.NOT_WORTH_LOADING in account.uncached_tokens
        counters.evicted_while_queued_tokens += max(0, held_at_arrival_tokens - held_tokens)
        self.prefetched(prefetched_tokens, used_tokens=account.cached_tokens.get(Tier.DISK, 0))
        self._regret(path, sum(account.cached_tokens.values()))

    def prefetched(self, tokens: int, *, used_tokens: int) -> None:
        """The end of what was read ahead for a request."""
        used_tokens = min(tokens, used_tokens)
        self.counters.prefetch_used_tokens += used_tokens
        self.counters.prefetch_wasted_tokens += tokens - used_tokens

    def _regret(self, path: Iterable[Node], cached_tokens: int) -> None:
        self._forget(self._clock())
        for node in path:
            if node.end_tokens <= cached_tokens:
                return
            _, tier = self._evicted.pop(node, (0.0, None))
            if tier is not None:
                tokens = min(node.tokens, node.end_tokens - cached_tokens)
                self.counters.regretted_tokens[tier] += tokens

    def _forget(self, now_s: float) -> None:
        while self._evicted:
            node, (evicted_s, _) = next(iter(self._evicted.items()))
            if now_s - evicted_s <= REGRET_S:
                return
            del self._evicted[node]
