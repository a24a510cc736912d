"""Which chunks are on disk, which may be read, and who leaves when another comes.

The decisions of the tier, taken in the scheduler's thread, without I/O or clock; the I/O threads carry them
out later, and the tier tells this catalog how it went.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from mygo.vllm_plugin.disk.format import ChunkKey


class EvictionOrder(Protocol):
    """Who leaves next. A chunk is told by ``put``, once, and is locked until ``unlock``."""

    def put(self, key: ChunkKey) -> None:
        """A chunk comes, locked."""

    def lock(self, key: ChunkKey) -> None:
        """It is in use and must not be chosen."""

    def unlock(self, key: ChunkKey) -> None:
        """It is free to go, and was used just now."""

    def touch(self, key: ChunkKey) -> None:
        """An unlocked or locked chunk was used without being read."""

    def drop(self, key: ChunkKey) -> None:
        """It is gone by other means than ``evict``; if it was locked, its lock goes with it."""

    def evict(self, count: int) -> list[ChunkKey] | None:
        """Choose and forget exactly ``count`` unlocked chunks, or None if there are not so many."""


class LruOrder:
    """Least recently used first."""

    def __init__(self) -> None:
        self._free: OrderedDict[ChunkKey, None] = OrderedDict()

    def put(self, key: ChunkKey) -> None:
        pass  # locked chunks are no candidates

    def lock(self, key: ChunkKey) -> None:
        del self._free[key]

    def unlock(self, key: ChunkKey) -> None:
        self._free[key] = None

    def touch(self, key: ChunkKey) -> None:
        if key in self._free:
            self._free.move_to_end(key)

    def drop(self, key: ChunkKey) -> None:
        self._free.pop(key, None)

    def evict(self, count: int) -> list[ChunkKey] | None:
        if count > len(self._free):
            return None
        return [self._free.popitem(last=False)[0] for _ in range(count)]


class Catalog:
    """At most ``limit_chunks`` chunks, in these states:

    - idle: found at start and not used since. They leave first, least recently used first, because the order
      may know nothing of them (a knowledge tree does not survive a restart).
    - known: used since; the order decides.
    - writing: reserved, not yet readable.
    - erasing: its file is being deleted. It still takes up space.
    - replaced: its file is deleted by the very write that takes its place, just before it: not counted twice.
    """

    def __init__(self, limit_chunks: int, order: EvictionOrder | None = None) -> None:
        self.limit_chunks = limit_chunks
        self._order: EvictionOrder = order or LruOrder()
        self._idle: OrderedDict[ChunkKey, float] = OrderedDict()
        self._known: dict[ChunkKey, float] = {}
        self._writing: set[ChunkKey] = set()
        self._reading: set[ChunkKey] = set()
        self._erasing: set[ChunkKey] = set()
        self._replaced: set[ChunkKey] = set()

    def __repr__(self) -> str:
        return (
            f"Catalog({len(self)}/{self.limit_chunks} chunks: {len(self._idle)} idle, "
            f"{len(self._known)} known, {len(self._writing)} writing, "
            f"{len(self._erasing)} erasing; {len(self._reading)} being read)"
        )

    def __len__(self) -> int:
        """Chunks that take up space, or will."""
        return len(self._idle) + len(self._known) + len(self._writing) + len(self._erasing)

    def __contains__(self, key: ChunkKey) -> bool:
        """Whether it may be read."""
        return key in self._known or key in self._idle

    def is_idle(self, key: ChunkKey) -> bool:
        return key in self._idle

    def idle(self) -> list[ChunkKey]:
        """All chunks that were found and not used since."""
        return list(self._idle)

    def attach(self, order: EvictionOrder) -> None:
        """Let another order decide from now on. Call it while nothing is being read or written."""
        for key in self._known:
            order.put(key)
            order.unlock(key)
        self._order = order

    def adopt(self, found: OrderedDict[ChunkKey, float]) -> list[ChunkKey]:
        """Take over what a scan found, oldest first; returns those beyond the limit, to be erased.

        Constant time, unless chunks are beyond the limit or were purged before. Nothing may have been
        written before.
        """
        assert not self._idle and not self._known and not self._writing, f"{self!r} is in use already"
        self._idle = found
        for key in self._erasing:
            found.pop(key, None)
        return self.shrink(len(self) - self.limit_chunks)

    def touch(self, key: ChunkKey, now_s: float, stamp_interval_s: float) -> bool:
        """A chunk was used, if it is here; returns True if that should be recorded on disk too."""
        if key in self._known:
            self._order.touch(key)
        elif key in self._idle:
            self._known[key] = self._idle.pop(key)
            self._order.put(key)
            self._order.unlock(key)
        else:
            return False
        if now_s - self._known[key] <= stamp_interval_s:
            return False
        self._known[key] = now_s
        return True

    # -- writing

    def begin_write(self, key: ChunkKey) -> list[ChunkKey] | None:
        """Reserve room: the chunk to delete first, if any, is in the list. None if it cannot be stored now.

        That is: it is here already, or about to be, or just leaving; or there are more chunks than the limit
        (which was lowered); or all that might leave is in use.
        """
        if key in self._known or key in self._idle or key in self._writing:
            return None
        if key in self._erasing or key in self._replaced:
            return None
        over = len(self) - self.limit_chunks
        victim = self._choose() if over == 0 else None
        if over > 0 or (over == 0 and victim is None):
            return None
        self._writing.add(key)
        self._order.put(key)
        if victim is None:
            return []
        self._replaced.add(victim)
        return [victim]

    def is_writing(self, key: ChunkKey) -> bool:
        return key in self._writing

    def end_write(self, key: ChunkKey, now_s: float) -> None:
        """It is on disk and may be read."""
        self._writing.remove(key)
        self._known[key] = now_s
        self._order.unlock(key)

    def abandon_write(self, key: ChunkKey) -> None:
        """It was not written."""
        self._writing.remove(key)
        self._order.drop(key)

    # -- reading

    def begin_read(self, key: ChunkKey) -> bool:
        """Hold a chunk in place for one reader; False if it cannot be read or is being read."""
        if key not in self or key in self._reading:
            return False
        if key in self._idle:
            self._known[key] = self._idle.pop(key)
            self._order.put(key)
        else:
            self._order.lock(key)
        self._reading.add(key)
        return True

    def end_read(self, key: ChunkKey, *, lost: bool) -> bool:
        """The reader is done; ``lost``: the file is gone or of no use. False if it was purged meanwhile."""
        if key not in self._reading:
            return False
        self._reading.remove(key)
        if lost:
            del self._known[key]
            self._order.drop(key)
        else:
            self._order.unlock(key)
        return True

    # -- leaving

    def shrink(self, count: int) -> list[ChunkKey]:
        """Choose up to ``count`` chunks to be erased, as many as are not in use."""
        victims: list[ChunkKey] = []
        while len(victims) < count and (victim := self._choose()) is not None:
            victims.append(victim)
        self._erasing.update(victims)
        return victims

    def purge(self, key: ChunkKey) -> None:
        """Not readable from now on, whatever is being done with it; erasing, even if it was not here."""
        if key in self._idle:
            del self._idle[key]
        elif key in self._known:
            del self._known[key]
            self._reading.discard(key)
            self._order.drop(key)
        elif key in self._writing:
            self.abandon_write(key)
        self._erasing.add(key)

    def erased(self, key: ChunkKey) -> None:
        """The file of an erasing chunk is deleted: it may be stored anew."""
        self._erasing.discard(key)

    def replaced(self, key: ChunkKey) -> None:
        """The file of a chunk that had to make room is deleted."""
        self._replaced.discard(key)

    def restore(self, key: ChunkKey) -> bool:
        """A chunk could not be deleted to make room: it is still here, and first to go. False if purged."""
        self._replaced.discard(key)
        if key in self._erasing:
            return False
        self._idle[key] = 0.0
        self._idle.move_to_end(key, last=False)
        return True

    def _choose(self) -> ChunkKey | None:
        if self._idle:
            return self._idle.popitem(last=False)[0]
        chosen = self._order.evict(1)
        if chosen is None:
            return None
        del self._known[chosen[0]]
        return chosen[0]
