"""All that an engine's scheduler does about tiers, behind one object; the connector calls it.

A request passes through ``begin`` (it waits), ``matched`` in each step until it is admitted, ``admitted``
and ``finished``. Each step calls ``plan_step`` when it is scheduled, ``heard`` when the workers have
answered, and ``step_ended`` last.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from copy import copy

from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.config import build_offloading_config
from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.kv_offload.base import Medium, OffloadKey, get_offload_block_hash, make_offload_key
from vllm.v1.kv_offload.config import OffloadingConfig
from vllm.v1.metrics.cache_hit_source import CacheHitSource
from vllm.v1.outputs import KVConnectorOutput
from vllm.v1.request import Request

from mygo.tree.cost import StepCost
from mygo.tree.node import Node
from mygo.types import Tier
from mygo.vllm_plugin.device_cache import DeviceCache
from mygo.vllm_plugin.settings import TierSettings
from mygo.vllm_plugin.tiers.account import Account, settle
from mygo.vllm_plugin.tiers.appraisal import Appraiser
from mygo.vllm_plugin.tiers.counters import TierCounters
from mygo.vllm_plugin.tiers.device_queue import TreeFreeQueue
from mygo.vllm_plugin.tiers.keeper import Keeper
from mygo.vllm_plugin.tiers.links import Speed
from mygo.vllm_plugin.tiers.meter import StepMeter
from mygo.vllm_plugin.tiers.scheduler import NO_OFFER, Offer, TierScheduler
from mygo.vllm_plugin.tiers.spec import TierSpec, native_settings
from mygo.vllm_plugin.tiers.view import CacheView, view
from mygo.vllm_plugin.tiers.watch import Watch
from mygo.vllm_plugin.tiers.worker import TierWorker

_TIERS = {Medium.CPU: Tier.HOST, Medium.STORAGE: Tier.DISK}


def offloading_config(vllm_config: VllmConfig, settings: TierSettings) -> VllmConfig:
    """The engine's configuration as vLLM's offloading reads it: with its own keys in place of ours."""
    native = copy(vllm_config)
    native.kv_transfer_config = copy(vllm_config.kv_transfer_config)
    native.kv_transfer_config.kv_connector_extra_config = native_settings(settings, vllm_config.model_config)
    return native


def make_worker(
    vllm_config: VllmConfig, kv_cache_config: KVCacheConfig, settings: TierSettings
) -> TierWorker:
    """The half that runs beside the model."""
    native = offloading_config(vllm_config, settings)
    return TierWorker(TierSpec(build_offloading_config(native, kv_cache_config)), native, kv_cache_config)


class Tiers:
    """The scheduler's half: the knowledge tree, the tiers that it rules, and what they cost."""

    def __init__(
        self,
        settings: TierSettings,
        vllm_config: VllmConfig,
        kv_cache_config: KVCacheConfig,
        manager: KVCacheManager,
        cache: DeviceCache,
        clock: Callable[[], float],
        *,
        make_spec: Callable[[OffloadingConfig], TierSpec] = TierSpec,
        make_scheduler: Callable[..., TierScheduler] = TierScheduler,
    ) -> None:
        """``make_spec`` and ``make_scheduler`` put other parts in place of the real ones."""
        self._cache = cache
        self._key_suffix = make_offload_key(b"", cache.group_id)
        self.cost = StepCost(vllm_config.scheduler_config.max_num_batched_tokens)
        self._meter = StepMeter(self.cost, clock)
        self._live: set[str] = set()
        self._matched_tokens: dict[str, int] = {}
        """Of waiting requests: tokens on the device when last looked."""
        self._accounts: dict[str, Account] = {}
        """Of admitted requests, as of their first admission."""
        self._held_at_arrival: dict[str, int] = {}
        """Of waiting requests: leading tokens that the tiers held together when they came."""
        self._watch = Watch(clock)
        spec: TierSpec | None = None
        host_tokens = 0
        native = offloading_config(vllm_config, settings)
        if settings.host_bytes:
            spec = make_spec(build_offloading_config(native, kv_cache_config))
            host_tokens = int(settings.host_bytes / spec.kv_bytes_per_token)
        disk_tokens = int(settings.disk_bytes / spec.kv_bytes_per_token) if spec else 0
        self._watch.counters.capacity_tokens = {
            Tier.DEVICE: cache.capacity_tokens,
            Tier.HOST: host_tokens,
            Tier.DISK: disk_tokens,
        }
        self.keeper = Keeper(
            settings,
            self.cost,
            block_tokens=cache.block_tokens,
            device_tokens=cache.capacity_tokens,
            host_tokens=host_tokens,
            disk_tokens=disk_tokens,
            on_evict=self._watch.evicted,
        )
        self._queue: TreeFreeQueue | None = None
        if self.keeper.device is not None:
            pool = manager.block_pool
            self._queue = pool.free_block_queue = TreeFreeQueue(pool.free_block_queue, self.keeper.device)
        self._offload: TierScheduler | None = None
        if spec is not None:
            self._offload = make_scheduler(
                spec,
                native,
                kv_cache_config,
                self.keeper,
                self.cost,
                cache.cached_tokens,
                clock,
                gate=settings.load_gate,
                layerwise=settings.layerwise,
                prefetch=settings.prefetch,
            )
        plan = self._offload.plan if self._offload is not None else None
        self._appraiser = Appraiser(cache, self.keeper.tree, self.cost, plan, clock)
        self.appraise = self._appraiser.appraise

    # --- a request -------------------------------------------------------------------------------

    def begin(self, request: Request, segment_ends: Sequence[int]) -> int:
        """A request came; ``segment_ends`` is empty if it brought no segment map.

        Returns how many of its leading tokens the device holds now.
        """
        request_id = request.request_id
        self._live.add(request_id)
        self._appraiser.begin(request_id)
        self.keeper.tree.begin(request_id, self._cache.hashes(request), segment_ends)
        device_tokens = self._cache.cached_tokens(request)
        self._held_at_arrival[request_id] = max(device_tokens, _held(self.keeper.tree.path(request_id)))
        if self._offload is not None:
            self._offload.on_new_request(request)
        return device_tokens

    def matched(self, request: Request, device_tokens: int) -> tuple[int | None, bool]:
        """Tokens to load behind those on the device, and whether before the request may run.

        None: it is not known yet; ask again in the next step.
        """
        self._matched_tokens[request.request_id] = device_tokens
        if self._offload is None:
            return 0, False
        return self._offload.get_num_new_matched_tokens(request, device_tokens)

    def admitted(self, request: Request, blocks: KVCacheBlocks, loaded_tokens: int) -> None:
        """The request got its blocks; the last ``loaded_tokens`` cached ones are to be loaded."""
        request_id = request.request_id
        offer = NO_OFFER
        if self._offload is not None:
            offer = self._offload.offer(request_id)
            self._offload.update_state_after_alloc(request, blocks, loaded_tokens)
        device_tokens = self._matched_tokens.pop(request_id, None)
        if device_tokens is None:  # its load has ended, and it was admitted when that began
            return
        self._appraiser.forget(request_id)
        if request_id not in self._accounts:  # a preempted request is admitted again
            self._settle(request, device_tokens, loaded_tokens, offer)
        self.keeper.tree.admitted(request_id, device_tokens + loaded_tokens)

    def sources(self, request: Request, loaded_tokens: int) -> dict[CacheHitSource, int]:
        """From which tiers the tokens to be loaded come."""
        if self._offload is None:
            return {}
        sources: dict[CacheHitSource, int] = self._offload.get_external_cache_hit_sources(
            request, loaded_tokens
        )
        return sources

    def _settle(self, request: Request, device_tokens: int, loaded_tokens: int, offer: Offer) -> None:
        request_id, block_tokens = request.request_id, self._cache.block_tokens
        path = self.keeper.tree.path(request_id)
        account = self._accounts[request_id] = settle(
            prompt_tokens=request.num_prompt_tokens,
            block_tokens=block_tokens,
            device_tokens=device_tokens,
            loaded_tokens=self._loaded_tokens(request, loaded_tokens),
            planned_tokens=offer.plan.tokens,
            held_tokens=offer.held_tokens,
            # whoever had a node had all before it, too
            seen_tokens=next((node.end_tokens for node in path if node.accessed_at), 0),
        )
        usable_tokens = (request.num_prompt_tokens - 1) // block_tokens * block_tokens
        self._watch.admitted(
            account,
            path,
            held_at_arrival_tokens=min(self._held_at_arrival.pop(request_id), usable_tokens),
            held_tokens=device_tokens + offer.held_tokens,
            prefetched_tokens=self._offload.prefetched_tokens(request_id) if self._offload else 0,
        )

    def _loaded_tokens(self, request: Request, loaded_tokens: int) -> dict[Tier, int]:
        tokens: dict[Tier, int] = {}
        for source, count in self.sources(request, loaded_tokens).items():
            # a sliding window's history is not loaded at all: vLLM names no source for it
            tier = Tier.DISK if source is CacheHitSource.DISK else Tier.HOST
            tokens[tier] = tokens.get(tier, 0) + count
        return tokens

    def finished(self, request: Request) -> Account | None:
        """The request is over, in whatever way. Its blocks are freed next. None: it was never admitted."""
        request_id = request.request_id
        if request_id not in self._live:
            return None
        self._live.discard(request_id)
        self._matched_tokens.pop(request_id, None)
        self._held_at_arrival.pop(request_id, None)
        self._appraiser.forget(request_id)
        prompt_blocks = request.num_prompt_tokens // self._cache.block_tokens
        self.keeper.tree.extend(request_id, self._cache.hashes(request)[prompt_blocks:])
        self.keeper.tree.finished(request_id)
        if self._offload is not None:
            self._offload.request_finished(request)
            self._watch.prefetched(self._offload.prefetched_tokens(request_id), used_tokens=0)
        return self._accounts.pop(request_id, None)

    # --- a step ----------------------------------------------------------------------------------

    def plan_step(self, output: SchedulerOutput, *, only_computes: bool = True) -> KVConnectorMetadata:
        """What the workers are to move in this step. ``only_computes``: nothing else makes it longer."""
        if self._offload is None:
            self._meter.scheduled(output, measurable=only_computes)
            return KVConnectorMetadata()
        meta = self._offload.build_connector_meta(output)
        self._meter.scheduled(output, measurable=only_computes and not meta.layerwise_jobs)
        return meta

    def heard(self, output: KVConnectorOutput) -> None:
        """What the workers have moved."""
        if self._offload is not None:
            self._offload.update_connector_output(output)

    def step_ended(self) -> dict[Tier, list[bytes]]:
        """By tier, in any order: blocks that came to a slower one or left it since the last step."""
        self._meter.ended()
        changed: dict[Tier, list[bytes]] = {}
        if self._offload is None:
            return changed
        self._offload.purge_idle()
        for event in self._offload.manager.take_events():
            changed.setdefault(_TIERS[event.medium], []).extend(map(get_offload_block_hash, event.keys))
        return changed

    # --- deleted passages ------------------------------------------------------------------------

    def tag_with(self, tags_of: Callable[[bytes], Collection[str]]) -> None:
        """Let what is written to disk name the passages in whose sight it was computed."""
        if self._offload is not None:
            self._offload.tag_with(tags_of)

    def purge(self, blocks: Sequence[bytes], tags: Collection[str]) -> None:
        """Let go of blocks that the device has let go of, and of all chunks on disk that name one of these
        tags. From now on they are no hit, even where they are in use and leave later."""
        if self.keeper.device is not None:
            for block in blocks:
                self.keeper.device.drop(block)
        if self._offload is not None:
            self._offload.purge(blocks, tags)

    def keep_out(self, request_id: str) -> None:
        """Store nothing more of a live request."""
        if self._offload is not None:
            self._offload.barred.keep_out(request_id)

    def renamed(self, request: Request) -> None:
        """The request, which waits, has other block hashes from now on."""
        if self._offload is not None:
            self._offload.renamed(request.request_id)

    def hold_back(self, request_id: str, *, is_held: bool) -> None:
        """Store nothing of a request while the scheduler counts as computed what is not."""
        if self._offload is not None:
            self._offload.barred.hold_back(request_id, is_held=is_held)

    # --- figures ---------------------------------------------------------------------------------

    def counters(self) -> TierCounters:
        """All figures, brought up to date; any thread may ask."""
        counters = self._watch.counters
        counters.held_tokens[Tier.DEVICE] = self._cache.held_tokens
        if self.keeper.device is None:
            counters.evicted_tokens[Tier.DEVICE] = self._cache.evicted_tokens
        if self._offload is not None:
            self._offload.measure(counters)
        return counters

    def view(self, top: int, describe: Callable[[bytes], tuple[str, str]]) -> CacheView:
        """The most valuable nodes. ``describe``: tag and salt of what a block belongs to."""
        return view(self.keeper.tree, top, self._held_tokens, describe, self.counters())

    def _held_tokens(self, node: Node) -> dict[Tier, int]:
        held = dict(node.held)
        if self.keeper.device is None:  # vLLM's own policy tells the tree nothing
            blocks = sum(map(self._cache.is_resident, node.blocks))
            if blocks:
                held[Tier.DEVICE] = blocks * self._cache.block_tokens
        return held

    # --- facts -----------------------------------------------------------------------------------

    @property
    def host_speed(self) -> Speed:
        """Of the link between host memory and the device, as measured. Needs a host tier."""
        assert self._offload is not None
        return self._offload.links.host

    @property
    def busy(self) -> bool:
        """Copies or purges are under way that must be heard of even if nobody computes."""
        offload = self._offload
        return offload is not None and (bool(offload.has_pending_push_work()) or offload.is_purging)

    def tier_of(self, block: bytes) -> Tier | None:
        """The fastest tier besides the device that holds the block, ready to be read."""
        if self._offload is None:
            return None
        return self._offload.tier_of(OffloadKey(block + self._key_suffix))

    def tokens_per_s(self, tier: Tier) -> float:
        """How fast KV comes from a tier to the next faster one, as measured or guessed; 0: no such tier."""
        return self._offload.tokens_per_s(tier) if self._offload is not None else 0.0

    def cleared(self) -> None:
        """The device's cache was emptied."""
        if self._queue is not None:
            self._queue.release()

    def reset(self) -> None:
        """Forget host memory too; the disk keeps what it has."""
        if self._offload is not None:
            self._offload.reset_cache()

    def shutdown(self) -> None:
        if self._offload is not None:
            self._offload.shutdown()


def _held(path: Sequence[Node]) -> int:
    """Leading tokens of a path, last node first, of which some tier holds every node up to there."""
    end_tokens = 0
    for node in reversed(path):
        tokens = max(node.held.values(), default=0)
        end_tokens += tokens
        if tokens < node.tokens:
            break
    return end_tokens
