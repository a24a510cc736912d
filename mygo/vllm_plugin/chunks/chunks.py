"""All that an engine's scheduler does about chunk reuse, behind one object; the connector calls it.

A request passes through ``begin`` (it waits), ``matched`` in each step until it is admitted, ``admitted`` and
``finished``. Each step calls ``plan_step`` when it is scheduled.

Blocks are shared under their hash only once they are final. vLLM hashes a block when its count of computed
tokens has passed the block's end, but with scattered tokens (``layout``) some before that may still be
missing: so the count that it hashes by is held back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from random import Random

import numpy as np
from vllm.config import VllmConfig
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.request import Request

from mygo.blend.selection import Method
from mygo.blend.variants import BirthKind, DocumentTag, Namespace
from mygo.vllm_plugin.chunks import documents
from mygo.vllm_plugin.chunks.captures import Captures
from mygo.vllm_plugin.chunks.comparing import end_tokens
from mygo.vllm_plugin.chunks.disk import ChunkHome, ChunkReport, claim
from mygo.vllm_plugin.chunks.holdings import Holdings
from mygo.vllm_plugin.chunks.layout import Layout
from mygo.vllm_plugin.chunks.link import held_bytes
from mygo.vllm_plugin.chunks.live import Live, Reused
from mygo.vllm_plugin.chunks.naming import Named, named
from mygo.vllm_plugin.chunks.planning import Planner
from mygo.vllm_plugin.chunks.quality import Quality
from mygo.vllm_plugin.chunks.step import ChunkStep
from mygo.vllm_plugin.chunks.unheard import Unheard
from mygo.vllm_plugin.chunks.wants import Wants
from mygo.vllm_plugin.device_cache import DeviceCache
from mygo.vllm_plugin.disk.namespace import Slot
from mygo.vllm_plugin.settings import ChunkSettings
from mygo.vllm_plugin.spans import Reuse, SegmentMap
from mygo.vllm_plugin.tiers.tiers import Tiers
from mygo.vllm_plugin.wire import Assess, Done, Observe

FETCHES_AT_ONCE = 4
"""Requests that may wait for chunks from disk: what they wait for stays in memory, beyond its bound."""


class Chunks:
    """The scheduler's half. Without memory for chunks (``settings.host_bytes``) it does nothing."""

    def __init__(
        self,
        settings: ChunkSettings,
        vllm_config: VllmConfig,
        kv_cache_config: KVCacheConfig,
        manager: KVCacheManager,
        cache: DeviceCache,
        tiers: Tiers,
        *,
        claim: Callable[[ChunkSettings, VllmConfig], tuple[ChunkHome | None, Slot | None]] = claim,
    ) -> None:
        """``claim`` puts another place for chunks on disk in place of the real one."""
        self._enabled = bool(settings.host_bytes)
        self._settings = settings
        self._config = vllm_config
        self._cache = cache
        self._tiers = tiers
        self._live: dict[str, Live] = {}
        self._active: dict[str, Live] = {}
        """Admitted ones that load or capture."""
        self._fetching: set[str] = set()
        """Waiting ones whose chunks come from disk."""
        # vLLM stores by the scheduler's count, in which what is loaded comes before what is computed
        self._unheard = Unheard(cache, tiers.hold_back)
        ranks = int(vllm_config.parallel_config.tensor_parallel_size)
        home: ChunkHome | None = None
        self._slot: Slot | None = None
        if self._enabled:
            home, self._slot = claim(settings, vllm_config)
        self._holdings = Holdings(settings, home, ranks)
        model = vllm_config.model_config
        self._quality = Quality(settings, f"{model.model} {model.dtype}", Random(0), time.monotonic)
        self._planner = Planner(settings, self._holdings, self._quality, cache, tiers)
        self._wants = Wants(settings, self._holdings, self._quality)
        if self._enabled:
            births = BirthKind(settings.births)
            token_bytes = _token_bytes(kv_cache_config)
            self._captures = Captures(
                self._holdings,
                self._quality,
                births,
                lambda tokens: ranks * held_bytes(tokens * token_bytes),
                ranks=settings.method == Method.DEVIATION,
            )
            self._hold_back(manager)

    def __repr__(self) -> str:
        return f"Chunks({self._holdings!r}, active={list(self._active)})"

    def _hold_back(self, manager: KVCacheManager) -> None:
        cache_blocks = manager.coordinator.cache_blocks

        def cache_complete_blocks(request: Request, num_computed_tokens: int) -> None:
            live = self._live.get(request.request_id)
            if live is not None and live.layout is not None:
                num_computed_tokens = live.layout.complete_tokens(num_computed_tokens)
            cache_blocks(request, num_computed_tokens)

        manager.coordinator.cache_blocks = cache_complete_blocks

    # --- a request -------------------------------------------------------------------------------

    def begin(self, request: Request, segments: SegmentMap) -> None:
        """A request came, and its blocks carry their domains."""
        if not self._enabled or request.skip_reading_prefix_cache or request.prompt_token_ids is None:
            return
        slots = documents.slots(segments.spans)
        if not slots:
            return
        live = self._live[request.request_id] = Live(
            request,
            segments,
            self._namespace(request, slots[0].start_tokens),
            slots,
            request._block_hasher,
            list(self._cache.hashes(request)),
        )
        if segments.reuse is Reuse.BLEND:
            self._planner.settle(live)
            live.cached_tokens = self._planner.device_tokens(live)
            self._fetch(live, self._layout(live))

    def _namespace(self, request: Request, system_tokens: int) -> Namespace:
        model = self._config.model_config
        return Namespace(
            model=model.model,
            lora=request.lora_request.lora_name if request.lora_request else "",
            tokenizer=model.tokenizer or "",
            kv_dtype=str(model.dtype),
            system=documents.fingerprint(request.prompt_token_ids[:system_tokens]),
            filler=self._settings.fillers,
        )

    def matched(self, request: Request, device_tokens: int, loading_tokens: int) -> int | None:
        """Tokens to take from chunks, where ``device_tokens`` are on the device and slower tiers load the
        ``loading_tokens`` behind them.

        None: the device must be asked again what it holds, because the request's blocks have other hashes.
        """
        live = self._live.get(request.request_id)
        if live is None:
            return 0
        live.cached_tokens = device_tokens + loading_tokens
        live.layout = None
        if live.segments.reuse is not Reuse.BLEND:
            return 0
        # what was looked up, and found in any tier
        found = self._cache.hashes(request)[: live.cached_tokens // self._cache.block_tokens]
        if self._planner.settle(live):
            still_found = self._cache.hashes(request)[: len(found)] == found
            if not still_found or self._planner.device_tokens(live) != device_tokens:
                return None
        layout = self._layout(live)
        if not self._fetch(live, layout):
            return None
        if layout.loaded_tokens:
            live.layout = layout
        return layout.loaded_tokens

    def _layout(self, live: Live) -> Layout:
        return Layout(live.cached_tokens, live.request.num_tokens, self._planner.pieces(live))

    def _fetch(self, live: Live, layout: Layout) -> bool:
        """True if everything that the layout loads is in the workers' memory. If not, it comes, and stays
        until the request is admitted or over, unless too many others wait for theirs."""
        pieces = live.plan.pieces if live.plan is not None else ()
        variants = [each.variant for each in pieces if each.variant and each.variant.key in layout.variants]
        if self._holdings.has(variants):
            return True
        self._holdings.release(live.pinned)
        live.pinned = ()
        request_id = live.request.request_id
        if request_id in self._fetching or len(self._fetching) < FETCHES_AT_ONCE:
            self._fetching.add(request_id)
            live.pinned = layout.variants
            self._holdings.pin(live.pinned)
            self._holdings.fetch(variants)
        return False

    def loaded_tokens(self, request: Request) -> int:
        """What ``matched`` said last."""
        live = self._live.get(request.request_id)
        return live.layout.loaded_tokens if live is not None and live.layout is not None else 0

    def admitted(self, request: Request) -> Named | None:
        """The request got its blocks. Returns what its segments are called from now on, unless that is as
        before."""
        live = self._live.get(request.request_id)
        self._unheard.admitted(request, live.layout if live is not None else None)
        if live is None:
            return None
        self._end_admission(live)
        layout = live.layout
        is_first = live.reused is None
        if live.matches and is_first:
            self._holdings.used(live.matches)
        if live.reused is None:
            counts = (layout.loaded_tokens, layout.repaired_tokens) if layout is not None else (0, 0)
            live.reused = Reused(*counts, approximate=False, ticket=self._quality.admitted(live))
        if live.tags:
            live.reused = replace(live.reused, approximate=True)
        if layout is not None:
            live.pinned = layout.variants
            self._holdings.pin(live.pinned)
        measures = live.segments.ticket is not None or live.segments.repair is not None
        outdated = live.generation != self._quality.generation
        if not live.retired and not (live.tags and (measures or outdated)):
            self._captures.begin(live)
        if is_first and self._settings.fillers:
            live.reused = replace(live.reused, fillers=self._wants.of(live))
        ticket = live.segments.ticket or live.reused.ticket
        if ticket is not None and not live.tags:
            live.comparing = self._planner.comparing(live, ticket)
        if layout is not None or live.capturing or live.comparing:
            self._active[request.request_id] = live
        if live.tags or live.segments.filler:
            self._tiers.keep_out(request.request_id)
        if live.tags == live.named_by:
            return None
        live.named_by = live.tags
        return named(live)

    def finished(self, request: Request) -> Reused | None:
        """The request is over, in whatever way. None if it had no documents, or was never admitted."""
        live = self._live.pop(request.request_id, None)
        if live is None:
            return None
        self._unheard.ends(request.request_id)
        self._end_admission(live)
        return live.reused

    def _end_admission(self, live: Live) -> None:
        """Its prompt is computed, or it was preempted or is over."""
        self._active.pop(live.request.request_id, None)
        self._fetching.discard(live.request.request_id)
        self._holdings.release(live.pinned)
        live.pinned = ()
        live.comparing = ()
        self._captures.give_up(live)

    # --- a step ----------------------------------------------------------------------------------

    def plan_step(self, output: SchedulerOutput) -> ChunkStep:
        """What the workers are to load and to capture in this step."""
        step = self._holdings.next_step
        counted_tokens: dict[str, int] = {}
        for request_id, live in list(self._active.items()):
            new_tokens = output.num_scheduled_tokens.get(request_id, 0)
            if new_tokens:
                counted_tokens[request_id] = live.request.num_computed_tokens + new_tokens
                self._plan_request(request_id, live, new_tokens, step)
            elif request_id in (output.preempted_req_ids or ()):
                self._unheard.ends(request_id)
                self._end_admission(live)
        self._unheard.planned(counted_tokens, step.loads)
        if step.loads:
            # what is computed in this very step reads them
            output.has_sync_kv_loads = True
        return self._holdings.take_step()

    def heard(self, report: ChunkReport) -> None:
        """What the workers found."""
        self._holdings.heard(report)
        self._planner.memory_speed.observe(report.loaded_bytes, report.load_s)
        self._planner.disk_speed.observe(report.read_bytes, report.read_s)
        self._quality.heard(report.deviations)

    def loads_failed(self) -> None:
        """Some chunks were not there after all, and vLLM has gone back to compute those prompts in full. What
        they share already is not what it should be, nor is what others have computed behind that."""
        self._holdings.distrust_latest()
        for lost in self._unheard.lost():
            for request in {lost.request, *lost.builders.values()}:
                self._cache.evict(self._cache.hashes(request)[lost.first_block :])
                if request is not lost.request or request.is_finished():
                    self._tiers.keep_out(request.request_id)
            live = self._live.get(lost.request.request_id)
            if live is not None and live.layout is lost.layout:  # it was not admitted anew since
                self._unheard.ends(lost.request.request_id)
                live.layout = None
                self._end_admission(live)

    def step_ended(self) -> None:
        """The oldest step is over, and it was told what failed."""
        self._unheard.step_ended()

    def _plan_request(self, request_id: str, live: Live, new_tokens: int, step: ChunkStep) -> None:
        counted_tokens = live.request.num_computed_tokens
        layout = live.layout
        if layout is not None and not layout.covers(counted_tokens):  # all is computed
            live.layout = layout = None
        positions = np.arange(counted_tokens, counted_tokens + new_tokens)
        if layout is not None:
            positions = layout.positions(counted_tokens, new_tokens)
            if positions[0] != counted_tokens:
                step.positions[request_id] = positions
            if loads := list(layout.loads(counted_tokens, new_tokens)):
                step.loads[request_id] = loads
        if captures := self._captures.plan(live, positions):
            step.captures[request_id] = captures
        found = [each.within(positions) for each in live.comparing]
        if comparisons := [each for each in found if each is not None]:
            step.comparisons[request_id] = comparisons
        if positions[-1] + 1 >= end_tokens(live.comparing):
            live.comparing = ()
        if layout is None and not live.capturing and not live.comparing:
            self._end_admission(live)

    # --- deleted passages ------------------------------------------------------------------------

    def purge(self, tags: Collection[str]) -> dict[str, int]:
        """Let go of everything that was computed in sight of passages with these tags. Returns requests under
        way that reuse some of it, and the token of each from which on they do."""
        gone = frozenset(map(DocumentTag, tags))
        self._quality.forget(gone)
        self._holdings.purge(gone)
        doomed: dict[str, int] = {}
        for request_id, live in self._live.items():
            starts = [start_tokens for start_tokens, seen in live.seen() if not gone.isdisjoint(seen)]
            if starts and live.named_by:  # admitted with it
                doomed[request_id] = min(starts)
            if starts or any(slot.document in gone for slot in live.slots):
                live.retired = True
                self._captures.give_up(live)
        return doomed

    # --- how good it is --------------------------------------------------------------------------

    def obey(self, command: Observe | Assess) -> Done:
        """Something about the quality guard. With its trust goes what was computed in sight of blends."""
        generation = self._quality.generation
        match command:
            case Observe():
                self._quality.observe(command.ticket, command.divergence)
            case Assess(reset=True):
                self._quality.reset()
        if self._quality.generation != generation:
            self._holdings.distrust()
            for live in self._live.values():
                if live.tags:
                    self._captures.give_up(live)
        return Done(command.number, quality=self._quality.view())

    @property
    def busy(self) -> bool:
        """Something is yet to go, which takes a step even if nobody computes."""
        return self._enabled and self._holdings.is_leaving

    def shutdown(self) -> None:
        self._quality.close()
        if self._slot is not None:
            self._slot.release()

    def reset(self) -> None:
        """Forget all chunks in memory. What requests under way still need is computed anew."""
        self._holdings.forget()
        for live in self._live.values():
            if live.capturing:
                self._captures.give_up(live)


def _token_bytes(kv_cache_config: KVCacheConfig) -> int:
    """KV of one token in one worker."""
    (group,) = kv_cache_config.kv_cache_groups
    spec = group.kv_cache_spec
    return int(spec.page_size_bytes) // int(spec.block_size) * len(group.layer_names)
