"""The disk's replacement: the tier asks, a shelf of the knowledge tree answers."""

from __future__ import annotations

from itertools import islice

from mygo.tree.shelf import Shelf
from mygo.vllm_plugin.disk.format import GROUP_BYTES, ChunkKey

# The catalog asks for one at a time, and a shelf gives up a run of blocks in little more time than one.
AHEAD_BLOCKS = 16
AHEAD_SHARE = 1 / 64


class DiskOrder:
    """Implements ``disk.catalog.EvictionOrder``. A block's chunks, one for each cache group, leave together
    or one right after the other."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._chunks: dict[bytes, dict[ChunkKey, None]] = {}
        self._locked: set[ChunkKey] = set()
        self._leaving: dict[ChunkKey, None] = {}
        """These go next, in this order, and the shelf knows them no more. They can be read until they go."""
        self._came: list[bytes] = []
        self._idle: list[bytes] = []
        """Chunks come and are unlocked one by one; the shelf learns in one go which blocks came, and which
        are used no more."""

    def put(self, key: ChunkKey) -> None:
        block = key[:-GROUP_BYTES]
        self._chunks.setdefault(block, {})[key] = None
        self._locked.add(key)
        self._came.append(block)

    def settle(self) -> None:
        """Let the shelf know all that was told."""
        if self._came:
            self._shelf.put_all(self._came)
            self._came.clear()
        if self._idle:
            self._shelf.unlock_all(self._idle)
            self._idle.clear()

    def lock(self, key: ChunkKey) -> None:
        self.settle()
        if key in self._leaving:
            del self._leaving[key]
            self.put(key)
        else:
            self._locked.add(key)
            self._shelf.lock(key[:-GROUP_BYTES])

    def unlock(self, key: ChunkKey) -> None:
        self._locked.discard(key)
        self._idle.append(key[:-GROUP_BYTES])

    def touch(self, key: ChunkKey) -> None:
        """The tree knows of accesses from the requests themselves."""

    def drop(self, key: ChunkKey) -> None:
        if key in self._leaving:
            del self._leaving[key]
            return
        block = key[:-GROUP_BYTES]
        if key in self._locked:
            self.unlock(key)
        self.settle()
        chunks = self._chunks[block]
        del chunks[key]
        if not chunks:
            del self._chunks[block]
            self._shelf.drop(block)

    def evict(self, count: int) -> list[ChunkKey] | None:
        while len(self._leaving) < count:
            self.settle()
            blocks = self._shelf.evict(max(1, min(AHEAD_BLOCKS, int(AHEAD_SHARE * len(self._chunks)))))
            blocks = blocks or self._shelf.evict(1)
            if blocks is None:
                return None
            for block in blocks:
                self._leaving.update(self._chunks.pop(block))
        victims = list(islice(self._leaving, count))
        for key in victims:
            del self._leaving[key]
        return victims
