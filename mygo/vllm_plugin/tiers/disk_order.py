"""The disk's replacement: the tier asks, a shelf of the knowledge tree answers."""

from __future__ import annotations

from mygo.tree.shelf import Shelf
from mygo.vllm_plugin.disk.format import GROUP_BYTES, ChunkKey


class DiskOrder:
    """Implements ``disk.catalog.EvictionOrder``. A block's chunks, one for each cache group, leave together
    or one right after the other."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._chunks: dict[bytes, dict[ChunkKey, None]] = {}
        self._locked: set[ChunkKey] = set()
        self._leaving: dict[ChunkKey, None] = {}
        """The rest of a block of which other chunks have left."""

    def put(self, key: ChunkKey) -> None:
        block = key[:-GROUP_BYTES]
        self._chunks.setdefault(block, {})[key] = None
        self._locked.add(key)
        self._shelf.put(block)

    def lock(self, key: ChunkKey) -> None:
        if key in self._leaving:
            del self._leaving[key]
            self.put(key)
        else:
            self._locked.add(key)
            self._shelf.lock(key[:-GROUP_BYTES])

    def unlock(self, key: ChunkKey) -> None:
        self._locked.discard(key)
        self._shelf.unlock(key[:-GROUP_BYTES])

    def touch(self, key: ChunkKey) -> None:
        """The tree knows of accesses from the requests themselves."""

    def drop(self, key: ChunkKey) -> None:
        if key in self._leaving:
            del self._leaving[key]
            return
        block = key[:-GROUP_BYTES]
        if key in self._locked:
            self.unlock(key)
        chunks = self._chunks[block]
        del chunks[key]
        if not chunks:
            del self._chunks[block]
            self._shelf.drop(block)

    def evict(self, count: int) -> list[ChunkKey] | None:
        while len(self._leaving) < count:
            blocks = self._shelf.evict(1)
            if blocks is None:
                return None
            self._leaving.update(self._chunks.pop(blocks[0]))
        victims = list(self._leaving)[:count]
        for key in victims:
            del self._leaving[key]
        return victims
