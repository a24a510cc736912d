"""What serving a waiting request would take now: asked of many requests each time that one is admitted.

So it asks the cache for no more than what may have changed since, and sums up a path's nodes, not its blocks.
What is found is an estimate; a request's true hits are looked up when it is admitted.
"""

from __future__ import annotations

from collections.abc import Callable

from vllm.v1.request import Request

from mygo.tree.admission import Appraisal
from mygo.tree.cost import StepCost
from mygo.tree.knowledge import KnowledgeTree
from mygo.tree.loading import LoadPlan, Run
from mygo.types import Tier
from mygo.vllm_plugin.device_cache import DeviceCache

Plan = Callable[[Request, int, list[Run]], LoadPlan]
"""How much to load for a request: its tokens on the device, and what lies behind those."""

_SLOWER = (Tier.HOST, Tier.DISK)


class Appraiser:
    """One per engine. A request passes through ``begin``, ``appraise`` as often as is asked, ``forget``."""

    def __init__(
        self,
        cache: DeviceCache,
        tree: KnowledgeTree,
        cost: StepCost,
        plan: Plan | None,
        clock: Callable[[], float],
    ) -> None:
        """``plan``: None without slower tiers."""
        self._cache = cache
        self._tree = tree
        self._cost = cost
        self._plan = plan
        self._clock = clock
        self._came_s: dict[str, float] = {}
        self._device_blocks: dict[str, int] = {}
        """Leading blocks on the device when last looked."""

    def begin(self, request_id: str) -> None:
        """The request waits from now on."""
        self._came_s[request_id] = self._clock()
        self._device_blocks[request_id] = 0

    def appraise(self, request: Request) -> Appraisal:
        """Of a request that waits."""
        tokens = request.num_tokens
        device_tokens = min(self._on_device(request), tokens - 1)
        loaded_tokens, serve_s = 0, 0.0
        if self._plan is not None and (runs := self._behind(request.request_id, device_tokens, tokens - 1)):
            plan = self._plan(request, device_tokens, runs)
            loaded_tokens, serve_s = plan.tokens, plan.predicted_s
        new_tokens = max(1, tokens - device_tokens - loaded_tokens)
        came_s = self._came_s.get(request.request_id, 0.0)
        if not self._cost.known:
            return Appraisal(came_s, new_tokens)
        # a plan that weighed nothing predicts nothing
        serve_s = serve_s or self._cost.prefill_s(tokens - new_tokens, new_tokens)
        return Appraisal(came_s, new_tokens, serve_s, self._cost.prefill_s(0, tokens))

    def forget(self, request_id: str) -> None:
        """The request waits no more. Unknown ids are ignored."""
        self._came_s.pop(request_id, None)
        self._device_blocks.pop(request_id, None)

    def _on_device(self, request: Request) -> int:
        """Leading tokens. Blocks leave from a prompt's end and come behind what is there, so it is enough to
        look where its cached part ended."""
        blocks = self._device_blocks.get(request.request_id, 0)
        while blocks and not self._holds(request, blocks - 1):
            blocks -= 1
        while self._holds(request, blocks):
            blocks += 1
        self._device_blocks[request.request_id] = blocks
        return blocks * self._cache.block_tokens

    def _holds(self, request: Request, block: int) -> bool:
        block_hash = self._cache.hash_at(request, block)
        return block_hash is not None and self._cache.is_resident(block_hash)

    def _behind(self, request_id: str, device_tokens: int, usable_tokens: int) -> list[Run]:
        """What slower tiers hold right behind the device's part, without a gap."""
        runs: list[Run] = []
        at = device_tokens
        for node in reversed(self._tree.path(request_id)):
            for tier in _SLOWER:
                end_tokens = min(node.start_tokens + node.held.get(tier, 0), usable_tokens)
                if end_tokens > at:
                    runs.append(Run(tier, end_tokens - at))
                    at = end_tokens
            if at < node.end_tokens:
                break
        return runs
