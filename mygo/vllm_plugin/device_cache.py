"""vLLM's device cache as this room sees it: a set of block hashes, and a notice when it changes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import make_block_hash_with_group_id, maybe_convert_block_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig
from vllm.v1.request import Request


class DeviceCache:
    """The blocks of one KV cache group.

    A hybrid model has several groups. Its full-attention group is the one that tells how far a
    prefix reaches: sliding-window groups keep no more than their window.
    """

    def __init__(self, manager: KVCacheManager, config: KVCacheConfig) -> None:
        self._manager = manager
        self._pool = manager.block_pool
        groups = config.kv_cache_groups
        self.group_id = next(
            (i for i, group in enumerate(groups) if isinstance(group.kv_cache_spec, FullAttentionSpec)), 0
        )
        self._groups = len(groups)
        self.hash_tokens: int = self._pool.hash_block_size
        """Tokens per entry of ``Request.block_hashes``."""
        group_tokens: int = manager.coordinator.single_type_managers[self.group_id].block_size
        self.block_tokens = group_tokens
        """Tokens per block of this group: a multiple of ``hash_tokens``, and mostly equal to it."""
        self._stride = group_tokens // self.hash_tokens
        self._group_suffix = make_block_hash_with_group_id(b"", self.group_id)
        self._has_int_names = isinstance(maybe_convert_block_hash(bytes(32)), int)
        self.evicted_tokens = 0
        """Since ``tee``."""

    @property
    def publishes_events(self) -> bool:
        return bool(self._pool.enable_kv_cache_events)

    @property
    def capacity_tokens(self) -> int:
        # One block is vLLM's placeholder. A token takes a block of every group.
        return int(self._pool.num_gpu_blocks - 1) // self._groups * self.block_tokens

    @property
    def free_tokens(self) -> int:
        """Could be allocated now, evictable blocks included."""
        return int(self._pool.get_num_free_blocks()) // self._groups * self.block_tokens

    @property
    def held_tokens(self) -> int:
        """In cached blocks, whether or not a request uses them."""
        return len(self._pool.cached_block_hash_to_block) // self._groups * self.block_tokens

    def is_resident(self, block_hash: bytes) -> bool:
        # asked for every block of every request: vLLM's own look-up takes several times as long
        return block_hash + self._group_suffix in self._pool.cached_block_hash_to_block._cache

    def event_id(self, block_hash: bytes) -> Hashable:
        """The name of a block in the pool's events: by default 64 bits of its hash."""
        return int.from_bytes(block_hash[-8:], "big") if self._has_int_names else block_hash

    def hash_at(self, request: Request, block: int) -> bytes | None:
        """Hash of the request's block; None if it is not filled (yet)."""
        entry = (block + 1) * self._stride - 1
        hashes: list[bytes] = request.block_hashes
        return hashes[entry] if entry < len(hashes) else None

    def hashes(self, request: Request) -> list[bytes]:
        """Hashes of all full blocks of the request."""
        hashes: list[bytes] = request.block_hashes
        return hashes[self._stride - 1 :: self._stride]

    def cached_tokens(self, request: Request) -> int:
        """Leading tokens of the request that are held now."""
        blocks = 0
        for block_hash in self.hashes(request):
            if not self.is_resident(block_hash):
                break
            blocks += 1
        return blocks * self.block_tokens

    def evict(self, hashes: Iterable[bytes]) -> None:
        """Let nobody find these blocks any more. Unused ones are free at once, the others later.

        A hybrid model's other groups are not searched: without this one's blocks they are no hit.
        """
        queue = self._pool.free_block_queue
        for block_hash in hashes:
            while found := self._pool.get_cached_block(block_hash, [self.group_id]):
                block = found[0]
                if block.ref_cnt == 0:
                    queue.remove(block)
                    self._pool.evict_blocks({block.block_id})
                    queue.prepend_n([block])
                else:
                    self._pool.evict_blocks({block.block_id})

    def when_cleared(self, cleared: Callable[[], None]) -> None:
        """Call ``cleared`` as soon as the cache was emptied, which happens between steps."""
        reset_prefix_cache = self._manager.reset_prefix_cache

        def reset_and_tell() -> bool:
            done: bool = reset_prefix_cache()
            if done:
                cleared()
            return done

        self._manager.reset_prefix_cache = reset_and_tell

    def tee(self, changed: Callable[[list[Hashable]], None], cleared: Callable[[], None]) -> None:
        """Call ``changed`` with the names of blocks that were stored or removed, at the end of each
        engine step, and ``cleared`` when the cache was emptied, which happens between steps too.

        The events are read where the scheduler takes them from the manager, so none is lost and
        vLLM's own publisher still gets them all.
        """
        take_events = self._manager.take_events

        def take_and_tell() -> list[Any]:
            events: list[Any] = take_events()
            names: list[Hashable] = []
            for event in events:
                if isinstance(event, AllBlocksCleared):
                    cleared()
                elif event.group_idx in (None, self.group_id):
                    names.extend(event.block_hashes)
                    if isinstance(event, BlockRemoved):
                        self.evicted_tokens += len(event.block_hashes) * self.hash_tokens
            if names:
                changed(names)
            return events

        self._manager.take_events = take_and_tell
        # An idle engine takes no events until its next step; a reset must be told before that.
        self.when_cleared(cleared)
