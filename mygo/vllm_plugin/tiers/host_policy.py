"""Host memory's replacement: vLLM asks, a shelf of the knowledge tree answers."""

from __future__ import annotations

from collections.abc import Iterable

from vllm.v1.kv_offload.base import OffloadKey, ReqContext, get_offload_block_hash
from vllm.v1.kv_offload.cpu.policies.base import CachePolicy, ChunkStatus

from mygo.tree.shelf import Shelf


class TreeCachePolicy(CachePolicy):  # type: ignore[misc]
    """A chunk is one block of one cache group. The groups' chunks of a block stay and leave together.

    vLLM reports accesses here too, but the tree already knows them, from the requests themselves.
    """

    def __init__(self, cache_capacity: int, shelf: Shelf) -> None:
        super().__init__(cache_capacity)
        self._shelf = shelf
        self._came: list[bytes] = []
        self._idle: dict[OffloadKey, None] = {}
        """vLLM tells of chunks one by one; the shelf learns in one go which blocks came, and which chunks are
        used no more."""
        self._chunks: dict[OffloadKey, ChunkStatus] = {}
        self._keys: dict[bytes, list[OffloadKey]] = {}
        self._doomed: dict[OffloadKey, None] = {}
        """To be purged as soon as nobody reads or writes them."""
        self._most = 1
        """Chunks of one block, as far as seen."""
        self.evicted_blocks = 0
        """By ``evict``, since the beginning."""

    def __len__(self) -> int:
        return len(self._chunks)

    @property
    def held_blocks(self) -> int:
        return len(self._keys)

    def settle(self) -> None:
        """Let the shelf know all that was told."""
        if self._came:
            self._shelf.put_all(self._came)
            self._came.clear()
        if self._idle:
            self._shelf.unlock_all(map(get_offload_block_hash, self._idle))
            self._idle.clear()

    def holds(self, key: OffloadKey) -> bool:
        """Also true while the chunk is being written."""
        return key in self._chunks and key not in self._doomed

    def purge(self, keys: Iterable[OffloadKey]) -> list[tuple[OffloadKey, ChunkStatus]]:
        """Let go of these chunks, and return them. Those in use are not held from now on, and are among what
        ``purged`` returns once nobody uses them."""
        self._doomed.update(dict.fromkeys(key for key in keys if key in self._chunks))
        return self.purged()

    def purged(self) -> list[tuple[OffloadKey, ChunkStatus]]:
        """Chunks to be purged that nobody uses any more: they are gone with this call."""
        idle = [key for key in self._doomed if self._chunks[key].ref_cnt == 0]
        gone = [(key, self._chunks[key]) for key in idle]
        for key in idle:
            self._drop(key)
        return gone

    @property
    def has_doomed(self) -> bool:
        """Chunks that are to be purged are still in use."""
        return bool(self._doomed)

    def _drop(self, key: OffloadKey) -> None:
        self.settle()
        block = get_offload_block_hash(key)
        self._doomed.pop(key, None)
        del self._chunks[key]
        self._keys[block].remove(key)
        if not self._keys[block]:
            del self._keys[block]
            self._shelf.drop(block)

    def get(self, key: OffloadKey) -> ChunkStatus | None:
        return self._chunks.get(key)

    def insert(self, key: OffloadKey, chunk: ChunkStatus) -> None:
        """The chunk is being written: in use until ``mark_evictable``."""
        block = get_offload_block_hash(key)
        self._chunks[key] = chunk
        keys = self._keys.setdefault(block, [])
        keys.append(key)
        self._most = max(self._most, len(keys))
        self._came.append(block)

    def remove(self, key: OffloadKey) -> None:
        """The chunk could not be written."""
        self._idle[key] = None
        self._drop(key)

    def touch(self, keys: Iterable[OffloadKey], req_context: ReqContext) -> None:
        return

    def mark_evictable(self, key: OffloadKey) -> None:
        self._idle[key] = None

    def mark_non_evictable(self, key: OffloadKey) -> None:
        """What was stored just now is read at once to be written to disk: the shelf need not know."""
        if key in self._idle:
            del self._idle[key]
            return
        if self._came:
            self.settle()
        self._shelf.lock(get_offload_block_hash(key))

    def evict(self, n: int, protected: set[OffloadKey]) -> list[tuple[OffloadKey, ChunkStatus]] | None:
        """At least ``n`` chunks: whole blocks, and not one more than it takes. None, and nothing leaves, if
        there are fewer."""
        self.settle()
        kept = frozenset(map(get_offload_block_hash, protected))
        victims: list[bytes] = []
        chunks = 0
        while chunks < n:
            blocks = self._shelf.evict(max(1, (n - chunks) // self._most), kept)
            if blocks is None:
                self._shelf.put_all(reversed(victims), in_use=False)
                return None
            victims.extend(blocks)
            chunks += sum(len(self._keys[block]) for block in blocks)
        self.evicted_blocks += len(victims)
        gone = [(key, self._chunks.pop(key)) for block in victims for key in self._keys.pop(block)]
        for key, _ in gone:
            self._doomed.pop(key, None)
        return gone

    def leaving(self, blocks: int) -> list[OffloadKey]:
        """The chunks of the next ``blocks`` blocks that would leave, in that order. They stay."""
        self.settle()
        chunks = (key for block in self._shelf.leaving(blocks) for key in self._keys[block])
        return [key for key in chunks if key not in self._doomed]

    def idle(self) -> list[OffloadKey]:
        """All chunks that nobody reads or writes, the most valuable first: the last to leave."""
        leaving = self.leaving(len(self._keys))
        soon = set(leaving)
        kept = [key for key, chunk in self._chunks.items() if key not in soon and key not in self._doomed]
        return [*(key for key in kept if self._chunks[key].ref_cnt == 0), *reversed(leaving)]

    def clear(self) -> None:
        self._chunks.clear()
        self._doomed.clear()
        self._keys.clear()
        self._came.clear()
        self._idle.clear()
        self._shelf.clear()
