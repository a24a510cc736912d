"""The device's queue in vLLM's own block pool, against a naive model of what is free and who may leave."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from shelf_model import check_order, knowledge_tree, path, willing
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_utils import KVCacheBlock, get_block_hash

from mygo.tree.knowledge import KnowledgeTree
from mygo.tree.policies import make
from mygo.tree.shelf import Shelf
from mygo.types import Tier
from mygo.vllm_plugin.settings import TierSettings, engine_arguments
from mygo.vllm_plugin.tiers import device_queue
from mygo.vllm_plugin.tiers.device_queue import AHEAD_SHARE, TreeFreeQueue

BLOCK_TOKENS = 4
BLOCKS = 24
"""In the pool, one of which is vLLM's placeholder."""

texts = st.lists(st.integers(0, 1), min_size=1, max_size=6)
picks = st.integers(0, 1_000)


class Device:
    """vLLM's pool with our queue, and what vLLM's managers do with them."""

    def __init__(self, tree: KnowledgeTree, policy: str, groups: int) -> None:
        self.groups = groups
        self.pool = BlockPool(BLOCKS, enable_caching=True, hash_block_size=BLOCK_TOKENS)
        self.shelf = Shelf(tree, Tier.DEVICE, make(policy, tree, BLOCKS * BLOCK_TOKENS))
        self.queue = TreeFreeQueue(self.pool.free_block_queue, self.shelf)
        self.pool.free_block_queue = self.queue

    def hit(self, hashes: list[bytes]) -> list[list[KVCacheBlock]]:
        """Leading blocks that all groups have, touched; a list per group."""
        found: list[list[KVCacheBlock]] = [[] for _ in range(self.groups)]
        for block_hash in hashes:
            blocks = self.pool.get_cached_block(block_hash, list(range(self.groups)))
            if blocks is None:
                break
            for group, block in zip(found, blocks, strict=True):
                group.append(block)
        for group in found:
            self.pool.touch(group)
        return found

    def cache(self, hashes: list[bytes], blocks: list[list[KVCacheBlock]], first: int, end: int) -> None:
        request: Any = SimpleNamespace(block_hashes=hashes)
        for group_id, group in enumerate(blocks):
            self.pool.cache_full_blocks(request, group, first, end, BLOCK_TOKENS, group_id)

    def free(self, blocks: list[list[KVCacheBlock]]) -> None:
        for group in blocks:
            self.pool.free_blocks(reversed(group))

    def reset(self) -> None:
        assert self.pool.reset_prefix_cache()
        self.queue.release()


class _Request:
    def __init__(self, hashes: list[bytes], blocks: list[list[KVCacheBlock]], cached: int) -> None:
        self.hashes = hashes
        self.blocks = blocks
        self.cached = cached
        """Blocks of each group that have their hash."""


class DeviceQueueMachine(RuleBasedStateMachine):
    """The model: by id, what each free block cached when it was freed (``freed``); what the shelf was given
    and has not given up (``held``), free or in use."""

    @initialize(
        policy=st.sampled_from(["lru", "pgdsf", "s3fifo", "forecast"]),
        groups=st.integers(1, 3),
        ahead_share=st.sampled_from([0.0, 0.5]),
    )
    def start(self, policy: str, groups: int, ahead_share: float) -> None:
        self.ahead_share = device_queue.AHEAD_SHARE = ahead_share
        self.tree = knowledge_tree()
        self.device = Device(self.tree, policy, groups)
        self.pool = self.device.pool
        self.requests: dict[str, _Request] = {}
        self.freed: dict[int, bytes] = {}
        self.held: set[bytes] = set()
        self.reused: dict[int, bytes] = {}
        """Blocks in use that were hit while they were free, and what they cached then."""
        self.begun = 0

    def teardown(self) -> None:
        device_queue.AHEAD_SHARE = AHEAD_SHARE

    # --- what vLLM does ---

    @rule(text=texts, known=st.booleans(), computed=st.integers(0, 6), tail=st.booleans())
    def begin(self, text: list[int], known: bool, computed: int, tail: bool) -> None:
        """A request is admitted, hits what there is, and computes some of the rest in its first step.

        Two that compute the same at once make twins. ``tail``: it has a last block that is never full.
        """
        hashes = path(text)
        self.begun += 1
        name = f"r{self.begun}"
        if known:
            self.tree.begin(name, hashes)
        blocks = self.device.hit(hashes)
        for group in blocks:
            for block in group:
                if block.block_id in self.freed:
                    self.reused[block.block_id] = self.freed.pop(block.block_id)
        hits = len(blocks[0])
        fresh = len(hashes) - hits + tail
        if fresh * self.device.groups > self.pool.get_num_free_blocks():
            self._free(blocks)
            self.tree.finished(name)
            return
        if known:
            self.tree.admitted(name, hits * BLOCK_TOKENS)
        for group in blocks:
            group.extend(self._take(fresh))
        self.requests[name] = _Request(hashes, blocks, hits)
        self._compute(self.requests[name], computed)

    @precondition(lambda self: self.requests)
    @rule(pick=picks, computed=st.integers(1, 6))
    def compute(self, pick: int, computed: int) -> None:
        self._compute(list(self.requests.values())[pick % len(self.requests)], computed)

    @precondition(lambda self: self.requests)
    @rule(pick=picks)
    def finish(self, pick: int) -> None:
        name = list(self.requests)[pick % len(self.requests)]
        self._free(self.requests.pop(name).blocks)
        self.tree.finished(name)

    @rule(count=st.integers(1, BLOCKS), kept=st.booleans())
    def allocate(self, count: int, kept: bool) -> None:
        """Blocks for tokens that are never cached; ``kept`` until the request ends."""
        if count > self.pool.get_num_free_blocks():
            with pytest.raises(ValueError, match="free blocks"):
                self.pool.get_new_blocks(count)
            return
        blocks = self._take(count)
        if kept:
            self.begun += 1
            self.requests[f"r{self.begun}"] = _Request([], [blocks], 0)
        else:
            self.pool.free_blocks(blocks)

    @rule(ids=st.sets(st.integers(1, BLOCKS - 1), max_size=3))
    def evict_blocks(self, ids: set[int]) -> None:
        """A load failed: what the blocks cache is gone, whether or not they are in use."""
        self.pool.evict_blocks(ids - self.freed.keys())

    @precondition(lambda self: not self.requests)
    @rule()
    def reset(self) -> None:
        self.device.reset()
        self.freed.clear()
        self.held.clear()
        assert len(self.device.shelf) == 0

    # --- the naive model ---

    def _compute(self, request: _Request, computed: int) -> None:
        end = min(len(request.hashes), request.cached + computed)
        self.device.cache(request.hashes, request.blocks, request.cached, end)
        request.cached = end

    def _free(self, blocks: list[list[KVCacheBlock]]) -> None:
        self.device.free(blocks)
        for group in blocks:
            for block in reversed(group):
                if block.ref_cnt:
                    continue
                cached = None if block.block_hash is None else get_block_hash(block.block_hash)
                if cached is not None:
                    self.freed[block.block_id] = cached
                    self.held.add(cached)
                before = self.reused.pop(block.block_id, None)
                if before not in (None, cached) and before not in self.freed.values():
                    self.held.discard(before)

    def _take(self, count: int) -> list[KVCacheBlock]:
        """New blocks, and whether the right ones were chosen."""
        free = {block.block_id for block in self.pool.blocks if not block.ref_cnt and not block.is_null}
        worthless = free - self.freed.keys()
        may_leave = willing(self.tree, self.held, set(self.freed.values()))
        orderly = worthless | {id_ for id_, cached in self.freed.items() if cached in may_leave}
        taken = self.pool.get_new_blocks(count)
        ids = [block.block_id for block in taken]
        assert len(ids) == len(set(ids)) == count
        assert set(ids) <= free, "a block was handed out while it was referenced"
        assert all(block.ref_cnt == 1 and block.block_hash is None for block in taken)
        chosen = set(self.freed.values()) - self.device.queue._blocks.keys()
        if chosen:
            assert worthless <= set(ids), "a cached block went before one that caches nothing"
        assert {self.freed[id_] for id_ in ids if id_ in self.freed} <= chosen
        rest = {id_: cached for id_, cached in self.freed.items() if cached in chosen and id_ not in ids}
        if not self.ahead_share:
            assert len(set(rest.values())) <= 1, "more left the cache than was needed"
        assert len(rest) <= max(self.ahead_share * len(set(self.freed.values())), 2 * self.device.groups)
        if count <= len(orderly):
            assert chosen <= may_leave, "a block left though something behind it is in use"
        else:
            assert may_leave <= chosen, "a block was forced out before others that could go"
        self.freed = {id_: cached for id_, cached in self.freed.items() if cached not in chosen}
        self.held -= chosen
        check_order(self.tree, chosen & may_leave, self.held)
        return taken

    @invariant()
    def free_blocks_are_counted_and_listed_once(self) -> None:
        if not hasattr(self, "pool"):
            return
        free = {block.block_id for block in self.pool.blocks if not block.ref_cnt and not block.is_null}
        listed = [block.block_id for block in self.device.queue.get_all_free_blocks()]
        assert self.pool.get_num_free_blocks() == len(free) == len(listed)
        assert set(listed) == free
        assert self.freed.keys() <= free

    @invariant()
    def shelf_has_what_was_freed_and_not_taken(self) -> None:
        if not hasattr(self, "pool"):
            return
        assert set(self.device.shelf) == self.held
        for id_, cached in self.freed.items():
            block_hash = self.pool.blocks[id_].block_hash
            assert block_hash is not None and get_block_hash(block_hash) == cached


TestDeviceQueueMachine = DeviceQueueMachine.TestCase
TestDeviceQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_shelf_is_emptied_when_the_cache_is_reset_and_nobody_reports(
    engine_factory: Callable[..., Any],
) -> None:
    engine = engine_factory(**engine_arguments(tiers=TierSettings(device_policy="lru")))
    engine.add("r", list(range(1, 60)))
    engine.drain()
    shelf = engine.connector._tiers.keeper.device
    assert len(shelf) == 14
    assert engine.scheduler.reset_prefix_cache()
    assert len(shelf) == shelf.held_tokens == 0
    pool = engine.scheduler.kv_cache_manager.block_pool
    assert len(pool.free_block_queue.get_all_free_blocks()) == pool.get_num_free_blocks() == 199
