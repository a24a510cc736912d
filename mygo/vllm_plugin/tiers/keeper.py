"""The knowledge tree of one engine, and a shelf for each tier on which it decides."""

from __future__ import annotations

from collections.abc import Callable

from mygo.tree.cost import StepCost
from mygo.tree.exits import Mirrors
from mygo.tree.knowledge import KnowledgeTree
from mygo.tree.node import Node
from mygo.tree.policies import make
from mygo.tree.shelf import Shelf
from mygo.types import Tier
from mygo.vllm_plugin.settings import TierSettings

# Of host memory: what came last may leave soon, and would have to be written to disk a second time.
SPARED_SHARE = 0.25


class Keeper:
    """A shelf is None where the engine has no such tier, or vLLM decides itself."""

    def __init__(
        self,
        settings: TierSettings,
        cost: StepCost,
        *,
        block_tokens: int,
        device_tokens: int,
        host_tokens: int,
        disk_tokens: int,
        on_evict: Callable[[Tier, Node, int], None],
    ) -> None:
        self.tree = KnowledgeTree(
            block_tokens=block_tokens,
            prefill_s=cost.prefill_s,
            lookahead_tokens=int(settings.lookahead_share * max(device_tokens, host_tokens)),
        )
        policies = {
            Tier.DEVICE: (settings.device_policy, device_tokens),
            Tier.HOST: (settings.policy, host_tokens),
            Tier.DISK: (settings.policy, disk_tokens),
        }
        mirrors = {
            Tier.HOST: Mirrors(Tier.DEVICE),
            Tier.DISK: Mirrors(Tier.HOST, int(SPARED_SHARE * host_tokens), come_back=True),
        }
        shelves = {
            tier: Shelf(
                self.tree,
                tier,
                make(name, self.tree, tokens, look_ahead=settings.lookahead_share > 0),
                mirrors=mirrors.get(tier),
                on_evict=on_evict,
            )
            for tier, (name, tokens) in policies.items()
            if tokens and name != "vllm"
        }
        self.device = shelves.get(Tier.DEVICE)
        self.host = shelves.get(Tier.HOST)
        self.disk = shelves.get(Tier.DISK)

    def engine_ends(self) -> None:
        """Device and host memory are about to be lost: copies of what they hold stay in the slower tiers."""
        for shelf in (self.host, self.disk):
            if shelf is not None:
                shelf.keep_mirrors()

    def __repr__(self) -> str:
        return f"Keeper({self.tree!r}, {self.device!r}, {self.host!r}, {self.disk!r})"
