"""What a request reuses, and the identity that its blocks have by it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from mygo.blend import identity as blend_identity
from mygo.blend import plan as blend
from mygo.blend.selection import Method, Repair
from mygo.blend.variants import DocumentTag, Held, Namespace
from mygo.blend.verdicts import Action
from mygo.types import DomainTag, Tier
from mygo.vllm_plugin import identity
from mygo.vllm_plugin.chunks.comparing import Comparing
from mygo.vllm_plugin.chunks.holdings import Holdings
from mygo.vllm_plugin.chunks.layout import Piece
from mygo.vllm_plugin.chunks.live import Live
from mygo.vllm_plugin.chunks.quality import Quality, inexact
from mygo.vllm_plugin.device_cache import DeviceCache
from mygo.vllm_plugin.settings import ChunkSettings
from mygo.vllm_plugin.tiers.links import Speed
from mygo.vllm_plugin.tiers.tiers import Tiers

# Until they were measured. The first transfer corrects them; a guess too low would hold for ever.
GUESSED_MEMORY_BYTES_PER_S = 20e9
GUESSED_DISK_BYTES_PER_S = 8e9


class Planner:
    """Plans anew whenever it is asked, by what is held then."""

    def __init__(
        self,
        settings: ChunkSettings,
        holdings: Holdings,
        quality: Quality,
        cache: DeviceCache,
        tiers: Tiers,
    ) -> None:
        self._load_gate = settings.load_gate
        self._repair = Repair(settings.repair_share, settings.floor_tokens, Method(settings.method))
        self._holdings = holdings
        self._quality = quality
        self._cache = cache
        self._tiers = tiers
        self.memory_speed = Speed(GUESSED_MEMORY_BYTES_PER_S)
        """To the device, keys rotated."""
        self.disk_speed = Speed(GUESSED_DISK_BYTES_PER_S)
        """To memory."""

    def settle(self, live: Live) -> bool:
        """Decide what is reused. True if the request's blocks got another identity by it."""
        self._plan(live)
        pieces = live.plan.pieces if live.plan is not None else ()
        live.generation = self._quality.generation
        tags = blend_identity.tags(pieces, self._quality.generation)
        if tags == live.tags:
            return False
        live.tags = tags
        identity.approximate(live.request, live.hasher, tags, self._cache.hash_tokens)
        self._tiers.renamed(live.request)
        return True

    def _plan(self, live: Live) -> None:
        live.matches, live.plan, live.offer = (), None, None
        if live.retired:
            return
        if live.segments.ticket is not None:
            live.plan = self._ticketed(live, live.segments.ticket)
            return
        cached_tokens = self._exact_tokens(live)
        matches = blend.match(
            live.slots,
            prompt_tokens=live.request.num_tokens,
            cached_tokens=cached_tokens,
            find=lambda document, domains: self._usable(live.namespace, document, domains),
        )
        # the rest of a block is not worth an approximation
        least_tokens = self._cache.block_tokens
        live.matches = [each for each in matches if each.end_tokens - each.start_tokens >= least_tokens]
        repair = live.segments.repair or self._repair
        live.plan = self._priced(live, live.matches, cached_tokens, repair)
        if live.plan is None or not inexact(live.plan) or live.segments.repair is not None:
            return
        decision = self._quality.decide(live, live.plan)
        if decision.action is not Action.EXACT and decision.alpha != repair.share:
            more = replace(repair, share=decision.alpha)
            live.plan = self._priced(live, live.matches, cached_tokens, more)
        live.offer = live.plan
        if decision.action in (Action.EXACT, Action.SHADOW):
            in_place = [match for match in live.matches if match.exact]
            live.plan = self._priced(live, in_place, cached_tokens, repair)

    def _usable(
        self, namespace: Namespace, document: DocumentTag, domains: Collection[DomainTag]
    ) -> Sequence[Held]:
        return () if self._quality.is_off(document) else self._holdings.held(namespace, document, domains)

    def _priced(
        self, live: Live, matches: Sequence[blend.Match], cached_tokens: int, repair: Repair
    ) -> blend.BlendPlan | None:
        cost = self._tiers.cost
        # a measurement is of the repair that it asks for, whether that pays or not
        priced = cost.known and live.segments.repair is None
        return blend.plan(
            matches,
            prompt_tokens=live.request.num_tokens,
            cached_tokens=cached_tokens,
            repair=repair,
            prefill_s=cost.prefill_s if priced else _tokens_as_seconds,
            load_s=self._load_s if priced and self._load_gate else _no_seconds,
        )

    def _load_s(self, tier: Tier, kv_bytes: int) -> float:
        read_s = kv_bytes / self.disk_speed.bytes_per_s if tier is Tier.DISK else 0.0
        return kv_bytes / self.memory_speed.bytes_per_s + read_s

    def _ticketed(self, live: Live, ticket: int) -> blend.BlendPlan | None:
        """What this ticket stands for; None if some of it is not held any more."""
        plan = self._quality.plan_of(ticket, live)
        if plan is None:
            return None
        domains = {slot.document: slot.domains for slot in live.slots}
        for variant in (piece.variant for piece in plan.pieces):
            if variant is not None and variant.key not in {
                held.variant.key
                for held in self._usable(live.namespace, variant.document, domains[variant.document])
            }:
                return None
        return plan

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
        planned = live.plan.pieces if live.plan is not None else ()
        return tuple(_placed(each, each.match) for each in planned if each.match is not None)

    def comparing(self, live: Live, ticket: int) -> tuple[Comparing, ...]:
        """What is loaded by a ticket, for the request that computes the same exactly."""
        return tuple(
            Comparing(ticket, match.held.variant.document, _placed(planned, match))
            for planned in inexact(self._quality.plan_of(ticket, live))
            if (match := planned.match) is not None
        )


def _placed(planned: blend.Piece, match: blend.Match) -> Piece:
    skipped = match.offset_tokens
    # what was to come exactly, from wherever, may not come after all: then it is computed
    again = () if match.exact else range(skipped)
    repaired = (*again, *(skipped + index for index in planned.repaired))
    return Piece(match.held.variant.key, planned.start_tokens - skipped, planned.end_tokens, repaired)


def _no_seconds(tier: Tier, kv_bytes: int) -> float:
    return 0.0


def _tokens_as_seconds(cached_tokens: int, new_tokens: int) -> float:
    """Stands for predicted seconds until an engine has computed enough to predict: only the order counts."""
    return float(new_tokens)
