"""The device's replacement: vLLM's free queue, with cached blocks in the knowledge tree's order.

vLLM takes blocks for new tokens from the head of this queue, so the order in which freed blocks stand in
it is its eviction policy: least recently freed first. Here blocks that cache nothing go first, and then
those that a shelf gives up.
"""

from __future__ import annotations

from vllm.v1.core.kv_cache_utils import FreeKVCacheBlockQueue, KVCacheBlock, get_block_hash

from mygo.tree.shelf import Shelf

# A shelf gives up many blocks in hardly more time than one, and most requests ask for one at a time: so many
# go at once, but a small share of what is free. They can still be hit until they are taken.
AHEAD_BLOCKS = 16
AHEAD_SHARE = 1 / 64


class TreeFreeQueue(FreeKVCacheBlockQueue):  # type: ignore[misc]
    """Takes the place of ``BlockPool.free_block_queue``, with all that is in it."""

    def __init__(self, replaced: FreeKVCacheBlockQueue, shelf: Shelf) -> None:
        self.num_free_blocks = replaced.num_free_blocks
        self.fake_free_list_head = replaced.fake_free_list_head
        self.fake_free_list_tail = replaced.fake_free_list_tail
        self._shelf = shelf
        self._hashes: dict[int, bytes] = {}
        """By block id: what the blocks cache that the shelf decides on. All others stand in vLLM's list."""
        self._blocks: dict[bytes, list[KVCacheBlock]] = {}
        """Cache groups have a block of the same hash each; so may requests that computed it at once."""
        self._most = 1
        """Blocks of one hash, as far as seen."""
        self._reused: dict[int, bytes] = {}
        """By block id: what blocks in use cached when they were last free."""

    def popleft(self) -> KVCacheBlock:
        return self.popleft_n(1)[0]

    def popleft_n(self, n: int) -> list[KVCacheBlock]:
        assert n <= self.num_free_blocks, f"{n} blocks are wanted, {self.num_free_blocks} are free"
        listed = self.num_free_blocks - len(self._hashes)
        if n <= listed:
            blocks: list[KVCacheBlock] = super().popleft_n(n)
            return blocks
        taken: list[KVCacheBlock] = super().popleft_n(listed) if listed else []
        while len(taken) < n:
            wanted = max(n - len(taken), min(AHEAD_BLOCKS, int(AHEAD_SHARE * len(self._blocks))))
            # never more hashes than that takes, however many blocks each of them has
            for victim in self._victims(min(max(1, wanted // self._most), len(self._blocks))):
                taken.extend(self._give(victim))
        extra = taken[n:]
        del taken[n:]
        # next time these go first; the rest of a block's groups is worth nothing by itself anyway
        super().prepend_n(extra)
        return taken

    def remove(self, block: KVCacheBlock) -> None:
        """A request uses a cached block again."""
        cached = self._hashes.pop(block.block_id, None)
        if cached is None:
            super().remove(block)
            return
        self.num_free_blocks -= 1
        self._reused[block.block_id] = cached
        blocks = self._blocks[cached]
        blocks.remove(block)
        if not blocks:
            del self._blocks[cached]
            self._shelf.lock(cached)

    def append(self, block: KVCacheBlock) -> None:
        self.append_n([block])

    def prepend_n(self, blocks: list[KVCacheBlock]) -> None:
        """Nobody uses these any more, and they cache nothing."""
        for block in blocks:
            self._forget_reuse(block, None)
        super().prepend_n(blocks)

    def append_n(self, blocks: list[KVCacheBlock]) -> None:
        """Nobody uses these any more; a request's last block comes first."""
        empty: list[KVCacheBlock] = []
        idle: list[bytes] = []
        for block in blocks:
            cached: bytes | None = get_block_hash(block.block_hash) if block.block_hash else None
            self._forget_reuse(block, cached)
            if cached is None:
                empty.append(block)
                continue
            self._hashes[block.block_id] = cached
            twins = self._blocks.setdefault(cached, [])
            twins.append(block)
            self._most = max(self._most, len(twins))
            self.num_free_blocks += 1
            if len(twins) == 1:
                if self._shelf.holds(cached):
                    self._shelf.unlock(cached)
                else:
                    idle.append(cached)
        self._shelf.put_all(reversed(idle), in_use=False)
        super().append_n(empty)

    def release(self) -> None:
        """The cache was emptied, while no block was in use: none is worth more than another."""
        for cached in list(self._blocks):
            super().append_n(self._give(cached))
        self._shelf.clear()

    def get_all_free_blocks(self) -> list[KVCacheBlock]:
        return [
            *super().get_all_free_blocks(),
            *(block for twins in self._blocks.values() for block in twins),
        ]

    def _victims(self, count: int) -> list[bytes]:
        """Between one and ``count`` hashes whose blocks go next."""
        while count:
            victims = self._shelf.evict(count)
            if victims is not None:
                return victims
            count //= 2
        # Two requests computed the same block at once, and the shelf keeps it for the one that goes on
        # below it, while the other one's copy is free: vLLM counts on that, so it goes.
        victim = next(iter(self._blocks))
        self._shelf.drop(victim)
        return [victim]

    def _forget_reuse(self, block: KVCacheBlock, cached: bytes | None) -> None:
        """A block comes back that caches ``cached``. If it cached something else when it left, that was
        evicted while it was in use (its load failed, say), and the shelf still keeps it for its user."""
        before = self._reused.pop(block.block_id, None)
        if before is not None and before != cached and before not in self._blocks:
            self._shelf.drop(before)

    def _give(self, cached: bytes) -> list[KVCacheBlock]:
        """Take a hash's blocks out; they are counted as free no more."""
        blocks = self._blocks.pop(cached)
        for block in blocks:
            del self._hashes[block.block_id]
        self.num_free_blocks -= len(blocks)
        return blocks
