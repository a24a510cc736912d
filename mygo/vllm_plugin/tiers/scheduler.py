"""The scheduler's half of the tiers: vLLM's offloading, told how much of a prompt is worth loading.

vLLM's own half loads whatever a slower tier has, before the request may run. This one asks first whether
computing would be sooner (``tree.loading``), and lets host copies run beside the computation where that is
sooner still.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby
from types import SimpleNamespace
from typing import Any, NamedTuple

from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.scheduler import (
    OffloadingConnectorScheduler,
)
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.kv_offload.base import OffloadingEvent, OffloadKey, ReqContext, make_offload_key
from vllm.v1.kv_offload.cpu.policies.base import ChunkStatus
from vllm.v1.outputs import KVConnectorOutput
from vllm.v1.request import Request

from mygo.tree.cost import StepCost
from mygo.tree.loading import Link, LoadPlan, Run, plan_load
from mygo.types import Tier
from mygo.vllm_plugin.disk.records import Presence
from mygo.vllm_plugin.disk.tier import DiskTier
from mygo.vllm_plugin.tiers.barred import Barred
from mygo.vllm_plugin.tiers.counters import TierCounters
from mygo.vllm_plugin.tiers.demotion import Demotion
from mygo.vllm_plugin.tiers.disk_order import DiskOrder
from mygo.vllm_plugin.tiers.growing import growing
from mygo.vllm_plugin.tiers.host_policy import TreeCachePolicy
from mygo.vllm_plugin.tiers.keeper import Keeper
from mygo.vllm_plugin.tiers.links import Links
from mygo.vllm_plugin.tiers.prefetch import Prefetch
from mygo.vllm_plugin.tiers.spec import TierSpec
from mygo.vllm_plugin.tiers.worker import TierMetadata


class Offer(NamedTuple):
    """What slower tiers have for a waiting request."""

    held_tokens: int
    """Right behind those on the device, without a gap."""
    plan: LoadPlan
    """How many of them to load, and how."""


NO_OFFER = Offer(0, LoadPlan(0, 0.0))


class TierScheduler(OffloadingConnectorScheduler):  # type: ignore[misc]
    """One per engine. ``gate``: compute what would take longer to load. ``layerwise``: host copies may run
    beside the computation."""

    def __init__(
        self,
        spec: TierSpec,
        vllm_config: VllmConfig,
        kv_cache_config: KVCacheConfig,
        keeper: Keeper,
        cost: StepCost,
        device_tokens: Callable[[Request], int],
        clock: Callable[[], float],
        *,
        gate: bool,
        layerwise: bool,
        prefetch: bool,
    ) -> None:
        super().__init__(spec, vllm_config, kv_cache_config)
        assert keeper.host is not None
        self._host = TreeCachePolicy(spec.num_chunks, keeper.host)
        # vLLM makes a policy from a name alone, which could not know this engine's tree
        self.manager.primary_tier._policy = self._host
        # each step it would look at all live requests for what only tiers that store whole requests leave
        self.manager._flush_pending_cascades = lambda: None
        # for policies that learn from it what a request used: ours knows that from the tree
        self.manager.primary_tier._record_request_cache_access = lambda *args, **kwargs: None
        self._disk: DiskTier | None = next(iter(self.manager.secondary_tiers), None)
        self._disk_order: DiskOrder | None = None
        if self._disk is not None and self._disk.store is not None:
            assert keeper.disk is not None
            self._disk_order = DiskOrder(keeper.disk)
            self._disk.store.attach(self._disk_order)
        self._keeper = keeper
        self._tree = keeper.tree
        self._prefetch: Prefetch | None = None
        if prefetch and self._disk is not None:
            self._prefetch = Prefetch(
                self.manager,
                lambda: (request_id for request_id, _ in self._tree.waiting),
                self._worth_reading,
                self._unwanted_blocks,
                self._prefill_s,
                clock,
            )
        self._demotion: Demotion | None = None
        if self._disk is not None:
            self._demotion = Demotion(self.manager, self._host, self._disk, spec.num_chunks)
        self._device_tokens = device_tokens
        self._cost = cost
        self._gate = gate
        # a hybrid model's groups are allocated in ways that only vLLM's own load path knows
        self._may_overlap = layerwise and len(kv_cache_config.kv_cache_groups) == 1
        self._layers = max(len(group.layer_names) for group in kv_cache_config.kv_cache_groups)
        self._group = self._lookup_groups[0]
        self._bytes_per_token = spec.kv_bytes_per_token
        self.links = Links(self._disk)
        self._offers: dict[str, Offer] = {}
        """What was last found and decided for each request that is not admitted yet."""
        self.barred = Barred()
        self._stored: set[str] = set()
        """Running requests of which all is stored that ever will be."""
        self._purges = False
        """Something had yet to go when last looked."""
        self._layerwise_jobs: set[int] = set()
        """Loads that this step's own computation reads."""

    # --- how much to load ------------------------------------------------------------------------

    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int, max_num_new_tokens: int | None = None
    ) -> tuple[int | None, bool]:
        runs = list(self._runs(request, num_computed_tokens))
        plan = self.plan(request, num_computed_tokens, runs)
        self._offers[request.request_id] = Offer(sum(run.tokens for run in runs), plan)
        self._req_status[request.request_id].max_load_tokens = plan.tokens
        tokens, _ = super().get_num_new_matched_tokens(request, num_computed_tokens, max_num_new_tokens)
        if tokens and plan.overlapped:
            # a load before the computation may bring everything; one beside it must leave a token
            block_tokens = self.config.kv_group_configs[self._group].tokens_per_block
            usable_tokens = (request.num_tokens - 1) // block_tokens * block_tokens
            return min(tokens, usable_tokens - num_computed_tokens), False
        return tokens, bool(tokens)

    def offer(self, request_id: str) -> Offer:
        """What slower tiers had for a request that is about to be admitted."""
        return self._offers.get(request_id, NO_OFFER)

    def plan(self, request: Request, device_tokens: int, runs: Sequence[Run]) -> LoadPlan:
        """How much of ``runs``, which lie behind ``device_tokens``, to load."""
        everything = sum(run.tokens for run in runs)
        if not runs or not (self._gate or self._may_overlap) or not self._cost.known:
            return LoadPlan(everything, 0.0)
        plan = plan_load(
            self._cost.prefill_s,
            device_tokens=device_tokens,
            prompt_tokens=request.num_tokens,
            runs=runs,
            links=self._links(),
            bytes_per_token=self._bytes_per_token,
            overlap=self._may_overlap,
            layers=self._layers,
        )
        return plan if self._gate else LoadPlan(everything, plan.predicted_s, plan.overlapped)

    def _runs(self, request: Request, device_tokens: int) -> Iterator[Run]:
        """What the slower tiers hold right behind ``device_tokens``, in prompt order."""
        status = self._req_status[request.request_id]
        status.update_offload_keys()
        block_tokens = self.config.kv_group_configs[self._group].tokens_per_block
        keys = status.group_states[self._group].offload_keys[device_tokens // block_tokens :]
        for tier, run in groupby(keys, self._expected_in):
            if tier is None:
                return
            yield Run(tier, sum(block_tokens for _ in run))

    def _expected_in(self, key: OffloadKey) -> Tier | None:
        """Where a block will be found; after a start, the disk may not know yet what it has. What comes to
        host memory by a read that does not come back is nowhere."""
        store = self._disk.store if self._disk is not None else None
        if self._host.holds(key):
            return Tier.HOST if store is None or not store.is_stuck(key) else None
        return Tier.DISK if store is not None and store.find(key) is not Presence.ABSENT else None

    def tier_of(self, key: OffloadKey) -> Tier | None:
        """The fastest tier here that has a block, or is just being given it."""
        if self._host.holds(key):
            return Tier.HOST
        store = self._disk.store if self._disk is not None else None
        return Tier.DISK if store is not None and store.holds(key) else None

    def _links(self) -> dict[Tier, Link]:
        loading = sum(len(job.keys) for job in self._jobs.values() if not job.is_store)
        chunk_bytes = self._bytes_per_token * self.config.kv_group_configs[self._group].tokens_per_block
        return self.links.now(int(loading * chunk_bytes))

    def tokens_per_s(self, tier: Tier) -> float:
        """How fast KV comes from a tier to the next faster one; 0: no such tier."""
        return self.links.bytes_per_s(tier) / self._bytes_per_token

    # --- reading ahead ---------------------------------------------------------------------------

    def _worth_reading(self, request_id: str) -> tuple[ReqContext, list[OffloadKey]] | None:
        status = self._req_status.get(request_id)
        if status is None or status.req.skip_reading_prefix_cache:
            return None
        device_tokens = self._device_tokens(status.req)
        plan = self.plan(status.req, device_tokens, list(self._runs(status.req, device_tokens)))
        block_tokens = self.config.kv_group_configs[self._group].tokens_per_block
        first = device_tokens // block_tokens
        keys = status.group_states[self._group].offload_keys[first : first + plan.tokens // block_tokens]
        return status.req_context, [key for key in keys if self.tier_of(key) is Tier.DISK]

    def _unwanted_blocks(self) -> int:
        """Host blocks that are free, or could be without taking them from a waiting request."""
        primary = self.manager.primary_tier
        free = primary._get_num_free_chunks() + primary._num_evictable_cache_chunks
        return int(free - self._tree.waiting.protected_tokens // self._tree.block_tokens)

    def _prefill_s(self, request_id: str) -> float:
        status = self._req_status.get(request_id)
        return self._cost.prefill_s(0, status.req.num_tokens) if status is not None else 0.0

    def prefetched_tokens(self, request_id: str) -> int:
        """What was read ahead for a request that was just admitted, or is over. Asked once."""
        if self._prefetch is None:
            return 0
        return self._prefetch.ended(request_id) * self._tree.block_tokens

    # --- figures ---------------------------------------------------------------------------------

    def measure(self, counters: TierCounters) -> None:
        """Fill in how full the tiers are, and what their links and the drive did."""
        counters.held_tokens[Tier.HOST] = self._host.held_blocks * self._tree.block_tokens
        counters.loaded_bytes[Tier.HOST] = self.links.host.total_bytes
        counters.load_s[Tier.HOST] = self.links.host.total_s
        store = self._disk.store if self._disk is not None else None
        if store is not None:
            counters.disk = store.stats
            counters.held_tokens[Tier.DISK] = int(store.held_bytes / self._bytes_per_token)
            counters.loaded_bytes[Tier.DISK] = store.stats.read_bytes
            counters.load_s[Tier.DISK] = store.speed.total_s

    # --- loads beside the computation ------------------------------------------------------------

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        offer = self._offers.pop(request.request_id, NO_OFFER)
        if not num_external_tokens or not offer.plan.overlapped:
            super().update_state_after_alloc(request, blocks, num_external_tokens)
            return
        status = self._req_status[request.request_id]
        super().update_state_after_alloc(
            request, self._as_unfilled(blocks, status.num_locally_computed_tokens), num_external_tokens
        )
        self._layerwise_jobs |= status.transfer_jobs

    def _as_unfilled(self, blocks: KVCacheBlocks, computed_tokens: int) -> Any:
        """vLLM finds what to load by blocks without a hash. In a step that also computes them, blocks are
        hashed as soon as they are allocated: show them as they were before."""
        block_tokens = self.config.kv_group_configs[self._group].tokens_per_block
        computed = computed_tokens // block_tokens
        (group,) = blocks.blocks
        shown = [
            SimpleNamespace(
                block_id=block.block_id,
                is_null=block.is_null,
                block_hash=block.block_hash if number < computed else None,
            )
            for number, block in enumerate(group)
        ]
        return SimpleNamespace(blocks=(shown,))

    # --- deleted passages ------------------------------------------------------------------------

    def purge(self, blocks: Sequence[bytes], tags: Collection[str]) -> None:
        """Let go of these blocks on every tier here, and of what earlier processes left of passages with
        these tags on disk."""
        groups = range(len(self.config.kv_group_configs))
        keys = [make_offload_key(block, group) for block in blocks for group in groups]
        self._free(self._host.purge(keys))
        self._purges = True
        store = self._disk.store if self._disk is not None else None
        if store is not None:
            store.purge(keys)
            store.purge_tagged(bytes.fromhex(tag) for tag in tags)

    def purge_idle(self) -> None:
        """Chunks to be purged that were in use may have become idle."""
        if not self._purges:
            return
        gone = self._host.purged()
        self._free(gone)
        self._purges = self._host.has_doomed
        store = self._disk.store if self._disk is not None else None
        if store is not None:
            if gone:
                store.purge(key for key, _ in gone)  # they may have been on their way there
            self._purges = self._purges or store.is_purging

    @property
    def is_purging(self) -> bool:
        """Something is yet to go, which further steps must look after."""
        return self._purges

    def tag_with(self, tags_of: Callable[[bytes], Collection[str]]) -> None:
        """See ``Tiers.tag_with``."""
        if self._disk is not None:
            self._disk.tags_of = tags_of

    def renamed(self, request_id: str) -> None:
        """See ``Tiers.renamed``: vLLM's keys are made of the hashes that it had when it was looked up."""
        status = self._req_status[request_id]
        for state in status.group_states:
            state.offload_keys.clear()
        status.update_offload_keys()

    def _free(self, gone: list[tuple[OffloadKey, ChunkStatus]]) -> None:
        primary = self.manager.primary_tier
        for _, chunk in gone:
            primary._free_chunk(chunk)
        primary._num_evictable_cache_chunks -= len(gone)
        if gone and primary.events is not None:
            primary.events.append(OffloadingEvent([key for key, _ in gone], primary.medium, removed=True))

    def _build_store_jobs(self, scheduler_output: SchedulerOutput) -> Any:
        return super()._build_store_jobs(self.barred.without(scheduler_output, self._loading()))

    def _is_stored(self, request_id: str) -> bool:
        """All of it that vLLM stores: prompts only, as an answer is part of the next turn's."""
        if request_id in self._stored:
            return True
        status = self._req_status[request_id]
        stored = all(
            state.next_stored_chunk_idx >= status.req.num_prompt_tokens // group.tokens_per_chunk
            for group, state in zip(self.config.kv_group_configs, status.group_states, strict=True)
        )
        if stored:
            self._stored.add(request_id)
        return stored

    def shutdown(self) -> None:
        if self._demotion is not None:
            self._settle()
            self._keeper.engine_ends()
            self._demotion.flush()
        super().shutdown()

    def reset_cache(self) -> None:
        self._stored.clear()
        super().reset_cache()

    def request_finished(self, request: Request) -> Any:
        self._offers.pop(request.request_id, None)
        return super().request_finished(request)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> TierMetadata:
        if self._prefetch is not None:
            self._prefetch.step()
        if self._demotion is not None:
            self._demotion.step()
        scheduler_output, passed_by = growing(scheduler_output, self._is_stored)
        for block_ids in passed_by:
            # what is still being copied out of them must be waited for
            self._current_batch_allocated_block_ids.update(block_ids)
        if scheduler_output.preempted_req_ids:
            # vLLM waits for the stores of preempted requests and knows no loads of running ones. Those are
            # over when the step that reads them is, and so before the blocks are used again.
            scheduler_output.preempted_req_ids = scheduler_output.preempted_req_ids - self._loading()
        meta = super().build_connector_meta(scheduler_output)
        self._stored -= scheduler_output.finished_req_ids
        self.barred.forget(scheduler_output.finished_req_ids, self._req_status.keys())
        self._settle()
        jobs, self._layerwise_jobs = self._layerwise_jobs, set()
        return TierMetadata(meta.load_jobs, meta.store_jobs, meta.jobs_to_flush, jobs)

    def _loading(self) -> set[str]:
        return {job.req_id for job in self._jobs.values() if not job.is_store}

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        meta = connector_output.kv_connector_worker_meta
        if meta is not None:
            self.links.host.observe(meta.transfer_stats.load.bytes, meta.transfer_stats.load.time)
        super().update_connector_output(connector_output)
        self._settle()

    def _settle(self) -> None:
        """The tree knows from here on what came and what is idle."""
        self._host.settle()
        if self._disk_order is not None:
            self._disk_order.settle()
