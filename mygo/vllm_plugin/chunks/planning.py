"""What a request reuses, and the identity that its blocks have by it."""

from __future__ import annotations

from mygo.blend import identity as blend_identity
from mygo.blend import plan as blend
from mygo.blend.selection import Method, select
from mygo.types import Tier
from mygo.vllm_plugin import identity
from mygo.vllm_plugin.chunks.holdings import Holdings
from mygo.vllm_plugin.chunks.layout import Piece
from mygo.vllm_plugin.chunks.live import Live
from mygo.vllm_plugin.device_cache import DeviceCache
from mygo.vllm_plugin.settings import ChunkSettings
from mygo.vllm_plugin.tiers.tiers import Tiers

LOAD_S_PER_BYTE = {Tier.HOST: 5e-10, Tier.DISK: 1.5e-9}
"""To the device, keys rotated: guesses on the safe side, 2 GB/s, and another 1 GB/s from disk to memory."""


class Planner:
    """Plans anew whenever it is asked, by what is held then."""

    def __init__(self, settings: ChunkSettings, holdings: Holdings, cache: DeviceCache, tiers: Tiers) -> None:
        self._settings = settings
        self._method = Method(settings.method)
        self._holdings = holdings
        self._cache = cache
        self._tiers = tiers

    def settle(self, live: Live) -> bool:
        """Decide what is reused. True if the request's blocks got another identity by it."""
        self._plan(live)
        pieces = live.plan.pieces if live.plan is not None else ()
        tags = blend_identity.tags(pieces, self._method, generation=0)
        if tags == live.tags:
            return False
        live.tags = tags
        identity.approximate(live.request, live.hasher, tags, self._cache.hash_tokens)
        return True

    def _plan(self, live: Live) -> None:
        live.matches, live.plan = (), None
        if live.retired:
            return
        prompt_tokens = live.request.num_tokens
        cached_tokens = self._exact_tokens(live)
        live.matches = blend.match(
            live.slots,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            find=lambda document, domains: self._holdings.held(live.namespace, document, domains),
        )
        cost = self._tiers.cost
        live.plan = blend.plan(
            live.matches,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            alpha=self._settings.repair_share,
            floor_tokens=self._settings.floor_tokens,
            prefill_s=cost.prefill_s if cost.known else _tokens_as_seconds,
            load_s=lambda tier, kv_bytes: kv_bytes * LOAD_S_PER_BYTE[tier] if cost.known else 0.0,
        )

    def _exact_tokens(self, live: Live) -> int:
        """Leading tokens that some tier holds exactly."""
        blocks = 0
        for block_hash in live.exact_hashes:
            if not self._cache.is_resident(block_hash) and self._tiers.tier_of(block_hash) is None:
                break
            blocks += 1
        return self._usable_tokens(live, blocks * self._cache.block_tokens)

    def device_tokens(self, live: Live) -> int:
        """Leading tokens that the device holds under the request's identity."""
        return self._usable_tokens(live, self._cache.cached_tokens(live.request))

    def _usable_tokens(self, live: Live, held_tokens: int) -> int:
        """The last token is always computed, and only whole blocks are cached."""
        block_tokens = self._cache.block_tokens
        usable_tokens: int = (live.request.num_tokens - 1) // block_tokens * block_tokens
        return min(held_tokens, usable_tokens)

    def pieces(self, live: Live) -> tuple[Piece, ...]:
        """What is loaded, as it was settled last."""
        found: list[Piece] = []
        for planned in live.plan.pieces if live.plan is not None else ():
            if planned.match is None:
                continue
            variant, skipped = planned.match.held.variant, planned.match.offset_tokens
            count = planned.repair_tokens + skipped if planned.repair_tokens else 0
            chosen = select(self._method, variant.tokens, count)
            found.append(
                Piece(variant.key, planned.start_tokens - skipped, planned.end_tokens, tuple(chosen))
            )
        return tuple(found)


def _tokens_as_seconds(cached_tokens: int, new_tokens: int) -> float:
    """Stands for predicted seconds until an engine has computed enough to predict: only the order counts."""
    return float(new_tokens)
